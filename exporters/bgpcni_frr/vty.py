"""bgpd's vty socket: `show … json`, and `clear bgp …` when an operator resets a session. Nothing is configured.

The protocol is that of vtysh: a command and a zero octet; then the answer, three zero octets and the result (0:
success).
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from typing import Any

from bgpcni.exporter import NotThereYet

_END = b"\0\0\0"
_LIMIT = 256 << 20
"""The most octets of an answer. Whatever sends more is not FRR."""


class Vty:
    """One connection, made when it is needed. One thread uses it; `close` may be called from any thread."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()
        self._closed = False
        self.connections = 0
        """How many connections were made. If it is one more than before, bgpd may have been restarted."""

    def close(self) -> None:
        """Close it permanently. A thread that waits for an answer gets an error."""
        with self._lock:
            self._closed = True
            if self._socket is not None:
                try:
                    self._socket.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    @property
    def closed(self) -> bool:
        return self._closed

    def ask(self, command: str, deadline: float) -> dict[str, Any]:
        """The document that answers `command json`. Raises NotThereYet."""
        assert command.startswith("show ")
        return _document(self._answered(command, f"{command} json", deadline), command)

    def order(self, command: str, deadline: float) -> None:
        """Have bgpd do a command of its enable mode. Raises NotThereYet, with bgpd's words if it refuses."""
        assert command.startswith("clear bgp ")
        self._answered("enable", "enable", deadline)
        if words := self._answered(command, command, deadline).decode(errors="replace").strip():
            raise NotThereYet(f"FRR refuses `{command}`: {words[:200]}", untouched=True)

    def _answered(self, command: str, line: str, deadline: float) -> bytes:
        """The answer to one line, over a new connection if bgpd has closed this one. Raises NotThereYet."""
        assert line.isprintable()
        kept = self._socket is not None
        try:
            return self._ask(command, line, deadline)
        except ConnectionError as error:
            self._drop()
            if not kept or self._closed:
                raise NotThereYet(f"{self._path}: {_words(error)}", untouched=True) from None
            return self._answered(command, line, deadline)  # the open connection was to a bgpd that has ended
        except TimeoutError:
            self._drop()  # a late answer would be taken for the answer to the next question
            raise NotThereYet(f"{self._path} did not answer in time", untouched=True) from None
        except OSError as error:
            self._drop()
            raise NotThereYet(f"{self._path}: {_words(error)}", untouched=True) from None

    def _ask(self, command: str, line: str, deadline: float) -> bytes:
        sock = self._connected(deadline)
        sock.settimeout(_left(deadline))
        sock.sendall(line.encode() + b"\0")
        parts = bytearray()
        while parts[-4:-1] != _END:
            sock.settimeout(_left(deadline))
            part = sock.recv(1 << 20)
            if not part:
                raise ConnectionResetError(0, "it closed the connection")
            parts += part
            if len(parts) > _LIMIT:
                raise OSError(0, "its answer is too long")
        if parts[-1]:
            words = parts[:-4].decode(errors="replace").strip()
            raise NotThereYet(f"FRR refuses `{command}`: {words[:200]}", untouched=True)
        return bytes(parts[:-4])

    def _connected(self, deadline: float) -> socket.socket:
        if self._socket is not None:
            return self._socket
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        with self._lock:
            if self._closed:
                sock.close()
                raise ConnectionAbortedError(0, "closed")
            self._socket = sock
        sock.settimeout(_left(deadline))
        sock.connect(self._path)
        self.connections += 1
        return sock

    def _drop(self) -> None:
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _words(error: OSError) -> str:
    return (os.strerror(error.errno) if error.errno else str(error.strerror or error)).lower()


def _document(answer: bytes, command: str) -> dict[str, Any]:
    """The first document of an answer. FRR 10.3 sends two documents for something unknown, and `{,` for an empty
    table."""
    text = answer.decode(errors="replace").replace("{\n,", "{", 1).strip()
    try:
        found, _ = json.JSONDecoder().raw_decode(text or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise NotThereYet(f"the answer to `{command}` is not from bgpd: {text[:60]!r}", untouched=True)
    return found
