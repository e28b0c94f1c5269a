"""`explain`: the way from the request to the routes, step by step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bgpcni.commands import Document
from bgpcni.commands.answers.common import failure, named
from bgpcni.commands.answers.handle import KINDS, Handle
from bgpcni.commands.answers.sessions import peers_of
from bgpcni.commands.answers.steps import Look, failed, step, steps_of, unnamed
from bgpcni.node.node import Node

if TYPE_CHECKING:
    from bgpcni.exporter import Peer


def explain(node: Node, what: str) -> tuple[Document, int]:
    """From request to route, in order, for each attachment that WHAT names, and for each session with the peer that it
    names; exit 1 if nothing matches.

    An ADD that failed is explained by its error, where the agent remembers it: it left nothing else.
    """
    failures = {(one.network, one.container_id, one.ifname): one for one in node.failures.about(what)}
    handle, look = Handle.of(what), Look(node)
    found: list[Document] = []
    for stored in node.store.all():
        if handle.names(stored):
            item = named(stored.attachment) if stored.attachment else {"network": stored.network}
            steps = steps_of(look, stored)
            if last := failures.pop((item["network"], item.get("containerID", ""), item.get("ifname", "")), None):
                steps.append(failed(last))
            found.append({**item, "steps": steps})
    found += [{**unnamed(last), "steps": [failed(last)]} for last in failures.values()]
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
    yield step("exporter", state.state, state.since, f"{name}: {state.reason}" if state.reason else name)
    up = peer.state == "Established"
    yield step("session", peer.state, peer.since, peer.last_error or f"with {peer.address}, AS {peer.asn}")
    lasting = [event for event in node.events.after(0).events if event.peer == peer.address and event.exporter == name]
    for event in lasting[-3:]:
        yield step("event", event.kind.value, event.time, event.detail or event.text)
    yield step("families", "negotiated" if up else "none", "", ", ".join(peer.families) or "no session, no families")
    yield step("routes", "sent" if up else "none", "", f"{peer.sent} sent to it, {peer.received} received from it")
