"""The agent: one node's resident process, put together and taken apart in order.

lock → records read → routes wanted → exporters started → requests served → … → SIGTERM: requests end,
exporters let go of their speakers, which go on announcing.
"""

from __future__ import annotations

import functools
import gc
import logging
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from bgpcni import locks
from bgpcni.agent import commands, facts
from bgpcni.agent.janitor import Janitor
from bgpcni.agent.server import Server
from bgpcni.agent.signals import Signals
from bgpcni.agent.watch import Watch
from bgpcni.config.agent import AgentConfig, load
from bgpcni.convergence import catalog
from bgpcni.convergence.convergence import Convergence
from bgpcni.dataplane.dataplane import DataPlane
from bgpcni.errors import CniError, TryAgain
from bgpcni.handler import Call, Reply, handle
from bgpcni.kernel.monitor import Monitor
from bgpcni.kernel.namespace import home, home_cookie
from bgpcni.model import Attachment, NodeFacts, State
from bgpcni.node import handover, plan, recovery
from bgpcni.node.handover import Handover
from bgpcni.node.node import LOCK_SECONDS, Node
from bgpcni.store import Store

log = logging.getLogger(__name__)
GARBAGE = 20_000
"""Objects after which Python looks for cycles: a few ADDs' worth, instead of several times in each."""

NEXT_HOP_SECONDS = 10.0
"""Between looks for the addresses of the node, where it lacks a next hop."""


