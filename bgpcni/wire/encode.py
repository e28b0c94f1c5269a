"""Encodes announcements as BGP wants them on the wire: path attributes, NLRI, and the key of a route. Pure.

Every value is validated by type before it is encoded, because one malformed route resets the whole session:
what cannot be encoded raises `Unencodable`, whose text is for the operator, and is never sent. NEXT_HOP,
MP_REACH_NLRI and MP_UNREACH_NLRI are not built here: whoever groups routes into UPDATEs adds them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from socket import AF_INET, AF_INET6, inet_pton
from struct import pack
from typing import Literal

from bgpcni.bgp import MAX_LABEL, MAX_VNI, VXLAN, gateway_mac
from bgpcni.model import Announcement, Family, Nlri

Kind = Literal["ibgp", "ebgp"]
"""The kind of neighbour: AS_PATH and LOCAL_PREF differ (RFC 4271 sections 5.1.2 and 5.1.5)."""

LOCAL_PREF = 100
INGRESS_REPLICATION = 6  # RFC 6514 section 5
WITHDRAWN_LABEL = b"\x80\x00\x00"  # RFC 8277 section 2.4
FIRST_LABEL = 16  # below are the reserved ones, RFC 3032 section 2.1
NO_ESI = bytes(10)  # single-homed, RFC 7432 section 5

WELL_KNOWN = {
    "graceful-shutdown": 0xFFFF0000,
    "accept-own": 0xFFFF0001,
    "llgr-stale": 0xFFFF0006,
    "no-llgr": 0xFFFF0007,
    "blackhole": 0xFFFF029A,
    "no-export": 0xFFFFFF01,
    "no-advertise": 0xFFFFFF02,
    "no-export-subconfed": 0xFFFFFF03,
    "local-as": 0xFFFFFF03,
    "no-peer": 0xFFFFFF04,
    "nopeer": 0xFFFFFF04,
}
"""Names of the well-known communities (IANA registry "BGP Well-known Communities")."""

VERSIONS = {
    Family.IPV4_UNICAST: 4,
    Family.IPV6_UNICAST: 6,
    Family.IPV4_VPN: 4,
    Family.IPV6_VPN: 6,
}
"""The IP version of a family's prefixes."""


class Unencodable(ValueError):
    """A value that must not reach a peer; the text names it."""


@dataclass(frozen=True, slots=True)
class Route:
    """One route ready for an UPDATE. `attributes` lacks NEXT_HOP and the MP ones; `key` is its identity."""

    family: Family
    next_hop: str
    attributes: bytes
    nlri: bytes
    key: bytes


def encode(route: Announcement, asn: int, kind: Kind) -> Route:
    """`route` as it goes to a neighbour of this kind; `asn` is our own AS number. Raises `Unencodable`."""
    nlri, key = encode_nlri(route.nlri, vni=route.vni, label=route.label)
    hop = _next_hop(route.nlri.family, route.next_hop)
    attributes = _attributes(
        kind,
        _number("AS number", asn, 1, 0xFFFFFFFF),
        route.communities,
        route.export_rt,
        route.nlri.kind,
        route.vni or 0,
        route.mobility,
        hop,
        route.router_mac,
    )
    return Route(route.nlri.family, hop, attributes, nlri, key)


def encode_withdrawal(nlri: Nlri) -> tuple[bytes, bytes]:
    """(NLRI, key) that withdraw a route: only its identity matters. Raises `Unencodable`."""
    return encode_nlri(nlri, vni=None, label=None, withdrawn=True)


# --- path attributes -----------------------------------------------------------------------------


@lru_cache(4096)
def _attributes(
    kind: Kind,
    asn: int,
    communities: tuple[str, ...],
    export_rt: tuple[str, ...],
    route_kind: str,
    vni: int,
    mobility: int,
    next_hop: str,
    router_mac: str | None,
) -> bytes:
    """The path attributes in ascending order of their type codes."""
    standard = b"".join(pack("!I", community(c)) for c in communities if c.count(":") < 2)
    large = b"".join(large_community(c) for c in communities if c.count(":") >= 2)
    extended = [route_target(rt) for rt in export_rt]
    if route_kind in ("mac-ip", "multicast", "ip-prefix"):
        extended.append(pack("!BBIH", 0x03, 0x0C, 0, VXLAN))  # RFC 9012 section 4.1
    if route_kind == "mac-ip" and mobility:
        sequence = _number("MAC mobility sequence", mobility, 0, 0xFFFFFFFF)
        extended.append(pack("!BBBBI", 0x06, 0x00, 0, 0, sequence))  # RFC 7432 section 7.7
    if route_kind == "ip-prefix":
        extended.append(b"\x06\x03" + mac_address(router_mac or gateway_mac(vni)))  # RFC 9135 section 8.1
    parts = [
        attribute(0x40, 1, b"\x00"),  # ORIGIN IGP
        attribute(0x40, 2, pack("!BBI", 2, 1, asn) if kind == "ebgp" else b""),  # AS_PATH, four octets (RFC 6793)
    ]
    if kind == "ibgp":
        parts.append(attribute(0x40, 5, pack("!I", LOCAL_PREF)))
    if standard:
        parts.append(attribute(0xC0, 8, standard))  # RFC 1997
    if extended:
        parts.append(attribute(0xC0, 16, b"".join(extended)))  # RFC 4360
    if route_kind == "multicast":
        tunnel = bytes([0, INGRESS_REPLICATION]) + vni.to_bytes(3, "big") + ip_address(next_hop).packed
        parts.append(attribute(0xC0, 22, tunnel))  # RFC 6514 section 5; the label is the VNI
    if large:
        parts.append(attribute(0xC0, 32, large))  # RFC 8092
    wire = b"".join(parts)
    if len(wire) > 3072:
        raise Unencodable(f"{len(communities)} communities and {len(export_rt)} route targets do not fit in one UPDATE")
    return wire


