"""The labels of this node's pods and of the namespaces, and whether the pods are ready, as the Kubernetes API has them.

They are followed once somebody asks for it: a cluster without policies by label and without shared addresses costs
nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import NamedTuple

from bgpcni.cluster.kubernetes import Api, Mirror, Object, Resource
from bgpcni.cluster.store import Key
from bgpcni.model import Pod

PODS = Resource("", "v1", "pods")
NAMESPACES = Resource("", "v1", "namespaces")
_STATIC = "kubernetes.io/config.hash"
"""The annotation with the UID that kubelet uses for a static pod, in place of that of its image in the API."""


class Changes(NamedTuple):
    """Pods (namespace and name) and namespaces that may have other labels than before."""

    pods: frozenset[tuple[str, str]]
    namespaces: frozenset[str]


class Pods:
    """Safe for threads. `changes` is for one thread."""

    def __init__(self, api: Api, node: str) -> None:
        self._pods = Mirror(api, PODS, self._pods_changed, fields=f"spec.nodeName={node}")
        self._namespaces = Mirror(api, NAMESPACES, self._namespaces_changed)
        self._change = threading.Condition()
        self._changed_pods: set[tuple[str, str]] = set()
        self._changed_namespaces: set[str] = set()
        self._following = self._stopped = False

    def follow(self) -> None:
        """Follow the API from now on; once is enough."""
        with self._change:
            if self._following or self._stopped:
                return
            self._following = True
        for name, mirror in (("pods", self._pods), ("namespaces", self._namespaces)):
            threading.Thread(target=mirror.run, name=f"mirror-{name}", daemon=True).start()

    def stop(self) -> None:
        with self._change:
            self._stopped = True
            self._change.notify_all()
        self._pods.stop()
        self._namespaces.stop()

    @property
    def looks(self) -> Mapping[str, Callable[[], str]]:
        """What is amiss, by its code in `status`."""
        return {"pod-labels": self._away}

    def _away(self) -> str:
        trouble = self._pods.trouble or self._namespaces.trouble
        if not trouble:
            return ""
        return f"labels of pods and namespaces are not followed, and what they were last holds: {trouble}"

    # ---------------------------------------------------------------- questions

    def labels(self, pod: Pod) -> Mapping[str, str] | None:
        """A pod's labels; None if the API has not told of this pod, which may be another one of the same name."""
        found = self._pods.objects.get((pod.namespace, pod.name))
        if found is None or (pod.uid and pod.uid not in _uids(found)):
            return None
        return _labels(found)

    def ready(self, pod: Pod) -> bool | None:
        """Whether a pod's condition Ready is true; None as `labels`."""
        found = self._pods.objects.get((pod.namespace, pod.name))
        if found is None or (pod.uid and pod.uid not in _uids(found)):
            return None
        if found["metadata"].get("deletionTimestamp"):
            return False
        conditions = (found.get("status") or {}).get("conditions") or ()
        return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)

    def namespace_labels(self, name: str) -> Mapping[str, str] | None:
        found = self._namespaces.objects.get(("", name))
        return None if found is None else _labels(found)

    def changes(self) -> Changes | None:
        """Wait for the next changes; None after `stop`."""
        with self._change:
            self._change.wait_for(lambda: self._stopped or self._changed_pods or self._changed_namespaces)
            if self._stopped:
                return None
            found = Changes(frozenset(self._changed_pods), frozenset(self._changed_namespaces))
            self._changed_pods, self._changed_namespaces = set(), set()
            return found

    def _pods_changed(self, keys: set[Key]) -> None:
        with self._change:
            self._changed_pods |= keys
            self._change.notify_all()

    def _namespaces_changed(self, keys: set[Key]) -> None:
        with self._change:
            self._changed_namespaces |= {name for _, name in keys}
            self._change.notify_all()


def _labels(item: Object) -> Mapping[str, str]:
    labels: Mapping[str, str] = item["metadata"].get("labels") or {}
    return labels


def _uids(item: Object) -> tuple[str, str]:
    metadata = item["metadata"]
    return metadata.get("uid", ""), (metadata.get("annotations") or {}).get(_STATIC, "")
