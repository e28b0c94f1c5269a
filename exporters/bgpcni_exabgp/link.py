"""One connection to the relay: lines out with a window of unanswered ones, answers and events in.

One thread reads (`read`), any may write. Answers come in the order of the lines, so they need no name.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from bgpcni.exporter import NotThereYet
from bgpcni_exabgp.lines import Line

WINDOW = 64
"""Lines that may be unanswered."""
STALL = 5.0
"""Seconds that writing one line may take: the relay always reads."""


class Link:
    """Connected to a relay. `number`: of the newest line."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._lines: deque[bytes] = deque()
        self._rest = b""
        self._lock = threading.Condition()
        self._sending = threading.Lock()
        self._tickets: deque[list[bool | None]] = deque()
        self._heard = time.monotonic()  # when an answer came, or was first owed
        self._dead = False
        self.number = 0
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(STALL), 0))

    @classmethod
    def open(cls, path: str) -> Link:
        """Connect, without reading anything. Raises OSError."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            connection.settimeout(STALL)
            connection.connect(path)
        except OSError:
            connection.close()
            raise
        return cls(connection)

    def next(self, seconds: float | None = None) -> dict[str, Any] | bool | None:
        """The next line: an event, or an answer (True: done). None: the relay is gone. Raises TimeoutError."""
        until = None if seconds is None else time.monotonic() + seconds
        while not self._lines:
            poller = select.poll()
            poller.register(self._socket, select.POLLIN)
            left = None if until is None else max(0.0, until - time.monotonic()) * 1000
            if not poller.poll(left):
                raise TimeoutError("the relay does not answer")
            try:
                octets = self._socket.recv(1 << 16)
            except OSError:
                octets = b""
            if not octets:
                return None
            *whole, self._rest = (self._rest + octets).split(b"\n")
            self._lines.extend(whole)
        line = self._lines.popleft()
        if line in (b"done", b"error"):
            return self._answered(line == b"done")
        try:
            event = json.loads(line)
        except ValueError:  # some of what a stock ExaBGP writes is no JSON
            return {}
        return event if isinstance(event, dict) else {}

    def _answered(self, done: bool) -> bool:
        with self._lock:
            self._heard = time.monotonic()
            if self._tickets:
                self._tickets.popleft()[0] = done
            self._lock.notify_all()
        return done

    def post(self, line: Line, numbered: Callable[[Line, int], None] | None = None) -> list[bool | None]:
        """Send a line without waiting for its answer; `numbered` hears of it before it goes. Raises OSError."""
        return self._send(line, lambda number: numbered(line, number) if numbered else None)

    def submit(self, lines: Iterable[Line], numbered: Callable[[Line, int], None], deadline: float) -> list[Line]:
        """Send lines and wait for their answers; those that were refused. `numbered` hears of each, before it goes.

        Raises NotThereYet when the relay is gone or the deadline (time.monotonic()) is over.
        """
        tickets: list[tuple[Line, list[bool | None]]] = []
        try:
            for line in lines:
                with self._lock:
                    self._wait(lambda: len(self._tickets) < WINDOW, deadline)
                tickets.append((line, self._send(line, lambda number, line=line: numbered(line, number))))  # type: ignore[misc]
        except OSError as error:
            self.close()
            raise NotThereYet(f"exabgp: {error}") from None
        if tickets:
            with self._lock:
                self._wait(lambda: tickets[-1][1][0] is not None, deadline)
        return [line for line, ticket in tickets if ticket[0] is False]

    def _wait(self, true: Callable[[], bool], deadline: float) -> None:
        while not true():
            if self._dead:
                raise NotThereYet("exabgp: the connection to it is lost")
            left = deadline - time.monotonic()
            if left <= 0:
                raise NotThereYet("exabgp does not answer")
            self._lock.wait(left)

    def _send(self, line: Line, numbered: Callable[[int], None]) -> list[bool | None]:
        ticket: list[bool | None] = [None]
        with self._sending:  # numbers go out in their order
            number = self.number = self.number + 1
            numbered(number)
            with self._lock:
                if not self._tickets:
                    self._heard = time.monotonic()
                self._tickets.append(ticket)
            self._socket.sendall(line.text(number).encode("ascii") + b"\n")
        return ticket

    def owed(self) -> float:
        """Seconds for which an answer has been owed; 0 if none is."""
        with self._lock:
            return time.monotonic() - self._heard if self._tickets else 0.0

    def close(self) -> None:
        """Wake whoever waits or reads; from any thread, any number of times."""
        with self._lock:
            self._dead = True
            self._lock.notify_all()
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def release(self) -> None:
        """Close the descriptor; by the thread that reads, when it is done."""
        self.close()
        self._socket.close()
