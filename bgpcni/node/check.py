"""CHECK: everything that ADD made must still exist and be right. What others added is not checked.

A later plugin of the chain may have changed what ADD gave (the MAC, the MTU, a route); prevResult then says so. Inside
the container we therefore compare with prevResult, and do not check what it does not mention.
"""

from __future__ import annotations

from ipaddress import ip_interface
from typing import TYPE_CHECKING

from bgpcni.cni.result import Result, Route
from bgpcni.errors import CheckFailed
from bgpcni.kernel import addresses, links, sysctl, vlans, vrf, vxlan
from bgpcni.kernel.namespace import Namespace
from bgpcni.model import Attachment, State
from bgpcni.node import chain, options, plan
from bgpcni.node.keys import asked_by

if TYPE_CHECKING:
    from bgpcni.node.node import Node
    from bgpcni.node.request import Request


def run(node: Node, request: Request) -> None:
    """Raises CheckFailed, which names the first thing that is missing or different. Other errors are passed on."""
    stored = node.store.find(request.key)
    if stored is None:
        raise CheckFailed(f"{request.key} has no record: it was never added, or was deleted")
    if stored.attachment is None:
        raise CheckFailed(stored.problem)
    if stored.state is not State.UP:
        raise CheckFailed(f"{request.key} is {stored.state}")
    attachment = stored.attachment
    with asked_by():
        container = Namespace.of_container(request.environment.netns, request.netns_fd)
    with container as space:
        if attachment.cookie != space.cookie:
            raise CheckFailed(f"{space.path} is another namespace than the one of ADD")
        assert request.prev_result is not None
        disabled = request.settings.disable_container_interface
        _inside(space, attachment, request.prev_result, disabled=disabled)
    if not attachment.chained:
        _outside(node, request, attachment)
        options.check(attachment)
    node.addressing.check(request, attachment)
    refuse_unannounced(node, attachment)


def _inside(space: Namespace, attachment: Attachment, prev: Result, *, disabled: bool) -> None:
    place, said = chain.interface_of(prev, attachment.ifname)
    link = links.find(space.netlink, name=attachment.ifname)
    if link is None:
        raise CheckFailed(f"{attachment.ifname} is missing in {space.path}")
    if not link.up and not disabled:
        raise CheckFailed(f"{attachment.ifname} is down")
    if attachment.peer_index and link.index != attachment.peer_index:
        raise CheckFailed(f"{attachment.ifname}: index is {link.index}, ADD gave {attachment.peer_index}")
    for what, is_, should in (("MAC address", link.mac, (said.mac or "").lower()), ("MTU", link.mtu, said.mtu)):
        if should and is_ != should:
            raise CheckFailed(f"{attachment.ifname}: {what} is {is_}, prevResult says {should}")
    present = {item.address for item in addresses.assigned(space.netlink, link.index)}
    mine = [item for item in prev.ips if item.interface is None or item.interface == place]
    for item in mine:
        if item.address not in present:
            raise CheckFailed(f"{attachment.ifname}: address {item.address} is missing")
    if attachment.chained:
        return
    for route in plan.through_gateways(_routes(attachment, prev), mine):
        if not addresses.has_route(space.netlink, link.index, route.dst, route.gw, route.table):
            raise CheckFailed(f"route {route.dst} via {route.gw or attachment.ifname} is missing")


def _routes(attachment: Attachment, prev: Result) -> list[Route]:
    """The routes of prevResult. One that ADD gave is compared in full: older versions of a result cannot name a
    table."""
    given: dict[tuple[str, str | None], list[Route]] = {}
    for route in attachment.routes:
        given.setdefault((route.dst, route.gw), []).append(route)
    return [one for route in prev.routes for one in given.get((route.dst, route.gw), [route])]


