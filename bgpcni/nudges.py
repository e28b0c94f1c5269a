"""The queue of attachments that the reconciler has to look at, and when. Everything that happens goes through it.

Whoever notices a change (a withdrawal is confirmed, a link is gone, the configuration has changed) nudges the
attachment, and needs not know what follows. The queue is made first and then given to everything else.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from bgpcni import clock
from bgpcni.model import AttachmentKey


class Nudges:
    """The queue. Safe for threads. An attachment is in it once, with the earliest time for which it was nudged."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._order = count()
        self._queue: list[tuple[float, int, AttachmentKey]] = []
        self._due: dict[AttachmentKey, float] = {}
        self._attended: dict[AttachmentKey, float | None] = {}
        self._closed = False

    def __len__(self) -> int:
        """How many attachments are in the queue, due or not."""
        return len(self._due)

    def nudge(self, key: AttachmentKey, after: float = 0.0) -> None:
        """Have the attachment looked at in `after` seconds, or sooner if someone else has asked for that."""
        with self._change:
            due = clock.monotonic() + after
            if key in self._attended:
                known = self._attended[key]
                self._attended[key] = due if known is None else min(due, known)
                return
            if self._due.get(key, due + 1) <= due:
                return
            self._due[key] = due
            heapq.heappush(self._queue, (due, next(self._order), key))
            if self._queue[0][2] == key:
                self._change.notify()

    @contextmanager
    def attended(self, key: AttachmentKey) -> Iterator[None]:
        """While a call works on this attachment, its nudges wait until the call is done.

        `settled`, called within the context, forgets them.
        """
        with self._change:
            self._attended[key] = None
        try:
            yield
        finally:
            with self._change:
                due = self._attended.pop(key, None)
            if due is not None:
                self.nudge(key, max(0.0, due - clock.monotonic()))

    def settled(self, key: AttachmentKey) -> None:
        """Forget the nudges of an attachment of which nothing is left."""
        with self._change:
            self._due.pop(key, None)
            if key in self._attended:
                self._attended[key] = None

    def take(self) -> AttachmentKey | None:
        """Wait for the next attachment that is due; None once the queue is closed."""
        with self._change:
            while not self._closed:
                key = self._pop()
                if key is not None:
                    return key
                self._change.wait(self._queue[0][0] - clock.monotonic() if self._queue else None)
            return None

    def poll(self) -> AttachmentKey | None:
        """The next attachment that is due; None if there is none now."""
        with self._change:
            return self._pop()

    def _pop(self) -> AttachmentKey | None:
        while self._queue and self._queue[0][0] <= clock.monotonic():
            due, _, key = heapq.heappop(self._queue)
            if self._due.get(key) == due:
                del self._due[key]
                return key
        return None

    def close(self) -> None:
        with self._change:
            self._closed = True
            self._change.notify_all()
