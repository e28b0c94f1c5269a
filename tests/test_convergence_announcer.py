"""The announcer: whatever its exporter does, the speaker finally announces exactly the wanted routes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgpcni.convergence import announcer as module
from bgpcni.convergence.announcer import Announcer, Book
from bgpcni.convergence.ledger import Announced
from bgpcni.exporter import NotThereYet, Outcome, Reach
from bgpcni.model import Announcement, AttachmentKey, Nlri, UnicastNlri
from bgpcni.testing.memory import MISHAPS, Memory, Mishap
from bgpcni.testing.patience import SECONDS


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-off and the slow look in milliseconds."""
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.0002)
    monkeypatch.setattr(module, "LONGEST_PAUSE", 0.001)
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.005)


def owner(name: str) -> AttachmentKey:
    return AttachmentKey("net", name, "eth0")


def route(number: int, next_hop: str = "192.0.2.1", network: str = "net") -> Announcement:
    return Announcement(UnicastNlri.of(f"10.0.0.{number}/32"), network, next_hop)


A, B = owner("a"), owner("b")


class Driven:
    """An announcer with its thread and an exporter in memory."""

    def __init__(self, spare: tuple[str, ...] = (), kind: type[Memory] = Memory, **facts: object) -> None:
        self.freed: list[AttachmentKey] = []
        self.timed: list[Announced] = []
        self.book = Book()
        self.exporter = kind(wake=self.book)
        for name, value in facts.items():
            setattr(self.exporter, name, value)
        self.announcer = Announcer(
            "memory", self.exporter, self.book, self.freed.extend, lambda: spare,
            lambda route, reached: self.timed.append(route),
        )  # fmt: skip

    def __enter__(self) -> Driven:
        self.announcer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.announcer.stop()

    def quiet(self) -> None:
        assert self.announcer.wait_quiet(deadline())


def deadline() -> float:
    return time.monotonic() + SECONDS


def until(seen: Callable[[], bool]) -> None:
    end, pause = deadline(), threading.Event()
    while not seen():
        assert time.monotonic() < end
        pause.wait(0.002)


@pytest.fixture
def driven() -> Iterator[Driven]:
    with Driven() as driven:
        yield driven


def test_routes_are_announced_and_withdrawn(driven: Driven) -> None:
    """ADD and DEL, with what `routes` says in between."""
    driven.announcer.want(A, [route(1)])
    assert driven.announcer.wait_announced(A, Reach.SENT, deadline()) == ""
    assert driven.exporter.table == {route(1).nlri: route(1)}
    (state,) = driven.announcer.route_states(A).values()
    assert (state.state, state.reason) == ("announced", "")
    assert not driven.announcer.leave(A, [route(1)])
    assert driven.announcer.wait_sent(A, deadline())
    assert driven.exporter.table == {}
    assert not driven.announcer.is_leaving(A)
    until(lambda: driven.freed == [A])


def test_each_route_is_timed_once(driven: Driven) -> None:
    """The time from first wanting a route until it is announced is reported once: not for replays, second owners or
    refusals."""
    driven.exporter.mishaps = ["away", "refuse one"]
    driven.announcer.want(A, [route(1), route(2)])
    driven.quiet()
    until(lambda: len(driven.timed) == 1)
    driven.announcer.want(B, [route(1), route(2)])
    driven.book.empty()
    driven.quiet()
    until(lambda: len(driven.timed) == 2)
    driven.book.empty()
    driven.quiet()
    assert len(driven.timed) == 2
    assert [(each.route.nlri, each.owners) for each in driven.timed] == [
        (route(2).nlri, (A,)), (route(1).nlri, (A, B)),
    ]  # fmt: skip
    assert all(0 < time.monotonic() - each.asked < SECONDS for each in driven.timed)


def test_what_an_earlier_life_wanted_is_not_timed() -> None:
    """The agent was started again: its routes were announced long ago."""
    driven = Driven()
    driven.announcer.want(A, [route(1)])
    with driven:
        driven.announcer.want(B, [route(2)])
        driven.quiet()
    assert len(driven.timed) == 1


def test_the_first_thing_after_the_routes_is_the_prune() -> None:
    """Routes of an earlier run that nobody wants are pruned, except those of a network with an unreadable record."""
    old, unreadable = route(9), route(8, network="broken")
    table = {old.nlri: old, unreadable.nlri: unreadable}
    driven = Driven(spare=("broken",), table=table)
    driven.announcer.want(A, [route(1)])
    with driven:
        driven.quiet()
        until(lambda: old.nlri not in driven.exporter.table)
    assert set(driven.exporter.table) == {route(1).nlri, unreadable.nlri}
    assert driven.exporter.pruned == [{"broken"}]


