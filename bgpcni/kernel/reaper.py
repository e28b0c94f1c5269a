"""Deletes links, and answers as soon as both ends have left their namespaces.

The kernel reports that with RTM_DELLINK, about a millisecond after the request. It acknowledges the request only when
its grace periods are over, 10 to 24 ms later. A thread of the reaper waits for the acknowledgement, so that no caller
has to. If no event comes, the acknowledgement counts as the answer.

While some links are being deleted, the next ones are collected and deleted together as a link group, which takes the
kernel half the time. Deleting a group removes every link in it. So each batch gets a new random group number, and the
alias of each link is compared just before the link is put into the group.
"""

from __future__ import annotations

import errno
import logging
import secrets
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue

from bgpcni.kernel import links, uapi
from bgpcni.kernel.monitor import open_events, received
from bgpcni.kernel.netlink import Message, Netlink, NetlinkError

log = logging.getLogger(__name__)
FIRST_GROUP, LAST_GROUP = 0xB6000001, 0xB6FFFFFF
_BATCH, _CHUNK = 200, 16
_THREADS = 16
"""How many requests may wait for their acknowledgement at the same time."""
_End = tuple[int | None, int]
"""One end of a link: the nsid of its namespace (None: the node's own) and its index there."""


@dataclass(slots=True, eq=False)
class _Order:
    """One link to delete: by its index, if it still has this alias. `ends`: the ends that may still be there."""

    index: int
    alias: str
    ends: set[_End] = field(default_factory=set)
    done: threading.Event = field(default_factory=threading.Event)
    error: OSError | None = None


