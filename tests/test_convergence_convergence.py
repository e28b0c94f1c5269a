"""All exporters of a node: none delays another, and an attachment has ended when each has confirmed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, ClassVar, Literal

import pytest

from bgpcni.convergence import catalog
from bgpcni.convergence.announcer import Announcer
from bgpcni.convergence.convergence import Convergence
from bgpcni.convergence.ledger import Standing
from bgpcni.errors import InvalidConfiguration, TryAgain
from bgpcni.exporter import NotThereYet, Outcome, Reach
from bgpcni.model import Address, Announcement, Attachment, Bgp, ExporterUse, Neighbor, Nlri, NodeFacts
from bgpcni.nudges import Nudges
from bgpcni.testing.memory import FACTS, Memory, void
from bgpcni.testing.patience import SECONDS


def attachment(*exporters: str, container: str = "c1", advertise: Literal["host", "subnet"] = "host") -> Attachment:
    return Attachment(
        boot_id="b", network="net", container_id=container, ifname="eth0", netns="/x", bgp=Bgp(advertise=advertise),
        addresses=(Address(address="10.1.2.3/24"),),
        exporters=tuple(ExporterUse(name=name, type=name.rstrip("12")) for name in exporters),
    )  # fmt: skip


def load(kind: str) -> Any:
    if kind != "memory":
        raise InvalidConfiguration(f"exporters: {kind!r} is not installed")
    return Memory


@pytest.fixture(autouse=True)
def in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "load", load)


class Nobody:
    """The other attachments of a node that has none, or `up`."""

    def __init__(self, up: list[Attachment] | None = None) -> None:
        self.up = up or []

    def sharers(self, attachment: Attachment, *, alone: bool) -> AbstractContextManager[list[Attachment]]:
        return nullcontext([one for one in self.up if one != attachment])

    def replay(self, announcer: Announcer) -> None:
        announcer.drive_now()


@pytest.fixture
def nudges() -> Nudges:
    return Nudges()


@pytest.fixture
def convergence(nudges: Nudges) -> Iterator[Convergence]:
    found = Convergence(FACTS, nudges)
    found.start()
    yield found
    found.stop()


def exporter(convergence: Convergence, name: str) -> Memory:
    found = convergence.announcers()[name]._exporter
    assert isinstance(found, Memory)
    return found


def leaving(convergence: Convergence, item: Attachment) -> bool:
    return any(convergence.is_leaving(item, use) for use in item.exporters)


def deadline() -> float:
    return time.monotonic() + SECONDS


def test_every_exporter_is_told_and_each_confirms(convergence: Convergence) -> None:
    item = attachment("memory1", "memory2")
    convergence.want(item)
    assert convergence.wait_announced(item, "sent", deadline()) == ""
    states = convergence.route_states(item)
    assert [{name: state.state for name, state in found.items()} for found in states.values()] == [
        {"memory1": "announced", "memory2": "announced"}
    ]
    convergence.leave(item)
    assert convergence.wait_sent(item.key, deadline())
    assert not leaving(convergence, item)
    assert exporter(convergence, "memory1").table == exporter(convergence, "memory2").table == {}


def test_one_that_is_away_holds_the_address_and_nobody_else(convergence: Convergence, nudges: Nudges) -> None:
    """The other has withdrawn; when the first is back the attachment is finished without anybody asking."""
    item = attachment("memory1", "memory2")
    convergence.want(item)
    assert convergence.wait_announced(item, "sent", deadline()) == ""
    away = exporter(convergence, "memory1")
    away.mishaps = ["away"] * 100000
    convergence.leave(item)
    assert not convergence.wait_sent(item.key, deadline())  # and does not wait for what cannot come
    assert exporter(convergence, "memory2").table == {}
    assert leaving(convergence, item)
    away.mishaps = []
    convergence.retry()
    assert convergence.wait_quiet(SECONDS) == []
    pause = threading.Event()
    while (told := nudges.poll()) is None:
        pause.wait(0.002)
    assert told == item.key
    assert nudges.poll() is None
    assert not leaving(convergence, item)


@pytest.mark.parametrize(("slow", "away"), [("memory1", "memory2"), ("memory2", "memory1")])
def test_one_that_is_away_does_not_keep_a_del_from_waiting_for_the_others(
    convergence: Convergence, slow: str, away: str
) -> None:
    """DEL answers once the withdrawal is on its way to every peer that can be reached, and the address is held."""
    item = attachment("memory1", "memory2")
    convergence.want(item)
    assert convergence.wait_announced(item, "sent", deadline()) == ""
    exporter(convergence, away).mishaps = ["away"] * 100000
    convergence.announcers()[away].prune()
    pause = threading.Event()
    while convergence.announcers()[away].state().state != "late":
        pause.wait(0.002)
    reached, let_go = threading.Event(), threading.Event()
    exporter(convergence, slow).during = lambda verb: void((reached.set(), let_go.wait(SECONDS)))
    convergence.leave(item)
    answers: list[bool] = []
    waiting = threading.Thread(target=lambda: answers.append(convergence.wait_sent(item.key, deadline())))
    waiting.start()
    assert reached.wait(SECONDS)
    assert waiting.is_alive()
    assert not convergence.wait_sent(item.key, 0)  # at its deadline it answers all the same
    let_go.set()
    waiting.join(SECONDS)
    assert answers == [False]
    assert not exporter(convergence, slow).table
    assert leaving(convergence, item)


def test_a_del_answers_at_sent_and_the_address_waits_for_the_acknowledgement(
    convergence: Convergence, nudges: Nudges, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peers' TCP acknowledges after the answer: the attachment is nudged by each exporter then, and not before."""
    monkeypatch.setattr(Memory, "acks", "acked")
    item = attachment("memory1", "memory2")
    convergence.want(item)
    assert convergence.wait_announced(item, "sent", deadline()) == ""
    convergence.leave(item)
    assert convergence.wait_sent(item.key, deadline())
    assert leaving(convergence, item)
    assert nudges.poll() is None
    confirm = [Outcome(Reach.ACKED)]
    pause = threading.Event()
    for name in ("memory1", "memory2"):
        assert leaving(convergence, item)
        assert nudges.poll() is None
        monkeypatch.setattr(exporter(convergence, name), "progress", lambda routes: confirm * len(routes))
        convergence.announcers()[name]._book.progress()
        assert convergence.announcers()[name].wait_quiet(deadline())
        while (told := nudges.poll()) is None:
            pause.wait(0.002)
        assert told == item.key
    assert nudges.poll() is None
    assert not leaving(convergence, item)


