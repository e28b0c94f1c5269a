"""What a kill, a reboot or a missing DEL left behind: found, then finished or undone.

Runs at the agent's start, and before each call without an agent.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

from bgpcni.convergence.announcer import Announcer
from bgpcni.convergence.derive import derive
from bgpcni.errors import CniError, TryAgain
from bgpcni.model import Attachment, State
from bgpcni.node import interface
from bgpcni.node.node import LOCK_SECONDS, Node
from bgpcni.store import Stored

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Found:
    """What was on disk. `orphans`: up, but their link is gone without a DEL. `unreadable`: networks not to prune."""

    up: list[Attachment] = field(default_factory=list)
    leaving: list[Attachment] = field(default_factory=list)
    begun: list[Attachment] = field(default_factory=list)
    orphans: list[Attachment] = field(default_factory=list)
    unreadable: list[Stored] = field(default_factory=list)


def look(node: Node) -> Found:
    """Sort every record by what has to be done about it. A record of another boot is leaving: its namespace went."""
    found = Found()
    for stored in node.store.all():
        attachment = stored.attachment
        if attachment is None:
            log.error("%s; its network's routes are not pruned until a DEL removes it", stored.problem)
            found.unreadable.append(stored)
        elif stored.state is State.LEAVING or attachment.boot_id != node.boot_id:
            found.leaving.append(attachment)
        elif stored.state is State.ADDING:
            found.begun.append(attachment)
        elif interface.vanished(node.netlink, attachment):
            found.orphans.append(attachment)
        else:
            found.up.append(attachment)
    return found


def undo_begun(node: Node, attachment: Attachment) -> bool:
    """An ADD that never answered: nothing of it stays. False if it still runs elsewhere, or could not be undone."""
    try:
        with node.store.locked(attachment.key, 0):
            stored = node.store.find(attachment.key)
            if stored is None or stored.state is not State.ADDING or stored.attachment is None:
                return True
            if stored.attachment.since:  # a call's: its routes may be out
                node.dismantle(stored.attachment, time.monotonic())
            else:
                interface.remove(node.netlink, node.reaper, stored.attachment)
                node.finish(stored.attachment)
            node.take_bridge_away(stored.attachment)
            log.info("%s: an ADD that was cut short is undone", attachment.key)
            return True
    except TryAgain:
        return False
    except CniError as error:
        log.warning("%s: %s", attachment.key, error.msg)
        return False


def finish_leaving(node: Node, attachment: Attachment, seconds: float) -> bool:
    """Go on with a withdrawal that was not confirmed, for `seconds`; True when addresses and record are gone."""
    try:
        with node.store.locked(attachment.key, seconds):
            stored = node.store.find(attachment.key)
            if stored is None or stored.attachment is None:
                return True
            if (
                stored.state is State.UP
                and stored.attachment.boot_id == node.boot_id
                and not interface.vanished(node.netlink, stored.attachment)
            ):
                return True  # added again meanwhile
            return node.dismantle(stored.attachment, time.monotonic() + seconds)
    except (CniError, OSError) as error:
        log.warning("%s: %s", attachment.key, error)
        return False


def replay(node: Node, announcer: Announcer) -> None:
    """Within a call: a speaker came back empty, so it is told again what is up. Raises NotThereYet.

    Each record is read under its lock, since other calls add and delete meanwhile; one that is locked is seen
    to by whoever holds it.
    """
    for stored in node.store.all():
        attachment = stored.attachment
        if attachment is None or not _is_up(node, stored, announcer.name):
            continue
        try:
            with node.store.locked(attachment.key, 0):
                again = node.store.find(attachment.key)
                if again is not None and again.attachment is not None and _is_up(node, again, announcer.name):
                    announcer.want(attachment.key, derive(again.attachment, node.facts))
                    announcer.drive_now()
        except CniError as error:  # busy, or broken: never in the way of the rest
            log.info("%s: not told again: %s", attachment.key, error.msg)
    announcer.drive_now()
    if not announcer.emptied:
        announcer.replayed()


@contextmanager
def sharers(node: Node, attachment: Attachment, *, alone: bool) -> Iterator[list[Attachment]]:
    """Within a call: the other attachments that are announced, which may want the same routes (`Convergence`).

    An ADD has `since` in its record before it announces, a DEL has it leaving before it withdraws: whoever holds the
    lock (`alone`) sees all that count. Raises CniError.
    """
    with node.store.sharing(LOCK_SECONDS) if alone else nullcontext():
        yield [
            stored.attachment
            for stored in node.store.all()
            if stored.attachment is not None
            and stored.state is not State.LEAVING
            and stored.attachment.since
            and stored.attachment.boot_id == node.boot_id
            and stored.attachment.key != attachment.key
        ]


def _is_up(node: Node, stored: Stored, exporter: str) -> bool:
    attachment = stored.attachment
    return (
        attachment is not None
        and stored.state is State.UP
        and attachment.boot_id == node.boot_id
        and any(use.name == exporter for use in attachment.exporters)
    )


def within_call(node: Node) -> list[str]:
    """Before a call without an agent: what earlier calls, and containers without a DEL, left; returns problems."""
    late: list[str] = []
    found = look(node)
    for attachment in found.begun:
        undo_begun(node, attachment)
    for attachment in (*found.leaving, *found.orphans):
        if not finish_leaving(node, attachment, 0):
            late.append(f"{attachment.key} is not withdrawn yet")
    return late
