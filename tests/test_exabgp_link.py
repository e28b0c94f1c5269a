"""The connection to the relay: who waits for an answer gets the right one, or is told at once that none will come."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from bgpcni.exporter import NotThereYet
from bgpcni.testing.patience import SECONDS, until
from bgpcni_exabgp import link as module
from bgpcni_exabgp import protocol
from bgpcni_exabgp.lines import Line, ask_state
from bgpcni_exabgp.link import Link


class Ends:
    """A link, and the relay's end of it, which the test is."""

    def __init__(self) -> None:
        ours, self.relay = socket.socketpair()
        self.link = Link(ours)
        self.relay.settimeout(SECONDS)
        self.taken = b""
        self.results: list[object] = []
        self.threads: list[threading.Thread] = []

    def take(self, count: int) -> list[str]:
        """So many lines that came."""
        while self.taken.count(b"\n") < count:
            self.taken += self.relay.recv(1 << 16)
        *lines, self.taken = self.taken.split(b"\n", count)
        return [line.decode() for line in lines]

    def answer(self, *answers: str) -> None:
        """Answer, and have the link's reading end take it in."""
        self.relay.sendall("".join(answer + "\n" for answer in answers).encode())
        for _ in answers:
            assert self.link.next(SECONDS) is not None

    def start(self, step: Callable[[], object]) -> threading.Thread:
        """A thread that does this; its result, or error, goes to `results`."""

        def run() -> None:
            try:
                self.results.append(step())
            except NotThereYet as error:
                self.results.append(str(error))

        thread = threading.Thread(target=run)
        self.threads.append(thread)
        thread.start()
        return thread

    def close(self) -> None:
        self.link.release()
        self.relay.close()
        for thread in self.threads:
            thread.join(SECONDS)


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.close()


def numbered(line: Line, number: int) -> None:
    pass


LINES = [Line(protocol.Spare((str(n),))) for n in range(4)]


def test_no_more_lines_go_than_the_window_has_room_for(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third line waits for the answer to the first; what was refused is returned, though answers have no number."""
    monkeypatch.setattr(module, "WINDOW", 2)
    thread = ends.start(lambda: ends.link.submit(LINES, numbered, time.monotonic() + SECONDS))
    first = ends.take(2)
    ends.relay.setblocking(False)
    with pytest.raises(BlockingIOError):
        ends.relay.recv(1)
    ends.relay.settimeout(SECONDS)
    ends.answer("done")
    second = ends.take(1)
    ends.answer("error", "done")
    third = ends.take(1)
    ends.answer("error")
    thread.join(SECONDS)
    assert ends.results == [[LINES[1], LINES[3]]]
    assert first + second + third == [line.text(n) for n, line in enumerate(LINES, 1)]


def test_the_answer_of_another_threads_line_is_not_mine(ends: Ends) -> None:
    """A line posted in between has its own answer, in its turn."""
    blocked, go_on = threading.Event(), threading.Event()

    def hold(line: Line, number: int) -> None:
        blocked.set()
        assert go_on.wait(SECONDS)

    mine = ends.start(lambda: ends.link.submit(LINES[:1], hold, time.monotonic() + SECONDS))
    assert blocked.wait(SECONDS)  # my line has its number, and is not sent yet
    other = ends.start(lambda: ends.link.post(LINES[1], numbered) and None)
    go_on.set()
    other.join(SECONDS)
    assert ends.take(2) == [LINES[0].text(1), LINES[1].text(2)]
    ends.answer("done", "error")
    mine.join(SECONDS)
    assert ends.results == [None, []]


@pytest.mark.parametrize("by", ["relay", "us"])
def test_who_waits_is_told_that_the_connection_is_lost(ends: Ends, by: str) -> None:
    """At once, not at the deadline: whether the relay went or we close."""
    thread = ends.start(lambda: ends.link.submit(LINES[:1], numbered, time.monotonic() + 3600))
    ends.take(1)
    if by == "relay":
        ends.relay.shutdown(socket.SHUT_RDWR)
        assert ends.link.next(SECONDS) is None
    ends.link.close()
    thread.join(SECONDS)
    assert ends.results == ["exabgp: the connection to it is lost"]
    assert ends.link.next(SECONDS) is None


def test_a_question_takes_no_number(ends: Ends) -> None:
    """The engine does not count it, so what is compared with the newest number waits for nothing that never comes."""
    ends.link.number = 7
    ends.link.post(ask_state())
    assert ends.take(1) == ["bgpcni state"]
    assert ends.link.number == 7


def test_an_answer_that_is_late_counts_for_its_own_line(ends: Ends) -> None:
    """Who gave up at the deadline leaves the answer to come; the next one who asks does not take it for his own."""
    with pytest.raises(NotThereYet, match="does not answer"):
        ends.link.submit(LINES[:1], numbered, time.monotonic())
    assert ends.link.owed() > 0
    thread = ends.start(lambda: ends.link.submit(LINES[1:2], numbered, time.monotonic() + SECONDS))
    ends.take(2)
    ends.answer("error")
    assert ends.results == []
    ends.answer("done")
    thread.join(SECONDS)
    assert ends.results == [[]]
    until(lambda: ends.link.owed() == 0)
