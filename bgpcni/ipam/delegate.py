"""Any other IPAM plugin, run as the specification says (section 4, "Plugin Delegation").

The plugin gets exactly the environment and the configuration that are given here. This module knows no networks,
records or routes, and does not decide when a command is due. It blocks; each run has a deadline.
"""

from __future__ import annotations

import errno
import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bgpcni.cni.environment import Command
from bgpcni.cni.result import Result, decode
from bgpcni.cni.versions import read_version
from bgpcni.errors import (
    CniError,
    DecodingFailure,
    Degraded,
    Delegated,
    InvalidConfiguration,
    InvalidEnvironment,
    IoFailure,
    TryAgain,
    Unavailable,
)
from bgpcni.ipam.contract import Given, NotInstalled, Terms, Wish
from bgpcni.ipam.leases import Entry, Holder, Leases, Owner
from bgpcni.model import Address, IpamRecord

OUTPUT_MAX = 1 << 20
"""Octets of stdout a plugin may write."""
SECONDS = 30.0
"""What a plugin may take for one command."""
VALID_ATTACHMENTS = "cni.dev/valid-attachments"
_STDERR_MAX = 16 << 10
_CHUNK = 64 << 10


def find_plugin(name: str, path: Sequence[str]) -> str:
    """The first executable `name` in the folders of CNI_PATH. Raises InvalidConfiguration naming them."""
    if not name or "/" in name or "\0" in name or name in (".", ".."):
        raise InvalidConfiguration(f"ipam.type: {name!a} cannot name a plugin")
    for folder in path:
        candidate = os.path.join(folder, name)
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    raise NotInstalled(f'ipam.type: no executable "{name}" in {", ".join(path) or "CNI_PATH, which is empty"}')


@dataclass(frozen=True, slots=True)
class Delegate:
    """One plugin, with one call's environment (the CNI_* variables) and configuration (`stdin`, octets).

    `deadline` everywhere: `time.monotonic()` seconds; then the plugin is killed with its process group, and
    TryAgain raised. A plugin's own error is raised as Delegated, with its code.
    """

    type: str
    environment: Mapping[str, str]
    stdin: bytes

    def add(self, deadline: float) -> Result:
        """The result of the plugin, in the version that it names, else in the version of the configuration."""
        document = self._json(self._run(Command.ADD, self.stdin, deadline))
        version = read_version(_member(document, "cniVersion") or self._version(), f"{self.type}: cniVersion")
        return decode(document, version, place=f"{self.type}: result")

    def delete(self, deadline: float) -> None:
        self._run(Command.DEL, self.stdin, deadline)

    def check(self, deadline: float) -> bool:
        """False if the plugin does not know CHECK. We see that by the error text of the reference library."""
        try:
            self._run(Command.CHECK, self.stdin, deadline)
        except Delegated as error:
            if error.code == InvalidEnvironment.code and error.msg == f"unknown CNI_COMMAND: {Command.CHECK}":
                return False
            raise
        return True

    def gc(self, deadline: float) -> bool:
        """False if the plugin does not know GC; then it is not called."""
        return self._run_if_known(Command.GC, deadline)

    def status(self, deadline: float) -> bool:
        """False if the plugin does not know STATUS; then it is not called."""
        return self._run_if_known(Command.STATUS, deadline)

    def _run_if_known(self, command: Command, deadline: float) -> bool:
        """GC and STATUS exist since version 1.1.0; VERSION says whether the plugin supports that."""
        question = json.dumps({"cniVersion": self._version()}).encode()
        supported = _member(self._json(self._run(Command.VERSION, question, deadline)), "supportedVersions")
        if not isinstance(supported, list) or self._version() not in supported:
            return False
        self._run(command, self.stdin, deadline)
        return True

    def _version(self) -> str:
        return read_version(_member(self._json(self.stdin), "cniVersion"))

    def _json(self, text: bytes) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DecodingFailure(f"{self.type}: not JSON: {error}", _printable(text[:200])) from error

    def executable(self) -> str:
        """Where it is. Raises NotInstalled."""
        folders = self.environment.get("CNI_PATH", "").split(":")
        return find_plugin(self.type, [folder for folder in folders if folder])

    def _run(self, command: Command, stdin: bytes, deadline: float) -> bytes:
        executable = self.executable()
        environment = {"PATH": os.environ.get("PATH", os.defpath), **self.environment, "CNI_COMMAND": command.value}
        try:
            child = subprocess.Popen(
                [executable],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                process_group=0,
                bufsize=0,
            )
        except OSError as error:
            raise IoFailure(f"{executable}: {error.strerror}") from error
        with child:
            try:
                stdout, stderr = _converse(child, stdin, deadline)
            except _Overdue:
                raise TryAgain(f"{self.type} {command}: no answer in time") from None
            except _TooMuch:
                raise DecodingFailure(f"{self.type} {command}: more than {OUTPUT_MAX} octets of output") from None
            finally:
                if child.returncode is None:
                    _kill_group(child)
        if child.returncode != 0:
            raise self._failure(command, child.returncode, stdout, stderr)
        return stdout

    def _failure(self, command: Command, status: int, stdout: bytes, stderr: bytes) -> CniError:
        try:
            document = json.loads(stdout)
        except (ValueError, RecursionError):
            document = None
        code, msg, details = (_member(document, key) for key in ("code", "msg", "details"))
        if isinstance(code, int) and not isinstance(code, bool) and code > 0 and isinstance(msg, str):
            return Delegated(code, msg, details if isinstance(details, str) else "")
        how = f"killed by signal {-status}" if status < 0 else f"exit code {status}"
        story = _printable(stderr or stdout).strip()
        return Delegated(
            999, f"{self.type} {command}: {how} and no CNI error" + (f": {story[-500:]}" if story else ""), story
        )


