"""The answers to operators' commands: one function for each row of `table`, which makes a JSON document.

`schema` is 1 in every document. The same functions serve the agent and a command without one. `render` makes the text
from these documents, so text and `--json` cannot differ. Nothing here knows the command line or the agent's threads.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Protocol

from bgpcni import __version__
from bgpcni.commands import Document
from bgpcni.convergence import catalog
from bgpcni.convergence.announcer import Announcer, RouteState
from bgpcni.convergence.derive import derive, left_out
from bgpcni.errors import CniError, InvalidConfiguration, IoFailure
from bgpcni.kernel import links, vxlan
from bgpcni.model import Announcement, Attachment, ExporterUse, State
from bgpcni.node import facts, interface, plan, reconcile, without_agent
from bgpcni.node.failures import Failure
from bgpcni.node.node import Node
from bgpcni.node.reachability import Reachability
from bgpcni.node.reload import waits_for
from bgpcni.store import Stored

if TYPE_CHECKING:
    from bgpcni.dataplane.dataplane import Received
    from bgpcni.exporter import Peer

SYNC_SECONDS = 10.0
DRAIN_SECONDS = 30.0
GONE = "gone"
"""The state of an attachment that is up by its record, but has lost its link."""
_REACHED = re.compile(r"maximum_prefix( \d+)? is reached[^;]*")
"""How an exporter, or a table, says that a peer announced more routes than the configuration allows."""


class Resident(Protocol):
    """The agent, as far as commands need it."""

    node: Node

    def reload(self) -> None:
        """Read agent.toml again. Raises CniError, and then nothing has changed."""

    def drain(self, seconds: float) -> list[str]:
        """Withdraw everything; the names of the exporters that are late."""
        ...


def failure(text: str) -> Document:
    """The document of a command that could not be answered."""
    return {"schema": 1, "error": text}


# ---------------------------------------------------------------- status


def status(node: Node) -> tuple[Document, int]:
    """The state of the node and of its exporters, with every problem; exit 1 if there is one."""
    problems = list(_problems(node))
    exporters = {}
    for name, announcer in node.convergence.announcers().items():
        state = announcer.state()
        exporters[name] = {"state": state.state, "since": state.since, "reason": state.reason}
    document = {
        "schema": 1,
        "healthy": not problems,
        "mode": "agent" if node.resident else "none",
        "version": __version__,
        "problems": problems,
        "exporters": exporters,
    }
    return document, 1 if problems else 0


def _problems(node: Node) -> Iterator[Document]:
    if node.drained:
        yield {
            "code": "drained",
            "text": "`bgpcni drain` has withdrawn everything; restart the agent to announce again",
        }
    if reason := node.store.unwritable():
        yield {"code": "disk", "text": f"no ADD is served: {reason}"}
    try:
        node.store.check_numbers()
    except IoFailure as error:
        yield {"code": "numbers", "text": f"no ADD of a vpn or evpn network is served: {error.msg}"}
    yield from _unusable(node)
    yield from ({"code": code, "text": text} for code, text in list(node.amiss.items()))
    for name, announcer in node.convergence.announcers().items():
        state = announcer.state()
        if state.state == "late":
            yield {"code": "exporter-late", "text": f"{name} is late since {state.since}: {state.reason}"}
        counts = announcer.counts()
        for word in ("wanted", "withdrawing", "refused"):
            if counts.get(word):
                yield {"code": f"routes-{word}", "text": f"{name}: {counts[word]} routes are {word}"}
        for peer in _peers(node, announcer):
            if peer.state != "Established":
                yield {"code": "peer-down", "text": f"{name}: {peer.address} is {peer.state}: {peer.last_error}"}
            if reached := _REACHED.search(peer.last_error):
                yield {"code": "maximum-prefix", "text": f"{name}: {peer.address}: {reached[0]}"}
    if node.dataplane is not None:
        yield from ({"code": code, "text": text} for code, text in node.dataplane.problems())
        for reason, count in node.dataplane.refused().items():
            if _REACHED.search(reason):
                yield {"code": "maximum-prefix", "text": f"{count} routes are left out: {reason}"}
    begun = leaving = orphans = 0
    handed: Counter[str] = Counter()
    present = []
    for stored in node.store.all():
        if stored.attachment is None:
            yield {"code": "unreadable-record", "text": stored.problem}
        elif stored.state is State.LEAVING:
            leaving += 1
        elif stored.state is State.ADDING:
            begun += 1
        elif interface.vanished(node.netlink, stored.attachment):
            orphans += 1
        else:
            present.append(stored.attachment)
            if node.resident and (reason := waits_for(node, stored.attachment)):
                handed[reason] += 1
    lacking = Counter(
        reason for item in present if item.exporters for reason in {why for _, why in left_out(item, node.facts)}
    )
    for reason, count in lacking.items():
        yield {"code": "no-next-hop", "text": f"not every address of {count} attachments is announced: {reason}"}
    for code, text in Reachability(node.netlink, node.facts).problems(present):
        yield {"code": code, "text": text}
    for reason, count in handed.items():
        yield {"code": "handing-over", "text": f"{count} attachments are handed over by a reload: {reason}"}
    if orphans:
        yield {"code": "orphans", "text": f"{orphans} attachments lost their link without a DEL"}
    if leaving:
        yield {
            "code": "leaving",
            "text": f"{leaving} attachments have ended, but their addresses are held until the withdrawal is confirmed",
        }
    if begun and not node.resident:
        yield {"code": "cut-short", "text": f"{begun} ADDs did not finish; the next call undoes them"}


def _unusable(node: Node) -> Iterator[Document]:
    """The exporters that agent.toml names and that announce nothing, because they cannot be used or have no peers."""
    for use in plan.configured(node.agent) if node.resident else ():
        code = "exporter-unusable"
        try:
            reason = catalog.objection(use, node.facts, f"exporters.{use.name}")
            if catalog.load(use.type).takes_neighbors and not node.facts.has_bgp:
                code, reason = "no-bgp", "agent.toml has no [bgp], so it is not started"
            elif catalog.load(use.type).takes_neighbors and not node.facts.neighbors:
                also = ", and no BGPPeer of the cluster is for this node" if node.agent.cluster else ""
                code, reason = "no-neighbors", f"agent.toml has no [[bgp.neighbors]]{also}, so it is not started"
        except CniError as error:
            reason = error.msg
        if reason:
            yield {"code": code, "text": f"{use.name}: {reason}"}


# ---------------------------------------------------------------- attachments


def attachments(node: Node) -> tuple[Document, int]:
    """Every record that can be read, in any state; exit 0. `gone`: the record says up, but the link has gone."""
    found = []
    for stored in node.store.all():
        item = stored.attachment
        if item is None:
            continue
        found.append(
            _named(item)
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


def _named(attachment: Attachment) -> Document:
    """What an attachment is called in every document: its key, and its pod where the runtime named one."""
    named: Document = {
        "network": attachment.network,
        "containerID": attachment.container_id,
        "ifname": attachment.ifname,
    }
    return named | ({"pod": attachment.pod.model_dump()} if attachment.pod else {})


def state_of(node: Node, state: State, attachment: Attachment | None) -> str:
    """The state of the record, or GONE if that is up and the link has gone."""
    gone = state is State.UP and attachment is not None and interface.vanished(node.netlink, attachment)
    return GONE if gone else state.value


# ---------------------------------------------------------------- routes


def routes(node: Node, *, received: bool = False) -> tuple[Document, int]:
    """This node's routes; exit 1 if any is not announced. `received`: those that peers announced to it."""
    if received:
        return _routes_received(node)
    found = [document for stored in node.store.all() for document in _routes_of(node, stored)]
    late = any(state["state"] != "announced" for route in found for state in route["exporters"].values())
    return {"schema": 1, "routes": found}, 1 if late else 0


