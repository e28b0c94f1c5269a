"""Which routes each neighbour has been sent, as far as ExaBGP told. Pure: no I/O, no clock of its own.

Lines to ExaBGP have numbers, and so have `sent` and `acked` of a session: a route is in the session's socket if its
line's number is not above `sent`. Sessions and routes are compared only when somebody asks, so an event costs the same
however many routes there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace

from bgpcni.exporter import Outcome, Reach
from bgpcni.model import Family, Neighbor, Nlri

NEVER = 1 << 62
PASSED = 256
"""For so many reports of what is sent it is known when they came."""
WITHHELD = "withheld from every neighbour by export policy"
MARGIN = 30.0
"""Seconds added to hold time and graceful restart, after which a peer without a session has dropped our routes."""


@dataclass(slots=True)
class Session:
    """One neighbour. Times are seconds of time.monotonic(); but `since`, when `state` became this, is of the epoch."""

    neighbor: Neighbor
    state: str = "Idle"
    since: float = 0.0
    families: frozenset[Family] = frozenset()
    """Negotiated; empty unless Established."""
    started: int = -1
    sent: int = -1
    acked: int = -1
    eor: set[Family] = field(default_factory=set)
    """Families whose End-of-RIB is in the socket."""
    ended: set[Family] = field(default_factory=set)
    """Families whose End-of-RIB the peer's TCP has acknowledged."""
    long_lived: frozenset[Family] | None = None
    """The families in the capability of RFC 9494 of the peer's last OPEN; None: not known yet."""
    ever: int = -1
    """The highest number that may have been in the socket, in part at least, of any session since ExaBGP's start."""
    down_since: float = 0.0
    last_error: str = ""
    unreached: str = ""
    """Why no connection can be made since the session ended."""
    passed: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=PASSED))
    """The last values of `sent`, and when each was told; seconds of the epoch."""
    told_as: int = 0
    """The AS in the peer's last OPEN, if it is not the configured one."""
    asn: int = 0
    """The AS of the peer in its last session, 0: it was not told."""
    messages: dict[str, dict[str, int]] = field(default_factory=dict)
    """How many messages went both ways, as `exporter.counted` has them, when ExaBGP was last asked."""

    @property
    def up(self) -> bool:
        return self.state == "Established"

    def internal(self, asn: int | None) -> bool:
        """Whether this is iBGP; `asn`: the node's."""
        return (self.neighbor.asn or self.asn) == self.neighbor.own_asn(asn)

    def turn(self, state: str, at: float) -> None:
        if state != self.state:
            self.state, self.since = state, at


@dataclass(slots=True)
class RouteState:
    """The last thing that was asked for one route."""

    number: int
    first: int
    """The number of the first announcement since the connection was made."""
    withdrawn: bool
    exposed: bool
    """A peer may have the route from before this connection."""
    refused: str | None = None
    held: str = ""
    """Why ExaBGP does not have it for now, although it is wanted."""
    told: bool = False
    """The caller knows that the withdrawal is complete."""
    withheld: frozenset[str] = frozenset()
    """The neighbours that do not hear it by their export policy."""
    never: frozenset[str] = frozenset()
    """Those of them that have not heard it since it was first announced in this connection."""

    def is_told(self, peer: str) -> bool:
        """Whether the peer is told of the route, if it has the family."""
        return not self.withdrawn and self.refused is None and not self.held and peer not in self.withheld


