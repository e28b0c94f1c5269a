"""Who set which field (`metadata.managedFields`), and server-side apply, which follows from it. Pure.

A field is a path of keys; lists with a key are maps of their items, all other lists are one value.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from integration.kubernetes.failures import Failure
from integration.kubernetes.kinds import Kind, Object

Path = tuple[str, ...]
"""`f:NAME` for a field, `k:{JSON}` for an item of a list by its keys, `.` for the map or item itself."""

_NOT_OWNED = (
    "name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp",
    "deletionGracePeriodSeconds", "managedFields", "generateName", "selfLink",
)  # fmt: skip


_MAPS = ("data", "binaryData", "metadata.labels", "metadata.annotations")
"""What is a map in a built-in kind, not a structure: updates own it besides what is in it."""


@dataclass(frozen=True, slots=True)
class Manager:
    """Who writes, and how: `operation` is Apply or Update."""

    name: str
    operation: str
    version: str
    subresource: str = ""


def list_keys(kind: Kind) -> Mapping[str, tuple[str, ...]]:
    """Which lists are maps of their items, by path (`*` for items), and by which keys."""
    found: dict[str, tuple[str, ...]] = {path: (key,) for path, key in kind.merged_by.items()}
    if kind.schema is not None:
        found.update(_keyed(kind.schema, ""))
    return found


def _keyed(schema: Object, path: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    if schema.get("x-kubernetes-list-type") == "map":
        yield path, tuple(schema.get("x-kubernetes-list-map-keys", ()))
    for name, inner in schema.get("properties", {}).items():
        yield from _keyed(inner, f"{path}.{name}" if path else name)
    if isinstance(inner := schema.get("items"), dict):
        yield from _keyed(inner, f"{path}.*")


def fields(
    value: Object, keys: Mapping[str, tuple[str, ...]], selves: Collection[str] | None = None
) -> dict[Path, Any]:
    """Every field of an object with its value. `selves`: which maps are fields themselves as well, `*` for all."""
    return dict(_fields(value, keys, (), "", selves))


def _fields(
    value: Any, keys: Mapping[str, tuple[str, ...]], path: Path, plain: str, selves: Collection[str] | None
) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, dict) and (value or not path):
        if (path and path[-1].startswith("k:")) or (path and selves is not None and (plain in selves or "*" in selves)):
            yield (*path, "."), None
        for name, item in value.items():
            if not path and name in ("apiVersion", "kind"):
                continue
            if path == ("f:metadata",) and name in _NOT_OWNED:
                continue
            yield from _fields(item, keys, (*path, f"f:{name}"), f"{plain}.{name}" if plain else name, selves)
    elif isinstance(value, list) and plain in keys:
        for item in value:
            name = json.dumps({key: item.get(key) for key in keys[plain]}, separators=(",", ":"))
            yield from _fields(item, keys, (*path, f"k:{name}"), f"{plain}.*", selves)
    elif path:
        yield path, value


def read(managed: list[Object]) -> dict[Manager, tuple[set[Path], str]]:
    """What `metadata.managedFields` says."""
    return {
        Manager(item["manager"], item["operation"], item["apiVersion"], item.get("subresource", "")): (
            set(_paths(item["fieldsV1"], ())),
            item["time"],
        )
        for item in managed
    }


def _paths(tree: Object, path: Path) -> Iterator[Path]:
    for name, inner in tree.items():
        if inner:
            yield from _paths(inner, (*path, name))
        else:
            yield (*path, name)


def written(owned: Mapping[Manager, tuple[set[Path], str]]) -> list[Object]:
    """As `metadata.managedFields` has it."""
    entries = []
    for manager, (paths, time) in owned.items():
        tree: Object = {}
        for path in sorted(paths):
            place = tree
            for step in path:
                place = place.setdefault(step, {})
        entries.append(
            {
                "manager": manager.name,
                "operation": manager.operation,
                "apiVersion": manager.version,
                "time": time,
                "fieldsType": "FieldsV1",
                "fieldsV1": tree,
            }
            | ({"subresource": manager.subresource} if manager.subresource else {})
        )
    return sorted(entries, key=lambda entry: (entry["operation"], entry["manager"]))


def updated(before: Object | None, after: Object, kind: Kind, manager: Manager, now: str) -> None:
    """Note in `after` that this manager set what differs from `before`."""
    keys = list_keys(kind)
    selves = ("*",) if kind.custom else _MAPS
    old = fields(before, keys, selves) if before is not None else {}
    new = fields(after, keys, selves)
    changed = {path for path, value in new.items() if path not in old or old[path] != value}
    owned = read((before or {}).get("metadata", {}).get("managedFields", []))
    result: dict[Manager, tuple[set[Path], str]] = {}
    for who, (paths, time) in owned.items():
        left = {path for path in paths if path in new} - (
            {p for p in changed if p[-1] != "."} if who != manager else set()
        )
        if left or who == manager:
            result[who] = (left, time)
    if changed:
        result[manager] = (result.get(manager, (set(), ""))[0] | changed, now)
    after["metadata"]["managedFields"] = written(result)


def apply(live: Object | None, wanted: Object, kind: Kind, manager: Manager, now: str, *, force: bool) -> Object:
    """Server-side apply: the object as this manager wants it. Without `force` Failure 409 for fields of others."""
    keys = list_keys(kind)
    asked = fields(wanted, keys)
    result = deepcopy(live) if live is not None else {"metadata": {}}
    owned = read(result.get("metadata", {}).get("managedFields", []))
    present = fields(result, keys)
    conflicts = [
        (who, path)
        for who, (paths, _) in owned.items()
        for path in sorted(paths)
        if (who.name, who.operation) != (manager.name, "Apply") and path in asked and path[-1] != "."
        and present.get(path, asked[path]) != asked[path]
    ]  # fmt: skip
    if conflicts and not force:
        raise _conflict(conflicts)
    before = owned.get(manager, (set(), ""))[0]
    others = set[Path]().union(*(paths for who, (paths, _) in owned.items() if who != manager))
    for path in sorted(before - set(asked) - others, key=len, reverse=True):
        _remove(result, path)
    _put(result, wanted, keys, "")
    for who, (paths, time) in list(owned.items()):
        owned[who] = (paths - {path for _, path in conflicts}, time)
    owned = {who: entry for who, entry in owned.items() if entry[0]}
    owned[manager] = (set(asked), now)
    result["metadata"]["managedFields"] = written(owned)
    return result


def _conflict(conflicts: list[tuple[Manager, Path]]) -> Failure:
    causes = []
    said = []
    for who, path in conflicts:
        field = "".join(f".{step[2:]}" if step.startswith("f:") else f"[{_shown(step[2:])}]" for step in path)
        by = f'"{who.name}"' + (f" using {who.version}" if who.operation == "Update" else "")
        causes.append({"reason": "FieldManagerConflict", "message": f"conflict with {by}", "field": field})
        said.append(f"conflict with {by}: {field}" if len(conflicts) == 1 else f"- {field}")
    plural = "s" * (len(conflicts) > 1)
    text = said[0] if len(said) == 1 else "conflicts with " + "\n".join(said)
    message = f"Apply failed with {len(conflicts)} conflict{plural}: {text}"
    return Failure(409, "Conflict", message, {"causes": causes})


def _shown(keys: str) -> str:
    return ",".join(f"{name}={json.dumps(value)}" for name, value in json.loads(keys).items())


def _remove(target: Any, path: Path) -> None:
    for step in path[:-1]:
        target = _step(target, step)
        if target is None:
            return
    last = path[-1]
    if last.startswith("f:") and isinstance(target, dict):
        target.pop(last[2:], None)


def _step(target: Any, step: str) -> Any:
    if step.startswith("f:") and isinstance(target, dict):
        return target.get(step[2:])
    if step.startswith("k:") and isinstance(target, list):
        keys = json.loads(step[2:])
        return next((item for item in target if all(item.get(k) == v for k, v in keys.items())), None)
    return None


def _put(target: Object, wanted: Object, keys: Mapping[str, tuple[str, ...]], plain: str) -> None:
    for name, value in wanted.items():
        path = f"{plain}.{name}" if plain else name
        if isinstance(value, dict):
            inner = target.setdefault(name, {})
            if isinstance(inner, dict):
                _put(inner, value, keys, path)
                continue
        if isinstance(value, list) and path in keys:
            found = target.setdefault(name, [])
            for item in value:
                same = [old for old in found if all(old.get(key) == item.get(key) for key in keys[path])]
                if same:
                    _put(same[0], item, keys, f"{path}.*")
                else:
                    found.append(deepcopy(item))
            continue
        target[name] = deepcopy(value)
