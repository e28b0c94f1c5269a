"""What the engine tells of received routes, as the contract's events. Pure.

A route that cannot be decoded is as good as withdrawn (RFC 7606 section 2); route types nobody asked about (EVPN
types 1 and 4) are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from ipaddress import ip_address
from typing import Any

from bgpcni.exporter import EndOfRib, Event, Gone, Learned, PathAttributes
from bgpcni.model import Family
from bgpcni_exabgp.decode import Malformed, decode_attributes, decode_route
from bgpcni_exabgp.ledger import NAMES


def events(told: Mapping[str, Any]) -> Iterator[Event]:
    """The events of one line of the engine: `routes`."""
    family = NAMES.get(told["family"])
    if family is None:
        return
    peer, wires = str(told["peer"]), told["nlri"]
    if not wires:
        yield EndOfRib(peer, family)
        return
    attributes = None
    if told["hop"]:
        try:
            attributes = path(told["hop"], told["attributes"], family)
        except Malformed:
            attributes = None
    for wire in wires:
        try:
            route = decode_route(family, bytes.fromhex(wire))
        except Malformed:
            continue
        if attributes is None:
            yield Gone(peer, route.nlri)
            continue
        vni = route.vni
        if route.nlri.kind == "multicast":
            vni = _tunnel_vni(told["attributes"])
        yield Learned(peer, route.nlri, attributes, vni, route.l3_vni, route.label, route.gateway)


@lru_cache(4096)
def path(hop: str, wire: str, family: Family) -> PathAttributes:
    """Next hop and path attributes, in hexadecimal. Raises Malformed."""
    found = decode_attributes(bytes.fromhex(wire))
    return PathAttributes(
        next_hop=_next_hop(bytes.fromhex(hop), family),
        route_targets=found.route_targets,
        communities=found.communities,
        as_path=found.as_path,
        origin=found.origin or 0,
        local_pref=found.local_pref,
        med=found.med,
        mobility=found.mobility or 0,
        sticky=found.sticky,
        router_mac=found.router_mac,
        encapsulation=found.encapsulation,
        tunnel=found.tunnel[2] if found.tunnel else None,
        originator=found.originator,
    )


@lru_cache(256)
def _tunnel_vni(wire: str) -> int | None:
    tunnel = decode_attributes(bytes.fromhex(wire)).tunnel
    return tunnel[1] if tunnel else None


def _next_hop(octets: bytes, family: Family) -> str:
    """The global address: after an RD of zero for VPN, before a link-local one for IPv6 (RFC 2545, 4364, 4659)."""
    if family in (Family.IPV4_VPN, Family.IPV6_VPN):
        octets = octets[8:24] if len(octets) > 12 else octets[8:]
    elif len(octets) == 32:
        octets = octets[:16]
    try:
        address = ip_address(octets)
    except ValueError:
        raise Malformed(f"a next hop of {len(octets)} octets") from None
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)
