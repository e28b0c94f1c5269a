"""The lines sent to ExaBGP: our engine's command, and the text API of a stock ExaBGP. Pure.

A line's number is not known before it is sent, so a line is a function of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from bgpcni.bgp import FIRST_LABEL, WELL_KNOWN
from bgpcni.model import Announcement, Family, Nlri
from bgpcni.wire.encode import Kind, encode, encode_withdrawal, route_target
from bgpcni.wire.values import Unencodable
from bgpcni_exabgp.ledger import WIRE

LINE = 16 << 10
"""Octets of a line at most; ExaBGP reads its pipe in pieces of this size."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line without its end. `routes` are those it is about."""

    head: str
    tail: str
    routes: tuple[Nlri, ...] = ()
    numbered: bool = True

    def text(self, number: int) -> str:
        return f"{self.head} {number} {self.tail}".rstrip() if self.numbered else self.tail


Refuse = Callable[[Nlri, str], None]


def tag(network: str) -> str:
    return network.encode("utf-8", "surrogatepass").hex() or "-"


def announce(routes: Iterable[Announcement], asn: int, kinds: frozenset[Kind], refuse: Refuse) -> Iterator[Line]:
    """Lines that announce; what cannot be encoded goes to `refuse`, with the reason, and into no line."""
    groups: dict[str, list[tuple[str, Nlri]]] = {}
    for route in routes:
        try:
            wires = {kind: encode(route, asn, kind) for kind in kinds}
        except Unencodable as error:
            refuse(route.nlri, str(error))
            continue
        wire = next(iter(wires.values()))
        attributes = "/".join(wires[kind].attributes.hex() if kind in wires else "-" for kind in ("ibgp", "ebgp"))
        head = f"{WIRE[wire.family]} {tag(route.network)} {wire.next_hop} {attributes}"
        groups.setdefault(head, []).append((_word(wire.nlri, wire.key), route.nlri))
    yield from _fill("bgpcni announce", groups)


def withdraw(nlris: Iterable[Nlri]) -> Iterator[Line]:
    """Lines that withdraw; what cannot be encoded was never announced, and is left out."""
    groups: dict[str, list[tuple[str, Nlri]]] = {}
    for nlri in nlris:
        try:
            wire, key = encode_withdrawal(nlri)
        except Unencodable:
            continue
        groups.setdefault(WIRE[nlri.family], []).append((_word(wire, key), nlri))
    yield from _fill("bgpcni withdraw", groups)


def prune(keep: Iterable[Nlri], spare: Iterable[str]) -> Iterator[Line]:
    """Withdraw all that is held but `keep` and the routes of the networks in `spare`."""
    yield Line("bgpcni mark", "")
    groups: dict[str, list[tuple[str, Nlri]]] = {}
    for nlri in keep:
        try:
            key = encode_withdrawal(nlri)[1]
        except Unencodable:
            continue
        groups.setdefault(WIRE[nlri.family], []).append((key.hex(), nlri))
    for line in _fill("bgpcni keep", groups):
        yield Line(line.head, line.tail)
    for network in spare:
        yield Line("bgpcni spare", tag(network))
    yield Line("bgpcni sweep", "")


def clear(peer: str) -> Iterator[Line]:
    """Withdraw everything from one peer."""
    yield Line(f"neighbor {peer} bgpcni mark", "")
    yield Line(f"neighbor {peer} bgpcni sweep", "")


def end_of_rib(peer: str, family: Family) -> Line:
    return Line(f"neighbor {peer} bgpcni eor", WIRE[family])


def listen(wanted: bool) -> Line:
    return Line("bgpcni listen", "yes" if wanted else "no")


def refresh(families: Iterable[Family], peer: str | None = None) -> Line:
    """Ask for the routes of these families again: one peer, or all."""
    names = " ".join(WIRE[family] for family in sorted(families))
    return Line(f"neighbor {peer} bgpcni refresh" if peer else "bgpcni refresh", names)


def end(peer: str, code: int, subcode: int) -> Line:
    """End the session with a NOTIFICATION."""
    return Line(f"neighbor {peer} bgpcni end", f"{code} {subcode}")


PROTOCOLS = (2, 3)
"""Those of the engine's lines and events that are spoken here, the newest last: an engine that an earlier agent
started goes on, and its sessions with it. The engine has its own as a constant, and imports nothing from here."""
ENDED_SINCE = 3
"""The first that tells when End-of-RIB is acknowledged; of an older one it counts when it is in the socket."""
STATE = Line("", "bgpcni state", numbered=False)


def _word(wire: bytes, key: bytes) -> str:
    return wire.hex() if wire == key else f"{wire.hex()}:{key.hex()}"


def _fill(verb: str, groups: dict[str, list[tuple[str, Nlri]]]) -> Iterator[Line]:
    """As few lines as the words of each group fit in."""
    for head, words in groups.items():
        size, start = len(head), 0
        for at, (word, _) in enumerate(words):
            if size + len(word) > LINE and at > start:
                yield _line(verb, head, words[start:at])
                size, start = len(head), at
            size += len(word) + 1
        yield _line(verb, head, words[start:])


def _line(verb: str, head: str, words: list[tuple[str, Nlri]]) -> Line:
    return Line(verb, " ".join([head, *(word for word, _ in words)]), tuple(nlri for _, nlri in words))


# --- a stock ExaBGP's text API -------------------------------------------------------------------


def stock_announce(route: Announcement, asn: int) -> Line:
    """`announce route`, unicast and L3VPN. Raises `Unencodable`: the same values are refused as by the engine."""
    if route.nlri.family is Family.L2VPN_EVPN:
        raise Unencodable(f"family {route.nlri.family}: only with the ExaBGP that the agent runs itself")
    hop = encode(route, asn, "ibgp").next_hop
    label = f" label {route.label}" if route.nlri.kind == "vpn" else ""
    words = [f"announce route {_stock_route(route.nlri)}{label} next-hop {hop}"]
    standard = [c.lower().replace("_", "-") for c in route.communities if c.count(":") < 2]
    numbers = [WELL_KNOWN.get(c, c) for c in standard]
    large = [c for c in route.communities if c.count(":") == 2]
    for name, values in (
        ("community", numbers),
        ("large-community", large),
        ("extended-community", [_target(rt) for rt in route.export_rt]),
    ):
        if values:
            words.append(f"{name} [ {' '.join(values)} ]")
    return Line("", " ".join(words), (route.nlri,), numbered=False)


def stock_withdraw(nlri: Nlri) -> Line:
    label = f" label {FIRST_LABEL}" if nlri.kind == "vpn" else ""  # any: a withdrawal is by RD and prefix
    return Line("", f"withdraw route {_stock_route(nlri)}{label}", (nlri,), numbered=False)


def stock_end_of_rib(peer: str, family: Family) -> Line:
    return Line("", f"neighbor {peer} announce eor {WIRE[family].replace('/', ' ')}", numbered=False)


def _stock_route(nlri: Nlri) -> str:
    encode_withdrawal(nlri)  # nothing that was not validated reaches a text command
    return f"{nlri.prefix} rd {nlri.rd}" if nlri.kind == "vpn" else str(nlri.prefix)


def _target(text: str) -> str:
    """The eight octets: ExaBGP's own `target:` takes a four-octet AS for an IPv4 address."""
    return "0x" + route_target(text).hex()
