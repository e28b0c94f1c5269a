"""A bridge: found, or made as its plan says, with its gateway addresses, or those of a VLAN.

Finding it is on the hot path: one packed message. It is made once, by pyroute2.
"""

from __future__ import annotations

import errno
import logging
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import IPv4Interface, IPv6Interface
from typing import NamedTuple

from bgpcni.errors import KernelRefused, Unfit
from bgpcni.ip import ip_interface
from bgpcni.kernel import addresses, links, sysctl, uapi, vlans
from bgpcni.kernel.library import iproute
from bgpcni.kernel.netlink import Netlink, NetlinkError
from bgpcni.kernel.vrf import Device, enslave_message, is_our_bridge
from bgpcni.steps import step

log = logging.getLogger(__name__)
_making = threading.Lock()
IPV6_LEAST_MTU = 1280


class BridgePlan(NamedTuple):
    """What the bridge has to be. `gateways`: its addresses with prefix length. `mtu` 0: the kernel's default.

    `anycast_mac`: the MAC it must have; it then has no IPv6 link-local address. None: any MAC. `tagging`: the VLANs of
    the port to come; a bridge that is made for a port with VLANs filters them. `vrf`: the VRF it must be in, None: any
    or none.
    """

    name: str
    mtu: int = 0
    anycast_mac: str | None = None
    gateways: tuple[str, ...] = ()
    promiscuous: bool = False
    force_address: bool = False
    tagging: vlans.Tagging | None = None
    vrf: Device | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """A link that was made; with `address` (and its prefix length): an address that the link was given."""

    link: str
    index: int
    address: str = ""


Added = Callable[[Made], object]


@step("bridge")
def ensure(netlink: Netlink, plan: BridgePlan, added: Added) -> tuple[links.Link, links.Link]:
    """Make sure that the bridge is up, has its addresses, and that forwarding is on. What is right stays as it is.

    Returns the bridge and the link that has the gateway addresses: the bridge itself, or the node's interface in a
    VLAN. `added` is called for each link and address that had to be made; `take_away` undoes one. Raises Unfit,
    KernelRefused.
    """
    link = links.find(netlink, name=plan.name)
    if 0 < plan.mtu < IPV6_LEAST_MTU:
        _refuse_to_lose_ipv6(netlink, link, plan)
    if link is None:
        link = _make(netlink, plan)
        added(Made(link.name, link.index))
    if link.kind != "bridge":
        raise Unfit("bridge", f"{plan.name} exists and is a {link.kind or 'physical'} link, not a bridge")
    if plan.vrf and link.master != plan.vrf.index:
        if not is_our_bridge(link):
            raise Unfit(
                "bridge",
                f"{plan.name} exists and is not in VRF {plan.vrf.name}: put it in (ip link set {plan.name} "
                f"master {plan.vrf.name}), or name a bridge that does not exist yet",
            )
        netlink.run(enslave_message(link.index, plan.vrf))
    if plan.mtu > link.mtu:
        raise Unfit("MTU", f"{plan.mtu} is over the {link.mtu} of bridge {plan.name}")
    if not link.up or (plan.promiscuous and not link.promiscuous):
        with _making, iproute() as library:
            library.link("set", index=link.index, state="up")
            if plan.promiscuous:
                flags = uapi.IFF_PROMISC
                library.link("set", index=link.index, flags=flags, change=flags)
    if plan.anycast_mac and link.mac != plan.anycast_mac:
        log.warning("bridge %s: its MAC is %s from now on, that of the anycast gateway", plan.name, plan.anycast_mac,
                    extra={"link": plan.name})  # fmt: skip
        netlink.run(links.anycast_message(link.index, plan.anycast_mac))
        link = replace(link, mac=plan.anycast_mac)
    gateway = link
    if plan.gateways:
        if plan.tagging and plan.tagging.untagged:
            gateway = _in_vlan(netlink, link, plan.tagging, added)
        _ensure_addresses(netlink, gateway, plan, added)
        for version in {ip_interface(gateway).version for gateway in plan.gateways}:
            sysctl.enable_forwarding(version)
    return link, gateway


def _in_vlan(netlink: Netlink, link: links.Link, tagging: vlans.Tagging, added: Added) -> links.Link:
    before = links.find(netlink, name=vlans.gateway_name(link.name, tagging.untagged))
    gateway = vlans.ensure_gateway(netlink, link, tagging)
    if before is None:
        added(Made(gateway.name, gateway.index))
    return gateway


def _refuse_to_lose_ipv6(netlink: Netlink, link: links.Link | None, plan: BridgePlan) -> None:
    """A bridge has the MTU of its smallest port, and with less than 1280 it would lose IPv6 (RFC 8200)."""
    assigned = [item.address for item in addresses.assigned(netlink, link.index)] if link else []
    present = [ip_interface(text) for text in (*plan.gateways, *assigned)]
    if any(item.version == 6 and not item.is_link_local for item in present):
        raise Unfit("MTU", f"{plan.mtu} is under {IPV6_LEAST_MTU}: bridge {plan.name} would lose its IPv6")


