"""One exporter and the thread that drives it: batches, retries with back-off, replay, prune, and waiting for late
routes.

An exporter that is down, slow or broken delays nothing but its own thread.
"""

from __future__ import annotations

import functools
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from bgpcni import clock
from bgpcni.convergence.ledger import Announced, Entry, Ledger, Standing, Waiting
from bgpcni.convergence.sessions import Sessions
from bgpcni.events import Events, Kind
from bgpcni.exporter import Exporter, Heard, NotThereYet, Outcome, Peer, Process, Reach, carried_by
from bgpcni.model import Announcement, AttachmentKey, ExportPolicy, Family, Nlri, NodeFacts
from bgpcni.wire.outbound import adapt

log = logging.getLogger(__name__)

BATCH = 2000
CALL_SECONDS = 10.0
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 5.0
LOOK_SECONDS = 5.0
"""Interval in seconds at which unsettled routes are polled if the exporter does not call `progress`."""
SLOW = 3.0
"""An exporter whose call has not returned after so many seconds is reported as late."""
UNCONFIRMED = "sent; not every peer has acknowledged it yet"
ROUTE_STATES = ("wanted", "announced", "withdrawing", "refused")
_FURTHEST = {"accepted": Reach.ACCEPTED, "sent": Reach.SENT, "acked": Reach.ACKED}


Reached = Callable[[], Mapping[str, float]]
"""When a route was in the socket of each peer, by the peer's address; seconds since the epoch."""


class RouteState(NamedTuple):
    """What `bgpcni routes` says of one route at one exporter: wanted, announced, withdrawing or refused."""

    state: str
    since: str
    reason: str


class ExporterState(NamedTuple):
    """What `bgpcni status` says of an exporter. `state`: `ok`, `starting`, or `late` with the reason."""

    state: str
    since: str
    reason: str


class Book:
    """One exporter's ledger with its lock, and what the exporter reports about its speaker: this is the exporter's
    `Wake`.

    It is made first. Then the exporter and the announcer are made, and both get it. `events`: told of the speaker's
    start and end.
    """

    def __init__(self, name: str = "", events: Events | None = None) -> None:
        self.name = name
        self.events = events or Events(0)
        self.running: bool | None = None
        self.change = threading.Condition()
        self.ledger = Ledger(Reach.ACCEPTED)
        self.replay = True
        self.look = False
        self.look_at_all = False
        self.sessions_changed = False
        self.failures = 0
        self.not_before = 0.0

    def progress(self) -> None:
        with self.change:
            self.look = True
            self.failures, self.not_before = 0, 0.0
            self.change.notify_all()

    def sessions(self) -> None:
        with self.change:
            self.look_at_all = self.sessions_changed = True
        self.progress()

    def speaker(self, running: bool, reason: str = "") -> None:
        with self.change:
            # one that is not there when the agent starts has not ended; it is about to be started
            told = running is not (self.running or False)
            self.running = running
            self.sessions_changed = True  # those of a speaker that was found running may be up
        if told:
            self.events.emit(Kind.SPEAKER_STARTED if running else Kind.SPEAKER_ENDED, exporter=self.name, detail=reason)

    def empty(self) -> None:
        with self.change:
            self.replay = True
            self.ledger.replay(clock.now())
            self.failures, self.not_before = 0, 0.0
            self.change.notify_all()


