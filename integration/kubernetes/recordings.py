"""Recorded requests and answers of a real API server (`recordings/*.http`, their notation is in the README there): read
into cases, and compared with what another server answers.

Compared are the status, the headers that a client acts on, and the shape of the body: every key, every value that is
not by chance (identifiers, revisions, times).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("recordings")
MORE = "…"
"""What was cut."""
_HEADER = re.compile(r"([A-Z][A-Za-z0-9-]*): (.*)")
_CHANCE = {
    "uid", "resourceVersion", "creationTimestamp", "deletionTimestamp", "time", "continue", "storageVersionHash",
    "serverAddress", "token", "expirationTimestamp", "description", "gitVersion",
}  # fmt: skip
"""Keys whose values are of one kind, and any of it."""
_CUT = {"uid", "creationTimestamp", "managedFields", "status", "generation", "daemonEndpoints"}
"""Keys that the recordings leave out of an object from the second one on."""
_KINDS = {"ConfigMap", "Node", "Pod", "Widget", "Event", "Lease", "Namespace"}
_RUN = re.compile(r"[0-9A-F]{128}|[0-9a-f]{8}-[0-9a-f-]{27}|\d{4}-\d\d-\d\dT[\d:]+Z|\d+[smhd]\b|\d+")


@dataclass(slots=True)
class Exchange:
    """One request and its answer. `meanwhile`: the requests made while the answer came, as `METHOD path`."""

    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    remarks: list[str] = field(default_factory=list)
    status: int = 0
    answer_headers: list[tuple[str, str]] = field(default_factory=list)
    answer: str = ""

    @property
    def meanwhile(self) -> list[str]:
        return [text.partition("meanwhile ")[2] for text in self.remarks if "meanwhile " in text]

    @property
    def watches(self) -> bool:
        return self.answer.startswith('{"type"') or "\n673" in f"\n{self.answer}"

    def events(self) -> list[dict[str, Any]]:
        """The lines of a watch."""
        parts = re.split(r'\n(?=\{"type")', self.answer)
        return [json.loads(part) for part in parts if part]


@dataclass(slots=True)
class Case:
    """One numbered case of a file. `command`, `typed`, `printed`: kubectl's."""

    file: str
    number: int
    title: str
    exchanges: list[Exchange] = field(default_factory=list)
    command: str = ""
    typed: str = ""
    printed: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.file}-{self.number}"


def read(file: str) -> list[Case]:
    """All cases of a file, in order."""
    cases: list[Case] = []
    for line in (FOLDER / f"{file}.http").read_text().splitlines():
        if match := re.fullmatch(r"### (\d+)\. (.*)", line):
            cases.append(Case(file, int(match[1]), match[2]))
        elif cases:
            _take(cases[-1], line)
    return cases


def _take(case: Case, line: str) -> None:
    mark, text = line[:2], line[2:]
    exchange = case.exchanges[-1] if case.exchanges else None
    if mark == "> ":
        started = re.fullmatch(r"(GET|POST|PUT|PATCH|DELETE) (\S+)(?:\s+# .*)?", text)
        if started:
            path = started[2].replace("…/widgets", "/apis/example.dev/v1/namespaces/default/widgets")
            case.exchanges.append(Exchange(started[1], path))
        elif exchange is not None and not exchange.body and (header := _HEADER.fullmatch(text)):
            exchange.headers[header[1]] = header[2]
        elif exchange is not None:
            exchange.body += f"{text}\n"
    elif mark == "< " and exchange is not None:
        if status := re.fullmatch(r"HTTP/1.1 (\d+).*", text):
            exchange.status = int(status[1])
        elif not exchange.answer and (header := _HEADER.fullmatch(text)):
            exchange.answer_headers.append((header[1], header[2]))
        else:
            exchange.answer += f"{text}\n"
    elif mark == "# ":
        (exchange.remarks if exchange is not None else case.remarks).append(text)
    elif mark == "$ ":
        case.command = text
    elif mark == "| ":
        case.typed += f"{text}\n"
    elif mark in ("= ", "! "):
        case.printed.append(text)


# ---------------------------------------------------------------- comparing


class Different(AssertionError):
    """The answer is not of the recorded shape; the message says where."""


Bound = dict[str, str]
"""Recorded revisions, identifiers and tokens, and what they are here; each comparison adds to it."""


def compare(recorded: Any, found: Any, bound: Bound, where: str = "", *, loose: bool = False) -> None:
    """Raises Different. `loose`: objects may have more than was recorded."""
    if isinstance(recorded, dict):
        _compare_objects(recorded, found, bound, where, loose)
    elif isinstance(recorded, list):
        _compare_lists(recorded, found, bound, where)
    elif isinstance(recorded, str):
        _compare_texts(recorded, found, where)
    elif recorded != found and not (type(recorded) is type(found) is int and where.endswith("remainingItemCount")):
        raise Different(f"{where}: {found!r} instead of {recorded!r}")


