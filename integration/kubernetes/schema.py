"""The structural schema of a custom resource: what is pruned, defaulted and refused, with the API server's words. Pure.

Of OpenAPI v3 what CustomResourceDefinitions may use; rules (`x-kubernetes-validations`) are evaluated by cel-python.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from copy import deepcopy
from datetime import datetime
from ipaddress import ip_address, ip_network
from typing import Any

import celpy

from integration.kubernetes.failures import Cause
from integration.kubernetes.kinds import Object

_PRESERVE = "x-kubernetes-preserve-unknown-fields"
_INT_OR_STRING = "x-kubernetes-int-or-string"
_LIST_TYPE = "x-kubernetes-list-type"
_LIST_KEYS = "x-kubernetes-list-map-keys"
_RULES = "x-kubernetes-validations"
_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", dict: "object", list: "array"}
_BLOCKING = ("FieldValueNotSupported", "FieldValueRequired", "FieldValueTooLong", "FieldValueTooMany",
             "FieldValueTypeInvalid")  # fmt: skip
_NOT_CHECKED = (
    "Invalid value: null: some validation rules were not checked because the object was invalid; "
    "correct the existing errors to complete validation"
)
_NOT_IN_LOGIC = ("type", "default", "description", "additionalProperties", "nullable", "title")


# ---------------------------------------------------------------- the schema itself


def unstructural(schema: Object, path: str = "spec.validation.openAPIV3Schema") -> Iterator[Cause]:
    """Why this is no structural schema."""
    loose = schema.get(_PRESERVE) or schema.get(_INT_OR_STRING)
    if not schema.get("type") and not loose:
        where = "specified object fields" if path.endswith(("]", "Schema")) else "specified array items"
        yield "FieldValueRequired", f"{path}.type", f"Required value: must not be empty for {where}"
    for name in ("$ref", "definitions", "dependencies", "patternProperties", "uniqueItems"):
        if schema.get(name):
            yield "FieldValueForbidden", f"{path}.{name}", f"Forbidden: {name} is not supported"
    if schema.get("properties") and schema.get("additionalProperties"):
        text = "Forbidden: additionalProperties and properties are mutual exclusive"
        yield "FieldValueForbidden", f"{path}.additionalProperties", text
    if "default" in schema:
        for _, field, message in check(schema["default"], schema, f"{path}.default"):
            yield "FieldValueInvalid", field, message
    for name, inner in schema.get("properties", {}).items():
        yield from unstructural(inner, f"{path}.properties[{name}]")
    if isinstance(inner := schema.get("additionalProperties"), dict):
        yield from unstructural(inner, f"{path}.additionalProperties")
    if isinstance(inner := schema.get("items"), dict):
        yield from unstructural(inner, f"{path}.items")
    for word in ("allOf", "anyOf", "oneOf"):
        for index, inner in enumerate(schema.get(word, ())):
            yield from _illogical(inner, f"{path}.{word}[{index}]", schema)
    if "not" in schema:
        yield from _illogical(schema["not"], f"{path}.not", schema)
    for index, rule in enumerate(schema.get(_RULES, ())):
        try:
            _program(rule["rule"])
        except Exception as error:  # noqa: BLE001 - the library's own errors have no common base
            yield "FieldValueInvalid", f"{path}.{_RULES}[{index}].rule", f"Invalid value: compilation failed: {error}"


def _illogical(schema: Object, path: str, beside: Object) -> Iterator[Cause]:
    if beside.get(_INT_OR_STRING) and set(schema) == {"type"}:
        return
    for name in _NOT_IN_LOGIC:
        if name in schema:
            yield "FieldValueForbidden", f"{path}.{name}", "Forbidden: must be empty to be structural"
    for name, inner in schema.get("properties", {}).items():
        yield from _illogical(inner, f"{path}.properties[{name}]", {})
        if name not in beside.get("properties", {}):
            text = f"Required value: because it is defined in {path}.properties[{name}]"
            yield "FieldValueRequired", f"{path.rpartition('.')[0]}.properties[{name}]", text


# ---------------------------------------------------------------- objects


def prune(value: Any, schema: Object, path: str = "") -> Iterator[str]:
    """Take out of `value` what the schema does not have; the paths of what was taken."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from prune(item, schema.get("items", {}), f"{path}[{index}]")
    if not isinstance(value, dict):
        return
    known, more = schema.get("properties", {}), schema.get("additionalProperties")
    for name in list(value):
        where = f"{path}.{name}" if path else name
        if name in known:
            yield from prune(value[name], known[name], where)
        elif isinstance(more, dict):
            yield from prune(value[name], more, where)
        elif not more and not schema.get(_PRESERVE) and not (not path and name in ("apiVersion", "kind", "metadata")):
            del value[name]
            yield where


