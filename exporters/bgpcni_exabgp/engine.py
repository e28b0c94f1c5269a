"""ExaBGP with one more API command, `bgpcni`, that takes encoded routes: `python -m bgpcni_exabgp.engine CONF`.

ExaBGP is imported and stays unchanged on disk; it has the sessions, the state machine, the capabilities and the
timers. What is replaced in memory is its Adj-RIB-Out, so that per flush a route has one state, the newest, and
routes are grouped into few UPDATEs. Nothing else of this project is imported here.

The command, one line each, answered in order by `done` or `error` and applied whole or not at all:

    bgpcni state                                          answers with an event, see below
    bgpcni announce SEQ AFI/SAFI TAG NEXT-HOP IBGP/EBGP NLRI[:KEY] ...
    bgpcni withdraw SEQ AFI/SAFI NLRI[:KEY] ...
    bgpcni mark SEQ                                       everything held is in doubt, until
    bgpcni keep SEQ AFI/SAFI KEY ...                      these are not,
    bgpcni spare SEQ TAG ...                              nor is what has one of these tags;
    bgpcni sweep SEQ                                      what is still in doubt is withdrawn
    neighbor ADDRESS bgpcni eor SEQ AFI/SAFI              End-of-RIB (RFC 4724) after what is queued
    bgpcni listen SEQ yes|no                              whether received UPDATEs are told
    [neighbor ADDRESS] bgpcni refresh SEQ AFI/SAFI ...    ask established peers for all their routes again
    neighbor ADDRESS bgpcni end SEQ CODE SUBCODE          end the session with this NOTIFICATION

SEQ is a number that only grows. IBGP and EBGP are the path attributes for each kind of neighbour, without
NEXT_HOP, MP_REACH_NLRI and MP_UNREACH_NLRI; they, the TAG, NLRI and KEY are in hexadecimal, `-` is none. KEY
identifies the route where the NLRI has more in it. Octets are not checked: that is done before they get here.

Events, one JSON object a line, to the API process of each neighbour:

    {"bgpcni": "state", "protocol": P, "seq": N, "digest": D, "neighbors": [...]}
    {"bgpcni": "configured", "digest": D, "error": ""}    after a reload; D: SHA-256 of the configuration
    {"bgpcni": "up", "peer": A, "families": [...], "seq": N, "asn4": B, "graceful": [...], "refresh": B}
    {"bgpcni": "unreached", "peer": A, "reason": R}       no connection to it can be made, told once
    {"bgpcni": "as", "peer": A, "asn": N}                 its OPEN has this AS, over which the session ends
    {"bgpcni": "sent", "peer": A, "seq": N}               all up to N is in the socket of this session
    {"bgpcni": "acked", "peer": A, "seq": N}              and acknowledged by the peer's TCP
    {"bgpcni": "eor", "peer": A, "family": F}             End-of-RIB is in the socket
    {"bgpcni": "ended", "peer": A, "family": F}           and acknowledged by the peer's TCP
    {"bgpcni": "update", "peer": A, "octets": HEX}        a received UPDATE without its header, while `listen yes`
    {"bgpcni": "told", "peer": A, "family": F}            what was asked for, or a new session's first, is all told

The end of what a peer tells is its own marker: End-of-RIB in a new session (RFC 4724), the end of the answer to a
refresh (RFC 7313). Of a peer that negotiated none of them it is QUIET seconds without a route; of one that owes its
marker, MARKED.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import inspect
import json
import os
import select
import socket
import struct
import sys
import termios
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import exabgp.reactor.network.outgoing as outgoing
import exabgp.reactor.peer as exabgp_peer
import exabgp.rib
from exabgp.bgp.fsm import FSM
from exabgp.bgp.message import Action, Message, Notify, Update
from exabgp.bgp.message.open.capability import Capability
from exabgp.bgp.message.open.capability.refresh import REFRESH
from exabgp.bgp.message.refresh import RouteRefresh
from exabgp.bgp.message.update.attribute.mprnlri import MPRNLRI
from exabgp.bgp.message.update.attribute.nexthop import NextHop
from exabgp.bgp.message.update.nlri import NLRI
from exabgp.configuration.configuration import Configuration
from exabgp.environment import getenv
from exabgp.logger import log
from exabgp.protocol.family import AFI, SAFI, Family
from exabgp.protocol.ip import NoNextHop
from exabgp.reactor.api.command.command import Command
from exabgp.reactor.api.command.limit import extract_neighbors, match_neighbors
from exabgp.reactor.api.processes import ProcessError, Processes
from exabgp.reactor.delay import Delay
from exabgp.reactor.listener import Listener
from exabgp.reactor.loop import Reactor
from exabgp.reactor.network.connection import Connection
from exabgp.reactor.network.error import NotConnected
from exabgp.reactor.peer import Peer
from exabgp.reactor.protocol import Protocol
from exabgp.rib.change import Change
from exabgp.rib.outgoing import OutgoingRIB

from bgpcni_exabgp.process import boot

VERSIONS = ((5, 0, 8), (5, 1))
"""ExaBGP from the first, below the second."""

HEADER = 19 + 2 + 2  # message header, Withdrawn Routes Length, Total Path Attribute Length
EXTENDED_OPTIONAL = 0x90  # attribute flags: optional, extended length
MP_REACH_NLRI, MP_UNREACH_NLRI = 14, 15
PROTOCOL = 3
"""Of the command and its events; an agent that does not speak it starts ExaBGP anew."""
SLOWEST_RECONNECT = 5  # seconds; ExaBGP's own back-off goes to 60
EXPECTANT = 0.05  # seconds
SYN_RETRIES = 2  # a peer that is away is asked again after 7 s, not after two minutes
BYTES_ACKED = struct.Struct("=Q"), 120  # struct tcp_info, linux/tcp.h
QUIET, MARKED = 3.0, 60.0  # seconds without a route that end what is told, of a peer that marks no end, and of others
NAMES = tuple[AFI, SAFI]


class Mismatch(Exception):
    """This ExaBGP is not the one that is known inside."""


# --- routes --------------------------------------------------------------------------------------


class RawAttributes:
    """Path attributes already encoded; offers what the RIB asks of ExaBGP's `Attributes`."""

    __slots__ = ("wire",)

    def __init__(self, wire: bytes) -> None:
        self.wire = wire

    def index(self) -> bytes:
        return self.wire

    def as_dict(self) -> dict[str, str]:
        return {"raw": self.wire.hex()}

    def __str__(self) -> str:
        return f" attributes {self.wire.hex()}"


