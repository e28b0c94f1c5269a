"""The example of `docs/writing-an-exporter.md` against a real BIRD."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from bgpcni.convergence.catalog import unfit
from bgpcni.exporter import Exporter, Wake
from bgpcni.model import Announcement, NodeFacts, UnicastNlri
from bgpcni.testing import ExporterSuite
from integration.bird import Bird
from integration.lab import Lab
from integration.speakers import DaemonSpeaker, impostor, listening

FILE = Path(__file__).parents[1] / "docs/example_exporter.py"
CONFIG = """
router id 192.0.2.1;
protocol device { }
protocol static others { ipv4; route 10.9.9.9/32 blackhole; }
protocol static containers {
    ipv4;
    include "%s";
}
"""


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("example_exporter", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["example_exporter"] = module
    spec.loader.exec_module(module)
    return module


class Reader(DaemonSpeaker):
    """BIRD in a network namespace; what is in its table is what it would announce."""

    daemon: Bird

    def __init__(self, lab: Lab) -> None:
        self.file = lab.folder / "containers.conf"
        self.file.touch()
        self.daemon = Bird(lab, lab.namespace("bird"), CONFIG % self.file)
        self._others = False
        self.start()

    def exporter(self, wake: Wake) -> Exporter:
        kind = load().BirdFile
        config = kind.Config(file=str(self.file), socket=str(self.daemon.control))
        made: Exporter = kind("bird", config, NodeFacts(run_dir="/", data_dir="/"), wake)
        return made

    def route(self, number: int, network: str = "net") -> Announcement:
        prefix = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}/32"
        return Announcement(UnicastNlri.of(prefix), network, "192.0.2.1")

    def table(self) -> set[str]:
        shown = self.daemon.show("route", "protocol", "containers")
        own = {line.split()[0] for line in shown.splitlines() if "blackhole" in line}
        return own | ({"10.9.9.9/32"} if self._others else set())

    def unwanted(self) -> Announcement:
        return Announcement(UnicastNlri.of("2001:db8::1/128"), "net", "2001:db8::2")

    def foreign(self) -> str:
        self._others = True
        return "10.9.9.9/32"

    @contextmanager
    def impostor(self, answer: bytes) -> Iterator[None]:
        self.stop()
        self.daemon.control.unlink(missing_ok=True)
        with impostor(listening(str(self.daemon.control)), answer):
            yield


class TestExample(ExporterSuite, without=["empty"]):
    """BIRD reads the file when it starts: it forgets nothing."""

    @pytest.fixture
    def speaker(self, lab: Lab) -> Reader:
        return Reader(lab)


def test_the_example_is_as_short_as_it_says() -> None:
    """A complete exporter in under a hundred lines, fit to be loaded."""
    assert len(FILE.read_text().splitlines()) < 100
    assert unfit(load().BirdFile) == ""
