"""The way of one attachment, from the request to the peers, as steps; each that is broken says so, and what to do.

`explain` shows the steps, `unreachable` those that are broken.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from bgpcni.commands import Document
from bgpcni.commands.answers.routing import routes_of
from bgpcni.commands.answers.sessions import peers_of
from bgpcni.commands.remedies import remedy
from bgpcni.exporter import ATTRIBUTES, Peer
from bgpcni.kernel import links, vxlan
from bgpcni.model import Attachment, State
from bgpcni.node import intent, interface
from bgpcni.node.failures import Failure
from bgpcni.node.node import Node
from bgpcni.node.reachability import Reachability
from bgpcni.store import Stored

UP = "Established"


class Look:
    """What the attachments of one command share: it is asked once, when it is first needed."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.announcers = node.convergence.announcers()
        self.reachability = Reachability(node.netlink, node.facts)
        self._peers: dict[str, list[Peer]] = {}
        self._links: dict[str, links.Link | None] = {}

    def peers(self, exporter: str) -> list[Peer]:
        if exporter not in self._peers:
            self._peers[exporter] = peers_of(self.node, self.announcers[exporter])
        return self._peers[exporter]

    def link(self, name: str) -> links.Link | None:
        if name not in self._links:
            self._links[name] = links.find(self.node.netlink, name=name)
        return self._links[name]

    def master_of(self, link: links.Link) -> str | None:
        """The name of the bridge or VRF that a link is in."""
        master = links.find(self.node.netlink, index=link.master) if link.master else None
        return master.name if master is not None else None

    @cached_property
    def duplicates(self) -> dict[str, str]:
        """What other nodes announce too, by address or MAC."""
        problems = self.node.dataplane.problems() if self.node.dataplane is not None else ()
        return {text.partition(" ")[0]: text for code, text in problems if code == "duplicate-address"}


def steps_of(look: Look, stored: Stored) -> list[Document]:
    """The steps in order. One that keeps the container from being reached has `problem`, a code, and `remedy`."""
    attachment = stored.attachment
    if attachment is None:
        return [step("record", "unreadable", "", stored.problem, "unreadable-record")]
    link = interface.link_state(look.node.netlink, attachment)
    gone, up = link == "gone", stored.state is State.UP and link != "gone"
    return [
        *_beginning(attachment, stored.state, link),
        *(_data_path(look, attachment) if not gone else ()),
        *(_reachability(look, attachment) if up else ()),
        *(_speakers(look, attachment) if up else ()),
        *(_service(look.node, attachment) if up else ()),
        *(_wishes(look.node, attachment, gone=gone) if attachment.exporters else ()),
        *_routes(look.node, stored, up=up),
    ]


def _beginning(attachment: Attachment, state: State, link: str) -> Iterator[Document]:
    yield step("request", "received", attachment.created, f"ADD {attachment.key}, CNI {attachment.cni_version}")
    yield step(
        "addresses",
        ("held" if state is State.LEAVING else "leased") if attachment.addresses else "none",
        attachment.created,
        ", ".join(item.address for item in attachment.addresses)
        + (f" from {attachment.ipam.type}" if attachment.ipam else ""),
    )
    vlan = f" in VLAN {attachment.vlan}" if attachment.vlan else ""
    detail = f"{attachment.ifname} inside has MAC {attachment.mac}"
    if attachment.host_veth:
        detail = f"{attachment.host_veth} (index {attachment.host_index}) on {attachment.bridge}{vlan}, {detail}"
    broken = f"link-{link}" if link != "up" and state is State.UP else ""
    yield step("link", link, attachment.since, detail, broken)
    yield step("record", state.value, attachment.since, f"boot {attachment.boot_id[:8]}")


def _data_path(look: Look, attachment: Attachment) -> Iterator[Document]:
    wanted = attachment.bgp
    if wanted.forwarder == "agent" and wanted.vni is not None:
        name = vxlan.name_of(wanted.vni)
        state = look.reachability.tunnel(name)
        broken = f"vxlan-{state}" if state != "up" else ""
        yield step("data path", state, "", f"{name} on {attachment.bridge}", broken)
    if wanted.vrf is not None and attachment.exporters:
        yield _vrf(look, attachment)
    for name in (attachment.mac or "", *(item.address.partition("/")[0] for item in attachment.addresses)):
        if wanted.vni is not None and name in look.duplicates:
            yield step("data path", "disputed", "", look.duplicates[name], "duplicate-address")


