"""The kernel exporter against the real kernel: what every exporter promises, and what this one does besides."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bgpcni.exporter import Exporter, Reach, Wake
from bgpcni.model import Announcement, Endpoint, Family, NodeFacts, UnicastNlri, VpnNlri
from bgpcni.testing import ExporterSuite
from bgpcni.testing.speaker import until
from bgpcni.testing.suite import Life, reached, shows
from bgpcni_kernel import Kernel
from integration.lab import Lab
from integration.speakers import SpeakerInside


class Table(SpeakerInside):
    """Table 100 of a network namespace with a bridge `cni0`, which whatever daemon would read."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab, lab.namespace("kernel"))
        self.folder = str(lab.folder)
        self.number = 100
        self.bridge()

    def bridge(self) -> None:
        self.namespace.ip("link", "add", "cni0", "type", "bridge")
        self.namespace.ip("link", "set", "cni0", "up")

    def exporter(self, wake: Wake, **config: int) -> Exporter:
        facts = NodeFacts(run_dir=self.folder, data_dir=self.folder)
        return Kernel("kernel", Kernel.Config(**{"table": self.number, **config}), facts, wake)

    def route(self, number: int, network: str = "net") -> Announcement:
        """Even ones are IPv4, odd ones IPv6."""
        if number % 2:
            return unicast(f"2001:db8::{number:x}/128", network)
        return unicast(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}/32", network)

    def table(self) -> set[str]:
        found = set()
        for version, length in (("-4", 32), ("-6", 128)):
            for entry in self.namespace.ip_json(version, "route", "show", "table", self.number):
                found.add(entry["dst"] if "/" in entry["dst"] else f"{entry['dst']}/{length}")
        return found

    def unwanted(self) -> Announcement:
        return replace(unicast("10.9.9.8/32"), nlri=VpnNlri.of("10.9.9.8/32", "0:1"))

    def foreign(self) -> str:
        self.namespace.ip("route", "add", "10.9.9.9/32", "dev", "cni0", "table", self.number, "proto", "static")
        return "10.9.9.9/32"

    def empty(self) -> None:
        self.namespace.ip("link", "delete", "cni0")
        self.bridge()


def unicast(prefix: str, network: str = "net", device: str = "cni0") -> Announcement:
    family = Family.IPV6_UNICAST if ":" in prefix else Family.IPV4_UNICAST
    endpoint = Endpoint("c1", "eth0", "02:00:00:00:00:01", prefix, None, device, "veth1", 7)
    return Announcement(UnicastNlri(family, prefix), network, "", endpoint=endpoint)


@pytest.fixture
def speaker(lab: Lab) -> Table:
    return Table(lab)


@pytest.fixture
def life(speaker: Table) -> Life:
    return Life(speaker)


NEVER = ("down", "hang", "impostor")
"""The kernel is always there and never silent."""


class TestKernel(ExporterSuite, without=NEVER):
    @pytest.fixture
    def speaker(self, speaker: Table) -> Table:
        return speaker


class TestLargeTable(ExporterSuite, without=NEVER):
    """A table whose number does not fit into the header of a message."""

    @pytest.fixture
    def speaker(self, speaker: Table) -> Table:
        speaker.number = 1000
        return speaker


def test_a_route_says_whose_it_is(speaker: Table, life: Life) -> None:
    """Protocol 45, table 100, metric 1, on the bridge, without gateway; nothing in the main table."""
    reached(life.announce(unicast("10.1.2.3/32"), unicast("2001:db8::3/128")))
    (four,) = speaker.namespace.ip_json("-d", "route", "show", "table", "100")
    assert (four["protocol"], four["dev"], four["metric"], four["scope"]) == ("45", "cni0", 1, "link")
    assert "gateway" not in four
    (six,) = speaker.namespace.ip_json("-6", "-d", "route", "show", "table", "100")
    assert (six["protocol"], six["dev"], six["metric"]) == ("45", "cni0", 1)
    assert speaker.namespace.ip_json("route", "show") == []


def test_a_route_of_somebody_elses_is_not_taken_over(speaker: Table, life: Life) -> None:
    """A prefix that the table has from another protocol is refused in words, and stays as it is."""
    speaker.namespace.ip("route", "add", "10.9.9.9/32", "dev", "lo", "table", "100", "proto", "static", "metric", "1")
    (outcome,) = life.announce(unicast("10.9.9.9/32"))
    assert outcome.reach is Reach.REFUSED
    assert "somebody else" in outcome.reason
    life.withdraw(unicast("10.9.9.9/32"))
    (there,) = speaker.namespace.ip_json("-d", "route", "show", "table", "100")
    assert (there["protocol"], there["dev"]) == ("static", "lo")


def test_a_container_that_moved_to_another_bridge(speaker: Table, life: Life) -> None:
    """The route follows its device."""
    speaker.namespace.ip("link", "add", "cni1", "type", "bridge")
    speaker.namespace.ip("link", "set", "cni1", "up")
    for prefix in ("10.1.2.3/32", "2001:db8::3/128"):
        reached(life.announce(unicast(prefix)))
        reached(life.announce(unicast(prefix, device="cni1")))
        version = "-6" if ":" in prefix else "-4"
        (there,) = speaker.namespace.ip_json(version, "route", "show", "table", "100")
        assert there["dev"] == "cni1"


def test_a_bridge_that_was_down(speaker: Table, life: Life) -> None:
    """While the bridge is down the route waits and says why; what it took along comes back with it."""
    route, other = unicast("10.1.2.3/32"), unicast("10.1.2.4/32")
    reached(life.announce(route))
    life.look()
    before = life.wake.emptied
    speaker.namespace.ip("link", "set", "cni0", "down")
    (outcome,) = life.announce(other)
    assert outcome == type(outcome)(Reach.WANTED, "cni0 is down")
    speaker.namespace.ip("link", "set", "cni0", "up")

    def noticed() -> bool:
        life.look()
        return life.wake.emptied > before

    until(noticed, "that the exporter noticed")
    reached(life.announce(route, other))
    shows(speaker, route, other)


def test_a_route_that_somebody_deleted_comes_back(speaker: Table, life: Life) -> None:
    """`ip route flush table 100` by hand is noticed; our own withdrawals are no event."""
    route, other = unicast("10.1.2.3/32"), unicast("2001:db8::3/128")
    reached(life.announce(route, other))
    life.withdraw(other)
    life.look()
    assert life.wake.emptied == 0
    speaker.namespace.ip("route", "flush", "table", "100")

    def noticed() -> bool:
        life.look()
        return life.wake.emptied > 0

    until(noticed, "that the exporter noticed")


def test_a_changed_metric_leaves_nothing_behind(speaker: Table) -> None:
    """Routes of an earlier configuration are pruned, or withdrawn, whatever metric they had."""
    first = Life(speaker)
    route, other = unicast("10.1.2.3/32"), unicast("2001:db8::3/128")
    reached(first.announce(route, other))
    second = Life(speaker)
    second.exporter = speaker.exporter(second.wake, metric=7)
    reached(second.announce(route, other))
    second.prune(route, other)
    for version in ("-4", "-6"):
        (there,) = speaker.namespace.ip_json(version, "route", "show", "table", "100")
        assert there["metric"] == 7
    first.withdraw(route, other)
    shows(speaker)
