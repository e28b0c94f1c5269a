"""ExaBGP's API process: joins its pipes to an agent on a unix socket, `python -m bgpcni_exabgp.relay SOCKET`.

ExaBGP writes to its API process with blocking writes, so whatever happens to the agent the pipe is drained here;
and it gives up for good after a few deaths of that process, so this one ends only when its stdin does. One agent
at a time: a newer one replaces the older. It gets, first,

    {"relay": {"version": 1, "up": {"198.51.100.1": ["ipv4/unicast", ...]}, "down": [...], "lost": 3}}

(established sessions with the families negotiated, those that were, and the lines dropped while no agent was there)
and then whatever ExaBGP says. Answers owed to an earlier agent are swallowed; half a line of one is not passed on.
Nothing is interpreted but session states, so it serves our engine and an ExaBGP that the user runs alike.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from asyncio.streams import FlowControlMixin

LINE = 1 << 20
"""Longest line passed on, octets; ExaBGP ends its process over a longer one, or one that is not ASCII."""
BACKLOG = 64 << 20
"""Octets held for an agent that does not read; beyond it is cut off, and has to connect and replay."""

LOOK = 1.0
"""Seconds between looks whether the socket is still there."""

PEER = re.compile(r'"peer": "([0-9a-fA-F.:]+)"')
FAMILIES = re.compile(r'"families": "?\[([^\]]*)\]')
FAMILY = re.compile(r"(ipv4|ipv6|l2vpn)[ /]([a-z-]+)")


class Relay:
    """The state of the relay; `run` serves until ExaBGP closes its end."""

    def __init__(self) -> None:
        self.agent: asyncio.StreamWriter | None = None
        self.exabgp: asyncio.StreamWriter | None = None
        self.up: dict[str, list[str]] = {}
        self.down: set[str] = set()
        self.families: dict[str, list[str]] = {}
        self.owed = self.stale = self.lost = 0  # answers to come, those for earlier agents, lines dropped

    def track(self, line: bytes) -> bool:
        """Note what a line of ExaBGP says; tell whether it is for the agent."""
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
                self.up[peer] = self.families.get(peer, [])
                self.down.discard(peer)
            elif neighbor["state"] == "down":
                self.up.pop(peer, None)
                self.down.add(peer)
        return True

    def negotiated(self, line: str) -> None:
        """What a session negotiated. Before 5.0.15 that line is no JSON; the agent gets one that is."""
        peer = PEER.search(line)
        families = FAMILIES.search(line)
        if peer and families:
            names = ["/".join(found) for found in FAMILY.findall(families[1])]
            self.families[peer[1]] = names
            if self.agent is not None:
                self.agent.write(json.dumps({"relay": {"peer": peer[1], "families": names}}).encode() + b"\n")

    def deliver(self, line: bytes) -> None:
        if not self.track(line):
            return  # an answer for nobody, or told already
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
        hello = {"relay": {"version": 1, "up": self.up, "down": sorted(self.down), "lost": self.lost}}
        self.lost = 0
        writer.write(json.dumps(hello).encode() + b"\n")
        try:
            while (line := await reader.readline()).endswith(b"\n") and line.isascii() and self.agent is writer:
                self.owed += 1
                self.exabgp.write(line)
                await self.exabgp.drain()
        except (ValueError, ConnectionError, asyncio.CancelledError):
            pass  # a line too long, a reset, or our own end: this agent is dropped
        if self.agent is writer:
            self.agent = None
        writer.transport.abort()

    async def run(self, path: str) -> None:
        loop = asyncio.get_running_loop()
        events = asyncio.StreamReader(LINE, loop)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(events), sys.stdin.buffer)
        transport, protocol = await loop.connect_write_pipe(FlowControlMixin, sys.stdout.buffer)
        self.exabgp = asyncio.StreamWriter(transport, protocol, None, loop)
        os.umask(0o177)  # the socket is for its owner alone
        try:
            os.unlink(path)  # of an earlier life: asyncio removes only what it can tell to be a socket
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
        """Make the socket again where somebody removed it: the next agent could not find this ExaBGP."""
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
            except ValueError:  # longer than LINE: readline has discarded it
                self.lost += 1
                continue
            if not line:
                return
            try:
                self.deliver(line)
            except (ValueError, KeyError, TypeError):  # not the JSON we know: no reason to die
                self.lost += 1


def main() -> int:
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m bgpcni_exabgp.relay SOCKET\n")
        return 2
    asyncio.run(Relay().run(sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
