"""ExaBGP's API process: connects ExaBGP's pipes with an agent on a unix socket. `python -m bgpcni_exabgp.relay SOCKET`.

ExaBGP blocks while it writes to its API process, so the relay always reads, whatever happens to the agent. And ExaBGP
gives up for good after its API process has died a few times, so the relay ends only when its stdin does.

It serves one agent at a time, the newest. An agent gets a `Hello` (`protocol`) first, and then every line that ExaBGP
writes; but not the answers to lines of an earlier agent, of which no half line is passed on either. The relay
understands only the states of sessions, so it serves our engine and an ExaBGP of the user's in the same way. One kind
of line is for itself: a signal that it sends ExaBGP, for an agent in another PID namespace.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from asyncio.streams import FlowControlMixin

from bgpcni_exabgp.protocol import RELAY, Hello, Negotiated, decode_signal, encode_event

LINE = 1 << 20
"""Octets of the longest line that is passed on. ExaBGP would end the relay over a longer one, or one not in ASCII."""
BACKLOG = 64 << 20
"""Octets that are kept for an agent that does not read. If there are more, its connection is closed."""

LOOK = 1.0
"""Seconds between two looks whether the socket is still there."""

PEER = re.compile(r'"peer": "([0-9a-fA-F.:]+)"')
FAMILIES = re.compile(r'"families": "?\[([^\]]*)\]')
FAMILY = re.compile(r"(ipv4|ipv6|l2vpn)[ /]([a-z-]+)")


class Relay:
    """`run` serves agents until ExaBGP closes its end."""

    def __init__(self) -> None:
        self.agent: asyncio.StreamWriter | None = None
        self.exabgp: asyncio.StreamWriter | None = None
        self.up: dict[str, tuple[str, ...]] = {}
        self.down: set[str] = set()
        self.families: dict[str, tuple[str, ...]] = {}
        parent = os.getppid()
        self.parent = os.pidfd_open(parent) if parent > 1 else None  # 1: ExaBGP is gone already, and so will we be
        self.owed = self.stale = self.lost = 0  # answers to come, how many of them for earlier agents, lines dropped

    def track(self, line: bytes) -> bool:
        """Note what a line of ExaBGP says. True if the agent gets the line."""
        if line in (b"done\n", b"error\n"):
            self.owed = max(0, self.owed - 1)
            mine = self.stale == 0
            self.stale = max(0, self.stale - 1)
            return mine
        if b'"type": "negotiated"' in line:
            self.negotiated(line.decode("ascii"))
            return False
        if b'"type": "state"' in line:
            neighbor = json.loads(line)["neighbor"]
            peer = neighbor["address"]["peer"]
            if neighbor["state"] == "up":
                self.up[peer] = self.families.get(peer, ())
                self.down.discard(peer)
            elif neighbor["state"] == "down":
                self.up.pop(peer, None)
                self.down.add(peer)
        return True

    def negotiated(self, line: str) -> None:
        """Note what a session negotiated, and tell the agent. Before ExaBGP 5.0.15 that line is no JSON."""
        peer = PEER.search(line)
        families = FAMILIES.search(line)
        if peer and families:
            names = tuple("/".join(found) for found in FAMILY.findall(families[1]))
            self.families[peer[1]] = names
            if self.agent is not None:
                self.agent.write(encode_event(Negotiated(peer[1], names)).encode() + b"\n")

    def deliver(self, line: bytes) -> None:
        if not self.track(line):
            return  # an answer for an earlier agent, or something that the agent was told in other words
        if self.agent is None:
            self.lost += 1
            return
        self.agent.write(line)
        if self.agent.transport.get_write_buffer_size() > BACKLOG:
            self.agent.transport.abort()
            self.agent = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self.exabgp is not None
        if self.agent is not None:
            self.agent.transport.abort()
        self.agent, self.stale = writer, self.owed
        hello = Hello(RELAY, self.up, tuple(sorted(self.down)), self.lost)
        self.lost = 0
        writer.write(encode_event(hello).encode() + b"\n")
        try:
            while (line := await reader.readline()).endswith(b"\n") and line.isascii() and self.agent is writer:
                if (number := decode_signal(line)) is not None:
                    self.signal(number)
                    continue
                self.owed += 1
                self.exabgp.write(line)
                await self.exabgp.drain()
        except (ValueError, ConnectionError, asyncio.CancelledError):
            pass  # a line that is too long, a reset, or our own end: the connection is closed
        if self.agent is writer:
            self.agent = None
        writer.transport.abort()

    def signal(self, number: int) -> None:
        """Send ExaBGP, our parent, a signal: for an agent that cannot see its process."""
        if self.parent is not None and number:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.parent, number)

    async def run(self, path: str) -> None:
        loop = asyncio.get_running_loop()
        events = asyncio.StreamReader(LINE, loop)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(events), sys.stdin.buffer)
        transport, protocol = await loop.connect_write_pipe(FlowControlMixin, sys.stdout.buffer)
        self.exabgp = asyncio.StreamWriter(transport, protocol, None, loop)
        os.umask(0o177)  # the socket is for its owner alone
        try:
            os.unlink(path)  # of an earlier relay; asyncio itself removes only sockets
        except FileNotFoundError:
            pass
        keeping = asyncio.create_task(self.keep(await self.listen(path), path))
        try:
            await self.read(events)
        finally:
            keeping.cancel()

    async def listen(self, path: str) -> asyncio.Server:
        return await asyncio.start_unix_server(self.serve, path, limit=LINE)

    async def keep(self, server: asyncio.Server, path: str) -> None:
        """If somebody removed the socket, make it again, so that the next agent finds this ExaBGP."""
        while True:
            await asyncio.sleep(LOOK)
            if not os.path.lexists(path) and os.path.isdir(os.path.dirname(path)):
                try:
                    fresh = await self.listen(path)
                except OSError:
                    continue  # the folder went again
                server.close()
                server = fresh

    async def read(self, events: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await events.readline()
            except ValueError:  # longer than LINE, and readline has dropped it
                self.lost += 1
                continue
            if not line:
                return
            try:
                self.deliver(line)
            except (ValueError, KeyError, TypeError):  # not the JSON that we know, which is no reason to end
                self.lost += 1


def main() -> int:
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m bgpcni_exabgp.relay SOCKET\n")
        return 2
    asyncio.run(Relay().run(sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
