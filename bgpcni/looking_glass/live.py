"""Tells browsers that something on the node has changed, so that they read their page again (server-sent events)."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import suppress

from bgpcni.looking_glass.asking import Asker, NoAnswer
from bgpcni.looking_glass.history import History

log = logging.getLogger(__name__)
MOST = 50
"""Browsers that are told."""
GATHER_SECONDS = 0.5
"""Changes within this time are one."""
WAIT_SECONDS = 20.0
"""How long the agent is asked to wait for an event."""
LOOK_SECONDS = 3.0
"""Between two looks at what is wrong: much of that is no event, such as a firewall that somebody changed."""
BEAT_SECONDS = 15.0
LONGEST_SECONDS = 3600.0
"""After this time a browser has to come again."""


class Live:
    """While somebody listens, the agent is asked what has happened; while nobody does, it is left alone."""

    def __init__(self, asker: Asker, history: History) -> None:
        self._asker = asker
        self._history = history
        self._listeners: set[asyncio.Event] = set()
        self._somebody = asyncio.Event()
        self._number = 0

    @property
    def full(self) -> bool:
        return len(self._listeners) >= MOST

    async def run(self) -> None:
        """Until it is cancelled."""
        await asyncio.gather(self._follow(), self._look())

    async def stream(self) -> AsyncIterator[bytes]:
        """What one browser is sent. It ends when the browser goes away."""
        mine = asyncio.Event()
        self._listeners.add(mine)
        self._somebody.set()
        end = time.monotonic() + LONGEST_SECONDS
        try:
            yield b"retry: 2000\n\n"
            while time.monotonic() < end:
                with suppress(TimeoutError):
                    async with asyncio.timeout(BEAT_SECONDS):
                        await mine.wait()
                if mine.is_set():
                    mine.clear()
                    yield f"event: change\ndata: {json.dumps({'number': self._number})}\n\n".encode()
                    await asyncio.sleep(GATHER_SECONDS)
                else:
                    yield b": still here\n\n"
        finally:
            self._listeners.discard(mine)
            if not self._listeners:
                self._somebody.clear()

    async def _follow(self) -> None:
        """Events, as they happen."""
        answered = True
        while True:
            await self._somebody.wait()
            try:
                await self._history.wait(WAIT_SECONDS)
                new = await self._history.read()
            except NoAnswer:
                new, was = answered, answered
                answered = False
                await asyncio.sleep(LOOK_SECONDS if not was else 0)
            else:
                new, answered = new or not answered, True
            if new:
                self._tell()

    async def _look(self) -> None:
        """What is wrong, and how the nodes of the cluster stand, from time to time."""
        before: object = None
        while True:
            await self._somebody.wait()
            took = 0.0
            try:
                status, took = await self._asker.at_once("status")
                nodes, more = await self._asker.at_once("nodes")
                took += more
                now: object = (
                    status.document.get("problems"),
                    [(node["name"], node["sessions"], node["blocks"]) for node in nodes.document.get("nodes", ())],
                )
            except NoAnswer:
                now = None
            if now != before:
                self._tell()
            before = now
            await asyncio.sleep(max(LOOK_SECONDS, 20 * took))

    def _tell(self) -> None:
        self._number += 1
        again = self._asker.forget()
        for listener in self._listeners:
            listener.set()
        if again:  # what they read now may be older than the change
            asyncio.get_running_loop().call_later(again, self._again)

    def _again(self) -> None:
        for listener in self._listeners:
            listener.set()
