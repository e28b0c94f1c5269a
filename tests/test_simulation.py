"""The node's core through histories of faults: no stale route, no route missing, no address twice or too early, nothing
left. What a seed stands for is in `simulation.history`; a seed that fails is printed, shrunk, and kept in SEEDS.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator

import pytest
from simulation import history, mutants, world
from simulation.branches import Branches

from bgpcni.node import next_step, reconcile

HISTORIES = int(os.environ.get("BGPCNI_HISTORIES", "1000"))
"""More for whoever looks for more: `BGPCNI_HISTORIES=100000 pytest tests/test_simulation.py -k thousand`."""
PORTIONS = 10
SEEDS: tuple[int, ...] = (740, 1278, 1562, 1820, 1854, 1895, 1955, 2968)
"""Histories that failed once, above those that always run."""
ENOUGH = 1000
"""Histories in which each mutant has to be found, and all branches to be taken."""
FIRST = {"release_judges_by_an_old_record": 1600}
"""Where the search for a rare one begins."""


@pytest.fixture(autouse=True)
def models() -> Iterator[None]:
    with world.installed():
        yield


def refuse(result: history.Result) -> None:
    """Fails with what is wrong with a history, shrunk, if anything is."""
    if not result.violations:
        return
    result = history.shrink(result)
    cause = "".join(traceback.format_exception(result.cause)) if result.cause else ""
    plan = result.plan
    words = "\n".join(
        [
            f"seed {plan.seed}, shrunk to {len(plan.containers)} containers and {len(plan.faults)} faults:",
            *map(str, plan.containers),
            *map(str, plan.faults),
            *result.violations,
            cause,
        ]
    )
    pytest.fail(words, pytrace=False)


@pytest.mark.parametrize("portion", range(PORTIONS))
def test_a_thousand_histories(portion: int) -> None:
    """Whatever fails, and in whatever order: the promises hold."""
    for result in history.each(range(portion, HISTORIES, PORTIONS)):
        refuse(result)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_history_that_failed_once(seed: int) -> None:
    refuse(history.run(history.plan_of(seed)))


def test_a_seed_is_a_history() -> None:
    """The same seed gives the same history, to the step."""
    for seed in range(20):
        first, second = (history.run(history.plan_of(seed)) for _ in range(2))
        assert (first.steps, first.turns, first.seconds) == (second.steps, second.turns, second.seconds)


def test_a_history_is_long_enough() -> None:
    """At least three attachments, two peers, forty steps and two faults."""
    for seed in range(50):
        plan = history.plan_of(seed)
        assert len(plan.containers) >= 3
        assert len(plan.faults) >= 2
        assert history.run(plan).steps >= 40
        assert len(world.models.peers) == 2


def kind_of(view: next_step.View) -> tuple[object, ...]:
    """Views of one kind differ in durations alone, and on the same side of each bound."""
    announced = view.announced_for
    return (
        view.state, view.this_boot, view.told, view.renamed, view.link, view.deleted, view.drained,
        view.gone_for < view.grace, view.vain_for < next_step.VAIN_SECONDS,
        announced if announced is None else announced < next_step.PAUSE_SECONDS,
        *((one.standing, one.recorded, one.wanted, one.configured, one.vain) for one in view.exporters),
    )  # fmt: skip


def test_every_branch_of_next_step_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    branches = Branches(next_step, "next_step")
    monkeypatch.setattr(reconcile, "next_step", branches.watched(next_step.next_step, kind_of))
    histories = next((n for n, _ in enumerate(history.each(range(ENOUGH)), 1) if not branches.missing()), ENOUGH)
    print(f"{len(branches.taken)} of {len(branches.wanted)} ways in {histories} histories")
    assert not branches.missing()


@pytest.mark.parametrize("name", mutants.names())
def test_a_mutant_is_found(name: str) -> None:
    """A mend that is taken back does not go unseen."""
    with mutants.applied(name):
        first = FIRST.get(name, 0)
        if any(result.violations for result in history.each(range(first, first + ENOUGH))):
            return
    pytest.fail(f"not found in {ENOUGH} histories: {mutants.told(name)}")
