"""Routes to prefixes: what a VRF and the node's own table have in common. Pure, but for the ways to next hops.

A next hop need not be on a link of this node: those of a route reflector's clients are not. The kernel is asked for the
way to each, and asked again from time to time. `guard` refuses routes to what is on this node.
"""

from __future__ import annotations

import abc
from collections import Counter
from collections.abc import Iterable, Sequence

from bgpcni.dataplane.guard import Guard
from bgpcni.dataplane.prefixes import Network
from bgpcni.dataplane.program import Key, Program, Via
from bgpcni.dataplane.rib import Destination, Rib, Table
from bgpcni.exporter import Learned
from bgpcni.model import Attachment


class Routed(abc.ABC):
    """`accept`: how many attachments have each prefix in `bgp.import`."""

    def __init__(self, name: str, rib: Rib, guard: Guard) -> None:
        self.name = name
        self.program = Program()
        self.accept: Counter[str] = Counter()
        self._rib = rib
        self._guard = guard
        self._ways: dict[str, Via | None] = {}

    @property
    def table(self) -> Table | None:
        return self._rib.tables.get(self.name)

    @abc.abstractmethod
    def subnets(self, attachment: Attachment) -> set[tuple[Network, str]]:
        """The networks of an attachment that are never learned, and why."""

    @abc.abstractmethod
    def find_way(self, hop: str) -> Via | None:
        """The way to a next hop now, None if it cannot be used."""

    @abc.abstractmethod
    def lead(self, prefix: str, used: Sequence[Learned]) -> None:
        """Want what these routes say about the prefix, all at once; none: want nothing there."""

    def shield(self, attachment: Attachment) -> list[Key]:
        """Refuse routes to the subnets of an attachment from now on. Returns the entries that have to be removed."""
        changed = self._guard.cover(attachment.key, self.subnets(attachment))
        if not changed or self.table is None:
            return []
        self._rib.judge_again(self.name, changed)
        touched = [Key("route", destination.value) for destination in self.table.changed]
        self.refresh()
        return [key for key in touched if key in self.program.present and key not in self.program.wanted]

    def refresh(self) -> None:
        """Want what follows from the routes that changed."""
        if self.table is not None and self.table.changed:
            changed, self.table.changed = self.table.changed, {}
            self._want(destination.value for destination in changed)

    def look(self) -> None:
        """Ask the kernel again for the ways to next hops."""
        known, self._ways = self._ways, {}
        hops = self.table.hops if self.table is not None else {}
        if any(self.way(hop) != via for hop, via in known.items() if hop in hops):
            self.again()
        self.refresh()

    def again(self) -> None:
        """Want everything once more, because a device has another index, or a way has changed."""
        if self.table is not None:
            self._want([destination.value for destination in self.table.candidates])

    def _want(self, prefixes: Iterable[str]) -> None:
        for prefix in prefixes:
            self.lead(prefix, self.table.used(Destination("prefix", prefix)) if self.table is not None else ())

    def way(self, hop: str) -> Via | None:
        if hop not in self._ways:
            self._ways[hop] = self.find_way(hop)
        return self._ways[hop]
