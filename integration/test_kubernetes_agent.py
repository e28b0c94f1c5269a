"""A real agent as a node of a cluster: net.d, the Node's condition and taint. kubectl is real; the API server is the
double, or the one of KUBECONFIG (`make kubernetes`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.kubernetes.cluster import Cluster
from integration.lab import Frr, Lab, Node, until

TAINT = "bgpcni.dev/agent-not-ready"
CIDRS = ("10.71.2.0/24", "2001:db8:71:2::/64")
TEMPLATE = {
    "cniVersion": "1.0.0",
    "name": "pods",
    "plugins": [{"type": "bgpcni", "bridge": "cni0", "isGateway": True, "ipam": {"type": "host-local"}}],
}


@pytest.fixture
def cluster(lab: Lab, node: Node, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    cluster = Cluster(node.namespace, lab.folder / "cluster")
    if cluster.double is None and request.node.get_closest_marker("double"):
        cluster.close()
        pytest.skip("only the double of the API can do that")
    yield cluster
    cluster.close()


@pytest.fixture
def frr(lab: Lab) -> Frr:
    return lab.frr("namespace")


class Member:
    """A node that is in a cluster: its agent.toml, template and net.d."""

    def __init__(self, node: Node, cluster: Cluster, name: str) -> None:
        self.node, self.name = node, name
        self.template, self.conf_dir = node.folder / "network.conflist", node.folder / "net.d"
        self.file = self.conf_dir / "10-bgpcni.conflist"
        self.toml: dict[str, Any] = {
            "store": "kubernetes", "node": name,
            "kubernetes": {
                "kubeconfig": str(cluster.kubeconfig), "network": str(self.template), "conf_dir": str(self.conf_dir),
            },
        }  # fmt: skip
        self.template.write_text(json.dumps(_with_leases(node)))

    def start(self, **kubernetes: Any) -> None:
        self.node.agent(cluster=self.toml | {"kubernetes": self.toml["kubernetes"] | kubernetes})

    def problems(self) -> dict[str, str]:
        """What `bgpcni status` says, by code."""
        return {item["code"]: item["text"] for item in self.node.operator("status").document["problems"]}

    def rendered(self) -> dict[str, Any]:
        return dict(json.loads(self.file.read_text()))


def _with_leases(node: Node) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(TEMPLATE))
    document["plugins"][0]["ipam"]["dataDir"] = str(node.leases)
    return document


@pytest.fixture
def member(node: Node, cluster: Cluster) -> Member:
    return Member(node, cluster, cluster.node(CIDRS, taints=(TAINT,)))


def _ready(cluster: Cluster, name: str) -> bool:
    return cluster.condition(name).get("status") == "False" and TAINT not in cluster.taints(name)


def test_a_node_is_ready_once_its_agent_serves(
    member: Member, cluster: Cluster, node: Node, frr: Frr, lab: Lab
) -> None:
    """The agent writes the network with the Node's podCIDRs and the uplink's MTU, portmap behind it, then says that the
    network is available and takes its taint off; a pod of that network is announced."""
    member.start()
    until(lambda: _ready(cluster, member.name), "a Node that is ready")
    ours, portmap = member.rendered()["plugins"]
    assert ours["ipam"]["ranges"] == [[{"subnet": CIDRS[0]}], [{"subnet": CIDRS[1]}]]
    assert ours["ipam"]["routes"] == [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
    assert ours["mtu"] == 1500
    assert portmap == {"type": "portmap", "capabilities": {"portMappings": True}}
    conf = ours | {"name": "pods", "cniVersion": "1.0.0"}
    answer = node.cni("ADD", "c1", lab.container(), conf)
    assert answer.ok, answer
    until(lambda: frr.next_hops(f"{answer.ips[0]}/32") == {node.address}, "the route of the pod")
    assert not {"kubernetes", "network-configuration"} & member.problems().keys()


def test_the_network_outlives_a_restart_of_the_agent(member: Member, cluster: Cluster, node: Node) -> None:
    """An upgrade is no event to the cluster: file, condition and taint stay as they are while no agent runs."""
    member.start()
    until(lambda: _ready(cluster, member.name), "a Node that is ready")
    written = member.file.stat().st_mtime_ns
    node.kill_agent(15)
    assert member.file.exists()
    assert _ready(cluster, member.name)
    node.start_agent()
    until(lambda: node.operator("status").code in (0, 1), "the agent")
    assert _ready(cluster, member.name)
    assert member.file.stat().st_mtime_ns == written


def test_the_network_of_an_earlier_boot_goes_first(member: Member, cluster: Cluster, node: Node) -> None:
    """After a reboot runtimes must not start pods before the agent can serve them: with the API server away nothing is
    there, and it comes back once the Node can be read."""
    member.start()
    until(lambda: _ready(cluster, member.name), "a Node that is ready")
    node.kill_agent()
    text = member.file.read_text()
    member.file.write_text(text.replace(member.rendered()["bgpcni.dev"]["bootID"], "of-an-earlier-boot"))
    cluster.line.refused = True
    node.start_agent()
    assert not member.file.exists()
    until(lambda: "network-configuration" in member.problems(), "status saying that there is no network")
    cluster.line.refused = False
    until(member.file.exists, "the network again")
    assert member.file.read_text() == text


def test_an_api_server_that_is_away_changes_nothing(
    member: Member, cluster: Cluster, node: Node, frr: Frr, lab: Lab
) -> None:
    """Pods start and stop, and routes come and go; `status` names the server."""
    member.start()
    until(lambda: _ready(cluster, member.name), "a Node that is ready")
    cluster.line.refused = True
    cluster.cut()
    until(lambda: "kubernetes" in member.problems(), "status naming the API server")
    conf = member.rendered()["plugins"][0] | {"name": "pods", "cniVersion": "1.0.0"}
    answer = node.cni("ADD", "c1", lab.container(), conf)
    assert answer.ok, answer
    until(lambda: frr.next_hops(f"{answer.ips[0]}/32") == {node.address}, "the route of the pod")
    assert member.file.exists()
    cluster.line.refused = False
    until(lambda: "kubernetes" not in member.problems(), "status without the API server")


def test_a_node_without_sessions_says_so_if_it_is_asked_to(member: Member, cluster: Cluster, frr: Frr) -> None:
    """With `unready_after` the Node is unavailable and tainted while no session is up, and ready when one is again;
    the network configuration stays, for what runs goes on."""
    member.start(unready_after=2)
    until(lambda: _ready(cluster, member.name), "a Node that is ready")
    frr.stop()
    until(lambda: cluster.condition(member.name).get("reason") == "NoBGPSession", "the condition")
    until(lambda: TAINT in cluster.taints(member.name), "the taint")
    assert member.file.exists()
    frr.restart()
    until(lambda: _ready(cluster, member.name), "a Node that is ready again")


def test_a_drained_node_takes_no_pods(member: Member, cluster: Cluster, node: Node) -> None:
    """`bgpcni drain` taints the Node; an agent started anew takes the taint off."""
    member.start()
    until(lambda: _ready(cluster, member.name), "a Node that is ready")
    node.operator("drain")
    until(lambda: TAINT in cluster.taints(member.name), "the taint")
    node.restart_agent()
    until(lambda: _ready(cluster, member.name), "a Node that is ready again")


def test_others_taints_and_conditions_are_left_alone(member: Member, cluster: Cluster) -> None:
    """What kubectl sets on the Node meanwhile stays, and what it takes of ours is set again."""
    cluster.kubectl("taint", "node", member.name, "example.dev/mine=1:NoExecute")
    cluster.kubectl(
        "patch", "node", member.name, "--subresource=status", "-p",
        '{"status":{"conditions":[{"type":"MemoryPressure","status":"False","reason":"Ok","message":""}]}}',
    )  # fmt: skip
    member.start()
    until(lambda: _ready(cluster, member.name), "a Node that is ready")
    assert "example.dev/mine" in cluster.taints(member.name)
    assert cluster.condition(member.name, "MemoryPressure")["reason"] == "Ok"
    cluster.kubectl("taint", "node", member.name, f"{TAINT}=:NoSchedule")
    until(lambda: TAINT not in cluster.taints(member.name), "the taint off again")
    assert "example.dev/mine" in cluster.taints(member.name)


def test_a_template_that_changes_is_taken_up(member: Member, cluster: Cluster, node: Node) -> None:
    """A ConfigMap that is edited reaches the runtime without a restart; one that is broken changes nothing, and
    `status` says what is wrong with it."""
    member.start()
    until(lambda: _ready(cluster, member.name), "a Node that is ready")
    document = _with_leases(node)
    document["plugins"][0]["mtu"] = 1400
    _replace(member.template, json.dumps(document))
    until(lambda: member.rendered()["plugins"][0]["mtu"] == 1400, "the new MTU")
    _replace(member.template, '{"name": "pods"')
    until(lambda: "not JSON" in member.problems().get("network-configuration", ""), "what is wrong with the template")
    assert member.rendered()["plugins"][0]["mtu"] == 1400


LEAST = [
    {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch", "patch"]},
    {"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]},
]


def test_the_least_role_is_enough(member: Member, cluster: Cluster) -> None:
    """Nodes read and patched, their status patched, and no more: that is all that a node's agent asks for."""
    member.toml["kubernetes"]["kubeconfig"] = str(cluster.account("agent", LEAST, member.node.folder / "token"))
    member.start()
    until(lambda: _ready(cluster, member.name), "a Node that is ready")


