"""The two ways to tell ExaBGP of routes: our engine's commands, or the text commands of a stock ExaBGP.

A dialect is made for one connection and belongs to it. Its verbs are called by the announcer's thread.
"""

from __future__ import annotations

import abc
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal

from bgpcni.errors import InvalidConfiguration
from bgpcni.exporter import NotThereYet, Outcome, Reach
from bgpcni.model import ROUTES, Announcement, ExportPolicy, Family, Nlri
from bgpcni.wire.values import Unencodable
from bgpcni_exabgp import lines, protocol
from bgpcni_exabgp.lines import Audience, Line
from bgpcni_exabgp.link import Link
from bgpcni_exabgp.shared import Shared

REFUSED = "exabgp refused it; see its log"
NOBODY: frozenset[str] = frozenset()


class Dialect(abc.ABC):
    """`asn`: our AS number."""

    acks: ClassVar[Literal["accepted", "acked"]]
    """The furthest that ExaBGP tells, as an exporter's `acks`."""
    confirmed: ClassVar[Reach]
    """The same in the terms of `Advertised`."""
    complaint = ""
    """What an operator should know of this ExaBGP."""

    def __init__(self, link: Link, shared: Shared, asn: int) -> None:
        self.link = link
        self.whole = False
        """Pruned since connected: ExaBGP has every route, so End-of-RIB may be sent."""
        self._shared = shared
        self._advertised = shared.advertised
        self._asn = asn

    @abc.abstractmethod
    def announce(self, routes: Sequence[Announcement], deadline: float) -> list[Outcome]:
        """As the exporter's."""

    @abc.abstractmethod
    def withdraw(self, nlris: Sequence[Nlri], deadline: float) -> list[Outcome]:
        """As the exporter's."""

    @abc.abstractmethod
    def outcomes(self, nlris: Iterable[Nlri]) -> list[Outcome]:
        """How far routes are. With the lock held."""

    @abc.abstractmethod
    def owed(self) -> list[Line]:
        """End-of-RIB for each session and family that did not have it and should. With the lock held."""

    @abc.abstractmethod
    def _prune(self, kept: set[Nlri], spare: Sequence[str], deadline: float) -> None: ...

    def prune(self, kept: set[Nlri], spare: Sequence[str], deadline: float) -> None:
        """As the exporter's. The first time each session gets End-of-RIB."""
        self._prune(kept, spare, deadline)
        with self._shared.lock:
            self._advertised.retain(kept)
            self._advertised.primed = True
            first, self.whole = not self.whole, True
            owed = self.owed() if first else []
        self.post(owed)
        self.tell_targets()  # those that are new since it was looked which are to be kept

    def tell_targets(self, before: frozenset[str] | None = None) -> None:
        """Tell the peers that know RFC 4684 which route targets this node imports. `before`: those they were told."""
        return

    def post(self, batch: Iterable[Line]) -> None:
        """Send lines without waiting for answers. A connection that fails is closed: who reads from it sees that."""
        try:
            for line in batch:
                self.link.post(line)
        except OSError:
            self.link.close()

    def _announce(self, batch: Iterable[Line], refused: dict[Nlri, str], deadline: float) -> None:
        """Send `batch`, and withdraw what ExaBGP has of routes that are `refused` in their new form."""
        with self._shared.lock:
            replaced = [nlri for nlri in refused if not self._advertised.is_refused(nlri)]
        self._withdraw(replaced, deadline)
        with self._shared.lock:
            for nlri, reason in refused.items():
                self._advertised.refuse(nlri, reason)
        failed = self.link.submit(batch, self.note_announced, deadline)
        with self._shared.lock:
            for line in failed:
                for nlri in line.routes:
                    self._advertised.refuse(nlri, REFUSED)

    @abc.abstractmethod
    def _withdraw(self, nlris: Iterable[Nlri], deadline: float) -> list[Line]:
        """Send withdrawals; the lines that ExaBGP refused."""

    # the link calls these just before a line goes

    def note_announced(self, line: Line, number: int) -> None:
        with self._shared.lock:
            for nlri in line.routes:
                self._advertised.announced(nlri, number)

    def note_withdrawn(self, line: Line, number: int) -> None:
        with self._shared.lock:
            for nlri in line.routes:
                self._advertised.withdrawn(nlri, number)


