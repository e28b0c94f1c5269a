"""A container that went without a DEL: its route goes at once, the rest after a grace period (`orphan_grace`)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from integration.lab import CniAnswer, Frr, Lab, Namespace, Node, until
from integration.lab.namespace import link
from integration.lab.node import STOCK_PLUGINS
from integration.seen import add, announced, delete, dual, nothing_left, nothing_stays, settled, withdrawn

LONG = 3600
"""Seconds of grace that no test lives to see the end of."""


def problems(node: Node) -> set[str]:
    return {problem["code"] for problem in node.operator("status").document["problems"]}


@pytest.mark.parametrize("restart", [False, True], ids=["seen", "while no agent ran"])
def test_the_route_goes_at_once_and_a_late_delete_succeeds(frr: Frr, node: Node, lab: Lab, restart: bool) -> None:
    """The namespace is deleted: the route is withdrawn at once, also when the agent was not there to see it; lease and
    record stay for the grace, `status` counts them, `routes` claims nothing; a late DEL succeeds and clears all."""
    node.agent(orphan_grace=LONG)
    frr.wait_established(node.address)
    conf = dual(node)
    doomed, other = lab.container("doomed"), lab.container("other")
    first, second = add(node, "c1", doomed, conf), add(node, "c2", other, conf)
    announced(frr, node, first, second)
    if restart:
        node.kill_agent()
    doomed.close()
    if restart:
        node.start_agent()
    withdrawn(frr, first)
    announced(frr, node, second)
    until(lambda: "orphans" in problems(node), "the orphan in status")
    status = node.operator("status")
    assert status.code == 1
    assert any(problem["text"].startswith("1 attachment") for problem in status.document["problems"])
    assert {route["containerID"] for route in settled(node)} == {"c2"}
    assert node.lease_files() == {*first.ips, *second.ips}
    assert len(node.records()) == 2
    explained = node.operator("explain", "c1")
    assert {"link": "gone", "record": "up"}.items() <= {
        step["step"]: step["state"] for step in explained.document["attachments"][0]["steps"]
    }.items()

    delete(node, "c1", doomed.path, conf)
    until(lambda: len(node.records()) == 1, "the release")
    assert node.lease_files() == set(second.ips)
    until(lambda: not problems(node), "a healthy status")
    delete(node, "c2", other, conf)
    nothing_left(node, other)


@pytest.mark.parametrize("restart", [False, True], ids=["at once", "after a restart"])
def test_lease_and_record_go_after_the_grace(lab: Lab, restart: bool) -> None:
    """After `orphan_grace` nothing of it is left, without any call; the DEL that comes even later succeeds."""
    frr = lab.frr()
    node = lab.node(frr)
    node.agent(orphan_grace=LONG if restart else 0.5)
    frr.wait_established(node.address)
    conf, doomed = dual(node), lab.container()
    answer = add(node, "c1", doomed, conf)
    announced(frr, node, answer)
    doomed.close()
    withdrawn(frr, answer)
    if restart:
        until(lambda: "orphans" in problems(node), "the orphan in status")
        assert len(node.records()) == 1
        node.kill_agent()
        node.configure(orphan_grace=0.5)
        node.start_agent()
    nothing_stays(node)
    until(lambda: not problems(node), "a healthy status")
    delete(node, "c1", doomed.path, conf)
    delete(node, "c1", None, conf)


def test_the_container_may_come_back(lab: Lab) -> None:
    """An ADD for the same container during the grace works, and is announced."""
    frr = lab.frr()
    node = lab.node(frr)
    node.agent(orphan_grace=LONG)
    frr.wait_established(node.address)
    conf, doomed = dual(node), lab.container()
    first = add(node, "c1", doomed, conf)
    announced(frr, node, first)
    doomed.close()
    withdrawn(frr, first)
    again = lab.container()
    second = add(node, "c1", again, conf)
    announced(frr, node, second)
    until(lambda: not problems(node), "a healthy status")
    assert node.lease_files() == set(second.ips)
    delete(node, "c1", again, conf)
    nothing_left(node, again)
    withdrawn(frr, second)


def test_without_an_agent_the_next_call_cleans_up(lab: Lab) -> None:
    """No agent: what a container without a DEL left is released by the next call."""
    node, doomed, other = lab.node(), lab.container(), lab.container()
    conf = dual(node, exporters=[])
    add(node, "c1", doomed, conf)
    doomed.close()
    second = add(node, "c2", other, conf)
    assert node.lease_files() == set(second.ips)
    assert len(node.records()) == 1
    delete(node, "c2", other, conf)
    nothing_left(node, other)


# ---------------------------------------------------------------- behind a plugin whose interface has no end here

GATEWAYS = ("10.1.2.1/24", "2001:db8:1:2::1/64")
Document = dict[str, Any]
Behind = Callable[[Node, Lab], Document]
"""Prepares a node for a stock plugin, and says how that is configured."""


def macvlan(node: Node, lab: Lab) -> Document:
    """A parent, and a macvlan on it through which the node reaches those of containers."""
    link(node.namespace, lab.namespace("wire"), "parent", "far")
    node.namespace.ip("link", "add", "link", "parent", "name", "shim", "type", "macvlan", "mode", "bridge")
    for address in GATEWAYS:
        node.namespace.ip("address", "add", address, "dev", "shim", *(["nodad"] if ":" in address else []))
    node.namespace.ip("link", "set", "shim", "up")
    return {"type": "macvlan", "master": "parent", "mode": "bridge"}


def host_device(node: Node, lab: Lab) -> Document:
    """A device that is on one switch with a link of the node's."""
    switch = lab.namespace("switch")
    switch.ip("link", "add", "name", "fabric", "type", "bridge")
    switch.ip("link", "set", "fabric", "up")
    for name, port, addresses in (("dev0", "port0", ()), ("nic", "port1", GATEWAYS)):
        link(node.namespace, switch, name, port, addresses)
        switch.ip("link", "set", port, "master", "fabric")
    return {"type": "host-device", "device": "dev0"}


