"""What every test run shares: hypothesis explores at random on a developer's machine, and repeats itself in CI; a slow
machine ends no test; and where every part is said to be there, a test that is skipped has failed."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from bgpcni.testing.patience import SCALE

settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("patient", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "patient")

REQUIRED = os.environ.get("BGPCNI_PARTS") == "required"
"""Whether a skipped test counts as failed, unless it is one of MAY_BE_SKIPPED."""

MAY_BE_SKIPPED = (
    # the opposite of a test that runs wherever this one does not: one of the two always does
    ("integration/test_parity_bridge.py", "this kernel's bridge can filter VLANs"),
    ("integration/test_import.py", "this kernel has VRFs"),
    # no installation gives it to this machine's kernel, and macvlan, for which the same holds, runs
    ("integration/test_chains.py", "this kernel has no ipvlan"),
    # the plugin is a script where no C compiler was found, and there is one
    ("tests/test_launcher.py", "Linux ignores the set-uid bit of scripts"),
)
"""Where, and with which words, a test may be skipped though all parts are there; the comments say why."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A test's time is bound like every wait in it: as a quiet machine needs it, times how slow this one may be."""
    usual = float(config.getini("timeout"))
    for item in items:
        marker = item.get_closest_marker("timeout")
        bound = float(marker.args[0]) if marker else usual
        item.add_marker(pytest.mark.timeout(bound * SCALE), append=False)


def _judge(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not REQUIRED or not report.skipped or hasattr(report, "wasxfail"):
        return
    words = str(report.longrepr)
    if not any(report.nodeid.startswith(place) and reason in words for place, reason in MAY_BE_SKIPPED):
        report.outcome = "failed"
        report.longrepr = f"skipped where every part has to be there (BGPCNI_PARTS=required): {words}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> Iterator[None]:
    """Before anybody counts it; reports that come from another kernel pass here as well."""
    _judge(report)
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    """A whole module that is skipped, for want of a library."""
    report: pytest.CollectReport = yield  # type: ignore[assignment]
    _judge(report)
    return report  # type: ignore[return-value]
