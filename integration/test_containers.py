"""A container from ADD to DEL, and a hundred at once."""

from __future__ import annotations

import functools

import pytest

from integration.lab import Frr, Lab, Node
from integration.lab.node import BGPCNI
from integration.seen import (
    add,
    announced,
    at_once,
    delete,
    dual,
    links_in,
    nothing_left,
    pinged,
    prefixes,
    settled,
    withdrawn,
)


def text(node: Node, *argv: str) -> str:
    """An operator's command without --json; it must succeed."""
    done = node.namespace.run(BGPCNI, *argv, "--socket", node.socket)
    return done.stdout


def test_a_container_is_announced_and_withdrawn(frr: Frr, node: Node, lab: Lab) -> None:
    """One ADD: both routes are at FRR with the node as next hop, FRR reaches the container, every command says so,
    CHECK agrees. One DEL: nothing of it is left anywhere."""
    node.agent()
    conf, space = dual(node), lab.container()
    frr.wait_established(node.address)
    answer = add(node, "c1", space, conf)
    assert answer.stderr == ""
    announced(frr, node, answer)
    pinged(frr, answer)
    bridge, host, inside = answer.document["interfaces"]
    assert bridge["name"] == "cni0"
    assert {"cni0", host["name"]} == node.links()
    (link,) = space.ip_json("link", "show", "eth0")
    assert link["address"] == inside["mac"]
    assert inside["sandbox"] == str(space.path)

    routes = settled(node)
    assert {r["prefix"] for r in routes} == set(prefixes(answer))
    for route in routes:
        six = ":" in route["prefix"]
        assert route["network"] == "tenant-a"
        assert route["containerID"] == "c1"
        assert route["ifname"] == "eth0"
        assert route["family"] == ("ipv6-unicast" if six else "ipv4-unicast")
        assert route["nlri"] == route["prefix"]
        assert route["nextHop"] == (node.address6 if six else node.address)
        assert route["mac"] == inside["mac"]
        assert (route["rd"], route["vni"], route["exportRT"], route["communities"]) == (None, None, [], [])
        assert route["datapath"] is True
        assert set(route["exporters"]) == {"exabgp"}
        assert set(route["exporters"]["exabgp"]) == {"state", "since", "reason"}
        assert route["exporters"]["exabgp"]["state"] == "announced"
        assert route["exporters"]["exabgp"]["since"].endswith("Z")

    (known,) = node.attachments()
    assert known == {
        "network": "tenant-a", "containerID": "c1", "ifname": "eth0", "state": "up", "netns": str(space.path),
        "hostVeth": host["name"], "mac": inside["mac"],
        "ips": [ip["address"] for ip in answer.document["ips"]], "since": known["since"],
    }  # fmt: skip
    peers = node.operator("peers")
    (peer,) = peers.document["peers"]
    assert (peers.code, peers.document["schema"]) == (0, 1)
    assert set(peer) == {
        "exporter", "address", "asn", "state", "since", "families", "sent", "received", "lastError",
        "flaps", "interface",
    }  # fmt: skip
    assert (peer["exporter"], peer["address"], peer["asn"], peer["state"]) == (
        "exabgp", node.peer, frr.asn, "Established",
    )  # fmt: skip
    assert peer["sent"] == 2
    status = node.operator("status")
    assert (status.code, status.document["healthy"], status.document["problems"]) == (0, True, [])
    assert status.document["mode"] == "agent"
    assert status.document["exporters"]["exabgp"]["state"] == "ok"
    for what in ("c1", answer.ips[0], answer.ips[1], next(iter(prefixes(answer))), "10.1.2.0/24", "tenant-a"):
        told = node.operator("explain", what)
        assert told.code == 0
        steps = told.document["attachments"][0]["steps"]
        assert [step["step"] for step in steps] == [
            "request", "addresses", "link", "record", "reachability", "exporter", "session", "route", "route",
        ]  # fmt: skip
        assert {step["state"] for step in steps[-2:]} == {"announced"}
        assert all(step["since"] for step in steps[-2:])
    unknown = node.operator("explain", "10.9.9.9")
    assert unknown.code == 1
    assert "10.9.9.9" in unknown.document["error"]

    ipv4, ipv6 = answer.ips
    assert ipv4 in text(node, "routes")
    assert "announced" in text(node, "routes")
    assert ipv6 in text(node, "attachments")
    assert node.peer in text(node, "peers")
    assert "Established" in text(node, "peers")
    assert "healthy" in text(node, "status")
    assert "announced" in text(node, "explain", "c1")

    check = node.cni("CHECK", "c1", space, conf | {"prevResult": answer.document})
    assert check.ok, check.document
    delete(node, "c1", space, conf)
    nothing_left(node, space)
    withdrawn(frr, answer)
    assert node.operator("routes").document == {"schema": 1, "routes": []}
    delete(node, "c1", space, conf)


@pytest.mark.parametrize("agent", [True, False], ids=["agent", "no agent"])
def test_a_network_without_exporters_is_a_plain_bridge(lab: Lab, agent: bool) -> None:
    """`exporters: []`: interface, addresses and gateway, and nothing is announced; without an agent too."""
    node, space = lab.node(), lab.container()
    if agent:
        node.agent(bgp=None, default_exporters=[])
    conf = dual(node, exporters=[])
    answer = add(node, "c1", space, conf)
    for ip in answer.document["ips"]:
        assert space.ping(ip["gateway"])
    assert node.cni("CHECK", "c1", space, conf | {"prevResult": answer.document}).ok
    if agent:
        assert node.operator("routes").document == {"schema": 1, "routes": []}
        assert node.operator("status").document["healthy"] is True
        assert len(node.attachments()) == 1
    delete(node, "c1", space, conf)
    nothing_left(node, space)


def test_a_hundred_containers_at_once(frr: Frr, node: Node, lab: Lab) -> None:
    """100 ADDs started together on one bridge: 100 addresses of each family, 100 routes of each; 100 DELs started
    together leave nothing."""
    node.agent()
    frr.wait_established(node.address)
    conf = dual(node)
    spaces = {f"c{n}": lab.container(f"c{n}") for n in range(100)}
    answers = at_once([functools.partial(node.cni, "ADD", name, space, conf) for name, space in spaces.items()])
    assert [answer.document for answer in answers if not answer.ok] == []
    assert [answer.stderr for answer in answers if answer.stderr] == []
    for family in (0, 1):
        assert len({answer.ips[family] for answer in answers}) == 100
    assert len(settled(node)) == 200
    announced(frr, node, *answers)
    pinged(frr, answers[0], answers[50], answers[99])
    assert len(node.attachments()) == 100

    gone = at_once([functools.partial(node.cni, "DEL", name, space, conf) for name, space in spaces.items()])
    assert [answer.document for answer in gone if not answer.ok] == []
    nothing_left(node)
    assert [name for name, space in spaces.items() if links_in(space)] == []
    withdrawn(frr, *answers)
    for name in ("ipv4-unicast", "ipv6-unicast"):
        assert frr.received(node.address, name) == 0
