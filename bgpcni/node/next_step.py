"""What has to be done next for one attachment. Pure: what is recorded, present, told and configured decides.

Everything that can happen to an attachment outside of its ADD goes through `next_step`: DEL, GC, a link or a
namespace that is gone, a caller that is gone, a confirmed withdrawal, a changed configuration, the agent's start,
`release`, `sync`, `drain`. The order in which an attachment ends is here, and nowhere else:

    record `leaving` -> withdraw -> link -> (confirmed by every exporter) -> addresses -> record
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

from bgpcni.convergence.ledger import Standing
from bgpcni.model import ExporterUse, State

PAUSE_SECONDS = 1.0
"""Between the last announcement through new exporters and the first withdrawal through the old ones: a neighbour of
both has to read the one first."""
VAIN_SECONDS = 5.0
"""For so long an exporter that was removed may be unreachable before what it owes is given up."""
ORPHAN_LOOK = 5.0
"""Seconds between two looks whether an attachment without a link had its DEL from another plugin."""
FIRST_LOOK, LONGEST_LOOK = 0.1, 5.0
"""Seconds between two looks at a hand-over; the longer it has waited, the longer: many may wait for one exporter."""


class Link(Enum):
    """The attachment's interface, as the node sees it."""

    PRESENT = "present"
    GONE = "gone"
    """It went without a DEL, or nobody has looked yet whether a `leaving` attachment still has it."""
    TORN_DOWN = "torn down"
    """We made sure that it is gone, with all that was installed for it."""


@dataclass(frozen=True, slots=True)
class AtExporter:
    """One attachment at one exporter.

    `recorded`: the record names it. `wanted`: the configuration of now wants the attachment announced through it.
    `configured`: agent.toml, or the attachment's network, still names it. `vain`: what it has to confirm cannot be
    confirmed now, since it, or every session of it, is away.
    """

    use: ExporterUse
    standing: Standing
    recorded: bool = True
    wanted: bool = True
    configured: bool = True
    vain: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """All that decides on the next step. Durations are in seconds.

    `state`: of its record, None where there is none. `this_boot`: the record is of this boot, so its namespace may be
    there. `told`: exporters may have been told of it. `renamed`: the record calls exporters by names that agent.toml
    had earlier. `gone_for`, `announced_for`, `vain_for`, `waited`: for how long its link is gone; every wanted exporter
    has announced it; nothing that removed exporters owe can be confirmed; it waits for the same thing. `grace`: how
    long an attachment without a link waits for its DEL. `deleted`: another plugin had that DEL. `linger`: between
    withdrawal and tearing down. `drained`: nothing is announced on this node any more.
    """

    state: State | None
    this_boot: bool = True
    told: bool = True
    renamed: bool = False
    link: Link = Link.PRESENT
    exporters: tuple[AtExporter, ...] = ()
    gone_for: float = 0.0
    deleted: bool = False
    announced_for: float | None = None
    vain_for: float = 0.0
    waited: float = 0.0
    grace: float = 0.0
    linger: float = 0.0
    drained: bool = False


# ---------------------------------------------------------------- the steps


@dataclass(frozen=True, slots=True)
class Leave:
    """Move the record to `leaving`. `told` False: no exporter was ever told of it, so none has to withdraw it."""

    told: bool = True


@dataclass(frozen=True, slots=True)
class Announce:
    """Have these exporters announce it; the record names those that are new first."""

    uses: tuple[ExporterUse, ...]


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Have these exporters withdraw it."""

    uses: tuple[ExporterUse, ...]


@dataclass(frozen=True, slots=True)
class TearDown:
    """Remove the link if it is there and ours, and all that was installed for it, `linger` seconds from now."""

    linger: float = 0.0


@dataclass(frozen=True, slots=True)
class Excuse:
    """Take the withdrawals through these exporters, which were removed and are away, for confirmed."""

    uses: tuple[ExporterUse, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """Write into the record that these exporters alone have it."""

    uses: tuple[ExporterUse, ...]


@dataclass(frozen=True, slots=True)
class Release:
    """Give the addresses back, then drop the record."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing can be done before something happens, or `seconds` have passed (None: until it is nudged)."""

    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """Everything is as it should be."""


