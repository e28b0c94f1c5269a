"""The store of the unit tests keeps what every store promises, so that what is shown with it is true of others."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest

from bgpcni.testing.memory_store import MemoryStore, Table
from bgpcni.testing.store_suite import StorePlace, StoreSuite

T = TypeVar("T")


class Place(StorePlace):
    def __init__(self) -> None:
        self.table = Table()

    def store(self) -> MemoryStore:
        return MemoryStore(self.table)

    def call(self, what: Callable[[], T]) -> T:
        return what()

    def stop(self) -> None:
        self.table.leave()

    def start(self) -> None:
        self.table.away = False

    def forget(self) -> None:
        self.table.compacted = self.table.revision


@pytest.fixture
def place() -> Place:
    return Place()


class TestMemoryStore(StoreSuite):
    def write_nonsense(self, place: StorePlace, kind: str, name: str) -> None:
        assert isinstance(place, Place)
        with place.table.moved:
            place.table.change((kind, name), None, broken=f"memory {kind}/{name}: no JSON")
