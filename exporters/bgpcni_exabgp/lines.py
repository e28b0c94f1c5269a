"""The lines sent to ExaBGP: commands of our engine, and the text API of a stock ExaBGP. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bgpcni.bgp import FIRST_LABEL, WELL_KNOWN
from bgpcni.model import Announcement, ExportPolicy, Family, Neighbor, Nlri
from bgpcni.wire.encode import Kind, encode, encode_withdrawal, membership, membership_attributes, route_target
from bgpcni.wire.outbound import adapt, hears
from bgpcni.wire.values import Unencodable
from bgpcni_exabgp import protocol
from bgpcni_exabgp.protocol import EncodedRoute

LENGTH = 16 << 10
"""Octets of a line at most; ExaBGP reads its pipe in pieces of this size."""

FAMILIES = {
    "ipv4/unicast": Family.IPV4_UNICAST,
    "ipv6/unicast": Family.IPV6_UNICAST,
    "ipv4/mpls-vpn": Family.IPV4_VPN,
    "ipv6/mpls-vpn": Family.IPV6_VPN,
    "l2vpn/evpn": Family.L2VPN_EVPN,
    "ipv4/rtc": Family.RTC,
}
"""The families by the names that ExaBGP has for them."""
MEMBERS = "(members)"
"""What memberships have for a network. No network is called so."""
TARGETS = 500
"""How many route targets are on a line, of which each has 26 digits."""
NAMES = {family: name for name, family in FAMILIES.items()}


def families(names: Iterable[str]) -> frozenset[Family]:
    """Those of the named families that we know."""
    return frozenset(FAMILIES[name] for name in names if name in FAMILIES)


@dataclass(frozen=True, slots=True)
class Line:
    """What is sent at once, and the routes that it is about. A text is for a stock ExaBGP."""

    command: protocol.Command | str
    routes: tuple[Nlri, ...] = ()

    @property
    def counts(self) -> bool:
        """Whether the line has a number of its own."""
        return not isinstance(self.command, protocol.AskState)

    def text(self, number: int) -> str:
        """The line without its end. Its number is known only when it is sent."""
        return self.command if isinstance(self.command, str) else protocol.encode_command(self.command, number)


Refuse = Callable[[Nlri, str], None]


@dataclass(frozen=True, slots=True)
class Audience:
    """Neighbours that hear the same, but for what differs between iBGP and eBGP: a route is encoded once for them.

    `members`: their addresses. `all`: there are no others. `asn`: ours in their sessions. `families`: that some of them
    has.
    """

    members: tuple[str, ...]
    all: bool
    asn: int
    kinds: frozenset[Kind]
    export: ExportPolicy
    families: frozenset[Family]

    @property
    def peers(self) -> tuple[str, ...]:
        """As a command has them."""
        return () if self.all else self.members


def audiences(neighbors: Iterable[Neighbor], asn: int) -> tuple[Audience, ...]:
    """The neighbours by what they hear; `asn`: the node's."""
    alike: dict[tuple[int, ExportPolicy], list[Neighbor]] = defaultdict(list)
    for neighbor in neighbors:
        alike[neighbor.own_asn(asn) or asn, neighbor.export].append(neighbor)
    return tuple(
        Audience(
            members=tuple(member.address for member in members),
            all=len(alike) == 1,
            asn=own,
            kinds=frozenset(kind for member in members for kind in _kinds(member, asn)),
            export=export,
            families=frozenset(family for member in members for family in member.families),
        )
        for (own, export), members in alike.items()
    )


def _kinds(neighbor: Neighbor, asn: int) -> tuple[Kind, ...]:
    """What a neighbour may turn out to be: both, if it may have any AS."""
    if not neighbor.asn:
        return "ibgp", "ebgp"
    return ("ibgp",) if neighbor.internal(asn) else ("ebgp",)


def withheld(route: Announcement, audiences: Iterable[Audience]) -> frozenset[str]:
    """The neighbours that do not hear the route by their policy."""
    return frozenset(member for each in audiences if not hears(route, each.export) for member in each.members)


def announce(routes: Iterable[Announcement], audiences: Sequence[Audience], refuse: Refuse) -> Iterator[Line]:
    """As few lines as the routes fit in. A route that cannot be encoded goes to `refuse`, with the reason."""
    groups: _Groups = defaultdict(lambda: ([], []))
    for route in routes:
        try:
            spoken = [_spoken(route, each) for each in audiences if route.nlri.family in each.families]
        except Unencodable as error:
            refuse(route.nlri, str(error))
            continue
        for head, encoded in filter(None, spoken):
            routes_of, nlris = groups[head]
            routes_of.append(encoded)
            nlris.append(route.nlri)
    return _filled(protocol.Announce, groups)


