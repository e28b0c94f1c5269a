"""How the suite controls the real speaker. The author of an exporter implements this class, once.

This module is about the speaker; `suite` says what the exporter must do with it.
"""

from __future__ import annotations

import abc
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import ParamSpec, TypeVar

from bgpcni.exporter import Exporter, Wake
from bgpcni.model import Announcement
from bgpcni.testing.patience import SCALE

Value = TypeVar("Value")
Arguments = ParamSpec("Arguments")
BOUND = 60.0 * SCALE
"""Within so many seconds everything that the suite waits for must happen."""


class Woken:
    """A `Wake` that counts its calls."""

    def __init__(self) -> None:
        self.progressed = self.emptied = 0

    def progress(self) -> None:
        self.progressed += 1

    def sessions(self) -> None:
        self.progressed += 1

    def empty(self) -> None:
        self.emptied += 1

    def speaker(self, running: bool, reason: str = "") -> None:
        pass


class Speaker(abc.ABC):
    """One running speaker without routes of ours. A fixture makes and ends it for each test.

    Methods that the speaker cannot support need not be overridden; name their situations in `without` of the suite.
    """

    @abc.abstractmethod
    def exporter(self, wake: Wake) -> Exporter:
        """A new instance of the exporter for this speaker, as after a restart of the agent."""

    @abc.abstractmethod
    def route(self, number: int, network: str = "net") -> Announcement:
        """Route number `number` (0 to 9,999): equal for equal arguments, with another NLRI for each number."""

    @abc.abstractmethod
    def table(self) -> set[str]:
        """The `key` of every announced route, ours and others', as seen at the speaker or, better, at its peer.

        This must not use the exporter. It may lag behind: the suite polls until the table is right.
        """

    def key(self, route: Announcement) -> str:
        """What stands for a route in `table`."""
        return str(route.nlri.prefix)

    def unwanted(self) -> Announcement | None:
        """A route that the exporter must refuse, alone of a batch; None if there is no such route."""
        return None

    def foreign(self) -> str | None:
        """Have someone else announce a route through this speaker, and return its key. None if nobody else can."""
        return None

    def empty(self) -> None:
        """Make the speaker lose its routes, by a restart or otherwise. It must run again when this returns."""
        raise NotImplementedError(f"{type(self).__name__} does not implement `empty`: see `without`")

    def stop(self) -> None:
        """Stop the speaker, so that it cannot be reached."""
        raise NotImplementedError(f"{type(self).__name__} cannot be down")

    def start(self) -> None:
        """Start it again after `stop`."""
        raise NotImplementedError(f"{type(self).__name__} cannot be down")

    def pause(self) -> None:
        """Make the speaker hang: it runs but does not answer."""
        raise NotImplementedError(f"{type(self).__name__} cannot hang")

    def resume(self) -> None:
        """Let the speaker continue after `pause`."""
        raise NotImplementedError(f"{type(self).__name__} cannot hang")

    def deaf(self) -> AbstractContextManager[None]:
        """Until the context ends, no peer acknowledges anything (packets are lost), while the sessions stay up."""
        raise NotImplementedError(f"{type(self).__name__} does not implement `deaf`: see `without`")

    def impostor(self, answer: bytes) -> AbstractContextManager[None]:
        """Until the context ends, whoever connects to the speaker's address is sent `answer` and disconnected."""
        raise NotImplementedError(f"{type(self).__name__} does not implement `impostor`: see `without`")

    def call(self, verb: Callable[Arguments, Value], /, *arguments: Arguments.args, **named: Arguments.kwargs) -> Value:
        """Call a method of the exporter where it has to run (a thread in a network namespace), always in the same
        thread."""
        return verb(*arguments, **named)


def until(predicate: Callable[[], bool], what: str) -> None:
    """Poll until `holds` returns true. Raises AssertionError after BOUND seconds."""
    end = time.monotonic() + BOUND
    while not predicate():
        if time.monotonic() > end:
            raise AssertionError(f"not within {BOUND:g} s: {what}")
        time.sleep(0.02)


def difference(speaker: Speaker, wanted: Sequence[str]) -> str:
    """Which routes the table lacks and which it should not have, as text."""
    there = speaker.table()
    missing, extra = sorted(set(wanted) - there), sorted(there - set(wanted))
    return f"missing: {missing[:5]} ({len(missing)}), not wanted: {extra[:5]} ({len(extra)})"
