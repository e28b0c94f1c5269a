"""From which boot a record is. Its boot ID says so, unless the attachment itself is found on the node.

No container outlives a boot, so the container of a record with another boot ID is gone. But a process in a sandbox
may see another boot ID than the process before it. Then the container is still attached, and its addresses must not
be released.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from bgpcni.errors import IoFailure, TryAgain
from bgpcni.ipam.boot import boot_time_ns
from bgpcni.model import Attachment
from bgpcni.node import interface

if TYPE_CHECKING:
    from bgpcni.node.node import Node
    from bgpcni.store import Stored

log = logging.getLogger(__name__)


def is_of_this_boot(node: Node, attachment: Attachment) -> bool:
    """Whether its namespace may be there: a record of another boot is of this one only if it can be seen."""
    return attachment.boot_id == node.boot_id or interface.present(node.netlink, attachment)


def lives(node: Node, attachment: Attachment) -> bool:
    """Whether the attachment of a record in `up` is on this node. With another boot ID it must be found there."""
    return is_of_this_boot(node, attachment) and not interface.vanished(node.netlink, attachment)


def settled(node: Node, stored: Stored) -> Stored | None:
    """The record, moved to this boot if its attachment is found on the node, whatever boot ID it has.

    None if there is nothing to do: the record could not be read, was of an earlier boot and is removed now; or a call
    is working on the attachment.
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
                "%s: the record has boot ID %s and the node has %s, but the attachment exists, so it is kept",
                again.attachment.key, again.attachment.boot_id, node.boot_id, extra=again.attachment.key.fields,
            )  # fmt: skip
            of_now = again.attachment.model_copy(update={"boot_id": node.boot_id})
            try:
                node.store.put(again.state, of_now)
            except IoFailure as error:
                log.warning("%s: %s", of_now.key, error.msg, extra=of_now.key.fields)
            return again._replace(attachment=of_now)
    except TryAgain:
        return None


def _misdated(node: Node, attachment: Attachment) -> bool:
    return attachment.boot_id != node.boot_id and is_of_this_boot(node, attachment)


def _removed_as_earlier(node: Node, stored: Stored) -> bool:
    """Remove a record that cannot be read if it was written before this boot and no link has its mark.

    Its leases then have no record and are released like others of an earlier boot (`ipam.boot`).
    """
    written = node.store.written(stored)
    if written is None or written >= boot_time_ns() or interface.is_there(node.netlink, stored.digest):
        return False
    log.warning("%s; it was written before this boot, so its container is gone: removed", stored.problem,
                extra={"network": stored.network})  # fmt: skip
    try:
        node.store.delete_unreadable(stored.network, stored.digest)
    except IoFailure as error:
        log.warning("%s", error.msg, extra={"network": stored.network})
        return False
    return True
