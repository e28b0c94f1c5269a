"""Containers come and go at random on two nodes of one network."""

from __future__ import annotations

import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from integration import evpn
from integration.lab import Lab, Namespace, until

CONTAINERS = 200
AT_ONCE = 4
SECONDS = float(os.environ.get("BGPCNI_CHURN_SECONDS", "20"))
"""How long they come and go; two minutes before a release."""


@pytest.mark.timeout(600)
def test_after_much_coming_and_going_everything_is_as_wanted(lab: Lab) -> None:
    """At the end the kernels and FRR have what is wanted and no more; after the last DEL nothing is left."""
    frr = lab.frr()
    fabric = evpn.Fabric(lab, frr, 2)
    spaces: list[Namespace] = [lab.namespace(f"c{number}") for number in range(CONTAINERS)]
    present: dict[int, evpn.Container] = {}
    lock = threading.Lock()
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    end = time.monotonic() + SECONDS

    def come_and_go(numbers: range) -> int:
        chance, calls = random.Random(seed + numbers.start), 0
        while time.monotonic() < end:
            number = chance.choice(numbers)
            with lock:
                known = present.pop(number, None)
            if known is not None:
                known.delete()
            else:
                # 40 addresses a node are too few: that is part of it
                node = chance.randrange(2)
                where = fabric.nodes[node]
                conf = evpn.network(where, node + 1)
                answer = where.cni("ADD", f"c{number}", spaces[number], conf)
                if answer.ok:
                    with lock:
                        present[number] = evpn.Container(f"c{number}", where, spaces[number], conf, answer)
                else:
                    assert "addresses" in answer.document["msg"] or "available" in answer.document["msg"], answer
            calls += 1
        return calls

    share = CONTAINERS // AT_ONCE
    with ThreadPoolExecutor(AT_ONCE) as pool:
        calls = sum(pool.map(come_and_go, [range(n * share, (n + 1) * share) for n in range(AT_ONCE)]))
    print(f"{calls} calls in {SECONDS:g} s, {len(present)} containers at the end")

    everybody = {ip: x.mac for x in present.values() for ip in x.answer.ips}
    for node, other in (fabric.nodes, fabric.nodes[::-1]):
        wanted = {x.mac: other.address for x in present.values() if x.node is other}
        until(lambda n=node, w=wanted: evpn.remote(n) == w, f"the entries of {node.address}")  # type: ignore[misc]
        until(lambda n=node: evpn.neighbours(n) == everybody, f"the neighbours of {node.address}")  # type: ignore[misc]
        assert evpn.flood(node) == {other.address}
        leased = {ip for x in present.values() if x.node is node for ip in x.answer.ips}
        until(lambda n=node, ips=leased: n.lease_files() == ips, f"the leases of {node.address}")  # type: ignore[misc]
    macip = {f"[{x.mac}]:[{128 if ':' in ip else 32}]:[{ip}]" for x in present.values() for ip in x.answer.ips}
    until(lambda: {name.partition("[48]:")[2] for name in frr.evpn_routes("macip")} == macip, "FRR's table")
    one, two = (next(x for x in present.values() if x.node is node) for node in fabric.nodes)
    evpn.connected(one, two)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(evpn.Container.delete, present.values()))
    for node in fabric.nodes:
        evpn.empty(node)
    until(lambda: not frr.evpn_routes(), "no route at FRR")
