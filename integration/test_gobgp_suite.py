"""The gobgp exporter against the real daemon with FRR as its peer: what every exporter promises, and what this one
does besides."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from bgpcni.exporter import Exporter, Wake
from bgpcni.model import Announcement, Family, Nlri, NodeFacts
from bgpcni.testing import ExporterSuite, Speaker
from bgpcni.testing.suite import Life
from integration.gobgp import GoBGP
from integration.lab import Frr, Lab, Neighbor, NotHere, link

grpc = pytest.importorskip("grpc", reason="grpcio is not installed: pip install bgpcni[gobgp]")

from bgpcni_gobgp import GoBGP as GoBGPExporter  # noqa: E402  # needs grpc

HERE, THERE, ASN = "198.18.1.2", "198.18.1.1", 64512
HERE6 = "2001:db8:18:1::2"


class Daemon(Speaker):
    """gobgpd in one namespace, FRR in another: the table is FRR's."""

    def __init__(self, lab: Lab) -> None:
        self.frr: Frr = lab.frr(neighbors=[Neighbor(HERE, ASN)])
        namespace = lab.namespace("gobgp")
        link(namespace, self.frr.namespace, "uplink", "gobgp", (f"{HERE}/24", f"{HERE6}/64"), (f"{THERE}/24",))
        self.daemon = GoBGP(lab, namespace, HERE, THERE, ASN)
        self._folder = str(lab.folder)
        self._target = self.daemon.target
        self.start()

    def exporter(self, wake: Wake) -> Exporter:
        facts = NodeFacts(run_dir=self._folder, data_dir=self._folder)
        return GoBGPExporter("gobgp", GoBGPExporter.Config(target=self._target), facts, wake)

    def route(self, number: int, network: str = "net") -> Announcement:
        return unicast(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}/32", network)

    def table(self) -> set[str]:
        return set(self.frr.json("show bgp ipv4 unicast").get("routes", {}))

    def unwanted(self) -> Announcement:
        return replace(unicast("10.9.9.8/32"), next_hop="2001:db8::1")

    def foreign(self) -> str:
        self.daemon.command("global", "rib", "add", "10.9.9.9/32", "nexthop", HERE)
        return "10.9.9.9/32"

    def empty(self) -> None:
        self.stop()
        self.start()

    def stop(self) -> None:
        self.daemon.kill()

    def start(self) -> None:
        self.daemon.start()

    def pause(self) -> None:
        self.daemon.pause()

    def resume(self) -> None:
        self.daemon.resume()

    @contextmanager
    def impostor(self, answer: bytes) -> Iterator[None]:
        path = f"{self._folder}/false.sock"
        server = socket.socket(socket.AF_UNIX)
        server.bind(path)
        server.listen()

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    client.settimeout(5)
                    try:
                        client.recv(1 << 16)
                        client.sendall(answer)
                    except OSError:
                        pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        self._target = f"unix:{path}"
        try:
            yield
        finally:
            self._target = self.daemon.target
            server.shutdown(socket.SHUT_RDWR)
            server.close()
            thread.join(30)


def unicast(prefix: str, network: str = "net") -> Announcement:
    if ":" in prefix:
        return Announcement(Nlri(Family.IPV6_UNICAST, "unicast", prefix=prefix), network, HERE6)
    return Announcement(Nlri(Family.IPV4_UNICAST, "unicast", prefix=prefix), network, HERE)


@pytest.fixture
def speaker(lab: Lab) -> Daemon:
    try:
        return Daemon(lab)
    except NotHere as error:
        pytest.skip(str(error))


@pytest.fixture
def life(speaker: Daemon) -> Iterator[Life]:
    life = Life(speaker)
    yield life
    life.exporter.close()


class TestGoBGP(ExporterSuite):
    @pytest.fixture
    def speaker(self, speaker: Daemon) -> Daemon:
        return speaker
