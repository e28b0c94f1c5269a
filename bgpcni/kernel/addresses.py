"""Addresses, and the routes and neighbours that the hot path needs, as packed messages."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from bgpcni.ip import ip_address, ip_interface, ip_network
from bgpcni.kernel import uapi
from bgpcni.kernel.netlink import MAKE, Message, Netlink, NetlinkError, attribute, attributes, nested, u32


def family_of(version: int) -> int:
    """AF_INET or AF_INET6."""
    return socket.AF_INET if version == 4 else socket.AF_INET6


class Assigned(NamedTuple):
    """One address of a link, with its prefix length. `flags`: IFA_F_*."""

    address: str
    flags: int


def address_message(index: int, address: str, *, dad: bool = False, deprecated: bool = False) -> Message:
    """Add `10.1.2.3/24` to a link. `dad`: with duplicate address detection; addresses from a pool do without.
    `deprecated`: an IPv6 address that is the source of a connection only where it is asked for (RFC 4862)."""
    interface = ip_interface(address)
    packed = interface.ip.packed
    flags = 0 if dad or interface.version == 4 else uapi.IFA_F_NODAD
    body = uapi.IFADDRMSG.pack(family_of(interface.version), interface.network.prefixlen, flags, 0, index)
    body += attribute(uapi.IFA_LOCAL, packed) + attribute(uapi.IFA_ADDRESS, packed)
    if interface.version == 4 and interface.network.prefixlen < 31:
        body += attribute(uapi.IFA_BROADCAST, interface.network.broadcast_address.packed)
    if deprecated and interface.version == 6:
        body += attribute(uapi.IFA_CACHEINFO, uapi.IFA_CACHE.pack(0, uapi.INFINITY_LIFE_TIME, 0, 0))
    return Message(uapi.RTM_NEWADDR, MAKE, body)


def assigned(netlink: Netlink, index: int, nsid: int | None = None, versions: Iterable[int] = (4, 6)) -> list[Assigned]:
    """The addresses of one link, in namespace `nsid` if given. A strict dump: the kernel looks at that link alone."""
    found = []
    there = b"" if nsid is None else attribute(uapi.IFA_TARGET_NETNSID, nsid)
    for version in versions:
        for data in netlink.dump(
            Message(uapi.RTM_GETADDR, 0, uapi.IFADDRMSG.pack(family_of(version), 0, 0, 0, index) + there)
        ):
            _, length, flags, _, link = uapi.IFADDRMSG.unpack_from(data)
            values = attributes(data, uapi.IFADDRMSG.size)
            packed = values.get(uapi.IFA_LOCAL) or values.get(uapi.IFA_ADDRESS)
            if packed and link == index:
                wide = u32(values[uapi.IFA_FLAGS]) if uapi.IFA_FLAGS in values else flags
                found.append(Assigned(f"{ip_address(packed)}/{length}", wide))
    return found


def route_message(
    index: int,
    destination: str,
    gateway: str | None = None,
    *,
    mtu: int | None = None,
    advmss: int | None = None,
    priority: int | None = None,
    table: int | None = None,
    scope: int | None = None,
) -> Message:
    """Add one route through a link; without a gateway it is on the link itself. `mtu`, `advmss`: octets.

    It is appended: a second route to the same destination is a second way there, the same route again an error.
    """
    target = ip_network(destination)
    if scope is None:
        scope = uapi.RT_SCOPE_UNIVERSE if gateway else uapi.RT_SCOPE_LINK
    if table is None:
        table = uapi.RT_TABLE_MAIN
    family, low = family_of(target.version), min(table, 255)
    body = uapi.RTMSG.pack(family, target.prefixlen, 0, 0, low, uapi.RTPROT_BOOT, scope, uapi.RTN_UNICAST, 0)
    if target.prefixlen:
        body += attribute(uapi.RTA_DST, target.network_address.packed)
    body += attribute(uapi.RTA_OIF, index)
    if gateway:
        body += attribute(uapi.RTA_GATEWAY, ip_address(gateway).packed)
    if priority is not None:
        body += attribute(uapi.RTA_PRIORITY, priority)
    if table > 255:
        body += attribute(uapi.RTA_TABLE, table)
    metrics = b""
    if mtu:
        metrics += attribute(uapi.RTAX_MTU, mtu)
    if advmss:
        metrics += attribute(uapi.RTAX_ADVMSS, advmss)
    if metrics:
        body += nested(uapi.RTA_METRICS, metrics)
    return Message(uapi.RTM_NEWROUTE, uapi.NLM_F_APPEND | uapi.NLM_F_CREATE, body)


def has_route(netlink: Netlink, index: int, destination: str, gateway: str | None, table: int | None) -> bool:
    """Whether the link has exactly this route. It dumps all routes of the namespace; a container has few."""
    target = ip_network(destination)
    table = uapi.RT_TABLE_MAIN if table is None else table
    body = uapi.RTMSG.pack(family_of(target.version), 0, 0, 0, 0, 0, 0, 0, 0)
    hop = ip_address(gateway).packed if gateway else None
    address = target.network_address.packed if target.prefixlen else None
    for data in netlink.dump(Message(uapi.RTM_GETROUTE, 0, body)):
        head = uapi.RTMSG.unpack_from(data)
        found = attributes(data, uapi.RTMSG.size)
        in_table = u32(found[uapi.RTA_TABLE]) if uapi.RTA_TABLE in found else head[4]
        same = head[1] == target.prefixlen and in_table == table and found.get(uapi.RTA_DST) == address
        if same and (index, hop) in _next_hops(found):
            return True
    return False


def _next_hops(found: dict[int, bytes]) -> list[tuple[int, bytes | None]]:
    """The link and gateway of each next hop. Others may have added next hops to a route of ours (RTA_MULTIPATH)."""
    if uapi.RTA_MULTIPATH not in found:
        return [(u32(found.get(uapi.RTA_OIF, bytes(4))), found.get(uapi.RTA_GATEWAY))]
    return [(index, hop.get(uapi.RTA_GATEWAY)) for index, hop in each_hop(found[uapi.RTA_MULTIPATH])]


def each_hop(data: bytes) -> Iterator[tuple[int, dict[int, bytes]]]:
    """The link and the attributes of each next hop of RTA_MULTIPATH: struct rtnexthop, one after the other."""
    at = 0
    while at + uapi.RTNEXTHOP.size <= len(data):
        length, _, _, index = uapi.RTNEXTHOP.unpack_from(data, at)
        if length < uapi.RTNEXTHOP.size:
            return
        yield index, attributes(data[at : at + length], uapi.RTNEXTHOP.size)
        at += (length + 3) & ~3


def not_on(answer: bytes | NetlinkError, leads: Callable[[int], bool]) -> str | None:
    """Why the node does not reach the address directly, as the answer to `way_message` says; None if it does.

    `leads`: whether a device, by its index, is the right one.
    """
    if isinstance(answer, NetlinkError):
        known = {errno.ENETUNREACH: "no route", errno.EINVAL: "a blackhole route", errno.EACCES: "a prohibit route"}
        return known.get(answer.errno or 0, os.strerror(answer.errno or 0).lower())
    kind, found = way_of(answer)
    if kind != uapi.RTN_UNICAST:
        return "its route is not unicast" if kind != uapi.RTN_LOCAL else "the address is the node's own"
    if uapi.RTA_GATEWAY in found:
        return f"its route goes through the gateway {ip_address(found[uapi.RTA_GATEWAY])}"
    if uapi.RTA_OIF not in found or not leads(u32(found[uapi.RTA_OIF])):
        name = ""
        if uapi.RTA_OIF in found:
            try:
                name = socket.if_indextoname(u32(found[uapi.RTA_OIF]))
            except OSError:
                name = str(u32(found[uapi.RTA_OIF]))
        return f"its route goes out of {name or 'no device'}"
    return None


def way_message(address: str, within: int = 0) -> Message:
    """Ask which route the kernel takes to an address (RTM_GETROUTE). `within`: the index of a VRF, 0 for none."""
    target = ip_address(address)
    bits = 32 if target.version == 4 else 128
    body = uapi.RTMSG.pack(family_of(target.version), bits, 0, 0, 0, 0, 0, 0, 0) + attribute(
        uapi.RTA_DST, target.packed
    )
    return Message(uapi.RTM_GETROUTE, 0, body + (attribute(uapi.RTA_OIF, within) if within else b""))


def way_of(data: bytes) -> tuple[int, dict[int, bytes]]:
    """The answer to `way_message`: the type of the route (RTN_*) and its attributes."""
    return uapi.RTMSG.unpack_from(data)[7], attributes(data, uapi.RTMSG.size)


def device_of(netlink: Netlink, address: str) -> int:
    """The index of the device by which the node reaches an address, 0 if it does not."""
    (answer,) = netlink.send(way_message(address))
    return 0 if isinstance(answer, NetlinkError) else u32(way_of(answer)[1].get(uapi.RTA_OIF, bytes(4)))


def is_local(netlink: Netlink, address: str) -> bool:
    """Whether an address is one of this node's own, on any interface."""
    (answer,) = netlink.send(way_message(address))
    return not isinstance(answer, NetlinkError) and way_of(answer)[0] == uapi.RTN_LOCAL


def forget_neighbour(index: int, address: str) -> Message:
    """Delete the neighbour entry of an address, which may have another MAC now. ENOENT: there was no entry."""
    target = ip_address(address)
    body = uapi.NDMSG.pack(family_of(target.version), index, 0, 0, 0)
    return Message(uapi.RTM_DELNEIGH, 0, body + attribute(uapi.NDA_DST, target.packed))
