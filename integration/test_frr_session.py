"""Attributes of each container, and L3VPN, towards the host's own FRR: a session over loopback, as `conf/` has it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from integration.lab import Frr, Lab, Node, until

SAMPLE = Path(__file__).parent.parent / "conf/frr-session.conf"


def agents_part(sample: str) -> dict[str, Any]:
    """What the sample says of agent.toml."""
    lines = re.findall(r"^!     ((?:\[|\w+ = ).*)$", sample, re.MULTILINE)
    return tomllib.loads("\n".join(lines))


def node_as_sampled(lab: Lab) -> tuple[Frr, Node]:
    """A router of another AS, and a node whose FRR is its neighbour and the agent's."""
    router = lab.frr(asn=64513)
    node = lab.node(router, asn=64512)
    for address in ("169.254.45.1/32", "169.254.45.2/32"):
        node.namespace.ip("address", "add", address, "dev", "lo")
    sample = SAMPLE.read_text()
    host = Frr(node.namespace, lab.folder / "hostfrr", 64512)
    lab.callback(host.close)
    host.start(sample.replace("192.0.2.1", node.address).replace("192.0.2.2", node.peer))
    router.wait_established(node.address)
    node.agent(bgp=agents_part(sample)["bgp"])
    until(lambda: host.established("169.254.45.2"), "the session over lo")
    return router, node


def test_each_container_has_communities_of_its_own(lab: Lab) -> None:
    """What the network says reaches the router beyond FRR, whose policy decides by it; ping comes back; DEL ends it."""
    router, node = node_as_sampled(lab)
    space, hidden = lab.container(), lab.container()
    conf = node.network(bgp={"communities": ["64512:100", "64512:7"]})
    answer = node.cni("ADD", "c1", space, conf)
    assert answer.ok, answer
    assert node.cni("ADD", "c2", hidden, conf | {"bgp": {"communities": ["64512:8"]}}).ok
    prefix = f"{answer.ips[0]}/32"
    until(lambda: router.next_hops(prefix) == {node.address}, "the route at the router")
    [path] = router.paths(prefix)
    assert path["community"]["string"] == "64512:7 64512:100"
    until(lambda: router.ping(answer.ips[0]), "the container answers the router")
    assert router.received(node.address) == 1
    assert node.cni("DEL", "c1", space, conf).ok
    until(lambda: router.paths(prefix) == [], "no route at the router")


def test_l3vpn(lab: Lab) -> None:
    """A VPN's route with its route target reaches the router beyond FRR (announced only: there is no MPLS here)."""
    router, node = node_as_sampled(lab)
    space = lab.container()
    conf = node.network(bgp={"family": "vpn", "communities": ["64512:100"]}, exportRT=["64512:90"])
    answer = node.cni("ADD", "c1", space, conf)
    assert answer.ok, answer
    prefix = f"{answer.ips[0]}/32"
    until(lambda: bool(router.paths(prefix, "ipv4-vpn")), "the route at the router")
    [path] = router.paths(prefix, "ipv4-vpn")
    assert path["extendedCommunity"]["string"] == "RT:64512:90"
