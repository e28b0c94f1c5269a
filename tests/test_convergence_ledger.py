"""The ledger: no withdrawal counts as confirmed while a peer may have the route, and every change is given to the
exporter."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bgpcni.convergence.ledger import Ledger, Standing
from bgpcni.exporter import Outcome, Reach
from bgpcni.model import Announcement, AttachmentKey, Nlri, UnicastNlri


def taken(ledger: Ledger, limit: int) -> tuple[list[Announcement], list[Announcement]]:
    """What the announcer takes for one call of its exporter, handed over."""
    announce, withdraw = ledger.due(limit)
    return ledger.hand_over(announce), withdraw


NOW = "2026-01-31T12:00:00.000Z"
LATER = "2026-01-31T12:00:01.000Z"
ACKED, SENT = Outcome(Reach.ACKED), Outcome(Reach.SENT)
WANTED, REFUSED = Outcome(Reach.WANTED, "no session"), Outcome(Reach.REFUSED, "bad")


def owner(name: str) -> AttachmentKey:
    return AttachmentKey("net", name, "eth0")


def route(number: int, next_hop: str = "192.0.2.1") -> Announcement:
    return Announcement(UnicastNlri.of(f"10.0.0.{number}/32"), "net", next_hop)


A, B = owner("a"), owner("b")


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(Reach.SENT)


def tell(ledger: Ledger, outcome: Outcome = SENT, now: str = NOW) -> list[AttachmentKey]:
    """Give the exporter all that is dirty; it answers the same for each route."""
    announce, withdraw = taken(ledger, 1000)
    epoch = ledger.epoch
    free = ledger.note(withdraw, [outcome] * len(withdraw), withdrawn=True, epoch=epoch, now=now)
    return free + ledger.note(announce, [outcome] * len(announce), withdrawn=False, epoch=epoch, now=now)


def test_an_attachment_is_free_once_its_withdrawal_is_confirmed(ledger: Ledger) -> None:
    """DEL: withdrawn, sent, free; and nothing of it stays in memory."""
    ledger.want(A, [route(1)], NOW)
    assert tell(ledger) == []
    assert ledger.quiet
    assert not ledger.leave(A, [route(1)], NOW)
    assert ledger.is_leaving(A)
    assert tell(ledger, WANTED) == []
    assert not ledger.quiet
    assert ledger.is_leaving(A)
    ledger.retry()
    assert tell(ledger) == [A]
    assert (ledger.entries, ledger.dirty, ledger.quiet) == ({}, 0, True)


def test_a_withdrawal_that_was_sent_frees_nobody_before_it_is_confirmed() -> None:
    """DEL may answer once it is in the sockets; the address is free once the peers acknowledged it."""
    ledger = Ledger(Reach.SENT, Reach.ACKED)
    ledger.want(A, [route(1), route(2)], NOW)
    assert tell(ledger) == []
    assert ledger.quiet  # an announcement is settled when it is sent
    ledger.leave(A, [route(1), route(2)], NOW)
    assert not ledger.is_sent(A)
    _, withdraw = taken(ledger, 10)
    answers = [SENT, WANTED]
    assert ledger.note(withdraw, answers, withdrawn=True, epoch=ledger.epoch, now=NOW) == []
    assert not ledger.is_sent(A)
    assert ledger.note(withdraw, [SENT, SENT], withdrawn=True, epoch=ledger.epoch, now=NOW) == []
    assert ledger.is_sent(A)
    assert ledger.is_leaving(A)
    assert not ledger.quiet
    assert ledger.unsettled() == [route(1), route(2)]
    ledger.retry()
    assert taken(ledger, 10) == ([], [])  # what is in the sockets needs no second telling
    assert ledger.note(withdraw, [ACKED, SENT], withdrawn=True, epoch=ledger.epoch, now=NOW) == []
    assert ledger.note(withdraw[1:], [ACKED], withdrawn=True, epoch=ledger.epoch, now=NOW) == [A]
    assert (ledger.entries, ledger.quiet) == ({}, True)


def test_what_an_earlier_life_announced_is_withdrawn(ledger: Ledger) -> None:
    """A record `leaving` at the start: this life never announced it, a peer may have it all the same."""
    assert not ledger.leave(A, [route(1)], NOW)
    assert taken(ledger, 10) == ([], [route(1)])
    assert tell(ledger) == [A]


def test_nothing_to_withdraw_is_free_at_once(ledger: Ledger) -> None:
    """An attachment without routes does not wait for anything."""
    assert ledger.leave(A, [], NOW)


def test_a_shared_route_stays_until_the_last_owner_leaves(ledger: Ledger) -> None:
    """EVPN's type 3, a network's subnet: the first DEL is free at once, the last withdraws."""
    ledger.want(A, [route(1)], NOW)
    ledger.want(B, [route(1)], NOW)
    tell(ledger)
    assert ledger.leave(A, [route(1)], NOW)
    assert taken(ledger, 10) == ([], [])
    assert not ledger.leave(B, [route(1)], NOW)
    assert tell(ledger) == [B]


def test_a_shared_route_changes_with_the_owner_it_is_taken_from(ledger: Ledger) -> None:
    """When the owner whose announcement was told leaves, the next one's is told."""
    ledger.want(A, [route(1, "192.0.2.1")], NOW)
    ledger.want(B, [route(1, "192.0.2.2")], NOW)
    tell(ledger)
    assert ledger.leave(A, [], NOW)
    assert taken(ledger, 10) == ([route(1, "192.0.2.2")], [])


