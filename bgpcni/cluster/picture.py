"""What this node knows of the cluster's objects, frozen, and where its threads wait for the next picture.

`Pictures` is made first and given to the member, which puts each new picture there, and to everything that follows the
objects: pools, policies, peers. A thread that comes late misses pictures, and never a change: it compares what it has
with what it gets.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeVar

from bgpcni.cluster.objects import Object, Path

T = TypeVar("T", bound=Object)


@dataclass(frozen=True, slots=True)
class Picture:
    """All objects at one time, without their status. `generation` grows with each picture."""

    objects: Mapping[Path, Object] = field(default_factory=lambda: MappingProxyType({}))
    generation: int = 0

    def of(self, kind: type[T]) -> Iterator[T]:
        """The objects of one kind, in order of their names."""
        for _, item in sorted(self.objects.items()):
            if isinstance(item, kind):
                yield item

    def find(self, kind: type[T], name: str) -> T | None:
        """One object; None if the cluster has none of that name."""
        item = self.objects.get((kind.__name__, name))
        return item if isinstance(item, kind) else None

    def changed(self, since: Picture) -> set[Path]:
        """What is there now and was not, or is different, or is gone."""
        if self.objects is since.objects:
            return set()
        mine, its = self.objects, since.objects
        return {path for path in mine.keys() | its.keys() if mine.get(path) != its.get(path)}


class Pictures:
    """The last picture. Safe for threads."""

    def __init__(self) -> None:
        self._moved = threading.Condition()
        self._last = Picture()
        self._closed = False

    @property
    def last(self) -> Picture:
        return self._last

    def put(self, objects: Mapping[Path, Object]) -> None:
        """A new picture; nobody changes `objects` after this."""
        with self._moved:
            self._last = Picture(MappingProxyType(objects), self._last.generation + 1)
            self._moved.notify_all()

    def wait(self, after: Picture, seconds: float | None = None) -> Picture:
        """The first picture that is there and is newer than `after`; the last one after that time, or once closed."""
        with self._moved:
            self._moved.wait_for(lambda: self._closed or self._last.generation > after.generation, seconds)
            return self._last

    def close(self) -> None:
        """Nobody waits any more."""
        with self._moved:
            self._closed = True
            self._moved.notify_all()

    @property
    def closed(self) -> bool:
        return self._closed
