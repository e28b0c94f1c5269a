"""Packs and parses routes of one table and protocol number as rtnetlink messages (rtnetlink(7)). Pure.

The route to a host has a device and no gateway: `10.1.2.3/32 dev cni0 proto 45 table 100 metric 1`. The route to a
network is `blackhole 10.1.2.0/24 …`: it does not depend on a device, and this table does not forward, so it drops
nothing.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

from bgpcni.kernel.netlink import (
    CREATE,
    EXCL,
    RTM_GETROUTE,
    RTM_NEWROUTE,
    Message,
    attribute,
    attributes,
    u32,
)

RTM_DELROUTE = 25
REPLACE = 0x100
_RTMSG = struct.Struct("=BBBBBBBBI")
_RTA_DST, _RTA_OIF, _RTA_PRIORITY, _RTA_TABLE = 1, 4, 6, 15
_UNIVERSE, _LINK, _NOWHERE = 0, 253, 255
_UNICAST, _BLACKHOLE = 1, 6
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
        body = _head(place, network, _UNIVERSE, _BLACKHOLE)
    else:
        body = _head(place, network, _LINK if network.version == 4 else _UNIVERSE, _UNICAST)
        body += attribute(_RTA_OIF, index)
    body += attribute(_RTA_PRIORITY, place.metric)
    return Message(RTM_NEWROUTE, CREATE | (REPLACE if replace else EXCL), body)


def remove(place: Place, prefix: str, found: Route | None = None) -> Message:
    """Delete our route to a prefix, whatever its device and metric; with `found` only that one. ESRCH: there is
    none."""
    body = _head(place, ip_network(prefix), _NOWHERE, 0)
    if found is not None:
        body += attribute(_RTA_PRIORITY, found.metric)
        body += attribute(_RTA_OIF, found.index) if found.index != NO_DEVICE else b""
    return Message(RTM_DELROUTE, 0, body)


def _head(place: Place, network: IPv4Network | IPv6Network, scope: int, kind: int) -> bytes:
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    head = _RTMSG.pack(family, network.prefixlen, 0, 0, min(place.table, 252), place.protocol, scope, kind, 0)
    if network.prefixlen:
        head += attribute(_RTA_DST, network.network_address.packed)
    return head + attribute(_RTA_TABLE, place.table)


def dump(place: Place, family: int) -> Message:
    """Ask for our routes of one address family. The kernel filters them."""
    head = _RTMSG.pack(family, 0, 0, 0, 0, place.protocol, 0, 0, 0)
    return Message(RTM_GETROUTE, 0, head + attribute(_RTA_TABLE, place.table))


def read(place: Place, data: bytes) -> Route | None:
    """The route in a message of the kernel; None if it is not ours."""
    if len(data) < _RTMSG.size:
        return None
    family, length, _, _, table, protocol, _, kind, _ = _RTMSG.unpack_from(data)
    found = attributes(data, _RTMSG.size)
    in_table = u32(found[_RTA_TABLE]) if _RTA_TABLE in found else table
    if (protocol, in_table) != (place.protocol, place.table) or family not in (socket.AF_INET, socket.AF_INET6):
        return None
    address = found.get(_RTA_DST, bytes(4 if family == socket.AF_INET else 16))
    text = socket.inet_ntop(family, address)
    index = u32(found[_RTA_OIF]) if kind == _UNICAST and _RTA_OIF in found else NO_DEVICE
    return Route(f"{text}/{length}", index, u32(found[_RTA_PRIORITY]) if _RTA_PRIORITY in found else 0)


def families() -> Iterator[int]:
    yield from (socket.AF_INET, socket.AF_INET6)
