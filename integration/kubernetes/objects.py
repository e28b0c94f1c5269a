"""All objects of the double and their history: one revision for each change, as etcd has it. No I/O.

`floors` is how far back the history of a kind can be asked for; older revisions are "too old".
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from integration.kubernetes import failures
from integration.kubernetes.kinds import Kind, Object
from integration.kubernetes.selectors import Selection

Home = tuple[str, str]
"""Group and plural: where objects of a kind are, whatever their version."""
Key = tuple[str, str]
"""Namespace ("" for none) and name."""


@dataclass(frozen=True, slots=True)
class Change:
    """One revision. `after` is None for a deletion; `before` for a creation."""

    revision: int
    home: Home
    key: Key
    before: Object | None
    after: Object | None
    last: Object
    """The object as a watcher is told of it: for a deletion the last state, with the revision of the deletion."""


def home_of(kind: Kind) -> Home:
    return kind.group, kind.plural


class Objects:
    """The store. `listeners` are called after each change."""

    def __init__(self) -> None:
        self.revision = 1
        self.log: list[Change] = []
        self.floors: dict[Home, int] = {}
        self.ended: set[Home] = set()
        """Kinds whose definition was removed: their watches end."""
        self.listeners: list[Callable[[], None]] = []
        self._now: dict[Home, dict[Key, Object]] = {}

    def get(self, kind: Kind, key: Key) -> Object | None:
        return self._now.get(home_of(kind), {}).get(key)

    def all(self, kind: Kind, namespace: str = "", revision: int | None = None) -> list[Object]:
        """In order of namespace and name; as it was at `revision`."""
        found = self._now.get(home_of(kind), {})
        if revision is not None and revision < self.revision:
            found = {}
            for change in self.log:
                if change.home == home_of(kind) and change.revision <= revision:
                    if change.after is None:
                        found.pop(change.key, None)
                    else:
                        found[change.key] = change.after
        return [item for key, item in sorted(found.items()) if not namespace or key[0] == namespace]

    def put(self, kind: Kind, key: Key, after: Object | None) -> Object:
        """Write (None: remove) and note the change; the object with its new resourceVersion."""
        objects = self._now.setdefault(home_of(kind), {})
        before = objects.get(key)
        self.revision += 1
        last = deepcopy(after if after is not None else before)
        assert last is not None
        last["metadata"]["resourceVersion"] = str(self.revision)
        if after is None:
            del objects[key]
        else:
            objects[key] = last
        self.log.append(Change(self.revision, home_of(kind), key, before, None if after is None else last, last))
        self.tell()
        return last

    def tell(self) -> None:
        for listener in list(self.listeners):
            listener()

    def floor(self, kind: Kind) -> int:
        return self.floors.get(home_of(kind), 0)

    def forget(self, *kinds: Kind) -> None:
        """Nobody can go on from before now: what a restart of the server, and a compaction, come to."""
        for kind in kinds:
            self.floors[home_of(kind)] = self.revision

    def page(
        self, kind: Kind, namespace: str, selection: Selection, limit: int, token: str, revision: int | None
    ) -> tuple[list[Object], Object]:
        """A list, or a part of it, and its metadata. Raises Failure."""
        start = ""
        if token:
            revision, start = _read_token(token)
            if 0 <= revision < self.floor(kind):
                again = _token(-1, start.lstrip("/"))
                raise failures.too_old(_CONTINUE_TOO_OLD, again)
            revision = self.revision if revision < 0 else revision
        elif revision is not None and revision < self.floor(kind):
            raise failures.too_old("The resourceVersion for the provided list is too old.")
        at = self.revision if revision is None else revision
        found = [item for item in self.all(kind, namespace, at) if selection.takes(item)]
        after = [item for item in found if _place(item, namespace) >= start.lstrip("/")]
        part = after[:limit] if limit else after
        metadata: dict[str, Any] = {"resourceVersion": str(at)}
        if len(part) < len(after):
            metadata["continue"] = _token(at, f"/{_place(part[-1], namespace)}\0")
            if selection.is_all:
                metadata["remainingItemCount"] = len(after) - len(part)
        return deepcopy(part), metadata

    def events(self, kind: Kind, namespace: str, selection: Selection, since: int) -> Iterator[tuple[int, str, Object]]:
        """What happened after `since` to objects of the selection: revision, type and object of each event."""
        start = len(self.log)
        while start and self.log[start - 1].revision > since:
            start -= 1
        for change in self.log[start:]:
            if change.home != home_of(kind) or (namespace and change.key[0] != namespace):
                continue
            was = change.before is not None and selection.takes(change.before)
            now = change.after is not None and selection.takes(change.after)
            if now:
                yield change.revision, "MODIFIED" if was else "ADDED", change.last
            elif was:
                assert change.before is not None
                gone = deepcopy(change.before)
                gone["metadata"]["resourceVersion"] = str(change.revision)
                yield change.revision, "DELETED", gone


_CONTINUE_TOO_OLD = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
    "the continue parameter, or use the continue token in this response to retrieve the remainder of the results. "
    "Continuing with the provided token results in an inconsistent list - objects that were created, modified, or "
    "deleted between the time the first chunk was returned and now may show up in the list."
)


def _place(item: Object, namespace: str) -> str:
    metadata = item["metadata"]
    of = metadata.get("namespace", "")
    return str(metadata["name"]) if namespace or not of else f"{of}/{metadata['name']}"


def _token(revision: int, start: str) -> str:
    text = json.dumps({"v": "meta.k8s.io/v1", "rv": revision, "start": start}, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read_token(token: str) -> tuple[int, str]:
    try:
        document = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        return int(document["rv"]), str(document["start"])
    except (ValueError, KeyError, TypeError):
        text = "invalid continue token: continue key is not valid: invalid character 'i' looking for beginning of value"
        raise failures.bad_request(text) from None
