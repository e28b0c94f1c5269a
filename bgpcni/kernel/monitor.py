"""Reports links and namespaces that are gone, so that the agent learns of a container that ended without a DEL.

A link of the node's own namespace is reported by its index. A namespace that the node knows by an nsid is reported
when it ends, and when a link leaves it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator

from bgpcni.kernel import uapi
from bgpcni.kernel.netlink import attributes, open_socket, split, u32

log = logging.getLogger(__name__)
_GROUPS = {uapi.RTM_DELLINK: uapi.RTNLGRP_LINK, uapi.RTM_DELNSID: uapi.RTNLGRP_NSID}
"""Type of event → the multicast group that tells of it."""
_BUFFER = 8 << 20
"""How many octets of events the kernel may keep for us: enough for a thousand containers at once."""


class Monitor:
    """Calls `link(index)` for each deleted link of this namespace, and `namespace(nsid)` for each namespace that ended
    or lost a link. `lost()` means that the kernel dropped events: then everything has to be looked at."""

    def __init__(self, link: Callable[[int], None], namespace: Callable[[int], None], lost: Callable[[], None]) -> None:
        self._link = link
        self._namespace = namespace
        self._lost = lost
        self._socket = open_events(uapi.RTM_DELLINK, uapi.RTM_DELNSID)
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)

    def run(self) -> None:
        """Runs until `stop`, in a thread of its own."""
        with self._socket:
            while True:
                ready, _, _ = select.select([self._socket.fileno(), self._stop], [], [])
                if self._stop in ready:
                    os.close(self._stop)
                    return
                events = received(self._socket)
                if events is None:
                    log.warning("the kernel dropped link events; looking at every attachment")
                    self._lost()
                    continue
                for nsid, kind, number in events:
                    if nsid is not None:
                        self._namespace(nsid)
                    elif kind == uapi.RTM_DELLINK:
                        self._link(number)
                    else:
                        self._namespace(number)

    def stop(self) -> None:
        os.eventfd_write(self._stop, 1)


_NSID_OF_EVENT = (uapi.SOL_NETLINK, uapi.NETLINK_LISTEN_ALL_NSID)
"""Level and type of the control message that gives the nsid of an event from another namespace."""


def open_events(*kinds: int) -> socket.socket:
    """A socket that receives these events from now on, out of RTM_DELLINK and RTM_DELNSID, and no others.

    It also receives those of namespaces that this one knows by an nsid; without CAP_NET_BROADCAST only their end.
    """
    sock = open_socket()
    try:
        sock.setsockopt(socket.SOL_SOCKET, uapi.SO_RCVBUFFORCE, _BUFFER)
        _admit(sock, *kinds)
        with contextlib.suppress(PermissionError):
            sock.setsockopt(uapi.SOL_NETLINK, uapi.NETLINK_LISTEN_ALL_NSID, 1)
        sock.bind((0, sum(1 << _GROUPS[kind] - 1 for kind in kinds)))
    except BaseException:
        sock.close()
        raise
    return sock


def received(sock: socket.socket) -> list[tuple[int | None, int, int]] | None:
    """Wait for events. Returns for each the nsid (None: this namespace), the type and the number that `gone` gives.
    Returns None if the kernel dropped some."""
    try:
        data, ancillary, _, _ = sock.recvmsg(1 << 18, socket.CMSG_SPACE(4))
    except OSError as error:
        if error.errno == errno.ENOBUFS:
            return None
        raise
    elsewhere = [u32(value) for level, kind, value in ancillary if (level, kind) == _NSID_OF_EVENT]
    return [(elsewhere[0] if elsewhere else None, kind, number) for kind, number in gone(data)]


def gone(data: bytes) -> Iterator[tuple[int, int]]:
    """What is gone, as the events say: RTM_DELLINK with an index, RTM_DELNSID with an nsid."""
    for kind, _, _, body in split(data):
        # AF_UNSPEC only: a bridge reports with AF_BRIDGE that a port left it, and that link still exists
        if kind == uapi.RTM_DELLINK and body[0] == socket.AF_UNSPEC:
            yield kind, int(struct.unpack_from("=i", body, 4)[0])
        elif kind == uapi.RTM_DELNSID:
            yield kind, u32(attributes(body, 4)[uapi.NETNSA_NSID])


def _admit(sock: socket.socket, *kinds: int) -> None:
    """Have the kernel deliver these types alone (socket(7), SO_ATTACH_FILTER). Each ADD causes a dozen others."""
    # load the type, which is in host order where BPF reads network order; equal to one of ours: take it, else nothing
    program = [(0x28, 0, 0, 4)]
    program += [(0x15, len(kinds) - place, 0, socket.htons(kind)) for place, kind in enumerate(kinds)]
    program += [(0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF)]
    octets = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    sock.setsockopt(
        socket.SOL_SOCKET, uapi.SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(octets))
    )
