"""Long-lived graceful restart (RFC 9494): what peers that know it do while a node has neither agent nor ExaBGP."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from integration.bird import Bird
from integration.gobgp import GoBGP
from integration.lab import Frr, Lab, Neighbor, Node, link, until

HERE, THERE, ASN = "198.18.1.2", "198.18.1.1", 64512
STALE = 65535 << 16 | 6
FAMILIES = ("ipv4-unicast",)
BIRD = """
router id 198.18.1.1;
protocol device {}
protocol bgp node {
    local 198.18.1.1 as 64512;
    neighbor 198.18.1.2 as 64512;
    long lived graceful restart on;
    ipv4 { import all; export none; };
}
"""
GOBGP = """
  [neighbors.graceful-restart.config]
    enabled = true
    restart-time = 120
    long-lived-enabled = true
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv4-unicast"
    [neighbors.afi-safis.mp-graceful-restart.config]
      enabled = true
    [neighbors.afi-safis.long-lived-graceful-restart.config]
      enabled = true
      restart-time = 600
"""


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer of the node. `communities`: of its route to a prefix; None: it has no route."""

    communities: Callable[[str], set[str] | None]


def of_frr(lab: Lab, node: Node) -> Peer:
    frr = lab.frr(neighbors=[Neighbor(HERE, ASN, FAMILIES)], extra=["bgp long-lived-graceful-restart stale-time 600"])
    join(node, frr)

    def communities(prefix: str) -> set[str] | None:
        paths = frr.paths(prefix)
        words = {str(word) for path in paths for word in path.get("community", {}).get("list", [])}
        return {word.replace("llgrStale", "llgr-stale") for word in words} if paths else None

    return Peer(communities)


def of_bird(lab: Lab, node: Node) -> Peer:
    space = lab.namespace("bird")
    link(node.namespace, space, "uplink", "node1", (f"{HERE}/24",), (f"{THERE}/24",))
    bird = Bird(lab, space, BIRD)
    bird.start()

    def communities(prefix: str) -> set[str] | None:
        text = bird.show("route", "all", prefix)
        return ({"llgr-stale"} if "(65535,6)" in text else set()) if prefix in text else None

    return Peer(communities)


def of_gobgp(lab: Lab, node: Node) -> Peer:
    space = lab.namespace("gobgp")
    link(node.namespace, space, "uplink", "node1", (f"{HERE}/24",), (f"{THERE}/24",))
    gobgp = GoBGP(lab, space, THERE, HERE, ASN, families=(), extra=GOBGP, port=179)
    gobgp.start()

    def communities(prefix: str) -> set[str] | None:
        text = json.dumps(gobgp.ask("global", "rib", prefix) or {})
        return ({"llgr-stale"} if str(STALE) in text else set()) if prefix in text else None

    return Peer(communities)


def join(node: Node, frr: Frr) -> None:
    link(node.namespace, frr.namespace, "uplink", "node1", (f"{HERE}/24",), (f"{THERE}/24",))


@pytest.mark.parametrize("kind", [of_frr, of_bird, of_gobgp], ids=["FRR", "BIRD", "GoBGP"])
def test_routes_outlast_the_restart_time_as_a_last_resort(lab: Lab, kind: Callable[[Lab, Node], Peer]) -> None:
    """After the restart time of 2 s the peer still has the route, marked as stale; once the node is back, it is not
    marked any more."""
    node = lab.node()
    peer = kind(lab, node)
    neighbor = {"address": THERE, "asn": ASN, "families": list(FAMILIES)}
    table = {"graceful_restart": 2, "long_lived_graceful_restart": 600, "neighbors": [neighbor]}
    node.agent(bgp=table)
    until(lambda: node.operator("peers").code == 0, "the session", 60)
    answer = node.cni("ADD", "c1", lab.container(), node.network())
    prefix = f"{answer.ips[0]}/32"
    until(lambda: peer.communities(prefix) == set(), "the route")
    crash(node)
    until(lambda: peer.communities(prefix) == {"llgr-stale"}, "the route as a last resort")
    node.start_agent()
    until(lambda: peer.communities(prefix) == set(), "the route as before", 60)


def crash(node: Node) -> None:
    """Agent and ExaBGP are killed: nobody says goodbye, and nobody starts another one."""
    speaker = int(json.loads((node.run_dir / "exabgp.pid").read_text())["pid"])
    node.kill_agent()
    os.kill(speaker, signal.SIGKILL)
