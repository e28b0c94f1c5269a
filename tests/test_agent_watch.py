"""The agent's regular checks: each runs by itself, and a problem is reported exactly as long as it lasts."""

from __future__ import annotations

import logging
import threading

import pytest

from bgpcni.agent.watch import Watch
from bgpcni.errors import IoFailure
from bgpcni.testing.patience import SECONDS


def test_what_is_amiss_is_said_until_it_is_mended(caplog: pytest.LogCaptureFixture) -> None:
    """A problem is logged once and stays in `problems` as long as it lasts. A failing check does not stop the
    others."""
    caplog.set_level(logging.INFO)
    words = "the address is missing"

    def broken() -> str:
        raise IoFailure("the folder is a file")

    def defective() -> str:
        raise RuntimeError("a defect")

    amiss: dict[str, str] = {}
    watch = Watch({"folder": broken, "defect": defective, "address": lambda: words}, amiss)
    for _ in range(2):
        watch.look()
    said = {"folder": "the folder is a file", "defect": "RuntimeError('a defect')", "address": words}
    assert amiss == said
    assert [record.message for record in caplog.records if record.levelno == logging.ERROR].count(words) == 1
    words = ""
    watch.look()
    assert "address" not in amiss
    assert "mended: the address is missing" in caplog.messages


def test_the_end_waits_for_the_look_that_runs_and_begins_no_other() -> None:
    """A look binds sockets and makes folders: nothing of that happens once the agent takes itself apart."""
    looking, may_end = threading.Event(), threading.Event()
    looks = []

    def look() -> str:
        looks.append(1)
        looking.set()
        assert may_end.wait(SECONDS)
        return ""

    watch = Watch({"slow": look}, {})
    thread = threading.Thread(target=watch.run)
    thread.start()
    assert looking.wait(SECONDS)
    watch.stop()
    assert thread.is_alive()
    may_end.set()
    thread.join(SECONDS)
    assert not thread.is_alive()
    assert len(looks) == 1
