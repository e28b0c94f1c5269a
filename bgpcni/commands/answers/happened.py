"""`events`: what happened on this node."""

from __future__ import annotations

from bgpcni.commands import Document
from bgpcni.commands.answers.common import Resident

LONGEST_WAIT = 25.0
"""Seconds that a reader may wait for the next event in one request; it asks again after that."""
MOST = 1000
"""Events in one document."""


def events(
    agent: Resident, *, since: str | None, no_follow: bool, after: int, run: str | None, wait: float
) -> tuple[Document, int]:
    """What came after the event number `after` of this run of the agent, or of any, if that was another run.

    Without an event this waits for one, `wait` seconds at most. `missed`: how many the agent has dropped before the
    reader asked for them. `run` and `last` are to be given as `run` and `after` the next time.
    """
    kept = agent.node.events
    number = after if run in (None, "", kept.run) else 0
    seconds = 0.0 if no_follow else min(max(wait, 0.0), LONGEST_WAIT)
    batch = kept.read(number, seconds, MOST) if seconds else kept.after(number, MOST)
    return {
        "schema": 1,
        "run": kept.run,
        "last": batch.last,
        "missed": batch.missed,
        "events": [event.document for event in batch.events if not since or event.time >= since],
    }, 0
