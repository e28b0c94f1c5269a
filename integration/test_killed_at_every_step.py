"""After a kill between any two system calls, the next call finishes or undoes what was begun."""

from __future__ import annotations

import json
import os
import sys

import pytest

from bgpcni.testing.patience import SECONDS
from integration.lab import Lab
from integration.seen import dual


@pytest.mark.parametrize(
    ("command", "exporters"), [("ADD", []), ("DEL", []), ("ADD", ["kernel"])], ids=["ADD", "DEL", "ADD-announced"]
)
def test_a_kill_between_any_two_system_calls(lab: Lab, command: str, exporters: list[str]) -> None:
    """ADD, or DEL, killed before each of its system calls in turn: a call for another container works and a retried
    ADD either works or finds the container attached, and announced; after the DEL there is no link, lease, record or
    route."""
    node, space, other = lab.node(), lab.container("one"), lab.container("other")
    environment = dict(os.environ) | {
        "BGPCNI_RUN_DIR": str(node.run_dir),
        "BGPCNI_DATA_DIR": str(node.data_dir),
        "LEASES": str(node.leases),
    }
    conf = json.dumps(dual(node, exporters=exporters, bgp=None))
    argv = (sys.executable, "-m", "integration.killed", command, space.path, conf, other.path)
    story = json.loads(node.namespace.run(*argv, env=environment, seconds=SECONDS).stdout)
    assert len(story) > 20
    assert [turn["killed"] for turn in story] == [True] * (len(story) - 1) + [False]
    assert story[-1]["code"] == 0
    for turn in story:
        assert turn["delete"][0] == 0, turn
        assert turn["left"] == [], turn
        if "other" in turn:
            assert turn["other"][0] == 0, turn
            assert turn["gone"][0] == 0, turn
        if "again" in turn:
            assert turn["again"][0] == 0 or turn["again"][1]["code"] == 100, turn
            assert turn["routes"] == (2 if exporters else 0), turn