def _compare_objects(recorded: dict[str, Any], found: Any, bound: Bound, where: str, loose: bool) -> None:
    if not isinstance(found, dict):
        raise Different(f"{where}: {found!r} instead of an object")
    wanted = dict(recorded)
    short = wanted.pop(MORE, None)
    more = loose or short is not None
    if short == "Failure":
        wanted = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"} | wanted
        more = False
    elif short in _KINDS:
        compare(short, found.get("kind"), bound, f"{where}.kind")
        wanted.setdefault("kind", short)
        wanted.setdefault("apiVersion", found.get("apiVersion"))
        more = False
    for name, value in wanted.items():
        if name == "managedFields" and value == [MORE]:
            continue
        if name not in found:
            raise Different(f"{where}.{name} is missing; there are {sorted(found)}")
        if (name in _CHANCE or (name == "name" and "generateName" in wanted)) and isinstance(value, str):
            if not isinstance(found[name], str):
                raise Different(f"{where}.{name}: {found[name]!r} is no text")
            if name in ("resourceVersion", "uid", "continue") and bound.setdefault(value, found[name]) != found[name]:
                raise Different(f"{where}.{name}: {found[name]} is another one than before, {bound[value]}")
        elif name == "causes":
            _compare_causes(value, found[name], bound, f"{where}.{name}")
        else:
            compare(value, found[name], bound, f"{where}.{name}", loose=more)
    cut = set() if "reason" in wanted and where in ("", ".details") else _CUT
    unknown = set() if more else found.keys() - wanted.keys() - cut
    if unknown:
        raise Different(f"{where}: {sorted(unknown)} besides {sorted(wanted)}")


def _compare_causes(recorded: list[Any], found: Any, bound: Bound, where: str) -> None:
    """Their messages are cut: they are in the message of the whole."""
    without = [{name: value for name, value in item.items() if name != "message"} for item in recorded]
    compare([{MORE: ""} | item for item in without], found, bound, where)


def _compare_lists(recorded: list[Any], found: Any, bound: Bound, where: str) -> None:
    if not isinstance(found, list):
        raise Different(f"{where}: {found!r} instead of a list")
    known = [item for item in recorded if not (isinstance(item, str) and re.match(rf"{MORE}", item))]
    open_end = len(known) < len(recorded)
    if len(found) < len(known) or (len(found) != len(known) and not open_end):
        raise Different(f"{where}: {len(found)} items instead of {len(known)}: {_names(found)}")
    if open_end:  # which others there are depends on what the server has besides
        found = [_like(item, found, bound, where) for item in known]
    for index, (item, other) in enumerate(zip(known, found, strict=False)):
        if isinstance(item, str) and item.endswith(f"{MORE} ") and isinstance(other, dict):
            metadata = other["metadata"]
            name = "/".join(filter(None, (metadata.get("namespace"), metadata["name"])))
            compare(item.removesuffix(f" {MORE} "), name, bound, f"{where}[{index}]")
        else:
            compare(item, other, bound, f"{where}[{index}]")


def _like(item: Any, found: list[Any], bound: Bound, where: str) -> Any:
    reasons = []
    for other in found:
        try:
            compare(item, other, dict(bound), where)
        except Different as reason:
            reasons.append(str(reason))
        else:
            return other
    raise Different(f"{where}: nothing like {json.dumps(item, ensure_ascii=False)[:300]}; {reasons[:3]}")


def _names(found: list[Any]) -> list[Any]:
    return [item.get("metadata", {}).get("name") if isinstance(item, dict) else item for item in found][:10]


def _compare_texts(recorded: str, found: Any, where: str) -> None:
    if recorded == MORE:
        return
    if not isinstance(found, str):
        raise Different(f"{where}: {found!r} instead of {recorded!r}")
    if recorded == found:
        return
    pattern = ".*".join(_pattern(part.strip()) for part in recorded.split(MORE))
    if not re.fullmatch(pattern, found.strip(), re.S):
        raise Different(f"{where}: {found!r} instead of {recorded!r}")


def _pattern(text: str) -> str:
    """Numbers and times of the same kind match."""
    parts, place = [], 0
    for match in _RUN.finditer(text):
        parts.append(re.escape(text[place : match.start()]))
        word = match[0]
        if len(word) == 128:
            parts.append("[0-9A-F]{128}")
        elif "T" in word:
            parts.append(r"\d{4}-\d\d-\d\dT[\d:]+Z")
        elif len(word) == 36:
            parts.append("[0-9a-f-]{36}")
        elif word[-1] in "smhd" and word[:-1].isdigit():
            parts.append(r"\d+[smhd]\d*[smhd]?")
        elif len(word) >= 3:
            parts.append(r"\d+")
        else:
            parts.append(re.escape(word))
        place = match.end()
    return "".join(parts) + re.escape(text[place:])
