"""One network over several nodes: EVPN through FRR as a route reflector, forwarded by the kernels' VXLAN."""

from __future__ import annotations

import time

import pytest

from integration import evpn
from integration.evpn import Capture, Fabric, connected
from integration.lab import Frr, Lab, until


@pytest.fixture
def frr(lab: Lab) -> Frr:
    return lab.frr()


def test_containers_of_two_nodes_are_one_network(lab: Lab, frr: Frr) -> None:
    """They reach each other over IPv4 and IPv6; the kernels have just what is wanted; after the last DEL nothing."""
    fabric = Fabric(lab, frr, 2)
    one, two = fabric.nodes
    a, b, c = fabric.add(0, "a"), fabric.add(1, "b"), fabric.add(1, "c")
    connected(a, b)
    connected(a, c)
    assert evpn.remote(one) == {b.mac: two.address, c.mac: two.address}
    assert evpn.remote(two) == {a.mac: one.address}
    assert (evpn.flood(one), evpn.flood(two)) == ({two.address}, {one.address})
    everybody = {ip: x.mac for x in (a, b, c) for ip in x.answer.ips}
    assert evpn.neighbours(one) == everybody
    assert evpn.neighbours(two) == everybody
    device = one.namespace.ip_json("-d", "link", "show", "dev", evpn.DEVICE)[0]
    data, port = device["linkinfo"]["info_data"], device["linkinfo"]["info_slave_data"]
    assert (data["id"], data["local"], data["port"], data["learning"]) == (evpn.VNI, one.address, 4789, False)
    assert (device["mtu"], port["learning"], port["neigh_suppress"]) == (1450, False, True)
    assert a.space.ip_json("link", "show", "dev", "eth0")[0]["mtu"] == 1450
    whole = ("ping", "-n", "-c", "1", "-W", "2", "-M", "do", "-s")
    assert not a.space.run(*whole, 1450 - 28, b.four, check=False).returncode, "a frame of the MTU passes whole"
    received = one.operator("routes", "--received").document
    best = {r["mac"] for r in received["received"] for i in r["imported"] if i["state"] == "best" and r["mac"]}
    assert best == {b.mac, c.mac}
    assert one.operator("status").code == 0
    assert one.cni("CHECK", a.id, a.space, a.conf | {"prevResult": a.answer.document}).ok
    steps = one.operator("explain", a.id).document["attachments"][0]["steps"]
    assert ("data path", "up") in {(step["step"], step["state"]) for step in steps}

    b.delete()
    until(lambda: evpn.remote(one) == {c.mac: two.address}, "b's entry gone at the other node")
    assert not a.space.ping(b.four, seconds=1)
    c.delete()
    until(lambda: evpn.behind(one) == {}, "no entry left at the other node")
    assert evpn.neighbours(one) == dict.fromkeys(a.answer.ips, a.mac)
    evpn.empty(two)
    a.delete()
    evpn.empty(one)
    until(lambda: not frr.evpn_routes(), "no route at FRR")


def test_addresses_are_resolved_without_a_frame_on_the_wire(lab: Lab, frr: Frr) -> None:
    """ARP and ND for a container elsewhere are answered by the node, and no VTEP gets what is not for it."""
    fabric = Fabric(lab, frr, 3)
    one, two, three = fabric.nodes
    a, b, c = (fabric.add(number, name) for number, name in enumerate("abc"))
    everybody = {ip: x.mac for x in (a, b, c) for ip in x.answer.ips}
    until(lambda: all(evpn.neighbours(node) == everybody for node in fabric.nodes), "everybody known everywhere")
    until(lambda: evpn.flood(one) == {two.address, three.address}, "both VTEPs in the flood list")
    for x in (a, b, c):
        x.space.ip("neigh", "flush", "dev", "eth0")
    with Capture(one).running() as first, Capture(two).running() as second:
        assert a.reaches(b.four, b.six)
    print(f"captured {len(first.frames)} and {len(second.frames)} frames in VXLAN")
    assert first.to(two.address, b.mac)
    assert second.to(one.address, a.mac)
    for capture in (first, second):
        assert capture.resolutions(list(everybody)) == []
        assert [frame for mac in (a.mac, b.mac) for frame in capture.to(three.address, mac)] == []
    a.space.run("ping", "-n", "-c", "1", "-W", "1", "10.1.2.250", check=False)
    with Capture(one).running() as unknown:
        a.space.run("ping", "-n", "-c", "1", "-W", "1", "10.1.2.251", check=False)
    assert {frame.vtep for frame in unknown.resolutions(["10.1.2.251"])} == {two.address, three.address}


