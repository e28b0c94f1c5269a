"""Exporters that come or go by a changed agent.toml while containers run: the new ones announce, then the old withdraw.

What an attachment should be announced through follows from the configuration, what it is from its record; the record
names both while it is handed over, so an agent that is killed meanwhile goes on where it was. An old
exporter withdraws only when every exporter that stays or comes has announced: a neighbour of both never misses a
route. Until then nothing changes, however long it takes; `waits_for` says what for.

Withdrawals are confirmed as those of a DEL are; one that an exporter owes which the configuration does not name any
more, and which cannot come now, counts as confirmed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from bgpcni.config.agent import AgentConfig
from bgpcni.convergence import catalog
from bgpcni.convergence.derive import derive, left_out
from bgpcni.errors import CniError, InvalidConfiguration, TryAgain
from bgpcni.model import Attachment, AttachmentKey, ExporterUse, NodeFacts, State
from bgpcni.node import interface, plan
from bgpcni.node.node import Node
from bgpcni.store import Stored

log = logging.getLogger(__name__)

LOOK_SECONDS, LONGEST_LOOK = 0.1, 5.0
"""Between two looks at one attachment; the longer it has waited, the longer: many may wait for one exporter."""
PAUSE_SECONDS = 1.0
"""Between the last announcement and the first withdrawal: what was sent by another speaker has to be read first."""
VAIN_SECONDS = 5.0
"""For so long an exporter that was removed may be unreachable before what it owes is given up."""
REST_SECONDS = 1.0
"""From the end of a hand-over until it is looked which exporters nobody needs: once for many attachments."""

Later = Callable[[float, Callable[[], None]], None]


def refuse(node: Node, config: AgentConfig, facts: NodeFacts) -> None:
    """Raises InvalidConfiguration for a configuration whose exporters cannot take over what is announced now."""
    for use in plan.configured(config):
        catalog.configure(use, f"exporters.{use.name}")
    recorded = [use for stored in node.store.all() if stored.attachment for use in stored.attachment.exporters]
    catalog.refuse_rivals([*recorded, *plan.configured(config)])
    for attachment in _up(node):
        target = _target(attachment, config)
        added = _added(attachment, target)
        _refuse_data_path(attachment, target)
        families = _families(node, attachment, facts) if target and (added or facts != node.facts) else set()
        for use in target:
            if use not in added and not _is_new_objection(node, use, facts):
                continue
            if reason := catalog.objection(use, facts, f"exporters.{use.name}"):
                raise InvalidConfiguration(f"exporters: {use.name}: {reason}, and it is to announce {attachment.key}")
            if unknown := families - catalog.load(use.type).families:
                raise InvalidConfiguration(
                    f"exporters: {use.name} cannot announce {', '.join(sorted(unknown))}, which {attachment.key} has"
                )


def _refuse_data_path(attachment: Attachment, target: tuple[ExporterUse, ...]) -> None:
    """Raises InvalidConfiguration where a VXLAN would have two owners, or nobody who learns what is behind it."""
    if attachment.bgp.family != "evpn" or not target or attachment.exporters == target:
        return
    imports = {use.name: catalog.load(use.type).imports for use in target}
    owners = [name for name, kind in imports.items() if kind == "datapath"]
    if owners and attachment.bgp.forwarder == "agent":
        raise InvalidConfiguration(
            f"exporters: {owners[0]} has a VXLAN of its own, and {attachment.key} is in the agent's: it cannot change"
        )
    if not owners and attachment.bgp.forwarder == "exporter":
        raise InvalidConfiguration(
            f"exporters: none of {', '.join(imports)} has a VXLAN of its own, in which {attachment.key} is"
        )
    if attachment.bgp.forwarder == "agent" and "routes" not in imports.values():
        raise InvalidConfiguration(
            f"exporters: none of {', '.join(imports)} learns routes, which {attachment.key} needs"
        )


def _families(node: Node, attachment: Attachment, facts: NodeFacts) -> set[str]:
    """Of what is to be announced. Raises InvalidConfiguration for what can be announced now and could not then."""
    without = {route.nlri for route, _ in left_out(attachment, node.facts)}
    for route, reason in left_out(attachment, facts):
        if route.nlri not in without:
            raise InvalidConfiguration(f"{attachment.key}: {reason}")
    try:
        return {route.nlri.family for route in derive(attachment, facts)}
    except CniError:
        return set()  # no worse than it is


def _is_new_objection(node: Node, use: ExporterUse, facts: NodeFacts) -> bool:
    """Whether an exporter that is at work could not be any more; one that is broken anyhow stands in nobody's way."""
    try:
        return bool(
            catalog.objection(use, facts, f"exporters.{use.name}")
            and not catalog.objection(use, node.facts, f"exporters.{use.name}")
        )
    except CniError:
        return False


