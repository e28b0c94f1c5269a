"""Containers announced by a daemon that reads the kernel's table: FRR and BIRD, each with the sample from `conf/`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from integration.bird import Bird
from integration.lab import Frr, Lab, Node, until

CONF = Path(__file__).parents[1] / "conf"
HERE, THERE = 64512, 64513


def sample(name: str, node: Node) -> str:
    """The sample, with this laboratory's addresses in place of its own."""
    return (CONF / name).read_text().replace("192.0.2.1", node.address).replace("192.0.2.2", node.peer)


def frr_on(lab: Lab, node: Node) -> Callable[[], None]:
    """FRR on the node, from conf/frr.conf."""
    daemons = Frr(node.namespace, lab.folder / "local", HERE, ("mgmtd", "zebra", "bgpd"))
    lab.callback(daemons.close)
    daemons.start(sample("frr.conf", node))

    def restart() -> None:
        daemons.stop()
        daemons.start()

    return restart


def bird_on(lab: Lab, node: Node) -> Callable[[], None]:
    """BIRD on the node, from conf/bird.conf."""
    bird = Bird(lab, node.namespace, sample("bird.conf", node))
    bird.start()
    return bird.restart


READERS = {"frr": frr_on, "bird": bird_on}


@pytest.fixture
def frr(lab: Lab) -> Frr:
    """The peer."""
    return lab.frr(asn=THERE)


@pytest.fixture
def node(lab: Lab, frr: Frr) -> Node:
    return lab.node(frr, asn=HERE, families=("ipv4-unicast", "ipv6-unicast"))


@pytest.fixture(params=READERS)
def restart(request: pytest.FixtureRequest, lab: Lab, frr: Frr, node: Node) -> Callable[[], None]:
    """The reader, running; its value restarts it."""
    found = READERS[request.param](lab, node)
    frr.wait_established(node.address)
    return found


def seen(frr: Frr, *addresses: str) -> bool:
    """Both families' host routes are at the peer."""
    return all(frr.paths(f"{address}/{128 if ':' in address else 32}") for address in addresses)


@pytest.mark.parametrize("agent", [False, True], ids=["call", "agent"])
def test_a_reader_announces_containers(
    lab: Lab, frr: Frr, node: Node, restart: Callable[[], None], agent: bool
) -> None:
    """ADD puts both routes at the daemon's peer, with the node as next hop; DEL takes them away; with and without an
    agent. A restart of the daemon loses nothing."""
    if agent:
        node.agent(bgp=None, default_exporters=["kernel"])
    conf = node.network(subnet6="2001:db8:7::/64", exporters=["kernel"])
    one, two = lab.container(), lab.container()
    answer, other = node.cni("ADD", "c1", one, conf), node.cni("ADD", "c2", two, conf)
    assert answer.ok, answer
    assert other.ok, other
    until(lambda: seen(frr, *answer.ips, *other.ips), "all four routes at the peer")
    four, six = answer.ips
    assert frr.next_hops(f"{four}/32") == {node.address}
    assert node.address6 in frr.next_hops(f"{six}/128")
    assert "64512:100" in frr.text(f"show bgp ipv4 unicast {four}/32")
    until(lambda: frr.ping(four) and frr.ping(six), "a ping from the peer")
    assert node.namespace.ip_json("route", "show", f"{four}/32") == []

    restart()
    frr.wait_established(node.address)
    until(lambda: seen(frr, *answer.ips, *other.ips), "all four routes after the restart")

    assert node.cni("DEL", "c1", one, conf).ok
    until(lambda: not frr.paths(f"{four}/32") and not frr.paths(f"{six}/128"), "the end of both routes")
    assert seen(frr, *other.ips)
    assert node.cni("DEL", "c2", two, conf).ok
    assert node.records() == []
    assert node.namespace.ip_json("route", "show", "table", "100") == []
    assert node.namespace.ip_json("-6", "route", "show", "table", "100") == []


def test_a_subnet_for_all_its_containers(lab: Lab, frr: Frr, node: Node) -> None:
    """`bgp.advertise: subnet`: one route for the network, which goes with its last container."""
    bird_on(lab, node)
    frr.wait_established(node.address)
    conf = node.network(subnet6="2001:db8:7::/64", exporters=["kernel"], bgp={"advertise": "subnet"})
    node.agent(bgp=None, default_exporters=[])
    subnets = ("10.1.2.0/24", "2001:db8:7::/64")
    one, two = lab.container(), lab.container()
    for name, space in (("c1", one), ("c2", two)):
        answer = node.cni("ADD", name, space, conf)
        assert answer.ok, answer
    until(lambda: all(frr.paths(subnet) for subnet in subnets), "the subnets at the peer")
    until(lambda: frr.ping(answer.ips[0]) and frr.ping(answer.ips[1]), "a ping from the peer")
    assert node.cni("DEL", "c1", one, conf).ok
    assert len(node.namespace.ip_json("route", "show", "table", "100")) == 1
    assert node.cni("DEL", "c2", two, conf).ok
    until(lambda: not any(frr.paths(subnet) for subnet in subnets), "the end of the subnets' routes")
    assert node.namespace.ip_json("route", "show", "table", "100") == []


def test_agent_restart_and_a_deleted_container(lab: Lab, frr: Frr, node: Node) -> None:
    """A container deleted by hand while no agent runs is pruned by the next agent, another stays announced."""
    frr_on(lab, node)
    frr.wait_established(node.address)
    node.agent(bgp=None, default_exporters=["kernel"])
    conf = node.network(exporters=["kernel"])
    answer = node.cni("ADD", "c1", lab.container(), conf)
    assert answer.ok, answer
    until(lambda: seen(frr, *answer.ips), "the route")
    node.kill_agent()
    node.namespace.ip("route", "add", "10.1.2.77/32", "dev", "cni0", "table", "100", "proto", "45", "metric", "1")
    until(lambda: seen(frr, "10.1.2.77"), "a route of an earlier life")
    node.start_agent()
    until(lambda: not frr.paths("10.1.2.77/32"), "its end")
    assert seen(frr, *answer.ips)
