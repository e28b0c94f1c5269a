"""The speaker alone: how fast routes get from the exporter's call to FRR's table, and what ExaBGP weighs with them.

FRR puts nothing into the kernel's table, so that nothing but BGP is measured. ExaBGP's own text commands are measured
in the same run, through a stock ExaBGP.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from bgpcni.model import ROUTES, Announcement, Family, MacIpNlri, VpnNlri
from integration.bench.sections import summary
from integration.exabgp_bench import Bench, Speaker, bench, facts, unicast
from integration.lab import Frr, Lab, until

BATCH = 2000
"""As many as the agent hands over at once."""
PATIENCE = 120.0


def speaker(lab: Lab, count: int, singles: int) -> dict[str, Any]:
    """`count` routes of each family, `count`/10 through the text pipe, `singles` single routes."""
    frr, text_frr = _frr(lab, "198.18.255.1"), _frr(lab, "198.18.255.9")
    node = bench(lab, frr)
    ours = Speaker(lab, node.namespace, facts(node))
    ours.prune()
    until(lambda: frr.established(node.address), "the session")
    families = {str(family): _family(frr, node, ours, family, count) for family in sorted(ROUTES)}
    alone = _singles(frr, node, ours, singles)
    ours.drain()
    return {"count": count, "families": families, "text": _text(lab, text_frr, count // 10), "one": summary(alone)}


def _frr(lab: Lab, router_id: str) -> Frr:
    frr = lab.frr(router_id=router_id)
    tables = [f"address-family {family} unicast\ntable-map NONE\nexit-address-family" for family in ("ipv4", "ipv6")]
    lines = ["route-map NONE deny 1", "exit", f"router bgp {frr.asn}", *"\n".join(tables).split("\n")]
    frr.configure(*lines)
    return frr


def routes_of(place: Bench, family: Family, count: int) -> list[Announcement]:
    rd = f"{place.address}:7"
    kinds: dict[Family, Callable[[int], Announcement]] = {
        Family.IPV4_UNICAST: lambda n: unicast(place, f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}/32"),
        Family.IPV6_UNICAST: lambda n: unicast(place, f"2001:db8:1::{n:x}/128" if n else "2001:db8:1::/128"),
        Family.IPV4_VPN: lambda n: Announcement(
            VpnNlri(family, f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}/32", rd), "v", place.address, ("64512:1",),
            label=100,
        ),
        Family.IPV6_VPN: lambda n: Announcement(
            VpnNlri(family, f"2001:db8:1::{n:x}/128" if n else "2001:db8:1::/128", rd), "v", place.address6,
            ("64512:1",), label=100,
        ),
        Family.L2VPN_EVPN: lambda n: Announcement(
            MacIpNlri(rd, f"02:00:00:{n >> 16:02x}:{n >> 8 & 255:02x}:{n & 255:02x}"), "e",
            place.address, ("64512:1",), vni=5001,
        ),
    }  # fmt: skip
    return [kinds[family](n) for n in range(count)]


def _family(frr: Frr, node: Bench, ours: Speaker, family: Family, count: int) -> dict[str, float]:
    routes = routes_of(node, family, count)
    begun = time.monotonic()
    _in_batches(ours, routes)
    until(lambda: frr.received(node.address, family) == count, f"{count} {family}", PATIENCE, step=0.002)
    seconds = time.monotonic() - begun
    weight = _rss(ours.pid)
    begun = time.monotonic()
    left = iter(routes)
    while batch := list(islice(left, BATCH)):
        ours.withdraw(*batch)
    until(lambda: frr.received(node.address, family) == 0, f"no {family}", PATIENCE, step=0.002)
    return {"per second": count / seconds, "gone per second": count / (time.monotonic() - begun), "rss MB": weight}


def _in_batches(who: Speaker, routes: list[Announcement]) -> None:
    left = iter(routes)
    while batch := list(islice(left, BATCH)):
        who.announce(*batch)


def _text(lab: Lab, frr: Frr, count: int) -> dict[str, float]:
    """A stock ExaBGP with the sample configuration, and its text commands."""
    node = bench(lab, frr)
    sample = (Path(__file__).parents[2] / "conf/exabgp.conf").read_text()
    path, configuration = node.run_dir / "own.sock", node.run_dir / "own.conf"
    for old, new in (
        ("192.0.2.1 ", f"{node.peer} "),
        ("192.0.2.2", node.address),
        ("/usr/bin/python3", sys.executable),
        ("/run/exabgp/bgpcni.sock;", f"{path};"),
    ):
        sample = sample.replace(old, new)
    configuration.write_text(sample)
    settings = {"exabgp_daemon_user": "root", "exabgp_api_cli": "false", "exabgp_tcp_bind": ""}
    program = Path(sys.executable).parent / "exabgp"
    stock = node.namespace.popen(
        program, "server", configuration, log=node.run_dir / "own.log", env=settings | {"PATH": os.environ["PATH"]}
    )
    lab.callback(stock.wait)
    lab.callback(stock.kill)
    who = Speaker(lab, node.namespace, facts(node), socket=str(path))
    who.prune()
    until(lambda: frr.established(node.address), "the session of the stock ExaBGP")
    routes = routes_of(node, Family.IPV4_UNICAST, count)
    begun = time.monotonic()
    _in_batches(who, routes)
    until(lambda: frr.received(node.address) == count, f"{count} routes by text", PATIENCE, step=0.002)
    return {"per second": count / (time.monotonic() - begun)}


def _singles(frr: Frr, node: Bench, ours: Speaker, count: int) -> list[float]:
    """Milliseconds from the exporter's call to FRR's table, polled as fast as its socket answers."""
    found = []
    for n in range(count):
        route = unicast(node, f"10.9.{n >> 8}.{n & 255}/32")
        begun = time.monotonic()
        ours.announce(route)
        until(lambda p=str(route.nlri.prefix): frr.paths(p), f"{route.nlri}", step=0)  # type: ignore[misc]
        found.append((time.monotonic() - begun) * 1000)
    return found


def _rss(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024
