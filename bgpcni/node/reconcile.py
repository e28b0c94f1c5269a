"""One reconciler for each attachment: looks, asks `next_step`, does it, until there is nothing to be done now.

`run` is the whole loop; whoever runs it holds the attachment's lock. In the agent the worker runs it for every nudge,
and DEL, GC and a failed ADD run it themselves, as everything does in a call without an agent. `tear_down` is the one
way in which an attachment ends.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from bgpcni import clock
from bgpcni.convergence.ledger import Standing
from bgpcni.errors import AlreadyAttached, CniError, IoFailure
from bgpcni.model import Attachment, AttachmentKey, ExporterUse, State
from bgpcni.node import boots, interface, plan, unrecorded
from bgpcni.node.next_step import (
    Announce,
    AtExporter,
    Done,
    Excuse,
    Leave,
    Link,
    Record,
    Release,
    Step,
    TearDown,
    View,
    Wait,
    Withdraw,
    next_step,
)
from bgpcni.node.node import CONFIRM_SECONDS, Node, owing
from bgpcni.node.seen import Seen
from bgpcni.store import Stored

log = logging.getLogger(__name__)
RETRY_SECONDS = 1.0
_MOST_STEPS = 64
"""In one run; more is a defect of ours, and must not become a loop without an end."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What `tear_down` came to. `released`: nothing is left of it; else its addresses are held. `had_link`: its link
    was there."""

    released: bool
    had_link: bool


@dataclass(slots=True)
class _Subject:
    """The attachment that is worked on, and where its record is. `renamed`: the record calls its exporters as an
    earlier agent.toml did. `begun`: its ADD never answered."""

    key: AttachmentKey
    state: State | None
    attachment: Attachment
    renamed: bool
    begun: bool = False


def run(node: Node, key: AttachmentKey, stored: Stored | None = None, *, tell_only: bool = False) -> Wait | Done:
    """Take every step that can be taken now, and say what the attachment waits for. Its lock is held by the caller.

    `stored`: its record, where the caller has just read it. `tell_only`: tell the exporters, and no more (an agent
    that starts has to, before anything can be pruned). A record that cannot be read is left to its DEL. Raises
    CniError and OSError; what was done until then stays done, and the next run goes on from there.
    """
    stored = stored or node.store.find(key)
    outcome: Wait | Done = Done()
    if stored is None:
        node.claims.drop(key)  # of an ADD whose record could not be written, and that could not be taken back
    if stored is None or stored.attachment is None:
        node.seen.pop(key, None)
    else:
        outcome = _run(node, key, stored.state, stored.attachment, tell_only=tell_only)
    node.convergence.told(key)
    return outcome


def _run(node: Node, key: AttachmentKey, state: State, recorded: Attachment, *, tell_only: bool) -> Wait | Done:
    attachment = node.by_names_of_now(recorded)
    subject = _Subject(key, state, attachment, renamed=attachment is not recorded)
    seen = node.seen.setdefault(key, Seen())
    for _ in range(_MOST_STEPS):
        view = _look(node, subject, seen)
        step = next_step(view)
        if isinstance(step, (Wait, Done)):
            seen.trouble, seen.pause = "", 0.0
            if isinstance(step, Done):
                seen.waits = None
            if subject.state is None or seen == Seen():
                node.seen.pop(key, None)
            return step
        if tell_only and not isinstance(step, (Announce, Withdraw)):
            return Wait(0.0)
        _take(node, subject, seen, view, step)
    raise RuntimeError(f"{key}: no end after {_MOST_STEPS} steps")


def tear_down(
    node: Node,
    attachment: Attachment,
    *,
    told: bool = True,
    seconds: float = CONFIRM_SECONDS,
    warnings: list[str] | None = None,
) -> Ended:
    """End an attachment, from whatever state it is in. Its lock is held by the caller.

    `told` False: no exporter was ever told of it. Where its addresses are held a peer may still route to it. It waits
    `seconds` at most for the withdrawals to be in the sockets, and not at all where no session is up. Where the disk
    does not let record or addresses go, `warnings` has why and it is tried again by itself; IoFailure is raised only
    where nobody could tell later that it was to go. Raises CniError and OSError; the next run goes on from there.
    """
    key = attachment.key
    deadline = clock.monotonic() + seconds
    with node.nudges.attended(key):
        seen = node.seen.setdefault(key, Seen())
        seen.leaving, seen.torn_down, seen.had_link = True, False, False
        if not told:
            attachment = attachment.model_copy(update={"exporters": ()})
        marked = _leave(node, attachment, told=told)
        # a record that is up tells by its link that is gone; behind another plugin the link is not ours to remove
        evident = marked or not attachment.chained
        record = Stored(State.LEAVING, key.network, key.digest, attachment)
        try:
            outcome = run(node, key, record)
            if isinstance(outcome, Wait) and node.convergence.wait_sent(key, deadline):
                outcome = run(node, key, record)
        except IoFailure as error:
            if not evident or not seen.torn_down:
                raise
            if warnings is not None:
                warnings.append(f"routes and link are gone; the rest goes when the disk can be written: {error.msg}")
            outcome = Wait(RETRY_SECONDS)
        if isinstance(outcome, Done):
            node.nudges.settled(key)
        elif not evident:
            raise IoFailure(f"{key}: its record cannot be moved: {node.store.unwritable() or 'the disk refuses'}")
        elif outcome.seconds is not None:
            node.nudges.nudge(key, outcome.seconds)
    return Ended(isinstance(outcome, Done), seen.had_link)


def give_up(node: Node, attachment: Attachment) -> None:
    """End an attachment without waiting for any confirmation: the operator's `release --force`."""
    if not tear_down(node, attachment, seconds=0.0).released:
        for use in attachment.exporters:
            node.convergence.excuse(attachment.key, use)
        run(node, attachment.key)