def _make(netlink: Netlink, plan: BridgePlan) -> links.Link:
    """Create the bridge with a MAC of its own: without one it would change with its ports.

    It is up only once DAD is off: while its link-local address is tentative, for a second or two, the node cannot
    ask for an IPv6 neighbour on behalf of what it forwards, so a route announced then would lead nowhere.
    """
    octets = bytearray(secrets.token_bytes(6))
    octets[0] = octets[0] & 0xFC | 0x02
    wanted: dict[str, str | int] = {
        "kind": "bridge",
        "ifname": plan.name,
        "address": plan.anycast_mac or octets.hex(":"),
    }
    if plan.mtu:
        wanted["mtu"] = plan.mtu
    if plan.tagging:
        wanted["br_vlan_filtering"] = 1
    if plan.vrf:
        wanted["group"] = links.GROUP
    with _making:
        try:
            with iproute() as library:
                library.link("add", **wanted)
                for name in ("accept_dad", "accept_ra"):  # nobody but us gives it routes, as with the stock plugin
                    sysctl.put(f"net/ipv6/conf/{plan.name}/{name}", "0")
                made = links.find(netlink, name=plan.name)
                if made and plan.vrf:
                    netlink.run(enslave_message(made.index, plan.vrf))
                if made and plan.anycast_mac:
                    netlink.run(links.anycast_message(made.index, plan.anycast_mac))
                library.link("set", ifname=plan.name, state="up")
        except NetlinkError as error:
            if error.errno != errno.EEXIST:
                raise KernelRefused(f"bridge {plan.name}: {error.strerror}") from None
    link = links.find(netlink, name=plan.name)
    if link is None:
        raise KernelRefused(f"bridge {plan.name} vanished while it was made")
    return link


def _ensure_addresses(netlink: Netlink, link: links.Link, plan: BridgePlan, added: Added) -> None:
    """Give the gateway addresses to the link that is to have them.

    An address of an overlapping subnet is in the way. `force_address` takes away what is in the way, and of IPv4
    every other address, as stock does: the network was renumbered. Without it stock lets a bridge have one IPv4
    address; here networks with subnets of their own may share it.
    """
    name = link.name if link.name != plan.name else f"bridge {link.name}"
    versions = {ip_interface(gateway).version for gateway in plan.gateways}
    present = [item.address for item in addresses.assigned(netlink, link.index, versions=versions)]
    missing = [gateway for gateway in plan.gateways if gateway not in present]
    if not missing:
        return
    for text in present:
        if text in plan.gateways or (other := ip_interface(text)).is_link_local:
            continue
        blocked = next((gateway for gateway in missing if _in_the_way(other, gateway)), None)
        if plan.force_address and (blocked or (other.version == 4 and any("." in gateway for gateway in missing))):
            with iproute() as library:
                library.addr("del", index=link.index, address=str(other.ip), prefixlen=other.network.prefixlen)
        elif blocked:
            raise Unfit("address", f"{name} has {other}, so it cannot have the gateway address {blocked}")
    for gateway in missing:
        try:
            netlink.run(addresses.address_message(link.index, gateway))
        except OSError as error:
            if error.errno == errno.EACCES and ":" in gateway:
                sysctl.write(f"net/ipv6/conf/{link.name}/disable_ipv6", "0")
                netlink.run(addresses.address_message(link.index, gateway))
            elif error.errno != errno.EEXIST:
                raise KernelRefused(f"{name}: address {gateway}: {error.strerror}") from None
        added(Made(link.name, link.index, gateway))
    with iproute() as library:  # fixes its MAC: that of a bridge made by others may follow its ports
        library.link("set", index=link.index, address=link.mac)


def take_away(netlink: Netlink, made: Made) -> None:
    """Undo what was made, if it is still there as it was made. It is no error if it has gone. Raises OSError."""
    link = links.find(netlink, index=made.index)
    if link is None or link.name != made.link:
        return
    if not made.address:
        links.remove(netlink, link.index)
    elif any(item.address == made.address for item in addresses.assigned(netlink, link.index)):
        with iproute() as library:
            library.addr("del", index=link.index, address=made.address)


def _in_the_way(other: IPv4Interface | IPv6Interface, gateway: str) -> bool:
    wanted = ip_interface(gateway)
    if other.ip == wanted.ip and other.max_prefixlen in (other.network.prefixlen, wanted.network.prefixlen):
        return False  # the gateway of single addresses is that of a subnet too
    return other.version == wanted.version and other.network.overlaps(wanted.network)
