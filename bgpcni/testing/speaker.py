"""The real speaker as the suite sees it: what the author of an exporter writes once, beside the exporter.

Everything here is about the speaker; what the exporter must do with it is in `suite`.
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
"""Seconds within which anything that is to happen has happened."""


class Woken:
    """A `Wake` that counts."""

    def __init__(self) -> None:
        self.progressed = self.emptied = 0

    def progress(self) -> None:
        self.progressed += 1

    def sessions(self) -> None:
        self.progressed += 1

    def empty(self) -> None:
        self.emptied += 1


class Speaker(abc.ABC):
    """One speaker that runs, with nothing announced by us; a fixture of its own makes and ends it for each test.

    What it cannot do stays as it is here, and the suite is told so (`without`).
    """

    @abc.abstractmethod
    def exporter(self, wake: Wake) -> Exporter:
        """A new life of the exporter, towards this speaker."""

    @abc.abstractmethod
    def route(self, number: int, network: str = "net") -> Announcement:
        """The route of that number, from 0 to 9,999: equal for equal arguments, another NLRI for another number."""

    @abc.abstractmethod
    def table(self) -> set[str]:
        """What is announced, ours and others', seen at the speaker or, better, at its peer: a `key` for each.

        Read without the exporter. May lag behind: the suite looks until it is as it should be.
        """

    def key(self, route: Announcement) -> str:
        """How a route appears in `table`."""
        return str(route.nlri.prefix)

    def unwanted(self) -> Announcement | None:
        """A route that must be refused, all others being fine; None: there is no such thing."""
        return None

    def foreign(self) -> str | None:
        """Have somebody else announce a route through this speaker; its key. None: nobody else can."""
        return None

    def empty(self) -> None:
        """Make it lose what it was told, by a restart or otherwise; it is there again when this returns."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it comes to know nothing")

    def stop(self) -> None:
        """End it, so that it cannot be reached."""
        raise NotImplementedError(f"{type(self).__name__} cannot be down")

    def start(self) -> None:
        """Start it again after `stop`."""
        raise NotImplementedError(f"{type(self).__name__} cannot be down")

    def pause(self) -> None:
        """Make it hang: there, and silent."""
        raise NotImplementedError(f"{type(self).__name__} cannot hang")

    def resume(self) -> None:
        """Let it go on after `pause`."""
        raise NotImplementedError(f"{type(self).__name__} cannot hang")

    def deaf(self) -> AbstractContextManager[None]:
        """Its peers acknowledge nothing until the context ends, while their sessions stay up (packets are lost)."""
        raise NotImplementedError(f"{type(self).__name__} has no peer whose acknowledgements can be kept from it")

    def impostor(self, answer: bytes) -> AbstractContextManager[None]:
        """Whoever connects to where the speaker was is sent `answer` and cut off, until the context ends."""
        raise NotImplementedError(f"{type(self).__name__} speaks no protocol that garbage could come in")

    def call(self, verb: Callable[Arguments, Value], /, *arguments: Arguments.args, **named: Arguments.kwargs) -> Value:
        """Call a verb of the exporter where it has to run, always in the same thread."""
        return verb(*arguments, **named)


def until(predicate: Callable[[], bool], what: str) -> None:
    """Look until it is so. Raises AssertionError after a minute."""
    end = time.monotonic() + BOUND
    while not predicate():
        if time.monotonic() > end:
            raise AssertionError(f"not within {BOUND:g} s: {what}")
        time.sleep(0.02)


def difference(speaker: Speaker, wanted: Sequence[str]) -> str:
    """What is missing from the table, and what is too much, for people."""
    there = speaker.table()
    missing, extra = sorted(set(wanted) - there), sorted(there - set(wanted))
    return f"missing {missing[:5]} ({len(missing)}), too much {extra[:5]} ({len(extra)})"
