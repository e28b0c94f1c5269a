"""Compile launcher.c. Standard library only: setup.py runs this file before the package can be imported."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("launcher.c")
FLAGS = ("-O2", "-Wall", "-Wextra", "-Werror", "-s")
SECONDS = 60.0


def compile_launcher(target: Path) -> str:
    """Write the executable to `target`, statically linked if possible. Returns the reason if it failed, else ''.

    The compiler is `$CC`, else `musl-gcc` if it is installed, else `cc`. A program with musl starts in half the time,
    because glibc first reads the processor's features, which is slow in a virtual machine.
    """
    given = shlex.split(os.environ.get("CC", ""))
    ways = [[*(given or ["cc"]), "-static"], given or ["cc"]]
    reason = ""
    for compiler in ways if given else [["musl-gcc", "-static"], *ways]:
        command = [*compiler, *FLAGS, "-o", str(target), str(SOURCE)]
        try:
            done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=SECONDS, check=False)
        except FileNotFoundError:
            reason = f"no compiler ({compiler[0]})"
            continue
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{compiler[0]}: {error}"
        if done.returncode == 0:
            return ""
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = f"{compiler[0]}: {lines[-1] if lines else f'exit code {done.returncode}'}"
    return reason
