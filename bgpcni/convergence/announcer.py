"""One exporter and the thread that drives it: batches, back-off, replay, prune, and the waiting for what is late.

An exporter that is down, slow or broken holds up nothing but its own thread (rule 3).
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from bgpcni import clock
from bgpcni.convergence.ledger import Entry, Ledger
from bgpcni.exporter import Exporter, Heard, NotThereYet, Outcome, Peer, Reach
from bgpcni.model import Announcement, AttachmentKey, Family, Nlri

log = logging.getLogger(__name__)

BATCH = 2000
CALL_SECONDS = 10.0
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 5.0
LOOK_SECONDS = 5.0
_SETTLED = {"accepted": Reach.ACCEPTED, "sent": Reach.SENT, "acked": Reach.SENT}


@dataclass(frozen=True, slots=True)
class RouteState:
    """What `bgpcni routes` says of one route at one exporter: wanted, announced, withdrawing or refused."""

    state: str
    since: str
    reason: str


@dataclass(frozen=True, slots=True)
class ExporterState:
    """For `bgpcni status`. state: `ok`, `starting`, `late` (reason says why)."""

    state: str
    since: str
    reason: str


class Announcer:
    """Drives one exporter towards its ledger. Safe for threads; implements the exporter's `Wake`.

    `confirmed(owners)` is called, from this announcer's thread and without its lock, with the attachments whose
    withdrawal is now confirmed at this exporter.
    """

    def __init__(
        self,
        name: str,
        confirmed: Callable[[list[AttachmentKey]], None],
        spare: Callable[[], Collection[str]] = lambda: (),
    ) -> None:
        self.name = name
        self._confirmed = confirmed
        self._spare = spare
        self._change = threading.Condition()
        self._exporter: Exporter
        self._ledger: Ledger
        self._replay = True
        self._look = False
        self._look_at_all = False
        self._stopping = False
        self._failures = 0
        self._not_before = 0.0
        self._state = ExporterState("starting", clock.now(), "")
        self._thread: threading.Thread | None = None

    def drive(self, exporter: Exporter) -> None:
        """Take the exporter over (it needed our `Wake` to be made)."""
        self._exporter = exporter
        self._ledger = Ledger(_SETTLED[exporter.acks])

    def start(self) -> None:
        """From here on the exporter is called. What is already wanted was given by `want` and `leave` before."""
        self._thread = threading.Thread(target=self._run, name=f"announce-{self.name}", daemon=True)
        self._thread.start()

    def stop(self, seconds: float = 5.0) -> None:
        """End the thread and let go of the speaker; its routes stay."""
        with self._change:
            self._stopping = True
            self._change.notify_all()
        self._exporter.close()
        if self._thread is not None:
            self._thread.join(seconds)

    # ---------------------------------------------------------------- Wake

    def progress(self) -> None:
        with self._change:
            self._look = True
            self._failures, self._not_before = 0, 0.0
            self._change.notify_all()

    def sessions(self) -> None:
        with self._change:
            self._look_at_all = True
        self.progress()

    def empty(self) -> None:
        with self._change:
            self._replay = True
            self._ledger.replay(clock.now())
            self._failures, self._not_before = 0, 0.0
            self._change.notify_all()

    # ---------------------------------------------------------------- learning

    def listen(self, families: frozenset[Family], heard: Heard) -> None:
        """Have the exporter tell of the routes that peers announce, if it can."""
        if self._exporter.imports == "routes":
            self._exporter.listen(families, heard)

    # ---------------------------------------------------------------- wishes

    def want(self, owner: AttachmentKey, routes: Iterable[Announcement]) -> None:
        with self._change:
            free = self._ledger.want(owner, routes, clock.now())
            self._change.notify_all()
        if free:
            self._confirmed(free)

    def leave(self, owner: AttachmentKey, routes: Iterable[Announcement]) -> bool:
        """True: nothing has to be withdrawn here on this attachment's account."""
        with self._change:
            free = self._ledger.leave(owner, routes, clock.now())
            self._change.notify_all()
        return free

    def is_leaving(self, owner: AttachmentKey) -> bool:
        """Whether some withdrawal on its account is not confirmed here yet."""
        with self._change:
            return self._ledger.is_leaving(owner)

    def forget(self, owner: AttachmentKey) -> None:
        with self._change:
            self._ledger.forget(owner)

    def retry(self) -> None:
        """Ask again for all that is late, now (`bgpcni sync`)."""
        with self._change:
            self._ledger.retry()
            self._failures, self._not_before = 0, 0.0
            self._change.notify_all()

    def withdraw_all(self) -> None:
        """Nobody wants anything here any more (`bgpcni drain`)."""
        with self._change:
            self._ledger.disown_all(clock.now())
            self._change.notify_all()

    # ---------------------------------------------------------------- waiting

    def wait_announced(self, owner: AttachmentKey, level: Reach, deadline: float) -> str:
        """Until every route of `owner` reached `level`, or cannot now; "" or the reason why not."""
        if _rank(self._exporter.acks) < level:
            level = Reach(_rank(self._exporter.acks))
        while True:
            reason = self._short_of(owner, level)
            left = deadline - time.monotonic()
            if not reason or left <= 0:
                return reason
            with self._change:
                # bounded, since what happened between the look and the wait woke nobody
                self._change.wait(min(left, 0.02))

    def _short_of(self, owner: AttachmentKey, level: Reach) -> str:
        """Why not every route of `owner` is at `level`, "" if all are. Asks the exporter without our lock."""
        with self._change:
            entries = self._ledger.routes_of(owner)
            routes = [entry.announcement for entry in entries]
            late = [entry.reason for entry in entries if entry.reach < min(level, self._ledger.settled)]
        if late:
            return late[0] or "not sent yet"
        if level > self._ledger.settled and routes:
            short = [outcome for outcome in self._exporter.progress(routes) if outcome.reach < level]
            if short:
                return short[0].reason or "not acknowledged yet"
        return ""

    def wait_confirmed(self, owner: AttachmentKey, deadline: float) -> bool:
        """Until the withdrawals of `owner` are confirmed. Does not wait for what cannot come: no session is up."""
        with self._change:
            while self._ledger.is_leaving(owner):
                left = deadline - time.monotonic()
                hopeless = all(entry.reason and entry.reach is Reach.WANTED for entry in self._ledger.routes_of(owner))
                if left <= 0 or hopeless or self._stopping:
                    return False
                self._change.wait(left)
        return True

    def wait_quiet(self, deadline: float) -> bool:
        """Until nothing is late (`sync`, `drain`)."""
        with self._change:
            while not self._ledger.quiet:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._change.wait(min(left, 0.5))
        return True

    # ---------------------------------------------------------------- questions

    def state(self) -> ExporterState:
        with self._change:
            return self._state

    def route_states(self, owner: AttachmentKey) -> dict[Nlri, RouteState]:
        with self._change:
            entries = self._ledger.routes_of(owner)
        self._look_again(entries)
        with self._change:
            return {
                entry.announcement.nlri: RouteState(
                    _word(entry.wanted, entry.reach, self._ledger.settled), entry.since, entry.reason
                )
                for entry in self._ledger.routes_of(owner)
            }

    def counts(self) -> dict[str, int]:
        """Routes by state, for status and metrics."""
        found: dict[str, int] = {}
        with self._change:
            entries = list(self._ledger.entries.values())
        self._look_again(entries)
        with self._change:
            for entry in self._ledger.entries.values():
                word = _word(entry.wanted, entry.reach, self._ledger.settled)
                found[word] = found.get(word, 0) + 1
        return found

    def _look_again(self, entries: Iterable[Entry]) -> None:
        """Before saying "announced": sessions fall, and what had got there may not be there any more."""
        if self._exporter.acks == "accepted":
            return
        with self._change:
            settled, epoch = self._ledger.settled, self._ledger.epoch
            routes = [entry.announcement for entry in entries if entry.wanted and entry.reach >= settled]
        try:
            outcomes = self._exporter.progress(routes)
        except NotThereYet as error:
            outcomes = [Outcome(Reach.WANTED, str(error))] * len(routes)
        fallen = [(route, now) for route, now in zip(routes, outcomes, strict=True) if now.reach < settled]
        self._note([route for route, _ in fallen], [now for _, now in fallen], withdrawn=False, epoch=epoch)

    def peers(self) -> list[Peer]:
        return self._exporter.peers()

    def drain(self, deadline: float) -> None:
        """After everything was withdrawn: let the speaker end, and do not call it any more."""
        with self._change:
            self._stopping = True
            self._change.notify_all()
        if self._thread is not None:
            self._thread.join(max(0.0, deadline - time.monotonic()))
        self._exporter.drain(deadline)

    # ---------------------------------------------------------------- the thread

    def drive_now(self) -> None:
        """Without the thread: tell the exporter all that is dirty, once. Raises NotThereYet; never prunes."""
        self._replay = False
        while self._ledger.dirty:
            before = self._ledger.dirty
            try:
                self._step()
            except NotThereYet:
                raise
            except Exception as error:  # one exporter's defect is its own, and no reason for a DEL to fail
                log.exception("exporter %s failed", self.name)
                raise NotThereYet(f"{self.name} failed: {error}") from error
            if self._ledger.dirty >= before:
                raise NotThereYet(f"{self.name} did not answer for every route")

    def _run(self) -> None:
        while True:
            with self._change:
                while not self._stopping and (pause := self._pause()) is not None:
                    if not self._change.wait(pause if pause > 0 else None):
                        self._look = True
                if self._stopping:
                    return
                self._look = False
            try:
                self._step()
                self._note_state("ok", "")
            except NotThereYet as error:
                self._fail(str(error) or "not there yet")
            except Exception as error:  # one exporter's defect is its own
                log.exception("exporter %s failed", self.name)
                self._fail(f"{self.name} failed: {error}")

    def _pause(self) -> float | None:
        """None: there is something to do now. Else seconds to wait, 0 for "until told"."""
        late = self._not_before - time.monotonic()
        if self._look and late <= 0:
            return None
        if self._ledger.dirty or self._replay:
            return late if late > 0 else None
        # what is unsettled is looked at on `progress`; a slow look besides catches what only time decides
        return 0.0 if self._ledger.quiet else LOOK_SECONDS

    def _step(self) -> None:
        """One batch: withdrawals, announcements, then the prune once all was told, then what is unsettled."""
        with self._change:
            announce, withdraw = self._ledger.take(BATCH)
            epoch = self._ledger.epoch
        deadline = time.monotonic() + CALL_SECONDS
        if withdraw:
            self._ask(self._exporter.withdraw, withdraw, deadline, withdrawn=True, epoch=epoch)
        if announce:
            self._ask(self._exporter.announce, announce, deadline, withdrawn=False, epoch=epoch)
        with self._change:
            whole = self._replay and not self._ledger.dirty
            keep = self._ledger.kept() if whole else []
            if whole:
                self._replay = False
        if whole:
            try:
                self._exporter.prune(keep, self._spare(), deadline)
            except BaseException:
                with self._change:
                    self._replay = True
                raise
        self._settle()

    def _ask(
        self,
        verb: Callable[[Sequence[Announcement], float], list[Outcome]],
        routes: list[Announcement],
        deadline: float,
        *,
        withdrawn: bool,
        epoch: int,
    ) -> None:
        try:
            outcomes = verb(routes, deadline)
        except Exception as error:
            with self._change:
                self._ledger.failed(routes, str(error) or "not there yet")
            raise
        self._note(routes, outcomes, withdrawn=withdrawn, epoch=epoch)
        with self._change:
            self._failures = 0

    def _note(
        self, routes: Sequence[Announcement], outcomes: Sequence[Outcome], *, withdrawn: bool, epoch: int
    ) -> None:
        """Into the ledger; who is free to go is told at once, since a later call of the same step may fail."""
        with self._change:
            free = self._ledger.note(routes, outcomes, withdrawn=withdrawn, epoch=epoch, now=clock.now())
            self._change.notify_all()
        if free:
            self._confirmed(free)

    def _settle(self) -> None:
        """Ask how far the unsettled got; after a change of sessions, how far each route is now."""
        with self._change:
            self._ledger.settled = _SETTLED[self._exporter.acks]
            routes = self._ledger.told() if self._look_at_all else self._ledger.unsettled()
            self._look_at_all = False
            wanted = [self._ledger.entries[route.nlri].wanted for route in routes]
            epoch = self._ledger.epoch
            if not routes:
                self._change.notify_all()  # acknowledgements are looked at by those who wait for them
                return
        outcomes = self._exporter.progress(routes)
        for kind in (True, False):
            chosen = [index for index, is_wanted in enumerate(wanted) if is_wanted is kind]
            self._note(
                [routes[index] for index in chosen],
                [outcomes[index] for index in chosen],
                withdrawn=not kind,
                epoch=epoch,
            )

    def _fail(self, reason: str) -> None:
        with self._change:
            self._failures += 1
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self._failures - 1, 10))
            self._not_before = time.monotonic() + pause * random.uniform(0.5, 1.0)
            announce, withdraw = self._ledger.take(BATCH)
            self._ledger.failed([*announce, *withdraw], reason)
            self._change.notify_all()
        self._note_state("late", reason)

    def _note_state(self, state: str, reason: str) -> None:
        with self._change:
            if (self._state.state, self._state.reason) != (state, reason):
                since = self._state.since if self._state.state == state else clock.now()
                if state != self._state.state:
                    log.log(
                        logging.INFO if state == "ok" else logging.WARNING,
                        "exporter %s is %s%s",
                        self.name,
                        state,
                        f": {reason}" if reason else "",
                    )
                self._state = ExporterState(state, since, reason)


def _rank(acks: str) -> int:
    return {"accepted": Reach.ACCEPTED, "sent": Reach.SENT, "acked": Reach.ACKED}[acks]


def _word(wanted: bool, reach: Reach, settled: Reach) -> str:
    if not wanted:
        return "withdrawing"
    if reach is Reach.REFUSED:
        return "refused"
    return "announced" if reach >= settled else "wanted"
