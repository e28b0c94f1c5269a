"""GC (CNI specification 1.1.0): what the runtime does not name any more is released, in one network.

As the specification asks, an error does not end it: the rest is released, and then what failed is told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bgpcni.errors import CniError, Delegated, InvalidConfiguration
from bgpcni.kernel import links
from bgpcni.model import AttachmentKey
from bgpcni.node import interface, reconcile, unreadable, unrecorded
from bgpcni.store import Stored

if TYPE_CHECKING:
    from bgpcni.node.node import Node
    from bgpcni.node.request import Request

_SECONDS = 2.0


def collect(node: Node, request: Request, warnings: list[str]) -> None:
    """Release links, routes, records and leases of attachments that are not listed.

    Raises InvalidConfiguration, with nothing touched, where the list is missing; at the end, with all else done,
    the error of a delegated IPAM plugin. What else went wrong is a warning, and the next GC's to try again.
    """
    valid = _valid(request)
    kept = {AttachmentKey(request.name, container_id, ifname).digest for container_id, ifname in valid}
    marked = [link for link in links.dump(node.netlink) if interface.network_of(link) == request.name]
    for stored in node.store.all():
        if stored.network == request.name and stored.digest not in kept:
            try:
                _release(node, stored, warnings)
            except CniError as error:
                warnings.append(f"{stored.attachment.key if stored.attachment else stored.problem}: {error.msg}")
    _remove_links(node, request.name, kept, marked, warnings)
    held = {
        (stored.attachment.container_id, stored.attachment.ifname)
        for stored in node.store.all()
        if stored.attachment is not None and stored.network == request.name
    }
    try:
        stay = unrecorded.collect(node, request, valid | held, warnings)
        node.addressing.collect(request, valid | held, stay)
    except Delegated:
        raise
    except CniError as error:
        warnings.append(f"ipam: {error.msg}")


def _release(node: Node, stored: Stored, warnings: list[str]) -> None:
    """One record. One that cannot be read goes by its digest, its leases by their owner."""
    if stored.attachment is None:
        warnings.append(stored.problem)
        unreadable.release(node, stored, warnings)
        return
    with node.store.locked(stored.attachment.key, _SECONDS):
        again = node.store.find(stored.attachment.key)
        if again is not None and again.attachment is not None:
            reconcile.tear_down(node, again.attachment, told=again.told, warnings=warnings)


def _remove_links(node: Node, network: str, kept: set[str], marked: list[links.Link], warnings: list[str]) -> None:
    """Host ends of this network that neither the runtime nor a record knows.

    `marked` was read before the records: a link that an ADD is making has a record by now.
    """
    spared = {digest[: links.MARK] for digest in kept}
    spared |= {stored.digest[: links.MARK] for stored in node.store.all() if stored.network == network}
    for link in marked:
        if links.mark_of(link) not in spared:
            try:
                node.reaper.delete(node.netlink, link.index, link.alias)
            except OSError as error:
                warnings.append(f"{link.name}: {error.strerror}")


def _valid(request: Request) -> set[tuple[str, str]]:
    key = "cni.dev/valid-attachments"
    listed = next((value for name, value in request.document.items() if name.lower() == key), None)
    if not isinstance(listed, list):
        raise InvalidConfiguration(f"{key}: missing or no list; without it nothing is released")
    valid = set()
    for place, item in enumerate(listed):
        container_id = item.get("containerID") if isinstance(item, dict) else None
        ifname = item.get("ifname") if isinstance(item, dict) else None
        if not isinstance(container_id, str) or not isinstance(ifname, str):
            raise InvalidConfiguration(f"{key}[{place}]: needs containerID and ifname")
        valid.add((container_id, ifname))
    return valid
