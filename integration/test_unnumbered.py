"""Peers without addresses: on a link by its interface, and at the default gateway. Against FRR and BIRD."""

from __future__ import annotations

import json
from typing import Any

import pytest

from integration.bird import Bird
from integration.lab import Frr, Lab, Neighbor, Node, link, until
from integration.lab.frr import bgp

FAMILIES = ("ipv4-unicast", "ipv6-unicast")
WITH = ["neighbor node1 interface remote-as external", "neighbor node1 timers connect 1"]
ACTIVE = [f"address-family {family}\n  neighbor node1 activate\n exit-address-family" for family in
          ("ipv4 unicast", "ipv6 unicast")]  # fmt: skip


@pytest.fixture
def pair(lab: Lab) -> tuple[Node, Frr]:
    """A node and FRR, not started yet, on a link that has link-local addresses alone."""
    frr = lab.frr(asn=64999, start=False)
    node = lab.node(asn=64512)
    link(node.namespace, frr.namespace, "uplink", "node1", (), ())
    node.namespace.ip("address", "add", f"{node.address}/32", "dev", "lo")
    node.namespace.ip("address", "add", "2001:db8:18:1::2/128", "dev", "lo")
    frr.config["bgpd"] = bgp(64999, "198.18.255.1", (), ("172.16.1.0/24", "2001:db8:ffff::/48"), [*WITH, *ACTIVE])
    return node, frr


def toml(node: Node, **neighbor: Any) -> dict[str, Any]:
    return {"bgp": {"next_hop6": "2001:db8:18:1::2", "neighbors": [{"families": list(FAMILIES)} | neighbor]}}


def peer(node: Node) -> dict[str, Any]:
    (found,) = node.operator("peers").document["peers"]
    return dict(found)


def met(node: Node) -> bool:
    """Whether there is a peer, with an established session: asked once, as there is no peer before one was heard."""
    answer = node.operator("peers")
    return answer.code == 0 and bool(answer.document["peers"])


def has(frr: Frr, prefix: str) -> bool:
    return bool(frr.paths(prefix)) and any(path.get("valid") for path in frr.paths(prefix))


def test_a_router_on_a_link(lab: Lab, pair: tuple[Node, Frr]) -> None:
    """IPv4 and IPv6 in both directions, with link-local next hops; pings pass. The agent's restart is no event, and the
    session comes back after the link was down. `peers` names the interface and the AS that was found."""
    node, frr = pair
    frr.start()
    node.agent(**toml(node, interface="uplink", hold_time=9))
    until(lambda: met(node), "the session")
    found = peer(node)
    assert (found["interface"], found["asn"], found["address"][:5]) == ("uplink", 64999, "fe80:")
    answer = node.cni(
        "ADD", "c1", space := lab.container(),
        node.network(subnet6="2001:db8:1::/64", bgp={"import": ["172.16.0.0/12", "2001:db8:ffff::/48"]}),
    )  # fmt: skip
    assert answer.ok, answer
    for ip in answer.ips:
        until(lambda ip=ip: has(frr, f"{ip}/{128 if ':' in ip else 32}"), f"the route to {ip}")  # type: ignore[misc]
    until(lambda: "via inet6 fe80:" in node.namespace.ip("route", "show", "172.16.1.0/24"), "IPv4 by IPv6")
    until(lambda: "via fe80:" in node.namespace.ip("-6", "route", "show", "2001:db8:ffff::/48"), "the IPv6 route")
    frr.namespace.ip("address", "add", "172.16.1.1/32", "dev", "lo")
    until(lambda: not space.run("ping", "-n", "-c", "1", "-W", "1", "172.16.1.1", check=False).returncode, "a ping")

    begun = established(frr)
    node.restart_agent()
    until(lambda: node.operator("peers").code == 0 and node.operator("routes").code == 0, "the same again")
    assert established(frr) == begun
    node.namespace.ip("link", "set", "uplink", "down")
    until(lambda: node.operator("peers").code == 1, "the end of the session", 60)
    node.namespace.ip("link", "set", "uplink", "up")
    until(lambda: node.operator("peers").code == 0, "the session again", 60)
    until(lambda: has(frr, f"{answer.ips[0]}/32"), "the route again")


