"""Finds out from the configuration of this host's container runtimes where they look for plugins.

This only reads files; a runtime may be stopped and cannot be asked. A file that cannot be read gives a warning, and the
runtime's default folder is assumed.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEFAULT = Path("/opt/cni/bin")
"""Where runtimes look unless their package or their operator has chosen another folder."""
DEBIAN = Path("/usr/lib/cni")
"""Where Debian puts the stock plugins, and where its containerd looks."""
CONTAINERD = Path("/etc/containerd/config.toml")
CRIO, CRIO_MORE = Path("/etc/crio/crio.conf"), Path("/etc/crio/crio.conf.d")
_PROGRAMS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_CRI = ("cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime")
"""Names of containerd's CRI plugin in versions 1, 2 and 3 of its configuration."""


@dataclass(frozen=True, slots=True)
class Runtimes:
    """What was found. `names`: the runtimes. `folders`: where plugins must be so that each runtime finds them. `looks`:
    every folder in which one of them looks."""

    names: tuple[str, ...]
    folders: tuple[Path, ...]
    looks: frozenset[Path]
    warnings: tuple[str, ...] = ()


def find(root: Path = Path("/")) -> Runtimes:
    """Look below `root`, the host's root folder. Without a runtime: Debian's folder if it exists, else the default.

    The folders are given as in the configuration, without `root`.
    """
    warnings: list[str] = []
    found: dict[str, Sequence[Path]] = {}
    containerd = list(_containerd_files(root, warnings))
    if containerd or _is_installed(root, "containerd"):
        declared = _containerd(containerd)
        if declared is not None:
            found["containerd"] = declared
    crio = list(_crio_files(root, warnings))
    if crio or _is_installed(root, "crio"):
        found["CRI-O"] = _crio(crio)
    usual = tuple(folder for folder in (DEBIAN, DEFAULT) if _below(root, folder).is_dir()) or (DEFAULT,)
    folders: list[Path] = []
    for looks in found.values():
        there = [folder for folder in looks if _below(root, folder).is_dir()]
        folders += (there or list(looks))[:1] or usual
    looked = {folder for looks in found.values() for folder in looks or (DEBIAN, DEFAULT)}
    return Runtimes(tuple(found), tuple(dict.fromkeys(folders)) or usual[:1], frozenset(looked), tuple(warnings))


def _is_installed(root: Path, program: str) -> bool:
    return any(_below(root, Path(folder, program)).exists() for folder in _PROGRAMS)


def _containerd(documents: Sequence[Mapping[str, Any]]) -> Sequence[Path] | None:
    """The folders that containerd's CRI plugin names; () if it names none; None if that plugin is disabled."""
    declared: list[str] = []
    for document in documents:
        if any(isinstance(name, str) and name in _CRI for name in _list(document.get("disabled_plugins"))):
            return None
        for plugin in _CRI:
            cni = _table(document, "plugins", plugin, "cni")
            declared = _list(cni.get("bin_dirs")) or _list(cni.get("bin_dir")) or declared
    return _paths(declared)


def _crio(documents: Sequence[Mapping[str, Any]]) -> Sequence[Path]:
    declared: list[str] = []
    for document in documents:
        network = _table(document, "crio", "network")
        declared = _list(network.get("plugin_dirs")) or _list(network.get("plugin_dir")) or declared
    return _paths(declared)


def _containerd_files(root: Path, warnings: list[str]) -> Iterator[Mapping[str, Any]]:
    """containerd's configuration, then the files that it imports; a later file wins."""
    main = _read(_below(root, CONTAINERD), warnings)
    if main is None:
        return
    yield main
    for pattern in _list(main.get("imports")):
        absolute = CONTAINERD.parent / pattern
        for path in sorted(root.glob(str(absolute.relative_to("/")))):
            document = _read(path, warnings)
            if document is not None:
                yield document


def _crio_files(root: Path, warnings: list[str]) -> Iterator[Mapping[str, Any]]:
    more = _below(root, CRIO_MORE)
    for path in (_below(root, CRIO), *(sorted(more.iterdir()) if more.is_dir() else ())):
        document = _read(path, warnings)
        if document is not None:
            yield document


def _read(path: Path, warnings: list[str]) -> Mapping[str, Any] | None:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        warnings.append(f"{path}: {error.strerror}")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        warnings.append(f"{path}: {error}")
    return {}


def _table(document: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """A table inside tables; {} if it does not exist."""
    for key in keys:
        value = document.get(key)
        if not isinstance(value, dict):
            return {}
        document = value
    return document


def _list(value: object) -> list[str]:
    """A list of strings from a list or from one string, without empty ones."""
    return [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str) and item]


def _paths(folders: Sequence[str]) -> tuple[Path, ...]:
    return tuple(Path(os.path.normpath(folder)) for folder in folders if folder.startswith("/"))


def _below(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")
