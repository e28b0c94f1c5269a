"""The reconciler of an attachment: it looks, asks `next_step`, takes that step, until nothing is left to be done now.

`run` is the whole loop; its caller holds the attachment's lock. In the agent the worker runs it for every nudge. DEL,
GC and a failed ADD run it themselves, and so does everything in a call without an agent. `end` is the only way
in which an attachment ends.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from bgpcni import clock
from bgpcni.config.agent import AgentConfig
from bgpcni.convergence.ledger import Standing
from bgpcni.errors import AlreadyAttached, CniError, IoFailure
from bgpcni.events import Kind
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
    Revise,
    Step,
    TearDown,
    View,
    Wait,
    Withdraw,
    next_step,
)
from bgpcni.node.node import CONFIRM_SECONDS, Node
from bgpcni.node.seen import Seen
from bgpcni.store import Stored

log = logging.getLogger(__name__)
RETRY_SECONDS = 1.0
_MOST_STEPS = 64
"""The most steps of one run. More would be a defect of ours, and must not become an endless loop."""


class Ended(NamedTuple):
    """The outcome of `end`. `released`: nothing is left; otherwise the addresses are held. `had_link`: the link
    was there."""

    released: bool
    had_link: bool


@dataclass(slots=True)
class _Subject:
    """The attachment that a run works on, and the state of its record. `renamed`: the record has exporter names of an
    earlier agent.toml. `begun`: its ADD never answered."""

    key: AttachmentKey
    state: State | None
    attachment: Attachment
    renamed: bool = False
    begun: bool = False


def run(node: Node, key: AttachmentKey, stored: Stored | None = None, *, tell_only: bool = False) -> Wait | Done:
    """Take every step that can be taken now, and return what the attachment waits for. The caller holds its lock.

    `stored`: its record, if the caller has just read it. `tell_only`: only announce and withdraw, as an agent that
    starts must do before anything is pruned. A record that cannot be read is left to its DEL. Raises CniError and
    OSError; what was done until then stays, and the next run continues from there.
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
    subject = _Subject(key, state, recorded)
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


def end(
    node: Node,
    attachment: Attachment,
    *,
    told: bool = True,
    seconds: float = CONFIRM_SECONDS,
    warnings: list[str] | None = None,
) -> Ended:
    """End an attachment, whatever state it is in. The caller holds its lock.

    `told` False: no exporter was ever given its routes. While its addresses are held, a peer may still route to it.
    This waits at most `seconds` until the withdrawals are in the sockets, and not at all if no session is up. If the
    disk refuses to delete leases or record, `warnings` gets the reason and the agent retries. IoFailure is raised only
    if a later run could not know that the attachment has ended. Raises CniError and OSError; the next run continues.
    """
    key = attachment.key
    deadline = clock.monotonic() + seconds
    handed_over = node.handed_over
    with node.nudges.attended(key):
        seen = node.seen.setdefault(key, Seen())
        seen.leaving, seen.torn_down, seen.had_link = True, False, False
        if not told:
            attachment = attachment.model_copy(update={"exporters": ()})
        marked = _leave(node, attachment, told=told)
        # even a record in `up` shows the end: its link is gone; but behind another plugin we do not remove the link
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
                warnings.append(
                    f"routes and link are gone; addresses and record follow when the disk can be written: {error.msg}"
                )
            outcome = Wait(RETRY_SECONDS)
        if isinstance(outcome, Done):
            node.nudges.settled(key)
            if node.handed_over != handed_over:
                node.nudges.nudge(key)  # for the worker: it lets go of exporters that nobody needs any more
        elif not evident:
            raise IoFailure(f"{key}: its record cannot be moved: {node.store.unwritable() or 'the disk refuses'}")
        elif outcome.seconds is not None:
            node.nudges.nudge(key, outcome.seconds)
    return Ended(isinstance(outcome, Done), seen.had_link)


def end_unconfirmed(node: Node, attachment: Attachment) -> None:
    """End an attachment without waiting for any confirmation: the operator's `release --force`."""
    if not end(node, attachment, seconds=0.0).released:
        for use in attachment.exporters:
            node.convergence.excuse(attachment.key, use)
        run(node, attachment.key)


