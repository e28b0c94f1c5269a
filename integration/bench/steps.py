"""The share of each step in a call's time, from the agent's own metrics, and the cost of enabling metrics."""

from __future__ import annotations

import re
from typing import Any

from integration.bench import sections
from integration.bench.world import Call, World
from integration.lab import Lab, Node

METRICS = "127.0.0.1:9109"


def _measured(node: Node) -> None:
    node.flags = ("--metrics", METRICS)


def _calls(world: World, count: int) -> dict[str, list[float]]:
    network = world.network()
    found: dict[str, list[float]] = {"ADD": [], "DEL": []}
    for start in range(0, count, sections.ROUND):
        spaces = world.containers(sections.ROUND)[: count - start]
        for command, values in found.items():
            waves: list[list[Call]] = [
                [world.call(command, network, f"s-{i}", space)] for i, space in enumerate(spaces)
            ]
            values += [answer["calls"][0]["seconds"] * 1000 for answer in world.run(waves)]
    return found


def run(count: int) -> dict[str, Any]:
    """Mean milliseconds a call of each step, `count` ADDs and DELs; ADD and DEL with metrics over without."""
    with Lab() as lab:
        plain = _calls(World(lab), count)
    with Lab() as lab:
        world = World(lab, before=_measured)
        counted = _calls(world, count)
        text = world.node.namespace.run("curl", "-sf", "--max-time", "20", f"http://{METRICS}/metrics").stdout
    sums = dict(re.findall(r'bgpcni_cni_step_duration_seconds_sum\{step="(\w+)"\} (\S+)', text))
    whole = dict(re.findall(r'bgpcni_cni_request_duration_seconds_sum\{command="(\w+)"\} (\S+)', text))
    return {
        "mean ms": {step: float(seconds) * 1000 / count for step, seconds in sums.items()},
        "agent ms": {command: float(seconds) * 1000 / count for command, seconds in whole.items()},
        "metrics on/off": {command: sections.ratio(counted[command], plain[command]) for command in plain},
    }