class RawNLRI(NLRI):  # type: ignore[misc]  # ExaBGP has no types
    """One encoded NLRI, known to the RIB by its key; `tag` says whose it is."""

    __slots__ = ("action", "afi", "key", "nexthop", "safi", "tag", "wire")

    def __init__(self, family: NAMES, action: int, nexthop: Any, wire: bytes, key: bytes, tag: str = "-") -> None:
        self.afi, self.safi = family
        self.action, self.nexthop, self.wire, self.key, self.tag = action, nexthop, wire, key, tag

    def family(self) -> RawNLRI:
        return self  # it is a Family: saves building one at each look-up

    def index(self) -> bytes:
        return b"raw" + self.key

    def pack_nlri(self, negotiated: Any = None) -> bytes:
        return self.wire

    def as_dict(self) -> dict[str, str]:
        return {"family": self.short(), "raw": self.wire.hex(), "key": self.key.hex()}

    def __str__(self) -> str:
        return f"{self.short()} {self.wire.hex()} next-hop {self.nexthop}"

    extensive = __str__


class RawUpdate(Update):  # type: ignore[misc]  # ExaBGP has no types
    """Routes of one family, action, next hop and attribute set: as few UPDATEs as they fit in."""

    def __init__(self, nlri: RawNLRI, attributes: RawAttributes) -> None:
        super().__init__([], attributes)
        self.model = nlri

    def _next_hop(self) -> bytes:
        """RFC 4760 section 3; after an RD of zero (RFC 4364, RFC 4659); IPv4-mapped for IPv6."""
        packed: bytes = self.model.nexthop.ton()
        if self.model.afi == AFI.ipv6 and len(packed) == 4:
            packed = bytes(10) + b"\xff\xff" + packed
        return bytes(8) + packed if self.model.safi == SAFI.mpls_vpn else packed

    def messages(self, negotiated: Any, include_withdraw: bool = True) -> Iterator[bytes]:
        model = self.model
        family, announce = model.afi_safi(), model.action == Action.ANNOUNCE
        if family not in negotiated.families or not negotiated.asn4 or not (announce or include_withdraw):
            return
        attributes = self.attributes.wire if announce else b""
        native = family == (AFI.ipv4, SAFI.unicast) and (not announce or len(model.nexthop.ton()) == 4)
        if native and announce:
            attributes = b"\x40\x03\x04" + model.nexthop.ton() + attributes
        mp = b"" if native else model.afi.pack() + model.safi.pack()
        if announce and not native:
            mp += bytes([len(self._next_hop())]) + self._next_hop() + b"\0"
        room = negotiated.msg_size - HEADER - len(attributes) - (len(mp) + 4 if mp else 0)
        for octets in self._chunks(room):
            if native:
                fields = (b"", attributes, octets) if announce else (octets, b"", b"")
            else:  # RFC 7606 section 5.1: the MP attribute comes first, and alone of its kind
                code = MP_REACH_NLRI if announce else MP_UNREACH_NLRI
                size = (len(mp) + len(octets)).to_bytes(2, "big")
                fields = (b"", bytes([EXTENDED_OPTIONAL, code]) + size + mp + octets + attributes, b"")
            yield self._message(Update.prefix(fields[0]) + Update.prefix(fields[1]) + fields[2])

    def _chunks(self, room: int) -> Iterator[bytes]:
        pieces: list[bytes] = []
        size = 0
        for nlri in self.nlris:
            if size + len(nlri.wire) > room and pieces:
                yield b"".join(pieces)
                pieces, size = [], 0
            pieces.append(nlri.wire)
            size += len(nlri.wire)
        if pieces:
            yield b"".join(pieces)


