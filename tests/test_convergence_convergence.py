"""All exporters of a node: none holds up another, and an attachment is free when each has confirmed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import pytest
from memory_exporter import FACTS, Memory, void

from bgpcni.convergence import catalog
from bgpcni.convergence.convergence import Convergence
from bgpcni.errors import InvalidConfiguration, TryAgain
from bgpcni.exporter import NotThereYet
from bgpcni.model import Address, Announcement, Attachment, AttachmentKey, Bgp, ExporterUse, Nlri
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


@pytest.fixture
def finished() -> list[AttachmentKey]:
    return []


@pytest.fixture
def convergence(finished: list[AttachmentKey]) -> Iterator[Convergence]:
    found = Convergence(FACTS, resident=True, finished=finished.append)
    found.start()
    yield found
    found.stop()


def exporter(convergence: Convergence, name: str) -> Memory:
    found = convergence.announcers()[name]._exporter
    assert isinstance(found, Memory)
    return found


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
    assert convergence.wait_confirmed(item.key, deadline())
    assert not convergence.is_leaving(item.key)
    assert exporter(convergence, "memory1").table == exporter(convergence, "memory2").table == {}


def test_one_that_is_away_holds_the_address_and_nobody_else(
    convergence: Convergence, finished: list[AttachmentKey]
) -> None:
    """The other has withdrawn; when the first is back the attachment is finished without anybody asking."""
    item = attachment("memory1", "memory2")
    convergence.want(item)
    assert convergence.wait_announced(item, "sent", deadline()) == ""
    away = exporter(convergence, "memory1")
    away.mishaps = ["away"] * 100000
    convergence.leave(item)
    assert not convergence.wait_confirmed(item.key, deadline())  # and does not wait for what cannot come
    assert convergence.announcers()["memory2"].wait_quiet(deadline())
    assert exporter(convergence, "memory2").table == {}
    assert convergence.is_leaving(item.key)
    away.mishaps = []
    convergence.retry()
    assert convergence.wait_quiet(SECONDS) == []
    pause = threading.Event()
    while not finished:
        pause.wait(0.002)
    assert finished == [item.key]
    assert not convergence.is_leaving(item.key)


@pytest.mark.parametrize(("slow", "away"), [("memory1", "memory2"), ("memory2", "memory1")])
def test_one_that_is_away_makes_waiting_for_the_others_vain(convergence: Convergence, slow: str, away: str) -> None:
    """DEL does not wait for one that may still confirm while another one is known not to."""
    item = attachment("memory1", "memory2")
    convergence.want(item)
    assert convergence.wait_announced(item, "sent", deadline()) == ""
    exporter(convergence, away).mishaps = ["away"] * 100000
    convergence.announcers()[away].prune()
    pause = threading.Event()
    while convergence.announcers()[away].state().state != "late":
        pause.wait(0.002)
    let_go = threading.Event()
    exporter(convergence, slow).during = lambda verb: void(let_go.wait(SECONDS))
    convergence.leave(item)
    assert not convergence.wait_confirmed(item.key, deadline())
    assert not let_go.is_set()
    assert convergence.announcers()[slow].is_leaving(item.key)
    let_go.set()


def test_who_waits_for_the_confirmation_is_not_told_twice(
    convergence: Convergence, finished: list[AttachmentKey]
) -> None:
    """DEL completes its attachment itself."""
    item = attachment("memory")
    convergence.want(item)
    convergence.leave(item)
    convergence.wait_confirmed(item.key, deadline())
    assert finished in ([], [item.key])
    assert not convergence.is_leaving(item.key)


def test_an_attachment_that_came_back_is_not_finished_by_an_old_confirmation(convergence: Convergence) -> None:
    """ADD and DEL while the confirmation of the DEL before is on its way."""
    item = attachment("memory")
    convergence.want(item)
    assert convergence.wait_announced(item, "sent", deadline()) == ""
    exporter(convergence, "memory").established = False
    convergence.leave(item)
    convergence._confirmed("memory", [item.key])
    assert convergence.is_leaving(item.key)


def test_an_exporter_that_was_uninstalled_does_not_wedge_a_del(convergence: Convergence) -> None:
    """The others are told; the address stays held, and `release --force` gives it back."""
    item = attachment("memory", "gone")
    with pytest.raises(InvalidConfiguration, match="'gone' is not installed"):
        convergence.want(item)
    convergence.leave(item)
    assert convergence.announcers()["memory"].wait_quiet(deadline())
    assert exporter(convergence, "memory").table == {}
    assert convergence.is_leaving(item.key)
    convergence.release(item.key)
    assert not convergence.is_leaving(item.key)


def test_without_exporters_nothing_is_waited_for(convergence: Convergence) -> None:
    item = attachment()
    convergence.want(item)
    convergence.leave(item)
    assert convergence.wait_confirmed(item.key, 0)


def test_drain_withdraws_everything_everywhere(convergence: Convergence) -> None:
    for number in range(3):
        convergence.want(attachment("memory1", "memory2", container=f"c{number}"))
    assert convergence.drain(SECONDS) == []
    for name in ("memory1", "memory2"):
        assert exporter(convergence, name).table == {}
        assert exporter(convergence, name).drained


class TestWithinACall:
    """Without an agent: done when it returns."""

    def test_announced_and_withdrawn(self) -> None:
        alone = Convergence(FACTS, resident=False)
        item = attachment("memory")
        alone.want(item)
        assert len(exporter(alone, "memory").table) == 1
        alone.leave(item)
        assert exporter(alone, "memory").table == {}
        assert alone.wait_confirmed(item.key, 0)

    def test_a_subnets_route_stays_while_another_attachment_wants_it(self) -> None:
        """A call knows only its own attachment: who else is up has a say before the subnet is withdrawn."""
        items = [attachment("memory", container=name, advertise="subnet") for name in ("c1", "c2")]
        up: list[Attachment] = []
        table: dict[Nlri, Announcement] = {}

        def call() -> Convergence:
            """A process of its own; the speaker lives on."""
            alone = Convergence(
                FACTS,
                resident=False,
                sharers=lambda attachment, *, alone: nullcontext([one for one in up if one != attachment]),
            )
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
            assert alone.wait_confirmed(item.key, 0)
            assert {nlri.prefix for nlri in table} == left

    def test_who_else_wants_it_cannot_be_seen(self) -> None:
        """Then nothing is withdrawn, and the address is held."""

        def busy(attachment: Attachment, *, alone: bool) -> AbstractContextManager[list[Attachment]]:
            raise TryAgain("held by another call")

        item = attachment("memory", advertise="subnet")
        Convergence(FACTS, resident=False).want(item)
        alone = Convergence(FACTS, resident=False, sharers=busy)
        alone.leave(item)
        assert not alone.wait_confirmed(item.key, 0)

    def test_an_add_fails_and_a_del_does_not(self) -> None:
        """Unreachable: ADD is undone and tried again later; DEL leaves the record for later."""
        alone = Convergence(FACTS, resident=False)
        item = attachment("memory")
        alone.want(item)
        exporter(alone, "memory").mishaps = ["away", "half then crash"]
        with pytest.raises(NotThereYet):
            alone.want(item)
        alone.leave(item)
        assert alone.is_leaving(item.key)
        assert not alone.wait_confirmed(item.key, 0)
        alone.retry()
        assert alone.is_leaving(item.key)
        alone.retry()
        assert not alone.is_leaving(item.key)
