"""`bgpcni diags`: one file with everything that a maintainer would ask for, secrets taken out.

It works when the agent is dead or hangs: each part has a deadline and a size, and the manifest names what failed. All
of it goes through `redact`.
"""

from __future__ import annotations

import functools
import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bgpcni import __version__, atomic, clock
from bgpcni.commands import client
from bgpcni.config.agent import AgentConfig, load
from bgpcni.doctor.look import Where
from bgpcni.errors import CniError, IoFailure
from bgpcni.files import opened
from bgpcni.operator import doctor, redact, versions

Document = dict[str, Any]
PART_SECONDS = 20.0
PART_MOST = 4 << 20
TOTAL_MOST = 64 << 20
RECORDS_MOST = 500
"""Records that are taken; `attachments` has all of them."""
COMMANDS: dict[str, tuple[str, dict[str, Any]]] = {
    "status": ("status", {}), "attachments": ("attachments", {}), "routes": ("routes", {}),
    "received": ("routes", {"received": True}), "peers": ("peers", {}), "ipam-show": ("ipam show", {}),
    "ipam-check": ("ipam check", {}), "events": ("events", {}), "stacks": ("stacks", {}),
}  # fmt: skip
"""What the agent is asked, by the name of the part."""
ALONE = ("status", "attachments", "routes", "ipam show", "ipam check")
"""What our command says without an agent, in a process of its own."""
SYSTEM: dict[str, Sequence[str]] = {
    "ip-link.json": ("ip", "-d", "-s", "-j", "link"),
    "ip-addr.json": ("ip", "-d", "-j", "addr"),
    "ip-route.json": ("ip", "-d", "-j", "route", "show", "table", "all"),
    "ip6-route.json": ("ip", "-6", "-d", "-j", "route", "show", "table", "all"),
    "ip-rule.json": ("ip", "-j", "rule"),
    "ip6-rule.json": ("ip", "-6", "-j", "rule"),
    "ip-neigh.json": ("ip", "-d", "-j", "neigh"),
    "ip-netns.txt": ("ip", "netns"),
    "bridge-fdb.json": ("bridge", "-d", "-j", "fdb"),
    "bridge-vlan.json": ("bridge", "-d", "-j", "vlan"),
    "nft.txt": ("nft", "list", "ruleset"),
    "iptables.txt": ("iptables-save",),
    "ip6tables.txt": ("ip6tables-save",),
    "iptables-legacy.txt": ("iptables-legacy-save",),
    "sysctl.txt": ("sysctl", "-a", "-r", r"^(net\.|fs\.(file|inotify|nr_open))"),
    "sockets.txt": ("ss", "-tnpia"),
    "uname.txt": ("uname", "-a"),
    "modules.txt": ("lsmod",),
    "disks.txt": ("df", "-hT"),
    "inodes.txt": ("df", "-i"),
    "processes.txt": ("ps", "-eo", "pid,ppid,user,etimes,rss,nlwp,stat,wchan:24,comm"),
    "units.txt": ("systemctl", "status", "--no-pager", "--lines=0", "bgpcni.service", "bgpcni.socket"),
    "journal.txt": ("journalctl", "--no-pager", "-o", "short-iso-precise", "-n", "20000", "-u", "bgpcni.service",
                    "-u", "bgpcni.socket", "-u", "bgpcni-speaker.service"),
}  # fmt: skip
FILES = ("/etc/os-release", "/proc/meminfo", "/proc/loadavg", "/proc/locks", "/proc/cmdline")


class Part(NamedTuple):
    """`read` gives text or a JSON document; it may raise anything, and may hang."""

    name: str
    read: Callable[[], Any]


@dataclass(slots=True)
class Taken:
    """What became of a part."""

    name: str
    ok: bool = False
    octets: int = 0
    error: str = ""
    cut: bool = False
    seconds: float = 0.0

    def document(self) -> Document:
        return {"name": self.name, "ok": self.ok, "octets": self.octets, "cut": self.cut, "error": self.error,
                "seconds": round(self.seconds, 3)}  # fmt: skip


def run(where: Where, socket: Path, target: Path, seconds: float = PART_SECONDS) -> tuple[Document, int]:
    """Write the file. Raises IoFailure."""
    secrets = known_secrets(where)
    packed = io.BytesIO()
    taken: list[Taken] = []
    with gzip.GzipFile(fileobj=packed, mode="wb") as zipped, tarfile.open(fileobj=zipped, mode="w") as archive:
        total = 0
        for part in parts(where, socket, seconds):
            if total > TOTAL_MOST:
                taken.append(Taken(part.name, error=f"left out: the parts before have more than {TOTAL_MOST} octets"))
                continue
            one, content = _take(part, seconds, secrets)
            taken.append(one)
            total += one.octets
            if one.ok:
                _add(archive, part.name, content)
        manifest = {
            "schema": 1,
            "made": clock.now(),
            "version": __version__,
            "parts": [one.document() for one in taken],
        }
        _add(archive, "manifest.json", json.dumps(manifest, indent=1).encode())
    try:
        atomic.put(target, packed.getvalue(), 0o600)
    except OSError as error:
        raise IoFailure(f"{target}: {error.strerror}") from None
    failed = [one.document() for one in taken if not one.ok]
    return {
        "schema": 1,
        "file": str(target),
        "octets": len(packed.getvalue()),
        "parts": len(taken),
        "failed": failed,
    }, 0