class GroupingRIB(OutgoingRIB):  # type: ignore[misc]  # ExaBGP has no types
    """Adj-RIB-Out in which, per flush, a route has one state (the newest) and raw NLRI are grouped."""

    def __init__(self, cache: bool, families: Any) -> None:
        self.sequence = 0  # of the newest line applied
        self._marked: dict[NAMES, set[bytes]] = {}
        super().__init__(cache, families)

    def held(self, family: NAMES) -> dict[bytes, Any]:
        """What is announced, by index."""
        known: dict[bytes, Any] = self._seen.get(family, {})
        return known

    def mark(self) -> None:
        self._marked = {
            family: {index for index, change in known.items() if isinstance(change.nlri, RawNLRI)}
            for family, known in self._seen.items()
        }

    def keep(self, family: NAMES, keys: list[bytes]) -> None:
        prefix = Change.family_prefix(family) + b"raw"
        self._marked.get(family, set()).difference_update(prefix + key for key in keys)

    def spare(self, tags: frozenset[str]) -> None:
        for family, marked in self._marked.items():
            known = self.held(family)
            marked -= {index for index in marked if index in known and known[index].nlri.tag in tags}

    def sweep(self) -> None:
        for family, marked in self._marked.items():
            known = self.held(family)
            for change in [known[index] for index in marked if index in known]:
                nlri = change.nlri
                gone = RawNLRI(family, Action.WITHDRAW, NoNextHop, nlri.wire, nlri.key, nlri.tag)
                self.add_to_rib(Change(gone, change.attributes))
        self._marked = {}

    def in_cache(self, change: Any) -> bool:
        """Already announced? Not so if the label changed, which the index does not show."""
        if not super().in_cache(change):
            return False
        known = self._seen[change.nlri.family().afi_safi()][change.index()]
        return bool(known.nlri.pack() == change.nlri.pack())

    def _update_rib(self, change: Any) -> None:
        index = change.index()
        queued = self._new_nlri.pop(index, None)
        if queued is not None:
            families = self._new_attr_af_nlri.get(queued.attributes.index(), {})
            families.get(queued.nlri.family().afi_safi(), {}).pop(index, None)
        super()._update_rib(change)

    def updates(self, grouped: bool) -> Iterator[Any]:
        # a route refresh must not bring back what was replaced or withdrawn since it was asked for
        latest = [self._new_nlri.get(change.index(), change) for change in self._refresh_changes]
        self._refresh_changes: list[Any] = [c for c in latest if c.nlri.action == Action.ANNOUNCE]
        groups: dict[tuple[Any, ...], RawUpdate] = {}
        for message in super().updates(grouped):
            if not isinstance(message, Update) or not isinstance(message.nlris[0], RawNLRI):
                yield from groups.values()  # a marker of RFC 7313
                groups.clear()
                yield message
                continue
            for nlri in message.nlris:
                group = (nlri.afi, nlri.safi, nlri.action, nlri.nexthop.index(), message.attributes.index())
                if group not in groups:
                    groups[group] = RawUpdate(nlri, message.attributes)
                groups[group].nlris.append(nlri)
        yield from groups.values()


# --- the command ---------------------------------------------------------------------------------

_next_hop_of = lru_cache(4096)(lambda text: NoNextHop if text == "-" else NextHop(text))
_attributes_of = lru_cache(4096)(lambda text: None if text == "-" else RawAttributes(bytes.fromhex(text)))
_no_attributes = RawAttributes(b"")


@lru_cache(64)
def family_of(text: str) -> NAMES:
    """`ipv4/mpls-vpn` as ExaBGP's pair. Raises ValueError."""
    afi, _, safi = text.partition("/")
    family = AFI.fromString(afi), SAFI.fromString(safi)
    if family[0] == AFI.undefined or family[1] == SAFI.undefined:
        raise ValueError(f"unknown family {text}")
    return family


def is_ibgp(neighbor: Any) -> bool:
    return bool(neighbor["local-as"] == neighbor["peer-as"])


