"""Routes learned from peers: kept as they came, filtered for each table that imports, the best chosen. Pure.

The Adj-RIB-In has every route that peers announce, by exporter, peer and NLRI. There is a table for each VNI, VRF and
VPN, and one for unicast; it has the candidates for each destination. A route reaches a table by its route targets, or
by its family. The rule of the table accepts it for some destinations, or refuses it with a reason.

A destination is (what, value): `mac` and `ip` (type 2), `flood` (type 3, the VTEP), `prefix` (unicast, vpn, type 5).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from ipaddress import ip_network
from typing import NamedTuple, Protocol, TypeVar

from bgpcni.bgp import FIRST_LABEL, VXLAN, WELL_KNOWN
from bgpcni.dataplane.guard import SPECIAL, Guard
from bgpcni.dataplane.prefixes import Address, Network, PrefixIndex
from bgpcni.exporter import EndOfRib, Event, Gone, Learned, SessionDown
from bgpcni.ip import ip_address
from bgpcni.model import Family, IpPrefixNlri, MacIpNlri, MulticastNlri, Nlri, UnicastNlri, VpnNlri

DEFAULT_LOCAL_PREF = 100
GATEWAY = "it is the anycast gateway"
THIS_NETWORK = 8
"""The length of 0.0.0.0/8 (RFC 6890) and ::/8. Prefixes at 0 that are shorter are default routes, or parts of one."""
UNICAST = (Family.IPV4_UNICAST, Family.IPV6_UNICAST)
VPN = (Family.IPV4_VPN, Family.IPV6_VPN)
ROUTED = (UnicastNlri, VpnNlri, IpPrefixNlri)
"""Routes to prefixes."""
Kinds = frozenset[type[Nlri]]
K = TypeVar("K")


class Destination(NamedTuple):
    """What a route leads to."""

    what: str
    value: str


class RouteId(NamedTuple):
    """Identifies a learned route. If two peers announce the same NLRI, these are two routes."""

    exporter: str
    peer: str
    nlri: Nlri


class Refused(Exception):
    """A rule refuses a route. The text is the reason, the same text for all routes that are refused for it."""


class Rule(Protocol):
    """What a table imports: routes of these `kinds` with one of these route targets. `targets` None: with any."""

    @property
    def targets(self) -> frozenset[str] | None: ...
    @property
    def kinds(self) -> Kinds: ...
    @property
    def paths(self) -> int:
        """How many equal routes to a destination are used at once."""
        ...

    def destinations(self, route: Learned) -> tuple[Destination, ...]:
        """What the route leads to. Raises Refused."""
        ...


@dataclass(frozen=True, slots=True)
class Own:
    """What identifies this node, so that it knows its own routes when they come back. `addresses`: next hops, VTEP.

    `asns`: its AS numbers, of which single sessions may have their own.
    """

    asns: frozenset[int] = frozenset()
    router_id: str | None = None
    addresses: frozenset[str] = frozenset()

    def refuse(self, route: Learned) -> None:
        """Raises Refused for a route of this node, or one that has been in our AS (RFC 4271 section 9.1.2)."""
        found = route.attributes
        if found.next_hop in self.addresses or (self.router_id and found.originator == self.router_id):
            raise Refused("our own route")
        if not self.asns.isdisjoint(found.as_path):
            raise Refused("our own AS is in its AS path")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a node takes of learned routes. `prefixes` None: any. `maximum`: how many routes a table takes, None: all.

    `paths`: how many equal routes to a prefix the kernel is given.
    """

    prefixes: tuple[Network, ...] | None = None
    maximum: int | None = None
    paths: int = 1

    def refuse(self, prefix: str) -> None:
        if self.prefixes is not None and not _within(_network(prefix), self.prefixes):
            raise Refused("[policy] prefixes does not allow it")


