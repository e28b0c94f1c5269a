"""A failed ADD frees the number that it was given, unless something else needs it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bgpcni.config.agent import AgentConfig
from bgpcni.convergence import catalog
from bgpcni.convergence.convergence import Convergence
from bgpcni.errors import InvalidConfiguration
from bgpcni.model import Attachment, Bgp, State
from bgpcni.node.node import Node
from bgpcni.node.numbers import NumbersInUse
from bgpcni.node.request import parse_request
from bgpcni.nudges import Nudges
from bgpcni.store import Store
from bgpcni.testing.memory import FACTS, Memory
from bgpcni.undo import Undo

SECONDS = 60


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "data", tmp_path / "run")
    yield made
    made.close()


@pytest.fixture(params=[True, False], ids=["agent", "call"])
def numbers(store: Store, request: pytest.FixtureRequest) -> NumbersInUse:
    return NumbersInUse(store, resident=request.param)


@contextmanager
def failing() -> Iterator[Undo]:
    """An ADD that fails when the block ends, and that error is the one seen."""
    with pytest.raises(InvalidConfiguration, match=r"^no$"), Undo() as undo:  # noqa: PT012 - the block is the test's
        yield undo
        raise InvalidConfiguration("no")


def fails(numbers: NumbersInUse, *names: str) -> list[int]:
    found: list[int] = []
    with failing() as undo:
        found += [numbers.of(name, undo) for name in names]
    return found


def works(numbers: NumbersInUse, *names: str) -> list[int]:
    with Undo() as undo:
        found = [numbers.of(name, undo) for name in names]
        undo.keep()
    return found


def put(store: Store, state: State, network: str, vrf: str | None = None) -> None:
    store.put(
        state,
        Attachment(
            boot_id="b", network=network, container_id="c", ifname="eth0", netns="/x", bgp=Bgp(family="vpn", vrf=vrf)
        ),
    )


def test_a_failed_add_burns_no_number(numbers: NumbersInUse) -> None:
    """However often it fails, and whatever it is called; the VRF's goes with the network's."""
    for n in range(5):
        assert fails(numbers, f"net{n}", f"vrf red{n}") == [1, 2]
    assert works(numbers, "other", "vrf blue") == [1, 2]


def test_what_was_given_out_before_stays(numbers: NumbersInUse) -> None:
    """A network keeps its number for good: its containers come and go, and some ADDs fail."""
    works(numbers, "a")
    works(numbers, "b")
    assert fails(numbers, "a") == [1]
    assert works(numbers, "c", "a") == [3, 1]


@pytest.mark.parametrize("first_fails", [True, False], ids=["first", "last"])
def test_of_two_at_once_the_one_that_works_keeps_it(numbers: NumbersInUse, first_fails: bool) -> None:
    """One fails while the other, which has the same number, has no record yet; or after that one is done."""
    began, go_on = threading.Event(), threading.Event()
    found: list[int] = []

    def second() -> None:
        with Undo() as undo:
            found.append(numbers.of("a", undo))
            began.set()
            assert go_on.wait(SECONDS)
            undo.keep()

    thread = threading.Thread(target=second)
    with failing() as undo:
        assert numbers.of("a", undo) == 1
        thread.start()
        assert began.wait(SECONDS)
        if not first_fails:
            go_on.set()
            thread.join(SECONDS)
    go_on.set()
    thread.join(SECONDS)
    assert found == [1]
    assert works(numbers, "b", "a") == [2, 1]


@pytest.mark.parametrize("state", list(State))
def test_what_a_record_names_stays(numbers: NumbersInUse, store: Store, state: State) -> None:
    """Its withdrawal is not confirmed: peers may still have routes with that route distinguisher."""
    with failing() as undo:
        assert [numbers.of(name, undo) for name in ("a", "vrf red", "vrf blue")] == [1, 2, 3]
        put(store, state, "a", "red")
    assert works(numbers, "b", "a", "vrf red") == [3, 1, 2]


def test_calls_without_an_agent_heed_each_other(store: Store) -> None:
    """Another process has the number and no record of it yet: the one that fails leaves it there."""
    first, second = NumbersInUse(store, resident=False), NumbersInUse(store, resident=False)
    with Undo() as undo:
        with failing() as lost:
            assert first.of("a", lost) == 1
            assert second.of("a", undo) == 1
        undo.keep()
    assert works(second, "b", "a") == [2, 1]


def test_a_disk_that_refuses_is_no_second_error(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """The cause is what the runtime sees; the number stays."""
    numbers = NumbersInUse(store, resident=True)
    with failing() as undo:
        numbers.of("a", undo)
        (store.path / "numbers.json").write_text("{")
    assert "a keeps its number: " in caplog.text


def test_an_add_that_fails_behind_its_plan_burns_no_number(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its plan has the number, as the RD; the next network gets it."""
    monkeypatch.setattr(catalog, "load", lambda kind: Memory)
    nudges = Nudges()
    node = Node(store, AgentConfig(default_exporters=("memory",)), FACTS, Convergence(FACTS, nudges), nudges)
    variables = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c", "CNI_NETNS": "/x", "CNI_IFNAME": "e", "CNI_PATH": "/o"}

    def rd(name: str, undo: Undo) -> str | None:
        body = {"cniVersion": "1.0.0", "name": name, "type": "bgpcni", "bgp": {"family": "vpn"}, "exportRT": "64512:1"}
        return node.routing(parse_request(variables, json.dumps(body).encode()), [], undo).bgp.rd

    for name in ("a", "b"):
        with failing() as undo:
            assert rd(name, undo) == f"{FACTS.router_id or 0}:1"
    with Undo() as undo:
        assert rd("c", undo) == f"{FACTS.router_id or 0}:1"
        undo.keep()