def _spoken(route: Announcement, audience: Audience) -> tuple[tuple[Any, ...], EncodedRoute] | None:
    """What is in front of the route on a line for this audience, and the route; None if it is withheld."""
    heard = adapt(route, audience.export)
    if heard is None:
        return None
    extended = ":" in (audience.export.next_hop or "")
    wires = {
        kind: encode(heard, audience.asn, kind, audience.export.prepend, extended=extended) for kind in audience.kinds
    }
    wire = next(iter(wires.values()))
    ibgp = wires["ibgp"].attributes if "ibgp" in wires else None
    ebgp = wires["ebgp"].attributes if "ebgp" in wires else None
    head = (audience.peers, NAMES[wire.family], route.network, wire.next_hop, (ibgp, ebgp))
    return head, (wire.nlri, wire.key)


def withdraw(nlris: Iterable[Nlri], peers: tuple[str, ...] = ()) -> Iterator[Line]:
    """As few lines as the routes fit in. What cannot be encoded was never announced, and is left out."""
    groups: _Groups = defaultdict(lambda: ([], []))
    for nlri in nlris:
        try:
            route = encode_withdrawal(nlri)
        except Unencodable:
            continue
        encoded, members = groups[peers, NAMES[nlri.family]]
        encoded.append(route)
        members.append(nlri)
    return _filled(protocol.Withdraw, groups)


@dataclass(frozen=True, slots=True)
class Membership:
    """How neighbours are told which route targets this node imports (RFC 4684). `asn`: the node's."""

    neighbors: tuple[Neighbor, ...]
    asn: int
    next_hop: str

    def join(self, targets: Iterable[str]) -> Iterator[Line]:
        """As few lines as the targets fit in."""
        for peers, own, routes in self._encoded(targets):
            attributes = membership_attributes(own, "ibgp"), membership_attributes(own, "ebgp")
            yield Line(protocol.Announce(NAMES[Family.RTC], MEMBERS, self.next_hop, attributes, routes, peers=peers))

    def leave(self, targets: Iterable[str]) -> Iterator[Line]:
        for peers, _, routes in self._encoded(targets):
            yield Line(protocol.Withdraw(NAMES[Family.RTC], routes, peers=peers))

    def keep(self, targets: Iterable[str] | None) -> Iterator[Line]:
        """Between mark and sweep: only these stay. None: all."""
        if targets is None:
            yield Line(protocol.Spare((MEMBERS,)))
            return
        for peers, _, routes in self._encoded(targets):
            yield Line(protocol.Keep(NAMES[Family.RTC], tuple(key for _, key in routes), peers=peers))

    def _encoded(self, targets: Iterable[str]) -> Iterator[tuple[tuple[str, ...], int, tuple[EncodedRoute, ...]]]:
        """For each AS number that is ours in some sessions: the peers of these, and the NLRI of a line."""
        wanted = sorted(targets)
        groups: dict[int, list[str]] = defaultdict(list)
        for neighbor in self.neighbors:
            if Family.RTC in neighbor.families:
                groups[neighbor.own_asn(self.asn) or self.asn].append(neighbor.address)
        for own, members in groups.items():
            peers = () if len(members) == len(self.neighbors) else tuple(members)
            for at in range(0, len(wanted), TARGETS):
                octets = (membership(target, own) for target in wanted[at : at + TARGETS])
                yield peers, own, tuple((one, one) for one in octets)


def prune(
    keep: Mapping[tuple[str, ...], Iterable[Nlri]], spare: Iterable[str], keeping: Iterable[Line] = ()
) -> Iterator[Line]:
    """Withdraw every route, but what is to be kept at which peers, and the routes of the networks in `spare`.

    `keeping`: lines that keep what is no route.
    """
    yield Line(protocol.Mark())
    yield from keeping
    for peers, nlris in keep.items():
        for line in withdraw(nlris, peers):  # the same routes on the same lines, but by their keys
            assert isinstance(line.command, protocol.Withdraw)
            keys = tuple(key for _, key in line.command.routes)
            yield Line(protocol.Keep(line.command.family, keys, peers=peers))
    for network in spare:
        yield Line(protocol.Spare((network,)))
    yield Line(protocol.Sweep())


