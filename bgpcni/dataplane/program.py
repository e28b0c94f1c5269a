"""What the kernel should have against what it has: a set of entries driven towards another, at the cost of the change.

One program for each VNI and each VRF, and one for the node's own routes. Pure: somebody else asks `take` what to do,
does it, and says `done` or `failed`. What an earlier life of the agent left in the kernel is adopted; while it is not
known yet whether it is still wanted, it is held.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple


class Key(NamedTuple):
    """One entry of the kernel: `fdb` (a MAC), `flood` (a VTEP), `neighbour` (an address), `route` (a prefix), `label`
    (MPLS, what comes with it)."""

    what: str
    name: str


@dataclass(frozen=True, slots=True)
class Remote:
    """Behind a VTEP (`fdb`, `flood`). `vni`: which it wants to be sent, None: ours."""

    vtep: str
    vni: int | None = None


@dataclass(frozen=True, slots=True)
class Local:
    """Behind a port of the bridge, by its index (`fdb`)."""

    port: int


@dataclass(frozen=True, slots=True)
class At:
    """The MAC of an address (`neighbour`)."""

    mac: str


@dataclass(frozen=True, slots=True)
class Via:
    """Through a gateway, None: on the link (`route`, `label`). `device`: its index. `label`: put on what goes there."""

    gateway: str | None
    device: int
    label: int | None = None


Value = Remote | Local | At | Via


@dataclass(frozen=True, slots=True)
class Change:
    """`old` None: the kernel has nothing there; `new` None: it shall have nothing."""

    key: Key
    old: Value | None
    new: Value | None


class Program:
    """Wanted, present, and the keys where they may differ."""

    def __init__(self) -> None:
        self.wanted: dict[Key, Value] = {}
        self.present: dict[Key, Value] = {}
        self.failures: dict[Key, str] = {}
        self._dirty: dict[Key, None] = {}
        self._inherited: dict[Key, None] = {}

    def want(self, key: Key, value: Value | None) -> None:
        """This is wanted now; None: nothing."""
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
        """The kernel has this entry, from an earlier life; it is held until wanted, or until `release`."""
        self.present[key] = value
        if key not in self.wanted:
            self._inherited[key] = None
        elif self.wanted[key] != value:
            self._dirty[key] = None
        else:
            self._dirty.pop(key, None)

    def release(self) -> None:
        """What is wanted is known again: what was adopted and nobody wants goes."""
        self._dirty.update(self._inherited)
        self._inherited.clear()

    def forget(self) -> None:
        """Nothing is wanted any more: all that is there goes."""
        self.wanted.clear()
        self.failures.clear()
        self._inherited.clear()
        self._dirty = dict.fromkeys(self.present)

    def lost(self) -> None:
        """The kernel has nothing of it, as far as is known (the device went): what is wanted is to be made."""
        self.present.clear()
        self.failures.clear()
        self._inherited.clear()
        self._dirty = dict.fromkeys(self.wanted)

    def retry(self) -> None:
        """What failed is tried again."""
        for key in self.failures:
            self._dirty[key] = None

    @property
    def dirty(self) -> int:
        return len(self._dirty)

    def take(self, limit: int, only: Collection[Key] | None = None) -> list[Change]:
        """Up to `limit` changes to make (of these keys alone); each is answered by `done` or `failed`."""
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
        """The kernel has `new` there now."""
        if change.new is None:
            self.present.pop(change.key, None)
        else:
            self.present[change.key] = change.new
        self.failures.pop(change.key, None)
        if self.wanted.get(change.key) == change.new:
            self._dirty.pop(change.key, None)

    def failed(self, change: Change, reason: str) -> None:
        """The kernel did not take it: as before, until `retry`."""
        self.failures[change.key] = reason
        self._dirty.pop(change.key, None)
