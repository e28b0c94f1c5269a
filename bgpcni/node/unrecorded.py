"""Containers without a record of ours, or with one that is outdated: the stock plugin made them, or a record was lost.

A node may be switched from the stock bridge plugin to ours and back while containers run, so each has to delete what
the other made. A lease is never released while the interface that has its address exists.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from bgpcni.errors import CniError, KernelRefused
from bgpcni.ipam.leases import Owner
from bgpcni.kernel import addresses, guests, links
from bgpcni.kernel.namespace import Namespace, NotANamespace, home_cookie
from bgpcni.kernel.netlink import NetlinkError
from bgpcni.model import Attachment, AttachmentKey
from bgpcni.node import interface, options, stock

if TYPE_CHECKING:
    from bgpcni.node.node import Node
    from bgpcni.node.request import Request


# ---------------------------------------------------------------- DEL


def remove_interface(node: Node, request: Request) -> Sequence[str] | None:
    """Remove the interface of a container without a record. Returns the addresses that it had; None if there was none.

    With `ipam` in the configuration this removes CNI_IFNAME inside CNI_NETNS, whoever made it, like the stock plugin;
    without `ipam` only the link that has our hash as its name and our alias. Raises KernelRefused if it cannot be
    removed.
    """
    found = _remove_inside(node, request) if node.addressing.is_asked_for(request) else None
    removed = interface.remove_by_name(node.netlink, request.key)
    return () if found is None and removed else found


def release(node: Node, request: Request, had: Sequence[str] | None, warnings: list[str]) -> None:
    """Its interface is gone: remove what was installed for it, then release its leases. `had`: from `remove_interface`.

    If no interface was found in CNI_NETNS, or no such namespace, it may be in a namespace that no path leads to.
    """
    leases = node.addressing.leases_of(request, warnings)
    if had is None and leases:
        there = list(guests.find(node.netlink, lambda host: links.is_ours(host, request.key.digest)))
        key = request.key
        if reason := _evict(node, request, _theirs(there, request.name, key.container_id, key.ifname, set(leases))):
            warnings.append(f"{key}: {', '.join(leases)} stays leased: {reason}")
            return
    _forget(node, request, had, leases, warnings)


def finish(node: Node, request: Request, attachment: Attachment, warnings: list[str], *, released: bool) -> None:
    """DEL with a record whose link was gone: another plugin may have made the container's interface again.

    `released`: the record's own addresses are released, so none is held until a withdrawal is confirmed.
    """
    asked = node.addressing.is_asked_for(request)
    had = _remove_inside(node, request, attachment.cookie) if asked else None
    if had is None:
        return
    held = set() if released else {item.address.partition("/")[0] for item in attachment.addresses}
    leases = [address for address in node.addressing.leases_of(request, warnings) if address not in held]
    _forget(node, request, had, leases, warnings)


def _forget(
    node: Node, request: Request, had: Sequence[str] | None, leases: Sequence[str], warnings: list[str]
) -> None:
    if had is not None or leases:
        options.remove_unrecorded(request.key, [*(had or ()), *leases], warnings)
    node.addressing.release_unrecorded(request, leases, warnings)


def _remove_inside(node: Node, request: Request, cookie: int | None = None) -> list[str] | None:
    """Remove CNI_IFNAME in CNI_NETNS and return its addresses. None if CNI_NETNS is no namespace or the node's own.

    By now the path may lead to another container, whose interface must stay. `cookie`: identifies the namespace that
    it must be, if that is known.
    """
    ifname, path = request.environment.ifname, request.environment.netns
    if not path and request.netns_fd is None:
        return None
    try:
        space = Namespace.open(path, request.netns_fd)
    except NotANamespace:
        return None
    with space:
        if space.cookie == home_cookie() or cookie not in (None, space.cookie):
            return None
        try:
            link = links.find(space.netlink, name=ifname)
            if link is None:
                return None
            had = [item.address for item in addresses.assigned(space.netlink, link.index)]
            if _is_anothers(node, request, link, had):
                return None
            links.remove(space.netlink, link.index)
        except NetlinkError as error:
            raise KernelRefused(
                f"{ifname} in {path} cannot be removed, so its addresses are kept: {error.strerror}"
            ) from None
    return had


def _is_anothers(node: Node, request: Request, link: links.Link, had: Sequence[str]) -> bool:
    """Whether its end on this node has another attachment's mark, or another container has leased its address."""
    host = links.find(node.netlink, index=link.peer) if link.kind == "veth" and link.peer else None
    if host is not None and host.kind == "veth" and host.peer == link.index and links.mark_of(host):
        return not links.is_ours(host, request.key.digest)
    return node.addressing.is_leased_to_another(request, had)


