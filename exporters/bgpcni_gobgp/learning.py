"""Finds out what gobgpd's peers announce by comparing its table with the one before. Pure: no I/O, no clock.

The daemon's events say that something has changed, and in which family, but not what. So its table is read. It has the
octets of RFC 4271, which our own decoder (`wire/decode.py`) reads and validates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bgpcni.exporter import EndOfRib, Event, Gone, Learned, SessionDown
from bgpcni.model import Family, Nlri
from bgpcni.wire.decode import Unusable, decode_update
from bgpcni_gobgp import gobgp_pb2 as api
from bgpcni_gobgp.paths import LOCAL, family_of

_MP_REACH, _EXTENDED_LENGTH = 14, 0x10


@dataclass(frozen=True, slots=True)
class Session:
    """An established session. `since`: differs for each session. `told`: families whose routes have all been sent."""

    since: str
    internal: bool
    families: frozenset[Family] = frozenset()
    told: frozenset[Family] = frozenset()


@dataclass(slots=True)
class _Source:
    since: str
    routes: dict[Nlri, Learned] = field(default_factory=dict)
    complete: set[Family] = field(default_factory=set)
    left_out: int = 0


class AdjRibIn:
    """The Adj-RIB-In of each peer. `maximum`: how many routes of one peer are kept; None: any number."""

    def __init__(self, maximum: int | None = None) -> None:
        self.maximum = maximum
        self._sources: dict[str, _Source] = {}
        self._decoded: dict[tuple[str, bool, bytes, tuple[bytes, ...]], Learned | None] = {}

    def compare(
        self, families: frozenset[Family], sessions: Mapping[str, Session], paths: Iterable[api.Path]
    ) -> list[Event]:
        """The events that lead from the state before to what the daemon has now, for these families."""
        found = self._by_peer(sessions, paths)
        events: list[Event] = []
        for peer, source in list(self._sources.items()):
            if peer not in sessions or sessions[peer].since != source.since:
                events.append(SessionDown(peer, graceful=peer in sessions))
                del self._sources[peer]
        for peer, session in sessions.items():
            source = self._sources.setdefault(peer, _Source(session.since))
            routes = {nlri: route for nlri, route in found.get(peer, {}).items() if nlri.family in families}
            source.left_out = self._cut(source, routes)
            events += (route for nlri, route in routes.items() if source.routes.get(nlri) != route)
            events += (Gone(peer, nlri) for nlri in source.routes.keys() - routes.keys())
            source.routes = routes
            source.complete &= families
            for family in sorted((families & session.told) - source.complete):
                source.complete.add(family)
                events.append(EndOfRib(peer, family))
        return events

    def lost(self) -> list[Event]:
        """The daemon became unreachable: routes of its peers may be used until they are reported again."""
        peers, self._sources = list(self._sources), {}
        return [SessionDown(peer, graceful=True) for peer in peers]

    def waits(self, families: frozenset[Family], sessions: Mapping[str, Session]) -> bool:
        """Whether a peer may not have sent all its routes yet, which perhaps only the passing of time decides."""
        known = {peer: source.complete for peer, source in self._sources.items()}
        return any(families & session.families - known.get(peer, set()) for peer, session in sessions.items())

    def words(self, peer: str) -> str:
        """A text about routes that were left out; "" if there are none."""
        source = self._sources.get(peer)
        if source is None or not source.left_out:
            return ""
        return f"maximum_prefix {self.maximum} is reached: {source.left_out} routes are left out"

    def _by_peer(self, sessions: Mapping[str, Session], paths: Iterable[api.Path]) -> dict[str, dict[Nlri, Learned]]:
        known, self._decoded = self._decoded, {}
        found: dict[str, dict[Nlri, Learned]] = {}
        for path in paths:
            peer = path.neighbor_ip
            if peer == LOCAL or peer not in sessions:
                continue
            internal = sessions[peer].internal
            key = (peer, internal, path.nlri_binary, tuple(path.pattrs_binary))
            route = known[key] if key in known else learned(path, internal=internal)
            self._decoded[key] = route
            if route is not None:
                found.setdefault(peer, {}).setdefault(route.nlri, route)
        return found

    def _cut(self, source: _Source, routes: dict[Nlri, Learned]) -> int:
        """Leave out the newest routes beyond the maximum. Returns how many."""
        beyond = 0 if self.maximum is None else max(0, len(routes) - self.maximum)
        new = [nlri for nlri in routes if nlri not in source.routes]
        for nlri in [*reversed(new), *reversed(source.routes)][:beyond]:
            routes.pop(nlri, None)
        return beyond


def learned(path: api.Path, *, internal: bool) -> Learned | None:
    """The route of a listed path; None if it cannot be used. `internal`: its peer is in our AS."""
    if family_of(path.family) is None:
        return None
    attributes, reach = bytearray(), b""
    for one in path.pattrs_binary:
        if len(one) > 3 and one[1] == _MP_REACH:
            # the attribute of the whole message, with all its NLRI, of which this path is one
            value = one[4:] if one[0] & _EXTENDED_LENGTH else one[3:]
            reach = value[: 5 + value[3]] if len(value) > 4 else b""
        else:
            attributes += one
    if reach:
        value = reach + path.nlri_binary
        attributes += bytes([0x90, _MP_REACH]) + len(value).to_bytes(2, "big") + value
    body = b"\0\0" + len(attributes).to_bytes(2, "big") + attributes + (b"" if reach else path.nlri_binary)
    try:
        events = decode_update(path.neighbor_ip, body, internal=internal).events
    except (Unusable, OverflowError):
        return None
    return next((event for event in events if isinstance(event, Learned)), None)
