"""Anycast: several containers share an address, each announces it while it is well, and it goes when they go."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from contextlib import closing
from typing import Any

import pytest

from bgpcni.agent.health import MOST, HealthChecks
from bgpcni.model import Anycast, Attachment, Health
from bgpcni.nudges import Nudges
from bgpcni.testing.patience import SECONDS
from integration.lab import Frr, Lab, Namespace, Node, until
from integration.lab.inside import Inside
from integration.test_vrf import without_guard

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
def fabric(lab: Lab) -> tuple[Frr, list[Node]]:
    """FRR with two nodes, to both of which it balances."""
    frr = lab.frr(asn=64999)
    nodes = [lab.node(frr, asn=64512, families=FAMILIES) for _ in range(2)]
    for node in nodes:
        node.agent()
    return frr, nodes


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


def served(space: Namespace, *argv: str) -> subprocess.Popen[str]:
    """An HTTP server on every address of a container, port 8080."""
    return space.popen(sys.executable, "-m", "http.server", "8080", *argv)


def ended(server: subprocess.Popen[str]) -> None:
    server.kill()
    server.wait(SECONDS)


def reason(node: Node, container: str) -> str:
    """What `explain` says of the service of a container."""
    steps = node.operator("explain", container).document["attachments"][0]["steps"]
    return next(str(step["detail"]) for step in steps if step["step"] == "service")


def test_it_is_announced_while_the_service_is_well(lab: Lab, fabric: tuple[Frr, list[Node]]) -> None:
    """By HTTP and by TCP: a server that ends, or hangs, or ends while the agent is away, is withdrawn, and comes back.
    The commands say why."""
    frr, (one, two) = fabric
    http = config(one, 1, {"http": "http://:8080/", "interval": 1})
    tcp = config(two, 2, {"tcp": 8080, "interval": 0.2, "rise": 2})
    first, second = lab.container(), lab.container()
    first.ip("link", "set", "lo", "down")
    assert one.cni("ADD", "c1", first, http).ok
    assert two.cni("ADD", "c2", second, tcp).ok
    until(lambda: "connection refused" in reason(one, "c1"), "a check that fails")
    routes = one.operator("routes")
    held = [row for row in routes.document["routes"] if row["prefix"] in map(prefix, SHARED)]
    assert routes.code == 1
    assert {row["exporters"]["exabgp"]["state"] for row in held} == {"wanted"}
    assert "health check failed: connection refused" in held[0]["exporters"]["exabgp"]["reason"]
    assert "service-down" in {each["code"] for each in one.operator("status").document["problems"]}
    assert heard(frr)
    assert not ways(one, FOUR)

    well, other = served(first), served(second)
    until(lambda: heard(frr, one, two), "two paths")
    until(lambda: reaches(frr), "the containers answer")
    ended(other)
    until(lambda: heard(frr, one), "one path")
    other = served(second)
    until(lambda: heard(frr, one, two), "two paths again")
    well.send_signal(signal.SIGSTOP)
    until(lambda: heard(frr, two), "a server that hangs is left out")
    assert "no answer within 1 s" in reason(one, "c1")
    assert not ways(one, FOUR) | ways(one, SIX)
    well.send_signal(signal.SIGCONT)
    until(lambda: heard(frr, one, two), "it answers again")

    one.kill_agent()
    ended(well)
    assert heard(frr, one, two), "the speaker goes on"
    one.start_agent()
    until(lambda: heard(frr, two), "the next agent finds out")
    words = f"services/c1/eth0 withdraws {FOUR}, {SIX}: health check failed: connection refused, 3 times"
    until(lambda: words in one.log.read_text(), "the event")
    well = served(first)
    until(lambda: heard(frr, one, two), "and that it is well again")
    one.restart_agent(signal.SIGKILL)
    until(lambda: one.operator("peers").code == 0, "the sessions")
    assert heard(frr, one, two)
    first.close()
    until(lambda: heard(frr, two), "the killed container's is withdrawn")
    assert two.cni("DEL", "c2", second, tcp).ok
    until(lambda: heard(frr), "nobody has it")
    ended(other)


def test_what_cannot_be_shared_is_refused(lab: Lab) -> None:
    """An address of the container's subnet, of the node, of another container, of a family it does not have. Nothing is
    left of the ADD."""
    node = lab.node()
    node.agent()
    node.namespace.ip("address", "add", "198.51.100.1/32", "dev", "lo")
    space = lab.container()

    def refused(container: str, address: str, *words: str, **keys: Any) -> None:
        asks = node.network("services", "10.1.1.0/24", args={"cni": {"anycast": [address]}}, **keys)
        answer = node.cni("ADD", container, space, asks)
        assert answer.error == 7, answer
        assert all(word in answer.document["msg"] for word in words), answer
        assert not node.records("up")
        assert not node.lease_files("services")

    refused("c1", "10.1.1.9", "args.cni.anycast[0]: 10.1.1.9 is inside 10.1.1.0/24")
    refused("c1", "198.51.100.1", "args.cni.anycast[0]: 198.51.100.1 is an address of this node")
    refused("c1", SIX, f"args.cni.anycast[0]: {SIX} needs an IPv6 address of the container's own")
    other = node.network("other", "10.1.2.0/24", bridge="cni1")
    had = node.cni("ADD", "c2", lab.container(), other)
    assert had.ok, had
    asks = node.network("services", "10.1.1.0/24", args={"cni": {"anycast": had.ips}})
    answer = node.cni("ADD", "c1", space, asks)
    assert (answer.error, answer.document["msg"].partition(" on ")[0]) == (
        7, f"anycast: {had.ips[0]} is the own address of other/c2/eth0"
    )  # fmt: skip
    asks["args"] = {"cni": {"anycast": ["10.1.2.3"]}}
    assert node.cni("ADD", "c1", space, asks).ok
    answer = node.cni("ADD", "c3", lab.container(), other)
    assert (answer.error, answer.document["msg"].partition(" of ")[0]) == (
        7, "ipam: 10.1.2.3 is a shared address (anycast)"
    )  # fmt: skip


def test_servers_that_hang_hold_up_no_others(lab: Lab) -> None:
    """Three times as many as are asked at once, with one that answers: it is found well, and found out when it ends."""
    space = lab.container()
    inside = Inside(space)
    with closing(inside), inside.call(socket.create_server, ("127.0.0.1", 8081), backlog=3 * MOST):
        hanging = [one_in(space, f"h{number}", 8081, 5.0) for number in range(3 * MOST)]
        well = one_in(space, "well", 8080, 0.2)
        server = served(space)
        checks = HealthChecks(Nudges())
        for each in (*hanging, well):
            checks.remember(each)
        checks.start()
        until(lambda: checks.passing(well), "the one that answers")
        until(lambda: "no answer" in checks.words(hanging[0]), "those that hang")
        assert not any(checks.passing(each) for each in hanging)
        ended(server)
        until(lambda: not checks.passing(well), "it has ended")
        assert "connection refused" in checks.words(well)
        assert checks.counts() == (0, 3 * MOST + 1)
        checks.stop()


def one_in(space: Namespace, name: str, port: int, interval: float) -> Attachment:
    health = Health(kind="http", host="127.0.0.1", port=port, path="/", interval=interval)
    return Attachment(
        boot_id="b", network="n", container_id=name, ifname="eth0", netns=str(space.path),
        anycast=Anycast(addresses=(FOUR,), health=health),
    )  # fmt: skip


@pytest.mark.kernel("vrf")
def test_in_a_vrf(lab: Lab) -> None:
    """EVPN with a VRF: a type 5 route with the VRF's VNI, no type 2, and the VRF leads to the container."""
    frr = lab.frr()
    node = without_guard(lab.node(frr, families=("l2vpn-evpn",)))
    node.agent()
    bgp = {"family": "evpn", "vni": 5001, "vrf": "red", "l3vni": 4001}
    asks = node.network("tenant", "10.1.1.0/24", bgp=bgp, args={"cni": {"anycast": [FOUR]}})
    space = lab.container()
    answer = node.cni("ADD", "c1", space, asks)
    assert answer.ok, answer
    until(lambda: len([route for route in frr.evpn_routes("prefix") if FOUR in route]) == 1, "a type 5 route")
    assert not [route for route in frr.evpn_routes("macip") if FOUR in route]
    (way,) = node.namespace.ip_json("route", "show", "vrf", "red", prefix(FOUR))
    assert way["gateway"] == answer.ips[0]
    assert node.namespace.run("ping", "-n", "-c1", "-W5", "-I", "red", FOUR, check=False).returncode == 0
    assert node.cni("DEL", "c1", space, asks).ok
    until(lambda: not [route for route in frr.evpn_routes("prefix") if FOUR in route], "it is withdrawn")
    assert not node.namespace.ip_json("route", "show", prefix(FOUR), "table", "all")
