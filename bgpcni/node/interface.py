"""The veth pair of an attachment: make it, read it back from inside the container, check it, remove it.

Three netlink sends make it: the pair (both ends named, the peer already in the container); the alias, by index; and in
the container "up" with the read-back, then addresses and routes together.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from typing import Literal

from bgpcni.bgp import host_prefix
from bgpcni.cni.result import Route
from bgpcni.errors import InvalidConfiguration, InvalidEnvironment, KernelRefused
from bgpcni.ip import ip_interface
from bgpcni.kernel import addresses, frames, links, routes, sysctl, vlans, vrf
from bgpcni.kernel.dad import Detection
from bgpcni.kernel.namespace import Namespace, inside
from bgpcni.kernel.netlink import Message, Netlink, NetlinkError
from bgpcni.kernel.reaper import Reaper
from bgpcni.model import Attachment, AttachmentKey
from bgpcni.node import options, plan
from bgpcni.steps import step

log = logging.getLogger(__name__)
_NAMES_TRIED = 5


@step("pair")
def create(
    netlink: Netlink,
    space: Namespace,
    attachment: Attachment,
    bridge: links.Link,
    *,
    mac: str | None,
    hairpin: bool,
    isolated: bool,
) -> Attachment:
    """Make the pair and mark it as ours. Returns the attachment with the host end's name and index.

    Raises InvalidEnvironment (the container has a link of that name), TryAgain (the bridge has no port left),
    InvalidConfiguration (`mtu`), KernelRefused; then there is no pair.
    """
    key = attachment.key
    for attempt in range(_NAMES_TRIED):
        name = plan.host_veth(key, attempt)
        try:
            index = links.create_veth(
                netlink,
                host=name,
                inside=attachment.ifname,
                namespace=space.fd,
                bridge=bridge.index,
                mtu=attachment.mtu or 0,
                mac=mac,
            )
        except NetlinkError as error:
            if error.errno != errno.EEXIST:
                raise _refusal(error, bridge) from None
            if links.find(space.netlink, name=attachment.ifname):
                raise InvalidEnvironment(f"CNI_IFNAME: {attachment.ifname} exists already in {space.path}") from None
            if attempt + 1 == _NAMES_TRIED:
                raise KernelRefused(f"no free name for the host end of {key}") from None
            continue
        mark = links.mark_message(index, links.alias_of(key.digest, str(key)), hairpin=hairpin, isolated=isolated)
        try:
            _, data = netlink.run(mark, links.get_message(index=index))
        except BaseException:
            links.remove(netlink, index)
            raise
        made = links.parse(data)
        return attachment.model_copy(
            update={"host_veth": name, "host_index": index, "host_mac": made.mac, "peer_index": made.peer}
        )
    raise AssertionError("unreachable")


@step("vlans")
def tag(netlink: Netlink, attachment: Attachment, tagging: vlans.Tagging) -> None:
    """Put the host end into its VLANs, before anything can come out of the container. Raises KernelRefused."""
    messages = vlans.port_messages(attachment.host_index or 0, tagging)
    try:
        if messages:
            netlink.run(*messages)
    except NetlinkError as error:
        raise KernelRefused(f"{plan.vlan_key(tagging)}: {attachment.host_veth}: {error.strerror}") from None


def _refusal(error: NetlinkError, bridge: links.Link) -> Exception:
    if error.errno == links.EXFULL:
        return links.no_port_left(bridge.name)
    if error.errno == errno.EINVAL and "mtu" in str(error).lower():
        return InvalidConfiguration(f"mtu: {error.strerror}")
    return KernelRefused(f"creating the veth pair on {bridge.name}: {error.strerror}")


def read_back(space: Namespace, attachment: Attachment) -> Attachment:
    """The attachment with what is read inside the container: the MAC and the index of the root-side veth.

    Raises KernelRefused if the two ends are not each other's peers.
    """
    try:
        (data,) = space.netlink.run(links.get_message(name=attachment.ifname))
    except NetlinkError as error:
        raise KernelRefused(f"reading {attachment.ifname} back: {error.strerror}") from None
    return _paired(attachment, links.parse(data))


@step("inside")
def configure(space: Namespace, attachment: Attachment, *, dad: bool) -> Attachment:
    """Inside the container: set the interface up, read back its MAC and the root-side veth's index, add addresses and
    routes.

    `dad`: run duplicate address detection for IPv6 addresses, which takes a second or two. Returns the attachment with
    what was read. Raises KernelRefused, which names the step, DuplicateAddress, TryAgain.
    """
    name, layer3 = attachment.ifname, bool(attachment.addresses)
    if layer3:
        with inside(space.fd):
            _set_detection(name, wanted=dad)
    try:
        _, data = space.netlink.run(links.up_message(name, arp_notify=layer3), links.get_message(name=name))
    except NetlinkError as error:
        raise KernelRefused(f"setting {name} up: {error.strerror}") from None
    peer = links.parse(data)
    attachment = _paired(attachment, peer)
    if not dad:
        _assign(space, attachment, peer.index, dad=False)
        return attachment
    with Detection(space) as detection:
        _assign(space, attachment, peer.index, dad=True)
        detection.wait(peer.index, [item.address for item in attachment.addresses if ":" in item.address])
    return attachment


def _set_detection(ifname: str, *, wanted: bool) -> None:
    """Turn duplicate address detection of a link on or off. Without it the link-local address is usable at once,
    too."""
    if wanted:
        sysctl.put(f"net/ipv6/conf/{ifname}/enhanced_dad", "1")
    sysctl.put(f"net/ipv6/conf/{ifname}/accept_dad", "1" if wanted else "0")


def _paired(attachment: Attachment, peer: links.Link) -> Attachment:
    """The attachment with what was read of the container's end. Raises KernelRefused unless each end names the
    other."""
    if (peer.peer, peer.index) != (attachment.host_index, attachment.peer_index):
        raise KernelRefused(f"{attachment.ifname} is not the peer of {attachment.host_veth}")
    return attachment.model_copy(update={"mac": peer.mac, "mtu": peer.mtu})


def _assign(space: Namespace, attachment: Attachment, index: int, *, dad: bool) -> None:
    """Add addresses and routes in one send. IPv6 is enabled first if the namespace has it disabled."""
    if not attachment.addresses and not attachment.routes:
        return
    steps = [
        (f"address {item.address}", addresses.address_message(index, item.address, dad=dad))
        for item in attachment.addresses
    ]
    steps += [
        (f"route {gateway}", addresses.route_message(index, gateway))
        for gateway in dict.fromkeys(
            host_prefix(item.gateway) for item in attachment.addresses if item.gateway and plan.is_single(item.address)
        )
    ]
    steps += [
        (f"route {route.dst}", _route_message(index, route))
        for route in plan.through_gateways(attachment.routes, attachment.addresses)
    ]
    answers = space.netlink.send(*(message for _, message in steps))
    failed = [(step, answer) for step, answer in zip(steps, answers, strict=True) if isinstance(answer, NetlinkError)]
    six = any(ip_interface(item.address).version == 6 for item in attachment.addresses)
    if six and any(answer.errno in (errno.EACCES, errno.EPERM) for _, answer in failed):
        with inside(space.fd):
            for name in ("lo", attachment.ifname):
                sysctl.write(f"net/ipv6/conf/{name}/disable_ipv6", "0")
        answers = space.netlink.send(*(message for (_, message), _ in failed))
        failed = [
            (step, answer)
            for (step, _), answer in zip(failed, answers, strict=True)
            if isinstance(answer, NetlinkError)
        ]
    if failed:
        (what, _), error = failed[0]
        raise KernelRefused(f"{what} on {attachment.ifname}: {error.strerror}")


def _route_message(index: int, route: Route) -> Message:
    return addresses.route_message(
        index, route.dst, route.gw, mtu=route.mtu, advmss=route.advmss, priority=route.priority,
        table=route.table, scope=route.scope,
    )  # fmt: skip


@step("introduce")
def introduce(herald: frames.Herald, attachment: Attachment) -> None:
    """Send gratuitous ARP and unsolicited NA from the node: the neighbours learn who has the addresses now."""
    on = _segment(attachment)
    if on is None or not attachment.mac:
        return
    try:
        herald.announce(on[1], attachment.mac, _plain(attachment))
    except OSError as error:
        key = attachment.key
        log.warning("%s: gratuitous ARP/NA: %s", key, error.strerror, extra=key.fields)


def introduce_itself(space: Namespace, attachment: Attachment) -> None:
    """Send the same from the container, in a VLAN where the node has no interface."""
    if not attachment.vlan or attachment.gateway or not attachment.mac:
        return
    try:
        with inside(space.fd), frames.Herald() as own:
            own.announce(attachment.ifname, attachment.mac, _plain(attachment))
    except OSError as error:
        key = attachment.key
        log.warning("%s: gratuitous ARP/NA: %s", key, error.strerror, extra=key.fields)


def lead_to_singles(netlink: Netlink, attachment: Attachment, *, make: bool) -> None:
    """Routes of the node to addresses that are subnets of their own, by the bridge that has their gateway.

    Raises KernelRefused; without `make` they are removed, and one that is gone is no error.
    """
    on = _segment(attachment)
    singles = [item.address.partition("/")[0] for item in attachment.addresses if plan.is_single(item.address)]
    if on is None or not attachment.is_gateway or not singles:
        return
    table = attachment.bgp.table or routes.MAIN
    for address, answer in zip(
        singles, netlink.send(*(routes.host_message(one, on[0], table, make=make) for one in singles)), strict=True
    ):
        if make and isinstance(answer, NetlinkError):
            raise KernelRefused(f"route to {address} by {on[1]}: {answer.strerror}")


@step("reach")
def reach(netlink: Netlink, attachment: Attachment) -> str | None:
    """Flush the node's neighbour entries for the attachment's addresses, then ask as `unreachable` does."""
    old: list[Message] = []
    if on := _segment(attachment):
        old = [addresses.forget_neighbour(on[0], address) for address in _plain(attachment)]
    return unreachable(netlink, attachment, *old)


def _segment(attachment: Attachment) -> tuple[int, str] | None:
    """Index and name of the link that connects the node with the container's LAN. None if we did not make that link."""
    if attachment.chained or not attachment.bridge_index or not attachment.bridge:
        return None
    if attachment.vlan:
        return (attachment.gateway.index, attachment.gateway.name) if attachment.gateway else None
    return attachment.bridge_index, attachment.bridge


