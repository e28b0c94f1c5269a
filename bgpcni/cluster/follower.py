"""Follows a store: a picture of all its objects, kept up to date by a list and then a watch. Reads only.

A store that is away changes nothing in the picture. What nobody can read hides nothing that was known before.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from bgpcni.cluster.objects import Path
from bgpcni.cluster.pause import Pause
from bgpcni.cluster.store import Change, Kept, Listing, Store, TooOld, Trouble

log = logging.getLogger(__name__)
PAUSE, LONGEST = 0.5, 10.0
"""Seconds after the first trouble, and at most."""


class Follower:
    """One store's picture. `run` is for a thread of its own; `changed` is told in it what may differ from before."""

    def __init__(self, store: Store, changed: Callable[[set[Path]], None]) -> None:
        self._store, self._changed = store, changed
        self._stopped = threading.Event()
        self._pause = Pause(PAUSE, LONGEST)
        self._revision: str | None = None
        self.items: Mapping[Path, Kept] = {}
        """Replaced by another mapping at each change, so that whoever reads it needs no lock."""
        self.broken: Mapping[Path, str] = {}
        self.synced = False
        """The picture is the store's, at least once."""
        self.trouble = ""
        """Why the store is not followed now, "" if it is."""

    def run(self) -> None:
        while not self._stopped.is_set():
            try:
                if self._revision is None:
                    self._learn(self._store.list())
                    self._well()
                for change in self._store.watch(self._revision or ""):
                    self._well()
                    if change is not None:
                        self._take(change)
            except TooOld:
                log.info("the store has forgotten what came after revision %s: everything is read anew", self._revision)
                self._revision = None
                continue
            except Trouble as trouble:
                if not self.trouble and not self._stopped.is_set():
                    log.warning("the cluster's store is not followed: %s", trouble)
                self.trouble = str(trouble)
            except Exception as error:
                log.exception("following the cluster's store failed because of a defect")
                self.trouble, self._revision = repr(error), None
            self._stopped.wait(self._pause.seconds())

    def stop(self) -> None:
        self._stopped.set()
        self._store.close()

    def _well(self) -> None:
        if self.trouble:
            log.info("the cluster's store is followed again")
        self.trouble = ""
        self._pause.over()

    def _learn(self, listing: Listing) -> None:
        kept = {path: self.items[path] for path in listing.broken if path in self.items}
        before, self.items, self.broken = self.items, {**kept, **listing.items}, dict(listing.broken)
        self._revision, self.synced = listing.revision, True
        self._changed({path for path in before.keys() | self.items.keys() if before.get(path) != self.items.get(path)})

    def _take(self, change: Change) -> None:
        items, broken = dict(self.items), dict(self.broken)
        broken.pop(change.path, None)
        if change.broken:
            broken[change.path] = change.broken
        elif change.item is None:
            items.pop(change.path, None)
        else:
            items[change.path] = change.item
        self.items, self.broken, self._revision = items, broken, change.revision
        self._changed({change.path})
