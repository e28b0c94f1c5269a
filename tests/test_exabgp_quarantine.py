"""The bad among many suspects: found, and nobody else convicted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bgpcni.model import Announcement, Family, Neighbor, Nlri, UnicastNlri
from bgpcni_exabgp.advertised import Advertised
from bgpcni_exabgp.quarantine import PROBATION, Quarantine, Trial


def route(number: int) -> Announcement:
    return Announcement(UnicastNlri.of(f"10.0.0.{number}/32"), "net", "192.0.2.1")


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), max_size=5))))
def test_exactly_the_guilty_are_convicted(drawn):
    """However many are guilty among however many: each is tried until it is convicted alone, or acquitted."""
    count, guilty = drawn
    trial = Trial("192.0.2.9", "words", {route(n).nlri: route(n) for n in range(count)})
    bad = {route(n).nlri for n in guilty}
    convicted, acquitted, falls = set(), set(), 0
    while not trial.done:
        group = {r.nlri for r in trial.start()}
        assert not group & trial.waiting()
        if group & bad:
            falls += 1
            taken_back, culprit = trial.ended()
            assert set(taken_back) == group
            convicted |= {culprit} - {None}
        else:
            acquitted |= group
            trial.acquit()
    assert convicted == bad
    assert acquitted == {route(n).nlri for n in range(count)} - bad
    assert falls <= len(bad) * 7


def test_what_nobody_wants_any_more_is_not_tried():
    """A route that is withdrawn in the middle of the trial is never announced again."""
    trial = Trial("192.0.2.9", "words", {route(n).nlri: route(n) for n in range(4)})
    trial.start()
    trial.forget(route(0).nlri)
    trial.forget(route(3).nlri)
    assert trial.testing == [route(1).nlri]
    trial.acquit()
    assert [r.nlri for r in trial.start()] == [route(2).nlri]
    trial.forget(route(2).nlri)
    assert trial.done


def test_a_session_that_began_too_early_convicts_nobody():
    """The peer is back before ExaBGP has read that the culprit is withdrawn, gets it once more, and ends the session:
    the next suspect, which is innocent, is not announced before that is over."""
    peer = Neighbor("192.0.2.9", 64512, (Family.IPV4_UNICAST,), 90)
    advertised = Advertised([peer], 120, 0.0)
    advertised.connected()
    session = advertised.sessions[peer.address]
    quarantine = Quarantine(advertised)
    culprit, innocent = route(1), route(2)

    def up(started: int) -> None:
        advertised.up(session, frozenset(peer.families), started, 0.0)

    def falls(newest: int, now: float) -> list[Nlri]:
        advertised.down(session, "words", now, newest)
        return quarantine.blame(session, "words", newest, now)

    up(0)
    for one in (culprit, innocent):
        advertised.announced(one.nlri, 1)
    quarantine.announced([culprit, innocent], 1, 0.0)
    assert falls(1, 0.1) == []
    up(1)
    assert set(falls(1, 0.2)) == {culprit.nlri, innocent.nlri}
    quarantine.withdrawn(peer.address, 2)
    up(1)  # ExaBGP had not read line 2
    assert quarantine.due(0.3) == []
    assert falls(2, 0.4) == []
    quarantine.withdrawn(peer.address, 2)
    up(2)
    ((trial, group),) = quarantine.due(0.5)
    assert group == [culprit]
    quarantine.started(trial, 3)
    assert falls(3, 0.6) == [culprit.nlri]
    quarantine.withdrawn(peer.address, 4)
    up(3)  # once more
    assert quarantine.due(0.7) == []
    session.acked = 4  # of line 4 too, but the NOTIFICATION is under way
    assert quarantine.due(0.8) == []
    assert falls(4, 0.9) == []
    up(3)
    session.acked = 4
    assert quarantine.due(1.0) == []
    ((trial, group),) = quarantine.due(1.0 + PROBATION)
    assert group == [innocent]
    quarantine.started(trial, 5)
    assert not advertised.is_refused(innocent.nlri)
    assert advertised.is_refused(culprit.nlri)
