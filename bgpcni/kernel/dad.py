"""Waits for duplicate address detection (RFC 4862 section 5.4). The kernel's events end the wait; nothing is polled.

Only for interfaces that ask for it: addresses from a pool are unique and can be used at once.
"""

from __future__ import annotations

import errno
import select
import socket
import time
from collections.abc import Collection

from bgpcni.errors import DuplicateAddress, TryAgain
from bgpcni.kernel import addresses, uapi
from bgpcni.kernel.namespace import Namespace, inside
from bgpcni.kernel.netlink import open_socket

SECONDS = 10.0


class Detection:
    """Listens in the container's namespace. Make it before the addresses are added, so that it misses no result."""

    def __init__(self, space: Namespace) -> None:
        self._space = space
        with inside(space.fd):
            self._events = open_socket()
        self._events.bind((0, 1 << uapi.RTNLGRP_IPV6_IFADDR - 1))

    def __enter__(self) -> Detection:
        return self

    def __exit__(self, *_: object) -> None:
        self._events.close()

    def wait(self, index: int, wanted: Collection[str], seconds: float = SECONDS) -> None:
        """Wait until no address of `wanted` (`fd00::2/64`) on link `index` is tentative.

        Raises DuplicateAddress if another host has one of them, TryAgain after `seconds`.
        """
        deadline = time.monotonic() + seconds
        while True:
            flags = {item.address: item.flags for item in addresses.assigned(self._space.netlink, index)}
            for address in wanted:
                if flags.get(address, uapi.IFA_F_DADFAILED) & uapi.IFA_F_DADFAILED:
                    raise DuplicateAddress(f"{address.partition('/')[0]}: another host has it (duplicate detection)")
            pending = [address for address in wanted if flags[address] & uapi.IFA_F_TENTATIVE]
            if not pending:
                return
            left = deadline - time.monotonic()
            if left <= 0:
                raise TryAgain(f"{pending[0]} is still tentative after {seconds:g} s")
            if select.select([self._events], [], [], left)[0]:
                self._drain()

    def _drain(self) -> None:
        """Read all events that have come. Lost events (ENOBUFS) mean no more than that some came."""
        while True:
            try:
                self._events.recv(1 << 16, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
