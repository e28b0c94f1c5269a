"""What the files of some folders say, kept in memory and never older than the files: only those are read again that
were changed since the last look, whichever process changed them.

Only an agent keeps its records so. A command then reads no file for each attachment of the node.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any, Generic, Protocol, TypeVar

T = TypeVar("T")


class Changes(Protocol):
    """`kernel.inotify.Watch`."""

    def changed(self) -> set[str] | None:
        """The names that were changed since the last call; None if any may have been."""
        ...

    def close(self) -> None: ...


class Known(Generic[T]):
    """The files by their names. Safe for threads.

    `names`: lists the folders. `read`: one file, None if there is none of this name. `order`: sorts what was read.
    """

    def __init__(
        self,
        changes: Changes,
        names: Callable[[], Iterable[str]],
        read: Callable[[str], T | None],
        order: Callable[[tuple[str, T]], Any],
    ) -> None:
        self._changes = changes
        self._names = names
        self._read = read
        self._order = order
        self._lock = threading.Lock()
        self._all: dict[str, T] = {}
        self._stale: set[str] = set()
        """Names that were changed since their files were read."""
        self._anything = True
        """Any file may have been changed, and any may be new."""

    def listen(self) -> None:
        """Take the changes off the kernel's queue, so that it does not overflow while nobody asks."""
        with self._lock:
            self._listen()

    def all(self) -> dict[str, T]:
        """Every file as it is now, in order. The dictionary belongs to all callers: nobody changes it."""
        with self._lock:
            self._listen()  # before the files are read: what is changed meanwhile is read at the next look
            if self._anything:
                before, stale = dict[str, T](), set(self._names())
            elif self._stale:
                before, stale = self._all, self._stale
            else:
                return self._all
            fresh = {name: found for name in stale if (found := self._read(name)) is not None}
            kept = {name: found for name, found in before.items() if name not in stale}
            self._all = dict(sorted((kept | fresh).items(), key=self._order))
            self._anything, self._stale = False, set()
            return self._all

    def close(self) -> None:
        self._changes.close()

    def _listen(self) -> None:
        changed = self._changes.changed()
        if changed is None:
            self._anything = True
        else:
            self._stale |= changed
