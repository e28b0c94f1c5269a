"""A node with 1,000 and 10,000 attachments: its start, its memory, and what an operator's commands cost there.

The attachments are generated (see `scale`). A command's time is that of its whole process; `networks` tells
of a single network, so that it shows how much of the others' time is Python's own start.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from integration.bench import sections
from integration.bench.scale import populate
from integration.lab import Lab, Node, until

SIZES = (1000, 10_000)

COMMANDS: Mapping[str, tuple[str, ...]] = {
    "networks": ("networks",),
    "status": ("status",),
    "attachments": ("attachments",),
    "routes": ("routes",),
    "explain": ("explain", "10.64.0.77"),
    "reload": ("reload",),
}

Result = dict[str, Any]


def run(times: int) -> Result:
    """For each size: seconds from the agent's start until it serves and until FRR has all, MB, each command's ms."""
    return {str(size): _node(size, times) for size in SIZES}


def _node(size: int, times: int) -> Result:
    with Lab() as lab:
        frr = lab.frr()
        node = lab.node(frr)
        populate(node.data_dir, node.run_dir, node.leases, size)
        began = time.monotonic()
        node.agent()
        serving = time.monotonic() - began
        until(lambda: frr.received(node.address) == size, f"{size} routes at FRR", seconds=300)
        found: Result = {"serving s": serving, "announced s": time.monotonic() - began}
        found["processes"] = sections.processes(node)
        for name, argv in COMMANDS.items():
            values = [_milliseconds(node, argv) for _ in range(times)]
            found[name] = sections.summary(values)
        began = time.monotonic()
        node.restart_agent()  # the speaker lives on, with the session
        found["again serving s"] = time.monotonic() - began
        assert frr.received(node.address) == size
        return found


def _milliseconds(node: Node, argv: tuple[str, ...]) -> float:
    began = time.monotonic()
    answer = node.operator(*argv)
    took = (time.monotonic() - began) * 1000
    assert answer.document, (argv, answer.stderr)  # `explain` fails: the container that it explains is not there
    return took
