"""Turns the UPDATEs that neighbours send into events for who listens, in a thread of its own.

A flood of routes is decoded here, so that news of sessions and acknowledgements does not wait behind it. If nobody
listens, there is no thread and ExaBGP passes no UPDATE on.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable

from bgpcni.exporter import Event, Heard
from bgpcni.model import Family
from bgpcni_exabgp import lines, protocol
from bgpcni_exabgp.lines import Line
from bgpcni_exabgp.received import AdjRibIn, Terms

BACKLOG = 64 << 20
"""Octets of UPDATEs that may wait. Of a peer that sends more, the rest is dropped, and it is asked again later."""
BATCH = 4096
"""How many events are told at once, about."""


class Receiver:
    """The thread and the queue to it. `post` sends lines to ExaBGP; it is called from any thread and never raises."""

    def __init__(self, name: str, routes: AdjRibIn, post: Callable[[Iterable[Line]], None]) -> None:
        self.routes = routes
        self._name = name
        self._post = post
        self._heard: Heard | None = None
        self._queue: deque[Callable[[], list[Event]]] = deque()
        self._waiting = 0  # octets of UPDATEs in the queue
        self._missed: set[str] = set()  # peers of which UPDATEs were dropped; all are, until the peer is asked again
        self._connected = False
        self._lock = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def wanted(self) -> bool:
        return self._heard is not None

    # --- from any thread

    def listen(self, families: frozenset[Family], heard: Heard) -> None:
        with self._lock:
            self._heard = heard
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name=f"{self._name}-received", daemon=True)
                self._thread.start()
        self._put(lambda: self._listen(families))

    def connected(self, sessions: dict[str, Terms], listening: bool) -> None:
        """ExaBGP is connected and has these sessions. `listening`: an earlier agent had it pass UPDATEs on."""
        if not self.wanted and listening:
            self._post([Line(protocol.Listen(False))])
        self._put(lambda: self._connect(sessions))

    def up(self, peer: str, terms: Terms) -> None:
        self._put(lambda: self._quietly(self.routes.up, peer, terms))

    def update(self, peer: str, octets: bytes) -> None:
        with self._lock:
            if peer in self._missed or self._waiting > BACKLOG:
                self._missed.add(peer)
                return
            self._waiting += len(octets)
        self._put(lambda: self._update(peer, octets))

    def told(self, peer: str, family: Family) -> None:
        with self._lock:
            if peer in self._missed:
                return  # it did, but not all of it was taken
        self._put(lambda: self.routes.told(peer, family))

    def down(self, peer: str, notified: bool) -> None:
        self._put(lambda: self.routes.down(peer, notified))

    def lost(self) -> None:
        self._put(self._lose)

    def ask_again(self, peer: str) -> bool:
        """Ask the peer for all its routes again. False if nobody listens."""
        if self.wanted:
            self._put(lambda: self._quietly(self._ask, self.routes.families, [peer]))
        return self.wanted

    def close(self) -> None:
        with self._lock:
            self._closed = True
            thread = self._thread
            self._lock.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join(10)

    # --- the thread

    def _put(self, step: Callable[[], list[Event]]) -> None:
        with self._lock:
            self._queue.append(step)
            self._lock.notify_all()
            if self._thread is not None:
                return
            steps, self._queue = self._queue, deque()
            for one in steps:  # nobody listens: nothing is told, but it is noted which sessions are up
                one()

    def _run(self) -> None:
        events: list[Event] = []
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._queue or self._missed or self._closed, None if not events else 0)
                if self._closed:
                    return
                step = self._queue.popleft() if self._queue else None
                missed = set()
                if step is None and not events:
                    missed, self._missed = self._missed, set()
            if step is not None:
                events += step()
            if events and (step is None or len(events) >= BATCH or not self._queue):
                if self._heard is not None:
                    self._heard(events)
                events = []
            for peer in missed:
                self._ask(self.routes.families, [peer])

    @staticmethod
    def _quietly(step: Callable[..., None], *arguments: object) -> list[Event]:
        step(*arguments)
        return []

    def _listen(self, families: frozenset[Family]) -> list[Event]:
        first = not self.routes.families
        fresh = self.routes.listen(families)
        if self._connected:
            if first and families:
                self._post([Line(protocol.Listen(True))])
            self._ask(fresh, list(self.routes.sources))
        return []

    def _connect(self, sessions: dict[str, Terms]) -> list[Event]:
        self._connected = True
        for peer, terms in sessions.items():
            self.routes.up(peer, terms)
        if self.routes.families:
            self._post([Line(protocol.Listen(True))])
            self._ask(self.routes.families, list(sessions))
        return []

    def _lose(self) -> list[Event]:
        self._connected = False
        return self.routes.lost()

    def _update(self, peer: str, octets: bytes) -> list[Event]:
        with self._lock:
            self._waiting -= len(octets)
        result = self.routes.update(peer, octets)
        if result.ask:
            self._ask(result.ask, [peer])
        if result.end:
            self._post([Line(protocol.EndSession(3, 1, peers=(peer,)))])  # Malformed Attribute List
        return result.events

    def _ask(self, families: frozenset[Family], peers: list[str]) -> None:
        known = [peer for peer in peers if peer in self.routes.sources]
        if families and known:
            self._post([lines.refresh(families, peer) for peer in self.routes.asked(families, known)])
