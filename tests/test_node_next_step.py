"""The next step of an attachment, in every possible situation: nothing is released or withdrawn too early, and every
ending completes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest

from bgpcni.convergence.ledger import Standing
from bgpcni.model import ExporterUse, State
from bgpcni.node.next_step import (
    PAUSE_SECONDS,
    VAIN_SECONDS,
    Announce,
    AtExporter,
    Done,
    Excuse,
    Leave,
    Link,
    Record,
    Release,
    TearDown,
    View,
    Wait,
    Withdraw,
    next_step,
)

USES = tuple(ExporterUse(name=name, type="memory") for name in ("one", "two"))


def each_exporter(use: ExporterUse) -> Iterator[AtExporter | None]:
    """Every one of the first; of the second, what tells it from the first."""
    yield None
    for standing, recorded, wanted, configured, vain in product(Standing, *[(False, True)] * 4):
        if (recorded or wanted) and (configured or not wanted) and (use is USES[0] or (configured and not vain)):
            yield AtExporter(use, standing, recorded, wanted, configured, vain)


def every_view() -> Iterator[View]:
    """Each state, with each combination of what two exporters can say, and of the clocks that matter."""
    pairs = [
        tuple(one for one in pair if one is not None) for pair in product(*(list(each_exporter(use)) for use in USES))
    ]
    for state, boot, link, drained in product(State, (True, False), Link, (False, True)):
        for exporters in pairs:
            if state is State.LEAVING and any(one.wanted for one in exporters):
                continue
            announced = all(one.standing is Standing.ANNOUNCED for one in exporters if one.wanted)
            for late in (False, True):
                yield View(
                    state,
                    this_boot=boot,
                    told=late,
                    link=link,
                    exporters=exporters,
                    gone_for=100.0 if late else 0.0,
                    announced_for=(100.0 if late else 0.0) if announced else None,
                    vain_for=100.0 if late else 0.0,
                    grace=60.0,
                    drained=drained,
                )


@pytest.fixture(scope="module")
def views() -> list[View]:
    return list(every_view())


def test_addresses_go_last(views: list[View]) -> None:
    """Rule: an address is free when its record is leaving, its link is gone and every exporter has confirmed."""
    for view in views:
        if isinstance(next_step(view), Release):
            assert view.state is State.LEAVING
            assert view.link is Link.TORN_DOWN
            assert all(one.standing is Standing.GONE for one in view.exporters if one.recorded), view


def test_the_withdrawal_comes_before_the_link(views: list[View]) -> None:
    """Peers stop sending before the link goes, where it is we who take it away."""
    for view in views:
        if isinstance(next_step(view), TearDown):
            assert not any(
                one.standing in (Standing.WANTED, Standing.ANNOUNCED) for one in view.exporters if one.recorded
            ), view
            assert view.state is State.LEAVING or view.link is not Link.PRESENT


def test_what_runs_is_never_torn_down(views: list[View]) -> None:
    """Up, of this boot, its link present: nothing but its exporters can change."""
    for view in views:
        if view.state is State.UP and view.this_boot and view.link is Link.PRESENT:
            assert isinstance(next_step(view), (Announce, Withdraw, Excuse, Record, Wait, Done)), view


def test_an_old_exporter_withdraws_when_the_new_ones_have_announced(views: list[View]) -> None:
    """A hand-over never leaves a neighbour of both without the route."""
    for view in views:
        step = next_step(view)
        present = view.state is State.UP and view.this_boot and view.link is Link.PRESENT
        if present and not view.drained and isinstance(step, Withdraw):
            wanted = [one for one in view.exporters if one.wanted]
            assert all(one.standing is Standing.ANNOUNCED for one in wanted), view
            assert not wanted or (view.announced_for or 0) >= PAUSE_SECONDS
            assert not {one.use.name for one in wanted} & {use.name for use in step.uses}


def test_nothing_is_announced_for_what_ends(views: list[View]) -> None:
    for view in views:
        if isinstance(next_step(view), Announce):
            assert view.state is State.UP
            assert view.this_boot
            assert view.link is Link.PRESENT
            assert not view.drained


def test_only_what_was_removed_and_is_away_is_excused(views: list[View]) -> None:
    for view in views:
        step = next_step(view)
        if isinstance(step, Excuse):
            owing = [one for one in view.exporters if one.use in step.uses]
            assert all(one.vain and not one.configured for one in owing), view
            assert view.vain_for >= VAIN_SECONDS


def test_a_record_names_every_exporter_that_may_have_it(views: list[View]) -> None:
    """An exporter is taken out of a record only when it has confirmed."""
    for view in views:
        step = next_step(view)
        if isinstance(step, Record):
            for one in view.exporters:
                assert one.use in step.uses or one.standing is Standing.GONE, view


def test_a_record_follows_a_name_once_all_is_done() -> None:
    """An exporter that is only called otherwise: nothing is announced or withdrawn, the record says its name."""
    view = View(State.UP, exporters=(AtExporter(USES[0], Standing.ANNOUNCED),), renamed=True)
    assert next_step(view) == Record((USES[0],))
    assert next_step(view._replace(renamed=False)) == Done()


def test_every_situation_comes_to_an_end(views: list[View]) -> None:
    """Each step, taken, leads on: after a few of them the attachment is as it should be, waits, or is gone."""
    for first in views:
        view = first
        for _ in range(20):
            step = next_step(view)
            if isinstance(step, (Wait, Done)):
                break
            view = taken(view, step)
        else:
            raise AssertionError(f"no end: {first}")


def test_what_is_confirmed_at_last_is_released(views: list[View]) -> None:
    """Whatever it waits for: once every exporter has confirmed and every clock has run out, nothing is left."""
    for first in views:
        view = first._replace(
            state=State.LEAVING, exporters=tuple(one._replace(wanted=False) for one in first.exporters)
        )
        for _ in range(20):
            step = next_step(view)
            if isinstance(step, Wait):
                view = view._replace(exporters=tuple(one._replace(standing=Standing.GONE) for one in view.exporters))
            elif isinstance(step, Done):
                break
            else:
                view = taken(view, step)
        assert view.state is None, first


def taken(view: View, step: object) -> View:
    """The view after a step, by what each step promises."""

    def having(uses: tuple[ExporterUse, ...], standing: Standing) -> View:
        return view._replace(
            exporters=tuple(
                one._replace(standing=standing, recorded=True) if one.use in uses else one for one in view.exporters
            ),
        )

    match step:
        case Leave(told):
            kept = view.exporters if told else ()
            return view._replace(state=State.LEAVING, exporters=tuple(one._replace(wanted=False) for one in kept))
        case Announce(uses):
            return having(uses, Standing.WANTED)
        case Withdraw(uses):
            return having(uses, Standing.LEAVING)
        case Excuse(uses):
            return having(uses, Standing.GONE)
        case TearDown():
            return view._replace(link=Link.TORN_DOWN)
        case Record(uses):
            return view._replace(exporters=tuple(one for one in view.exporters if one.use in uses))
        case Release():
            return view._replace(state=None)
    raise AssertionError(step)
