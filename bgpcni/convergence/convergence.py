"""All exporters of a node: which one announces which attachment, and when an attachment's withdrawal is confirmed.

In the agent each exporter has a thread. In a call without an agent the caller drives the same announcers itself.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from bgpcni.convergence import catalog
from bgpcni.convergence.announcer import Announcer, Book, Reached, RouteState
from bgpcni.convergence.derive import ALL, derive
from bgpcni.convergence.ledger import Announced, Standing
from bgpcni.errors import CniError, InvalidConfiguration, TryAgain
from bgpcni.events import Events
from bgpcni.exporter import Event, NotThereYet, Reach
from bgpcni.model import Announcement, Attachment, AttachmentKey, ExporterUse, Family, Nlri, NodeFacts
from bgpcni.nudges import Nudges
from bgpcni.steps import step

log = logging.getLogger(__name__)
RETIRE_SECONDS = 5.0
LAST_SECONDS = 1.0
"""For so long an exporter that is let go of may take to withdraw what nobody waits for any longer."""
PASSED_ON = 2.0
"""Seconds between the restarts of two speakers: a reflector has acknowledged routes before it passes them on."""
LOOK = 0.1
"""Seconds between two looks whether the peers of a speaker have every route."""
LEVELS = {"sent": Reach.SENT, "acked": Reach.ACKED}


class Others(Protocol):
    """The other attachments of this node, for a call without an agent: its ledgers know only its own attachment."""

    def sharers(self, attachment: Attachment, *, alone: bool) -> AbstractContextManager[Collection[Attachment]]:
        """The attachments that are up and may want the same routes (a network's subnet). Raises CniError.

        `alone`: while the context is open, no other call announces or withdraws a route that several may want.
        """
        ...  # pragma: no cover

    def replay(self, announcer: Announcer) -> None:
        """Announce all attachments that are up, because the speaker has lost its routes. Raises NotThereYet."""
        ...  # pragma: no cover


class Learner(Protocol):
    """Takes learned routes."""

    def heard(self, exporter: str, events: Sequence[Event]) -> None:
        """Take what an exporter has learned. Called from a thread of the exporter."""
        ...  # pragma: no cover


class Convergence:
    """Announcers by exporter name, and how each attachment stands with each of them.

    `nudges`: gets each attachment whose withdrawal an exporter has confirmed. `announced(name, route, reached)`:
    called when an exporter has announced a route for the first time (`Announcer`). `spare`: networks with a record
    that cannot be read, which are not pruned. `learner`: takes what exporters learn. `others`: only in a call without
    an agent. `events`: told what became of routes and sessions.
    """

    def __init__(
        self,
        facts: NodeFacts,
        nudges: Nudges,
        *,
        spare: Callable[[], Collection[str]] = lambda: (),
        announced: Callable[[str, Announced, Reached], None] = lambda name, route, reached: None,
        learner: Learner | None = None,
        others: Others | None = None,
        events: Events | None = None,
    ) -> None:
        self.facts = facts
        self._events = events or Events(0)
        self.resident = others is None
        self._nudges = nudges
        self._announced = announced
        self._spare = spare
        self._learner = learner
        self._families: frozenset[Family] = frozenset()
        self._targets: frozenset[str] | None = None
        self._others = others
        self._lock = threading.RLock()
        self._announcers: dict[str, Announcer] = {}
        self._uses: dict[str, ExporterUse] = {}
        self._renamed: list[tuple[ExporterUse, ExporterUse]] = []
        """What was at work under another name before a `reset`, and its name of now."""
        self._before: list[tuple[ExporterUse, NodeFacts]] = []
        """The node as it was for exporters that are at work only until they are handed over."""
        self._ending: set[tuple[str, str]] = set()
        self._started = False
        self._unreachable: dict[AttachmentKey, set[str]] = {}
        """Exporters that could not be made or used when an attachment had to be withdrawn: nobody confirms that."""
        self._untold: dict[AttachmentKey, None] = {}
        """What a record says of these no exporter knows yet: their networks' routes are not pruned."""

    def start(self) -> None:
        """Start the exporters' threads. Called when all records have been read."""
        with self._lock:
            self._started = True
            waiting = list(self._announcers.values())
            late = [*self._unreachable]
            self._unreachable.clear()
        for announcer in waiting:
            announcer.start()
        for key in late:  # withdrawals that were impossible until now
            self._nudges.nudge(key)

    def stop(self) -> None:
        """Close all exporters, at the same time; their routes stay announced."""
        threads = [threading.Thread(target=announcer.stop) for announcer in self.announcers().values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def renew(self, facts: NodeFacts, uses: Iterable[ExporterUse]) -> None:
        """This node is what it was, but for the names of its speakers: exporters at work go on, beside these."""
        self.facts = facts
        self.employ(uses)

    def reset(self, facts: NodeFacts, uses: Collection[ExporterUse]) -> None:
        """Let go of every exporter, and have these in their place for what this node is now: each knows nothing yet.

        Whoever asks for an exporter meanwhile waits, some seconds at most, and gets one of these: a name of before
        must not take a speaker from its name of now. A speaker that is none any more keeps its neighbours until others
        have taken over from it.
        """
        with self._lock:
            self.stop()
            earlier, at_work = self._renamed, list(self._uses.values())
            self._renamed = list(self._now_called(facts, uses))
            renamed = [use for use, _ in self._renamed]
            for use, now in earlier:  # an ADD that began two reloads ago, or a record, may still have its first name
                if use not in uses and use not in renamed:
                    self._renamed.append((use, catalog.counterpart(now, uses, facts, at_work)))
            # one that nobody has asked for since the last `reset` has still to be handed over
            waiting = [(use, node) for use, node in self._before if use not in self._uses.values()]
            self._before = [
                (use, node)
                for use, node in (*self._at_work_now(), *waiting)
                if node.neighbors and use.name not in facts.speakers and use not in renamed
            ]
            self.facts = facts
            self._announcers, self._uses, self._unreachable, self._untold = {}, {}, {}, {}
            self._started = False
            self.employ(uses)

    def employ(self, uses: Iterable[ExporterUse]) -> None:
        """Have these at work from now on: sessions come up before the first ADD. What cannot be is logged."""
        for use in uses:
            try:
                if not catalog.objection(use, self.facts, f"exporters.{use.name}"):
                    self.ensure(use)
            except CniError as error:
                log.error("exporter %s: %s", use.name, error.msg, extra={"exporter": use.name})

    def renames(self, facts: NodeFacts, uses: Collection[ExporterUse]) -> bool:
        """Whether one that is at work is called otherwise among these."""
        with self._lock:
            return any(self._now_called(facts, uses))

    def _now_called(self, facts: NodeFacts, uses: Collection[ExporterUse]) -> Iterator[tuple[ExporterUse, ExporterUse]]:
        """Those at work that are called otherwise among these, and as what."""
        at_work = list(self._uses.values())
        for use in at_work:
            if (now := catalog.counterpart(use, uses, facts, at_work)) != use:
                yield use, now

    def refuse_rivals(self, uses: Iterable[ExporterUse]) -> None:
        """Raises InvalidConfiguration if one of these cannot run beside those that run, or beside another of these."""
        with self._lock:
            at_work = self._at_work_now()
        if new := [use for use in uses if all(use != other for other, _ in at_work)]:
            catalog.refuse_rivals(new, self.facts, at_work)

    def _at_work_now(self) -> list[tuple[ExporterUse, NodeFacts]]:
        """The exporters at work, each with the node as it sees it."""
        return [(use, self._announcers[name].node) for name, use in self._uses.items()]

    def announcers(self) -> dict[str, Announcer]:
        with self._lock:
            return dict(self._announcers)

    def ensure(self, use: ExporterUse) -> Announcer:
        """The announcer of one exporter; it is made at its first use. Raises InvalidConfiguration or TryAgain."""
        with self._lock:
            name = self._name(use)
            known = self._announcers.get(name)
            if known is not None:
                return known
            use = self._of_now(use)
            facts = self._node_for(use)
            catalog.refuse_rivals([use], facts, self._at_work_now())
            if ending := self._owned([(use, facts)]) & self._ending:
                raise TryAgain(f"exporters: {use.name}: another exporter is still closing {min(ending)[1]}; try again")
            book = Book(name, self._events)
            announcer = Announcer(
                name,
                catalog.make(use, facts, book),
                book,
                self._confirmed,
                self._spared,
                functools.partial(self._announced, name),
            )
            self._announcers[name], self._uses[name] = announcer, use
            self._listen(announcer)
            if self.resident and self._started:
                announcer.start()
            return announcer

    @staticmethod
    def _owned(uses: Iterable[tuple[ExporterUse, NodeFacts]]) -> set[tuple[str, str]]:
        """What these have to themselves, by their type."""
        return {(use.type, what) for use, facts in uses for what in catalog.owned(use, facts)}

    def _name(self, use: ExporterUse) -> str:
        """That of its announcer: its own, unless that is taken by another use of the name, configured otherwise.

        One that agent.toml called otherwise before a `reset` is at work under its name of now. Records may have several
        names of a speaker that agent.toml does not name any more; it is at work under one of them.
        """
        use = self._of_now(use)
        name, known = use.name, self._uses.get(use.name)
        if known is not None and known is not use and known != use:
            name = f"{use.name}@{hashlib.sha256(use.model_dump_json().encode()).hexdigest()[:8]}"
        if name not in self._uses:
            facts = self._node_for(use)
            one = (other for other, at_work in self._uses.items()
                   if catalog.are_one(use, facts, at_work, self._announcers[other].node))  # fmt: skip
            name = next(one, name)
        return name

    def _of_now(self, use: ExporterUse) -> ExporterUse:
        return next((now for old, now in self._renamed if old == use), use)

    def _node_for(self, use: ExporterUse) -> NodeFacts:
        return next((node for before, node in self._before if before == use), self.facts)

    def untold(self, key: AttachmentKey) -> None:
        """Its record could not be looked at: nothing of its network is pruned before it is `told`."""
        with self._lock:
            self._untold[key] = None

    def told(self, key: AttachmentKey) -> None:
        """Exporters know what there is to know of it."""
        if key in self._untold:
            with self._lock:
                self._untold.pop(key, None)
            self.prune()

    def _spared(self) -> set[str]:
        """The networks that are not to be pruned. Takes no lock: `reset` waits for the announcers with ours."""
        return {*self._spare(), *(key.network for key in list(self._untold))}

    def listen(self, families: frozenset[Family]) -> None:
        """Have every exporter that learns routes report these families, also those made later. One thread at a time."""
        self._families = families  # first: an announcer that is made meanwhile reads it
        for announcer in self.announcers().values():
            self._listen(announcer)

    def want_targets(self, targets: frozenset[str]) -> None:
        """Have every exporter that learns routes ask for those with these route targets. One thread at a time."""
        self._targets = targets
        for announcer in self.announcers().values():
            announcer.want_targets(targets)

    def _listen(self, announcer: Announcer) -> None:
        if self._targets is not None:
            announcer.want_targets(self._targets)
        if self._families and self._learner is not None:
            announcer.listen(self._families, functools.partial(self._learner.heard, announcer.name))

    # ---------------------------------------------------------------- wishes

    @step("announce")
    def want(
        self,
        attachment: Attachment,
        uses: Iterable[ExporterUse] | None = None,
        *,
        fresh: bool = False,
        wake: bool = True,
    ) -> None:
        """Announce an attachment from now on, through all of its exporters or through `uses`.

        `fresh`: no run of the agent has announced it, so there is nothing to withdraw first. `wake` False: begin at
        the next `wake` at the latest. In a call without an agent it is announced when this returns; otherwise this
        raises NotThereYet or, if the speaker refuses a route, InvalidConfiguration.
        """
        ready: list[tuple[ExporterUse, Announcer]] = []
        broken: CniError | None = None
        for use in attachment.exporters if uses is None else uses:
            try:
                ready.append((use, self.ensure(use)))
            except CniError as error:  # the other exporters still announce it
                broken = broken or error
        shared = derive(attachment, self.facts)
        with self._lock:
            self._unreachable.pop(attachment.key, None)
        with self._among(attachment, shared) as others:
            for use, announcer in ready:
                routes = shared if announcer.carried >= ALL else derive(attachment, self.facts, announcer.carried)
                self._introduce(others, use, routes)
                announcer.want(attachment.key, routes, fresh=fresh or not self.resident, wake=wake)
                if not self.resident:
                    self._drive(announcer)
                    if reason := announcer.refused(attachment.key):
                        raise InvalidConfiguration(f"exporters: {use.name} refuses {reason}")
        if broken is not None:
            raise broken

    def _among(
        self, attachment: Attachment, routes: Collection[Announcement]
    ) -> AbstractContextManager[Collection[Attachment]]:
        """The other attachments that may want one of these routes. None in the agent, whose ledgers have them
        already."""
        if self._others is None:
            return nullcontext(())
        return self._others.sharers(attachment, alone=any(route.endpoint is None for route in routes))

    def _introduce(self, others: Collection[Attachment], use: ExporterUse, routes: Collection[Announcement]) -> None:
        """Enter the other attachments that want one of these routes into the ledger."""
        if not others:
            return
        nlris = {route.nlri for route in routes}
        for other in others:
            if use not in other.exporters:
                continue
            announcer = self.ensure(use)
            if common := [one for one in self._routes_of(other, announcer.carried) if one.nlri in nlris]:
                announcer.want(other.key, common)

    def wake(self) -> None:
        """Have the announcers begin with what was given to `want` with `wake=False`."""
        for announcer in self.announcers().values():
            announcer.wake()

    def _drive(self, announcer: Announcer) -> None:
        """In a call without an agent: call the exporter now. Raises NotThereYet."""
        announcer.drive_now()
        if announcer.emptied and self._others is not None:
            self._others.replay(announcer)

    @step("withdraw")
    def leave(self, attachment: Attachment, uses: Iterable[ExporterUse] | None = None) -> None:
        """Withdraw an attachment through all of its exporters, or through `uses`. All are asked at once.

        `standing` says how far that has got.
        """
        routes = self._routes_of(attachment)
        uses = tuple(attachment.exporters if uses is None else uses)
        try:
            with self._among(attachment, routes) as others:
                self._leave(attachment, uses, routes, others)
        except CniError as error:
            log.warning("%s: not withdrawn yet: %s", attachment.key, error.msg, extra=attachment.key.fields)
            with self._lock:
                self._unreachable.setdefault(attachment.key, set()).update(self._name(use) for use in uses)

    def _leave(
        self,
        attachment: Attachment,
        uses: Iterable[ExporterUse],
        routes: Collection[Announcement],
        others: Collection[Attachment],
    ) -> None:
        key = attachment.key
        for use in uses:
            try:
                announcer = self.ensure(use)
            except CniError as error:  # an uninstalled exporter must not block a DEL
                log.error("%s: cannot withdraw through %s: %s", key, use.name, error,
                          extra={**key.fields, "exporter": use.name})  # fmt: skip
                with self._lock:
                    self._unreachable.setdefault(key, set()).add(self._name(use))
                continue
            self._introduce(others, use, routes)
            free = announcer.leave(key, routes)
            if not free and not self.resident:
                try:
                    self._drive(announcer)
                except NotThereYet as error:
                    log.warning("%s: not withdrawn through %s yet: %s", key, use.name, error,
                                extra={**key.fields, "exporter": use.name})  # fmt: skip

    def _routes_of(self, attachment: Attachment, carried: Collection[str] = ALL) -> list[Announcement]:
        try:
            return derive(attachment, self.facts, carried)
        except CniError as error:  # the node has no next hop any more; announced routes are in the ledger
            log.warning("%s: %s", attachment.key, error, extra=attachment.key.fields)
            return []

    def excuse(self, key: AttachmentKey, use: ExporterUse) -> None:
        """Count a withdrawal through this exporter as confirmed: it was removed, or the operator said so."""
        with self._lock:
            name = self._name(use)
            self._unreachable.get(key, set()).discard(name)
            announcer = self._announcers.get(name)
        if announcer is not None:
            announcer.excuse(key)

    def forget(self, key: AttachmentKey, use: ExporterUse | None = None) -> None:
        """Forget how an attachment stands, because it is gone, or (with `use`) because this exporter has withdrawn
        it."""
        with self._lock:
            if use is None:
                self._unreachable.pop(key, None)
            announcers = self._announcers.values() if use is None else [self._at_work(use)]
            found = [announcer for announcer in announcers if announcer is not None]
        for announcer in found:
            announcer.forget(key)

    # ---------------------------------------------------------------- one exporter of several

    def unannounced(self, attachment: Attachment, use: ExporterUse) -> str:
        """Why this exporter has not announced every route of an attachment; "" if it has."""
        announcer = self._at_work(use)
        if announcer is None:
            return "it does not run"
        try:
            wanted = {route.nlri for route in derive(attachment, self.facts)}
        except CniError as error:
            return error.msg
        states = announcer.route_states(attachment.key)
        late = [state for nlri in wanted if (state := states.get(nlri)) is None or state.state != "announced"]
        if not late:
            return ""
        return (
            next((state.reason for state in late if state and state.reason), "")
            or announcer.state().reason
            or "not yet"
        )

    def standing(self, attachment: Attachment, use: ExporterUse) -> Standing:
        """How an attachment stands with one of its exporters."""
        key = attachment.key
        with self._lock:
            announcer = self._at_work(use)
            if self._name(use) in self._unreachable.get(key, ()):
                return Standing.LEAVING
        if announcer is None:
            return Standing.UNKNOWN
        try:
            routes = derive(attachment, self.facts, announcer.carried)
        except CniError:  # the node lost its next hop: what was announced is in the ledger
            return announcer.standing(key, None)
        return announcer.standing(key, routes)

    def is_leaving(self, attachment: Attachment, use: ExporterUse) -> bool:
        """Whether a withdrawal through this exporter is not confirmed yet."""
        return self.standing(attachment, use) is Standing.LEAVING

    def is_vain(self, key: AttachmentKey, use: ExporterUse) -> bool:
        """Whether waiting for this exporter's confirmation is vain now: the exporter, or each of its sessions, is
        down."""
        announcer = self._at_work(use)
        return announcer is None or announcer.is_vain(key)

    def is_acknowledged(self, key: AttachmentKey, use: ExporterUse) -> bool:
        """Whether every peer with a session to this exporter has the routes, as far as the exporter can tell."""
        announcer = self._at_work(use)
        return announcer is not None and not announcer.wait_announced(key, Reach.ACKED, 0.0)

    def _at_work(self, use: ExporterUse) -> Announcer | None:
        with self._lock:
            return self._announcers.get(self._name(use))

    def retire(
        self, kept: Callable[[], Collection[ExporterUse]], recorded: Callable[[], Collection[ExporterUse]]
    ) -> list[str]:
        """Close all exporters that are neither `kept` nor `recorded`, end their speakers if they are ours, return their
        names.

        Both functions are called under our lock: an ADD writes its record before it asks for an announcer. `recorded`
        reads all records, so it is called only if it matters.
        """
        with self._lock:
            needed = {self._name(use) for use in kept()}
            if needed >= self._uses.keys():
                return []
            needed |= {self._name(use) for use in recorded()}
            gone = {name: announcer for name, announcer in self._announcers.items() if name not in needed}
            self._ending = self._owned((self._uses[name], announcer.node) for name, announcer in gone.items())
            for name in gone:
                del self._announcers[name], self._uses[name]
        try:
            for announcer in gone.values():  # what it owes was given up, but it may be back
                announcer.retry()
            last = time.monotonic() + LAST_SECONDS
            for announcer in gone.values():
                announcer.wait_quiet(last)
                announcer.drain(time.monotonic() + RETIRE_SECONDS)
                announcer.stop()
        finally:
            with self._lock:
                self._ending = set()
                waiting, self._unreachable = list(self._unreachable), {}
            for key in waiting:  # an exporter that owns what these have owned can run now
                self._nudges.nudge(key)
        return sorted(gone)

    # ---------------------------------------------------------------- waiting

    def wait_announced(self, attachment: Attachment, level: str, deadline: float) -> str:
        """Wait until all its routes are `sent` or `acked` everywhere. Returns "", or at the deadline the reason why
        not."""
        for use in attachment.exporters:
            reason = self.ensure(use).wait_announced(attachment.key, LEVELS[level], deadline)
            if reason:
                return f"{use.name}: {reason}"
        return ""

    @step("confirm")
    def wait_sent(self, key: AttachmentKey, deadline: float) -> bool:
        """Wait until every exporter has sent the withdrawal to all its peers. False at the deadline, or if waiting is
        vain.

        The confirmation may come later; addresses and record are kept until then.
        """
        # we wait for the others even if one is down
        sent = [announcer.wait_sent(key, deadline) for announcer in self.announcers().values()]
        with self._lock:
            return all(sent) and not self._unreachable.get(key)

    def _confirmed(self, owners: list[AttachmentKey]) -> None:
        """Nudge these attachments even if other exporters have not confirmed: one that was removed may never do so."""
        for key in owners:
            self._nudges.nudge(key)

    # ---------------------------------------------------------------- questions

    def rivals(self, attachment: Attachment) -> list[tuple[Nlri, AttachmentKey]]:
        """Routes that should lead to this attachment only but are wanted by another one, too: an address in use
        twice."""
        return [found for use in attachment.exporters for found in self.ensure(use).rivals(attachment.key)]

    def route_states(self, attachment: Attachment) -> dict[Nlri, dict[str, RouteState]]:
        """The state of each route of an attachment at each of its exporters."""
        found: dict[Nlri, dict[str, RouteState]] = {}
        for use in attachment.exporters:
            if (announcer := self._at_work(use)) is not None:
                for nlri, state in announcer.route_states(attachment.key).items():
                    found.setdefault(nlri, {})[announcer.name] = state
        return found

    def prune(self) -> None:
        """Prune everywhere again, because a record that kept its network from being pruned is gone."""
        for announcer in self.announcers().values():
            announcer.prune()

    def retry(self) -> None:
        """Retry what is late, also with exporters that could not be used for a withdrawal."""
        with self._lock:
            self._unreachable.clear()
        for announcer in self.announcers().values():
            announcer.retry()
            if not self.resident:
                try:
                    self._drive(announcer)
                except NotThereYet as error:
                    log.warning("%s: %s", announcer.name, error, extra={"exporter": announcer.name})

    def wait_quiet(self, seconds: float) -> list[str]:
        """Wait until nothing is late. Returns the names of the exporters that still are at the deadline."""
        deadline = time.monotonic() + seconds
        return [name for name, announcer in self.announcers().items() if not announcer.wait_quiet(deadline)]

    def restart_speakers(self, name: str | None, seconds: float) -> tuple[list[str], str]:
        """Restart one speaker after the other, or the one with this name, each once the peers of all others have every
        route. Returns those that are whole again, and why it ended early.

        Raises InvalidConfiguration for a name of no speaker of ours.
        """
        announcers, deadline = self.announcers(), time.monotonic() + seconds
        if name is not None and name not in announcers:
            raise InvalidConfiguration(f"exporters: no exporter at work is called {name}")
        speakers = [each for each, announcer in announcers.items() if announcer.has_speaker]
        done: list[str] = []
        for each in speakers if name is None else [name]:
            if done:
                time.sleep(PASSED_ON)
            for other in speakers:
                while other != each and (reason := announcers[other].lacking()):
                    if time.monotonic() > deadline:
                        return done, f"{each} was left alone: the peers of {other} lack routes: {reason}"
                    time.sleep(LOOK)
            if reason := announcers[each].restart(deadline):
                return done, f"{each}: {reason}"
            done.append(each)
        return done, ""

    def drain(self, seconds: float) -> list[str]:
        """After everything was withdrawn: wait for the confirmations, then end the speakers. Returns the late
        exporters."""
        late = self.wait_quiet(seconds)
        for announcer in self.announcers().values():
            announcer.drain(time.monotonic() + seconds)
        return late
