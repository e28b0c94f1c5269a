"""Exporters and stores: classes that packages provide by name in an entry-point group, loaded by stevedore."""

from __future__ import annotations

import os
from importlib.metadata import entry_points
from pathlib import Path


class NotInstalled(Exception):
    """No installed package has the name in that group. `known`: the names that are there, in words."""

    def __init__(self, known: str) -> None:
        super().__init__(known)
        self.known = known


def cache_in(run_dir: Path) -> None:
    """Keep stevedore from writing its cache of entry points into a home directory. Call it before the first `load`."""
    os.environ["XDG_CACHE_HOME"] = str(run_dir / "cache")


def installed(group: str) -> list[str]:
    """The names in a group, sorted."""
    return sorted({entry.name for entry in entry_points(group=group)})


def load(group: str, name: str) -> object:
    """What the group has by this name. Raises NotInstalled, and whatever importing it raises."""
    from stevedore.driver import DriverManager
    from stevedore.exception import NoMatches

    try:
        found: object = DriverManager(group, name, invoke_on_load=False).driver
    except NoMatches:
        raise NotInstalled(", ".join(installed(group)) or "none") from None
    return found
