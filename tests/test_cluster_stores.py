"""Stores are found by name, as exporters are, and an error says what to install."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint

import pytest
from stevedore import driver

from bgpcni.cluster import stores
from bgpcni.cluster.etcd import Etcd
from bgpcni.config.agent import ClusterTable
from bgpcni.errors import InvalidConfiguration

TABLE = ClusterTable.model_validate({"store": "etcd", "etcd": {"endpoints": ["http://127.0.0.1:1"]}})


def test_etcd_is_installed_under_its_name() -> None:
    """Nothing is asked of it yet."""
    store = stores.open_store(TABLE)
    assert isinstance(store, Etcd)
    store.close()


def test_without_its_library_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent.toml with `[cluster]` where the extra is missing."""
    monkeypatch.setitem(sys.modules, "bgpcni.cluster.etcd", None)
    with pytest.raises(InvalidConfiguration, match=r"cluster\.store: etcd: .* pip install 'bgpcni\[etcd\]'"):
        stores.open_store(TABLE)


def test_a_store_that_is_not_installed_is_named_with_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with exporters."""
    monkeypatch.setattr(stores, "GROUP", "bgpcni.nothing")
    with pytest.raises(InvalidConfiguration, match="no store 'etcd' is installed; installed: none"):
        stores.open_store(TABLE)


def test_what_is_no_store_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the agent serves with it."""

    class Manager:
        driver = EntryPoint

        def __init__(self, *given: object, **more: object) -> None:
            pass

    monkeypatch.setattr(driver, "DriverManager", Manager)
    with pytest.raises(InvalidConfiguration, match=r"etcd is no bgpcni\.cluster\.store\.Store"):
        stores.open_store(TABLE)
