"""One exporter and the thread that drives it: batches, back-off, replay, prune, and the waiting for what is late.

An exporter that is down, slow or broken holds up nothing but its own thread.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from bgpcni import clock
from bgpcni.convergence.ledger import Entry, Ledger, Standing
from bgpcni.exporter import Exporter, Heard, NotThereYet, Outcome, Peer, Reach
from bgpcni.model import Announcement, AttachmentKey, Family, Nlri

log = logging.getLogger(__name__)

BATCH = 2000
CALL_SECONDS = 10.0
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 5.0
LOOK_SECONDS = 5.0
"""Seconds between two looks at what is unsettled, when nothing was heard of it."""
SLOW = 3.0
"""Seconds after which an exporter that has not come back from a call is said to be late."""
UNCONFIRMED = "sent; not every peer has acknowledged it yet"
ROUTE_STATES = ("wanted", "announced", "withdrawing", "refused")
_FURTHEST = {"accepted": Reach.ACCEPTED, "sent": Reach.SENT, "acked": Reach.ACKED}


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


class Book:
    """One exporter's ledger with its lock, and what the exporter says of its speaker: the exporter's `Wake`.

    It is made before the exporter, which is given it, and the announcer, which works by it.
    """

    def __init__(self) -> None:
        self.change = threading.Condition()
        self.ledger = Ledger(Reach.ACCEPTED)
        self.replay = True
        self.look = False
        self.look_at_all = False
        self.failures = 0
        self.not_before = 0.0

    def progress(self) -> None:
        with self.change:
            self.look = True
            self.failures, self.not_before = 0, 0.0
            self.change.notify_all()

    def sessions(self) -> None:
        with self.change:
            self.look_at_all = True
        self.progress()

    def empty(self) -> None:
        with self.change:
            self.replay = True
            self.ledger.replay(clock.now())
            self.failures, self.not_before = 0, 0.0
            self.change.notify_all()


class Announcer:
    """Drives one exporter towards its ledger. Safe for threads.

    `book` is what the exporter was made with. `confirmed(owners)` is called, from this announcer's thread and without
    its lock, with the attachments whose withdrawal is now confirmed at this exporter. `announced(seconds)`: a route
    is, so long after it was first wanted.
    """

    def __init__(
        self,
        name: str,
        exporter: Exporter,
        book: Book,
        confirmed: Callable[[list[AttachmentKey]], None] = lambda owners: None,
        spare: Callable[[], Collection[str]] = lambda: (),
        announced: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self.name = name
        self._announced = announced
        self._confirmed = confirmed
        self._spare = spare
        self._exporter = exporter
        self._book = book
        self._change = book.change
        self._ledger = book.ledger
        self._ledger.settled, self._ledger.confirmed = _levels(exporter)
        self._stopping = False
        self._drained = False
        self._next_look = 0.0
        self._calling: tuple[float, str, str] | None = None  # since (monotonic, RFC 3339), the verb
        self._unreached = ""  # without the thread: why the speaker was not reached in this process
        self._state = ExporterState("starting", clock.now(), "")
        self._thread: threading.Thread | None = None

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

    # ---------------------------------------------------------------- learning

    def listen(self, families: frozenset[Family], heard: Heard) -> None:
        """Have the exporter tell of the routes that peers announce, if it can."""
        if self._exporter.imports == "routes":
            self._exporter.listen(families, heard)

    # ---------------------------------------------------------------- wishes

    def want(
        self, owner: AttachmentKey, routes: Iterable[Announcement], *, fresh: bool = False, wake: bool = True
    ) -> None:
        """`fresh`: no life has announced them for this attachment yet. `wake` False: somebody calls `wake` soon."""
        # what is wanted before the thread starts was asked for in an earlier life
        asked = time.monotonic() if self._thread else 0.0
        with self._change:
            free = self._ledger.want(owner, routes, clock.now(), fresh=fresh, asked=asked)
            if wake:
                self._change.notify_all()
        if free:
            self._confirmed(free)

    def wake(self) -> None:
        with self._change:
            if self._ledger.dirty:
                self._change.notify_all()

    def leave(self, owner: AttachmentKey, routes: Iterable[Announcement]) -> bool:
        """True: nothing has to be withdrawn here on this attachment's account."""
        with self._change:
            free = self._ledger.leave(owner, routes, clock.now())
            if self._drained:
                self._ledger.excuse(owner)
                return True
            self._change.notify_all()
        return free

    def standing(self, owner: AttachmentKey, routes: Collection[Announcement] | None) -> Standing:
        """How an attachment stands here; `routes`: what it should have, None where that is not known."""
        with self._change:
            return self._ledger.standing(owner, routes)

    def is_leaving(self, owner: AttachmentKey) -> bool:
        """Whether some withdrawal on its account is not confirmed here yet."""
        with self._change:
            return self._ledger.is_leaving(owner)

    def excuse(self, owner: AttachmentKey) -> None:
        """Take its withdrawal for confirmed."""
        with self._change:
            self._ledger.excuse(owner)

    def forget(self, owner: AttachmentKey) -> None:
        """It is not ours to know any more."""
        with self._change:
            self._ledger.forget(owner)

    def retry(self) -> None:
        """Ask again for all that is late, now (`bgpcni sync`)."""
        with self._change:
            self._ledger.retry()
            self._book.failures, self._book.not_before, self._unreached = 0, 0.0, ""
            self._change.notify_all()

    def prune(self) -> None:
        """Have the speaker's table compared with what is wanted, once more."""
        with self._change:
            self._book.replay = True
            self._change.notify_all()

    # ---------------------------------------------------------------- waiting

    def wait_announced(self, owner: AttachmentKey, level: Reach, deadline: float) -> str:
        """Until every route of `owner` reached `level`, or cannot now; "" or the reason why not."""
        level = min(level, _FURTHEST[self._exporter.acks])
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

    def wait_sent(self, owner: AttachmentKey, deadline: float) -> bool:
        """Until the withdrawals of `owner` are on their way to every peer that can be reached.

        They may not be confirmed yet: `is_leaving` tells. Does not wait for what cannot come: no session is up.
        """
        with self._change:
            while not self._ledger.is_sent(owner):
                left = deadline - time.monotonic()
                if left <= 0 or self._stopping or self._is_vain(owner, self._ledger.settled):
                    return False
                self._change.wait(left)
        return True

    def is_vain(self, owner: AttachmentKey) -> bool:
        """Whether no confirmation for `owner` can come now: the exporter is late, or a session is down."""
        with self._change:
            return self._is_vain(owner, self._ledger.confirmed)

    def _is_vain(self, owner: AttachmentKey, level: Reach) -> bool:
        """What is under way has no reason why it is not there yet."""
        short = [entry for entry in self._ledger.routes_of(owner) if entry.reach < level]
        return all(entry.reason for entry in short) or self._state_now().state == "late"

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
            return self._state_now()

    def _state_now(self) -> ExporterState:
        """An exporter that does not come back from a call cannot say that it is late: it is, all the same."""
        if self._calling is not None and self._state.state != "late":
            begun, since, verb = self._calling
            if time.monotonic() - begun > SLOW:
                return ExporterState("late", since, f"no answer to {verb} yet")
        return self._state

    def refused(self, owner: AttachmentKey) -> str:
        """Why the speaker will not take a route of this attachment, "" if it takes all."""
        with self._change:
            return "; ".join(f"{entry.announcement.nlri}: {entry.reason}" for entry in self._ledger.refused(owner))

    def rivals(self, owner: AttachmentKey) -> list[tuple[Nlri, AttachmentKey]]:
        """Routes to `owner` alone that another attachment wants for itself, and which."""
        with self._change:
            return list(self._ledger.rivals(owner))

    def route_states(self, owner: AttachmentKey) -> dict[Nlri, RouteState]:
        with self._change:
            return {
                entry.announcement.nlri: RouteState(
                    _word(entry.wanted, entry.reach, self._ledger.settled), entry.since, self._reason(entry)
                )
                for entry in self._ledger.routes_of(owner)
            }

    def _reason(self, entry: Entry) -> str:
        unconfirmed = not entry.wanted and self._ledger.settled <= entry.reach < self._ledger.confirmed
        return entry.reason or (UNCONFIRMED if unconfirmed else "")

    def counts(self) -> dict[str, int]:
        """Routes by state, for status and metrics."""
        found: dict[str, int] = {}
        with self._change:
            for entry in self._ledger.entries.values():
                word = _word(entry.wanted, entry.reach, self._ledger.settled)
                found[word] = found.get(word, 0) + 1
        return found

    def peers(self) -> list[Peer]:
        return self._exporter.peers()

    def drain(self, deadline: float) -> None:
        """After everything was withdrawn: let the speaker end, and do not call it any more."""
        with self._change:
            self._stopping = True
            self._change.notify_all()
        if self._thread is not None:
            self._thread.join(max(0.0, deadline - time.monotonic()))
        with self._change:
            self._drained = not self._ledger.entries  # all of it was confirmed: nobody has to wait any more
        self._exporter.drain(deadline)

    # ---------------------------------------------------------------- the thread

    def drive_now(self) -> None:
        """Without the thread: tell the exporter all that is dirty, once. Never prunes.

        Raises NotThereYet; a speaker that was not reached is not tried again in this process but by `retry`, so
        that a call with many things to do waits for it once.
        """
        if self._ledger.dirty and self._unreached:
            raise NotThereYet(self._unreached, untouched=True)
        try:
            self._drive_all()
        except NotThereYet as error:
            self._unreached = str(error) or "not there yet"
            raise
        except Exception as error:  # one exporter's defect is its own, and no reason for a DEL to fail
            log.exception("exporter %s failed", self.name, extra={"exporter": self.name})
            self._unreached = f"{self.name} failed: {error}"
            raise NotThereYet(self._unreached) from error

    def _drive_all(self) -> None:
        self._book.replay = False
        while self._ledger.dirty:
            before = self._ledger.dirty
            self._tell()
            if self._book.replay:
                return  # the speaker came back empty: the caller knows what else is to be told
            if self._ledger.dirty >= before:
                raise NotThereYet(f"{self.name} did not answer for every route")

    @property
    def emptied(self) -> bool:
        """Without the thread: the speaker came back empty while it was driven."""
        return self._book.replay

    def replayed(self) -> None:
        """Without the thread: everything that is wanted was told."""
        self._exporter.replayed()

    def _run(self) -> None:
        while True:
            with self._change:
                while not self._stopping and (pause := self._pause()) is not None:
                    if not self._change.wait(pause if pause > 0 else None):
                        self._book.look = True
                if self._stopping:
                    return
                looked, self._book.look = self._book.look, False
            try:
                self._step(looked)
                self._note_state("ok", "")
            except NotThereYet as error:
                self._fail(str(error) or "not there yet")
            except Exception as error:  # one exporter's defect is its own
                log.exception("exporter %s failed", self.name, extra={"exporter": self.name})
                self._fail(f"{self.name} failed: {error}")

    def _pause(self) -> float | None:
        """None: there is something to do now. Else seconds to wait, 0 for "until told"."""
        late = self._book.not_before - time.monotonic()
        if self._book.look and late <= 0:
            return None
        if self._ledger.dirty or self._book.replay:
            return late if late > 0 else None
        # what is unsettled is looked at on `progress`; a slow look besides catches what only time decides
        pauses = [] if self._ledger.quiet else [LOOK_SECONDS]
        if self._exporter.look_every:
            pauses.append(self._exporter.look_every)
        return max(min(pauses), late) if pauses else 0.0

    def _step(self, looked: bool) -> None:
        """One batch, the prune once all was told, then what is unsettled. `looked`: it is time to, or it was woken."""
        idle = not self._ledger.dirty and not self._book.replay
        if idle and looked and self._exporter.look_every and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + self._exporter.look_every
            with self._in_call("look"):
                self._exporter.look(time.monotonic() + CALL_SECONDS)
        self._tell()
        self._prune_once_told()
        self._settle(looked)

    def _tell(self) -> None:
        """One batch: withdrawals, then announcements."""
        with self._change:
            announce, withdraw = self._ledger.due(BATCH)
            epoch = self._ledger.epoch
        deadline = time.monotonic() + CALL_SECONDS
        if withdraw:
            self._ask(self._exporter.withdraw, withdraw, deadline, withdrawn=True, epoch=epoch)
        with self._change:
            announce = self._ledger.hand_over(announce)  # what left meanwhile is not told any more
        if announce:
            self._ask(self._exporter.announce, announce, deadline, withdrawn=False, epoch=epoch)

    def _prune_once_told(self) -> None:
        with self._change:
            whole = self._book.replay and not self._ledger.dirty
            keep = self._ledger.kept() if whole else []
            if whole:
                self._book.replay = False
        if whole:
            try:
                with self._in_call("prune"):
                    self._exporter.prune(keep, self._spare(), time.monotonic() + CALL_SECONDS)
                if not self._book.replay:
                    self._exporter.replayed()
            except BaseException:
                with self._change:
                    self._book.replay = True
                raise

    @contextmanager
    def _in_call(self, verb: str) -> Iterator[None]:
        with self._change:
            self._calling = (time.monotonic(), clock.now(), verb)
        try:
            yield
        finally:
            with self._change:
                self._calling = None

    def _ask(
        self,
        verb: Callable[[Sequence[Announcement], float], list[Outcome]],
        routes: list[Announcement],
        deadline: float,
        *,
        withdrawn: bool,
        epoch: int,
    ) -> None:
        word = "withdraw" if withdrawn else "announce"
        try:
            with self._in_call(word):
                outcomes = self._checked(word, verb(routes, deadline), len(routes))
        except Exception as error:
            with self._change:
                self._ledger.failed(routes, str(error) or "not there yet")
                untouched = isinstance(error, NotThereYet) and error.untouched
                # a withdrawal that the speaker was not given leaves it what it had
                free = self._ledger.hand_back(routes) if untouched and not withdrawn else []
            if free:
                self._confirmed(free)
            raise
        with self._change:
            self._book.failures = 0
        self._note(routes[: len(outcomes)], outcomes, withdrawn=withdrawn, epoch=epoch)

    def _checked(self, verb: str, outcomes: object, count: int) -> list[Outcome]:
        """An exporter's answer, if it is one: up to `count` outcomes, and at least one."""
        if not isinstance(outcomes, list) or not all(isinstance(outcome, Outcome) for outcome in outcomes):
            raise TypeError(f"{verb} gave no list of outcomes")
        if len(outcomes) > count:
            raise ValueError(f"{verb} gave {len(outcomes)} outcomes for {count} routes")
        if not outcomes:
            raise NotThereYet(f"{self.name} did not get to any route in {CALL_SECONDS:g} s")
        return outcomes

    def _note(
        self, routes: Sequence[Announcement], outcomes: Sequence[Outcome], *, withdrawn: bool, epoch: int
    ) -> None:
        """Into the ledger; who is free to go is told at once, since a later call of the same step may fail."""
        with self._change:
            free = self._ledger.note(routes, outcomes, withdrawn=withdrawn, epoch=epoch, now=clock.now())
            answered = self._ledger.answered()
            self._change.notify_all()
        for asked in answered:
            self._announced(time.monotonic() - asked)
        if free:
            self._confirmed(free)

    def _settle(self, looked: bool) -> None:
        """Ask how far the unsettled got; after a change of sessions, how far each route is now."""
        if type(self._exporter).progress is Exporter.progress:  # it cannot tell: it is told again
            with self._change:
                if looked:
                    self._ledger.ask_again()
                self._change.notify_all()
            return
        with self._change:
            self._ledger.settled, self._ledger.confirmed = _levels(self._exporter)
            every, self._book.look_at_all = self._book.look_at_all, False
            routes = self._ledger.told() if every else self._ledger.unsettled()
            wanted = [self._ledger.entries[route.nlri].wanted for route in routes]
            epoch = self._ledger.epoch
            if not routes:
                self._change.notify_all()  # acknowledgements are looked at by those who wait for them
                return
        try:
            outcomes = self._exporter.progress(routes)
        except BaseException:
            with self._change:
                self._book.look = True
                self._book.look_at_all |= every
            raise
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
            self._book.failures += 1
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self._book.failures - 1, 10))
            self._book.not_before = time.monotonic() + pause * random.uniform(0.5, 1.0)
            announce, withdraw = self._ledger.due(BATCH)
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


def _levels(exporter: Exporter) -> tuple[Reach, Reach]:
    """The reach at which a route is announced, and the one at which its withdrawal is confirmed."""
    furthest = _FURTHEST[exporter.acks]
    return min(furthest, Reach.SENT), furthest


def _word(wanted: bool, reach: Reach, settled: Reach) -> str:
    if not wanted:
        return "withdrawing"
    if reach is Reach.REFUSED:
        return "refused"
    return "announced" if reach >= settled else "wanted"
