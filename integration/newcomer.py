"""`make newcomer`: how long somebody needs who has never seen this, from `git clone` to the end of each tutorial.

What is committed is cloned into a new folder. There everything is done that README.md and the tutorials say, by their
own commands; reading is not counted. Debian packages and wheels that this machine has already are not fetched again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from integration.lab.core import root_or_reason

ROOT = Path(__file__).parents[1]
TUTORIALS = sorted(path.stem for path in (ROOT / "docs/tutorials").glob("*.md"))
MOST = 3600


def timed(what: str, command: Sequence[str], folder: Path) -> float:
    """Run a step to its end, and print how long it took. Raises SystemExit with its output if it fails."""
    kept = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH", "MAKEFLAGS")}
    began = time.monotonic()
    done = subprocess.run(
        command, cwd=folder, env=kept | {"BGPCNI_PARTS": "required"}, stdin=subprocess.DEVNULL, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=MOST, check=False,
    )  # fmt: skip
    took = time.monotonic() - began
    if done.returncode:
        sys.exit(f"newcomer: {what} failed after {took:.0f} s: {' '.join(command)}\n{done.stdout[-4000:]}")
    print(f"{what:<44}{took:>7.1f} s", flush=True)
    return took


def main() -> None:
    if reason := root_or_reason():
        sys.exit(f"newcomer: {reason}")
    with tempfile.TemporaryDirectory(prefix="newcomer-") as folder:
        clone = Path(folder, "bgpcni")
        begin = timed("git clone", ["git", "clone", "--quiet", str(ROOT), str(clone)], ROOT)
        begin += timed("make setup", ["make", "setup"], clone)
        timed("make demo", ["make", "demo"], clone)
        ends = {
            name: timed(
                f"tutorial {name}", [".venv/bin/pytest", "-q", "integration/test_tutorials.py", "-k", name], clone
            )
            for name in TUTORIALS
        }
    for name, took in ends.items():
        print(f"from clone to the end of {name:<19}{begin + took:>7.1f} s")


if __name__ == "__main__":
    main()