class Agent:
    """Owns the locks, the store, the node and its threads."""

    def __init__(self, config_path: Path, socket_path: Path, metrics: str | None = None) -> None:
        self._config_path = config_path
        self._socket_path = socket_path
        self._metrics = metrics
        self._changing = threading.Lock()
        self._next_hops_due = time.monotonic() + NEXT_HOP_SECONDS
        self._announced: Callable[[str, float], None] = lambda exporter, seconds: None
        self._dataplane: DataPlane
        self.node: Node
        self.janitor: Janitor

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises CniError when the agent cannot start."""
        config = load(self._config_path)
        home(), home_cookie()
        store = Store(Path(config.data_dir), Path(config.run_dir))
        catalog.cache_in(store.run_path)
        catalog.refuse_rivals(plan.configured(config))
        writers = locks.WriterLocks(store.run_fd, store.data_fd)
        try:
            writers.as_agent()
        except locks.Busy:
            held = f"{locks.WriterLocks.AGENT} in {store.run_path} or in {store.path}"
            raise TryAgain(f"another agent holds {held}") from None
        store.sweep()
        store.recycle()
        signals = Signals(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

        self._build(store, config)
        monitor = Monitor(self.janitor.link_gone, self.janitor.namespace_changed, self.janitor.look_at_all)
        server = Server(self._measured(), self.command)
        server.listen(self._socket_path)
        watch = Watch({
            "run-dir": functools.partial(_keep_run_dir, store, writers, server),
            "local-address": self._keep_local_address,
        })  # fmt: skip
        self.node.watched = watch.problems
        watch.look()
        begun = self._restore()
        self.node.claims.load()
        gc.freeze()  # what is here stays: no collection has to look at it again
        gc.set_threshold(GARBAGE)
        self._dataplane.start()
        self.node.convergence.start()
        self._thread("monitor", monitor.run)
        self._thread("janitor", self.janitor.run)
        server.serve()
        self._thread("watch", watch.run)
        self.janitor.later(0, self._handover.begin)
        for attachment in begun:
            self.janitor.later(0, functools.partial(self._undo, attachment))
        log.info("serving on %s", self._socket_path)
        for number in signals:
            if number != signal.SIGHUP:
                break
            self._thread("reload", self._hangup)
        log.info("ending; routes stay announced")
        watch.stop()
        server.close()
        monitor.stop()
        self.janitor.stop()
        self.node.convergence.stop()
        self._dataplane.stop()
        writers.release()

    def _build(self, store: Store, config: AgentConfig) -> None:
        known = facts.resolve(config)
        self.node = Node(store, config, known, self._convergence(store, known))
        self._dataplane = DataPlane(known, config.policy, lambda families: self.node.convergence.listen(families))
        self.node.dataplane = self._dataplane
        self.janitor = Janitor(self.node)
        self._handover = Handover(self.node, self.janitor.later)
        self.node.outdated = self._handover.outdated

    def _convergence(self, store: Store, known: NodeFacts) -> Convergence:
        return Convergence(
            known,
            resident=True,
            finished=lambda key: self.janitor.finished(key),
            announced=lambda exporter, seconds: self._announced(exporter, seconds),
            spare=store.unreadable,
            heard=lambda name, events: self._dataplane.heard(name, events),
        )

    def _restore(self) -> list[Attachment]:
        """Read the records: what is up is wanted, what was leaving goes on leaving. Returns ADDs cut short."""
        node = self.node
        self._employ()
        found = recovery.look(node)
        self._dataplane.restore(attachment for attachment in found.up if attachment.exporters)
        for attachment in found.up:
            try:
                self._want(attachment)
            except CniError as error:  # one broken attachment never blocks the rest
                log.error("%s: %s", attachment.key, error.msg)
            node.remember(attachment)
        for attachment in found.leaving:
            self.janitor.later(0, functools.partial(self._leave, attachment))
            node.convergence.leave(attachment)
        for attachment in found.orphans:
            self.janitor.orphaned(attachment.key)
        log.info(
            "records: %d up, %d leaving, %d orphans, %d cut short, %d unreadable",
            len(found.up), len(found.leaving), len(found.orphans), len(found.begun), len(found.unreadable),
        )  # fmt: skip
        return found.begun

    def _want(self, attachment: Attachment) -> None:
        """Announce what is up; on a reload a DEL may run, and then it has the last word."""
        node = self.node
        with node.store.locked(attachment.key, LOCK_SECONDS):
            stored = node.store.find(attachment.key)
            if stored is not None and stored.state is State.UP:
                node.convergence.want(stored.attachment or attachment)

    def _employ(self) -> None:
        """Have every exporter that the configuration names at work from the start: sessions come up before ADDs."""
        node = self.node
        for use in plan.configured(node.agent):
            try:
                if not catalog.objection(use, node.facts, f"exporters.{use.name}"):
                    node.convergence.ensure(use)
            except CniError as error:
                log.error("exporter %s: %s", use.name, error.msg)

    def _undo(self, attachment: Attachment) -> None:
        if not recovery.undo_begun(self.node, attachment):
            self.janitor.later(1, lambda: self._undo(attachment))

    def _leave(self, attachment: Attachment) -> None:
        """A record that was leaving in an earlier life: its link goes now; `finished` does the rest."""
        recovery.finish_leaving(self.node, attachment, 0)

    def _keep_local_address(self) -> str:
        """Next hops that come with an address of the node are taken up; what has none is said."""
        node = self.node
        if node.drained:
            return ""
        if time.monotonic() >= self._next_hops_due:
            self._next_hops_due = time.monotonic() + NEXT_HOP_SECONDS
            if facts.hops_to_come(node.netlink, node.agent, node.facts):
                log.info("an address that routes need as their next hop is here now")
                self.reload(again=True)
        return facts.absent(node.netlink, node.facts)

    # ---------------------------------------------------------------- requests

    def _measured(self) -> Callable[[Call], Reply]:
        """`call`, with metrics where somebody wants them (their library costs 10 MB)."""
        if self._metrics is None:
            return self.call
        from bgpcni.agent import metrics

        metrics.serve(self._metrics, lambda: self.node)
        self._announced = metrics.announced
        return metrics.counted(self.call)

    def call(self, call: Call) -> Reply:
        return handle(call, lambda request: self.node)

    def command(self, stdin: bytes) -> Reply:
        return commands.reply(self, stdin)

    def reload(self, *, again: bool = False) -> None:
        """Read agent.toml anew and apply it. Raises CniError, and then nothing has changed.

        `again`: apply what was read before, on a node that has changed.
        """
        with self._changing, self._handover.retiring:
            node = self.node
            # in here: of two reloads the later one must have the later file
            config = node.agent if again else load(self._config_path)
            if node.drained:
                raise TryAgain("this node is drained: restart the agent, which reads its configuration anew")
            if (config.run_dir, config.data_dir) != (node.agent.run_dir, node.agent.data_dir):
                raise TryAgain("run_dir and data_dir cannot change while the agent runs: restart it")
            old = node.convergence
            facts.refuse_passwords(config)
            known = facts.resolve(config)
            handover.refuse(node, config, known)
            if known == node.facts and not _redefined(node.agent, config):
                node.agent = config
                self._dataplane.configure(known, config.policy)
                self._employ()
                self.janitor.later(0, self._handover.begin)
                return
            fresh = self._convergence(node.store, known)
            old.stop()
            node.agent, node.facts, node.convergence = config, known, fresh
            self._dataplane.configure(known, config.policy)
            self._restore()
            self._dataplane.relisten()
            fresh.start()
            self.janitor.later(0, self._handover.begin)

    def drain(self, seconds: float) -> list[str]:
        """Withdraw everything and end the speakers that are ours; the exporters that did not make it."""
        return self.node.convergence.drain(seconds)

    def _hangup(self) -> None:
        try:
            self.reload()
            log.info("configuration reloaded")
        except CniError as error:
            log.error("reload refused, nothing changed: %s", error.msg)

    def _thread(self, name: str, target: Callable[[], None]) -> None:
        threading.Thread(target=target, name=name, daemon=True).start()


def _keep_run_dir(store: Store, writers: locks.WriterLocks, server: Server) -> str:
    """What somebody removed from run_dir is made again: the folders first, then the locks, then the way in."""
    made = ["folders"] if store.renew() else []
    try:
        made += writers.renew()
    except locks.Busy:
        return f"a lock of {store.run_path} was removed, and another process has the new one"
    made += ["socket"] if server.renew() else []
    if made:
        log.warning("%s: somebody removed the agent's files; made again: %s", store.run_path, ", ".join(made))
    return ""


def _redefined(old: AgentConfig, new: AgentConfig) -> bool:
    """Whether an exporter of the same name is another one now, or configured otherwise."""
    return any(new.exporters[name] != table for name, table in old.exporters.items() if name in new.exporters)