Step = Leave | Announce | Withdraw | TearDown | Excuse | Record | Release | Wait | Done
_TO_WITHDRAW = (Standing.UNKNOWN, Standing.WANTED, Standing.ANNOUNCED, Standing.OUTDATED)


def next_step(view: View) -> Step:
    """The next step for an attachment whose lock is held, so that no ADD of it is running."""
    if view.state is None:
        return Done()
    if view.state is State.ADDING:  # its ADD never answered
        return Leave(view.told)
    if view.state is State.LEAVING:
        return _end(view)
    if not view.this_boot:
        return Leave()
    return _keep(view) if view.link is Link.PRESENT else _orphan(view)


def _end(view: View) -> Step:
    if uses := _uses(view, _TO_WITHDRAW):
        return Withdraw(uses)
    if view.link is not Link.TORN_DOWN:
        return TearDown(view.linger)
    late = [one for one in view.exporters if one.standing is Standing.LEAVING]
    return _until_confirmed(view, late) or Release()


def _orphan(view: View) -> Step:
    """Its link went without a DEL: the routes go at once, addresses and record after the grace."""
    if uses := _uses(view, _TO_WITHDRAW):
        return Withdraw(uses)
    if view.link is not Link.TORN_DOWN:
        return TearDown()
    if view.gone_for < view.grace and not view.deleted:
        return Wait(min(view.grace - view.gone_for, ORPHAN_LOOK))
    return Leave()


def _keep(view: View) -> Step:
    """It is up: announced through what the configuration wants, and only then withdrawn through anything else."""
    if view.drained:
        uses = _uses(view, _TO_WITHDRAW)
        return Withdraw(uses) if uses else Done()
    wanted = [one for one in view.exporters if one.wanted]
    going = [one for one in view.exporters if not one.wanted]
    lacking = [one.use for one in wanted if one.standing not in (Standing.WANTED, Standing.ANNOUNCED)]
    if view.announced_for is None:  # what an earlier life announced goes on, until all is announced otherwise
        lacking += [one.use for one in going if one.standing is Standing.UNKNOWN]
    if lacking:
        return Announce(tuple(lacking))
    if not going:
        return Record(tuple(one.use for one in wanted)) if view.renamed else Done()
    if view.announced_for is None:
        return Wait(_look_again(view))
    if wanted and view.announced_for < PAUSE_SECONDS:
        return Wait(PAUSE_SECONDS - view.announced_for)
    if uses := tuple(one.use for one in going if one.standing in _TO_WITHDRAW):
        return Withdraw(uses)
    late = [one for one in going if one.standing is Standing.LEAVING]
    return _until_confirmed(view, late) or Record(tuple(one.use for one in wanted))


def _until_confirmed(view: View, late: Collection[AtExporter]) -> Step | None:
    """None when nobody owes a confirmation. What a removed exporter owes is given up when it does not come back."""
    if not late:
        return None
    if any(one.configured for one in late):
        return Wait(_look_again(view) if view.state is State.UP else None)
    if not all(one.vain for one in late):
        return Wait(_look_again(view))
    if view.vain_for < VAIN_SECONDS:
        return Wait(VAIN_SECONDS - view.vain_for)
    return Excuse(tuple(one.use for one in late))


def _uses(view: View, standings: Collection[Standing]) -> tuple[ExporterUse, ...]:
    return tuple(one.use for one in view.exporters if one.recorded and one.standing in standings)


def _look_again(view: View) -> float:
    return min(LONGEST_LOOK, max(FIRST_LOOK, view.waited / 8))
