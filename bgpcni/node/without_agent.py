"""A call without an agent first finishes what earlier calls, and containers without a DEL, have left. It also gives an
exporter the other attachments' routes if the exporter has to know them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from bgpcni.convergence.announcer import Announcer
from bgpcni.convergence.derive import derive
from bgpcni.errors import CniError, TryAgain
from bgpcni.model import Attachment, NodeFacts, State
from bgpcni.node import boots, reconcile
from bgpcni.node.next_step import Wait
from bgpcni.node.node import LOCK_SECONDS, Node
from bgpcni.store import Store, Stored

log = logging.getLogger(__name__)


class Others:
    """The other attachments, read from their records; `bgpcni.convergence.convergence.Others` says what for."""

    def __init__(self, store: Store, boot_id: str, facts: NodeFacts) -> None:
        self._store = store
        self._boot_id = boot_id
        self._facts = facts

    def replay(self, announcer: Announcer) -> None:
        """Announce the other attachments again. Each record is read under its lock, because other calls add and delete
        meanwhile. One that is locked is skipped: the call that holds it announces or withdraws it."""
        for stored in self._store.all():
            attachment = stored.attachment
            if attachment is None or not self._is_up(stored, announcer.name):
                continue
            try:
                with self._store.locked(attachment.key, 0):
                    again = self._store.find(attachment.key)
                    if again is not None and again.attachment is not None and self._is_up(again, announcer.name):
                        announcer.want(attachment.key, derive(again.attachment, self._facts, announcer.carried))
                        announcer.drive_now()
            except CniError as error:  # a busy or broken record must not stop the others
                key = attachment.key
                log.info(
                    "%s: not announced again: %s", key, error.msg, extra={**key.fields, "exporter": announcer.name}
                )
        announcer.drive_now()
        if not announcer.emptied:
            announcer.replayed()

    @contextmanager
    def sharers(self, attachment: Attachment, *, alone: bool) -> Iterator[list[Attachment]]:
        """The other attachments that may share a route. An ADD writes `since` into its record before it announces, and
        a DEL moves the record to `leaving` before it withdraws, so whoever holds the lock (`alone`) sees all of
        them."""
        with self._store.sharing(LOCK_SECONDS) if alone else nullcontext():
            yield [
                stored.attachment
                for stored in self._store.all()
                if stored.attachment is not None
                and stored.state is not State.LEAVING
                and stored.attachment.since
                and stored.attachment.boot_id == self._boot_id
                and stored.attachment.key != attachment.key
            ]

    def _is_up(self, stored: Stored, exporter: str) -> bool:
        attachment = stored.attachment
        return (
            attachment is not None
            and stored.state is State.UP
            and attachment.boot_id == self._boot_id
            and any(use.name == exporter for use in attachment.exporters)
        )


def settle_all(node: Node) -> list[str]:
    """Before a call: reconcile every attachment that is not simply up. Returns a warning for each that is not ended."""
    late: list[str] = []
    for each in node.store.all():
        stored = boots.settled(node, each)
        if stored is None:
            continue
        attachment = stored.attachment
        if attachment is None:
            log.error("%s; its network's routes are not pruned until a DEL removes it", stored.problem,
                      extra={"network": stored.network})  # fmt: skip
            continue
        try:
            if stored.state is State.UP and boots.lives(node, attachment):
                continue
            outcome = reconcile.settle(node, attachment.key)
        except TryAgain:
            continue  # another call has it
        except (CniError, OSError) as error:
            log.warning("%s: %s", attachment.key, error, extra=attachment.key.fields)
            outcome = Wait()
        if isinstance(outcome, Wait):
            late.append(f"{attachment.key} is not withdrawn yet")
    return late