class Engine:
    """The command's state: the configuration's digest, and where events go."""

    def __init__(self, path: Path, keep: Callable[[], None] = lambda: None) -> None:
        """`keep` is called in every round of ExaBGP's loop."""
        self.path = path
        self.keep = keep
        self.digest = ""
        self.listening = False
        self._failures: dict[str, str] = {}  # why a peer could not be connected to, by address
        self._told: dict[str, str] = {}

    def command(self, reactor: Any, service: str, line: str) -> bool:
        """Run one line; synchronous, so that answers keep the order of the lines."""
        try:
            descriptions, command = extract_neighbors(line)
            _, verb, *words = command.split(" ")
            if verb == "state":
                reactor.processes.write(service, json.dumps(self.state(reactor)))
            else:
                names = match_neighbors(reactor.peers(service), descriptions)
                neighbors = [reactor.configuration.neighbors[name] for name in names]
                self.apply(reactor, names, neighbors, verb, int(words[0]), words[1:])
        except (ValueError, KeyError, IndexError, TypeError, OSError) as error:
            reason = f"refused: {error!r}: {line[:200]}"
            log.error(lambda: reason, "api")
            reactor.processes.answer_error(service)
            return False
        reactor.processes.answer_done(service)
        return True

    def apply(
        self, reactor: Any, names: list[str], neighbors: list[Any], verb: str, sequence: int, words: list[str]
    ) -> None:
        ribs = [neighbor.rib.outgoing for neighbor in neighbors]
        if verb == "mark":
            for rib in ribs:
                rib.mark()
        elif verb == "keep":
            keys = [bytes.fromhex(word) for word in words[1:]]
            for rib in ribs:
                rib.keep(family_of(words[0]), keys)
        elif verb == "spare":
            for rib in ribs:
                rib.spare(frozenset(words))
        elif verb == "sweep":
            for rib in ribs:
                rib.sweep()
        elif verb == "eor":
            established = [name for name in names if name in reactor.established_peers()]
            if not reactor.configuration.inject_eor(established, Family(*family_of(words[0]))):
                raise ValueError("no established neighbour")
        elif verb == "listen":
            self.listening = words[0] == "yes"
        elif verb == "refresh":
            for name in names:
                watch = _watch(reactor._peers[name])
                if watch is not None:
                    watch.refresh([family_of(word) for word in words])
        elif verb == "end":
            for name in names:
                watch = _watch(reactor._peers[name])
                if watch is not None:
                    watch.end = Notify(int(words[0]), int(words[1]))
        elif verb == "announce":
            self._announce(neighbors, family_of(words[0]), words[1], words[2], words[3], words[4:])
        elif verb == "withdraw":
            family = family_of(words[0])
            changes = [
                Change(RawNLRI(family, Action.WITHDRAW, NoNextHop, wire, key), _no_attributes)
                for wire, key in map(_route, words[1:])
            ]
            _queue(neighbors, family, changes)
        else:
            raise ValueError(f"unknown verb {verb}")
        for rib in ribs:
            rib.sequence = sequence

    def _announce(
        self, neighbors: list[Any], family: NAMES, tag: str, next_hop: str, attributes: str, words: list[str]
    ) -> None:
        nexthop = _next_hop_of(next_hop)
        if nexthop is NoNextHop:
            raise ValueError("a next hop is needed")
        routes = [_route(word) for word in words]
        tag = sys.intern(tag)
        for ibgp, text in zip((True, False), attributes.split("/"), strict=True):
            kind = [neighbor for neighbor in neighbors if is_ibgp(neighbor) is ibgp]
            if not kind:
                continue
            wire = _attributes_of(text)
            if wire is None:
                raise ValueError("no attributes for this kind of neighbour")
            changes = [Change(RawNLRI(family, Action.ANNOUNCE, nexthop, nlri, key, tag), wire) for nlri, key in routes]
            _queue(kind, family, changes)

    def state(self, reactor: Any) -> dict[str, Any]:
        """The whole of what an agent that has just connected has to know."""
        neighbors = []
        sequence = 0
        for peer in reactor._peers.values():
            rib = peer.neighbor.rib.outgoing
            sequence = max(sequence, rib.sequence)
            watch = _watch(peer)
            neighbors.append(
                {
                    "peer": str(peer.neighbor["peer-address"]),
                    "asn": int(peer.neighbor["peer-as"] or 0),
                    "configured": [f"{afi}/{safi}" for afi, safi in peer.neighbor.families()],
                    "hold": int(peer.neighbor["hold-time"]),
                    "state": peer.fsm.name(),
                    "unreached": self._told.get(str(peer.neighbor["peer-address"]), ""),
                    "since": peer.stats["complete"] or peer.stats["reset"],
                    "families": watch.families if watch else [],
                    "sent": watch.sent if watch else -1,
                    "acked": watch.acked if watch else -1,
                    "eor": sorted(watch.eor) if watch else [],
                    "ended": sorted(watch.ended) if watch else [],
                    "started": watch.started if watch else -1,
                    **(watch.terms if watch else {}),
                }
            )
        return {
            "bgpcni": "state",
            "protocol": PROTOCOL,
            "seq": sequence,
            "digest": self.digest,
            "listening": self.listening,
            "neighbors": neighbors,
        }

    def unreached(self, address: str, number: int, password: bool) -> None:
        """An attempt to connect failed with this errno."""
        if number:
            doubt = ", or the passwords differ" if password and number == errno.ETIMEDOUT else ""
            self._failures[address] = os.strerror(number) + doubt

    def reached(self, address: str) -> None:
        self._failures.pop(address, None)
        self._told.pop(address, None)

    def report(self, reactor: Any) -> None:
        """Tell of peers that cannot be connected to, once for each new reason."""
        while self._failures and reactor.processes is not None:
            address, reason = self._failures.popitem()
            if self._told.get(address) != reason:
                self._told[address] = reason
                event = {"bgpcni": "unreached", "peer": address, "reason": reason}
                for service in list(reactor.processes._process):
                    reactor.processes.write(service, json.dumps(event))

    def reload(self, stock: Callable[[Any], bool], reactor: Any) -> bool:
        """ExaBGP's reload, with the digest of what it read told to the agent."""
        digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
        done = stock(reactor)
        if done:
            self.digest = digest
        event = {
            "bgpcni": "configured",
            "digest": self.digest,
            "error": "" if done else str(reactor.configuration.error),
        }
        if reactor.processes is not None:
            for service in list(reactor.processes._process):
                reactor.processes.write(service, json.dumps(event))
        return done


def _route(word: str) -> tuple[bytes, bytes]:
    nlri, _, key = word.partition(":")
    wire = bytes.fromhex(nlri)
    return wire, bytes.fromhex(key) if key else wire


def _queue(neighbors: list[Any], family: NAMES, changes: list[Any]) -> None:
    for neighbor in neighbors:
        if family in neighbor.families():
            for change in changes:
                neighbor.rib.outgoing.add_to_rib(change)


# --- sent and acknowledged -----------------------------------------------------------------------


class Awaited:
    """The end of what a peer tells of one family, for which its silence is taken after `patience` seconds."""

    __slots__ = ("patience", "until")

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.heard()

    def heard(self) -> None:
        """It tells: the silence begins anew."""
        self.until = time.monotonic() + self.patience


