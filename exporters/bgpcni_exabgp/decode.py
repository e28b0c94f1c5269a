"""Decodes path attributes and NLRI of the five families: the reverse of `encode`. Pure.

Strict: octets that do not add up raise `Malformed`. Attributes that this package never sends are skipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from struct import unpack

from bgpcni.model import Family, Nlri


class Malformed(ValueError):
    """The octets are not what their lengths and types say."""


@dataclass(frozen=True, slots=True)
class Attributes:
    """Path attributes. `communities`: standard then large, as numbers; route targets as canonical text."""

    origin: int | None = None
    as_path: tuple[int, ...] = ()
    local_pref: int | None = None
    communities: tuple[str, ...] = ()
    route_targets: tuple[str, ...] = ()
    encapsulation: int | None = None
    mobility: int | None = None
    sticky: bool = False
    router_mac: str | None = None
    med: int | None = None
    originator: str | None = None
    """ORIGINATOR_ID, RFC 4456."""
    tunnel: tuple[int, int, str] | None = None
    """P-MSI tunnel: type, VNI, endpoint."""


def decode_attributes(wire: bytes) -> Attributes:
    """Path attributes as they follow the Total Path Attribute Length of an UPDATE (RFC 4271 section 4.3)."""
    found: dict[int, bytes] = {}
    rest = _Reader(wire)
    while rest:
        flags, code = rest.take(2)
        size = int.from_bytes(rest.take(2 if flags & 0x10 else 1), "big")
        if code in found:
            raise Malformed(f"attribute {code} twice")
        found[code] = rest.take(size)
    targets: list[str] = []
    encapsulation = mobility = router_mac = None
    sticky = False
    for value in _pieces(found.get(16, b""), 8):
        if value[0] in (0, 1, 2) and value[1] == 2:
            targets.append(_administered(value[0], value[2:]))
        elif value[:2] == b"\x03\x0c":
            encapsulation = int.from_bytes(value[6:], "big")
        elif value[:2] == b"\x06\x00":
            mobility, sticky = int.from_bytes(value[4:], "big"), bool(value[2] & 1)
        elif value[:2] == b"\x06\x03":
            router_mac = _mac(value[2:])
    standard = ("{}:{}".format(*unpack("!HH", value)) for value in _pieces(found.get(8, b""), 4))
    large = ("{}:{}:{}".format(*unpack("!III", value)) for value in _pieces(found.get(32, b""), 12))
    tunnel = None
    if 22 in found:
        pmsi = _Reader(found[22])
        _, kind, *vni = pmsi.take(5)
        tunnel = (kind, int.from_bytes(bytes(vni), "big"), _address(pmsi.take(len(found[22]) - 5)))
    return Attributes(
        origin=found[1][0] if found.get(1) else None,
        as_path=_as_path(found.get(2, b"")),
        local_pref=int.from_bytes(found[5], "big") if 5 in found else None,
        communities=(*standard, *large),
        route_targets=tuple(targets),
        encapsulation=encapsulation,
        mobility=mobility,
        sticky=sticky,
        router_mac=router_mac,
        med=int.from_bytes(found[4], "big") if 4 in found else None,
        originator=_address(found[9]) if 9 in found else None,
        tunnel=tunnel,
    )


@dataclass(frozen=True, slots=True)
class Route:
    """One NLRI. `label`: VPN, 20 bits. `vni`, and `l3_vni` of a type 2: EVPN. `gateway`: of a type 5, if not zero."""

    nlri: Nlri
    label: int | None = None
    vni: int | None = None
    l3_vni: int | None = None
    gateway: str | None = None


def decode_nlri(family: Family, wire: bytes) -> tuple[Nlri, int | None]:
    """One NLRI and its label (VPN: 20 bits) or VNI (EVPN: 24 bits); None where it has none."""
    route = decode_route(family, wire)
    return route.nlri, route.label if route.vni is None else route.vni


def decode_route(family: Family, wire: bytes) -> Route:
    """One NLRI with all that is in it."""
    rest = _Reader(wire)
    if family is Family.L2VPN_EVPN:
        kind, size = rest.take(2)
        if size != len(rest):
            raise Malformed(f"EVPN length {size}, not {len(rest)}")
        result = _evpn(kind, rest)
    else:
        version = 6 if family in (Family.IPV6_UNICAST, Family.IPV6_VPN) else 4
        bits = rest.take(1)[0]
        label = rd = None
        if family in (Family.IPV4_VPN, Family.IPV6_VPN):
            stack = int.from_bytes(rest.take(3), "big")
            label, rd, bits = stack >> 4, _rd(rest.take(8)), bits - 88
        prefix = _prefix(version, bits, rest.take(max(0, bits + 7) // 8))
        result = Route(Nlri(family, "vpn" if rd else "unicast", prefix=prefix, rd=rd), label)
    if rest:
        raise Malformed(f"{len(rest)} octets after the NLRI")
    return result


def _evpn(kind: int, rest: _Reader) -> Route:
    rd = _rd(rest.take(8))
    family = Family.L2VPN_EVPN
    if kind == 3:
        tag = int.from_bytes(rest.take(4), "big")
        originator = _address(rest.take(rest.take(1)[0] // 8))
        return Route(Nlri(family, "multicast", rd=rd, originator=originator, tag=tag))
    if kind not in (2, 5):
        raise Malformed(f"EVPN route type {kind}")
    rest.take(10)
    tag = int.from_bytes(rest.take(4), "big")
    if kind == 5:
        bits = rest.take(1)[0]
        size = (len(rest) - 3) // 2
        prefix = _prefix(6 if size == 16 else 4, bits, rest.take(size))
        gateway = rest.take(size)
        nlri = Nlri(family, "ip-prefix", prefix=prefix, rd=rd, tag=tag)
        vni = int.from_bytes(rest.take(3), "big")
        return Route(nlri, vni=vni, gateway=_address(gateway) if any(gateway) else None)
    if rest.take(1) != b"\x30":
        raise Malformed("a MAC address not of 48 bits")
    mac = _mac(rest.take(6))
    octets = rest.take(rest.take(1)[0] // 8)
    host = f"{_address(octets)}/{8 * len(octets)}" if octets else None
    vni = int.from_bytes(rest.take(3), "big")
    l3_vni = int.from_bytes(rest.take(3), "big") if rest else None
    return Route(Nlri(family, "mac-ip", prefix=host, rd=rd, mac=mac, tag=tag), vni=vni, l3_vni=l3_vni)


class _Reader:
    """Octets taken from the front; taking more than there are is `Malformed`."""

    def __init__(self, wire: bytes) -> None:
        self.wire = wire

    def __len__(self) -> int:
        return len(self.wire)

    def take(self, count: int) -> bytes:
        if count > len(self.wire):
            raise Malformed(f"{len(self.wire)} octets where {count} should be")
        head, self.wire = self.wire[:count], self.wire[count:]
        return head


def _pieces(value: bytes, size: int) -> list[bytes]:
    if len(value) % size:
        raise Malformed(f"{len(value)} octets, not a multiple of {size}")
    return [value[at : at + size] for at in range(0, len(value), size)]


def _as_path(value: bytes) -> tuple[int, ...]:
    path: list[int] = []
    rest = _Reader(value)
    while rest:
        _, count = rest.take(2)
        path.extend(unpack(f"!{count}I", rest.take(4 * count)))
    return tuple(path)


def _rd(value: bytes) -> str:
    return _administered(int.from_bytes(value[:2], "big"), value[2:])


def _administered(kind: int, value: bytes) -> str:
    if kind == 0:
        return "{}:{}".format(*unpack("!HI", value))
    if kind == 1:
        return f"{_address(value[:4])}:{int.from_bytes(value[4:], 'big')}"
    if kind == 2:
        return "{}:{}".format(*unpack("!IH", value))
    raise Malformed(f"administrator of type {kind}")


def _address(value: bytes) -> str:
    try:
        return str(ip_address(value))
    except ValueError as error:
        raise Malformed(str(error)) from None


def _prefix(version: int, bits: int, value: bytes) -> str:
    size = 16 if version == 6 else 4
    try:
        return str(ip_network((value + bytes(size - len(value)), bits)))
    except ValueError as error:
        raise Malformed(str(error)) from None


def _mac(value: bytes) -> str:
    return value.hex(":")
