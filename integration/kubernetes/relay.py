"""The way between clients and an API server, which goes wrong on purpose: cut at any octet, held, refused.

It passes octets on, and knows nothing of what they say.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(slots=True)
class Line:
    """What goes wrong."""

    cuts: deque[int] = field(default_factory=deque)
    """For the next connections, one each: it is reset after so many octets of answers."""
    held: bool = False
    """Nothing is passed on any more, and nothing ends: a server that hangs, a way that swallows packets."""
    refused: bool = False
    """New connections are reset at once."""


class Relay:
    """Listens on a socket, with TLS if `tls` is given, and connects to the server for each connection."""

    def __init__(
        self, sock: socket.socket, connect: Callable[[], Awaitable[Stream]], tls: ssl.SSLContext | None
    ) -> None:
        self.line = Line()
        self._socket, self._connect, self._tls = sock, connect, tls
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, sock=self._socket, ssl=self._tls)

    def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()

    def cut(self) -> None:
        """Reset every open connection."""
        for stream in list(self._open):
            stream.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.line.refused:
            writer.transport.abort()
            return
        left = self.line.cuts.popleft() if self.line.cuts else None
        up, down = await self._connect()
        self._open |= {writer, down}
        tasks = [
            asyncio.ensure_future(self._requests(reader, down)),
            asyncio.ensure_future(self._answers(up, writer, left)),
        ]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for stream in (writer, down):
            self._open.discard(stream)
            stream.close()

    async def _requests(self, reader: asyncio.StreamReader, down: asyncio.StreamWriter) -> None:
        while octets := await reader.read(65536):
            await self._while_held()
            down.write(octets)

    async def _answers(self, up: asyncio.StreamReader, writer: asyncio.StreamWriter, left: int | None) -> None:
        while octets := await up.read(65536):
            await self._while_held()
            if left is not None and left <= len(octets):
                writer.write(octets[:left])
                await writer.drain()
                return
            left = None if left is None else left - len(octets)
            writer.write(octets)
            await writer.drain()

    async def _while_held(self) -> None:
        while self.line.held:
            await asyncio.sleep(0.01)