def chain(node: Node, stock: Document, space: Namespace, last: int = 3, **keys: Any) -> tuple[CniAnswer, Document]:
    """The ADD of a stock plugin: its answer, and what ours behind it is called with."""
    # neither plugin makes a gateway of the node, so forwarding is the operator's affair
    node.namespace.sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)
    ips = [{"address": f"10.1.2.{last}/24"}, {"address": f"2001:db8:1:2::{last}/64"}]
    both = {"cniVersion": "1.0.0", "name": "tenant-a"}
    conf = {**both, **stock, "ipam": {"type": "static", "addresses": ips}}
    made = node.cni("ADD", "c1", space, conf, plugin=str(STOCK_PLUGINS / stock["type"]))
    assert made.ok, made
    until(lambda: "tentative" not in space.ip("-6", "address"), "the container's addresses to settle")
    ours = {"exporters": ["exabgp"], "bgp": {"wait": "sent", "waitSeconds": 30}} | keys
    return made, {**both, "type": "bgpcni", **ours, "prevResult": made.document}


@pytest.mark.parametrize(
    ("kind", "missed"),
    [(macvlan, False), (macvlan, True), (host_device, False)],
    ids=["macvlan", "macvlan while no agent ran", "host-device"],
)
def test_behind_an_interface_without_an_end_here(lab: Lab, kind: Behind, missed: bool) -> None:
    """The container's namespace goes, and with it the route, at once or as soon as the agent is back; the record after
    the grace, also if the agent is restarted meanwhile; a late DEL succeeds."""
    frr = lab.frr()
    node, doomed = lab.node(frr), lab.container()
    node.agent(orphan_grace=LONG)
    frr.wait_established(node.address)
    _, conf = chain(node, kind(node, lab), doomed)
    answer = add(node, "c1", doomed, conf)
    announced(frr, node, answer)
    assert not problems(node)
    if missed:
        node.kill_agent()
    doomed.close()
    if missed:
        node.start_agent()
    withdrawn(frr, answer)
    until(lambda: "orphans" in problems(node), "the orphan in status")
    assert settled(node) == []
    assert len(node.records()) == 1
    node.kill_agent()
    node.configure(orphan_grace=0.5)
    node.start_agent()
    until(lambda: not node.records(), "no record")
    until(lambda: not problems(node), "a healthy status")
    delete(node, "c1", doomed.path, conf)


@pytest.mark.parametrize("missed", [False, True], ids=["seen", "while no agent ran"])
def test_an_interface_without_an_end_here_goes_alone(lab: Lab, missed: bool) -> None:
    """The interface is taken out of a container that lives: its route goes; the other container's stays."""
    frr = lab.frr()
    node, first, second = lab.node(frr), lab.container(), lab.container()
    node.agent(orphan_grace=LONG)
    frr.wait_established(node.address)
    stock = macvlan(node, lab)
    answers = []
    for place, (name, space) in enumerate((("c1", first), ("c2", second))):
        _, conf = chain(node, stock, space, 3 + place)
        answers.append(add(node, name, space, conf))
    announced(frr, node, *answers)
    if missed:
        node.kill_agent()
    first.ip("link", "delete", "eth0")
    if missed:
        node.start_agent()
    withdrawn(frr, answers[0])
    announced(frr, node, answers[1])
    delete(node, "c1", first, conf)
    assert {route["containerID"] for route in settled(node)} == {"c2"}


def test_without_an_agent_another_container_in_its_place_is_not_taken_for_it(lab: Lab) -> None:
    """No agent: the next call finds that a container is gone, also where the next one has its MAC, the index of its
    interface, and the number by which the kernel knew its namespace."""
    node, doomed, other = lab.node(), lab.container(), lab.container()
    link(node.namespace, lab.namespace("wire"), "parent", "far")

    def chained(space: Namespace, address: str) -> Document:
        like = ("index", 77, "address", "02:00:00:00:00:07", "netns", space.name, "type", "macvlan")
        node.namespace.ip("link", "add", "link", "parent", "name", "eth0", *like)
        space.ip("address", "add", address, "dev", "eth0")
        result = {
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "eth0", "sandbox": str(space.path)}],
            "ips": [{"address": address, "interface": 0}],
        }
        return {"cniVersion": "1.0.0", "name": "tenant-a", "type": "bgpcni", "exporters": [], "prevResult": result}

    def number(space: Namespace) -> int | None:
        known = json.loads(node.namespace.ip("-json", "netns", "list-id"))
        return {item.get("name"): int(item["nsid"]) for item in known}.get(space.name)

    conf = chained(doomed, "10.1.2.3/24")
    assert node.cni("ADD", "c1", doomed, conf).ok
    assert node.cni("ADD", "c1", doomed, conf).error == 100
    given = number(doomed)
    assert given is not None
    doomed.close()
    until(lambda: number(doomed) is None, "the end of the namespace")
    conf = chained(other, "10.1.2.4/24")
    assert node.cni("ADD", "c2", other, conf).ok
    assert number(other) == given
    (record,) = node.records()
    assert json.loads(record.read_text())["container_id"] == "c2"
    delete(node, "c2", other, conf)
    delete(node, "c1", None, conf)
    assert node.records() == []
