"""A real BIRD in a network namespace."""

from __future__ import annotations

import shutil
import socket

from integration.lab import Daemon, Lab, Namespace, NotHere
from integration.lab.namespace import Argument


class Bird(Daemon):
    """One daemon with this configuration; `control`: the socket that `birdc` speaks to."""

    def __init__(self, lab: Lab, namespace: Namespace, config: str) -> None:
        program = shutil.which("bird", path="/usr/sbin:/usr/bin:/sbin")
        if program is None:
            raise NotHere("not installed: bird3")
        super().__init__(namespace, lab.folder / "bird")
        self.program, self.control = program, self.folder / "ctl"
        (self.folder / "conf").write_text(config)
        lab.adopt(self)

    def argv(self) -> list[Argument]:
        here = self.folder
        return [self.program, "-f", "-c", here / "conf", "-s", self.control, "-P", here / "pid"]

    def answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as bird:
            bird.connect(str(self.control))
            return True

    def show(self, *words: str) -> str:
        """The output of `birdc show …`."""
        return self.namespace.run(f"{self.program}c", "-s", self.control, "show", *words).stdout
