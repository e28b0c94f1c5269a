"""When a withdrawal is in the sockets, DEL answers; but no other container gets the address until the TCP of every peer
has acknowledged the withdrawal, or the peer's new session has got End-of-RIB."""

from __future__ import annotations

from typing import Any

from integration.lab import Lab, Neighbor, link, until
from integration.seen import add, announced, cut_off, delete, dual, nothing_stays, prefixes, ready, withdrawn
from integration.test_speaker_down import pool, states


def test_an_address_waits_until_the_withdrawal_is_acknowledged(lab: Lab) -> None:
    """Packets are lost and the session stays up: DEL answers, the address stays held and another container gets
    another one; once the packets flow, it is given back by itself."""
    frr, node = ready(lab)
    conf = pool(node, 4, "4")
    spaces = {name: lab.container(name) for name in ("a", "b", "c", "d")}
    answers = {name: add(node, name, spaces[name], conf) for name in ("a", "b", "c")}
    announced(frr, node, *answers.values())
    delete(node, "b", spaces["b"], conf)
    until(lambda: len(node.records()) == 2, "the release of an acknowledged one")
    with cut_off(frr, node.address):
        delete(node, "a", spaces["a"], conf)
        assert node.operator("peers").document["peers"][0]["state"] == "Established"
        assert set(answers["a"].ips) <= node.lease_files()
        assert len(node.records("leaving")) == 1
        assert {state for state, _ in states(node, "a")} == {"withdrawing"}
        # by their order the address of `a` is the next: without the acknowledgement that of `b` is the free one
        answers["d"] = add(node, "d", spaces["d"], conf | {"bgp": {}})
        assert answers["d"].ips == answers["b"].ips
        assert all(frr.paths(prefix) for prefix in prefixes(answers["a"]))
    withdrawn(frr, answers["a"])
    until(lambda: not node.records("leaving"), "the release")
    assert node.lease_files() == {*answers["c"].ips, *answers["d"].ips}
    for name in ("c", "d"):
        delete(node, name, spaces[name], conf)
    nothing_stays(node, *spaces.values())


def test_one_of_two_neighbours_is_not_enough(lab: Lab) -> None:
    """One of two peers is cut off, or was down before the DEL: the other's acknowledgement does not free the address.
    It is free once the packets flow, or once the peer is back and had End-of-RIB."""
    families = ["ipv4-unicast", "ipv6-unicast"]
    one, two = lab.frr(), lab.frr(router_id="198.18.255.2")
    node = lab.node(one)
    far = "198.18.101.1"
    link(node.namespace, two.namespace, "uplink2", "node", ["198.18.101.2/24"], [f"{far}/24"])
    two.namespace.ip("route", "add", "198.18.1.0/24", "via", "198.18.101.2")
    two.add_neighbor(Neighbor(node.address, node.asn, families))
    both: list[dict[str, Any]] = [
        {"address": address, "asn": one.asn, "families": families} for address in (node.peer, far)
    ]
    node.agent(bgp={"neighbors": both})
    for frr in (one, two):
        frr.wait_established(node.address)
    conf, first, second = dual(node), lab.container("a"), lab.container("b")
    gone = add(node, "a", first, conf)
    prefix = f"{gone.ips[0]}/32"
    for frr in (one, two):
        until(lambda frr=frr: frr.paths(prefix), "the route")  # type: ignore[misc]
    with cut_off(two, node.address):
        delete(node, "a", first, conf)
        until(lambda: not one.paths(prefix), "the withdrawal at one")
        assert two.paths(prefix)
        assert set(gone.ips) <= node.lease_files()
        assert {state for state, _ in states(node, "a")} == {"withdrawing"}
    until(lambda: not two.paths(prefix), "the withdrawal at the other")
    until(lambda: not node.records(), "the release")

    down = add(node, "b", second, conf)
    prefix = f"{down.ips[0]}/32"
    for frr in (one, two):
        until(lambda frr=frr: frr.paths(prefix), "the route")  # type: ignore[misc]
    two.configure(f"router bgp {two.asn}", f"neighbor {node.address} shutdown")

    def fell() -> bool:
        return {peer["state"] == "Established" for peer in node.operator("peers").document["peers"]} == {True, False}

    until(fell, "the end of one session")
    delete(node, "b", second, conf)
    until(lambda: not one.paths(prefix), "the withdrawal at one")
    assert set(down.ips) <= node.lease_files()
    ((state, reason), *_) = states(node, "b")
    assert state == "withdrawing"
    assert f"no session: {far} is " in reason
    assert "it may hold the route for " in reason
    two.configure(f"router bgp {two.asn}", f"no neighbor {node.address} shutdown")
    until(lambda: not node.records(), "the release after replay and End-of-RIB", 60)
    nothing_stays(node, first, second)
