"""What the kernel's events say is gone, and that whoever has to know it is told."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from queue import SimpleQueue

import pytest

from bgpcni.kernel import monitor as module
from bgpcni.kernel import uapi
from bgpcni.kernel.monitor import Monitor, gone
from bgpcni.testing.patience import SECONDS


def event(kind: int, body: bytes) -> bytes:
    return uapi.NLMSGHDR.pack(len(body) + 16, kind, 0, 0, 0) + body


def link_event(kind: int, index: int, family: int = socket.AF_UNSPEC) -> bytes:
    """struct ifinfomsg, and the link's name (IFLA_IFNAME)."""
    name = struct.pack("=HH5s3x", 9, 3, b"eth0")
    return event(kind, struct.pack("=BxHiII", family, 1, index, 0, 0) + name)


def nsid_event(kind: int, nsid: int) -> bytes:
    """struct rtgenmsg, padded, and NETNSA_NSID."""
    return event(kind, bytes(4) + struct.pack("=HHi", 8, 1, nsid))


def test_links_and_namespaces_that_are_gone_are_told_of() -> None:
    """All in one datagram; not what is new, and not a port that left its bridge."""
    data = (
        link_event(uapi.RTM_NEWLINK, 5) + link_event(uapi.RTM_DELLINK, 7)
        + link_event(uapi.RTM_DELLINK, 8, uapi.AF_BRIDGE)
        + nsid_event(uapi.RTM_NEWNSID, 3) + nsid_event(uapi.RTM_DELNSID, 0) + nsid_event(uapi.RTM_DELNSID, 70000)
    )  # fmt: skip
    assert list(gone(data)) == [(uapi.RTM_DELLINK, 7), (uapi.RTM_DELNSID, 0), (uapi.RTM_DELNSID, 70000)]
    assert list(gone(b"")) == []


class Heard:
    """A monitor in a thread of its own; the other end of its socket, which in life is the kernel's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: SimpleQueue[tuple[str, int]] = SimpleQueue()
        ours, self.kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        monkeypatch.setattr(module, "open_events", lambda *kinds: ours)
        self.monitor = Monitor(
            lambda index: self.told.put(("link", index)),
            lambda nsid: self.told.put(("namespace", nsid)),
            lambda: self.told.put(("lost", 0)),
        )
        self.thread = threading.Thread(target=self.monitor.run)

    def next(self) -> tuple[str, int]:
        return self.told.get(timeout=SECONDS)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[Heard]:
    heard = Heard(monkeypatch)
    yield heard
    if heard.thread.is_alive():
        heard.monitor.stop()
        heard.thread.join(SECONDS)
    heard.kernel.close()


def test_what_happened_before_the_thread_runs_is_told_too(heard: Heard) -> None:
    """The agent reads its records between the two: a link that goes meanwhile is no link that nobody saw go."""
    heard.kernel.send(link_event(uapi.RTM_DELLINK, 7))
    heard.thread.start()
    assert heard.next() == ("link", 7)
    heard.kernel.send(nsid_event(uapi.RTM_DELNSID, 3))
    assert heard.next() == ("namespace", 3)


def test_a_monitor_that_waits_for_events_can_be_stopped(heard: Heard) -> None:
    """No event has to come; one that comes with the end harms nobody."""
    heard.thread.start()
    heard.kernel.send(link_event(uapi.RTM_DELLINK, 7))
    assert heard.next() == ("link", 7)
    heard.monitor.stop()
    heard.thread.join(SECONDS)
    assert not heard.thread.is_alive()


def test_after_lost_events_the_next_ones_are_told(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel dropped some: everything is looked at, and the monitor goes on."""
    answers = iter([None])
    real = module.received
    monkeypatch.setattr(module, "received", lambda sock: next(answers, real(sock)))
    heard.kernel.send(link_event(uapi.RTM_DELLINK, 7))
    heard.thread.start()
    assert heard.next() == ("lost", 0)
    heard.kernel.send(link_event(uapi.RTM_DELLINK, 8))
    assert heard.next() == ("link", 8)