def test_an_address_that_is_announced_again_frees_who_waited_for_it(ledger: Ledger) -> None:
    """The oldest held address is reused: same NLRI and next hop, so there is nothing left to withdraw."""
    ledger.want(A, [route(1)], NOW)
    tell(ledger)
    ledger.leave(A, [route(1)], NOW)
    assert ledger.want(B, [route(1)], NOW) == [A]
    assert taken(ledger, 10) == ([route(1)], [])


def test_routes_that_changed_are_waited_for_too(ledger: Ledger) -> None:
    """An attachment that got other routes is not free before the old ones are withdrawn as well."""
    ledger.want(A, [route(1)], NOW)
    tell(ledger)
    ledger.want(A, [route(2)], NOW)
    announce, withdraw = taken(ledger, 10)
    assert (announce, withdraw) == ([route(2)], [route(1)])
    assert not ledger.leave(A, [route(2)], NOW)
    assert tell(ledger) == [A]


def test_the_same_attachment_again_is_not_told_that_it_is_free(ledger: Ledger) -> None:
    """DEL and a new ADD of the same container with its own held address."""
    ledger.want(A, [route(1)], NOW)
    tell(ledger)
    ledger.leave(A, [route(1)], NOW)
    assert ledger.want(A, [route(1)], NOW) == []
    assert not ledger.is_leaving(A)
    assert tell(ledger) == []
    assert not ledger.leave(A, [route(1)], NOW)


def test_released_by_force_the_withdrawal_goes_on(ledger: Ledger) -> None:
    """`release --force` stops the waiting, not the withdrawing."""
    ledger.want(A, [route(1)], NOW)
    tell(ledger)
    ledger.leave(A, [route(1)], NOW)
    ledger.excuse(A)
    assert not ledger.is_leaving(A)
    assert ledger.standing(A, [route(1)]) is Standing.GONE
    assert taken(ledger, 10) == ([], [route(1)])
    assert tell(ledger) == []
    assert ledger.entries == {}


def test_what_is_being_handed_over_has_to_be_withdrawn(ledger: Ledger) -> None:
    """A DEL while the first announcement is on its way to the speaker: the speaker may have it."""
    ledger.want(A, [route(1)], NOW, fresh=True)
    assert taken(ledger, 10) == ([route(1)], [])
    assert not ledger.leave(A, [route(1)], NOW)
    assert taken(ledger, 10) == ([], [route(1)])
    assert tell(ledger) == [A]


def test_what_certainly_did_not_reach_the_speaker_needs_no_withdrawal(ledger: Ledger) -> None:
    """The speaker could not be reached at all: who left meanwhile is free at once."""
    ledger.want(A, [route(1)], NOW, fresh=True)
    announce, _ = taken(ledger, 10)
    assert not ledger.leave(A, [route(1)], NOW)
    assert ledger.hand_back(announce) == [A]
    assert ledger.entries == {}
    assert taken(ledger, 10) == ([], [])


def test_what_left_before_it_was_handed_over_is_not_told(ledger: Ledger) -> None:
    ledger.want(A, [route(1)], NOW, fresh=True)
    announce, _ = ledger.due(10)
    assert ledger.leave(A, [route(1)], NOW)
    assert ledger.hand_over(announce) == []


def test_how_an_attachment_stands(ledger: Ledger) -> None:
    """The standing of an attachment, from unknown to forgotten."""
    seen = [ledger.standing(A, [route(1)])]
    ledger.want(A, [route(1)], NOW)
    seen.append(ledger.standing(A, [route(1)]))
    tell(ledger)
    seen += [ledger.standing(A, [route(1)]), ledger.standing(A, None), ledger.standing(A, [route(2)])]
    ledger.leave(A, [route(1)], NOW)
    seen.append(ledger.standing(A, [route(1)]))
    tell(ledger)
    seen.append(ledger.standing(A, [route(1)]))
    ledger.forget(A)
    seen.append(ledger.standing(A, [route(1)]))
    assert [standing.value for standing in seen] == [
        "unknown", "wanted", "announced", "announced", "outdated", "leaving", "gone", "unknown",
    ]  # fmt: skip