class Watch:
    """How far one established session got: sequence numbers in its socket and acknowledged by its peer.

    Received UPDATEs pass by here on their way to ExaBGP, which does not look into them.
    """

    def __init__(self, peer: Any, engine: Engine) -> None:
        self.peer = peer
        self.engine = engine
        engine.reached(str(peer.neighbor["peer-address"]))
        self.end: Notify | None = None
        negotiated = peer.proto.negotiated
        restart = negotiated.received_open.capabilities.get(Capability.CODE.GRACEFUL_RESTART, {})
        self.terms = {
            "asn4": bool(negotiated.asn4),
            "graceful": [f"{afi}/{safi}" for afi, safi in restart],
            "refresh": negotiated.refresh != REFRESH.ABSENT,
        }
        self.asked: set[tuple[int, int]] = set()
        # RFC 4724 section 3: who has the capability says End-of-RIB, also where it lists no family
        marks = Capability.CODE.GRACEFUL_RESTART in negotiated.received_open.capabilities
        self.awaited: dict[tuple[int, int], Awaited] = {}
        for afi, safi in negotiated.families:
            self.awaited[int(afi), int(safi)] = Awaited(MARKED if marks else QUIET)
        self.marker = False  # the message just read is one of RFC 7313, and asks for nothing
        self.families = (
            [f"{afi}/{safi}" for afi, safi in peer.proto.negotiated.families] if peer.proto.negotiated.asn4 else []
        )
        self.started: int = peer.neighbor.rib.outgoing.sequence
        self.flushing = False
        self.written = -1
        self.sent = self.acked = -1
        self.eor: set[str] = set()
        self.ended: set[str] = set()
        # bytes_acked to reach, and what is acknowledged then: a sequence number, or the End-of-RIB of a family
        self._unacked: deque[tuple[int, int | str]] = deque()
        self._written_at = 0.0

    def emit(self, event: str, **fields: Any) -> None:
        processes = self.peer.reactor.processes
        text = json.dumps({"bgpcni": event, "peer": str(self.peer.neighbor["peer-address"]), **fields})
        for service in self.peer.neighbor.api["neighbor-changes"]:
            processes.write(service, text)

    def expectant(self) -> bool:
        """Whether an acknowledgement is due about now; delayed ones (RFC 1122: below 500 ms) are not waited for."""
        return bool(self._unacked) and time.monotonic() - self._written_at < EXPECTANT

    def refresh(self, families: list[NAMES]) -> None:
        """Ask for these families again (RFC 2918)."""
        negotiated = self.peer.proto.negotiated
        wait = MARKED if negotiated.refresh == REFRESH.ENHANCED else QUIET
        for afi, safi in families:
            if (afi, safi) in negotiated.families and negotiated.refresh != REFRESH.ABSENT:
                self.peer.neighbor.refresh.append(RouteRefresh(afi, safi))
                self.awaited[int(afi), int(safi)] = Awaited(wait)
                self.asked.add((int(afi), int(safi)))

    def received(self, kind: int, body: bytes) -> None:
        """A message before ExaBGP sees it."""
        if kind == Message.CODE.UPDATE:
            if self.engine.listening:
                self.emit("update", octets=body.hex())
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
        if self.awaited.pop((afi, safi), None) is not None and self.engine.listening:
            self.emit("told", family=f"{AFI.create(afi)}/{SAFI.create(safi)}")

    def look(self) -> None:
        """Report what is new; called at every turn of the session's own loop, at least each 10 ms."""
        if self.end is not None:
            raise self.end
        io = self.peer.proto and self.peer.proto.connection and self.peer.proto.connection.io
        if self.awaited:
            now = time.monotonic()
            quiet = [family for family, awaited in self.awaited.items() if awaited.until <= now]
            if quiet and not (io and _unread(io)):  # else it is we who are late
                for afi, safi in quiet:
                    self._told(afi, safi)
        rib = self.peer.neighbor.rib.outgoing
        if not self.flushing and not rib.pending():
            self.written = rib.sequence
        if not io:
            return
        if self.written > self.sent:
            self.sent = self.written
            self.emit("sent", seq=self.sent)
            self._await_ack(io, self.sent)
        if self._unacked:
            acked = _acked(io)
            before = self.acked
            while self._unacked and self._unacked[0][0] <= acked:
                _, what = self._unacked.popleft()
                if isinstance(what, str):
                    self.ended.add(what)
                    self.emit("ended", family=what)
                else:
                    self.acked = what
            if self.acked > before:
                self.emit("acked", seq=self.acked)

    def end_of_rib_sent(self, family: str) -> None:
        """End-of-RIB of this family was written."""
        self.eor.add(family)
        self.emit("eor", family=family)
        self._await_ack(self.peer.proto.connection.io, family)

    def _await_ack(self, io: socket.socket, what: int | str) -> None:
        self._unacked.append((_written(io), what))
        self._written_at = time.monotonic()


def _unread(io: socket.socket) -> int:
    """Octets that came over this connection and were not read yet."""
    (octets,) = struct.unpack("i", fcntl.ioctl(io.fileno(), termios.FIONREAD, bytes(4)))
    return int(octets)


def _acked(io: socket.socket) -> int:
    """Octets of this connection that the peer's TCP acknowledged."""
    layout, offset = BYTES_ACKED
    info = io.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, offset + layout.size)
    return int(layout.unpack_from(info, offset)[0])


def _written(io: socket.socket) -> int:
    """Octets written to this connection: acknowledged and still queued, read until both are of one moment."""
    acked = _acked(io)
    while True:
        (queued,) = struct.unpack("i", fcntl.ioctl(io.fileno(), termios.TIOCOUTQ, bytes(4)))
        again = _acked(io)
        if again == acked:
            return acked + int(queued)
        acked = again


