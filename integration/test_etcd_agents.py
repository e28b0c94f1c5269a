"""Two real agents, FRR and a real etcd: one document for all nodes."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from typing import Any

import pytest

from bgpcni.node import facts
from integration.etcd import Member
from integration.lab import Frr, Lab, Neighbor, Node, link, until
from integration.lab.inside import Inside
from integration.lab.node import BGPCNI

STORE = "198.18.99.1"
SECOND, SECOND_PEER = "198.18.98.2", "198.18.98.1"


def peer(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "bgpcni.dev/v1alpha1", "kind": "BGPPeer", "metadata": {"name": name}, "spec": spec,
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cluster:
    """FRR, which knows both nodes, and an etcd that they reach through it. The first node has agent.toml's neighbour
    too: another FRR."""

    frr: Frr
    own: Frr
    nodes: tuple[Node, Node]
    etcd: Member

    def start(self) -> None:
        for number, node in enumerate(self.nodes):
            node.agent(**self.toml(number))

    def toml(self, number: int) -> dict[str, Any]:
        own = [{"address": SECOND_PEER, "asn": self.own.asn, "families": ["ipv4-unicast"]}]
        return {
            "bgp": {"neighbors": [] if number else own},
            "cluster": {
                "store": "etcd", "node": f"node-{number + 1}", "labels": {"rack": f"r{number + 1}"},
                "etcd": {"endpoints": [self.etcd.endpoint]},
            },
        }  # fmt: skip

    def run(self, *words: str, stdin: str = "") -> tuple[int, dict[str, Any], str]:
        """An operator's command on the first node, as JSON."""
        node = self.nodes[0]
        done = node.namespace.run(BGPCNI, *words, "--config", node.config, "--json", check=False, stdin=stdin)
        return done.returncode, json.loads(done.stdout or "{}"), done.stderr

    def apply(self, *objects: dict[str, Any]) -> dict[str, str]:
        code, document, errors = self.run(
            "apply", "-f", "-", stdin="\n---\n".join(json.dumps(item) for item in objects)
        )
        assert code == 0, (document, errors)
        return {item["name"]: item["result"] for item in document["objects"]}

    def delete(self, kind: str, name: str) -> None:
        code, document, errors = self.run("delete", kind, name)
        assert code == 0, (document, errors)

    def sessions(self) -> list[bool]:
        return [self.frr.established(node.address) for node in self.nodes]

    def begun(self, frr: Frr, address: str) -> int:
        return int(frr.neighbor(address)["connectionsEstablished"])

    def problems(self, number: int) -> dict[str, str]:
        """What `bgpcni status` says, by code."""
        return {item["code"]: item["text"] for item in self.nodes[number].operator("status").document["problems"]}

    def by_peers(self, number: int) -> set[str]:
        """The neighbours that `bgpcni peers` has."""
        return {item["address"] for item in self.nodes[number].operator("peers").document["peers"]}

    def add(self, lab: Lab, number: int, name: str) -> str:
        """A container; its prefix."""
        node = self.nodes[number]
        answer = node.cni("ADD", name, lab.container(name), node.network(subnet=f"10.1.{number}.0/24"))
        assert answer.ok, answer
        return f"{answer.ips[0]}/32"


@pytest.fixture
def cluster(lab: Lab) -> Cluster:
    frr, own = lab.frr(), lab.frr(router_id="198.18.255.2")
    nodes = lab.node(frr), lab.node(frr)
    store = lab.namespace("etcd")
    link(store, frr.namespace, "uplink", "etcd", (f"{STORE}/24",), ("198.18.99.254/24",))
    store.ip("route", "add", "default", "via", "198.18.99.254")
    link(nodes[0].namespace, own.namespace, "uplink2", "node1", (f"{SECOND}/24",), (f"{SECOND_PEER}/24",))
    own.namespace.ip("route", "add", nodes[0].address, "via", SECOND)
    own.add_neighbor(Neighbor(nodes[0].address, nodes[0].asn, ("ipv4-unicast",)))
    etcd = Member(lab, store, peers={"etcd": STORE})
    etcd.start()
    return Cluster(frr, own, nodes, etcd)


def test_one_document_for_all_nodes(lab: Lab, cluster: Cluster) -> None:
    """One `apply` of a BGPPeer that means the default gateway brings up the sessions of both nodes, and routes go by
    them; a label takes one of them away, `delete` the other. agent.toml's own session is never touched."""
    cluster.start()
    cluster.own.wait_established(cluster.nodes[0].address)
    prefix = cluster.add(lab, 0, "c1")
    until(lambda: cluster.own.paths(prefix), "the route at agent.toml's neighbour")
    assert cluster.apply(peer("tor", gateway=True, asn=cluster.frr.asn)) == {"tor": "created"}
    until(lambda: cluster.sessions() == [True, True], "the sessions of both nodes")
    until(lambda: cluster.frr.next_hops(prefix) == {cluster.nodes[0].address}, "the route at the cluster's neighbour")
    assert cluster.by_peers(0) == {SECOND_PEER, cluster.nodes[0].peer}
    code, document, _ = cluster.run("nodes")
    assert code == 0
    assert [(item["name"], item["labels"]) for item in document["nodes"]] == [
        ("node-1", {"rack": "r1"}), ("node-2", {"rack": "r2"}),
    ]  # fmt: skip
    until(lambda: [item["sessions"] for item in cluster.run("nodes")[1]["nodes"]] == [2, 1], "the sessions in `nodes`")

    only_second = peer("tor", gateway=True, asn=cluster.frr.asn, nodeSelector={"rack": "r2"})
    assert cluster.apply(only_second) == {"tor": "configured"}
    until(lambda: cluster.sessions() == [False, True], "the session of the node that is selected, alone")
    until(lambda: not cluster.frr.paths(prefix), "the end of the route there")
    assert cluster.apply(only_second) == {"tor": "unchanged"}
    cluster.delete("bgppeers", "tor")
    until(lambda: cluster.sessions() == [False, False], "the end of both sessions")
    until(lambda: cluster.by_peers(1) == set(), "`peers` without it")
    assert cluster.own.paths(prefix)
    assert cluster.begun(cluster.own, cluster.nodes[0].address) == 1
    assert cluster.begun(cluster.frr, cluster.nodes[1].address) == 1


