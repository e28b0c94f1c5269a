"""NLRI as octets: how each route type is written, read, and told apart. Pure.

The *key* of a route is those octets of its NLRI that identify it. It has no label, ESI or gateway (RFC 7432
section 7, RFC 8277): what differs in nothing else is another state of the same route.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from ipaddress import ip_address
from struct import pack
from typing import Any, NamedTuple

from bgpcni.bgp import FIRST_LABEL, MAX_LABEL, MAX_VNI, gateway_mac
from bgpcni.model import (
    Announcement,
    Family,
    IpPrefixNlri,
    MacIpNlri,
    MulticastNlri,
    Nlri,
    UnicastNlri,
    VpnNlri,
)
from bgpcni.wire.values import (
    Malformed,
    Unencodable,
    mac_address,
    number,
    prefix,
    read_address,
    read_administered,
    read_prefix,
    route_distinguisher,
)

WITHDRAWN_LABEL = b"\x80\x00\x00"  # RFC 8277 section 2.4
NO_ESI = bytes(10)  # single-homed, RFC 7432 section 5
_SIZES: dict[tuple[type[Nlri], Family], int] = {
    (UnicastNlri, Family.IPV4_UNICAST): 4,
    (UnicastNlri, Family.IPV6_UNICAST): 16,
    (VpnNlri, Family.IPV4_VPN): 4,
    (VpnNlri, Family.IPV6_VPN): 16,
}
"""The families of each route type other than EVPN's, and how many octets their addresses have."""


class ReadNlri(NamedTuple):
    """One NLRI that was read, and what comes with it that does not identify it, as in `Learned`."""

    nlri: Nlri
    vni: int | None = None
    l3_vni: int | None = None
    label: int | None = None
    gateway: str | None = None


class EvpnType(NamedTuple):
    """What is particular about an EVPN route type (RFC 7432 section 7).

    `write`: NLRI and the three octets of the VNI → (value, identity). `read`: value → NLRI; raises `Malformed`.
    `communities`: the extended communities that such a route needs beside its route targets and the encapsulation.
    `has_vni`: whether the route must have a VNI.
    """

    code: int
    write: Callable[[Any, bytes], tuple[bytes, bytes]]
    read: Callable[[bytes], ReadNlri]
    communities: Callable[[Announcement], bytes]
    has_vni: bool = True


