"""Corrections of past defects, each undone by a mutant: the simulation must find every one. A mutant is a temporary
patch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

from bgpcni.agent import agent as agents
from bgpcni.agent.policies import Policies
from bgpcni.commands import answers
from bgpcni.commands.answers import orders
from bgpcni.convergence import announcer
from bgpcni.convergence.announcer import Announcer, Book
from bgpcni.convergence.convergence import Convergence
from bgpcni.convergence.ledger import Ledger, Standing
from bgpcni.exporter import Exporter, Reach
from bgpcni.model import Announcement, AttachmentKey, State
from bgpcni.node import next_step as steps
from bgpcni.node import reconcile
from bgpcni.node.node import Node
from bgpcni.node.request import Request
from bgpcni.nudges import Nudges

from . import models as m
from .scheduler import sched

Patch = tuple[object, str, object]
_MUTANTS: dict[str, Callable[[], list[Patch]]] = {}


def mutant(make: Callable[[], list[Patch]]) -> Callable[[], list[Patch]]:
    _MUTANTS[make.__name__] = make
    return make


def names() -> list[str]:
    return list(_MUTANTS)


def told(name: str) -> str:
    """What the mutant does wrong."""
    return (_MUTANTS[name].__doc__ or "").strip()


@contextmanager
def applied(name: str) -> Iterator[None]:
    """Within `installed`."""
    before = []
    for owner, attribute, value in _MUTANTS[name]():
        before.append((owner, attribute, vars(owner)[attribute]))
        setattr(owner, attribute, value)
    try:
        yield
    finally:
        for owner, attribute, value in reversed(before):
            setattr(owner, attribute, value)


# ---------------------------------------------------------------- what the speaker has, and what is confirmed


@mutant
def not_handed_until_the_verb_returns() -> list[Patch]:
    """A route counts as handed to the speaker only when the verb has returned."""

    def hand_over(self: Ledger, routes: Sequence[Announcement]) -> list[Announcement]:
        return [
            route
            for route in routes
            if (entry := self.entries.get(route.nlri)) and entry.announcement is route and entry.wanted
        ]

    note = Ledger.note

    def noted(self: Ledger, told: Sequence[Announcement], outcomes: Any, **how: Any) -> list[AttachmentKey]:
        for route in told:
            if not how["withdrawn"] and (entry := self.entries.get(route.nlri)) is not None:
                entry.handed = True
        return note(self, told, outcomes, **how)

    return [(Ledger, "hand_over", hand_over), (Ledger, "note", noted)]


@mutant
def confirmed_when_sent() -> list[Patch]:
    """A withdrawal counts as confirmed when it is in the socket."""

    def levels(exporter: Exporter) -> tuple[Reach, Reach]:
        return Reach.SENT, Reach.SENT

    return [(announcer, "_levels", levels)]


@mutant
def confirmed_by_the_first_peer() -> list[Patch]:
    """A withdrawal counts as confirmed when one peer of several has acknowledged it."""
    reach = m.Speaker.reach

    def furthest(self: m.Speaker, nlri: Any) -> Any:
        whole, found = self.sessions, []
        try:
            for session in whole:
                self.sessions = [session]
                found.append(reach(self, nlri))
        finally:
            self.sessions = whole
        return max(found, key=lambda outcome: outcome.reach)

    return [(m.Speaker, "reach", furthest)]


@mutant
def a_withdrawal_is_handed_back() -> list[Patch]:
    """A withdrawal that the speaker was not given counts as one that needs none."""
    ask = Announcer._ask

    def asked(self: Announcer, verb: Any, routes: list[Announcement], deadline: float, **how: Any) -> None:
        try:
            ask(self, verb, routes, deadline, **how)
        except announcer.NotThereYet as error:
            if error.untouched:
                with self._change:
                    free = self._ledger.hand_back(routes)
                if free:
                    self._confirmed(free)
            raise

    return [(Announcer, "_ask", asked)]


@mutant
def handed_back_although_touched() -> list[Patch]:
    """What the speaker may have been given before it stopped answering counts as not given."""
    ask = Announcer._ask

    def asked(self: Announcer, verb: Any, routes: list[Announcement], deadline: float, **how: Any) -> None:
        try:
            ask(self, verb, routes, deadline, **how)
        except announcer.NotThereYet:
            if not how["withdrawn"]:
                with self._change:
                    free = self._ledger.hand_back(routes)
                if free:
                    self._confirmed(free)
            raise

    return [(Announcer, "_ask", asked)]


@mutant
def an_outcome_from_before_a_replay_counts() -> list[Patch]:
    """What a verb answers is noted, although the speaker came back empty while it ran."""
    note = Ledger.note

    def noted(self: Ledger, told: Any, outcomes: Any, *, epoch: int, **how: Any) -> list[AttachmentKey]:
        return note(self, told, outcomes, epoch=self.epoch, **how)

    return [(Ledger, "note", noted)]


@mutant
def an_empty_speaker_is_not_told_again() -> list[Patch]:
    """A speaker that came back knowing nothing is pruned, and not told anew."""

    def empty(self: Book) -> None:
        with self.change:
            self.replay = True
            self.change.notify_all()

    return [(Book, "empty", empty)]


@mutant
def a_prune_that_failed_is_not_repeated() -> list[Patch]:
    """The speaker's table is pruned once, whether that worked or not."""
    prune = Announcer._prune_once_told

    def pruned(self: Announcer) -> None:
        try:
            prune(self)
        except announcer.NotThereYet:
            self._book.replay = False

    return [(Announcer, "_prune_once_told", pruned)]


