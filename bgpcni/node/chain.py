"""ADD behind another plugin in a chain: we verify the interface that it made, announce it, and add nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from bgpcni.cni.result import Dns, Interface, Result
from bgpcni.errors import InvalidConfiguration, KernelRefused
from bgpcni.kernel import addresses, links, neighbours, routes, vlans
from bgpcni.kernel.namespace import Namespace, nsid_of
from bgpcni.kernel.netlink import Netlink, NetlinkError
from bgpcni.model import Address, Attachment, Gateway
from bgpcni.node import plan, reconcile, shared
from bgpcni.node.keys import asked_by
from bgpcni.undo import Undo

if TYPE_CHECKING:
    from bgpcni.node.node import Node
    from bgpcni.node.request import Request


_ANSWER_SECONDS = 3.5
"""The kernel sends three ARP or ND requests, one second apart; this is longer."""


class Found(NamedTuple):
    """What the kernel has for the interface that prevResult names."""

    link: links.Link
    host: links.Link | None
    bridge: links.Link | None
    addresses: tuple[Address, ...]


def attach(node: Node, request: Request, warnings: list[str]) -> tuple[Attachment, Dns]:
    """The ADD of a chained call. Raises InvalidConfiguration if prevResult and the namespace disagree."""
    assert request.prev_result is not None
    if request.settings.ipam:
        raise InvalidConfiguration("ipam: given together with prevResult; behind another plugin it must be absent")
    held = reconcile.clear_the_way(node, request.key)
    with asked_by():
        container = Namespace.of_container(request.environment.netns, request.netns_fd)
    with container as space, Undo() as undo:
        attachment = node.begin(request, space, warnings, undo)
        found = verify(node.netlink, space, request.prev_result, request.environment.ifname)
        plan.refuse_by_policy(node.agent.policy, request.settings, found.addresses)
        unicast = bool(attachment.exporters) and attachment.bgp.family == "unicast"
        behind = found.bridge or (_reached_through(node.netlink, found) if unicast else None)
        attachment = attachment.model_copy(
            update={
                "chained": True,
                "nsid": _nsid(node.netlink, space) if found.host is None else None,
                "bridge": behind.name if behind else None,
                "bridge_index": behind.index if behind else None,
                "vlan_filtering": behind is not None and vlans.filters(behind),
                "gateway": _in_vlan(node.netlink, found) if unicast else None,
                "host_veth": found.host.name if found.host else None,
                "host_index": found.host.index if found.host else None,
                "peer_index": found.link.index,
                "mac": found.link.mac,
                "mtu": found.link.mtu,
                "addresses": found.addresses,
            }
        )
        undo.push("the attachment", lambda: reconcile.undo_add(node, attachment, held))
        shared.refuse(node.netlink, attachment, attachment.addresses, plan.shared_place(request))
        node.claims.take(attachment)
        node.settle(attachment)
        reconcile.begin(node, attachment, held)
        attachment, _ = node.enter_vrf(attachment)
        shared.assign(space, attachment)
        attachment = node.announce(attachment, held)
        request.refuse_hung_up()
        undo.keep()
    return attachment, Dns()


def verify(netlink: Netlink, space: Namespace, prev: Result, ifname: str) -> Found:
    """Read the interface inside the container and compare it with prevResult: MAC, every address."""
    index, claimed = interface_of(prev, ifname)
    link = links.find(space.netlink, name=ifname)
    if link is None:
        raise InvalidConfiguration(f"prevResult: {ifname} does not exist in {space.path}")
    if claimed.mac and claimed.mac.lower() != link.mac:
        raise InvalidConfiguration(f"prevResult: {ifname} has MAC {link.mac}, not {claimed.mac}")
    present = {item.address for item in addresses.assigned(space.netlink, link.index)}
    mine = [item for item in prev.ips if item.interface is None or item.interface == index]
    for item in mine:
        if item.address not in present:
            raise InvalidConfiguration(f"prevResult: {ifname} does not have the address {item.address}")
    host = None
    if link.kind == "veth" and link.peer:
        host = links.find(netlink, index=link.peer)
        if host is not None and (host.kind != "veth" or host.peer != link.index):
            host = None
    bridge = links.find(netlink, index=host.master) if host is not None and host.master else None
    return Found(link, host, bridge, tuple(Address(address=item.address, gateway=item.gateway) for item in mine))


def _nsid(netlink: Netlink, space: Namespace) -> int:
    """The nsid of the container, by which its end is noticed when it has no root-side link."""
    try:
        return nsid_of(netlink, space.fd)
    except NetlinkError as error:
        raise KernelRefused(f"cannot get an nsid for {space.path}: {error.strerror}") from None


def _reached_through(netlink: Netlink, found: Found) -> links.Link | None:
    """For an interface without an end on this node (macvlan, host-device): the node's link on which it answers.

    A route to that link proves nothing, because a node does not reach macvlans through their parent. So each address
    must answer with the interface's own MAC.
    """
    if found.host is not None or not found.addresses:
        return None
    plain = [item.address.partition("/")[0] for item in found.addresses]
    ways = {routes.way_to(netlink, address) for address in plain}
    way = ways.pop()
    if ways or way is None or way[0] is not None:
        return None
    index = way[1]
    if any(neighbours.resolve(netlink, index, address, _ANSWER_SECONDS) != found.link.mac for address in plain):
        return None
    return links.find(netlink, index=index)


def _in_vlan(netlink: Netlink, found: Found) -> Gateway | None:
    """The node's interface in the container's VLAN. None if the bridge itself leads there."""
    if found.bridge is None or found.host is None or not found.addresses:
        return None
    way = routes.way_to(netlink, found.addresses[0].address.partition("/")[0])
    if way is None or way[0] is not None or way[1] in (found.bridge.index, found.host.index):
        return None
    link = links.find(netlink, index=way[1])
    if link is None or not vlans.leads(netlink, link.index, found.bridge.index, found.host.index):
        return None
    return Gateway(name=link.name, index=link.index, mac=link.mac)


def interface_of(prev: Result, ifname: str) -> tuple[int, Interface]:
    """The container's interface in prevResult, with its index. Raises InvalidConfiguration if there is none."""
    for index, interface in enumerate(prev.interfaces):
        if interface.name == ifname and interface.sandbox:
            return index, interface
    if not prev.interfaces:
        return -1, Interface(name=ifname)
    raise InvalidConfiguration(f"prevResult: it has no interface {ifname} in the container")
