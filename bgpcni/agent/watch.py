"""What the agent checks all the time: each look repairs what it can, and reports what it cannot."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from bgpcni.errors import CniError
from bgpcni.events import Events, Kind

log = logging.getLogger(__name__)
SECONDS = 1.0

STORES = frozenset(["cluster-store", "kubernetes"])
"""Codes that say that the cluster's store is away."""

Look = Callable[[], str]
"""What is wrong, "" if nothing is."""


class Watch:
    """Looks once a second, with a few system calls. No event would report all of it."""

    def __init__(self, looks: Mapping[str, Look], amiss: dict[str, str], events: Events) -> None:
        """The keys of the first two are the codes of problems in `status`. `amiss` is kept up to date."""
        self._looks = looks
        self._amiss = amiss
        self._events = events
        self._stopped = threading.Event()

    def run(self) -> None:
        """Runs until `stop`."""
        while not self._stopped.wait(SECONDS):
            self.look()

    def stop(self) -> None:
        self._stopped.set()

    def look(self) -> None:
        """One round of looks. One that fails does not stop the others. Changes are events."""
        for code, look in self._looks.items():
            try:
                words = look()
            except CniError as error:
                words = error.msg
            except OSError as error:
                words = error.strerror or str(error)
            except Exception as error:
                if code not in self._amiss:
                    log.exception("looking after %s failed because of a defect", code)
                words = repr(error)
            before = self._amiss.get(code, "")
            if words and words != before:
                self._events.emit(Kind.STORE_AWAY if code in STORES else Kind.PROBLEM, detail=words)
            elif before and not words:
                self._events.emit(Kind.STORE_BACK if code in STORES else Kind.MENDED, detail=before)
            self._amiss.pop(code, None)
            if words:
                self._amiss[code] = words
