"""Watches the established sessions: how far each one got, and when its peer has told all its routes.

It tells the agent of both, and never changes what ExaBGP sends.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import termios
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from exabgp.bgp.fsm import FSM
from exabgp.bgp.message import Message, Notify
from exabgp.bgp.message.open.capability import Capability
from exabgp.bgp.message.open.capability.refresh import REFRESH
from exabgp.bgp.message.refresh import RouteRefresh
from exabgp.protocol.family import AFI, SAFI

from bgpcni_exabgp import protocol
from bgpcni_exabgp.engine import longlived
from bgpcni_exabgp.engine.rib import IPV4, MP_UNREACH_NLRI, AfiSafi, extended

EXPECTANT = 0.05  # seconds
BYTES_ACKED = struct.Struct("=Q"), 120  # struct tcp_info, linux/tcp.h
QUIET = 3.0
"""Seconds without a route after which a peer that marks no end is taken to have told all."""
MARKED = 60.0
"""The same for a peer that should mark the end and does not."""


def tell(reactor: Any, services: Iterable[str], event: protocol.EngineEvent) -> None:
    """Write an event to these API processes."""
    text = protocol.encode_event(event)
    for service in services:
        reactor.processes.write(service, text)


class News:
    """What is told of all neighbours together: who cannot be connected to, and whether UPDATEs are passed on."""

    def __init__(self) -> None:
        self.listening = False
        self.told: dict[str, str] = {}
        """Why each peer that cannot be connected to is not, as it was told."""
        self._failures: dict[str, str] = {}  # the same, not told yet

    def unreached(self, address: str, number: int, password: bool) -> None:
        """An attempt to connect failed with this errno."""
        if number:
            doubt = ", or the passwords differ" if password and number == errno.ETIMEDOUT else ""
            self._failures[address] = os.strerror(number) + doubt

    def reached(self, address: str) -> None:
        self._failures.pop(address, None)
        self.told.pop(address, None)

    def report(self, reactor: Any) -> None:
        """Tell of peers that cannot be connected to, once for each new reason."""
        while self._failures and reactor.processes is not None:
            address, reason = self._failures.popitem()
            if self.told.get(address) != reason:
                self.told[address] = reason
                tell(reactor, list(reactor.processes._process), protocol.Unreached(address, reason))


class Awaited:
    """The end of what a peer tells of one family. After `patience` seconds without a route it is assumed."""

    __slots__ = ("patience", "until")

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.heard()

    def heard(self) -> None:
        """A route came: the wait begins anew."""
        self.until = time.monotonic() + self.patience


class Watch:
    """How far one established session got: which commands are in its socket, and which the peer acknowledged.

    Received UPDATEs pass by here on their way to ExaBGP, which does not look into them.
    """

    def __init__(self, peer: Any, news: News) -> None:
        self.peer = peer
        self.news = news
        self.address = str(peer.neighbor["peer-address"])
        news.reached(self.address)
        self.end: Notify | None = None
        negotiated = peer.proto.negotiated
        restart = negotiated.received_open.capabilities.get(Capability.CODE.GRACEFUL_RESTART, {})
        self.asn = int(negotiated.peer_as)
        self.asn4 = bool(negotiated.asn4)
        self.graceful = _names(restart)
        self.long_lived = longlived.received(negotiated.received_open.capabilities)
        self.refreshes = negotiated.refresh != REFRESH.ABSENT
        usable = [family for family in negotiated.families if family != IPV4 or not self._unnumbered(negotiated)]
        self.families = _names(usable) if self.asn4 else ()
        self.asked: set[tuple[int, int]] = set()
        # RFC 4724 section 3: a peer with the capability sends End-of-RIB, even if it lists no family in it
        marks = Capability.CODE.GRACEFUL_RESTART in negotiated.received_open.capabilities
        self.awaited: dict[tuple[int, int], Awaited] = {}
        for afi, safi in negotiated.families:
            self.awaited[int(afi), int(safi)] = Awaited(MARKED if marks else QUIET)
        self.marker = False  # the message just read is a marker of RFC 7313, which asks for nothing
        self.started: int = peer.neighbor.rib.outgoing.sequence
        self.flushing = False
        self.written = -1
        self.sent = self.acked = -1
        self.eor: set[str] = set()
        self.ended: set[str] = set()
        # once bytes_acked is that high, this is acknowledged: a command's number, or the End-of-RIB of a family
        self._unacked: deque[tuple[int, int | str]] = deque()
        self._written_at = 0.0

    def up(self) -> protocol.Up:
        return protocol.Up(
            self.address, self.families, self.started, self.asn4, self.graceful, self.refreshes, self.long_lived,
            self.asn,
        )  # fmt: skip

    def _unnumbered(self, negotiated: Any) -> bool:
        """Whether the link has no IPv4 next hops and the peer takes no others (RFC 8950)."""
        return bool(self.peer.neighbor["source-interface"]) and not extended(negotiated)

    def tell(self, event: protocol.EngineEvent) -> None:
        tell(self.peer.reactor, self.peer.neighbor.api["neighbor-changes"], event)

    def expectant(self) -> bool:
        """Whether an acknowledgement should come just now. A delayed one (RFC 1122: up to 500 ms) is not waited for."""
        return bool(self._unacked) and time.monotonic() - self._written_at < EXPECTANT

    def refresh(self, families: list[AfiSafi]) -> None:
        """Ask for these families again (RFC 2918)."""
        negotiated = self.peer.proto.negotiated
        wait = MARKED if negotiated.refresh == REFRESH.ENHANCED else QUIET
        for afi, safi in families:
            if (afi, safi) in negotiated.families and self.refreshes:
                self.peer.neighbor.refresh.append(RouteRefresh(afi, safi))
                self.awaited[int(afi), int(safi)] = Awaited(wait)
                self.asked.add((int(afi), int(safi)))

    def resend(self, families: list[AfiSafi]) -> None:
        """Send the routes of these families again, without the markers of RFC 7313: the peer did not ask."""
        for family in families:
            self.peer.neighbor.rib.outgoing.resend(False, family)
        self.peer._delay.reset()

    def received(self, kind: int, body: bytes) -> None:
        """A message before ExaBGP sees it."""
        if kind == Message.CODE.UPDATE:
            if self.news.listening:
                self.tell(protocol.UpdateReceived(self.address, body))
            for awaited in self.awaited.values():
                awaited.heard()
            ended = end_of_rib(body)
            if ended is not None and ended not in self.asked:
                self.awaited.pop(ended, None)
        elif kind == Message.CODE.ROUTE_REFRESH and len(body) == 4:
            self.marker = body[2] != RouteRefresh.request
            if body[2] == RouteRefresh.end:
                self._told(int.from_bytes(body[:2], "big"), body[3])

    def _told(self, afi: int, safi: int) -> None:
        self.asked.discard((afi, safi))
        if self.awaited.pop((afi, safi), None) is not None and self.news.listening:
            self.tell(protocol.ToldAll(self.address, f"{AFI.create(afi)}/{SAFI.create(safi)}"))

    def look(self) -> None:
        """Tell what is new. ExaBGP's loop calls this at each turn of the session, every 10 ms at least."""
        if self.end is not None:
            raise self.end
        io = self.peer.proto and self.peer.proto.connection and self.peer.proto.connection.io
        if self.awaited:
            now = time.monotonic()
            quiet = [family for family, awaited in self.awaited.items() if awaited.until <= now]
            if quiet and not (io and _unread(io)):  # if there is something to read, it is we who are late
                for afi, safi in quiet:
                    self._told(afi, safi)
        rib = self.peer.neighbor.rib.outgoing
        if not self.flushing and not rib.pending():
            self.written = rib.sequence
        if not io:
            return
        if self.written > self.sent:
            self.sent = self.written
            self.tell(protocol.Sent(self.address, self.sent))
            self._await_ack(io, self.sent)
        if self._unacked:
            acked = _acked(io)
            before = self.acked
            while self._unacked and self._unacked[0][0] <= acked:
                _, what = self._unacked.popleft()
                if isinstance(what, str):
                    self.ended.add(what)
                    self.tell(protocol.EndOfRibAcked(self.address, what))
                else:
                    self.acked = what
            if self.acked > before:
                self.tell(protocol.Acked(self.address, self.acked))

    def end_of_rib_sent(self, family: str) -> None:
        """End-of-RIB of this family was written."""
        self.eor.add(family)
        self.tell(protocol.EndOfRibSent(self.address, family))
        self._await_ack(self.peer.proto.connection.io, family)

    def _await_ack(self, io: socket.socket, what: int | str) -> None:
        self._unacked.append((_written(io), what))
        self._written_at = time.monotonic()