class Advertised:
    """Sessions and routes of one ExaBGP. Not thread-safe: the caller holds a lock."""

    def __init__(
        self,
        neighbors: Iterable[Neighbor],
        graceful_restart: int,
        now: float,
        none: str = "no neighbour is configured",
        long_lived: int = 0,
    ) -> None:
        self.sessions = {n.address: Session(n, down_since=now) for n in neighbors}
        self.none = none
        self.graceful_restart = graceful_restart
        self.long_lived = long_lived
        """Seconds for which a peer that knows RFC 9494 keeps our routes after the restart time."""
        self.routes: dict[Nlri, RouteState] = {}
        self.offline: str | None = "exabgp is not running"
        """Why nothing can be sent at all, or None while connected."""
        self.confirmed = Reach.ACKED
        """The furthest that this ExaBGP can tell: there a withdrawal is complete."""
        self.primed = False
        """All routes that earlier runs announced are known here, so an unknown route is a new one."""

    # --- what is asked

    def announced(self, nlri: Nlri, number: int) -> None:
        route = self.routes.get(nlri)
        if route is None:
            self.routes[nlri] = RouteState(number, number, False, not self.primed)
            return
        if route.withdrawn and route.told:  # no peer has the route any more
            route.first, route.exposed = NEVER, False
        route.number, route.withdrawn, route.refused, route.told = number, False, None, False
        route.held = ""
        route.first = min(route.first, number)

    def withdrawn(self, nlri: Nlri, number: int) -> None:
        route = self.routes.get(nlri)
        if route is None:
            self.routes[nlri] = RouteState(number, NEVER, True, True)
        else:
            route.number, route.withdrawn, route.refused, route.told = number, True, None, False
            route.held = ""

    def withhold(self, nlri: Nlri, peers: frozenset[str]) -> frozenset[str]:
        """The route is wanted, and these neighbours do not hear it. Returns those that heard it until now."""
        route = self.routes.get(nlri)
        if route is None:
            route = self.routes[nlri] = RouteState(-1, NEVER, False, not self.primed)
        fresh = route.first == NEVER or (route.withdrawn and route.told)
        gone = frozenset() if fresh else peers - route.withheld
        route.never = peers if fresh else peers & route.never
        route.withheld = peers
        having = (address for address, one in self.sessions.items() if nlri.family in one.neighbor.families)
        if peers.issuperset(having):  # no line will say that it is announced
            route.withdrawn, route.told, route.refused, route.held = False, False, None, ""
        return gone

    def hold(self, nlri: Nlri, reason: str) -> None:
        """The route is wanted, and kept from ExaBGP for now."""
        route = self.routes.setdefault(nlri, RouteState(-1, NEVER, False, not self.primed))
        route.held = reason

    def refuse(self, nlri: Nlri, reason: str) -> None:
        route = self.routes.setdefault(nlri, RouteState(-1, NEVER, False, not self.primed))
        route.refused, route.withdrawn, route.held = reason, False, ""

    def is_refused(self, nlri: Nlri) -> bool:
        route = self.routes.get(nlri)
        return route is not None and route.refused is not None

    def retain(self, keep: Collection[Nlri]) -> None:
        """Forget announcements that are not in `keep`: they were pruned."""
        self.routes = {nlri: route for nlri, route in self.routes.items() if nlri in keep or route.withdrawn}

    def tidy(self) -> None:
        """Forget complete withdrawals that the caller knows of, once there are many."""
        if len(self.routes) > 4096:
            done = [nlri for nlri, route in self.routes.items() if route.withdrawn and route.told]
            if len(done) > len(self.routes) // 2:
                for nlri in done:
                    del self.routes[nlri]

    def between(self, low: int, high: int, peer: str) -> Iterator[Nlri]:
        """Routes that were last announced to this peer by a line above `low` and not above `high`."""
        for nlri, route in self.routes.items():
            if low < route.number <= high and route.is_told(peer):
                yield nlri

    def carried(self) -> frozenset[Family]:
        """The families that some neighbour has."""
        return frozenset(family for session in self.sessions.values() for family in session.neighbor.families)

    # --- what is heard

    def meet(self, address: str, asn: int, known: frozenset[Family], hold_time: int, now: float) -> Session:
        """ExaBGP has this neighbour with these families, whether or not it was known here."""
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
        """ExaBGP ended, or cannot be asked. Numbers start anew; peers may keep routes. `at`: seconds of the epoch."""
        self.offline = reason
        for route in self.routes.values():
            if route.first < NEVER and any(s.up or s.ever >= route.first for s in self.sessions.values()):
                route.exposed = True
            route.number, route.first, route.held = NEVER, NEVER, ""
        for session in self.sessions.values():
            if session.up:
                self.down(session, "", now, NEVER, at)
            session.turn("Idle", at)
            session.ever = -1

    def heard_by(self, peer: str) -> list[Nlri]:
        """The routes in the socket of the session with this peer, and not withdrawn."""
        session = self.sessions.get(peer)
        if session is None or not session.up:
            return []
        return [
            nlri
            for nlri, route in self.routes.items()
            if nlri.family in session.families
            and not (route.withdrawn or route.refused is not None or route.held or peer in route.withheld)
            and route.number <= session.sent
        ]

    def up(self, session: Session, families: frozenset[Family], started: int, since: float) -> None:
        session.state, session.since, session.unreached = "Established", since, ""
        session.families = families
        session.started, session.sent, session.acked = started, -1, -1
        session.eor, session.ended = set(), set()
        session.passed.clear()

    def down(self, session: Session, words: str, now: float, newest: int, at: float = 0.0) -> None:
        """A session ended, or an attempt at one. `newest`: the number of the newest line. `at`: the epoch's seconds.

        All lines up to the newest may have been in the socket: ExaBGP cannot say any more how many were.
        """
        if session.up:
            session.down_since = now
            session.ever = max(session.ever, newest)
        session.turn("Idle", at)
        session.families, session.eor, session.ended = frozenset(), set(), set()
        session.sent = session.acked = session.started = -1
        if words:
            session.last_error = words

    def sent(self, session: Session, number: int, at: float | None = None) -> None:
        """`at`: when it was told, if that is known."""
        session.sent = number
        session.ever = max(session.ever, number)
        if at is not None:
            session.passed.append((number, at))

    # --- what is answered

    def lacking(self, peer: str, number: int) -> str:
        """Why a peer has not acknowledged everything up to this number and every End-of-RIB; "" if it has."""
        session = self.sessions.get(peer)
        if session is None or not session.up:
            return f"no session: {_position(session) if session is not None else peer}"
        if self.confirmed is not Reach.ACKED:  # a stock ExaBGP does not tell
            return ""
        if unended := session.families - session.ended:
            return f"{peer} has not acknowledged the end of {', '.join(sorted(unended))}"
        return "" if session.acked >= number else f"{peer} has not acknowledged every route"

    def reached(self, nlri: Nlri) -> dict[str, float]:
        """When a route was in the socket of each neighbour, as far as that is remembered; seconds of the epoch."""
        route = self.routes.get(nlri)
        if route is None:
            return {}
        found = {}
        for address, session in self.sessions.items():
            if not route.is_told(address):
                continue
            has = nlri.family in session.families and address not in route.withheld
            if has and session.started < route.number <= session.sent:
                times = (at for number, at in session.passed if number >= route.number)
                if (at := next(times, None)) is not None:
                    found[address] = at
        return found

    def outcome(self, nlri: Nlri, now: float) -> Outcome:
        """How far the last announcement or withdrawal of a route got. WANTED without a reason: it is under way."""
        having = [s for s in self.sessions.values() if nlri.family in s.neighbor.families]
        route = self.routes.get(nlri)
        if route is not None and route.refused is not None:
            return Outcome(Reach.REFUSED, route.refused)
        if route is not None and route.withdrawn:
            outcome = self._withdrawal(nlri.family, route, having, now)
            route.told = outcome.reach >= self.confirmed and not outcome.reason
            return outcome
        if route is not None and route.held:
            return Outcome(Reach.WANTED, route.held)
        if not self.sessions:
            return Outcome(Reach.WANTED, self.none)
        if not having:
            return Outcome(Reach.WANTED, f"no neighbour has family {nlri.family}")
        if route is not None and route.withheld:
            having = [session for session in having if session.neighbor.address not in route.withheld]
            if not having:
                return Outcome(Reach.ACKED, WITHHELD)
        if self.offline is not None:
            return Outcome(Reach.WANTED, self.offline)
        if route is None:
            return Outcome(Reach.WANTED, "not asked of ExaBGP yet")
        ready = [s for s in having if nlri.family in s.families]
        if not ready:
            return Outcome(Reach.WANTED, self._why_none(nlri.family, having))
        if min(s.acked for s in ready) >= route.number:
            return Outcome(Reach.ACKED)
        if min(s.sent for s in ready) >= route.number:
            return Outcome(Reach.SENT)
        return Outcome(Reach.WANTED)

    def _why_none(self, family: Family, having: list[Session]) -> str:
        mute = [s.neighbor.address for s in having if s.up]
        if mute:
            return f"no session negotiated {family}: {', '.join(mute)} did not"
        return "no session: " + ", ".join(map(_position, having))

    def _withdrawal(self, family: Family, route: RouteState, having: list[Session], now: float) -> Outcome:
        """Whether a peer is left that may have the route.

        SENT: the withdrawal is in the socket of every session that is up. ACKED: the TCP of every peer that may have
        had the route has acknowledged it. A peer without a session may keep the route: it has to come back first, or to
        be away for so long that it has dropped the route.
        """
        took: list[Reach] = []
        under_way = False
        absent = ""
        for session in having:
            if not route.exposed and (session.ever < route.first or session.neighbor.address in route.never):
                continue  # never sent there
            if session.up:
                if family not in session.families:
                    continue
                # a route that a peer kept from an earlier session goes at End-of-RIB
                older = route.number <= session.started
                if session.sent < route.number or (older and family not in session.eor):
                    under_way = True
                elif session.acked < route.number or (older and family not in session.ended):
                    took.append(Reach.SENT)
                else:
                    took.append(Reach.ACKED)
                continue
            kept = session.neighbor.hold_time + self.graceful_restart + MARGIN
            if session.long_lived is None or family in session.long_lived:
                kept += self.long_lived
            left = session.down_since + kept - now
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
