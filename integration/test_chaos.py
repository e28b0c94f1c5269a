"""Chaos on two nodes with two peers: after every round all is as it should be, after the last DEL nothing is left.

`make soak` runs more seeds and more rounds. A seed that fails prints what happened and how to run it again.
"""

from __future__ import annotations

import os

import pytest

from integration.chaos.faults import FAULTS
from integration.chaos.run import Run, plan
from integration.lab import Lab

SEEDS = [int(word) for word in os.environ.get("BGPCNI_CHAOS_SEEDS", "1").split()]
ROUNDS = int(os.environ.get("BGPCNI_CHAOS_ROUNDS", "4"))


@pytest.mark.timeout(120 * ROUNDS)
@pytest.mark.parametrize("seed", SEEDS)
def test_after_every_round_all_is_as_it_should_be(lab: Lab, seed: int) -> None:
    """Routes at both peers, records, leases, links, filters, processes and what the operator is told agree."""
    run = Run(lab, seed, ROUNDS)
    try:
        run.run()
    finally:
        print("\n".join(f"{count:5} {what}" for what, count in sorted(run.history.calls.items())))


def test_a_seed_decides_what_fails() -> None:
    """The same seed draws the same; in a soak every kind of fault comes."""
    assert plan(7, 40) == plan(7, 40) != plan(8, 40)
    assert {blow.kind for one in plan(7, 40)[1] for blow in one.blows} == set(FAULTS)