def test_a_prune_that_failed_is_done_again() -> None:
    """`prune` is called even if there is no route to announce."""
    driven = Driven(table={route(9).nlri: route(9)}, mishaps=["away", "hang", "fine"])
    with driven:
        until(lambda: not driven.exporter.table)
        until(lambda: driven.announcer.state().state == "ok")


def test_a_speaker_that_is_away_is_late_and_then_ok() -> None:
    """`status` says why the exporter is late, and since when. A DEL does not wait for a confirmation that cannot
    come."""
    driven = Driven(mishaps=["away"] * 100000)
    driven.announcer.want(A, [route(1)])
    with driven:
        until(lambda: driven.announcer.state().state == "late")
        assert driven.announcer.state().reason == "the speaker is away"
        assert driven.announcer.wait_announced(A, Reach.SENT, 0) == "the speaker is away"
        driven.announcer.leave(A, [route(1)])
        assert not driven.announcer.wait_sent(A, deadline())
        assert driven.announcer.counts() == {"withdrawing": 1}
        driven.exporter.mishaps.clear()
        driven.announcer.retry()
        driven.quiet()
        until(lambda: driven.announcer.state().state == "ok")
        until(lambda: driven.freed == [A])


class Acking(Memory):
    """`peers`: how far each of its peers got of everything, and why no further."""

    acks = "acked"

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.peers_at = Outcome(Reach.SENT)

    def progress(self, routes: Sequence[Announcement]) -> list[Outcome]:
        return [self.peers_at] * len(routes)


@pytest.fixture
def acking() -> Iterator[Driven]:
    with Driven(kind=Acking) as driven:
        driven.announcer.want(A, [route(1)])
        driven.quiet()
        yield driven


def test_a_withdrawal_that_is_in_the_sockets_is_sent_and_not_confirmed(acking: Driven) -> None:
    """DEL may answer; the address stays held until the peers' TCP acknowledged the withdrawal."""
    acking.announcer.leave(A, [route(1)])
    assert acking.announcer.wait_sent(A, deadline())
    assert acking.exporter.table == {}
    assert acking.announcer.is_leaving(A)
    assert not acking.announcer.is_vain(A)  # an acknowledgement may come at any moment
    assert not acking.announcer.wait_quiet(0)
    acking.book.sessions()  # asked again how far everything is: no further
    assert acking.announcer.counts() == {"withdrawing": 1}
    (state,) = acking.announcer.route_states(A).values()
    assert (state.state, state.reason) == ("withdrawing", "sent; not every peer has acknowledged it yet")
    assert acking.freed == []
    acking.exporter.peers_at = Outcome(Reach.ACKED)
    acking.book.progress()
    until(lambda: acking.freed == [A])
    acking.quiet()
    assert not acking.announcer.is_leaving(A)


def test_one_peer_that_is_down_holds_the_address_and_not_the_answer(acking: Driven) -> None:
    """The peers that are up have the withdrawal in their sockets; one that is down may hold the route."""
    acking.exporter.peers_at = Outcome(Reach.SENT, "no session: 192.0.2.2 is Idle; it may hold the route for 90 s")
    acking.announcer.leave(A, [route(1)])
    assert acking.announcer.wait_sent(A, deadline())
    until(lambda: acking.announcer.is_vain(A))
    (state,) = acking.announcer.route_states(A).values()
    assert (state.state, "192.0.2.2" in state.reason) == ("withdrawing", True)
    assert acking.announcer.is_leaving(A)
    assert acking.freed == []


def test_one_refused_route_fails_alone() -> None:
    """A refused route has its reason, and the other routes are announced."""
    driven = Driven(mishaps=["refuse one"])
    driven.announcer.want(A, [route(1), route(2)])
    with driven:
        driven.quiet()
        states = driven.announcer.route_states(A)
        assert states[route(1).nlri].state == "refused"
        assert states[route(1).nlri].reason == "no such community"
        assert states[route(2).nlri].state == "announced"
        assert driven.announcer.counts() == {"refused": 1, "announced": 1}


def test_a_withdrawal_that_was_confirmed_is_not_lost_when_the_next_call_fails() -> None:
    """A held address is given back although the speaker went away right after the withdrawal."""
    driven = Driven()
    driven.announcer.leave(A, [route(1)])
    driven.announcer.want(B, [route(2)])
    driven.exporter.mishaps = ["fine", "away"]
    with driven:
        driven.quiet()
        until(lambda: driven.freed == [A])


