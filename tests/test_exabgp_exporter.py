"""The exporter's threads among themselves; what it does with a real ExaBGP is in the integration tests."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bgpcni.exporter import NotThereYet, Outcome, Reach
from bgpcni.model import Announcement, Family, Neighbor, Nlri, NodeFacts, UnicastNlri
from bgpcni.testing import Woken
from bgpcni.testing.patience import SECONDS, until
from bgpcni_exabgp import ExaBGP, protocol
from bgpcni_exabgp.advertised import Advertised
from bgpcni_exabgp.dialect import EngineDialect
from bgpcni_exabgp.events import Events
from bgpcni_exabgp.lines import Line
from bgpcni_exabgp.quarantine import Trial
from bgpcni_exabgp.received import AdjRibIn
from bgpcni_exabgp.receiver import Receiver
from bgpcni_exabgp.shared import Shared

ONE, TWO = "192.0.2.1", "192.0.2.2"
V4 = Family.IPV4_UNICAST


def route(number: int) -> Announcement:
    return Announcement(UnicastNlri(V4, f"10.0.0.{number}/32"), "net", "192.0.2.9")


def facts(folder: Path, *addresses: str) -> NodeFacts:
    neighbors = tuple(Neighbor(address, 64512, (V4,), 90) for address in addresses)
    return NodeFacts(run_dir=str(folder), data_dir=str(folder), asn=64512, neighbors=neighbors)


class Lock:
    """A lock that tells when somebody has to wait for it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.awaited = threading.Event()

    def acquire(self, *arguments: Any) -> bool:
        if not self._lock.acquire(blocking=False):
            self.awaited.set()
            return self._lock.acquire(*arguments)
        return True

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class FakeLink:
    """A connection that takes every line; `hook` is called where the thread `reader` asks for the newest number."""

    def __init__(self) -> None:
        self.hook: Callable[[], object] = lambda: None

    @property
    def number(self) -> int:
        if threading.current_thread().name == "reader":
            self.hook()
        return 7

    @number.setter
    def number(self, value: int) -> None:
        pass

    def submit(self, lines: Iterable[Line], numbered: Callable[[Line, int], None], deadline: float) -> list[Line]:
        for line in lines:
            numbered(line, 7)
        return []


def state(version: int, *neighbors: protocol.NeighborState) -> protocol.EngineState:
    return protocol.EngineState(version, 4, "", neighbors)


def test_a_trial_that_ends_while_routes_are_announced() -> None:
    """The thread that reads takes it off while the one that announces goes through all trials."""
    shared = Shared(Advertised([Neighbor(address, 64512, (V4,), 90) for address in (ONE, TWO)], 120, 0.0))
    lock, link = Lock(), FakeLink()
    about_to_end, going_through = threading.Event(), threading.Event()
    shared.lock = threading.Condition(lock)  # type: ignore[arg-type]
    shared.advertised.connected()
    shared.advertised.up(shared.advertised.sessions[TWO], frozenset({V4}), 0, 0.0)
    trials = shared.quarantine.trials
    dialect = EngineDialect(link, shared, 64512, state(3))  # type: ignore[arg-type]

    class Other(Trial):
        def waiting(self) -> set[Nlri]:
            going_through.set()
            until(lambda: TWO not in trials or lock.awaited.is_set())
            return super().waiting()

    trials |= {ONE: Other(ONE, "words", {route(1).nlri: route(1)}), TWO: Trial(TWO, "words", {})}

    def hold_up() -> None:
        about_to_end.set()
        assert going_through.wait(SECONDS)

    link.hook = hold_up
    reader = threading.Thread(target=dialect.try_suspects, name="reader")
    reader.start()
    assert about_to_end.wait(SECONDS)
    lock.awaited.clear()
    outcomes = dialect.announce([route(2)], time.monotonic() + SECONDS)
    reader.join(SECONDS)
    assert len(outcomes) == 1
    assert set(trials) == {ONE}


@pytest.mark.parametrize("version", protocol.ACCEPTED)
def test_an_engine_that_an_earlier_agent_started(tmp_path: Path, version: int) -> None:
    """An upgrade of the agent, or of the speaker, ends no session."""
    node = facts(tmp_path, ONE)
    shared = Shared(Advertised(node.neighbors, 120, 0.0))
    events = Events(node, shared, Receiver("test", AdjRibIn(), shared.post), Woken(), configured=True)
    found = protocol.NeighborState(
        peer=ONE, asn=64512, configured=(), hold=90, state="ESTABLISHED", since=0.0, families=("ipv4/unicast",),
        started=4, sent=4, acked=4, eor=(), ended=(),
    )  # fmt: skip
    known = state(version, found)
    dialect = EngineDialect(FakeLink(), shared, 64512, known)  # type: ignore[arg-type]
    events.connected(dialect, protocol.Hello(1, {}, (), 0), known)
    shared.advertised.withdrawn(route(1).nlri, 4)
    reach = lambda: dialect.outcomes([route(1).nlri])[0].reach  # noqa: E731
    assert reach() is Reach.WANTED
    events.hear(dialect, protocol.EndOfRibSent(ONE, "ipv4/unicast"))
    assert reach() is Reach.SENT
    events.hear(dialect, protocol.EndOfRibAcked(ONE, "ipv4/unicast"))
    assert reach() is Reach.ACKED


