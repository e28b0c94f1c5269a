"""GC (CNI specification 1.1.0): what the runtime does not name any more is released, in one network."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bgpcni.errors import CniError, InvalidConfiguration

if TYPE_CHECKING:
    from bgpcni.node.request import Request
    from bgpcni.node.transaction import Node

_SECONDS = 2.0


def collect(node: Node, request: Request, warnings: list[str]) -> None:
    """Release links, routes, records and leases of attachments that are not listed. Raises InvalidConfiguration."""
    valid = _valid(request)
    for stored in node.store.all():
        attachment = stored.attachment
        if attachment is None or stored.network != request.name:
            continue
        if (attachment.container_id, attachment.ifname) in valid:
            continue
        try:
            with node.store.locked(attachment.key, _SECONDS):
                again = node.store.find(attachment.key)
                if again is not None and again.attachment is not None:
                    node.dismantle(again.attachment, time.monotonic() + _SECONDS)
        except CniError as error:
            warnings.append(f"{attachment.key}: {error.msg}")
    held = {
        (stored.attachment.container_id, stored.attachment.ifname)
        for stored in node.store.all()
        if stored.attachment is not None and stored.network == request.name
    }
    try:
        node.addressing.collect(request, valid | held)
    except CniError as error:
        warnings.append(f"ipam: {error.msg}")


def _valid(request: Request) -> set[tuple[str, str]]:
    key = "cni.dev/valid-attachments"
    listed = next((value for name, value in request.document.items() if name.lower() == key), None)
    if not isinstance(listed, list):
        raise InvalidConfiguration(f"{key}: missing; without it nothing is released")
    valid = set()
    for place, item in enumerate(listed):
        container_id = item.get("containerID") if isinstance(item, dict) else None
        ifname = item.get("ifname") if isinstance(item, dict) else None
        if not isinstance(container_id, str) or not isinstance(ifname, str):
            raise InvalidConfiguration(f"{key}[{place}]: needs containerID and ifname")
        valid.add((container_id, ifname))
    return valid