def write_nlri(nlri: Nlri, *, vni: int | None, label: int | None, withdrawn: bool = False) -> tuple[bytes, bytes]:
    """(NLRI, key). Raises `Unencodable`."""
    kind = EVPN_TYPES.get(type(nlri))
    if kind is not None:
        known = 0 if withdrawn or not kind.has_vni else number("VNI", vni, 1, MAX_VNI)
        value, identity = kind.write(nlri, known.to_bytes(3, "big"))
        return bytes((kind.code, len(value))) + value, bytes((kind.code,)) + identity
    size = _SIZES.get((type(nlri), nlri.family))
    if size is None:
        raise Unencodable(f"a route of kind {nlri.kind} in family {nlri.family}")
    packed, bits = prefix(str(nlri.prefix))
    if len(packed) != size:
        raise Unencodable(f"prefix {nlri.prefix} in family {nlri.family}")
    octets = packed[: (bits + 7) // 8]
    if not isinstance(nlri, VpnNlri):  # RFC 4271 section 4.3, RFC 4760 section 5
        wire = bytes((bits,)) + octets
        return wire, wire
    octets = route_distinguisher(nlri.rd) + octets  # RFC 4364 section 4.3.4, RFC 4659 section 3.2
    if withdrawn:
        stack = WITHDRAWN_LABEL
    else:  # one label, the bottom of the stack: RFC 8277 section 2.2
        stack = (number("label", label, FIRST_LABEL, MAX_LABEL) << 4 | 1).to_bytes(3, "big")
    return bytes((88 + bits,)) + stack + octets, bytes((bits,)) + octets


def read_nlris(family: Family, wire: bytes, faults: list[str]) -> Iterator[ReadNlri]:
    """All NLRI of one field. One that cannot be used only adds to `faults`.

    Raises `Malformed` where it is not known where the next one begins.
    """
    if family is Family.L2VPN_EVPN:
        yield from _read_evpn(wire, faults)
        return
    size = 16 if family in (Family.IPV6_UNICAST, Family.IPV6_VPN) else 4
    vpn = family in (Family.IPV4_VPN, Family.IPV6_VPN)
    at = 0
    while at < len(wire):
        bits = wire[at]
        end = at + 1 + (bits + 7) // 8
        if end > len(wire):
            raise Malformed("an NLRI is cut short")
        octets = wire[at + 1 : end]
        at = end
        if not vpn:
            if bits > 8 * size:
                raise Malformed(f"a prefix of {bits} bits")
            yield ReadNlri(UnicastNlri(family, read_prefix(size, bits, octets)))
            continue
        if not 88 <= bits <= 88 + 8 * size:  # one label and the RD: RFC 8277 section 2.2, RFC 4364 section 4.3.4
            raise Malformed(f"a VPN prefix of {bits} bits")
        try:
            rd = _rd(octets[3:11])
        except Malformed as error:
            faults.append(f"{error}: ignored")
            continue
        label = int.from_bytes(octets[:3], "big") >> 4
        yield ReadNlri(VpnNlri(family, read_prefix(size, bits - 88, octets[11:]), rd), label=label)


def _read_evpn(wire: bytes, faults: list[str]) -> Iterator[ReadNlri]:
    """Route types that are not known are ignored (RFC 7606 section 5.4)."""
    at = 0
    while at < len(wire):
        if at + 2 > len(wire) or at + 2 + wire[at + 1] > len(wire):
            raise Malformed("an EVPN NLRI is cut short")
        code, value = wire[at], wire[at + 2 : at + 2 + wire[at + 1]]
        at += 2 + wire[at + 1]
        kind = BY_CODE.get(code)
        if kind is None:
            continue
        try:
            yield kind.read(value)
        except Malformed as error:
            faults.append(f"EVPN route of type {code}: {error}: ignored")


# --- type 2: RD, ESI, tag, MAC, IP, one or two labels (RFC 7432 section 7.2) -----------------------


def _write_mac_ip(nlri: MacIpNlri, vni: bytes) -> tuple[bytes, bytes]:
    address = b"" if nlri.prefix is None else _host(nlri.prefix)
    rd, host = route_distinguisher(nlri.rd), _tag(nlri.tag) + b"\x30" + mac_address(nlri.mac)
    host += bytes((8 * len(address),)) + address
    return rd + NO_ESI + host + vni, rd + host


def _read_mac_ip(value: bytes) -> ReadNlri:
    if len(value) < 33 or value[22] != 48:
        raise Malformed("no MAC address of 48 bits")
    bits = value[29]
    size = bits // 8
    if bits not in (0, 32, 128) or len(value) not in (33 + size, 36 + size):
        raise Malformed(f"{len(value)} octets with an address of {bits} bits")
    host = f"{read_address(value[30 : 30 + size])}/{bits}" if size else None
    nlri = MacIpNlri(_rd(value[:8]), value[23:29].hex(":"), host, int.from_bytes(value[18:22], "big"))
    labels = value[30 + size :]
    l3_vni = int.from_bytes(labels[3:], "big") if len(labels) == 6 else None
    return ReadNlri(nlri, vni=int.from_bytes(labels[:3], "big"), l3_vni=l3_vni)


def _mobility(route: Announcement) -> bytes:
    """RFC 7432 section 7.7."""
    if not route.mobility:
        return b""
    return pack("!BBHI", 0x06, 0x00, 0, number("MAC mobility sequence", route.mobility, 0, 0xFFFFFFFF))


# --- type 3: RD, tag, originator (RFC 7432 section 7.3) --------------------------------------------


def _write_multicast(nlri: MulticastNlri, vni: bytes) -> tuple[bytes, bytes]:
    try:
        originator = ip_address(nlri.originator)
    except ValueError:
        raise Unencodable(f"originator {nlri.originator!r}: no IP address") from None
    if originator.version == 6:  # a withdrawal ends it as well
        raise Unencodable(f"VTEP {originator}: FRR ends the session over a type 3 route of an IPv6 VTEP; use IPv4")
    packed = originator.packed
    value = route_distinguisher(nlri.rd) + _tag(nlri.tag) + bytes((8 * len(packed),)) + packed
    return value, value


def _read_multicast(value: bytes) -> ReadNlri:
    """Its VNI is in the P-MSI tunnel."""
    size = len(value) - 13
    if size not in (4, 16) or value[12] != 8 * size:
        raise Malformed(f"{len(value)} octets")
    return ReadNlri(MulticastNlri(_rd(value[:8]), read_address(value[13:]), int.from_bytes(value[8:12], "big")))


# --- type 5: RD, ESI, tag, prefix, gateway, label (RFC 9136 section 3.1) ---------------------------


def _write_ip_prefix(nlri: IpPrefixNlri, vni: bytes) -> tuple[bytes, bytes]:
    packed, bits = prefix(nlri.prefix)
    rd, identity = route_distinguisher(nlri.rd), _tag(nlri.tag) + bytes((bits,)) + packed
    return rd + NO_ESI + identity + bytes(len(packed)) + vni, rd + identity


def _read_ip_prefix(value: bytes) -> ReadNlri:
    size = {34: 4, 58: 16}.get(len(value), 0)
    if not size or value[22] > 8 * size:
        raise Malformed(f"{len(value)} octets")
    network = read_prefix(size, value[22], value[23 : 23 + size])
    gateway = value[23 + size : 23 + 2 * size]
    return ReadNlri(
        IpPrefixNlri(_rd(value[:8]), network, int.from_bytes(value[18:22], "big")),
        vni=int.from_bytes(value[-3:], "big"),
        gateway=read_address(gateway) if any(gateway) else None,
    )


def _router_mac(route: Announcement) -> bytes:
    """RFC 9135 section 8.1."""
    return _router_mac_octets(route.router_mac, route.vni or 0)


@lru_cache(1024)
def _router_mac_octets(mac: str | None, vni: int) -> bytes:
    return b"\x06\x03" + mac_address(mac or gateway_mac(vni))


EVPN_TYPES: dict[type[Nlri], EvpnType] = {
    MacIpNlri: EvpnType(2, _write_mac_ip, _read_mac_ip, _mobility),
    MulticastNlri: EvpnType(3, _write_multicast, _read_multicast, lambda route: b""),
    IpPrefixNlri: EvpnType(5, _write_ip_prefix, _read_ip_prefix, _router_mac),
}
"""EVPN's route types. A further one needs its line here and its class in `model.py`; encoder and decoder follow."""
BY_CODE = {kind.code: kind for kind in EVPN_TYPES.values()}


def _rd(value: bytes) -> str:
    return read_administered(int.from_bytes(value[:2], "big"), value[2:])


@lru_cache(256)
def _tag(value: int) -> bytes:
    return pack("!I", number("Ethernet tag", value, 0, 0xFFFFFFFF))


def _host(text: str) -> bytes:
    packed, bits = prefix(text)
    if bits != 8 * len(packed):
        raise Unencodable(f"address {text}: not of one host")
    if not any(packed):
        raise Unencodable(f"address {text}: unspecified")
    return packed
