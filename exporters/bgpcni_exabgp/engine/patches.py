"""The functions of ExaBGP that are replaced in memory, most by one that calls the original. `check` knows them all."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import exabgp.reactor.network.outgoing as outgoing
import exabgp.reactor.peer as exabgp_peer
import exabgp.rib
from exabgp.bgp.message import Notify
from exabgp.bgp.message.open.capability.capabilities import Capabilities
from exabgp.bgp.message.update.attribute.mprnlri import MPRNLRI
from exabgp.protocol.family import AFI, SAFI, Family
from exabgp.reactor.api.command.command import Command
from exabgp.reactor.api.processes import ProcessError, Processes
from exabgp.reactor.api.response.json import JSON
from exabgp.reactor.delay import Delay
from exabgp.reactor.listener import Listener
from exabgp.reactor.loop import Reactor
from exabgp.reactor.network.connection import Connection
from exabgp.reactor.network.error import NotConnected
from exabgp.reactor.peer import Peer
from exabgp.reactor.protocol import Protocol

from bgpcni_exabgp import protocol
from bgpcni_exabgp.engine import longlived
from bgpcni_exabgp.engine.command import Engine
from bgpcni_exabgp.engine.rib import GroupingRIB
from bgpcni_exabgp.engine.rtc import accept_rtc
from bgpcni_exabgp.engine.watch import News, Watch, tell, watch_of

SLOWEST_RECONNECT = 5  # seconds; ExaBGP's own back-off goes to 60
SYN_RETRIES = 2  # a peer that is away is asked again after 7 s, not after two minutes


def tapped_reader(stock: Callable[[Any], Iterator[Any]]) -> Callable[[Any], Iterator[Any]]:
    """For `Connection.reader`, which reads messages: the session's watch sees each whole one first."""

    def reader(connection: Any) -> Iterator[Any]:
        watch: Watch | None = getattr(connection, "bgpcni", None)
        for item in stock(connection):
            length, kind, _, body, notify = item
            if watch is not None and length and notify is None:
                watch.received(kind, bytes(body))
            yield item

    return reader


def unmarked_resend(stock: Callable[..., None]) -> Callable[..., None]:
    """For `Peer.resend`, which ExaBGP calls at every ROUTE-REFRESH: a marker of RFC 7313 does not ask for routes."""

    def resend(peer: Any, enhanced: bool, family: Any = None) -> None:
        watch = watch_of(peer)
        if watch is not None and watch.marker:
            watch.marker = False
            return
        stock(peer, enhanced, family)

    return resend


def watched_main(news: News, stock: Callable[[Any], Iterator[Any]]) -> Callable[[Any], Iterator[Any]]:
    """For `Peer._main`, which runs an established session: its watch looks after each step."""

    def main(peer: Any) -> Iterator[Any]:
        watch = peer.bgpcni = peer.proto.connection.bgpcni = Watch(peer, news)
        watch.tell(watch.up())
        for action in stock(peer):  # by its first step ExaBGP has queued its Adj-RIB-Out for this session
            watch.look()
            yield action

    return main


def telling_as(stock: Callable[..., None]) -> Callable[..., None]:
    """For `Protocol.validate_open`: if the peer has another AS than the configured one, the agent is told which."""

    def validate_open(session: Any) -> None:
        try:
            stock(session)
        except Notify as error:
            if (error.code, error.subcode) == (2, 2):
                address, asn = str(session.neighbor["peer-address"]), int(session.negotiated.peer_as)
                services = session.neighbor.api["neighbor-changes"]
                tell(session.peer.reactor, services, protocol.OtherAs(address, asn))
            raise

    return validate_open


