"""Decodes UPDATE messages of the five families into the typed values of the exporter contract: the reverse of `encode`.

Errors are handled as RFC 7606 asks: an attribute is discarded, the routes are treated as withdrawn, or the family is
ignored for the rest of the session. If the RFC allows none of these, `Unusable` is raised, and the session has to end.
No input raises anything else, and no octets are copied back to a peer. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from socket import inet_ntoa
from struct import unpack

from bgpcni.bgp import VXLAN
from bgpcni.exporter import EndOfRib, Gone, Learned, PathAttributes
from bgpcni.model import Family, MulticastNlri
from bgpcni.wire.encode import INGRESS_REPLICATION
from bgpcni.wire.nlri import ReadNlri, read_nlris
from bgpcni.wire.values import Malformed, read_address, read_administered

FAMILIES = {
    (1, 1): Family.IPV4_UNICAST,
    (2, 1): Family.IPV6_UNICAST,
    (1, 128): Family.IPV4_VPN,
    (2, 128): Family.IPV6_VPN,
    (25, 70): Family.L2VPN_EVPN,
}
"""By AFI and SAFI."""
EXTENDED_LENGTH, OPTIONAL, TRANSITIVE = 0x10, 0x80, 0x40  # attribute flags, RFC 4271 section 4.3
ORIGIN, AS_PATH, NEXT_HOP, MED, LOCAL_PREF = 1, 2, 3, 4, 5
COMMUNITIES, ORIGINATOR_ID, CLUSTER_LIST = 8, 9, 10
MP_REACH_NLRI, MP_UNREACH_NLRI, EXTENDED_COMMUNITIES = 14, 15, 16
AS4_PATH, PMSI_TUNNEL, LARGE_COMMUNITIES = 17, 22, 32
FLAGS = {
    **dict.fromkeys((ORIGIN, AS_PATH, NEXT_HOP, LOCAL_PREF), TRANSITIVE),
    **dict.fromkeys((MED, ORIGINATOR_ID, CLUSTER_LIST, MP_REACH_NLRI, MP_UNREACH_NLRI), OPTIONAL),
    **dict.fromkeys(
        (COMMUNITIES, EXTENDED_COMMUNITIES, AS4_PATH, PMSI_TUNNEL, LARGE_COMMUNITIES), OPTIONAL | TRANSITIVE
    ),
}
"""The flags that a known attribute must have."""
INTERNAL = {LOCAL_PREF, ORIGINATOR_ID, CLUSTER_LIST}
"""Discarded if an external peer sends them, RFC 7606 sections 7.5, 7.9 and 7.10."""


class Unusable(Malformed):
    """Nothing of the message can be used. By RFC 7606 section 3 the session has to end (NOTIFICATION 3/1)."""


@dataclass(frozen=True, slots=True)
class Update:
    """What one UPDATE says. `faults`: what was wrong, for the log. `given_up`: families to ignore from now on."""

    events: tuple[Learned | Gone | EndOfRib, ...] = ()
    faults: tuple[str, ...] = ()
    given_up: tuple[Family, ...] = ()


def decode_update(peer: str, body: bytes, *, internal: bool, asn4: bool = True, zone: str | None = None) -> Update:
    """An UPDATE without its header, RFC 4271 section 4.3. Raises `Unusable`.

    `internal`: the peer is of our AS. `asn4`: AS numbers of four octets were negotiated (RFC 6793). `zone`: the link
    between two routers that have no other addresses there: of two next hops the link-local one counts (`fe80::1%eth1`).
    """
    gone_octets, attribute_octets, new_octets = _fields(body)
    if not gone_octets and not attribute_octets and not new_octets:
        return Update((EndOfRib(peer, Family.IPV4_UNICAST),))
    found, faults = _walk(attribute_octets, internal)
    intact = not faults
    reach, unreach = found.pop(MP_REACH_NLRI, None), found.pop(MP_UNREACH_NLRI, None)
    if unreach is not None and len(unreach) == 3 and not (found or reach or gone_octets or new_octets):
        family = FAMILIES.get((int.from_bytes(unreach[:2], "big"), unreach[2]))
        return Update(() if family is None else (EndOfRib(peer, family),))  # RFC 4724 section 2
    reader = _UpdateReader(peer, faults, zone)
    if gone_octets:
        reader.routes(Family.IPV4_UNICAST, gone_octets, None)
    if unreach is not None:
        reader.unreachable(unreach)
    if reach is not None or new_octets:
        attributes: PathAttributes | None = None
        tunnel_vni: int | None = None
        try:
            attributes, tunnel_vni = _attributes(tuple(sorted(found.items())), asn4)
            for code, name in ((ORIGIN, "ORIGIN"), (AS_PATH, "AS_PATH")):
                if code not in found:
                    raise Malformed(f"no {name}")
        except Malformed as error:
            faults.append(f"{error}: treated as withdrawn")
            intact = False
        if reach is not None:
            reader.reachable(reach, attributes if intact else None, tunnel_vni)
        if new_octets:
            hop = found.get(NEXT_HOP, b"")
            if intact and len(hop) != 4:
                faults.append("no NEXT_HOP of four octets: treated as withdrawn")
                intact = False
            stated = attributes._replace(next_hop=read_address(hop)) if intact and attributes is not None else None
            reader.routes(Family.IPV4_UNICAST, new_octets, stated)
    return Update(tuple(reader.events), tuple(faults), tuple(reader.given_up))


def decode_attributes(wire: bytes, *, internal: bool = True, asn4: bool = True) -> PathAttributes:
    """Path attributes alone, without their total length and without a next hop. Raises `Malformed`."""
    found, faults = _walk(wire, internal)
    if faults:
        raise Malformed("; ".join(faults))
    return _attributes(tuple(sorted(found.items())), asn4)[0]


def decode_nlri(family: Family, wire: bytes) -> ReadNlri:
    """The one NLRI that these octets are. Raises `Malformed`."""
    faults: list[str] = []
    routes = list(read_nlris(family, wire, faults))
    if faults or len(routes) != 1:
        raise Malformed("; ".join(faults) or f"{len(routes)} NLRI of a known type")
    return routes[0]


# --- the message ---------------------------------------------------------------------------------


def _fields(body: bytes) -> tuple[bytes, bytes, bytes]:
    """Withdrawn routes, path attributes, NLRI."""
    if len(body) < 4:
        raise Unusable(f"an UPDATE of {len(body)} octets")
    gone = int.from_bytes(body[:2], "big")
    if gone + 4 > len(body):
        raise Unusable(f"{gone} octets of withdrawn routes in an UPDATE of {len(body)}")
    attributes = int.from_bytes(body[2 + gone : 4 + gone], "big")
    start, end = 4 + gone, 4 + gone + attributes
    if end > len(body):
        raise Unusable(f"{attributes} octets of path attributes in an UPDATE of {len(body)}")
    return body[2 : 2 + gone], body[start:end], body[end:]


def _walk(wire: bytes, internal: bool) -> tuple[dict[int, bytes], list[str]]:
    """The values by attribute code, and faults: if there is one, treat the routes as withdrawn. Raises `Unusable`."""
    found: dict[int, bytes] = {}
    faults: list[str] = []
    at = 0
    while at < len(wire):
        flags = wire[at]
        head = 4 if flags & EXTENDED_LENGTH else 3
        if at + head > len(wire):
            faults.append("a path attribute is cut short: treated as withdrawn")
            break
        code, size = wire[at + 1], int.from_bytes(wire[at + 2 : at + head], "big")
        at += head
        if at + size > len(wire):
            faults.append(f"attribute {code} is longer than the message: treated as withdrawn")
            break
        value = wire[at : at + size]
        at += size
        if code in found:
            if code in (MP_REACH_NLRI, MP_UNREACH_NLRI):
                raise Unusable(f"attribute {code} twice")
            continue  # RFC 7606 section 3 (g): all but the first are discarded
        if code in INTERNAL and not internal:
            continue
        expected = FLAGS.get(code)
        if expected is None:
            continue
        if flags & (OPTIONAL | TRANSITIVE) != expected:
            faults.append(f"attribute {code} with flags {flags:#04x}: treated as withdrawn")
        found[code] = value
    return found, faults


class _UpdateReader:
    """Collects the events of one UPDATE."""

    def __init__(self, peer: str, faults: list[str], zone: str | None = None) -> None:
        self.peer, self.zone = peer, zone
        self.faults = faults
        self.events: list[Learned | Gone | EndOfRib] = []
        self.given_up: list[Family] = []

    def routes(
        self, family: Family, octets: bytes, attributes: PathAttributes | None, tunnel_vni: int | None = None
    ) -> None:
        """Read the NLRI of one family. Without attributes they are withdrawn. The VNI of a type 3 is in its tunnel."""
        faults: list[str] = []
        try:
            for route in read_nlris(family, octets, faults):
                if attributes is None:
                    self.events.append(Gone(self.peer, route.nlri))
                elif isinstance(route.nlri, MulticastNlri):
                    self.events.append(Learned(self.peer, route.nlri, attributes, tunnel_vni))
                else:
                    self.events.append(Learned(self.peer, route.nlri, attributes, *route[1:]))
        except Malformed as error:
            self._give_up(family, str(error))
        self.faults += faults

    def reachable(self, value: bytes, attributes: PathAttributes | None, tunnel_vni: int | None) -> None:
        """MP_REACH_NLRI, RFC 4760 section 3."""
        if len(value) < 3:
            raise Unusable("MP_REACH_NLRI is cut short")
        family = FAMILIES.get((int.from_bytes(value[:2], "big"), value[2]))
        if family is None:
            return
        size = value[3] if len(value) > 3 else 0
        if 5 + size > len(value):
            self._give_up(family, "MP_REACH_NLRI is cut short")
            return
        stated = None
        if attributes is not None:
            try:
                stated = attributes._replace(next_hop=_next_hop(family, value[4 : 4 + size], self.zone))
            except Malformed as error:
                self._give_up(family, str(error))  # RFC 7606 section 7.11
                return
        octets = value[5 + size :]
        self.routes(family, octets, stated, tunnel_vni)

    def unreachable(self, value: bytes) -> None:
        """MP_UNREACH_NLRI, RFC 4760 section 4."""
        if len(value) < 3:
            raise Unusable("MP_UNREACH_NLRI is cut short")
        family = FAMILIES.get((int.from_bytes(value[:2], "big"), value[2]))
        if family is not None:
            self.routes(family, value[3:], None)

    def _give_up(self, family: Family, why: str) -> None:
        """The next NLRI cannot be found: the family is disabled, RFC 7606 section 3 (j), RFC 4760 section 7."""
        self.events = [e for e in self.events if not isinstance(e, Learned) or e.nlri.family is not family]
        self.faults.append(f"{family}: {why}: the family is ignored until the session is a new one")
        self.given_up.append(family)


# --- path attributes -----------------------------------------------------------------------------


@lru_cache(1024)
def _attributes(found: tuple[tuple[int, bytes], ...], asn4: bool) -> tuple[PathAttributes, int | None]:
    """The known attributes, and the VNI of the P-MSI tunnel. Raises `Malformed`: treat the routes as withdrawn."""
    values = dict(found)
    targets: list[str] = []
    encapsulations: list[int] = []
    mobility, sticky, router_mac = 0, False, None
    for value in _pieces("extended communities", values.get(EXTENDED_COMMUNITIES), 8):
        kind, subtype = value[0], value[1]
        if kind in (0, 1, 2) and subtype == 2:
            targets.append(read_administered(kind, value[2:]))
        elif (kind, subtype) == (0x03, 0x0C):
            encapsulations.append(int.from_bytes(value[6:], "big"))
        elif (kind, subtype) == (0x06, 0x00):
            mobility, sticky = int.from_bytes(value[4:], "big"), bool(value[2] & 1)
        elif (kind, subtype) == (0x06, 0x03):
            router_mac = value[2:].hex(":")
    standard = ("{}:{}".format(*unpack("!HH", v)) for v in _pieces("communities", values.get(COMMUNITIES), 4))
    large = (
        "{}:{}:{}".format(*unpack("!III", v)) for v in _pieces("large communities", values.get(LARGE_COMMUNITIES), 12)
    )
    clusters = _pieces("CLUSTER_LIST", values.get(CLUSTER_LIST), 4)
    origin = values.get(ORIGIN, b"\0")
    if len(origin) != 1 or origin[0] > 2:
        raise Malformed("ORIGIN is none of the three")
    tunnel, tunnel_vni = _tunnel(values[PMSI_TUNNEL]) if PMSI_TUNNEL in values else (None, None)
    originator = _sized(values, ORIGINATOR_ID)
    return PathAttributes(
        next_hop="",
        route_targets=tuple(targets),
        communities=(*standard, *large),
        as_path=_whole_path(values, asn4),
        origin=origin[0],
        local_pref=_number(values, LOCAL_PREF),
        med=_number(values, MED),
        mobility=mobility,
        sticky=sticky,
        router_mac=router_mac,
        encapsulation=VXLAN if VXLAN in encapsulations else next(iter(encapsulations), None),
        tunnel=tunnel,
        originator=None if originator is None else inet_ntoa(originator),
        clusters=tuple(inet_ntoa(value) for value in clusters),
    ), tunnel_vni


def _sized(values: dict[int, bytes], code: int) -> bytes | None:
    """The value of an attribute that must have four octets; None if it is absent."""
    value = values.get(code)
    if value is not None and len(value) != 4:
        raise Malformed(f"attribute {code} of {len(value)} octets")
    return value


def _number(values: dict[int, bytes], code: int) -> int | None:
    value = _sized(values, code)
    return None if value is None else int.from_bytes(value, "big")


def _pieces(what: str, value: bytes | None, size: int) -> list[bytes]:
    """The values of a list. If the list is there, it must not be empty (RFC 7606 sections 7.8, 7.10, 7.14)."""
    if value is None:
        return []
    if not value or len(value) % size:
        raise Malformed(f"{what}: {len(value)} octets, not a multiple of {size}")
    return [value[at : at + size] for at in range(0, len(value), size)]


def _tunnel(value: bytes) -> tuple[str | None, int]:
    """(endpoint, VNI) of the P-MSI tunnel; the endpoint only for ingress replication (RFC 6514 section 5, RFC 8365)."""
    if len(value) < 5:
        raise Malformed("the P-MSI tunnel is cut short")
    vni = int.from_bytes(value[2:5], "big")
    return (read_address(value[5:]) if value[1] == INGRESS_REPLICATION else None), vni


def _whole_path(values: dict[int, bytes], asn4: bool) -> tuple[int, ...]:
    """AS_PATH, its end replaced by AS4_PATH if there is one (RFC 6793 section 4.2.3)."""
    path = _as_path(values.get(AS_PATH, b""), 4 if asn4 else 2)
    if asn4 or AS4_PATH not in values:
        return path
    try:
        better = _as_path(values[AS4_PATH], 4)
    except Malformed:
        return path  # discarded, RFC 6793 section 6
    return path[: len(path) - len(better)] + better if len(better) <= len(path) else path


def _as_path(value: bytes, size: int) -> tuple[int, ...]:
    path: list[int] = []
    at = 0
    while at < len(value):
        if at + 2 > len(value) or value[at] not in (1, 2, 3, 4) or not value[at + 1]:
            raise Malformed("AS_PATH has no such segment")
        end = at + 2 + value[at + 1] * size
        if end > len(value):
            raise Malformed("AS_PATH is cut short")
        path.extend(int.from_bytes(value[n : n + size], "big") for n in range(at + 2, end, size))
        at = end
    return tuple(path)


def _next_hop(family: Family, value: bytes, zone: str | None) -> str:
    """The global address, or in a `zone` the link-local one.

    An RD of zero may come before the global one, a link-local one after it (RFC 2545, 4364, 4659).
    """
    size = len(value)
    if family in (Family.IPV4_VPN, Family.IPV6_VPN):
        if size not in (12, 24, 48):
            raise Malformed(f"a next hop of {size} octets")
        return read_address(value[8 : min(size, 24)])
    if size not in (4, 16, 32) or (family is Family.IPV6_UNICAST and size == 4):
        raise Malformed(f"a next hop of {size} octets")
    if zone is not None and value[-16:-14] == b"\xfe\x80":
        return f"{read_address(value[-16:])}%{zone}"
    return read_address(value[: min(size, 16)])
