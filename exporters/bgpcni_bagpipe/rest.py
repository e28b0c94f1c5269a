"""One BaGPipe daemon over HTTP: a request, its answer, and a deadline that always holds.

Knows octets and JSON, not what is attached. The server closes after each answer and keeps five waiting, so there
is one connection for each request and one request at a time. No redirects are followed and no proxy is asked.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError

LARGEST = 1 << 26
"""Octets of an answer. Ten thousand endpoints are two million."""


class NoAnswer(Exception):
    """The daemon did not answer, or what answered is no BaGPipe."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, and the JSON document; `words` is what an error says, for people."""

    status: int
    document: Any
    words: str = ""


class Daemon:
    """For one thread at a time, but for `abort`, which any thread may call."""

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
        """End the request that runs, and refuse all further ones."""
        with self._lock:
            self._aborted = True
        self._cut()

    def _ask(self, method: str, path: str, body: bytes | None, deadline: float) -> Answer:
        """Raises NoAnswer."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise NoAnswer(f"{self.url} did not answer in time")
        connection = HTTPConnection(self._host, self._port, timeout=left)
        # A read has no deadline of its own against an answer that comes octet by octet.
        watchdog = threading.Timer(left, self._cut)
        watchdog.daemon = True
        try:
            connection.connect()
            with self._lock:
                if self._aborted:
                    raise NoAnswer(f"{self.url} is not asked any more")
                self._socket = connection.sock
            watchdog.start()
            headers = {"Accept": "application/json"} | ({"Content-Type": "application/json"} if body else {})
            connection.request(method, self._base + path, body, headers, preload_content=False)
            response = connection.getresponse()
            data = response.read(LARGEST + 1, decode_content=False)
            return _read(self.url, response.status, data)
        except (HTTPError, HTTPException, OSError, ValueError) as error:
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
        raise NoAnswer(f"{url} answers more than {LARGEST} octets: it is no BaGPipe")
    if status == 200:
        try:
            return Answer(status, json.loads(data))
        except (ValueError, RecursionError):
            raise NoAnswer(f"{url} answers no JSON: it is no BaGPipe") from None
    if status in (400, 404, 500):
        return Answer(status, None, _words(data))
    raise NoAnswer(f"{url} answers HTTP status {status}: it is no BaGPipe")


def _words(data: bytes) -> str:
    """What an error says: `description` of a JSON object, one line."""
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
