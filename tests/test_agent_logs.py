"""The agent's log: one line for each event, which a person reads and a program can take apart."""

from __future__ import annotations

import json
import logging
import sys
from typing import cast

import pytest

from bgpcni.agent import logs
from bgpcni.commands import answers
from bgpcni.errors import InvalidConfiguration
from bgpcni.model import AttachmentKey

KEY = AttachmentKey("tenant-a", "c1", "eth0")


def record(message: str, *args: object, **more: object) -> logging.LogRecord:
    made = logging.LogRecord("bgpcni.node.node", logging.WARNING, __file__, 1, message, args, None)
    vars(made).update(more)
    return made


def defect() -> logging.LogRecord:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        return record("it failed", exc_info=sys.exc_info())


def test_the_text_is_one_line_that_begins_with_the_time() -> None:
    """Also with a traceback, or a message of several lines: journald and grep see one event."""
    text = logs.Text().format(record("%s: all is\nlost", KEY))
    time, rest = text.split(" ", 1)
    assert time.endswith("Z")
    assert rest == "warning bgpcni.node.node: tenant-a/c1/eth0: all is | lost"
    trace = logs.Text().format(defect())
    assert "ValueError: two | lines" in trace
    assert "\n" not in trace


def test_json_has_the_text_and_what_it_is_about_as_fields() -> None:
    event = json.loads(logs.Json().format(record("%s: announced", KEY, **KEY.fields, exporter="fabric")))
    assert event.pop("timestamp").endswith("Z")
    assert event == {
        "level": "warning", "logger": "bgpcni.node.node", "event": "tenant-a/c1/eth0: announced",
        "network": "tenant-a", "container": "c1", "ifname": "eth0", "exporter": "fabric",
    }  # fmt: skip


def test_json_has_the_traceback_of_a_defect() -> None:
    event = json.loads(logs.Json().format(defect()))
    assert event["exception"].startswith("Traceback")


class _Nobody:
    """An agent of which nothing is needed."""


def test_the_level_of_one_part_or_of_all_changes_while_the_agent_runs() -> None:
    part, other = logging.getLogger("bgpcni.convergence.announcer"), logging.getLogger("bgpcni.agent.worker")
    document, _ = answers.log_level(cast(answers.Resident, _Nobody()), "debug", "convergence")
    assert document["modules"] == ["bgpcni.convergence"]
    try:
        assert part.isEnabledFor(logging.DEBUG)
        assert not other.isEnabledFor(logging.DEBUG)
        answers.log_level(cast(answers.Resident, _Nobody()), "error", None)
        assert not part.isEnabledFor(logging.INFO)
        with pytest.raises(InvalidConfiguration, match=r"log-level: no module 'nothing'; there are .*convergence"):
            answers.log_level(cast(answers.Resident, _Nobody()), "debug", "nothing")
    finally:
        for name in [name for name in logging.root.manager.loggerDict if name.startswith("bgpcni")]:
            logging.getLogger(name).setLevel(logging.NOTSET)
