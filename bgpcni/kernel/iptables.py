"""iptables' nat tables, through the programs `iptables` and `ip6tables`. No value reaches a shell."""

from __future__ import annotations

import subprocess

from bgpcni.errors import KernelRefused

PROGRAMS = {4: "iptables", 6: "ip6tables"}
_SECONDS = 30


def run(version: int, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run the program of an IP version on its nat table; wait for its lock. Raises KernelRefused if it cannot run."""
    program = PROGRAMS[version]
    try:
        return subprocess.run(
            [program, "-w", "-t", "nat", *argv],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_SECONDS,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelRefused(f"{program}: {error}") from None
