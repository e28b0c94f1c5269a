"""Route target constraint (RFC 4684): of a reflector's many routes a node gets those that its networks import."""

from __future__ import annotations

from typing import Any

import pytest

from integration.gobgp import GoBGP
from integration.lab import Lab, link, until

BLUE, RED, OTHER = "64512:5001", "64512:5002", "64512:9999"
OTHERS = 200
CLIENT = """
  [neighbors.route-reflector.config]
    route-reflector-client = true
    route-reflector-cluster-id = "198.18.1.1"
"""


class Place:
    """A node and its one neighbour, a GoBGP that has a route for each of two networks, and many for neither."""

    def __init__(self, lab: Lab, asn: int, version: int, *offered: str) -> None:
        self.lab, self.node = lab, lab.node(asn=asn)
        node, space = self.node, lab.namespace("gobgp")
        link(node.namespace, space, "uplink", "node1", (f"{node.address}/24", f"{node.address6}/64"),
             (f"{node.peer}/24", f"{node.peer6}/64"))  # fmt: skip
        self.peer, self.own = (node.peer6, node.address6) if version == 6 else (node.peer, node.address)
        self.families = ["l2vpn-evpn", "rtc"]
        extra = CLIENT if asn == 64512 else ""
        self.gobgp = GoBGP(lab, space, node.peer, self.own, 64512, peer_asn=asn, source=self.peer, port=179,
                           families=offered or tuple(self.families), extra=extra)  # fmt: skip
        self.gobgp.start()
        for number, target in enumerate([BLUE, RED, *[OTHER] * OTHERS], 1):
            self.gobgp.command(
                "global", "rib", "-a", "evpn", "add", "macadv", f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}",
                f"10.9.{number >> 8}.{number & 255}", "etag", "0", "label", "77", "rd", "64999:1", "rt", target,
                "encap", "vxlan", "nexthop", "192.0.2.9",
            )  # fmt: skip

    def toml(self) -> dict[str, Any]:
        near = {"address": self.peer, "asn": 64512, "families": self.families}
        if ":" in self.peer:
            near["local_address"] = self.own
        return {"bgp": {"neighbors": [near]}}

    def network(self, name: str, target: str, number: int) -> dict[str, Any]:
        return self.node.network(
            name, f"10.1.{number}.0/24", bridge=f"br{number}", importRT=[target], exportRT=[target],
            bgp={"family": "evpn", "vni": 5000 + number},
        )  # fmt: skip

    def sent(self) -> int:
        """How many EVPN routes the reflector sends to the node."""
        found = self.gobgp.ask("neighbor", self.own, "adj-out", "-a", "evpn") or {}
        return len(found) if isinstance(found, list) else sum(len(paths) for paths in found.values())

    def received(self) -> set[str]:
        """The route targets of what the node got."""
        found = self.node.operator("routes", "--received").document["received"]
        return {target for route in found for target in route["routeTargets"]}

    def has(self, *targets: str, others: int = 0) -> bool:
        return self.received() == set(targets) and self.sent() == len(set(targets) - {OTHER}) + others


@pytest.mark.parametrize(("asn", "version"), [(64512, 4), (64513, 6)], ids=["iBGP, IPv4", "eBGP, IPv6"])
def test_only_what_the_networks_import(lab: Lab, asn: int, version: int) -> None:
    """A network that comes brings its routes, and the last container that goes takes them along. The next agent and a
    new session change nothing of that."""
    place = Place(lab, asn, version)
    node = place.node
    node.agent(**place.toml())
    until(lambda: node.operator("peers").code == 0, "the session")
    assert "rtc" in node.operator("peers").document["peers"][0]["families"]
    blue, red = place.network("blue", BLUE, 1), place.network("red", RED, 2)
    spaces = [lab.container() for _ in range(3)]
    assert node.cni("ADD", "c1", spaces[0], blue).ok
    until(lambda: place.has(BLUE), "the routes of the one network")
    assert node.cni("ADD", "c2", spaces[1], blue).ok
    assert node.cni("ADD", "c3", spaces[2], red).ok
    until(lambda: place.has(BLUE, RED), "those of the other network")
    node.restart_agent()
    until(lambda: node.operator("peers").code == 0 and place.has(BLUE, RED), "the same with the next agent")
    assert node.cni("DEL", "c2", spaces[1], blue).ok
    assert node.cni("DEL", "c3", spaces[2], red).ok
    until(lambda: place.has(BLUE), "the last container takes the routes of its network along")
    assert node.operator("peers", "reset", place.peer).code == 0
    until(lambda: node.operator("peers").code == 0 and place.has(BLUE), "the same in a new session")


def test_a_peer_without_the_family_sends_all(lab: Lab) -> None:
    place = Place(lab, 64512, 4, "l2vpn-evpn")
    place.node.agent(**place.toml())
    assert place.node.cni("ADD", "c1", lab.container(), place.network("blue", BLUE, 1)).ok
    until(lambda: place.has(BLUE, RED, OTHER, others=OTHERS), "all routes")
