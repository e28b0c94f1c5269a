"""The time that watches go by: the real one, faster if need be, or one that a test steps through by hand."""

from __future__ import annotations

import asyncio
from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Seconds."""
        ...

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        """Until `event` is set, `seconds` have passed, or for less: the caller looks again."""
        ...


class Real:
    """`pace`: so many times faster than the sun."""

    def __init__(self, pace: float = 1.0) -> None:
        self._pace = pace

    def now(self) -> float:
        return asyncio.get_running_loop().time() * self._pace

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        try:
            await asyncio.wait_for(event.wait(), max(0.0, seconds / self._pace))
        except TimeoutError:
            pass


class Stepped:
    """Time passes at `step` alone: then to the moment that somebody waits for first."""

    def __init__(self) -> None:
        self._now = 0.0
        self._waiting: list[tuple[float, asyncio.Event]] = []

    def now(self) -> float:
        return self._now

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        entry = (self._now + seconds, event)
        self._waiting.append(entry)
        try:
            await event.wait()
        finally:
            self._waiting.remove(entry)

    def step(self) -> None:
        if self._waiting:
            self._now, event = min(self._waiting, key=lambda entry: entry[0])
            event.set()
