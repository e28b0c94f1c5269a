"""`bgpcni install` and `uninstall`: the plugin executable, under its three names, where container runtimes look, and
the sample configuration under a name that runtimes ignore.

The launcher is the compiled one from the wheel, else one compiled here, else the script; each is tried on this node
before it is installed. Every file is replaced atomically. A configuration that somebody changed is kept, and what is
not ours is not removed.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bgpcni import __version__, atomic
from bgpcni.errors import CniError, InvalidConfiguration, IoFailure
from bgpcni.launcher import runtimes
from bgpcni.launcher.build import compile_launcher
from bgpcni.paths import SAMPLES

NAMES = ("bgpcni", "bagpipe", "bgpcni-ipam")
LIVE = "10-bagpipe.conf"
"""The sample in `conf/`. Earlier releases installed it under this name, which runtimes take for a network."""
SAMPLE = f"{LIVE}.sample"
"""Its name in conf_dir: runtimes ignore files with this ending."""
OURS = b"bgpcni.plugin"
"""A text that every launcher of ours contains, compiled or not, of this or an earlier release."""
MARKER = b"@BGPCNI-PYTHON@"
FIELD = 4096
"""Size of the interpreter's path in the compiled launcher, in octets, with the NUL that ends it."""
RELEASE = b"bgpcni-release:"
"""In an installed launcher the release that installed it follows: behind the interpreter's path, or in a comment."""
SHEBANG = 127
"""How many octets of a script's first line every kernel reads (`BINPRM_BUF_SIZE` before Linux 5.1, less one)."""

PREBUILT = Path(__file__).with_name("launcher")
SCRIPT = Path(__file__).with_name("launcher.py")
BINARY = Path(__file__).with_name("launcher.c")
"""What the compiled launcher is made of."""
_NOTED = re.compile(re.escape(RELEASE) + rb"([0-9A-Za-z.+]{1,64})")
OLDER_SAMPLES: frozenset[str] = frozenset()
"""SHA-256 of every sample that an earlier release installed: an unchanged one is replaced."""

Launcher = Literal["from the wheel", "compiled here", "script"]


