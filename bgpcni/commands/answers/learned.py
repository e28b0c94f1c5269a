"""`routes --received`: what peers announced to this node, and what became of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from bgpcni.commands import Document
from bgpcni.commands.answers.common import failure
from bgpcni.commands.answers.selection import Page, Subject, fits, words
from bgpcni.commands.answers.sessions import announcers_with, nobody_has
from bgpcni.node.node import Node

if TYPE_CHECKING:
    from bgpcni.dataplane.dataplane import Received as Item
    from bgpcni.exporter import Learned


TAKEN = ("best", "equal", "other")
"""How a received route stands with a table that takes it."""
LEARNED_STATES = (*TAKEN, "stale")
"""States that only received routes have."""


class Received(NamedTuple):
    """Which of the received routes are asked for."""

    search: str | None = None
    place: Callable[[str | None, str | None], bool] | None = None
    peer: str | None = None
    state: str | None = None


def received_routes(node: Node, asked: Received, page: Page) -> tuple[Document, int]:
    """The routes that peers announced, and what became of each; how many were refused, by reason.

    Raises InvalidConfiguration if no exporter has the peer that is asked for.
    """
    if node.dataplane is None:
        return failure("only the agent learns routes, and none is running"), 1
    if asked.peer is not None and not announcers_with(node, asked.peer):
        raise nobody_has(node, "--peer", asked.peer)
    wanted = words(asked.search)

    def fits_route(route: Learned) -> bool:
        return (
            (asked.peer is None or route.peer == asked.peer)
            and (asked.place is None or asked.place(route.nlri.prefix, route.nlri._asdict().get("mac")))
            and (not wanted or fits(wanted, _subject(route)))
        )

    found = (each for each in node.dataplane.learned() if fits_route(each[1]))
    if asked.state is not None:  # it is known only when what became of the route is looked up
        rows = [row for row in map(_received, node.dataplane.received(list(found))) if _is(row, asked.state)]
        shown, total = page.of(rows)
    else:
        chosen, total = page.of(found)
        shown = [_received(item) for item in node.dataplane.received(chosen)]
    document = {"schema": 1, "received": shown, "refused": node.dataplane.refused(), **page.told(total)}
    return document | ({"peer": asked.peer} if asked.peer else {}), 0


def _is(row: Document, state: str) -> bool:
    return bool(row["stale"]) if state == "stale" else any(each["state"] == state for each in row["imported"])


def _subject(route: Learned) -> Subject:
    text = "\n".join(
        (str(route.nlri), route.peer, route.attributes.next_hop or "", *route.attributes.route_targets,
         *route.attributes.communities)
    )  # fmt: skip
    address = (route.nlri.prefix or "").partition("/")[0]
    return Subject(text.lower(), (address,) if address else (), frozenset({str(route.vni)} if route.vni else ()))


def _received(item: Item) -> Document:
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
            {"table": name, "state": state if state in TAKEN else "refused", "reason": "" if state in TAKEN else state}
            for name, state in item.tables.items()
        ],
    }  # fmt: skip