def _routes_received(node: Node) -> tuple[Document, int]:
    """The routes that peers announced, and what became of each; how many were refused, by reason."""
    if node.dataplane is None:
        return failure("only the agent learns routes, and none is running"), 1
    return {
        "schema": 1,
        "received": [_received(item) for item in node.dataplane.received()],
        "refused": node.dataplane.refused(),
    }, 0


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


def _routes_of(node: Node, stored: Stored) -> list[Document]:
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
    return _named(attachment) | {
        "family": route.nlri.family.value,
        "nlri": str(route.nlri),
        "prefix": route.nlri.prefix,
        "mac": fields.get("mac") or (route.endpoint.mac if route.endpoint else None),
        "rd": fields.get("rd"),
        "vni": route.vni,
        "nextHop": route.next_hop,
        "exportRT": list(route.export_rt),
        "communities": list(route.communities),
        "datapath": route.datapath,
        "exporters": {
            name: {"state": item.state, "since": item.since, "reason": item.reason} for name, item in states.items()
        },
    }


# ---------------------------------------------------------------- peers


def peers(node: Node) -> tuple[Document, int]:
    """The BGP sessions of all exporters; exit 1 if one is not Established."""
    found = []
    for name, announcer in node.convergence.announcers().items():
        for peer in _peers(node, announcer):
            document = peer._asdict()
            document["lastError"] = document.pop("last_error")
            found.append({"exporter": name, **document, "families": list(peer.families)})
    down = any(peer["state"] != "Established" for peer in found)
    return {"schema": 1, "peers": found}, 1 if down else 0


