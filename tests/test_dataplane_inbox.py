"""The data path's queue and its thread: what is heard is worked off, whatever comes in between."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from test_dataplane_wishes import Watched

from bgpcni.config.agent import PolicyTable
from bgpcni.dataplane import dataplane as module
from bgpcni.dataplane.dataplane import DataPlane, Inbox
from bgpcni.dataplane.places.vpn import VpnPlace
from bgpcni.errors import KernelRefused
from bgpcni.exporter import Learned, PathAttributes
from bgpcni.model import Address, Attachment, Bgp, VpnNlri
from bgpcni.testing.memory import FACTS
from bgpcni.testing.patience import SECONDS, until

PEER, RT = "192.0.2.254", "64512:1"


def vpn(prefix: str, rt: str = RT) -> Learned:
    return Learned(PEER, VpnNlri.of(prefix, "192.0.2.9:1"), PathAttributes("192.0.2.9", route_targets=(rt,)), label=80)


def attachment(network: str = "n") -> Attachment:
    return Attachment(
        boot_id="b", network=network, container_id="c", ifname="eth0", netns="/x",
        bgp=Bgp(family="vpn", import_rt=(RT,)), addresses=(Address(address="10.1.2.3/24"),),
    )  # fmt: skip


def soon() -> float:
    return time.monotonic() + SECONDS


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


# --- the queue -----------------------------------------------------------------------------------


class Waits:
    """Tells when the thread that takes from an inbox has begun to wait. It holds the lock up to there."""

    def __init__(self, inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = threading.Event()
        self._wait = inbox._wake.wait
        monkeypatch.setattr(inbox._wake, "wait", self)

    def __call__(self, timeout: float) -> bool:
        self.begun.set()
        return self._wait(timeout)


@pytest.mark.parametrize(
    ("happens", "taken"),
    [
        (lambda inbox: inbox.heard("e", [vpn("10.9.0.0/24")]), ([("e", vpn("10.9.0.0/24"))], set())),
        (lambda inbox: inbox.link_gone(7), ([], {7})),
        (lambda inbox: inbox.ask(), ([], set())),
        (lambda inbox: inbox.close(), None),
    ],
)
def test_whoever_waits_is_woken(
    happens: Callable[[Inbox], None], taken: object, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an event, a link that went, something to do, the end."""
    inbox = Inbox()
    waits = Waits(inbox, monkeypatch)
    taking = pool.submit(inbox.take, soon())
    assert waits.begun.wait(SECONDS)
    happens(inbox)
    assert taking.result(SECONDS) == taken


def test_what_comes_while_a_batch_is_worked_off_is_in_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, however much it is, without a wait; and at the end nothing is taken any more."""
    monkeypatch.setattr(module, "EVENTS", 2)
    inbox = Inbox()
    waits = Waits(inbox, monkeypatch)
    first, second, third, fourth = (vpn(f"10.{number}.0.0/16") for number in range(4))
    inbox.heard("e", [first])
    assert inbox.take(soon()) == ([("e", first)], set())
    inbox.heard("e", [second, third])
    inbox.heard("f", [fourth])
    assert inbox.take(soon()) == ([("e", second), ("e", third)], set())
    assert inbox.take(soon()) == ([("f", fourth)], set())
    inbox.link_gone(7)
    assert inbox.take(soon()) == ([], {7})
    inbox.ask()
    assert inbox.take(soon()) == ([], set())
    inbox.heard("e", [first])
    inbox.close()
    assert inbox.take(soon()) is None
    assert not waits.begun.is_set()


def test_nothing_comes_until_the_time_is_up() -> None:
    """Whoever asks for work only up to a time gets an empty batch then."""
    assert Inbox().take(time.monotonic()) == ([], set())


# --- the thread ----------------------------------------------------------------------------------


class Held:
    """Holds up the first call of a function in the middle: it is `inside`, and goes on when told to."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.inside, self.go_on = threading.Event(), threading.Event()
        self._function = function

    def __call__(self, *given: Any) -> Any:
        if not self.inside.is_set():
            self.inside.set()
            assert self.go_on.wait(SECONDS)
        return self._function(*given)


@pytest.fixture
def plane() -> Iterator[DataPlane]:
    """At work, with nothing in the kernel: routes of L3VPNs are for the control plane alone."""
    plane = DataPlane(FACTS, PolicyTable(), Inbox(), lambda families: None)
    plane.start()
    yield plane
    plane.stop()


