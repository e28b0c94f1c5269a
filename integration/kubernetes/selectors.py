"""labelSelector and fieldSelector of a request. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from integration.kubernetes.failures import bad_request
from integration.kubernetes.kinds import NAMES, Kind, Object

_Test = Callable[[Object], bool]
_WORD = re.compile(r"\s*([A-Za-z0-9_./-]+|==|!=|[=!<>(),])")


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects a request is about."""

    tests: tuple[_Test, ...] = ()

    @property
    def is_all(self) -> bool:
        return not self.tests

    def takes(self, item: Object) -> bool:
        return all(test(item) for test in self.tests)


def selection(kind: Kind, labels: str, fields: str) -> Selection:
    """Raises Failure for what cannot be parsed, and for fields that this kind does not index."""
    return Selection((*_labels(labels), *_fields(kind, fields)))


def _fields(kind: Kind, text: str) -> list[_Test]:
    tests = []
    for term in filter(None, text.split(",")):
        match = re.fullmatch(r"([^=!]+)(==|=|!=)(.*)", term)
        if not match:
            raise bad_request(f"invalid selector: '{text}'; can't understand '{term}'")
        path, operator, value = match.groups()
        if path not in (*NAMES, *kind.selectable):
            raise bad_request(f"field label not supported: {path}")
        tests.append(_field(path, value, operator != "!="))
    return tests


def _field(path: str, value: str, equal: bool) -> _Test:
    return lambda item: (_shown(look(item, path)) == value) is equal


def look(item: Any, path: str) -> Any:
    """What is at `a.b.c`, None where there is nothing."""
    for name in path.split("."):
        item = item.get(name) if isinstance(item, dict) else None
    return item


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _labels(text: str) -> list[_Test]:
    words, place = [], 0
    while place < len(text.rstrip()):
        match = _WORD.match(text, place)
        if not match:
            raise bad_request(f"unable to parse requirement: found '{text[place]}', expected: identifier")
        words.append(match[1])
        place = match.end()
    tests = []
    while words:
        tests.append(_requirement(words))
        if words and words.pop(0) != ",":
            raise bad_request("unable to parse requirement: expected: ',' or 'end of string'")
    return tests


def _requirement(words: list[str]) -> _Test:
    if words[0] == "!":
        words.pop(0)
        absent = words.pop(0)
        return lambda item: absent not in _of(item)
    key = words.pop(0)
    if not words or words[0] == ",":
        return lambda item: key in _of(item)
    operator = words.pop(0)
    if operator in ("=", "==", "!="):
        value = words.pop(0) if words and words[0] != "," else ""
        return lambda item: (_of(item).get(key) == value) is (operator != "!=")
    if operator in ("in", "notin") and words and words[0] == "(":
        inside = words[1 : words.index(")")]
        del words[: words.index(")") + 1]
        values = [word for word in inside if word != ","]
        return lambda item: (_of(item).get(key) in values) is (operator == "in")
    expected = "in, notin, =, ==, !=, gt, lt"
    raise bad_request(f"unable to parse requirement: found '{operator}', expected: {expected}")


def _of(item: Object) -> Object:
    return dict(item["metadata"].get("labels") or {})
