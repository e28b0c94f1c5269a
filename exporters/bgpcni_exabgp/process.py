"""Starts, adopts and ends an ExaBGP that is ours. It outlives the agent: its own session, its output in a file.

Which exporter has which is for `homes` to say. ExaBGP is found by the lock that it holds for life (`claim`), never by a
pid alone. Signals go through a pidfd where the process can be seen from here. Where it cannot, as in another PID
namespace, its relay sends them.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from bgpcni_exabgp import protocol
from bgpcni_exabgp.claim import holder, start_time

LOG_LIMIT = 4 << 20
"""Octets; a log found longer is cut to nothing."""
LOOK = 0.05
"""Seconds between two looks whether a process that cannot be seen from here still holds its lock."""
RELAY = 2.0
"""Seconds that a relay may take to pass a signal on."""
By = Literal["agent", "speaker"]


@dataclass(frozen=True, slots=True)
class Identity:
    """A process for the length of one boot, in its own PID namespace. `started`: field 22 of /proc/PID/stat, in clock
    ticks. Both are 0 if they are not known."""

    pid: int
    started: int


class Signals(Protocol):
    """What passes signals on to ExaBGP: a connection to its relay."""

    def signal(self, number: int) -> None: ...


class Running:
    """A live ExaBGP of ours. `descriptor`: a pidfd, None if the process cannot be seen here. `by`: who started it."""

    def __init__(self, home: Home, identity: Identity, descriptor: int | None, by: By = "agent") -> None:
        self.identity = identity
        self.by = by
        self.status = ""
        """How it ended, in words; "" while it lives, and if only its parent can know, which is another process."""
        self._home = home
        self._descriptor = descriptor

    def alive(self) -> bool:
        return not self.wait(0)

    @property
    def visible_pid(self) -> int:
        """Its pid, 0 if it cannot be seen from here."""
        return self.identity.pid if self._descriptor is not None else 0

    def wait(self, seconds: float) -> bool:
        """Wait until it has ended; True if it has."""
        if self._descriptor is None:
            deadline = time.monotonic() + seconds
            while (words := self._home.claimed()) is not None and _identity(words) == self.identity:
                if time.monotonic() >= deadline:
                    return False
                time.sleep(min(LOOK, seconds))
            return True
        poller = select.poll()
        poller.register(self._descriptor, select.POLLIN)
        if not poller.poll(max(0, int(seconds * 1000))):
            return False
        with contextlib.suppress(ChildProcessError):  # only our own child can be asked how it ended, and only once
            found = os.waitid(os.P_PIDFD, self._descriptor, os.WEXITED | os.WNOHANG)
            if found is not None:
                self.status = _status(found.si_code, found.si_status)
        return True

    def signal(self, number: int, link: Signals | None = None) -> None:
        """Send a signal, through `link` if it is given and needed. Raises OSError, but not if ExaBGP has ended."""
        if self._descriptor is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, number)
        elif link is not None:
            link.signal(number)
        else:
            self._home.signal(number)

    def end(self, deadline: float, *, keep_routes: bool = False) -> bool:
        """End it, by force when the deadline (time.monotonic()) is near; True if it has ended.

        In order, it tells its peers, which drop the routes. `keep_routes`: it is killed; graceful restart keeps them.
        """
        with contextlib.suppress(OSError):
            if not keep_routes:
                self.signal(signal.SIGTERM)
                if self.wait(max(0.0, deadline - time.monotonic() - 0.5)):
                    return True
            self.signal(signal.SIGKILL)
        return self.wait(1.0)

    def again(self) -> Running:
        """The same process, for another thread to wait for and close."""
        descriptor = os.dup(self._descriptor) if self._descriptor is not None else None
        return Running(self._home, self.identity, descriptor, self.by)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


@dataclass(frozen=True, slots=True)
class Apart:
    """A `bgpcni speaker` runs ExaBGP instead of the agent. `python`: its interpreter. `ending`: how its last ExaBGP
    ended, "" if none did. `count`: how many it started."""

    python: str
    ending: str
    count: int


class Home:
    """The files of one ExaBGP in `run_dir`: configuration, socket, log, and two locks, ExaBGP's and `bgpcni speaker`'s.

    With `data_dir` ExaBGP has a second lock there, where nobody wipes it.
    """

    def __init__(self, run_dir: str, name: str, data_dir: str | None) -> None:
        base = Path(run_dir)
        self.folder, self.name = base, name
        self.configuration = base / f"{name}.conf"
        self.socket = base / f"{name}.sock"
        self.log = base / f"{name}.log"
        self.identity = base / f"{name}.pid"
        self.speaker = base / f"{name}.speaker"
        self.lasting = Path(data_dir) / f"{name}.claim" if data_dir is not None else None

    def relay_command(self, python: str = sys.executable) -> list[str]:
        return [python, "-I", "-m", "bgpcni_exabgp.relay", str(self.socket)]

    def write_configuration(self, text: str) -> str:
        """Put the configuration in place, whole. Returns its digest, which the engine reports too."""
        if self.configured() != text or not text:
            write(self.configuration, text)
        return hashlib.sha256(text.encode()).hexdigest()

    def claimed(self) -> dict[str, Any] | None:
        """What the ExaBGP that runs wrote of itself, None if none runs."""
        found = holder(self.identity)
        if found is None and self.lasting is not None:  # somebody may have wiped run_dir
            found = holder(self.lasting)
        return found

    def adopt(self) -> Running | None:
        """The ExaBGP that runs already, if one does."""
        found = self.claimed()
        if found is None:
            return None
        identity, descriptor = _identity(found), None
        with contextlib.suppress(OSError):
            if identity.pid:
                descriptor = os.pidfd_open(identity.pid)
                if start_time(identity.pid) != identity.started:  # that pid is another's in our PID namespace
                    os.close(descriptor)
                    descriptor = None
        by: By = "speaker" if found.get("by") == "speaker" else "agent"
        running = Running(self, identity, descriptor, by)
        if running.alive():
            return running
        running.close()
        return None

    def plain(self) -> str:
        """Why the ExaBGP that runs is a stock one, "" if it is our engine."""
        return str((self.claimed() or {}).get("plain", ""))

    def apart(self) -> Apart | None:
        """The `bgpcni speaker` that runs now, if one does."""
        found = holder(self.speaker)
        if found is None:
            return None
        count = found.get("count")
        return Apart(str(found.get("python", "")), str(found.get("ending", "")), count if isinstance(count, int) else 0)

    def signal(self, number: int) -> None:
        """Have the relay send ExaBGP a signal; the agent that is connected loses its connection. Raises OSError."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
            connection.settimeout(RELAY)
            connection.connect(str(self.socket))
            with connection.makefile("rb") as lines:
                hello = protocol.decode_event(lines.readline().rstrip(b"\n"))
                if not isinstance(hello, protocol.Hello) or hello.version < protocol.SIGNALS_SINCE:
                    raise OSError(UNSIGNALLED)
                connection.sendall(protocol.encode_signal(number))
                connection.shutdown(socket.SHUT_WR)
                while lines.readline():
                    pass

    def configured(self) -> str:
        """The configuration that is in place, "" if there is none."""
        try:
            return self.configuration.read_text()
        except OSError:
            return ""

    def dismissed(self) -> bool:
        """Whether the agent wants no ExaBGP. A file that is missing says nothing: somebody may have wiped run_dir."""
        try:
            return self.configuration.stat().st_size == 0
        except OSError:
            return False

    def trim_log(self) -> None:
        """Empty a log that has grown too long. ExaBGP appends, so it goes on at the start."""
        with contextlib.suppress(OSError):
            if self.log.stat().st_size > LOG_LIMIT:
                os.truncate(self.log, 0)

    def start(self, by: By = "agent") -> Running:
        """Start ExaBGP on the configuration that is in place. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            self.socket.unlink()
        claim = [str(self.lasting)] if self.lasting is not None else []
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        output = os.open(self.log, flags, 0o600)
        try:
            self.trim_log()
            process = subprocess.Popen(  # our own interpreter, fixed arguments
                [sys.executable, "-I", "-m", "bgpcni_exabgp.engine", str(self.configuration), *claim, f"--by={by}"],
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
        process.returncode = 0  # we reap it through the pidfd, subprocess never does
        return Running(self, Identity(process.pid, start_time(process.pid) or 0), descriptor, by)

    def forget(self) -> None:
        """ExaBGP has ended for good, or is about to: remove its files."""
        for path in (self.configuration, self.identity, self.lasting, self.socket):
            if path is not None:
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()

    def dismiss(self, deadline: float, running: Running | None = None, *, keep_routes: bool = False) -> None:
        """No ExaBGP is wanted here any more: the one that runs ends, and a `bgpcni speaker` waits for a configuration.

        `deadline`, `keep_routes`: as in `Running.end`. `running`: it, if that is known; it is closed.
        """
        apart = self.apart() is not None
        if apart:
            self.write_configuration("")  # so the speaker ends it in order, and starts no other
        running = running or self.adopt()
        if running is not None:
            if not (apart and not keep_routes and running.wait(max(0.0, deadline - time.monotonic() - 1.0))):
                running.end(deadline, keep_routes=keep_routes)
            running.close()
        if not apart:
            self.forget()

    def ending(self, running: Running) -> str:
        """How an ExaBGP ended: its exit status or signal, and the last line of its log if that is an error."""
        if not running.status:
            apart = self.apart() if running.by == "speaker" else None
            return apart.ending if apart and apart.ending else "it ended, and how is not known: we did not start it"
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


def home_name(exporter: str) -> str:
    """What the files of an exporter's ExaBGP are called: nothing that ExaBGP's configuration could not carry."""
    if exporter == "exabgp":
        return exporter
    plain = re.fullmatch(r"[A-Za-z0-9._-]{1,32}", exporter)
    return f"exabgp-{exporter if plain else hashlib.sha256(exporter.encode()).hexdigest()[:16]}"


UNSIGNALLED = "it runs in another PID namespace, with a relay of an older version: end it there"
_HEAD = re.compile(r"\d\d:\d\d:\d\d (\d+) +(\S+) +")
"""The beginning of a line of ExaBGP's log: time, pid, subject. A traceback has none."""
_ERROR = re.compile(r"(?i)error|exception|invalid|could not|can ?not|failed|unable|refused|denied|in use|^bgpcni: ")
"""What errors of ExaBGP and Python have in them. ExaBGP's log does not say how serious a line is."""


def _identity(found: dict[str, Any]) -> Identity:
    pid, started = found.get("pid"), found.get("started")
    return Identity(pid, started) if isinstance(pid, int) and isinstance(started, int) else Identity(0, 0)


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
    """Whether there is an ExaBGP to start, without importing it."""
    global _found
    if not _found:  # each ADD asks, and a look takes longer than a system call
        spec = importlib.util.find_spec("exabgp")
        _found = spec is not None and spec.origin is not None  # a folder that was left over is no package
    return _found


def environment() -> dict[str, str]:
    """All of ExaBGP's environment. Nothing is inherited, and ExaBGP reads no file of settings."""
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


def write(path: Path, text: str) -> None:
    """Replace a file, whole or not at all, readable by its owner only."""
    temporary = path.with_name(path.name + ".new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(temporary, flags, 0o600)
    with open(descriptor, "w") as file:
        file.write(text)
    temporary.rename(path)


def back_off() -> Iterator[float]:
    """Seconds to wait before each new start: none before the first, then more and more, up to half a minute."""
    yield 0.0
    pause = 0.5
    while True:
        yield pause
        pause = min(30.0, pause * 2)
