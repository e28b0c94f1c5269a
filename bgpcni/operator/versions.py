"""`bgpcni version`: the versions of all parts, of those that are here and of the agent that runs."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from bgpcni import __version__, extensions
from bgpcni.commands import client
from bgpcni.config.agent import AgentConfig, load
from bgpcni.convergence import catalog
from bgpcni.errors import CniError
from bgpcni.launcher import install, runtimes
from bgpcni.node import plan

Document = dict[str, Any]
AGENT_SECONDS = 5.0
PROGRAM_SECONDS = 5.0
_GROUPS = {"exporters": "bgpcni.exporters", "stores": "bgpcni.stores"}


def run(config: Path, socket: Path) -> tuple[Document, int]:
    """It never fails: what cannot be told is null."""
    return {
        "schema": 1,
        "version": __version__,
        "agent": _of_agent(socket),
        "python": platform.python_version(),
        "kernel": os.uname().release,
        "packages": _packages(),
        **{key: _provided(group) for key, group in _GROUPS.items()},
        "plugins": _plugins(),
        "speakers": _speakers(config),
    }, 0


def _of_agent(socket: Path) -> str | None:
    """The version of the agent that answers; None if none does."""
    try:
        status, _ = client.ask(socket, "status", within=AGENT_SECONDS)
    except client.NoAgent:
        return None
    version = status.get("version")
    return str(version) if version else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _packages() -> dict[str, str | None]:
    """What we require, and what of the extras is installed."""
    found: dict[str, str | None] = {}
    for text in metadata.requires("bgpcni") or ():
        name = re.split(r"[ ;<>=!~\[(]", text, maxsplit=1)[0]
        version = _version(name)
        if version is not None or "extra ==" not in text:
            found[name] = version
    return dict(sorted(found.items()))


def _provided(group: str) -> dict[str, Document]:
    """The names in a group of entry points, with the package that provides each."""
    found = {}
    for entry in sorted(metadata.entry_points(group=group), key=lambda entry: entry.name):
        package = entry.dist
        found[entry.name] = {
            "package": package.name if package else None,
            "version": package.version if package else None,
        }
    return found


def _plugins() -> list[Document]:
    """The launchers in the folders where runtimes look. `release`: empty for one that did not note it."""
    folders = dict.fromkeys((*runtimes.find().folders, runtimes.DEBIAN, runtimes.DEFAULT))
    found = []
    for path in (folder / name for folder in folders for name in install.NAMES):
        try:
            release = install.installed_release(path)
        except CniError:
            continue
        if release is not None:
            found.append({"path": str(path), "release": release, "current": install.is_of_this_release(release)})
    return found


def _speakers(config: Path) -> dict[str, str | None]:
    """The programs that the exporters of agent.toml speak to, as these name them."""
    try:
        agent = load(config) if config.exists() else AgentConfig()
        extensions.cache_in(Path(agent.run_dir))
    except CniError:
        return {}
    found: dict[str, str | None] = {}
    for use in plan.configured(agent):
        try:
            programs = catalog.load(use.type).programs
        except CniError:
            continue
        found |= {name: _told_by(command) for name, command in programs.items()}
    return found


def _told_by(command: Sequence[str]) -> str | None:
    """The first line that has a number in it."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROGRAM_SECONDS, check=False,
                              stdin=subprocess.DEVNULL, errors="replace")  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return next((line.strip() for line in done.stdout.splitlines() if re.search(r"\d+\.\d+", line)), None)


def text(document: Document) -> str:
    """One line for each part."""
    rows = [("bgpcni", document["version"]), ("agent", document["agent"]), ("Python", document["python"])]
    rows += [("kernel", document["kernel"]), *document["packages"].items()]
    for key, word in (("exporters", "exporter"), ("stores", "store")):
        rows += [(f"{word} {name}", f"{one['version']} ({one['package']})") for name, one in document[key].items()]
    rows += [(name, version) for name, version in document["speakers"].items()]
    rows += [
        (one["path"], (one["release"] or "an older release") + ("" if one["current"] else " (not of this release)"))
        for one in document["plugins"]
    ]
    width = max(len(name) for name, _ in rows)
    return "".join(f"{name.ljust(width)}  {version or '-'}\n" for name, version in rows)
