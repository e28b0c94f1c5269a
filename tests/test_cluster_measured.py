"""A store that is measured keeps what every store promises, and each request is counted with what came of it."""

from __future__ import annotations

import inspect

import pytest

from bgpcni.cluster.measured import Measured
from bgpcni.cluster.objects import parse
from bgpcni.cluster.store import Conflict, Store, TooOld, Trouble
from bgpcni.testing.memory_store import MemoryStore, Table
from tests.test_cluster_memory_store import Place
from tests.test_cluster_memory_store import TestMemoryStore as Suite

NODE = parse({"apiVersion": "bgpcni.dev/v1alpha1", "kind": "BGPNode", "metadata": {"name": "a"}, "spec": {}})


class MeasuredPlace(Place):
    def store(self) -> Store:  # type: ignore[override]
        return Measured(super().store(), lambda operation, seconds, reason: None)


class TestMeasured(Suite):
    @pytest.fixture
    def place(self) -> Place:
        return MeasuredPlace()


def test_each_request_is_told_with_what_came_of_it() -> None:
    told: list[tuple[str, bool, str]] = []
    table = Table()
    store = Measured(MemoryStore(table), lambda name, seconds, reason: told.append((name, seconds is not None, reason)))
    kept = store.create(NODE)
    with pytest.raises(Conflict):
        store.create(NODE)
    store.swap(NODE, kept.version)
    with pytest.raises(Conflict):
        store.swap(NODE, kept.version)
    assert store.get(NODE.path) is not None
    listing = store.list()
    store.delete(NODE.path)
    table.compacted = table.revision
    with pytest.raises(TooOld):
        list(store.watch(listing.revision))
    table.leave()
    with pytest.raises(Trouble):
        store.list()
    assert told == [
        ("create", True, ""), ("create", True, "conflict"), ("swap", True, ""), ("swap", True, "conflict"),
        ("get", True, ""), ("list", True, ""), ("delete", True, ""), ("watch", False, "too-old"),
        ("list", True, "trouble"),
    ]  # fmt: skip


def test_no_method_of_a_store_is_forgotten() -> None:
    """One that is new in the contract is passed on to the store as well."""
    ours = {name for name, _ in inspect.getmembers(Measured, inspect.isfunction) if name in vars(Measured)}
    assert {name for name, _ in inspect.getmembers(Store, inspect.isfunction) if not name.startswith("_")} <= ours
