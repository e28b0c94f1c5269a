"""The exporter's threads among themselves; what it does with a real ExaBGP is in the integration tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from bgpcni.exporter import Reach
from bgpcni.model import Announcement, Family, Neighbor, Nlri, NodeFacts, UnicastNlri
from bgpcni.testing import Woken
from bgpcni.testing.patience import SECONDS, until
from bgpcni_exabgp import ExaBGP
from bgpcni_exabgp.lines import PROTOCOLS, Line
from bgpcni_exabgp.trial import Trial

ONE, TWO = "192.0.2.1", "192.0.2.2"


def route(number: int) -> Announcement:
    return Announcement(UnicastNlri.of(f"10.0.0.{number}/32"), "net", "192.0.2.9")


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

    def submit(self, lines: Iterable[Line], numbered: Callable[[Line, int], None], deadline: float) -> list[Line]:
        for line in lines:
            numbered(line, 7)
        return []


def test_a_trial_that_ends_while_routes_are_announced(tmp_path: Path) -> None:
    """The thread that reads takes it off while the one that announces goes through all trials."""
    families = (Family.IPV4_UNICAST,)
    neighbors = tuple(Neighbor(address, 64512, families, 90) for address in (ONE, TWO))
    facts = NodeFacts(run_dir=str(tmp_path), data_dir=str(tmp_path), asn=64512, neighbors=neighbors)
    exporter = ExaBGP("exabgp", ExaBGP.Config(), facts, Woken())
    lock, link = Lock(), FakeLink()
    about_to_end, going_through = threading.Event(), threading.Event()
    exporter._lock = threading.Condition(lock)  # type: ignore[arg-type]
    exporter._link = link  # type: ignore[assignment]
    exporter._thread = threading.current_thread()  # none is started
    exporter._ledger.connected()
    exporter._ledger.up(exporter._ledger.sessions[TWO], ["ipv4/unicast"], 0, 0.0)

    class Other(Trial):
        def waiting(self) -> set[Nlri]:
            going_through.set()
            until(lambda: TWO not in exporter._trials or lock.awaited.is_set())
            return super().waiting()

    exporter._trials = {ONE: Other(ONE, "words", {route(1).nlri: route(1)}), TWO: Trial(TWO, "words", {})}

    def hold_up() -> None:
        about_to_end.set()
        assert going_through.wait(SECONDS)

    link.hook = hold_up
    reader = threading.Thread(target=exporter._try_next, args=[link], name="reader")
    reader.start()
    assert about_to_end.wait(SECONDS)
    lock.awaited.clear()
    outcomes = exporter.announce([route(2)], time.monotonic() + SECONDS)
    reader.join(SECONDS)
    assert len(outcomes) == 1
    assert set(exporter._trials) == {ONE}


@pytest.mark.parametrize("protocol", [2, 3])
def test_an_engine_that_an_earlier_agent_started(tmp_path: Path, protocol: int) -> None:
    """An upgrade of the agent ends no session: of an engine that does not tell when End-of-RIB is acknowledged, it
    counts when it is in the socket."""
    families = (Family.IPV4_UNICAST,)
    facts = NodeFacts(
        run_dir=str(tmp_path), data_dir=str(tmp_path), asn=64512, neighbors=(Neighbor(ONE, 64512, families, 90),)
    )
    assert protocol in PROTOCOLS
    exporter = ExaBGP("exabgp", ExaBGP.Config(), facts, Woken())
    found = {"peer": ONE, "families": ["ipv4/unicast"], "started": 4, "since": 0.0, "sent": 4, "acked": 4, "eor": []}
    if protocol == 3:
        found["ended"] = []
    exporter._ledger.connected()
    exporter._adopt_state({"protocol": protocol, "neighbors": [found]}, 0.0)
    exporter._ledger.withdrawn(route(1).nlri, 4)
    reach = lambda: exporter.progress([route(1)])[0].reach  # noqa: E731
    assert reach() is Reach.WANTED
    link: Any = FakeLink()
    exporter._hear(link, {"bgpcni": "eor", "peer": ONE, "family": "ipv4/unicast"})
    assert reach() is (Reach.ACKED if protocol == 2 else Reach.SENT)
    exporter._hear(link, {"bgpcni": "ended", "peer": ONE, "family": "ipv4/unicast"})
    assert reach() is Reach.ACKED