def unreachable(netlink: Netlink, attachment: Attachment, *first: Message) -> str | None:
    """Why the node does not reach one of the attachment's addresses by its bridge or veth. None if it reaches all.

    A bridge that filters VLANs leads only to the VLANs that it is in itself; an interface in the VLAN leads there too.
    `first`: messages that are sent before the question.
    """
    if not attachment.addresses:
        return None
    bridge, host = attachment.bridge_index or 0, attachment.host_index or 0

    def leads(device: int) -> bool:
        if device == host or (device == bridge and not attachment.vlan_filtering):
            return True
        return bool(bridge and host) and vlans.leads(netlink, device, bridge, host)

    found = vrf.find(netlink, attachment.bgp.vrf) if attachment.bgp.table and attachment.bgp.vrf else None
    within = found.index if found else 0
    plain = _plain(attachment)
    answers = netlink.send(*first, *(addresses.way_message(address, within) for address in plain))[len(first) :]
    for address, answer in zip(plain, answers, strict=True):
        if reason := addresses.not_on(answer, leads):
            apart = f"; bridge {attachment.bridge} keeps VLANs apart" if attachment.vlan_filtering else ""
            return f"{f'VRF {found.name}' if found else 'the node'} cannot reach {address}: {reason}{apart}"
    return None


