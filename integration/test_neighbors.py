"""What `[[bgp.neighbors]]` says of a session and of what goes through it, against FRR."""

from __future__ import annotations

import json
from typing import Any

import pytest

from integration.lab import Frr, Lab, Neighbor, Node, link, until

FAMILIES = ("ipv4-unicast", "ipv6-unicast")
SECOND, SECOND_PEER = "198.18.2.2", "198.18.2.1"


def add(lab: Lab, node: Node, container: str, **keys: Any) -> str:
    """A container; its prefix."""
    answer = node.cni("ADD", container, lab.container(container), node.network(**keys))
    assert answer.ok, answer
    return f"{answer.ips[0]}/32"


def of_route(frr: Frr, prefix: str) -> dict[str, Any]:
    """What FRR has of a route: AS path, local preference, MED, communities, next hop."""
    (path,) = frr.paths(prefix)
    return {
        "path": path["aspath"]["string"],
        "local_preference": path.get("locPrf"),
        "med": path.get("metric"),
        "communities": path.get("community", {}).get("string", ""),
        "next_hop": path["nexthops"][0]["ip"],
    }


def test_port_address_as_and_hops(lab: Lab) -> None:
    """FRR is two hops away, listens on another port, and knows this node by a loopback address and an AS number of that
    session. The AS path has that number alone. A route that comes back with it is not learned."""
    far = lab.frr(asn=64999, port=1179)
    node = lab.node()
    between = lab.namespace("between")
    between.sysctl(net__ipv4__ip_forward=1)
    link(node.namespace, between, "uplink", "left", ("198.18.1.2/24",), ("198.18.1.1/24",))
    link(between, far.namespace, "right", "uplink", ("198.18.2.2/24",), ("198.18.2.1/24",))
    node.namespace.ip("address", "add", "198.18.100.1/32", "dev", "lo")
    node.namespace.ip("route", "add", "default", "via", "198.18.1.1")
    far.namespace.ip("route", "add", "default", "via", "198.18.2.2")
    between.ip("route", "add", "198.18.100.1/32", "via", "198.18.1.2")
    far.add_neighbor(Neighbor("198.18.100.1", 64777, FAMILIES, extra=("ebgp-multihop 2",)))
    session = {"port": 1179, "local_address": "198.18.100.1", "local_asn": 64777, "multihop": 1}
    neighbor = {"address": "198.18.2.1", "asn": 64999, "families": list(FAMILIES)}
    node.agent(bgp={"neighbors": [neighbor | session]})
    until(lambda: "198.18.2.1" in str(node.operator("peers").document), "the peer")
    assert not far.established("198.18.100.1"), "one hop is not enough"
    node.configure(bgp={"neighbors": [neighbor | session | {"multihop": 2}]})
    assert node.operator("reload").code == 0
    far.wait_established("198.18.100.1")
    prefix = add(lab, node, "c1")
    until(lambda: far.paths(prefix), "the route")
    assert of_route(far, prefix)["path"] == "64777"


def test_a_neighbour_of_another_address_than_the_node_is_told_when_the_address_is_missing(lab: Lab) -> None:
    """`status` names the neighbour and the address that is on no interface; once it is there, the session comes up."""
    frr = lab.frr()
    node = lab.node(frr)
    frr.add_neighbor(Neighbor("198.18.1.9", node.asn, FAMILIES))
    neighbor = {"address": node.peer, "asn": frr.asn, "local_address": "198.18.1.9"}
    node.agent(bgp={"neighbors": [neighbor]})
    words = f"bgp.neighbors: {node.peer}.local_address: 198.18.1.9 is on no interface of this node"
    until(lambda: words in json.dumps(node.operator("status").document), "the reason")
    node.namespace.ip("address", "add", "198.18.1.9/24", "dev", "uplink")
    frr.wait_established("198.18.1.9")


@pytest.fixture
def pair(lab: Lab) -> tuple[Node, Frr, Frr]:
    """A node with an iBGP neighbour and an eBGP neighbour, in that order."""
    inner, outer = lab.frr(), lab.frr(asn=64999, router_id="198.18.255.2")
    node = lab.node(inner)
    link(node.namespace, outer.namespace, "uplink2", "node1", (f"{SECOND}/24",), (f"{SECOND_PEER}/24",))
    outer.namespace.ip("route", "add", node.address, "via", SECOND)
    outer.add_neighbor(Neighbor(node.address, node.asn, FAMILIES))
    return node, inner, outer


def neighbors(node: Node, inner: dict[str, Any], outer: dict[str, Any]) -> dict[str, Any]:
    both = [
        {"address": node.peer, "asn": 64512, "families": list(node.families)} | inner,
        {"address": SECOND_PEER, "asn": 64999, "families": list(FAMILIES)} | outer,
    ]
    return {"bgp": {"neighbors": both}}


