"""RoutePolicies by the labels of pods, namespaces and the Node. kubectl is real; the API server is the double, or the
one of KUBECONFIG (`make kubernetes`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from integration.kubernetes.cluster import RBAC, Cluster, document
from integration.lab import Frr, Lab, Node, until
from integration.seen import nothing_missed

CRI_ARGS = "K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_INFRA_CONTAINER_ID={name};K8S_POD_UID={uid}"


@pytest.fixture
def frr(lab: Lab) -> Frr:
    return lab.frr("namespace")


@pytest.fixture
def cluster(lab: Lab, node: Node) -> Iterator[Cluster]:
    cluster = Cluster(node.namespace, lab.folder / "cluster")
    cluster.define()
    yield cluster
    cluster.kubectl("delete", "routepolicies", "--all", check=False)
    cluster.kubectl("delete", "namespace", "bgpcni-shop", "--wait=false", check=False)
    cluster.close()


class Pods:
    """Pods of one namespace on this node, which nobody runs but the test."""

    def __init__(self, cluster: Cluster, node: Node, frr: Frr, lab: Lab, name: str, **keys: Any) -> None:
        """`keys`: of the network configuration."""
        self.keys = keys
        self.cluster, self.node, self.frr, self.lab, self.name = cluster, node, frr, lab, name
        self.prefixes: dict[str, str] = {}
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "bgpcni-shop"}}
        cluster.kubectl("create", "-f", "-", stdin=namespace)

    def add(self, name: str, **labels: str) -> None:
        pod: dict[str, Any] = {
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "bgpcni-shop", "labels": labels},
            "spec": {"nodeName": self.name, "containers": [{"name": "c", "image": "registry.invalid/none"}]},
        }  # fmt: skip
        self.cluster.kubectl("create", "-f", "-", stdin=pod)
        uid = self.cluster.kubectl_json("get", "pod", name, "-n", "bgpcni-shop")["metadata"]["uid"]
        args = CRI_ARGS.format(namespace="bgpcni-shop", name=name, uid=uid)
        answer = self.node.cni("ADD", name, self.lab.container(name), self.node.network(**self.keys), args=args)
        assert answer.ok, answer
        self.prefixes[name] = f"{answer.ips[0]}/32"

    def hears(self, name: str, *communities: str, med: int | None = None) -> None:
        """Wait until FRR has just these of a pod."""

        def heard() -> list[Any]:
            paths = self.frr.paths(self.prefixes[name])
            return [(set(path.get("community", {}).get("list", [])), path.get("metric")) for path in paths]

        until(lambda: heard() == [(set(communities), med)], f"{communities} and {med} of {name}")


def test_labels_of_pods_namespaces_and_nodes(cluster: Cluster, node: Node, frr: Frr, lab: Lab) -> None:
    """FRR hears of running pods what policies say once kubectl has changed a label of a pod, its namespace or the Node;
    the agent has the role of deploy/. While the API is away a killed agent says what was true; then it catches up."""
    name = cluster.node(("10.71.3.0/24",))
    (role,) = (one for one in yaml.safe_load_all(RBAC.read_text()) if one["kind"] == "ClusterRole")
    account = cluster.account("agent", role["rules"], node.folder / "token")
    kubernetes = {"kubeconfig": str(account), "conf_dir": str(node.folder / "net.d")}
    node.agent(cluster={"store": "kubernetes", "node": name, "kubernetes": kubernetes})
    frr.wait_established(node.address)
    pods = Pods(cluster, node, frr, lab, name)
    pods.add("web-0", tier="web")
    pods.add("db-0", tier="db")
    pods.hears("web-0")
    with nothing_missed(lab, frr, list(pods.prefixes.values())):
        policies = {
            "a-web": {"match": {"podSelector": {"matchLabels": {"tier": "web"}}}, "set": {"communities": ["64512:1"]}},
            "b-team": {"match": {"namespaceSelector": {"matchLabels": {"team": "a"}}}, "set": {"med": 7}},
            "c-rack": {"match": {"nodeSelector": {"matchLabels": {"rack": "r1"}}}, "set": {"communities": ["64512:3"]}},
        }
        for each, spec in policies.items():
            cluster.kubectl("apply", "-f", "-", stdin=document("RoutePolicy", each, spec))
        pods.hears("web-0", "64512:1")
        pods.hears("db-0")
        cluster.kubectl("label", "pod", "db-0", "-n", "bgpcni-shop", "tier=web", "--overwrite")
        pods.hears("db-0", "64512:1")
        cluster.kubectl("label", "namespace", "bgpcni-shop", "team=a")
        pods.hears("web-0", "64512:1", med=7)
        pods.hears("db-0", "64512:1", med=7)
        cluster.kubectl("label", "node", name, "rack=r1")
        pods.hears("web-0", "64512:1", "64512:3", med=7)

        cluster.line.refused = True
        cluster.cut()
        node.restart_agent(9)
        until(lambda: node.operator("routes").code == 0, "every route announced")
        pods.hears("web-0", "64512:1", "64512:3", med=7)
        pods.hears("db-0", "64512:1", "64512:3", med=7)
        cluster.line.refused = False
        cluster.kubectl("label", "pod", "web-0", "-n", "bgpcni-shop", "tier-")
        pods.hears("web-0", "64512:3", med=7)
        cluster.kubectl("delete", "routepolicies", "--all")
        pods.hears("web-0")
        pods.hears("db-0")


def test_a_shared_address_is_announced_while_its_pod_is_ready(cluster: Cluster, node: Node, frr: Frr, lab: Lab) -> None:
    """By the condition Ready, with the role of deploy/. While the API is away a killed agent says what was true; a
    pod that is not ready any more is withdrawn, and its own address is not."""
    name = cluster.node(("10.71.4.0/24",))
    (role,) = (one for one in yaml.safe_load_all(RBAC.read_text()) if one["kind"] == "ClusterRole")
    account = cluster.account("agent", role["rules"], node.folder / "token")
    kubernetes = {"kubeconfig": str(account), "conf_dir": str(node.folder / "net.d")}
    policy = {"annotations": ["anycast"], "anycast": ["192.0.2.0/24"]}
    node.agent(cluster={"store": "kubernetes", "node": name, "kubernetes": kubernetes}, policy=policy)
    frr.wait_established(node.address)
    annotations = {"io.kubernetes.cri.pod-annotations": {"bgpcni.dev/anycast": "192.0.2.53"}}
    pods = Pods(cluster, node, frr, lab, name, runtimeConfig=annotations)
    pods.add("web-0")
    pods.hears("web-0")
    explained = node.operator("explain", "bgpcni-shop/web-0").document["attachments"][0]["steps"]
    assert any("the pod is not ready" in step["detail"] or "not told" in step["detail"] for step in explained)
    assert frr.paths("192.0.2.53/32") == []

    def become(status: str) -> None:
        patch = {"status": {"conditions": [{"type": "Ready", "status": status}]}}
        cluster.kubectl("patch", "pod", "web-0", "-n", "bgpcni-shop", "--subresource=status", "--type=merge", "-p",
                        json.dumps(patch))  # fmt: skip

    become("True")
    until(lambda: frr.next_hops("192.0.2.53/32") == {node.address}, "the shared address")
    cluster.line.refused = True
    cluster.cut()
    node.restart_agent(9)
    until(lambda: node.operator("routes").code == 0, "every route announced")
    assert frr.next_hops("192.0.2.53/32") == {node.address}
    cluster.line.refused = False
    become("False")
    until(lambda: frr.paths("192.0.2.53/32") == [], "it is withdrawn")
    pods.hears("web-0")
