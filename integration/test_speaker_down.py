"""The speaker or its neighbour is down: containers still start, no route is shown as announced unless it is, and no
address is given to another container while it may still be announced for the first."""

from __future__ import annotations

import os
import signal
from typing import Any

from integration.lab import Frr, Lab, Node, until
from integration.lab.node import BGPCNI
from integration.seen import (
    add,
    announced,
    delete,
    dual,
    freeze,
    nothing_left,
    nothing_stays,
    pinged,
    prefixes,
    ready,
    session,
    settled,
    speaker,
    thaw,
    withdrawn,
)


def pool(node: Node, last: int, last6: str, **keys: Any) -> dict[str, Any]:
    """A dual-stack network of a few addresses: from .2 and ::2 on."""
    conf = dual(node, **keys)
    four, six = conf["ipam"]["ranges"]
    four[0] |= {"rangeStart": "10.1.2.2", "rangeEnd": f"10.1.2.{last}"}
    six[0] |= {"rangeStart": "2001:db8:1:2::2", "rangeEnd": f"2001:db8:1:2::{last6}"}
    return conf


def states(node: Node, container: str) -> set[tuple[str, str]]:
    """State and reason of a container's routes at ExaBGP."""
    return {
        (use["state"], use["reason"])
        for route in node.routes()
        if route["containerID"] == container
        for use in route["exporters"].values()
    }


def test_a_killed_exabgp_loses_no_route(frr: Frr, node: Node, lab: Lab) -> None:
    """kill -9 of ExaBGP: it is started again by itself, FRR (a graceful-restart helper) is never without the routes
    that stay, and a DEL in between is honoured."""
    node.agent()
    frr.wait_established(node.address)
    conf, spaces = dual(node), [lab.container(f"c{n}") for n in range(3)]
    answers = [add(node, f"c{n}", space, conf) for n, space in enumerate(spaces)]
    announced(frr, node, *answers)
    settled(node)
    pid, before = speaker(node), session(frr, node)
    missing = 0

    def looked(true: bool) -> bool:
        nonlocal missing
        missing += sum(not frr.paths(prefix) for answer in answers[1:] for prefix in prefixes(answer))
        return true

    os.kill(pid, signal.SIGKILL)
    delete(node, "c0", spaces[0], conf)
    until(lambda: looked(speaker(node) != pid), "another ExaBGP")
    until(lambda: looked(session(frr, node)[0] > before[0] and frr.established(node.address)), "the session")
    until(lambda: looked(node.operator("routes").code == 0), "every route announced")
    withdrawn(frr, answers[0])
    assert looked(True)
    assert missing == 0
    announced(frr, node, *answers[1:])
    pinged(frr, *answers[1:])
    nothing = {*answers[1].ips, *answers[2].ips}
    until(lambda: node.lease_files() == nothing, "the deleted container's leases gone")
    for n in (1, 2):
        delete(node, f"c{n}", spaces[n], conf)
    nothing_stays(node, *spaces)


def test_a_killed_frr_gets_every_route_back(frr: Frr, node: Node, lab: Lab) -> None:
    """FRR is killed and started again: every route comes back without an ADD, a DEL in between is honoured, and
    `bgpcni peers` says in words how things are."""
    node.agent()
    frr.wait_established(node.address)
    conf, first, second = dual(node), lab.container("a"), lab.container("b")
    gone, kept = add(node, "c1", first, conf), add(node, "c2", second, conf)
    announced(frr, node, gone, kept)
    frr.kill()
    until(lambda: node.operator("peers").code == 1, "the end of the session")
    (peer,) = node.operator("peers").document["peers"]
    assert peer["state"] != "Established"
    assert peer["lastError"]
    late = node.operator("routes")
    assert late.code == 1
    assert {state for state, _ in states(node, "c2")} == {"wanted"}
    assert all(reason.startswith(f"no session: {node.peer} is ") for _, reason in states(node, "c2"))
    said = node.namespace.run(BGPCNI, "peers", "--wide", "--socket", node.socket, check=False)
    assert said.returncode == 1
    assert peer["lastError"] in said.stdout
    delete(node, "c1", first, conf)
    third = lab.container("c")
    meanwhile = add(node, "c3", third, conf | {"bgp": {}})
    frr.start()
    announced(frr, node, kept, meanwhile)
    settled(node)
    withdrawn(frr, gone)
    assert node.operator("peers").code == 0
    until(lambda: len(node.records()) == 2, "the deleted container's record gone")
    for name, space in (("c2", second), ("c3", third)):
        delete(node, name, space, conf)
    nothing_stays(node, first, second, third)