def watched_update(stock: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """For `Protocol.new_update`, which writes what is queued: the watch notes up to which command that was.

    Withdrawals are always sent. ExaBGP leaves them out of the first flush of a session, but a peer that keeps routes
    over a restart (RFC 4724) still has the route.
    """

    def new_update(session: Any, include_withdraw: bool) -> Iterator[Any]:
        watch: Watch = session.peer.bgpcni
        covered = session.neighbor.rib.outgoing.sequence
        watch.flushing = True
        yield from stock(session, True)
        watch.flushing, watch.written = False, covered

    return new_update


def watched_eors(stock: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """For `Protocol.new_eors`: the watch notes when End-of-RIB was written."""

    def new_eors(session: Any, afi: Any = AFI.undefined, safi: Any = SAFI.undefined) -> Iterator[Any]:
        yield from stock(session, afi, safi)
        watch: Watch = session.peer.bgpcni
        if afi != AFI.undefined:
            watch.end_of_rib_sent(f"{afi}/{safi}")

    return new_eors


def eager_wait(
    news: News, keep: Callable[[], None], stock: Callable[..., Iterator[Any]]
) -> Callable[..., Iterator[Any]]:
    """For `Reactor._wait_for_io`: while an acknowledgement is due it waits for a millisecond only. Calls `keep` too."""

    def wait(reactor: Any, milliseconds: int) -> Iterator[Any]:
        news.report(reactor)
        keep()
        watches = (getattr(peer, "bgpcni", None) for peer in reactor._peers.values())
        if milliseconds > 1 and any(watch is not None and watch.expectant() for watch in watches):
            milliseconds = 1
        yield from stock(reactor, milliseconds)

    return wait


class PatientDelay(Delay):  # type: ignore[misc]  # ExaBGP has no types
    """ExaBGP's pause between two attempts to connect, but a short one."""

    def increase(self) -> None:
        super().increase()
        self._next: int = min(self._next, SLOWEST_RECONNECT)


# --- where ExaBGP is too strict, or not strict enough -------------------------------------------


def accept_next_hops() -> None:
    """Accept next hops that RFCs allow, but over which ExaBGP would end the session."""
    ipv4, ipv6 = (4,), (16, 32)
    Family.size.update(
        {
            (AFI.ipv4, SAFI.mpls_vpn): ((12, 24), 8),  # RFC 8950: an IPv6 next hop for VPN-IPv4
            (AFI.ipv6, SAFI.mpls_vpn): ((24, 40), 8),
            (AFI.l2vpn, SAFI.evpn): (ipv4 + ipv6, 0),  # RFC 8365: an IPv6 VTEP
            (AFI.ipv4, SAFI.evpn): (ipv4, 0),  # ExaBGP looks these two up if RFC 8950 is negotiated
            (AFI.ipv6, SAFI.evpn): (ipv6, 0),
        }
    )
    stock = MPRNLRI.unpack.__func__

    def unpack(cls: type, data: bytes, direction: Any, negotiated: Any) -> Any:
        # RFC 4659 section 3.2.1.1: 48 octets, twice RD and address; the first is the global one
        if len(data) > 52 and data[2] == SAFI.mpls_vpn and data[3] == 48:
            data = bytes(data[:3]) + b"\x18" + bytes(data[4:28]) + bytes(data[52:])
        return stock(cls, data, direction, negotiated)

    MPRNLRI.unpack = classmethod(unpack)


def gtsm_listen(stock: Callable[..., bool]) -> Callable[..., bool]:
    """For `Listener.listen_on`: what we answer to a peer that connects has the hop limit of RFC 5082, too."""

    def listen_on(listener: Any, local: Any, remote: Any, port: int, password: Any, base64: Any, ttl: Any) -> bool:
        listens = stock(listener, local, remote, port, password, base64, ttl)
        if listens and ttl:
            for io, (address, *_) in listener._sockets.items():
                if address == local.top() and io.family == socket.AF_INET6:
                    io.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 255)
                elif address == local.top():
                    io.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 255)
        return listens

    return listen_on


_destinations: WeakKeyDictionary[socket.socket, tuple[str, bool]] = WeakKeyDictionary()
"""For each connection that is being made: the peer's address, and whether there is a password."""


