"""Announcements as GoBGP's paths, and back. Pure.

gobgpd validates almost nothing, and one malformed route ends the sessions with all peers, again and again. So NLRI and
path attributes are given as octets, made by our own encoder, which validates everything. The daemon adds what depends
on the peer: AS_PATH, and LOCAL_PREF for internal peers.

The key of a path is its NLRI and `Path.identifier`, which is not sent to peers (except with RFC 7911). The first octet
of the identifier marks our paths, and the other three identify the network.
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
"""The neighbour that the daemon shows for a path that does not come from a peer."""


def identifier(owner: int, network: str) -> int:
    """The identifier of a network's paths. If two networks share one, `prune` may only withdraw less than it could."""
    digest = hashlib.sha256(network.encode()).digest()
    return owner << 24 | int.from_bytes(digest[:3], "big")


def is_ours(path: api.Path, owner: int) -> bool:
    return path.neighbor_ip == LOCAL and path.identifier >> 24 == owner


def family_of(family: api.Family) -> Family | None:
    return FAMILIES.get((family.afi, family.safi))


def announced(route: Announcement, mark: int) -> api.Path:
    """The path that announces a route. Raises `Unencodable`, whose text says why it may not be sent."""
    # The AS number only matters for AS_PATH, which the daemon makes itself, so any number will do.
    wire = encode(route, 1, "ibgp")
    hop = attribute(0x40, NEXT_HOP, ip_address(wire.next_hop).packed)
    return api.Path(
        family=NUMBERS[wire.family],
        identifier=mark,
        nlri_binary=wire.nlri,
        pattrs_binary=[*_split(wire.attributes), hop],
    )


def withdrawn(nlri: Nlri, mark: int) -> api.Path:
    """The path that withdraws a route. Raises `Unencodable`; such a route was never announced."""
    wire, _ = encode_withdrawal(nlri)
    return api.Path(family=NUMBERS[nlri.family], identifier=mark, nlri_binary=wire, is_withdraw=True)


def taken_back(path: api.Path) -> api.Path:
    """The path that withdraws one that the daemon has listed, whatever it is."""
    return api.Path(family=path.family, identifier=path.identifier, nlri_binary=path.nlri_binary, is_withdraw=True)


def nlri_of(path: api.Path) -> Nlri | None:
    """The NLRI of a listed path; None if we cannot have announced it."""
    family = family_of(path.family)
    if family is None:
        return None
    try:
        return decode_nlri(family, path.nlri_binary).nlri
    except Malformed:
        return None


def _split(attributes: bytes) -> Iterator[bytes]:
    """Split path attributes (RFC 4271 section 4.3)."""
    at = 0
    while at < len(attributes):
        if attributes[at] & EXTENDED_LENGTH:
            end = at + 4 + int.from_bytes(attributes[at + 2 : at + 4], "big")
        else:
            end = at + 3 + attributes[at + 2]
        yield attributes[at:end]
        at = end
