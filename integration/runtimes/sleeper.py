"""A process in a network namespace of its own: the least that can be attached."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bgpcni.testing.patience import SECONDS
from integration.lab import until
from integration.runtimes.machine import Machine


class Sleeper:
    """Sleeps on a machine until it is ended, and its namespace with it. `pid` is the machine's number of it."""

    def __init__(self, folder: Path, machine: Machine, name: str = "sleeper") -> None:
        told = folder / f"{name}.pid"
        told.unlink(missing_ok=True)
        script = f'ip link set lo up; echo $$ >"{told}.new"; mv "{told}.new" "{told}"; exec sleep 100000'
        self._machine = machine
        self._process = machine.popen("unshare", "--net", "sh", "-c", script)
        self.pid = int(until(lambda: told.read_text() if told.exists() else "", "the process"))
        self.path = Path(f"/proc/{self.pid}/ns/net")

    def run(self, *words: str, check: bool = True) -> str:
        """Run a program in its namespace; what it printed."""
        return self._machine.run("nsenter", "-t", self.pid, "-n", *words, check=check).stdout

    def ip(self, *words: str) -> str:
        return self.run("ip", *words)

    def ip_json(self, *words: str) -> list[dict[str, Any]]:
        return list(json.loads(self.ip("-json", *words) or "[]"))

    def end(self) -> None:
        self._process.kill()
        self._process.wait(SECONDS)
