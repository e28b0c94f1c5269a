"""`bgpcni maintenance`: peers prefer other paths before a node goes, and nobody loses a packet."""

from __future__ import annotations

import signal
from typing import Any

from integration.evpn import Pings
from integration.lab import Frr, Lab, Neighbor, Node, link, until
from integration.seen import nothing_missed

GENTLE = "gracefulShutdown"
"""FRR's name of 65535:0."""
SECOND, SECOND_PEER = "198.18.98.2", "198.18.98.1"


def heard(frr: Frr, prefix: str) -> list[tuple[set[str], Any]]:
    """Communities and local preference of each path."""
    return [(set(path.get("community", {}).get("list", [])), path.get("locPrf")) for path in frr.paths(prefix)]


def test_peers_prefer_other_paths_and_lose_none(lab: Lab) -> None:
    """An internal peer and an external one hear GRACEFUL_SHUTDOWN beside the network's own community, and have the
    least local preference for it (the external one by RFC 8326): of containers that run, of one that comes, after the
    agent was killed. `status` says it and is content. Then all is as before."""
    frr, other = lab.frr(), lab.frr(asn=64999, router_id="198.18.255.2")
    node = lab.node(frr)
    _connect(node, other)
    neighbors = [
        {"address": node.peer, "asn": frr.asn, "families": ["ipv4-unicast", "ipv6-unicast"]},
        {"address": SECOND_PEER, "asn": other.asn, "families": ["ipv4-unicast"]},
    ]
    node.agent(bgp={"neighbors": neighbors})
    frr.wait_established(node.address)
    other.wait_established(node.address)
    conf = node.network(bgp={"communities": ["64512:1"]})
    prefixes = [_add(node, lab, conf, "c1")]
    with nothing_missed(lab, frr, prefixes), nothing_missed(lab, other, prefixes):
        done = node.operator("maintenance", "on")
        assert done.code == 0, done
        assert list(done.document["maintenance"]) == ["operator"]
        prefixes.append(_add(node, lab, conf, "c2"))
        for prefix in prefixes:
            until(lambda p=prefix: heard(frr, p) == [({"64512:1", GENTLE}, 0)], "the internal peer")  # type: ignore[misc]
            until(lambda p=prefix: heard(other, p) == [({"64512:1", GENTLE}, 0)], "the external peer")  # type: ignore[misc]
        status = node.operator("status")
        assert (status.code, list(status.document["maintenance"])) == (0, ["operator"])
        node.restart_agent(signal.SIGKILL)
        until(lambda: node.operator("routes").code == 0, "every route announced")
        assert all("65535:0" in route["communities"] for route in node.routes())
        assert heard(frr, prefixes[0]) == [({"64512:1", GENTLE}, 0)]
        assert node.operator("maintenance", "off").code == 0
        for prefix in prefixes:
            until(lambda p=prefix: heard(frr, p) == [({"64512:1"}, 100)], "the internal peer, as before")  # type: ignore[misc]
            until(lambda p=prefix: heard(other, p) == [({"64512:1"}, None)], "the external peer, as before")  # type: ignore[misc]
    assert node.operator("status").document["maintenance"] == {}


def _connect(node: Node, other: Frr) -> None:
    link(node.namespace, other.namespace, "uplink2", "node1", (f"{SECOND}/24",), (f"{SECOND_PEER}/24",))
    other.namespace.ip("route", "add", node.address, "via", SECOND)
    other.add_neighbor(Neighbor(node.address, node.asn, ("ipv4-unicast",), extra=("ebgp-multihop 2",)))


def _add(node: Node, lab: Lab, conf: dict[str, Any], name: str) -> str:
    answer = node.cni("ADD", name, lab.container(name), conf)
    assert answer.ok, answer
    return f"{answer.ips[0]}/32"


def test_a_node_goes_and_no_packet_is_lost(lab: Lab) -> None:
    """A service of two containers with one address, on two nodes, and 200 pings a second: the node that they go to is
    put into maintenance, they go to the other one, the first one is drained and its container deleted. None is lost."""
    frr = lab.frr()
    frr.configure(f"router bgp {frr.asn}", "address-family ipv4 unicast", "maximum-paths ibgp 1")
    nodes = [lab.node(frr, families=("ipv4-unicast",)) for _ in range(2)]
    for node in nodes:
        node.agent()
    prefix = {_add(node, lab, node.network(), "web") for node in nodes}.pop()
    address = prefix.partition("/")[0]
    until(lambda: len(frr.paths(prefix)) == 2, "the route by both nodes")
    until(lambda: frr.ping(address), "an answer")
    (hop,) = _way(frr, prefix)
    going = next(node for node in nodes if node.address == hop)
    (staying,) = (node for node in nodes if node is not going)
    pings = Pings(frr.namespace, address, 0.005)
    assert going.operator("maintenance", "on").code == 0
    until(lambda: _way(frr, prefix) == {staying.address}, "the way to the other node")
    assert going.operator("drain").code == 0
    until(lambda: len(frr.paths(prefix)) == 1, "the end of the first node's route")
    assert going.cni("DEL", "web", "", going.network()).ok
    sent, lost = pings.stop()
    print(f"{sent} pings while a node was taken out of service, {lost} lost")
    assert (sent > 20, lost) == (True, 0)


def _way(frr: Frr, prefix: str) -> set[str]:
    """The next hops by which FRR's kernel forwards."""
    return {str(route["gateway"]) for route in frr.kernel_route(prefix) if "gateway" in route}
