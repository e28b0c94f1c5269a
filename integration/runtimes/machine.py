"""A node's namespace made a whole machine: mounts and process numbers of its own around the same network namespace.

/etc, /opt and /var/lib are the host's to read and the machine's own to write; /run is empty. So plugins and
configurations are where runtimes look for them (/opt/cni/bin, /etc/cni/net.d), and names under /var/run/netns are
nobody else's.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from integration.lab import Namespace, Node
from integration.lab.engine import Box, NoEngine
from integration.lab.namespace import Argument, remove_cgroups
from integration.lab.node import STOCK_PLUGINS

SETUP = """
set -e
mount -t tmpfs tmpfs "$0"
mkdir -p "$0/cgroup" && mount --rbind /sys/fs/cgroup "$0/cgroup"
mount -t sysfs sysfs /sys && mount --rbind "$0/cgroup" /sys/fs/cgroup
for folder in etc opt var/lib; do
    mkdir -p "$0/upper/$folder" "$0/work/$folder"
    mount -t overlay -o "lowerdir=/$folder,upperdir=$0/upper/$folder,workdir=$0/work/$folder" overlay "/$folder"
done
mount -t tmpfs tmpfs /run
rm -rf /etc/cni /opt/cni /var/lib/cni /etc/bgpcni /var/lib/bgpcni
mkdir -p /etc/cni/net.d /opt/cni/bin /run/netns
ip link set lo up
echo ready
while :; do sleep 3600 & wait $!; done
"""
CONF = Path("/etc/cni/net.d")
BIN = Path("/opt/cni/bin")


class NoMachine(RuntimeError):
    """This machine cannot make one; the message says why."""


class Machine(Namespace):
    """A `Namespace` whose programs run inside a box. Made by `enclose`; closed with the node."""

    has_own_mounts = True

    def __init__(self, inner: Namespace, folder: Path, setup: str = SETUP) -> None:
        self.name, self.path = inner.name, inner.path
        self._inner = inner
        try:
            self.box = Box(folder, inner, setup)
        except NoEngine as error:
            raise NoMachine(str(error)) from error
        self.proc = self.box.root / "proc"

    def command(self, *argv: Argument) -> list[str]:
        return self.box.command(*argv)

    def popen(
        self,
        *argv: Argument,
        log: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdout: int | IO[Any] | None = None,
    ) -> subprocess.Popen[str]:
        with open(log or os.devnull, "ab") as sink:
            return Inside(
                self.command(*argv),
                stdin=subprocess.DEVNULL,
                stdout=sink if stdout is None else stdout,
                stderr=sink,
                text=True,
                env=env,
            )

    def inside(self, path: Path) -> Path:
        """A path of the machine, as the host sees it."""
        return self.box.root / path.relative_to("/")

    def network(self, document: Mapping[str, Any], file: str = "10-test.conflist") -> Path:
        """Put a network's configuration where runtimes look for it, whole at once; its path in the machine."""
        fresh = self.inside(CONF / f"{file}.new")
        fresh.write_text(json.dumps(document))
        fresh.rename(self.inside(CONF / file))
        return CONF / file

    def plugin(self, name: str, text: str) -> None:
        """Install a plugin of the test's own."""
        path = self.inside(BIN / name)
        path.write_text(text)
        path.chmod(0o755)

    def netns(self) -> set[str]:
        """The names under /var/run/netns."""
        return set(os.listdir(self.inside(Path("/run/netns"))))

    def close(self) -> None:
        if self.path.exists():
            self.box.close()
            remove_cgroups(lambda hierarchy: hierarchy.glob(self.name))


class Inside(subprocess.Popen[str]):
    """A program in the machine. `nsenter` stays as its parent and ends as it ends; signals are for the program."""

    def send_signal(self, sig: int) -> None:
        self.poll()
        if self.returncode is not None:
            return
        for child in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
            os.kill(int(child), sig)


def enclose(node: Node) -> Machine:
    """Make a machine of a node, before anything runs on it: with our plugin and the stock ones in /opt/cni/bin."""
    machine = Machine(node.namespace, node.folder / "machine")
    node.namespace = machine
    for folder in (STOCK_PLUGINS, node.bin_dir):
        for plugin in sorted(folder.iterdir()):
            machine.run("ln", "-sf", plugin, BIN / plugin.name)
    return machine
