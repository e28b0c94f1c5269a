"""What a node owes its cluster, compared step by step with a double of the API: file, condition, taint, status."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bgpcni.agent import agent
from bgpcni.cluster import duties, names, network
from bgpcni.cluster.duties import TAINT, Duties
from bgpcni.cluster.kubernetes import Api
from bgpcni.cluster.names import node_name
from bgpcni.cluster.own_node import OwnNode
from bgpcni.config.agent import AgentConfig, ClusterTable, KubernetesTable
from bgpcni.errors import InvalidConfiguration
from bgpcni.testing.patience import until
from integration.kubernetes.double import Double
from integration.kubernetes.failures import Failure

NODE = {
    "metadata": {"name": "n1"},
    "spec": {"podCIDRs": ["10.244.1.0/24"], "taints": [{"key": TAINT, "effect": "NoSchedule"}]},
}
TEMPLATE = {"name": "pods", "type": "bgpcni", "ipam": {"type": "host-local"}}


class Agent:
    """What the agent would say of itself."""

    def __init__(self) -> None:
        self.why, self.established, self.drained = "", None, False
        self.asked: list[bytes] = []

    def unservable(self, network: bytes) -> str:
        self.asked.append(network)
        return self.why

    def sessions(self) -> int | None:
        return self.established

    def mtu(self, family: str) -> int:
        return 1500


class Bench:
    """Duties whose comparisons the test makes one by one, in front of a double."""

    def __init__(self, double: Double, folder: Path) -> None:
        self.double, self.agent = double, Agent()
        self.folder, self.template = folder / "net.d", folder / "template"
        self.file = self.folder / network.NAME
        self.template.write_text(json.dumps(TEMPLATE))
        self.table = ClusterTable(
            store="kubernetes", node="n1",
            kubernetes=KubernetesTable(
                kubeconfig=str(double.kubeconfig(folder / "kubeconfig")), network=str(self.template),
                conf_dir=str(self.folder),
            ),
        )  # fmt: skip
        self.time = [1000.0]
        self.api = Api(self.table.kubernetes.kubeconfig)
        own = OwnNode(self.api, "n1")
        self.duties = Duties(own, lambda: self.table, self.agent, "this-boot", lambda: self.time[0])

    def set(self, **keys: Any) -> None:
        self.table = self.table.model_copy(update={"kubernetes": self.table.kubernetes.model_copy(update=keys)})

    def settle(self) -> None:
        """Compare until there is nothing left to change, with a mirror as new as the server."""
        for _ in range(6):
            self.duties._mirror._list()
            self.duties._due = 0.0
            self.duties.look()

    def condition(self) -> dict[str, Any]:
        found = self.double.get("v1/nodes", "n1") or {}
        return next((item for item in found["status"].get("conditions") or () if item["type"] == duties.CONDITION), {})

    def taints(self) -> set[str]:
        found = self.double.get("v1/nodes", "n1") or {}
        return {item["key"] for item in found["spec"].get("taints") or ()}

    def amiss(self) -> dict[str, str]:
        return {code: words for code, look in self.duties.looks.items() if (words := look())}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(duties, "ASK_SECONDS", 0.0)
    with Double() as double:
        double.create("v1/nodes", NODE)
        bench = Bench(double, tmp_path)
        yield bench
        bench.duties.stop()
        bench.duties._api.close()


def test_a_node_that_serves_is_ready(bench: Bench) -> None:
    """The file, then the condition, then the taint off; nothing is amiss, and the same again changes nothing."""
    bench.settle()
    assert json.loads(bench.file.read_text())["plugins"][0]["ipam"]["ranges"] == [[{"subnet": "10.244.1.0/24"}]]
    assert (bench.condition()["status"], bench.condition()["reason"]) == ("False", "BgpcniReady")
    assert TAINT not in bench.taints()
    assert bench.amiss() == {}
    bench.double.taken()
    bench.settle()
    assert all(seen.method == "GET" for seen in bench.double.taken())


def test_the_taint_goes_after_the_condition_and_the_file(bench: Bench) -> None:
    """Pods that come once the taint is off find a network."""
    bench.double.taken()
    bench.duties._mirror._list()
    bench.duties.look()
    assert bench.file.exists()
    bench.duties._mirror._list()
    bench.duties.look()
    patches = [seen.path for seen in bench.double.taken() if seen.method == "PATCH"]
    assert patches == ["/api/v1/nodes/n1/status", "/api/v1/nodes/n1"]


def test_a_node_that_cannot_serve_says_why(bench: Bench) -> None:
    """No file, the condition with the reason, the taint; once it can, all of it turns."""
    bench.agent.why = "exporters: nothing of that name"
    bench.settle()
    assert not bench.file.exists()
    assert (bench.condition()["status"], bench.condition()["reason"]) == ("True", "BgpcniNotReady")
    assert "nothing of that name" in bench.condition()["message"]
    assert TAINT in bench.taints()
    assert "nothing of that name" in bench.amiss()["network-configuration"]
    bench.agent.why = ""
    bench.settle()
    assert bench.file.exists()
    assert bench.condition()["status"] == "False"
    assert TAINT not in bench.taints()


def test_the_agent_is_asked_about_the_network_that_would_be_written(bench: Bench) -> None:
    """With everything filled in, as a runtime would hand it to the plugin."""
    bench.settle()
    asked = json.loads(bench.agent.asked[-1])
    assert (asked["name"], asked["mtu"], asked["type"]) == ("pods", 1500, "bgpcni")


def test_what_was_written_stays_when_the_node_cannot_serve_any_more(bench: Bench) -> None:
    """Taint and condition keep new pods away; the file is taken away at a new boot and by uninstall alone."""
    bench.settle()
    bench.agent.drained = True
    bench.settle()
    assert bench.file.exists()
    assert "drained" in bench.condition()["message"]
    assert TAINT in bench.taints()
    assert bench.condition()["status"] == "True"


def test_an_earlier_boot_s_file_goes_and_this_boot_s_stays(bench: Bench) -> None:
    """At the agent's start, before it serves."""
    bench.settle()
    bench.duties.begin()
    assert bench.file.exists()
    bench.file.write_text(bench.file.read_text().replace("this-boot", "another"))
    bench.duties.begin()
    assert not bench.file.exists()