def _vrf(look: Look, attachment: Attachment) -> Document:
    wanted = attachment.bgp
    if wanted.table is None:
        return step("VRF", "none", "", f"{wanted.vrf}: control plane only, this node forwards nothing for it")
    master = look.link(str(wanted.vrf))
    names = [str(attachment.bridge)] + ([vxlan.name_of(wanted.l3vni)] if wanted.l3vni else [])
    inside = [look.link(name) for name in names]
    there = master is not None and all(link is not None and link.master == master.index for link in inside)
    way = f"MPLS label {wanted.label}" if wanted.family == "vpn" else f"VNI {wanted.l3vni}"
    detail = f"{wanted.vrf}, table {wanted.table}, {way}: {', '.join(names)}"
    return step("VRF", "up" if there else "missing", "", detail, "" if there else "vrf-missing")


def _reachability(look: Look, attachment: Attachment) -> Iterator[Document]:
    problems = look.reachability.of(attachment)
    if problems:
        yield step("reachability", "no", "", "; ".join(text for _, text in problems), problems[0][0])
    elif attachment.bgp.family == "unicast" and attachment.exporters:
        yield step("reachability", "yes", "", "the node reaches its addresses, and forwards to them")


def _speakers(look: Look, attachment: Attachment) -> Iterator[Document]:
    for use in attachment.exporters:
        if (announcer := look.announcers.get(use.name)) is None:
            continue  # its routes say why
        state = announcer.state()
        late = "exporter-late" if state.state == "late" else ""
        yield step("exporter", state.state, state.since, _joined(use.name, state.reason), late)
        for peer in look.peers(use.name):
            up = peer.state == UP
            detail = _joined(f"{peer.address}, AS {peer.asn}, of {use.name}", "" if up else peer.last_error)
            yield step("session", peer.state, peer.since, detail, "" if up else "peer-down")


def _service(node: Node, attachment: Attachment) -> Iterator[Document]:
    """The addresses that it shares with others, and whether its health check lets them be announced."""
    if (shared := attachment.anycast) is not None:
        detail = _joined(", ".join(shared.addresses), node.health.words(attachment))
        unwell = not shared.passing and shared.health is not None and shared.health.kind != "ready"
        yield step("service", "up" if shared.passing else "down", "", detail, "service-down" if unwell else "")


def _wishes(node: Node, attachment: Attachment, *, gone: bool) -> Iterator[Document]:
    """What its own routes are announced with, and which policies say so."""
    values = [(name, key, getattr(attachment.bgp, name)) for name, key in intent.KEYS.items()]
    said = "; ".join(
        f"{key} {intent.shown(value)}{intent.by(attachment, key)}"
        for name, key, value in values
        if value not in (None, ()) and (key in attachment.policies or name in ATTRIBUTES)
    )
    if said:
        yield step("attributes", "set", "", said)
    if node.maintenance and not gone:
        since, who = min(node.maintenance.values()), ", ".join(node.maintenance)
        yield step("maintenance", "on", since, f"asked for by {who}: peers are to prefer other paths")


def _routes(node: Node, stored: Stored, *, up: bool) -> Iterator[Document]:
    withheld = set(stored.attachment.anycast.addresses) if stored.attachment and stored.attachment.anycast else set()
    for route in routes_of(node, stored):
        shared = (route["prefix"] or "").partition("/")[0] in withheld
        for name, state in route["exporters"].items():
            detail = _joined(f"{route['nlri']} next hop {route['nextHop']} through {name}", state["reason"])
            problem = ""
            if up and state["state"] == "refused":
                problem = "route-refused"
            elif up and state["state"] == "wanted" and not route["nextHop"]:
                problem = "no-next-hop"
            elif up and state["state"] == "wanted" and state["reason"] and not shared:
                problem = "route-wanted"
            yield step("route", state["state"], state["since"], detail, problem)
    if (attachment := stored.attachment) is not None and not attachment.exporters:
        pools = node.pools
        found = (pools.conflict(item.address) for item in attachment.addresses) if pools is not None else ()
        conflict = "; ".join(filter(None, found))
        code = "conflict" if conflict and up else ""
        yield step("route", "none", "", conflict or "this network has no exporters", code)


def failed(failure: Failure) -> Document:
    story = f" ({failure.details})" if failure.details else ""
    return step("last ADD", "failed", failure.at, f"error {failure.code}: {failure.msg}{story}", "add-failed")


def unnamed(failure: Failure) -> Document:
    """What an attachment is called of which nothing but its failure is known."""
    named: Document = {
        "network": failure.network or "?", "containerID": failure.container_id, "ifname": failure.ifname
    }  # fmt: skip
    return named | ({"pod": failure.pod.model_dump()} if failure.pod else {})


def _joined(what: str, reason: str) -> str:
    return f"{what}: {reason}" if reason else what


def step(name: str, state: str, since: str, detail: str, problem: str = "") -> Document:
    """One step. `problem`: the code of what is wrong, if it keeps the container from being reached."""
    found: Document = {"step": name, "state": state, "since": since, "detail": detail}
    return found | {"problem": problem, "remedy": remedy(problem)} if problem else found
