"""What ADDs made of a bridge, noted while other ADDs of the same bridge succeed at that very moment."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bgpcni import locks
from bgpcni.kernel.bridge import Made
from bgpcni.node import made as module
from bgpcni.node.made import MadeOfBridges
from bgpcni.store import Store

NETLINK: Any = None


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    found = Store(tmp_path / "data", tmp_path / "run")
    yield found
    found.close()


@pytest.mark.parametrize("another", [False, True], ids=["deleted", "deleted and begun anew"])
def test_a_list_is_deleted_while_another_add_waits_for_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, another: bool
) -> None:
    """The first of many ADDs has succeeded: the others note what they made in a list of their own, and none fails."""
    made, file = MadeOfBridges(store), tmp_path / "run/bridges/cni0"
    obtain, times = locks.obtain, []

    def obtained(*arguments: Any, **named: Any) -> int:
        lock = obtain(*arguments, **named)
        times.append(lock)
        if len(times) == 1:
            made.keep("cni0")
            if another:
                file.touch()
        return lock

    monkeypatch.setattr(module.locks, "obtain", obtained)
    made.add(NETLINK, "cni0", Made("cni0", 7))
    assert len(times) == 2
    (line,) = file.read_text().splitlines()
    assert json.loads(line)["index"] == 7
    made.keep("cni0")
    assert not file.exists()