def test_a_role_that_lacks_something_is_named(member: Member, cluster: Cluster) -> None:
    """Without the right to patch the status, `status` says which is missing; pods have their network all the same."""
    kubeconfig = cluster.account("poor", LEAST[:1], member.node.folder / "token")
    member.toml["kubernetes"]["kubeconfig"] = str(kubeconfig)
    member.start()
    until(lambda: 'cannot patch resource "nodes/status"' in member.problems().get("kubernetes", ""), "what is missing")
    assert member.file.exists()


@pytest.mark.double
def test_a_token_that_is_replaced_is_taken_up(member: Member, cluster: Cluster) -> None:
    """kubelet replaces the token of a pod's service account: the agent goes on with the new one."""
    assert cluster.double is not None
    file = member.node.folder / "token"
    kubeconfig = cluster.account("agent", LEAST, file)
    member.toml["kubernetes"]["kubeconfig"] = str(kubeconfig)
    member.start()
    until(lambda: _ready(cluster, member.name), "a Node that is ready")
    old = file.read_text()
    file.write_text(cluster.token(cluster.accounts[kubeconfig]))
    cluster.double.machinery.access.revoke(old)
    cluster.cut()
    cluster.kubectl("taint", "node", member.name, f"{TAINT}=:NoSchedule")
    until(lambda: TAINT not in cluster.taints(member.name), "the taint off, with the new token")


