"""Runs histories, and says how many a minute of one core: `python -m tests.simulation [COUNT] [--first SEED]`.

Exit status 1 where one fails; its seed is printed, and is all that it takes to run it again.
"""

from __future__ import annotations

import argparse
import sys
import time

from . import history, world


def times() -> tuple[float, float]:
    return time.process_time(), time.monotonic()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Run histories of faults.")
    parser.add_argument("count", nargs="?", type=int, default=2000, help="how many histories (2000)")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the seed of the first (0)")
    asked = parser.parse_args()
    failed = steps = 0
    with world.installed():
        begun = times()
        for result in history.each(range(asked.first, asked.first + asked.count)):
            steps += result.steps
            if result.violations:
                failed += 1
                print(f"seed {result.plan.seed}: {result.violations[0]}", flush=True)
        per_core, per_clock = (60 * asked.count / (now - then) for now, then in zip(times(), begun, strict=True))
    print(f"{asked.count} histories of {steps / asked.count:.0f} steps on average: {failed} failed")
    print(f"{per_core:.0f} a minute of one core's time, {per_clock:.0f} by the clock")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
