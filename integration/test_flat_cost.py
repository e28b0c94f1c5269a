"""The work of a call does not grow with the number of attachments."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from integration.lab import Lab

REPOSITORY = Path(__file__).parent.parent


def test_a_call_does_the_same_work_among_two_thousand_attachments(lab: Lab) -> None:
    """ADD, CHECK and DEL open as many files and send as many netlink messages as on an empty node."""
    seen = []
    for records in (0, 2000):
        node = lab.namespace(f"flat{records}")
        spaces = [str(lab.container().path) for _ in range(2)]
        answer = node.run(
            "sh", "-c", 'cd "$0" && exec "$@"', REPOSITORY, sys.executable, "-m", "integration.flat", records, *spaces
        )
        seen.append(json.loads(answer.stdout))
    assert set(seen[0]) == {"ADD", "CHECK", "DEL"}
    assert seen[0]["ADD"]["netlink messages"] > 3
    assert seen[0] == seen[1]
