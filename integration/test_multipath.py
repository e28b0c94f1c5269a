"""Equal routes of several neighbours: one multipath route in the kernel, which loses a path without a gap."""

from __future__ import annotations

from typing import Any

import pytest

from bgpcni.testing.patience import SECONDS
from integration.lab import Frr, Lab, Neighbor, Node, link, until

FAMILIES = ("ipv4-unicast", "ipv6-unicast")
FOUR, SIX = "203.0.113.0/24", "2001:db8:ffff::/48"
TARGETS = ("203.0.113.1", "2001:db8:ffff::1")
SECOND, SECOND_PEER, SECOND6, SECOND_PEER6 = "198.18.99.2", "198.18.99.1", "2001:db8:99::2", "2001:db8:99::1"


@pytest.fixture
def pair(lab: Lab) -> tuple[Node, Frr, Frr]:
    """A node with two neighbours of different AS, both of which have the same two prefixes."""
    one = lab.frr(asn=64998, networks=[FOUR, SIX])
    two = lab.frr(asn=64999, router_id="198.18.255.2", networks=[FOUR, SIX])
    node = lab.node(one, asn=64512)
    link(node.namespace, two.namespace, "uplink2", "node1", (f"{SECOND}/24", f"{SECOND6}/64"),
         (f"{SECOND_PEER}/24", f"{SECOND_PEER6}/64"))  # fmt: skip
    two.namespace.ip("route", "add", node.address, "via", SECOND)
    two.namespace.ip("route", "add", node.address6, "via", SECOND6)
    two.add_neighbor(Neighbor(node.address, node.asn, FAMILIES))
    for frr in (one, two):
        for target in TARGETS:
            frr.namespace.ip("address", "add", f"{target}/{128 if ':' in target else 32}", "dev", "lo")
    return node, one, two


def toml(node: Node, **bgp: Any) -> dict[str, Any]:
    addresses = ((node.peer, 64998), (SECOND_PEER, 64999))
    both = [{"address": address, "asn": asn, "families": list(FAMILIES)} for address, asn in addresses]
    return {"bgp": {"neighbors": both} | bgp}


def hops(node: Node, prefix: str) -> set[str]:
    """The links by which the node's route to a prefix leads."""
    version = "-6" if ":" in prefix else "-4"
    found = node.namespace.ip_json(version, "route", "show", prefix, "proto", "182")
    assert len(found) < 2, found
    return {hop["dev"] for route in found for hop in route.get("nexthops", [route])}


def both(node: Node, *links: str) -> bool:
    return hops(node, FOUR) == hops(node, SIX) == set(links)


def reaches(node: Node) -> bool:
    return all(not node.namespace.run("ping", "-n", "-c1", "-W5", it, check=False).returncode for it in TARGETS)


def test_equal_routes_of_two_neighbours_are_used_at_once(lab: Lab, pair: tuple[Node, Frr, Frr]) -> None:
    """IPv4 and IPv6. A path that goes leaves the other without a route deleted; so does a worse one. The next agent
    adopts what is there. A reload with `paths = 1` leaves the best."""
    node, one, two = pair
    node.agent(**toml(node))
    asks = node.network("plain", "10.1.9.0/24", "2001:db8:1:9::/64", bgp={"import": [FOUR, SIX]})
    assert node.cni("ADD", "c1", lab.container(), asks).ok
    until(lambda: both(node, "uplink", "uplink2"), "both paths")
    assert reaches(node)
    states = [(r["peer"], r["imported"][0]["state"], r["datapath"])
              for r in node.operator("routes", "--received").document["received"] if r["prefix"] == FOUR]  # fmt: skip
    assert sorted(states) == [(node.peer, "best", True), (SECOND_PEER, "equal", True)]
    assert len(node.operator("routes", "--received", "--state", "equal").document["received"]) == 2

    log = node.folder / "monitor.log"
    with log.open("w") as out:
        monitor = node.namespace.popen("ip", "monitor", "route", stdout=out)
    until(lambda: monitored(node, log), "the monitor")
    node.restart_agent()
    until(lambda: node.operator("peers").code == 0, "the sessions")
    assert "proto 182" not in log.read_text(), "the next agent adopts both"
    two.configure("route-map long permit 10", "set as-path prepend 64999")
    two.configure("router bgp 64999", "address-family ipv4 unicast", f"neighbor {node.address} route-map long out",
                  "address-family ipv6 unicast", f"neighbor {node.address} route-map long out")  # fmt: skip
    until(lambda: both(node, "uplink"), "the longer path is left out")
    two.configure("no route-map long")
    two.configure("router bgp 64999", "address-family ipv4 unicast", f"no neighbor {node.address} route-map long out",
                  "address-family ipv6 unicast", f"no neighbor {node.address} route-map long out")  # fmt: skip
    until(lambda: both(node, "uplink", "uplink2"), "it is equal again")
    one.stop()
    until(lambda: both(node, "uplink2"), "the other neighbour's path")
    assert reaches(node)
    one.start()
    until(lambda: both(node, "uplink", "uplink2"), "both again")
    node.configure(**toml(node, paths=1))
    assert node.operator("reload").code == 0
    until(lambda: len(hops(node, FOUR)) == len(hops(node, SIX)) == 1, "one path")
    monitor.terminate()
    monitor.wait(SECONDS)
    assert not [line for line in log.read_text().splitlines() if line.startswith("Deleted") and "proto 182" in line]
    assert node.cni("DEL", "c1", None, asks).ok
    until(lambda: both(node), "nobody asks any more")


def monitored(node: Node, log: Any) -> bool:
    """Make something happen, and see whether the monitor has written it."""
    node.namespace.ip("route", "add", "blackhole", "192.0.2.77")
    node.namespace.ip("route", "del", "blackhole", "192.0.2.77")
    return "192.0.2.77" in log.read_text()
