"""The small values of BGP's messages as octets, each in both directions. Pure.

Writing takes text and raises `Unencodable`, reading takes octets and raises `Malformed`.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from socket import AF_INET, AF_INET6, inet_ntoa, inet_pton
from struct import pack, unpack


class Unencodable(ValueError):
    """A value that must not be sent to a peer; the text names it, for the operator."""


class Malformed(ValueError):
    """The octets are not what their lengths and types say."""


# --- written -------------------------------------------------------------------------------------


@lru_cache(4096)
def route_distinguisher(text: str) -> bytes:
    """RFC 4364 section 4.2, types 0, 1 and 2."""
    kind, value = administered("route distinguisher", text)
    return pack("!H", kind) + value


def administered(what: str, text: str) -> tuple[int, bytes]:
    """(type, six octets) of a route target or route distinguisher: RFC 4360 section 4, RFC 5668."""
    admin, colon, assigned = text.rpartition(":")
    what = f"{what} {text!r}"
    if not colon:
        raise Unencodable(f"{what}: no colon")
    if "." in admin:
        try:
            address = IPv4Address(admin).packed
        except ValueError:
            raise Unencodable(f"{what}: {admin!r} is no IPv4 address") from None
        return 1, address + pack("!H", digits(what, assigned, 0xFFFF))
    asn = digits(what, admin, 0xFFFFFFFF)
    if asn < 1 << 16:
        return 0, pack("!HI", asn, digits(what, assigned, 0xFFFFFFFF))
    return 2, pack("!IH", asn, digits(what, assigned, 0xFFFF))


def mac_address(text: str) -> bytes:
    """Six octets of a unicast MAC address, from `02:00:00:00:00:01`."""
    parts = text.split(":")
    try:
        octets = bytes(int(part, 16) for part in parts)
    except ValueError:
        octets = b""
    if len(octets) != 6 or any(len(part) != 2 for part in parts) or octets[0] & 1 or not any(octets):
        raise Unencodable(f"MAC address {text!r}: not a unicast MAC address")
    return octets


def prefix(text: str) -> tuple[bytes, int]:
    """The whole address, and the length, of a prefix. `ip_network` is slow, and only asked where it could object."""
    address, _, length = text.partition("/")
    try:
        packed = inet_pton(AF_INET6 if ":" in address else AF_INET, address)
        bits = int(length) if length.isdigit() and length.isascii() else 0
        beyond = 8 * len(packed) - bits
        plain = 0 < packed[0] < 0xE0 and bits and beyond >= 0 and not int.from_bytes(packed, "big") & (1 << beyond) - 1
    except (OSError, ValueError):
        plain = False
    if plain:
        return packed, bits
    try:
        network = ip_network(text)
    except ValueError as error:
        raise Unencodable(f"prefix {text!r}: {error}") from None
    if network.network_address.is_multicast:
        raise Unencodable(f"prefix {text}: multicast")
    return network.network_address.packed, network.prefixlen


def digits(what: str, text: str, last: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10) or int(text) > last:
        raise Unencodable(f"{what}: {text!r} is not a number from 0 to {last}")
    return int(text)


def number(what: str, value: int | None, first: int, last: int) -> int:
    if value is None:
        raise Unencodable(f"a {what} is needed")
    if isinstance(value, bool) or not isinstance(value, int) or not first <= value <= last:
        raise Unencodable(f"{what} {value!r}: not from {first} to {last}")
    return value


# --- read ----------------------------------------------------------------------------------------


def read_administered(kind: int, value: bytes) -> str:
    """A route target or route distinguisher as text, RFC 4364 section 4.2."""
    if kind == 0:
        return "{}:{}".format(*unpack("!HI", value))
    if kind == 1:
        return f"{read_address(value[:4])}:{int.from_bytes(value[4:], 'big')}"
    if kind == 2:
        return "{}:{}".format(*unpack("!IH", value))
    raise Malformed(f"a route distinguisher of type {kind}")


def read_address(value: bytes) -> str:
    if len(value) == 4:
        return inet_ntoa(value)
    try:
        return str(ip_address(value))
    except ValueError as error:
        raise Malformed(str(error)) from None


def read_prefix(size: int, bits: int, octets: bytes) -> str:
    """Canonical text. `size`: of its addresses. The bits beyond the length mean nothing (RFC 4271 section 4.3)."""
    if bits & 7 or len(octets) != size:
        value = int.from_bytes(octets.ljust(size, b"\0"), "big") & ~((1 << (8 * size - bits)) - 1)
        octets = value.to_bytes(size, "big")
    return f"{inet_ntoa(octets) if size == 4 else IPv6Address(octets)}/{bits}"