def test_who_waits_for_the_confirmation_is_not_told_twice(convergence: Convergence, nudges: Nudges) -> None:
    """DEL completes its attachment itself."""
    item = attachment("memory")
    convergence.want(item)
    convergence.leave(item)
    convergence.wait_sent(item.key, deadline())
    assert nudges.poll() in (None, item.key)
    assert not leaving(convergence, item)


def test_an_attachment_that_came_back_is_not_finished_by_an_old_confirmation(convergence: Convergence) -> None:
    """ADD and DEL while the confirmation of the DEL before is on its way."""
    item = attachment("memory")
    convergence.want(item)
    assert convergence.wait_announced(item, "sent", deadline()) == ""
    exporter(convergence, "memory").established = False
    convergence.leave(item)
    convergence._confirmed([item.key])
    assert leaving(convergence, item)


def test_an_exporter_that_was_uninstalled_does_not_wedge_a_del(convergence: Convergence) -> None:
    """The others are told; the address stays held, and `release --force` gives it back."""
    item = attachment("memory", "gone")
    with pytest.raises(InvalidConfiguration, match="'gone' is not installed"):
        convergence.want(item)
    convergence.leave(item)
    assert convergence.announcers()["memory"].wait_quiet(deadline())
    assert exporter(convergence, "memory").table == {}
    assert leaving(convergence, item)
    convergence.excuse(item.key, item.exporters[1])
    assert not leaving(convergence, item)


def test_without_exporters_nothing_is_waited_for(convergence: Convergence) -> None:
    item = attachment()
    convergence.want(item)
    convergence.leave(item)
    assert convergence.wait_sent(item.key, 0)


class Neighbored(Memory):
    """It has sessions with the node's neighbours."""

    @classmethod
    def source(cls, config: Any, local_address: str) -> str | None:
        return "192.0.2.1"


class Owner(Memory):
    """It has its speaker to itself."""

    @classmethod
    def owns(cls, config: Any) -> str:
        return "the speaker"