def _watch(peer: Any) -> Watch | None:
    """That of an established session."""
    watch: Watch | None = getattr(peer, "bgpcni", None)
    return watch if peer.fsm == FSM.ESTABLISHED else None


def end_of_rib(body: bytes) -> tuple[int, int] | None:
    """AFI and SAFI of which an UPDATE is the End-of-RIB, RFC 4724 section 2."""
    if body == bytes(4):
        return 1, 1
    head = body[6:7] if len(body) == 10 else body[6:8] if len(body) == 11 else b""
    if body[:2] != b"\0\0" or body[5:6] != bytes([MP_UNREACH_NLRI]) or int.from_bytes(head, "big") != 3:
        return None
    return int.from_bytes(body[-3:-1], "big"), body[-1]


def tapped_reader(stock: Callable[[Any], Iterator[Any]]) -> Callable[[Any], Iterator[Any]]:
    """`Connection.reader`, which reads messages, showing each whole one to the session's watch first."""

    def reader(connection: Any) -> Iterator[Any]:
        watch: Watch | None = getattr(connection, "bgpcni", None)
        for item in stock(connection):
            length, kind, _, body, notify = item
            if watch is not None and length and notify is None:
                watch.received(kind, bytes(body))
            yield item

    return reader


def unmarked_resend(stock: Callable[..., None]) -> Callable[..., None]:
    """`Peer.resend`, called for any ROUTE-REFRESH: the markers of RFC 7313 ask for nothing."""

    def resend(peer: Any, enhanced: bool, family: Any = None) -> None:
        watch = _watch(peer)
        if watch is not None and watch.marker:
            watch.marker = False
            return
        stock(peer, enhanced, family)

    return resend


def watched_main(engine: Engine, stock: Callable[[Any], Iterator[Any]]) -> Callable[[Any], Iterator[Any]]:
    """`Peer._main`, which runs an established session, with a look after each of its steps."""

    def main(peer: Any) -> Iterator[Any]:
        watch = peer.bgpcni = peer.proto.connection.bgpcni = Watch(peer, engine)
        watch.emit("up", families=watch.families, seq=watch.started, **watch.terms)
        for action in stock(peer):  # by its first step ExaBGP has queued its Adj-RIB-Out for this session
            watch.look()
            yield action

    return main


def telling_as(stock: Callable[..., None]) -> Callable[..., None]:
    """`Protocol.validate_open`, telling which AS the peer's OPEN has where that is not the one it should have."""

    def validate_open(protocol: Any) -> None:
        try:
            stock(protocol)
        except Notify as error:
            if (error.code, error.subcode) == (2, 2):
                address, asn = str(protocol.neighbor["peer-address"]), int(protocol.negotiated.peer_as)
                text = json.dumps({"bgpcni": "as", "peer": address, "asn": asn})
                for service in protocol.neighbor.api["neighbor-changes"]:
                    protocol.peer.reactor.processes.write(service, text)
            raise

    return validate_open


