"""The measurements. Each section takes a world and returns plain numbers in milliseconds, without judging them."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from integration.bench.world import Call, World
from integration.lab import Namespace, Node, until

Series = list[float]
Result = dict[str, Any]
ROUND = 20


def one_at_a_time(world: World, count: int, *, dual: bool = False) -> Result:
    """ADD, CHECK and DEL of one container after the other, ours and stock in turn, in rounds of ROUND containers."""
    kinds = {"ours": world.network(dual=dual), "stock": world.stock_network(dual=dual)}
    found: dict[str, dict[str, Series]] = {name: {"ADD": [], "CHECK": [], "DEL": []} for name in kinds}
    spaces = world.containers(ROUND)
    for start in range(0, count, ROUND):
        here = spaces[: min(ROUND, count - start)]
        for name, sequence in _rounds(world, kinds, here):
            for command, answers in sequence:
                found[name][command] += [call["seconds"] * 1000 for answer in answers for call in answer["calls"]]
    return {
        name: {command: summary(values) for command, values in series.items()} for name, series in found.items()
    } | {
        "ratios": {
            command: ratio(found["ours"][command], found["stock"][command]) for command in ("ADD", "CHECK", "DEL")
        },
        "series": {"ours": found["ours"]["ADD"], "stock": found["stock"]["ADD"]},
    }


def _rounds(
    world: World, kinds: dict[str, dict[str, Any]], spaces: Sequence[Namespace]
) -> Iterator[tuple[str, list[tuple[str, list[Result]]]]]:
    """A round: both plugins' ADDs interleaved, then CHECKs, then DELs. Both see the machine of the same moment."""
    cached: dict[tuple[str, int], Any] = {}
    for command in ("ADD", "CHECK", "DEL"):
        waves: list[list[Call]] = []
        owners: list[tuple[str, int]] = []
        for place, space in enumerate(spaces):
            for name, network in kinds.items():
                document = network if command == "ADD" else network | {"prevResult": cached[name, place]}
                # both attach to the same namespace, on interfaces of their own
                ifname = "eth0" if name == "ours" else "eth1"
                call = world.call(command, document, f"{name}-{place}", space, keep=command == "ADD", ifname=ifname)
                waves.append([call])
                owners.append((name, place))
        answers = world.run(waves)
        if command == "ADD":
            for owner, answer in zip(owners, answers, strict=True):
                cached[owner] = json.loads(answer["calls"][0]["stdout"])
        for name in kinds:
            mine = [answer for owner, answer in zip(owners, answers, strict=True) if owner[0] == name]
            yield name, [(command, mine)]


def bursts(world: World, size: int, rounds: int, *, dual: bool = False) -> Result:
    """`size` ADDs started together, then `size` DELs; ours and stock in turn. Wall time of the whole wave."""
    kinds = {"ours": world.network(dual=dual), "stock": world.stock_network(dual=dual)}
    found: dict[str, dict[str, Series]] = {name: {"ADD": [], "DEL": []} for name in kinds}
    series: dict[str, Series] = {name: [] for name in kinds}
    spaces = world.containers(size)
    for _ in range(rounds):
        for name, network in kinds.items():
            for command in ("ADD", "DEL"):
                calls = [world.call(command, network, f"{name}-{i}", space) for i, space in enumerate(spaces)]
                (answer,) = world.run([calls])
                found[name][command].append(answer["wall"] * 1000)
                if command == "ADD":
                    series[name] += [call["seconds"] * 1000 for call in answer["calls"]]
    return {
        name: {command: summary(values) for command, values in series.items()} for name, series in found.items()
    } | {
        "ratios": {command: ratio(found["ours"][command], found["stock"][command]) for command in ("ADD", "DEL")},
        "series": series,
    }


def without_agent(world: World, count: int) -> Result:
    """The same calls with no agent: what a Python process of its own costs, next to stock."""
    kinds = {
        "alone": world.network(exporters=[]) | {"name": "alone", "bridge": "alone0"},
        "stock": world.stock_network(),
    }
    kinds["alone"]["ipam"] = kinds["alone"]["ipam"] | {"ranges": [[{"subnet": "10.3.0.0/16"}]]}
    found: dict[str, Series] = {name: [] for name in kinds}
    for i, space in enumerate(world.containers(ROUND)[:count]):
        for command in ("ADD", "DEL"):
            for name, network in kinds.items():
                ifname = "eth0" if name == "alone" else "eth1"
                call = world.call(command, network, f"{name}-{i}", space, alone=name == "alone", ifname=ifname)
                (answer,) = world.run([[call]])
                if command == "ADD":
                    found[name].append(answer["calls"][0]["seconds"] * 1000)
    return {name: summary(values) for name, values in found.items()} | {"ratio": ratio(found["alone"], found["stock"])}


def to_the_table(world: World, count: int) -> Result:
    """From ADD's start, and from its answer, until FRR's table has the route (polled as fast as its socket answers)."""
    network = world.network()
    (space,) = world.containers(1)
    from_start: Series = []
    from_answer: Series = []
    for i in range(count):
        began = time.monotonic()
        (answer,) = world.run([[world.call("ADD", network, f"table-{i}", space, keep=True)]])
        call = answer["calls"][0]
        prefix = json.loads(call["stdout"])["ips"][0]["address"].partition("/")[0] + "/32"
        until(lambda prefix=prefix: world.frr.paths(prefix), f"{prefix} at FRR", step=0)  # type: ignore[misc]
        seen = time.monotonic()
        from_start.append((seen - began) * 1000)
        from_answer.append(max(0.0, seen - call["ended"]) * 1000)
        world.run([[world.call("DEL", network, f"table-{i}", space)]])
    return {"from start": summary(from_start), "from answer": summary(from_answer)}


def processes(node: Node) -> Result:
    """Resident memory (MB) and CPU seconds of the agent and of ExaBGP so far."""
    found: Result = {}
    for pid in node.namespace.pids():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            status = Path(f"/proc/{pid}/status").read_text()
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        name = "agent" if b"agent" in words else "exabgp" if b"bgpcni_exabgp.engine" in words else ""
        if name:
            rss = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
            found[name] = {"rss MB": rss / 1024, "cpu s": (int(fields[11]) + int(fields[12])) / 100}
    return found


def summary(values: Series) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "n": len(ordered),
        "p50": statistics.median(ordered),
        "p99": ordered[min(len(ordered) - 1, round(len(ordered) * 0.99))],
        "min": ordered[0],
        "max": ordered[-1],
    }


def ratio(ours: Series, stock: Series) -> dict[str, float]:
    """Of the medians; the spread is that of the ratios of eight slices of the run, first to last."""
    slices = min(8, len(ours), len(stock))
    parts = [statistics.median(ours[i::slices]) / statistics.median(stock[i::slices]) for i in range(slices)]
    return {
        "median": statistics.median(ours) / statistics.median(stock),
        "low": min(parts),
        "high": max(parts),
    }
