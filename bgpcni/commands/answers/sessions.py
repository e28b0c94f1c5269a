"""`peers`: the BGP sessions of all exporters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bgpcni.commands import Document
from bgpcni.convergence.announcer import Announcer
from bgpcni.events import Kind
from bgpcni.node import facts
from bgpcni.node.node import Node

if TYPE_CHECKING:
    from bgpcni.exporter import Peer


def peers(node: Node) -> tuple[Document, int]:
    """The BGP sessions of all exporters; exit 1 if one is not Established."""
    found = []
    for name, announcer in node.convergence.announcers().items():
        for peer in peers_of(node, announcer):
            document = peer._asdict()
            document["lastError"] = document.pop("last_error")
            flaps = node.events.counts[Kind.SESSION_DOWN, name, peer.address]
            found.append({"exporter": name, **document, "families": list(peer.families), "flaps": flaps})
    down = any(peer["state"] != "Established" for peer in found)
    return {"schema": 1, "peers": found}, 1 if down else 0


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