def established(frr: Frr) -> int:
    return int(next(iter(frr.json("show bgp neighbors").values()))["connectionsEstablished"])


def test_nobody_is_there(lab: Lab, pair: tuple[Node, Frr]) -> None:
    """`status` says what is missing: the interface, its link-local address, a router. A reload to another one helps."""
    node, frr = pair

    def words() -> str:
        return json.dumps(node.operator("status").document)

    node.agent(**toml(node, interface="none0"))
    until(lambda: "bgp.neighbors[0].interface: none0: there is no such interface" in words(), "that")
    node.configure(**toml(node, interface="uplink"))
    assert node.operator("reload").code == 0
    until(lambda: "neighbors[0].interface: uplink: no router was heard there yet" in words(), "that nobody is there")
    frr.start()
    until(lambda: met(node), "the session")
    until(lambda: "bgp.neighbors" not in words(), "nothing more to say")


def test_the_default_gateway(lab: Lab) -> None:
    """`gateway = true`: the router of the default route, and the new one once the route has changed."""
    frr, second = lab.frr(), lab.frr(router_id="198.18.255.2")
    node = lab.node(frr)
    link(node.namespace, second.namespace, "uplink2", "node1", ("198.18.2.2/24",), ("198.18.2.1/24",))
    second.namespace.ip("route", "add", node.address, "via", "198.18.2.2")
    second.add_neighbor(Neighbor(node.address, node.asn, FAMILIES))
    node.agent(bgp={"neighbors": [{"gateway": True, "asn": 64512}]})
    frr.wait_established(node.address)
    assert peer(node)["address"] == node.peer
    node.namespace.ip("route", "replace", "default", "via", "198.18.2.1")
    second.wait_established(node.address)
    until(lambda: peer(node)["address"] == "198.18.2.1", "the other gateway")
    node.namespace.ip("route", "del", "default")
    words = "bgp.neighbors[0].gateway: this node has no default route of IPv4 by a gateway"
    until(lambda: words in json.dumps(node.operator("status").document), "the reason")


BIRD = """
router id 198.18.255.7;
protocol device {}
protocol radv { interface "node1" { min ra interval 3; max ra interval 4; }; }
protocol static four { ipv4; route 172.16.1.0/24 blackhole; }
protocol static six { ipv6; route 2001:db8:ffff::/48 blackhole; }
protocol bgp node {
    local as 64999;
    neighbor range fe80::/10 external;
    interface "node1";
    dynamic name "dyn";
    ipv4 { import all; export where source = RTS_STATIC; extended next hop on; };
    ipv6 { import all; export where source = RTS_STATIC; };
}
"""


def test_birds_own_unnumbered_and_dynamic_neighbours(lab: Lab) -> None:
    """BIRD waits on a link for whoever comes from a link-local address: IPv4 and IPv6 routes in both directions."""
    node, space = lab.node(asn=64512), lab.namespace("bird")
    link(node.namespace, space, "uplink", "node1", (), ())
    node.namespace.ip("address", "add", f"{node.address}/32", "dev", "lo")
    space.sysctl(net__ipv6__conf__all__forwarding=1)
    bird = Bird(lab, space, BIRD)
    bird.start()
    node.agent(**toml(node, interface="uplink"))
    until(lambda: met(node), "the session", 60)
    answer = node.cni(
        "ADD", "c1", lab.container(),
        node.network(subnet6="2001:db8:1::/64", bgp={"import": ["172.16.0.0/12", "2001:db8:ffff::/48"]}),
    )  # fmt: skip
    for ip in answer.ips:
        prefix = f"{ip}/{128 if ':' in ip else 32}"
        until(lambda prefix=prefix: "via fe80:" in bird.show("route", "for", prefix), f"the route to {prefix}")  # type: ignore[misc]
    until(lambda: "via inet6 fe80:" in node.namespace.ip("route", "show", "172.16.1.0/24"), "IPv4 by IPv6")
    until(lambda: "via fe80:" in node.namespace.ip("-6", "route", "show", "2001:db8:ffff::/48"), "the IPv6 route")