@dataclass(frozen=True, slots=True)
class Installed:
    """What an installation did. `reason`: why the launcher is a script, else ''.

    `plugins`: the executables. `written`: the files, configurations included, that are new or changed. `kept`: the
    configurations that were kept because somebody changed them. `warnings`: for the operator.
    """

    launcher: Launcher
    reason: str
    plugins: tuple[Path, ...]
    written: tuple[Path, ...] = ()
    kept: tuple[Path, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Uninstalled:
    """The files that were removed, and those that were kept because they are not ours or somebody changed them."""

    removed: tuple[Path, ...]
    kept: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Places:
    """The folders into which the plugins are installed, with warnings about that choice."""

    folders: tuple[Path, ...]
    warnings: tuple[str, ...] = ()


def places(bin_dir: Path | None = None, root: Path = Path("/")) -> Places:
    """Where to install: `bin_dir` if it is given, else where the runtimes found below `root` look.

    A folder that has an earlier release of ours is updated, too. There is a warning for a `bin_dir` in which no runtime
    of this host looks.
    """
    found = runtimes.find(root)
    if bin_dir is None:
        earlier = [folder for folder in _usual(root) if any(_is_ours(folder / name) for name in NAMES)]
        folders = [_below(root, folder) for folder in found.folders]
        return Places(tuple(dict.fromkeys([*folders, *earlier])), found.warnings)
    given = Path(os.path.abspath(bin_dir))
    if given.resolve() in {_below(root, folder).resolve() for folder in found.looks or found.folders}:
        return Places((given,), found.warnings)
    where = ", ".join(str(_below(root, folder)) for folder in found.folders)
    who = (
        f"{' and '.join(found.names)} of this host looks in"
        if found.names
        else "no runtime was found here; the usual is"
    )
    return Places((given,), (*found.warnings, f"{given}: no runtime found on this host looks there ({who} {where})"))


def places_to_clear(bin_dir: Path | None = None, root: Path = Path("/")) -> tuple[Path, ...]:
    """Where to uninstall from: `bin_dir` if it is given, else every folder that `install` may have chosen."""
    if bin_dir is not None:
        return (Path(os.path.abspath(bin_dir)),)
    folders = [_below(root, folder) for folder in runtimes.find(root).folders]
    return tuple(dict.fromkeys([*folders, *_usual(root)]))


def _usual(root: Path) -> tuple[Path, ...]:
    return tuple(_below(root, folder) for folder in (runtimes.DEBIAN, runtimes.DEFAULT))


def _below(root: Path, folder: Path) -> Path:
    return root / folder.relative_to("/")


def install(
    bin_dirs: Sequence[Path], conf_dir: Path | None = None, python: str | Path | None = sys.executable
) -> Installed:
    """Install or update; a second run changes nothing. Missing folders are made.

    `python`: the interpreter that has this package, for calls that no agent answers. Symbolic links in its path are
    kept, because the interpreter of a virtual environment is one. None: the node has no Python of ours, because a pod
    installs for it, and such calls are refused. With `conf_dir` None no sample is installed. Raises IoFailure, also if
    a launcher that needs no Python does not run here, and InvalidConfiguration for a path that is too long.
    """
    interpreter = os.fsencode(os.path.abspath(python)) if python is not None else b""
    for bin_dir in bin_dirs:
        with _saying(bin_dir):
            bin_dir.mkdir(parents=True, exist_ok=True)
    with _saying(bin_dirs[0]):
        launcher, reason, image = _choose(bin_dirs[0], interpreter)
    plugins = tuple(bin_dir / name for bin_dir in bin_dirs for name in NAMES)
    written = [path for path in plugins if _put(path, image, 0o755)]
    kept: list[Path] = []
    warnings: list[str] = []
    if conf_dir is not None:
        with _saying(conf_dir):
            conf_dir.mkdir(parents=True, exist_ok=True)
        target, sample = conf_dir / SAMPLE, _sample()
        found = _found(target)
        if found is None or (found != sample and _is_sample(found)):
            _put(target, sample, 0o644)
            written.append(target)
        elif found != sample:
            kept.append(target)
        if _is_sample(_found(conf_dir / LIVE)):
            warnings.append(
                f"{conf_dir / LIVE}: an earlier release put it there, and runtimes take it for a network; remove it "
                "unless you use it"
            )
    return Installed(launcher, reason, plugins, tuple(written), tuple(kept), tuple(warnings))


def uninstall(bin_dirs: Sequence[Path], conf_dir: Path | None = None) -> Uninstalled:
    """Remove what `install` of this or an earlier release has installed; a second run changes nothing.

    A file that has one of the plugin's names but is not ours is kept, and so is a sample that somebody changed. The
    sample under its old name is removed if it is unchanged, because it names a plugin that is gone.
    """
    removed: list[Path] = []
    kept: list[Path] = []
    candidates = [(bin_dir / name, _is_ours) for bin_dir in bin_dirs for name in NAMES]
    if conf_dir is not None:
        candidates += [(conf_dir / name, lambda path: _is_sample(_found(path))) for name in (SAMPLE, LIVE)]
    for path, ours in candidates:
        if not os.path.lexists(path):
            continue
        if not ours(path):
            kept.append(path)
            continue
        with _saying(path):
            path.unlink(missing_ok=True)
        removed.append(path)
    return Uninstalled(tuple(removed), tuple(kept))


def attached(data_dir: Path) -> int:
    """How many attachments have a record in `up`: the plugin is needed for their DEL."""
    return sum(1 for _ in (data_dir / "attachments/up").rglob("*.json"))


def render(installed: Installed) -> str:
    """The outcome as text: one line for each file, then the kind of launcher."""
    lines = [f"{'wrote' if path in installed.written else 'up to date'}  {path}" for path in installed.plugins]
    lines += [f"wrote  {path}" for path in installed.written if path not in installed.plugins]
    lines += [f"kept  {path}: somebody changed it" for path in installed.kept]
    why = f" ({installed.reason}): each call has to start Python" if installed.reason else ""
    return "\n".join([*lines, f"launcher: {installed.launcher}{why}"])


def render_uninstalled(uninstalled: Uninstalled, more: Sequence[str] = ()) -> str:
    """The outcome as text: one line for each file, and for what else was removed."""
    lines = [f"removed  {path}" for path in (*uninstalled.removed, *more)]
    lines += [f"kept  {path}: it is not ours, or somebody changed it" for path in uninstalled.kept]
    return "\n".join(lines or ["nothing of bgpcni was found"])


def patched(image: bytes, python: bytes) -> bytes:
    """A compiled launcher with the interpreter's path written into its field."""
    if image.count(MARKER) != 1:
        raise IoFailure("the compiled launcher is damaged: it has no field for the interpreter's path")
    if len(python) >= FIELD or b"\0" in python:
        raise InvalidConfiguration(f"python: the path has {len(python)} octets, {FIELD - 1} at most are possible")
    start = image.index(MARKER)
    noted = b"\0" + RELEASE + release(BINARY).encode() + b"\0"
    field = python + noted if len(python) + len(noted) <= FIELD else python
    return image[:start] + field.ljust(FIELD, b"\0") + image[start + FIELD :]


def release(source: Path) -> str:
    """What tells the launchers of two releases apart: the version, and a digest of what they are made of."""
    return f"{__version__}+{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}"


def installed_release(path: Path) -> str | None:
    """The release of a launcher that is installed; "" for one of a release that did not note it, None if the file is
    not ours. Raises IoFailure."""
    with _saying(path):
        content = path.read_bytes() if _is_ours(path) else None
    if content is None:
        return None
    found = _NOTED.search(content)
    return found[1].decode() if found else ""


def is_of_this_release(noted: str) -> bool:
    """Whether `installed_release` is what `install` would note now."""
    return noted in (release(BINARY), release(SCRIPT))


def script(python: bytes) -> bytes:
    """The script launcher for this interpreter. It starts through sh if the path does not fit into a `#!` line."""
    try:
        name = repr(python.decode()).encode()
    except UnicodeDecodeError as error:
        raise InvalidConfiguration(f"python: a script cannot contain this path: {python!r}") from error
    if any(c in python for c in b"'\\\n"):
        raise InvalidConfiguration(f"python: a script cannot contain this path: {python!r}")
    first = b"#!" + python + b" -IS\n"
    if len(first) > SHEBANG or any(c in python for c in b" \t"):
        # sh reads this as a command ('''exec' is the word exec), Python reads it as a string.
        first = b"#!/bin/sh\n'''exec' '" + python + b"' -IS \"$0\"\n' '''\n"
    noted = b"\n# " + RELEASE + release(SCRIPT).encode() + b"\n"
    return first + SCRIPT.read_bytes().replace(b'"' + MARKER + b'"', name, 1) + noted


def _choose(bin_dir: Path, python: bytes) -> tuple[Launcher, str, bytes]:
    """The fastest launcher that works here: its kind, why it is a script (or ''), and the content of the file."""
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
    if not python:
        raise IoFailure(f"without Python only a compiled launcher can be installed: {'; '.join(reasons)}")
    return "script", "; ".join(reasons), script(python)


def _defect(bin_dir: Path, image: bytes) -> str:
    """Why this executable does not run here, or ''. It is run unpatched and without an agent, so it must fail to
    execute the marker that stands in place of the interpreter's path."""
    with atomic.beside(bin_dir / "probe", image, 0o755) as probe:
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
    """The content of the file; None if there is nothing; b"" for anything that is not a plain file, which is not
    ours."""
    if not os.path.lexists(target):
        return None
    with _saying(target):
        return target.read_bytes() if target.is_file() else b""


def _sample() -> bytes:
    return (SAMPLES / LIVE).read_bytes()


def _is_sample(content: bytes | None) -> bool:
    """Whether this is an unchanged sample of this release or an earlier one."""
    return content is not None and (content == _sample() or hashlib.sha256(content).hexdigest() in OLDER_SAMPLES)


def _is_ours(path: Path) -> bool:
    """Whether this is a launcher of ours. A symbolic link, or anything that is not a plain file, is not."""
    with _saying(path):
        return path.is_file() and not path.is_symlink() and OURS in path.read_bytes()


def _put(target: Path, content: bytes, mode: int) -> bool:
    """Write `target` with this content and mode, atomically. False if it was like that already."""
    with _saying(target):
        plain = target.is_file() and not target.is_symlink()
        if plain and target.stat().st_mode & 0o7777 == mode and target.read_bytes() == content:
            return False
        atomic.put(target, content, mode)
    return True


@contextmanager
def _saying(path: Path) -> Iterator[None]:
    """Turn OSError into IoFailure, with the path."""
    try:
        yield
    except CniError:
        raise
    except OSError as error:
        raise IoFailure(f"{path}: {error.strerror or error}") from error
