"""Numbers of networks and VRFs while the ADD that is their first user may still fail: then they are free again.

A number is on disk from the moment it is given out, so nobody else gets it. It is taken back when the last ADD that
uses it failed, this node had not given it out before, and no record needs it: one that waits for its withdrawal does.
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
    """One node's. Calls without an agent tell each other, by a lock on a file, that they are at it."""

    def __init__(self, store: Store, *, resident: bool) -> None:
        self._store = store
        self._resident = resident
        self._lock = threading.Lock()
        self._users: Counter[str] = Counter()
        """ADDs under way, by the name whose number they use."""
        self._fresh: set[str] = set()
        """Names that got their number from one of these."""
        self._calls: int | None = None

    def of(self, name: str, undo: Undo) -> int:
        """The number of a network, or of `vrf NAME`, for an ADD that `undo` takes back. Raises CniError."""
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
                    self._store.drop_number(name)
            except CniError as error:  # it is one of 65,535
                log.warning("%s keeps its number: %s", name, error.msg)

    def _leave(self, name: str) -> int:
        """One ADD less; how many others use the number."""
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
        """In a call: show other calls that a number may be in use of which no record tells yet, until it ends."""
        if not self._resident and self._calls is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            try:
                self._calls = os.open("numbers.calls", flags, 0o600, dir_fd=self._store.data_fd)
            except OSError as error:
                raise IoFailure(f"{self._store.path / 'numbers.calls'}: {error.strerror}") from None
            fcntl.flock(self._calls, fcntl.LOCK_SH)

    def _alone(self) -> bool:
        """Whether no other call is at it; from then on they wait."""
        if self._calls is None:
            return True
        try:
            fcntl.flock(self._calls, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