def _outside(node: Node, request: Request, attachment: Attachment) -> None:
    host = links.find(node.netlink, index=attachment.host_index or 0)
    if host is None or not links.is_ours(host, attachment.key.digest):
        raise CheckFailed(f"host end {attachment.host_veth} is missing")
    if not host.up:
        raise CheckFailed(f"host end {host.name} is down")
    switch = links.find(node.netlink, name=attachment.bridge or "")
    if switch is None or switch.kind != "bridge":
        raise CheckFailed(f"bridge {attachment.bridge} is missing")
    if host.master != switch.index:
        raise CheckFailed(f"host end {host.name} is not a port of bridge {switch.name}")
    if not switch.up:
        raise CheckFailed(f"bridge {switch.name} is down")
    for key, asked, is_on in (
        ("hairpinMode", request.settings.hairpin_mode, host.hairpin),
        ("portIsolation", request.settings.port_isolation, host.isolated),
        ("promiscMode", request.settings.promisc_mode, switch.promiscuous),
    ):
        if asked and not is_on:
            raise CheckFailed(f"{key} is off at {switch.name if key == 'promiscMode' else host.name}")
    if attachment.bgp.forwarder == "agent" and attachment.bgp.vni is not None:
        tunnel = links.find(node.netlink, name=vxlan.name_of(attachment.bgp.vni))
        if tunnel is None or not vxlan.is_ours(tunnel):
            raise CheckFailed(f"VXLAN device {vxlan.name_of(attachment.bgp.vni)} is missing")
        if not tunnel.up or tunnel.master != switch.index:
            raise CheckFailed(f"VXLAN device {tunnel.name} is down, or not a port of bridge {switch.name}")
    if attachment.bgp.table is not None:
        _routed(node, attachment, switch)
    wanted = plan.bridge_of(request.settings, attachment.addresses)
    holder, what = switch, f"bridge {switch.name}"
    if wanted.tagging:
        _tagged(node, attachment, host, switch, wanted.tagging)
        if wanted.gateways and wanted.tagging.untagged:
            holder = _vlan_gateway(node, host, switch, wanted.tagging)
            what = holder.name
    present = {item.address for item in addresses.assigned(node.netlink, holder.index)}
    for gateway in wanted.gateways:
        if gateway not in present:
            raise CheckFailed(f"{what}: gateway address {gateway} is missing")
        name = "net/ipv4/ip_forward" if ip_interface(gateway).version == 4 else "net/ipv6/conf/all/forwarding"
        if sysctl.read(name) != "1":
            raise CheckFailed(f"sysctl {name} is off")


def _tagged(node: Node, attachment: Attachment, host: links.Link, switch: links.Link, tagging: vlans.Tagging) -> None:
    """The host end must be in its VLANs as configured. Others may have put it into more VLANs."""
    if attachment.vlan_filtering and not vlans.filters(switch):
        raise CheckFailed(f"{plan.vlan_key(tagging)}: vlan_filtering of bridge {switch.name} is off")
    present = vlans.of(node.netlink, host.index)
    if tagging.untagged and not vlans.is_untagged(present.get(tagging.untagged, 0)):
        raise CheckFailed(f"vlan: {tagging.untagged} is not the untagged VLAN of {host.name}")
    for vlan in tagging.tagged:
        if present.get(vlan, vlans.UNTAGGED) & vlans.UNTAGGED:
            raise CheckFailed(f"vlanTrunk: {host.name} does not carry VLAN {vlan}, or not tagged")


def _vlan_gateway(node: Node, host: links.Link, switch: links.Link, tagging: vlans.Tagging) -> links.Link:
    name = vlans.gateway_name(switch.name, tagging.untagged)
    link = links.find(node.netlink, name=name)
    if link is None:
        raise CheckFailed(f"vlan: gateway interface {name} is missing")
    if not link.up:
        raise CheckFailed(f"vlan: gateway interface {name} is down")
    if not vlans.leads(node.netlink, link.index, switch.index, host.index):
        raise CheckFailed(f"vlan: gateway interface {name} is not in VLAN {tagging.untagged} of bridge {switch.name}")
    return link


def _routed(node: Node, attachment: Attachment, switch: links.Link) -> None:
    """The VRF must exist, with its own VXLAN device and the bridge in it."""
    intent = attachment.bgp
    with asked_by():
        found = vrf.find(node.netlink, intent.vrf or "")
    if found is None:
        raise CheckFailed(f"VRF {intent.vrf} is missing")
    if switch.master != found.index:
        raise CheckFailed(f"bridge {switch.name} is not in VRF {found.name}")
    if intent.l3vni is not None:
        tunnel = links.find(node.netlink, name=vxlan.name_of(intent.l3vni))
        if tunnel is None or not vxlan.is_ours(tunnel):
            raise CheckFailed(f"VXLAN device {vxlan.name_of(intent.l3vni)} is missing")
        if not tunnel.up or tunnel.master != found.index:
            raise CheckFailed(f"VXLAN device {tunnel.name} is down, or not in VRF {found.name}")


def refuse_unannounced(node: Node, attachment: Attachment) -> None:
    """Each exporter must know the announcement, and none may have refused it. A session that is down is no fault here.

    An exporter that a reload removed stays in the record until its withdrawal is confirmed.
    """
    if not attachment.exporters or not node.resident:
        return
    states = node.convergence.route_states(attachment)
    for nlri, found in states.items():
        for name, state in found.items():
            if state.state == "refused":
                raise CheckFailed(f"route {nlri} is refused by {name}: {state.reason}")
    due = plan.exporters_now(attachment.network, attachment.asked, node.agent, resident=True)
    missing = {use.name for use in attachment.exporters if use in due}
    missing -= {name for found in states.values() for name in found}
    if missing and attachment.addresses:
        raise CheckFailed(f"{', '.join(sorted(missing))} does not know the attachment's routes")
