"""The cluster's RoutePolicies on this node: which apply to which attachment, now and after each change.

One thread compares each new picture of the cluster with the one before, and nudges the attachments for which another
answer follows from it. With Kubernetes two more follow this node's pods and the namespaces, once a policy asks for
labels. All of it works from memory: no record is read, and an attachment for which nothing changes is left alone.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, NamedTuple

from bgpcni.cluster.objects import RoutePolicy
from bgpcni.cluster.picture import Picture, Pictures
from bgpcni.cluster.policies import Rules, Subject, rules_of
from bgpcni.config.agent import AgentConfig
from bgpcni.model import Attachment, AttachmentKey, Pod
from bgpcni.node.intent import Ruling
from bgpcni.nudges import Nudges

if TYPE_CHECKING:
    from bgpcni.cluster.pods import Pods

log = logging.getLogger(__name__)
Labels = Mapping[str, str]


class _Known(NamedTuple):
    """What is remembered of an attachment. The labels are those of its record."""

    network: str
    pod: Pod | None
    labels: Labels
    namespace_labels: Labels


class Policies:
    """Made before the node, `start`ed when the agent serves. Safe for threads."""

    def __init__(
        self,
        pictures: Pictures,
        node_labels: Callable[[], Labels],
        config: AgentConfig,
        nudges: Nudges,
        pods: Pods | None = None,
    ) -> None:
        """`node_labels`: this node's labels in the cluster. `pods`: with Kubernetes, its pods and their labels."""
        self._pictures, self._node_labels, self._config = pictures, node_labels, config
        self._nudges, self._pods = nudges, pods
        self._lock = threading.Lock()
        self._judging = threading.Lock()
        self._known: dict[AttachmentKey, _Known] = {}
        self._by_pod: dict[tuple[str, str], set[AttachmentKey]] = {}
        self._rules, self._labels = Rules(), node_labels()
        self._judge(pictures.last)

    # ---------------------------------------------------------------- for the node

    def of(self, attachment: Attachment) -> Ruling:
        """What is said of an attachment now. Of a pod that the API does not know, its record has the last labels."""
        subject = self._subject(_known(attachment))
        return Ruling(subject.labels, subject.namespace_labels, self._rules.of(subject))

    def remember(self, attachment: Attachment) -> None:
        known = _known(attachment)
        with self._lock:
            self._known[attachment.key] = known
            if known.pod is not None:
                self._by_pod.setdefault((known.pod.namespace, known.pod.name), set()).add(attachment.key)
        shared = attachment.anycast
        if self._pods is not None and shared and shared.health and shared.health.kind == "ready":
            self._pods.follow()

    def ready(self, attachment: Attachment) -> bool | None:
        """The condition Ready of its pod; None if the API has not told of it."""
        return self._pods.ready(attachment.pod) if self._pods is not None and attachment.pod is not None else None

    def forget(self, key: AttachmentKey) -> None:
        with self._lock:
            known = self._known.pop(key, None)
            if known is not None and known.pod is not None:
                name = known.pod.namespace, known.pod.name
                self._by_pod[name].discard(key)
                if not self._by_pod[name]:
                    del self._by_pod[name]

    def _subject(self, known: _Known) -> Subject:
        labels, namespace_labels = known.labels, known.namespace_labels
        if self._pods is not None and known.pod is not None:
            labels = _first(self._pods.labels(known.pod), labels)
            namespace_labels = _first(self._pods.namespace_labels(known.pod.namespace), namespace_labels)
        return Subject(known.network, labels, namespace_labels)

    # ---------------------------------------------------------------- for the agent

    @property
    def looks(self) -> Mapping[str, Callable[[], str]]:
        """What is amiss, by its code in `status`."""
        own: dict[str, Callable[[], str]] = {"policies": self._look}
        return {**own, **(self._pods.looks if self._pods is not None else {})}

    def _look(self) -> str:
        """Follow this node's labels, which change without a change of the policies. Returns what is refused."""
        if self._node_labels() != self._labels:
            self._judge(self._pictures.last)
        return "; ".join(self._rules.refused)

    def start(self) -> None:
        threading.Thread(target=self._run, name="policies", daemon=True).start()
        if self._pods is not None:
            threading.Thread(target=self._follow_pods, name="policies-pods", daemon=True).start()

    def stop(self) -> None:
        """The pictures are closed by whoever fills them."""
        if self._pods is not None:
            self._pods.stop()

    def renew(self, config: AgentConfig) -> None:
        """This agent.toml is in force from now on."""
        self._config = config
        self._judge(self._pictures.last)

    # ---------------------------------------------------------------- what changes

    def _run(self) -> None:
        picture = self._pictures.last
        self._judge(picture)
        while True:
            picture = self._pictures.wait(picture)
            if self._pictures.closed:
                return
            self._judge(picture)

    def _judge(self, picture: Picture) -> None:
        """Have these rules from now on, and nudge the attachments for which they say something else than before."""
        with self._judging:
            self._labels = self._node_labels()
            found = rules_of(picture.of(RoutePolicy), self._labels, self._config.policy)
            before, self._rules = self._rules, found
        if found == before:
            return
        if found.by_labels and self._pods is not None:
            self._pods.follow()
        with self._lock:  # who is remembered later asks for the new rules
            known = list(self._known.items())
        changed = 0
        for key, one in known:
            subject = self._subject(one)
            if before.of(subject) != found.of(subject):
                self._nudges.nudge(key)
                changed += 1
        log.info("%d RoutePolicies are for this node; %d attachments are looked at", len(found.rules), changed)

    def _follow_pods(self) -> None:
        """Pods and namespaces that have other labels now."""
        assert self._pods is not None
        while (changes := self._pods.changes()) is not None:
            self._relabelled(changes.pods, changes.namespaces)

    def _relabelled(self, pods: Collection[tuple[str, str]], namespaces: Collection[str]) -> None:
        with self._lock:
            keys = {key for pod in pods for key in self._by_pod.get(pod, ())}
            if namespaces:
                keys |= {key for key, one in self._known.items() if one.pod and one.pod.namespace in namespaces}
        for key in keys:
            self._nudges.nudge(key)


def _known(attachment: Attachment) -> _Known:
    return _Known(attachment.network, attachment.pod, attachment.labels, attachment.namespace_labels)


def _first(found: Labels | None, recorded: Labels) -> Labels:
    return recorded if found is None else found