@dataclass(frozen=True, slots=True)
class EvpnRule:
    """For a VNI. `reserved`: addresses and MAC of the anycast gateway, which no other node may claim.

    Type 5 routes belong to a VRF. If there is none, they are imported for the control plane only.
    """

    targets: frozenset[str]
    own: Own = Own()
    bounds: Bounds = Bounds()
    reserved: frozenset[str] = frozenset()
    kinds: Kinds = frozenset({MacIpNlri, MulticastNlri, IpPrefixNlri})
    paths: int = 1

    def destinations(self, route: Learned) -> tuple[Destination, ...]:
        self.own.refuse(route)
        nlri, found = route.nlri, route.attributes
        if found.encapsulation not in (None, VXLAN):
            raise Refused("its encapsulation is not VXLAN")
        _refuse_next_hop(found.next_hop)
        if isinstance(nlri, IpPrefixNlri):
            self.bounds.refuse(nlri.prefix)
            return (Destination("prefix", nlri.prefix),)
        if not route.vni:
            raise Refused("it has no VNI")
        if not isinstance(nlri, MacIpNlri):
            return (Destination("flood", found.next_hop),)
        if nlri.mac in self.reserved:
            raise Refused(GATEWAY)
        if _is_of_many(nlri.mac):
            raise Refused("its MAC is not of one host")
        if nlri.prefix is None:
            return (Destination("mac", nlri.mac),)
        self.bounds.refuse(nlri.prefix)
        address = nlri.prefix.partition("/")[0]
        if address in self.reserved:
            raise Refused(GATEWAY)
        if _is_special(_network(nlri.prefix), link_local=False):
            raise Refused("its address is not of one host")
        return (Destination("mac", nlri.mac), Destination("ip", address))


@dataclass(frozen=True, slots=True)
class UnicastRule:
    """For the node's own table. `accept`: the prefixes of `bgp.import`."""

    accept: frozenset[str]
    own: Own = Own()
    bounds: Bounds = Bounds()
    kinds: Kinds = frozenset({UnicastNlri})
    targets: None = None

    @property
    def paths(self) -> int:
        return self.bounds.paths

    def destinations(self, route: Learned) -> tuple[Destination, ...]:
        self.own.refuse(route)
        prefix = str(route.nlri.prefix)
        network = _network(prefix)
        if not _within(network, map(_network, self.accept)):
            raise Refused("bgp.import does not name it")
        self.bounds.refuse(prefix)
        hop = route.attributes.next_hop
        _refuse_next_hop(hop)
        _refuse_unnamed(prefix, self.accept)
        if ip_address(hop) in network and prefix not in self.accept:
            raise Refused("its next hop is inside it, and bgp.import does not name it itself")
        return (Destination("prefix", prefix),)


@dataclass(frozen=True, slots=True)
class VrfRule:
    """For a VRF in the kernel. `l3vni`: its VNI; None: it imports no type 5 routes. `mpls`: it imports L3VPN routes.

    `accept`: the prefixes of `bgp.import`; if there are none, all that the route targets allow.
    """

    targets: frozenset[str]
    own: Own = Own()
    bounds: Bounds = Bounds()
    l3vni: int | None = None
    mpls: bool = False
    accept: frozenset[str] = frozenset()

    @property
    def kinds(self) -> Kinds:
        wanted: dict[type[Nlri], bool] = {IpPrefixNlri: self.l3vni is not None, VpnNlri: self.mpls}
        return frozenset(kind for kind, asked in wanted.items() if asked)

    @property
    def paths(self) -> int:
        return self.bounds.paths

    def destinations(self, route: Learned) -> tuple[Destination, ...]:
        self.own.refuse(route)
        prefix = str(route.nlri.prefix)
        if self.accept and not _within(_network(prefix), map(_network, self.accept)):
            raise Refused("bgp.import does not name it")
        self.bounds.refuse(prefix)
        _refuse_next_hop(route.attributes.next_hop)
        if isinstance(route.nlri, VpnNlri):
            if not route.label or route.label < FIRST_LABEL:
                raise Refused("it has no label that its next hop could have given it")
            if ":" not in prefix and ":" in route.attributes.next_hop:
                raise Refused("its next hop is of another family")
        else:
            self._refuse_tunnel(route)
        _refuse_unnamed(prefix, self.accept)
        return (Destination("prefix", prefix),)

    def _refuse_tunnel(self, route: Learned) -> None:
        """Raises Refused for a type 5 route that leads to no router of this VNI (RFC 9136 section 4.4.1)."""
        found = route.attributes
        if found.encapsulation not in (None, VXLAN):
            raise Refused("its encapsulation is not VXLAN")
        if route.gateway is not None:
            raise Refused("it has a gateway address, which we do not support")
        if route.vni != self.l3vni:
            raise Refused(f"its VNI is not that of the VRF, {self.l3vni}")
        if found.router_mac is None or _is_of_many(found.router_mac):
            raise Refused("it has no Router's MAC")


