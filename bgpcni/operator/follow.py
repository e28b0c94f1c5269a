"""Follows the agent's events over its socket, through restarts of the agent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bgpcni.commands import Document, client

WAIT_SECONDS = 20.0
"""How long the agent waits for an event before it answers that there is none."""
PAUSE_SECONDS = 1.0
"""Between two tries while no agent answers."""


def batches(
    path: Path,
    lost: Callable[[str], None] = lambda reason: None,
    *,
    since: str | None = None,
    follow: bool = True,
    after: int = 0,
    run: str = "",
) -> Iterator[Document]:
    """The documents of `events`, one after the other. Raises NoAgent if none answers at first.

    Later on an agent that goes away is waited for; `lost` is called with the reason, once each time. A document with
    `error` is the last. `follow` False: only what the agent remembers. `after`, `run`: where an earlier reader was.
    """
    asked: dict[str, Any] = {"since": since, "no_follow": not follow, "after": after, "run": run, "wait": WAIT_SECONDS}
    answered = there = False
    while True:
        try:
            document, _ = client.ask(path, "events", **asked)
        except client.NoAgent as error:
            if not answered:
                raise
            if there:
                lost(str(error))
            there = False
            time.sleep(PAUSE_SECONDS)
            continue
        yield document
        position = {"after": document.get("last"), "run": document.get("run")}
        if "error" in document or (not follow and position.items() <= asked.items()):
            return
        answered = there = True
        asked |= position
