"""What a seed decides: which node calls what in which order, and after how many calls which fault comes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

FAULTS = ("leader", "member", "cut", "alone", "majority", "death")
"""The leader or any member of the store is killed, a member is cut off from all others, a node from the store, so many
members hang that none of them answers, a node dies for ever."""


@dataclass(frozen=True, slots=True)
class Fault:
    """`target`: which member or node, counted on from the first that can be meant."""

    kind: str
    target: int
    after: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Burst:
    """The slots whose container is made or ended, one right after the other, and how long the node is quiet then."""

    slots: Sequence[int]
    quiet: float


@dataclass(frozen=True, slots=True)
class Plan:
    """`bursts`: what each node does, in order."""

    bursts: Sequence[Sequence[Burst]]
    faults: Sequence[Fault]


def plan(seed: int, nodes: int, calls: int, slots: int, faults: int, longest: float) -> Plan:
    """So many calls over all nodes, and faults spread over them; at most a third of the nodes die."""
    chance = Random(seed)
    bursts = [_bursts(chance, calls // nodes, slots, longest / 2) for _ in range(nodes)]
    drawn = []
    deaths = nodes // 3
    for number in range(faults):
        kind = chance.choice(FAULTS)
        if kind == "death":
            kind, deaths = ("death", deaths - 1) if deaths else ("leader", 0)
        after = (number + 1) * calls // (faults + 1)
        drawn.append(Fault(kind, chance.randrange(1000), after, chance.uniform(1.0, longest)))
    return Plan(bursts, drawn)


def _bursts(chance: Random, count: int, slots: int, quiet: float) -> list[Burst]:
    """So many calls, in runs of neighbouring slots."""
    found: list[Burst] = []
    while count > 0:
        first, length = chance.randrange(slots), min(count, chance.randint(1, slots))
        found.append(Burst([(first + at) % slots for at in range(length)], chance.uniform(0.0, quiet)))
        count -= length
    return found