def clear_the_way(node: Node, key: AttachmentKey) -> Attachment | None:
    """Before an ADD: an attachment that is up is error 100; what a kill or an earlier DEL left is finished.

    Returns the earlier attachment where its withdrawal is not confirmed: its addresses may be had again by this
    container alone. The attachment's lock is held by the caller.
    """
    stored = node.store.find(key)
    if stored is None:
        return None
    if stored.attachment is None:
        raise IoFailure(f"{stored.problem}; DEL removes it")
    attachment = stored.attachment
    if stored.state is State.UP and boots.lives(node, attachment):
        raise AlreadyAttached(f"{key} is attached already, since {attachment.since}")
    return None if tear_down(node, attachment, told=stored.told).released else attachment


def begin(node: Node, attachment: Attachment, held: Attachment | None) -> None:
    """Write the record of an ADD. What the container had before, and is not withdrawn yet, stays in it."""
    node.seen.pop(attachment.key, None)
    node.store.put(State.ADDING, attachment if held is None else _with(attachment, held))


def take_back(node: Node, attachment: Attachment, held: Attachment | None) -> None:
    """An ADD failed: what there is of it goes, as with a DEL. `held`: as `clear_the_way` gave it."""
    if held is not None:
        attachment = _with(attachment, held)
    told = tuple(
        use for use in attachment.exporters if node.convergence.standing(attachment, use) is not Standing.UNKNOWN
    )
    attachment = attachment.model_copy(update={"exporters": told})
    try:
        tear_down(node, attachment, told=bool(told))
    except BaseException:
        with suppress(CniError):  # its DEL, or the next try, finds it as one that is to go
            node.store.put(State.LEAVING, attachment)
        node.nudges.nudge(attachment.key, RETRY_SECONDS)
        raise


