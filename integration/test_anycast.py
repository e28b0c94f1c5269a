"""Anycast: several containers share an address, each announces it while it is well, and it goes when they go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from integration.lab import Frr, Lab, Namespace, Node, until

FAMILIES = ("ipv4-unicast", "ipv6-unicast")
FOUR, SIX = "192.0.2.53", "2001:db8:53::53"
SHARED = (FOUR, SIX)


def prefix(address: str) -> str:
    return f"{address}/{128 if ':' in address else 32}"


def config(node: Node, number: int, health: dict[str, Any] | None = None, **args: Any) -> dict[str, Any]:
    """A network of one node. Each node has subnets of its own."""
    asked = {"anycast": list(SHARED), **({"health": health} if health else {}), **args}
    subnets = f"10.1.{number}.0/24", f"2001:db8:1:{number}::/64"
    return node.network("services", *subnets, args={"cni": asked})


@pytest.fixture
def fabric(lab: Lab) -> Iterator[tuple[Frr, list[Node]]]:
    """FRR with two nodes, to both of which it balances."""
    frr = lab.frr(asn=64999)
    nodes = [lab.node(frr, asn=64512, families=FAMILIES) for _ in range(2)]
    for node in nodes:
        node.agent()
    yield frr, nodes


def heard(frr: Frr, *nodes: Node) -> bool:
    """Whether FRR has both shared addresses from exactly these nodes."""
    return all(
        frr.next_hops(prefix(one)) == {node.address6 if ":" in one else node.address for node in nodes}
        for one in SHARED
    )


def reaches(frr: Frr) -> bool:
    return all(frr.ping(one) for one in SHARED)


def ways(node: Node, address: str) -> set[str]:
    """The containers' own addresses by which the node leads to a shared one."""
    version = "-6" if ":" in address else "-4"
    found = node.namespace.ip_json(version, "route", "show", prefix(address), "proto", "182")
    return {hop["gateway"] for route in found for hop in route.get("nexthops", [route])}


def test_two_nodes_have_the_same_address(lab: Lab, fabric: tuple[Frr, list[Node]]) -> None:
    """Both announce it and both are reached; containers of one node share it; DEL and a killed container withdraw it;
    a killed agent changes nothing."""
    frr, (one, two) = fabric
    asks = [config(node, number) for number, node in enumerate((one, two), 1)]
    first, second, third = (lab.container() for _ in range(3))
    added = one.cni("ADD", "c1", first, asks[0])
    assert added.ok, added
    assert not set(added.ips) & set(SHARED), "the result has the container's own addresses"
    until(lambda: heard(frr, one), "the first node's routes")
    until(lambda: reaches(frr), "the container answers")
    assert two.cni("ADD", "c2", second, asks[1]).ok
    until(lambda: heard(frr, one, two), "two paths")
    third_added = one.cni("ADD", "c3", third, asks[0])
    assert third_added.ok, third_added
    assert ways(one, FOUR) | ways(one, SIX) == {*added.ips, *third_added.ips}, "a path to each of them"

    one.kill_agent()
    assert heard(frr, one, two)
    one.namespace.ip("route", "add", prefix("192.0.2.99"), "via", added.ips[0], "proto", "182", "metric", "20181")
    one.start_agent()
    until(lambda: one.operator("peers").code == 0, "the sessions")
    assert ways(one, FOUR) | ways(one, SIX) == {*added.ips, *third_added.ips}
    assert not ways(one, "192.0.2.99"), "what no record has is removed"
    assert heard(frr, one, two)

    assert one.cni("DEL", "c1", first, asks[0]).ok
    assert ways(one, FOUR) | ways(one, SIX) == set(third_added.ips)
    assert heard(frr, one, two), "another container of this node has it"
    third.close()
    until(lambda: heard(frr, two), "the killed container's are withdrawn")
    until(lambda: not ways(one, FOUR) | ways(one, SIX), "no route is left")
    assert two.cni("DEL", "c2", second, asks[1]).ok
    until(lambda: heard(frr), "nobody has it")
