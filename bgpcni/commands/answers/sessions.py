"""`peers`: the BGP sessions of all exporters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bgpcni.commands import Document
from bgpcni.convergence.announcer import Announcer
from bgpcni.errors import CniError, InvalidConfiguration
from bgpcni.events import Kind
from bgpcni.node import facts
from bgpcni.node.node import Node

if TYPE_CHECKING:
    from bgpcni.exporter import Peer


LAST = 5
"""So many of its last ups and downs are in the document of one session."""


def peers(node: Node, address: str | None = None) -> tuple[Document, int]:
    """The BGP sessions of all exporters; exit 1 if one is not Established. `address`: those with one peer, in detail.

    Raises InvalidConfiguration if nobody has this peer.
    """
    found = []
    for name, announcer in node.convergence.announcers().items():
        for peer in peers_of(node, announcer):
            if address in (None, peer.address):
                document = _session(node, name, peer)
                found.append(document | (_more(node, name, announcer, peer) if address else {}))
    if address and not found:
        raise nobody_has(node, "peers", address)
    down = any(peer["state"] != "Established" for peer in found)
    return {"schema": 1, "peers": found}, 1 if down else 0


def reset_peer(node: Node, address: str, *, soft: bool) -> tuple[Document, int]:
    """Reset the sessions with this peer. Raises InvalidConfiguration if nobody has it, or its speaker cannot."""
    reset = []
    for name, announcer in announcers_with(node, address).items():
        try:
            announcer.reset(address, soft=soft)
        except CniError as error:
            raise InvalidConfiguration(f"{name}: {error.msg}") from None
        reset.append(name)
    if not reset:
        raise nobody_has(node, "reset", address)
    return {"schema": 1, "peer": address, "soft": soft, "exporters": reset}, 0


def announcers_with(node: Node, address: str) -> dict[str, Announcer]:
    """The exporters that have this peer, by name."""
    return {
        name: announcer
        for name, announcer in node.convergence.announcers().items()
        if any(peer.address == address for peer in announcer.peers())
    }


def nobody_has(node: Node, asked: str, address: str) -> InvalidConfiguration:
    """The error where no exporter has this peer. It names those whose sessions nobody can see from here."""
    mute = [name for name, announcer in node.convergence.announcers().items() if not announcer.peers()]
    also = f"; {' and '.join(mute)} told of no session: ask its speaker itself" if mute else ""
    return InvalidConfiguration(f"{asked}: no exporter has a peer {address}{also}")


def _session(node: Node, exporter: str, peer: Peer) -> Document:
    document = peer._asdict()
    document["lastError"] = document.pop("last_error")
    flaps = node.events.counts[Kind.SESSION_DOWN, exporter, peer.address]
    return {"exporter": exporter, **document, "families": list(peer.families), "flaps": flaps}


def _more(node: Node, exporter: str, announcer: Announcer, peer: Peer) -> Document:
    """What a document of one session has besides: what was configured and negotiated, and what happened to it."""
    changes = [
        {"time": event.time, "kind": event.kind.value, "detail": event.detail or None}
        for event in node.events.after(0).events
        if event.peer == peer.address and event.exporter == exporter
    ]
    return {**announcer.session(peer.address), "changes": changes[-LAST:]}


def peers_of(node: Node, announcer: Announcer) -> list[Peer]:
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
