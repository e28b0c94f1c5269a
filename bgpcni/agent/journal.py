"""Writes the node's events into the log, in a thread of its own, so that nobody who emits waits for stderr."""

from __future__ import annotations

import logging
import threading
from collections import Counter

from bgpcni.events import Batch, Events, Kind

log = logging.getLogger("bgpcni.events")
GATHER_SECONDS = 0.1
"""How long a burst gathers, so that it costs the calls that run meanwhile little."""
IDLE_SECONDS = 3600.0
MOST = 100
"""Lines for each kind and exporter in one burst. The others are counted, and the count is logged."""


class Journal:
    """`run` in a thread; it ends after the events are closed and all of them are written."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._pause = threading.Event()  # nobody sets it: it is a time to wait

    def run(self) -> None:
        last, going_on = 0, True
        while going_on:
            self._events.wait(last, IDLE_SECONDS, 0)
            if not self._events.closed:
                self._pause.wait(GATHER_SECONDS)
            going_on = not self._events.closed  # looked at first: what came before the end is in the batch
            batch = self._events.after(last)
            write(batch)
            last = batch.last


def write(batch: Batch) -> None:
    """One line for each event, with its fields; of a burst the first of each kind, and how many more there are."""
    if batch.missed:
        log.warning("%d events came too fast to be logged", batch.missed)
    seen: Counter[tuple[Kind, str]] = Counter()
    for event in batch.events:
        seen[event.kind, event.exporter] += 1
        if seen[event.kind, event.exporter] <= MOST:
            log.log(logging.WARNING if event.warns else logging.INFO, "%s", event.text, extra=event.fields)
    for (kind, exporter), count in seen.items():
        if count > MOST:
            fields = {"kind": kind.value, "count": count - MOST, "exporter": exporter}
            log.info("%d more events %s of %s", count - MOST, kind, exporter or "this node", extra=fields)