# ---------------------------------------------------------------- GC


def collect(node: Node, request: Request, valid: Collection[tuple[str, str]], warnings: list[str]) -> set[Owner]:
    """Remove the interfaces of all owners whose leases GC releases, and what the stock plugin installed for them.

    The call does not say where their namespaces are, so an interface is found by its name and address behind a port of
    this network's bridge. One that is found elsewhere, or cannot be removed, keeps its lease, and a warning says so.
    Returns the owners whose interface stays. Raises CniError if the leases cannot be read.
    """
    stay: set[Owner] = set()
    owners = node.addressing.unlisted(request, valid)
    there = list(guests.find(node.netlink, lambda host: interface.network_of(host) == request.name)) if owners else []
    for (container_id, ifname), leased in owners.items():
        theirs = _theirs(there, request.name, container_id, ifname, leased)
        names = {guest.name for guest in theirs} | ({ifname} if ifname else set())
        if reason := _evict(node, request, theirs):
            warnings.append(f"{container_id}: {', '.join(sorted(leased))} stays leased: {reason}")
            stay.add((container_id, ifname))
            continue
        for name in sorted(names):
            options.remove_unrecorded(AttachmentKey(request.name, container_id, name), sorted(leased), warnings)
    try:
        stock.collect(request.name, {*valid, *((owner, ifname or "") for owner, ifname in stay)})
    except CniError as error:
        warnings.append(error.msg)
    return stay


# ---------------------------------------------------------------- an interface in a namespace without a path


def _theirs(
    there: Sequence[guests.Guest], network: str, container_id: str, ifname: str | None, leased: Collection[str]
) -> list[guests.Guest]:
    """The interfaces that have the name and address of a lease. One with the mark of another attachment is left out."""
    found = []
    for guest in there:
        if ifname in (None, guest.name) and not guest.addresses.isdisjoint(leased):
            key = AttachmentKey(network, container_id, guest.name)
            if not links.mark_of(guest.host) or links.is_ours(guest.host, key.digest):
                found.append(guest)
    return found


def _evict(node: Node, request: Request, theirs: Sequence[guests.Guest]) -> str | None:
    """Remove the interface at this network's bridge. Returns why it stays; None if it is gone."""
    if not theirs:
        return None
    bridge = request.config.bridge if request.config else ""
    switch = links.find(node.netlink, name=bridge) if bridge else None
    if len(theirs) > 1:
        names = ", ".join(guest.host.name for guest in theirs)
        return f"the interfaces behind {names} all have that address"
    guest = theirs[0]
    if switch is None or guest.host.master != switch.index:
        where = f"bridge {bridge}" if bridge else "a bridge that the configuration names"
        return f"{guest.name} behind {guest.host.name} uses it, and {guest.host.name} is not a port of {where}"
    again = links.find(node.netlink, index=guest.host.index)
    if again is None:
        return None
    if (again.name, again.peer, again.nsid) != (guest.host.name, guest.host.peer, guest.host.nsid):
        return f"{guest.host.name} has changed meanwhile"
    try:
        links.remove(node.netlink, again.index)
    except NetlinkError as error:
        return f"{again.name} cannot be removed: {error.strerror}"
    return None


# ---------------------------------------------------------------- a record whose link is gone


def deleted_by_another(node: Node, attachment: Attachment) -> bool:
    """Whether the stock plugin handled the DEL of an attachment whose link is gone; then we will not get one.

    That plugin has released the leases. If another IPAM plugin has them, we conclude it from an interface that is
    missing in a namespace that still exists.
    """
    if attachment.chained:
        return False
    held = node.addressing.still_leased(attachment)
    return _is_missing_inside(attachment) if held is None else not held


def _is_missing_inside(attachment: Attachment) -> bool:
    try:
        space = Namespace.open(attachment.netns)
    except NotANamespace:
        return False
    with space:
        if attachment.cookie is None or space.cookie != attachment.cookie:
            return False
        link = links.find(space.netlink, name=attachment.ifname)
        return link is None or link.index != attachment.peer_index
