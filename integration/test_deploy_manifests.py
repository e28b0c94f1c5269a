"""The manifests of `deploy/kubernetes`, as kubectl renders them: what they ask of a cluster, and what they do not.

That what they describe works is shown in test_deploy.py.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
import yaml

from bgpcni import __version__
from bgpcni.agent.metrics import place
from bgpcni.config.agent import AgentConfig
from bgpcni.config.agent import load as load_agent
from integration.lab.core import NotHere

Document = dict[str, Any]
KUBERNETES = Path(__file__).parents[1] / "deploy/kubernetes"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
EVERY = [*(f"overlays/{name}" for name in OVERLAYS), "uninstall"]


def render(folder: str) -> list[Document]:
    if shutil.which("kubectl") is None:
        raise NotHere("kubectl is not installed (Debian: kubernetes-client)")
    done = subprocess.run(["kubectl", "kustomize", KUBERNETES / folder], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@pytest.fixture(params=EVERY)
def manifests(request: pytest.FixtureRequest) -> list[Document]:
    """What `kubectl apply -k` of each folder brings."""
    return render(request.param)


def kind(manifests: list[Document], name: str) -> list[Document]:
    return [one for one in manifests if one["kind"] == name]


def pods(manifests: list[Document]) -> Iterator[Document]:
    return (one["spec"]["template"]["spec"] for one in kind(manifests, "DaemonSet"))


def containers(manifests: list[Document]) -> Iterator[Document]:
    return (one for pod in pods(manifests) for one in (*pod.get("initContainers", ()), *pod["containers"]))


def test_every_field_is_one_of_kubernetes(manifests: list[Document]) -> None:
    """A misspelt field, one in the wrong place or of the wrong type would be dropped or refused by the API server."""
    from lightkube.codecs import from_dict

    for document in manifests:
        typed: Any = from_dict(document)
        assert json.loads(json.dumps(typed.to_dict(), default=str)) == document
        _compare(document, type(typed), document["kind"])


def _compare(value: object, hint: Any, place: str) -> None:
    """`value` is of the type that the model has at this place."""
    if get_origin(hint) in (Union, UnionType):
        (hint, *_) = [one for one in get_args(hint) if one is not type(None)]
    if is_dataclass(hint):
        hints = get_type_hints(hint)
        assert isinstance(value, dict), place
        for key, inner in value.items():
            _compare(inner, hints[key], f"{place}.{key}")
    elif get_origin(hint) in (list, dict):
        assert isinstance(value, get_origin(hint)), place
        inners = value.values() if isinstance(value, dict) else value
        for inner in inners:
            _compare(inner, get_args(hint)[-1], f"{place}[]")
    elif hint in (str, int, bool):
        numbered = "maxUnavailable" in place and isinstance(value, int)
        assert type(value) is hint or numbered, f"{place}: {value!r}"


def test_the_agent_may_touch_nodes_and_our_objects_alone(manifests: list[Document]) -> None:
    """No Secret, no wildcard, and what is made or deleted is of our own kinds, but for Events; the speaker has no
    rights, and no token."""
    rules = [rule for role in kind(manifests, "ClusterRole") for rule in role["rules"]]
    built_in = [rule for rule in rules if rule["apiGroups"] != ["bgpcni.dev"]]
    assert all(rule["verbs"] == ["create", "patch"] for rule in built_in if "events" in rule["resources"])
    rules = [rule for rule in rules if "events" not in rule["resources"]]
    built_in = [rule for rule in built_in if "events" not in rule["resources"]]
    allowed = {"nodes", "nodes/status", "pods", "namespaces"}
    assert {resource for rule in built_in for resource in rule["resources"]} <= allowed
    followed = [rule["verbs"] for rule in built_in if {"pods", "namespaces"} & {*rule["resources"]}]
    assert followed == [["list", "watch"]] * len(followed)
    assert {verb for rule in built_in for verb in rule["verbs"]} <= {"get", "list", "watch", "patch"}
    made = {resource for rule in rules for resource in rule["resources"] if {"create", "delete"} & {*rule["verbs"]}}
    assert made <= {"bgpnodes", "ipblocks"}
    bound = {subject["name"] for one in kind(manifests, "ClusterRoleBinding") for subject in one["subjects"]}
    assert bound <= {"bgpcni-agent"}
    for account in kind(manifests, "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False
    for pod in pods(manifests):
        assert pod.get("automountServiceAccountToken", False) is (pod["serviceAccountName"] in bound)


def test_containers_have_what_they_need_and_no_more(manifests: list[Document]) -> None:
    """Read-only roots, capabilities named one by one, no privileged container, and seccomp's default filter."""
    for pod in pods(manifests):
        assert pod["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}}
        assert not pod.keys() & {"hostPID", "hostIPC"}
    for container in containers(manifests):
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert "privileged" not in context
        assert context["capabilities"]["drop"] == ["ALL"]
        added = set(context["capabilities"].get("add", ()))
        assert added <= {"NET_ADMIN", "SYS_ADMIN", "NET_RAW", "NET_BROADCAST", "DAC_OVERRIDE", "NET_BIND_SERVICE"}
        # the API server refuses false together with SYS_ADMIN
        assert context.get("allowPrivilegeEscalation", True) is ("SYS_ADMIN" in added)


def test_pods_run_before_all_others_and_stay(manifests: list[Document]) -> None:
    """On every node whatever its taints are, with the priority of what a node cannot do without."""
    for pod in pods(manifests):
        assert pod["priorityClassName"] == "system-node-critical"
        assert pod["tolerations"] == [{"operator": "Exists"}]
        assert pod["nodeSelector"] == {"kubernetes.io/os": "linux"}
    for daemonset in kind(manifests, "DaemonSet"):
        spec = daemonset["spec"]
        assert spec["updateStrategy"]["type"] == "RollingUpdate"
        assert spec["updateStrategy"]["rollingUpdate"]["maxUnavailable"]
        labels = spec["template"]["metadata"]["labels"].items()
        assert spec["selector"]["matchLabels"].items() <= labels


def test_what_is_referred_to_is_there(manifests: list[Document]) -> None:
    """Volumes, ConfigMaps and accounts exist, everything is in the namespace, and the images are of this version."""
    names = {(one["kind"], one["metadata"]["name"]) for one in manifests}
    for pod in pods(manifests):
        volumes = {volume["name"] for volume in pod.get("volumes", ())}
        mounted = {mount["name"] for one in containers(manifests) for mount in one.get("volumeMounts", ())}
        assert volumes <= mounted
        assert ("ServiceAccount", pod["serviceAccountName"]) in names
        for volume in pod.get("volumes", ()):
            assert "configMap" not in volume or ("ConfigMap", volume["configMap"]["name"]) in names
    for container in containers(manifests):
        name, _, tag = container["image"].rpartition(":")
        assert name in ("localhost/bgpcni", "localhost/bgpcni-speaker")
        assert tag == __version__
    for document in manifests:
        if not document["kind"].startswith(("ClusterRole", "Namespace", "CustomResource")):
            assert document["metadata"]["namespace"] == "bgpcni"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_configuration_of_each_overlay_is_understood(
    overlay: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """agent.toml by the agent's own reader, and the network's template by what fills it in."""
    from bgpcni.cluster import network
    from bgpcni.config.network import decode, parse

    (data,) = (one["data"] for one in kind(render(f"overlays/{overlay}"), "ConfigMap"))
    for name, text in data.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("NODE_IP", "198.51.100.7")
    agent: AgentConfig = load_agent(tmp_path / "agent.toml")
    assert agent.cluster is not None
    assert agent.cluster.kubernetes.network == "/etc/bgpcni/network.conflist"
    rendered = network.render(tmp_path / "network.conflist", ["10.1.2.0/24", "2001:db8::/64"], lambda family: 1450, {})
    assert [plugin["type"] for plugin in rendered["plugins"]] == ["bgpcni", "portmap"]
    ours, warnings = parse(decode(json.dumps(network.ours_in(rendered)).encode()))
    assert (ours.mtu, warnings) == (1450, ())


def test_the_component_for_monitoring_has_prometheus_read_every_agent(tmp_path: Path) -> None:
    """On an overlay as it is: an address that Prometheus reaches, the port that PodMonitor names, and the same rules as
    the plain file has."""
    folder = os.path.relpath(KUBERNETES, tmp_path)
    (tmp_path / "kustomization.yaml").write_text(
        f"resources: [{folder}/overlays/unicast]\ncomponents: [{folder}/components/monitoring]\n"
    )
    manifests = render(str(tmp_path))
    (agent,) = (one for one in kind(manifests, "DaemonSet") if one["metadata"]["name"] == "bgpcni-agent")
    template = agent["spec"]["template"]
    (container,) = (one for one in template["spec"]["containers"] if one["name"] == "agent")
    assert container["args"] == ["agent", "--metrics", "$(NODE_IP):9179", "--metrics-beyond-loopback"]
    for address in ("192.0.2.1", "2001:db8::1"):
        assert place(f"{address}:9179", beyond_loopback=True) == (address, 9179)
    (port,) = container["ports"]
    assert (port["containerPort"], port["hostPort"]) == (9179, 9179)
    assert template["metadata"]["annotations"]["prometheus.io/port"] == "9179"
    (monitor,) = kind(manifests, "PodMonitor")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == port["name"]
    assert {"targetLabel": "job", "replacement": "bgpcni", "action": "replace"} in endpoint["relabelings"]
    (rules,) = kind(manifests, "PrometheusRule")
    assert rules["spec"] == yaml.safe_load((KUBERNETES.parents[1] / "conf/prometheus/alerts.yml").read_text())
    assert {one["metadata"]["namespace"] for one in (agent, monitor, rules)} == {"bgpcni"}


def test_the_component_for_the_looking_glass_can_only_ask(tmp_path: Path) -> None:
    """Beside the agent as it is, in the same image, without a capability, and with the agent's folder alone."""
    folder = os.path.relpath(KUBERNETES, tmp_path)
    (tmp_path / "kustomization.yaml").write_text(
        f"resources: [{folder}/overlays/unicast]\ncomponents: [{folder}/components/looking-glass]\n"
    )
    (agent,) = (one for one in kind(render(str(tmp_path)), "DaemonSet") if one["metadata"]["name"] == "bgpcni-agent")
    pod = agent["spec"]["template"]["spec"]
    containers = {one["name"]: one for one in pod["containers"]}
    glass = containers["looking-glass"]
    assert (glass["image"], glass["args"]) == (containers["agent"]["image"], ["looking-glass"])
    assert glass["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert [each["mountPath"] for each in glass["volumeMounts"]] == ["/run/bgpcni"]
    assert pod["hostNetwork"], "its loopback address is the node's"
