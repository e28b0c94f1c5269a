"""EVPN with two speakers on each node, each with a reflector of its own: while one is away the other carries it all."""

from __future__ import annotations

import json
import os
import signal

import pytest

from bgpcni.testing.patience import SECONDS
from integration import evpn
from integration.evpn import Container, Pings, connected
from integration.lab import Lab, Neighbor, Node, link, until

KILLS = int(os.environ.get("BGPCNI_SPEAKER_KILLS", "2"))
"""How many speakers are killed one after the other."""


class Twice:
    """Two nodes of one network; each has speaker a with the first reflector, and b with the second."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.frrs = {"a": lab.frr(), "b": lab.frr(router_id="198.18.255.2")}
        self.nodes = [lab.node(self.frrs["a"], reflect=True) for _ in range(2)]
        for k, node in enumerate(self.nodes, 11):
            second = f"198.18.{k}.1"
            ends = (f"198.18.{k}.2/24",), (f"{second}/24",)
            link(node.namespace, self.frrs["b"].namespace, "uplink2", f"node{k}", *ends)
            self.frrs["b"].namespace.ip("route", "add", node.address, "via", f"198.18.{k}.2")
            self.frrs["b"].add_neighbor(Neighbor(node.address, node.asn, node.families, reflect=True))
            neighbors = [
                {"address": address, "asn": node.asn, "families": list(node.families), "exporter": name}
                for name, address in (("a", node.peer), ("b", second))
            ]
            speakers = {"a": {"type": "exabgp"}, "b": {"type": "exabgp"}}
            node.agent(exporters=speakers, default_exporters=["exabgp"], bgp={"neighbors": neighbors})
        for frr in self.frrs.values():
            for node in self.nodes:
                frr.wait_established(node.address)

    def add(self, at: int, name: str) -> Container:
        node, space = self.nodes[at], self.lab.container(name)
        conf = evpn.network(node, at + 1)
        answer = node.cni("ADD", name, space, conf)
        assert answer.ok, answer
        return Container(name, node, space, conf, answer)

    def kill(self, node: Node, name: str) -> None:
        """Kill a speaker, and wait until everybody has everything again by both reflectors."""
        frr = self.frrs[name]
        begun = frr.neighbor(node.address)["connectionsEstablished"]
        os.kill(speaker(node, name), signal.SIGKILL)
        until(lambda: frr.neighbor(node.address)["connectionsEstablished"] > begun, "its session again")
        until(lambda: node.operator("routes").code == 0, "its routes again")
        until(lambda: all(map(heard_twice, self.nodes)), "the routes by both reflectors at both nodes")


class Watched:
    """Two containers of two nodes that ping each other, 200 times a second; what their kernels delete meanwhile."""

    def __init__(self, twice: Twice) -> None:
        self.nodes = twice.nodes
        self.one, self.two = twice.add(0, "one"), twice.add(1, "two")
        connected(self.one, self.two)
        for node in self.nodes:
            until(lambda node=node: node.operator("status").code == 0, "that all is well")  # type: ignore[misc]
        self.logs = [node.folder / "deletions.log" for node in self.nodes]
        self.monitors = []
        for node, log in zip(self.nodes, self.logs, strict=True):
            with log.open("w") as out:
                self.monitors.append(node.namespace.popen("bridge", "monitor", "fdb", stdout=out))
        self.pings = [Pings(a.space, b.four, 0.005) for a, b in ((self.one, self.two), (self.two, self.one))]

    def stop(self) -> tuple[int, int, int]:
        """(pings sent, lost, entries for the other node that were deleted)."""
        counts = [ping.stop() for ping in self.pings]
        for monitor in self.monitors:
            monitor.terminate()
            monitor.wait(SECONDS)
        lines = [line for log in self.logs for line in log.read_text().splitlines()]
        deleted = [line for line in lines if "Deleted" in line and evpn.DEVICE in line]
        return sum(sent for sent, _ in counts), sum(lost for _, lost in counts), len(deleted)


def speaker(node: Node, name: str) -> int:
    """The pid of an exporter's ExaBGP."""
    return int(json.loads((node.run_dir / f"exabgp-{name}.pid").read_text())["pid"])


@pytest.mark.timeout(900)
def test_speakers_that_are_killed_in_turn_cost_nothing(lab: Lab) -> None:
    """Not one ping of 200 a second each way is lost, and the far node's kernel forgets no entry."""
    twice = Twice(lab)
    watched = Watched(twice)
    for kill in range(KILLS):
        twice.kill(twice.nodes[kill // 2 % 2], "ab"[kill % 2])
    sent, lost, deleted = watched.stop()
    print(f"{KILLS} speakers killed: {sent} pings, {lost} lost, {deleted} entries deleted")
    assert (lost, deleted) == (0, 0)
    assert sent > 100


def heard_twice(node: Node) -> bool:
    """Whether a node has the other's two routes from each of its two reflectors, and none is stale."""
    received = node.operator("routes", "--received").document["received"]
    hosts = [r for r in received if r["mac"] and not r["stale"] and r["imported"][0]["state"] != "refused"]
    return len(hosts) == 4 and len({route["peer"] for route in hosts}) == 2


def test_the_operator_restarts_one_after_the_other(lab: Lab) -> None:
    """`bgpcni restart-speaker` costs no ping and no entry, and touches only the named one if a name is given."""
    twice = Twice(lab)
    watched = Watched(twice)
    node = twice.nodes[0]
    before = {name: speaker(node, name) for name in "ab"}
    answer = node.operator("restart-speaker")
    assert (answer.code, answer.document["restarted"], answer.document["late"]) == (0, ["a", "b"], ""), answer
    after = {name: speaker(node, name) for name in "ab"}
    assert before["a"] != after["a"]
    assert before["b"] != after["b"]
    answer = node.operator("restart-speaker", "b")
    assert (answer.code, answer.document["restarted"]) == (0, ["b"]), answer
    assert speaker(node, "a") == after["a"]
    sent, lost, deleted = watched.stop()
    print(f"restart-speaker three times: {sent} pings, {lost} lost, {deleted} entries deleted")
    assert (lost, deleted) == (0, 0)
    assert "no exporter at work is called c" in node.operator("restart-speaker", "c").document["error"]