def test_a_speaker_that_dies_in_the_middle_of_a_call_is_told_again() -> None:
    """The speaker accepted a route and then lost it, before the answer was noted: the route is given again."""
    driven = Driven(mishaps=["empty after"])
    driven.announcer.want(A, [route(1)])
    with driven:
        driven.quiet()
        assert driven.exporter.table == {route(1).nlri: route(1)}


def test_a_route_whose_session_fell_is_not_called_announced(driven: Driven) -> None:
    """`routes` says why; when the session is back it says "announced" again."""
    driven.announcer.want(A, [route(1)])
    driven.quiet()
    driven.exporter.established = False
    driven.book.sessions()
    until(lambda: driven.announcer.counts() == {"wanted": 1})
    (state,) = driven.announcer.route_states(A).values()
    assert (state.state, state.reason) == ("wanted", "no session")
    driven.exporter.established = True
    driven.book.progress()
    driven.quiet()
    assert driven.announcer.counts() == {"announced": 1}


def test_what_only_time_decides_is_looked_at_without_being_told(driven: Driven) -> None:
    """A withdrawal is confirmed when the last session was down for long enough: no event says so."""
    driven.exporter.established = False
    driven.announcer.want(A, [route(1)])
    until(lambda: driven.announcer.wait_announced(A, Reach.SENT, 0) == "no session")
    driven.exporter.established = True  # and nobody calls progress()
    driven.quiet()


def test_waiting_for_an_acknowledgement_is_bounded_by_what_the_exporter_can_tell(driven: Driven) -> None:
    """`bgp.wait: acked` with an exporter that knows of "sent" only."""
    driven.announcer.want(A, [route(1)])
    assert driven.announcer.wait_announced(A, Reach.ACKED, deadline()) == ""


def test_acknowledgements_are_asked_for_when_somebody_waits() -> None:
    """Sent is settled; acked is looked at on demand."""

    class Acking(Memory):
        acks = "acked"
        reach = Reach.SENT

        def progress(self, routes: list[Announcement]) -> list[Outcome]:  # type: ignore[override]
            return [Outcome(self.reach)] * len(routes)

    book = Book()
    exporter = Acking(wake=book)
    found = Announcer("memory", exporter, book)
    found.start()
    try:
        found.want(A, [route(1)])
        assert found.wait_quiet(deadline())
        assert found.wait_announced(A, Reach.ACKED, 0) == "not acknowledged yet"
        exporter.reach = Reach.ACKED
        assert found.wait_announced(A, Reach.ACKED, deadline()) == ""
    finally:
        found.stop()


def test_drain_withdraws_and_ends_the_speaker(driven: Driven) -> None:
    """`bgpcni drain`: everything is withdrawn, then the exporter may end its speaker and is not called again."""
    driven.announcer.want(A, [route(1)])
    driven.quiet()
    driven.announcer.leave(A, [route(1)])
    driven.quiet()
    driven.announcer.drain(deadline())
    assert driven.exporter.drained
    assert driven.exporter.table == {}


@pytest.mark.parametrize("untouched", [False, True])
def test_a_del_while_the_first_announcement_is_under_way(untouched: bool) -> None:
    """A hand-over to another exporter: what the speaker is being given is withdrawn, or was certainly not given."""

    class Slow(Memory):
        def announce(self, routes: Sequence[Announcement], deadline: float) -> list[Outcome]:
            self.asked.set()
            assert self.go_on.wait(SECONDS)
            if untouched:
                raise NotThereYet("away", untouched=True)
            return super().announce(routes, deadline)

    with Driven(kind=Slow, asked=threading.Event(), go_on=threading.Event()) as driven:
        driven.announcer.want(A, [route(1)], fresh=True)
        assert driven.exporter.asked.wait(SECONDS)  # type: ignore[attr-defined]
        assert not driven.announcer.leave(A, [route(1)])
        driven.exporter.go_on.set()  # type: ignore[attr-defined]
        until(lambda: driven.freed == [A])
        driven.quiet()
        assert driven.exporter.table == {}


def test_a_withdrawal_that_the_speaker_was_not_given_is_asked_again() -> None:
    """If the speaker certainly got nothing, an announcement needs no withdrawal, and a withdrawn route is still
    there."""

    class Away(Memory):
        def withdraw(self, routes: Sequence[Announcement], deadline: float) -> list[Outcome]:
            if self.refusals:
                self.refusals.pop()
                raise NotThereYet("away", untouched=True)
            return super().withdraw(routes, deadline)

    with Driven(kind=Away, refusals=[1, 2]) as driven:
        driven.announcer.want(A, [route(1)], fresh=True)
        driven.quiet()
        assert not driven.announcer.leave(A, [route(1)])
        until(lambda: driven.freed == [A])
        assert driven.exporter.table == {}
        assert not driven.exporter.refusals  # type: ignore[attr-defined]


