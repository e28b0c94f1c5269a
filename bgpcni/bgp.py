"""Checks the small values of BGP as people write them: route targets, distinguishers, communities, VNIs. Pure.

Most functions take text and return the canonical text, or raise ValueError with a message that fits after the name of
a key (`importRT[0]: …`). What has passed here can be encoded.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from ipaddress import IPv4Address

from bgpcni.ip import ip_address, ip_network

MAX_VNI = (1 << 24) - 1
FIRST_LABEL, MAX_LABEL = 16, (1 << 20) - 1
"""MPLS labels that may be given out: those below are reserved (RFC 3032 section 2.1)."""
MAX_SEQUENCE = (1 << 32) - 1
VXLAN = 8
"""The tunnel type (RFC 8365 section 5.1.3)."""

WELL_KNOWN = {
    "graceful-shutdown": "65535:0",
    "accept-own": "65535:1",
    "llgr-stale": "65535:6",
    "no-llgr": "65535:7",
    "blackhole": "65535:666",
    "no-export": "65535:65281",
    "no-advertise": "65535:65282",
    "no-export-subconfed": "65535:65283",
    "no-peer": "65535:65284",
}
"""Well-known communities (IANA registry; RFC 1997, 3765, 7999, 8326, 9494) and their values."""

_NUMBER = re.compile(r"0|[1-9][0-9]*")


def number(text: str, top: int, what: str) -> int:
    """A decimal number from 0 to `top`, without sign, blanks or leading zeros."""
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{what} {text!r} is not a number")
    value = int(text)
    if value > top:
        raise ValueError(f"{what} {value} is over {top}")
    return value


def route_target(text: str) -> str:
    """`AS2:0-4294967295`, `AS4:0-65535` or `IPv4:0-65535` (RFC 4360 section 4, RFC 5668)."""
    return _administered(text, "a route target")


def route_distinguisher(text: str) -> str:
    """The same three forms (RFC 4364 section 4.2: types 0, 2 and 1)."""
    return _administered(text, "a route distinguisher")


def _administered(text: str, what: str) -> str:
    admin, colon, assigned = text.strip().rpartition(":")
    if not colon or not admin:
        raise ValueError(f"{text!r} is not {what}: it takes the form 64512:90, 4200000000:90 or 192.0.2.1:90")
    if "." in admin:
        try:
            left, top = str(IPv4Address(admin)), 0xFFFF
        except ValueError:
            raise ValueError(f"{text!r} is not {what}: {admin!r} is no IPv4 address") from None
    else:
        try:
            asn = number(admin, 0xFFFFFFFF, "AS number")
        except ValueError as error:
            raise ValueError(f"{text!r} is not {what}: {error}") from None
        left, top = str(asn), 0xFFFFFFFF if asn <= 0xFFFF else 0xFFFF
    try:
        return f"{left}:{number(assigned, top, 'number')}"
    except ValueError as error:
        raise ValueError(f"{text!r} is not {what}: {error}") from None


def community(text: str) -> str:
    """Standard `a:b` (RFC 1997), large `a:b:c` (RFC 8092), or a well-known name; names become numbers."""
    text = text.strip()
    if text.lower() in WELL_KNOWN:
        return WELL_KNOWN[text.lower()]
    parts = text.split(":")
    if len(parts) not in (2, 3):
        import difflib  # needed only where something is misspelt

        near = difflib.get_close_matches(text.lower(), WELL_KNOWN, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{text!r} is not a community: it takes the form 64512:100 or 64512:1:2{hint}")
    top = 0xFFFF if len(parts) == 2 else 0xFFFFFFFF
    try:
        return ":".join(str(number(part, top, "number")) for part in parts)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a community: {error}") from None


def vni(value: int) -> int:
    """A VXLAN network identifier, 1 to 16777215 (RFC 7348 section 5; we do not use 0)."""
    if value < 1:
        raise ValueError(f"{value} is under 1")
    if value > MAX_VNI:
        raise ValueError(f"{value} is over {MAX_VNI}")
    return value


def vni_of(targets: Iterable[str]) -> int | None:
    """The VNI that the first route target stands for (`64512:90` → 90), or None if its number cannot be a VNI."""
    for target in targets:
        assigned = int(target.rpartition(":")[2])
        return assigned if 1 <= assigned <= MAX_VNI else None
    return None


def gateway_mac(vni: int) -> str:
    """The MAC of a VNI's anycast gateway, the same on every node; also the Router's MAC of type 5 without a VRF."""
    return "02:00:5e:" + vni.to_bytes(3, "big").hex(":")


def next_sequence(sequence: int) -> int:
    """The next MAC mobility sequence (RFC 7432 section 7.7). It has 32 bits; the last one is followed by itself."""
    return min(sequence + 1, MAX_SEQUENCE)


def router_mac(vtep: str) -> str:
    """The Router's MAC of a VTEP (RFC 9135 section 8.1). No other node has it, and it survives restarts."""
    packed = ip_address(vtep).packed
    if len(packed) == 16:
        packed = hashlib.sha256(packed).digest()[:4]
    return (b"\x02\x5e" + packed).hex(":")


def host_prefix(address: str) -> str:
    """`10.1.2.3/24` or `10.1.2.3` → `10.1.2.3/32`; IPv6 alike, canonical."""
    parsed = ip_address(address.partition("/")[0])
    return f"{parsed}/{parsed.max_prefixlen}"


def subnet(address: str) -> str:
    """`10.1.2.3/24` → `10.1.2.0/24`."""
    return str(ip_network(address, strict=False))
