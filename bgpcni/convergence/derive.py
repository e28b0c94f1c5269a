"""Derives which routes are announced for an attachment on this node. Pure: same attachment, same node, same routes.

Routes that several attachments share (EVPN's type 3 of a VNI, a network's subnet) are derived from each of them; the
ledger keeps such a route for as long as any attachment wants it.
"""

from __future__ import annotations

from dataclasses import replace

from bgpcni import bgp
from bgpcni.errors import InvalidConfiguration
from bgpcni.ip import ip_interface
from bgpcni.model import (
    Address,
    Announcement,
    Attachment,
    Endpoint,
    IpPrefixNlri,
    MacIpNlri,
    MulticastNlri,
    Nlri,
    NodeFacts,
    UnicastNlri,
    VpnNlri,
)


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


def derive(attachment: Attachment, node: NodeFacts) -> list[Announcement]:
    """The routes of one attachment that this node can announce, without duplicates. `left_out` has the others.

    Raises InvalidConfiguration if there are routes but none has a next hop.
    """
    routes: dict[Nlri, Announcement] = {}
    lacking: InvalidConfiguration | None = None
    for item in attachment.addresses:
        try:
            found = _of_address(attachment, item, node)
        except InvalidConfiguration as error:
            lacking = lacking or error
            continue
        for route in found:
            routes.setdefault(route.nlri, route)
    if lacking is not None and not routes:
        raise lacking
    if attachment.bgp.family == "evpn":
        for route in _of_network(attachment, node):
            routes.setdefault(route.nlri, route)
    return list(routes.values())


def left_out(attachment: Attachment, node: NodeFacts) -> list[tuple[Announcement, str]]:
    """The routes that have no next hop on this node, with the reason; their `next_hop` is ""."""
    if not node.has_bgp or (node.next_hop is not None and node.next_hop6 is not None):
        return []
    named = replace(node, next_hop=node.next_hop or "", next_hop6=node.next_hop6 or "")
    found: dict[Nlri, tuple[Announcement, str]] = {}
    for item in attachment.addresses:
        try:
            _of_address(attachment, item, node)
        except InvalidConfiguration as error:
            for route in _of_address(attachment, item, named):
                found.setdefault(route.nlri, (route, error.msg))
    return list(found.values())


def _of_address(attachment: Attachment, item: Address, node: NodeFacts) -> list[Announcement]:
    version = ip_interface(item.address).version
    intent, rd = attachment.bgp, attachment.bgp.rd or ""
    host, subnet = bgp.host_prefix(item.address), bgp.subnet(item.address)
    prefix = item.block or host if intent.advertise == "host" else subnet
    endpoint = _endpoint(attachment, item.address, item.gateway)

    def route(nlri: Nlri, hop: str, *, datapath: bool = True, host_route: bool = True) -> Announcement:
        return Announcement(
            nlri=nlri,
            network=attachment.network,
            next_hop=hop,
            export_rt=intent.export_rt,
            import_rt=intent.import_rt,
            communities=intent.communities,
            local_preference=intent.local_preference,
            med=intent.med,
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


def _of_network(attachment: Attachment, node: NodeFacts) -> list[Announcement]:
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
            export_rt=intent.export_rt,
            import_rt=intent.import_rt,
            communities=intent.communities,
            local_preference=intent.local_preference,
            med=intent.med,
            vni=intent.vni,
            endpoint=endpoint,
            mobility=attachment.mobility if nlri.kind == "mac-ip" else 0,
        )
        for nlri, endpoint in found
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