def test_each_neighbour_hears_what_its_policy_says(lab: Lab, pair: tuple[Node, Frr, Frr]) -> None:
    """Networks, communities, local preference, MED, AS path, next hop. A reload sends the differences, and no session
    ends; so does an agent that was killed meanwhile. What nobody may hear is announced, and says so."""
    node, inner, outer = pair
    mine = {"networks": ["tenant-*"], "communities": ["64512:7"], "local_preference": 222, "med": 9, "prepend": 2}
    theirs = {"export": mine | {"networks": ["tenant-a"]}, "next_hop": SECOND}
    node.agent(**neighbors(node, {"export": mine}, theirs))
    inner.wait_established(node.address)
    outer.wait_established(node.address)
    a = add(lab, node, "c1", name="tenant-a", bgp={"communities": ["64512:1"]})
    b = add(lab, node, "c2", name="tenant-b", subnet="10.1.3.0/24", bridge="cni1")
    c = add(lab, node, "c3", name="hidden", subnet="10.1.4.0/24", bridge="cni2")
    until(lambda: inner.paths(a) and inner.paths(b) and outer.paths(a), "the routes that may be heard")
    assert of_route(inner, a) == {
        "path": "Local", "local_preference": 222, "med": 9, "communities": "64512:1 64512:7", "next_hop": node.address,
    }  # fmt: skip
    assert of_route(outer, a) == {
        "path": "64512 64512 64512", "local_preference": None, "med": 9, "communities": "64512:1 64512:7",
        "next_hop": SECOND,
    }  # fmt: skip
    assert not outer.paths(b)
    assert not inner.paths(c)
    until(lambda: node.operator("routes").code == 0, "that all is announced")
    told = {route["prefix"]: route["exporters"]["exabgp"] for route in node.routes()}
    assert told[c]["reason"] == "withheld from every neighbour by export policy"
    assert told[a]["reason"] == ""
    sent = {peer["address"]: peer["sent"] for peer in node.operator("peers").document["peers"]}
    assert sent == {node.peer: 2, SECOND_PEER: 1}

    node.kill_agent()
    node.configure(**neighbors(node, {"export": {"networks": ["hidden", "tenant-a"], "med": 5}}, {}))
    node.start_agent()
    until(lambda: inner.paths(c) and not inner.paths(b), "another choice at the first")
    until(lambda: outer.paths(b) and outer.paths(c), "everything at the second")
    until(lambda: of_route(inner, a)["communities"] == "64512:1", "another form of the route at the first")
    assert of_route(outer, a)["path"] == "64512"
    node.configure(**neighbors(node, {"export": {"only": "blocks"}}, {"export": {"only": "hosts"}}))
    assert node.operator("reload").code == 0
    until(lambda: not inner.paths(a) and not inner.paths(c), "no hosts at the first")
    assert outer.paths(a)
    assert [frr.neighbor(node.address)["connectionsEstablished"] for frr in (inner, outer)] == [1, 1]
    assert node.cni("DEL", "c1", "", node.network(name="tenant-a")).ok
    until(lambda: not outer.paths(a), "the end of the route")
    until(lambda: len(node.records()) == 2, "the end of the record")


def test_what_is_taken_from_a_neighbour(lab: Lab, pair: tuple[Node, Frr, Frr]) -> None:
    """Prefixes and a maximum of each neighbour bound what the networks import; `peers` counts the others."""
    node, inner, outer = pair
    for frr, third in ((inner, 8), (outer, 9)):
        routes = [f"network 172.16.{third}.{n * 64}/26" for n in range(4)]
        frr.configure(f"router bgp {frr.asn}", "address-family ipv4 unicast", *routes)
    conf = {"bgp": {"import": ["172.16.0.0/12"]}}
    one, two = {"import": {"prefixes": ["172.16.8.0/25"]}}, {"import": {"maximum_prefix": 3}}
    node.agent(**neighbors(node, one, two))
    add(lab, node, "c1", **conf)

    def learned() -> list[int]:
        found = [route["dst"] for route in node.namespace.ip_json("route", "show")]
        return [sum(dst.startswith(f"172.16.{third}.") for dst in found) for third in (8, 9)]

    until(lambda: learned() == [2, 3], f"two and three routes; there are {learned()}")
    words = {peer["address"]: peer["lastError"] for peer in node.operator("peers").document["peers"]}
    assert words[node.peer] == "2 routes outside import.prefixes"
    assert "maximum_prefix 3 is reached" in words[SECOND_PEER]
    node.configure(**neighbors(node, {}, {}))
    assert node.operator("reload").code == 0
    until(lambda: learned() == [4, 4], "all routes")
    assert [frr.neighbor(node.address)["connectionsEstablished"] for frr in (inner, outer)] == [1, 1]
