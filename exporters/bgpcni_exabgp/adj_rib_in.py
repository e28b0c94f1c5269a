"""What one session's peer has announced, kept as octets: for an agent that connects later. Pure; for the engine.

UPDATE messages (RFC 4271 section 4.3, RFC 4760) are taken apart only as far as routes have to be told apart; what
they say is decoded by the agent. The key of a route is what identifies it, without label, ESI and gateway.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

FAMILIES = {
    (1, 1): "ipv4/unicast",
    (2, 1): "ipv6/unicast",
    (1, 128): "ipv4/mpls-vpn",
    (2, 128): "ipv6/mpls-vpn",
    (25, 70): "l2vpn/evpn",
}
"""The families kept, by AFI and SAFI."""
NEXT_HOP, MP_REACH_NLRI, MP_UNREACH_NLRI = 3, 14, 15
EXTENDED_LENGTH = 0x10


class Routes(NamedTuple):
    """Routes of one UPDATE and family. `hop` and `attributes` are octets, the latter without next hop and NLRI;
    both empty: withdrawn. No NLRI: End-of-RIB."""

    family: str
    hop: bytes
    attributes: bytes
    nlri: list[bytes]


class AdjRibIn:
    """By family and key: next hop, attributes and NLRI. `ended`: families whose End-of-RIB has come."""

    def __init__(self) -> None:
        self.held: dict[str, dict[bytes, tuple[bytes, bytes, bytes]]] = {}
        self.ended: set[str] = set()

    def update(self, body: bytes) -> list[Routes]:
        """Take one UPDATE; what it says, withdrawals first. Raises ValueError where its lengths do not add up."""
        found = list(read(body))
        for routes in found:
            if not routes.nlri:
                self.ended.add(routes.family)
                continue
            held = self.held.setdefault(routes.family, {})
            for wire in routes.nlri:
                if routes.hop:
                    held[key_of(routes.family, wire)] = (routes.hop, routes.attributes, wire)
                else:
                    held.pop(key_of(routes.family, wire), None)
        return found

    def tell(self, family: str) -> Iterator[Routes]:
        """All that is held of a family, grouped, and its End-of-RIB if that has come."""
        groups: dict[tuple[bytes, bytes], list[bytes]] = {}
        for hop, attributes, wire in self.held.get(family, {}).values():
            groups.setdefault((hop, attributes), []).append(wire)
        for (hop, attributes), nlri in groups.items():
            for start in range(0, len(nlri), 1000):
                yield Routes(family, hop, attributes, nlri[start : start + 1000])
        if family in self.ended:
            yield Routes(family, b"", b"", [])


def read(body: bytes) -> Iterator[Routes]:
    """The parts of an UPDATE. Raises ValueError."""
    withdrawn, at = _sized(body, 0)
    attributes, at = _sized(body, at)
    native = body[at:]
    if not withdrawn and not attributes and not native:
        yield Routes("ipv4/unicast", b"", b"", [])
        return
    if withdrawn:
        yield Routes("ipv4/unicast", b"", b"", list(_prefixes(withdrawn)))
    kept: list[bytes] = []
    hop = reach = b""
    for code, whole, value in _attributes(attributes):
        if code == MP_UNREACH_NLRI:
            family = FAMILIES.get((int.from_bytes(value[:2], "big"), value[2])) if len(value) >= 3 else None
            if family:
                yield Routes(family, b"", b"", list(_split(family, value[3:])))
        elif code == MP_REACH_NLRI:
            reach = value
        elif code == NEXT_HOP:
            hop = value
        else:
            kept.append(whole)
    rest = b"".join(kept)
    if reach:
        family = FAMILIES.get((int.from_bytes(reach[:2], "big"), reach[2])) if len(reach) >= 5 else None
        size = reach[3] if family else 0
        if family and len(reach) >= 5 + size:
            yield Routes(family, reach[4 : 4 + size], rest, list(_split(family, reach[5 + size :])))
    if native:
        yield Routes("ipv4/unicast", hop, rest, list(_prefixes(native)))


def key_of(family: str, wire: bytes) -> bytes:
    """What identifies a route: RFC 7432 section 7, RFC 9136 section 3, RFC 8277 section 2."""
    if family.endswith("mpls-vpn"):
        return bytes([wire[0]]) + wire[4:]
    if family != "l2vpn/evpn" or len(wire) < 2:
        return wire
    kind, value = wire[0], wire[2:]
    if kind == 2 and len(value) >= 33:
        return b"\x02" + value[:8] + value[18 : 30 + value[29] // 8]
    if kind == 5 and len(value) in (34, 58):
        return b"\x05" + value[:8] + value[18 : 27 if len(value) == 34 else 39]
    return wire


def _sized(data: bytes, at: int) -> tuple[bytes, int]:
    size = int.from_bytes(data[at : at + 2], "big")
    end = at + 2 + size
    if at + 2 > len(data) or end > len(data):
        raise ValueError("an UPDATE's lengths do not add up")
    return data[at + 2 : end], end


def _attributes(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """(code, the whole attribute, its value) of each."""
    at = 0
    while at < len(data):
        head = 4 if data[at] & EXTENDED_LENGTH else 3
        if at + head > len(data):
            raise ValueError("a path attribute is cut short")
        size = int.from_bytes(data[at + 2 : at + head], "big")
        end = at + head + size
        if end > len(data):
            raise ValueError("a path attribute is cut short")
        yield data[at + 1], data[at:end], data[at + head : end]
        at = end


def _split(family: str, data: bytes) -> Iterator[bytes]:
    return _typed(data) if family == "l2vpn/evpn" else _prefixes(data)


def _prefixes(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        end = at + 1 + (data[at] + 7) // 8
        if end > len(data):
            raise ValueError("an NLRI is cut short")
        yield data[at:end]
        at = end


def _typed(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        end = at + 2 + data[at + 1] if at + 1 < len(data) else len(data) + 1
        if end > len(data):
            raise ValueError("an NLRI is cut short")
        yield data[at:end]
        at = end