class DelegatedIpam:
    """The IPAM of a network whose configuration, or a record of it, names another plugin. Fulfils `Ipam`."""

    leases: Leases | None = None

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._plugin = Delegate(terms.type, terms.environment, terms.stdin)

    def record(self) -> IpamRecord:
        """Raises NotInstalled: a plugin that is not there can take nothing back either."""
        self._plugin.executable()
        terms = self._terms
        return IpamRecord(type=terms.type, stdin=terms.stdin.decode(), environment=dict(terms.environment))

    def example(self) -> tuple[Address, ...]:
        return ()

    def room(self) -> Mapping[int, int]:
        return {}

    def add(self, owner: Holder, wish: Wish) -> Given:
        result = self._plugin.add(_deadline())
        if not result.ips:
            raise InvalidConfiguration(f"ipam: {self._terms.type} gave no address")
        addresses = tuple(Address(address=item.address, gateway=item.gateway) for item in result.ips)
        return Given(addresses, result.routes, result.dns)

    def check(self, owner: Holder, addresses: Sequence[str]) -> None:
        self._plugin.check(_deadline())

    def release(
        self, owner: Holder, addresses: Sequence[str] | None, spared: Callable[[str, Entry], bool] | None = None
    ) -> None:
        self._plugin.delete(_deadline())

    def gc(self, valid: Collection[Holder], stay: Collection[Owner]) -> None:
        """The plugin gets the list of `valid` in place of the runtime's: it must not release what is not withdrawn."""
        document = json.loads(self._terms.stdin)
        kept = {key: value for key, value in document.items() if key.lower() != VALID_ATTACHMENTS}
        listed = [{"containerID": container_id, "ifname": ifname} for container_id, ifname in sorted(valid)]
        stdin = json.dumps(kept | {VALID_ATTACHMENTS: listed}).encode()
        Delegate(self._terms.type, self._terms.environment, stdin).gc(_deadline())

    def status(self) -> None:
        try:
            self._plugin.status(_deadline())
        except CniError as error:
            kind = Degraded if error.code == Degraded.code else Unavailable
            raise kind(f"ipam: {error.msg}", error.details) from None


def _deadline() -> float:
    return time.monotonic() + SECONDS


class _Overdue(Exception):
    """The deadline passed."""


class _TooMuch(Exception):
    """The plugin wrote more than OUTPUT_MAX octets."""


def _converse(child: subprocess.Popen[bytes], stdin: bytes, deadline: float) -> tuple[bytes, bytes]:
    """Write to a child and read from it until it ends. We do not wait for processes that it leaves behind."""
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    stdout, stderr = bytearray(), bytearray()
    unsent = memoryview(stdin)
    pidfd = os.pidfd_open(child.pid)
    try:
        with selectors.DefaultSelector() as selector:
            for pipe, events in (
                (child.stdin, selectors.EVENT_WRITE),
                (child.stdout, selectors.EVENT_READ),
                (child.stderr, selectors.EVENT_READ),
            ):
                os.set_blocking(pipe.fileno(), False)
                selector.register(pipe, events)
            selector.register(pidfd, selectors.EVENT_READ)
            ended = False
            while not ended:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise _Overdue
                ready = {key.fileobj for key, _ in selector.select(left)}
                ended = pidfd in ready
                if child.stdin in ready:
                    unsent = _send(child.stdin.fileno(), unsent)
                    if not unsent:
                        selector.unregister(child.stdin)
                        child.stdin.close()
                for pipe, buffer in ((child.stdout, stdout), (child.stderr, stderr)):
                    if pipe in ready and not _receive(pipe.fileno(), buffer):
                        selector.unregister(pipe)
                if len(stdout) > OUTPUT_MAX:
                    raise _TooMuch
                del stderr[:-_STDERR_MAX]
            for pipe, buffer in ((child.stdout, stdout), (child.stderr, stderr)):
                while len(buffer) <= OUTPUT_MAX and _receive(pipe.fileno(), buffer, patient=False):
                    pass
            if len(stdout) > OUTPUT_MAX:
                raise _TooMuch
    finally:
        os.close(pidfd)
    child.wait()
    return bytes(stdout), bytes(stderr[-_STDERR_MAX:])


def _send(file: int, data: memoryview) -> memoryview:
    """Write a part and return the rest. It is no error if the child does not read its stdin to the end."""
    try:
        return data[os.write(file, data[:_CHUNK]) :]
    except BlockingIOError:
        return data
    except OSError as error:
        if error.errno != errno.EPIPE:
            raise IoFailure(f"stdin of the plugin: {error.strerror}") from error
        return memoryview(b"")


def _receive(file: int, buffer: bytearray, *, patient: bool = True) -> bool:
    """Read a part into `buffer`; False at the end of the file; without `patient` also if there is nothing yet."""
    try:
        data = os.read(file, _CHUNK)
    except BlockingIOError:
        return patient
    buffer += data
    return bool(data)


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    """Kill the child's process group. We have not waited for the child yet, so nobody else can have its number."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _member(document: object, key: str) -> object:
    return document.get(key) if isinstance(document, dict) else None


def _printable(text: bytes) -> str:
    return text.decode(errors="replace")
