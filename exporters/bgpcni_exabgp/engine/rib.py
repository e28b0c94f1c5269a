"""The Adj-RIB-Out that replaces ExaBGP's: at each flush a route has one state, the newest, and routes share UPDATEs.

Routes come encoded. Nothing here knows of sockets or of the agent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from exabgp.bgp.message import Action, Update
from exabgp.bgp.message.open.capability import Capability
from exabgp.bgp.message.update.nlri import NLRI
from exabgp.protocol.family import AFI, SAFI
from exabgp.protocol.ip import NoNextHop
from exabgp.rib.change import Change
from exabgp.rib.outgoing import OutgoingRIB

HEADER = 19 + 2 + 2  # message header, Withdrawn Routes Length, Total Path Attribute Length
EXTENDED_OPTIONAL = 0x90  # attribute flags: optional, extended length
MP_REACH_NLRI, MP_UNREACH_NLRI = 14, 15
AfiSafi = tuple[AFI, SAFI]
IPV4 = (AFI.ipv4, SAFI.unicast)


def is_internal(negotiated: Any) -> bool:
    """Whether a session is iBGP. Its OPEN has an AS number of four octets in a capability."""
    own = negotiated.sent_open.capabilities.get(Capability.CODE.FOUR_BYTES_ASN, negotiated.local_as)
    return int(own) == int(negotiated.peer_as)


def extended(negotiated: Any) -> bool:
    """Whether IPv4 unicast routes may have an IPv6 next hop in a session (RFC 8950)."""
    return (*IPV4, AFI.ipv6) in negotiated.nexthop


class RawAttributes:
    """Path attributes that are encoded already. It has the methods of ExaBGP's `Attributes` that the RIB calls."""

    __slots__ = ("wire",)

    def __init__(self, wire: bytes) -> None:
        self.wire = wire

    def index(self) -> bytes:
        return self.wire

    def for_session(self, internal: bool) -> bytes:
        return self.wire

    def as_dict(self) -> dict[str, str]:
        return {"raw": self.wire.hex()}

    def __str__(self) -> str:
        return f" attributes {self.wire.hex()}"


class PairedAttributes(RawAttributes):
    """Those for a neighbour whose AS is known only in its session: for iBGP, and for eBGP."""

    __slots__ = ("ebgp",)

    def __init__(self, ibgp: bytes, ebgp: bytes) -> None:
        super().__init__(ibgp)
        self.ebgp = ebgp

    def index(self) -> bytes:
        return self.wire + b"/" + self.ebgp

    def for_session(self, internal: bool) -> bytes:
        return self.wire if internal else self.ebgp


class RawNLRI(NLRI):  # type: ignore[misc]  # ExaBGP has no types
    """One encoded NLRI. The RIB knows it by its key. `network`: whose it is."""

    __slots__ = ("action", "afi", "key", "network", "nexthop", "safi", "wire")

    def __init__(self, family: AfiSafi, action: int, nexthop: Any, wire: bytes, key: bytes, network: str = "") -> None:
        self.afi, self.safi = family
        self.action, self.nexthop, self.wire, self.key, self.network = action, nexthop, wire, key, network

    def family(self) -> RawNLRI:
        return self  # an NLRI is a Family: no need to build another one at each look-up

    def index(self) -> bytes:
        return b"raw" + self.key

    def pack_nlri(self, negotiated: Any = None) -> bytes:
        return self.wire

    def as_dict(self) -> dict[str, str]:
        return {"family": self.short(), "raw": self.wire.hex(), "key": self.key.hex()}

    def __str__(self) -> str:
        return f"{self.short()} {self.wire.hex()} next-hop {self.nexthop}"

    extensive = __str__