def attribute(flags: int, code: int, value: bytes) -> bytes:
    """RFC 4271 section 4.3; the extended length only where it is needed."""
    if len(value) > 255:
        return pack("!BBH", flags | 0x10, code, len(value)) + value
    return pack("!BBB", flags, code, len(value)) + value


def community(text: str) -> int:
    """`64512:100` or a well-known name, as its 32 bits (RFC 1997)."""
    name = text.strip().lower().replace("_", "-")
    if name in WELL_KNOWN:
        return WELL_KNOWN[name]
    parts = text.split(":")
    if len(parts) != 2:
        raise Unencodable(f"community {text!r}: neither two numbers, three, nor a well-known name")
    high, low = (_digits(f"community {text!r}", part, 0xFFFF) for part in parts)
    return high << 16 | low


def large_community(text: str) -> bytes:
    """`64512:1:2`: three numbers of 32 bits (RFC 8092)."""
    parts = text.split(":")
    if len(parts) != 3:
        raise Unencodable(f"community {text!r}: neither two numbers, three, nor a well-known name")
    return pack("!III", *(_digits(f"community {text!r}", part, 0xFFFFFFFF) for part in parts))


def route_target(text: str) -> bytes:
    """Route target (RFC 4360 section 4, RFC 5668): `AS2:32 bits`, `AS4:16 bits` or `IPv4:16 bits`."""
    kind, admin, number = _administered("route target", text)
    return bytes([kind, 0x02]) + admin + number


@lru_cache(4096)
def route_distinguisher(text: str | None) -> bytes:
    """Route distinguisher, RFC 4364 section 4.2, types 0, 1 and 2."""
    if text is None:
        raise Unencodable("a route distinguisher is needed")
    kind, admin, number = _administered("route distinguisher", text)
    return pack("!H", kind) + admin + number


def _administered(what: str, text: str) -> tuple[int, bytes, bytes]:
    admin, colon, number = text.rpartition(":")
    if not colon:
        raise Unencodable(f"{what} {text!r}: no colon")
    if "." in admin:
        return 1, _ipv4(what, admin).packed, pack("!H", _digits(f"{what} {text!r}", number, 0xFFFF))
    asn = _digits(f"{what} {text!r}", admin, 0xFFFFFFFF)
    if asn < 1 << 16:
        return 0, pack("!H", asn), pack("!I", _digits(f"{what} {text!r}", number, 0xFFFFFFFF))
    return 2, pack("!I", asn), pack("!H", _digits(f"{what} {text!r}", number, 0xFFFF))


# --- NLRI ----------------------------------------------------------------------------------------


def encode_nlri(nlri: Nlri, *, vni: int | None, label: int | None, withdrawn: bool = False) -> tuple[bytes, bytes]:
    """(NLRI as on the wire, key). The key has no label, ESI or gateway: RFC 7432 section 7, RFC 8277."""
    if nlri.kind in ("unicast", "vpn"):
        return _ip_route(nlri, label, withdrawn)
    if nlri.family is not Family.L2VPN_EVPN:
        raise Unencodable(f"a route of kind {nlri.kind} in family {nlri.family}")
    vni_octets = bytes(3) if withdrawn else _number("VNI", vni, 1, MAX_VNI).to_bytes(3, "big")
    rd = route_distinguisher(nlri.rd)
    tag = pack("!I", _number("Ethernet tag", nlri.tag, 0, 0xFFFFFFFF))
    if nlri.kind == "mac-ip":  # RFC 7432 section 7.2
        address = b"" if nlri.prefix is None else _host(nlri.prefix)
        host = tag + b"\x30" + mac_address(nlri.mac) + bytes([8 * len(address)]) + address
        return _evpn(2, rd + NO_ESI + host + vni_octets), b"\x02" + rd + host
    if nlri.kind == "multicast":  # RFC 7432 section 7.3
        try:
            originator = ip_address(str(nlri.originator))
        except ValueError:
            raise Unencodable(f"originator {nlri.originator!r}: no IP address") from None
        if originator.version == 6:  # a withdraw ends it as well
            raise Unencodable(f"VTEP {originator}: FRR ends the session over a type 3 route of an IPv6 VTEP; use IPv4")
        octets = tag + bytes([8 * len(originator.packed)]) + originator.packed
        return _evpn(3, rd + octets), b"\x03" + rd + octets
    if nlri.kind == "ip-prefix":  # RFC 9136 section 3.1
        packed, bits = _prefix(nlri.prefix)
        identity = tag + bytes([bits]) + packed
        return _evpn(5, rd + NO_ESI + identity + bytes(len(packed)) + vni_octets), b"\x05" + rd + identity
    raise Unencodable(f"a route of kind {nlri.kind!r}")