def _with(attachment: Attachment, held: Attachment) -> Attachment:
    """The attachment, with what an earlier one of the same container still owes."""
    update: dict[str, object] = {"since": attachment.since or held.since}
    if not attachment.addresses:
        update |= {"addresses": held.addresses, "ipam": held.ipam, "mac": attachment.mac or held.mac}
    return owing(attachment, held).model_copy(update=update)


def settle(node: Node, key: AttachmentKey, seconds: float = 0.0) -> Wait | Done:
    """`run`, with the lock taken. Raises TryAgain where somebody else has the attachment, and CniError, OSError."""
    with node.store.locked(key, seconds):
        return run(node, key)


def concerned(node: Node) -> Iterator[AttachmentKey]:
    """The attachments that are not as they should be by their records and the configuration alone."""
    for stored in node.store.all():
        attachment = stored.attachment
        if attachment is None:
            continue
        if (
            stored.state is not State.UP
            or attachment.boot_id != node.boot_id
            or attachment.exporters != target_of(node, attachment)
        ):
            yield attachment.key


def target_of(node: Node, attachment: Attachment) -> tuple[ExporterUse, ...]:
    """Through whom it is to be announced by the configuration of now. A call without an agent changes nothing."""
    if not node.resident:
        return attachment.exporters
    return plan.exporters_now(attachment.network, attachment.asked, node.agent, resident=True)


# ---------------------------------------------------------------- looking


def _look(node: Node, subject: _Subject, seen: Seen) -> View:
    attachment = subject.attachment
    if subject.state is None:
        return View(None)
    now = clock.monotonic()
    state = State.LEAVING if seen.leaving else subject.state
    this_boot = state is not State.UP or boots.is_of_this_boot(node, attachment)
    link = Link.TORN_DOWN if seen.torn_down else Link.GONE
    if state is State.UP and this_boot:
        if not seen.torn_down:
            node.remember(attachment)  # first: what goes after the look is told
        if not interface.vanished(node.netlink, attachment):
            link = Link.PRESENT
        seen.gone = None if link is Link.PRESENT else seen.gone or now
    exporters = tuple(_exporters(node, attachment, state))
    handing_over = not all(one.wanted for one in exporters)
    all_announced = handing_over and all(
        one.standing is Standing.ANNOUNCED and node.convergence.is_acknowledged(attachment.key, one.use)
        for one in exporters
        if one.wanted
    )
    seen.announced = _since(seen.announced, now, all_announced)
    removed = [one for one in exporters if one.standing is Standing.LEAVING and not one.configured]
    seen.vain = _since(seen.vain, now, bool(removed) and all(one.vain for one in removed))
    seen.waits = seen.waits or now
    return View(
        state=state,
        this_boot=this_boot,
        told=bool(attachment.since),
        renamed=subject.renamed,
        link=link,
        exporters=exporters,
        gone_for=now - (seen.gone or now),
        deleted=link is Link.TORN_DOWN and state is State.UP and unrecorded.deleted_by_another(node, attachment),
        announced_for=None if seen.announced is None else now - seen.announced,
        vain_for=now - (seen.vain or now),
        waited=now - seen.waits,
        grace=node.agent.orphan_grace if node.resident else 0.0,
        linger=attachment.bgp.drain_seconds,
        drained=node.drained,
    )


def _since(before: float | None, now: float, holds: bool) -> float | None:
    return (now if before is None else before) if holds else None


def _exporters(node: Node, attachment: Attachment, state: State) -> Iterator[AtExporter]:
    target = target_of(node, attachment)
    named = (*target, *plan.configured(node.agent))
    wanted = target if state is State.UP else ()
    for use in (*attachment.exporters, *(use for use in wanted if use not in attachment.exporters)):
        standing = node.convergence.standing(attachment, use)
        yield AtExporter(
            use,
            standing,
            recorded=use in attachment.exporters,
            wanted=use in wanted,
            configured=not node.resident or use in named,
            vain=standing is Standing.LEAVING and node.convergence.is_vain(attachment.key, use),
        )