def _peers(node: Node, announcer: Announcer) -> list[Peer]:
    """An exporter's peers. If the node lacks what sessions need, it is said for the peers that agent.toml names."""
    found = announcer.peers()
    if all(peer.state == "Established" for peer in found):
        return found
    mine = announcer.node
    place = "bgp" if mine.local_address == node.facts.local_address else f"exporters.{announcer.name}"
    reason = facts.absent(node.netlink, mine.local_address, place) if mine.neighbors else ""
    ours = {neighbor.address for neighbor in mine.neighbors} if reason else ()
    return [
        peer._replace(last_error="; ".join(filter(None, (reason, peer.last_error))))
        if peer.address in ours and peer.state != "Established"
        else peer
        for peer in found
    ]


# ---------------------------------------------------------------- explain


def explain(node: Node, what: str) -> tuple[Document, int]:
    """From request to route, in order, for each attachment that WHAT names; exit 1 if nothing matches.

    An ADD that failed is explained by its error, where the agent remembers it: it left nothing else.
    """
    failures = {(one.network, one.container_id, one.ifname): one for one in node.failures.about(what)}
    found = []
    for stored in node.store.all():
        if _matches(stored, what):
            item = _explain(node, stored)
            if failed := failures.pop((item["network"], item.get("containerID", ""), item.get("ifname", "")), None):
                item["steps"].append(_failed(failed))
            found.append(item)
    for failed in failures.values():
        named: Document = {
            "network": failed.network or "?", "containerID": failed.container_id, "ifname": failed.ifname,
            **({"pod": failed.pod.model_dump()} if failed.pod else {}),
        }  # fmt: skip
        found.append({**named, "steps": [_failed(failed)]})
    if not found:
        kinds = "container ID, pod (NAMESPACE/NAME), address, prefix, network, MAC or veth"
        text = f"nothing here matches {what!r}: no {kinds}"
        if not node.resident:
            text += (
                "; no agent is running, so ADDs that failed are not remembered: their errors are in the runtime's log"
            )
        return failure(text), 1
    return {"schema": 1, "what": what, "attachments": found}, 0


def _matches(stored: Stored, what: str) -> bool:
    attachment = stored.attachment
    if what == stored.network or (attachment is not None and what == attachment.container_id):
        return True
    if attachment is None:
        return False
    if len(what) >= 6 and attachment.container_id.startswith(what):
        return True
    if what.lower() == attachment.mac or what in (attachment.host_veth, attachment.pod and str(attachment.pod)):
        return True
    own = [ip_address(item.address.partition("/")[0]) for item in attachment.addresses]
    try:
        return ip_address(what) in own if "/" not in what else any(ip in ip_network(what, False) for ip in own)
    except ValueError:
        return False


def _explain(node: Node, stored: Stored) -> Document:
    attachment = stored.attachment
    if attachment is None:
        return {"network": stored.network, "steps": [_step("record", "unreadable", "", stored.problem)]}
    steps = [
        _step("request", "received", attachment.created, f"ADD {attachment.key}, CNI {attachment.cni_version}"),
        _step(
            "addresses",
            ("held" if stored.state is State.LEAVING else "leased") if attachment.addresses else "none",
            attachment.created,
            ", ".join(item.address for item in attachment.addresses)
            + (f" from {attachment.ipam.type}" if attachment.ipam else ""),
        ),
    ]
    gone = interface.vanished(node.netlink, attachment)
    vlan = f" in VLAN {attachment.vlan}" if attachment.vlan else ""
    link = f"{attachment.ifname} inside has MAC {attachment.mac}"
    if attachment.host_veth:
        link = f"{attachment.host_veth} (index {attachment.host_index}) on {attachment.bridge}{vlan}, {link}"
    steps.append(_step("link", "gone" if gone else "up", attachment.since, link))
    steps.append(_step("record", stored.state.value, attachment.since, f"boot {attachment.boot_id[:8]}"))
    if attachment.bgp.forwarder == "agent" and attachment.bgp.vni is not None and not gone:
        name = vxlan.name_of(attachment.bgp.vni)
        tunnel = links.find(node.netlink, name=name)
        there = tunnel is not None and vxlan.is_ours(tunnel)
        steps.append(_step("data path", "up" if there else "missing", "", f"{name} on {attachment.bridge}"))
    if attachment.bgp.vrf is not None and attachment.exporters and not gone:
        steps.append(_vrf_step(node, attachment))
    if not gone and stored.state is State.UP:
        problems = [text for _, text in Reachability(node.netlink, node.facts).of(attachment)]
        if problems:
            steps.append(_step("reachability", "no", "", "; ".join(problems)))
        elif attachment.bgp.family == "unicast" and attachment.exporters:
            steps.append(_step("reachability", "yes", "", "the node reaches its addresses, and forwards to them"))
    for route in _routes_of(node, stored):
        for name, state in route["exporters"].items():
            detail = f"{route['nlri']} next hop {route['nextHop']} through {name}"
            if state["reason"]:
                detail += f": {state['reason']}"
            steps.append(_step("route", state["state"], state["since"], detail))
    if not attachment.exporters:
        steps.append(_step("route", "none", "", "this network has no exporters"))
    return {**_named(attachment), "steps": steps}


