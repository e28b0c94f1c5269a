"""Exporters by name: a stranger's package is found, a broken one is an error in words and nobody else's."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bgpcni.convergence import catalog
from bgpcni.errors import InvalidConfiguration
from bgpcni.model import ExporterUse

MODULE = """\
from typing import Any
from bgpcni.exporter import Exporter
class Good(Exporter):
    class Config(Exporter.Config):
        port: int = 1
    families = frozenset()
    def announce(self, routes, deadline): return []
    def withdraw(self, routes, deadline): return []
    def prune(self, keep, spare, deadline): pass
    def close(self): pass
class Old(Good):
    contract = 0
class Stranger:
    pass
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A distribution of somebody else's with exporters of every kind."""
    (tmp_path / "strangers_exporter.py").write_text(MODULE)
    (tmp_path / "strangers_broken.py").write_text("raise RuntimeError('no such speaker')")
    info = tmp_path / "strangers-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strangers\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[bgpcni.exporters]\nx-good = strangers_exporter:Good\nx-old = strangers_exporter:Old\n"
        "x-class = strangers_exporter:Stranger\nx-broken = strangers_broken:Any\n"
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path))
    catalog.load.cache_clear()
    yield
    catalog.load.cache_clear()
    for name in ("strangers_exporter", "strangers_broken"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("installed")
class TestStrangers:
    """pip install is all it takes."""

    def test_a_strangers_exporter_is_found_and_configured(self) -> None:
        assert catalog.load("x-good").__name__ == "Good"
        assert "x-good" in catalog.installed()
        assert catalog.configure(ExporterUse(name="a", type="x-good", config={"port": 5}), "exporters[0]").port == 5  # type: ignore[attr-defined]

    def test_a_wrong_option_is_named_with_its_place(self) -> None:
        use = ExporterUse(name="a", type="x-good", config={"prot": 5, "port": "x"})
        with pytest.raises(InvalidConfiguration, match=r"exporters\[0\]\.port: .*exporters\[0\]\.prot: unknown key"):
            catalog.configure(use, "exporters[0]")

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("x-none", "'x-none' is not installed; installed: .*exabgp.*x-good"),
            ("x-old", "'x-old' is written for contract 0, this is contract 1"),
            ("x-class", "'x-class' is not an Exporter class"),
            ("x-broken", "'x-broken' cannot be loaded: no such speaker"),
        ],
    )
    def test_what_is_wrong_with_an_exporter_is_said(self, name: str, words: str) -> None:
        with pytest.raises(InvalidConfiguration, match=words):
            catalog.load(name)


def test_ours_are_installed() -> None:
    assert "exabgp" in catalog.installed()
    assert catalog.load("exabgp").needs_agent


def test_options_decide_which_instance_it_is() -> None:
    """The same options in any order: the same speaker. A name given decides alone."""
    one = catalog.identify("bagpipe", {"a": 1, "b": 2}, None)
    assert catalog.identify("bagpipe", {"b": 2, "a": 1}, None) == one
    assert catalog.identify("bagpipe", {"a": 2, "b": 1}, None).name != one.name
    assert catalog.identify("bagpipe", {}, None).name == "bagpipe"
    assert catalog.identify("bagpipe", {"a": 1}, "fabric").name == "fabric"