def test_stop_leaves_the_routes_in_place(driven: Driven) -> None:
    """The agent's end is no event to any peer."""
    driven.announcer.want(A, [route(1)])
    driven.quiet()
    driven.announcer.stop()
    assert driven.exporter.closed.is_set()
    assert driven.exporter.table == {route(1).nlri: route(1)}


class TestWithinACall:
    """In a call without an agent the caller drives the exporter, once."""

    def test_announced_when_it_returns(self) -> None:
        driven = Driven()
        driven.announcer.want(A, [route(1)])
        driven.announcer.drive_now()
        assert driven.exporter.table == {route(1).nlri: route(1)}
        assert driven.exporter.pruned == []  # one call does not know what others announced

    @pytest.mark.parametrize("mishap", ["away", "half then crash", "short"])
    def test_an_exporter_that_does_not_answer_is_one_error(self, mishap: Mishap) -> None:
        """Whatever is wrong with it: the caller tries again later, and a DEL is not hurt."""
        driven = Driven(mishaps=[mishap])
        driven.announcer.want(A, [route(1)])
        with pytest.raises(NotThereYet):
            driven.announcer.drive_now()
        with pytest.raises(NotThereYet):  # a call waits once for a speaker that is not there
            driven.announcer.drive_now()
        driven.announcer.retry()
        driven.announcer.drive_now()
        assert driven.exporter.table == {route(1).nlri: route(1)}


WISH = st.tuples(
    st.sampled_from(["want", "leave"]),
    st.sampled_from([owner(name) for name in "abcd"]),
    st.lists(st.builds(route, st.integers(1, 6), st.sampled_from(["192.0.2.1", "192.0.2.2"])), max_size=3),
)


@settings(max_examples=60, deadline=None)
@given(
    wishes=st.lists(WISH, max_size=12),
    mishaps=st.lists(st.sampled_from(MISHAPS), max_size=10),
    foreign=st.lists(st.integers(5, 9), max_size=2),
    batch=st.integers(1, 4),
    within=st.lists(WISH, max_size=2),
)
def test_in_the_end_the_speaker_announces_what_is_wanted(
    wishes: list[tuple[str, AttachmentKey, list[Announcement]]],
    mishaps: list[Mishap],
    foreign: list[int],
    batch: int,
    within: list[tuple[str, AttachmentKey, list[Announcement]]],
) -> None:
    """Away, crashing, restarting, refusing, half done, silent: in any order, with wishes changing meanwhile."""
    driven = Driven(mishaps=list(mishaps), table={route(n).nlri: route(n) for n in foreign})
    wants: dict[AttachmentKey, dict[Nlri, Announcement]] = {}

    def wish(kind: str, who: AttachmentKey, routes: list[Announcement]) -> None:
        with driven.announcer._change:  # the exporter's thread makes wishes too: one at a time
            if kind == "want":
                wants[who] = {item.nlri: item for item in routes}
                driven.announcer.want(who, routes)
            else:
                had = wants.pop(who, {})
                driven.announcer.leave(who, list(had.values()) or routes)

    later = list(within)
    driven.exporter.during = lambda verb: wish(*later.pop()) if later else None  # from inside the exporter's call
    before = module.BATCH
    module.BATCH = batch
    try:
        for item in wishes[: len(wishes) // 2]:
            wish(*item)
        with driven:
            for item in wishes[len(wishes) // 2 :]:
                wish(*item)
            until(lambda: not driven.exporter.mishaps or driven.announcer._ledger.quiet)
            driven.exporter.mishaps.clear()
            driven.quiet()
            driven.announcer.retry()  # what was refused
            driven.quiet()
            until(lambda: not driven.book.replay)
            wanted = {nlri for routes in wants.values() for nlri in routes}
            until(lambda: driven.exporter.table.keys() == wanted)  # the last prune may still be running
            for nlri, told in driven.exporter.table.items():
                assert told in [routes[nlri] for routes in wants.values() if nlri in routes]
            assert driven.announcer.counts() == ({"announced": len(wanted)} if wanted else {})
    finally:
        module.BATCH = before
    assert not driven.announcer._ledger._leaving