def test_an_answer_from_before_a_replay_does_not_count(ledger: Ledger) -> None:
    """The speaker took a route and died before it said so: its successor has to be told."""
    ledger.want(A, [route(1)], NOW)
    announce, _ = taken(ledger, 10)
    epoch = ledger.epoch
    ledger.replay(NOW)
    ledger.note(announce, [SENT], withdrawn=False, epoch=epoch, now=NOW)
    assert taken(ledger, 10) == ([route(1)], [])
    assert ledger.entries[route(1).nlri].reach is Reach.WANTED


def test_an_answer_to_an_earlier_wish_does_not_count(ledger: Ledger) -> None:
    """ADD, DEL while the exporter is still at the ADD: the withdrawal is not lost."""
    ledger.want(A, [route(1)], NOW)
    announce, _ = taken(ledger, 10)
    ledger.leave(A, [route(1)], NOW)
    ledger.note(announce, [SENT], withdrawn=False, epoch=ledger.epoch, now=NOW)
    assert taken(ledger, 10) == ([], [route(1)])
    assert ledger.is_leaving(A)


def test_a_speaker_that_came_back_has_announced_nothing(ledger: Ledger) -> None:
    """`routes` says "wanted" from the moment the speaker is known to be empty."""
    ledger.want(A, [route(1)], NOW)
    tell(ledger)
    assert ledger.entries[route(1).nlri].reach is Reach.SENT
    ledger.replay(LATER)
    entry = ledger.entries[route(1).nlri]
    assert (entry.reach, entry.since) == (Reach.WANTED, LATER)
    assert taken(ledger, 10) == ([route(1)], [])


def test_one_refused_route_is_told_again_only_when_asked(ledger: Ledger) -> None:
    """A refusal is final until `bgpcni sync`; it is nothing to wait for."""
    ledger.want(A, [route(1)], NOW)
    tell(ledger, REFUSED)
    assert ledger.quiet
    assert ledger.entries[route(1).nlri].reason == "bad"
    ledger.retry()
    assert taken(ledger, 10) == ([route(1)], [])


def test_a_failed_call_keeps_the_routes_and_says_why(ledger: Ledger) -> None:
    """Routes stay dirty if the exporter could not be called."""
    ledger.want(A, [route(1)], NOW)
    announce, _ = taken(ledger, 10)
    ledger.failed(announce, "connection refused")
    assert [entry.reason for entry in ledger.routes_of(A)] == ["connection refused"]
    assert taken(ledger, 10) == ([route(1)], [])


def test_an_exporter_that_answers_for_too_few_is_not_believed(ledger: Ledger) -> None:
    """If there is not one outcome for each route, none is noted."""
    ledger.want(A, [route(1), route(2)], NOW)
    announce, _ = taken(ledger, 10)
    with pytest.raises(ValueError, match="1 outcomes for 2 routes"):
        ledger.note(announce, [SENT], withdrawn=False, epoch=ledger.epoch, now=NOW)
    assert ledger.dirty == 2


@pytest.mark.parametrize("leaves", [True, False])
def test_what_an_earlier_life_announced_is_withdrawn_though_another_wants_it_newly(
    ledger: Ledger, leaves: bool
) -> None:
    """B's route was never handed over in this life, but a peer may have it of A's record."""
    ledger.want(B, [route(1)], NOW, fresh=True)
    if leaves:
        assert ledger.leave(A, [route(1)], NOW)
    else:
        ledger.want(A, [route(1)], NOW)
        assert ledger.leave(A, [], NOW)
    assert not ledger.leave(B, [], NOW)
    assert taken(ledger, 10) == ([], [route(1)])


def test_a_batch_is_bounded(ledger: Ledger) -> None:
    """Ten thousand routes are told in batches."""
    ledger.want(A, [route(number) for number in range(10)], NOW)
    assert len(taken(ledger, 4)[0]) == 4
    assert ledger.dirty == 10


def test_since_is_when_the_state_changed(ledger: Ledger) -> None:
    """A reason that changes is not a state that changes."""
    ledger.want(A, [route(1)], NOW)
    tell(ledger, WANTED)
    ledger.retry()
    tell(ledger, WANTED._replace(reason="other"), now=LATER)
    entry = ledger.entries[route(1).nlri]
    assert (entry.reason, entry.since) == ("other", NOW)
    ledger.retry()
    tell(ledger, SENT, now=LATER)
    assert (entry.reach, entry.since) == (Reach.SENT, LATER)