def test_every_node_is_the_same_gateway(lab: Lab, frr: Frr) -> None:
    """With isGateway each node answers for the gateway, with one MAC, and nothing of that leaves the node."""
    fabric = Fabric(lab, frr, 2)
    one, two = fabric.nodes
    with Capture(one).running() as first, Capture(two).running() as second:
        a, b = fabric.add(0, "a", gateway=True), fabric.add(1, "b", gateway=True)
        connected(a, b)
        for x in (a, b):
            until(lambda x=x: x.reaches("10.1.2.1", "2001:db8:1:2::1"), "the gateway answers")  # type: ignore[misc]
    for node, x in ((one, a), (two, b)):
        assert node.namespace.ip_json("link", "show", "dev", evpn.BRIDGE)[0]["address"] == evpn.GATEWAY_MAC
        macs = [entry["lladdr"] for entry in x.space.ip_json("neigh", "show", "to", "10.1.2.1")]
        assert macs == [evpn.GATEWAY_MAC]
    for capture in (first, second):
        leaked = capture.resolutions(["10.1.2.1", "2001:db8:1:2::1"])
        leaked += [frame for frame in capture.frames if frame.source == evpn.GATEWAY_MAC]
        assert leaked == []
    assert not [route for route in frr.evpn_routes("macip") if evpn.GATEWAY_MAC in route or "[10.1.2.1]" in route]
    # out of the network through its own node, and from the node to a container of another node
    until(lambda: a.reaches(one.address) and b.reaches(two.address), "the node itself, through the gateway")
    a.delete()
    b.delete()
    for node in fabric.nodes:
        evpn.empty(node)


def test_a_container_that_moves_is_reachable_again(lab: Lab, frr: Frr) -> None:
    """A container moves with its MAC and addresses, and sequence numbers say which node is newer. Two nodes with it at
    the same time are reported, and do not keep replacing each other."""
    fabric = Fabric(lab, frr, 3)
    one, two, three = fabric.nodes
    fabric.add(0, "neighbour")
    watcher = fabric.add(2, "watcher")
    mac, four, six = "02:00:00:00:00:07", "10.1.2.7/24", "2001:db8:1:2::7/64"
    fixed = {"mac": mac, "ipam": {"type": "static", "addresses": [{"address": four}, {"address": six}]}}

    def at(node: int, name: str) -> evpn.Container:
        where = fabric.nodes[node]
        conf = evpn.network(where, node + 1) | fixed
        space = lab.container(name)
        began = time.monotonic()
        answer = where.cni("ADD", name, space, conf, env={"CNI_PATH": "/usr/lib/cni"})
        assert answer.ok, answer
        print(f"\nADD of {name} took {time.monotonic() - began:.3f} s")
        return evpn.Container(name, where, space, conf, answer)

    def reachable(began: float, what: str) -> None:
        for address in ("10.1.2.7", "2001:db8:1:2::7"):
            until(lambda a=address: watcher.reaches(a), what)  # type: ignore[misc]
            print(f"{what}: {address} reachable {time.monotonic() - began:.3f} s after its ADD")

    first = at(0, "first")
    reachable(time.monotonic(), "on the first node")
    until(lambda: evpn.remote(three)[mac] == one.address, "the MAC at its node")  # a flooded ping came sooner

    second = at(1, "second")  # before the DEL of the first
    began = time.monotonic()
    until(lambda: evpn.remote(three)[mac] == two.address, "the MAC at its new node")
    reachable(began, "moved before the DEL")
    sequences = {r["nextHop"]: r["mobility"] for r in three.operator("routes", "--received").document["received"]
                 if r["mac"] == mac}  # fmt: skip
    assert sequences == {one.address: 0, two.address: 1}
    for node in (one, two):
        codes = [problem["code"] for problem in node.operator("status").document["problems"]]
        assert "duplicate-address" in codes
    evpn.same_for(1.0, lambda: evpn.remote(three)[mac], "the MAC stays where the newer one is")
    first.delete()
    until(lambda: evpn.remote(one)[mac] == two.address, "the first node sends to the second")
    reachable(time.monotonic(), "after the DEL of the first")
    until(lambda: two.operator("status").code == 0, "no problem left")

    second.delete()
    third = at(0, "third")  # after the DEL
    began = time.monotonic()
    reachable(began, "moved after the DEL")
    until(lambda: evpn.remote(three)[mac] == one.address, "the MAC at the first node again")
    third.delete()
    until(lambda: mac not in evpn.remote(three), "gone")