def test_without_a_template_only_the_node_is_kept(bench: Bench) -> None:
    """Somebody else writes net.d."""
    bench.set(network=None)
    bench.settle()
    assert not bench.file.exists()
    assert bench.condition()["status"] == "False"
    assert TAINT not in bench.taints()


def test_a_node_without_pod_cidrs_waits_for_them(bench: Bench) -> None:
    """It says so, and goes on as soon as the controller-manager has given them."""
    bench.double.delete("v1/nodes", "n1")
    bench.double.create("v1/nodes", {"metadata": {"name": "n1"}})
    bench.settle()
    assert "no spec.podCIDRs" in bench.amiss()["network-configuration"]
    assert bench.condition()["status"] == "True"
    bench.double.merge("v1/nodes", "n1", {"spec": {"podCIDRs": ["10.244.7.0/24"]}})
    bench.settle()
    assert "10.244.7.0/24" in bench.file.read_text()
    assert bench.amiss() == {}


def test_a_template_with_ranges_needs_no_api_server(bench: Bench) -> None:
    """What needs nothing of the Node is written with the server away."""
    bench.template.write_text(json.dumps(TEMPLATE | {"ipam": {"type": "host-local", "subnet": "10.9.0.0/24"}}))
    bench.duties.look()
    assert bench.file.exists()


def test_a_server_that_is_away_is_named_and_changes_nothing(bench: Bench) -> None:
    """`status` has the server and the reason; the file of an earlier life stays, and nothing else is amiss."""
    bench.settle()
    bench.double.do(lambda: setattr(bench.double.line, "refused", True))
    bench.double.cut()
    other = Duties(OwnNode(bench.api, "n1"), lambda: bench.table, bench.agent, "this-boot")
    other._mirror.once()
    other.look()
    amiss = {code: words for code, look in other.looks.items() if (words := look())}
    assert amiss.keys() == {"kubernetes"}
    assert bench.double.url in amiss["kubernetes"]
    assert bench.file.exists()


def test_no_session_for_too_long(bench: Bench) -> None:
    """Only if it is asked for, only after that time, only where there are peers; and back as soon as one is up."""
    time = bench.time
    bench.agent.established = 0
    bench.settle()
    time[0] += 10_000
    bench.settle()
    assert bench.condition()["status"] == "False"  # never, by default
    bench.duties._last_session = time[0]
    bench.set(unready_after=60.0)
    bench.settle()
    time[0] += 59
    bench.settle()
    assert bench.condition()["status"] == "False"
    time[0] += 2
    bench.settle()
    assert (bench.condition()["status"], bench.condition()["reason"]) == ("True", "NoBGPSession")
    assert TAINT in bench.taints()
    assert "no BGP session for more than 60 s" in bench.amiss()["node-unready"]
    assert bench.file.exists()
    bench.agent.established = 1
    time[0] += 10
    bench.settle()
    assert bench.condition()["status"] == "False"
    assert TAINT not in bench.taints()
    bench.agent.established = None  # no peer is known: nothing to wait for
    time[0] += 10_000
    bench.settle()
    assert bench.condition()["status"] == "False"