def clear_the_way(node: Node, key: AttachmentKey) -> Attachment | None:
    """Before an ADD: if the attachment is up, raise error 100; end what a kill or an earlier DEL left.

    Returns the earlier attachment if its withdrawal is not confirmed: then only this container may get its addresses
    again. The caller holds the attachment's lock.
    """
    stored = node.store.find(key)
    if stored is None:
        return None
    if stored.attachment is None:
        raise IoFailure(f"{stored.problem}; DEL removes it")
    attachment = stored.attachment
    if stored.state is State.UP and boots.lives(node, attachment):
        raise AlreadyAttached(f"{key} is attached already, since {attachment.since}")
    return None if end(node, attachment, told=stored.told).released else attachment


def begin(node: Node, attachment: Attachment, held: Attachment | None) -> None:
    """Write the record of an ADD. It keeps what an earlier attachment of the container still has to withdraw."""
    node.seen.pop(attachment.key, None)
    node.store.put(State.ADDING, attachment if held is None else _with(node, attachment, held))


def undo_add(node: Node, attachment: Attachment, held: Attachment | None) -> None:
    """An ADD failed: end what it has made, like a DEL. `held`: what `clear_the_way` returned."""
    if held is not None:
        attachment = _with(node, attachment, held)
    told = tuple(
        use for use in attachment.exporters if node.convergence.standing(attachment, use) is not Standing.UNKNOWN
    )
    attachment = attachment.model_copy(update={"exporters": told})
    try:
        end(node, attachment, told=bool(told))
    except BaseException:
        with suppress(CniError):  # its DEL, or the next try, then sees that it has to end
            node.store.put(State.LEAVING, attachment)
        node.nudges.nudge(attachment.key, RETRY_SECONDS)
        raise


def _with(node: Node, attachment: Attachment, held: Attachment) -> Attachment:
    """The attachment, with what an earlier one of the same container still has to withdraw and release."""
    update: dict[str, object] = {"since": attachment.since or held.since}
    if not attachment.addresses:
        update |= {"addresses": held.addresses, "ipam": held.ipam, "mac": attachment.mac or held.mac}
    return node.owing(attachment, held).model_copy(update=update)


def settle(node: Node, key: AttachmentKey, seconds: float = 0.0) -> Wait | Done:
    """Take the lock and `run`. Raises TryAgain if someone else works on the attachment; also CniError and OSError."""
    with node.store.locked(key, seconds):
        return run(node, key)


def concerned(node: Node) -> Iterator[AttachmentKey]:
    """The attachments that, judged by records and configuration alone, are not as they should be."""
    for stored in node.store.all():
        attachment = stored.attachment
        if attachment is None:
            continue
        if (
            stored.state is not State.UP
            or attachment.boot_id != node.boot_id
            or attachment.exporters != target_of(node, attachment, node.agent)
            or node.is_outdated(attachment)
        ):
            yield attachment.key


def target_of(node: Node, attachment: Attachment, agent: AgentConfig) -> tuple[ExporterUse, ...]:
    """The exporters that must announce it by this agent.toml. A call without an agent changes none.

    Nobody announces an address that is another node's by now.
    """
    if not node.resident:
        return attachment.exporters
    if node.pools is not None and any(node.pools.conflict(item.address) for item in attachment.addresses):
        return ()
    return plan.exporters_now(attachment.network, attachment.asked, agent, resident=True)


# ---------------------------------------------------------------- looking


def _look(node: Node, subject: _Subject, seen: Seen) -> View:
    if subject.state is None:
        return View(None)
    agent = node.agent  # the same one throughout: a reload may come in between
    configured = plan.configured(agent)
    attachment = node.by_names_of_now(subject.attachment, configured)
    subject.renamed |= attachment is not subject.attachment
    subject.attachment = attachment
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
    target = target_of(node, attachment, agent)
    exporters = tuple(_exporters(node, attachment, state, target, configured))
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
        outdated=link is Link.PRESENT and node.is_outdated(attachment),
        link=link,
        exporters=exporters,
        gone_for=now - (seen.gone or now),
        deleted=link is Link.TORN_DOWN and state is State.UP and unrecorded.deleted_by_another(node, attachment),
        announced_for=None if seen.announced is None else now - seen.announced,
        vain_for=now - (seen.vain or now),
        waited=now - seen.waits,
        grace=agent.orphan_grace if node.resident else 0.0,
        linger=attachment.bgp.drain_seconds,
        drained=node.drained,
    )


