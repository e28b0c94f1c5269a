"""`routes`: what this node announces, and how far each route got."""

from __future__ import annotations

from collections.abc import Mapping

from bgpcni.commands import Document
from bgpcni.commands.answers.common import named
from bgpcni.commands.answers.learned import received_routes
from bgpcni.commands.answers.selection import Page, searched, stored_on
from bgpcni.convergence import catalog
from bgpcni.convergence.announcer import RouteState
from bgpcni.convergence.derive import derive, left_out
from bgpcni.errors import CniError
from bgpcni.model import Announcement, Attachment, ExporterUse, State
from bgpcni.node import interface
from bgpcni.node.node import Node
from bgpcni.store import Stored


def routes(
    node: Node,
    *,
    received: bool = False,
    search: str | None = None,
    limit: int | None = None,
    offset: int | None = None,
) -> tuple[Document, int]:
    """This node's routes; exit 1 if any is not announced. `received`: those that peers announced to it.

    `limit` and `offset` count the routes that were received, and the attachments whose routes are this node's.
    """
    page = Page(limit, offset or 0)
    if received:
        return received_routes(node, search, page)
    chosen, total = stored_on(node.store, page, searched(search))
    found = [document for stored in chosen for document in routes_of(node, stored)]
    late = any(state["state"] != "announced" for route in found for state in route["exporters"].values())
    return {"schema": 1, "routes": found, **page.told(total)}, 1 if late else 0


def routes_of(node: Node, stored: Stored) -> list[Document]:
    if stored.attachment is None or not stored.attachment.exporters or stored.state is State.ADDING:
        return []
    attachment = node.by_names_of_now(stored.attachment)
    try:
        announcements = derive(attachment, node.facts)
    except CniError:
        announcements = []
    gone = stored.state is State.LEAVING or interface.vanished(node.netlink, attachment)
    known = node.convergence.route_states(attachment)
    at_work = node.convergence.announcers() if node.resident else {}
    found = []
    for route in announcements:
        told = known.get(route.nlri, {})
        # an exporter that is at work and does not know a route of an attachment that has ended has withdrawn it
        uses = [use for use in attachment.exporters if not gone or use.name in told or use.name not in at_work]
        if uses:
            states = {use.name: told.get(use.name) or _unasked(node, attachment, use, gone=gone) for use in uses}
            found.append(_route(attachment, route, states))
    for route, reason in left_out(attachment, node.facts) if not gone else ():
        state = RouteState("wanted", attachment.since or attachment.created, reason)
        found.append(_route(attachment, route, {use.name: state for use in attachment.exporters}))
    return found


def _unasked(node: Node, attachment: Attachment, use: ExporterUse, *, gone: bool) -> RouteState:
    """The state of a route of which the exporter says nothing: only the record is known.

    Without an agent the record of an exporter that needs none is up when the speaker has taken the routes.
    """
    since = attachment.since or attachment.created
    if node.resident:
        reason = "this node is drained" if node.drained else "its exporter cannot be used; see the agent's log"
    else:
        reason = "no agent is running"
        if not gone and _works_alone(use):
            return RouteState("announced", since, "")
    return RouteState("withdrawing" if gone else "wanted", since, reason)


def _works_alone(use: ExporterUse) -> bool:
    try:
        return not catalog.load(use.type).needs_agent
    except CniError:
        return False


def _route(attachment: Attachment, route: Announcement, states: Mapping[str, RouteState]) -> Document:
    fields = route.nlri._asdict()
    return named(attachment) | {
        "family": route.nlri.family.value,
        "nlri": str(route.nlri),
        "prefix": route.nlri.prefix,
        "mac": fields.get("mac") or (route.endpoint.mac if route.endpoint else None),
        "rd": fields.get("rd"),
        "vni": route.vni,
        "nextHop": route.next_hop,
        "exportRT": list(route.export_rt),
        "communities": list(route.communities),
        "localPreference": route.local_preference,
        "med": route.med,
        "policies": {key: list(names) for key, names in attachment.policies.items()},
        "datapath": route.datapath,
        "exporters": {
            name: {"state": item.state, "since": item.since, "reason": item.reason} for name, item in states.items()
        },
    }