@pytest.mark.double
def test_a_server_that_was_restarted_is_followed_again(member: Member, cluster: Cluster) -> None:
    """Every stream cut and every revision forgotten (410): the agent lists anew, and sees what happened meanwhile."""
    assert cluster.double is not None
    member.start()
    until(lambda: _ready(cluster, member.name), "a Node that is ready")
    cluster.line.refused = True
    cluster.cut()
    cluster.double.merge("v1/nodes", member.name, {"spec": {"taints": [{"key": TAINT, "effect": "NoSchedule"}]}})
    cluster.double.forget()
    cluster.line.refused = False
    until(lambda: TAINT not in cluster.taints(member.name), "the taint off again")


def test_a_node_that_is_not_in_the_cluster_is_named(node: Node, cluster: Cluster) -> None:
    """A wrong `cluster.node` is said in `status`, and nothing is written."""
    member = Member(node, cluster, "nobody")
    member.start()
    until(lambda: "no Node nobody" in member.problems().get("kubernetes", ""), "the name of the Node")
    assert not member.file.exists()


def _replace(path: Path, text: str) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


def test_an_annotation_of_the_node_asks_for_maintenance(
    member: Member, cluster: Cluster, node: Node, frr: Frr, lab: Lab
) -> None:
    """FRR hears it of a pod that runs; an agent that starts without the API goes on; it ends with the annotation."""
    member.start()
    until(lambda: _ready(cluster, member.name), "a Node that is ready")
    (ours, _) = member.rendered()["plugins"]
    answer = node.cni("ADD", "c1", lab.container(), ours | {"name": "pods", "cniVersion": "1.0.0"})
    assert answer.ok, answer

    def heard() -> list[tuple[int, list[str]]]:
        paths = frr.paths(f"{answer.ips[0]}/32")
        return [(path["locPrf"], path.get("community", {}).get("list", [])) for path in paths]

    until(lambda: heard() == [(100, [])], "the route of the pod")
    cluster.kubectl("annotate", "node", member.name, "bgpcni.dev/maintenance=true")
    until(lambda: heard() == [(0, ["gracefulShutdown"])], "the route in maintenance")
    assert list(node.operator("status").document["maintenance"]) == ["annotation"]
    cluster.line.refused = True
    cluster.cut()
    node.restart_agent()
    until(lambda: node.operator("routes").code == 0, "every route announced")
    assert heard() == [(0, ["gracefulShutdown"])]
    cluster.line.refused = False
    cluster.kubectl("annotate", "node", member.name, "bgpcni.dev/maintenance-")
    until(lambda: heard() == [(100, [])], "the route as before")


def test_what_happens_is_an_event_of_the_pod_and_of_the_node(
    member: Member, cluster: Cluster, node: Node, frr: Frr, lab: Lab
) -> None:
    """`kubectl get events` shows when a pod's route is announced, and when a session of the node ends."""
    member.start()
    until(lambda: _ready(cluster, member.name), "a Node that is ready")
    conf = member.rendered()["plugins"][0] | {"name": "pods", "cniVersion": "1.0.0"}
    args = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID=1-2;IgnoreUnknown=1"
    answer = node.cni("ADD", "c1", lab.container(), conf, args=args)
    assert answer.ok, answer

    def events(kind: str, reason: str) -> list[str]:
        found = json.loads(cluster.kubectl("get", "events", "-n", "default", "-o", "json"))["items"]
        return [each["message"] for each in found if (each["involvedObject"]["kind"], each["reason"]) == (kind, reason)]

    until(lambda: any(answer.ips[0] in text for text in events("Pod", "RouteAnnounced")), "an Event of the pod")
    frr.configure(f"router bgp {frr.asn}", f"neighbor {node.address} shutdown")
    until(lambda: events("Node", "SessionDown"), "an Event of the Node")
