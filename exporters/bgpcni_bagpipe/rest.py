"""One BaGPipe daemon over HTTP: a request, its answer, and a deadline that always holds.

This module knows octets and JSON, not endpoints. The server closes the connection after each answer and queues five,
so there is one connection for each request and one request at a time. Redirects and proxies are not followed. The
standard library's client is enough for that, and a call without an agent starts faster with it.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit

LARGEST = 1 << 26
"""The most octets of an answer. Ten thousand endpoints take two million."""


class NoAnswer(Exception):
    """The daemon did not answer, or what answered is not BaGPipe."""


@dataclass(frozen=True, slots=True)
class Answer:
    """HTTP status and JSON document. `words`: the text of an error."""

    status: int
    document: Any
    words: str = ""


class Daemon:
    """The client of one daemon. For one thread at a time; only `abort` may be called from any thread."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.url = url
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._base = parts.path.rstrip("/")
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._aborted = False

    def get(self, path: str, deadline: float) -> Answer:
        return self._ask("GET", path, None, deadline)

    def post(self, path: str, document: dict[str, Any], deadline: float) -> Answer:
        return self._ask("POST", path, json.dumps(document).encode(), deadline)

    def abort(self) -> None:
        """End the running request, and refuse all later ones."""
        with self._lock:
            self._aborted = True
        self._cut()

    def _ask(self, method: str, path: str, body: bytes | None, deadline: float) -> Answer:
        """Send a request and return the answer. Raises NoAnswer."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise NoAnswer(f"{self.url} did not answer in time")
        connection = HTTPConnection(self._host, self._port, timeout=left)
        # A timeout of a socket is for each read; an answer that comes octet by octet would never reach it.
        watchdog = threading.Timer(left, self._cut)
        watchdog.daemon = True
        try:
            connection.connect()
            with self._lock:
                if self._aborted:
                    raise NoAnswer(f"the connection to {self.url} was closed")
                self._socket = connection.sock
            watchdog.start()
            headers = {"Accept": "application/json"} | ({"Content-Type": "application/json"} if body else {})
            connection.request(method, self._base + path, body, headers)
            response = connection.getresponse()
            data = response.read(LARGEST + 1)
            return _read(self.url, response.status, data)
        except (HTTPException, OSError, ValueError) as error:
            if time.monotonic() >= deadline:
                raise NoAnswer(f"{self.url} did not answer in time") from error
            raise NoAnswer(f"{self.url} does not answer: {_reason(error)}") from error
        finally:
            watchdog.cancel()
            with self._lock:
                self._socket = None
            connection.close()

    def _cut(self) -> None:
        with self._lock:
            if self._socket is not None:
                try:
                    self._socket.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass


def _read(url: str, status: int, data: bytes) -> Answer:
    if len(data) > LARGEST:
        raise NoAnswer(f"{url} answers with more than {LARGEST} octets: it is not BaGPipe")
    if status == 200:
        try:
            return Answer(status, json.loads(data))
        except (ValueError, RecursionError):
            raise NoAnswer(f"the answer of {url} is not JSON: it is not BaGPipe") from None
    if status in (400, 404, 500):
        return Answer(status, None, _words(data))
    raise NoAnswer(f"{url} answers with HTTP status {status}: it is not BaGPipe")


def _words(data: bytes) -> str:
    """The text of an error: `description` of a JSON object, in one line."""
    try:
        document = json.loads(data)
        text = str(document["description"])
    except (ValueError, RecursionError, KeyError, TypeError):
        text = data[:200].decode(errors="replace")
    return " ".join(text.removeprefix("API error: ").split())[:300]


def _reason(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__