def _since(before: float | None, now: float, holds: bool) -> float | None:
    return (now if before is None else before) if holds else None


def _exporters(
    node: Node,
    attachment: Attachment,
    state: State,
    target: tuple[ExporterUse, ...],
    configured: tuple[ExporterUse, ...],
) -> Iterator[AtExporter]:
    wanted = target if state is State.UP else ()
    for use in (*attachment.exporters, *(use for use in wanted if use not in attachment.exporters)):
        standing = node.convergence.standing(attachment, use)
        yield AtExporter(
            use,
            standing,
            recorded=use in attachment.exporters,
            wanted=use in wanted,
            configured=not node.resident or use in target or use in configured,
            vain=standing is Standing.LEAVING and node.convergence.is_vain(attachment.key, use),
        )


# ---------------------------------------------------------------- doing


def _take(node: Node, subject: _Subject, seen: Seen, view: View, step: Step) -> None:
    attachment, key = subject.attachment, subject.key
    seen.waits = None  # a step is taken, so the wait starts anew
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
        case Revise():
            subject.attachment, subject.renamed = node.revise(attachment), False
        case Withdraw(uses):
            node.convergence.leave(attachment, uses)
        case TearDown(linger):
            if view.state is State.UP:
                node.events.about(Kind.ORPHAN, attachment, f"{view.grace - view.gone_for:.0f} s")
            seen.had_link = _remove(node, attachment, linger)
            if view.state is not State.UP and attachment.since and (seen.had_link or attachment.chained):
                node.events.about(Kind.ATTACHMENT_GONE, attachment)
            seen.torn_down = True
        case Excuse(uses):
            for use in uses:
                log.warning("%s: no longer waiting for %s to confirm the withdrawal, because it was removed",
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
            node.store.delete(key)
            node.convergence.forget(key)
            if attachment.since:
                node.events.about(Kind.ATTACHMENT_RELEASED, attachment, _freed(attachment))
            node.events.forget(key)
            subject.state = None
            if subject.begun:
                node.remove_bridge(attachment)
    if isinstance(step, (Record, Release)) and not all(one.configured for one in view.exporters):
        node.handed_over += 1


def _leave(node: Node, attachment: Attachment, *, told: bool) -> bool:
    """Move the record to `leaving`. False if the disk refuses; the end then goes on with the record where it is.

    If no exporter was given its routes, the record of its ADD is enough to undo it.
    """
    return not told or node.store.move(attachment, State.LEAVING)


def _announce(node: Node, attachment: Attachment, uses: tuple[ExporterUse, ...]) -> Attachment:
    """Announce through `uses`. Exporters in the record need no write; a new one is written into the record first."""
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
    """Remove the link, what was installed for it, and its part of the data path to other nodes. Idempotent.

    Returns whether the link was there.
    """
    node.forget(attachment)
    there = linger and not interface.vanished(node.netlink, attachment)  # without a link there is no traffic to move
    if there and node.convergence.wait_sent(attachment.key, clock.monotonic() + CONFIRM_SECONDS):
        time.sleep(linger)  # the peers move their traffic away before the link goes
    node.shared.drop(node.netlink, attachment.key)  # first: other containers may share its addresses
    had_link = interface.remove(node.netlink, node.reaper, attachment)
    node.disconnect(attachment)
    return had_link


def _freed(attachment: Attachment) -> str:
    addresses = ", ".join(item.address.partition("/")[0] for item in attachment.addresses)
    return f"{addresses} may be used again" if addresses else "nothing is left of it"


def _names(uses: tuple[ExporterUse, ...]) -> str:
    return ", ".join(use.name for use in uses)
