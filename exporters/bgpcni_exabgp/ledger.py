"""What each neighbour got of each route, and what follows from it. Pure: no I/O, no clock of its own.

Lines to the engine are numbered; a session's `sent` and `acked` are such numbers. A route is at a peer if the
number of its line is not above them. Sessions and routes are joined only when a question is asked, so an event
costs the same whatever the size of the table.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace

from bgpcni.exporter import Outcome, Reach
from bgpcni.model import Family, Neighbor, Nlri

NAMES = {
    "ipv4/unicast": Family.IPV4_UNICAST,
    "ipv6/unicast": Family.IPV6_UNICAST,
    "ipv4/mpls-vpn": Family.IPV4_VPN,
    "ipv6/mpls-vpn": Family.IPV6_VPN,
    "l2vpn/evpn": Family.L2VPN_EVPN,
}
"""ExaBGP's names of the families, as the engine's lines have them."""
WIRE = {family: name for name, family in NAMES.items()}

STATES = {
    "IDLE": "Idle",
    "ACTIVE": "Active",
    "CONNECT": "Connect",
    "OPENSENT": "OpenSent",
    "OPENCONFIRM": "OpenConfirm",
    "ESTABLISHED": "Established",
}
NEVER = 1 << 62
MARGIN = 30.0
"""Seconds added to hold time and graceful restart before a silent peer is taken to have dropped our routes."""

ERRORS = {
    1: ("Message Header Error", {1: "Connection Not Synchronized", 2: "Bad Message Length", 3: "Bad Message Type"}),
    2: (
        "OPEN Message Error",
        {
            1: "Unsupported Version Number",
            2: "Bad Peer AS",
            3: "Bad BGP Identifier",
            4: "Unsupported Optional Parameter",
            6: "Unacceptable Hold Time",
            7: "Unsupported Capability",
            11: "Role Mismatch",
        },
    ),
    3: (
        "UPDATE Message Error",
        {
            1: "Malformed Attribute List",
            2: "Unrecognized Well-known Attribute",
            3: "Missing Well-known Attribute",
            4: "Attribute Flags Error",
            5: "Attribute Length Error",
            6: "Invalid ORIGIN Attribute",
            8: "Invalid NEXT_HOP Attribute",
            9: "Optional Attribute Error",
            10: "Invalid Network Field",
            11: "Malformed AS_PATH",
        },
    ),
    4: ("Hold Timer Expired", {}),
    5: (
        "Finite State Machine Error",
        {
            1: "Unexpected Message in OpenSent State",
            2: "Unexpected Message in OpenConfirm State",
            3: "Unexpected Message in Established State",
        },
    ),
    6: (
        "Cease",
        {
            1: "Maximum Number of Prefixes Reached",
            2: "Administrative Shutdown",
            3: "Peer De-configured",
            4: "Administrative Reset",
            5: "Connection Rejected",
            6: "Other Configuration Change",
            7: "Connection Collision Resolution",
            8: "Out of Resources",
            9: "Hard Reset",
            10: "BFD Down",
        },
    ),
    7: ("ROUTE-REFRESH Message Error", {1: "Invalid Message Length"}),
}
"""NOTIFICATION codes, RFC 4271 section 4.5, RFC 4486, 6608, 7313, 8538, 9234 and 9384."""

_NOTIFICATION = re.compile(r"notification (received|sent) \((\d+),(\d+)\)")


@dataclass(frozen=True, slots=True)
class Fall:
    """Why a session ended: in words, and whether the peer named one of our UPDATEs (NOTIFICATION 3/x)."""

    words: str
    update_error: bool = False


def explain(reason: str, ours: int | None = None, expected: int = 0, told: int = 0) -> Fall:
    """ExaBGP's reason for a session's end.

    `ours`: our AS; `expected`: the one that agent.toml says the peer has; `told`: the one in the peer's OPEN, if known.
    """
    found = _NOTIFICATION.search(reason)
    if found is None:
        return Fall(reason or "the session ended")
    code, subcode = int(found[2]), int(found[3])
    name, subnames = ERRORS.get(code, (f"code {code}", {}))
    detail = subnames.get(subcode)
    words = f"NOTIFICATION {code}/{subcode} {found[1]}: {name}" + (f", {detail}" if detail else "")
    if (code, subcode) == (2, 2):
        if found[1] == "received":
            words += f": the peer expects another AS than ours, {ours}" if ours else ""
        elif told:
            words += f": the peer says that it has AS {told}, agent.toml says {expected}"
    return Fall(words, found[1] == "received" and code == 3)


@dataclass(slots=True)
class Session:
    """One neighbour. Times are time.monotonic() seconds but for `since`, the epoch's: when `state` became that."""

    neighbor: Neighbor
    state: str = "Idle"
    since: float = 0.0
    families: frozenset[Family] = frozenset()
    """Negotiated; empty unless Established."""
    started: int = -1
    sent: int = -1
    acked: int = -1
    eor: set[Family] = field(default_factory=set)
    """Families of which this session has had End-of-RIB in its socket."""
    ended: set[Family] = field(default_factory=set)
    """And whose End-of-RIB the peer's TCP acknowledged."""
    ever: int = -1
    """The highest number that a session of this engine's life may have had in its socket, or a part of it."""
    down_since: float = 0.0
    last_error: str = ""
    unreached: str = ""
    """Why no connection can be made, since the session fell."""
    told_as: int = 0
    """The AS in the peer's last OPEN, where that is not the AS it should have."""

    @property
    def up(self) -> bool:
        return self.state == "Established"

    def turn(self, state: str, at: float) -> None:
        if state != self.state:
            self.state, self.since = state, at


