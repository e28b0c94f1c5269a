"""Numbers of networks and VRFs while their first ADD may still fail; after a failure they are free again.

A number is written to disk when it is given out, so nobody else gets it. It is taken back when the last ADD that uses
it has failed, the number is new on this node, and no record needs it, not even one that waits for its withdrawal.
"""

from __future__ import annotations

import fcntl
import functools
import logging
import os
import threading
from collections import Counter

from bgpcni.errors import CniError, IoFailure
from bgpcni.numbers import vrf_name
from bgpcni.store import Store
from bgpcni.undo import Undo

log = logging.getLogger(__name__)


class NumbersInUse:
    """The numbers in use on one node. Calls without an agent show each other by a file lock that they use numbers."""

    def __init__(self, store: Store, *, resident: bool) -> None:
        self._store = store
        self._resident = resident
        self._lock = threading.Lock()
        self._users: Counter[str] = Counter()
        """How many running ADDs use the number of each name."""
        self._fresh: set[str] = set()
        """Names whose number was given out for one of these ADDs."""
        self._calls: int | None = None

    def of(self, name: str, undo: Undo) -> int:
        """The number of a network, or of `vrf NAME`, for an ADD; `undo` gives it back. Raises CniError."""
        with self._lock:
            self._enter()
            number = self._store.number_of(name, self._fresh.add)
            self._users[name] += 1
        undo.push(f"the number of {name}", functools.partial(self._drop, name), functools.partial(self._keep, name))
        return number

    def _keep(self, name: str) -> None:
        with self._lock:
            self._fresh.discard(name)
            self._leave(name)

    def _drop(self, name: str) -> None:
        with self._lock:
            if self._leave(name) or name not in self._fresh:
                return
            self._fresh.discard(name)
            try:
                if self._alone() and not self._is_recorded(name):
                    self._store.free_number(name)
            except CniError as error:  # one of 65,535 numbers is lost
                log.warning("%s keeps its number: %s", name, error.msg)

    def _leave(self, name: str) -> int:
        """One ADD less uses the number. Returns how many still do."""
        self._users[name] -= 1
        left = self._users[name]
        if not left:
            del self._users[name]
        return left

    def _is_recorded(self, name: str) -> bool:
        for stored in self._store.all():
            if stored.attachment is None or name in (stored.network, vrf_name(stored.attachment.bgp.vrf or "")):
                return True
        return False

    def _enter(self) -> None:
        """In a call without an agent: show others, until this call ends, that it may use a number that no record has
        yet."""
        if not self._resident and self._calls is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            try:
                self._calls = os.open("numbers.calls", flags, 0o600, dir_fd=self._store.data_fd)
            except OSError as error:
                raise IoFailure(f"{self._store.path / 'numbers.calls'}: {error.strerror}") from None
            fcntl.flock(self._calls, fcntl.LOCK_SH)

    def _alone(self) -> bool:
        """Whether no other call uses numbers now; if so, others wait from here on."""
        if self._calls is None:
            return True
        try:
            fcntl.flock(self._calls, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
