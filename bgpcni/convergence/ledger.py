"""What one exporter has to announce, and how far each route has got. A pure state machine: no I/O, no clock.

Each route (an NLRI) has owners, the attachments that want it, and leavers, the attachments that wait until its
withdrawal is confirmed. A route is wanted while it has an owner. A route is `dirty` if it has changed since the
exporter was last given it, and `unsettled` if the exporter has it but the peers do not yet.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from bgpcni.events import Kind, Turn
from bgpcni.exporter import Outcome, Reach
from bgpcni.model import Announcement, AttachmentKey, Nlri


class Standing(Enum):
    """How one attachment stands with one exporter."""

    UNKNOWN = "unknown"
    """This run has not announced or withdrawn it; what an earlier run gave to the speaker is not known."""
    WANTED = "wanted"
    ANNOUNCED = "announced"
    OUTDATED = "outdated"
    """Wanted, but its routes are not those that it should have now."""
    LEAVING = "leaving"
    """The exporter has to withdraw it, and that is not confirmed."""
    GONE = "gone"
    """The withdrawal is confirmed, or the speaker never had it."""


@dataclass(slots=True)
class Entry:
    """One route. `handed`: the speaker may have it. `since`: when `reach` last changed.

    `taken`: it is being given to the speaker for the first time.

    `asked`: when it was first wanted (monotonic seconds), kept until it is announced; 0: it is not timed.
    """

    announcement: Announcement
    owners: dict[AttachmentKey, Announcement] = field(default_factory=dict)
    leavers: set[AttachmentKey] = field(default_factory=set)
    reach: Reach = Reach.WANTED
    reason: str = ""
    since: str = ""
    handed: bool = True
    taken: bool = False
    asked: float = 0.0

    @property
    def wanted(self) -> bool:
        return bool(self.owners)


class Announced(NamedTuple):
    """A route that was announced for the first time. `asked`: when it was first wanted (monotonic seconds)."""

    route: Announcement
    owners: tuple[AttachmentKey, ...]
    asked: float


class Waiting(NamedTuple):
    """How many routes the exporter has still to be given, and how many it has that are not at their peers.

    `since`: since when the first of them waits, RFC 3339; "" if there is none.
    """

    to_give: int
    under_way: int
    since: str


class Ledger:
    """What one exporter has to announce and withdraw.

    `settled`: the reach at which an announcement is done and a withdrawal is sent to every peer. `confirmed`: the
    reach at which no peer has a withdrawn route any more, so that its leavers need not wait.
    """

    def __init__(self, settled: Reach, confirmed: Reach | None = None) -> None:
        self.settled = settled
        self.confirmed = settled if confirmed is None else confirmed
        self.entries: dict[Nlri, Entry] = {}
        self._dirty: dict[Nlri, None] = {}
        self._unsettled: dict[Nlri, None] = {}
        self.epoch = 0
        """Counts replays and retries: an answer to a question of an earlier epoch is not used."""
        self._owned: dict[AttachmentKey, tuple[Nlri, ...]] = {}
        self._leaving: dict[AttachmentKey, set[Nlri]] = {}
        self._gone: set[AttachmentKey] = set()
        """Attachments whose withdrawal is confirmed, until they are forgotten."""
        self._answered: list[Announced] = []
        self._turns: list[Turn] = []

    # ---------------------------------------------------------------- wishes

    def want(
        self,
        owner: AttachmentKey,
        routes: Iterable[Announcement],
        now: str,
        *,
        fresh: bool = False,
        asked: float = 0.0,
    ) -> list[AttachmentKey]:
        """`owner` wants exactly these routes; they replace the routes that it wanted before.

        `fresh`: no run has announced them for it yet, so nothing has to be withdrawn until the speaker was given them.
        `asked`: the monotonic time now, if `answered` should report routes that nobody has wanted before. Returns the
        leavers that need not wait any more because the route is wanted again: same NLRI, same next hop, so nothing has
        to be withdrawn for them. `owner` still waits for the withdrawal of routes that it had and does not want now:
        if it leaves, those must be confirmed, too.
        """
        self._gone.discard(owner)
        wanted = {route.nlri: route for route in routes}
        for nlri in self._owned.get(owner, ()):
            if nlri not in wanted:
                self._disown(owner, nlri, now)
        self._owned[owner] = tuple(wanted)
        free: list[AttachmentKey] = []
        for nlri, route in wanted.items():
            entry = self.entries.get(nlri)
            if entry is None:
                entry = self.entries[nlri] = Entry(route, since=now, handed=False)
            if not fresh:
                _is_of_an_earlier_life(entry)
            if not entry.owners:
                entry.asked = asked
            entry.owners[owner] = route
            free += self._free_leavers(entry, nlri)
            chosen = next(iter(entry.owners.values()))
            if len(entry.owners) == 1 or chosen != entry.announcement:
                entry.announcement = chosen
                self._touch(nlri, now)
        return [leaver for leaver in free if leaver != owner]

    def leave(self, owner: AttachmentKey, routes: Iterable[Announcement], now: str) -> bool:
        """`owner` wants no route any more. Returns True if nothing has to be withdrawn for it.

        `routes`: the routes that it had, needed for an owner that this run does not know (a record of an earlier run).
        """
        owned = self._owned.pop(owner, ())
        for nlri in owned:
            self._disown(owner, nlri, now)
        for route in routes:
            entry = self.entries.get(route.nlri)
            if entry is None:
                if route.nlri in owned:
                    continue  # it was never given to the speaker
                entry = self.entries[route.nlri] = Entry(route, since=now)
                self._touch(route.nlri, now)
            if route.nlri not in owned:
                _is_of_an_earlier_life(entry)
            if not entry.wanted:
                self._wait_for(owner, route.nlri)
        if owner in self._leaving:
            return False
        self._gone.add(owner)
        return True

    def excuse(self, owner: AttachmentKey) -> None:
        """Count the withdrawals for which `owner` waits as confirmed. The exporter still withdraws the routes."""
        for nlri in self._leaving.pop(owner, set()):
            self.entries[nlri].leavers.discard(owner)
        self._gone.add(owner)

    def forget(self, owner: AttachmentKey) -> None:
        """Forget `owner`."""
        self.excuse(owner)
        self._gone.discard(owner)

    def _disown(self, owner: AttachmentKey, nlri: Nlri, now: str) -> None:
        entry = self.entries[nlri]
        first = next(iter(entry.owners)) == owner
        entry.owners.pop(owner, None)
        if not (entry.owners or entry.handed or entry.leavers):
            del self.entries[nlri]
            self._dirty.pop(nlri, None)
        elif not entry.owners:
            self._wait_for(owner, nlri)
            self._touch(nlri, now)
        elif first:
            chosen = next(iter(entry.owners.values()))
            if chosen != entry.announcement:
                entry.announcement = chosen
                self._touch(nlri, now)

    def _wait_for(self, owner: AttachmentKey, nlri: Nlri) -> None:
        self.entries[nlri].leavers.add(owner)
        self._leaving.setdefault(owner, set()).add(nlri)

    def _touch(self, nlri: Nlri, now: str) -> None:
        entry = self.entries[nlri]
        entry.reach, entry.reason, entry.since = Reach.WANTED, "", now
        self._dirty[nlri] = None
        self._unsettled.pop(nlri, None)

    # ---------------------------------------------------------------- the exporter's side

    def replay(self, now: str) -> None:
        """The speaker may have lost its routes: all are dirty, and none counts as announced until it is given again."""
        self.epoch += 1
        for nlri, entry in self.entries.items():
            if entry.reach is not Reach.WANTED:
                entry.reach, entry.since = Reach.WANTED, now
            entry.reason = ""
            self._dirty[nlri] = None
        self._unsettled.clear()

    def retry(self) -> None:
        """Give the exporter again what is late or was refused."""
        self.epoch += 1
        for nlri, entry in self.entries.items():
            if entry.reach < self.settled:
                self._dirty[nlri] = None
                self._unsettled.pop(nlri, None)

    def ask_again(self) -> None:
        """Give an exporter without `progress` again what it has not finished."""
        self._dirty.update(self._unsettled)
        self._unsettled.clear()

    @property
    def dirty(self) -> int:
        return len(self._dirty)

    @property
    def waiting(self) -> Waiting:
        """What is still to be done. Its cost does not depend on how much that is."""
        first = next(iter(self._dirty), None) or next(iter(self._unsettled), None)
        since = "" if first is None else self.entries[first].since
        return Waiting(len(self._dirty), len(self._unsettled), since)

    def due(self, limit: int) -> tuple[list[Announcement], list[Announcement]]:
        """Up to `limit` routes to announce and to withdraw. They stay dirty until an outcome is noted."""
        announce: list[Announcement] = []
        withdraw: list[Announcement] = []
        for nlri in self._dirty:
            entry = self.entries[nlri]
            (announce if entry.wanted else withdraw).append(entry.announcement)
            if len(announce) + len(withdraw) == limit:
                break
        return announce, withdraw

    def hand_over(self, routes: Sequence[Announcement]) -> list[Announcement]:
        """Those of `routes` that are still wanted unchanged. From here on the speaker may have them.

        So they must be withdrawn later, whatever the exporter answers.
        """
        wanted = []
        for route in routes:
            entry = self.entries.get(route.nlri)
            if entry is not None and entry.announcement is route and entry.wanted:
                entry.taken, entry.handed = not entry.handed, True
                wanted.append(route)
        return wanted

    @property
    def quiet(self) -> bool:
        """Whether the exporter was given everything, and each route is settled or refused."""
        return not self._dirty and not self._unsettled

    def unsettled(self) -> list[Announcement]:
        return [self.entries[nlri].announcement for nlri in self._unsettled]

    def told(self) -> list[Announcement]:
        """Every route that is not dirty: the exporter has been given its present form."""
        return [entry.announcement for nlri, entry in self.entries.items() if nlri not in self._dirty]

    def kept(self) -> list[Announcement]:
        """Every wanted route: those that `prune` must not withdraw."""
        return [entry.announcement for entry in self.entries.values() if entry.wanted]

    def note(
        self, told: Sequence[Announcement], outcomes: Sequence[Outcome], *, withdrawn: bool, epoch: int, now: str
    ) -> list[AttachmentKey]:
        """Note the outcomes of `announce`, `withdraw` or `progress`. Returns the leavers that need not wait any more.

        An outcome is ignored if the route has changed since, or if the question was asked before a replay (`epoch`:
        when it was asked). Raises ValueError, and notes nothing, unless there is one outcome for each route.
        """
        if len(outcomes) != len(told):
            raise ValueError(f"{len(outcomes)} outcomes for {len(told)} routes")
        if epoch != self.epoch:
            return []
        free: list[AttachmentKey] = []
        for route, outcome in zip(told, outcomes, strict=True):
            entry = self.entries.get(route.nlri)
            if entry is None or entry.announcement is not route or entry.wanted is withdrawn:
                continue
            self._dirty.pop(route.nlri, None)
            self._turn(entry, outcome, withdrawn=withdrawn)
            if (entry.reach, entry.reason) != (outcome.reach, outcome.reason):
                if entry.reach != outcome.reach:
                    entry.since = now
                entry.reach, entry.reason = outcome.reach, outcome.reason
            done = outcome.reach >= (self.confirmed if withdrawn else self.settled)
            if done and withdrawn:
                free += self._gone_from(route.nlri)
            elif done or outcome.reach is Reach.REFUSED:
                self._unsettled.pop(route.nlri, None)
            else:
                self._unsettled[route.nlri] = None
            if entry.asked and not withdrawn and outcome.reach >= self.settled:
                self._answered.append(Announced(route, tuple(entry.owners), entry.asked))
                entry.asked = 0.0
        return free

    def _turn(self, entry: Entry, outcome: Outcome, *, withdrawn: bool) -> None:
        """Keep what operators are told of this outcome."""
        if withdrawn:
            if outcome.reach >= self.confirmed:
                self._turns.append(Turn(Kind.ROUTE_WITHDRAWN, entry.announcement))
        elif outcome.reach is Reach.REFUSED:
            if (entry.reach, entry.reason) != (outcome.reach, outcome.reason):
                self._turns.append(Turn(Kind.ROUTE_REFUSED, entry.announcement, outcome.reason))
        elif entry.reach < self.settled <= outcome.reach:
            self._turns.append(Turn(Kind.ROUTE_ANNOUNCED, entry.announcement))

    def turns(self) -> list[Turn]:
        """The routes that were announced, refused or withdrawn since the last call of this."""
        found, self._turns = self._turns, []
        return found

    def answered(self) -> list[Announced]:
        """Each route announced for the first time since the last call of this."""
        found, self._answered = self._answered, []
        return found

    def hand_back(self, told: Sequence[Announcement]) -> list[AttachmentKey]:
        """The speaker has certainly got none of these. Those that it never had need no withdrawal.

        Returns the leavers that need not wait any more.
        """
        free: list[AttachmentKey] = []
        for route in told:
            entry = self.entries.get(route.nlri)
            if entry is not None and entry.taken:
                entry.taken = entry.handed = False
                if not entry.owners:
                    self._dirty.pop(route.nlri, None)
                    free += self._gone_from(route.nlri)
        return free

    def failed(self, told: Sequence[Announcement], reason: str) -> None:
        """The exporter could not be called: the routes stay dirty and get `reason`."""
        for route in told:
            entry = self.entries.get(route.nlri)
            if entry is not None and entry.announcement is route:
                entry.reason = reason

    def _gone_from(self, nlri: Nlri) -> list[AttachmentKey]:
        self._unsettled.pop(nlri, None)
        return self._free_leavers(self.entries.pop(nlri), nlri)

    def _free_leavers(self, entry: Entry, nlri: Nlri) -> list[AttachmentKey]:
        free = []
        while entry.leavers:
            owner = entry.leavers.pop()
            waiting = self._leaving[owner]
            waiting.discard(nlri)
            if not waiting:
                del self._leaving[owner]
                if owner not in self._owned:
                    self._gone.add(owner)
                free.append(owner)
        return free

    # ---------------------------------------------------------------- questions

    def standing(self, owner: AttachmentKey, routes: Collection[Announcement] | None) -> Standing:
        """How `owner` stands here. `routes`: those that it should have; None if they are not known."""
        owned = self._owned.get(owner)
        if owned is None:
            if owner in self._leaving:
                return Standing.LEAVING
            return Standing.GONE if owner in self._gone else Standing.UNKNOWN
        if routes is not None and (
            len(owned) != len(routes)
            or any(
                (entry := self.entries.get(route.nlri)) is None or entry.owners.get(owner) != route for route in routes
            )
        ):
            return Standing.OUTDATED
        announced = all(self.entries[nlri].reach >= self.settled for nlri in owned)
        return Standing.ANNOUNCED if announced else Standing.WANTED

    def routes_of(self, owner: AttachmentKey) -> list[Entry]:
        """The entries that an attachment owns or waits for."""
        nlris = self._owned.get(owner) or tuple(self._leaving.get(owner, ()))
        return [self.entries[nlri] for nlri in nlris if nlri in self.entries]

    def rivals(self, owner: AttachmentKey) -> Iterator[tuple[Nlri, AttachmentKey]]:
        """Routes of `owner` that should lead to one container only, but that another attachment wants, too; and that
        one."""
        for nlri in self._owned.get(owner, ()):
            for other, route in self.entries[nlri].owners.items():
                if other != owner and route.endpoint is not None:
                    yield nlri, other

    def refused(self, owner: AttachmentKey) -> list[Entry]:
        """The entries that `owner` wants and the speaker refuses."""
        return [entry for entry in self.routes_of(owner) if entry.wanted and entry.reach is Reach.REFUSED]

    def is_leaving(self, owner: AttachmentKey) -> bool:
        """Whether a withdrawal for `owner` is not confirmed yet."""
        return owner in self._leaving

    def is_sent(self, owner: AttachmentKey) -> bool:
        """Whether every withdrawal for `owner` has been sent to the peers, confirmed or not."""
        return all(self.entries[nlri].reach >= self.settled for nlri in self._leaving.get(owner, ()))


def _is_of_an_earlier_life(entry: Entry) -> None:
    """Note that the speaker may have it from an earlier run: the last owner that leaves has to withdraw it."""
    entry.handed, entry.taken = True, False
