"""The checker of the storm: it is quiet about what is right, and finds each thing that must not be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from integration.storm.history import Call, Death, Ending, History, Outage, contradictions

FIRST, SECOND = "10.0.0.1", "10.0.0.65"


def add(node: str, container: str, begin: float, *ips: str, error: int | None = None) -> Call:
    return Call("ADD", node, container, begin, begin + 1, ips, error, "no room" if error else "")


def delete(node: str, container: str, begin: float) -> Call:
    return Call("DEL", node, container, begin, begin + 1)


def history() -> History:
    """Two nodes: an address that is used again after its DEL, a node that died, whose block another one has."""
    return History(
        calls=[
            add("n1", "a", 0, FIRST), delete("n1", "a", 10), add("n1", "b", 12, FIRST),
            add("n2", "c", 0, SECOND), add("n3", "d", 60, SECOND),
            add("n1", "late", 30, error=11), add("n4", "new", 5, error=11),
        ],
        deaths=[Death("n2", at=20, declared=25)],
        outages=[Outage("n1", 25, 40), Outage("n4", 0, 50)],
        ending=Ending(
            nodes={"n1": "198.18.1.2", "n3": "198.18.3.2", "n4": "198.18.4.2"},
            blocks={"10.0.0.0/26": "n1", "10.0.0.64/26": "n3"},
            leases={"n1": {FIRST: "b"}, "n3": {SECOND: "d"}},
            routes={FIRST: frozenset({"198.18.1.2"}), SECOND: frozenset({"198.18.3.2"})},
        ),
        room=1,
    )  # fmt: skip


def test_what_is_right_is_no_contradiction() -> None:
    """An address is given again after the DEL of its owner, or after its node's death; an ADD may fail while the store
    is away and no block has room, or no block was ever had."""
    assert contradictions(history()) == []


def _ending(**what: object) -> Callable[[History], History]:
    return lambda good: replace(good, ending=replace(good.ending, **what))  # type: ignore[arg-type]


def _calls(*more: Call, without: str = "") -> Callable[[History], History]:
    return lambda good: replace(good, calls=[*(c for c in good.calls if c.container != without), *more])


MUTANTS: dict[str, tuple[Callable[[History], History], str]] = {
    "twice on one node": (_calls(add("n1", "e", 20, FIRST)), "10.0.0.1 was b's on n1 and e's on n1 at 21"),
    "twice on two nodes": (_calls(add("n4", "e", 13, FIRST)), "10.0.0.1 was b's on n1 and e's on n4"),
    "twice before the DEL": (_calls(add("n4", "e", 5, FIRST), delete("n4", "e", 7)), "10.0.0.1 was a's on n1"),
    "twice before the death": (_calls(add("n3", "e", 3, SECOND)), "10.0.0.65 was c's on n2"),
    "in another spelling": (
        _calls(add("n1", "e", 0, "2001:db8::1"), add("n3", "f", 1, "2001:DB8:0::1")), "2001:db8::1 was e's",
    ),
    "failed without an outage": (lambda h: replace(h, outages=h.outages[1:]), "the store could be asked"),
    "failed although there was room": (lambda h: replace(h, room=2), "1 of 2 addresses of a block"),
    "a block of a dead node": (_ending(blocks={"10.0.0.0/26": "n1", "10.0.0.64/26": "n2"}), "n2's, which is no node"),
    "blocks that overlap": (
        _ending(blocks={"10.0.0.0/26": "n1", "10.0.0.64/26": "n3", "10.0.0.0/24": "n4"}), "overlap",
    ),
    "a lease outside of all blocks": (_ending(blocks={"10.0.0.64/26": "n3"}), "no block of it has that address"),
    "a lease that was left": (
        _ending(leases={"n1": {FIRST: "b", "10.0.0.2": "z"}, "n3": {SECOND: "d"}}), "10.0.0.2 for z, which has ended",
    ),
    "a lease of somebody else": (_ending(leases={"n1": {FIRST: "x"}, "n3": {SECOND: "d"}}), "for x, and it is b's"),
    "a lease that was lost": (_ending(leases={"n3": {SECOND: "d"}}), "of which no lease is left"),
    "a route that was lost": (
        _ending(routes={SECOND: frozenset({"198.18.3.2"})}), "10.0.0.1 of b on n1 is routed to nobody",
    ),
    "a route to another node": (
        _ending(routes={FIRST: frozenset({"198.18.3.2"}), SECOND: frozenset({"198.18.3.2"})}), "routed to 198.18.3.2",
    ),
    "a route that was left": (
        lambda h: _ending(routes={**h.ending.routes, "10.0.0.9": frozenset({"198.18.1.2"})})(h),
        "no container has it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_what_must_not_be_is_found(name: str) -> None:
    """One thing is wrong, and it is said."""
    change, said = MUTANTS[name]
    found = contradictions(change(history()))
    assert any(said in text for text in found), found


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=40), st.randoms())
def test_a_store_that_gives_each_address_once_is_never_accused(steps: list[tuple[int, int]], chance: object) -> None:
    """Whatever the order: containers that get the lowest free address, and free it with their DEL, do not collide."""
    used: dict[str, str] = {}
    calls, at = [], 0.0
    for node, number in steps:
        container, at = f"c{node}-{number}", at + 2
        if container in used.values():
            calls.append(delete(f"n{node}", container, at))
            used = {ip: owner for ip, owner in used.items() if owner != container}
        else:
            ip = next(f"10.0.0.{i}" for i in range(1, 250) if f"10.0.0.{i}" not in used)
            used[ip] = container
            calls.append(add(f"n{node}", container, at, ip))
    assert contradictions(History(calls)) == []
