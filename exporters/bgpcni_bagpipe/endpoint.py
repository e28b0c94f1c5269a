"""Turns an announcement into BaGPipe's VPN, endpoint and payload, or says why that is impossible. Pure.

The daemon validates little and fails silently, so the type and form of everything that reaches it is checked here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_interface
from typing import Any

from bgpcni.bgp import MAX_VNI
from bgpcni.model import Announcement, Endpoint, Family

MARK = "bgpcni "
"""How the description of each endpoint of ours begins; the name of the network follows."""

_LINK = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]{0,14}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_TARGET = re.compile(r"(0|[1-9][0-9]{0,4}):(0|[1-9][0-9]{0,9})")
_NETWORK = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")


class Unfit(ValueError):
    """BaGPipe cannot announce this route; the message says why."""


@dataclass(frozen=True, slots=True)
class Vpn:
    """A VPN instance of the daemon. `name`: for EVPN the VNI in decimal, because a VNI can belong to one name only."""

    kind: str
    name: str
    vni: int | None = None


@dataclass(frozen=True, slots=True)
class Port:
    """One MAC behind one interface in one VPN. It is detached as a whole."""

    vpn: Vpn
    mac: str
    link: str


@dataclass(frozen=True, slots=True)
class Attach:
    """One attached address of a port. `address`: with its length; "" for the MAC alone."""

    port: Port
    address: str
    gateway: str | None
    bridge: str | None
    import_rt: tuple[str, ...]
    export_rt: tuple[str, ...]
    network: str

    @property
    def payload(self) -> dict[str, Any]:
        """The body of POST /attach_localport."""
        document = identity(self.port) | {
            "gateway_ip": self.gateway,
            "advertise_subnet": False,
            "import_rt": list(self.import_rt),
            "export_rt": list(self.export_rt),
            "description": MARK + self.network,
        }
        if self.port.vpn.vni is not None:
            document["vni"] = self.port.vpn.vni
        if self.address:
            document["ip_address"] = self.address
        if self.bridge:
            document["linuxbr"] = self.bridge
        return document


def identity(port: Port, address: str = "") -> dict[str, Any]:
    """The body of POST /detach_localport. Without `address` all addresses of the MAC are detached."""
    document: dict[str, Any] = {
        "vpn_type": port.vpn.kind,
        "vpn_instance_id": port.vpn.name,
        "mac_address": port.mac,
        "local_port": {"linuxif": port.link},
    }
    return document | ({"ip_address": address} if address else {})


def attach_of(route: Announcement) -> Attach | None:
    """What has to be attached for a route. None: nothing, the daemon announces type 3 by itself. Raises Unfit."""
    if route.nlri.kind == "multicast":
        return None
    endpoint = route.endpoint
    if endpoint is None or route.nlri.kind not in ("mac-ip", "vpn"):
        raise Unfit(f"BaGPipe announces endpoints only, not {route.nlri.kind} {route.nlri.prefix or ''}".rstrip())
    return Attach(
        port=Port(_vpn(route), _matching(_MAC, endpoint.mac, "MAC address"), _link(endpoint.host_veth)),
        address=_address(endpoint, route.nlri.family),
        gateway=_gateway(endpoint.gateway),
        bridge=_link(endpoint.bridge) if endpoint.bridge else None,
        import_rt=_targets(route.import_rt),
        export_rt=_targets(route.export_rt),
        network=_matching(_NETWORK, route.network, "network name"),
    )


def _vpn(route: Announcement) -> Vpn:
    if route.nlri.family is Family.L2VPN_EVPN:
        if type(route.vni) is not int or not 0 < route.vni <= MAX_VNI:
            raise Unfit(f"{route.vni!r} is not a VNI")
        return Vpn("evpn", str(route.vni), route.vni)
    if route.nlri.family is Family.IPV4_VPN:
        return Vpn("ipvpn", f"ipvpn-{_matching(_NETWORK, route.network, 'network name')}")
    raise Unfit(f"BaGPipe does not speak {route.nlri.family}")


def _address(endpoint: Endpoint, family: Family) -> str:
    if not endpoint.address and family is Family.L2VPN_EVPN:
        return ""
    try:
        parsed = ip_interface(endpoint.address)
    except ValueError:
        raise Unfit(f"{endpoint.address!r} is not an address") from None
    if family is Family.IPV4_VPN and parsed.version != 4:
        raise Unfit(f"BaGPipe's VPN takes IPv4 only, not {parsed}")
    return str(parsed)


def _gateway(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return str(ip_interface(text).ip)
    except ValueError:
        raise Unfit(f"{text!r} is not a gateway") from None


def _targets(targets: Iterable[str]) -> tuple[str, ...]:
    for target in targets:
        found = _TARGET.fullmatch(target)
        if not found or int(found[1]) > 0xFFFF or int(found[2]) > 0xFFFFFFFF:
            raise Unfit(f"BaGPipe cannot carry route target {target}: it takes a 2-octet AS and a number, 64512:90")
    return tuple(sorted(set(targets)))


def _link(name: str) -> str:
    return _matching(_LINK, name, "interface name")


def _matching(form: re.Pattern[str], text: str, what: str) -> str:
    if not form.fullmatch(text):
        raise Unfit(f"{text!r} is not a {what} that BaGPipe can have")
    return text