def test_taints_and_conditions_of_others_are_left_alone(bench: Bench) -> None:
    """Whatever effect our taint was set with, it goes; every other one stays."""
    taints = [{"key": "a", "effect": "NoExecute"}, {"key": TAINT, "effect": "NoExecute", "value": "x"}]
    bench.double.merge("v1/nodes", "n1", {"spec": {"taints": taints}})
    bench.double.merge(
        "v1/nodes", "n1", {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}, subresource="status"
    )
    bench.settle()
    found = bench.double.get("v1/nodes", "n1")
    assert found is not None
    assert found["spec"]["taints"] == [{"key": "a", "effect": "NoExecute"}]
    assert {item["type"] for item in found["status"]["conditions"]} == {"Ready", duties.CONDITION}


def test_the_time_of_a_transition_is_that_of_the_status(bench: Bench) -> None:
    """New words for the same status do not move it."""
    bench.agent.why = "one reason"
    bench.settle()
    first = bench.condition()
    body = {"status": {"conditions": [first | {"lastTransitionTime": "2020-01-01T00:00:00Z"}]}}
    bench.double.merge("v1/nodes", "n1", body, subresource="status")
    bench.duties._said = (-1e9, "")
    bench.agent.why = "another reason"
    bench.settle()
    assert bench.condition()["lastTransitionTime"] == "2020-01-01T00:00:00Z"
    bench.agent.why = ""
    bench.settle()
    assert bench.condition()["lastTransitionTime"] > "2020-01-01T00:00:00Z"


def test_somebody_who_was_faster_is_not_overwritten(bench: Bench) -> None:
    """A taint that comes between reading and writing: 409, and the next comparison has it."""
    bench.settle()
    bench.agent.why = "not now"
    bench.settle()
    bench.agent.why = ""
    bench.duties._mirror._list()
    bench.duties.look()  # the condition
    bench.duties._mirror._list()
    bench.double.merge("v1/nodes", "n1", {"spec": {"taints": [{"key": TAINT, "effect": "NoSchedule"},
                                                              {"key": "new", "effect": "NoSchedule"}]}})  # fmt: skip
    bench.duties.look()  # the taint, of a revision that is stale
    assert bench.taints() == {TAINT, "new"}
    assert bench.amiss() == {}
    bench.settle()
    assert bench.taints() == {"new"}


def test_a_role_that_lacks_the_patch_is_named(bench: Bench) -> None:
    """403: `status` says what may not be done, and it is tried again after a while, not each second."""
    refusal = Failure(403, "Forbidden", 'nodes "n1" is forbidden')
    bench.duties._mirror._list()
    bench.double.do(lambda: bench.double.api.faults.refusals.append(refusal))
    bench.double.taken()
    bench.duties.look()
    assert 'nodes "n1" is forbidden' in bench.amiss()["kubernetes"]
    bench.duties.look()
    assert len(bench.double.taken()) == 1
    bench.settle()
    assert bench.amiss() == {}


def test_a_node_that_is_not_there_is_named(bench: Bench) -> None:
    """Nothing is made up for it; when kubelet registers it, all is done."""
    bench.double.delete("v1/nodes", "n1")
    bench.settle()
    assert bench.amiss()["kubernetes"] == "cluster.node: there is no Node n1 in the cluster"
    bench.double.create("v1/nodes", NODE)
    bench.settle()
    assert bench.amiss() == {}


def test_the_threads_do_the_same_by_themselves(bench: Bench) -> None:
    """Started, it becomes ready, follows the Node, and sets right what others undo."""
    bench.duties.start()
    until(lambda: bench.condition().get("status") == "False" and TAINT not in bench.taints())
    bench.double.merge("v1/nodes", "n1", {"spec": {"taints": [{"key": TAINT, "effect": "NoSchedule"}]}})
    until(lambda: TAINT not in bench.taints())


@pytest.mark.parametrize(
    ("node", "variable", "expected"), [("a", "b", "a"), (None, "b", "b"), (None, "", "host-1"), (None, None, "host-1")]
)
def test_which_node_this_is(
    monkeypatch: pytest.MonkeyPatch, node: str | None, variable: str | None, expected: str
) -> None:
    """`cluster.node`, else $NODE_NAME, else the host's name."""
    monkeypatch.delenv("NODE_NAME", raising=False)
    if variable is not None:
        monkeypatch.setenv("NODE_NAME", variable)
    monkeypatch.setattr(names.socket, "gethostname", lambda: "Host-1")
    assert node_name(ClusterTable(store="kubernetes", node=node)) == expected


def test_without_the_client_installed_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent.toml with `[cluster]` where the extra is missing: error 7 that names it."""
    monkeypatch.setitem(sys.modules, "bgpcni.cluster.kubernetes_store", None)
    with pytest.raises(InvalidConfiguration, match=r"cluster\.store: .* pip install 'bgpcni\[kubernetes\]'"):
        agent._cluster(AgentConfig(cluster=ClusterTable(store="kubernetes")), lambda store: store)
