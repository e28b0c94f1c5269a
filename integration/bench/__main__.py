"""`make bench`: run the sections, print the table, write bench.json and bench.svg.

usage: python -m integration.bench [--quick] [--only SECTION …] [--compare EARLIER.json] [--out DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bgpcni import __version__
from integration.bench import bignode, imports, report, scale, sections, speaker, steps
from integration.bench.world import World
from integration.lab import Lab
from integration.lab.core import root_or_reason
from integration.lab.node import STOCK_PLUGINS

Section = Callable[[World, bool], dict[str, Any]]

SECTIONS: dict[str, Section] = {
    "one at a time": lambda world, quick: sections.one_at_a_time(world, 40 if quick else 200),
    "one at a time, dual stack": lambda world, quick: sections.one_at_a_time(world, 20 if quick else 100, dual=True),
    "30 at once": lambda world, quick: sections.bursts(world, 30, 2 if quick else 8),
    "100 at once": lambda world, quick: sections.bursts(world, 100, 2 if quick else 8),
    "to FRR's table": lambda world, quick: sections.to_the_table(world, 30 if quick else 200),
    "without an agent": lambda world, quick: sections.without_agent(world, 5 if quick else 20),
    "processes": lambda world, quick: sections.processes(world.node),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few runs: to see that it works, not to quote")
    parser.add_argument(
        "--only",
        nargs="*",
        default=[],
        metavar="SECTION",
        help=", ".join([*SECTIONS, "steps", "speaker", "scale", "big node", "imports"]),
    )
    parser.add_argument("--compare", type=Path, help="an earlier bench.json, shown beside")
    parser.add_argument("--out", type=Path, default=Path(), help="where bench.json and bench.svg go")
    options = parser.parse_args()
    if reason := root_or_reason():
        sys.exit(f"bench: {reason}")
    if not (STOCK_PLUGINS / "bridge").exists():
        sys.exit(f"bench: the stock plugins are not in {STOCK_PLUGINS} (Debian: containernetworking-plugins)")
    document: dict[str, Any] = {
        "version": __version__,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"kernel": platform.release(), "cpus": os.cpu_count(), "python": platform.python_version()},
        "quick": options.quick,
        "sections": {},
    }
    chosen = {name: section for name, section in SECTIONS.items() if not options.only or name in options.only}
    with Lab() as lab:
        world = World(lab) if chosen else None
        for name, section in chosen.items():
            assert world is not None
            print(f"bench: {name} …", file=sys.stderr, flush=True)
            document["sections"][name] = section(world, options.quick)
    if not options.only or "steps" in options.only:
        print("bench: steps …", file=sys.stderr, flush=True)
        document["sections"]["steps"] = steps.run(40 if options.quick else 200)
    if not options.only or "speaker" in options.only:
        print("bench: speaker …", file=sys.stderr, flush=True)
        with Lab() as lab:
            count, singles = (5_000, 50) if options.quick else (50_000, 500)
            document["sections"]["speaker"] = speaker.speaker(lab, count, singles)
    if not options.only or "scale" in options.only:
        print("bench: scale …", file=sys.stderr, flush=True)
        document["sections"]["scale"] = scale.run(20 if options.quick else 100)
    if not options.only or "big node" in options.only:
        print("bench: big node …", file=sys.stderr, flush=True)
        document["sections"]["big node"] = bignode.run(3 if options.quick else 15)
    if not options.only or "imports" in options.only:
        print("bench: imports …", file=sys.stderr, flush=True)
        document["sections"]["imports"] = imports.run(1 if options.quick else 3)
    earlier = json.loads(options.compare.read_text()) if options.compare else None
    print(report.table(document, earlier))
    (options.out / "bench.json").write_text(json.dumps(document, indent=1) + "\n")
    (options.out / "bench.svg").write_text(report.plot(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