def clear(peer: str) -> list[Line]:
    """Withdraw every route from one peer."""
    return [Line(protocol.Mark(peers=(peer,))), Line(protocol.Sweep(peers=(peer,)))]


def singly(batch: Iterable[Line]) -> Iterator[Line]:
    """The same for an engine that takes a command for one neighbour or for all of them.

    It counts a command only for those that it is for. So the last line, for all, stands for what was said before.
    """
    routes: dict[Nlri, None] = {}
    for line in batch:
        assert isinstance(line.command, protocol.Command)
        if not line.command.peers:
            yield line
            continue
        routes |= dict.fromkeys(line.routes)
        for peer in line.command.peers:
            yield Line(replace(line.command, peers=(peer,)), line.routes)
    if routes:
        yield Line(protocol.Spare(()), tuple(routes))


def refresh(wanted: Iterable[Family], peer: str) -> Line:
    return Line(protocol.Refresh(tuple(NAMES[family] for family in sorted(wanted)), peers=(peer,)))


def resend(wanted: Iterable[Family], peer: str) -> Line:
    return Line(protocol.Resend(tuple(NAMES[family] for family in sorted(wanted)), peers=(peer,)))


def ask_state() -> Line:
    return Line(protocol.AskState())


def end(peer: str) -> Line:
    """Cease, Administrative Reset (RFC 4486)."""
    return Line(protocol.EndSession(6, 4, peers=(peer,)))


_Groups = dict[tuple[Any, ...], tuple[list[EncodedRoute], list[Nlri]]]
"""What goes on one line: by what is in front of the routes, the routes encoded and as they are."""


def _filled(command: Callable[..., protocol.Command], groups: _Groups) -> Iterator[Line]:
    for (peers, *head), (routes, nlris) in groups.items():
        size, start = 0, 0
        for at, (nlri, key) in enumerate(routes):
            length = 2 * len(nlri) + 1 if nlri == key else 2 * len(nlri) + 2 * len(key) + 2
            if size + length > LENGTH and at > start:
                yield Line(command(*head, tuple(routes[start:at]), peers=peers), tuple(nlris[start:at]))
                size, start = 0, at
            size += length
        yield Line(command(*head, tuple(routes[start:]), peers=peers), tuple(nlris[start:]))


# --- a stock ExaBGP's text API -------------------------------------------------------------------


def stock_announce(route: Announcement, asn: int) -> Line:
    """`announce route`, for unicast and L3VPN. Raises `Unencodable` for the same values as our engine's lines do."""
    if route.nlri.family is Family.L2VPN_EVPN:
        raise Unencodable(f"family {route.nlri.family}: only with the ExaBGP that the agent runs itself")
    hop = encode(route, asn, "ibgp").next_hop
    label = f" label {route.label}" if route.nlri.kind == "vpn" else ""
    words = [f"announce route {_stock_route(route.nlri)}{label} next-hop {hop}"]
    standard = [c.lower().replace("_", "-") for c in route.communities if c.count(":") < 2]
    numbers = [WELL_KNOWN.get(c, c) for c in standard]
    large = [c for c in route.communities if c.count(":") == 2]
    for name, number in (("local-preference", route.local_preference), ("med", route.med)):
        if number is not None:
            words.append(f"{name} {number}")
    for name, values in (
        ("community", numbers),
        ("large-community", large),
        ("extended-community", [_target(rt) for rt in route.export_rt]),
    ):
        if values:
            words.append(f"{name} [ {' '.join(values)} ]")
    return Line(" ".join(words), (route.nlri,))


def stock_withdraw(nlri: Nlri) -> Line:
    label = f" label {FIRST_LABEL}" if nlri.kind == "vpn" else ""  # any label: RD and prefix say which route it is
    return Line(f"withdraw route {_stock_route(nlri)}{label}", (nlri,))


def stock_end_of_rib(peer: str, family: Family) -> Line:
    return Line(f"neighbor {peer} announce eor {NAMES[family].replace('/', ' ')}")


def _stock_route(nlri: Nlri) -> str:
    encode_withdrawal(nlri)  # validates it: nothing else may reach a text command
    return f"{nlri.prefix} rd {nlri.rd}" if nlri.kind == "vpn" else str(nlri.prefix)


def _target(text: str) -> str:
    """A route target as its eight octets, since ExaBGP's own `target:` takes a four-octet AS for an IPv4 address."""
    return "0x" + route_target(text).hex()
