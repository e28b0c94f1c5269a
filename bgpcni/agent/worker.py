"""The thread behind the nudges: whatever happens outside of a call, the attachment concerned is reconciled.

It also lets go of exporters that nobody needs any more, once what a reload began is over.
"""

from __future__ import annotations

import logging
import os
import threading

from bgpcni.errors import CniError, TryAgain
from bgpcni.model import AttachmentKey, ExporterUse, State
from bgpcni.node import plan, reconcile
from bgpcni.node.next_step import Wait
from bgpcni.node.node import Node
from bgpcni.node.reconcile import Seen

log = logging.getLogger(__name__)
BUSY_SECONDS = 0.1
"""Until the next try where a call has the attachment."""
FIRST_RETRY, LONGEST_RETRY = 1.0, 60.0
"""After an error of the disk, the kernel, or of ours: the address must not be lost over it."""
REST_SECONDS = 1.0
"""From the end of a hand-over until it is looked which exporters nobody needs: once for many attachments."""


class Worker:
    """One thread. Every attachment is worked on under its lock; one that is broken harms no other."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._handed_over = node.handed_over
        self._retirement: threading.Timer | None = None
        self.retiring = threading.Lock()
        """Held while exporters that nobody needs are let go of: no others are put in their place meanwhile."""

    def run(self) -> None:
        """Until the nudges are closed; for a thread of its own."""
        while (key := self._node.nudges.take()) is not None:
            self.look_at(key)
        if (last := self._retirement) is not None:
            last.cancel()

    def look_at(self, key: AttachmentKey) -> None:
        """Take this attachment as far as it goes, and see to it that it is looked at again if need be."""
        nudges = self._node.nudges
        seen = self._node.seen.setdefault(key, Seen())
        try:
            outcome = reconcile.settle(self._node, key)
            if seen.gone is not None:
                self._take_down_name(key)
        except TryAgain:  # a call has the attachment, and may do it itself
            nudges.nudge(key, BUSY_SECONDS)
            return
        except (CniError, OSError) as error:
            nudges.nudge(key, _note(seen, key, str(error)))
            return
        except Exception as error:  # a defect of ours: one broken attachment never blocks the rest
            log.exception("%s: a defect of bgpcni", key, extra=key.fields)
            nudges.nudge(key, _note(seen, key, f"{type(error).__name__}: {error}"))
            return
        if isinstance(outcome, Wait) and outcome.seconds is not None:
            nudges.nudge(key, outcome.seconds)
        if self._handed_over != self._node.handed_over:
            self._handed_over = self._node.handed_over
            self.retire_soon()

    def _take_down_name(self, key: AttachmentKey) -> None:
        """The name that `bgpcni attach` gave its namespace: in either folder that attach may have kept it in."""
        from bgpcni.operator import attach  # only who attaches by hand pays for it

        attach.take_down_name({self._node.store.path / "attached", attach.memory_folder(os.environ)}, key)

    # ---------------------------------------------------------------- what the kernel tells, from any thread

    def link_gone(self, index: int) -> None:
        """A link of this node was deleted; only those of attachments that are up, and VXLAN devices, concern us."""
        node = self._node
        if node.dataplane is not None:
            node.dataplane.link_gone(index)
        key = node.by_link.get(index)
        if key is not None:
            node.nudges.nudge(key)

    def namespace_changed(self, nsid: int) -> None:
        """A namespace is gone, or a link in it; only those of attachments without a root-side link concern us."""
        for key in [key for key, known in list(self._node.namespaces.items()) if known == nsid]:
            self._node.nudges.nudge(key)

    def look_at_all(self) -> None:
        """Events were lost: every attachment is compared with the kernel."""
        for stored in self._node.store.all():
            if stored.attachment is not None:
                self._node.nudges.nudge(stored.attachment.key)

    # ---------------------------------------------------------------- exporters that nobody needs

    def retire_soon(self) -> None:
        """Not in this thread: a speaker takes its time to end."""
        if (last := self._retirement) is None or not last.is_alive():
            self._retirement = threading.Timer(REST_SECONDS, self._retire)
            self._retirement.daemon = True
            self._retirement.start()

    def _retire(self) -> None:
        """Let go of the exporters that neither the configuration nor a record names."""
        node = self._node
        with self.retiring:
            self._retirement = None  # what is over from here on may be for the next one
            for name in node.convergence.retire(lambda: plan.configured(node.agent), self._recorded):
                log.info("exporter %s is not used any more", name, extra={"exporter": name})
                if node.dataplane is not None:
                    node.dataplane.retired(name)

    def _recorded(self) -> list[ExporterUse]:
        """Those that some record names, but for what is gone and waits for others."""
        node = self._node
        return [
            use
            for stored in node.store.all()
            if stored.attachment is not None
            for use in stored.attachment.exporters
            if stored.state is not State.LEAVING or node.convergence.is_leaving(stored.attachment, use)
        ]


def _note(seen: Seen, key: AttachmentKey, trouble: str) -> float:
    """Say what is wrong, once; how many seconds until the next try."""
    if trouble != seen.trouble:
        log.warning("%s: %s; trying again", key, trouble, extra=key.fields)
    seen.trouble, seen.pause = trouble, min(2 * seen.pause or FIRST_RETRY, LONGEST_RETRY)
    return seen.pause
