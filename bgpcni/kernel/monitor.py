"""Tells when a link of the node's namespace is deleted: how we learn of a container that went without a DEL."""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import struct
from collections.abc import Callable

from bgpcni.kernel.netlink import HEADER, RTM_DELLINK, open_socket

log = logging.getLogger(__name__)
_RTMGRP_LINK = 1
_SO_RCVBUFFORCE = 33
_BUFFER = 8 << 20
"""Octets of events the kernel may hold for us: a burst of a thousand containers fits."""


class LinkMonitor:
    """Calls `gone(index)` for each deleted link, and `lost()` when the kernel dropped events (look at all then)."""

    def __init__(self, gone: Callable[[int], None], lost: Callable[[], None]) -> None:
        self._gone = gone
        self._lost = lost
        self._socket = open_socket()
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        self._socket.bind((0, _RTMGRP_LINK))
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)

    def run(self) -> None:
        """Until `stop`; for a thread of its own."""
        with self._socket:
            while True:
                ready, _, _ = select.select([self._socket.fileno(), self._stop], [], [])
                if self._stop in ready:
                    os.close(self._stop)
                    return
                try:
                    data = self._socket.recv(1 << 18)
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise
                    log.warning("the kernel dropped link events; looking at every attachment")
                    self._lost()
                    continue
                self._read(data)

    def _read(self, data: bytes) -> None:
        at = 0
        while at + 16 <= len(data):
            length, kind, *_ = HEADER.unpack_from(data, at)
            # AF_UNSPEC only: the bridge announces a port's departure with AF_BRIDGE, the link itself lives on
            if kind == RTM_DELLINK and data[at + 16] == 0:
                self._gone(int(struct.unpack_from("=i", data, at + 20)[0]))
            at += (length + 3) & ~3

    def stop(self) -> None:
        os.eventfd_write(self._stop, 1)
