"""The patches that an API server takes, each a function from object and patch to a new object. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import jsonpatch

from integration.kubernetes.failures import Failure, bad_request
from integration.kubernetes.kinds import Object


def merge(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


def json_patch(target: Object, patch: Any) -> Object:
    """RFC 6902. Raises Failure."""
    if not isinstance(patch, list):
        text = "json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"
        raise bad_request(f"error decoding patch: {text}")
    try:
        result: Object = jsonpatch.JsonPatch(patch).apply(target)
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException) as error:
        text = "the server rejected our request due to an error in our request"
        raise Failure(422, "Invalid", text) from error
    return result


def strategic(target: Any, patch: Any, merged_by: Mapping[str, str], path: str = "") -> Any:
    """As a merge patch, but for lists that have a key: those are merged item by item, new items first."""
    if isinstance(patch, list):
        key = merged_by.get(path)
        whole = any(isinstance(item, dict) and item.get("$patch") == "replace" for item in patch)
        if key is None or whole:
            return [item for item in deepcopy(patch) if not (isinstance(item, dict) and "$patch" in item)]
        return _items(list(target or ()), patch, key, merged_by, path)
    if not isinstance(patch, dict):
        return patch
    if patch.get("$patch") == "replace":
        return {name: deepcopy(value) for name, value in patch.items() if name != "$patch"}
    result = dict(target) if isinstance(target, dict) else {}
    if isinstance(kept := patch.get("$retainKeys"), list):
        result = {name: value for name, value in result.items() if name in kept}
    for name, value in patch.items():
        directive, _, of = name.partition("/")
        inner = f"{path}.{of or name}" if path else of or name
        if directive == "$deleteFromPrimitiveList":
            result[of] = [item for item in result.get(of, ()) if item not in value]
        elif name.startswith("$"):
            continue
        elif value is None:
            result.pop(name, None)
        else:
            result[name] = strategic(result.get(name), value, merged_by, inner)
    for name, order in patch.items():
        if name.startswith("$setElementOrder/") and isinstance(items := result.get(of := name.partition("/")[2]), list):
            result[of] = _ordered(items, order, merged_by.get(f"{path}.{of}" if path else of))
    return result


def _items(found: list[Any], patch: list[Any], key: str, merged_by: Mapping[str, str], path: str) -> list[Any]:
    new: list[Any] = []
    for item in patch:
        if key not in item:
            raise Failure(500, "", f"map: {item} does not contain declared merge key: {key}")
        index = next((i for i, old in enumerate(found) if old.get(key) == item[key]), None)
        if item.get("$patch") == "delete":
            found = [old for old in found if old.get(key) != item[key]]
        elif index is None:
            new.append(strategic({}, item, merged_by, f"{path}.*"))
        else:
            found[index] = strategic(found[index], item, merged_by, f"{path}.*")
    return new + found


def _ordered(items: list[Any], order: list[Any], key: str | None) -> list[Any]:
    def place(item: Any) -> int:
        wanted = [entry.get(key) if key and isinstance(entry, dict) else entry for entry in order]
        name = item.get(key) if key and isinstance(item, dict) else item
        return wanted.index(name) if name in wanted else len(wanted)

    return sorted(items, key=place)
