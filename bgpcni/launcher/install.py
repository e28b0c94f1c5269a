"""Put the plugin executable, under its two names, and the sample configuration where a container runtime looks.

The launcher is the compiled one from the wheel, else compiled here, else the script; each is tried on this node
before it is put in place. Every file is replaced whole or not at all. A configuration that somebody changed is kept.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bgpcni.errors import CniError, InvalidConfiguration, IoFailure
from bgpcni.launcher.build import compile_launcher

NAMES = ("bgpcni", "bagpipe")
SAMPLE = "10-bagpipe.conf"
MARKER = b"@BGPCNI-PYTHON@"
FIELD = 4096
"""Octets of the interpreter's path in the compiled launcher, with the NUL that ends it."""
SHEBANG = 127
"""Octets of the first line that every kernel reads (`BINPRM_BUF_SIZE` before Linux 5.1, less one)."""

PREBUILT = Path(__file__).with_name("launcher")
SCRIPT = Path(__file__).with_name("launcher.py")
SAMPLES = Path(__file__).parents[1] / "samples"
OLDER_SAMPLES: frozenset[str] = frozenset()
"""SHA-256 of every sample that an earlier release put in place: unchanged ones are replaced."""

Launcher = Literal["from the wheel", "compiled here", "script"]


@dataclass(frozen=True, slots=True)
class Installed:
    """What an installation did. `reason`: why the launcher is a script, else ''.

    `plugins` are the executables, `written` those files (configurations as well) that are new or changed;
    `kept` the configurations that were left alone because somebody changed them.
    """

    launcher: Launcher
    reason: str
    plugins: tuple[Path, ...]
    written: tuple[Path, ...] = ()
    kept: tuple[Path, ...] = ()


def install(bin_dir: Path, conf_dir: Path | None = None, python: str | Path = sys.executable) -> Installed:
    """Install or bring up to date; doing it again changes nothing. Folders that are missing are made.

    `python` is the interpreter that has this package, for calls that no agent answers; links in its path are kept
    (a virtual environment's interpreter is one). Raises IoFailure, and InvalidConfiguration for a path that does
    not fit.
    """
    interpreter = os.fsencode(os.path.abspath(python))
    with _saying(bin_dir):
        bin_dir.mkdir(parents=True, exist_ok=True)
        launcher, reason, image = _choose(bin_dir, interpreter)
    plugins = tuple(bin_dir / name for name in NAMES)
    written = [path for path in plugins if _put(path, image, 0o755)]
    kept: list[Path] = []
    if conf_dir is not None:
        with _saying(conf_dir):
            conf_dir.mkdir(parents=True, exist_ok=True)
        target = conf_dir / SAMPLE
        sample = (SAMPLES / SAMPLE).read_bytes()
        found = _found(target)
        if found is None or hashlib.sha256(found).hexdigest() in OLDER_SAMPLES:
            _put(target, sample, 0o644)
            written.append(target)
        elif found != sample:
            kept.append(target)
    return Installed(launcher, reason, plugins, tuple(written), tuple(kept))


def render(installed: Installed) -> str:
    """For people: one line for each file, then what launcher it is."""
    lines = [f"{'wrote' if path in installed.written else 'up to date'}  {path}" for path in installed.plugins]
    lines += [f"wrote  {path}" for path in installed.written if path not in installed.plugins]
    lines += [f"kept  {path}: it was changed, and is yours" for path in installed.kept]
    why = f" ({installed.reason}): each call costs a start of Python" if installed.reason else ""
    return "\n".join([*lines, f"launcher: {installed.launcher}{why}"])


def patched(image: bytes, python: bytes) -> bytes:
    """A compiled launcher with the interpreter's path written into its field."""
    if image.count(MARKER) != 1:
        raise IoFailure("the compiled launcher is damaged: it has no field for the interpreter's path")
    if len(python) >= FIELD or b"\0" in python:
        raise InvalidConfiguration(f"python: a path of {len(python)} octets; {FIELD - 1} fit")
    start = image.index(MARKER)
    return image[:start] + python.ljust(FIELD, b"\0") + image[start + FIELD :]


def script(python: bytes) -> bytes:
    """The script launcher for this interpreter. A path that a `#!` line cannot hold is started through sh."""
    try:
        name = repr(python.decode()).encode()
    except UnicodeDecodeError as error:
        raise InvalidConfiguration(f"python: a script cannot hold this path: {python!r}") from error
    if any(c in python for c in b"'\\\n"):
        raise InvalidConfiguration(f"python: a script cannot hold this path: {python!r}")
    first = b"#!" + python + b" -IS\n"
    if len(first) > SHEBANG or any(c in python for c in b" \t"):
        # To sh a command ('''exec' is the word exec), to Python a string.
        first = b"#!/bin/sh\n'''exec' '" + python + b"' -IS \"$0\"\n' '''\n"
    return first + SCRIPT.read_bytes().replace(b'"' + MARKER + b'"', name, 1)


def _choose(bin_dir: Path, python: bytes) -> tuple[Launcher, str, bytes]:
    """The fastest launcher that works here: its kind, why it is a script or '', and the file's content."""
    reasons: list[str] = []
    if PREBUILT.is_file():
        image = PREBUILT.read_bytes()
        if not (reason := _defect(bin_dir, image)):
            return "from the wheel", "", patched(image, python)
        reasons.append(f"the wheel's launcher: {reason}")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "launcher")
        if not (reason := compile_launcher(target)):
            image = target.read_bytes()
            if not (reason := _defect(bin_dir, image)):
                return "compiled here", "", patched(image, python)
    reasons.append(reason)
    return "script", "; ".join(reasons), script(python)


def _defect(bin_dir: Path, image: bytes) -> str:
    """Why this image does not run here, or ''. Unpatched, and with no agent, it must fail on its own marker."""
    with _temporary(bin_dir / "probe", image, 0o755) as probe:
        try:
            done = subprocess.run(
                [probe],
                env={"BGPCNI_SOCKET": "/dev/null"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=30,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
    return "" if done.returncode == 1 and MARKER in done.stderr else f"exit code {done.returncode} when tried"


def _found(target: Path) -> bytes | None:
    """What is there: None for nothing, b"" for what is no file, which is somebody's as well."""
    if not os.path.lexists(target):
        return None
    with _saying(target):
        return target.read_bytes() if target.is_file() else b""


def _put(target: Path, content: bytes, mode: int) -> bool:
    """Make `target` that content with that mode, atomically. False: it was so already."""
    with _saying(target):
        plain = target.is_file() and not target.is_symlink()
        if plain and target.stat().st_mode & 0o7777 == mode and target.read_bytes() == content:
            return False
        with _temporary(target, content, mode) as temporary:
            temporary.replace(target)
    return True


@contextmanager
def _temporary(beside: Path, content: bytes, mode: int) -> Iterator[Path]:
    """A whole file on disk in the folder of `beside`, hidden, and gone afterwards unless it was renamed."""
    fd, name = tempfile.mkstemp(dir=beside.parent, prefix=f".{beside.name}.")
    temporary = Path(name)
    try:
        with open(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(fd, mode)
            os.fsync(fd)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _saying(path: Path) -> Iterator[None]:
    """Turn the operating system's errors into ours, with the path that they are about."""
    try:
        yield
    except CniError:
        raise
    except OSError as error:
        raise IoFailure(f"{path}: {error.strerror or error}") from error
