"""An exporter whose speaker is a dictionary, for tests: it speaks the real contract and fails when told to.

Each call of a method takes the next of `mishaps`; when none is left, everything works.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal

from bgpcni.exporter import ATTRIBUTES, Exporter, NotThereYet, Outcome, Peer, Reach
from bgpcni.model import ROUTES, Announcement, Nlri, NodeFacts

FACTS = NodeFacts(run_dir="/nowhere", data_dir="/nowhere")

Mishap = Literal["fine", "away", "refuse one", "empty", "empty after", "half then crash", "hang", "short", "not yet"]
MISHAPS: tuple[Mishap, ...] = (
    "fine", "away", "refuse one", "empty", "empty after", "half then crash", "hang", "short", "not yet",
)  # fmt: skip


class Memory(Exporter):
    """`table`: what the speaker announces for us. `foreign`: what it announces for others."""

    families = ROUTES
    carries = ATTRIBUTES
    acks: Literal["accepted", "sent", "acked"] = "sent"

    class Config(Exporter.Config):
        url: str = ""

    def __init__(self, name: str = "memory", config: Any = None, node: NodeFacts = FACTS, wake: Any = None) -> None:
        super().__init__(name, config or self.Config(), node, wake)
        self.table: dict[Nlri, Announcement] = {}
        self.seen: list[tuple[str, list[Nlri]]] = []
        self.mishaps: list[Mishap] = []
        self.established = True
        self.last_error = ""
        self.pruned: list[set[str]] = []
        self.closed = threading.Event()
        self.drained = False
        self.during: Callable[[str], None] = lambda verb: None
        """Called in the middle of each verb, the speaker having done half of its work."""

    def _outcomes(
        self, verb: str, routes: Sequence[Announcement], act: Callable[[Announcement], None]
    ) -> list[Outcome]:
        self.seen.append((verb, [route.nlri for route in routes]))
        mishap = self.mishaps.pop(0) if self.mishaps else "fine"
        if mishap == "away":
            raise NotThereYet("the speaker is away")
        if mishap == "hang":
            self.closed.wait(0.002)  # a verb ends by its deadline, or when it is let go
            raise NotThereYet("no answer by the deadline")
        if mishap == "empty":
            self._restarted()
        reached = Outcome(Reach.SENT) if self.established else Outcome(Reach.WANTED, "no session")
        outcomes = []
        for index, route in enumerate(routes):
            if index == len(routes) // 2:
                self.during(verb)
                if mishap == "half then crash":
                    raise RuntimeError("a defect")
            if mishap == "refuse one" and index == 0 and verb == "announce":
                outcomes.append(Outcome(Reach.REFUSED, "no such community"))
                continue
            act(route)
            outcomes.append(Outcome(Reach.WANTED) if mishap == "not yet" else reached)
        if mishap == "empty after":
            self._restarted()
        if mishap == "not yet":
            self.wake.progress()
        return outcomes[:-1] if mishap == "short" else outcomes

    def _restarted(self) -> None:
        self.table.clear()
        self.wake.empty()

    def announce(self, routes: Sequence[Announcement], deadline: float) -> list[Outcome]:
        return self._outcomes("announce", routes, lambda route: self.table.update({route.nlri: route}))

    def withdraw(self, routes: Sequence[Announcement], deadline: float) -> list[Outcome]:
        return self._outcomes("withdraw", routes, lambda route: void(self.table.pop(route.nlri, None)))

    def prune(self, keep: Collection[Announcement], spare: Collection[str], deadline: float) -> None:
        if self.mishaps and self.mishaps.pop(0) in ("away", "hang", "half then crash"):
            raise NotThereYet("not pruned")
        kept = {route.nlri for route in keep}
        self.pruned.append(set(spare))
        for nlri in [n for n, route in self.table.items() if n not in kept and route.network not in spare]:
            del self.table[nlri]

    def progress(self, routes: Sequence[Announcement]) -> list[Outcome]:
        return [Outcome(Reach.SENT) if self.established else Outcome(Reach.WANTED, "no session")] * len(routes)

    def peers(self) -> list[Peer]:
        state = "Established" if self.established else "Active"
        return [Peer("192.0.2.1", 64512, state, "2026-01-31T12:00:00Z", ("ipv4-unicast",), len(self.table),
                     last_error=self.last_error)]  # fmt: skip

    def drain(self, deadline: float) -> None:
        self.drained = True

    def close(self) -> None:
        self.closed.set()


def void(_: object) -> None:
    """Does nothing and returns None, for lambdas."""