def _names(families: Iterable[AfiSafi]) -> tuple[str, ...]:
    return tuple(f"{afi}/{safi}" for afi, safi in families)


def _unread(io: socket.socket) -> int:
    """How many octets came over this connection and were not read yet."""
    (octets,) = struct.unpack("i", fcntl.ioctl(io.fileno(), termios.FIONREAD, bytes(4)))
    return int(octets)


def _acked(io: socket.socket) -> int:
    """How many octets of this connection the peer's TCP has acknowledged."""
    layout, offset = BYTES_ACKED
    info = io.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, offset + layout.size)
    return int(layout.unpack_from(info, offset)[0])


def _written(io: socket.socket) -> int:
    """How many octets were written to this connection: those acknowledged and those in the queue, at one moment."""
    acked = _acked(io)
    while True:
        (queued,) = struct.unpack("i", fcntl.ioctl(io.fileno(), termios.TIOCOUTQ, bytes(4)))
        again = _acked(io)
        if again == acked:
            return acked + int(queued)
        acked = again


def watch_of(peer: Any) -> Watch | None:
    """The watch of an established session."""
    watch: Watch | None = getattr(peer, "bgpcni", None)
    return watch if peer.fsm == FSM.ESTABLISHED else None


def end_of_rib(body: bytes) -> tuple[int, int] | None:
    """AFI and SAFI whose End-of-RIB an UPDATE is (RFC 4724 section 2), None if it is none."""
    if body == bytes(4):
        return 1, 1
    head = body[6:7] if len(body) == 10 else body[6:8] if len(body) == 11 else b""
    if body[:2] != b"\0\0" or body[5:6] != bytes([MP_UNREACH_NLRI]) or int.from_bytes(head, "big") != 3:
        return None
    return int.from_bytes(body[-3:-1], "big"), body[-1]