def text(document: Document) -> str:
    lines = [f"{document['file']}: {document['parts']} parts, {document['octets']} octets, secrets taken out"]
    lines += [f"  not in it: {one['name']}: {one['error']}" for one in document["failed"]]
    return "\n".join(lines) + "\n"


def _take(part: Part, seconds: float, secrets: frozenset[str]) -> tuple[Taken, bytes]:
    """Read a part within the deadline. A thread that hangs is left behind; it ends with the process."""
    one = Taken(part.name)
    found: list[Any] = []

    def read() -> None:
        try:
            found.append(part.read())
        except CniError as error:
            one.error = error.msg
        except Exception as error:  # noqa: BLE001 - whatever a part does, the others are taken
            one.error = f"{type(error).__name__}: {error}"

    start = time.monotonic()
    thread = threading.Thread(target=read, name=f"diags {part.name}", daemon=True)
    thread.start()
    thread.join(seconds)
    one.seconds = time.monotonic() - start
    if not found:
        one.error = redact.text(one.error, secrets) or f"no answer within {seconds:g} s"
        return one, b""
    content = _redacted(found[0], secrets)
    one.ok, one.octets, one.cut = True, min(len(content), PART_MOST), len(content) > PART_MOST
    return one, content[-PART_MOST:] if one.cut and not part.name.endswith(".json") else content[:PART_MOST]


def _redacted(value: Any, secrets: frozenset[str]) -> bytes:
    """As text. What is JSON is redacted as a document first."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value[:1] in ("{", "[") else value
        except (ValueError, RecursionError):
            pass
    if not isinstance(value, str):
        value = json.dumps(redact.document(value), indent=1)
    return redact.text(value, secrets).encode(errors="replace")


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(f"bgpcni-diags/{name}")
    entry.size, entry.mode, entry.mtime = len(content), 0o600, int(time.time())
    archive.addfile(entry, io.BytesIO(content))


# ---------------------------------------------------------------- what is taken


def parts(where: Where, socket: Path, seconds: float) -> Iterator[Part]:
    """Everything, the most important first."""
    agent = _agent_config(where)
    yield Part("version.json", lambda: versions.run(where.config, socket)[0])
    yield Part("doctor.json", lambda: doctor.run(where, socket)[0])
    yield from _commands(socket, seconds)
    yield from _of_agent(socket)
    yield Part("agent.toml", lambda: tail(where.config))
    for path in _listed(where.conf_dir):
        yield Part(f"net.d/{path.name}", lambda path=path: tail(path))  # type: ignore[misc]
    yield Part("records.json", lambda: _records(Path(agent.data_dir)))
    for folder in dict.fromkeys((agent.run_dir, agent.data_dir)):
        yield Part(f"folders{folder}.txt", lambda folder=folder: _listing(Path(folder)))  # type: ignore[misc]
    for path in sorted(Path(agent.run_dir).glob("*.log")):
        yield Part(f"speaker/{path.name}", lambda path=path: tail(path))  # type: ignore[misc]
    for path in sorted(Path(agent.run_dir).glob("*.conf")):
        yield Part(f"speaker/{path.name}", lambda path=path: tail(path))  # type: ignore[misc]
    for name, command in SYSTEM.items():
        yield Part(f"system/{name}", lambda command=command: _output(command, seconds))  # type: ignore[misc]
    for file in FILES:
        yield Part(f"system/{Path(file).name}", lambda file=file: tail(Path(file)))  # type: ignore[misc]


def _agent_config(where: Where) -> AgentConfig:
    with suppress(CniError):
        return load(where.config)
    return AgentConfig(run_dir=str(where.run_dir), data_dir=str(where.data_dir))


def _commands(socket: Path, seconds: float) -> Iterator[Part]:
    if client.agent_pid(socket) is None:
        for name in ALONE:
            words = [sys.executable, "-m", "bgpcni.operator.cli", *name.split(), "--json"]
            yield Part(f"commands/{name.replace(' ', '-')}.json", lambda words=words: _output(words, seconds))  # type: ignore[misc]
        return
    asked = _Asked(socket, seconds * 0.9)
    for part, (name, arguments) in COMMANDS.items():
        ask = functools.partial(asked, name, **arguments)
        yield Part(f"commands/{part}.json", ask)


class _Asked:
    """The agent. Once it did not answer, it is not asked again."""

    def __init__(self, socket: Path, seconds: float) -> None:
        self._socket = socket
        self._seconds = seconds
        self._silent = ""

    def __call__(self, name: str, **arguments: Any) -> Document:
        if self._silent:
            raise IoFailure(self._silent)
        try:
            document, _ = client.ask(self._socket, name, within=self._seconds, **arguments)
        except client.NoAgent as error:
            self._silent = str(error)
            raise IoFailure(self._silent) from None
        return document


def _of_agent(socket: Path) -> Iterator[Part]:
    """What the kernel says of the agent's process, also if that hangs."""
    pid = client.agent_pid(socket)
    if pid is None:
        return
    for name in ("status", "limits", "cmdline", "cgroup"):
        yield Part(f"agent/{name}.txt", lambda name=name: tail(Path(f"/proc/{pid}/{name}")))  # type: ignore[misc]
    yield Part("agent/threads.txt", lambda: _threads(Path(f"/proc/{pid}/task")))
    yield Part("agent/files.txt", lambda: _open_files(Path(f"/proc/{pid}/fd")))


