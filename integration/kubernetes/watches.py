"""One watch: the events of a selection from a revision on, bookmarks between them, until its time is over."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping

from integration.kubernetes import failures, tables
from integration.kubernetes.clock import Clock
from integration.kubernetes.kinds import Kind, Object
from integration.kubernetes.machinery import now
from integration.kubernetes.objects import Objects, home_of
from integration.kubernetes.selectors import Selection

BOOKMARKS = 60.0
"""Seconds between bookmarks."""
LAST, SHORT = 1.6, 2.0
"""Seconds before the end for the last one; a stream that is asked for SHORT seconds or less has none."""
_INITIAL_END = {"annotations": {"k8s.io/initial-events-end": "true"}}


class Watch:
    """`query` is the request's; `shape` as in the API's forms: "", Table or PartialObjectMetadata."""

    def __init__(
        self, objects: Objects, kind: Kind, namespace: str, chosen: Selection, query: Mapping[str, str], shape: str
    ) -> None:
        self._objects, self._kind, self._namespace, self._chosen = objects, kind, namespace, chosen
        self._query, self._shape = query, shape
        self._bookmarks = query.get("allowWatchBookmarks") in ("true", "1")
        self._initial = query.get("sendInitialEvents") == "true"
        self._columns = True
        """Whether the columns of a Table are still to be told."""

    async def stream(self, since: int, clock: Clock, ends: Callable[[], bool]) -> AsyncIterator[bytes]:
        """The octets of the answer, in the pieces in which they are sent. `ends`: the server ends all streams."""
        objects, kind = self._objects, self._kind
        told = asyncio.Event()
        objects.listeners.append(told.set)
        try:
            if since and not self._initial and since < objects.floor(kind):
                yield self._line("ERROR", failures.too_old(self._too_old(since)).status())
                return
            yield b""  # the headers go out before anything happens
            end, due = self._times(clock.now())
            position = since
            if not since or self._initial:
                position = objects.revision
                for item in objects.all(kind, self._namespace):
                    if self._chosen.takes(item):
                        yield self._line("ADDED", item)
                if self._bookmarks and (self._initial or not self._query.get("resourceVersion")):
                    yield self._bookmark(position, _INITIAL_END)
            while not ends():
                told.clear()
                ready = []
                if position <= objects.revision:  # else it is of the future, and silent
                    for _, event, item in objects.events(kind, self._namespace, self._chosen, position):
                        ready.append(self._line(event, item))
                    position = objects.revision
                if ready:
                    yield b"".join(ready)
                time = clock.now()
                if home_of(kind) in objects.ended or (end is not None and time >= end):
                    return
                if due and time >= due[0]:
                    due.pop(0)
                    if self._bookmarks and position <= objects.revision:
                        yield self._bookmark(position)
                    continue
                next_moment = min([*due[:1], *([end] if end is not None else [])], default=time + 3600)
                await clock.wait(told, next_moment - time)
        finally:
            objects.listeners.remove(told.set)

    def _times(self, start: float) -> tuple[float | None, list[float]]:
        """When it ends, and when bookmarks are due."""
        regular = [start + count * BOOKMARKS for count in range(1, 1000)]
        seconds = float(self._query.get("timeoutSeconds") or 0)
        if not seconds:
            return None, regular
        end = start + seconds
        return end, [time for time in regular if time < end] + [end - LAST] * (seconds > SHORT)

    def _too_old(self, since: int) -> str:
        if self._kind.name == "Event":  # not in the watch cache
            return "The resourceVersion for the provided watch is too old."
        return f"too old resource version: {since} ({self._objects.floor(self._kind)})"

    def _bookmark(self, revision: int, more: Object | None = None) -> bytes:
        metadata = {"resourceVersion": str(revision)} | (more or {})
        return self._line("BOOKMARK", _empty(self._kind) | {"metadata": metadata})

    def _line(self, event: str, item: Object) -> bytes:
        kind = self._kind
        if event == "ERROR":
            pass  # a Status stays a Status
        elif self._shape == "Table":
            rows = [item] if event != "BOOKMARK" else []
            metadata = {"resourceVersion": item["metadata"]["resourceVersion"]}
            include = self._query.get("includeObject", "Metadata")
            item = tables.table(kind, rows, metadata, now(), include, columns=self._columns)
            self._columns = False
        elif self._shape:
            item = tables.partial(item)
        else:
            item = {"kind": kind.name, "apiVersion": kind.group_version} | item
        return json.dumps({"type": event, "object": item}, separators=(",", ":")).encode() + b"\n"


def _empty(kind: Kind) -> Object:
    """What a bookmark's object has besides metadata."""
    if kind.custom:
        return {}
    status: Object = {}
    if kind.name == "Node":
        status = {"daemonEndpoints": {"kubeletEndpoint": {"Port": 0}}, "nodeInfo": {}}
    return {"spec": {}, "status": status} if kind.status else {}
