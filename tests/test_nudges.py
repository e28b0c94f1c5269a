"""The queue of attachments to look at: each is in it once, with the earliest time asked for."""

from __future__ import annotations

import pytest

from bgpcni import clock
from bgpcni.model import AttachmentKey
from bgpcni.nudges import Nudges
from bgpcni.testing.interleaving import Halt, Running
from bgpcni.testing.patience import until

KEY = AttachmentKey("net", "c1", "eth0")


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What time it is; a test changes it."""
    time = [100.0]
    monkeypatch.setattr(clock, "monotonic", lambda: time[0])
    return time


def test_what_was_asked_for_within_a_call_keeps_its_time(now: list[float]) -> None:
    """A try that is due in a second is not made at once, only since the call that asked for it has ended."""
    nudges = Nudges()
    with nudges.attended(KEY):
        nudges.nudge(KEY, 5.0)
        nudges.nudge(KEY, 1.0)
        nudges.nudge(KEY, 3.0)
        assert nudges.poll() is None
    assert nudges.poll() is None
    now[0] += 1.0
    assert nudges.poll() == KEY
    assert nudges.poll() is None


def test_what_is_settled_within_a_call_is_not_looked_at(now: list[float]) -> None:
    nudges = Nudges()
    nudges.nudge(KEY)
    with nudges.attended(KEY):
        nudges.nudge(KEY)
        nudges.settled(KEY)
    assert nudges.poll() is None


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> tuple[Nudges, Running[AttachmentKey | None]]:
    """A worker that waits for the next attachment, there being none for an hour."""
    nudges = Nudges()
    nudges.nudge(AttachmentKey("net", "late", "eth0"), 3600.0)
    worker = Running(nudges.take)
    until(lambda: nudges._change._waiters)  # type: ignore[attr-defined]
    return nudges, worker


def test_a_sooner_nudge_wakes_who_waits_for_a_later_one(waiting: tuple[Nudges, Running[AttachmentKey | None]]) -> None:
    """What a thread of the kernel's events says is not left until the next timer."""
    nudges, worker = waiting
    nudges.nudge(KEY)
    assert worker.result() == KEY


def test_the_end_wakes_who_waits(waiting: tuple[Nudges, Running[AttachmentKey | None]]) -> None:
    nudges, worker = waiting
    nudges.close()
    assert worker.result() is None


def test_a_nudge_while_it_is_looked_at_is_not_lost() -> None:
    """The worker has it and has not looked yet: it will have to look again, for it may have looked before that."""
    nudges = Nudges()
    nudges.nudge(KEY)
    assert nudges.take() == KEY
    Running(lambda: nudges.nudge(KEY)).result()
    assert nudges.take() == KEY


def test_a_nudge_at_the_end_of_a_call_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A withdrawal is confirmed in the moment between the end of a call and the nudge that the call left for later: the
    attachment is looked at once, and at once."""
    nudges = Nudges()
    halts: list[Halt] = []

    def call() -> None:
        with nudges.attended(KEY):
            nudges.nudge(KEY, 3600.0)
            halts.append(Halt(monkeypatch, nudges, "nudge"))

    ending = Running(call)
    until(lambda: halts)
    halts[0].reached()
    nudges.nudge(KEY)
    halts[0].go_on()
    ending.result()
    assert nudges.take() == KEY
    assert nudges.poll() is None
