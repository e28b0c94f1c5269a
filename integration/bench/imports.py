"""EVPN routes of other nodes, from their announcement until the kernel forwards by them, and until they are gone.

A second speaker announces type 2 routes (MAC and address) to FRR, which reflects them to the node; both the
forwarding entry and the neighbour of each have to be there.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

from bgpcni.model import Announcement, MacIpNlri
from integration import evpn
from integration.exabgp_bench import Bench, Speaker, bench, facts
from integration.lab import Lab, Node, until

SIZES = (500, 5000)
ROUNDS = 3


def routes(place: Bench, count: int) -> list[Announcement]:
    """`count` containers of another node, in the network of `integration.evpn`."""
    made = []
    for number in range(count):
        mac, address = f"02:00:00:01:{number >> 8:02x}:{number & 255:02x}", f"10.9.{number >> 8}.{number & 255}/32"
        nlri = MacIpNlri(f"{place.address}:1", mac, address)
        made.append(Announcement(nlri, "n", place.address, export_rt=(evpn.TARGET,), vni=evpn.VNI))
    return made


def run(rounds: int = ROUNDS) -> dict[str, Any]:
    """Seconds in and out at each size, medians of `rounds`, and the cost of a route at the largest by the smallest."""
    found: dict[str, Any] = {}
    for size in SIZES:
        with Lab() as lab:
            frr = lab.frr()
            fabric = evpn.Fabric(lab, frr, 1)
            node = fabric.nodes[0]
            container = fabric.add(0, "a")
            place = bench(lab, frr, extra=["route-reflector-client"], families=["l2vpn-evpn"])
            speaker = Speaker(lab, place.namespace, facts(place))
            speaker.announce()
            speaker.prune()
            frr.wait_established(place.address)
            times = [_round(node, speaker, routes(place, size), len(container.answer.ips)) for _ in range(rounds)]
            came, went = zip(*times, strict=True)
            found[str(size)] = {"in s": statistics.median(came), "out s": statistics.median(went)}
    small, large = (found[str(size)] for size in SIZES)
    factor = SIZES[1] / SIZES[0]
    found["per route"] = {way: large[way] / factor / small[way] for way in ("in s", "out s")}
    return found


def _round(node: Node, speaker: Speaker, wanted: list[Announcement], own: int) -> tuple[float, float]:
    """Seconds until all is there, and until all has gone. `own`: addresses of the node's own containers."""
    began = time.monotonic()
    speaker.announce(*wanted)
    until(lambda: len(evpn.remote(node)) == len(wanted), "the entries", 60)
    until(lambda: len(evpn.neighbours(node)) == len(wanted) + own, "the neighbours", 60)
    came = time.monotonic() - began
    began = time.monotonic()
    speaker.withdraw(*wanted)
    until(lambda: not evpn.remote(node), "no entry", 60)
    until(lambda: len(evpn.neighbours(node)) == own, "no neighbour", 60)
    return came, time.monotonic() - began
