"""`routes`: what this node announces, and how far each route got."""

from __future__ import annotations

from collections.abc import Mapping

from bgpcni.commands import Document
from bgpcni.commands.answers.common import named
from bgpcni.commands.answers.learned import LEARNED_STATES, Received, received_routes
from bgpcni.commands.answers.selection import Page, chosen_by, leads_to, stored_on
from bgpcni.commands.answers.sessions import nobody_has
from bgpcni.convergence import catalog
from bgpcni.convergence.announcer import RouteState
from bgpcni.convergence.derive import derive, left_out, withheld
from bgpcni.errors import CniError, InvalidConfiguration
from bgpcni.model import Announcement, Attachment, ExporterUse, State
from bgpcni.node import interface
from bgpcni.node.node import Node
from bgpcni.store import Stored

ADVERTISED, RECEIVED = "advertised", "received"


def routes(
    node: Node,
    *,
    what: tuple[str, ...] = (),
    received: bool = False,
    peer: str | None = None,
    network: str | None = None,
    container: str | None = None,
    state: str | None = None,
    search: str | None = None,
    limit: int | None = None,
    offset: int | None = None,
) -> tuple[Document, int]:
    """This node's routes; exit 1 if any is not announced. `received`: those that peers announced to it.

    `what`: an address, prefix or MAC that they lead to. With `peer` it may also be `advertised` or `received`.
    `limit` and `offset` count the routes that were received, and the attachments whose routes are this node's.
    """
    page, places = Page(limit, offset or 0), [word for word in what if word not in (ADVERTISED, RECEIVED)]
    received = received or RECEIVED in what
    if len(places) > 1 or len(what) - len(places) > 1 or (len(what) > len(places) and not peer):
        raise InvalidConfiguration("routes: give one address, prefix or MAC; advertised and received go with --peer")
    place = leads_to(places[0]) if places else None
    if received:
        if network or container:
            raise InvalidConfiguration("routes: received routes have no network or container of this node")
        return received_routes(node, Received(search, place, peer, state), page)
    if state in LEARNED_STATES:
        raise InvalidConfiguration(f"routes: {state} is a state of received routes")
    sent = sent_to(node, peer) if peer else None

    def fits(row: Document) -> bool:
        return (
            (place is None or place(row["prefix"], row["mac"]))
            and (state is None or any(each["state"] == state for each in row["exporters"].values()))
            and (sent is None or row["nlri"] in sent)
        )

    picky = place is not None or state is not None or sent is not None
    some = [lambda stored: any(map(fits, routes_of(node, stored)))] if picky else []
    chosen, total = stored_on(node.store, page, chosen_by(network, container, search, *some))
    found = [row for stored in chosen for row in routes_of(node, stored) if fits(row)]
    if sent is not None:
        return {
            "schema": 1,
            "peer": peer,
            "routes": [_heard(row, sent[row["nlri"]]) for row in found],
            **page.told(total),
        }, 0
    late = any(state["state"] != "announced" for route in found for state in route["exporters"].values())
    return {"schema": 1, "routes": found, **page.told(total)}, 1 if late else 0


def _heard(row: Document, heard: Document) -> Document:
    """A route as one peer hears it."""
    return {name: value for name, value in row.items() if name != "exporters"} | heard


def sent_to(node: Node, peer: str) -> dict[str, Document]:
    """What the Adj-RIB-Out for this peer has: by NLRI, what the peer hears of it that is not the same for everybody.

    Raises InvalidConfiguration if no exporter has this peer, or none can tell.
    """
    mute = []
    for name, announcer in node.convergence.announcers().items():
        if all(each.address != peer for each in announcer.peers()):
            continue
        found = announcer.advertised(peer)
        if found is None:
            mute.append(name)
            continue
        return {
            str(route.nlri): {
                "exporter": name, "nextHop": route.next_hop, "communities": list(route.communities),
                "localPreference": route.local_preference, "med": route.med,
            }
            for route in found
        }  # fmt: skip
    if mute:
        raise InvalidConfiguration(f"--peer: exporter {mute[0]} cannot tell what {peer} has been sent")
    raise nobody_has(node, "--peer", peer)


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
    for route in withheld(attachment, node.facts) if not gone else ():
        state = RouteState("wanted", attachment.since or attachment.created, node.health.words(attachment))
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