def test_no_neighbour_is_reachable(lab: Lab) -> None:
    """ADD and DEL work; `routes` says what is not announced and why, and exits with 1; `bgp.wait` gives one warning;
    when the neighbour comes, the routes do."""
    frr = lab.frr(start=False)
    node = lab.node(frr)
    node.agent()
    why = f"no session: {node.peer}"
    plain, waiting = lab.container("plain"), lab.container("waiting")
    first = add(node, "c1", plain, dual(node, bgp={}))
    assert first.stderr == ""
    until(lambda: {reason.partition(" is ")[0] for _, reason in states(node, "c1")} == {why}, "the reason")
    second = add(node, "c2", waiting, dual(node, bgp={"wait": "sent", "waitSeconds": 0.1}))
    assert second.stderr.count("warning") == 1
    assert len(second.stderr.splitlines()) == 1
    assert f"{why} is " in second.stderr
    told = node.operator("routes")
    assert told.code == 1
    assert len(told.document["routes"]) == 4
    for container in ("c1", "c2"):
        assert {(state, reason.partition(" is ")[0]) for state, reason in states(node, container)} == {("wanted", why)}
    status = node.operator("status")
    assert status.code == 1
    assert {"peer-down", "routes-wanted"} <= {problem["code"] for problem in status.document["problems"]}
    delete(node, "c2", waiting, dual(node))
    assert len(node.records()) == 1
    frr.start("\n".join(["router bgp 64512", " bgp router-id 198.18.255.1", frr.config.get("bgpd", "")]))
    announced(frr, node, first)
    settled(node)
    delete(node, "c1", plain, dual(node))
    nothing_stays(node, plain, waiting)


def test_an_address_is_held_until_its_withdrawal_is_confirmed(frr: Frr, node: Node, lab: Lab) -> None:
    """ExaBGP hangs: DEL succeeds, its addresses are held, `status` says so, an ADD gets others; ExaBGP goes on: the
    addresses are released by themselves."""
    node.agent()
    frr.wait_established(node.address)
    conf, first, second = pool(node, 9, "9"), lab.container("a"), lab.container("b")
    held = add(node, "c1", first, conf)
    announced(frr, node, held)
    pid = speaker(node)
    freeze(lab, pid)
    delete(node, "c1", first, conf)
    assert node.links() <= {"cni0"}
    assert set(held.ips) <= node.lease_files()
    assert len(node.records("leaving")) == 1
    assert {state for state, _ in states(node, "c1")} == {"withdrawing"}
    assert node.operator("routes").code == 1
    assert "leaving" in {problem["code"] for problem in node.operator("status").document["problems"]}
    other = add(node, "c2", second, conf | {"bgp": {}})
    assert not set(other.ips) & set(held.ips)
    thaw(pid)
    withdrawn(frr, held)
    until(lambda: not node.records("leaving"), "the release")
    assert node.lease_files() == set(other.ips)
    announced(frr, node, other)
    delete(node, "c2", second, conf)
    nothing_left(node, first, second)


def test_a_held_address_survives_the_agent(lab: Lab) -> None:
    """The agent is killed while an address is held: it is still held afterwards, and released once confirmed."""
    frr, node = ready(lab)
    conf, first, second = pool(node, 9, "9"), lab.container("a"), lab.container("b")
    held = add(node, "c1", first, conf)
    announced(frr, node, held)
    pid = speaker(node)
    freeze(lab, pid)
    delete(node, "c1", first, conf)
    node.restart_agent(signal.SIGKILL)
    assert set(held.ips) <= node.lease_files()
    other = add(node, "c2", second, conf | {"bgp": {}})
    assert not set(other.ips) & set(held.ips)
    thaw(pid)
    withdrawn(frr, held)
    until(lambda: not node.records("leaving"), "the release")
    delete(node, "c2", second, conf)
    nothing_stays(node, first, second)


