"""Who answers for an address on a link: asked as the kernel itself asks before it sends (ARP, neighbour discovery)."""

from __future__ import annotations

import errno
import struct
import time
from ipaddress import ip_address

from bgpcni.kernel.addresses import family_of, forget_neighbour
from bgpcni.kernel.netlink import CREATE, RTM_NEWNEIGH, Message, Netlink, NetlinkError, attribute, attributes

_RTM_GETNEIGH = 30
_NDMSG = struct.Struct("=BxxxiHBB")
_NDA_DST, _NDA_LLADDR = 1, 2
_NTF_USE = 0x01
_FAILED, _ANSWERED = 0x20, 0x02 | 0x40 | 0x80  # NUD_*: reachable, noarp, permanent
_LOOK_SECONDS = 0.01


def resolve(netlink: Netlink, index: int, address: str, seconds: float) -> str | None:
    """The MAC address that answers for `address` on link `index` within `seconds`, None if none does.

    What was known before is forgotten first: the answer is of now.
    """
    target = ip_address(address)
    destination = attribute(_NDA_DST, target.packed)

    def message(kind: int, message_flags: int, neighbour_flags: int) -> Message:
        header = _NDMSG.pack(family_of(target.version), index, 0, neighbour_flags, 0)
        return Message(kind, message_flags, header + destination)

    netlink.send(forget_neighbour(index, address), message(RTM_NEWNEIGH, CREATE, _NTF_USE))
    deadline = time.monotonic() + seconds
    while True:
        try:
            (data,) = netlink.run(message(_RTM_GETNEIGH, 0, 0))
        except NetlinkError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        state = _NDMSG.unpack_from(data)[2]
        if state & _ANSWERED:
            return attributes(data, _NDMSG.size).get(_NDA_LLADDR, b"").hex(":")
        if state & _FAILED or time.monotonic() > deadline:
            return None
        time.sleep(_LOOK_SECONDS)