@dataclass(frozen=True, slots=True)
class VpnRule:
    """For an L3VPN of RFC 4364 without a VRF: control plane only."""

    targets: frozenset[str]
    own: Own = Own()
    bounds: Bounds = Bounds()
    kinds: Kinds = frozenset({VpnNlri})
    paths: int = 1

    def destinations(self, route: Learned) -> tuple[Destination, ...]:
        self.own.refuse(route)
        self.bounds.refuse(str(route.nlri.prefix))
        return (Destination("prefix", str(route.nlri.prefix)),)


class Table:
    """The candidates for each destination. `changed`: the destinations whose best route may have changed.

    Of the routes that the rule accepts, `guard` refuses those that would harm this node. `hops`: how many routes that
    the rule accepts have this next hop. `moved`: the next hops that are new there, or gone.
    """

    def __init__(self, rule: Rule, maximum: int | None = None, guard: Guard | None = None) -> None:
        self.rule = rule
        self.maximum = maximum
        self.guard = guard
        self.hops: Counter[str] = Counter()
        self.moved: dict[str, None] = {}
        self.candidates: dict[Destination, dict[RouteId, Learned]] = {}
        self.taken: dict[RouteId, tuple[Destination, ...]] = {}
        self.refused: dict[RouteId, str] = {}
        self.changed: dict[Destination, None] = {}
        self._over: dict[RouteId, Learned] = {}
        self._hop_of: dict[RouteId, str] = {}

    def offer(self, route_id: RouteId, route: Learned) -> None:
        """Import a new or changed route, or note why not."""
        try:
            destinations = self.rule.destinations(route)
        except Refused as reason:
            self.retract(route_id)
            self.refused[route_id] = str(reason)
            return
        if self.guard is not None:
            if objection := self.guard.objection(_network(destinations[0].value)):
                self.retract(route_id)
                self.refused[route_id] = objection
                self._note_hop(route_id, route.attributes.next_hop)
                return
            self._note_hop(route_id, route.attributes.next_hop)
        if route_id not in self.taken and self.maximum is not None and len(self.taken) >= self.maximum:
            self._over[route_id] = route
            self.refused[route_id] = "[policy] maximum_prefix is reached"
            return
        before = self.taken.get(route_id, ())
        for destination in before:
            if destination not in destinations:
                self._drop(destination, route_id)
        self.refused.pop(route_id, None)
        self._over.pop(route_id, None)
        self.taken[route_id] = destinations
        for destination in destinations:
            self.candidates.setdefault(destination, {})[route_id] = route
            self.changed[destination] = None

    def retract(self, route_id: RouteId) -> None:
        """Import a route no more. If it is unknown, nothing happens."""
        self.refused.pop(route_id, None)
        self._over.pop(route_id, None)
        self._note_hop(route_id, None)
        for destination in self.taken.pop(route_id, ()):
            self._drop(destination, route_id)
        while self._over and self.maximum is not None and len(self.taken) < self.maximum:
            self.offer(*self._over.popitem())

    def _note_hop(self, route_id: RouteId, hop: str | None) -> None:
        before = self._hop_of.pop(route_id, None)
        if hop is not None:
            self._hop_of[route_id] = hop
        if before == hop:
            return
        for one, step in ((before, -1), (hop, 1)):
            if one is not None:
                self.hops[one] += step
                if self.hops[one] == (step > 0):
                    self.moved[one] = None
                if not self.hops[one]:
                    del self.hops[one]

    def _drop(self, destination: Destination, route_id: RouteId) -> None:
        candidates = self.candidates[destination]
        del candidates[route_id]
        if not candidates:
            del self.candidates[destination]
        self.changed[destination] = None

    def best(self, destination: Destination) -> Learned | None:
        """The route to use, or None. It does not depend on the order in which the routes came."""
        candidates = self.candidates.get(destination)
        if not candidates:
            return None
        if len(candidates) == 1:
            return next(iter(candidates.values()))
        order = _mobile if destination.what in ("mac", "ip") else _preferred
        return min(candidates.items(), key=lambda item: order(*item))[1]

    def used(self, destination: Destination) -> list[Learned]:
        """The best route and those that are as good, each by a next hop of its own; as many as the rule allows."""
        candidates = self.candidates.get(destination, {})
        if len(candidates) < 2 or self.rule.paths == 1 or destination.what != "prefix":
            best = self.best(destination)
            return [] if best is None else [best]
        ordered = sorted(candidates.items(), key=lambda item: _preferred(*item))
        merit = _merit(ordered[0][1])
        equal: dict[str, Learned] = {}
        for _, route in ordered:
            if _merit(route) == merit:
                equal.setdefault(route.attributes.next_hop, route)
        return list(equal.values())[: self.rule.paths]

    def rivals(self) -> Iterator[tuple[Destination, list[Learned]]]:
        """MACs and addresses that several VTEPs announce with one sequence: they did not move, but exist twice."""
        for destination, candidates in self.candidates.items():
            if destination.what in ("mac", "ip") and len(candidates) > 1:
                best = self.best(destination)
                assert best is not None
                top = (best.attributes.sticky, best.attributes.mobility)
                same = [r for r in candidates.values() if (r.attributes.sticky, r.attributes.mobility) == top]
                if len({route.attributes.next_hop for route in same}) > 1:
                    yield destination, same


