"""Derives which routes are announced for an attachment on this node. Pure: same attachment, same node, same routes.

Routes that several attachments share (EVPN's type 3 of a VNI, a network's subnet) are derived from each of them; the
ledger keeps such a route for as long as any attachment wants it.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from bgpcni import bgp
from bgpcni.errors import InvalidConfiguration
from bgpcni.ip import ip_interface
from bgpcni.model import (
    Address,
    Announcement,
    Attachment,
    Attributes,
    Endpoint,
    IpPrefixNlri,
    MacIpNlri,
    MulticastNlri,
    Nlri,
    NodeFacts,
    UnicastNlri,
    VpnNlri,
)

ALL = frozenset({"import_rt", "export_rt", "communities", "local_preference", "med"})
"""The fields of `Attributes`."""
GRACEFUL_SHUTDOWN = "65535:0"


def next_hop(node: NodeFacts, version: int) -> str:
    """The next hop of routes of one IP version; "" if this node has no [bgp]. Raises InvalidConfiguration."""
    if not node.has_bgp:
        return ""
    found = node.next_hop if version == 4 else node.next_hop6
    if found is None:
        key = "next_hop" if version == 4 else "next_hop6"
        raise InvalidConfiguration(
            f"bgp: this node has no next hop for IPv{version}: set [bgp] {key} in agent.toml, "
            f"or give the interface of local_address a global IPv{version} address"
        )
    return found


def derive(attachment: Attachment, node: NodeFacts, carried: Collection[str] = ALL) -> list[Announcement]:
    """The routes of one attachment that this node can announce, without duplicates. `left_out` has the others.

    `carried`: the fields of `Attributes` that an exporter can set for each route. What its network and itself ask for
    is always in the routes; what policies or maintenance say, only where the exporter carries it. Raises
    InvalidConfiguration if there are routes but none has a next hop.
    """
    said = _said(attachment, node, carried)
    routes: dict[Nlri, Announcement] = {}
    lacking: InvalidConfiguration | None = None
    for item in attachment.addresses:
        try:
            found = _of_address(attachment, item, node, said)
        except InvalidConfiguration as error:
            lacking = lacking or error
            continue
        for route in found:
            routes.setdefault(route.nlri, route)
    for shared in _shared(attachment):
        with suppress(InvalidConfiguration):  # as its own address of that family, which is told of
            for route in _of_shared(attachment, shared, node, said):
                routes.setdefault(route.nlri, route)
    if lacking is not None and not routes:
        raise lacking
    if attachment.bgp.family == "evpn":
        for route in _of_network(attachment, node, said):
            routes.setdefault(route.nlri, route)
    return list(routes.values())


def left_out(attachment: Attachment, node: NodeFacts) -> list[tuple[Announcement, str]]:
    """The routes that have no next hop on this node, with the reason; their `next_hop` is ""."""
    if not node.has_bgp or (node.next_hop is not None and node.next_hop6 is not None):
        return []
    named = replace(node, next_hop=node.next_hop or "", next_hop6=node.next_hop6 or "")
    said = _said(attachment, node, ALL)
    found: dict[Nlri, tuple[Announcement, str]] = {}
    for item in attachment.addresses:
        try:
            _of_address(attachment, item, node, said)
        except InvalidConfiguration as error:
            for route in _of_address(attachment, item, named, said):
                found.setdefault(route.nlri, (route, error.msg))
    return list(found.values())


def withheld(attachment: Attachment, node: NodeFacts) -> list[Announcement]:
    """The routes to its shared addresses, while its health check does not let them be announced."""
    shared = attachment.anycast
    if shared is None or shared.passing:
        return []
    said = _said(attachment, node, ALL)
    found: list[Announcement] = []
    for address in shared.addresses:
        with suppress(InvalidConfiguration):
            found += _of_shared(attachment, address, node, said)
    return found


class _Said(NamedTuple):
    """What routes are announced with: those of one container, and those that several containers share."""

    own: Attributes
    shared: Attributes


def _said(attachment: Attachment, node: NodeFacts, carried: Collection[str]) -> _Said:
    own: Attributes = attachment.bgp
    shared = attachment.common or own
    if attachment.plain is not None and not set(carried) >= ALL:
        asked = {name: getattr(attachment.plain, name) for name in ALL - set(carried)}
        own, shared = own.model_copy(update=asked), shared.model_copy(update=asked)
    if node.maintenance:
        own, shared = _gently(own, carried), _gently(shared, carried)
    return _Said(own, shared)


def _gently(said: Attributes, carried: Collection[str]) -> Attributes:
    """The same, so that peers prefer every other path (RFC 8326). Its own communities stay."""
    communities = tuple(dict.fromkeys((*said.communities, GRACEFUL_SHUTDOWN)))
    wanted = {"communities": communities, "local_preference": 0}
    return said.model_copy(update={name: value for name, value in wanted.items() if name in carried})


def _of_address(attachment: Attachment, item: Address, node: NodeFacts, said: _Said) -> list[Announcement]:
    version = ip_interface(item.address).version
    intent, rd = attachment.bgp, attachment.bgp.rd or ""
    host, subnet = bgp.host_prefix(item.address), bgp.subnet(item.address)
    prefix = item.block or host if intent.advertise == "host" else subnet
    endpoint = _endpoint(attachment, item.address, item.gateway)

    def route(nlri: Nlri, hop: str, *, datapath: bool = True, host_route: bool = True) -> Announcement:
        attributes = said.own if host_route else said.shared
        return Announcement(
            nlri=nlri,
            network=attachment.network,
            next_hop=hop,
            export_rt=attributes.export_rt,
            import_rt=attributes.import_rt,
            communities=attributes.communities,
            local_preference=attributes.local_preference,
            med=attributes.med,
            vni=intent.vni,
            label=intent.label,
            endpoint=endpoint if host_route else None,
            datapath=datapath,
        )

    single = prefix == host
    if intent.family == "unicast":
        return [route(UnicastNlri.of(prefix), next_hop(node, version), host_route=single)]
    forwards = intent.table is not None
    if intent.family == "vpn":
        nlri = VpnNlri.of(prefix, rd)
        return [route(nlri, next_hop(node, version), datapath=forwards, host_route=single)]
    vtep = _vtep(node)
    mac_ip = route(MacIpNlri(rd, attachment.mac or "", host), vtep)
    routes = [replace(mac_ip, mobility=attachment.mobility)]
    five = route(IpPrefixNlri(rd, prefix), vtep, datapath=forwards, host_route=single)
    if intent.l3vni is not None:  # with the VNI of the VRF and the router MAC of this node
        routes.append(replace(five, vni=intent.l3vni, router_mac=bgp.router_mac(vtep) if vtep else None))
    elif not single:
        routes.append(five)
    return routes


def _shared(attachment: Attachment) -> tuple[str, ...]:
    """The addresses that are announced for it beside its own."""
    return attachment.anycast.addresses if attachment.anycast and attachment.anycast.passing else ()


def _of_shared(attachment: Attachment, address: str, node: NodeFacts, said: _Said) -> list[Announcement]:
    """The route to an address that several containers share: no endpoint is behind it, and no MAC in EVPN."""
    alone = attachment.model_copy(update={"bgp": attachment.bgp.model_copy(update={"advertise": "host"})})
    found = _of_address(alone, Address(address=bgp.host_prefix(address)), node, said)
    return [replace(route, endpoint=None) for route in found if route.nlri.kind != "mac-ip"]


def _of_network(attachment: Attachment, node: NodeFacts, said: _Said) -> list[Announcement]:
    """EVPN: type 3 for the VNI, and for a container without addresses (layer 2 only) its MAC.

    Without a VTEP there is no type 3: then the speaker knows its own VTEP and announces type 3 by itself.
    """
    intent, rd = attachment.bgp, attachment.bgp.rd or ""
    vtep = _vtep(node)
    found: list[tuple[Nlri, Endpoint | None]] = []
    if vtep:
        found.append((MulticastNlri(rd, vtep), None))
    if not attachment.addresses and attachment.mac:
        found.append((MacIpNlri(rd, attachment.mac), _endpoint(attachment, "", None)))
    return [
        Announcement(
            nlri=nlri,
            network=attachment.network,
            next_hop=vtep,
            export_rt=attributes.export_rt,
            import_rt=attributes.import_rt,
            communities=attributes.communities,
            local_preference=attributes.local_preference,
            med=attributes.med,
            vni=intent.vni,
            endpoint=endpoint,
            mobility=attachment.mobility if nlri.kind == "mac-ip" else 0,
        )
        for nlri, endpoint in found
        for attributes in [said.own if endpoint else said.shared]
    ]


def _endpoint(attachment: Attachment, address: str, gateway: str | None) -> Endpoint:
    in_vlan = attachment.gateway
    return Endpoint(
        container_id=attachment.container_id,
        ifname=attachment.ifname,
        mac=attachment.mac or "",
        address=address,
        gateway=gateway,
        bridge=in_vlan.name if in_vlan and attachment.bgp.family == "unicast" else attachment.bridge,
        host_veth=attachment.host_veth or "",
        host_index=attachment.host_index or 0,
    )


def _vtep(node: NodeFacts) -> str:
    """The next hop of EVPN routes: the VTEP, `local_address`, for IPv4 and IPv6 containers alike."""
    return node.local_address or ""
