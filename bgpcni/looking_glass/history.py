"""What happened on the node, as far as the agent remembers it: read on from where it was read last."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from bgpcni.looking_glass.asking import Asker
from bgpcni.looking_glass.words import when

Document = dict[str, Any]
KEPT = 2000
CHANGES = 40
"""Changes of one session that are kept, whatever else happens."""
WIDTH = 720
"""Of the strip that shows how a session was."""


class History:
    """The newest events, and the newest of each session."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self._run, self._last = "", 0
        self._reading = asyncio.Lock()
        self.events: deque[Document] = deque(maxlen=KEPT)
        self.sessions: dict[tuple[str, str], deque[Document]] = defaultdict(lambda: deque(maxlen=CHANGES))

    async def read(self) -> bool:
        """Read what is new. Returns whether there was something. Raises NoAnswer."""
        async with self._reading:
            new = False
            while await self._read_on():
                new = True
            return new

    async def wait(self, seconds: float) -> None:
        """Wait until something is new, which is left to `read`. Raises NoAnswer."""
        await self._asker.at_once("events", after=self._last, run=self._run, wait=seconds)

    async def _read_on(self) -> bool:
        answer, _ = await self._asker.at_once("events", after=self._last, run=self._run)
        document = answer.document
        if "error" in document:
            return False
        if document["run"] != self._run:  # another agent: what the one before told still happened
            self._run = document["run"]
        self._last = document["last"]
        for event in document["events"]:
            self.events.append(event)
            if event["kind"] in ("session-up", "session-down"):
                self.sessions[event["exporter"] or "", event["peer"] or ""].append(event)
        return bool(document["events"])


class Span(NamedTuple):
    """A part of the strip. `tone`: `ok`, `bad`, or `quiet` for a time of which nothing is known."""

    x: int
    width: int
    tone: str


def strip(changes: Sequence[Document], state: str, now: datetime | None = None) -> list[Span]:
    """How a session was from the first change that is known until now, to scale."""
    now = now or datetime.now(UTC)
    known = [(moment, each["kind"] == "session-up") for each in changes if (moment := when(each["time"])) is not None]
    if not known or known[0][0] >= now:
        return [Span(0, WIDTH, "ok" if state == "Established" else "bad")]
    begin, whole = known[0][0], (now - known[0][0]).total_seconds()
    spans = []
    for (moment, up), after in zip(known, [*(moment for moment, _ in known[1:]), now], strict=True):
        x = round((moment - begin).total_seconds() / whole * WIDTH)
        end = round((after - begin).total_seconds() / whole * WIDTH)
        spans.append(Span(x, max(end - x, 2), "ok" if up else "bad"))
    return spans