def watched_update(stock: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """`Protocol.new_update`, which writes what is queued, noting the sequence number it covers.

    Withdrawals are never left out: ExaBGP does so in the first flush of a session, but a peer that keeps routes over
    a restart (RFC 4724) still has the route.
    """

    def new_update(protocol: Any, include_withdraw: bool) -> Iterator[Any]:
        watch: Watch = protocol.peer.bgpcni
        covered = protocol.neighbor.rib.outgoing.sequence
        watch.flushing = True
        yield from stock(protocol, True)
        watch.flushing, watch.written = False, covered

    return new_update


def watched_eors(stock: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """`Protocol.new_eors`, telling when the End-of-RIB was written."""

    def new_eors(protocol: Any, afi: Any = AFI.undefined, safi: Any = SAFI.undefined) -> Iterator[Any]:
        yield from stock(protocol, afi, safi)
        watch: Watch = protocol.peer.bgpcni
        if afi != AFI.undefined:
            watch.end_of_rib_sent(f"{afi}/{safi}")

    return new_eors


def eager_wait(engine: Engine, stock: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """`Reactor._wait_for_io`, which looks each millisecond for a while where an acknowledgement is awaited."""

    def wait(reactor: Any, milliseconds: int) -> Iterator[Any]:
        engine.report(reactor)
        engine.keep()
        watches = (getattr(peer, "bgpcni", None) for peer in reactor._peers.values())
        if milliseconds > 1 and any(watch is not None and watch.expectant() for watch in watches):
            milliseconds = 1
        yield from stock(reactor, milliseconds)

    return wait


class PatientDelay(Delay):  # type: ignore[misc]  # ExaBGP has no types
    """ExaBGP's pause between two attempts to connect, bounded."""

    def increase(self) -> None:
        super().increase()
        self._next: int = min(self._next, SLOWEST_RECONNECT)


# --- what ExaBGP is too strict or too loose about -------------------------------------------------------------


def accept_next_hops() -> None:
    """Accept received next hops over which ExaBGP would end the session."""
    ipv4, ipv6 = (4,), (16, 32)
    Family.size.update(
        {
            (AFI.ipv4, SAFI.mpls_vpn): ((12, 24), 8),  # RFC 8950: an IPv6 next hop for VPN-IPv4
            (AFI.ipv6, SAFI.mpls_vpn): ((24, 40), 8),
            (AFI.l2vpn, SAFI.evpn): (ipv4 + ipv6, 0),  # RFC 8365: an IPv6 VTEP
            (AFI.ipv4, SAFI.evpn): (ipv4, 0),  # looked up so where RFC 8950 is negotiated
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
    """`Listener.listen_on`, whose answers to a connection, too, have the hop limit that RFC 5082 asks for."""

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
"""Where a connection that is being made leads to, and whether it has a password."""


def bounded_connect(engine: Engine, stock: Callable[..., Any]) -> Callable[..., Any]:
    """ExaBGP's `connect`, which gives up on a silent peer in seconds."""

    def connect(io: socket.socket, ip: str, port: int, afi: Any, md5: Any) -> Any:
        _destinations[io] = ip, bool(md5)
        io.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, SYN_RETRIES)
        try:
            return stock(io, ip, port, afi, md5)
        except NotConnected as error:
            engine.unreached(ip, getattr(error.__context__, "errno", None) or 0, False)
            raise

    return connect


def telling_ready(engine: Engine) -> Callable[[socket.socket], Iterator[tuple[bool, str]]]:
    """For ExaBGP's `ready`, which takes a refused connection for an established one: it fails, and is told."""

    def ready(io: socket.socket) -> Iterator[tuple[bool, str]]:
        poller = select.poll()
        poller.register(io, select.POLLOUT)
        while not poller.poll(0):
            yield False, "waiting"
        number = io.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            address, password = _destinations[io]
            engine.unreached(address, number, password)
            raise NotConnected(os.strerror(number))
        yield True, "connected"

    return ready


def surviving_write(stock: Callable[..., Any]) -> Callable[..., Any]:
    """`Processes.write`, which over a relay that just died would end the sessions, for good.

    ExaBGP starts the relay again when it next reads from it; what is lost here, the agent asks for when it connects.
    """

    def write(processes: Any, process: str, string: str | None, neighbor: Any = None) -> Any:
        try:
            return stock(processes, process, string, neighbor)
        except (ProcessError, KeyError):
            processes._broken = [name for name in processes._broken if name != process]
            return False

    return write


# --- start ---------------------------------------------------------------------------------------


def check() -> None:
    """Raise `Mismatch` unless this is an ExaBGP whose inside is the one replaced here."""
    found = version("exabgp")
    numbers = tuple(int(part) for part in found.split(".")[:3] if part.isdigit())
    if not VERSIONS[0] <= numbers < VERSIONS[1]:
        raise Mismatch(f"ExaBGP {found}: from 5.0.8 to below 5.1 is needed")
    signatures: dict[Any, list[str]] = {
        Peer._main: ["self"],
        Peer.resend: ["self", "enhanced", "family"],
        Connection.reader: ["self"],
        outgoing.connect: ["io", "ip", "port", "afi", "md5"],
        outgoing.ready: ["io"],
        Protocol.new_update: ["self", "include_withdraw"],
        Protocol.new_eors: ["self", "afi", "safi"],
        Protocol.validate_open: ["self"],
        Reactor.reload: ["self"],
        Reactor._pending_adjribout: ["self"],
        Reactor._wait_for_io: ["self", "sleeptime"],
        OutgoingRIB.updates: ["self", "grouped"],
        OutgoingRIB.add_to_rib: ["self", "change", "force"],
        OutgoingRIB._update_rib: ["self", "change"],
        OutgoingRIB.pending: ["self"],
        Configuration.inject_eor: ["self", "peers", "family"],
        Update.messages: ["self", "negotiated", "include_withdraw"],
        Listener.listen_on: [
            *("self", "local_addr", "remote_addr", "port", "md5_password", "md5_base64", "ttl_in"),
        ],
        Processes.write: ["self", "process", "string", "neighbor"],
        Delay.increase: ["self"],
        match_neighbors: ["peers", "descriptions"],
        extract_neighbors: ["command"],
    }
    for function, expected in signatures.items():
        if list(inspect.signature(function).parameters) != expected:
            raise Mismatch(f"ExaBGP {found}: {function.__qualname__} is not the one known")

    log.init(getenv())  # its RIB logs, and there is no logger before

    class Negotiated:
        families = ((AFI.ipv4, SAFI.unicast), (AFI.l2vpn, SAFI.evpn))
        msg_size = 4096
        asn4 = True

    family, evpn = Negotiated.families
    rib = GroupingRIB(True, list(Negotiated.families))
    hop, attributes = NextHop("192.0.2.1"), RawAttributes(b"\x40\x01\x01\x00")

    def put(which: NAMES, action: int, wire: bytes, key: bytes) -> None:
        rib.add_to_rib(Change(RawNLRI(which, action, hop, wire, key), attributes))

    put(family, Action.ANNOUNCE, b"\x08\x0a", b"a")
    put(family, Action.WITHDRAW, b"\x08\x0b", b"b")
    put(family, Action.ANNOUNCE, b"\x08\x0b", b"b")
    put(family, Action.ANNOUNCE, b"\x08\x0c", b"c")
    put(family, Action.WITHDRAW, b"\x08\x0c", b"c")
    put(evpn, Action.ANNOUNCE, b"\x03\x00", b"e")
    found_octets = sorted(m[19:].hex() for update in rib.updates(True) for m in update.messages(Negotiated))
    expected_octets = [
        "0000000b" + "400304c0000201" + "40010100" + "080a080b",
        "00000013" + "900e000b" + "001946" + "04c0000201" + "00" + "0300" + "40010100",
        "0002080c0000",
    ]
    if found_octets != expected_octets or rib.pending() or len(rib.held(family)) != 2:
        raise Mismatch(f"ExaBGP {found}: its Adj-RIB-Out gives {found_octets}, not {expected_octets}")


def unknown() -> str:
    """Why this ExaBGP's inside must not be touched, "" if it is the one known."""
    try:
        check()
    except Mismatch as mismatch:
        return str(mismatch)
    except (AttributeError, TypeError, ImportError, LookupError, ValueError) as error:
        return f"ExaBGP {version('exabgp')} is not the one known inside: {error}"
    return ""


def claim(path: Path, plain: str = "") -> int | None:
    """Be the only one that holds this file, and say who; the descriptor holds the claim for life. None: taken.

    `plain`: why it is a stock ExaBGP that will run. Raises OSError.

    The file is written by us and not by who started us, since that one may be killed before it could.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            break
        os.close(descriptor)  # unlinked between open and lock
    started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    words = {"pid": os.getpid(), "started": started, "plain": plain, "boot": boot()}
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(words).encode())
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


LOOK = 1.0
"""Seconds between looks whether our files are still there."""


class Claims:
    """What makes this ExaBGP the only one: a file beside its configuration, and `lasting` where nobody wipes it."""

    def __init__(self, configuration: Path, lasting: Path | None, plain: str) -> None:
        self._path = configuration.with_suffix(".pid")
        self._log = configuration.with_suffix(".log")
        self._lasting = lasting
        self._plain = plain
        self._held: int | None = None
        self._held_for_good: int | None = None
        self._looked = -LOOK

    def take(self) -> bool:
        """False: another one runs. Raises OSError, but for a disk that takes no writing where `lasting` should be."""
        if self._lasting is not None:
            try:
                self._held_for_good = claim(self._lasting, self._plain)
                if self._held_for_good is None:
                    return False
            except OSError as error:
                sys.stderr.write(f"bgpcni: {self._lasting}: {error.strerror}: nothing but {self._path} is claimed\n")
        self._held = claim(self._path, self._plain)
        return self._held is not None

    def release(self) -> None:
        """Let go of all. Idempotent."""
        for held in (self._held, self._held_for_good):
            if held is not None:
                os.close(held)
        self._held = self._held_for_good = None

    def keep(self) -> None:
        """Once a second: what somebody removed beside the configuration is made again, the log with it."""
        now = time.monotonic()
        if now - self._looked < LOOK:
            return
        self._looked = now
        with contextlib.suppress(OSError):  # no folder yet: the agent makes it
            if self._held is not None and not self._path.exists():
                fresh = claim(self._path, self._plain)
                if fresh is not None:
                    os.close(self._held)
                    self._held = fresh
            if not os.fstat(1).st_nlink:  # the agent reads there why this ExaBGP ended
                log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
                os.dup2(log, 1)
                os.dup2(log, 2)
                os.close(log)


def install(engine: Engine) -> None:
    """Replace in memory what this module replaces, and add the command."""
    accept_next_hops()
    exabgp.rib.OutgoingRIB = GroupingRIB
    exabgp_peer.Delay = PatientDelay
    outgoing.connect = bounded_connect(engine, outgoing.connect)
    outgoing.ready = telling_ready(engine)
    Listener.listen_on = gtsm_listen(Listener.listen_on)
    Processes.write = surviving_write(Processes.write)
    Reactor._wait_for_io = eager_wait(engine, Reactor._wait_for_io)
    Connection.reader = tapped_reader(Connection.reader)
    Peer.resend = unmarked_resend(Peer.resend)
    Peer._main = watched_main(engine, Peer._main)
    Protocol.new_update = watched_update(Protocol.new_update)
    Protocol.new_eors = watched_eors(Protocol.new_eors)
    Protocol.validate_open = telling_as(Protocol.validate_open)
    # a reload is dropped without a word while routes are queued, as they are for a neighbour that is away
    Reactor._pending_adjribout = lambda reactor: False
    stock_reload = Reactor.reload
    Reactor.reload = lambda reactor: engine.reload(stock_reload, reactor)

    @Command.register("bgpcni")  # type: ignore[untyped-decorator]  # ExaBGP has no types
    def command(api: Any, reactor: Any, service: str, line: str, use_json: bool) -> bool:
        return engine.command(reactor, service, line)

    # first in the list: a command is looked for in its order, by part of a line
    Command.functions.remove("bgpcni")
    Command.functions.insert(0, "bgpcni")


def main() -> int:
    if len(sys.argv) not in (2, 3):
        sys.stderr.write("usage: python -m bgpcni_exabgp.engine CONFIGURATION [CLAIM]\n")
        return 2
    path = sys.argv[1]
    os.umask(0o077)
    why = unknown()
    claims = Claims(Path(path), Path(sys.argv[2]) if len(sys.argv) == 3 else None, why)
    if not claims.take():
        sys.stderr.write(f"bgpcni: another one runs on {path}\n")
        return 4
    if why:
        sys.stderr.write(f"bgpcni: {why}: it runs as it is, with its text commands only\n")
    else:
        install(Engine(Path(path), claims.keep))
    sys.argv = ["exabgp", "server", path]
    from exabgp.application.main import main as exabgp_main

    return int(exabgp_main() or 0)


if __name__ == "__main__":
    sys.exit(main())
