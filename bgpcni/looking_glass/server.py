"""HTTP within bounds: uvicorn, with deadlines for clients that send slowly or do not read what they are sent."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from bgpcni.looking_glass.guard import LONGEST_HEAD

MOST_CONNECTIONS = 200
REQUEST_SECONDS = 10.0
"""From a connection, or the first octet of a request, until its headers have arrived."""
STALL_SECONDS = 20.0
"""How long a client may leave unread what it is sent."""
HANDSHAKE_SECONDS = 10.0
IDLE_SECONDS = 30
"""How long a connection is kept after an answer."""
ENDING_SECONDS = 2


class Bounded(H11Protocol):
    """One connection. uvicorn bounds the headers' size; what takes too long is cut here."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._late = _Deadline(self, REQUEST_SECONDS)
        self._stalled = _Deadline(self, STALL_SECONDS)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        else:
            self._late.begin()

    def data_received(self, data: bytes) -> None:
        self._late.begin()
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._late.met()  # the headers are here

    def on_response_complete(self) -> None:
        self._late.met()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled.begin()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stalled.met()

    def connection_lost(self, exc: Exception | None) -> None:
        self._late.met()
        self._stalled.met()
        super().connection_lost(exc)


class _Deadline:
    """Cuts a connection off unless it is `met` in time."""

    def __init__(self, protocol: Bounded, seconds: float) -> None:
        self._protocol, self._seconds = protocol, seconds
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        if self._timer is None:
            self._timer = self._protocol.loop.call_later(self._seconds, self._protocol.transport.abort)

    def met(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Server(uvicorn.Server):
    """uvicorn's, on sockets that are open already. SIGTERM and SIGINT end it, and so does `end`; none is an error."""

    def __init__(self, app: ASGIApp, tls: ssl.SSLContext | None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Bounded,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                h11_max_incomplete_event_size=LONGEST_HEAD,
                timeout_keep_alive=IDLE_SECONDS,
                timeout_graceful_shutdown=ENDING_SECONDS,
            )
        )
        self._tls = tls

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        limits: dict[str, Any] = {"ssl": self._tls, "ssl_handshake_timeout": HANDSHAKE_SECONDS} if self._tls else {}
        loop = asyncio.get_running_loop()
        self.servers = [await loop.create_server(self._connection, sock=sock, **limits) for sock in sockets or ()]
        self.started = True

    def _connection(self) -> Bounded:
        return Bounded(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is threading.main_thread():
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self.end)
        yield

    def end(self) -> None:
        self.should_exit = True