class EngineDialect(Dialect):
    """Our engine: it takes all families, and tells what each peer got."""

    acks = "acked"
    confirmed = Reach.ACKED

    def __init__(
        self, link: Link, shared: Shared, asn: int, state: protocol.EngineState, next_hop: str = "0.0.0.0"
    ) -> None:
        """`next_hop`: of what is no route, and so leads nowhere."""
        super().__init__(link, shared, asn)
        self._next_hop = next_hop
        self._selects = state.protocol >= protocol.SELECTS_SINCE
        self._resends = state.protocol >= protocol.RESENDS_SINCE
        self._joined = False
        """ExaBGP has all route targets that this node imports."""

    def announce(self, routes: Sequence[Announcement], deadline: float) -> list[Outcome]:
        quarantine = self._shared.quarantine
        with self._shared.lock:
            audiences, carried = self._audiences(), self._advertised.carried()
            allowed = quarantine.allowed(routes, time.monotonic())
        wanted = [route for route in allowed if route.nlri.family in carried]
        refused: dict[Nlri, str] = {}
        batch = self._spoken(lines.announce(wanted, audiences, refused.__setitem__))
        self._withhold(wanted, audiences, deadline)
        self._announce(batch, refused, deadline)
        with self._shared.lock:
            quarantine.announced(wanted, self.link.number, time.monotonic())
            return self.outcomes(route.nlri for route in routes)

    def try_suspects(self) -> bool:
        """Go on with the trials of routes in quarantine. True if something was done. By the thread that reads."""
        with self._shared.lock:
            due = [
                (trial, self._spoken(lines.announce(group, self._audiences(), self._advertised.refuse)))
                for trial, group in self._shared.quarantine.due(time.monotonic())
            ]
        for trial, batch in due:
            try:
                for line in batch:
                    self.link.post(line, self.note_announced)
            except OSError:
                self.link.close()
            number = self.link.number
            with self._shared.lock:
                self._shared.quarantine.started(trial, number)
        return bool(due)

    def withdraw(self, nlris: Sequence[Nlri], deadline: float) -> list[Outcome]:
        with self._shared.lock:
            carried = self._advertised.carried()
            self._shared.quarantine.forget(nlris)
        batch = list(lines.withdraw(nlri for nlri in nlris if nlri.family in carried))
        if self.link.submit(batch, self.note_withdrawn, deadline):
            raise NotThereYet("exabgp refused a withdrawal; see its log")
        sent = {nlri for line in batch for nlri in line.routes}
        with self._shared.lock:
            self._advertised.tidy()
            now = time.monotonic()
            return [self._advertised.outcome(n, now) if n in sent else Outcome(Reach.ACKED) for n in nlris]

    def outcomes(self, nlris: Iterable[Nlri]) -> list[Outcome]:
        now = time.monotonic()
        return [self._advertised.outcome(nlri, now) for nlri in nlris]

    def resend(self, peer: str, families: Iterable[Family]) -> None:
        """Send the peer all its routes again. Raises InvalidConfiguration for an engine of an earlier release."""
        if not self._resends:
            raise InvalidConfiguration("ExaBGP is of an earlier release, which cannot do that: restart it")
        self.post([lines.resend(families, peer)])

    def tell_targets(self, before: frozenset[str] | None = None) -> None:
        """As the base class says. The end is told as soon as all were told, since peers wait for it (RFC 4684
        section 6)."""
        with self._shared.telling:
            with self._shared.lock:
                targets, first = self._shared.targets, not self._joined
                batch: list[Line] = []
                if targets is not None:
                    membership, self._joined = self._membership(), True
                    known = before or NOBODY
                    batch += membership.join(targets if first else targets - known)
                    batch += membership.leave(known - targets)
                    batch += self.owed() if first else []
            self.post(self._spoken(batch))

    def owed(self) -> list[Line]:
        return [
            Line(protocol.SendEndOfRib(lines.NAMES[family], peers=(session.neighbor.address,)))
            for session in self._advertised.sessions.values()
            for family in sorted(session.families - session.eor)
            if (self._joined if family is Family.RTC else self.whole)
        ]

    def drain(self, deadline: float) -> None:
        """Withdraw everything, and wait until each session that is up has that in its socket."""
        self._withdraw_others(set(), [], (), deadline)
        with self._shared.lock:
            last = self.link.number
            up = [session for session in self._advertised.sessions.values() if session.up]
            self._shared.lock.wait_for(
                lambda: all(session.sent >= last or not session.up for session in up),
                max(0.0, deadline - time.monotonic()),
            )

    def _prune(self, kept: set[Nlri], spare: Sequence[str], deadline: float) -> None:
        with self._shared.lock:
            keeping = self._membership().keep(self._shared.targets)
        self._withdraw_others(kept, spare, keeping, deadline)

    def _withdraw_others(self, kept: set[Nlri], spare: Sequence[str], keeping: Iterable[Line], deadline: float) -> None:
        with self._shared.lock:
            carried, routes = self._advertised.carried(), self._advertised.routes
            able = [nlri for nlri in kept if nlri.family in carried]
            away = {nlri: routes[nlri].withheld for nlri in able if nlri in routes}
            keep = {
                each.peers: [nlri for nlri in able if away.get(nlri, NOBODY).isdisjoint(each.members)]
                for each in self._audiences()
            }
        batch = self._spoken(lines.prune(keep, spare, keeping))
        if self.link.submit(batch, lambda line, number: None, deadline):
            raise NotThereYet("exabgp refused to prune; see its log")

    def _withdraw(self, nlris: Iterable[Nlri], deadline: float) -> list[Line]:
        return self.link.submit(lines.withdraw(nlris), self.note_withdrawn, deadline)

    def _withhold(self, routes: Sequence[Announcement], audiences: Sequence[Audience], deadline: float) -> None:
        """Note which neighbours do not hear these routes, and withdraw them where they were heard until now."""
        if all(each.export == ExportPolicy() for each in audiences):
            return
        gone: dict[frozenset[str], list[Nlri]] = defaultdict(list)
        with self._shared.lock:
            for route in routes:
                gone[self._advertised.withhold(route.nlri, lines.withheld(route, audiences))].append(route.nlri)
        batch = [line for peers, nlris in gone.items() if peers for line in lines.withdraw(nlris, tuple(sorted(peers)))]
        if self.link.submit(self._spoken(batch), lambda line, number: None, deadline):
            raise NotThereYet("exabgp refused a withdrawal; see its log")

    def _spoken(self, batch: Iterable[Line]) -> list[Line]:
        """The lines as this engine understands them."""
        return list(batch if self._selects else lines.singly(batch))

    def _membership(self) -> lines.Membership:
        """With the lock held."""
        neighbors = tuple(session.neighbor for session in self._advertised.sessions.values())
        return lines.Membership(neighbors, self._asn, self._next_hop)

    def _audiences(self) -> tuple[Audience, ...]:
        """With the lock held."""
        return lines.audiences([session.neighbor for session in self._advertised.sessions.values()], self._asn)


