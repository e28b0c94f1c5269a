"""What the kernel should have, and what it has: works out the difference, at the cost of the difference. Pure.

Every place has a program. Whoever runs it asks `take` what to do, does it, and says `done` or `failed`. What an earlier
run of the agent left in the kernel is adopted. It stays until it is known whether it is still wanted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple


class Key(NamedTuple):
    """Names one entry of the kernel: `what` it is, and which.

    `fdb` (a MAC), `flood` (a VTEP), `neighbour` (an address), `route` (a prefix), `label` (an MPLS label that comes
    in).
    """

    what: str
    name: str


@dataclass(frozen=True, slots=True)
class Remote:
    """Behind a VTEP (`fdb`, `flood`). `vni`: the VNI to send there, None: the one of this segment."""

    vtep: str
    vni: int | None = None


@dataclass(frozen=True, slots=True)
class Local:
    """Behind a port of the bridge (`fdb`). `port`: the index of its link."""

    port: int


@dataclass(frozen=True, slots=True)
class At:
    """At a MAC (`neighbour`)."""

    mac: str


@dataclass(frozen=True, slots=True)
class Via:
    """Through a link (`route`, `label`). `gateway` None: the target is on the link. `device`: the index of the link.

    `label`: the MPLS label that packets get, None: no label.
    """

    gateway: str | None
    device: int
    label: int | None = None


@dataclass(frozen=True, slots=True)
class Ways:
    """Through several links or gateways at once (`route`), in their own order. Made by `spread`."""

    ways: tuple[Via, ...]


def spread(ways: Iterable[Via]) -> Via | Ways | None:
    """All of these ways at once; None: there is none. It does not depend on their order."""
    found = sorted(set(ways), key=lambda via: (via.gateway or "", via.device, via.label or 0))
    return Ways(tuple(found)) if len(found) > 1 else found[0] if found else None


def ways_of(value: Value | None) -> tuple[Via, ...]:
    """Each single way of a route, none of anything else."""
    return value.ways if isinstance(value, Ways) else (value,) if isinstance(value, Via) else ()


Value = Remote | Local | At | Via | Ways


@dataclass(frozen=True, slots=True)
class Change:
    """From `old` to `new`. `old` None: the entry is to be made; `new` None: it is to be removed."""

    key: Key
    old: Value | None
    new: Value | None


class Program:
    """The entries that are wanted, those that are present, and the keys where they may differ (`dirty`)."""

    def __init__(self) -> None:
        self.wanted: dict[Key, Value] = {}
        self.present: dict[Key, Value] = {}
        self.failures: dict[Key, str] = {}
        self._dirty: dict[Key, None] = {}
        self._inherited: dict[Key, None] = {}

    def want(self, key: Key, value: Value | None) -> None:
        """Want this entry from now on; None: want it no more."""
        if value is None:
            self.wanted.pop(key, None)
        else:
            self.wanted[key] = value
            self._inherited.pop(key, None)
        if self.present.get(key) != value:
            self._dirty[key] = None
        else:
            self._dirty.pop(key, None)
            self.failures.pop(key, None)

    def adopt(self, key: Key, value: Value) -> None:
        """The kernel has this entry already. Unless it is wanted, it stays until `release`."""
        self.present[key] = value
        if key not in self.wanted:
            self._inherited[key] = None
        elif self.wanted[key] != value:
            self._dirty[key] = None
        else:
            self._dirty.pop(key, None)

    def release(self) -> None:
        """By now it is known what is wanted: remove what was adopted and is not."""
        self._dirty.update(self._inherited)
        self._inherited.clear()

    def forget(self) -> None:
        """Want nothing any more: everything that is present is to be removed."""
        self.wanted.clear()
        self.failures.clear()
        self._inherited.clear()
        self._dirty = dict.fromkeys(self.present)

    def lost(self) -> None:
        """Nothing is known to be present, because the device is gone or will be read again. Make what is wanted."""
        self.present.clear()
        self.failures.clear()
        self._inherited.clear()
        self._dirty = dict.fromkeys(self.wanted)

    def retry(self) -> None:
        """Try again what failed."""
        for key in self.failures:
            self._dirty[key] = None

    @property
    def dirty(self) -> int:
        return len(self._dirty)

    def take(self, limit: int, only: Collection[Key] | None = None) -> list[Change]:
        """Up to `limit` changes to make, of these keys only if given. Answer each by `done` or `failed`."""
        keys = list(self._dirty) if only is None else [key for key in only if key in self._dirty]
        found: list[Change] = []
        for key in keys:
            old, new = self.present.get(key), self.wanted.get(key)
            if old == new:
                del self._dirty[key]
                self.failures.pop(key, None)
                continue
            found.append(Change(key, old, new))
            if len(found) == limit:
                break
        return found

    def done(self, change: Change) -> None:
        """The kernel has made the change."""
        if change.new is None:
            self.present.pop(change.key, None)
        else:
            self.present[change.key] = change.new
        self.failures.pop(change.key, None)
        if self.wanted.get(change.key) == change.new:
            self._dirty.pop(change.key, None)

    def failed(self, change: Change, reason: str) -> None:
        """The kernel refused the change. It is not tried again before `retry`."""
        self.failures[change.key] = reason
        self._dirty.pop(change.key, None)
