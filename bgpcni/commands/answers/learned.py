"""`routes --received`: what peers announced to this node, and what became of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bgpcni.commands import Document
from bgpcni.commands.answers.common import failure
from bgpcni.commands.answers.selection import Page, Subject, fits, words
from bgpcni.node.node import Node

if TYPE_CHECKING:
    from bgpcni.dataplane.dataplane import Received
    from bgpcni.exporter import Learned


def received_routes(node: Node, search: str | None, page: Page) -> tuple[Document, int]:
    """The routes that peers announced, and what became of each; how many were refused, by reason."""
    if node.dataplane is None:
        return failure("only the agent learns routes, and none is running"), 1
    wanted = words(search)
    learned = node.dataplane.learned()
    chosen, total = page.of(each for each in learned if not wanted or fits(wanted, _subject(each[1])))
    return {
        "schema": 1,
        "received": [_received(item) for item in node.dataplane.received(chosen)],
        "refused": node.dataplane.refused(),
        **page.told(total),
    }, 0


def _subject(route: Learned) -> Subject:
    text = "\n".join(
        (str(route.nlri), route.peer, route.attributes.next_hop or "", *route.attributes.route_targets,
         *route.attributes.communities)
    )  # fmt: skip
    address = (route.nlri.prefix or "").partition("/")[0]
    return Subject(text.lower(), (address,) if address else (), frozenset({str(route.vni)} if route.vni else ()))


def _received(item: Received) -> Document:
    route, nlri, fields = item.route, item.route.nlri, item.route.nlri._asdict()
    return {
        "exporter": item.route_id.exporter,
        "peer": route.peer,
        "family": nlri.family.value,
        "nlri": str(nlri),
        "prefix": nlri.prefix,
        "mac": fields.get("mac"),
        "rd": fields.get("rd"),
        "vni": route.vni,
        "nextHop": route.attributes.next_hop,
        "routeTargets": list(route.attributes.route_targets),
        "communities": list(route.attributes.communities),
        "asPath": list(route.attributes.as_path),
        "localPref": route.attributes.local_pref,
        "mobility": route.attributes.mobility,
        "stale": item.stale,
        "datapath": item.datapath,
        "imported": [
            {"table": name, "state": state if state in ("best", "other") else "refused",
             "reason": "" if state in ("best", "other") else state}
            for name, state in item.tables.items()
        ],
    }  # fmt: skip