class Announcer:
    """Calls one exporter until it has done what its ledger says. Safe for threads.

    `book`: the one that the exporter has. `confirmed(owners)` is called with the attachments whose withdrawal this
    exporter has confirmed, from this announcer's thread and without its lock. `announced(route, reached)` is called in
    the same way for each route that is announced for the first time; `reached()` says when each peer's socket had it.
    `spare`: networks that are never pruned.
    """

    def __init__(
        self,
        name: str,
        exporter: Exporter,
        book: Book,
        confirmed: Callable[[list[AttachmentKey]], None] = lambda owners: None,
        spare: Callable[[], Collection[str]] = lambda: (),
        announced: Callable[[Announced, Reached], None] = lambda route, reached: None,
    ) -> None:
        self.name = name
        self._announced = announced
        self._confirmed = confirmed
        self._spare = spare
        self._exporter = exporter
        self._carried = carried_by(type(exporter))
        self._book = book
        self._events = book.events
        self._sessions = Sessions(clock.now())
        self._change = book.change
        self._ledger = book.ledger
        self._ledger.settled, self._ledger.confirmed = _levels(exporter)
        self._failed_calls = 0
        self._stopping = False
        self._drained = False
        self._next_look = 0.0
        self._calling: tuple[float, str, str] | None = None  # since (monotonic, RFC 3339), the verb
        self._unreached = ""  # in a call without an agent: why the speaker could not be reached
        self._state = ExporterState("starting", clock.now(), "")
        self._thread: threading.Thread | None = None

    @property
    def node(self) -> NodeFacts:
        """The node as its exporter sees it."""
        return self._exporter.node

    @property
    def carried(self) -> frozenset[str]:
        """The fields of `Attributes` that its exporter can set for each route."""
        return self._carried

    def start(self) -> None:
        """Start the thread: from here on the exporter is called. `want` and `leave` may have been called before."""
        self._thread = threading.Thread(target=self._run, name=f"announce-{self.name}", daemon=True)
        self._thread.start()

    def stop(self, seconds: float = 5.0) -> None:
        """End the thread and close the exporter; its routes stay announced."""
        with self._change:
            self._stopping = True
            self._change.notify_all()
        self._exporter.close()
        if self._thread is not None:
            self._thread.join(seconds)

    # ---------------------------------------------------------------- learning

    def listen(self, families: frozenset[Family], heard: Heard) -> None:
        """Have the exporter pass the routes that peers announce to `heard`, if it can."""
        if self._exporter.imports == "routes":
            self._exporter.listen(families, heard)

    def want_targets(self, targets: frozenset[str]) -> None:
        """Have the exporter tell its peers which route targets this node imports, if it can."""
        if self._exporter.imports == "routes":
            self._exporter.want_targets(targets)

    # ---------------------------------------------------------------- wishes

    def want(
        self, owner: AttachmentKey, routes: Iterable[Announcement], *, fresh: bool = False, wake: bool = True
    ) -> None:
        """Announce `routes` for `owner`. `fresh`: no run of the agent has announced them for it. `wake` False: the
        caller calls `wake` soon."""
        # what is wanted before the thread starts was first wanted in an earlier run
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
        """Withdraw the routes of `owner`. Returns True if there is nothing to withdraw for it."""
        with self._change:
            free = self._ledger.leave(owner, routes, clock.now())
            if self._drained:
                self._ledger.excuse(owner)
                return True
            self._change.notify_all()
        return free

    def standing(self, owner: AttachmentKey, routes: Collection[Announcement] | None) -> Standing:
        """How an attachment stands here. `routes`: those that it should have; None if they are not known."""
        with self._change:
            return self._ledger.standing(owner, routes)

    def is_leaving(self, owner: AttachmentKey) -> bool:
        """Whether a withdrawal for this attachment is not confirmed here yet."""
        with self._change:
            return self._ledger.is_leaving(owner)

    def excuse(self, owner: AttachmentKey) -> None:
        """Count its withdrawal as confirmed."""
        with self._change:
            self._ledger.excuse(owner)

    def forget(self, owner: AttachmentKey) -> None:
        """Forget how this attachment stands here."""
        with self._change:
            self._ledger.forget(owner)

    def retry(self) -> None:
        """Retry now what is late (`bgpcni sync`)."""
        with self._change:
            self._ledger.retry()
            self._book.failures, self._book.not_before, self._unreached = 0, 0.0, ""
            self._change.notify_all()

    def prune(self) -> None:
        """Have the exporter prune again: its speaker withdraws what is not wanted."""
        with self._change:
            self._book.replay = True
            self._change.notify_all()

    # ---------------------------------------------------------------- waiting

    def wait_announced(self, owner: AttachmentKey, level: Reach, deadline: float) -> str:
        """Wait until every route of `owner` has reached `level`. Returns "", or at the deadline the reason why not."""
        level = min(level, _FURTHEST[self._exporter.acks])
        while True:
            reason = self._short_of(owner, level)
            left = deadline - time.monotonic()
            if not reason or left <= 0:
                return reason
            with self._change:
                # a short wait, because a change between the question and the wait has woken nobody
                self._change.wait(min(left, 0.02))

    def _short_of(self, owner: AttachmentKey, level: Reach) -> str:
        """Why some route of `owner` has not reached `level`; "" if all have. Asks the exporter without our lock."""
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
        """Wait until the withdrawals of `owner` are sent to every peer that can be reached. False if they are not.

        `is_leaving` says whether they are confirmed, too. This does not wait if no session is up.
        """
        with self._change:
            while not self._ledger.is_sent(owner):
                left = deadline - time.monotonic()
                if left <= 0 or self._stopping or self._is_vain(owner, self._ledger.settled):
                    return False
                self._change.wait(left)
        return True

    def is_vain(self, owner: AttachmentKey) -> bool:
        """Whether waiting for a confirmation for `owner` is vain: the exporter is late, or a session is down."""
        with self._change:
            return self._is_vain(owner, self._ledger.confirmed)

    def _is_vain(self, owner: AttachmentKey, level: Reach) -> bool:
        """The same for any level. A route that is only under way has no reason noted."""
        short = [entry for entry in self._ledger.routes_of(owner) if entry.reach < level]
        return all(entry.reason for entry in short) or self._state_now().state == "late"

    def wait_quiet(self, deadline: float) -> bool:
        """Wait until nothing is late (`sync`, `drain`). False at the deadline."""
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
        """The state now. An exporter whose call does not return cannot report that it is late, so that is seen here."""
        if self._calling is not None and self._state.state != "late":
            begun, since, verb = self._calling
            if time.monotonic() - begun > SLOW:
                return ExporterState("late", since, f"no answer to {verb} yet")
        return self._state

    def refused(self, owner: AttachmentKey) -> str:
        """Why the speaker refuses a route of this attachment; "" if it refuses none."""
        with self._change:
            return "; ".join(f"{entry.announcement.nlri}: {entry.reason}" for entry in self._ledger.refused(owner))

    def rivals(self, owner: AttachmentKey) -> list[tuple[Nlri, AttachmentKey]]:
        """Routes that should lead to `owner` only but are wanted by another attachment, too, and that attachment."""
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
        """How many routes are in each state, for status and metrics."""
        with self._change:
            entries, settled = list(self._ledger.entries.values()), self._ledger.settled
        return Counter(_word(entry.wanted, entry.reach, settled) for entry in entries)

    def waiting(self) -> Waiting:
        """What the exporter has still to do."""
        with self._change:
            return self._ledger.waiting

    @property
    def failed_calls(self) -> int:
        """How often the exporter could not do what it was asked, in all."""
        return self._failed_calls

    def process(self) -> Process | None:
        """The speaker's process, if it is ours."""
        return self._exporter.process()

    def peers(self) -> list[Peer]:
        return self._exporter.peers()

    @property
    def has_speaker(self) -> bool:
        """Whether its speaker is ours to be restarted."""
        return type(self._exporter).restart is not Exporter.restart

    def lacking(self) -> str:
        """Why the peers do not have all routes just now; "" if they do."""
        if not self.wait_quiet(0):
            return "some routes are not announced yet"
        return self._exporter.lacking()

    def restart(self, deadline: float) -> str:
        """Restart its speaker. Returns why its peers do not have all routes again at the deadline; "" if they do."""
        return self._exporter.restart(deadline)

    def advertised(self, peer: str) -> list[Announcement] | None:
        """What this peer has been sent, as it hears it; None if the exporter cannot tell."""
        found = self._exporter.advertised(peer)
        if found is None:
            return None
        policy = next((one.export for one in self.node.neighbors if one.address == peer), ExportPolicy())
        with self._change:
            routes = [entry.announcement for nlri in found if (entry := self._ledger.entries.get(nlri)) is not None]
        return [heard for route in routes if (heard := adapt(route, policy)) is not None]

    def session(self, peer: str) -> Mapping[str, object]:
        """More of one session."""
        return self._exporter.session(peer)

    def reset(self, peer: str, *, soft: bool) -> None:
        """Reset one session. Raises CniError."""
        self._exporter.reset(peer, soft=soft)

    def drain(self, deadline: float) -> None:
        """After everything was withdrawn: end the thread, then the speaker if it is ours."""
        with self._change:
            self._stopping = True
            self._change.notify_all()
        if self._thread is not None:
            self._thread.join(max(0.0, deadline - time.monotonic()))
        with self._change:
            self._drained = not self._ledger.entries  # everything is confirmed, so nobody has to wait
        self._exporter.drain(deadline)

    # ---------------------------------------------------------------- the thread

    def drive_now(self) -> None:
        """In a call without an agent: give the exporter all that is dirty, once. Never prunes.

        Raises NotThereYet. A speaker that could not be reached is tried again in this process only by `retry`, so that
        a call with much to do waits for it only once.
        """
        if self._ledger.dirty and self._unreached:
            raise NotThereYet(self._unreached, untouched=True)
        try:
            self._drive_all()
        except NotThereYet as error:
            self._unreached = str(error) or "not there yet"
            raise
        except Exception as error:  # a defect of one exporter must not make a DEL fail
            log.exception("exporter %s failed", self.name, extra={"exporter": self.name})
            self._unreached = f"{self.name} failed: {error}"
            raise NotThereYet(self._unreached) from error

    def _drive_all(self) -> None:
        self._book.replay = False
        while self._ledger.dirty:
            before = self._ledger.dirty
            self._tell()
            if self._book.replay:
                return  # the speaker has lost its routes: the caller knows which others to announce
            if self._ledger.dirty >= before:
                raise NotThereYet(f"{self.name} did not answer for every route")

    @property
    def emptied(self) -> bool:
        """In a call without an agent: whether the speaker turned out to have lost its routes."""
        return self._book.replay

    def replayed(self) -> None:
        """In a call without an agent: everything that is wanted has been announced again."""
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
                changed, self._book.sessions_changed = self._book.sessions_changed, False
            if changed:
                self._look_at_sessions()  # first, because what becomes of routes follows from it
            try:
                self._step(looked)
                self._note_state("ok", "")
            except NotThereYet as error:
                self._fail(str(error) or "not there yet")
            except Exception as error:  # a defect of one exporter must not stop the thread
                log.exception("exporter %s failed", self.name, extra={"exporter": self.name})
                self._fail(f"{self.name} failed: {error}")
            if looked and self._exporter.look_every:
                self._look_at_sessions()  # it was the step that asked the speaker

    def _pause(self) -> float | None:
        """Seconds until the next step; None: there is one now; 0: none until something is wanted or reported."""
        late = self._book.not_before - time.monotonic()
        if self._book.look and late <= 0:
            return None
        if self._ledger.dirty or self._book.replay:
            return late if late > 0 else None
        # unsettled routes are read on `progress`; polling them slowly, too, finds what only the passing of time changes
        pauses = [] if self._ledger.quiet else [LOOK_SECONDS]
        if self._exporter.look_every:
            pauses.append(self._exporter.look_every)
        return max(min(pauses), late) if pauses else 0.0

    def _step(self, looked: bool) -> None:
        """Give one batch; prune once everything is given; then ask for the unsettled. `looked`: due, or asked by
        `Wake`."""
        idle = not self._ledger.dirty and not self._book.replay
        if idle and looked and self._exporter.look_every and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + self._exporter.look_every
            with self._in_call("look"):
                self._exporter.look(time.monotonic() + CALL_SECONDS)
        self._tell()
        self._prune_once_told()
        self._settle(looked)

    def _tell(self) -> None:
        """Give the exporter one batch: withdrawals, then announcements."""
        with self._change:
            announce, withdraw = self._ledger.due(BATCH)
            epoch = self._ledger.epoch
        deadline = time.monotonic() + CALL_SECONDS
        if withdraw:
            self._ask(self._exporter.withdraw, withdraw, deadline, withdrawn=True, epoch=epoch)
        with self._change:
            announce = self._ledger.hand_over(announce)  # without those that are not wanted any more
        if announce:
            self._ask(self._exporter.announce, announce, deadline, withdrawn=False, epoch=epoch)

    def _prune_once_told(self) -> None:
        with self._change:
            if not self._book.replay or self._ledger.dirty:
                return
        spare = self._spare()  # before what is kept: what is told in between is in one of the two
        with self._change:
            keep = self._ledger.kept()
            self._book.replay = False
        try:
            with self._in_call("prune"):
                self._exporter.prune(keep, spare, time.monotonic() + CALL_SECONDS)
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
            log.debug("%s: %s of %d routes", self.name, word, len(outcomes), extra={"exporter": self.name})
        except Exception as error:
            with self._change:
                self._ledger.failed(routes, str(error) or "not there yet")
                untouched = isinstance(error, NotThereYet) and error.untouched
                # only announcements: after a failed withdrawal the speaker still has the routes
                free = self._ledger.hand_back(routes) if untouched and not withdrawn else []
            if free:
                self._confirmed(free)
            raise
        with self._change:
            self._book.failures = 0
        self._note(routes[: len(outcomes)], outcomes, withdrawn=withdrawn, epoch=epoch)

    def _checked(self, verb: str, outcomes: object, count: int) -> list[Outcome]:
        """The answer of an exporter: one to `count` outcomes. Raises TypeError, ValueError or NotThereYet."""
        if not isinstance(outcomes, list) or not all(isinstance(outcome, Outcome) for outcome in outcomes):
            raise TypeError(f"{verb} did not return a list of outcomes")
        if len(outcomes) > count:
            raise ValueError(f"{verb} returned {len(outcomes)} outcomes for {count} routes")
        if not outcomes:
            raise NotThereYet(f"{self.name} did not finish any route within {CALL_SECONDS:g} s")
        return outcomes

    def _note(
        self, routes: Sequence[Announcement], outcomes: Sequence[Outcome], *, withdrawn: bool, epoch: int
    ) -> None:
        """Write outcomes into the ledger. Confirmations are passed on at once, because the rest of the step may
        fail."""
        with self._change:
            free = self._ledger.note(routes, outcomes, withdrawn=withdrawn, epoch=epoch, now=clock.now())
            answered, turns = self._ledger.answered(), self._ledger.turns()
            self._change.notify_all()
        self._events.routes(self.name, turns)
        for each in answered:
            self._announced(each, functools.partial(self._exporter.reached, each.route))
        if free:
            self._confirmed(free)

    def _settle(self, looked: bool) -> None:
        """Ask the exporter how far the unsettled routes are; after a change of sessions ask for each route."""
        if type(self._exporter).progress is Exporter.progress:  # it cannot say how far a route is: give it again
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
                self._change.notify_all()  # those who wait for acknowledgements look for themselves
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

    def _look_at_sessions(self) -> None:
        """Tell of the sessions that came and went."""
        try:
            changes = self._sessions.compare(self._exporter.peers())
        except Exception:  # a defect of one exporter must not stop the thread
            log.exception("exporter %s cannot tell its peers", self.name, extra={"exporter": self.name})
            return
        for kind, peer, reason in changes:
            self._events.emit(kind, exporter=self.name, peer=peer, detail=reason)

    def _fail(self, reason: str) -> None:
        with self._change:
            self._book.failures += 1
            self._failed_calls += 1
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
                if state != self._state.state and (state, self._state.state) != ("ok", "starting"):
                    kind = Kind.EXPORTER_OK if state == "ok" else Kind.EXPORTER_LATE
                    self._events.emit(kind, exporter=self.name, detail=reason)
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