def bounded_connect(news: News, stock: Callable[..., Any]) -> Callable[..., Any]:
    """For ExaBGP's `connect`: it gives up after seconds if the peer does not answer."""

    def connect(io: socket.socket, ip: str, port: int, afi: Any, md5: Any) -> Any:
        _destinations[io] = ip, bool(md5)
        io.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, SYN_RETRIES)
        try:
            return stock(io, ip, port, afi, md5)
        except NotConnected as error:
            news.unreached(ip, getattr(error.__context__, "errno", None) or 0, False)
            raise

    return connect


def telling_ready(news: News) -> Callable[[socket.socket], Iterator[tuple[bool, str]]]:
    """In place of ExaBGP's `ready`, which takes a refused connection for an established one. This one raises."""

    def ready(io: socket.socket) -> Iterator[tuple[bool, str]]:
        poller = select.poll()
        poller.register(io, select.POLLOUT)
        while not poller.poll(0):
            yield False, "waiting"
        number = io.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            address, password = _destinations[io]
            news.unreached(address, number, password)
            raise NotConnected(os.strerror(number))
        yield True, "connected"

    return ready


def surviving_write(stock: Callable[..., Any]) -> Callable[..., Any]:
    """For `Processes.write`: if the relay has just died, ExaBGP would end all sessions for good.

    Instead the line is lost. ExaBGP starts the relay again when it next reads from it, and the agent asks for the state
    when it connects.
    """

    def write(processes: Any, process: str, string: str | None, neighbor: Any = None) -> Any:
        try:
            return stock(processes, process, string, neighbor)
        except (ProcessError, KeyError):
            processes._broken = [name for name in processes._broken if name != process]
            return False

    return write


def valid_neighbor(stock: Callable[..., str]) -> Callable[..., str]:
    """For `JSON._neighbor`: where the peer may have any AS, ExaBGP writes `None`, which is no JSON."""

    def neighbor_words(response: Any, neighbor: Any, direction: Any, content: Any) -> str:
        return stock(response, neighbor, direction, content).replace('"peer": None }', '"peer": 0 }', 1)

    return neighbor_words


def install(engine: Engine, keep: Callable[[], None]) -> None:
    """Replace the functions, and add the command. `keep` is called in each round of ExaBGP's loop."""
    news = engine.news
    accept_next_hops()
    accept_rtc()
    exabgp.rib.OutgoingRIB = GroupingRIB
    exabgp_peer.Delay = PatientDelay
    outgoing.connect = bounded_connect(news, outgoing.connect)
    outgoing.ready = telling_ready(news)
    Listener.listen_on = gtsm_listen(Listener.listen_on)
    Processes.write = surviving_write(Processes.write)
    Reactor._wait_for_io = eager_wait(news, keep, Reactor._wait_for_io)
    Connection.reader = tapped_reader(Connection.reader)
    Peer.resend = unmarked_resend(Peer.resend)
    Peer._main = watched_main(news, Peer._main)
    Protocol.new_update = watched_update(Protocol.new_update)
    Protocol.new_eors = watched_eors(Protocol.new_eors)
    JSON._neighbor = valid_neighbor(JSON._neighbor)
    Capabilities.new = longlived.offering(Capabilities.new)
    Protocol.validate_open = telling_as(Protocol.validate_open)
    # ExaBGP ignores a reload while routes are queued, and for a neighbour that is away they always are
    Reactor._pending_adjribout = lambda reactor: False
    stock_reload = Reactor.reload
    Reactor.reload = lambda reactor: engine.reload(stock_reload, reactor)

    @Command.register("bgpcni")  # type: ignore[untyped-decorator]  # ExaBGP has no types
    def command(api: Any, reactor: Any, service: str, line: str, use_json: bool) -> bool:
        return engine.run(reactor, service, line)

    # first in the list: ExaBGP takes the first command of which the line contains the name
    Command.functions.remove("bgpcni")
    Command.functions.insert(0, "bgpcni")
