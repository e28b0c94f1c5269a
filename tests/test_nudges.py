"""The queue of attachments to look at: each is in it once, with the earliest time asked for."""

from __future__ import annotations

import pytest

from bgpcni import clock
from bgpcni.model import AttachmentKey
from bgpcni.nudges import Nudges

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
