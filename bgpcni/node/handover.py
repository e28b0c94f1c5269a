"""Exporters that come or go by a changed agent.toml while containers run: the new ones announce, then the old withdraw.

What an attachment should be announced through follows from the configuration, what it is from its record; the record
names both while it is handed over, so an agent that is killed meanwhile goes on where it was. An old
exporter withdraws only when every exporter that stays or comes has announced: a neighbour of both never misses a
route. Withdrawals are confirmed as those of a DEL are.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

from bgpcni.config.agent import AgentConfig
from bgpcni.convergence import catalog
from bgpcni.convergence.derive import derive
from bgpcni.errors import CniError, InvalidConfiguration, TryAgain
from bgpcni.model import Attachment, AttachmentKey, ExporterUse, NodeFacts, State
from bgpcni.node import plan
from bgpcni.node.node import Node

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.1
PAUSE_SECONDS = 1.0
"""Between the last announcement and the first withdrawal: what was sent by another speaker has to be read first."""

Later = Callable[[float, Callable[[], None]], None]


def refuse(node: Node, config: AgentConfig, facts: NodeFacts) -> None:
    """Raises InvalidConfiguration for a configuration whose exporters cannot take over what is announced now."""
    for use in plan.configured(config):
        catalog.configure(use, f"exporters.{use.name}")
    for attachment in _up(node):
        added = _added(attachment, _target(attachment, config))
        if not added:
            continue
        families = {route.nlri.family for route in derive(attachment, facts)}
        for use in added:
            if reason := catalog.objection(use, facts, f"exporters.{use.name}"):
                raise InvalidConfiguration(f"exporters: {use.name}: {reason}")
            if unknown := families - catalog.load(use.type).families:
                raise InvalidConfiguration(
                    f"exporters: {use.name} cannot announce {', '.join(sorted(unknown))}, which {attachment.key} has"
                )


class Handover:
    """One agent's. `later` runs a job after some seconds, in one thread."""

    def __init__(self, node: Node, later: Later) -> None:
        self._node = node
        self._later = later
        self._under_way: set[AttachmentKey] = set()
        self._announced: dict[AttachmentKey, float] = {}
        self._left: dict[AttachmentKey, list[ExporterUse]] = {}
        self._convergence = node.convergence

    def begin(self) -> None:
        """The configuration changed, or was read: see which attachments it concerns. In the thread of the jobs."""
        node = self._node
        for attachment in _up(node):
            if attachment.exporters != _target(attachment, node.agent) and attachment.key not in self._under_way:
                self._under_way.add(attachment.key)
                self._go_on(attachment.key)
        if not self._under_way:
            self._retire()

    def _go_on(self, key: AttachmentKey) -> None:
        try:
            with self._node.store.locked(key, 0):
                done = self._step(key)
        except TryAgain:
            done = False  # a call holds the lock
        except CniError as error:
            log.error("%s: stays with the exporters it has: %s", key, error.msg)
            done = True
        if not done:
            self._later(LOOK_SECONDS, lambda: self._go_on(key))
            return
        self._under_way.discard(key)
        self._announced.pop(key, None)
        self._left.pop(key, None)
        if not self._under_way:
            self._retire()

    def _step(self, key: AttachmentKey) -> bool:
        """One step with one attachment, whose lock is held; True when there is nothing left to do."""
        node = self._node
        if self._convergence is not node.convergence:  # another one, by a reload: it was told of every record
            self._convergence = node.convergence
            self._announced.clear()
            self._left.clear()
        stored = node.store.find(key)
        if stored is None or stored.attachment is None or stored.state is not State.UP:
            return True
        attachment = stored.attachment
        target = _target(attachment, node.agent)
        left = self._left.setdefault(key, [])
        added = _added(attachment, target) + [use for use in left if use in target]
        if added:
            left.clear()
            self._announced.pop(key, None)
            both = (*attachment.exporters, *_added(attachment, target))
            attachment = attachment.model_copy(update={"exporters": both})
            node.refuse_unannounceable(attachment)
            node.store.put(State.UP, attachment)
            node.convergence.want(attachment)
            log.info("%s: announced through %s from now on", key, ", ".join(use.name for use in added))
            return False
        if not node.convergence.announced(attachment, target):
            self._announced.pop(key, None)
            return False
        since = self._announced.setdefault(key, time.monotonic())
        going = [use for use in attachment.exporters if use not in target]
        if target and going and time.monotonic() - since < PAUSE_SECONDS:
            return False
        for use in going:
            if use not in left:
                left.append(use)
                node.convergence.leave_one(attachment, use)
        if any(node.convergence.is_leaving_one(key, use) for use in going):
            return False
        node.store.put(State.UP, attachment.model_copy(update={"exporters": target}))
        if going:
            log.info("%s: withdrawn through %s", key, ", ".join(use.name for use in going))
        return True

    def _retire(self) -> None:
        """Let go of the exporters that neither the configuration nor a record names."""
        node = self._node

        def needed() -> list[ExporterUse]:
            found = [use for stored in node.store.all() if stored.attachment for use in stored.attachment.exporters]
            return [*plan.configured(node.agent), *found]

        for name in node.convergence.retire(needed):
            log.info("exporter %s is not used any more", name)


def _up(node: Node) -> Iterator[Attachment]:
    for stored in node.store.all():
        attachment = stored.attachment
        if attachment is not None and stored.state is State.UP and attachment.boot_id == node.boot_id:
            yield attachment


def _target(attachment: Attachment, config: AgentConfig) -> tuple[ExporterUse, ...]:
    return plan.exporters_now(attachment.network, attachment.asked, config, resident=True)


def _added(attachment: Attachment, target: tuple[ExporterUse, ...]) -> list[ExporterUse]:
    return [use for use in target if use not in attachment.exporters]
