"""`attachments`: the interfaces that bgpcni made or announces."""

from __future__ import annotations

from bgpcni.commands import Document
from bgpcni.commands.answers.common import named, state_of
from bgpcni.commands.answers.selection import Page, chosen_by, stored_on
from bgpcni.model import Attachment, State
from bgpcni.node.node import Node


def attachments(
    node: Node,
    *,
    network: str | None = None,
    container: str | None = None,
    state: str | None = None,
    search: str | None = None,
    limit: int | None = None,
    offset: int | None = None,
) -> tuple[Document, int]:
    """Every record that can be read, in any state; exit 0. `gone`: the record says up, but the link has gone."""
    page = Page(limit, offset or 0)
    more = [lambda stored: state_of(node, stored.state, stored.attachment) == state] if state else []
    chosen, total = stored_on(node.store, page, chosen_by(network, container, search, *more))
    found = [_attachment(node, stored.state, stored.attachment) for stored in chosen if stored.attachment is not None]
    return {"schema": 1, "attachments": found, **page.told(total)}, 0


def _attachment(node: Node, state: State, item: Attachment) -> Document:
    return (
        named(item)
        | _disputed(node, item)
        | {
            "state": state_of(node, state, item),
            "netns": item.netns,
            "hostVeth": item.host_veth,
            "mac": item.mac,
            "ips": [address.address for address in item.addresses],
            "since": item.since or item.created,
        }
    )


def _disputed(node: Node, item: Attachment) -> Document:
    """`conflict`: why its addresses are not announced, where they are another node's by now."""
    if node.pools is None:
        return {}
    reasons = dict.fromkeys(reason for each in item.addresses if (reason := node.pools.conflict(each.address)))
    return {"conflict": "; ".join(reasons)} if reasons else {}