# ---------------------------------------------------------------- ADD


@mutant
def a_dead_caller_is_not_looked_for() -> list[Patch]:
    """An ADD goes on although its caller is gone, and a DEL may have been answered."""
    return [(Request, "refuse_hung_up", lambda self: None)]


@mutant
def an_add_that_fails_leaves_its_record() -> list[Patch]:
    """What an ADD has begun is not taken back."""
    return [(reconcile, "undo_add", lambda node, attachment, held: None)]


# ---------------------------------------------------------------- how an attachment ends


@mutant
def leaving_is_not_written() -> list[Patch]:
    """The record of an attachment that is ending stays where it is."""
    return [(reconcile, "_leave", lambda node, attachment, *, told: None)]


@mutant
def released_before_it_is_confirmed() -> list[Patch]:
    """Addresses and record go when the link is gone, confirmed or not."""
    return [(steps, "_until_confirmed", lambda view, late: None)]


@mutant
def withdrawn_behind_the_link() -> list[Patch]:
    """The link is removed first, the routes are withdrawn then."""

    def end(view: steps.View) -> steps.Step:
        if view.link is not steps.Link.TORN_DOWN:
            return steps.TearDown(view.linger)
        if uses := steps._uses(view, steps._TO_WITHDRAW):
            return steps.Withdraw(uses)
        late = [one for one in view.exporters if one.standing is Standing.LEAVING]
        return steps._until_confirmed(view, late) or steps.Release()

    return [(steps, "_end", end)]


@mutant
def released_without_the_addresses() -> list[Patch]:
    """The record goes, the leases stay."""
    take = reconcile._take

    def taken(node: Node, subject: Any, seen: Any, view: steps.View, step: steps.Step) -> None:
        if isinstance(step, steps.Release):
            subject.attachment = subject.attachment.model_copy(update={"ipam": None})
        take(node, subject, seen, view, step)

    return [(reconcile, "_take", taken)]


@mutant
def the_record_goes_before_the_addresses() -> list[Patch]:
    """A kill between record and lease leaves the lease to nobody."""
    take = reconcile._take

    def taken(node: Node, subject: Any, seen: Any, view: steps.View, step: steps.Step) -> None:
        if isinstance(step, steps.Release):
            node.store.delete(subject.key)
        take(node, subject, seen, view, step)

    return [(reconcile, "_take", taken)]


@mutant
def a_container_that_vanishes_keeps_its_route() -> list[Patch]:
    """A link that is gone without a DEL changes nothing."""

    def orphan(view: steps.View) -> steps.Step:
        return steps.Done()

    return [(steps, "_orphan", orphan)]


