"""A machine whose first process is systemd, so that units run as on a real one, with their whole sandbox.

It is Debian's systemd on this machine's kernel, in namespaces of its own (network, mounts, process numbers, name,
cgroups), with no unit but those that a test starts: capabilities, seccomp filters and mounts of a unit are real.
systemd sees cgroup v2 alone, without controllers, so limits of memory or CPU are not what can be tested here.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from integration.lab import Node, until
from integration.lab.namespace import Argument, Namespace, remove_cgroups
from integration.runtimes.machine import Machine, NoMachine

SYSTEMD = Path("/lib/systemd/systemd")
UNITS = Path("/etc/systemd/system")
CGROUPS = Path("/sys/fs/cgroup")

# Settings of the whole machine are not systemd's to write here (as a first process it would raise fs.nr_open), and
# none of the units that a boot wants is started.
SETUP = """
set -e
mkdir -p @CGROUP@
echo $$ >@CGROUP@/cgroup.procs
exec unshare --uts --ipc --cgroup sh -c '
set -e
mount -t tmpfs tmpfs "$0"
umount --recursive /run/netns 2>/dev/null || true
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for folder in /proc/sys/*; do
    [ "$folder" = /proc/sys/net ] || { mount --bind "$folder" "$folder"; mount -o remount,bind,ro "$folder"; }
done
for folder in etc opt var/lib usr/lib/cni usr/local/bin; do
    mkdir -p "$0/upper/$folder" "$0/work/$folder"
    mount -t overlay -o "lowerdir=/$folder,upperdir=$0/upper/$folder,workdir=$0/work/$folder" overlay "/$folder"
done
mount -t tmpfs -o mode=755 tmpfs /run
rm -rf /etc/cni/net.d /opt/* /usr/local/bin/bgpcni /var/lib/cni /etc/bgpcni /var/lib/bgpcni /etc/systemd/system/*
rm -f /usr/lib/cni/bgpcni /usr/lib/cni/bgpcni-ipam /usr/lib/cni/bagpipe
mkdir -p /run/netns /var/lib/containerd
mount -t tmpfs tmpfs /var/lib/containerd
mount --make-rshared /
for unit in /usr/lib/systemd/system/*.target.wants/*; do
    ln -sf /dev/null "/etc/systemd/system/${unit##*/}"
done
printf "[Unit]\\nDefaultDependencies=no\\n" >/etc/systemd/system/laboratory.target
ln -s laboratory.target /etc/systemd/system/default.target
ip link set lo up
echo ready
exec env -i container=laboratory PATH=/usr/sbin:/usr/bin:/sbin:/bin @SYSTEMD@ --log-target=console 2>>@LOG@
' "$0"
"""


class Booted(Machine):
    """A machine under systemd. Raises NoMachine where that cannot be."""

    def __init__(self, inner: Namespace, folder: Path) -> None:
        if missing := [name for name in ("systemctl", str(SYSTEMD)) if shutil.which(name) is None]:
            raise NoMachine(f"not installed: {', '.join(missing)}")
        folder.parent.mkdir(exist_ok=True)
        self.log = folder.parent / "systemd.log"
        self._cgroup = next(place for place in (CGROUPS / "unified", CGROUPS) if place.is_dir()) / inner.name
        setup = SETUP
        for word, value in (("@CGROUP@", self._cgroup), ("@SYSTEMD@", SYSTEMD), ("@LOG@", self.log)):
            setup = setup.replace(word, str(value))
        super().__init__(inner, folder, setup)
        until(lambda: self.systemctl("is-active", "laboratory.target", check=False).returncode == 0, "systemd's answer")

    def systemctl(self, *argv: Argument, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run("systemctl", "--no-pager", *argv, check=check)

    def main_pid(self, unit: str) -> int:
        """The unit's process, as the machine numbers it."""
        return int(self.systemctl("show", "--property=MainPID", "--value", unit).stdout)

    def status(self, pid: int) -> dict[str, str]:
        """/proc/PID/status of a process of the machine."""
        text = (self.proc / str(pid) / "status").read_text()
        return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}

    def close(self) -> None:
        """End systemd and with it all that runs there. Its cgroup can go when the last process has."""
        super().close()

        def gone() -> bool:
            remove_cgroups(lambda hierarchy: hierarchy.glob(self.name))
            return not self._cgroup.exists()

        until(gone, "the end of the machine's cgroup")


def boot(node: Node) -> Booted:
    """Make a booted machine of a node, before anything runs on it; the unit's folders become the node's.

    What the agent says goes to the node's log, where a failed test shows it, and not to the journal.
    """
    machine = Booted(node.namespace, node.folder / "machine")
    node.namespace = machine
    node.socket, node.run_dir = Path("/run/bgpcni/agent.sock"), machine.inside(Path("/run/bgpcni"))
    node.data_dir = machine.inside(Path("/var/lib/bgpcni"))
    node.config = machine.inside(Path("/etc/bgpcni/agent.toml"))
    told = machine.inside(UNITS) / "bgpcni.service.d/log.conf"
    told.parent.mkdir()
    told.write_text(f"[Service]\nStandardError=append:{node.log}\n")
    return machine
