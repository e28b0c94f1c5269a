"""FRR's whole table as values, and what an announcement should look like there: compared route by route."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bgpcni.model import Announcement, Family, IpPrefixNlri, MacIpNlri, MulticastNlri, Nlri, UnicastNlri, VpnNlri
from integration.lab import Frr


@dataclass(frozen=True, slots=True)
class Shown:
    """One path. Communities and route targets as sets; `label`: MPLS label, or VNI; `as_path` as FRR prints it."""

    next_hop: str
    route_targets: frozenset[str]
    communities: frozenset[str]
    label: int | None = None
    mobility: int = 0
    router_mac: str | None = None
    encapsulation: int | None = None
    as_path: str = "Local"
    local_pref: int | None = 100


def meant(route: Announcement, asn: int | None = None) -> Shown:
    """What FRR should show. `asn`: ours, if FRR is an external peer."""
    evpn = route.nlri.family is Family.L2VPN_EVPN
    mac = f"02:00:5e:{(route.vni or 0).to_bytes(3, 'big').hex(':')}"
    return Shown(
        next_hop=route.next_hop,
        route_targets=frozenset(route.export_rt),
        communities=frozenset(route.communities),
        label=route.vni if evpn else route.label,
        mobility=route.mobility if route.nlri.kind == "mac-ip" else 0,
        router_mac=mac if route.nlri.kind == "ip-prefix" else None,
        encapsulation=8 if evpn else None,
        as_path="Local" if asn is None else str(asn),
        local_pref=100 if asn is None else None,
    )


def table(frr: Frr) -> dict[Nlri, Shown]:
    """All that FRR has, of the five families. More than one path to a route is an error."""
    found: dict[Nlri, Shown] = {}
    for nlri, path in _paths(frr):
        if path.get("removed"):
            continue
        assert nlri not in found, f"two paths to {nlri}"
        found[nlri] = _shown(path)
    return found


def stale(frr: Frr) -> set[Nlri]:
    """Routes that FRR keeps of a neighbour that went away."""
    return {nlri for nlri, path in _paths(frr) if path.get("stale")}


def _paths(frr: Frr) -> Iterator[tuple[Nlri, dict[str, Any]]]:
    for family, words in ((Family.IPV4_UNICAST, "ipv4 unicast"), (Family.IPV6_UNICAST, "ipv6 unicast")):
        for prefix, paths in frr.json(f"show bgp {words} detail").get("routes", {}).items():
            for path in paths:
                yield UnicastNlri(family, prefix), path
    for family, words in ((Family.IPV4_VPN, "ipv4 vpn"), (Family.IPV6_VPN, "ipv6 vpn")):
        by_rd = frr.json(f"show bgp {words} detail").get("routes", {}).get("routeDistinguishers", {})
        for rd, routes in by_rd.items():
            for prefix, paths in routes.items():
                for path in paths:
                    yield VpnNlri(family, prefix, rd), path
    evpn = frr.text("show bgp l2vpn evpn route detail json")
    if '"rd"' not in evpn:
        return  # an empty table is no JSON
    for rd, routes in json.loads(evpn).items():
        if not isinstance(routes, dict):
            continue
        for route in routes.values():
            if isinstance(route, dict) and "paths" in route:
                for group in route["paths"]:
                    for path in group if isinstance(group, list) else [group]:
                        yield _evpn(rd, route), path


def _evpn(rd: str, route: dict[str, Any]) -> Nlri:
    tag = int(route["ethTag"])
    if route["routeType"] == 2:
        prefix = f"{route['ip']}/{route['ipLen']}" if route.get("ip") else None
        return MacIpNlri(rd, route["mac"], prefix, tag=tag)
    if route["routeType"] == 3:
        return MulticastNlri(rd, route["ip"], tag=tag)
    return IpPrefixNlri(rd, f"{route['ip']}/{route['ipLen']}", tag=tag)


def _shown(path: dict[str, Any]) -> Shown:
    extended = path.get("extendedCommunity", {}).get("string", "").split()
    values: dict[str, list[str]] = {}
    for word in extended:
        kind, _, value = word.partition(":")
        values.setdefault(kind, []).append(value)
    label = path.get("remoteLabel", path.get("vni", path.get("pmsi", {}).get("label")))
    (hop,) = {hop["ip"] for hop in path["nexthops"] if hop.get("scope", "global") == "global"}
    return Shown(
        next_hop=hop,
        route_targets=frozenset(values.get("RT", [])),
        communities=frozenset(
            [*path.get("community", {}).get("list", []), *path.get("largeCommunity", {}).get("list", [])]
        ),
        label=None if label is None else int(label),
        mobility=int(values.get("MM", ["0"])[0].partition(",")[0]),
        router_mac=values.get("Rmac", [None])[0],
        encapsulation=int(values["ET"][0]) if "ET" in values else None,
        as_path=path["aspath"]["string"],
        local_pref=path.get("locPrf"),
    )
