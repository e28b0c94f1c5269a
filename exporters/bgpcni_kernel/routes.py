"""Packs and parses routes of one table and protocol number as rtnetlink messages (rtnetlink(7)). Pure.

The route to a host has a device and no gateway: `10.1.2.3/32 dev cni0 proto 45 table 100 metric 1`. The route to a
network is `blackhole 10.1.2.0/24 …`: it does not depend on a device, and this table does not forward, so it drops
nothing.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

from bgpcni.kernel import uapi
from bgpcni.kernel.netlink import Message, attribute, attributes, u32

NO_DEVICE = 0
"""The index that means a blackhole instead of a device."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where our routes are: the number of the table, the protocol number that marks them, and their metric."""

    table: int
    protocol: int
    metric: int


@dataclass(frozen=True, slots=True)
class Route:
    """One route. `index`: the index of the device, or NO_DEVICE."""

    prefix: str
    index: int
    metric: int


def add(place: Place, prefix: str, index: int, *, replace: bool) -> Message:
    """Add a route. `replace` False: the kernel answers EEXIST if the table has this prefix with this metric already,
    whoever made it."""
    network = ip_network(prefix)
    if index == NO_DEVICE:
        body = _head(place, network, uapi.RT_SCOPE_UNIVERSE, uapi.RTN_BLACKHOLE)
    else:
        body = _head(
            place, network, uapi.RT_SCOPE_LINK if network.version == 4 else uapi.RT_SCOPE_UNIVERSE, uapi.RTN_UNICAST
        )
        body += attribute(uapi.RTA_OIF, index)
    body += attribute(uapi.RTA_PRIORITY, place.metric)
    return Message(uapi.RTM_NEWROUTE, uapi.NLM_F_CREATE | (uapi.NLM_F_REPLACE if replace else uapi.NLM_F_EXCL), body)


def remove(place: Place, prefix: str, found: Route | None = None) -> Message:
    """Delete ours to a prefix, whatever its device and metric; `found`: just this one. ESRCH: there is none."""
    body = _head(place, ip_network(prefix), uapi.RT_SCOPE_NOWHERE, 0)
    if found is not None:
        body += attribute(uapi.RTA_PRIORITY, found.metric)
        body += attribute(uapi.RTA_OIF, found.index) if found.index != NO_DEVICE else b""
    return Message(uapi.RTM_DELROUTE, 0, body)


def _head(place: Place, network: IPv4Network | IPv6Network, scope: int, kind: int) -> bytes:
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    head = uapi.RTMSG.pack(
        family, network.prefixlen, 0, 0, min(place.table, uapi.RT_TABLE_COMPAT), place.protocol, scope, kind, 0
    )
    if network.prefixlen:
        head += attribute(uapi.RTA_DST, network.network_address.packed)
    return head + attribute(uapi.RTA_TABLE, place.table)


def dump(place: Place, family: int) -> Message:
    """Ask for ours of one address family; the kernel filters."""
    head = uapi.RTMSG.pack(family, 0, 0, 0, 0, place.protocol, 0, 0, 0)
    return Message(uapi.RTM_GETROUTE, 0, head + attribute(uapi.RTA_TABLE, place.table))


def read(place: Place, data: bytes) -> Route | None:
    """The route in one message of the kernel, None if it is none of ours."""
    if len(data) < uapi.RTMSG.size:
        return None
    family, length, _, _, table, protocol, _, kind, _ = uapi.RTMSG.unpack_from(data)
    found = attributes(data, uapi.RTMSG.size)
    in_table = u32(found[uapi.RTA_TABLE]) if uapi.RTA_TABLE in found else table
    if (protocol, in_table) != (place.protocol, place.table) or family not in (socket.AF_INET, socket.AF_INET6):
        return None
    address = found.get(uapi.RTA_DST, bytes(4 if family == socket.AF_INET else 16))
    text = socket.inet_ntop(family, address)
    index = u32(found[uapi.RTA_OIF]) if kind == uapi.RTN_UNICAST and uapi.RTA_OIF in found else NO_DEVICE
    return Route(f"{text}/{length}", index, u32(found[uapi.RTA_PRIORITY]) if uapi.RTA_PRIORITY in found else 0)


def families() -> Iterator[int]:
    yield from (socket.AF_INET, socket.AF_INET6)