def _mobile(route_id: RouteId, route: Learned) -> tuple[object, ...]:
    """The order of RFC 7432 sections 7.7 and 15: static first, then the highest sequence, then the lowest VTEP.

    A last resort comes after all others (RFC 9494 section 4.3).
    """
    found = route.attributes
    return (
        _LAST_RESORT in found.communities, not found.sticky, -found.mobility, _rank(found.next_hop),
        route.nlri.mac if isinstance(route.nlri, MacIpNlri) else "",
        route_id.exporter, _rank(route_id.peer), str(route.nlri),
    )  # fmt: skip


def _preferred(route_id: RouteId, route: Learned) -> tuple[object, ...]:
    """The order of RFC 4271 section 9.1: what `_merit` says, then the lowest peer."""
    return (*_merit(route), _rank(route_id.peer), route_id.exporter, str(route.nlri))


def _merit(route: Learned) -> tuple[object, ...]:
    """Local preference, AS path length, origin, MED. Routes that have the same are equal.

    A last resort comes after all others (RFC 9494 section 4.3).
    """
    found = route.attributes
    local_pref = DEFAULT_LOCAL_PREF if found.local_pref is None else found.local_pref
    return (_LAST_RESORT in found.communities, -local_pref, len(found.as_path), found.origin, found.med or 0)


_LAST_RESORT, _NEVER_LONG_LIVED = WELL_KNOWN["llgr-stale"], WELL_KNOWN["no-llgr"]
"""The communities of RFC 9494."""


@dataclass(slots=True)
class _Stale:
    """Routes of one peer and family that are kept until announced again, or until `until` (time.monotonic()).

    `last_resort`: for how many seconds after that they may be used if there is no other.
    """

    until: float
    last_resort: int = 0
    routes: dict[RouteId, None] = field(default_factory=dict)


