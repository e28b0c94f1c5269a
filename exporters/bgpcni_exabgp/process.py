"""Starts, adopts and ends an ExaBGP that is ours. It outlives the agent: its own session, its output in a file.

Each exporter has an ExaBGP and files of its own. What is ours is known by pid and start time, which the engine itself
writes to a file in `run_dir` that it keeps locked, and to one in `data_dir`, which nobody wipes; a pid alone is never
signalled. All signals go through a pidfd, which is opened before the start time is compared.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import itertools
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # ExaBGP's own process imports this module too
    from bgpcni.model import NodeFacts

_taking = threading.Lock()
_taken: set[Path] = set()
"""The configurations of the homes that exporters of this process have."""

LOG_LIMIT = 4 << 20
"""Octets; a log found longer is cut to nothing."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A process for the length of one boot. `started`: field 22 of /proc/PID/stat, in clock ticks."""

    pid: int
    started: int


class Running:
    """A live ExaBGP of ours, held by its pidfd."""

    def __init__(self, identity: Identity, descriptor: int) -> None:
        self.identity = identity
        self.status = ""
        """How it ended, in words; "" while it lives, and where only its parent, an agent that is gone, could know."""
        self._descriptor = descriptor

    def alive(self) -> bool:
        return not self.wait(0)

    def wait(self, seconds: float) -> bool:
        """Wait until it has ended; True if it has."""
        poller = select.poll()
        poller.register(self._descriptor, select.POLLIN)
        if not poller.poll(max(0, int(seconds * 1000))):
            return False
        with contextlib.suppress(ChildProcessError):  # only a child of this life can be asked, and once
            found = os.waitid(os.P_PIDFD, self._descriptor, os.WEXITED | os.WNOHANG)
            if found is not None:
                self.status = _status(found.si_code, found.si_status)
        return True

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, number)

    def end(self, deadline: float) -> bool:
        """End it in order, by force when the deadline (time.monotonic()) is near; True if it has ended."""
        self.signal(signal.SIGTERM)
        if self.wait(max(0.0, deadline - time.monotonic() - 0.5)):
            return True
        self.signal(signal.SIGKILL)
        return self.wait(1.0)

    def again(self) -> Running:
        """The same process, for another thread to wait for and close."""
        return Running(self.identity, os.dup(self._descriptor))

    def close(self) -> None:
        os.close(self._descriptor)


