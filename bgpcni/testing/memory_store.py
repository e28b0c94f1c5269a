"""A cluster store that is a dictionary, for unit tests, which must not need etcd. It passes `StoreSuite`."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from bgpcni.cluster.objects import Object, Path
from bgpcni.cluster.store import Change, Conflict, Kept, Listing, Progress, Store, TooOld, Trouble


class Table:
    """What all clients of one store share. `away`: nobody can reach it."""

    def __init__(self) -> None:
        self.moved = threading.Condition()
        self.items: dict[Path, Kept] = {}
        self.broken: dict[Path, str] = {}
        self.history: list[Change[Kept]] = []
        self.revision = self.compacted = self.outages = 0
        self.away = False
        self.heard: dict[str, datetime] = {}

    def leave(self) -> None:
        """Be away, and end every watch."""
        with self.moved:
            self.away, self.outages = True, self.outages + 1
            self.moved.notify_all()

    def change(self, path: Path, item: Object | None, broken: str = "") -> Kept | None:
        """One more revision, under the lock."""
        self.revision += 1
        kept = None if item is None else Kept(item, str(self.revision))
        self.items.pop(path, None)
        self.broken.pop(path, None)
        if kept is not None:
            self.items[path] = kept
        if broken:
            self.broken[path] = broken
        self.history.append(Change(path, kept, str(self.revision), broken))
        self.moved.notify_all()
        return kept


class MemoryStore(Store):
    """One client of a table."""

    def __init__(self, table: Table) -> None:
        self._table, self._closed = table, False

    def list(self) -> Listing[Kept]:
        with self._reached() as table:
            return Listing(str(table.revision), dict(table.items), dict(table.broken))

    def get(self, path: Path) -> Kept | None:
        with self._reached() as table:
            return table.items.get(path)

    def create(self, item: Object) -> Kept:
        with self._reached() as table:
            if item.path in table.items:
                raise Conflict(f"{item.path} exists already")
            return self._put(item)

    def swap(self, item: Object, version: str) -> Kept:
        with self._reached() as table:
            if item.path not in table.items or table.items[item.path].version != version:
                raise Conflict(f"{item.path} was changed meanwhile")
            return self._put(item)

    def delete(self, path: Path, version: str | None = None) -> None:
        with self._reached() as table:
            kept = table.items.get(path)
            if (kept is None and path not in table.broken) or (version and (kept is None or kept.version != version)):
                raise Conflict(f"{path} does not exist, or was changed meanwhile")
            table.change(path, None)

    def watch(self, revision: str) -> Iterator[Change[Kept] | Progress]:
        at = int(revision)
        with self._reached() as table:
            outages = table.outages
        yield Progress()
        while True:
            with table.moved:
                if at < table.compacted:
                    raise TooOld
                new = [change for change in table.history if int(change.revision) > at]
                if not new:
                    if self._closed:
                        return
                    if outages != table.outages:
                        raise Trouble("memory: the watch broke")
                    table.moved.wait()
            for change in new:
                yield change
                at = int(change.revision)

    def beat(self, node: str) -> None:
        with self._reached() as table:
            table.heard[node] = datetime.now(UTC)

    def heard(self) -> Mapping[str, datetime]:
        with self._reached() as table:
            return dict(table.heard)

    def close(self) -> None:
        with self._table.moved:
            self._closed = True
            self._table.moved.notify_all()

    def _put(self, item: Object) -> Kept:
        kept = self._table.change(item.path, item)
        assert kept is not None
        return kept

    def _reached(self) -> _Reached:
        return _Reached(self._table)


class _Reached:
    """The table under its lock. Raises Trouble while it is away."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def __enter__(self) -> Table:
        self._table.moved.acquire()
        if self._table.away:
            self._table.moved.release()
            raise Trouble("memory: nobody is there")
        return self._table

    def __exit__(self, *_: object) -> None:
        self._table.moved.release()