def _ip_route(nlri: Nlri, label: int | None, withdrawn: bool) -> tuple[bytes, bytes]:
    """RFC 4271 section 4.3, RFC 4760; with RD and label RFC 4364 and RFC 4659."""
    vpn = nlri.family in (Family.IPV4_VPN, Family.IPV6_VPN)
    if vpn != (nlri.kind == "vpn") or nlri.family is Family.L2VPN_EVPN:
        raise Unencodable(f"a route of kind {nlri.kind} in family {nlri.family}")
    packed, bits = _prefix(nlri.prefix)
    if len(packed) != (16 if VERSIONS[nlri.family] == 6 else 4):
        raise Unencodable(f"prefix {nlri.prefix} in family {nlri.family}")
    octets = packed[: (bits + 7) // 8]
    if not vpn:
        wire = bytes([bits]) + octets
        return wire, wire
    rd = route_distinguisher(nlri.rd)
    if withdrawn:
        stack = WITHDRAWN_LABEL
    else:  # one label, bottom of stack: RFC 8277 section 2.2
        stack = (_number("label", label, FIRST_LABEL, MAX_LABEL) << 4 | 1).to_bytes(3, "big")
    return bytes([88 + bits]) + stack + rd + octets, bytes([bits]) + rd + octets


def _evpn(kind: int, value: bytes) -> bytes:
    return bytes([kind, len(value)]) + value


# --- values --------------------------------------------------------------------------------------


def mac_address(text: str | None) -> bytes:
    """Six octets of a unicast MAC address, from `02:00:00:00:00:01`."""
    parts = (text or "").split(":")
    try:
        octets = bytes(int(part, 16) for part in parts)
    except ValueError:
        octets = b""
    if len(octets) != 6 or any(len(part) != 2 for part in parts) or octets[0] & 1 or not any(octets):
        raise Unencodable(f"MAC address {text!r}: not a unicast MAC address")
    return octets


@lru_cache(256)
def _next_hop(family: Family, text: str) -> str:
    try:
        hop = ip_address(text)
    except ValueError:
        raise Unencodable(f"next hop {text!r}: no IP address") from None
    if hop.is_unspecified or hop.is_multicast or hop.is_loopback or getattr(hop, "scope_id", None):
        raise Unencodable(f"next hop {text}: not an address of this node that peers can reach")
    if family in (Family.IPV4_UNICAST, Family.IPV4_VPN) and hop.version != 4:
        raise Unencodable(f"next hop {text} for {family}: needs RFC 8950, which is not negotiated")
    if family is Family.IPV6_UNICAST and hop.version != 6:
        raise Unencodable(f"next hop {text} for {family}: not an IPv6 address")
    return str(hop)


def _prefix(text: str | None) -> tuple[bytes, int]:
    """The whole address, and the length, of a prefix. The plain ones are read here; `_network` judges what is odd."""
    address, _, length = (text or "").partition("/")
    try:
        packed = inet_pton(AF_INET6 if ":" in address else AF_INET, address)
        bits = int(length) if length.isdigit() and length.isascii() else 0
        beyond = 8 * len(packed) - bits
        plain = 0 < packed[0] < 0xE0 and bits and beyond >= 0 and not int.from_bytes(packed, "big") & (1 << beyond) - 1
    except (OSError, ValueError):
        plain = False
    if plain:
        return packed, bits
    network = _network(text)
    return network.network_address.packed, network.prefixlen


def _network(text: str | None) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(str(text))
    except ValueError as error:
        raise Unencodable(f"prefix {text!r}: {error}") from None
    if network.network_address.is_multicast:
        raise Unencodable(f"prefix {text}: multicast")
    return network


def _host(prefix: str) -> bytes:
    network = _network(prefix)
    if network.prefixlen != network.max_prefixlen:
        raise Unencodable(f"address {prefix}: not of one host")
    address: IPv4Address | IPv6Address = network.network_address
    if address.is_unspecified:
        raise Unencodable(f"address {prefix}: unspecified")
    return address.packed


def _ipv4(what: str, text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except ValueError:
        raise Unencodable(f"{what}: {text!r} is no IPv4 address") from None


def _digits(what: str, text: str, last: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10) or int(text) > last:
        raise Unencodable(f"{what}: {text!r} is not a number from 0 to {last}")
    return int(text)


def _number(what: str, value: int | None, first: int, last: int) -> int:
    if value is None:
        raise Unencodable(f"a {what} is needed")
    if isinstance(value, bool) or not isinstance(value, int) or not first <= value <= last:
        raise Unencodable(f"{what} {value!r}: not from {first} to {last}")
    return value
