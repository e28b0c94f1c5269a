"""`status`: is the node in order, and if not, what is wrong."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from bgpcni import __version__
from bgpcni.commands import Document
from bgpcni.commands.answers.sessions import peers_of
from bgpcni.convergence import catalog
from bgpcni.convergence.derive import left_out
from bgpcni.errors import CniError, IoFailure
from bgpcni.exporter import carried_by
from bgpcni.model import Attachment, State
from bgpcni.node import intent, interface, plan
from bgpcni.node.node import Node
from bgpcni.node.reachability import Reachability
from bgpcni.node.reload import waits_for

_REACHED = re.compile(r"maximum_prefix( \d+)? is reached[^;]*")
"""How an exporter, or a table, says that a peer announced more routes than the configuration allows."""


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
        "maintenance": dict(node.maintenance),
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
        for peer in peers_of(node, announcer):
            if peer.state != "Established":
                yield {"code": "peer-down", "text": f"{name}: {peer.address} is {peer.state}: {peer.last_error}"}
            if reached := _REACHED.search(peer.last_error):
                yield {"code": "maximum-prefix", "text": f"{name}: {peer.address}: {reached[0]}"}
    if node.dataplane is not None:
        yield from ({"code": code, "text": text} for code, text in node.dataplane.problems())
        for reason, count in node.dataplane.refused().items():
            if _REACHED.search(reason):
                yield {"code": "maximum-prefix", "text": f"{count} routes are left out: {reason}"}
    begun = leaving = orphans = down = 0
    handed: Counter[str] = Counter()
    present = []
    for stored in node.store.all():
        if stored.attachment is None:
            yield {"code": "unreadable-record", "text": stored.problem}
        elif stored.state is State.LEAVING:
            leaving += 1
        elif stored.state is State.ADDING:
            begun += 1
        elif (link := interface.link_state(node.netlink, stored.attachment)) == "gone":
            orphans += 1
        else:
            down += link == "down"
            present.append(stored.attachment)
            if node.resident and (reason := waits_for(node, stored.attachment)):
                handed[reason] += 1
    lacking = Counter(
        reason for item in present if item.exporters for reason in {why for _, why in left_out(item, node.facts)}
    )
    for reason, count in lacking.items():
        yield {"code": "no-next-hop", "text": f"not every address of {count} attachments is announced: {reason}"}
    failing = Counter(
        node.health.words(item).partition(",")[0]
        for item in present
        if item.anycast and item.anycast.health and item.anycast.health.kind != "ready" and not item.anycast.passing
    )
    for reason, count in failing.items():
        yield {"code": "service-down", "text": f"shared addresses of {count} attachments are not announced: {reason}"}
    for code, text in Reachability(node.netlink, node.facts).problems(present):
        yield {"code": code, "text": text}
    for reason, count in handed.items():
        yield {"code": "handing-over", "text": f"{count} attachments are handed over by a reload: {reason}"}
    yield from _uncarried(present)
    if orphans:
        yield {"code": "orphans", "text": f"{orphans} attachments lost their link without a DEL"}
    if down:
        yield {"code": "link-down", "text": f"the links of {down} attachments are down: somebody set them so"}
    if leaving:
        yield {
            "code": "leaving",
            "text": f"{leaving} attachments have ended, but their addresses are held until the withdrawal is confirmed",
        }
    if begun and not node.resident:
        yield {"code": "cut-short", "text": f"{begun} ADDs did not finish; the next call undoes them"}


def _uncarried(present: Iterable[Attachment]) -> Iterator[Document]:
    """What policies set and an exporter cannot announce."""
    found: Counter[tuple[str, str]] = Counter()
    for item in present:
        for use in item.exporters if item.policies else ():
            try:
                found.update((use.name, what) for what in intent.uncarried(item, carried_by(catalog.load(use.type))))
            except CniError:
                continue  # it is not installed any more, which is said elsewhere
    for (name, what), count in sorted(found.items()):
        yield {"code": "policies-uncarried", "text": f"{name} cannot announce it for {count} attachments: {what}"}


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
