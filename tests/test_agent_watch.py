"""What the agent looks after: each look for itself, said while it is so, and no longer."""

from __future__ import annotations

import logging

import pytest

from bgpcni.agent.watch import Watch
from bgpcni.errors import IoFailure


def test_what_is_amiss_is_said_until_it_is_mended(caplog: pytest.LogCaptureFixture) -> None:
    """Once in the log, in `problems` for as long as it lasts; a look that fails hinders no other."""
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
