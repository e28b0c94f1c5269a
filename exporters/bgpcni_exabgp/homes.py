"""Which ExaBGP is an exporter's. Each exporter has one, with files of its own, and several can run on a node.

The files are called after the exporter. But an ExaBGP that runs is known by its sessions, so that they go on when its
exporter gets another name. Where `bgpcni speaker` runs for an exporter, the exporter uses what that runs.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bgpcni.model import NodeFacts
from bgpcni_exabgp.configure import Sessions, sessions, sessions_in
from bgpcni_exabgp.process import Home, home_name

END = 5.0
"""Seconds that an ExaBGP of ours has to end, once another one has its sessions."""
_UNKNOWN: Sessions = frozenset([("", "")])
"""The sessions of an ExaBGP whose configuration somebody removed."""
_taking = threading.Lock()
_taken: set[Path] = set()
"""The configurations of the homes that exporters of this process have."""


class Homes:
    """The homes that one exporter can have, and the one that it has."""

    def __init__(self, exporter: str, node: NodeFacts) -> None:
        self._folder, self._lasting = node.run_dir, node.data_dir
        self._name = home_name(exporter)
        self._sessions = sessions(node)
        self._others = frozenset(home_name(name) for name in node.speakers if name != exporter)
        self._home: Home | None = None

    def take(self) -> Home:
        """The home to use until `leave`, or until the next call. No other exporter of this process gets it meanwhile.

        It is that of our name if a `bgpcni speaker` runs there; else the one that we have; else that of an ExaBGP with
        one of our sessions; else one of our name. Any other ExaBGP that has one of our sessions is ended. One of our
        name whose sessions come from another address is left to the exporter that hands over to us.
        """
        with _taking:
            before = self._drop()
            free = self._alive()
            alike = [home for home, has in free if has & self._sessions or has == _UNKNOWN]
            home = self._chosen(before, alike, free)
            self._home = home
            _taken.add(home.configuration)
        for other, has in free:
            if other.name != home.name and (other in alike or (before is not None and other.name == before.name)):
                other.dismiss(time.monotonic() + END, keep_routes=has <= self._sessions)
        return home

    @property
    def home(self) -> Home:
        """The one that we have, or else that of our name."""
        return self._home or self._of(self._name)

    def leave(self) -> None:
        """Let another exporter have our home. Idempotent."""
        with _taking:
            self._drop()

    def better(self) -> bool:
        """Whether `take` would give us another home now, since a `bgpcni speaker` runs there for us."""
        own = self._of(self._name)
        with _taking:
            return self._home is not None and self._home.name != own.name and self._speaks(own)

    def sweep(self) -> None:
        """End what runs in homes of our name that no exporter has taken: an exporter which is no more has left it."""
        with _taking:
            left = [home for home, _ in self._alive() if self._is_ours(home.name)]
        for home in left:
            if home.apart() is None:
                home.dismiss(time.monotonic() + END)

    def _drop(self) -> Home | None:
        home, self._home = self._home, None
        if home is not None:
            _taken.discard(home.configuration)
        return home

    def _chosen(self, before: Home | None, alike: list[Home], free: list[tuple[Home, Sessions]]) -> Home:
        own = self._of(self._name)
        if self._speaks(own):
            return own
        if before is not None:
            return before
        here = {address for _, address in self._sessions}
        named = [
            home for home, has in free
            if self._is_ours(home.name) and (not here or not has or not here.isdisjoint(at for _, at in has))
        ]  # fmt: skip
        used = {*_taken, *(home.configuration for home, _ in free)}
        fresh = (home for home in self._by_name() if home.configuration not in used)
        return next(itertools.chain(alike, named, fresh))

    def _speaks(self, own: Home) -> bool:
        """Whether we can use the home of our name with the `bgpcni speaker` that runs there."""
        return own.configuration not in _taken and own.apart() is not None

    def _alive(self) -> list[tuple[Home, Sessions]]:
        """The homes with a live ExaBGP, or a `bgpcni speaker` that could start one, and the sessions in each.

        Homes that an exporter has, or that are called after another exporter of agent.toml, are left
        out. Ours come first.
        """
        found = []
        folder = Path(self._folder)
        names = {path.stem for ending in ("pid", "speaker") for path in folder.glob(f"exabgp*.{ending}")}
        names |= {path.stem for path in Path(self._lasting).glob("exabgp*.claim")}
        for name in sorted(names, key=lambda name: (not self._is_ours(name), name)):
            home = self._of(name)
            if name.partition("@")[0] in self._others or home.configuration in _taken:
                continue
            runs = home.claimed() is not None
            if runs or home.speaker.exists():
                has = sessions_in(home.configured())
                found.append((home, has if has or not runs or home.dismissed() else _UNKNOWN))
        return found

    def _is_ours(self, name: str) -> bool:
        return name.partition("@")[0] == self._name

    def _by_name(self) -> Iterator[Home]:
        """Homes of our name. There are several only while one exporter of this name hands over to another."""
        yield self._of(self._name)
        for number in itertools.count(2):
            yield self._of(f"{self._name}@{number}")

    def _of(self, name: str) -> Home:
        return Home(self._folder, name, self._lasting)
