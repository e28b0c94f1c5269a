"""Finds out which MAC answers for an address on a link, with the kernel's own ARP and neighbour discovery."""

from __future__ import annotations

import errno
import time
from ipaddress import ip_address

from bgpcni.kernel import uapi
from bgpcni.kernel.addresses import family_of, forget_neighbour
from bgpcni.kernel.netlink import Message, Netlink, NetlinkError, attribute, attributes

_ANSWERED = uapi.NUD_REACHABLE | uapi.NUD_NOARP | uapi.NUD_PERMANENT
_LOOK_SECONDS = 0.01


def resolve(netlink: Netlink, index: int, address: str, seconds: float) -> str | None:
    """The MAC address that answers for `address` on link `index` within `seconds`, None if none does.

    An older neighbour entry is deleted first, so the answer is a fresh one.
    """
    target = ip_address(address)
    destination = attribute(uapi.NDA_DST, target.packed)

    def message(kind: int, message_flags: int, neighbour_flags: int) -> Message:
        header = uapi.NDMSG.pack(family_of(target.version), index, 0, neighbour_flags, 0)
        return Message(kind, message_flags, header + destination)

    netlink.send(forget_neighbour(index, address), message(uapi.RTM_NEWNEIGH, uapi.NLM_F_CREATE, uapi.NTF_USE))
    deadline = time.monotonic() + seconds
    while True:
        try:
            (data,) = netlink.run(message(uapi.RTM_GETNEIGH, 0, 0))
        except NetlinkError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        state = uapi.NDMSG.unpack_from(data)[2]
        if state & _ANSWERED:
            return attributes(data, uapi.NDMSG.size).get(uapi.NDA_LLADDR, b"").hex(":")
        if state & uapi.NUD_FAILED or time.monotonic() > deadline:
            return None
        time.sleep(_LOOK_SECONDS)
