"""`attachments`: the interfaces that bgpcni made or announces."""

from __future__ import annotations

from bgpcni.commands import Document
from bgpcni.commands.answers.common import named, state_of
from bgpcni.node.node import Node


def attachments(node: Node) -> tuple[Document, int]:
    """Every record that can be read, in any state; exit 0. `gone`: the record says up, but the link has gone."""
    found = []
    for stored in node.store.all():
        item = stored.attachment
        if item is None:
            continue
        found.append(
            named(item)
            | {
                "state": state_of(node, stored.state, item),
                "netns": item.netns,
                "hostVeth": item.host_veth,
                "mac": item.mac,
                "ips": [address.address for address in item.addresses],
                "since": item.since or item.created,
            }
        )
    return {"schema": 1, "attachments": found}, 0
