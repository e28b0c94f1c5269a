"""The agent: the resident process of one node. It is put together, and taken apart, in this order.

Start: locks → read the records → ask the exporters for their routes → start the exporters → serve requests.
SIGTERM: the requests end → the exporters let go of their speakers, which go on announcing.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bgpcni import __version__, extensions, locks
from bgpcni.agent import commands
from bgpcni.agent.health import HealthChecks
from bgpcni.agent.journal import Journal
from bgpcni.agent.maintenance import Asker, Maintenance
from bgpcni.agent.readers import Readers
from bgpcni.agent.server import Server
from bgpcni.agent.signals import Signals
from bgpcni.agent.standing import Standing
from bgpcni.agent.watch import Look, Watch
from bgpcni.agent.worker import Worker
from bgpcni.census import Census
from bgpcni.cni.environment import Command
from bgpcni.config.agent import AgentConfig, ClusterTable, NeighborTable, TracingTable, load
from bgpcni.convergence import catalog
from bgpcni.convergence.announcer import Reached
from bgpcni.convergence.convergence import Convergence
from bgpcni.convergence.ledger import Announced
from bgpcni.dataplane.dataplane import DataPlane, Inbox
from bgpcni.errors import CniError, InvalidConfiguration, IoFailure, TryAgain
from bgpcni.events import Events, Kind
from bgpcni.handler import Call, Reply, handle, lend
from bgpcni.kernel.monitor import Monitor
from bgpcni.kernel.namespace import boot_id, home, home_cookie
from bgpcni.model import Attachment, AttachmentKey, NodeFacts, State
from bgpcni.node import boots, facts, plan, reconcile, reload
from bgpcni.node.ends import Ends
from bgpcni.node.intent import NoPolicies
from bgpcni.node.next_step import Wait
from bgpcni.node.node import LOCK_SECONDS, Node
from bgpcni.nudges import Nudges
from bgpcni.store import Store

if TYPE_CHECKING:
    from bgpcni.agent.metrics import Measures
    from bgpcni.agent.policies import Policies
    from bgpcni.agent.tracing import Tracing
    from bgpcni.cluster.duties import Duties
    from bgpcni.cluster.member import Member
    from bgpcni.cluster.peers import Wish
    from bgpcni.cluster.pools import Pools
    from bgpcni.cluster.store import Store as ClusterStore

log = logging.getLogger(__name__)
WORKER_SECONDS = 10.0
GARBAGE = 20_000
"""How many new objects make Python look for cycles: once in a few ADDs, instead of several times in each."""

FOLLOW_SECONDS = 10.0
"""Seconds until neighbours of the cluster that could not be applied are tried again."""

NEXT_HOP_SECONDS = 10.0
"""Seconds between two looks at the addresses of the node, if it lacks a next hop."""


class Agent:
    """Checks that it is the only agent, and runs it."""

    def __init__(
        self, config_path: Path, socket_path: Path, metrics: str | None = None, *, beyond_loopback: bool = False
    ) -> None:
        self._config_path = config_path
        self._socket_path = socket_path
        self._metrics = metrics
        self._beyond_loopback = beyond_loopback

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises CniError when the agent cannot start."""
        config = load(self._config_path)
        if self._metrics is not None:
            from bgpcni.agent import metrics

            metrics.place(self._metrics, beyond_loopback=self._beyond_loopback)
        home(), home_cookie()
        census = Census() if self._metrics is not None else None
        store = Store(Path(config.data_dir), Path(config.run_dir), census)
        extensions.cache_in(store.run_path)
        catalog.refuse_rivals(plan.configured(config), facts.resolve(config))
        writers = locks.WriterLocks(store.run_fd, store.data_fd)
        try:
            writers.as_agent()
        except locks.Busy:
            held = f"{locks.WriterLocks.AGENT} in {store.run_path} or in {store.path}"
            raise TryAgain(f"another agent holds {held}") from None
        store.sweep()
        store.recycle()
        store.remember()
        signals = Signals(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        measures = _measures(self._metrics, census, beyond_loopback=self._beyond_loopback)
        tracing = _tracing(config)
        Running(self._config_path, self._socket_path, config, store, writers, measures, tracing).run(signals)
        writers.release()


class Running:
    """The only agent of the node: the node and its threads. Each part is given those that were made before it."""

    def __init__(
        self,
        config_path: Path,
        socket_path: Path,
        config: AgentConfig,
        store: Store,
        writers: locks.WriterLocks,
        measures: Measures | Unmeasured,
        tracing: Tracing | Untraced,
    ) -> None:
        self._config_path = config_path
        self._socket_path = socket_path
        self._writers = writers
        self._changing = threading.Lock()
        self._applied = True
        """What was last read of agent.toml is in force."""
        self._next_hops_due = time.monotonic() + NEXT_HOP_SECONDS
        self._cluster = _cluster(config, measures.store)
        self._generation = self._cluster.generation
        self._pools = _pools(self._cluster, config)
        self._conflicts = 0
        self._follow_due = 0.0
        self._maintenance = Maintenance(Path(config.data_dir), boot_id())
        self._ends = Ends(facts.default_gateway)
        known, *self._unfit = self._resolve(config)
        """What the cluster asks of this node and it cannot do, and the neighbours of agent.toml that were not found."""
        self._tracing = tracing

        def announced(exporter: str, route: Announced, reached: Reached) -> None:
            measures.announced(exporter, route, reached)
            tracing.announced(exporter, route, reached)

        nudges = Nudges()
        inbox = Inbox()
        self._policies = _policies(config, self._cluster, nudges)
        events = Events()
        convergence = Convergence(
            known, nudges, spare=store.unreadable, announced=announced, learner=inbox, events=events
        )
        self._dataplane = DataPlane(known, config.policy, inbox, convergence.listen, convergence.want_targets)
        amiss: dict[str, str] = {}
        self._health = HealthChecks(nudges, self._policies.ready)
        self.node = Node(
            store, config, known, convergence, nudges, self._dataplane, amiss, events, self._pools.given,
            self._policies, self._health,
        )  # fmt: skip
        self._journal = Journal(events)
        self.node.maintenance = self._maintenance.asked
        self.worker = Worker(self.node)
        self._monitor = Monitor(self.worker.link_gone, self.worker.namespace_changed, self.worker.look_at_all)
        self._server = Server(measures.counted(tracing.traced(self.call)), self.command)
        self._readers = Readers(store, lambda stdin: commands.reply(self, stdin, read_only=True))
        self._standing = Standing(self.node, self._dataplane, self.call)
        self._duties = _duties(self._cluster, self.node, self._standing)
        looks = {
            "run-dir": self._keep_run_dir,
            "records": store.listen,
            "read-socket": self._readers.look,
            "configuration": self._keep_configuration,
            "local-address": self._keep_local_address,
            "cluster-peers": self._keep_cluster,
            "cluster-addresses": self._keep_addresses,
            "maintenance": self._keep_maintenance,
            "neighbors": self._keep_ends,
            **self._cluster.looks,
            **self._pools.looks,
            **self._policies.looks,
            **self._duties.looks,
        }
        self._watch = Watch(looks, amiss, events)
        measures.watch(self.node, tracing)

    def run(self, signals: Signals) -> None:
        """Serve until SIGTERM or SIGINT. SIGHUP reloads."""
        journal = self._thread("journal", self._journal.run)
        self.node.events.emit(Kind.AGENT_STARTED, detail=__version__)
        self._duties.begin()
        self._server.listen(self._socket_path)
        self._tracing.start()
        self._watch.look()
        self.node.convergence.employ(plan.configured(self.node.agent))
        self._restore()
        self.node.claims.load()
        gc.freeze()  # all of this stays, so no collection has to look at it
        gc.set_threshold(GARBAGE)
        self._dataplane.start()
        self.node.convergence.start()
        self._thread("monitor", self._monitor.run)
        worker = self._thread("worker", self.worker.run)
        self._server.serve()
        self._readers.start()
        self._watch.look()
        self._duties.start()
        self._cluster.start(self._standing.sessions)
        self._pools.start()
        self._policies.start()
        self._health.start()
        self._thread("watch", self._watch.run)
        self.worker.retire_soon()
        log.info("serving on %s", self._socket_path)
        for number in signals:
            if number != signal.SIGHUP:
                break
            self._thread("reload", self._hangup)
        log.info("ending; routes stay announced")
        self._duties.stop()
        self._cluster.stop()
        self._pools.stop()
        self._policies.stop()
        self._health.stop()
        self._watch.stop()
        self.node.events.close()
        self._readers.close()
        self._server.close()
        self._tracing.stop()
        self._monitor.stop()
        self.node.nudges.close()
        worker.join(WORKER_SECONDS)
        self.node.convergence.stop()
        self._dataplane.stop()
        journal.join(WORKER_SECONDS)

    def _restore(self) -> None:
        """Read the records: every exporter is told what to announce and what to withdraw, before any is driven."""
        node = self.node
        records = [stored for each in node.store.all() if (stored := boots.settled(node, each)) is not None]
        up = [
            stored.attachment
            for stored in records
            if stored.attachment is not None and stored.state is State.UP and stored.attachment.boot_id == node.boot_id
        ]
        self._dataplane.restore(attachment for attachment in up if attachment.exporters)
        node.shared.restore(node.netlink, [attachment for attachment in up if attachment.anycast is not None])
        late = 0
        for stored in records:
            if stored.attachment is None:
                log.error("%s; its network's routes are not pruned until a DEL removes it", stored.problem,
                          extra={"network": stored.network})  # fmt: skip
            else:
                late += self._tell(stored.attachment.key)
        log.info("records: %d up, %d others, %d to be looked at", len(up), len(records) - len(up), late)

    def _tell(self, key: AttachmentKey) -> bool:
        """Tell the exporters what one record says, unless a DEL has it. Returns whether there is more to do."""
        node = self.node
        try:
            with node.store.locked(key, LOCK_SECONDS):
                outcome = reconcile.run(node, key, tell_only=True)
        except (CniError, OSError) as error:  # one broken attachment does not stop the others
            log.error("%s: %s", key, error, extra=key.fields)
            node.convergence.untold(key)
            outcome = Wait(1.0)
        if isinstance(outcome, Wait) and outcome.seconds is not None:
            node.nudges.nudge(key, outcome.seconds)
        return isinstance(outcome, Wait)

    # ---------------------------------------------------------------- what is looked after

    def _keep_run_dir(self) -> str:
        """Make again what somebody removed from run_dir: the folders first, then the locks, then the socket."""
        store = self.node.store
        made = ["folders"] if store.renew() else []
        try:
            made += self._writers.renew()
        except locks.Busy:
            return f"a lock of {store.run_path} was removed, and another process has the new one"
        made += ["socket"] if self._server.renew() else []
        if made:
            log.warning("%s: somebody removed %s; the agent made them again", store.run_path, ", ".join(made))
        return ""

    def _keep_configuration(self) -> str:
        """Where neither a new configuration nor the one before could be applied, the one before is tried again."""
        if not self._applied:
            self.reload(again=True)
        return ""

    def _keep_local_address(self) -> str:
        """Use a next hop as soon as the node has its address. Returns what is wrong with local_address."""
        node = self.node
        if node.drained:
            return ""
        if time.monotonic() >= self._next_hops_due:
            self._next_hops_due = time.monotonic() + NEXT_HOP_SECONDS
            if facts.hops_to_come(node.netlink, node.agent, node.facts):
                log.info("an address that routes need as their next hop is here now")
                self.reload(again=True)
        return facts.absent_everywhere(node.netlink, node.agent, node.facts)

    def _keep_cluster(self) -> str:
        """Have the neighbours that the cluster's objects give this node. Returns which of them it cannot have."""
        generation = self._cluster.generation
        if generation != self._generation and not self.node.drained and time.monotonic() >= self._follow_due:
            self._follow_due = time.monotonic() + FOLLOW_SECONDS
            self.reload(again=True)
            self._generation, self._follow_due = generation, 0.0
        return "; ".join(self._unfit[0])

    def _keep_addresses(self) -> str:
        """Withdraw containers whose addresses are another node's by now. Returns which blocks they are of."""
        conflicts = self._pools.conflicts
        if conflicts != self._conflicts:
            self._conflicts = conflicts
            for stored in self.node.store.all():
                if stored.attachment is not None and stored.state is State.UP:
                    self._tell_conflict(stored.attachment)
        return self._pools.lost()

    def _tell_conflict(self, attachment: Attachment) -> None:
        pools, node = self.node.pools, self.node
        if attachment.exporters != reconcile.target_of(node, attachment, node.agent):
            node.nudges.nudge(attachment.key)
            if pools is not None and (reason := next(filter(None, map(pools.conflict, _ips(attachment))), "")):
                node.events.about(Kind.CONFLICT, attachment, reason)

    def _keep_maintenance(self) -> str:
        """Be in maintenance while the Node's annotation says so; unchanged while the API does not say anything."""
        asked = self._duties.maintenance
        if asked is not None and asked != ("annotation" in self._maintenance.asked):
            self.maintain("annotation", on=asked)
        return ""

    def _keep_ends(self) -> str:
        """Have neighbours without an address where they are now. Returns which of agent.toml's were not found."""
        if self.node.drained:
            return ""
        self._ends.advertise()
        if self._ends.moved():
            self.reload(again=True)
        return "; ".join(self._unfit[1])

    def _resolve(self, config: AgentConfig) -> tuple[NodeFacts, list[str], list[str]]:
        """The node by agent.toml and by the cluster, what the cluster asks of it in vain, and which neighbours of
        agent.toml were not found.

        Raises InvalidConfiguration for what is wrong in agent.toml.
        """
        config = self._cluster.configured(config)
        wishes = self._cluster.wishes(config)
        unfit = [f"{each.place}: {each.reason}" for each in wishes if each.reason]
        located, missing = self._located(config)
        offers = []
        for wish in wishes:
            found = self._ends.find(wish.neighbor, located.bgp.local_address) if wish.neighbor and located.bgp else ""
            if isinstance(found, NeighborTable):
                offers.append((wish.place, found))
            elif found:
                unfit.append(f"{wish.place}: spec.{found}")
        accepted, reasons = facts.acceptable(located, offers)
        known = replace(facts.resolve(located, accepted), maintenance=bool(self._maintenance.asked))
        return known, [*unfit, *reasons], missing

    def _located(self, config: AgentConfig) -> tuple[AgentConfig, list[str]]:
        """agent.toml with the addresses of its neighbours, and which were not found."""
        self._ends.begin()
        if config.bgp is None:
            return config, []
        own, missing = list(config.bgp.neighbors), list[str]()
        for at, item in enumerate(own):
            found = self._ends.find(item, config.bgp.local_address)
            if isinstance(found, str):
                missing.append(f"bgp.neighbors[{at}].{found}")
            elif found.address != item.address and found.address in {other.address for other in own}:
                missing.append(f"bgp.neighbors[{at}]: {found.address} is a neighbour in another way already")
            else:
                own[at] = found
        return config.model_copy(update={"bgp": config.bgp.model_copy(update={"neighbors": tuple(own)})}), missing

    # ---------------------------------------------------------------- requests

    def call(self, call: Call) -> Reply:
        began = time.monotonic()
        reply = lend(call, self.node) if call.ipam else handle(call, lambda request: self.node)
        if log.isEnabledFor(logging.DEBUG):
            _log_call(call, reply, time.monotonic() - began)
        if call.variables.get("CNI_COMMAND") == Command.ADD:
            if reply.error:
                failure = self.node.failures.failed(call.variables, call.stdin, reply.stdout)
                self.node.events.emit(
                    Kind.ADD_FAILED, network=failure.network, container_id=failure.container_id, ifname=failure.ifname,
                    pod=str(failure.pod or ""), pod_uid=failure.pod.uid if failure.pod else "",
                    detail=f"error {failure.code}: {failure.msg}",
                )  # fmt: skip
            else:
                self.node.failures.worked(call.variables)
        return reply

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes of the cluster, as far as this one has heard; none without a cluster's store."""
        return self._cluster.nodes()

    def command(self, stdin: bytes) -> Reply:
        return commands.reply(self, stdin)

    def reload(self, *, again: bool = False) -> None:
        """Read agent.toml anew and apply it. Raises CniError, and then nothing has changed.

        `again`: apply what was read before, on a node that has changed.
        """
        try:
            self._reload(again=again)
        except CniError as error:
            if not again:
                self.node.events.emit(Kind.RELOAD_REFUSED, detail=error.msg)
            raise
        if not again:
            self.node.events.emit(Kind.RELOADED)

    def _reload(self, *, again: bool) -> None:
        with self._changing, self.worker.retiring:
            node = self.node
            # within the locks, so that the later one of two reloads has the later file
            config = node.agent if again else load(self._config_path)
            if node.drained:
                raise TryAgain("this node is drained: restart the agent, which reads its configuration anew")
            if (config.run_dir, config.data_dir) != (node.agent.run_dir, node.agent.data_dir):
                raise TryAgain("run_dir and data_dir cannot change while the agent runs: restart it")
            if config.tracing != node.agent.tracing:
                raise TryAgain("tracing cannot change while the agent runs: restart it")
            if _membership(config) != _membership(node.agent):
                raise TryAgain(f"{_MEMBERSHIP} cannot change while the agent runs: restart it")
            facts.refuse_passwords(config)
            known, *unfit = self._resolve(config)
            reload.refuse(node, config, known)
            renamed = node.convergence.renames(known, plan.configured(config))
            anew = not self._applied or known != node.facts or renamed or _redefined(node.agent, config)
            before = node.agent, node.facts
            try:
                self._apply(config, known, anew=anew)
            except Exception as error:
                defect = not isinstance(error, CniError)
                log.error("the configuration cannot be applied; back to the one before: %s", error, exc_info=defect)
                try:
                    self._apply(*before, anew=anew)
                except Exception as worse:  # noqa: BLE001 - whatever it is, the operator is told
                    words = f"neither this configuration nor the one before can be applied: {worse}; it is tried again"
                    raise IoFailure(words) from error
                raise InvalidConfiguration(f"the configuration cannot be applied: {error}") from error
            else:
                self._unfit = unfit
                self._cluster.renew(config)
                self._pools.renew(config)
                self._policies.renew(config)
            finally:  # also of what was refused the worker may have begun something
                for key in reconcile.concerned(node):
                    node.nudges.nudge(key)
                self.worker.retire_soon()

    def _apply(self, config: AgentConfig, known: NodeFacts, *, anew: bool) -> None:
        """Be this node from now on. `anew`: its exporters are made anew, told of every record, then driven."""
        node = self.node
        self._applied = False
        if anew:
            node.convergence.reset(known, plan.configured(config))
        else:
            node.convergence.renew(known, plan.configured(config))
        node.agent, node.facts = config, known
        self._dataplane.configure(known, config.policy)
        if anew:
            self._restore()
            self._dataplane.relisten()
            node.convergence.start()
        self._applied = True

    def maintain(self, who: Asker, *, on: bool, until_reboot: bool = False) -> None:
        """Announce everything so that peers prefer other paths, or again as before. Nothing is withdrawn.

        Raises IoFailure, and then nothing has changed.
        """
        node = self.node
        with self._changing:
            self._maintenance.ask(who, on=on, until_reboot=until_reboot)
            before, node.maintenance = node.maintenance, self._maintenance.asked
            node.facts = node.convergence.facts = replace(node.facts, maintenance=bool(node.maintenance))
        if node.maintenance != before:
            kind = Kind.MAINTENANCE_ON if node.maintenance else Kind.MAINTENANCE_OFF
            node.events.emit(kind, detail=" and ".join(node.maintenance))
        for key in node.attached():  # an ADD that comes later announces so by itself
            node.nudges.nudge(key)

    def drain(self, seconds: float) -> list[str]:
        """Withdraw everything and end the speakers that are ours. Returns the exporters that are late."""
        node = self.node
        node.drained = True
        for stored in node.store.all():
            if stored.attachment is not None:
                self._tell(stored.attachment.key)
        return node.convergence.drain(seconds)

    def _hangup(self) -> None:
        with suppress(CniError):  # an event says why
            self.reload()

    def _thread(self, name: str, target: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        return thread


def _log_call(call: Call, reply: Reply, seconds: float) -> None:
    verb, container = call.variables.get("CNI_COMMAND", "?"), call.variables.get("CNI_CONTAINERID", "")
    outcome = f"error {reply.error}" if reply.error else "ok"
    log.debug("%s of %s: %s in %.1f ms", verb, container or "no container", outcome, 1000 * seconds,
              extra={"container": container, "ifname": call.variables.get("CNI_IFNAME", "")})  # fmt: skip


class Alone:
    """No cluster: agent.toml is all there is, and the library of the cluster's client costs 11 MB."""

    looks: Mapping[str, Look] = {}
    generation = conflicts = 0
    maintenance: bool | None = None
    given: None = None

    def begin(self) -> None:
        pass

    def start(self, sessions: Callable[[], int | None] = lambda: None) -> None:
        pass

    def renew(self, config: AgentConfig) -> None:
        pass

    def configured(self, config: AgentConfig) -> AgentConfig:
        return config

    def wishes(self, config: AgentConfig) -> Sequence[Wish]:
        return ()

    def lost(self) -> str:
        return ""

    def nodes(self) -> list[dict[str, Any]]:
        return []

    def stop(self) -> None:
        pass


class Unruled(NoPolicies):
    """No cluster, no policies."""

    looks: Mapping[str, Look] = {}

    def ready(self, attachment: Attachment) -> bool | None:
        return None

    def start(self) -> None:
        pass

    def renew(self, config: AgentConfig) -> None:
        pass

    def stop(self) -> None:
        pass


def _policies(config: AgentConfig, cluster: Alone | Member, nudges: Nudges) -> Unruled | Policies:
    if isinstance(cluster, Alone) or config.cluster is None:
        return Unruled()
    from bgpcni.agent.policies import Policies

    pods = None
    if (own := cluster.own_node) is not None:
        from bgpcni.cluster.pods import Pods

        pods = Pods(own.api, cluster.name)
    return Policies(cluster.pictures, lambda: cluster.labels, config, nudges, pods)


def _duties(cluster: Alone | Member, node: Node, standing: Standing) -> Alone | Duties:
    if isinstance(cluster, Alone) or (own := cluster.own_node) is None:
        return Alone()
    from bgpcni.cluster.duties import Duties

    table = lambda: node.agent.cluster or ClusterTable(store="kubernetes")  # noqa: E731
    return Duties(own, table, standing, node.boot_id, events=node.events)


def _cluster(config: AgentConfig, measured: Callable[[ClusterStore], ClusterStore]) -> Alone | Member:
    """The store that has bgpcni's objects. Raises InvalidConfiguration."""
    if config.cluster is None:
        return Alone()
    from bgpcni.cluster.member import Member
    from bgpcni.cluster.stores import open_store, own_node

    store = open_store(config.cluster)
    return Member(config, config.cluster, measured(store), facts.default_gateway, own_node(store, config.cluster))


def _pools(cluster: Alone | Member, config: AgentConfig) -> Alone | Pools:
    """The cluster's addresses."""
    if isinstance(cluster, Alone):
        return cluster
    from bgpcni.cluster.pools import Pools
    from bgpcni.ipam.cluster import leased
    from bgpcni.node.ground import Ground

    return Pools(cluster, config, Ground(), leased)


def _ips(attachment: Attachment) -> Iterator[str]:
    return (item.address for item in attachment.addresses)


_MEMBERSHIP = "cluster.store, cluster.node, cluster.etcd, kubeconfig and conf_dir of cluster.kubernetes"


def _membership(config: AgentConfig) -> tuple[object, ...] | None:
    """What of `[cluster]` a reload cannot change."""
    table = config.cluster
    if table is None:
        return None
    return table.store, table.node, table.etcd, table.kubernetes.kubeconfig, table.kubernetes.conf_dir


class Unmeasured:
    """In place of metrics when nobody asked for them: their library needs 10 MB."""

    def announced(self, exporter: str, route: Announced, reached: Reached) -> None:
        pass

    def counted(self, call: Callable[[Call], Reply]) -> Callable[[Call], Reply]:
        return call

    def watch(self, node: Node, tracing: Tracing | Untraced) -> None:
        pass

    def store(self, store: ClusterStore) -> ClusterStore:
        return store


class Untraced:
    """In place of traces when nobody asked for them: their library needs 20 MB."""

    counts = None

    def start(self) -> None:
        pass

    def traced(self, call: Callable[[Call], Reply]) -> Callable[[Call], Reply]:
        return call

    def announced(self, exporter: str, route: Announced, reached: Reached) -> None:
        pass

    def stop(self) -> None:
        pass


def _tracing(config: AgentConfig) -> Untraced | Tracing:
    """Traces, if agent.toml or the environment asks for them. Raises InvalidConfiguration."""
    table = config.tracing
    if table is None and not any(os.environ.get(name) for name in _RECEIVERS):
        return Untraced()
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Untraced()
    try:
        from bgpcni.agent.tracing import Tracing
    except ImportError as error:
        text = f"its library is not installed ({error}): pip install 'bgpcni[otel]'"
        raise InvalidConfiguration(f"tracing: {text}") from None
    return Tracing(table or TracingTable())


_RECEIVERS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def _measures(where: str | None, census: Census | None, *, beyond_loopback: bool) -> Unmeasured | Measures:
    if where is None or census is None:
        return Unmeasured()
    from bgpcni.agent.metrics import Measures

    return Measures(where, census, beyond_loopback=beyond_loopback)


def _redefined(old: AgentConfig, new: AgentConfig) -> bool:
    """Whether an exporter has the same name and another type or configuration now."""
    return any(new.exporters[name] != table for name, table in old.exporters.items() if name in new.exporters)
