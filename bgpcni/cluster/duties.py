"""What this node owes its Kubernetes cluster: its network configuration in net.d as soon as pods can have a network,
and a Node object that says so, by the condition NetworkUnavailable and the taint `bgpcni.dev/agent-not-ready`.

One thread follows the Node object, another compares what should be with what is and changes it. A server that is away
changes nothing here. What stands in the way is said by `looks`, for `bgpcni status`.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from bgpcni.cluster import network
from bgpcni.cluster.kubernetes import NODES, STRATEGIC, Object, Trouble
from bgpcni.cluster.own_node import OwnNode
from bgpcni.cluster.pause import Pause
from bgpcni.cluster.reporter import Reporter
from bgpcni.config.agent import ClusterTable, KubernetesTable
from bgpcni.errors import CniError
from bgpcni.events import Events

log = logging.getLogger(__name__)
CONDITION = "NetworkUnavailable"
TAINT = "bgpcni.dev/agent-not-ready"
MAINTENANCE = "bgpcni.dev/maintenance"
SECONDS = 1.0
"""Between two comparisons; a change of the Node is compared at once."""
ASK_SECONDS = 10.0
"""Between two questions whether a node that serves still does."""
COUNT_SECONDS = 5.0
"""Between two counts of the sessions, at most."""
WORDS_SECONDS = 30.0
"""Between two writes of a condition that say the same in other words."""


class Standing(Protocol):
    """What the agent knows of itself."""

    @property
    def drained(self) -> bool:
        """Whether everything was withdrawn, and no ADD is served any more."""
        ...

    def unservable(self, network: bytes) -> str:
        """Why an ADD of this network configuration would fail now, "" if it would not."""
        ...

    def sessions(self) -> int | None:
        """How many BGP sessions are established; None where no peer is known at all."""
        ...

    def mtu(self, family: str) -> int:
        """The largest that a container's packets may be, in octets."""
        ...


