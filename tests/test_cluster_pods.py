"""The labels of a node's pods and of the namespaces, as a double of the Kubernetes API tells them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bgpcni.cluster.kubernetes import Api
from bgpcni.cluster.pods import Changes, Pods
from bgpcni.model import Pod
from bgpcni.testing.patience import until
from integration.kubernetes.double import Double


def pod(name: str, node: str = "n1", annotations: dict[str, str] | None = None, **labels: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "shop", "labels": labels, "annotations": annotations or {}}
    spec = {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}
    return {"metadata": metadata, "spec": spec}


@pytest.fixture
def double() -> Iterator[Double]:
    with Double() as double:
        double.create("v1/namespaces", {"metadata": {"name": "shop", "labels": {"team": "a"}}})
        yield double


@pytest.fixture
def pods(double: Double, tmp_path: Path) -> Iterator[Pods]:
    api = Api(str(double.kubeconfig(tmp_path / "kubeconfig")))
    pods = Pods(api, "n1")
    yield pods
    pods.stop()
    api.close()


def uid(double: Double, name: str) -> str:
    return str((double.get("v1/pods", name, "shop") or {})["metadata"]["uid"])


def test_labels_of_this_nodes_pods(double: Double, pods: Pods) -> None:
    """Also of a static pod, which kubelet knows by another UID; not of another pod of that name, or another node's."""
    double.create("v1/pods", pod("web-0", tier="web"), "shop")
    double.create("v1/pods", pod("static", annotations={"kubernetes.io/config.hash": "abc"}, tier="s"), "shop")
    double.create("v1/pods", pod("elsewhere", node="n2", tier="web"), "shop")
    assert pods.labels(Pod(namespace="shop", name="web-0")) is None
    pods.follow()
    pods.follow()
    until(lambda: pods.labels(Pod(namespace="shop", name="web-0")) == {"tier": "web"})
    assert pods.labels(Pod(namespace="shop", name="web-0", uid=uid(double, "web-0"))) == {"tier": "web"}
    assert pods.labels(Pod(namespace="shop", name="web-0", uid="of-an-earlier-pod")) is None
    assert pods.labels(Pod(namespace="shop", name="static", uid="abc")) == {"tier": "s"}
    assert pods.labels(Pod(namespace="shop", name="elsewhere")) is None
    until(lambda: (pods.namespace_labels("shop") or {}).get("team") == "a")
    assert pods.namespace_labels("nowhere") is None
    assert pods.looks["pod-labels"]() == ""


def test_changes_are_told(double: Double, pods: Pods) -> None:
    """Of a pod, and of a namespace; the end too."""
    double.create("v1/pods", pod("web-0", tier="web"), "shop")
    pods.follow()
    found: list[Changes] = []

    def wait_for(pod: tuple[str, str] | None, namespace: str | None) -> None:
        while True:
            change = pods.changes()
            assert change is not None
            found.append(change)
            if (pod is None or pod in change.pods) and (namespace is None or namespace in change.namespaces):
                return

    wait_for(("shop", "web-0"), None)
    until(lambda: pods.namespace_labels("shop") is not None)
    double.merge("v1/pods", "web-0", {"metadata": {"labels": {"tier": "db"}}}, "shop")
    wait_for(("shop", "web-0"), None)
    until(lambda: pods.labels(Pod(namespace="shop", name="web-0")) == {"tier": "db"})
    double.merge("v1/namespaces", "shop", {"metadata": {"labels": {"team": "b"}}})
    wait_for(None, "shop")
    pods.stop()
    assert pods.changes() is None


def test_a_pod_is_ready_by_its_condition(double: Double, pods: Pods) -> None:
    """Not while the API says nothing of it, nor another pod of its name; its change is told."""
    double.create("v1/pods", pod("web-0"), "shop")
    web = Pod(namespace="shop", name="web-0")
    assert pods.ready(web) is None
    pods.follow()
    until(lambda: pods.ready(web) is False)
    assert pods.ready(Pod(namespace="shop", name="web-0", uid="of-an-earlier-pod")) is None
    pods.changes()
    for status in ("True", "Unknown"):
        conditions = [{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": status}]
        double.merge("v1/pods", "web-0", {"status": {"conditions": conditions}}, "shop", "status")
        until(lambda status=status: pods.ready(web) is (status == "True"))  # type: ignore[misc]
        changes = pods.changes()
        assert changes is not None
        assert changes.pods == {("shop", "web-0")}
