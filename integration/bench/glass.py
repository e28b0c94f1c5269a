"""The looking glass of a large node: how long each page takes, and what it costs the agent.

usage: python -m integration.bench.glass [ATTACHMENTS [RECEIVED]]

The attachments are records without links (see `scale`). The received routes come from a peer written by hand.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bgpcni.model import Family
from integration.bench.scale import populate
from integration.glass import LookingGlass
from integration.hand_peer import HandPeer, prefix, update
from integration.lab import Lab, Node, until
from integration.lab.namespace import link

PAGES: dict[str, Callable[[int], str]] = {
    "overview": lambda n: "/",
    "a page of attachments": lambda n: f"/attachments?page={n + 1}",
    "attachments, searched": lambda n: f"/attachments?search=crowd-{n + 7}7",
    "an attachment": lambda n: f"/attachments/crowd-{n + 40}",
    "a page of routes": lambda n: f"/routes?page={n + 1}",
    "routes, searched": lambda n: f"/routes?search=10.64.{n}.0/24",
    "a page of received routes": lambda n: f"/received?page={n + 1}",
    "received, searched": lambda n: f"/received?search=20.0.{n}.0/24",
    "map": lambda n: "/map",
    "events": lambda n: "/events",
}
TIMES = 7


def seconds_used(pid: int) -> float:
    """The processor's time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def announce(peer: HandPeer, count: int) -> None:
    """So many /32 of 20.0.0.0/8, in UPDATEs of 500."""
    texts = [f"20.{n >> 16}.{n >> 8 & 255}.{n & 255}/32" for n in range(count)]
    for start in range(0, count, 500):
        peer.say(update(new=b"".join(prefix(text) for text in texts[start : start + 500])))


def large(lab: Lab, attachments: int, received: int) -> Node:
    node, there = lab.node(), lab.namespace("hand")
    link(node.namespace, there, "uplink", "hand", [f"{node.address}/24"], [f"{node.peer}/24"])
    populate(node.data_dir, node.run_dir, node.leases, attachments)
    peer = HandPeer(lab, there, node.peer, 64512, families=(Family.IPV4_UNICAST,))
    neighbor = {"address": node.peer, "asn": 64512, "families": ["ipv4-unicast"]}
    node.agent(bgp={"neighbors": [neighbor]})
    # somebody has to import, or nothing is listened to
    imports = node.network(subnet="10.200.0.0/24", bgp={"import": ["203.0.113.0/24"]})
    assert node.cni("ADD", "first", lab.container(), imports).ok
    peer.wait_asked(1)
    announce(peer, received)

    def arrived() -> bool:
        return node.operator("routes", "--received", "--limit", 1).document.get("total") == received

    until(arrived, f"{received} routes", seconds=120, step=1)
    return node


def measure(lab: Lab, node: Node) -> None:
    glass = LookingGlass(lab, node)
    glass.start()
    assert node.process is not None
    print(f"{'page':28} {'first':>9} {'median':>9} {'slowest':>9} {'agent/page':>11}   ms")
    for name, path in PAGES.items():
        took, used = [], seconds_used(node.process.pid)
        for number in range(TIMES):
            began = time.perf_counter()
            answer = glass.get(path(number))
            took.append((time.perf_counter() - began) * 1000)
            assert answer.code == 200, (path(number), answer.text[:300])
        cost = (seconds_used(node.process.pid) - used) * 1000 / TIMES
        rest = took[1:]
        print(f"{name:28} {took[0]:9.0f} {statistics.median(rest):9.0f} {max(rest):9.0f} {cost:11.0f}", flush=True)


def main(attachments: int, received: int) -> None:
    with Lab() as lab:
        node = large(lab, attachments, received)
        print(f"{attachments:,} attachments, {received:,} received routes")
        measure(lab, node)


if __name__ == "__main__":
    main(*(int(word) for word in (sys.argv[1:] or ["10000", "50000"])))