def fill(value: Any, schema: Object) -> None:
    """Put in the defaults; a null for what may not be null counts as absent."""
    if isinstance(value, list):
        for item in value:
            fill(item, schema.get("items", {}))
    if not isinstance(value, dict):
        return
    for name, inner in schema.get("properties", {}).items():
        if value.get(name, 0) is None and not inner.get("nullable"):
            del value[name]
        if name not in value and "default" in inner:
            value[name] = deepcopy(inner["default"])
        if name in value:
            fill(value[name], inner)
    if isinstance(more := schema.get("additionalProperties"), dict):
        for name in value:
            if name not in schema.get("properties", {}):
                fill(value[name], more)


def refusals(value: Object, schema: Object, before: Object | None = None) -> list[Cause]:
    """Why the object is refused; [] where it is not. `before`: what it is to replace, for transition rules."""
    causes = list(check(value, schema, ""))
    causes += _lists(value, schema, "")
    if any(reason in _BLOCKING for reason, _, _ in causes):
        return [*causes, ("FieldValueInvalid", "<nil>", _NOT_CHECKED)]
    return causes + list(_broken_rules(value, schema, "", before))


def check(value: Any, schema: Object, path: str) -> Iterator[Cause]:
    """Types, bounds, formats, enumerations, required fields and logic, in the server's order."""
    if value is None and schema.get("nullable"):
        return
    if not _is_of(value, schema):
        found = _TYPES.get(type(value), "null")
        text = f'Invalid value: "{found}": {_in_body(path)} must be of type {schema["type"]}: "{found}"'
        yield "FieldValueTypeInvalid", path or "<nil>", text
    yield from _logic(value, schema, path)
    if isinstance(value, dict):
        for name in schema.get("required", ()):
            if name not in value:
                yield "FieldValueRequired", _join(path, name), "Required value"
        known, more = schema.get("properties", {}), schema.get("additionalProperties")
        for name in sorted(value):
            if name in known:
                yield from check(value[name], known[name], _join(path, name))
            elif isinstance(more, dict):
                yield from check(value[name], more, _join(path, name))
        yield from _size(len(value), schema, "Properties", path)
    elif isinstance(value, list):
        yield from _size(len(value), schema, "Items", path)
        for index, item in enumerate(value):
            yield from check(item, schema.get("items", {}), f"{path}[{index}]")
    elif isinstance(value, str):
        yield from _text(value, schema, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _number(value, schema, path)
    if "enum" in schema and value not in schema["enum"]:
        supported = ", ".join(json.dumps(item) for item in schema["enum"])
        yield "FieldValueNotSupported", path, f"Unsupported value: {json.dumps(value)}: supported values: {supported}"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _in_body(path: str) -> str:
    return f"{path} in body" if path else "in body"


def _is_of(value: Any, schema: Object) -> bool:
    wanted = schema.get("type")
    if not wanted or (schema.get(_INT_OR_STRING) and isinstance(value, int | str) and not isinstance(value, bool)):
        return True
    found = _TYPES.get(type(value), "null")
    return found == wanted or (wanted == "number" and found == "integer")


def _size(size: int, schema: Object, what: str, path: str) -> Iterator[Cause]:
    if size > schema.get(f"max{what}", size):
        most = schema[f"max{what}"]
        yield "FieldValueTooMany", path, f"Too many: {size}: must have at most {most} {what.lower()}"
    if size < schema.get(f"min{what}", 0):
        text = f"Invalid value: {size}: {_in_body(path)} should have at least {schema[f'min{what}']} {what.lower()}"
        yield "FieldValueInvalid", path, text


def _text(value: str, schema: Object, path: str) -> Iterator[Cause]:
    shown = json.dumps(value)
    if len(value) > schema.get("maxLength", len(value)):
        text = f"Too long: may not be more than {schema['maxLength']} bytes"
        yield "FieldValueTooLong", path, text
    elif len(value) < schema.get("minLength", 0):
        text = f"Invalid value: {shown}: {_in_body(path)} should be at least {schema['minLength']} chars long"
        yield "FieldValueInvalid", path, text
    elif "pattern" in schema and not re.search(schema["pattern"], value):
        yield "FieldValueInvalid", path, f"Invalid value: {shown}: {_in_body(path)} should match '{schema['pattern']}'"
    if not _is_in_format(value, schema.get("format", "")):
        text = f"Invalid value: {shown}: {_in_body(path)} must be of type {schema['format']}: {shown}"
        yield "FieldValueTypeInvalid", path, text


def _is_in_format(value: str, name: str) -> bool:
    try:
        match name:
            case "ipv4" | "ipv6":
                return ip_address(value).version == int(name[-1])
            case "cidr":
                return "/" in value and bool(ip_network(value, strict=False))
            case "date-time":
                return bool(datetime.fromisoformat(value)) and len(value) > 10
            case "mac":
                return bool(re.fullmatch("([0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}", value))
    except ValueError:
        return False
    return True


def _number(value: float, schema: Object, path: str) -> Iterator[Cause]:
    for word, wrong, text in (
        ("minimum", value < schema.get("minimum", value), "greater than or equal to"),
        ("maximum", value > schema.get("maximum", value), "less than or equal to"),
    ):
        if wrong:
            shown = f"{_in_body(path)} should be {text} {schema[word]}"
            yield "FieldValueInvalid", path, f"Invalid value: {value}: {shown}"
    bits = {"int32": 31, "int64": 63}.get(schema.get("format", ""))
    if bits is not None and not -(2**bits) <= value < 2**bits:
        text = f"Invalid value: {value}: {_in_body(path)} must be of type {schema['format']}: {value}"
        yield "FieldValueTypeInvalid", path, text


def _logic(value: Any, schema: Object, path: str) -> Iterator[Cause]:
    for inner in schema.get("allOf", ()):
        yield from check(value, inner, path)
    for word, wanted in (("anyOf", "at least one"), ("oneOf", "one and only one")):
        if word not in schema:
            continue
        outcomes = [list(check(value, inner, path)) for inner in schema[word]]
        valid = sum(not outcome for outcome in outcomes)
        if valid == 0:
            found = ". Found none valid" if word == "oneOf" else ""
            text = f'Invalid value: "": "{path}" must validate {wanted} schema ({word}){found}'
            yield "FieldValueInvalid", "<nil>", text
            yield from min(outcomes, key=len)
        elif valid > 1 and word == "oneOf":
            text = (
                f'Invalid value: "": "{path}" must validate {wanted} schema (oneOf). Found {valid} valid alternatives'
            )
            yield "FieldValueInvalid", "<nil>", text
    if "not" in schema and not list(check(value, schema["not"], path)):
        text = f'Invalid value: "": "{path}" must not validate the schema (not)'
        yield "FieldValueInvalid", "<nil>", text


def _lists(value: Any, schema: Object, path: str) -> Iterator[Cause]:
    """Items that are there twice in a list that is a set or a map."""
    if isinstance(value, dict):
        for name, item in value.items():
            inner = schema.get("properties", {}).get(name) or schema.get("additionalProperties")
            if isinstance(inner, dict):
                yield from _lists(item, inner, _join(path, name))
    if not isinstance(value, list):
        return
    seen: list[Any] = []
    for index, item in enumerate(value):
        yield from _lists(item, schema.get("items", {}), f"{path}[{index}]")
        shown = item
        if schema.get(_LIST_TYPE) == "map" and isinstance(item, dict):
            shown = {key: item.get(key) for key in schema.get(_LIST_KEYS, ())}
        elif schema.get(_LIST_TYPE) != "set":
            continue
        if shown in seen:
            text = f"Duplicate value: {json.dumps(shown, separators=(',', ':'))}"
            yield "FieldValueDuplicate", f"{path}[{index}]", text
        seen.append(shown)


def _broken_rules(value: Any, schema: Object, path: str, before: Any) -> Iterator[Cause]:
    for rule in schema.get(_RULES, ()):
        if "oldSelf" in rule["rule"] and before is None:
            continue
        names = {"self": celpy.json_to_cel(value)}
        if before is not None:
            names["oldSelf"] = celpy.json_to_cel(before)
        try:
            holds = bool(_program(rule["rule"]).evaluate(names))
        except celpy.CELEvalError as error:
            yield "FieldValueInvalid", path or "<nil>", f"Invalid value: {error}"
            continue
        if not holds:
            said = rule.get("message") or f"failed rule: {rule['rule']}"
            yield "FieldValueInvalid", path + rule.get("fieldPath", "") or "<nil>", f"Invalid value: {said}"
    if isinstance(value, dict):
        for name, item in value.items():
            inner = schema.get("properties", {}).get(name) or schema.get("additionalProperties")
            if isinstance(inner, dict):
                old = before.get(name) if isinstance(before, dict) else None
                yield from _broken_rules(item, inner, _join(path, name), old)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _broken_rules(item, schema.get("items", {}), f"{path}[{index}]", None)


@functools.cache
def _program(rule: str) -> Any:
    environment = celpy.Environment()
    return environment.program(environment.compile(rule))
