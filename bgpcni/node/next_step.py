"""Decides the next step for one attachment. Pure: it depends on the record, the link, the exporters and the
configuration.

Everything that can happen to an attachment after its ADD goes through `next_step`: DEL, GC, a link or a namespace that
is gone, a caller that is gone, a confirmed withdrawal, a changed configuration, the agent's start, `release`, `sync`,
`drain`. The order in which an attachment ends is here, and nowhere else:

    record to `leaving` -> withdraw -> remove the link -> (exporters confirm) -> release addresses -> delete record
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from bgpcni.convergence.ledger import Standing
from bgpcni.model import ExporterUse, State

PAUSE_SECONDS = 1.0
"""Pause between the last announcement through new exporters and the first withdrawal through the old ones, so that a
neighbour of both reads the announcement first."""
VAIN_SECONDS = 5.0
"""How long a removed exporter may be unreachable before we stop waiting for its confirmations."""
ORPHAN_LOOK = 5.0
"""Seconds between two checks whether another plugin has handled the DEL of an attachment without a link."""
FIRST_LOOK, LONGEST_LOOK = 0.1, 5.0
"""Shortest and longest interval at which a hand-over is polled, in seconds. The interval grows with the time waited,
because many attachments may wait for one exporter."""


class Link(Enum):
    """The attachment's interface, as the node sees it."""

    PRESENT = "present"
    GONE = "gone"
    """It is gone without a DEL; or the attachment is `leaving` and nobody has checked yet whether the link is there."""
    TORN_DOWN = "torn down"
    """We have removed it, with all that was installed for it."""


class AtExporter(NamedTuple):
    """How one attachment stands with one exporter.

    `recorded`: the record names the exporter. `wanted`: by the present configuration it has to announce the
    attachment. `configured`: agent.toml, or the attachment's network, still names it. `vain`: waiting for its
    confirmation is vain now, because the exporter or each of its sessions is down.
    """

    use: ExporterUse
    standing: Standing
    recorded: bool = True
    wanted: bool = True
    configured: bool = True
    vain: bool = False


class View(NamedTuple):
    """All that decides on the next step. Durations are in seconds.

    `state`: the state of its record, None if there is none. `this_boot`: the record is of this boot, so the namespace
    may exist. `told`: exporters may have been given its routes. `renamed`: the record has exporter names of an earlier
    agent.toml. `outdated`: it should be announced with other attributes. `gone_for`: since when its link is gone.
    `announced_for`: since when every wanted exporter has announced it. `vain_for`: since when no removed exporter can
    confirm. `waited`: since when it waits for the same thing. `grace`: how long an attachment without a link waits for
    its DEL. `deleted`: another plugin has handled that DEL. `linger`: the time between withdrawing the routes and
    removing the link. `drained`: this node announces nothing any more.
    """

    state: State | None
    this_boot: bool = True
    told: bool = True
    renamed: bool = False
    outdated: bool = False
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
    """Move the record to `leaving`. `told` False: no exporter was ever given its routes, so none has to withdraw
    them."""

    told: bool = True


@dataclass(frozen=True, slots=True)
class Announce:
    """Have these exporters announce it. New ones are written into the record first."""

    uses: tuple[ExporterUse, ...]


@dataclass(frozen=True, slots=True)
class Revise:
    """Have the record say what agent.toml and the cluster's policies say of it now. It is announced so after that."""


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Have these exporters withdraw it."""

    uses: tuple[ExporterUse, ...]


@dataclass(frozen=True, slots=True)
class TearDown:
    """Remove the link if it exists and is ours, and all that was installed for it, after `linger` seconds."""

    linger: float = 0.0


@dataclass(frozen=True, slots=True)
class Excuse:
    """Count the withdrawals through these exporters as confirmed, because they were removed and are unreachable."""

    uses: tuple[ExporterUse, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """Write into the record that only these exporters announce it."""

    uses: tuple[ExporterUse, ...]


@dataclass(frozen=True, slots=True)
class Release:
    """Release the addresses, then delete the record."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing can be done until something happens or `seconds` have passed. None: until the attachment is nudged."""

    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """Everything is as it should be."""


Step = Leave | Announce | Revise | Withdraw | TearDown | Excuse | Record | Release | Wait | Done
_TO_WITHDRAW = (Standing.UNKNOWN, Standing.WANTED, Standing.ANNOUNCED, Standing.OUTDATED)


def next_step(view: View) -> Step:
    """The next step for an attachment whose lock is held, so that no ADD of it is running."""
    if view.state is None:
        return Done()
    if view.state is State.ADDING:  # its ADD never answered, so it has failed
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
    """Its link is gone without a DEL: withdraw the routes at once, release addresses and record after the grace
    time."""
    if uses := _uses(view, _TO_WITHDRAW):
        return Withdraw(uses)
    if view.link is not Link.TORN_DOWN:
        return TearDown()
    if view.gone_for < view.grace and not view.deleted:
        return Wait(min(view.grace - view.gone_for, ORPHAN_LOOK))
    return Leave()


def _keep(view: View) -> Step:
    """It is up: announce it through the exporters that the configuration names, then withdraw it through any other."""
    if view.drained:
        uses = _uses(view, _TO_WITHDRAW)
        return Withdraw(uses) if uses else Done()
    wanted = [one for one in view.exporters if one.wanted]
    going = [one for one in view.exporters if not one.wanted]
    lacking = [one.use for one in wanted if one.standing not in (Standing.WANTED, Standing.ANNOUNCED)]
    if view.announced_for is None:  # an earlier run's routes stay until the wanted exporters have announced them
        lacking += [one.use for one in going if one.standing is Standing.UNKNOWN]
    if lacking:
        return Announce(tuple(lacking))
    if view.outdated:  # after what was true before is announced: the disk may refuse to let the record say it
        return Revise()
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
    """What to do until all has been confirmed; None if it has. A removed exporter that stays away is not waited for."""
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