class StockDialect(Dialect):
    """A stock ExaBGP: unicast and L3VPN, and once it has accepted a route it tells no more of it.

    `ours`: the agent runs it; else it is the user's own, and its End-of-RIB is its own affair. `complaint`: why an
    ExaBGP of ours is used as a stock one.
    """

    acks = "accepted"
    confirmed = Reach.SENT
    families = ROUTES - {Family.L2VPN_EVPN}

    def __init__(self, link: Link, shared: Shared, asn: int, ours: bool, complaint: str) -> None:
        super().__init__(link, shared, asn)
        self._ours = ours
        self.complaint = complaint

    def announce(self, routes: Sequence[Announcement], deadline: float) -> list[Outcome]:
        batch: list[Line] = []
        with self._shared.lock:
            neighbors = [session.neighbor for session in self._advertised.sessions.values()]
        bound = next((n.address for n in neighbors if n.export != ExportPolicy()), None)
        refused: dict[Nlri, str] = {}
        for route in routes:
            if bound is not None:
                refused[route.nlri] = f"bgp.neighbors.export of {bound}: a stock ExaBGP cannot do that"
                continue
            try:
                batch.append(lines.stock_announce(route, self._asn))
            except Unencodable as error:
                refused[route.nlri] = str(error)
        self._announce(batch, refused, deadline)
        with self._shared.lock:
            self._accepted()
            return self.outcomes(route.nlri for route in routes)

    def withdraw(self, nlris: Sequence[Nlri], deadline: float) -> list[Outcome]:
        self._withdraw(nlris, deadline)
        with self._shared.lock:
            self._accepted()
            able = [nlri for nlri in nlris if nlri.family in self.families]
            found = dict(zip(able, self.outcomes(able), strict=True))
        return [found.get(nlri, Outcome(Reach.ACCEPTED)) for nlri in nlris]

    def outcomes(self, nlris: Iterable[Nlri]) -> list[Outcome]:
        now = time.monotonic()
        return [_as_accepted(self._advertised.outcome(nlri, now)) for nlri in nlris]

    def owed(self) -> list[Line]:
        if not self.whole or not self._ours:
            return []
        owed = [
            (s, family) for s in self._advertised.sessions.values() for family in sorted(s.families & ROUTES - s.eor)
        ]
        for session, family in owed:
            session.eor.add(family)
        return [lines.stock_end_of_rib(session.neighbor.address, family) for session, family in owed]

    def _prune(self, kept: set[Nlri], spare: Sequence[str], deadline: float) -> None:
        with self._shared.lock:
            gone = [n for n, route in self._advertised.routes.items() if n not in kept and not route.withdrawn]
        self.withdraw(gone, deadline)

    def _withdraw(self, nlris: Iterable[Nlri], deadline: float) -> list[Line]:
        able = [nlri for nlri in nlris if nlri.family in self.families]
        return self.link.submit(map(lines.stock_withdraw, able), self.note_withdrawn, deadline)

    def _accepted(self) -> None:
        """Every line was answered, so all is in the Adj-RIB-Out of every neighbour. ExaBGP tells no more."""
        for session in self._advertised.sessions.values():
            if session.up:
                self._advertised.sent(session, self.link.number)


def _as_accepted(outcome: Outcome) -> Outcome:
    """`accepted` is the furthest here, and only if no peer is missing."""
    if outcome.reach > Reach.WANTED:
        return Outcome(Reach.WANTED, outcome.reason) if outcome.reason else Outcome(Reach.ACCEPTED)
    return outcome
