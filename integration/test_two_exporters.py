"""Two exporters at once: the same containers through both, and one of them in trouble."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from integration.bagpipe import BaGPipe
from integration.lab import Frr, Lab, Neighbor, Node, until

SECOND = "198.18.1.3"
"""BaGPipe's end of its session: one pair of addresses is one session, and ExaBGP has the node's first address."""


@dataclass(frozen=True, slots=True)
class Both:
    node: Node
    frr: Frr
    daemon: BaGPipe

    def next_hops(self, address: str) -> set[str]:
        """Of the EVPN routes to an address at FRR."""
        found = set()
        for name, paths in self.frr.evpn_routes("macip").items():
            if name.endswith(f"[{address}]"):
                found |= {hop["ip"] for path in paths for hop in path["nexthops"]}
        return found

    def state(self, exporter: str) -> dict[str, str]:
        return dict(self.node.operator("status").document["exporters"][exporter])

    def states(self, container: str) -> dict[str, set[str]]:
        """What `bgpcni routes` says of a container's routes, by exporter."""
        found: dict[str, set[str]] = {}
        for route in self.node.routes():
            if route["containerID"] == container:
                for exporter, state in route["exporters"].items():
                    found.setdefault(exporter, set()).add(state["state"])
        return found


@pytest.fixture
def both(lab: Lab) -> Both:
    frr = lab.frr()
    node = lab.node(frr)
    node.namespace.ip("address", "add", f"{SECOND}/24", "dev", "uplink")
    frr.add_neighbor(Neighbor(SECOND, frr.asn, ("l2vpn-evpn",)))
    daemon = BaGPipe(lab, node.namespace, SECOND, node.peer, frr.asn)
    daemon.start()
    node.agent(default_exporters=[])
    frr.wait_established(SECOND)
    return Both(node, frr, daemon)


def evpn(node: Node, name: str, bridge: str, vni: int, *exporters: str) -> dict[str, object]:
    return node.network(
        name,
        subnet=f"10.{vni}.0.0/24",
        bridge=bridge,
        isGateway=False,
        exporters=list(exporters),
        importRT=[f"64512:{vni}"],
        exportRT=[f"64512:{vni}"],
        bgp={"family": "evpn", "vni": vni},
    )


def test_one_that_hangs_holds_nobody(lab: Lab, both: Both) -> None:
    """BaGPipe is stopped: ADD and DEL through ExaBGP go on and are announced and withdrawn; `status` says that BaGPipe
    is late and since when; when it goes on it catches up, with what was added and what was deleted meanwhile."""
    node = both.node
    shared, alone = evpn(node, "shared", "br5", 5, "exabgp", "bagpipe"), evpn(node, "alone", "br6", 6, "exabgp")
    spaces = {name: lab.container(name) for name in ("before", "during", "alone", "gone")}
    for name in ("before", "gone"):
        assert node.cni("ADD", name, spaces[name], shared).ok
    until(lambda: both.states("gone") == {"exabgp": {"announced"}, "bagpipe": {"announced"}}, "both announced")
    # the daemon's answer comes before its UPDATE
    until(lambda: both.next_hops("10.5.0.3") == {node.address, SECOND}, "both routes at FRR")

    both.daemon.pause()
    until(lambda: both.state("bagpipe")["state"] == "late", "that BaGPipe is late")
    since = both.state("bagpipe")
    assert since["since"]
    assert since["reason"]
    assert both.state("exabgp")["state"] == "ok"
    assert any("bagpipe is late since" in problem["text"] for problem in node.operator("status").document["problems"])

    added = node.cni("ADD", "during", spaces["during"], shared)
    assert added.ok, added
    other = node.cni("ADD", "alone", spaces["alone"], alone)
    assert other.ok, other
    until(lambda: both.next_hops(other.ips[0]) == {node.address}, "the route of a network without BaGPipe")
    until(lambda: node.address in both.next_hops(added.ips[0]), "the route through ExaBGP")
    assert node.cni("DEL", "gone", spaces["gone"], shared).ok
    assert node.cni("DEL", "alone", spaces["alone"], alone).ok
    until(lambda: both.next_hops(other.ips[0]) == set(), "the end of a route without BaGPipe")
    until(lambda: node.address not in both.next_hops("10.5.0.3"), "the end of the route through ExaBGP")
    assert both.next_hops("10.5.0.3") == {SECOND}
    assert [record.name for record in node.records("leaving")], "its address is held while BaGPipe announces it"

    both.daemon.resume()
    until(lambda: both.next_hops("10.5.0.3") == set(), "the end of the route through BaGPipe")
    until(lambda: both.next_hops(added.ips[0]) == {node.address, SECOND}, "the route through BaGPipe")
    until(lambda: both.state("bagpipe")["state"] == "ok", "that BaGPipe is well")
    until(lambda: node.records("leaving") == [], "the release of the held address")
