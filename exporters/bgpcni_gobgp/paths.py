"""Announcements as GoBGP's paths, and back. Pure.

gobgpd validates next to nothing, and one malformed route ends the sessions with all peers, again and again. So NLRI
and path attributes are given as octets, made by the one encoder that validates all it encodes. The daemon adds what
depends on the peer: AS_PATH, and whether there is a LOCAL_PREF.

A path is keyed by its NLRI and `Path.identifier`, which no peer is told (RFC 7911 aside): there the first octet marks
what is ours, the other three say of which network.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from ipaddress import ip_address

from bgpcni.model import Announcement, Family, Nlri
from bgpcni.wire.decode import EXTENDED_LENGTH, FAMILIES, NEXT_HOP, decode_nlri
from bgpcni.wire.encode import attribute, encode, encode_withdrawal
from bgpcni.wire.values import Malformed
from bgpcni_gobgp import gobgp_pb2 as api

NUMBERS = {family: api.Family(afi=numbers[0], safi=numbers[1]) for numbers, family in FAMILIES.items()}  # type: ignore[arg-type]
LOCAL = "<nil>"
"""What the daemon gives as the neighbour of a path that came from no peer."""


def identifier(owner: int, network: str) -> int:
    """The mark of a network's paths. Two networks may share one, which only spares more from being pruned."""
    digest = hashlib.sha256(network.encode()).digest()
    return owner << 24 | int.from_bytes(digest[:3], "big")


def is_ours(path: api.Path, owner: int) -> bool:
    return path.neighbor_ip == LOCAL and path.identifier >> 24 == owner


def family_of(family: api.Family) -> Family | None:
    return FAMILIES.get((family.afi, family.safi))


def announced(route: Announcement, mark: int) -> api.Path:
    """The path that announces a route. Raises `Unencodable`, whose text says why it may not be sent."""
    # The AS number stands in AS_PATHs towards external peers, which the daemon makes: any will do.
    wire = encode(route, 1, "ibgp")
    hop = attribute(0x40, NEXT_HOP, ip_address(wire.next_hop).packed)
    return api.Path(
        family=NUMBERS[wire.family],
        identifier=mark,
        nlri_binary=wire.nlri,
        pattrs_binary=[*_split(wire.attributes), hop],
    )


def withdrawn(nlri: Nlri, mark: int) -> api.Path:
    """The path that takes a route back. Raises `Unencodable`: such a route was never announced."""
    wire, _ = encode_withdrawal(nlri)
    return api.Path(family=NUMBERS[nlri.family], identifier=mark, nlri_binary=wire, is_withdraw=True)


def taken_back(path: api.Path) -> api.Path:
    """The path that takes back one that the daemon has listed, whatever it is."""
    return api.Path(family=path.family, identifier=path.identifier, nlri_binary=path.nlri_binary, is_withdraw=True)


def nlri_of(path: api.Path) -> Nlri | None:
    """What a listed path announces, None for what we could not have announced."""
    family = family_of(path.family)
    if family is None:
        return None
    try:
        return decode_nlri(family, path.nlri_binary).nlri
    except Malformed:
        return None


def _split(attributes: bytes) -> Iterator[bytes]:
    """Path attributes, one by one (RFC 4271 section 4.3)."""
    at = 0
    while at < len(attributes):
        if attributes[at] & EXTENDED_LENGTH:
            end = at + 4 + int.from_bytes(attributes[at + 2 : at + 4], "big")
        else:
            end = at + 3 + attributes[at + 2]
        yield attributes[at:end]
        at = end