class Reaper:
    """Safe for threads. One batch is deleted at a time; each link in it gets its own answer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[_Order] = []
        self._leaving: set[_Order] = set()
        """The links of the current batch that have no answer yet."""
        self._expected: dict[_End, _Order] = {}
        self._batches: SimpleQueue[list[_Order]] = SimpleQueue()
        self._threads = 0
        self._idle = 0
        self._listening = False

    def delete(self, netlink: Netlink, index: int, alias: str) -> None:
        """Delete the link with this index if it has this alias. It is no error if it has gone already.

        When this returns, both ends have left their namespaces, with addresses, routes and bridge port, and their names
        are free. `netlink`: a socket in the link's namespace, which is the calling thread's. Raises OSError.
        """
        assert index > 0
        order = _Order(index, alias)
        with self._lock:
            self._listen()
            self._waiting.append(order)
            self._begin()
        order.done.wait()
        if order.error is not None:
            raise order.error

    # ---------------------------------------------------------------- the lock is held

    def _begin(self) -> None:
        """Start the next batch, unless one is being deleted or no thread is free to wait for its acknowledgement."""
        if self._leaving or not self._waiting:
            return
        if not self._idle:
            if self._threads >= _THREADS:
                return
            try:
                threading.Thread(target=self._work, name="reaper", daemon=True).start()
            except RuntimeError as error:  # this process cannot start another thread
                if not self._threads:
                    while self._waiting:
                        self._answer(self._waiting.pop(), OSError(errno.EAGAIN, str(error)))
                return
            self._threads += 1
            self._idle += 1
        batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
        self._leaving.update(batch)
        self._idle -= 1
        self._batches.put(batch)

    def _answer(self, order: _Order, error: OSError | None = None) -> None:
        """Answer one order. Only the first answer counts. After the last answer of a batch the next batch begins."""
        if not order.done.is_set():
            order.error = error
            order.done.set()
        for end in order.ends:
            self._expected.pop(end, None)
        if order in self._leaving:
            self._leaving.remove(order)
            self._begin()

    def _listen(self) -> None:
        """Start the thread that listens for deleted links. Without it the acknowledgements are the answers."""
        if self._listening:
            return
        try:
            sock = open_events(uapi.RTM_DELLINK)
            try:
                threading.Thread(target=self._hear, args=[sock], name="reaper-events", daemon=True).start()
            except BaseException:
                sock.close()
                raise
        except (OSError, RuntimeError) as error:
            log.warning("deleting links takes longer, because the kernel's events cannot be received: %s", error)
        else:
            self._listening = True

    # ---------------------------------------------------------------- threads

    def _hear(self, sock: socket.socket) -> None:
        """Answer the orders whose links are gone. If the kernel dropped events, the answers only come later."""
        try:
            with sock:
                while True:
                    for nsid, _, index in received(sock) or ():
                        with self._lock:
                            order = self._expected.pop((nsid, index), None)
                            if order is not None:
                                order.ends.discard((nsid, index))
                                if not order.ends:
                                    self._answer(order)
        except Exception:
            log.exception("the kernel's events are not received until the next deletion")
        finally:
            with self._lock:
                self._listening = False

    def _work(self) -> None:
        """Take one batch after the other, and wait each time for the kernel's acknowledgement."""
        netlink: Netlink | None = None
        while True:
            batch = self._batches.get()
            failure = None
            try:
                netlink = netlink or Netlink.open()
                self._delete(netlink, batch)
            except BaseException as error:  # noqa: BLE001 - whatever it is, somebody waits for an answer
                failure = _told(error)
                if netlink is not None:
                    netlink.close()  # an answer to this batch may still come on it
                netlink = None
            with self._lock:
                self._idle += 1
                for order in batch:
                    self._answer(order, failure)
                self._begin()

    def _delete(self, netlink: Netlink, batch: Sequence[_Order]) -> None:
        """Returns when every link is gone, or its order was answered with an error."""
        ours = self._still_ours(netlink, batch)
        if len(ours) > 1:
            ours = self._delete_group(netlink, ours)
        for order in ours:
            try:
                links.remove(netlink, order.index)
            except Exception as error:  # noqa: BLE001 - its own, whatever it is
                self._answered(order, _told(error))

    def _still_ours(self, netlink: Netlink, batch: Sequence[_Order]) -> list[_Order]:
        """The orders whose link is there with its alias; the others are answered. From here on events are matched."""
        answers = netlink.send_all([links.get_message(index=order.index) for order in batch], _CHUNK)
        ours = []
        for order, answer in zip(batch, answers, strict=True):
            if isinstance(answer, NetlinkError):
                self._answered(order, None if answer.errno == errno.ENODEV else answer)
                continue
            link = links.parse(answer)
            if link.alias != order.alias:
                self._answered(order)
                continue
            ours.append(order)
            with self._lock:
                order.ends = {(None, link.index)} | ({(link.peer_nsid, link.peer)} if link.peer else set())
                self._expected.update(dict.fromkeys(order.ends, order))
        return ours

    def _delete_group(self, netlink: Netlink, orders: Sequence[_Order]) -> list[_Order]:
        """Delete several at once. Returns those to delete one by one, because the kernel refused them together."""
        group = FIRST_GROUP + secrets.randbelow(LAST_GROUP - FIRST_GROUP + 1)
        answers = netlink.send_all([links.group_message(order.index, group) for order in orders], _CHUNK)
        members = []
        for order, answer in zip(orders, answers, strict=True):
            if not isinstance(answer, NetlinkError):
                members.append(order)
            else:
                self._answered(order, None if answer.errno == errno.ENODEV else answer)
        assert FIRST_GROUP <= group <= LAST_GROUP
        if members:
            try:
                netlink.run(Message(uapi.RTM_DELLINK, 0, links.header() + links.group_attribute(group)))
            except NetlinkError as error:
                if error.errno != errno.ENODEV:  # ENODEV: every member has gone by itself meanwhile
                    return members
        return []

    def _answered(self, order: _Order, error: OSError | None = None) -> None:
        with self._lock:
            self._answer(order, error)


def _told(error: BaseException) -> OSError:
    """The error as the caller gets it. One that nobody expects is logged with its traceback."""
    if isinstance(error, OSError):
        return error
    log.error("deleting links failed because of a defect", exc_info=error)
    return OSError(errno.EIO, f"deleting the link: {type(error).__name__}: {error}")