@mutant
def work_without_the_lock() -> list[Patch]:
    """The worker does not take the attachment's lock."""
    locked = m.Store.locked

    def unlocked(self: m.Store, key: AttachmentKey, seconds: float) -> Any:
        is_worker = sched.actor is not None and sched.actor.name == "worker"
        return nullcontext() if is_worker else locked(self, key, seconds)

    return [(m.Store, "locked", unlocked)]


@mutant
def a_nudge_is_lost_while_a_call_attends() -> list[Patch]:
    """What is confirmed while a DEL is at work on the attachment is not looked at afterwards."""

    @contextmanager
    def attended(self: Nudges, key: AttachmentKey) -> Iterator[None]:
        with self._change:
            self._attended[key] = None
        try:
            yield
        finally:
            with self._change:
                self._attended.pop(key, None)

    return [(Nudges, "attended", attended)]


# ---------------------------------------------------------------- start, reload, operator


@mutant
def pruned_before_all_is_told() -> list[Patch]:
    """The agent starts its exporters before it has read what they have to announce."""
    return [(agents.Running, "_tell", lambda self, key: self.node.nudges.nudge(key, 0.2) or True)]


@mutant
def a_hand_over_withdraws_first() -> list[Patch]:
    """The old exporter withdraws before the new one has announced."""
    keep = steps._keep

    def kept(view: steps.View) -> steps.Step:
        return keep(replace(view, announced_for=steps.PAUSE_SECONDS))

    return [(steps, "_keep", kept)]


@mutant
def a_hand_over_waits_for_the_socket_alone() -> list[Patch]:
    """The old exporter withdraws when the new one's announcement is sent, acknowledged or not."""
    return [(Convergence, "is_acknowledged", lambda self, key, use: True)]


@mutant
def a_removed_exporter_is_dropped_from_the_record_at_once() -> list[Patch]:
    """The record does not name any more who has still to withdraw."""
    until = steps._until_confirmed

    def at_once(view: steps.View, late: Collection[steps.AtExporter]) -> steps.Step | None:
        return None if view.state is State.UP else until(view, late)

    return [(steps, "_until_confirmed", at_once)]


@mutant
def a_removed_exporter_is_waited_for_for_ever() -> list[Patch]:
    """What an exporter that was removed and is away owes is never given up."""
    until = steps._until_confirmed

    def for_ever(view: steps.View, late: Collection[steps.AtExporter]) -> steps.Step | None:
        step = until(view, late)
        return steps.Wait() if isinstance(step, steps.Excuse) else step

    return [(steps, "_until_confirmed", for_ever)]


@mutant
def release_judges_by_an_old_record() -> list[Patch]:
    """`release --force` looks whether the link is there by the record from before it got the lock."""

    def release(node: Node, container_id: str, *, force: bool) -> tuple[dict[str, Any], int]:
        for stored in list(node.store.all()):
            attachment = stored.attachment
            if attachment is None or attachment.container_id != container_id:
                continue
            with node.store.locked(attachment.key, 30):
                again = node.store.find(attachment.key)
                if again is None or again.attachment is None:
                    continue
                if again.state is State.UP and not orders.interface.vanished(node.netlink, attachment):
                    continue
                reconcile.end_unconfirmed(node, again.attachment)
        return {}, 0

    return [(answers, "release", release)]


@mutant
def a_policy_is_for_the_next_containers_only() -> list[Patch]:
    """Nobody looks at the containers that run when a policy changes."""
    return [(Policies, "remember", lambda self, attachment: None)]


@mutant
def a_changed_record_is_not_announced() -> list[Patch]:
    """What a policy changes is written into the record, and told to nobody."""
    standing = Ledger.standing

    def blind(self: Ledger, owner: AttachmentKey, routes: Collection[Announcement] | None) -> Standing:
        found = standing(self, owner, routes)
        return Standing.ANNOUNCED if found is Standing.OUTDATED else found

    return [(Ledger, "standing", blind)]


@mutant
def maintenance_is_for_the_next_containers_only() -> list[Patch]:
    """Nobody looks at the containers that run when maintenance begins."""
    return [(Node, "attached", lambda self: set())]
