"""A real OpenBGPD in a network namespace."""

from __future__ import annotations

import json
import pwd
from pathlib import Path
from typing import Any

from integration.lab import Daemon, Lab, Namespace, NotHere
from integration.lab.namespace import Argument

PROGRAM, CONTROL = Path("/usr/sbin/bgpd"), Path("/usr/sbin/bgpctl")  # FRR's bgpd is elsewhere


class OpenBGPD(Daemon):
    """One daemon with this configuration, which changes no route of the kernel."""

    def __init__(self, lab: Lab, namespace: Namespace, config: str) -> None:
        if not CONTROL.exists():
            raise NotHere("not installed: openbgpd")
        super().__init__(namespace, lab.folder / "openbgpd")
        self.control = self.folder / "control"
        conf = self.folder / "conf"
        conf.write_text(f'socket "{self.control}"\nfib-update no\n{config}')
        conf.chmod(0o600)
        lab.adopt(self)

    def argv(self) -> list[Argument]:
        # its user's home, into which it locks itself, is made in a /run that no other process sees
        home = pwd.getpwnam("_openbgpd").pw_dir
        script = 'mount -t tmpfs none /run && mkdir -p "$0" && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", script, home, PROGRAM, "-d", "-f", self.folder / "conf"]

    def answers(self) -> bool:
        return self.namespace.run(CONTROL, "-s", self.control, "show", check=False).returncode == 0

    def show(self, *words: str) -> Any:
        """What `bgpctl show …` answers, as a document."""
        return json.loads(self.namespace.run(CONTROL, "-j", "-s", self.control, "show", *words).stdout)

    def prefixes(self) -> set[str]:
        return {route["prefix"] for route in self.show("rib").get("rib", ())}
