"""All exporters of a node: who has to know of which attachment, and when an attachment is free to go.

Resident (in the agent) each exporter has a thread; within a call the same announcers are driven by the caller.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from bgpcni.convergence import catalog
from bgpcni.convergence.announcer import Announcer, RouteState
from bgpcni.convergence.derive import derive
from bgpcni.errors import CniError, InvalidConfiguration, TryAgain
from bgpcni.exporter import Event, NotThereYet, Reach
from bgpcni.model import Announcement, Attachment, AttachmentKey, ExporterUse, Family, Nlri, NodeFacts
from bgpcni.steps import step

log = logging.getLogger(__name__)
RETIRE_SECONDS = 5.0
LEVELS = {"sent": Reach.SENT, "acked": Reach.ACKED}


class Sharers(Protocol):
    def __call__(
        self, attachment: Attachment, *, alone: bool
    ) -> AbstractContextManager[Collection[Attachment]]: ...  # pragma: no cover


class Convergence:
    """Announcers by exporter name, and the attachments that wait for the confirmation of their withdrawals.

    `finished(key)`: called without a lock when every exporter has confirmed and nobody waits in `leave`.
    `announced(name, seconds)`: an exporter announced a route, so long after it was first wanted of it.
    `heard(name, events)`: what an exporter learned, from a thread of its own.
    `emptied(announcer)`: within a call, a speaker came back empty; what else is up has to be told to it.
    `sharers(attachment, alone=…)`: within a call, the other attachments that are up; `alone`: while it is held no
    other call announces or withdraws what several may want (a network's subnet). Raises CniError.
    """

    def __init__(
        self,
        facts: NodeFacts,
        *,
        resident: bool,
        finished: Callable[[AttachmentKey], None] = lambda key: None,
        announced: Callable[[str, float], None] = lambda name, seconds: None,
        spare: Callable[[], Collection[str]] = lambda: (),
        heard: Callable[[str, Sequence[Event]], None] = lambda name, events: None,
        emptied: Callable[[Announcer], None] = lambda announcer: None,
        sharers: Sharers = lambda attachment, *, alone: nullcontext(()),
    ) -> None:
        self.facts = facts
        self.resident = resident
        self._finished = finished
        self._announced = announced
        self._spare = spare
        self._heard = heard
        self._families: frozenset[Family] = frozenset()
        self._emptied = emptied
        self._sharers = sharers
        self._lock = threading.RLock()
        self._announcers: dict[str, Announcer] = {}
        self._uses: dict[str, ExporterUse] = {}
        self._ending: set[tuple[str, str]] = set()
        self._started = False
        self._pending: dict[AttachmentKey, set[str]] = {}
        self._attended: set[AttachmentKey] = set()
        self._untold: set[AttachmentKey] = set()
        """Within a call: those whose withdrawal could not be asked for. They are held."""

    def start(self) -> None:
        """The records were read: from here on the exporters are driven."""
        with self._lock:
            self._started = True
            waiting = list(self._announcers.values())
        for announcer in waiting:
            announcer.start()

    def stop(self) -> None:
        """Let go of every speaker, of all at once; routes stay."""
        threads = [threading.Thread(target=announcer.stop) for announcer in self.announcers().values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def refuse_rivals(self, uses: Iterable[ExporterUse]) -> None:
        """Raises InvalidConfiguration if one of these cannot be at work beside those that are, or another of them."""
        with self._lock:
            at_work = list(self._uses.values())
        if new := [use for use in uses if use not in at_work]:
            catalog.refuse_rivals([*at_work, *new])

    def announcers(self) -> dict[str, Announcer]:
        with self._lock:
            return dict(self._announcers)

    def ensure(self, use: ExporterUse) -> Announcer:
        """The announcer of one exporter, made at its first use. Raises InvalidConfiguration, or TryAgain."""
        with self._lock:
            name = self._name(use)
            known = self._announcers.get(name)
            if known is not None:
                return known
            catalog.refuse_rivals([*self._uses.values(), use])
            if (use.type, catalog.owned(use)) in self._ending:
                raise TryAgain(f"exporters: {use.name}: {catalog.owned(use)} is being let go of; try again")
            announcer = Announcer(
                name,
                lambda owners: self._confirmed(name, owners),
                self._spare,
                functools.partial(self._announced, name),
            )
            announcer.drive(catalog.make(use, self.facts, announcer))
            self._announcers[name], self._uses[name] = announcer, use
            if self._families:
                announcer.listen(self._families, functools.partial(self._heard, name))
            if self.resident and self._started:
                announcer.start()
            return announcer

    def _name(self, use: ExporterUse) -> str:
        """That of its announcer: its own, unless that is taken by a later use of the name, configured otherwise."""
        if self._uses.get(use.name, use) == use:
            return use.name
        return f"{use.name}@{hashlib.sha256(use.model_dump_json().encode()).hexdigest()[:8]}"

    def listen(self, families: frozenset[Family]) -> None:
        """Every exporter that learns routes tells of these families, also those made later. One thread at a time."""
        with self._lock:
            self._families = families
            announcers = dict(self._announcers)
        for name, announcer in announcers.items():
            announcer.listen(families, functools.partial(self._heard, name))

    # ---------------------------------------------------------------- wishes

    @step("announce")
    def want(self, attachment: Attachment, *, wake: bool = True) -> None:
        """Announce it, from now on; `wake` False: from the next `wake` on, at the latest.

        Within a call: done when this returns, else NotThereYet or, where the speaker will not take a route,
        InvalidConfiguration.
        """
        ready: list[tuple[ExporterUse, Announcer]] = []
        broken: CniError | None = None
        for use in attachment.exporters:
            try:
                ready.append((use, self.ensure(use)))
            except CniError as error:  # the others go on
                broken = broken or error
        routes = derive(attachment, self.facts)
        with self._lock:
            self._pending.pop(attachment.key, None)
        with self._among(attachment, routes) as others:
            for use, announcer in ready:
                self._introduce(others, use, routes)
                announcer.want(attachment.key, routes, fresh=not self.resident, wake=wake)
                if not self.resident:
                    self._drive(announcer)
                    if reason := announcer.refused(attachment.key):
                        raise InvalidConfiguration(f"exporters: {use.name} refuses {reason}")
        if broken is not None:
            raise broken

    def _among(
        self, attachment: Attachment, routes: Collection[Announcement]
    ) -> AbstractContextManager[Collection[Attachment]]:
        """The other attachments that may want one of these routes; the agent's ledgers know them already."""
        if self.resident:
            return nullcontext(())
        return self._sharers(attachment, alone=any(route.endpoint is None for route in routes))

    def _introduce(self, others: Collection[Attachment], use: ExporterUse, routes: Collection[Announcement]) -> None:
        """Have the ledger know who else wants one of these routes."""
        if not others:
            return
        nlris = {route.nlri for route in routes}
        for other in others:
            if use in other.exporters and (common := [one for one in self._routes_of(other) if one.nlri in nlris]):
                self.ensure(use).want(other.key, common)

    def wake(self) -> None:
        """See to what was wanted without a wake."""
        for announcer in self.announcers().values():
            announcer.wake()

    def _drive(self, announcer: Announcer) -> None:
        """Within a call: tell the exporter now. Raises NotThereYet."""
        announcer.drive_now()
        if announcer.emptied:
            self._emptied(announcer)

    @step("withdraw")
    def leave(self, attachment: Attachment) -> None:
        """Withdraw it, from now on. Every exporter is told at once; `finished` follows when all have confirmed."""
        routes = self._routes_of(attachment)
        key = attachment.key
        with self._lock:
            self._pending[key] = {self._name(use) for use in attachment.exporters}
            self._untold.discard(key)
        try:
            with self._among(attachment, routes) as others:
                self._leave(attachment, routes, others)
        except CniError as error:
            log.warning("%s: not withdrawn yet: %s", key, error.msg)
            with self._lock:
                self._untold.add(key)
        with self._lock:
            if not self._pending.get(key):
                self._pending.pop(key, None)

    def _leave(self, attachment: Attachment, routes: Collection[Announcement], others: Collection[Attachment]) -> None:
        key = attachment.key
        for use in attachment.exporters:
            try:
                announcer = self.ensure(use)
            except CniError as error:  # an exporter that was uninstalled must not wedge a DEL
                log.error("%s: cannot withdraw through %s: %s", key, use.name, error)
                continue
            self._introduce(others, use, routes)
            free = announcer.leave(key, routes)
            with self._lock:
                # said again now that it is told: the confirmation of an earlier leave may have come in between
                names = self._pending.setdefault(key, set())
                if announcer.is_leaving(key):
                    names.add(announcer.name)
                else:
                    names.discard(announcer.name)
            if not free and not self.resident:
                try:
                    self._drive(announcer)
                except NotThereYet as error:
                    log.warning("%s: not withdrawn through %s yet: %s", key, use.name, error)

    def _routes_of(self, attachment: Attachment) -> list[Announcement]:
        try:
            return derive(attachment, self.facts)
        except CniError as error:  # the node lost its next hop: what was announced is in the ledger
            log.warning("%s: %s", attachment.key, error)
            return []

    def release(self, key: AttachmentKey) -> None:
        """By force: do not wait for confirmation any longer."""
        with self._lock:
            self._pending.pop(key, None)
        for announcer in self.announcers().values():
            announcer.forget(key)

    # ---------------------------------------------------------------- one exporter of several

    def unannounced(self, attachment: Attachment, use: ExporterUse) -> str:
        """Why this exporter has not announced every route of an attachment, "" if it has."""
        announcer = self._at_work(use)
        if announcer is None:
            return "it is not at work"
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

    def want_one(self, attachment: Attachment, use: ExporterUse, *, fresh: bool = False) -> None:
        """Announce it through one exporter more. `fresh`: no life has, so there is nothing to withdraw before."""
        self.ensure(use).want(attachment.key, derive(attachment, self.facts), fresh=fresh)

    def leave_one(self, attachment: Attachment, use: ExporterUse) -> None:
        """Withdraw it through one exporter; through the others it stays announced."""
        try:
            announcer = self.ensure(use)
        except CniError as error:  # it was uninstalled: there is nobody to ask
            log.error("%s: cannot withdraw through %s: %s", attachment.key, use.name, error)
            return
        announcer.leave(attachment.key, self._routes_of(attachment))

    def is_leaving_one(self, key: AttachmentKey, use: ExporterUse) -> bool:
        """Whether a withdrawal through this exporter is not confirmed yet."""
        with self._lock:
            name = self._name(use)
            announcer = self._announcers.get(name)
            return name in self._pending.get(key, ()) or (announcer is not None and announcer.is_leaving(key))

    def is_vain(self, key: AttachmentKey, use: ExporterUse) -> bool:
        """Whether nothing that this exporter has to confirm can be confirmed now: it, or every session, is away."""
        announcer = self._at_work(use)
        return announcer is None or announcer.is_vain(key)

    def excuse(self, key: AttachmentKey, use: ExporterUse) -> None:
        """Take a withdrawal through this exporter for confirmed, which was removed."""
        with self._lock:
            name = self._name(use)
            announcer = self._announcers.get(name)
        if announcer is not None:
            announcer.forget(key)
        self._confirmed(name, [key])

    def _at_work(self, use: ExporterUse) -> Announcer | None:
        with self._lock:
            return self._announcers.get(self._name(use))

    def retire(
        self, kept: Callable[[], Collection[ExporterUse]], recorded: Callable[[], Collection[ExporterUse]]
    ) -> list[str]:
        """Let go of all exporters but those kept or recorded, and end their speakers if they are ours; their names.

        Both are asked within our lock: an ADD writes its record before it asks for an announcer. `recorded` reads all
        records, and is asked only if it matters.
        """
        with self._lock:
            needed = list(kept())
            if all(use in needed for use in self._uses.values()):
                return []
            needed += recorded()
            gone = {name: self._announcers[name] for name, use in self._uses.items() if use not in needed}
            self._ending = {(use.type, what) for name in gone if (what := catalog.owned(use := self._uses[name]))}
            for name in gone:
                del self._announcers[name], self._uses[name]
        try:
            for announcer in gone.values():
                announcer.drain(time.monotonic() + RETIRE_SECONDS)
                announcer.stop()
        finally:
            with self._lock:
                self._ending = set()
        return sorted(gone)

    # ---------------------------------------------------------------- waiting

    def wait_announced(self, attachment: Attachment, level: str, deadline: float) -> str:
        """Until all its routes are `sent` or `acked` everywhere, "" or the reason why not by the deadline."""
        for use in attachment.exporters:
            reason = self.ensure(use).wait_announced(attachment.key, LEVELS[level], deadline)
            if reason:
                return f"{use.name}: {reason}"
        return ""

    @step("confirm")
    def wait_sent(self, key: AttachmentKey, deadline: float) -> bool:
        """Until the withdrawal is on its way to every peer of every exporter; False at the deadline, or if in vain.

        Addresses and record wait for the confirmation, which may come later: the caller asks `is_leaving` next, for
        `finished` is not called of a confirmation that comes while this waits.
        """
        with self._lock:
            if key in self._untold:
                return False
            names = {name: self._announcers.get(name) for name in self._pending.get(key, ())}
            self._attended.add(key)
        try:
            sent = True
            for name, announcer in names.items():  # one that is away does not keep us from waiting for the others
                if announcer is not None and announcer.wait_sent(key, deadline):
                    self._discard(key, name)
                else:
                    sent = False
        finally:
            with self._lock:
                self._attended.discard(key)
        return sent

    def is_leaving(self, key: AttachmentKey) -> bool:
        """Whether some exporter has not confirmed its withdrawal: a peer may still have its routes."""
        with self._lock:
            return bool(self._pending.get(key))

    def _confirmed(self, name: str, owners: list[AttachmentKey]) -> None:
        for key in owners:
            if self._discard(key, name):
                self._finished(key)

    def _discard(self, key: AttachmentKey, name: str) -> bool:
        """Note one exporter's confirmation; True when it was the last and nobody waits for it in a call."""
        with self._lock:
            names = self._pending.get(key)
            announcer = self._announcers.get(name)
            if names is None or (announcer is not None and announcer.is_leaving(key)):
                return False  # a confirmation on its way while the attachment came and went again
            names.discard(name)
            if names:
                return False
            del self._pending[key]
            return key not in self._attended

    # ---------------------------------------------------------------- questions

    def rivals(self, attachment: Attachment) -> list[tuple[Nlri, AttachmentKey]]:
        """Routes to this attachment alone that another one wants for itself: its address is given out twice."""
        return [found for use in attachment.exporters for found in self.ensure(use).rivals(attachment.key)]

    def route_states(self, attachment: Attachment) -> dict[Nlri, dict[str, RouteState]]:
        """For each route of an attachment: its state at each of its exporters."""
        found: dict[Nlri, dict[str, RouteState]] = {}
        for use in attachment.exporters:
            announcer = self.announcers().get(self._name(use))
            states = announcer.route_states(attachment.key) if announcer else {}
            for nlri, state in states.items():
                found.setdefault(nlri, {})[self._name(use)] = state
        return found

    def prune(self) -> None:
        """A record that kept a network from being pruned is gone: what it stood for may go now."""
        for announcer in self.announcers().values():
            announcer.prune()

    def retry(self) -> None:
        for announcer in self.announcers().values():
            announcer.retry()
            if not self.resident:
                try:
                    self._drive(announcer)
                except NotThereYet as error:
                    log.warning("%s: %s", announcer.name, error)

    def wait_quiet(self, seconds: float) -> list[str]:
        """Until nothing is late anywhere; the names of the exporters that still are."""
        deadline = time.monotonic() + seconds
        return [name for name, announcer in self.announcers().items() if not announcer.wait_quiet(deadline)]

    def drain(self, seconds: float) -> list[str]:
        """Withdraw everything everywhere, then let the speakers end; the names of those that are late."""
        deadline = time.monotonic() + seconds
        announcers = self.announcers()
        for announcer in announcers.values():
            announcer.withdraw_all()
        late = [name for name, announcer in announcers.items() if not announcer.wait_quiet(deadline)]
        for announcer in announcers.values():
            announcer.drain(time.monotonic() + seconds)
        return late
