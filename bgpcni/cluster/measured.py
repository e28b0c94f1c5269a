"""A store whose requests are counted and timed, whichever store it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime

from bgpcni.cluster.objects import Object, Path
from bgpcni.cluster.store import Change, Conflict, Kept, Listing, Progress, Store, TooOld, Trouble
from bgpcni.errors import InvalidConfiguration

Asked = Callable[[str, float | None, str], None]
"""Called with the operation, its seconds (None for a watch, which lasts), and why it failed: "" if it did not."""
_REASONS: dict[type[Exception], str] = {
    Trouble: "trouble",
    Conflict: "conflict",
    TooOld: "too-old",
    InvalidConfiguration: "invalid",
}


class Measured(Store):
    """`store`, of whose requests `asked` is told. Safe for threads if `asked` is."""

    def __init__(self, store: Store, asked: Asked) -> None:
        self._store, self._asked = store, asked

    def list(self) -> Listing[Kept]:
        with self._measured("list"):
            return self._store.list()

    def watch(self, revision: str) -> Iterator[Change[Kept] | Progress]:
        with self._measured("watch", timed=False):
            yield from self._store.watch(revision)

    def get(self, path: Path) -> Kept | None:
        with self._measured("get"):
            return self._store.get(path)

    def create(self, item: Object) -> Kept:
        with self._measured("create"):
            return self._store.create(item)

    def swap(self, item: Object, version: str) -> Kept:
        with self._measured("swap"):
            return self._store.swap(item, version)

    def delete(self, path: Path, version: str | None = None) -> None:
        with self._measured("delete"):
            self._store.delete(path, version)

    def beat(self, node: str) -> None:
        with self._measured("beat"):
            self._store.beat(node)

    def heard(self) -> Mapping[str, datetime]:
        with self._measured("heard"):
            return self._store.heard()

    def close(self) -> None:
        self._store.close()

    @contextmanager
    def _measured(self, operation: str, *, timed: bool = True) -> Iterator[None]:
        began, reason = time.perf_counter(), ""
        try:
            yield
        except tuple(_REASONS) as error:
            reason = next(text for kind, text in _REASONS.items() if isinstance(error, kind))
            raise
        finally:
            self._asked(operation, time.perf_counter() - began if timed else None, reason)
