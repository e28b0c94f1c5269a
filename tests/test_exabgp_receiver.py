"""The queue between the thread that reads from ExaBGP and the one that decodes what neighbours announce."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from struct import pack

import pytest

from bgpcni.exporter import EndOfRib, Event, Learned
from bgpcni.model import Family
from bgpcni.testing.patience import SECONDS, until
from bgpcni_exabgp import receiver as module
from bgpcni_exabgp.lines import Line
from bgpcni_exabgp.received import AdjRibIn, Terms
from bgpcni_exabgp.receiver import Receiver

PEER, V4 = "192.0.2.1", Family.IPV4_UNICAST
PLAIN = bytes.fromhex("40010100 400200 40030401020304")


def update(number: int) -> bytes:
    return b"\0\0" + pack("!H", len(PLAIN)) + PLAIN + bytes([16, 10, number])


def test_routes_that_found_no_room_are_asked_for_before_the_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood beyond the backlog: what was left out is asked for again, and only that answer's end is an end."""
    monkeypatch.setattr(module, "BACKLOG", 10)
    posted: list[Line] = []
    heard: list[Event] = []
    busy, go_on = threading.Event(), threading.Event()

    def listener(events: Sequence[Event]) -> None:
        heard.extend(events)
        if not busy.is_set():
            busy.set()
            assert go_on.wait(SECONDS)

    receiver = Receiver("test", AdjRibIn(), posted.extend)
    try:
        receiver.listen(frozenset({V4}), listener)
        receiver.connected({PEER: Terms(True)}, False)
        receiver.told(PEER, V4)
        assert busy.wait(SECONDS)  # with the end of the first answer
        asked = len(posted)
        receiver.update(PEER, update(1))
        receiver.update(PEER, update(2))  # no room
        receiver.update(PEER, bytes(4))  # End-of-RIB, which has no room either
        receiver.told(PEER, V4)
        go_on.set()
        until(lambda: len(posted) > asked)
        assert [type(event) for event in heard] == [EndOfRib, Learned]
        receiver.update(PEER, update(1))
        until(lambda: len(heard) == 3)
        receiver.update(PEER, update(2))
        until(lambda: len(heard) == 4)
        receiver.told(PEER, V4)
        until(lambda: len(heard) == 5)
        assert [type(event) for event in heard[2:]] == [Learned, Learned, EndOfRib]
    finally:
        go_on.set()
        receiver.close()