class Relay:
    """The relay of a user's own ExaBGP, which is the test: it accepts a connection and says what it is told to say."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "relay.sock")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._listener.settimeout(SECONDS)
        self._connections: list[socket.socket] = []

    def accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(SECONDS)
        self._connections.append(connection)
        self._lines = connection.makefile()

    def say(self, *lines: str) -> None:
        self._connections[-1].sendall("".join(line + "\n" for line in lines).encode())

    def hear(self) -> str:
        return self._lines.readline().rstrip("\n")

    def greet(self) -> None:
        """As a stock ExaBGP with one session."""
        self.accept()
        self.say(json.dumps({"relay": {"version": 1, "up": {ONE: ["ipv4/unicast"]}, "down": [], "lost": 0}}))
        assert self.hear() == "bgpcni state"
        self.say("error")

    def hang_up(self) -> None:
        self._lines.close()
        self._connections[-1].shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for one in (*self._connections, self._listener):
            one.close()


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Relay]:
    made = Relay(tmp_path)
    yield made
    made.close()


@pytest.fixture
def exporter(tmp_path: Path, relay: Relay) -> Iterator[ExaBGP]:
    made = ExaBGP("own", ExaBGP.Config(socket=relay.path), facts(tmp_path), Woken())
    yield made
    made.close()


class Verb(threading.Thread):
    """A verb that is called in a thread of its own, as the announcer calls it."""

    def __init__(self, verb: Callable[..., list[Outcome]], *routes: Announcement) -> None:
        super().__init__(daemon=True)
        self.result: list[Outcome] | str = []
        self._verb = verb
        self._routes = routes
        self.start()

    def run(self) -> None:
        try:
            self.result = self._verb(self._routes, time.monotonic() + SECONDS)
        except NotThereYet as error:
            self.result = str(error)

    def done(self) -> list[Outcome] | str:
        self.join(SECONDS)
        assert not self.is_alive()
        return self.result


def test_a_verb_waits_for_the_connection_and_goes_on_with_it(exporter: ExaBGP, relay: Relay) -> None:
    """It is called before there is one; what it answers is what ExaBGP said."""
    verb = Verb(exporter.announce, route(1))
    relay.accept()
    assert verb.is_alive()
    relay.say('{"relay": {"version": 1, "up": {"192.0.2.1": ["ipv4/unicast"]}, "down": [], "lost": 0}}')
    assert relay.hear() == "bgpcni state"
    relay.say("error")
    assert relay.hear() == "announce route 10.0.0.1/32 next-hop 192.0.2.9"
    assert verb.is_alive()
    relay.say("done")
    assert verb.done() == [Outcome(Reach.ACCEPTED)]
    assert exporter.acks == "accepted"


def test_a_connection_that_ends_while_a_verb_waits_for_its_answer(exporter: ExaBGP, relay: Relay) -> None:
    """The verb fails at once, all routes count as not told, and the next connection begins anew."""
    verb = Verb(exporter.announce, route(1))
    relay.greet()
    assert relay.hear().startswith("announce route")
    relay.hang_up()
    assert verb.done() == "exabgp: the connection to it is lost"
    until(lambda: exporter.progress([route(1)])[0].reach is Reach.WANTED)
    relay.greet()
    again = Verb(exporter.announce, route(1))
    assert relay.hear().startswith("announce route")
    relay.say("done")
    assert again.done() == [Outcome(Reach.ACCEPTED)]


@pytest.mark.parametrize("when", ["accepted", "asked", "connected"])
def test_close_ends_every_wait(exporter: ExaBGP, relay: Relay, when: str) -> None:
    """Wherever the other threads are: before the relay has said anything, before ExaBGP answered, within a verb."""
    verb = Verb(exporter.announce, route(1))
    if when == "connected":
        relay.greet()
        assert relay.hear().startswith("announce route")
    else:
        relay.accept()
        if when == "asked":
            relay.say('{"relay": {"version": 1, "up": {}, "down": [], "lost": 0}}')
            assert relay.hear() == "bgpcni state"
    closing = threading.Thread(target=exporter.close, daemon=True)
    closing.start()
    closing.join(SECONDS)
    assert not closing.is_alive()
    assert isinstance(verb.done(), str)


def test_a_line_that_breaks_the_protocol_ends_the_connection(exporter: ExaBGP, relay: Relay) -> None:
    """The reason says which event, which field, and what is wrong with it."""
    verb = Verb(exporter.announce, route(1))
    relay.greet()
    assert relay.hear().startswith("announce route")
    relay.say('{"bgpcni": "sent", "peer": "192.0.2.1"}')
    assert isinstance(verb.done(), str)
    until(lambda: "event sent: seq is missing" in exporter.progress([route(1)])[0].reason)
