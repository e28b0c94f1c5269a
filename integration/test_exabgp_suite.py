"""The ExaBGP exporter against the real ExaBGP and FRR: what every exporter promises."""

from __future__ import annotations

import os
import signal
from contextlib import AbstractContextManager

import pytest

from bgpcni.exporter import Exporter, Wake
from bgpcni.model import Announcement
from bgpcni.testing import ExporterSuite
from bgpcni_exabgp import ExaBGP
from integration.exabgp_bench import Bench, bench, facts, pid_of, unicast
from integration.lab import Frr, Lab
from integration.seen import cut_off
from integration.speakers import SpeakerInside


class Engine(SpeakerInside):
    """ExaBGP as the exporter runs it; the table is what FRR has from it."""

    def __init__(self, lab: Lab) -> None:
        self.frr: Frr = lab.frr()
        self.node: Bench = bench(lab, self.frr)
        super().__init__(lab, self.node.namespace)
        self._last: ExaBGP | None = None

    def exporter(self, wake: Wake) -> Exporter:
        self._last = ExaBGP("exabgp", ExaBGP.Config(), facts(self.node), wake)
        return self._last

    def route(self, number: int, network: str = "net") -> Announcement:
        prefix = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}/32"
        return unicast(self.node, prefix, network)

    def table(self) -> set[str]:
        return set(self.frr.json("show bgp ipv4 unicast").get("routes", {}))

    def unwanted(self) -> Announcement:
        return unicast(self.node, "10.250.0.1/32", communities=("64512:99999",))

    def empty(self) -> None:
        os.kill(self._pid, signal.SIGKILL)

    def pause(self) -> None:
        os.kill(self._pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self._pid, signal.SIGCONT)

    def deaf(self) -> AbstractContextManager[None]:
        return cut_off(self.frr, self.node.address)

    @property
    def _pid(self) -> int:
        assert self._last is not None
        pid = pid_of(self._last)
        assert pid is not None, "ExaBGP does not run"
        return pid


class TestExaBGP(ExporterSuite, without=["foreign", "down", "impostor"]):
    """It runs its speaker itself, so that is never down for long, and nobody else announces through it."""

    @pytest.fixture
    def speaker(self, lab: Lab) -> Engine:
        return Engine(lab)
