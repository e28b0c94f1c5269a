"""The example of `docs/writing-an-exporter.md` against a real BIRD."""

from __future__ import annotations

import importlib.util
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import ParamSpec, TypeVar

import pytest

from bgpcni.convergence.catalog import unfit
from bgpcni.exporter import Exporter, Wake
from bgpcni.model import Announcement, Family, Nlri, NodeFacts
from bgpcni.testing import ExporterSuite, Speaker
from integration.lab import Lab, until

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
Value = TypeVar("Value")
Arguments = ParamSpec("Arguments")


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("example_exporter", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["example_exporter"] = module
    spec.loader.exec_module(module)
    return module


class Bird(Speaker):
    """BIRD in a network namespace; what is in its table is what it would announce."""

    def __init__(self, lab: Lab, program: str) -> None:
        self.folder = lab.folder / "bird"
        self.folder.mkdir()
        self.namespace = lab.namespace("bird")
        self.program = program
        self.file, self.control = self.folder / "containers.conf", self.folder / "ctl"
        self.file.touch()
        (self.folder / "conf").write_text(CONFIG % self.file)
        self.process: subprocess.Popen[str] | None = None
        self.start()
        lab.callback(self.stop)

    def exporter(self, wake: Wake) -> Exporter:
        kind = load().BirdFile
        config = kind.Config(file=str(self.file), socket=str(self.control))
        made: Exporter = kind("bird", config, NodeFacts(run_dir="/", data_dir="/"), wake)
        return made

    def route(self, number: int, network: str = "net") -> Announcement:
        prefix = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}/32"
        return Announcement(Nlri(Family.IPV4_UNICAST, "unicast", prefix=prefix), network, "192.0.2.1")

    def table(self) -> set[str]:
        shown = subprocess.run(
            [f"{self.program}c", "-s", str(self.control), "show", "route", "protocol", "containers"],
            capture_output=True, text=True, check=True, timeout=60,
        ).stdout  # fmt: skip
        own = {line.split()[0] for line in shown.splitlines() if "blackhole" in line}
        return own | ({"10.9.9.9/32"} if self._others else set())

    _others = False

    def unwanted(self) -> Announcement:
        return Announcement(Nlri(Family.IPV6_UNICAST, "unicast", prefix="2001:db8::1/128"), "net", "2001:db8::2")

    def foreign(self) -> str:
        self._others = True
        return "10.9.9.9/32"

    def start(self) -> None:
        argv = (self.program, "-f", "-c", self.folder / "conf", "-s", self.control, "-P", self.folder / "pid")
        self.process = self.namespace.popen(*argv, log=self.folder / "log")
        until(self._answers, "BIRD's answer")

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as bird:
            bird.connect(str(self.control))
            return True

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(60)

    def pause(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    @contextmanager
    def impostor(self, answer: bytes) -> Iterator[None]:
        self.stop()
        self.control.unlink(missing_ok=True)
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(self.control))
        server.listen()

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    try:
                        client.sendall(answer)
                    except OSError:
                        pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown(socket.SHUT_RDWR)
            server.close()
            thread.join(30)


class TestExample(ExporterSuite, without=["empty"]):
    """BIRD reads the file when it starts: it forgets nothing."""

    @pytest.fixture
    def speaker(self, lab: Lab) -> Bird:
        program = shutil.which("bird", path="/usr/sbin:/usr/bin:/sbin")
        if program is None:
            pytest.skip("not installed: bird3")
        return Bird(lab, program)


def test_the_example_is_as_short_as_it_says() -> None:
    """A complete exporter in under a hundred lines, fit to be loaded."""
    assert len(FILE.read_text().splitlines()) < 100
    assert unfit(load().BirdFile) == ""
