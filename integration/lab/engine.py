"""Container engines of the laboratory's own: Docker's, else podman, in namespaces that nothing else uses.

The engine's daemon runs in a network, mount and PID namespace of its own; killing the first process there takes
engine and containers along, whatever state they are in. No registry is asked: images are made from files of this
machine. Containers get no network but the veth pairs that a test puts in.
"""

from __future__ import annotations

import abc
import io
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Self

from integration.lab.frr import FRR, tail
from integration.lab.namespace import Argument, Namespace, remove_cgroups, run
from integration.lab.wait import until

CAPABILITIES = ("NET_ADMIN", "NET_RAW", "SYS_ADMIN")
FRR_IMAGE = "localhost/bgpcni-frr:local"
BUSYBOX_IMAGE = "localhost/bgpcni-busybox:local"
APPLETS = ("sh", "sleep", "mount", "mountpoint", "mkdir", "ip", "cat", "ls", "ps", "ping", "true", "kill")

# The overlay daemons keep things in fixed places whatever they are told; here those places are empty and private.
# The loop reaps orphans, and its `sleep` is replaced by a read that never ends.
SETUP = """
set -e
mkdir -p "$0/cgroup" && mount --rbind /sys/fs/cgroup "$0/cgroup"
mount -t sysfs sysfs /sys && mount --rbind "$0/cgroup" /sys/fs/cgroup
for folder in /run /opt /var/lib; do mount -t tmpfs tmpfs $folder; done
ip link set lo up
echo ready
while :; do sleep 3600 & wait $!; done
"""


class NoEngine(RuntimeError):
    """No container engine can run on this machine; the message says why of each."""


