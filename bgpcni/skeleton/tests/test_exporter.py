"""The exporter `example` keeps what every exporter promises. The suite is bgpcni's; how the speaker is run is ours."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from bgpcni_example import Example

from bgpcni.exporter import Exporter, Wake
from bgpcni.model import Announcement, NodeFacts, UnicastNlri, VpnNlri
from bgpcni.testing import ExporterSuite, Speaker
from bgpcni.testing.patience import until

TOY = Path(__file__).with_name("toy.py")


class Toy(Speaker):
    """The toy as a process that can be ended, stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "toy.sock"
        self.start()

    def exporter(self, wake: Wake) -> Exporter:
        return Example("example", Example.Config(socket=str(self.path)), NodeFacts(run_dir="/", data_dir="/"), wake)

    def route(self, number: int, network: str = "net") -> Announcement:
        prefix = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}/32"
        return Announcement(UnicastNlri.of(prefix), network, "192.0.2.1")

    def table(self) -> set[str]:
        return {line.split()[0] for line in self.ask("list")}

    def unwanted(self) -> Announcement:
        return Announcement(VpnNlri.of("10.9.9.9/32", "192.0.2.1:1"), "net", "192.0.2.1")

    def foreign(self) -> str:
        self.ask("add 10.8.8.8/32 192.0.2.2 somebody")
        return "10.8.8.8/32"

    def ask(self, line: str) -> list[str]:
        with socket.socket(socket.AF_UNIX) as toy:
            toy.connect(str(self.path))
            toy.sendall(f"{line}\n".encode())
            lines = []
            for answer in toy.makefile():
                if answer == "ok\n":
                    break
                lines.append(answer)
            return lines

    def empty(self) -> None:
        self.stop()
        self.start()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self.path.unlink(missing_ok=True)

    def start(self) -> None:
        self._process = subprocess.Popen([sys.executable, str(TOY), str(self.path)])
        until(self._answers)

    def _answers(self) -> bool:
        try:
            return self.ask("list") is not None
        except OSError:
            return False

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    @contextmanager
    def impostor(self, answer: bytes) -> Iterator[None]:
        self.stop()
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(self.path))
            server.listen(16)

            def serve() -> None:
                while True:
                    try:
                        guest, _ = server.accept()
                        with guest:
                            guest.sendall(answer)
                    except OSError:
                        if server.fileno() < 0 or ended.is_set():
                            return

            ended = threading.Event()
            threading.Thread(target=serve, daemon=True).start()
            yield
            ended.set()
            server.shutdown(socket.SHUT_RDWR)


class TestExample(ExporterSuite, without=["deaf"]):
    @pytest.fixture
    def speaker(self, tmp_path: Path) -> Iterator[Toy]:
        toy = Toy(tmp_path)
        yield toy
        toy.resume()
        toy.stop()
