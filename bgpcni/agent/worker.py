"""The thread that takes the nudges: when something happens to an attachment outside a call, it reconciles it.

It also lets go of exporters that nobody needs any more, once what a reload began is over.
"""

from __future__ import annotations

import logging
import os
import threading

from bgpcni import attached
from bgpcni.errors import CniError, TryAgain
from bgpcni.model import AttachmentKey, ExporterUse, State
from bgpcni.node import plan, reconcile
from bgpcni.node.next_step import Wait
from bgpcni.node.node import Node
from bgpcni.node.seen import Seen

log = logging.getLogger(__name__)
BUSY_SECONDS = 0.1
"""Seconds until the next try if a call is working on the attachment."""
FIRST_RETRY, LONGEST_RETRY = 1.0, 60.0
"""Seconds until the next try after an error. The tries never end, or the address would be lost."""
REST_SECONDS = 1.0
"""Seconds from the end of a hand-over until exporters that nobody needs are looked for, once for many attachments."""


class Worker:
    """One thread. It holds the lock of the attachment that it works on. A broken attachment harms no other."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._handed_over = node.handed_over
        self._retirement: threading.Timer | None = None
        self.retiring = threading.Lock()
        """Held while unused exporters are let go of, so that nobody puts others in their place at the same time."""

    def run(self) -> None:
        """Runs until the nudges are closed, in a thread of its own."""
        while (key := self._node.nudges.take()) is not None:
            self.look_at(key)
        if (last := self._retirement) is not None:
            last.cancel()

    def look_at(self, key: AttachmentKey) -> None:
        """Reconcile this attachment as far as possible, and nudge it if it has to be looked at again."""
        node, nudges = self._node, self._node.nudges
        try:
            with node.store.locked(key, 0.0):
                seen = node.seen.setdefault(key, Seen())
                outcome = reconcile.run(node, key)
            if seen.gone is not None:
                self._take_down_name(key)
        except TryAgain:  # a call works on the attachment, and may do it itself
            nudges.nudge(key, BUSY_SECONDS)
            return
        except (CniError, OSError) as error:
            nudges.nudge(key, self._note(key, str(error)))
            return
        except Exception as error:  # a defect of ours: one broken attachment never blocks the rest
            log.exception("%s: a defect of bgpcni", key, extra=key.fields)
            nudges.nudge(key, self._note(key, f"{type(error).__name__}: {error}"))
            return
        if isinstance(outcome, Wait) and outcome.seconds is not None:
            nudges.nudge(key, outcome.seconds)
        if self._handed_over != self._node.handed_over:
            self._handed_over = self._node.handed_over
            self.retire_soon()

    def _note(self, key: AttachmentKey, trouble: str) -> float:
        """Say what is wrong, once; how many seconds until the next try."""
        seen = self._node.seen.setdefault(key, Seen())
        if trouble != seen.trouble:
            log.warning("%s: %s; trying again", key, trouble)
        seen.trouble, seen.pause = trouble, min(2 * seen.pause or FIRST_RETRY, LONGEST_RETRY)
        return seen.pause

    def _take_down_name(self, key: AttachmentKey) -> None:
        """Remove the name that `bgpcni attach` gave its namespace. Attach may have kept it in either of two folders."""
        attached.take_down_name({self._node.store.path / "attached", attached.memory_folder(os.environ)}, key)

    # ---------------------------------------------------------------- what the kernel tells, from any thread

    def link_gone(self, index: int) -> None:
        """A link of this node was deleted. Only the links of attachments that are up, and VXLAN devices, matter."""
        node = self._node
        if node.dataplane is not None:
            node.dataplane.link_gone(index)
        key = node.by_link.get(index)
        if key is not None:
            node.nudges.nudge(key)

    def namespace_changed(self, nsid: int) -> None:
        """A namespace, or a link in it, has gone. That matters only for attachments without a root-side link."""
        for key in [key for key, known in list(self._node.namespaces.items()) if known == nsid]:
            self._node.nudges.nudge(key)

    def look_at_all(self) -> None:
        """Events were lost, so every attachment is compared with the kernel."""
        for stored in self._node.store.all():
            if stored.attachment is not None:
                self._node.nudges.nudge(stored.attachment.key)

    # ---------------------------------------------------------------- exporters that nobody needs

    def retire_soon(self) -> None:
        """Let go of unused exporters soon, in another thread: a speaker may take long to end."""
        if (last := self._retirement) is None or not last.is_alive():
            self._retirement = threading.Timer(REST_SECONDS, self._retire)
            self._retirement.daemon = True
            self._retirement.start()

    def _retire(self) -> None:
        """Let go of the exporters that neither the configuration nor a record names."""
        node = self._node
        with self.retiring:
            self._retirement = None  # a hand-over that ends from now on starts the next one
            gone = node.convergence.retire(lambda: plan.configured(node.agent), self._recorded)
            for name in gone:
                log.info("exporter %s is not used any more", name, extra={"exporter": name})
                if node.dataplane is not None:
                    node.dataplane.retired(name)
            if gone:  # one that has the same speaker can be at work from now on
                node.convergence.employ(plan.configured(node.agent))

    def _recorded(self) -> list[ExporterUse]:
        """The exporters that a record names, without those through which everything is withdrawn already."""
        node = self._node
        return [
            use
            for stored in node.store.all()
            if stored.attachment is not None
            for use in stored.attachment.exporters
            if stored.state is not State.LEAVING or node.convergence.is_leaving(stored.attachment, use)
        ]