def _plain(attachment: Attachment) -> list[str]:
    return [item.address.partition("/")[0] for item in attachment.addresses]


def vanished(netlink: Netlink, attachment: Attachment) -> bool:
    """Whether the attachment's root-side link is gone from this node. If it has none: whether its interface is gone."""
    return link_state(netlink, attachment) == "gone"


def link_state(netlink: Netlink, attachment: Attachment) -> Literal["up", "down", "gone"]:
    """The root-side link's state, or that of the interface inside, if there is no other; `down`: somebody set it so."""
    if attachment.host_index is None:
        return "up" if _is_inside(netlink, attachment) else "gone"
    link = links.find(netlink, index=attachment.host_index)
    if link is None or link.name != attachment.host_veth:
        return "gone"
    if not attachment.chained and not links.is_ours(link, attachment.key.digest):
        return "gone"
    return "up" if link.up else "down"


def present(netlink: Netlink, attachment: Attachment) -> bool:
    """Whether a link of the attachment is found on this node, whatever boot ID its record has.

    A link of ours is identified by index, name and mark, another plugin's by index, name and MAC, an interface inside
    the container by its MAC and addresses.
    """
    if attachment.host_index is not None:
        link = links.find(netlink, index=attachment.host_index)
        if link is None or link.name != attachment.host_veth:
            return False
        return link.mac == attachment.host_mac if attachment.chained else links.is_ours(link, attachment.key.digest)
    if not attachment.chained:
        return is_there(netlink, attachment.key.digest)
    known = attachment.nsid is not None and attachment.peer_index is not None and bool(attachment.addresses)
    return known and _is_inside(netlink, attachment)