class Rib:
    """The Adj-RIB-In and its tables, by name. It has no clock: the time is a parameter."""

    def __init__(self, restart_time: float) -> None:
        """`restart_time`: for how many seconds the routes of a peer that went away are kept (RFC 4724 section 4.2)."""
        self.restart_time = restart_time
        self.routes: dict[RouteId, Learned] = {}
        self.tables: dict[str, Table] = {}
        self.complete: set[tuple[str, str, Family]] = set()
        """(exporter, peer, family) of which End-of-RIB has come, in a session that is still up."""
        self._by_target: dict[str, dict[RouteId, None]] = {}
        self._by_family: dict[Family, dict[RouteId, None]] = {}
        self._by_peer: dict[tuple[str, str, Family], dict[RouteId, None]] = {}
        self._by_host: dict[Destination, dict[RouteId, None]] = {}
        self._by_prefix: PrefixIndex[RouteId] = PrefixIndex()
        self._stale: dict[tuple[str, str, Family], _Stale] = {}

    # ---------------------------------------------------------------- what peers say

    def hear(self, exporter: str, event: Event, now: float) -> None:
        """Work off one event of an exporter. `now`: time.monotonic()."""
        if isinstance(event, Learned):
            self._learn(RouteId(exporter, event.peer, event.nlri), event)
        elif isinstance(event, Gone):
            self._forget(RouteId(exporter, event.peer, event.nlri))
        elif isinstance(event, EndOfRib):
            source = (exporter, event.peer, event.family)
            self.complete.add(source)
            self._sweep(source)
        else:
            self._down(exporter, event, now)

    def _learn(self, route_id: RouteId, route: Learned) -> None:
        before = self.routes.get(route_id)
        if before == route:
            self._fresh(route_id)
            return
        if before is not None and before.attributes.route_targets != route.attributes.route_targets:
            self._forget(route_id)
        self._fresh(route_id)
        self.routes[route_id] = route
        family = route.nlri.family
        self._by_family.setdefault(family, {})[route_id] = None
        self._by_peer.setdefault((route_id.exporter, route_id.peer, family), {})[route_id] = None
        for target in route.attributes.route_targets:
            self._by_target.setdefault(target, {})[route_id] = None
        for host in _hosts(route.nlri):
            self._by_host.setdefault(host, {})[route_id] = None
        if isinstance(route.nlri, ROUTED):
            self._by_prefix.add(_network(str(route.nlri.prefix)), route_id)
        for table in self.tables.values():
            if _concerns(table.rule, route):
                table.offer(route_id, route)

    def _fresh(self, route_id: RouteId) -> None:
        stale = self._stale.get((route_id.exporter, route_id.peer, route_id.nlri.family))
        if stale is not None:
            stale.routes.pop(route_id, None)

    def _forget(self, route_id: RouteId) -> None:
        route = self.routes.pop(route_id, None)
        if route is None:
            return
        self._fresh(route_id)
        family = route_id.nlri.family
        _discard(self._by_family, family, route_id)
        _discard(self._by_peer, (route_id.exporter, route_id.peer, family), route_id)
        for target in route.attributes.route_targets:
            _discard(self._by_target, target, route_id)
        for host in _hosts(route.nlri):
            _discard(self._by_host, host, route_id)
        if isinstance(route.nlri, ROUTED):
            self._by_prefix.discard(_network(str(route.nlri.prefix)), route_id)
        for table in self.tables.values():
            table.retract(route_id)

    def _down(self, exporter: str, event: SessionDown, now: float) -> None:
        """Without graceful restart, unicast and VPN routes go at once.

        EVPN routes stay for the restart time in any case. They say where the containers of other nodes are, and that
        has not changed when the session with a route reflector ends.
        """
        for source in [key for key in self._by_peer if key[:2] == (exporter, event.peer)]:
            if event.graceful or source[2] is Family.L2VPN_EVPN:
                known = self._stale.get(source)
                until = known.until if known and known.routes else now + self.restart_time
                last_resort = dict(event.long_lived).get(source[2], 0)
                if known and known.routes:
                    last_resort = known.last_resort
                self._stale[source] = _Stale(until, last_resort, dict.fromkeys(self._by_peer[source]))
            else:
                for route_id in list(self._by_peer[source]):
                    self._forget(route_id)
        self.complete = {source for source in self.complete if source[:2] != (exporter, event.peer)}

    def drop_exporter(self, exporter: str) -> None:
        """The exporter is gone: remove its routes."""
        for source in [source for source in self._by_peer if source[0] == exporter]:
            for route_id in list(self._by_peer[source]):
                self._forget(route_id)
        self._stale = {source: stale for source, stale in self._stale.items() if source[0] != exporter}
        self.complete = {source for source in self.complete if source[0] != exporter}

    def families_of(self, exporter: str) -> set[Family]:
        """The families of the routes that this exporter announced and we kept."""
        return {family for name, _, family in self._by_peer if name == exporter}

    def _sweep(self, source: tuple[str, str, Family]) -> None:
        stale = self._stale.pop(source, None)
        for route_id in list(stale.routes) if stale else ():
            self._forget(route_id)

    def expire(self, now: float) -> float | None:
        """Remove the routes whose time is up. Returns when the next one is, None: no route waits for that."""
        for source in [source for source, stale in self._stale.items() if stale.until <= now]:
            if self._stale[source].last_resort:
                self._demote(source)
            else:
                self._sweep(source)
        return min((stale.until for stale in self._stale.values() if stale.routes), default=None)

    def _demote(self, source: tuple[str, str, Family]) -> None:
        """Keep the stale routes of a source as a last resort (RFC 9494 section 4.3), but those that forbid it."""
        stale = self._stale[source]
        stale.until, stale.last_resort = stale.until + stale.last_resort, 0
        for route_id in list(stale.routes):
            found = self.routes[route_id].attributes
            if _NEVER_LONG_LIVED in found.communities:
                self._forget(route_id)
                continue
            marked = found._replace(communities=tuple(dict.fromkeys((*found.communities, _LAST_RESORT))))
            self._learn(route_id, self.routes[route_id]._replace(attributes=marked))
            stale.routes[route_id] = None

    def is_stale(self, route_id: RouteId) -> bool:
        stale = self._stale.get((route_id.exporter, route_id.peer, route_id.nlri.family))
        return stale is not None and route_id in stale.routes

    # ---------------------------------------------------------------- what is wanted of it

    def configure(self, name: str, rule: Rule, maximum: int | None, guard: Guard | None = None) -> Table:
        """A table imports by this rule from now on. If nothing has changed, nothing happens."""
        table = self.tables.get(name)
        if table is not None and table.guard is guard and table.maximum == maximum:
            if table.rule == rule:
                return table
            moved = _moved_imports(table.rule, rule)
            if moved is not None:
                table.rule = rule
                self.judge_again(name, moved)
                return table
        fresh = self.tables[name] = Table(rule, maximum, guard)
        if table is not None:
            fresh.changed = dict.fromkeys((*table.changed, *table.candidates))
            fresh.moved = dict.fromkeys((*table.moved, *table.hops))
        for route_id in self._bound_for(rule):
            fresh.offer(route_id, self.routes[route_id])
        return fresh

    def judge_again(self, name: str, within: Iterable[Network] = (), around: Iterable[Address] = ()) -> None:
        """Rule or guard of a table have changed for routes within these networks, or around these addresses.

        No other routes are looked at.
        """
        table = self.tables.get(name)
        if table is None:
            return
        found = {route_id: None for network in within for route_id in self._by_prefix.within(network)}
        found |= {route_id: None for address in around for route_id in self._by_prefix.around(address)}
        for route_id in found:
            if _concerns(table.rule, route := self.routes[route_id]):
                table.offer(route_id, route)

    def peers(self) -> set[str]:
        """The peers that announced a route that we have."""
        return {peer for _, peer, _ in self._by_peer}

    def drop(self, name: str) -> None:
        self.tables.pop(name, None)

    def _bound_for(self, rule: Rule) -> Iterable[RouteId]:
        if rule.targets is None:
            return [route_id for family in UNICAST for route_id in self._by_family.get(family, ())]
        found = {route_id: None for target in rule.targets for route_id in self._by_target.get(target, ())}
        return [route_id for route_id in found if type(route_id.nlri) in rule.kinds]

    def claims(self, destinations: Iterable[Destination], targets: Iterable[str]) -> list[Learned]:
        """Type 2 routes with any of these route targets that name one of these MACs or addresses.

        Whether a table imports them or not, because a network has no table before its first attachment.
        """
        wanted = frozenset(targets)
        found = {route_id: None for item in destinations for route_id in self._by_host.get(item, ())}
        routes = [self.routes[route_id] for route_id in found]
        return [route for route in routes if not wanted.isdisjoint(route.attributes.route_targets)]


