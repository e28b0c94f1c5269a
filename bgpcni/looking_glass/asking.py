"""Asks the agent for documents. What several pages need is asked once, and never so often that the agent suffers."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from bgpcni.commands import client

Document = dict[str, Any]
AT_ONCE = 4
"""Questions that the agent gets at the same time."""
SECONDS = 30.0
KEPT = 128
SHORTEST, LONGEST, SHARE = 0.3, 30.0, 20
"""An answer that took T seconds is used again for SHARE times T, but for SHORTEST at least and LONGEST at most."""

Key = tuple[str, tuple[tuple[str, Any], ...]]


class NoAnswer(Exception):
    """The agent does not answer; the message says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`code`: the exit code that the command has."""

    document: Document
    code: int


class Asker:
    """The documents of the agent on this socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kept: OrderedDict[Key, tuple[Answer, float, float]] = OrderedDict()
        self._asked: dict[Key, asyncio.Task[Answer]] = {}
        self._limit = anyio.CapacityLimiter(AT_ONCE)
        self._waiting = anyio.CapacityLimiter(1)

    async def ask(self, command: str, **arguments: Any) -> Answer:
        """The answer to one command. Raises NoAnswer."""
        key = command, tuple(sorted((name, value) for name, value in arguments.items() if value is not None))
        if (kept := self._kept.get(key)) is not None and time.monotonic() < kept[1]:
            return kept[0]
        if (task := self._asked.get(key)) is None:
            task = self._asked[key] = asyncio.create_task(self._ask(key))
            task.add_done_callback(lambda done: self._asked.pop(key, None))
        return await asyncio.shield(task)

    async def _ask(self, key: Key) -> Answer:
        command, arguments = key
        answer, took = await self.at_once(command, **dict(arguments))
        until = time.monotonic() + min(max(SHARE * took, SHORTEST), LONGEST)
        self._kept[key] = answer, until, took
        self._kept.move_to_end(key)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return answer

    async def at_once(self, command: str, **arguments: Any) -> tuple[Answer, float]:
        """An answer that nobody had before, and how many seconds it took. Raises NoAnswer."""
        limit = self._waiting if arguments.get("wait") else self._limit
        return await anyio.to_thread.run_sync(
            self._in_a_thread, command, arguments, limiter=limit, abandon_on_cancel=True
        )

    def _in_a_thread(self, command: str, arguments: dict[str, Any]) -> tuple[Answer, float]:
        began = time.monotonic()
        try:
            document, code = client.ask(self.path, command, within=SECONDS, **arguments)
        except client.NoAgent as error:
            raise NoAnswer(str(error)) from None
        return Answer(document, code), time.monotonic() - began

    def forget(self) -> float:
        """Something has changed: ask anew for what costs the agent little. Returns for how many seconds the rest of
        the answers are still used."""
        now = time.monotonic()
        cheap = [key for key, (_, _, took) in self._kept.items() if SHARE * took <= SHORTEST]
        for key in cheap:
            del self._kept[key]
        return max((until - now for _, until, _ in self._kept.values()), default=0.0)