@dataclass(slots=True)
class Entry:
    """The last thing asked of one route."""

    number: int
    first: int
    """The number of the first announcement since the connection was made."""
    withdrawn: bool
    exposed: bool
    """A peer may have it from before this connection."""
    refused: str | None = None
    held: str = ""
    """Why it is not with ExaBGP for now, though it is wanted."""
    told: bool = False
    """That its withdrawal is complete has been answered."""


class Ledger:
    """Sessions and routes. Not thread-safe; the caller holds a lock."""

    def __init__(
        self,
        neighbors: Iterable[Neighbor],
        graceful_restart: int,
        now: float,
        none: str = "no neighbour is configured",
    ) -> None:
        self.sessions = {n.address: Session(n, down_since=now) for n in neighbors}
        self.none = none
        self.graceful_restart = graceful_restart
        self.routes: dict[Nlri, Entry] = {}
        self.offline: str | None = "exabgp is not running"
        """Why nothing can be sent at all, or None while connected."""
        self.confirmed = Reach.ACKED
        """The furthest that this ExaBGP tells: at it a withdrawal is complete."""
        self.primed = False
        """Everything that earlier lives announced is known: an unknown route is a new one."""

    # --- what is asked

    def announced(self, nlri: Nlri, number: int) -> None:
        entry = self.routes.get(nlri)
        if entry is None:
            self.routes[nlri] = Entry(number, number, False, not self.primed)
            return
        if entry.withdrawn and entry.told:  # no peer has it any more
            entry.first, entry.exposed = NEVER, False
        entry.number, entry.withdrawn, entry.refused, entry.told = number, False, None, False
        entry.held = ""
        entry.first = min(entry.first, number)

    def withdrawn(self, nlri: Nlri, number: int) -> None:
        entry = self.routes.get(nlri)
        if entry is None:
            self.routes[nlri] = Entry(number, NEVER, True, True)
        else:
            entry.number, entry.withdrawn, entry.refused, entry.told = number, True, None, False
            entry.held = ""

    def hold(self, nlri: Nlri, reason: str) -> None:
        """It is kept back for now."""
        entry = self.routes.setdefault(nlri, Entry(-1, NEVER, False, not self.primed))
        entry.held = reason

    def refuse(self, nlri: Nlri, reason: str) -> None:
        entry = self.routes.setdefault(nlri, Entry(-1, NEVER, False, not self.primed))
        entry.refused, entry.withdrawn, entry.held = reason, False, ""

    def is_refused(self, nlri: Nlri) -> bool:
        entry = self.routes.get(nlri)
        return entry is not None and entry.refused is not None

    def retain(self, keep: Collection[Nlri]) -> None:
        """Forget announcements that are not in `keep`: they were swept."""
        self.routes = {nlri: entry for nlri, entry in self.routes.items() if nlri in keep or entry.withdrawn}

    def tidy(self) -> None:
        """Forget withdrawals whose completion was answered, once there are many."""
        if len(self.routes) > 4096:
            done = [nlri for nlri, entry in self.routes.items() if entry.withdrawn and entry.told]
            if len(done) > len(self.routes) // 2:
                for nlri in done:
                    del self.routes[nlri]

    def between(self, low: int, high: int) -> Iterator[Nlri]:
        """Routes announced by the lines above `low`, up to `high`."""
        for nlri, entry in self.routes.items():
            if low < entry.number <= high and not entry.withdrawn and entry.refused is None and not entry.held:
                yield nlri

    def carried(self) -> frozenset[Family]:
        """Families of any neighbour."""
        return frozenset(family for session in self.sessions.values() for family in session.neighbor.families)

    # --- what is heard

    def meet(self, address: str, asn: int, families: Iterable[str], hold_time: int, now: float) -> Session:
        """A neighbour that only ExaBGP knew, or knew better."""
        known = frozenset(NAMES[name] for name in families if name in NAMES)
        session = self.sessions.get(address)
        if session is None:
            neighbor = Neighbor(address, asn, tuple(known), hold_time)
            session = self.sessions[address] = Session(neighbor, down_since=now)
        elif not known <= set(session.neighbor.families):
            session.neighbor = replace(session.neighbor, families=tuple(known | set(session.neighbor.families)))
        return session

    def connected(self) -> None:
        self.offline = None

    def disconnected(self, reason: str, now: float, at: float = 0.0) -> None:
        """The engine is gone, or out of sight: numbers start anew, and peers may hold what they got. `at`: epoch."""
        self.offline = reason
        for entry in self.routes.values():
            if entry.first < NEVER and any(s.up or s.ever >= entry.first for s in self.sessions.values()):
                entry.exposed = True
            entry.number, entry.first, entry.held = NEVER, NEVER, ""
        for session in self.sessions.values():
            if session.up:
                self.down(session, "", now, NEVER, at)
            session.turn("Idle", at)
            session.ever = -1

    def up(self, session: Session, families: Iterable[str], started: int, since: float) -> None:
        session.state, session.since, session.unreached = "Established", since, ""
        session.families = frozenset(NAMES[name] for name in families if name in NAMES)
        session.started, session.sent, session.acked = started, -1, -1
        session.eor, session.ended = set(), set()

    def down(self, session: Session, words: str, now: float, newest: int, at: float = 0.0) -> None:
        """A session ended, or an attempt at one. `newest`: the number of the newest line. `at`: the epoch's seconds.

        Of what was under way nobody told how much was in the socket: all of it may have been.
        """
        if session.up:
            session.down_since = now
            session.ever = max(session.ever, newest)
        session.turn("Idle", at)
        session.families, session.eor, session.ended = frozenset(), set(), set()
        session.sent = session.acked = session.started = -1
        if words:
            session.last_error = words

    def sent(self, session: Session, number: int) -> None:
        session.sent = number
        session.ever = max(session.ever, number)

    # --- what is answered

    def outcome(self, nlri: Nlri, now: float) -> Outcome:
        """How far the last thing asked of a route got. WANTED without a reason: it is under way."""
        having = [s for s in self.sessions.values() if nlri.family in s.neighbor.families]
        entry = self.routes.get(nlri)
        if entry is not None and entry.refused is not None:
            return Outcome(Reach.REFUSED, entry.refused)
        if entry is not None and entry.withdrawn:
            outcome = self._withdrawal(nlri.family, entry, having, now)
            entry.told = outcome.reach >= self.confirmed and not outcome.reason
            return outcome
        if entry is not None and entry.held:
            return Outcome(Reach.WANTED, entry.held)
        if not self.sessions:
            return Outcome(Reach.WANTED, self.none)
        if not having:
            return Outcome(Reach.WANTED, f"no neighbour has family {nlri.family}")
        if self.offline is not None:
            return Outcome(Reach.WANTED, self.offline)
        if entry is None:
            return Outcome(Reach.WANTED, "not asked of ExaBGP yet")
        ready = [s for s in having if nlri.family in s.families]
        if not ready:
            return Outcome(Reach.WANTED, self._why_none(nlri.family, having))
        if min(s.acked for s in ready) >= entry.number:
            return Outcome(Reach.ACKED)
        if min(s.sent for s in ready) >= entry.number:
            return Outcome(Reach.SENT)
        return Outcome(Reach.WANTED)

    def _why_none(self, family: Family, having: list[Session]) -> str:
        mute = [s.neighbor.address for s in having if s.up]
        if mute:
            return f"no session negotiated {family}: {', '.join(mute)} did not"
        return "no session: " + ", ".join(map(_position, having))

    def _withdrawal(self, family: Family, entry: Entry, having: list[Session], now: float) -> Outcome:
        """Is any peer left that may hold it?

        Sent: in the socket of every session that is up. Acknowledged: by the TCP of every peer that may have had the
        route; one whose session is down may keep it, and has done so for long enough or has to come back first.
        """
        took: list[Reach] = []
        under_way = False
        absent = ""
        for session in having:
            if not entry.exposed and session.ever < entry.first:
                continue  # never sent there
            if session.up:
                if family not in session.families:
                    continue
                # what a session took over from the one before ends with End-of-RIB
                older = entry.number <= session.started
                if session.sent < entry.number or (older and family not in session.eor):
                    under_way = True
                elif session.acked < entry.number or (older and family not in session.ended):
                    took.append(Reach.SENT)
                else:
                    took.append(Reach.ACKED)
                continue
            left = session.down_since + session.neighbor.hold_time + self.graceful_restart + MARGIN - now
            if left > 0:
                absent = absent or f"no session: {_position(session)}; it may hold the route for {left:.0f} s"
        if under_way:
            return Outcome(Reach.WANTED)
        if absent:
            return Outcome(Reach.SENT if took else Reach.WANTED, absent)
        return Outcome(min(took, default=Reach.ACKED))


def _position(session: Session) -> str:
    words = "; ".join(filter(None, (session.last_error, session.unreached)))
    error = f" ({words})" if words else ""
    return f"{session.neighbor.address} is {session.state}{error}"