def _moved_imports(before: Rule, after: Rule) -> list[Network] | None:
    """The networks that are new in `bgp.import`, or gone. None: something else has changed as well."""
    if not isinstance(before, UnicastRule) or not isinstance(after, UnicastRule):
        return None
    if replace(before, accept=after.accept) != after:
        return None
    return [_network(prefix) for prefix in before.accept ^ after.accept]


def _concerns(rule: Rule, route: Learned) -> bool:
    if type(route.nlri) not in rule.kinds:
        return False
    return rule.targets is None or not rule.targets.isdisjoint(route.attributes.route_targets)


def _hosts(nlri: Nlri) -> tuple[Destination, ...]:
    """The MAC and the address of a type 2 route; nothing for others."""
    if not isinstance(nlri, MacIpNlri):
        return ()
    mac = Destination("mac", nlri.mac)
    return (mac, Destination("ip", nlri.prefix.partition("/")[0])) if nlri.prefix else (mac,)


def _discard(index: dict[K, dict[RouteId, None]], key: K, route_id: RouteId) -> None:
    members = index.get(key)
    if members is not None:
        members.pop(route_id, None)
        if not members:
            del index[key]


def _refuse_unnamed(prefix: str, accept: frozenset[str]) -> None:
    """Raises Refused for what no node can use, and for a default route unless `bgp.import` has exactly that prefix."""
    network = _network(prefix)
    if _is_special(network, link_local=True):
        raise Refused(SPECIAL)
    if network.prefixlen < THIS_NETWORK and not int(network.network_address) and prefix not in accept:
        raise Refused("a default route, and bgp.import does not name it itself")


