"""Results of ADD and prevResult, read and written in each version's form (CNI specification, section 5).

Pure; standard library only. One set of classes serves all versions. What a version cannot express is left out when it
is written. Before 0.3.0 there is one address of each family (`ip4`, `ip6`, with the routes inside) and no interfaces;
before 1.0.0 each address has a `version`; before 1.1.0 there is no MTU, socket path, PCI ID or attribute of a route.
"""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Any, NamedTuple

from bgpcni.cni.document import Place
from bgpcni.cni.versions import at_least, read_version
from bgpcni.errors import CniError

_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5,31}")


class Interface(NamedTuple):
    """One interface. `sandbox`: the namespace's path, None for the node's own. `mtu`: octets."""

    name: str
    mac: str | None = None
    mtu: int | None = None
    sandbox: str | None = None
    socket_path: str | None = None
    pci_id: str | None = None


class IpConfig(NamedTuple):
    """One address, with its prefix length and host bits (`10.1.2.3/24`). `interface`: index into the result's."""

    address: str
    gateway: str | None = None
    interface: int | None = None


class Route(NamedTuple):
    """One route inside the container. `dst`: canonical prefix. `mtu`, `advmss`: octets."""

    dst: str
    gw: str | None = None
    mtu: int | None = None
    advmss: int | None = None
    priority: int | None = None
    table: int | None = None
    scope: int | None = None