def use_of(name: str) -> ExporterUse:
    return ExporterUse(name=name, type="memory")


def node_of(*names: str) -> NodeFacts:
    """A node that has a neighbour for each of these."""
    return replace(
        FACTS,
        neighbors=tuple(Neighbor(f"192.0.2.{at}", 64512, (), 90, exporter=name) for at, name in enumerate(names, 10)),
        speakers=names,
    )


def test_a_speaker_keeps_its_neighbours_until_it_is_handed_over(
    convergence: Convergence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is removed, and before anybody asks for it again the node changes once more, as when a reload is undone."""
    monkeypatch.setattr(catalog, "load", lambda kind: Neighbored)
    convergence.reset(node_of("old", "kept"), [use_of("old"), use_of("kept")])
    for _ in range(2):
        convergence.reset(node_of("kept"), [use_of("kept")])
    assert [one.address for one in convergence.ensure(use_of("old")).node.neighbors] == ["192.0.2.10"]


def test_a_call_finds_its_speaker_after_two_new_names(
    convergence: Convergence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ADD that began before both reloads announces through it, and through nothing else."""
    monkeypatch.setattr(catalog, "load", lambda kind: Neighbored)
    for name in ("first", "second", "third"):
        convergence.reset(node_of(name), [use_of(name)])
    convergence.reset(node_of("third", "other"), [use_of("third"), use_of("other")])
    assert convergence.ensure(use_of("first")) is convergence.announcers()["third"]
    convergence.reset(node_of("first"), [use_of("first")])
    assert list(convergence.announcers()) == ["first"]


def test_records_may_have_two_names_of_a_speaker_that_is_configured_no_more(
    convergence: Convergence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reload that gave it another name was undone half-way: it withdraws for both."""
    monkeypatch.setattr(catalog, "load", lambda kind: Owner)
    one, two = attachment("old", container="c1"), attachment("new", container="c2")
    one, two = (each.model_copy(update={"exporters": (use_of(name),)}) for each, name in ((one, "old"), (two, "new")))
    for each in (one, two):
        convergence.leave(each)
    assert len(convergence.announcers()) == 1
    assert all(convergence.standing(each, each.exporters[0]) is Standing.LEAVING for each in (one, two))
    assert not convergence._unreachable


def test_drain_withdraws_everything_everywhere(convergence: Convergence) -> None:
    items = [attachment("memory1", "memory2", container=f"c{number}") for number in range(3)]
    for item in items:
        convergence.want(item)
    for item in items:
        convergence.leave(item)
    assert convergence.drain(SECONDS) == []
    for name in ("memory1", "memory2"):
        assert exporter(convergence, name).table == {}
        assert exporter(convergence, name).drained


class Restarted(Memory):
    """A speaker that is ours. `lacks`: why its peers lack routes, one answer after the other."""

    journal: ClassVar[list[str]] = []
    lacks: ClassVar[dict[str, list[str]]] = {}

    def lacking(self) -> str:
        found = self.lacks.get(self.name, [])
        self.journal.append(f"{self.name}?")
        return found.pop(0) if found else ""

    def restart(self, deadline: float) -> str:
        self.journal.append(self.name)
        return "no session with 192.0.2.9" if self.name == "memory3" else ""


@pytest.fixture
def speakers(monkeypatch: pytest.MonkeyPatch, convergence: Convergence) -> Convergence:
    """Three, of which the last does not come back."""
    monkeypatch.setattr(catalog, "load", lambda kind: Restarted)
    monkeypatch.setattr("bgpcni.convergence.convergence.PASSED_ON", 0.0)
    monkeypatch.setattr("bgpcni.convergence.convergence.LOOK", 0.0)
    monkeypatch.setattr(Restarted, "journal", [])
    monkeypatch.setattr(Restarted, "lacks", {"memory2": ["a session is down", "a route is not acknowledged"]})
    for name in ("memory1", "memory2", "memory3"):
        convergence.ensure(use_of(name))
    return convergence


def test_speakers_are_restarted_one_after_the_other(speakers: Convergence) -> None:
    """Each only once the peers of all others have every route, and none after one that did not come back."""
    done, reason = speakers.restart_speakers(None, SECONDS)
    assert (done, reason) == (["memory1", "memory2"], "memory3: no session with 192.0.2.9")
    asked = ["memory2?", "memory2?", "memory2?", "memory3?"]
    assert Restarted.journal == [
        *asked,
        "memory1",
        "memory1?",
        "memory3?",
        "memory2",
        "memory1?",
        "memory2?",
        "memory3",
    ]
    with pytest.raises(InvalidConfiguration, match="no exporter at work is called nobody"):
        speakers.restart_speakers("nobody", SECONDS)


def test_a_speaker_is_left_alone_while_another_cannot_carry_the_routes(speakers: Convergence) -> None:
    """At the deadline the answer says whose peers lack routes, and why; nothing was restarted."""
    Restarted.lacks["memory2"] = ["no session is up"]
    done, reason = speakers.restart_speakers("memory1", -1)
    assert (done, reason) == ([], "memory1 was left alone: the peers of memory2 lack routes: no session is up")
    assert "memory1" not in Restarted.journal


class TestWithinACall:
    """In a call without an agent the route is announced when the call returns."""

    def test_announced_and_withdrawn(self) -> None:
        alone = Convergence(FACTS, Nudges(), others=Nobody())
        item = attachment("memory")
        alone.want(item)
        assert len(exporter(alone, "memory").table) == 1
        alone.leave(item)
        assert exporter(alone, "memory").table == {}
        assert alone.wait_sent(item.key, 0)

    def test_a_subnets_route_stays_while_another_attachment_wants_it(self) -> None:
        """A call knows only its own attachment: who else is up has a say before the subnet is withdrawn."""
        items = [attachment("memory", container=name, advertise="subnet") for name in ("c1", "c2")]
        up: list[Attachment] = []
        table: dict[Nlri, Announcement] = {}

        def call() -> Convergence:
            """A process of its own for each call; the speaker keeps its table."""
            alone = Convergence(FACTS, Nudges(), others=Nobody(up))
            alone.ensure(items[0].exporters[0])
            exporter(alone, "memory").table = table
            return alone

        for item in items:
            up.append(item)
            call().want(item)
        assert {nlri.prefix for nlri in table} == {"10.1.2.0/24"}
        for item, left in zip(items, ({"10.1.2.0/24"}, set()), strict=True):
            up.remove(item)
            alone = call()
            alone.leave(item)
            assert alone.wait_sent(item.key, 0)
            assert {nlri.prefix for nlri in table} == left

    def test_who_else_wants_it_cannot_be_seen(self) -> None:
        """Then nothing is withdrawn, and the address is held."""

        class Busy(Nobody):
            def sharers(self, attachment: Attachment, *, alone: bool) -> AbstractContextManager[list[Attachment]]:
                raise TryAgain("held by another call")

        item = attachment("memory", advertise="subnet")
        Convergence(FACTS, Nudges(), others=Nobody()).want(item)
        alone = Convergence(FACTS, Nudges(), others=Busy())
        alone.ensure(item.exporters[0])  # another attachment's withdrawal was retried in this call
        alone.leave(item)
        assert not alone.wait_sent(item.key, 0)
        assert leaving(alone, item)

    def test_an_add_fails_and_a_del_does_not(self) -> None:
        """Unreachable: ADD is undone and tried again later; DEL leaves the record for later."""
        alone = Convergence(FACTS, Nudges(), others=Nobody())
        item = attachment("memory")
        alone.want(item)
        exporter(alone, "memory").mishaps = ["away", "half then crash"]
        with pytest.raises(NotThereYet):
            alone.want(item)
        alone.leave(item)
        assert leaving(alone, item)
        assert not alone.wait_sent(item.key, 0)
        alone.retry()
        assert leaving(alone, item)
        alone.retry()
        assert not leaving(alone, item)


def test_one_name_for_two_exporters_is_two_announcers(convergence: Convergence) -> None:
    """A reload gives the name of one exporter to another: the new one has the name, the old one goes on beside it."""
    before = ExporterUse(name="fabric", type="memory", config={"url": "old"})
    now = ExporterUse(name="fabric", type="memory", config={"url": "new"})
    convergence.ensure(before)
    convergence.reset(FACTS, [now])
    first, second = convergence.ensure(now), convergence.ensure(before)
    assert first.name == "fabric"
    assert second.name.startswith("fabric@")
    assert convergence.ensure(before) is second
