"""Reads the conformance table: `tests/conformance.txt`, one row a line, and says whether an answer is what a row wants.

Pure; what the words of the table mean in a kernel is `test_conformance`'s. `python -m integration.conformance`
aligns the columns after an edit.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

TABLE = Path(__file__).parents[1] / "tests/conformance.txt"
_NO_VERSION = "-"
_WIDE = 50


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table, its cells as text; `number` is the line's."""

    command: str
    version: str
    before: str
    environment: str
    configuration: str
    code: str
    left: str
    says: str
    where: str
    stock: str
    number: int = 0

    def __str__(self) -> str:
        return f"{self.number}: {self.command} {self.version} {self.before} {self.environment} {self.configuration}"

    @property
    def steps(self) -> list[str]:
        """What is done before the call."""
        return [] if self.before == "-" else self.before.split("+")

    def stdin(self, base: Mapping[str, Any], prev_result: object = None) -> str:
        """The configuration: `base` with version, prevResult and the row's merge patch (RFC 7396) on top."""
        if self.configuration.startswith("stdin:"):
            return self.configuration.removeprefix("stdin:")
        document = dict(base) | ({} if self.version == _NO_VERSION else {"cniVersion": self.version})
        if prev_result is not None:
            document["prevResult"] = prev_result
        return json.dumps(document if self.configuration == "-" else merge(document, json.loads(self.configuration)))

    def variables(self, base: Mapping[str, str], words: Mapping[str, str]) -> dict[str, str]:
        """CNI's variables: `base`, without those the row takes away, with those it sets. `words`: for `{word}`."""
        found = dict(base)
        for item in [] if self.environment == "-" else self.environment.split():
            if item.startswith("-"):
                del found[item[1:]]
                continue
            name, _, value = item.partition("=")
            for word, text in words.items():
                value = value.replace(f"{{{word}}}", text)
            found[name] = value
        return found

    def stock_code(self) -> int | None:
        """The error code of the stock bridge plugin (0: success), None where the row is not for it."""
        if self.stock == "-":
            return None
        return int(self.code if self.stock == "=" else self.stock.split()[0])

    def wrong(self, code: int, document: Mapping[str, Any], *, words: bool = True) -> str:
        """What is not as the row has it, "" if all is. `code` 0: success. `words`: compare messages, too."""
        wanted = int(self.code)
        if code != wanted:
            return f"code {code}, not {wanted}: {document}"
        if wanted:
            return self._wrong_error(document, words=words)
        if self.says in ("", "-"):
            return f"stdout is not empty: {document}" if document else ""
        return "; ".join(_wrong_path(document, item) for item in self.says.split(", ") if _wrong_path(document, item))

    def _wrong_error(self, document: Mapping[str, Any], *, words: bool) -> str:
        """Of errors: `code`, `msg` and `cniVersion`, the configuration's if it is one that is spoken."""
        if not isinstance(document.get("msg"), str) or not document["msg"]:
            return f"no msg: {document}"
        if words and self.says not in document["msg"]:
            return f"msg is {document['msg']!r}, without {self.says!r}"
        return ""


def merge(target: object, patch: object) -> object:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return {key: (None if value == "null" else value) for key, value in result.items()}


def _wrong_path(document: object, item: str) -> str:
    """`a.0.b` is there, `!a` is not, `a=glob` matches."""
    path, equals, pattern = item.removeprefix("!").partition("=")
    found: Any = document
    for part in path.split("."):
        if isinstance(found, dict) and part in found:
            found = found[part]
        elif isinstance(found, list) and part.isdigit() and int(part) < len(found):
            found = found[int(part)]
        else:
            return "" if item.startswith("!") else f"{path} is missing in {document}"
    if item.startswith("!"):
        return f"{path} is there: {found!r}"
    return "" if not equals or fnmatch.fnmatchcase(str(found), pattern) else f"{path} is {found!r}, not {pattern}"


_COLUMNS = [field.name for field in fields(Row)][:-1]


def rows() -> list[Row]:
    """All rows, in order."""
    return list(_parse(TABLE.read_text(encoding="utf-8").splitlines()))


def _parse(lines: list[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if not line or line.startswith("#"):
            continue
        cells = [cell.strip() for cell in line.split(" | ")]
        if len(cells) != len(_COLUMNS):
            raise ValueError(f"line {number}: {len(cells)} columns, not {len(_COLUMNS)}")
        if cells != _COLUMNS:
            yield Row(**dict(zip(_COLUMNS, cells, strict=True)), number=number)


def aligned(text: str) -> str:
    """The table with its columns aligned, each block between blank lines and comments by itself."""
    lines = text.splitlines()
    block: list[list[str]] = []
    done: list[str] = []

    def flush() -> None:
        widths = [min(_WIDE, max(len(cells[i]) for cells in block)) for i in range(len(_COLUMNS))] if block else []
        for cells in block:
            text, column = "", 0
            for cell, width in zip(cells, widths, strict=True):
                text = f"{text}{cell} ".ljust(column + width) + "| "
                column += width + 3
            done.append(text.rstrip("| "))
        block.clear()

    for line in lines:
        if line and not line.startswith("#"):
            block.append([cell.strip() for cell in line.split(" | ")])
        else:
            flush()
            done.append(line)
    flush()
    return "\n".join(done) + "\n"


if __name__ == "__main__":
    TABLE.write_text(aligned(TABLE.read_text(encoding="utf-8")), encoding="utf-8")