def _is_inside(netlink: Netlink, attachment: Attachment) -> bool:
    """Whether a container's interface exists, as seen from this node.

    By now the nsid may belong to another namespace, in which an index or a MAC (ipvlan) is used again. So one of the
    addresses must be found there, too.
    """
    nsid, index = attachment.nsid, attachment.peer_index
    if nsid is None or index is None:
        return True  # we cannot look for it
    link = links.find_in(netlink, nsid, index)
    if link is None or link.mac != attachment.mac:
        return False
    try:
        present = {item.address for item in addresses.assigned(netlink, index, nsid)}
    except NetlinkError as error:
        if error.errno in (errno.ENODEV, errno.EINVAL):  # it was removed meanwhile
            return False
        raise
    return not attachment.addresses or any(item.address in present for item in attachment.addresses)


@step("link")
def remove(netlink: Netlink, reaper: Reaper, attachment: Attachment) -> bool:
    """Remove the host end (and the pair with it) if it exists and is ours, then what was installed for it.

    A link that is not ours is never touched. Returns whether the link was there.
    """
    if attachment.chained:
        return False
    if not attachment.host_index:
        there = remove_by_name(netlink, attachment.key)
    else:
        link = links.find(netlink, index=attachment.host_index)
        there = link is not None and links.is_ours(link, attachment.key.digest)
        if link is not None and there:
            reaper.delete(netlink, link.index, link.alias)
    lead_to_singles(netlink, attachment, make=False)
    options.remove(attachment)
    return there


def network_of(link: links.Link) -> str:
    """The network of a root-side link of ours, "" if it is none. A network's name has no slash, and fits whole."""
    return links.words_of(link).partition("/")[0]


def remove_by_name(netlink: Netlink, key: AttachmentKey) -> bool:
    """Remove links by name, if no index is recorded: those named after the key's hash that have our alias or mark."""
    return remove_by_digest(netlink, key.digest)


def remove_by_digest(netlink: Netlink, digest: str) -> bool:
    """The same as `remove_by_name`, by the key's digest."""
    found = list(_named_after(netlink, digest))
    for link in found:
        links.remove(netlink, link.index)
    return bool(found)


def is_there(netlink: Netlink, digest: str) -> bool:
    """Whether a link of ours for this key's digest is on the node, identified by its name and mark alone."""
    return any(True for _ in _named_after(netlink, digest))


def _named_after(netlink: Netlink, digest: str) -> Iterator[links.Link]:
    for name in host_veths(digest):
        link = links.find(netlink, name=name)
        if link is None:
            break
        if links.is_ours(link, digest):
            yield link


def host_veths(digest: str) -> list[str]:
    """The names that the root-side link of an attachment may have."""
    return [plan.host_veth_of(digest, attempt) for attempt in range(_NAMES_TRIED)]
