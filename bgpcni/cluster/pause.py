"""How long a client waits after failures, so that the nodes of a cluster do not all come back at once."""

from __future__ import annotations

import random

chance = random.SystemRandom()
"""Spreads load: no two nodes have the same."""

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0


class Pause:
    """How long to wait after failures in a row: twice as long each time, each time between half of it and all."""

    def __init__(self, first: float = FIRST_PAUSE, longest: float = LONGEST_PAUSE) -> None:
        self._first, self._longest, self._next = first, longest, first

    def over(self) -> None:
        """It works again."""
        self._next = self._first

    def seconds(self, at_least: float = 0.0) -> float:
        pause, self._next = self._next, min(2 * self._next, self._longest)
        return max(at_least, pause * chance.uniform(0.5, 1.0))
