"""Counts and bounds the routes that each neighbour announces, and turns UPDATEs into events. Pure: no I/O, no clock.

Only the NLRI of each route is kept here, to count the routes and to tell later that one is gone. Its attributes go on
to who listens. `maximum` bounds the routes of every peer, and `neighbors` say what is taken from a single one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network

from bgpcni.exporter import EndOfRib, Event, Gone, Learned, SessionDown
from bgpcni.model import Family, ImportPolicy, Neighbor, Nlri
from bgpcni.wire.decode import Unusable, decode_update

Network = IPv4Network | IPv6Network
WARNING = 0.75
"""Part of `maximum` from which on a warning is given."""
ROOM = 0.9
"""Part of `maximum` below which a peer is asked for the routes that were left out."""
COUNTED = 100_000
"""How many left-out routes are counted at most."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a session negotiated. `internal`: the peer is of our AS. `graceful`: families with graceful restart.
    `long_lived`: those with the long-lived one, and for how many seconds."""

    internal: bool
    families: frozenset[Family] = frozenset(Family)
    asn4: bool = True
    graceful: frozenset[Family] = frozenset()
    refresh: bool = True
    long_lived: tuple[tuple[Family, int], ...] = ()


@dataclass(slots=True)
class Source:
    """The session with one neighbour."""

    terms: Terms
    held: dict[Family, set[Nlri]] = field(default_factory=lambda: {family: set() for family in Family})
    asked: set[Family] = field(default_factory=set)
    """Families that the peer was asked for again, and has not told completely yet."""
    maximum: int | None = None
    zone: str | None = None
    """The link on which link-local next hops are."""
    within: tuple[Network, ...] = ()
    """The prefixes that are taken; none of them: all."""
    outside: set[int] = field(default_factory=set)
    """Hashes of the routes that are not within them."""
    given_up: set[Family] = field(default_factory=set)
    """Families of which an UPDATE could not be read: ignored until the session ends."""
    left_out: set[int] = field(default_factory=set)
    """Hashes of the routes beyond the maximum."""
    faults: int = 0
    fault: str = ""
    unasked: bool = False
    """What it announced before we listened is not known, and it cannot be asked again."""

    def takes(self, nlri: Nlri) -> bool:
        """Whether the import policy takes the route. It has nothing to say of a route without a prefix."""
        if not self.within or nlri.prefix is None:
            return True
        prefix = ip_network(nlri.prefix)
        return any(prefix.version == one.version and prefix.subnet_of(one) for one in self.within)  # type: ignore[arg-type]

    def count(self) -> int:
        return sum(len(routes) for routes in self.held.values())


@dataclass(frozen=True, slots=True)
class Result:
    """What to do after an UPDATE. `events`: to tell. `ask`: families to ask the peer for again. `end`: why its session
    must end, "" if it need not."""

    events: list[Event]
    ask: frozenset[Family] = frozenset()
    end: str = ""


class AdjRibIn:
    """The routes of all neighbours, in the families that somebody listens to."""

    def __init__(self, maximum: int | None = None, neighbors: Mapping[str, Neighbor] | None = None) -> None:
        self._maximum = maximum
        self._neighbors = neighbors or {}
        self.families: frozenset[Family] = frozenset()
        self.sources: dict[str, Source] = {}

    def listen(self, families: Collection[Family]) -> frozenset[Family]:
        """Listen to these families from now on. Returns the new ones, for which peers have to be asked."""
        fresh = frozenset(families) - self.families
        for source in self.sources.values():
            for family in self.families - frozenset(families):
                source.held[family].clear()
        self.families = frozenset(families)
        return fresh

    def up(self, peer: str, terms: Terms) -> None:
        """A session is established. Routes of an earlier one are not counted any more."""
        neighbor = self._neighbors.get(peer)
        policy = neighbor.accept if neighbor is not None else ImportPolicy()
        bounds = [bound for bound in (self._maximum, policy.maximum_prefix) if bound is not None]
        within = tuple(ip_network(prefix) for prefix in policy.prefixes)
        zone = neighbor.interface if neighbor is not None else None
        self.sources[peer] = Source(terms, maximum=min(bounds, default=None), within=within, zone=zone)

    def asked(self, families: Collection[Family], peers: Iterable[str]) -> list[str]:
        """These peers are about to be asked for these families. Returns the peers that can be asked."""
        able = []
        for peer in peers:
            source = self.sources[peer]
            if source.terms.refresh:
                source.asked |= source.terms.families & frozenset(families)
                able.append(peer)
            else:
                source.unasked = True
        return able

    def update(self, peer: str, body: bytes) -> Result:
        """An UPDATE came."""
        source = self.sources.get(peer)
        if source is None or not self.families:
            return Result([])
        try:
            terms = source.terms
            found = decode_update(peer, body, internal=terms.internal, asn4=terms.asn4, zone=source.zone)
        except Unusable as error:
            source.faults, source.fault = source.faults + 1, str(error)
            return Result([], end=str(error))
        if found.faults:
            source.faults, source.fault = source.faults + 1, found.faults[-1]
        events: list[Event] = []
        for event in found.events:
            if isinstance(event, EndOfRib):
                if event.family in self.families - source.asked:
                    events.append(event)
                continue
            family = event.nlri.family
            if family not in self.families or family in source.given_up:
                continue
            held = source.held[family]
            if isinstance(event, Gone):
                source.left_out.discard(hash(event.nlri))
                source.outside.discard(hash(event.nlri))
                if event.nlri in held:
                    held.remove(event.nlri)
                    events.append(event)
            elif self._fits(source, held, event):
                events.append(event)
        for family in found.given_up:
            source.given_up.add(family)
            events += self._emptied(peer, source, family)
        return Result(events, self._room(source))

    def _fits(self, source: Source, held: set[Nlri], event: Learned) -> bool:
        if event.nlri in held:
            return True
        if not source.takes(event.nlri):
            if len(source.outside) < COUNTED:
                source.outside.add(hash(event.nlri))
            return False
        if source.maximum is not None and source.count() >= source.maximum:
            if len(source.left_out) < COUNTED:
                source.left_out.add(hash(event.nlri))
            return False
        held.add(event.nlri)
        return True

    def _room(self, source: Source) -> frozenset[Family]:
        if not source.left_out or source.maximum is None or source.asked or source.count() >= ROOM * source.maximum:
            return frozenset()
        source.left_out.clear()
        return self.families

    def _emptied(self, peer: str, source: Source, family: Family) -> list[Event]:
        gone: list[Event] = [Gone(peer, nlri) for nlri in source.held[family]]
        source.held[family].clear()
        return gone

    def told(self, peer: str, family: Family) -> list[Event]:
        """The peer has told all its routes of a family."""
        source = self.sources.get(peer)
        if source is None or family not in self.families:
            return []
        source.asked.discard(family)
        return [EndOfRib(peer, family)]

    def down(self, peer: str, notified: bool) -> list[Event]:
        """A session ended, by a NOTIFICATION or without one."""
        source = self.sources.pop(peer, None)
        if source is None or not self.families:
            return []
        graceful = source.terms.graceful & self.families if not notified else frozenset()
        events: list[Event] = []
        if graceful:
            # who listens keeps EVPN routes for the restart time in any case
            for family in self.families - graceful - {Family.L2VPN_EVPN}:
                events += self._emptied(peer, source, family)
        return [*events, SessionDown(peer, bool(graceful), source.terms.long_lived if graceful else ())]

    def lost(self) -> list[Event]:
        """ExaBGP cannot be asked any more: its peers' routes may be used until they are told again."""
        peers, self.sources = list(self.sources), {}
        return [SessionDown(peer, True) for peer in peers] if self.families else []

    # --- for people

    def received(self, peer: str) -> int:
        source = self.sources.get(peer)
        return source.count() if source is not None else 0

    def words(self, peer: str) -> str:
        """What an operator should know of this peer's routes, "" if nothing."""
        source = self.sources.get(peer)
        if source is None:
            return ""
        said = []
        count = source.count()
        if source.maximum is not None and source.left_out:
            said.append(f"maximum_prefix {source.maximum} is reached: {len(source.left_out)} routes are left out")
        elif source.maximum is not None and count >= WARNING * source.maximum:
            said.append(f"{count} routes received, maximum_prefix is {source.maximum}")
        if source.outside:
            said.append(f"{len(source.outside)} route{'s' * (len(source.outside) > 1)} outside import.prefixes")
        if source.faults:
            said.append(f"{source.faults} malformed UPDATE{'s' * (source.faults > 1)}, the last: {source.fault}")
        if source.unasked:
            said.append("it has no route refresh: its routes are known from its next session on")
        return "; ".join(said)