class Box:
    """Network, mount and PID namespaces of their own; all that runs in them ends with `close`.

    `namespace`: a network namespace to use, else a new one. `setup`: a shell program that makes the mounts (`$0` is
    the folder) and says `ready`, see SETUP.
    """

    def __init__(self, folder: Path, namespace: Namespace | None = None, setup: str = SETUP) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.namespace = namespace or Namespace("engine")
        self._holder = subprocess.Popen(
            [
                *("nsenter", f"--net={self.namespace.path}", "unshare", "--mount", "--propagation", "private"),
                *("--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", setup, str(folder)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout
        assert self._holder.stderr
        if self._holder.stdout.readline() != "ready\n":
            said = self._holder.stderr.read().strip()
            self.close()
            raise NoEngine(f"no private namespaces for an engine: {said}")
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text().split()
        self.first = int(children[0])

    @property
    def root(self) -> Path:
        """The box's root folder, seen from outside: its mounts and its /proc included."""
        return Path(f"/proc/{self.first}/root")

    def command(self, *argv: Argument) -> list[str]:
        return ["nsenter", "-t", str(self.first), "-m", "-n", "-p", "-r", *(str(word) for word in argv)]

    def close(self) -> None:
        self.namespace.close()  # its processes are the first one, the engine and nothing else
        self._holder.kill()
        self._holder.wait()
        for pipe in (self._holder.stdout, self._holder.stderr):
            if pipe:
                pipe.close()
        # rbind mounts went with the mount namespace; the folder itself is the owner's to remove


class Container:
    """A running container: a place like a `Namespace`, whose processes have pids of their own."""

    def __init__(self, engine: Engine, ident: str, pid: int) -> None:
        self.engine, self.ident, self.pid = engine, ident, pid
        inside = engine.box.root / "proc" / str(pid)
        self.namespace = Namespace("container", of=inside / "ns" / "net")
        self.proc = inside / "root" / "proc"

    def run(self, *argv: Argument, check: bool = True) -> CompletedProcess[str]:
        """Run a program in the container, to its end."""
        return self.engine.run("exec", self.ident, *argv, check=check)

    def close(self) -> None:
        self.engine.run("rm", "--force", self.ident, check=False)
        self.namespace.close()


class Engine(abc.ABC):
    """A container engine in a box, its own unless one is given. `run` is its command line; the rest are short forms.

    An engine is tried out with a container before anybody relies on it.
    """

    name: str
    programs: tuple[str, ...]

    def __init__(self, folder: Path, box: Box | None = None) -> None:
        missing = [program for program in self.programs if shutil.which(program) is None]
        if missing:
            raise NoEngine(f"{self.name}: {', '.join(missing)} not installed")
        self.folder = folder
        self._own_box = box is None
        self.box = box or Box(folder)
        folder.mkdir(exist_ok=True)
        self.log = folder / "engine.log"
        try:
            self.begin()
            image = self.frr_image() if box is None else self.busybox_image()
            self.run("run", "--rm", "--network=none", *self.run_flags, image, "/bin/sh", "-c", "exit 0")
        except Exception as error:
            said = tail(self.log, 800).strip()
            self.close()
            raise NoEngine(f"{self.name}: {error} ({said})") from error

    @abc.abstractmethod
    def begin(self) -> None:
        """Start the engine and wait until it answers; that it can run a container is tried afterwards."""

    @abc.abstractmethod
    def cli(self) -> list[Argument]:
        """The engine's command line, up to its sub-command."""

    run_flags: tuple[str, ...] = ()

    def run(self, *argv: Argument, check: bool = True) -> CompletedProcess[str]:
        return run(*self.box.command(*self.cli(), *argv), check=check)

    def has_image(self, image: str) -> bool:
        return not self.run("image", "inspect", image, check=False).returncode

    def import_image(self, image: str, archive: Path) -> None:
        """Make an image of one layer from a tar file of its root folder."""
        if not self.has_image(image):
            self.run("import", archive, image)

    def frr_image(self) -> str:
        """The image of this machine's own FRR; made at the first call."""
        if not self.has_image(FRR_IMAGE):
            archive = self.folder / "frr.tar"
            frr_archive(archive)
            self.import_image(FRR_IMAGE, archive)
            archive.unlink()
        return FRR_IMAGE

    def busybox_image(self) -> str:
        """A small image with a shell; made at the first call."""
        if not self.has_image(BUSYBOX_IMAGE):
            archive = self.folder / "busybox.tar"
            busybox_archive(archive)
            self.import_image(BUSYBOX_IMAGE, archive)
            archive.unlink()
        return BUSYBOX_IMAGE

    def container(
        self, image: str, *argv: str, volumes: Iterable[tuple[Path, Path]] = (), capabilities: Sequence[str] = ()
    ) -> Container:
        """Start a container without a network. `volumes`: (folder here, folder there)."""
        flags = [f"--volume={here}:{there}" for here, there in volumes]
        flags += [f"--cap-add={capability}" for capability in capabilities]
        ident = self.run("run", "--detach", "--network=none", *self.run_flags, *flags, image, *argv).stdout.strip()
        pid = self.run("inspect", "--format={{.State.Pid}}", ident).stdout.strip()
        return Container(self, ident, int(pid))

    def frr_container(self, folder: Path) -> Container:
        """A container for `Frr`, whose `folder` it shares."""
        (folder / "etc").mkdir(parents=True, exist_ok=True)
        volumes = [(folder, folder), (folder, Path("/run/frr")), (folder / "etc", Path("/etc/frr"))]
        idle = "while :; do sleep 3600 & wait $!; done"
        argv = ("/bin/sh", "-c", idle)
        return self.container(self.frr_image(), *argv, volumes=volumes, capabilities=CAPABILITIES)

    def close(self) -> None:
        """End engine and containers; remove the cgroups they had. In a box that was given, they end with that."""
        if not self._own_box:
            return
        self.box.close()
        remove_cgroups(lambda hierarchy: hierarchy.glob(self.box.namespace.name))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Docker(Engine):
    """Docker's engine, with its own containerd. It touches neither bridges nor the firewall, even in its box."""

    name = "docker"
    programs = ("dockerd", "docker", "containerd", "runc")

    def cli(self) -> list[Argument]:
        return ["docker", "--config", self.folder / "client", "--host", f"unix://{self.folder}/d.sock"]

    def begin(self) -> None:
        config = self.folder / "daemon.json"
        config.write_text("{}")
        argv = [
            *("dockerd", f"--config-file={config}", "--bridge=none", "--iptables=false", "--ip6tables=false"),
            *(f"--data-root={self.folder}/data", "--exec-root=/run/docker", "--pidfile=/run/dockerd.pid"),
            *(f"--host=unix://{self.folder}/d.sock", f"--cgroup-parent=/{self.box.namespace.name}"),
            # systemd, which would be asked otherwise where it runs, is not reachable from the box
            "--exec-opt=native.cgroupdriver=cgroupfs",
        ]
        with self.log.open("ab") as log:
            daemon = subprocess.Popen(self.box.command(*argv), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._daemon = daemon

        def answers() -> bool:
            if daemon.poll() is not None:
                raise ChildProcessError(f"dockerd ended with {daemon.returncode}")
            return not self.run("version", check=False).returncode

        until(lambda: daemon.poll() is not None or answers(), "an answer of dockerd", step=0.05)
        answers()

    def close(self) -> None:
        super().close()
        if hasattr(self, "_daemon"):
            self._daemon.kill()
            self._daemon.wait()


class Podman(Engine):
    """podman, which has no daemon."""

    name = "podman"
    programs = ("podman", "conmon", "runc")
    run_flags: tuple[str, ...] = ("--mount=type=tmpfs,dst=/run,tmpfs-mode=755,notmpcopyup",)

    def cli(self) -> list[Argument]:
        quiet = ["env", "PODMAN_IGNORE_CGROUPSV1_WARNING=1"]
        places: list[Argument] = [
            "--root",
            self.folder / "data",
            "--runroot",
            "/run/podman",
            "--tmpdir",
            "/run/podman-tmp",
        ]
        return [*quiet, "podman", "--runtime=runc", "--cgroup-manager=cgroupfs", *places]

    def begin(self) -> None:
        self.run("info")
        self.run_flags = (*self.run_flags, f"--cgroup-parent=/{self.box.namespace.name}")


def start_engine(folder: Path, engines: Sequence[type[Engine]] = (Docker, Podman)) -> Engine:
    """The first engine that runs here. None: `NoEngine`, with the reason of each."""
    reasons = []
    for engine in engines:
        try:
            return engine(folder / engine.name)
        except NoEngine as error:
            reasons.append(str(error))
    raise NoEngine("; ".join(reasons))


def busybox_archive(archive: Path) -> None:
    """A tar file of a root folder with busybox alone."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise NoEngine("the image needs busybox-static")
    with tarfile.open(archive, "w") as tar:
        for folder in ("bin", "etc", "proc", "sys", "dev", "tmp", "run"):
            _add(tar, folder, kind=tarfile.DIRTYPE)
        _add_busybox(tar, Path(busybox))


def frr_archive(archive: Path) -> None:
    """A tar file of a root folder with this machine's FRR, what it links to, and busybox for the rest."""
    busybox = shutil.which("busybox")
    if busybox is None or not (FRR / "bgpd").exists():
        raise NoEngine("FRR's image needs frr and busybox-static")
    folders = ("etc/frr", "run/frr", "tmp", "proc", "sys", "dev", "var/lib/frr", "var/tmp/frr", "bin")
    accounts = ("root", "frr", "frrvty")
    with tarfile.open(archive, "w") as tar:
        for folder in folders:
            _add(tar, folder, kind=tarfile.DIRTYPE, mode=0o1777 if folder.endswith("tmp") else 0o755)
        seen: set[Path] = set()
        for program in sorted(FRR.iterdir()):
            if program.name in ("zebra", "bgpd", "mgmtd", "staticd", "bfdd"):
                for part in (program, *_links_to(program)):
                    if part not in seen:
                        seen.add(part)
                        _add(tar, str(part).lstrip("/"), part.read_bytes())
        for schema in sorted(Path("/usr/share/yang").glob("*.yang")):
            _add(tar, str(schema).lstrip("/"), schema.read_bytes(), mode=0o644)
        _add_busybox(tar, Path(busybox))
        for table in ("passwd", "group"):
            lines = [line for line in Path("/etc", table).read_text().splitlines() if line.split(":")[0] in accounts]
            _add(tar, f"etc/{table}", ("\n".join(lines) + "\n").encode(), mode=0o644)


def _add_busybox(tar: tarfile.TarFile, busybox: Path) -> None:
    _add(tar, "bin/busybox", busybox.read_bytes())
    for applet in APPLETS:
        _add(tar, f"bin/{applet}", kind=tarfile.SYMTYPE, link="busybox")


def _links_to(program: Path) -> list[Path]:
    """The shared objects a program needs, by the paths under which it looks for them."""
    return [Path(found) for found in re.findall(r"(/\S+) \(0x", run("ldd", program).stdout)]


def _add(
    tar: tarfile.TarFile, name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o755
) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.size, entry.mode, entry.linkname = kind, len(data), mode, link
    if name == "var/lib/frr" or name == "run/frr":
        owner = os.stat("/var/lib/frr") if Path("/var/lib/frr").exists() else os.stat("/")
        entry.uid, entry.gid = owner.st_uid, owner.st_gid
    tar.addfile(entry, io.BytesIO(data) if data else None)
