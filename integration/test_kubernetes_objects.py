"""The cluster's objects as custom resources: real kubectl installs deploy/kubernetes/crds and applies objects, and an
agent follows them. The API server is the double, or the one of KUBECONFIG (`make kubernetes`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from bgpcni.cluster import crds
from bgpcni.cluster.objects import parse
from bgpcni.errors import CniError
from integration.kubernetes.cluster import CRDS, RBAC, Cluster, document
from integration.lab import Frr, Lab, Node, until


@pytest.fixture
def cluster(lab: Lab, node: Node) -> Iterator[Cluster]:
    cluster = Cluster(node.namespace, lab.folder / "cluster")
    cluster.define()
    yield cluster
    cluster.close()


def test_the_definitions_are_those_of_the_models() -> None:
    """If this fails: python -m bgpcni.cluster.crds > deploy/kubernetes/crds/crds.yaml"""
    assert (CRDS / "crds.yaml").read_text() == crds.text()


PEER: dict[str, Any] = {"address": "192.0.2.1"}
GOOD: list[tuple[str, dict[str, Any]]] = [
    ("BGPPeer", PEER),
    ("BGPPeer", {"address": "2001:db8::1", "asn": 4294967295, "families": ["l2vpn-evpn"], "holdTime": 3}),
    ("BGPPeer", {"gateway": True, "nodeSelector": {"matchLabels": {"rack": "r1"}}}),
    ("BGPPeer", {"peerSelector": {}, "nodeSelector": {"rack": "r1"}}),
    ("BGPPeer", {"address": "192.0.2.1", "gateway": False, "passwordSecret": "tor"}),
    ("IPPool", {"cidrs": ["10.0.0.0/16", "2001:db8::/48"], "blockSize": {"ipv4": 28}, "static": ["10.0.0.0/28"]}),
    ("IPBlock", {"cidr": "10.0.0.0/26", "pool": "a", "node": "n"}),
    ("RoutePolicy", {"match": {"networks": ["tenant-*"]}, "set": {"communities": ["64512:1"]}}),
    ("BGPNode", {"asn": 1, "routerID": "192.0.2.1", "addresses": ["192.0.2.1", "2001:db8::1"]}),
]
BAD: list[tuple[str, dict[str, Any], str]] = [
    ("BGPPeer", {}, "exactly one of address, gateway, interface, peerSelector"),
    ("BGPPeer", {**PEER, "gateway": True}, "exactly one of address, gateway, interface, peerSelector"),
    ("BGPPeer", {"address": "tor-1"}, "spec.address"),
    ("BGPPeer", {**PEER, "asn": 4294967296}, "spec.asn"),
    ("BGPPeer", {**PEER, "asn": "x"}, "spec.asn"),
    ("BGPPeer", {**PEER, "families": ["ipv5"]}, "ipv5"),
    ("BGPPeer", {**PEER, "passwordSecret": "a", "passwordFile": "/a"}, "exclude each other"),
    ("BGPPeer", {**PEER, "ttlSecurity": True, "multihop": 2}, "exclude each other"),
    ("BGPPeer", {**PEER, "adress": "x"}, "adress"),
    ("IPPool", {"cidrs": []}, "spec.cidrs"),
    ("IPPool", {"cidrs": ["10.0.0.0/33"]}, "spec.cidrs"),
    ("IPPool", {"cidrs": ["10.0.0.0/16"], "blockSize": {"ipv4": 33}}, "blockSize"),
    ("IPPool", {"cidrs": ["10.0.0.0/16"], "advertise": "all"}, "advertise"),
    ("RoutePolicy", {"set": {}}, "spec.set"),
    ("RoutePolicy", {}, "spec.set"),
]


def test_what_is_right_is_accepted_and_what_is_wrong_refused_by_the_server(cluster: Cluster) -> None:
    """Without a webhook, and as the agents see it: they accept the same objects and refuse the same."""
    for number, (kind, spec) in enumerate(GOOD):
        item = document(kind, f"good-{number}", spec)
        parse(item)
        cluster.kubectl("create", "-f", "-", stdin=item)
    for number, (kind, spec, said) in enumerate(BAD):
        item = document(kind, f"bad-{number}", spec)
        with pytest.raises(CniError):
            parse(item)
        with pytest.raises(Exception) as caught:  # noqa: PT011 - the words are looked at below
            cluster.kubectl("create", "-f", "-", stdin=item)
        assert said in str(caught.value) + str(getattr(caught.value, "stderr", "")), (item, caught.value)
    table = cluster.kubectl("get", "bgppeers").split()
    assert table[:5] == ["NAME", "ADDRESS", "GATEWAY", "INTERFACE", "ASN"]
    assert "good-1" in table


@pytest.fixture
def frr(lab: Lab) -> Frr:
    return lab.frr("namespace")


class Agent:
    """An agent of a Node of the cluster, which has no neighbours of its own."""

    def __init__(self, node: Node, cluster: Cluster, name: str, **bgp: Any) -> None:
        self.node, self.cluster, self.name = node, cluster, name
        kubernetes = {"kubeconfig": str(cluster.kubeconfig), "conf_dir": str(node.folder / "net.d")}
        self.toml = {"store": "kubernetes", "node": name, "kubernetes": kubernetes}
        self.bgp = {"neighbors": [], **bgp}

    def start(self) -> None:
        self.node.agent(cluster=self.toml, bgp=self.bgp)

    def problems(self) -> dict[str, str]:
        return {item["code"]: item["text"] for item in self.node.operator("status").document["problems"]}

    def spec(self) -> dict[str, Any]:
        """What its BGPNode says, {} where there is none."""
        found = self.cluster.kubectl("get", "bgpnode", self.name, "-o", "json", "--ignore-not-found")
        return dict(json.loads(found)["spec"]) if found else {}


def test_a_peer_by_kubectl_and_a_node_that_says_who_it_is(lab: Lab, cluster: Cluster, node: Node, frr: Frr) -> None:
    """The BGPNode follows the Node: its labels select, its annotations are ASN and router ID. `kubectl apply` of one
    BGPPeer brings the session up, `kubectl delete` ends it. The server away changes nothing, and is named."""
    name = cluster.node()
    agent = Agent(node, cluster, name)
    agent.start()
    until(lambda: agent.spec().get("epoch"), "the BGPNode")
    assert node.address in agent.spec()["addresses"]
    assert "cluster-store" not in agent.problems()
    cluster.kubectl("label", "node", name, "rack=r1")
    cluster.kubectl("annotate", "node", name, "bgpcni.dev/router-id=192.0.2.77", f"bgpcni.dev/asn={node.asn}")
    until(lambda: agent.spec().get("routerID") == "192.0.2.77", "the router ID of the annotation")
    peer = document("BGPPeer", "tor", {"address": node.peer, "asn": frr.asn, "nodeSelector": {"rack": "r1"}})
    cluster.kubectl("apply", "-f", "-", stdin=peer)
    frr.wait_established(node.address)
    until(lambda: frr.neighbor(node.address)["remoteRouterId"] == "192.0.2.77", "the router ID in the session")
    answer = node.cni("ADD", "c1", lab.container(), node.network())
    assert answer.ok, answer
    until(lambda: frr.next_hops(f"{answer.ips[0]}/32") == {node.address}, "the route")
    cluster.line.refused = True
    cluster.cut()
    until(lambda: "cluster-store" in agent.problems(), "status naming the store")
    assert frr.established(node.address)
    assert frr.paths(f"{answer.ips[0]}/32")
    cluster.line.refused = False
    until(lambda: "cluster-store" not in agent.problems(), "status without it")
    cluster.kubectl("annotate", "node", name, "bgpcni.dev/asn=zero", "--overwrite")
    until(lambda: "bgpcni.dev/asn: 'zero'" in agent.problems().get("cluster-node", ""), "what is wrong with the Node")
    cluster.kubectl("delete", "bgppeer", "tor")
    until(lambda: not frr.established(node.address), "the end of the session")


def test_the_role_of_deploy_is_enough(lab: Lab, cluster: Cluster, node: Node) -> None:
    """A service account with the roles of deploy/kubernetes registers its node, follows the objects and is heard."""
    import yaml

    rules = [rule for one in yaml.safe_load_all(RBAC.read_text()) for rule in one.get("rules", ())]
    agent = Agent(node, cluster, cluster.node())
    agent.toml["kubernetes"]["kubeconfig"] = str(cluster.account("agent", rules, node.folder / "token"))  # type: ignore[index]
    agent.start()
    until(lambda: agent.spec().get("epoch"), "the BGPNode")
    until(lambda: cluster.kubectl("get", "lease", f"bgpcni-node-{agent.name}", "-o", "name"), "its sign of life")
    assert not {"cluster-store", "cluster-node", "kubernetes"} & agent.problems().keys()


def test_a_password_that_is_a_secret(lab: Lab, cluster: Cluster, node: Node, frr: Frr) -> None:
    """Without the Secret there is no session, and `status` says which is missing; with it the session comes up, and it
    outlives a server that is away."""
    agent = Agent(node, cluster, cluster.node())
    agent.start()
    frr.configure(f"router bgp {frr.asn}", f"neighbor {node.address} password word")
    peer = document("BGPPeer", "tor", {"address": node.peer, "asn": frr.asn, "passwordSecret": "tor"})
    cluster.kubectl("apply", "-f", "-", stdin=peer)
    until(lambda: 'secrets "tor" not found' in agent.problems().get("cluster-peers", ""), "what is missing")
    assert not frr.established(node.address)
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "tor"}, "data": {"password": "d29yZA=="}}
    cluster.kubectl("apply", "-f", "-", stdin=secret)
    frr.wait_established(node.address)
    assert "cluster-peers" not in agent.problems()
    cluster.line.refused = True
    cluster.cut()
    node.restart_agent()
    until(lambda: "cluster-store" in agent.problems(), "status naming the store")
    assert frr.established(node.address)
