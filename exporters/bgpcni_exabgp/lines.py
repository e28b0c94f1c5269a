"""The lines sent to ExaBGP: commands of our engine, and the text API of a stock ExaBGP. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from bgpcni.bgp import FIRST_LABEL, WELL_KNOWN
from bgpcni.model import Announcement, Family, Nlri
from bgpcni.wire.encode import Kind, encode, encode_withdrawal, route_target
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
}
"""The families by the names that ExaBGP has for them."""
NAMES = {family: name for name, family in FAMILIES.items()}


def families(names: Iterable[str]) -> frozenset[Family]:
    """Those of the named families that we know."""
    return frozenset(FAMILIES[name] for name in names if name in FAMILIES)


@dataclass(frozen=True, slots=True)
class Line:
    """What is sent at once, and the routes that it is about. A text is for a stock ExaBGP."""

    command: protocol.Command | str
    routes: tuple[Nlri, ...] = ()

    def text(self, number: int) -> str:
        """The line without its end. Its number is known only when it is sent."""
        return self.command if isinstance(self.command, str) else protocol.encode_command(self.command, number)


Refuse = Callable[[Nlri, str], None]


def announce(routes: Iterable[Announcement], asn: int, kinds: frozenset[Kind], refuse: Refuse) -> Iterator[Line]:
    """As few lines as the routes fit in. A route that cannot be encoded goes to `refuse`, with the reason."""
    groups: _Groups = defaultdict(lambda: ([], []))
    for route in routes:
        try:
            wires = {kind: encode(route, asn, kind) for kind in kinds}
        except Unencodable as error:
            refuse(route.nlri, str(error))
            continue
        wire = next(iter(wires.values()))
        ibgp = wires["ibgp"].attributes if "ibgp" in wires else None
        ebgp = wires["ebgp"].attributes if "ebgp" in wires else None
        head = (NAMES[wire.family], route.network, wire.next_hop, (ibgp, ebgp))
        encoded, nlris = groups[head]
        encoded.append((wire.nlri, wire.key))
        nlris.append(route.nlri)
    return _filled(protocol.Announce, groups)


def withdraw(nlris: Iterable[Nlri]) -> Iterator[Line]:
    """As few lines as the routes fit in. What cannot be encoded was never announced, and is left out."""
    groups: _Groups = defaultdict(lambda: ([], []))
    for nlri in nlris:
        try:
            route = encode_withdrawal(nlri)
        except Unencodable:
            continue
        encoded, members = groups[NAMES[nlri.family],]
        encoded.append(route)
        members.append(nlri)
    return _filled(protocol.Withdraw, groups)


def prune(keep: Iterable[Nlri], spare: Iterable[str]) -> Iterator[Line]:
    """Withdraw every route, but `keep` and those of the networks in `spare`."""
    yield Line(protocol.Mark())
    for line in withdraw(keep):  # the same routes on the same lines, but by their keys
        assert isinstance(line.command, protocol.Withdraw)
        yield Line(protocol.Keep(line.command.family, tuple(key for _, key in line.command.routes)))
    for network in spare:
        yield Line(protocol.Spare((network,)))
    yield Line(protocol.Sweep())


def clear(peer: str) -> list[Line]:
    """Withdraw every route from one peer."""
    return [Line(protocol.Mark(peer=peer)), Line(protocol.Sweep(peer=peer))]


def refresh(wanted: Iterable[Family], peer: str) -> Line:
    return Line(protocol.Refresh(tuple(NAMES[family] for family in sorted(wanted)), peer=peer))


_Groups = dict[tuple[Any, ...], tuple[list[EncodedRoute], list[Nlri]]]
"""What goes on one line: by what is in front of the routes, the routes encoded and as they are."""


def _filled(command: Callable[..., protocol.Command], groups: _Groups) -> Iterator[Line]:
    for head, (routes, nlris) in groups.items():
        size, start = 0, 0
        for at, (nlri, key) in enumerate(routes):
            length = 2 * len(nlri) + 1 if nlri == key else 2 * len(nlri) + 2 * len(key) + 2
            if size + length > LENGTH and at > start:
                yield Line(command(*head, tuple(routes[start:at])), tuple(nlris[start:at]))
                size, start = 0, at
            size += length
        yield Line(command(*head, tuple(routes[start:])), tuple(nlris[start:]))


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
