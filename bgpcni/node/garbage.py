"""GC (CNI specification 1.1.0): release what the runtime does not list any more, in one network.

As the specification asks, an error does not stop it: the rest is released first, then the error is reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

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
    """End the attachments that are not listed: withdraw routes, remove links, release addresses, delete records.

    If the list is missing, raises InvalidConfiguration and changes nothing. At the end, when all else is done, raises
    the error of a delegated IPAM plugin. Other errors become warnings, and the next GC tries again.
    """
    valid = valid_of(request.document)
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
    """End the attachment of one record. If that cannot be read, its digest identifies the link and its owner the
    leases."""
    if stored.attachment is None:
        warnings.append(stored.problem)
        unreadable.release(node, stored, warnings)
        return
    with node.store.locked(stored.attachment.key, _SECONDS):
        again = node.store.find(stored.attachment.key)
        if again is not None and again.attachment is not None:
            reconcile.end(node, again.attachment, told=again.told, warnings=warnings)


def _remove_links(node: Node, network: str, kept: set[str], marked: list[links.Link], warnings: list[str]) -> None:
    """Remove host ends of this network that neither the runtime nor a record knows.

    `marked` was read before the records, so that a link which an ADD is making has a record by now.
    """
    spared = {digest[: links.MARK] for digest in kept}
    spared |= {stored.digest[: links.MARK] for stored in node.store.all() if stored.network == network}
    for link in marked:
        if links.mark_of(link) not in spared:
            try:
                node.reaper.delete(node.netlink, link.index, link.alias)
            except OSError as error:
                warnings.append(f"{link.name}: {error.strerror}")


def valid_of(document: Mapping[str, Any]) -> set[tuple[str, str]]:
    """The attachments that the runtime lists. Raises InvalidConfiguration."""
    key = "cni.dev/valid-attachments"
    listed = next((value for name, value in document.items() if name.lower() == key), None)
    if not isinstance(listed, list):
        raise InvalidConfiguration(f"{key}: must be a list; without it nothing is released")
    valid = set()
    for place, item in enumerate(listed):
        container_id = item.get("containerID") if isinstance(item, dict) else None
        ifname = item.get("ifname") if isinstance(item, dict) else None
        if not isinstance(container_id, str) or not isinstance(ifname, str):
            raise InvalidConfiguration(f"{key}[{place}]: needs containerID and ifname")
        valid.add((container_id, ifname))
    return valid
