"""A daemon in a network namespace: started, asked until it answers, hung, killed by any signal, started again."""

from __future__ import annotations

import abc
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bgpcni.testing.patience import SECONDS
from integration.lab.frr import tail
from integration.lab.namespace import Argument, Namespace, send_signal
from integration.lab.wait import until


class Daemon(abc.ABC):
    """One daemon, a process that stays in the foreground. What it needs and writes is in `folder`, made here.

    Given to `Lab.adopt`, it ends with the laboratory, and its log is among those that a failed test shows.
    """

    def __init__(self, namespace: Namespace, folder: Path) -> None:
        self.namespace, self.folder, self.log = namespace, folder, folder / "log"
        folder.mkdir(mode=0o755)
        self._process: subprocess.Popen[str] | None = None

    @abc.abstractmethod
    def argv(self) -> Sequence[Argument]:
        """The command line that runs it."""

    @abc.abstractmethod
    def answers(self) -> object:
        """A true value once the daemon does its work; an exception counts as "not yet"."""

    def start(self) -> None:
        """Start it and wait until it answers. Raises RuntimeError with its last words where it ends instead."""
        process = self._process = self.namespace.popen(*self.argv(), log=self.log)
        until(lambda: process.poll() is not None or self.answers(), f"an answer of {self.folder.name}")
        if process.poll() is not None:
            raise RuntimeError(f"{self.folder.name} ended with {process.returncode}: {tail(self.log)}")

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End it by a signal, and wait for its end."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
            self._process.wait(SECONDS)

    def restart(self, number: int = signal.SIGTERM) -> None:
        """End it by a signal and start it again."""
        self.kill(number)
        self.start()

    def pause(self) -> None:
        """Make it hang: the kernel still accepts connections, but nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            send_signal(self._process.pid, number)

    def logs(self) -> dict[str, str]:
        """The end of what it wrote, by file."""
        return {f"{self.folder.name}/{self.log.name}": tail(self.log)}

    def close(self) -> None:
        """End it at once, also where it hangs. Idempotent."""
        self.kill()
