"""One connection to the relay: lines go out, answers and events come in.

One thread reads (`next`), any thread may write. Answers come in the order of the lines, so they need no number. Only so
many lines may be without an answer at a time.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from bgpcni.exporter import NotThereYet
from bgpcni_exabgp.lines import Line
from bgpcni_exabgp.process import UNSIGNALLED
from bgpcni_exabgp.protocol import SIGNALS_SINCE, Answer, Event, Hello, decode_event, encode_signal

WINDOW = 64
"""How many lines may be without an answer."""
STALL = 5.0
"""Seconds that writing one line may take, since the relay always reads."""


class Link:
    """A connection to a relay. `number`: of the newest line. `relay`: the relay's version, once it has said Hello."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._lines: deque[bytes] = deque()
        self._rest = b""
        self._lock = threading.Condition()
        self._sending = threading.Lock()
        self._tickets: deque[list[bool | None]] = deque()
        self._heard = time.monotonic()  # when an answer came, or was first owed
        self._dead = False
        self.number = self.relay = 0
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

    def next(self, seconds: float | None = None) -> Event | None:
        """The next event or answer. None: the relay is gone. Raises TimeoutError, Malformed."""
        until = None if seconds is None else time.monotonic() + seconds
        while True:
            while self._lines:
                event = decode_event(self._lines.popleft())
                if isinstance(event, Answer):
                    self._answered(event.done)
                elif isinstance(event, Hello):
                    self.relay = event.version
                if event is not None:
                    return event
            if not self._read(None if until is None else max(0.0, until - time.monotonic())):
                return None

    def _read(self, seconds: float | None) -> bool:
        """Take in what comes; False: the relay is gone. Raises TimeoutError."""
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        if not poller.poll(None if seconds is None else seconds * 1000):
            raise TimeoutError("the relay does not answer")
        try:
            octets = self._socket.recv(1 << 16)
        except OSError:
            octets = b""
        *whole, self._rest = (self._rest + octets).split(b"\n")
        self._lines.extend(whole)
        return bool(octets)

    def _answered(self, done: bool) -> None:
        with self._lock:
            self._heard = time.monotonic()
            if self._tickets:
                self._tickets.popleft()[0] = done
            self._lock.notify_all()

    def post(self, line: Line, numbered: Callable[[Line, int], None] | None = None) -> list[bool | None]:
        """Send a line and do not wait for its answer. `numbered` is called just before it goes. Raises OSError."""
        return self._send(line, lambda number: numbered(line, number) if numbered else None)

    def submit(self, lines: Iterable[Line], numbered: Callable[[Line, int], None], deadline: float) -> list[Line]:
        """Send lines and wait for their answers. Returns the lines that were refused. `numbered`: as in `post`.

        Raises NotThereYet if the relay is gone, or at the deadline (time.monotonic() seconds).
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
        with self._sending:  # lines go out in the order of their numbers
            number = self.number = self.number + line.counts
            numbered(number)
            with self._lock:
                if not self._tickets:
                    self._heard = time.monotonic()
                self._tickets.append(ticket)
            self._socket.sendall(line.text(number).encode("ascii") + b"\n")
        return ticket

    def signal(self, number: int) -> None:
        """Have the relay send ExaBGP a signal. Raises OSError."""
        if self.relay < SIGNALS_SINCE:
            raise OSError(UNSIGNALLED)
        with self._sending:
            self._socket.sendall(encode_signal(number))

    def owed(self) -> float:
        """For how many seconds an answer has been due; 0 if none is."""
        with self._lock:
            return time.monotonic() - self._heard if self._tickets else 0.0

    def close(self) -> None:
        """End the connection and wake whoever waits or reads. From any thread, any number of times."""
        with self._lock:
            self._dead = True
            self._lock.notify_all()
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def release(self) -> None:
        """Close the descriptor. The thread that reads does so when it is done."""
        self.close()
        self._socket.close()
