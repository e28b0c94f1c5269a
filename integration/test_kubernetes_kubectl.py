"""The real kubectl keeps the double honest: it sends what it sent to a real API server, and shows what it showed."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from bgpcni.testing.patience import SECONDS
from integration.kubernetes.api import Seen
from integration.kubernetes.cluster import Cluster
from integration.kubernetes.double import Double
from integration.kubernetes.recordings import Case, Different, Exchange, compare, read
from integration.lab import Lab, until
from integration.lab.core import NotHere

WIDGETS = "example.dev/v1/widgets"
TABLE = (
    "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"
)
AGGREGATED = (
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,"
    "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"
)
CASES = read("kubectl")


class Bench:
    """kubectl in front of a double, with a cache of its own."""

    def __init__(self, double: Double, folder: Path) -> None:
        self.double, self.folder = double, folder
        self.kubeconfig = double.kubeconfig(folder / "kubeconfig")

    def start(self, command: str, typed: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            shlex.split(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig), "HOME": str(self.folder), "NO_PROXY": "*"},
        )  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(typed)
        process.stdin.close()
        process.stdin = None
        return process

    def merge(self, resource: str, name: str, patch: Any, namespace: str = "", subresource: str = "") -> None:
        self.double.merge(resource, name, patch, namespace, subresource, manager="curl")


def _prepared(double: Double) -> None:
    """What there was before the first case."""
    definition = json.loads(read("crd")[1].exchanges[0].body)
    double.create("apiextensions.k8s.io/v1/customresourcedefinitions", definition)
    for name in ("n1", "n2"):
        double.create("v1/nodes", {"metadata": {"name": name}})
    double.merge("v1/nodes", "n1", {"spec": {"unschedulable": True}})
    ready = {"type": "Ready", "status": "True"}
    double.merge("v1/nodes", "n1", {"status": {"conditions": [ready]}}, subresource="status")


def _nothing(bench: Bench) -> None:
    pass


def _size(size: int) -> Callable[[Bench], None]:
    return lambda bench: bench.merge(WIDGETS, "k1", {"spec": {"size": size}}, "default")


def _generation(bench: Bench) -> None:
    condition = {"type": "Ready", "status": "True"}
    status = {"observedGeneration": 3, "conditions": [condition]}
    bench.merge(WIDGETS, "k1", {"status": status}, "default", "status")


def _held(bench: Bench) -> None:
    bench.merge(WIDGETS, "k1", {"metadata": {"finalizers": ["example.dev/hold"]}}, "default")


BEFORE: dict[int, Callable[[Bench], None]] = {
    20: _size(5),
    31: _generation,
    36: _held,
    37: lambda bench: bench.double.delete(WIDGETS, "k3", "default"),
}
"""What somebody else did before a case."""
DURING: dict[int, Callable[[Bench], None]] = {
    10: _size(4),
    11: _size(5),
    31: lambda bench: bench.merge(WIDGETS, "k1", {"metadata": {"labels": {"seen": "1"}}}, "default"),
    36: lambda bench: bench.merge(WIDGETS, "k1", {"metadata": {"finalizers": None}}, "default"),
}
"""What somebody else does once kubectl watches."""
INTERRUPTED = (4, 10, 11)
PRINTS_OTHERWISE = {
    6: "kubectl's own words",
    8: "cut", 9: "cut", 20: "cut", 31: "waits", 32: "describes what the double has", 33: "explains",
}  # fmt: skip


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    if shutil.which("kubectl") is None:
        raise NotHere("kubectl is not installed (Debian: kubernetes-client)")
    with Double() as double:
        _prepared(double)
        yield Bench(double, tmp_path)


def test_kubectl_sends_and_shows_what_was_recorded(bench: Bench) -> None:
    """The 37 recorded commands, one after the other: the same requests with the same bodies, the same codes, and the
    same lines for the user. A double that answered otherwise would lead kubectl another way."""
    bench.double.taken()
    for case in CASES:
        BEFORE.get(case.number, _nothing)(bench)
        process = bench.start(case.command, _input(case))
        if case.number in DURING or case.number in INTERRUPTED:
            until(bench.double.watching, f"the watch of case {case.number}")
            DURING.get(case.number, _nothing)(bench)
        if case.number in INTERRUPTED:
            printed = [process.stdout.readline() for _ in case.printed]  # type: ignore[union-attr]
            process.send_signal(signal.SIGINT)
            output = "".join(printed)
            process.communicate(timeout=SECONDS)
        else:
            output = process.communicate(timeout=SECONDS)[0]
        until(lambda: not bench.double.watching(), "the end of its watches")
        seen = bench.double.taken()
        try:
            _compare_requests(case, seen)
            _compare_output(case, output)
        except Different as difference:
            sent = "\n".join(f"{one.method} {one.path} {one.query} {one.status}" for one in seen)
            raise AssertionError(f"case {case.number}, {case.command}: {difference}\n{sent}\n{output}") from None


def _input(case: Case) -> str:
    """Most cases say only what is other than in an earlier one, whose number is one less by now: `(as in 6, name: k1,
    size: 3)` is case 5 with that name and size."""
    as_in = re.match(r"\(as in (\d+)", case.typed)
    if not as_in:
        return case.typed
    text = CASES[int(as_in[1]) - 2].typed
    for name, value in re.findall(r"(\w+): (\w+)", case.typed):
        if re.search(rf"^ *{name}: ", text, re.M):
            text = re.sub(rf"^( *){name}: .*$", rf"\g<1>{name}: {value}", text, flags=re.M)
        else:
            text += f"  {name}: {value}\n"
    return text


def _compare_requests(case: Case, seen: list[Seen]) -> None:
    recorded = [exchange for exchange in case.exchanges if not _of_openapi(exchange.path)]
    found = [one for one in seen if not _of_openapi(one.path)]
    if len(found) != len(recorded):
        raise Different(f"{len(found)} requests instead of {len(recorded)}")
    for exchange, one in zip(recorded, found, strict=True):
        _compare_request(exchange, one)
    asked = [exchange.path.partition("?")[0] for exchange in case.exchanges if _of_openapi(exchange.path)]
    if {one.path for one in seen if _of_openapi(one.path)} != set(asked):
        raise Different(f"OpenAPI: {[one.path for one in seen if _of_openapi(one.path)]} instead of {asked}")


def _of_openapi(path: str) -> bool:
    return path.startswith("/openapi")


def _compare_request(exchange: Exchange, one: Seen) -> None:
    where = f"{exchange.method} {exchange.path}"
    url = urlsplit(exchange.path)
    compare([exchange.method, url.path], [one.method, one.path], {}, where)
    if exchange.status and exchange.status != one.status:
        raise Different(f"{where}: {one.status} instead of {exchange.status}")
    wanted, found = dict(parse_qsl(url.query, keep_blank_values=True)), dict(one.query)
    for query in (wanted, found):  # by chance, but there
        for name in ("resourceVersion", "timeoutSeconds"):
            if query.get(name, "0") != "0":
                query[name] = "…"
        if "fieldSelector" in query:
            terms = re.sub(r"uid=[0-9a-f]{8}-[0-9a-f-]{27}", "uid=…", query["fieldSelector"]).split(",")
            query["fieldSelector"] = ",".join(sorted(terms))  # kubectl has them in a map
    if wanted != found:
        raise Different(f"{where}: {found} instead of {wanted}")
    accept = exchange.headers.get("Accept")
    accept = {"(as before)": AGGREGATED, "(Table, as in 1)": TABLE}.get(accept or "", accept)
    if accept is not None and accept != one.headers.get("accept"):
        raise Different(f"{where}: Accept {one.headers.get('accept')} instead of {accept}")
    if media := exchange.headers.get("Content-Type"):
        compare(media, one.headers.get("content-type"), {}, where)
    if exchange.body.strip():
        compare(json.loads(exchange.body), json.loads(one.body), {}, where)


def _compare_output(case: Case, output: str) -> None:
    if case.number in PRINTS_OTHERWISE or not case.printed:
        return
    wanted = [re.sub(r"\b\d+[smh]\d*s?\b", "AGE", line).split() for line in case.printed]
    lines = [re.sub(r"\b\d+[smh]\d*s?\b", "AGE", line).split() for line in output.splitlines() if line.strip()]
    if lines[: len(wanted)] != wanted:
        raise Different(f"printed {lines} instead of {wanted}")


# ---------------------------------------------------------------- the same on any cluster


@pytest.fixture
def cluster(lab: Lab) -> Iterator[Cluster]:
    cluster = Cluster(lab.namespace("client"), lab.folder / "cluster")
    yield cluster
    cluster.close()


def test_kubectl_changes_a_node_and_sees_each_change(cluster: Cluster, lab: Lab) -> None:
    """apply, patch, annotate, label, taint, cordon and delete of a Node, while `get -w` shows each state of it."""
    log = lab.folder / "watched"
    name = cluster.node(("10.99.1.0/24",))
    watching = cluster.kubectl_open("get", "node", name, "-w", "-o", "json", "--output-watch-events", log=log)
    until(lambda: name in log.read_text(), "the first state")
    document = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"zone": "a"}}}
    cluster.kubectl("apply", "-f", "-", stdin=document)
    document["metadata"]["labels"] = {"zone": "b"}  # type: ignore[index]
    assert "configured" in cluster.kubectl("apply", "-f", "-", stdin=document)
    assert "unchanged" in cluster.kubectl("apply", "-f", "-", stdin=document)
    cluster.kubectl("patch", "node", name, "-p", '{"metadata":{"labels":{"patched":"1"}}}')
    cluster.kubectl("annotate", "node", name, "example.dev/a=1")
    cluster.kubectl("label", "node", name, "x=1")
    cluster.kubectl("taint", "node", name, "example.dev/t=v:NoSchedule")
    cluster.kubectl("cordon", name)
    found = cluster.kubectl_json("get", "node", name)
    assert {"zone": "b", "patched": "1", "x": "1"}.items() <= found["metadata"]["labels"].items()
    assert found["metadata"]["annotations"]["example.dev/a"] == "1"
    assert "example.dev/t" in {taint["key"] for taint in found["spec"]["taints"]}
    assert found["spec"]["unschedulable"] is True
    assert found["spec"]["podCIDRs"] == ["10.99.1.0/24"]
    cluster.kubectl("delete", "node", name)
    until(lambda: '"DELETED"' in log.read_text(), "the deletion in the watch")
    types = re.findall(r'"type": *"(\w+)"', log.read_text())
    assert types.count("MODIFIED") >= 7
    assert watching.poll() is None
    assert "not found" in _failure(cluster, "get", "node", name)


def test_kubectl_defines_a_kind_and_is_held_to_its_schema(cluster: Cluster) -> None:
    """A CustomResourceDefinition made with kubectl is served; objects are validated, defaulted and pruned, their status
    is apart; the definition takes its objects with it."""
    definition = json.loads(read("crd")[1].exchanges[0].body)
    text = json.dumps(definition).replace("example.dev", "test.bgpcni.dev")
    cluster.kubectl("apply", "-f", "-", stdin=text)
    try:
        cluster.kubectl("wait", "--for=condition=Established", "crd/widgets.test.bgpcni.dev", "--timeout=60s")
        widget = {
            "apiVersion": "test.bgpcni.dev/v1", "kind": "Widget", "metadata": {"name": "w", "namespace": "default"},
            "spec": {"mode": "on", "size": 2, "v4": "192.0.2.1"},
        }  # fmt: skip
        until(lambda: cluster.kubectl("apply", "-f", "-", stdin=widget), "the new kind being served")
        assert cluster.kubectl_json("get", "widgets.test.bgpcni.dev", "w")["spec"]["mtu"] == 1500
        wrong = widget | {"spec": {"mode": "maybe", "size": 0, "v4": "1.2.3"}}
        said = _failure(cluster, "apply", "-f", "-", stdin=json.dumps(wrong))
        assert "spec.mode: Unsupported value" in said
        assert "spec.v4 in body must be of type ipv4" in said
        patch = '{"status":{"observedGeneration":1},"spec":{"size":60}}'
        cluster.kubectl("patch", "widgets.test.bgpcni.dev", "w", "--subresource=status", "--type=merge", "-p", patch)
        found = cluster.kubectl_json("get", "widgets.test.bgpcni.dev", "w")
        assert (found["status"], found["spec"]["size"]) == ({"observedGeneration": 1}, 2)
        assert cluster.kubectl("get", "widgets.test.bgpcni.dev").split()[:4] == ["NAME", "MODE", "SIZE", "READY"]
    finally:
        cluster.kubectl("delete", "crd", "widgets.test.bgpcni.dev", check=False)
    assert "the server doesn't have a resource type" in _failure(cluster, "get", "widgets.test.bgpcni.dev")


def test_kubectl_drains_a_node(cluster: Cluster) -> None:
    """`drain` cordons, evicts the node's pods by the eviction API, and ends once they are gone."""
    node = cluster.node()
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": node, "labels": {"of": node}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "registry.example/pause:1"}],
                 "automountServiceAccountToken": False, "terminationGracePeriodSeconds": 30},
    }  # fmt: skip
    cluster.kubectl("create", "-f", "-", stdin=pod)
    draining = cluster.kubectl_open("drain", node, "--force", log=cluster.folder / "drain")
    until(lambda: "deletionTimestamp" in cluster.kubectl_json("get", "pod", node)["metadata"], "the eviction")
    assert draining.poll() is None
    cluster.kubectl("delete", "pod", node, "--grace-period=0", "--force")  # as kubelet does once it has ended
    until(lambda: draining.poll() is not None, "the end of the drain")
    assert draining.returncode == 0, (cluster.folder / "drain").read_text()
    assert cluster.kubectl_json("get", "node", node)["spec"]["unschedulable"] is True


def _failure(cluster: Cluster, *argv: str, stdin: str = "") -> str:
    with pytest.raises(RuntimeError) as failed:
        cluster.kubectl(*argv, stdin=stdin)
    return str(failed.value)
