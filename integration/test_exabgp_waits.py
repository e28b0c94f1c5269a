"""`bgp.wait` through the real plugin: what ADD waits for, and for how long at most."""

from __future__ import annotations

import pytest

from integration.lab import Frr, Lab, Node, until
from integration.seen import delete


@pytest.fixture
def frr(lab: Lab) -> Frr:
    return lab.frr()


def test_sent_and_acknowledged(lab: Lab, frr: Frr, node: Node) -> None:
    """With a session `sent` and `acked` answer at once, without a warning. Is the link cut, what is in the socket is
    sent, but nothing is acknowledged: ADD succeeds after `waitSeconds` with one warning, and the route comes later."""
    node.agent()
    frr.wait_established(node.address)
    kinds = {
        "sent": {"wait": "sent", "waitSeconds": 30},
        "acked": {"wait": "acked", "waitSeconds": 30},
        "late": {"wait": "acked", "waitSeconds": 1},
    }
    networks = {kind: node.network("tenant-a", "10.1.2.0/24", None, bgp=bgp) for kind, bgp in kinds.items()}
    spaces = {name: lab.container(name) for name in ("a", "b", "c", "d")}
    answers = {}
    for name, kind in (("a", "sent"), ("b", "acked")):
        answers[name] = node.cni("ADD", name, spaces[name], networks[kind])
        assert answers[name].ok, answers[name]
        assert answers[name].stderr == ""
        assert answers[name].seconds < 30
    end = "node1"
    frr.namespace.ip("link", "set", end, "down")
    sent = answers["c"] = node.cni("ADD", "c", spaces["c"], networks["sent"])
    assert (sent.ok, sent.stderr) == (True, "")
    late = answers["d"] = node.cni("ADD", "d", spaces["d"], networks["late"])
    assert late.ok
    assert len(late.stderr.splitlines()) == 1
    assert "warning" in late.stderr
    assert "not acknowledged" in late.stderr
    assert 1 <= late.seconds < 30
    frr.namespace.ip("link", "set", end, "up")
    for answer in answers.values():
        until(lambda ip=answer.ips[0]: frr.paths(f"{ip}/32"), "the route", 60)  # type: ignore[misc]
    for name, answer in answers.items():
        delete(node, name, spaces[name], networks["sent"])
        until(lambda ip=answer.ips[0]: not frr.paths(f"{ip}/32"), "its end", 60)  # type: ignore[misc]