def _failed(failed: Failure) -> Document:
    story = f" ({failed.details})" if failed.details else ""
    return _step("last ADD", "failed", failed.at, f"error {failed.code}: {failed.msg}{story}")


def _vrf_step(node: Node, attachment: Attachment) -> Document:
    intent = attachment.bgp
    if intent.table is None:
        return _step("VRF", "none", "", f"{intent.vrf}: control plane only, this node forwards nothing for it")
    master = links.find(node.netlink, name=str(intent.vrf))
    names = [str(attachment.bridge)] + ([vxlan.name_of(intent.l3vni)] if intent.l3vni else [])
    inside = [links.find(node.netlink, name=name) for name in names]
    there = master is not None and all(link is not None and link.master == master.index for link in inside)
    way = f"MPLS label {intent.label}" if intent.family == "vpn" else f"VNI {intent.l3vni}"
    detail = f"{intent.vrf}, table {intent.table}, {way}: {', '.join(names)}"
    return _step("VRF", "up" if there else "missing", "", detail)


def _step(name: str, state: str, since: str, detail: str) -> Document:
    return {"step": name, "state": state, "since": since, "detail": detail}


# ---------------------------------------------------------------- commands that change something


def sync(node: Node) -> tuple[Document, int]:
    """Try once more whatever is late; exit 1 if something is still late."""
    deadline = time.monotonic() + (SYNC_SECONDS if node.resident else 0)
    node.convergence.retry()
    if node.dataplane is not None:
        node.dataplane.look_again()
    _settle(node)
    late = node.convergence.wait_quiet(deadline - time.monotonic())
    _settle(node)
    remaining = [
        str(stored.attachment.key)
        for stored in node.store.all()
        if stored.attachment is not None and stored.state is State.LEAVING
    ]
    return {"schema": 1, "late": late, "leaving": remaining}, 1 if late or remaining else 0


def _settle(node: Node) -> None:
    """Reconcile every attachment that is not as it should be."""
    if not node.resident:
        without_agent.settle_all(node)
        return
    for key in list(reconcile.concerned(node)):
        try:
            reconcile.settle(node, key)
        except (CniError, OSError):  # the worker does it, or reports what is wrong
            node.nudges.nudge(key)


def drain(agent: Resident) -> tuple[Document, int]:
    """Withdraw every route and end the speaker; exit 1 if an exporter is late."""
    late = agent.drain(DRAIN_SECONDS)
    return {"schema": 1, "drained": not late, "late": late}, 1 if late else 0


def reload(agent: Resident) -> tuple[Document, int]:
    """Read agent.toml again and apply it."""
    agent.reload()
    return {"schema": 1, "reloaded": True}, 0


def release(node: Node, container_id: str, *, force: bool) -> tuple[Document, int]:
    """Stop waiting until a container's withdrawals are confirmed, and release its addresses and records now."""
    if not force:
        raise InvalidConfiguration("release gives back an address to which a peer may still have a route: add --force")
    released = []
    for stored in list(node.store.all()):
        attachment = stored.attachment
        if attachment is None or attachment.container_id != container_id:
            continue
        with node.store.locked(attachment.key, 30):
            again = node.store.find(attachment.key)
            if again is None or again.attachment is None:
                continue
            if again.state is State.UP and not interface.vanished(node.netlink, again.attachment):
                raise InvalidConfiguration(f"{attachment.key} is up: DEL it first")
            reconcile.end_unconfirmed(node, again.attachment)
            released.append(str(attachment.key))
    if not released:
        return failure(f"no attachment of container {container_id!r}"), 1
    return {"schema": 1, "released": released}, 0
