"""Routes learned by BGP in the node's main table, with our protocol number: made, changed, removed, found again.

Only ours are ever replaced or deleted: a route is created with EXCL, so one that somebody else has stays his.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

from bgpcni.kernel.addresses import family_of
from bgpcni.kernel.netlink import (
    CREATE,
    EXCL,
    RTM_GETADDR,
    RTM_GETROUTE,
    RTM_NEWROUTE,
    Message,
    Netlink,
    NetlinkError,
    attribute,
    attributes,
    u32,
)
from bgpcni.kernel.vxlan import PROTOCOL, REPLACE

METRIC = 20182
"""The priority of our routes: what the kernel or an administrator gives a route is lower, and wins."""
RTM_DELROUTE = 25
_RTMSG = struct.Struct("=BBBBBBBBI")
_IFADDR = struct.Struct("=BBBBI")
_DST, _OIF, _GATEWAY, _PRIORITY = 1, 4, 5, 6
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_MAIN, _UNIVERSE, _UNICAST = 254, 0, 1
_ONLINK_SCOPE = 253
_RTM_F_CLONED = 0x200


def _body(prefix: str, gateway: str | None, device: int) -> bytes:
    network = ip_network(prefix)
    scope = _UNIVERSE if gateway or network.version == 6 else _ONLINK_SCOPE
    head = _RTMSG.pack(family_of(network.version), network.prefixlen, 0, 0, _MAIN, PROTOCOL, scope, _UNICAST, 0)
    body = head + (attribute(_DST, network.network_address.packed) if network.prefixlen else b"")
    body += attribute(_OIF, device) + attribute(_PRIORITY, METRIC)
    return body + (attribute(_GATEWAY, ip_address(gateway).packed) if gateway else b"")


def add_message(prefix: str, gateway: str | None, device: int) -> Message:
    """EEXIST: somebody has a route of this prefix and metric, and it is not touched."""
    return Message(RTM_NEWROUTE, CREATE | EXCL, _body(prefix, gateway, device))


def replace_message(prefix: str, gateway: str | None, device: int) -> Message:
    """Another way for a prefix whose route of this metric is known to be ours."""
    return Message(RTM_NEWROUTE, CREATE | REPLACE, _body(prefix, gateway, device))


def delete_message(prefix: str, gateway: str | None, device: int) -> Message:
    """This very route; ESRCH: it was not there."""
    return Message(RTM_DELROUTE, 0, _body(prefix, gateway, device))


def ours(netlink: Netlink) -> Iterator[tuple[str, str | None, int]]:
    """(prefix, gateway, device) of each route with our protocol number: for the agent's start."""
    for version in (4, 6):
        body = _RTMSG.pack(family_of(version), 0, 0, 0, 0, PROTOCOL, 0, 0, 0)
        for data in netlink.dump(Message(RTM_GETROUTE, 0, body)):
            _, length, _, _, table, protocol, _, _, flags = _RTMSG.unpack_from(data)
            found = attributes(data, _RTMSG.size)
            if protocol != PROTOCOL or table != _MAIN or flags & _RTM_F_CLONED or _OIF not in found:
                continue
            address = ip_address(found.get(_DST, bytes(4 if version == 4 else 16)))
            gateway = str(ip_address(found[_GATEWAY])) if _GATEWAY in found else None
            yield f"{address}/{length}", gateway, u32(found[_OIF])


def way_to(netlink: Netlink, address: str) -> tuple[str | None, int] | None:
    """(gateway, device) by which the node reaches an address now; None: it does not, or the address is its own."""
    target = ip_address(address)
    head = _RTMSG.pack(family_of(target.version), target.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    try:
        (data,) = netlink.run(Message(RTM_GETROUTE, 0, head + attribute(_DST, target.packed)))
    except NetlinkError:
        return None
    kind = _RTMSG.unpack_from(data)[7]
    found = attributes(data, _RTMSG.size)
    if kind != _UNICAST or _OIF not in found:
        return None
    return (str(ip_address(found[_GATEWAY])) if _GATEWAY in found else None), u32(found[_OIF])


def connected(netlink: Netlink) -> frozenset[str]:
    """The node's own subnets and addresses as prefixes, of every interface."""
    prefixes: set[str] = set()
    for version in (4, 6):
        for data in netlink.dump(Message(RTM_GETADDR, 0, _IFADDR.pack(family_of(version), 0, 0, 0, 0))):
            _, length, *_ = _IFADDR.unpack_from(data)
            found = attributes(data, _IFADDR.size)
            packed = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
            if packed:
                address = ip_address(packed)
                prefixes |= {str(ip_network((address, length), strict=False)), f"{address}/{address.max_prefixlen}"}
    return frozenset(prefixes)