# ---------------------------------------------------------------- doing


def _take(node: Node, subject: _Subject, seen: Seen, view: View, step: Step) -> None:
    attachment, key = subject.attachment, subject.key
    seen.waits = None  # it gets further
    match step:
        case Leave(told):
            seen.leaving = True
            _leave(node, attachment, told=told)
            subject.begun = subject.state is State.ADDING
            subject.state = State.LEAVING
            subject.attachment = attachment if told else attachment.model_copy(update={"exporters": ()})
        case Announce(uses):
            subject.attachment = _announce(node, attachment, uses)
            subject.renamed &= subject.attachment is attachment  # else it was written
        case Withdraw(uses):
            node.convergence.leave(attachment, uses)
        case TearDown(linger):
            if view.state is State.UP:
                left = view.grace - view.gone_for
                log.warning("%s: its link is gone without a DEL; released in %g s", attachment.title, left,
                            extra=attachment.fields)  # fmt: skip
            seen.had_link = _remove(node, attachment, linger)
            seen.torn_down = True
        case Excuse(uses):
            for use in uses:
                log.warning("%s: exporter %s was removed, so nobody waits for its withdrawal any more",
                            attachment.title, use.name, extra={**attachment.fields, "exporter": use.name})  # fmt: skip
                node.convergence.excuse(key, use)
        case Record(uses):
            subject.attachment = attachment.model_copy(update={"exporters": uses})
            node.store.put(State.UP, subject.attachment)
            subject.renamed = False
            for use in attachment.exporters:
                if use not in uses:
                    node.convergence.forget(key, use)
            log.info("%s: announced through %s alone now", attachment.title, _names(uses) or "nobody",
                     extra=attachment.fields)  # fmt: skip
        case Release():
            node.forget(attachment)
            node.addressing.release(attachment)
            node.store.drop(key)
            node.convergence.forget(key)
            subject.state = None
            if subject.begun:
                node.take_bridge_away(attachment)
    if isinstance(step, (Record, Release)) and not all(one.configured for one in view.exporters):
        node.handed_over += 1


def _leave(node: Node, attachment: Attachment, *, told: bool) -> bool:
    """Have the record say that it is leaving; False where the disk refuses: then it goes on from where it is.

    One that nobody was told of is undone by the record of its ADD.
    """
    return not told or node.store.move(attachment, State.LEAVING)


def _announce(node: Node, attachment: Attachment, uses: tuple[ExporterUse, ...]) -> Attachment:
    """What the record names already goes on, whatever the disk says; new: the record first, then the routes."""
    if known := tuple(use for use in uses if use in attachment.exporters):
        node.convergence.want(attachment, known)
    if new := tuple(use for use in uses if use not in attachment.exporters):
        attachment = attachment.model_copy(update={"exporters": (*attachment.exporters, *new)})
        node.refuse_unannounceable(attachment)
        for use in new:
            node.convergence.ensure(use)
        node.store.put(State.UP, attachment)
        log.info("%s: announced through %s from now on", attachment.title, _names(new), extra=attachment.fields)
        node.convergence.want(attachment, new, fresh=True)
    return attachment


def _remove(node: Node, attachment: Attachment, linger: float) -> bool:
    """The link, what was installed for it, and its part of what connects this node with others. Idempotent.

    Returns whether the link was there.
    """
    node.forget(attachment)
    there = linger and not interface.vanished(node.netlink, attachment)  # else there is no traffic to move
    if there and node.convergence.wait_sent(attachment.key, clock.monotonic() + CONFIRM_SECONDS):
        time.sleep(linger)  # the peers move their traffic away before the link goes
    had_link = interface.remove(node.netlink, node.reaper, attachment)
    node.disconnect(attachment)
    return had_link


def _names(uses: tuple[ExporterUse, ...]) -> str:
    return ", ".join(use.name for use in uses)
