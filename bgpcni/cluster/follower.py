"""Follows a source, such as a cluster's store: a copy of what it has, kept up to date by a list and then a watch.

Reads only. A source that is away changes nothing in the copy. What nobody can read hides nothing that was known before.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from bgpcni.cluster.pause import Pause
from bgpcni.cluster.store import Change, Key, Progress, Source, TooOld, Trouble

log = logging.getLogger(__name__)
PAUSE, LONGEST = 0.5, 10.0
"""Seconds after the first trouble, and at most."""
V = TypeVar("V")


class Follower(Generic[V]):
    """One source's copy. `run` is for a thread of its own; `changed` is told in it what may differ from before.

    Everything else may be read by any thread.
    """

    def __init__(
        self, source: Source[V], changed: Callable[[set[Key]], None], *, name: str, pause: Pause | None = None
    ) -> None:
        """`name`: what is followed, for the log."""
        self._source, self._changed, self._name = source, changed, name
        self._stopped = threading.Event()
        self._pause = pause or Pause(PAUSE, LONGEST)
        self._revision = ""
        self.items: Mapping[Key, V] = {}
        """Replaced by another mapping at each change, so that whoever reads it needs no lock."""
        self.broken: Mapping[Key, str] = {}
        self.synced = False
        """The copy is the source's, at least once."""
        self.failure: Exception | None = None
        """Why it may be behind the source, None while it follows."""

    @property
    def trouble(self) -> str:
        """The failure in words, "" while it follows."""
        return str(self.failure) if self.failure is not None else ""

    def run(self) -> None:
        """Follow until `stop`."""
        while not self._stopped.is_set():
            self.once()

    def stop(self) -> None:
        """A thread that waits for the source ends as well."""
        self._stopped.set()
        self._source.close()

    def once(self) -> None:
        """List if need be, then one watch to its end; where that fails, what is known stays, after a pause."""
        started = time.monotonic()
        told = False
        wait = 0.0
        try:
            if not self._revision:
                self._list()
            for event in self._source.watch(self._revision):
                self._follows()
                if isinstance(event, Change) or event.revision:
                    told = True
                    self._pause.over()
                    self._take(event)
                if self._stopped.is_set():
                    return
            if not told and time.monotonic() - started < 1.0:  # a server that ends each watch at once
                wait = self._pause.seconds()
        except TooOld as error:
            log.info("%s: revision %s is forgotten: everything is read anew", self._name, self._revision)
            self._revision = ""
            wait = self._pause.seconds(getattr(error, "after", 0.0)) if not told else 0.0
        except Trouble as trouble:
            self._fails(trouble, quiet=told)
            wait = self._pause.seconds(trouble.after)
        except Exception as error:  # whoever was told of the change failed: all is listed and told again
            log.exception("%s", self._name)
            self._revision, self.failure = "", Exception(repr(error))
            wait = self._pause.seconds()
        self._stopped.wait(wait)

    def _fails(self, trouble: Trouble, *, quiet: bool) -> None:
        if self.trouble != str(trouble) and not self._stopped.is_set():
            log.log(logging.INFO if quiet else logging.WARNING, "%s: %s", self._name, trouble)
        self.failure = trouble

    def _follows(self) -> None:
        if self.failure is not None:
            log.info("%s: followed again", self._name)
        self.failure = None

    def _list(self) -> None:
        listing = self._source.list()
        kept = {path: self.items[path] for path in listing.broken if path in self.items}
        before, self.items, self.broken = self.items, {**kept, **listing.items}, dict(listing.broken)
        first = not self.synced
        self._revision, self.synced = listing.revision, True
        self._follows()
        different = {path for path in before.keys() | self.items.keys() if before.get(path) != self.items.get(path)}
        if different or first:
            self._changed(different)

    def _take(self, event: Change[V] | Progress) -> None:
        """The copy is replaced, never changed: whoever reads it reads one state."""
        if isinstance(event, Change):
            items, broken = dict(self.items), dict(self.broken)
            broken.pop(event.path, None)
            if event.broken:
                broken[event.path] = event.broken
            elif event.item is None:
                items.pop(event.path, None)
            else:
                items[event.path] = event.item
            self.items, self.broken = items, broken
            self._changed({event.path})
        self._revision = event.revision
