"""Addresses, routes and neighbours on the hot path, as packed messages."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bgpcni.cni.result import Route
from bgpcni.ip import ip_address, ip_interface, ip_network
from bgpcni.kernel.netlink import (
    APPEND,
    CREATE,
    EXCL,
    RTM_DELNEIGH,
    RTM_GETADDR,
    RTM_GETROUTE,
    RTM_NEWADDR,
    RTM_NEWROUTE,
    Message,
    Netlink,
    NetlinkError,
    attribute,
    attributes,
    nested,
    u32,
)

_IFADDR = struct.Struct("=BBBBI")
_RTMSG = struct.Struct("=BBBBBBBBI")
_NDMSG = struct.Struct("=BxxxiHBB")
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_FLAGS, _IFA_TARGET_NETNSID = 1, 2, 4, 8, 10
_NODAD, TENTATIVE, DAD_FAILED = 0x02, 0x40, 0x08
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_METRICS, _RTA_TABLE = 1, 4, 5, 6, 8, 15
_RTAX_MTU, _RTAX_ADVMSS = 2, 8
_RTA_MULTIPATH = 9
_RTNEXTHOP = struct.Struct("=HBBi")
_NDA_DST = 1
_MAIN, _UNIVERSE, _LINK, _UNICAST, _LOCAL, _BOOT = 254, 0, 253, 1, 2, 3


def family_of(version: int) -> int:
    """AF_INET or AF_INET6."""
    return socket.AF_INET if version == 4 else socket.AF_INET6


@dataclass(frozen=True, slots=True)
class Assigned:
    """One address as the kernel has it, with prefix length; `flags`: IFA_F_*."""

    address: str
    flags: int


def address_message(index: int, address: str, *, dad: bool = False) -> Message:
    """Add `10.1.2.3/24` to a link. IPv6 without duplicate address detection unless `dad`: the pool is unique."""
    interface = ip_interface(address)
    packed = interface.ip.packed
    flags = 0 if dad or interface.version == 4 else _NODAD
    body = _IFADDR.pack(family_of(interface.version), interface.network.prefixlen, flags, 0, index)
    body += attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed)
    if interface.version == 4 and interface.network.prefixlen < 31:
        body += attribute(_IFA_BROADCAST, interface.network.broadcast_address.packed)
    return Message(RTM_NEWADDR, EXCL | CREATE, body)


def assigned(netlink: Netlink, index: int, nsid: int | None = None, versions: Iterable[int] = (4, 6)) -> list[Assigned]:
    """Addresses of one link (a strict dump: the kernel looks at that link alone), of namespace `nsid` if given."""
    found = []
    there = b"" if nsid is None else attribute(_IFA_TARGET_NETNSID, nsid)
    for version in versions:
        for data in netlink.dump(Message(RTM_GETADDR, 0, _IFADDR.pack(family_of(version), 0, 0, 0, index) + there)):
            _, length, flags, _, link = _IFADDR.unpack_from(data)
            values = attributes(data, _IFADDR.size)
            packed = values.get(_IFA_LOCAL) or values.get(_IFA_ADDRESS)
            if packed and link == index:
                wide = u32(values[_IFA_FLAGS]) if _IFA_FLAGS in values else flags
                found.append(Assigned(f"{ip_address(packed)}/{length}", wide))
    return found


def route_message(index: int, route: Route) -> Message:
    """Add one route through a link; without gateway: on the link itself.

    Appended: a second route to the same destination is a second way there, the same route again an error.
    """
    destination = ip_network(route.dst)
    scope = route.scope if route.scope is not None else (_UNIVERSE if route.gw else _LINK)
    table = route.table if route.table is not None else _MAIN
    body = _RTMSG.pack(
        family_of(destination.version), destination.prefixlen, 0, 0, min(table, 255), _BOOT, scope, _UNICAST, 0
    )
    if destination.prefixlen:
        body += attribute(_RTA_DST, destination.network_address.packed)
    body += attribute(_RTA_OIF, index)
    if route.gw:
        body += attribute(_RTA_GATEWAY, ip_address(route.gw).packed)
    if route.priority is not None:
        body += attribute(_RTA_PRIORITY, route.priority)
    if table > 255:
        body += attribute(_RTA_TABLE, table)
    metrics = b""
    if route.mtu:
        metrics += attribute(_RTAX_MTU, route.mtu)
    if route.advmss:
        metrics += attribute(_RTAX_ADVMSS, route.advmss)
    if metrics:
        body += nested(_RTA_METRICS, metrics)
    return Message(RTM_NEWROUTE, APPEND | CREATE, body)


def has_route(netlink: Netlink, index: int, route: Route) -> bool:
    """Whether the link has this very route (a dump of one namespace's few routes: a container's)."""
    destination = ip_network(route.dst)
    table = route.table if route.table is not None else _MAIN
    body = _RTMSG.pack(family_of(destination.version), 0, 0, 0, 0, 0, 0, 0, 0)
    gateway = ip_address(route.gw).packed if route.gw else None
    address = destination.network_address.packed if destination.prefixlen else None
    for data in netlink.dump(Message(RTM_GETROUTE, 0, body)):
        head = _RTMSG.unpack_from(data)
        found = attributes(data, _RTMSG.size)
        in_table = u32(found[_RTA_TABLE]) if _RTA_TABLE in found else head[4]
        same = head[1] == destination.prefixlen and in_table == table and found.get(_RTA_DST) == address
        if same and (index, gateway) in _next_hops(found):
            return True
    return False


def _next_hops(found: dict[int, bytes]) -> list[tuple[int, bytes | None]]:
    """Interface and gateway of each next hop: others may have added theirs to a route of ours (RTA_MULTIPATH)."""
    if _RTA_MULTIPATH not in found:
        return [(u32(found.get(_RTA_OIF, bytes(4))), found.get(_RTA_GATEWAY))]
    hops: list[tuple[int, bytes | None]] = []
    data, at = found[_RTA_MULTIPATH], 0
    while at + _RTNEXTHOP.size <= len(data):
        length, _, _, index = _RTNEXTHOP.unpack_from(data, at)
        if length < _RTNEXTHOP.size:
            break
        hops.append((index, attributes(data[at : at + length], _RTNEXTHOP.size).get(_RTA_GATEWAY)))
        at += (length + 3) & ~3
    return hops


def not_on(answer: bytes | NetlinkError, leads: Callable[[int], bool]) -> str | None:
    """The answer to `way_message`: why the node does not itself reach it on a device that `leads` there, else None."""
    if isinstance(answer, NetlinkError):
        known = {errno.ENETUNREACH: "no route", errno.EINVAL: "a blackhole route", errno.EACCES: "a prohibit route"}
        return known.get(answer.errno or 0, os.strerror(answer.errno or 0).lower())
    kind, found = way_of(answer)
    if kind != _UNICAST:
        return "its route is not unicast" if kind != _LOCAL else "the address is the node's own"
    if _RTA_GATEWAY in found:
        return f"its route goes through the gateway {ip_address(found[_RTA_GATEWAY])}"
    if _RTA_OIF not in found or not leads(u32(found[_RTA_OIF])):
        name = ""
        if _RTA_OIF in found:
            try:
                name = socket.if_indextoname(u32(found[_RTA_OIF]))
            except OSError:
                name = str(u32(found[_RTA_OIF]))
        return f"its route goes out of {name or 'no device'}"
    return None


def way_message(address: str, within: int = 0) -> Message:
    """Ask for the kernel's choice for an address (RTM_GETROUTE). `within`: the index of a VRF, 0: none."""
    target = ip_address(address)
    bits = 32 if target.version == 4 else 128
    body = _RTMSG.pack(family_of(target.version), bits, 0, 0, 0, 0, 0, 0, 0) + attribute(_RTA_DST, target.packed)
    return Message(RTM_GETROUTE, 0, body + (attribute(_RTA_OIF, within) if within else b""))


def way_of(data: bytes) -> tuple[int, dict[int, bytes]]:
    """The answer to it: route type and attributes."""
    return _RTMSG.unpack_from(data)[7], attributes(data, _RTMSG.size)


def device_of(netlink: Netlink, address: str) -> int:
    """The index of the device by which the node reaches an address, 0 where it does not."""
    (answer,) = netlink.send(way_message(address))
    return 0 if isinstance(answer, NetlinkError) else u32(way_of(answer)[1].get(_RTA_OIF, bytes(4)))


def is_local(netlink: Netlink, address: str) -> bool:
    """Whether an address is this node's own, on whatever interface."""
    (answer,) = netlink.send(way_message(address))
    return not isinstance(answer, NetlinkError) and way_of(answer)[0] == _LOCAL


def forget_neighbour(index: int, address: str) -> Message:
    """Drop the neighbour entry of an address that may have another MAC now; ENOENT means there was none."""
    target = ip_address(address)
    body = _NDMSG.pack(family_of(target.version), index, 0, 0, 0)
    return Message(RTM_DELNEIGH, 0, body + attribute(_NDA_DST, target.packed))
