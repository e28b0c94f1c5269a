"""Deletes links, many for the price of one: those that come while a deletion runs go together in the next.

Deleting a veth waits for an RCU grace period, some 20 ms; a link group of sixty waits for one. A group deletion
removes whatever is in the group, so each batch has a fresh random number, and each link is read by index and its
alias compared just before it is put in.
"""

from __future__ import annotations

import errno
import secrets
import threading
from dataclasses import dataclass, field

from bgpcni.kernel import links
from bgpcni.kernel.netlink import RTM_DELLINK, Message, Netlink, NetlinkError

FIRST_GROUP, LAST_GROUP = 0xB6000001, 0xB6FFFFFF
_BATCH, _CHUNK = 200, 16


@dataclass(slots=True)
class _Order:
    """One link to delete: by index, if its alias still is `alias`."""

    index: int
    alias: str
    done: threading.Event = field(default_factory=threading.Event)
    error: OSError | None = None


class Reaper:
    """Safe for threads. The first to come deletes; who comes meanwhile is served in the next batch."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[_Order] = []
        self._busy = False

    def delete(self, netlink: Netlink, index: int, alias: str) -> None:
        """Delete the link with this index if it has this alias; when this returns it is gone. Gone before: success."""
        assert index > 0
        order = _Order(index, alias)
        with self._lock:
            self._waiting.append(order)
            leading, self._busy = not self._busy, True
        while leading:
            with self._lock:
                batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
                if not batch:
                    self._busy = False
                    break
            self._delete(netlink, batch)
            if order.done.is_set() and self._hand_over():
                break
        order.done.wait()
        if order.error is not None:
            raise order.error

    def _hand_over(self) -> bool:
        """The leader's own link is gone: it goes on only for those who wait already."""
        with self._lock:
            if self._waiting:
                return False
            self._busy = False
            return True

    def _delete(self, netlink: Netlink, batch: list[_Order]) -> None:
        try:
            ours = self._still_ours(netlink, batch)
            if len(ours) == 1:
                links.remove(netlink, ours[0].index)
            elif ours:
                _delete_group(netlink, [order.index for order in ours])
        except OSError as error:
            for order in batch:
                order.error = error
        finally:
            for order in batch:
                order.done.set()

    def _still_ours(self, netlink: Netlink, batch: list[_Order]) -> list[_Order]:
        answers = _in_chunks(netlink, [links.get_message(index=order.index) for order in batch])
        ours = []
        for order, answer in zip(batch, answers, strict=True):
            if isinstance(answer, NetlinkError):
                if answer.errno != errno.ENODEV:
                    order.error = answer
            elif links.parse(answer).alias == order.alias:
                ours.append(order)
        return ours


def _in_chunks(netlink: Netlink, messages: list[Message]) -> list[bytes | NetlinkError]:
    """As `send`, in portions whose answers fit the socket's buffer: the kernel answers all before we read any."""
    answers: list[bytes | NetlinkError] = []
    for start in range(0, len(messages), _CHUNK):
        answers += netlink.send(*messages[start : start + _CHUNK])
    return answers


def _delete_group(netlink: Netlink, indexes: list[int]) -> None:
    group = FIRST_GROUP + secrets.randbelow(LAST_GROUP - FIRST_GROUP + 1)
    answers = _in_chunks(netlink, [links.group_message(index, group) for index in indexes])
    for answer in answers:
        if isinstance(answer, NetlinkError) and answer.errno != errno.ENODEV:
            raise answer
    assert FIRST_GROUP <= group <= LAST_GROUP
    try:
        netlink.run(Message(RTM_DELLINK, 0, links.header() + links.group_attribute(group)))
    except NetlinkError as error:
        if error.errno != errno.ENODEV:  # every member went by itself meanwhile
            raise
