"""Network namespaces and the veth pairs between them, through iproute2.

A namespace's name carries the pid of the run that made it, so that `sweep` can tell what a dead run left behind.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

from bgpcni.testing.patience import SCALE
from integration.lab.wait import until

PREFIX = "bgpcni"
NETNS = Path("/run/netns")
PROC = Path("/proc")
Argument = str | int | Path


class NoNamespaces(RuntimeError):
    """This machine, or this user, cannot make network namespaces."""


def unique(what: str) -> str:
    """A name that no other run has, and that says which run it belongs to."""
    return f"{PREFIX}-{os.getpid()}-{secrets.token_hex(3)}-{what}"


def run(
    *argv: Argument,
    check: bool = True,
    stdin: str = "",
    env: Mapping[str, str] | None = None,
    seconds: float = 120,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, output as text. `check`: a failure raises, with what the program said.

    `seconds`, as a quiet machine needs them, bound it.
    """
    words = [str(word) for word in argv]
    done = subprocess.run(
        words, input=stdin, capture_output=True, text=True, check=False, env=env, timeout=seconds * SCALE
    )
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(words)}: exit {done.returncode}: {(done.stderr + done.stdout).strip()}")
    return done


class Namespace:
    """One network namespace, named, with lo up. A place where programs run; `close` ends them and removes it."""

    proc = PROC
    """Where the processes of this place are seen, by the pids that they write to their own pid files."""
    has_own_mounts = False
    """Whether what runs inside sees folders of its own in place of the machine's /etc, /run and /var/lib."""

    def __init__(self, what: str = "x", of: Path | None = None) -> None:
        """A new namespace, or, with `of` (`…/ns/net` of a process), a name for one that is there already."""
        self.name = unique(what)
        self.path = NETNS / self.name
        try:
            if of is None:
                run("ip", "netns", "add", self.name)
            else:
                NETNS.mkdir(exist_ok=True)
                self.path.touch()
                run("mount", "--bind", of, self.path)
            self.ip("link", "set", "lo", "up")
        except (RuntimeError, OSError) as error:
            run("ip", "netns", "delete", self.name, check=False)
            raise NoNamespaces(f"no network namespace can be made here: {error}") from error

    @property
    def namespace(self) -> Namespace:
        return self

    def command(self, *argv: Argument) -> list[str]:
        """The command line that runs `argv` inside; it is exec'd, so the pid is the program's own."""
        return ["ip", "netns", "exec", self.name, *(str(word) for word in argv)]

    def run(
        self,
        *argv: Argument,
        check: bool = True,
        stdin: str = "",
        env: Mapping[str, str] | None = None,
        seconds: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside, to its end."""
        return run(*self.command(*argv), check=check, stdin=stdin, env=env, seconds=seconds)

    def popen(
        self,
        *argv: Argument,
        log: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdout: int | IO[Any] | None = None,
    ) -> subprocess.Popen[str]:
        """Start a program inside; stderr (and stdout, unless given) go to `log`, else nowhere."""
        with open(log or os.devnull, "ab") as sink:
            return subprocess.Popen(
                self.command(*argv),
                stdin=subprocess.DEVNULL,
                stdout=sink if stdout is None else stdout,
                stderr=sink,
                text=True,
                env=env,
            )

    def ip(self, *argv: Argument, check: bool = True) -> str:
        """`ip` on this namespace."""
        return run("ip", "-n", self.name, *argv, check=check).stdout

    def ip_json(self, *argv: Argument) -> list[dict[str, Any]]:
        """`ip -json` on this namespace; [] where it says nothing or fails (no such device, no such route)."""
        return list(json.loads(self.ip("-json", *argv, check=False) or "[]"))

    def sysctl(self, **values: int) -> None:
        """Set sysctls of this namespace: `sysctl(net__ipv4__ip_forward=1)`; two underscores stand for a dot."""
        for key, value in values.items():
            path = "/proc/sys/" + key.replace("__", "/")
            self.run("sh", "-c", 'echo "$0" >"$1"', value, path)

    def ping(self, address: str, source: str | None = None, count: int = 1, seconds: int = 2) -> bool:
        """Whether an echo request to `address` is answered within `seconds`."""
        origin = ["-I", source] if source else []
        return not self.run("ping", "-n", "-c", count, "-W", seconds, *origin, address, check=False).returncode

    def pids(self) -> list[int]:
        """The processes inside, as the root PID namespace numbers them."""
        return [int(pid) for pid in run("ip", "netns", "pids", self.name, check=False).stdout.split()]

    def close(self) -> None:
        """Kill what still runs inside, then remove the namespace and with it all its links. Idempotent."""
        if self.path.exists():
            _remove(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def link(
    a: Namespace,
    b: Namespace,
    a_name: str,
    b_name: str,
    a_addresses: Sequence[str] = (),
    b_addresses: Sequence[str] = (),
) -> None:
    """A veth pair between two namespaces, both ends up. Addresses have their length; IPv6 is usable at once."""
    run("ip", "link", "add", "name", a_name, "netns", a.name, "type", "veth", "peer", "name", b_name, "netns", b.name)
    for place, name, addresses in ((a, a_name, a_addresses), (b, b_name, b_addresses)):
        # Else a stranger's link-local stays tentative for seconds, and neighbour discovery with it.
        place.run("sh", "-c", 'echo 0 >"/proc/sys/net/ipv6/conf/$0/accept_dad"', name)
        for address in addresses:
            place.ip("address", "add", address, "dev", name, *(["nodad"] if ":" in address else []))
        place.ip("link", "set", "dev", name, "up")


def alive(pid: int, proc: Path = PROC) -> bool:
    """Whether the process is there and is no zombie."""
    try:
        return (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def send_signal(pid: int, number: int, proc: Path = PROC) -> None:
    """Signal the process that `proc` shows as `pid`; none there: nothing. Works for a container's pids too."""
    try:
        handle = os.open(proc / str(pid), os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return
    try:
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    def left() -> list[int]:
        listed = run("ip", "netns", "pids", path.name, check=False).stdout.split()
        return [pid for pid in map(int, listed) if pid != os.getpid() and alive(pid)]

    def killed() -> bool:
        pids = left()
        for pid in pids:
            send_signal(pid, signal.SIGKILL)
        return not pids

    until(killed, f"the end of what runs in {path.name}")
    run("ip", "netns", "delete", path.name, check=False)


def _of_dead_runs(folder: Path) -> Iterator[Path]:
    for path in folder.glob(f"{PREFIX}-*"):
        found = re.fullmatch(rf"{PREFIX}-(\d+)-.*", path.name)
        if found and not alive(int(found[1])):
            yield path


def remove_cgroups(tops: Callable[[Path], Iterable[Path]]) -> None:
    """Remove the (empty) cgroups that `tops` finds in each hierarchy of cgroup v1, or in the one of v2."""
    root = Path("/sys/fs/cgroup")
    for hierarchy in (root, *(folder for folder in root.glob("*") if folder.is_dir())):
        for top in tops(hierarchy):
            run("find", top, "-depth", "-type", "d", "-delete", check=False)


def sweep() -> list[str]:
    """Remove what runs that are dead left behind: processes, namespaces, folders. The names of what was removed."""
    gone = []
    for path in _of_dead_runs(NETNS):
        _remove(path)
        gone.append(path.name)
    for path in _of_dead_runs(Path(tempfile.gettempdir())):
        for line in reversed((PROC / "self/mounts").read_text().splitlines()):
            if line.split()[1].startswith(f"{path}/"):
                run("umount", "--lazy", line.split()[1], check=False)
        shutil.rmtree(path, ignore_errors=True)
        gone.append(str(path))
    remove_cgroups(_of_dead_runs)
    return gone
