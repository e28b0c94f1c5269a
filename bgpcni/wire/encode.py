"""Encodes announcements as BGP wants them on the wire: path attributes, NLRI, and the key of a route. Pure.

Every value is checked before it is encoded, because one malformed route resets the whole session. What cannot be
encoded raises `Unencodable` and is never sent. NEXT_HOP, MP_REACH_NLRI and MP_UNREACH_NLRI are not built here:
whoever groups routes into UPDATEs adds them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from struct import pack
from typing import Literal

from bgpcni import bgp
from bgpcni.model import Announcement, Family, MulticastNlri, Nlri
from bgpcni.wire.nlri import EVPN_TYPES, write_nlri
from bgpcni.wire.values import Unencodable, administered, digits, number

Kind = Literal["ibgp", "ebgp"]
"""The kind of neighbour: AS_PATH and LOCAL_PREF differ (RFC 4271 sections 5.1.2 and 5.1.5)."""

LOCAL_PREF = 100
"""That of a route without one of its own, as with other speakers."""
MAX = 0xFFFFFFFF
INGRESS_REPLICATION = 6  # RFC 6514 section 5
_VXLAN = pack("!BBIH", 0x03, 0x0C, 0, bgp.VXLAN)  # RFC 9012 section 4.1


@dataclass(frozen=True, slots=True)
class EncodedRoute:
    """One route ready for an UPDATE. `attributes` lacks NEXT_HOP and the MP ones; `key` identifies the route."""

    family: Family
    next_hop: str
    attributes: bytes
    nlri: bytes
    key: bytes


def encode(route: Announcement, asn: int, kind: Kind, prepend: int = 0, *, extended: bool = False) -> EncodedRoute:
    """`route` as it goes to a neighbour of this kind; `asn` is our own AS number. Raises `Unencodable`.

    `prepend`: how many times more an eBGP neighbour finds it in the AS path. `extended`: an IPv4 route may have an IPv6
    next hop (RFC 8950).
    """
    nlri, key = write_nlri(route.nlri, vni=route.vni, label=route.label)
    hop = _next_hop(route.nlri.family, route.next_hop, extended=extended)
    evpn = EVPN_TYPES.get(type(route.nlri))
    attributes = _attributes(
        kind,
        (number("AS number", asn, 1, MAX),) * (1 + prepend) if kind == "ebgp" else (),
        LOCAL_PREF if route.local_preference is None else number("local preference", route.local_preference, 0, MAX),
        None if route.med is None else number("MED", route.med, 0, MAX),
        route.communities,
        route.export_rt,
        evpn.communities(route) if evpn else None,
        _tunnel(route.vni or 0, hop) if isinstance(route.nlri, MulticastNlri) else b"",
    )
    return EncodedRoute(route.nlri.family, hop, attributes, nlri, key)


def encode_withdrawal(nlri: Nlri) -> tuple[bytes, bytes]:
    """(NLRI, key) that withdraw a route: only what identifies it matters. Raises `Unencodable`."""
    return write_nlri(nlri, vni=None, label=None, withdrawn=True)


def membership(target: str, asn: int) -> bytes:
    """The NLRI of RFC 4684 section 4: AS `asn` imports routes with this route target. Raises `Unencodable`."""
    return b"\x60" + pack("!I", number("AS number", asn, 1, MAX)) + route_target(target)


def membership_attributes(asn: int, kind: Kind) -> bytes:
    """The path attributes of memberships, without the MP ones. Raises `Unencodable`."""
    path = (number("AS number", asn, 1, MAX),) if kind == "ebgp" else ()
    return _attributes(kind, path, LOCAL_PREF, None, (), (), None, b"")


@lru_cache(4096)
def _attributes(
    kind: Kind,
    path: tuple[int, ...],
    local_preference: int,
    med: int | None,
    communities: tuple[str, ...],
    export_rt: tuple[str, ...],
    of_type: bytes | None,
    tunnel: bytes,
) -> bytes:
    """The path attributes in ascending order of their type codes. `of_type`: what an EVPN route needs beside."""
    standard = b"".join(pack("!I", community(c)) for c in communities if c.count(":") < 2)
    large = b"".join(large_community(c) for c in communities if c.count(":") >= 2)
    extended = b"".join(route_target(rt) for rt in export_rt) + (b"" if of_type is None else _VXLAN + of_type)
    parts = [
        attribute(0x40, 1, b"\x00"),  # ORIGIN IGP
        attribute(0x40, 2, pack(f"!BB{len(path)}I", 2, len(path), *path) if path else b""),  # four octets (RFC 6793)
    ]
    if med is not None:
        parts.append(attribute(0x80, 4, pack("!I", med)))
    if kind == "ibgp":
        parts.append(attribute(0x40, 5, pack("!I", local_preference)))
    if standard:
        parts.append(attribute(0xC0, 8, standard))  # RFC 1997
    if extended:
        parts.append(attribute(0xC0, 16, extended))  # RFC 4360
    if tunnel:
        parts.append(attribute(0xC0, 22, tunnel))
    if large:
        parts.append(attribute(0xC0, 32, large))  # RFC 8092
    wire = b"".join(parts)
    if len(wire) > 3072:
        raise Unencodable(f"{len(communities)} communities and {len(export_rt)} route targets do not fit in one UPDATE")
    return wire


@lru_cache(1024)
def _tunnel(vni: int, next_hop: str) -> bytes:
    """P-MSI tunnel, RFC 6514 section 5; its label is the VNI (RFC 8365 section 5.1.3)."""
    return bytes((0, INGRESS_REPLICATION)) + vni.to_bytes(3, "big") + ip_address(next_hop).packed


def attribute(flags: int, code: int, value: bytes) -> bytes:
    """RFC 4271 section 4.3; the extended length only where it is needed."""
    if len(value) > 255:
        return pack("!BBH", flags | 0x10, code, len(value)) + value
    return pack("!BBB", flags, code, len(value)) + value


def community(text: str) -> int:
    """`64512:100` or a well-known name, as its 32 bits (RFC 1997)."""
    name = text.strip().lower().replace("_", "-")
    parts = bgp.WELL_KNOWN.get(name, text).split(":")
    if len(parts) != 2:
        raise Unencodable(f"community {text!r}: neither two numbers, three, nor a well-known name")
    high, low = (digits(f"community {text!r}", part, 0xFFFF) for part in parts)
    return high << 16 | low


def large_community(text: str) -> bytes:
    """`64512:1:2`: three numbers of 32 bits (RFC 8092)."""
    parts = text.split(":")
    if len(parts) != 3:
        raise Unencodable(f"community {text!r}: neither two numbers, three, nor a well-known name")
    return pack("!III", *(digits(f"community {text!r}", part, 0xFFFFFFFF) for part in parts))


def route_target(text: str) -> bytes:
    """Route target (RFC 4360 section 4, RFC 5668): `AS2:32 bits`, `AS4:16 bits` or `IPv4:16 bits`."""
    kind, value = administered("route target", text)
    return bytes((kind, 0x02)) + value


@lru_cache(256)
def _next_hop(family: Family, text: str, *, extended: bool) -> str:
    try:
        hop = ip_address(text)
    except ValueError:
        raise Unencodable(f"next hop {text!r}: no IP address") from None
    if hop.is_unspecified or hop.is_multicast or hop.is_loopback or getattr(hop, "scope_id", None):
        raise Unencodable(f"next hop {text}: not an address of this node that peers can reach")
    if family in (Family.IPV4_UNICAST, Family.IPV4_VPN) and hop.version != 4 and not extended:
        raise Unencodable(f"next hop {text} for {family}: needs RFC 8950, which is not negotiated")
    if family is Family.IPV6_UNICAST and hop.version != 6:
        raise Unencodable(f"next hop {text} for {family}: not an IPv6 address")
    return str(hop)
