"""Which boot a record is of: its boot ID says so, unless the attachment itself is there to be seen.

No container outlives a boot, so a record of another boot ID is that of a container that is gone. But a process in a
sandbox may be shown another boot ID than the one before it; what is attached then is still attached, and nothing of
it may be given away.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from bgpcni.errors import IoFailure, TryAgain
from bgpcni.ipam.boot import boot_time_ns
from bgpcni.model import Attachment
from bgpcni.node import interface

if TYPE_CHECKING:
    from bgpcni.node.node import Node
    from bgpcni.store import Stored

log = logging.getLogger(__name__)


def lives(node: Node, attachment: Attachment) -> bool:
    """Whether the attachment of a record that is up is on this node; one of another boot only if it can be seen."""
    if attachment.boot_id == node.boot_id:
        return not interface.vanished(node.netlink, attachment)
    return interface.present(node.netlink, attachment)


def settled(node: Node, stored: Stored) -> Stored | None:
    """The record as it is to be taken: of this boot if its attachment can be seen, whatever boot ID it has.

    None where there is nothing to do about it: it cannot be read and is of an earlier boot, and so was removed; or a
    call is at work on it.
    """
    if stored.attachment is None:
        return None if _removed_as_earlier(node, stored) else stored
    if not _misdated(node, stored.attachment):
        return stored
    try:
        with node.store.locked(stored.attachment.key, 0):
            again = node.store.find(stored.attachment.key)
            if again is None or again.attachment is None or not _misdated(node, again.attachment):
                return again
            log.warning(
                "%s: the record has boot ID %s, the node has %s, but the attachment is there: it is kept",
                again.attachment.key, again.attachment.boot_id, node.boot_id, extra=again.attachment.key.fields,
            )  # fmt: skip
            of_now = again.attachment.model_copy(update={"boot_id": node.boot_id})
            try:
                node.store.put(again.state, of_now)
            except IoFailure as error:
                log.warning("%s: %s", of_now.key, error.msg, extra=of_now.key.fields)
            return replace(again, attachment=of_now)
    except TryAgain:
        return None


def _misdated(node: Node, attachment: Attachment) -> bool:
    return attachment.boot_id != node.boot_id and interface.present(node.netlink, attachment)


def _removed_as_earlier(node: Node, stored: Stored) -> bool:
    """Remove a record that cannot be read if it was written before this boot and no link bears its mark.

    Its leases have no record any more and are reclaimed as those of an earlier boot are (`ipam.boot`).
    """
    written = node.store.written(stored)
    if written is None or written >= boot_time_ns() or interface.is_there(node.netlink, stored.digest):
        return False
    log.warning("%s; it was written before this boot, so its container is gone: removed", stored.problem,
                extra={"network": stored.network})  # fmt: skip
    try:
        node.store.drop_digest(stored.network, stored.digest)
    except IoFailure as error:
        log.warning("%s", error.msg, extra={"network": stored.network})
        return False
    return True
