"""A container that went without a DEL: its route goes at once, the rest after a grace period (`orphan_grace`)."""

from __future__ import annotations

import pytest

from integration.lab import Frr, Lab, Node, until
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
    assert len(node.records()) == 1
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
