"""When a shared address is announced and withdrawn, by the results of its health check."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bgpcni.model import Health
from bgpcni.node.health import Verdict, judged, words

FAULTS = st.sampled_from(["", "", "connection refused", "HTTP status 503"])


@given(begins=st.booleans(), rise=st.integers(1, 4), fall=st.integers(1, 4), results=st.lists(FAULTS, max_size=30))
def test_only_so_many_results_in_a_row_change_it(begins: bool, rise: int, fall: int, results: list[str]) -> None:
    """`rise` good ones announce it, `fall` bad ones withdraw it, nothing else does; the words name the last fault, how
    often it came and since when."""
    check = Health(kind="tcp", port=53, rise=rise, fall=fall)
    verdict = Verdict(begins)
    for at, fault in enumerate(results):
        before, verdict = verdict, judged(verdict, check, fault, float(at))
        row = next((n for n, each in enumerate(reversed(results[: at + 1])) if bool(each) != bool(fault)), at + 1)
        assert (verdict.count, verdict.fault, verdict.since) == (row, fault, float(at - row + 1))
        changes = row >= (fall if fault else rise)
        assert verdict.passing is (not fault if changes else before.passing)
        said = words(verdict, check, float(at))
        assert (fault in said and "failed" in said) if fault else "passed" in said
        assert f"since {row - 1} s" in said or (not fault and not verdict.passing)


def test_the_words_say_what_an_operator_wants_to_know() -> None:
    check = Health(kind="http", port=80, rise=3)
    assert words(Verdict(False), check, 0.0) == "health check has no result yet"
    failing = Verdict(False, 3, "connection refused", 8.0)
    assert words(failing, check, 20.4) == "health check failed: connection refused, 3 times, since 12 s"
    assert words(Verdict(False, 2, "", 8.0), check, 20.0) == "health check passed 2 of 3 times"
    assert words(Verdict(True, 1, "", 8.0), check, 9.0) == "health check passed 1 time, since 1 s"
