"""The bad among many suspects: found, and nobody else convicted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bgpcni.model import Announcement, UnicastNlri
from bgpcni_exabgp.trial import Trial


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
            taken_back, culprit = trial.fell()
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