class Duties:
    """Made before the agent serves; `begin` at its start, `start` as soon as it serves."""

    def __init__(
        self,
        own: OwnNode,
        table: Callable[[], ClusterTable],
        standing: Standing,
        boot_id: str,
        clock: Callable[[], float] = time.monotonic,
        events: Events | None = None,
    ) -> None:
        """`table`: `[cluster]` as it is now. `events`: what Kubernetes is told of."""
        self._reporter = Reporter(own.api, events or Events(0), own.name)
        self._clock, self.name, self._own = clock, own.name, own
        self._table, self._standing, self._boot_id = table, standing, boot_id
        self._api, self._mirror = own.api, own.mirror
        self._wake, self._stopped = own.subscribe(), False
        self._unwritten = self._unready = self._refused = ""
        self._asked: tuple[float, bytes, str] = (0.0, b"", "")
        self._last_session = self._clock()
        self._sessions: int | None = None
        self._count_due = 0.0
        self._acted: tuple[object, ...] = ()
        self._said: tuple[float, str] = (0.0, "")
        self._pause, self._due = Pause(), 0.0

    # ---------------------------------------------------------------- life

    def begin(self) -> None:
        """A network configuration of an earlier boot goes: nothing of it can be served yet."""
        folder = Path(self._settings.conf_dir)
        try:
            if network.take_away(folder, unless=self._boot_id):
                log.info("%s was of an earlier boot: removed until this node can serve", folder / network.NAME)
        except CniError as error:  # what runs goes on all the same
            log.error("a network configuration of an earlier boot may be in place: %s", error.msg)

    def start(self) -> None:
        for name, run in (("own-node", self._own.run), ("duties", self._run), ("reporter", self._reporter.run)):
            threading.Thread(target=run, name=name, daemon=True).start()

    def stop(self) -> None:
        """The file, the condition and the taint stay: this node goes on serving what it has, and is back soon."""
        self._stopped = True
        self._own.stop()
        self._wake.set()

    @property
    def looks(self) -> Mapping[str, Callable[[], str]]:
        """What is amiss, by its code in `status`."""
        return {
            "kubernetes": self._away,
            "network-configuration": lambda: self._unwritten,
            "node-unready": lambda: self._unready,
        }

    @property
    def maintenance(self) -> bool | None:
        """Whether the Node's annotation asks for maintenance; None while the API has not told of the Node."""
        node = self._mirror.objects.get(("", self.name))
        if not self._mirror.synced or node is None:
            return None
        text = (node["metadata"].get("annotations") or {}).get(MAINTENANCE)
        return text is not None and text.lower() not in ("false", "off", "no", "0")

    def _away(self) -> str:
        if trouble := self._mirror.trouble:
            return f"the API server {self._api.server} is not followed: {trouble}"
        return self._refused

    @property
    def _settings(self) -> KubernetesTable:
        return self._table().kubernetes

    def _run(self) -> None:
        while not self._stopped:
            self._wake.clear()
            try:
                self.look()
            except Exception:  # the node goes on serving; what is wrong with us is in the log
                log.exception("the node's duties in its cluster")
            self._wake.wait(SECONDS)

    # ---------------------------------------------------------------- one comparison

    def look(self) -> None:
        """Compare once, and change what differs."""
        node = self._own.object
        self._unwritten = self._write(node)
        self._unready = "" if self._unwritten else self._without_sessions()
        reason, word = self._unwritten or self._unready, "NoBGPSession" if self._unready else "BgpcniNotReady"
        if not self._mirror.synced or self._mirror.trouble:
            return
        if node is None:
            self._refused = f"cluster.node: there is no Node {self.name} in the cluster"
            return
        if self._clock() >= self._due:
            self._tell(node, word, reason)

    def _write(self, node: Object | None) -> str:
        """Have the network configuration in place; why it is not, or why an ADD of it would fail, else ""."""
        settings = self._settings
        pod_cidrs = (node or {}).get("spec", {}).get("podCIDRs")
        try:
            if settings.network is None:
                return self._ask(b"")
            mark = {"bootID": self._boot_id, "node": self.name}
            rendered = network.render(Path(settings.network), pod_cidrs, self._standing.mtu, mark)
            if reason := self._ask(json.dumps(network.ours_in(rendered)).encode()):
                return f"no network for pods: {reason}"
            if network.put(Path(settings.conf_dir), rendered):
                log.info("%s/%s written: runtimes can start pods", settings.conf_dir, network.NAME)
        except network.NotYet as error:
            if self._mirror.synced:
                return error.msg
            earlier = network.boot_of(Path(settings.conf_dir) / network.NAME)  # an earlier life of the agent wrote it
            return "" if earlier else "no network for pods: the Node has not been read yet, and with it spec.podCIDRs"
        except CniError as error:
            return error.msg
        return ""

    def _ask(self, ours: bytes) -> str:
        """Why an ADD would not be served: asked seldom while it is, and each time while it is not."""
        if self._standing.drained:
            return "this node is drained: everything was withdrawn"
        if not ours:
            return ""
        then, asked, reason = self._asked
        if reason or asked != ours or self._clock() >= then + ASK_SECONDS:
            reason = self._standing.unservable(ours)
            self._asked = (self._clock(), ours, reason)
        return reason

    def _without_sessions(self) -> str:
        limit = self._settings.unready_after
        if not limit:
            return ""
        if self._clock() >= self._count_due:
            self._count_due = self._clock() + min(limit / 4, COUNT_SECONDS)
            self._sessions = self._standing.sessions()
        if self._sessions != 0:
            self._last_session = self._clock()
            return ""
        if self._clock() - self._last_session < limit:
            return ""
        return f"no BGP session for more than {limit:g} s (cluster.kubernetes.unready_after)"

    # ---------------------------------------------------------------- the Node object

    def _tell(self, node: Object, word: str, reason: str) -> None:
        """Patch what differs: first the condition, then the taint: what it keeps away may come once it is gone."""
        revision = node["metadata"]["resourceVersion"]
        if self._acted == (revision, word, reason):
            return  # the mirror has not heard of it yet
        try:
            if self._differs(node, word, reason):
                self._api.patch(NODES, self.name, _condition(word, reason, node), STRATEGIC, subresource="status")
                self._said = (self._clock(), reason)
            elif (taints := _taints(node, tainted=bool(reason))) is not None:
                body = {"metadata": {"resourceVersion": revision}, "spec": {"taints": taints}}
                self._api.patch(NODES, self.name, body)
                log.info("Node %s: %s taint %s%s", self.name, "set" if reason else "removed", TAINT, _because(reason))
            else:
                self._refused = ""
                self._pause.over()
                return
        except Trouble as trouble:
            self._due = self._clock() + self._pause.seconds(trouble.after)
            if trouble.code != 409:  # somebody else was faster: what they wrote comes by the mirror
                self._refused = f"the Node {self.name} cannot be kept up to date: {trouble}"
            return
        self._refused = ""
        self._acted = (revision, word, reason)

    def _differs(self, node: Object, word: str, reason: str) -> bool:
        found = _find_condition(node)
        wanted = _words(word, reason)
        if found.get("status") != wanted["status"] or found.get("reason") != wanted["reason"]:
            return True
        then, _ = self._said
        return found.get("message") != wanted["message"] and self._clock() >= then + WORDS_SECONDS


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


def _find_condition(node: Object) -> Mapping[str, Any]:
    conditions = node.get("status", {}).get("conditions") or ()
    return next((item for item in conditions if item.get("type") == CONDITION), {})


def _words(word: str, reason: str) -> dict[str, str]:
    if reason:
        return {"status": "True", "reason": word, "message": reason}
    return {"status": "False", "reason": "BgpcniReady", "message": "the agent of bgpcni serves this node"}


def _condition(word: str, reason: str, node: Object) -> Object:
    """A strategic merge patch of the Node's status: the other conditions are left alone."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    found, wanted = _find_condition(node), _words(word, reason)
    since = found.get("lastTransitionTime") if found.get("status") == wanted["status"] else None
    times = {"lastHeartbeatTime": now, "lastTransitionTime": since or now}
    return {"status": {"conditions": [{"type": CONDITION, **wanted, **times}]}}


def _taints(node: Object, *, tainted: bool) -> list[Object] | None:
    """The Node's taints as they should be, None where they are."""
    found: list[Object] = node.get("spec", {}).get("taints") or []
    if tainted == any(taint.get("key") == TAINT for taint in found):
        return None
    if tainted:
        return [*found, {"key": TAINT, "effect": "NoSchedule"}]
    return [taint for taint in found if taint.get("key") != TAINT]
