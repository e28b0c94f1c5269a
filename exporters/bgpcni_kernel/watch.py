"""Watches our routes in the kernel and their links, to notice that a route may be gone.

A route is deleted with its device, and an IPv4 route, without a message, when the device goes down; someone may also
delete it. The filter of the socket passes only links and deleted routes of our protocol number, so that changes of
other routes cost nothing here.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct

from bgpcni.kernel import uapi
from bgpcni.kernel.netlink import open_socket
from bgpcni_kernel.routes import Place, Route, read

_GROUPS = (uapi.RTNLGRP_LINK, uapi.RTNLGRP_IPV4_ROUTE, uapi.RTNLGRP_IPV6_ROUTE)
_BUFFER = 4 << 20


class Watch:
    """A netlink socket in the network namespace of the thread that makes it. It never blocks."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._links: dict[int, bool] = {}
        self._socket = open_socket()
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, uapi.SO_RCVBUFFORCE, _BUFFER)
        _attach_filter(self._socket, place.protocol)
        self._socket.bind((0, sum(1 << group - 1 for group in _GROUPS)))

    def close(self) -> None:
        self._socket.close()

    def expect(self, index: int, *, up: bool = True) -> None:
        """Watch a link that has routes of ours, from now on."""
        self._links.setdefault(index, up)

    def changes(self) -> tuple[bool, list[Route]]:
        """What has happened since the last call: whether a watched link went away or came back, and which of our routes
        were deleted."""
        moved = False
        deleted: list[Route] = []
        while True:
            try:
                data = self._socket.recv(1 << 18)
            except BlockingIOError:
                return moved, deleted
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                moved = True  # messages were lost, so anything may have changed
                continue
            at = 0
            while at + uapi.NLMSGHDR.size <= len(data):
                length, kind, *_ = uapi.NLMSGHDR.unpack_from(data, at)
                body = data[at + uapi.NLMSGHDR.size : at + length]
                if kind == uapi.RTM_DELROUTE:
                    deleted += [route] if (route := read(self._place, body)) else []
                elif kind in (uapi.RTM_NEWLINK, uapi.RTM_DELLINK):
                    moved |= self._note(kind, body)
                at += (length + 3) & ~3

    def _note(self, kind: int, body: bytes) -> bool:
        family, _, index, flags, _ = uapi.IFINFOMSG.unpack_from(body)
        if family != socket.AF_UNSPEC or index not in self._links:
            return False
        if kind == uapi.RTM_DELLINK:
            del self._links[index]
            return True
        up = bool(flags & uapi.IFF_UP)
        changed, self._links[index] = up != self._links[index], up
        return changed


def _attach_filter(sock: socket.socket, protocol: int) -> None:
    """Attach a classic BPF program that passes links, and RTM_DELROUTE with our rtm_protocol. nlmsg_type has host
    order."""
    load_half, load_byte, equal, leave = 0x28, 0x30, 0x15, 0x06
    kinds = [socket.htons(kind) for kind in (uapi.RTM_NEWLINK, uapi.RTM_DELLINK, uapi.RTM_DELROUTE)]
    program = [
        (load_half, 0, 0, 4),  # nlmsghdr.nlmsg_type
        (equal, 4, 0, kinds[0]),
        (equal, 3, 0, kinds[1]),
        (equal, 0, 3, kinds[2]),
        (load_byte, 0, 0, uapi.NLMSGHDR.size + 5),  # rtmsg.rtm_protocol
        (equal, 0, 1, protocol),
        (leave, 0, 0, 0xFFFFFFFF),
        (leave, 0, 0, 0),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in program))
    sock.setsockopt(socket.SOL_SOCKET, uapi.SO_ATTACH_FILTER, struct.pack("HL", len(program), ctypes.addressof(code)))