class RawUpdate(Update):  # type: ignore[misc]  # ExaBGP has no types
    """Routes that have family, action, next hop and attributes in common, in as few UPDATEs as possible."""

    def __init__(self, nlri: RawNLRI, attributes: RawAttributes) -> None:
        super().__init__([], attributes)
        self.model = nlri

    def _next_hop(self) -> bytes:
        """The field of RFC 4760 section 3. For VPNs it has an RD of zero in front (RFC 4364, RFC 4659)."""
        packed: bytes = self.model.nexthop.ton()
        if self.model.afi == AFI.ipv6 and len(packed) == 4:
            packed = bytes(10) + b"\xff\xff" + packed
        return bytes(8) + packed if self.model.safi == SAFI.mpls_vpn else packed

    def messages(self, negotiated: Any, include_withdraw: bool = True) -> Iterator[bytes]:
        model = self.model
        family, announce = model.afi_safi(), model.action == Action.ANNOUNCE
        if family not in negotiated.families or not negotiated.asn4 or not (announce or include_withdraw):
            return
        if announce and family == IPV4 and len(model.nexthop.ton()) == 16 and not extended(negotiated):
            return  # the peer could not read it
        attributes = self.attributes.for_session(is_internal(negotiated)) if announce else b""
        native = family == IPV4 and (not announce or len(model.nexthop.ton()) == 4)
        if native and announce:
            attributes = b"\x40\x03\x04" + model.nexthop.ton() + attributes
        mp = b"" if native else model.afi.pack() + model.safi.pack()
        if announce and not native:
            mp += bytes([len(self._next_hop())]) + self._next_hop() + b"\0"
        room = negotiated.msg_size - HEADER - len(attributes) - (len(mp) + 4 if mp else 0)
        for octets in self._chunks(room):
            if native:
                fields = (b"", attributes, octets) if announce else (octets, b"", b"")
            else:  # RFC 7606 section 5.1: the MP attribute comes first, and alone of its kind
                code = MP_REACH_NLRI if announce else MP_UNREACH_NLRI
                size = (len(mp) + len(octets)).to_bytes(2, "big")
                fields = (b"", bytes([EXTENDED_OPTIONAL, code]) + size + mp + octets + attributes, b"")
            yield self._message(Update.prefix(fields[0]) + Update.prefix(fields[1]) + fields[2])

    def _chunks(self, room: int) -> Iterator[bytes]:
        pieces: list[bytes] = []
        size = 0
        for nlri in self.nlris:
            if size + len(nlri.wire) > room and pieces:
                yield b"".join(pieces)
                pieces, size = [], 0
            pieces.append(nlri.wire)
            size += len(nlri.wire)
        if pieces:
            yield b"".join(pieces)


class GroupingRIB(OutgoingRIB):  # type: ignore[misc]  # ExaBGP has no types
    """The Adj-RIB-Out. A flush sends only the newest state of each route, and routes that look alike share UPDATEs."""

    def __init__(self, cache: bool, families: Any) -> None:
        self.sequence = 0  # number of the newest command that was applied
        self._marked: dict[AfiSafi, set[bytes]] = {}
        super().__init__(cache, families)

    def held(self, family: AfiSafi) -> dict[bytes, Any]:
        """The routes that are announced, by index."""
        known: dict[bytes, Any] = self._seen.get(family, {})
        return known

    def mark(self) -> None:
        self._marked = {
            family: {index for index, change in known.items() if isinstance(change.nlri, RawNLRI)}
            for family, known in self._seen.items()
        }

    def keep(self, family: AfiSafi, keys: Iterable[bytes]) -> None:
        prefix = Change.family_prefix(family) + b"raw"
        self._marked.get(family, set()).difference_update(prefix + key for key in keys)

    def spare(self, networks: frozenset[str]) -> None:
        for family, marked in self._marked.items():
            known = self.held(family)
            marked -= {index for index in marked if index in known and known[index].nlri.network in networks}

    def sweep(self) -> None:
        for family, marked in self._marked.items():
            known = self.held(family)
            for change in [known[index] for index in marked if index in known]:
                nlri = change.nlri
                gone = RawNLRI(family, Action.WITHDRAW, NoNextHop, nlri.wire, nlri.key)
                self.add_to_rib(Change(gone, change.attributes))
        self._marked = {}

    def in_cache(self, change: Any) -> bool:
        """Whether just this is announced already. The index does not show a new label, so that is compared too."""
        if not super().in_cache(change):
            return False
        known = self._seen[change.nlri.family().afi_safi()][change.index()]
        return bool(known.nlri.pack() == change.nlri.pack())

    def _update_rib(self, change: Any) -> None:
        # an older state of the route that is still queued must not be sent as well
        index = change.index()
        queued = self._new_nlri.pop(index, None)
        if queued is not None:
            families = self._new_attr_af_nlri.get(queued.attributes.index(), {})
            families.get(queued.nlri.family().afi_safi(), {}).pop(index, None)
        super()._update_rib(change)

    def updates(self, grouped: bool) -> Iterator[Any]:
        # the answer to a route refresh must not bring back what was replaced or withdrawn meanwhile
        latest = [self._new_nlri.get(change.index(), change) for change in self._refresh_changes]
        self._refresh_changes: list[Any] = [c for c in latest if c.nlri.action == Action.ANNOUNCE]
        groups: dict[tuple[Any, ...], RawUpdate] = {}
        for message in super().updates(grouped):
            if not isinstance(message, Update) or not isinstance(message.nlris[0], RawNLRI):
                yield from groups.values()  # a marker of RFC 7313
                groups.clear()
                yield message
                continue
            for nlri in message.nlris:
                group = (nlri.afi, nlri.safi, nlri.action, nlri.nexthop.index(), message.attributes.index())
                if group not in groups:
                    groups[group] = RawUpdate(nlri, message.attributes)
                groups[group].nlris.append(nlri)
        yield from groups.values()