OWNERS = [owner(name) for name in "abc"]
ROUTES = st.lists(
    st.builds(route, st.integers(1, 4), st.sampled_from(["192.0.2.1", "192.0.2.2"])), max_size=3
)  # fmt: skip
RESULTS = st.lists(st.sampled_from([ACKED, ACKED, SENT, WANTED, REFUSED]), min_size=12, max_size=12)


class LedgerMachine(RuleBasedStateMachine):
    """Wishes, answers and restarts in any order, against what a speaker and its peers would know.

    `held`: NLRIs that a peer may have. `owes`: for each attachment the NLRIs it had since it was last free.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(Reach.SENT, Reach.ACKED)
        self.wants: dict[AttachmentKey, list[Announcement]] = {}
        self.owes: dict[AttachmentKey, set[Nlri]] = {}
        self.leaving: set[AttachmentKey] = set()
        self.held: set[Nlri] = set()
        self.withdrawn: set[Nlri] = set()  # in this life: no earlier one's announcement is at a peer any more
        self.speaker: dict[Nlri, Announcement] = {}
        self.flight: tuple[list[Announcement], list[Announcement], int] | None = None
        self.not_given: set[Nlri] | None = None  # of `flight`, where the speaker was given none of it

    # ------------------------------------------------------------ wishes

    @rule(who=st.sampled_from(OWNERS), routes=ROUTES, fresh=st.booleans())
    def want(self, who: AttachmentKey, routes: list[Announcement], fresh: bool) -> None:
        free = self.ledger.want(who, routes, NOW, fresh=fresh)
        if not fresh:  # an earlier life may have announced them
            self.held.update({item.nlri for item in routes} - self.withdrawn)
            self.not_given = None
        self.wants[who] = routes
        self.owes[who] = (self.owes.get(who, set()) & self.held) | {item.nlri for item in routes}
        self.leaving.discard(who)
        self.hand_over()
        self.freed(free)

    @rule(who=st.sampled_from(OWNERS), routes=ROUTES)
    def leave(self, who: AttachmentKey, routes: list[Announcement]) -> None:
        if who in self.wants:
            routes = self.wants.pop(who)
        elif who not in self.leaving:  # a record of an earlier life: whatever it had may be at a peer
            self.held.update({item.nlri for item in routes} - self.withdrawn)
            self.not_given = None
        self.owes.setdefault(who, set()).update(item.nlri for item in routes)
        self.owes[who] &= self.held  # what no peer has now, none will have on its account
        self.leaving.add(who)
        self.hand_over()
        if self.ledger.leave(who, routes, NOW):
            self.freed([who])

    @rule(who=st.sampled_from(OWNERS))
    def release_by_force(self, who: AttachmentKey) -> None:
        if who in self.leaving:
            self.ledger.forget(who)
            self.leaving.discard(who)
            self.owes.pop(who, None)

    def hand_over(self) -> None:
        """A route that is wanted is its owners' affair: nobody else waits for it, now or when they leave."""
        wanted = {item.nlri for routes in self.wants.values() for item in routes}
        for who, owed in self.owes.items():
            owed -= wanted - {item.nlri for item in self.wants.get(who, ())}

    def waited(self, who: AttachmentKey) -> set[Nlri]:
        return self.ledger._leaving.get(who, set())

    # ------------------------------------------------------------ the exporter

    @precondition(lambda self: self.flight is None)
    @rule(limit=st.integers(1, 5), reached=st.booleans())
    def ask(self, limit: int, reached: bool) -> None:
        announce, withdraw = taken(self.ledger, limit)
        assert len(announce) + len(withdraw) <= limit
        self.flight = announce, withdraw, self.ledger.epoch
        if reached:
            for item in withdraw:
                self.speaker.pop(item.nlri, None)
            self.speaker.update((item.nlri, item) for item in announce)
        self.not_given = None if reached else {item.nlri for item in announce} - self.held
        self.held.update(item.nlri for item in announce)

    @precondition(lambda self: self.flight is not None)
    @rule(results=RESULTS)
    def answer(self, results: list[Outcome]) -> None:
        assert self.flight is not None
        (announce, withdraw, epoch), self.flight = self.flight, None
        if epoch == self.ledger.epoch:  # else the speaker died with the call: it may have been the old one's doing
            for item in withdraw:
                self.speaker.pop(item.nlri, None)
            self.speaker.update((item.nlri, item) for item in announce)
        for kind, told in ((True, withdraw), (False, announce)):
            outcomes = [ACKED if kind and r is REFUSED else r for r in results[: len(told)]]
            if kind:
                gone = {item.nlri for item, result in zip(told, outcomes, strict=True) if result is ACKED}
                self.held -= gone
                self.withdrawn |= gone
            self.freed(self.ledger.note(told, outcomes, withdrawn=kind, epoch=epoch, now=NOW))

    @precondition(lambda self: self.flight is not None)
    @rule()
    def fail(self) -> None:
        assert self.flight is not None
        self.ledger.failed([*self.flight[0], *self.flight[1]], "away")
        self.flight = None

    @precondition(lambda self: self.flight is not None and self.not_given is not None)
    @rule()
    def turn_down(self) -> None:
        """The speaker was certainly given nothing, and says so."""
        assert self.flight is not None
        assert self.not_given is not None
        announce, self.flight = self.flight[0], None
        self.held -= self.not_given
        self.freed(self.ledger.hand_back(announce))

    @precondition(lambda self: self.flight is None)
    @rule(results=RESULTS)
    def progress(self, results: list[Outcome]) -> None:
        for item, result in zip(self.ledger.unsettled(), results, strict=False):
            withdrawn = not self.ledger.entries[item.nlri].wanted
            if withdrawn and result is REFUSED:
                continue
            if withdrawn and result is ACKED:
                self.held.discard(item.nlri)
                self.withdrawn.add(item.nlri)
            free = self.ledger.note([item], [result], withdrawn=withdrawn, epoch=self.ledger.epoch, now=NOW)
            self.freed(free)

    @rule()
    def speaker_comes_back_empty(self) -> None:
        self.speaker.clear()  # its peers keep what they have: graceful restart
        self.ledger.replay(NOW)
        assert self.ledger.dirty == len(self.ledger.entries)
        assert all(entry.reach is Reach.WANTED for entry in self.ledger.entries.values())

    @rule()
    def retry(self) -> None:
        self.ledger.retry()

    # ------------------------------------------------------------ what must hold

    def freed(self, owners: list[AttachmentKey]) -> None:
        assert len(owners) == len(set(owners))
        wanted = {item.nlri for routes in self.wants.values() for item in routes}
        for who in owners:
            owed = self.owes.pop(who, set())
            if who in self.wants:  # only what it had before is settled: it is up
                self.owes[who] = {item.nlri for item in self.wants[who]}
            owed = (owed & self.held) - wanted
            assert not owed, f"{who} is free, but a peer may have {owed}"
            self.leaving.discard(who)

    @invariant()
    def the_book_is_consistent(self) -> None:
        ledger = self.ledger
        wanted = {item.nlri for routes in self.wants.values() for item in routes}
        assert {nlri for nlri, entry in ledger.entries.items() if entry.wanted} == wanted
        assert {route.nlri for route in ledger.kept()} == wanted
        assert set(ledger._dirty) | set(ledger._unsettled) <= set(ledger.entries)
        assert not set(ledger._dirty) & set(ledger._unsettled)
        waiting = {who for who in OWNERS if ledger.is_leaving(who) and who not in self.wants}
        assert self.leaving <= waiting
        assert all(self.owes[who] for who in waiting - self.leaving)  # drained while it waited for what it had before
        for nlri, entry in ledger.entries.items():
            assert entry.announcement.nlri == nlri
            assert not (entry.owners and entry.leavers)
            assert all(nlri in ledger._leaving[who] for who in entry.leavers)
            # a route is where it should be, or is looked after, or was refused
            settled = entry.wanted and entry.reach >= ledger.settled
            assert settled or nlri in ledger._dirty or nlri in ledger._unsettled or entry.reach is Reach.REFUSED

    def teardown(self) -> None:
        """Left alone with a speaker that works, everything ends where it should, and nothing is left over."""
        if self.flight is not None:
            self.fail()
        self.ledger.retry()
        for _ in range(3):
            self.progress([ACKED] * 12)
            self.ask(1000, True)
            self.answer([ACKED] * 12)
        assert self.ledger.quiet
        assert self.speaker == {nlri: entry.announcement for nlri, entry in self.ledger.entries.items()}
        for nlri, entry in self.ledger.entries.items():
            assert entry.announcement in [item for routes in self.wants.values() for item in routes]
            assert entry.reach >= self.ledger.settled
            assert nlri in self.held
        assert not self.leaving
        assert not self.ledger._leaving
        assert set(self.ledger._owned) == set(self.wants)


LedgerMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestAnyOrder = LedgerMachine.TestCase