class Home:
    """The files of one ExaBGP in `run_dir`: configuration, socket, log, and who it is; the last in `data_dir` too."""

    @classmethod
    def of(cls, exporter: str, node: NodeFacts) -> Home:
        """The home that an exporter has by its name. `take` says whether it is that one."""
        sessions = frozenset((neighbor.address, str(node.local_address)) for neighbor in node.neighbors)
        others = frozenset(_home_name(name) for name in node.speakers if name != exporter)
        return cls(node.run_dir, _home_name(exporter), node.data_dir, sessions, others)

    def __init__(
        self,
        run_dir: str,
        name: str,
        data_dir: str,
        sessions: frozenset[tuple[str, str]] = frozenset(),
        others: frozenset[str] = frozenset(),
    ) -> None:
        """`sessions`: addresses of peer and node. `others`: names of homes that are other exporters'."""
        base = Path(run_dir)
        self.folder = base
        self.name, self.sessions, self.others = name, sessions, others
        self.configuration = base / f"{name}.conf"
        self.socket = base / f"{name}.sock"
        self.log = base / f"{name}.log"
        self.identity = base / f"{name}.pid"
        self.lasting = Path(data_dir) / f"{name}.claim"

    def take(self) -> Home:
        """The home to use until `leave`: that of a live ExaBGP with one of our sessions, else one of our name.

        So a speaker whose exporter got another name keeps its sessions. Another ExaBGP that has one of them is ended.
        One of our name whose sessions come from another address is left to the exporter that is handed over.
        """
        with _taking:
            alive = self._alive()
            alike = [home for home in alive if home.sessions & self.sessions or home.sessions == _UNKNOWN]
            here = {address for _, address in self.sessions}
            named = [
                home for home in alive
                if self._is_ours(home.name) and (not here or not here.isdisjoint(at for _, at in home.sessions))
            ]  # fmt: skip
            used = {*_taken, *(home.configuration for home in alive)}
            fresh = (home for home in self._by_name() if home.configuration not in used)
            home = next(itertools.chain(alike, named, fresh))
            _taken.add(home.configuration)
        for other in alike[1:]:
            if (running := other.adopt()) is not None:
                running.end(time.monotonic() + 5.0)
                running.close()
        return home

    def leave(self) -> None:
        """Let another exporter have it. Only after `take`."""
        with _taking:
            _taken.discard(self.configuration)

    def _alive(self) -> list[Home]:
        """The homes with a live ExaBGP that no exporter has, nor another one of the configuration; ours comes first."""
        found = []
        names = {path.stem for path in (*self.folder.glob("exabgp*.pid"), *self.lasting.parent.glob("exabgp*.claim"))}
        for name in sorted(names, key=lambda name: (not self._is_ours(name), name)):
            home = Home(str(self.folder), name, str(self.lasting.parent))
            home.sessions = frozenset(_SESSION.findall(home.configured())) or _UNKNOWN
            if name.partition("@")[0] in self.others or home.configuration in _taken:
                continue
            if (running := home.adopt()) is not None:
                running.close()
                found.append(home)
        return found

    def _is_ours(self, name: str) -> bool:
        return name.partition("@")[0] == self.name

    def _by_name(self) -> Iterator[Home]:
        """Homes of our name. There are several only while one exporter of this name is handed over to another."""
        yield self
        for number in itertools.count(2):
            yield Home(str(self.folder), f"{self.name}@{number}", str(self.lasting.parent))

    def relay_command(self) -> list[str]:
        return [sys.executable, "-I", "-m", "bgpcni_exabgp.relay", str(self.socket)]

    def write_configuration(self, text: str) -> str:
        """Put the configuration in place, whole; its digest, which the engine reports too."""
        write(self.configuration, text)
        return hashlib.sha256(text.encode()).hexdigest()

    def adopt(self) -> Running | None:
        """The ExaBGP that an earlier life left, if it lives."""
        try:
            found = self._identified()
            identity = Identity(int(found["pid"]), int(found["started"]))
            descriptor = os.pidfd_open(identity.pid)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if start_time(identity.pid) != identity.started:
            os.close(descriptor)
            return None
        running = Running(identity, descriptor)
        if not running.alive():
            running.close()
            return None
        return running

    def _identified(self) -> dict[str, Any]:
        """What it wrote of itself; from `data_dir` where run_dir was wiped. Raises OSError, ValueError, KeyError, …"""
        try:
            found: dict[str, Any] = json.loads(self.identity.read_text())
            return found
        except FileNotFoundError:
            found = json.loads(self.lasting.read_text())
            return found if found["boot"] == boot() else {}

    def plain(self) -> str:
        """Why the ExaBGP that runs is a stock one, "" if it is our engine."""
        try:
            return str(self._identified()["plain"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def configured(self) -> str:
        """The configuration that is in place, "" if there is none."""
        try:
            return self.configuration.read_text()
        except OSError:
            return ""

    def trim_log(self) -> None:
        """Cut a log that has grown too long; ExaBGP appends, so it goes on at the start."""
        with contextlib.suppress(OSError):
            if self.log.stat().st_size > LOG_LIMIT:
                os.truncate(self.log, 0)

    def start(self) -> Running:
        """Start ExaBGP on the configuration that is in place. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            self.socket.unlink()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        output = os.open(self.log, flags, 0o600)
        try:
            self.trim_log()
            process = subprocess.Popen(  # our own interpreter, fixed arguments
                [sys.executable, "-I", "-m", "bgpcni_exabgp.engine", str(self.configuration), str(self.lasting)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                env=environment(),
                start_new_session=True,
                close_fds=True,
            )
        finally:
            os.close(output)
        descriptor = os.pidfd_open(process.pid)
        process.returncode = 0  # reaped through the pidfd, never by subprocess
        return Running(Identity(process.pid, start_time(process.pid) or 0), descriptor)

    def forget(self) -> None:
        """ExaBGP has ended for good: remove what is of it alone."""
        for path in (self.identity, self.lasting, self.socket, self.configuration):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()

    def ending(self, running: Running) -> str:
        """How an ExaBGP ended: its exit status or the signal, and its last line where that is an error."""
        if not running.status:
            return "it ended, and how is not known: an earlier agent started it"
        error = self._last_error(running.identity.pid) if "exit status" in running.status else ""
        return running.status + (f": {error}" if error else "")

    def _last_error(self, pid: int) -> str:
        """The last line of the log without its head, if this process wrote it and it tells of an error."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, os.fstat(log.fileno()).st_size - 4096))
                lines = log.read().decode("utf-8", "replace").strip().splitlines()
        except OSError:
            return ""
        last = lines[-1].strip() if lines else ""
        head = _HEAD.match(last)
        if head is not None and (int(head[1]) != pid or head[2].startswith(("outgoing-", "incoming-"))):
            return ""
        text = last[head.end() :] if head is not None else last
        return text[:200] if _ERROR.search(text) else ""


_SESSION = re.compile(r"neighbor (\S+) {\s+router-id \S+;\s+local-address (\S+);")
"""Of each neighbour in a configuration that we wrote, the addresses of peer and node."""
_UNKNOWN: frozenset[tuple[str, str]] = frozenset([("", "")])
"""Of a configuration that somebody removed."""


def _home_name(exporter: str) -> str:
    """What the files of an exporter's ExaBGP are called: nothing that ExaBGP's configuration could not carry."""
    if exporter == "exabgp":
        return exporter
    plain = re.fullmatch(r"[A-Za-z0-9._-]{1,32}", exporter)
    return f"exabgp-{exporter if plain else hashlib.sha256(exporter.encode()).hexdigest()[:16]}"


_HEAD = re.compile(r"\d\d:\d\d:\d\d (\d+) +(\S+) +")
"""What a line of ExaBGP's log begins with: time, pid and what it is about. A traceback has none."""
_ERROR = re.compile(r"(?i)error|exception|invalid|could not|can ?not|failed|unable|refused|denied|in use|^bgpcni: ")
"""ExaBGP's log does not say how serious a line is: what its errors, and Python's, have in them."""


def _status(code: int, status: int) -> str:
    if code == os.CLD_EXITED:
        return f"it ended with exit status {status}"
    try:
        name = f" ({signal.Signals(status).name})"
    except ValueError:
        name = ""
    return f"it was killed by signal {status}{name}"


_found = False


def installed() -> bool:
    """Whether there is an ExaBGP to start, looked up without importing it."""
    global _found
    if not _found:  # asked at every ADD: looking for it takes longer than a system call
        spec = importlib.util.find_spec("exabgp")
        _found = spec is not None and spec.origin is not None  # a folder that is left over is no package
    return _found


def environment() -> dict[str, str]:
    """All of ExaBGP's environment: nothing is inherited, and no file of settings is read."""
    settings = {
        "daemon.user": "root" if os.geteuid() == 0 else _user(),
        "daemon.daemonize": "false",
        "api.cli": "false",
        "api.ack": "true",
        "api.respawn": "true",
        "api.terminate": "false",
        "tcp.bind": "",
        "log.destination": "stderr",
        "log.level": "WARNING",
        "log.short": "false",
        "log.statistics": "false",
        "cache.attributes": "false",
    }
    named = {f"exabgp_{key.replace('.', '_')}": value for key, value in settings.items()}
    return {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "EXABGP_ENVFILE": "/dev/null",
        **named,
    }


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        return int(stat.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def boot() -> str:
    """The ID of this boot: only with it do pid and start time name one process."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def write(path: Path, text: str) -> None:
    """Replace a file, whole or not at all, readable by its owner only."""
    temporary = path.with_name(path.name + ".new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(temporary, flags, 0o600)
    with open(descriptor, "w") as file:
        file.write(text)
    temporary.rename(path)


def back_off() -> Iterator[float]:
    """Seconds to wait before each new start: the first at once, then growing to half a minute."""
    yield 0.0
    pause = 0.5
    while True:
        yield pause
        pause = min(30.0, pause * 2)
