"""ExaBGP dies: what a peer and a user of the routes notice of it."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from bgpcni.convergence.announcer import Announcer, Book
from bgpcni.model import Announcement, AttachmentKey, MacIpNlri, VpnNlri
from bgpcni.testing.patience import SECONDS
from bgpcni_exabgp import ExaBGP
from integration.exabgp_bench import Bench, bench, facts, unicast
from integration.frr_table import stale
from integration.lab import Frr, Inside, Lab, until

OWNER = AttachmentKey("net", "many", "eth0")


@pytest.fixture
def frr(lab: Lab) -> Frr:
    return lab.frr()


@pytest.fixture
def node(lab: Lab, frr: Frr) -> Bench:
    return bench(lab, frr)


def announced(lab: Lab, node: Bench, routes: Sequence[Announcement]) -> ExaBGP:
    """The exporter, driven as the agent does, all routes sent."""
    book = Book()
    exporter = ExaBGP("exabgp", ExaBGP.Config(), facts(node), book)
    announcer = Announcer("exabgp", exporter, book)
    announcer.want(OWNER, routes)
    inside = Inside(node.namespace)
    lab.callback(inside.close)
    inside.call(announcer.start)
    lab.callback(announcer.stop)
    until(lambda: announcer.wait_quiet(time.monotonic() + 1), "that all is announced")
    return exporter


def kill(exporter: ExaBGP) -> None:
    running = exporter._home.adopt()
    assert running is not None
    running.close()
    os.kill(running.identity.pid, signal.SIGKILL)


def test_a_killed_exabgp_costs_no_packet(lab: Lab, frr: Frr, node: Bench) -> None:
    """With graceful restart FRR keeps unicast and L3VPN: never gone, never out of the kernel, no ping lost."""
    rd = f"{node.address}:7"
    routes = [
        unicast(node, "10.1.2.3/32"),
        unicast(node, "2001:db8:1::3/128"),
        Announcement(VpnNlri.of("10.9.0.0/24", rd), "v", node.address, ("64512:1",), label=100),
        Announcement(VpnNlri.of("2001:db8:9::/64", rd), "v", node.address6, ("64512:1",), label=101),
    ]
    node.namespace.ip("address", "add", "10.1.2.3/32", "dev", "lo")
    node.namespace.ip("address", "add", "2001:db8:1::3/128", "dev", "lo", "nodad")
    exporter = announced(lab, node, routes)
    until(lambda: frr.ping("10.1.2.3") and frr.ping("2001:db8:1::3"), "the container's answers")
    log = lab.folder / "monitor.log"
    monitor = frr.namespace.popen("ip", "-ts", "monitor", "route", log=log)
    lab.callback(monitor.wait)
    lab.callback(monitor.kill)
    until(lambda: mark(frr, log), "that changes of routes are seen")
    before = len(log.read_text())

    pings = [
        frr.namespace.popen("ping", "-n", "-q", "-i", "0.02", "-c", "400", address, log=lab.folder / f"{address}.log")
        for address in ("10.1.2.3", "2001:db8:1::3")
    ]
    sessions = frr.neighbor(node.address)["connectionsEstablished"]
    kill(exporter)
    looks = 0

    def whole() -> bool:
        nonlocal looks
        looks += 1
        for route in routes:
            assert shown(frr, route), f"{route.nlri} was gone at look {looks}"
        peers = exporter.peers()
        back = peers[0].state == "Established" and peers[0].sent == len(routes)
        anew = frr.neighbor(node.address)["connectionsEstablished"] > sessions
        return back and anew and frr.established(node.address) and not stale(frr)

    checked(whole, "all of it fresh again")
    for ping, address in zip(pings, ("10.1.2.3", "2001:db8:1::3"), strict=True):
        assert ping.wait(SECONDS) == 0
        said = (lab.folder / f"{address}.log").read_text()
        assert re.search(r"400 packets transmitted, 400 received", said), said
    assert [line for line in log.read_text()[before:].splitlines() if "Deleted" in line and MARK not in line] == []


MARK = "203.0.113.0/24"


def mark(frr: Frr, log: Path) -> bool:
    """Make a change that the monitor has to show."""
    frr.namespace.ip("route", "replace", "blackhole", MARK)
    frr.namespace.ip("route", "delete", "blackhole", MARK)
    return MARK in log.read_text()


def shown(frr: Frr, route: Announcement) -> bool:
    return bool(frr.paths(str(route.nlri.prefix), None if route.nlri.kind == "unicast" else str(route.nlri.family)))


def checked(predicate: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """As `until`, but a failed assertion is one."""
    end = time.monotonic() + seconds
    while not predicate():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"


def test_ten_thousand_evpn_routes_are_back(lab: Lab, frr: Frr, node: Bench) -> None:
    """FRR has no graceful restart for EVPN: the routes go with the session, and all come back by themselves."""
    rd = f"{node.address}:7"
    routes = [
        Announcement(
            MacIpNlri(rd, f"02:00:00:00:{n >> 8:02x}:{n & 255:02x}"),
            "e",
            node.address,
            ("64512:5001",),
            vni=5001,
        )
        for n in range(10_000)
    ]
    exporter = announced(lab, node, routes)
    until(lambda: frr.received(node.address, "l2vpn-evpn") == 10_000, "all routes")
    dropped = frr.neighbor(node.address)["connectionsDropped"]
    begun = time.monotonic()
    kill(exporter)
    until(lambda: frr.neighbor(node.address)["connectionsDropped"] > dropped, "the end of the session", step=0)
    until(lambda: frr.received(node.address, "l2vpn-evpn") == 10_000, "all routes again", 60, step=0.005)
    print(f"10,000 EVPN routes back {time.monotonic() - begun:.2f} s after the kill")