def test_a_store_that_is_away_changes_nothing(lab: Lab, cluster: Cluster) -> None:
    """etcd is stopped: ADD works, routes stay, `status` names it, and an agent that starts anew without it has its
    session again. etcd comes back and has forgotten what came before: what was changed is followed again."""
    cluster.start()
    assert cluster.apply(peer("tor", address=cluster.nodes[0].peer, asn=cluster.frr.asn, nodeSelector={"rack": "r1"}))
    cluster.frr.wait_established(cluster.nodes[0].address)
    first = cluster.add(lab, 0, "c1")
    until(lambda: cluster.frr.paths(first), "the route")
    cluster.etcd.kill()
    until(lambda: cluster.etcd.endpoint in cluster.problems(0).get("cluster-store", ""), "status naming the store")
    code, document, _ = cluster.run("get", "BGPPeer")
    assert code == 1
    assert cluster.etcd.endpoint in document["error"]
    second = cluster.add(lab, 0, "c2")
    until(lambda: cluster.frr.paths(second), "the route of an ADD without the store")
    assert cluster.begun(cluster.frr, cluster.nodes[0].address) == 1

    speaker = json.loads((cluster.nodes[0].run_dir / "exabgp.pid").read_text())["pid"]
    cluster.nodes[0].kill_agent()
    cluster.nodes[0].namespace.run("kill", "-9", str(speaker))  # as after a reboot: nobody remembers the session
    until(lambda: not cluster.frr.established(cluster.nodes[0].address), "the end of the session")
    cluster.nodes[0].start_agent()
    cluster.frr.wait_established(cluster.nodes[0].address)
    until(lambda: cluster.frr.paths(first) and cluster.frr.paths(second), "the routes after a start without the store")

    agent = cluster.nodes[1].process
    assert agent is not None
    agent.send_signal(signal.SIGSTOP)  # it cannot ask before all of this has happened and is forgotten
    cluster.etcd.start()
    cluster.apply(peer("other", address="203.0.113.9"), peer("third", address="203.0.113.10"))
    cluster.delete("BGPPeer", "third")
    cluster.etcd.compact()
    agent.send_signal(signal.SIGCONT)
    for number in (0, 1):
        until(
            lambda: {"203.0.113.9", "203.0.113.10"} & cluster.by_peers(number) == {"203.0.113.9"},  # noqa: B023
            "the peer that was made meanwhile, without the one that was deleted",
        )
        until(lambda: "cluster-store" not in cluster.problems(number), "status without the store")  # noqa: B023
    assert "everything is read anew" in cluster.nodes[1].log.read_text()
    cluster.delete("BGPPeer", "tor")
    until(lambda: not cluster.frr.established(cluster.nodes[0].address), "the end of the session")


def test_nodes_find_each_other(lab: Lab, cluster: Cluster) -> None:
    """A mesh by label, with nobody's address written down: it follows a node that comes and one that is deleted. What a
    node cannot do is said by its `status`, and by no other's."""
    first, second = cluster.nodes
    cluster.start()
    mesh = peer("mesh", nodeSelector={}, peerSelector={})
    later = peer("wire", interface="uplink", nodeSelector={"rack": "r2"})
    cluster.apply(mesh, later)

    def states(number: int) -> dict[str, str]:
        return {one["address"]: one["state"] for one in cluster.nodes[number].operator("peers").document["peers"]}

    until(lambda: states(0).get(second.address) == states(1).get(first.address) == "Established", "the session")
    until(lambda: "BGPPeer wire: spec.interface: " in cluster.problems(1).get("cluster-peers", ""), "what it cannot do")
    assert "cluster-peers" not in cluster.problems(0)
    second.kill_agent()
    cluster.delete("BGPNode", "node-2")
    until(lambda: second.address not in states(0), "the end of the session with the node that is gone")
    second.start_agent()
    until(lambda: states(0).get(second.address) == states(1).get(first.address) == "Established", "the session again")


def test_the_default_gateway_is_the_kernels_choice(lab: Lab) -> None:
    """Of several default routes the preferred one, of several ways the first, IPv6 as IPv4; none is none."""
    namespace, other = lab.namespace("routes"), lab.namespace("router")
    link(namespace, other, "uplink", "down", ("198.18.1.2/24", "2001:db8::2/64"), ("198.18.1.1/24", "2001:db8::1/64"))
    inside = Inside(namespace)
    lab.callback(inside.close)

    def found() -> tuple[str | None, str | None]:
        return inside.call(facts.default_gateway, 4), inside.call(facts.default_gateway, 6)

    assert found() == (None, None)
    namespace.ip("route", "add", "default", "via", "198.18.1.9", "metric", "100")
    namespace.ip("-6", "route", "add", "default", "via", "2001:db8::9", "metric", "2048")
    assert found() == ("198.18.1.9", "2001:db8::9")
    namespace.ip("route", "add", "default", "nexthop", "via", "198.18.1.1", "nexthop", "via", "198.18.1.3")
    namespace.ip("-6", "route", "add", "default", "via", "2001:db8::1", "metric", "512")
    assert found() == ("198.18.1.1", "2001:db8::1")
