"""`explain`: the way from the request to the routes, step by step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bgpcni.commands import Document
from bgpcni.commands.answers.common import failure, named
from bgpcni.commands.answers.handle import KINDS, Handle
from bgpcni.commands.answers.routing import routes_of
from bgpcni.commands.answers.sessions import peers_of
from bgpcni.exporter import ATTRIBUTES
from bgpcni.kernel import links, vxlan
from bgpcni.model import Attachment, State
from bgpcni.node import intent, interface
from bgpcni.node.failures import Failure
from bgpcni.node.node import Node
from bgpcni.node.reachability import Reachability
from bgpcni.store import Stored

if TYPE_CHECKING:
    from bgpcni.exporter import Peer


def explain(node: Node, what: str) -> tuple[Document, int]:
    """From request to route, in order, for each attachment that WHAT names, and for each session with the peer that it
    names; exit 1 if nothing matches.

    An ADD that failed is explained by its error, where the agent remembers it: it left nothing else.
    """
    failures = {(one.network, one.container_id, one.ifname): one for one in node.failures.about(what)}
    handle = Handle.of(what)
    found = []
    for stored in node.store.all():
        if handle.names(stored):
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
    sessions = _sessions(node, what)
    if not found and not sessions:
        text = f"nothing here matches {what!r}: no {KINDS}"
        if not node.resident:
            text += (
                "; no agent is running, so ADDs that failed are not remembered: their errors are in the runtime's log"
            )
        return failure(text), 1
    return {"schema": 1, "what": what, "attachments": found, **({"peers": sessions} if sessions else {})}, 0


def _sessions(node: Node, what: str) -> list[Document]:
    """The sessions with the peer of this address: from the configuration to what it was sent."""
    return [
        {"exporter": name, "address": peer.address, "asn": peer.asn, "steps": list(_session_steps(node, name, peer))}
        for name, announcer in node.convergence.announcers().items()
        for peer in peers_of(node, announcer)
        if peer.address == what
    ]


def _session_steps(node: Node, name: str, peer: Peer) -> Iterator[Document]:
    announcer = node.convergence.announcers()[name]
    state = announcer.state()
    yield _step("exporter", state.state, state.since, f"{name}: {state.reason}" if state.reason else name)
    up = peer.state == "Established"
    yield _step("session", peer.state, peer.since, peer.last_error or f"with {peer.address}, AS {peer.asn}")
    lasting = [event for event in node.events.after(0).events if event.peer == peer.address and event.exporter == name]
    for event in lasting[-3:]:
        yield _step("event", event.kind.value, event.time, event.detail or event.text)
    yield _step("families", "negotiated" if up else "none", "", ", ".join(peer.families) or "no session, no families")
    yield _step("routes", "sent" if up else "none", "", f"{peer.sent} sent to it, {peer.received} received from it")


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
    if attachment.exporters and (said := _attributes(attachment)):
        steps.append(_step("attributes", "set", "", said))
    if attachment.exporters and node.maintenance and not gone:
        since, who = min(node.maintenance.values()), ", ".join(node.maintenance)
        steps.append(_step("maintenance", "on", since, f"asked for by {who}: peers are to prefer other paths"))
    for route in routes_of(node, stored):
        for name, state in route["exporters"].items():
            detail = f"{route['nlri']} next hop {route['nextHop']} through {name}"
            if state["reason"]:
                detail += f": {state['reason']}"
            steps.append(_step("route", state["state"], state["since"], detail))
    if not attachment.exporters:
        conflict = "; ".join(filter(None, (node.pools.conflict(item.address) for item in attachment.addresses)
                                    if node.pools is not None else ()))  # fmt: skip
        steps.append(_step("route", "none", "", conflict or "this network has no exporters"))
    return {**named(attachment), "steps": steps}


def _attributes(attachment: Attachment) -> str:
    """What its own routes are announced with, and which policies say so."""
    values = [(name, key, getattr(attachment.bgp, name)) for name, key in intent.KEYS.items()]
    return "; ".join(
        f"{key} {intent.shown(value)}{intent.by(attachment, key)}"
        for name, key, value in values
        if value not in (None, ()) and (key in attachment.policies or name in ATTRIBUTES)
    )


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