def waits_for(node: Node, attachment: Attachment) -> str:
    """What the hand-over of an attachment that is up waits for, "" if its exporters are what they should be."""
    target = _target(attachment, node.agent)
    if attachment.exporters == target:
        return ""
    going = [use for use in attachment.exporters if use not in target]
    for use in target:
        if reason := node.convergence.unannounced(attachment, use):
            kept = f"; {_names(going)} goes on announcing" if going else ""
            return f"{use.name} has not announced: {reason}{kept}"
    return f"{_names(going)} withdraws" if going else "the record is to be written"


@dataclass(slots=True)
class _Passage:
    """One attachment on its way to other exporters. `left`: those that were told to withdraw it.

    Times are of time.monotonic(). `turn`: which of the looks that were asked for counts.
    """

    since: float = 0.0
    turn: int = 0
    announced: float | None = None
    vain: float | None = None
    left: list[ExporterUse] = field(default_factory=list)
    trouble: str = ""

    def pause(self) -> float:
        return min(LONGEST_LOOK, max(LOOK_SECONDS, (time.monotonic() - self.since) / 8))

    def got_further(self) -> None:
        self.since = time.monotonic()
        self.announced = self.vain = None


class Handover:
    """One agent's. `later` runs a job after some seconds, in one thread."""

    def __init__(self, node: Node, later: Later) -> None:
        self._node = node
        self._later = later
        self._under_way: dict[AttachmentKey, _Passage] = {}
        self._convergence = node.convergence
        self.retiring = threading.Lock()
        """Held while exporters that nobody needs are let go of: no others are put in their place meanwhile."""
        self._to_retire = False

    def begin(self) -> None:
        """The configuration changed, or was read: see which attachments it concerns. In the thread of the jobs."""
        for stored in self._node.store.all():
            self._consider(stored)
        self._retire_soon()

    def outdated(self, key: AttachmentKey) -> None:
        """An ADD was planned by a configuration that was replaced meanwhile. From any thread."""
        self._later(0, lambda: self._consider(self._node.store.find(key)))

    def _consider(self, stored: Stored | None) -> None:
        attachment = stored.attachment if stored is not None else None
        if stored is None or attachment is None:
            return
        if attachment.key in self._under_way or self._concerns(stored, attachment):
            passage = self._under_way.setdefault(attachment.key, _Passage())
            passage.got_further()
            self._look(attachment.key, passage, 0)

    def _concerns(self, stored: Stored, attachment: Attachment) -> bool:
        if self._is_up(stored, attachment):
            return attachment.exporters != _target(attachment, self._node.agent)
        return stored.state is not State.ADDING and bool(self._removed(attachment))

    def _is_up(self, stored: Stored, attachment: Attachment) -> bool:
        return stored.state is State.UP and attachment.boot_id == self._node.boot_id

    def _removed(self, attachment: Attachment) -> list[ExporterUse]:
        """The exporters of an attachment that no configuration names any more."""
        named = (*_target(attachment, self._node.agent), *plan.configured(self._node.agent))
        return [use for use in attachment.exporters if use not in named]

    def _look(self, key: AttachmentKey, passage: _Passage, seconds: float) -> None:
        passage.turn += 1
        turn = passage.turn
        self._later(seconds, lambda: self._go_on(key, passage, turn))

    def _go_on(self, key: AttachmentKey, passage: _Passage, turn: int) -> None:
        if turn != passage.turn:
            return
        try:
            with self._node.store.locked(key, 0):
                done = self._step(key, passage)
            passage.trouble = ""
        except TryAgain:
            done = False  # a call holds the lock
        except (CniError, OSError) as error:
            if passage.trouble != str(error):
                log.error("%s: stays with the exporters it has: %s", key, error)
            passage.trouble, done = str(error), False
        if not done:
            self._look(key, passage, passage.pause())
            return
        del self._under_way[key]
        self._retire_soon()

    def _step(self, key: AttachmentKey, passage: _Passage) -> bool:
        """One step with one attachment, whose lock is held; True when there is nothing left to do."""
        node = self._node
        if self._convergence is not node.convergence:  # another one, by a reload: it was told of every record
            self._convergence = node.convergence
            for one in self._under_way.values():
                one.got_further()
                one.left.clear()
        stored = node.store.find(key)
        if stored is None or node.drained:
            return True
        attachment = stored.attachment
        if attachment is None:
            return False  # unreadable: until its DEL
        if not self._is_up(stored, attachment):
            return self._excused(attachment, self._removed(attachment), passage)
        if interface.vanished(node.netlink, attachment):
            return False  # until it is released: it is not announced again
        target = _target(attachment, node.agent)
        back = [use for use in passage.left if use in target]
        if added := _added(attachment, target):
            self._add(attachment, added)
        for use in back:
            passage.left.remove(use)
            node.convergence.want_one(attachment, use)
        if added or back:
            passage.got_further()
            return False
        if any(node.convergence.unannounced(attachment, use) for use in target):
            passage.announced = None
            return False
        passage.announced = passage.announced or time.monotonic()
        going = [use for use in attachment.exporters if use not in target]
        if target and going and time.monotonic() - passage.announced < PAUSE_SECONDS:
            return False
        for use in going:
            if use not in passage.left:
                passage.left.append(use)
                passage.since = time.monotonic()
                node.convergence.leave_one(attachment, use)
        removed = self._removed(attachment)
        if any(use not in removed and node.convergence.is_leaving_one(key, use) for use in going):
            return False
        if not self._excused(attachment, [use for use in going if use in removed], passage):
            return False
        node.store.put(State.UP, attachment.model_copy(update={"exporters": target}))
        if going:
            log.info("%s: not announced through %s any more", key, _names(going))
        return True

    def _add(self, attachment: Attachment, added: list[ExporterUse]) -> None:
        """The record first, then the routes."""
        node = self._node
        attachment = attachment.model_copy(update={"exporters": (*attachment.exporters, *added)})
        node.refuse_unannounceable(attachment)
        for use in added:
            node.convergence.ensure(use)
        node.store.put(State.UP, attachment)
        for use in added:
            node.convergence.want_one(attachment, use, fresh=True)
        log.info("%s: announced through %s from now on", attachment.key, _names(added))

    def _excused(self, attachment: Attachment, removed: list[ExporterUse], passage: _Passage) -> bool:
        """Whether none of these exporters, which were removed, has anything to confirm any more."""
        node, key = self._node, attachment.key
        owing = [use for use in removed if node.convergence.is_leaving_one(key, use)]
        if not owing:
            return True
        if not all(node.convergence.is_vain(key, use) for use in owing):
            passage.vain = None
            return False
        passage.vain = passage.vain or time.monotonic()
        if time.monotonic() - passage.vain < VAIN_SECONDS:
            return False
        for use in owing:
            log.warning("%s: %s was removed, its withdrawal is not waited for any longer", key, use.name)
            node.convergence.excuse(key, use)
        return True

    # ---------------------------------------------------------------- exporters that nobody needs

    def _retire_soon(self) -> None:
        """Not in the thread of the jobs: a speaker takes its time to end."""
        if not self._to_retire:
            self._to_retire = True
            self._later(REST_SECONDS, threading.Thread(target=self._retire, name="retire", daemon=True).start)

    def _retire(self) -> None:
        """Let go of the exporters that neither the configuration nor a record names."""
        node = self._node
        with self.retiring:
            self._to_retire = False
            for name in node.convergence.retire(lambda: plan.configured(node.agent), self._recorded):
                log.info("exporter %s is not used any more", name)
                if node.dataplane is not None:
                    node.dataplane.retired(name)

    def _recorded(self) -> list[ExporterUse]:
        """Those that some record names, but for what is gone and waits for others."""
        convergence = self._node.convergence
        return [
            use
            for stored in self._node.store.all()
            if stored.attachment is not None
            for use in stored.attachment.exporters
            if stored.state is not State.LEAVING or convergence.is_leaving_one(stored.attachment.key, use)
        ]


def _up(node: Node) -> Iterator[Attachment]:
    for stored in node.store.all():
        attachment = stored.attachment
        if attachment is not None and stored.state is State.UP and attachment.boot_id == node.boot_id:
            yield attachment


def _target(attachment: Attachment, config: AgentConfig) -> tuple[ExporterUse, ...]:
    return plan.exporters_now(attachment.network, attachment.asked, config, resident=True)


def _added(attachment: Attachment, target: tuple[ExporterUse, ...]) -> list[ExporterUse]:
    return [use for use in target if use not in attachment.exporters]


def _names(uses: list[ExporterUse]) -> str:
    return ", ".join(use.name for use in uses)