def states(plane: DataPlane) -> dict[str | None, dict[str, str]]:
    return {item.route.nlri.prefix: item.tables for item in plane.received()}


def test_a_route_that_comes_while_its_network_begins(
    plane: DataPlane, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ADD is in the middle of making the table: the route is heard at once, waits, and is imported then."""
    held = Held(VpnPlace.configure)
    monkeypatch.setattr(VpnPlace, "configure", lambda self: held(self))
    adding = pool.submit(plane.attach, attachment())
    assert held.inside.wait(SECONDS)
    pool.submit(plane._inbox.heard, "e", [vpn("10.9.0.0/24")]).result(SECONDS)  # an exporter's thread does not wait
    held.go_on.set()
    adding.result(SECONDS)
    until(lambda: states(plane) == {"10.9.0.0/24": {"vpn n": "best"}})


def test_a_network_that_ends_while_its_routes_are_worked_off(
    plane: DataPlane, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The DEL waits for the batch, and not for those after it; then no table has the routes."""
    plane.attach(attachment())
    lock = plane._lock = Watched()  # type: ignore[assignment]
    held = Held(plane._rib.hear)
    monkeypatch.setattr(plane._rib, "hear", held)
    plane._inbox.heard("e", [vpn("10.9.0.0/24")])
    assert held.inside.wait(SECONDS)
    deleting = pool.submit(plane.detach, attachment())
    assert lock.awaited.wait(SECONDS)
    held.go_on.set()
    deleting.result(SECONDS)
    until(lambda: states(plane) == {"10.9.0.0/24": {}})
    assert set(plane._places) == {"unicast"}


def test_an_exporter_that_comes_back_as_its_routes_run_out(
    plane: DataPlane, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it tells anew counts, although the reload had put it out of use, and stays when the others have told all."""
    plane.attach(attachment())
    plane._inbox.heard("e", [vpn("10.8.0.0/24"), vpn("10.9.0.0/24")])
    until(lambda: len(states(plane)) == 2)
    held = Held(plane._rib.families_of)
    monkeypatch.setattr(plane._rib, "families_of", held)
    plane.retired("e")
    assert held.inside.wait(SECONDS)  # the thread decides whether its routes go
    plane._inbox.heard("e", [vpn("10.9.0.0/24")])
    held.go_on.set()
    until(lambda: [item for item in plane.received() if not item.stale])
    assert {item.route.nlri.prefix: item.stale for item in plane.received()} == {
        "10.8.0.0/24": True,
        "10.9.0.0/24": False,
    }
    assert plane._retired == {}


def test_one_event_that_cannot_be_understood_takes_no_other_along(
    plane: DataPlane, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, with who told it; those before and after it, of the same batch, are worked off."""
    plane.attach(attachment())
    plane._inbox.heard("e", [vpn("10.8.0.0/24"), vpn("no prefix"), vpn("10.9.0.0/24")])
    until(lambda: {"10.8.0.0/24", "10.9.0.0/24"} <= {prefix for prefix, tables in states(plane).items() if tables})
    assert "no prefix" in caplog.text


def test_the_thread_ends_in_the_middle_of_its_work(
    plane: DataPlane, pool: ThreadPoolExecutor, monkeypatch: Any
) -> None:
    """`stop` comes while a batch is worked off: that one is finished, what came after it is left."""
    held = Held(plane._rib.hear)
    monkeypatch.setattr(plane._rib, "hear", held)
    plane._inbox.heard("e", [vpn("10.8.0.0/24")])
    assert held.inside.wait(SECONDS)
    stopping = pool.submit(plane.stop)
    until(lambda: plane._inbox._closed)
    plane._inbox.heard("e", [vpn("10.9.0.0/24")])
    held.go_on.set()
    stopping.result(SECONDS)
    assert set(states(plane)) == {"10.8.0.0/24"}


def test_a_place_that_cannot_be_opened_again_keeps_no_other_from_being_looked_at(
    plane: DataPlane, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The kernel refuses the device of one network: that is logged, and all others are looked at as ever."""
    looked: list[str] = []

    def look(place: VpnPlace) -> None:
        looked.append(place.name)
        if place.name == "vpn first":
            raise KernelRefused("no more devices")

    for network in ("first", "second"):
        plane.attach(attachment(network).model_copy(update={"container_id": network}))
    monkeypatch.setattr(VpnPlace, "look", look)
    plane.look_again()
    assert looked[:2] == ["vpn first", "vpn second"]
    assert "vpn first: no more devices" in caplog.text
