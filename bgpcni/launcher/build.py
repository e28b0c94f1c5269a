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
    """Write the executable to `target`, static where a static C library is at hand. The reason if it failed, or ''.

    `$CC` names the compiler, else `cc`.
    """
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    reason = ""
    for linking in (["-static"], []):
        command = [*compiler, *FLAGS, *linking, "-o", str(target), str(SOURCE)]
        try:
            done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=SECONDS, check=False)
        except FileNotFoundError:
            return f"no compiler ({compiler[0]})"
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{compiler[0]}: {error}"
        if done.returncode == 0:
            return ""
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = f"{compiler[0]}: {lines[-1] if lines else f'exit code {done.returncode}'}"
    return reason
