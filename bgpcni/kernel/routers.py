"""The routers on a link without addresses: who is there, by the kernel's neighbour table, and that we are one.

FRR and others take for their peer on such a link whoever sends router advertisements there (RFC 4861). The kernel notes
in its neighbour table who does, also where it does not use what they say. Ours have a lifetime of zero: no host takes
this node for its default router.
"""

from __future__ import annotations

import errno
import socket
import struct
from ipaddress import ip_interface
from typing import NamedTuple

from bgpcni.ip import ip_address
from bgpcni.kernel import links, uapi
from bgpcni.kernel.addresses import assigned
from bgpcni.kernel.netlink import Message, Netlink, attribute, attributes

ALL_NODES = "ff02::1"
HOPS = 255
"""The hop limit of neighbour discovery: it shows that no router was between."""
_ADVERTISEMENT = struct.Struct("!BBHBBHII")
_SOURCE_LINK_LAYER = 1
_UNUSABLE = uapi.NUD_FAILED | uapi.NUD_INCOMPLETE


class Ends(NamedTuple):
    """The link-local addresses at both ends of a link; `theirs` is None until a router was heard there."""

    ours: str
    theirs: str | None


def ends(netlink: Netlink, name: str) -> Ends | str:
    """The ends of a link, or why it has none yet."""
    link = links.find(netlink, name=name)
    if link is None:
        return "there is no such interface"
    usable = (
        str(ip_interface(item.address).ip)
        for item in assigned(netlink, link.index, versions=(6,))
        if not item.flags & (uapi.IFA_F_TENTATIVE | uapi.IFA_F_DADFAILED)
    )
    ours = next((address for address in usable if ip_address(address).is_link_local), None)
    if ours is None:
        return "it has no link-local address" if link.up else "it is down"
    return Ends(ours, _router(netlink, link.index))


def _router(netlink: Netlink, index: int) -> str | None:
    """The router on a link; of several the lowest, so that every look finds the same. Else the only neighbour."""
    routers, others = set[bytes](), set[bytes]()
    body = uapi.NDMSG.pack(socket.AF_INET6, 0, 0, 0, 0) + attribute(uapi.NDA_IFINDEX, index)
    for data in netlink.dump(Message(uapi.RTM_GETNEIGH, 0, body)):
        _, link, state, flags, _ = uapi.NDMSG.unpack_from(data)
        packed = attributes(data, uapi.NDMSG.size).get(uapi.NDA_DST, b"")
        if link != index or state & _UNUSABLE or packed[:2] != b"\xfe\x80":
            continue
        (routers if flags & uapi.NTF_ROUTER else others).add(packed)
    found = min(routers) if routers else next(iter(others)) if len(others) == 1 else None
    return str(ip_address(found)) if found is not None else None


def advertise(netlink: Netlink, name: str) -> None:
    """Tell the link that a router is here. A link that is gone or down is left alone; raises OSError otherwise."""
    link = links.find(netlink, name=name)
    if link is None or not link.up:
        return
    body = _ADVERTISEMENT.pack(134, 0, 0, 64, 0, 0, 0, 0)  # the kernel adds the checksum
    mac = links.mac_bytes(link.mac) if link.mac else b""
    if len(mac) == 6:
        body += bytes((_SOURCE_LINK_LAYER, 1)) + mac
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_ICMPV6) as out:
        out.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, HOPS)
        out.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
        try:
            out.sendto(body, (ALL_NODES, 0, 0, link.index))
        except OSError as error:
            if error.errno not in (errno.ENETDOWN, errno.ENODEV, errno.EADDRNOTAVAIL, errno.ENETUNREACH):
                raise