def _is_of_many(mac: str) -> bool:
    return bool(int(mac[:2], 16) & 1) or mac == "00:00:00:00:00:00"


def _refuse_next_hop(text: str) -> None:
    try:
        hop = ip_address(text)
    except ValueError:
        raise Refused("its next hop is no address") from None
    elsewhere = hop.is_link_local and "%" not in text  # with a zone it is on the link of an unnumbered peer
    if hop.is_unspecified or hop.is_multicast or hop.is_loopback or elsewhere:
        raise Refused("its next hop is no address that can be reached")


@lru_cache(65536)
def _network(prefix: str) -> Network:
    return ip_network(prefix)


def _within(network: Network, allowed: Iterable[Network]) -> bool:
    return any(
        network.version == other.version and other.prefixlen <= network.prefixlen and network.network_address in other
        for other in allowed
    )


def _is_special(network: Network, *, link_local: bool) -> bool:
    """Whether it is loopback, multicast, unspecified or, if asked, link-local, or begins with such an address."""
    address = network.network_address
    unspecified = address.is_unspecified and network.prefixlen >= THIS_NETWORK
    if address.is_loopback or address.is_multicast or unspecified:
        return True
    return link_local and address.is_link_local


@lru_cache(65536)
def _rank(text: str) -> tuple[int, int]:
    """The order of addresses: IPv4 first, then by number. What is no address comes last."""
    try:
        address = ip_address(text)
    except ValueError:
        return (9, 0)
    return (address.version, int(address))