class Dns(NamedTuple):
    """The DNS settings for the container's resolv.conf."""

    nameservers: tuple[str, ...] = ()
    domain: str | None = None
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class Result(NamedTuple):
    """The result of an ADD, independent of the version in which it is written."""

    interfaces: tuple[Interface, ...] = ()
    ips: tuple[IpConfig, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: Dns = Dns()

    def encode(self, version: str) -> dict[str, Any]:
        """The JSON object in the form of `version`, one of SUPPORTED."""
        dns = _filled(
            nameservers=list(self.dns.nameservers),
            domain=self.dns.domain,
            search=list(self.dns.search),
            options=list(self.dns.options),
        )
        if not at_least(version, "0.3.0"):
            return {"cniVersion": version} | _filled(ip4=self._encode_family(4), ip6=self._encode_family(6), dns=dns)
        return {"cniVersion": version} | _filled(
            interfaces=[_encode_interface(interface, version) for interface in self.interfaces],
            ips=[_encode_ip(ip, version) for ip in self.ips],
            routes=[_encode_route(route, version) for route in self.routes],
            dns=dns,
        )

    def _encode_family(self, family: int) -> dict[str, Any]:
        """`ip4` or `ip6`: the first address of the family and all its routes; empty if there is no such address."""
        first = next((ip for ip in self.ips if _family(ip.address) == family), None)
        if first is None:
            return {}
        routes = [_encode_route(route, "0.2.0") for route in self.routes if _family(route.dst) == family]
        return _filled(ip=first.address, gateway=first.gateway, routes=routes)


def decode(document: object, expected_version: str, place: str = "prevResult") -> Result:
    """Read a result that must be in the form of `expected_version`; unknown keys are ignored.

    `document`: decoded JSON. One without `cniVersion` is read in the expected version. Raises only DecodingFailure,
    which names the place: `prevResult.ips[0].address: …`.
    """
    top = Place(place, document).object()
    if (given := top.optional("cniVersion")) is not None and given.string() != "":
        try:
            version = read_version(given.value)
        except CniError as error:
            raise given.wrong(error.details or error.msg) from error
        if version != expected_version:
            raise given.wrong(f"is {version}, the configuration's is {expected_version}")
    dns = _decode_dns(top.optional("dns"))
    if not at_least(expected_version, "0.3.0"):
        families = [_decode_family(top.optional(f"ip{family}"), family) for family in (4, 6)]
        return Result(
            ips=tuple(ip for ips, _ in families for ip in ips),
            routes=tuple(route for _, routes in families for route in routes),
            dns=dns,
        )
    interfaces = tuple(_decode_interface(item, expected_version) for item in top.items("interfaces"))
    return Result(
        interfaces=interfaces,
        ips=tuple(_decode_ip(item, expected_version, len(interfaces)) for item in top.items("ips")),
        routes=tuple(decode_route(item, expected_version) for item in top.items("routes")),
        dns=dns,
    )


def _filled(**members: Any) -> dict[str, Any]:
    """The members that have a value. None, an empty string, list or object is no value; zero is one."""
    return {key: value for key, value in members.items() if value is not None and value not in ("", [], {})}


def _family(text: str) -> int:
    return 6 if ":" in text else 4


def _encode_interface(interface: Interface, version: str) -> dict[str, Any]:
    document = {"name": interface.name} | _filled(mac=interface.mac, sandbox=interface.sandbox)
    if at_least(version, "1.1.0"):
        document |= _filled(mtu=interface.mtu, socketPath=interface.socket_path, pciID=interface.pci_id)
    return document


def _encode_ip(ip: IpConfig, version: str) -> dict[str, Any]:
    document = {} if at_least(version, "1.0.0") else {"version": str(_family(ip.address))}
    return document | _filled(address=ip.address, gateway=ip.gateway, interface=ip.interface)


def _encode_route(route: Route, version: str) -> dict[str, Any]:
    document = _filled(dst=route.dst, gw=route.gw)
    if at_least(version, "1.1.0"):
        document |= _filled(
            mtu=route.mtu, advmss=route.advmss, priority=route.priority, table=route.table, scope=route.scope
        )
    return document


def _decode_interface(place: Place, version: str) -> Interface:
    item = place.object()
    name = item.required("name")
    if not name.string():
        raise name.wrong("empty")
    mac = item.text("mac")
    if mac is not None and not _MAC.fullmatch(mac):
        raise item.required("mac").wrong(f"{mac!a} is no hardware address")
    if not at_least(version, "1.1.0"):
        return Interface(name=name.string(), mac=mac, sandbox=item.text("sandbox"))
    return Interface(
        name=name.string(),
        mac=mac,
        mtu=item.integer("mtu"),
        sandbox=item.text("sandbox"),
        socket_path=item.text("socketPath"),
        pci_id=item.text("pciID"),
    )


def _decode_ip(place: Place, version: str, interfaces: int) -> IpConfig:
    item = place.object()
    address = item.required("address").prefixed()
    if not at_least(version, "1.0.0"):
        family = item.required("version")
        if family.string() != str(_family(address)):
            raise family.wrong(f"{family.value!a} is not the version of {address}")
    interface = item.integer("interface")
    if interface is not None and interface >= interfaces:
        raise item.required("interface").wrong(f"no interface {interface} among {interfaces}")
    return IpConfig(address=address, gateway=item.address("gateway"), interface=interface)


def decode_route(place: Place, version: str) -> Route:
    """Read one entry of `routes`, in a result or in a configuration, in the form of `version`."""
    item = place.object()
    dst = str(ip_network(item.required("dst").prefixed(), strict=False))
    if not at_least(version, "1.1.0"):
        return Route(dst=dst, gw=item.address("gw"))
    return Route(
        dst=dst,
        gw=item.address("gw"),
        mtu=item.integer("mtu"),
        advmss=item.integer("advmss"),
        priority=item.integer("priority"),
        table=item.integer("table"),
        scope=item.integer("scope", maximum=255),
    )


def _decode_family(place: Place | None, family: int) -> tuple[list[IpConfig], list[Route]]:
    """Read `ip4` or `ip6` of versions before 0.3.0, which contain the routes."""
    if place is None:
        return [], []
    item = place.object()
    ip = item.required("ip")
    address = ip.prefixed()
    if _family(address) != family:
        raise ip.wrong(f"{address} is not IPv{family}")
    routes = [decode_route(route, "0.2.0") for route in item.items("routes")]
    return [IpConfig(address=address, gateway=item.address("gateway"))], routes


def _decode_dns(place: Place | None) -> Dns:
    if place is None:
        return Dns()
    item = place.object()
    return Dns(
        nameservers=tuple(entry.string() for entry in item.items("nameservers")),
        domain=item.text("domain"),
        search=tuple(entry.string() for entry in item.items("search")),
        options=tuple(entry.string() for entry in item.items("options")),
    )