def _threads(tasks: Path) -> str:
    """Where each thread is in the kernel."""
    lines = []
    for task in sorted(tasks.iterdir()):
        with suppress(OSError):
            lines.append(f"{task.name} {(task / 'comm').read_text().strip()}: {(task / 'wchan').read_text()}")
            lines.append((task / "stack").read_text())
    return "\n".join(lines)


def _open_files(folder: Path) -> str:
    lines = []
    for fd in sorted(folder.iterdir(), key=lambda path: int(path.name)):
        with suppress(OSError):
            lines.append(f"{fd.name} {os.readlink(fd)}")
    return "\n".join(lines)


def _output(command: Sequence[str], seconds: float) -> str:
    """What a program prints. It is killed before the part's deadline. Raises IoFailure."""
    limit = seconds * 0.9
    try:
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:  # how much it is, nobody knows
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, timeout=limit, check=False
            )
            said, complained = _end_of(output.fileno(), PART_MOST * 2), _end_of(errors.fileno(), 4096).strip()
    except FileNotFoundError:
        raise IoFailure(f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise IoFailure(f"{command[0]} did not end within {limit:g} s") from None
    except OSError as error:
        raise IoFailure(f"{command[0]}: {error.strerror}") from None
    if not said.strip() and done.returncode:
        raise IoFailure(f"{command[0]} exited with {done.returncode}: {complained[-500:]}")
    return said if said.strip() else complained


def tail(path: Path, most: int = PART_MOST) -> str:
    """The end of a plain file."""
    with opened(path) as (file, _):
        return _end_of(file, most)


def _end_of(file: int, most: int) -> str:
    """The last octets behind a descriptor. A file in /proc has no size, and is read from its beginning."""
    os.lseek(file, max(0, os.fstat(file).st_size - most), os.SEEK_SET)
    pieces, left = [], most
    while left > 0 and (piece := os.read(file, left)):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces).decode(errors="replace")


def _listed(folder: Path) -> list[Path]:
    with suppress(OSError):
        return sorted(path for path in folder.iterdir() if path.is_file())
    return []


def _records(data_dir: Path) -> Document:
    """Records by their file, and how many there are. Text where one is no JSON."""
    files = sorted(data_dir.glob("attachments/*/*.json"))
    found: Document = {}
    for path in files[:RECORDS_MOST]:
        with suppress(OSError):
            content = tail(path, 1 << 16)
            try:
                found[str(path.relative_to(data_dir))] = json.loads(content)
            except ValueError:
                found[str(path.relative_to(data_dir))] = content
    return {"count": len(files), "records": found}


def _listing(folder: Path) -> str:
    """Modes, owners, sizes and names below a folder."""
    lines = []
    for base, folders, files in os.walk(folder):
        for name in sorted((*folders, *files)):
            with suppress(OSError):
                found = os.lstat(os.path.join(base, name))
                lines.append(
                    f"{found.st_mode:07o} {found.st_uid}:{found.st_gid} {found.st_size:9} {os.path.join(base, name)}"
                )
        if len(lines) > 20_000:
            lines.append("… and more")
            break
    return "\n".join(lines)


# ---------------------------------------------------------------- secrets that are known


def known_secrets(where: Where) -> frozenset[str]:
    """What is in the files of secrets that agent.toml names, and in variables of our own environment that look so."""
    agent = _agent_config(where)
    files = [one.password_file for one in agent.bgp.neighbors if one.password_file] if agent.bgp else []
    if agent.cluster and agent.cluster.etcd and agent.cluster.etcd.key:
        files.append(agent.cluster.etcd.key)
    files.append("/var/run/secrets/kubernetes.io/serviceaccount/token")
    found = {value for name, value in os.environ.items() if redact.is_secret(name)}
    for file in files:
        with suppress(OSError):
            content = tail(Path(file), 1 << 16)
            found |= {content.strip(), *(line.strip() for line in content.splitlines())}
    if agent.cluster and agent.cluster.kubernetes.kubeconfig:
        with suppress(OSError):
            content = tail(Path(agent.cluster.kubernetes.kubeconfig), 1 << 20)
            found |= {word.strip("\"'") for line in content.splitlines() if (word := _secret_of_line(line))}
    return frozenset(found - {""})


def _secret_of_line(line: str) -> str:
    key, _, value = line.strip().lstrip("- ").partition(":")
    return value.strip() if redact.is_secret(key) else ""