def test_the_last_address_is_reused_when_nothing_else_is_free(lab: Lab) -> None:
    """A pool of one, its address held: another container on this node gets it (same route, same next hop), and FRR
    has the route all the time; the old record goes by itself."""
    frr, node = ready(lab)
    conf, first, second = pool(node, 2, "2"), lab.container("a"), lab.container("b")
    held = add(node, "c1", first, conf)
    announced(frr, node, held)
    pid = speaker(node)
    freeze(lab, pid)
    delete(node, "c1", first, conf)
    assert len(node.records("leaving")) == 1
    again = add(node, "c2", second, conf | {"bgp": {}})
    assert again.ips == held.ips
    until(lambda: not node.records("leaving"), "the end of the old record")
    assert node.lease_files() == set(again.ips)
    thaw(pid)
    settled(node)
    announced(frr, node, again)
    pinged(frr, again)
    delete(node, "c2", second, conf)
    nothing_left(node, first, second)
    withdrawn(frr, again)


def test_a_container_gets_its_own_held_address_again(lab: Lab) -> None:
    """DEL and ADD of the same container while ExaBGP hangs: it has the same addresses again, and nothing is held
    twice; an ADD that fails meanwhile leaves them held."""
    frr, node = ready(lab)
    conf, space = pool(node, 9, "9"), lab.container()
    held = add(node, "c1", space, conf)
    announced(frr, node, held)
    pid = speaker(node)
    freeze(lab, pid)
    delete(node, "c1", space, conf)
    space.ip("link", "add", "eth0", "type", "veth", "peer", "name", "other")
    refused = node.cni("ADD", "c1", space, conf)
    assert refused.error == 4
    space.ip("link", "delete", "eth0")
    assert node.lease_files() == set(held.ips)
    assert len(node.records("leaving")) == 1
    again = add(node, "c1", space, conf | {"bgp": {}})
    assert again.ips == held.ips
    assert node.lease_files() == set(held.ips)
    thaw(pid)
    settled(node)
    announced(frr, node, again)
    pinged(frr, again)
    delete(node, "c1", space, conf)
    nothing_left(node, space)
    withdrawn(frr, again)


def test_release_by_force(lab: Lab) -> None:
    """`bgpcni release ID --force` gives held addresses back at once; without --force, or for what is up, it refuses."""
    frr, node = ready(lab)
    conf, space = pool(node, 9, "9"), lab.container()
    answer = add(node, "c1", space, conf)
    announced(frr, node, answer)
    up = node.operator("release", "c1", "--force")
    assert up.code == 1
    assert "DEL it first" in up.document["error"]
    pid = speaker(node)
    freeze(lab, pid)
    delete(node, "c1", space, conf)
    assert node.operator("release", "c1").code == 1
    assert len(node.records()) == 1
    released = node.operator("release", "c1", "--force")
    assert (released.code, released.document["released"]) == (0, ["tenant-a/c1/eth0"])
    nothing_left(node, space)
    assert node.operator("release", "c1", "--force").code == 1
    thaw(pid)
    withdrawn(frr, answer)


def test_sync_tries_once_more(lab: Lab) -> None:
    """`bgpcni sync` retries what is late, once, and says what still is: exit 1; with everything in place, exit 0."""
    frr = lab.frr(start=False)
    node = lab.node(frr)
    node.agent()
    space, conf = lab.container(), dual(node, bgp={})
    add(node, "c1", space, conf)
    late = node.operator("sync")
    assert late.code == 1
    assert late.document["late"] == ["exabgp"]
    delete(node, "c1", space, conf)
    done = node.operator("sync")
    assert (done.code, done.document["late"], done.document["leaving"]) == (0, [], [])
