"""The storm: containers on many nodes, while the members of their store and nodes themselves fail.

`make soak` runs the long one. A seed that fails prints what must not have been, and how to run it again.
"""

from __future__ import annotations

import os

import pytest

from integration.lab import Lab
from integration.storm.plan import FAULTS, plan
from integration.storm.run import Run

SEEDS = [int(word) for word in os.environ.get("BGPCNI_STORM_SEEDS", "1").split()]
NODES = int(os.environ.get("BGPCNI_STORM_NODES", "3"))
CALLS = int(os.environ.get("BGPCNI_STORM_CALLS", "240"))


@pytest.mark.timeout(600 + CALLS)
@pytest.mark.parametrize("seed", SEEDS)
def test_no_address_is_given_twice_and_no_outage_stops_a_node(lab: Lab, seed: int) -> None:
    """No address is ever two living containers'; no ADD fails while a block has room; at the end blocks, leases, routes
    and containers agree, and nothing of a dead node is left."""
    run = Run(lab, seed, NODES, CALLS, faults=max(6, CALLS // 100))
    found = run.run()
    failed = sum(call.error is not None for call in run.answered)
    print(f"{len(run.answered)} calls in {run.seconds:.1f} s, {failed} failed; {[one.kind for one in run.plan.faults]}")
    again = f"BGPCNI_STORM_SEEDS={seed} BGPCNI_STORM_NODES={NODES} BGPCNI_STORM_CALLS={CALLS}"
    assert not found, "\n".join([*found, f"again: {again} pytest integration/test_storm.py"])


def test_a_seed_decides_what_fails() -> None:
    """The same seed draws the same; in a long storm every kind of fault comes."""
    assert plan(7, 10, 1000, 20, 40, 6.0) == plan(7, 10, 1000, 20, 40, 6.0) != plan(8, 10, 1000, 20, 40, 6.0)
    assert {fault.kind for fault in plan(7, 10, 1000, 20, 40, 6.0).faults} == set(FAULTS)
