"""What happens without a call: confirmed withdrawals are completed, orphans noticed and released."""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable
from itertools import count

from bgpcni.errors import CniError, TryAgain
from bgpcni.model import AttachmentKey, State
from bgpcni.node import interface, recovery
from bgpcni.node.node import Node

log = logging.getLogger(__name__)
_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 1.0, 30.0


class Janitor:
    """One thread and a list of things to do, some of them later. Every job takes the attachment's lock itself."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._jobs: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._wake = threading.Condition()
        self._stopping = False

    def run(self) -> None:
        """Until `stop`; for a thread of its own."""
        while True:
            with self._wake:
                while not self._stopping and (not self._jobs or self._jobs[0][0] > time.monotonic()):
                    self._wake.wait(self._jobs[0][0] - time.monotonic() if self._jobs else None)
                if self._stopping:
                    return
                _, _, job = heapq.heappop(self._jobs)
            try:
                job()
            except Exception:  # one broken attachment never blocks the rest
                log.exception("a job of the janitor failed")

    def stop(self) -> None:
        with self._wake:
            self._stopping = True
            self._wake.notify()

    def later(self, seconds: float, job: Callable[[], None]) -> None:
        with self._wake:
            heapq.heappush(self._jobs, (time.monotonic() + seconds, next(self._order), job))
            self._wake.notify()

    # ---------------------------------------------------------------- events, from any thread

    def finished(self, key: AttachmentKey) -> None:
        """Every exporter confirmed the withdrawal of `key`."""
        self.later(0, lambda: self._finish(key))

    def postponed(self, key: AttachmentKey) -> None:
        """It is to go, but the disk did not let it, or did not even let its record say so."""
        self.later(_RETRY_SECONDS, lambda: self._finish(key, insisting=True))

    def link_gone(self, index: int) -> None:
        """A link of this node was deleted; only those of attachments that are up, and VXLAN devices, concern us."""
        if self._node.dataplane is not None:
            self._node.dataplane.link_gone(index)
        key = self._node.by_link.get(index)
        if key is not None:
            self.orphaned(key)

    def namespace_changed(self, nsid: int) -> None:
        """A namespace is gone, or a link in it; only those of attachments without a root-side link concern us."""
        for key in [key for key, known in list(self._node.namespaces.items()) if known == nsid]:
            self.orphaned(key)

    def orphaned(self, key: AttachmentKey) -> None:
        """The link of an attachment may have gone without a DEL."""
        self.later(0, lambda: self._orphan(key))

    def look_at_all(self) -> None:
        """Events were lost: compare every attachment with the kernel."""
        self.later(0, self._compare)

    # ---------------------------------------------------------------- jobs

    def _finish(self, key: AttachmentKey, *, insisting: bool = False, pause: float | None = None) -> None:
        """Addresses and record go, of one whose record is leaving; `insisting`: whatever it is, unless it was added
        again."""
        node, pause = self._node, pause or _RETRY_SECONDS
        longer = min(2 * pause, _LONGEST_RETRY_SECONDS)

        def again() -> None:
            self._finish(key, insisting=insisting, pause=longer)

        try:
            with node.store.locked(key, 0):
                stored = node.store.find(key)
                if stored is None or stored.attachment is None:
                    return
                if stored.state is not State.LEAVING and not insisting:
                    return
                if stored.state is State.UP and not interface.vanished(node.netlink, stored.attachment):
                    return
                if node.convergence.is_leaving(key):
                    if insisting:
                        self.later(pause, again)
                    return
                interface.remove(node.netlink, node.reaper, stored.attachment)
                node.finish(stored.attachment)
                log.info("%s: withdrawal confirmed, addresses released", key)
        except TryAgain:
            self.later(_RETRY_SECONDS, again)  # a call holds the lock and may do it itself
        except (CniError, OSError) as error:  # the disk, or the kernel: the address must not be lost over it
            log.warning("%s: %s; trying again in %g s", key, error, pause)
            self.later(pause, again)

    def _orphan(self, key: AttachmentKey) -> None:
        """Its link went without a DEL: the route goes at once, addresses and record after the grace."""
        node, grace = self._node, self._node.agent.orphan_grace
        try:
            with node.store.locked(key, 0):
                stored = node.store.find(key)
                if stored is None or stored.attachment is None or stored.state is not State.UP:
                    return
                attachment = stored.attachment
                if not interface.vanished(node.netlink, attachment):
                    return
                node.forget(attachment)
                log.warning("%s: its link is gone without a DEL; route withdrawn, released in %g s", key, grace)
                node.convergence.leave(attachment)
                node.disconnect(attachment)
        except (TryAgain, OSError):
            self.later(_RETRY_SECONDS / 10, lambda: self._orphan(key))
            return
        self.later(grace, lambda: self._release_orphan(key))

    def _release_orphan(self, key: AttachmentKey) -> None:
        node = self._node
        try:
            with node.store.locked(key, 0):
                stored = node.store.find(key)
                if (
                    stored is not None
                    and stored.attachment is not None
                    and stored.state is State.UP
                    and interface.vanished(node.netlink, stored.attachment)
                ):
                    node.dismantle(stored.attachment, time.monotonic())
                    log.info("%s: released after the grace period", key)
        except (CniError, OSError) as error:
            log.warning("%s: %s; trying again", key, error)
            self.later(_RETRY_SECONDS, lambda: self._release_orphan(key))

    def _compare(self) -> None:
        for attachment in recovery.look(self._node).orphans:
            self._orphan(attachment.key)
