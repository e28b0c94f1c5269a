"""Tables of text."""

from __future__ import annotations

from collections.abc import Sequence

from bgpcni.commands import Document


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table with aligned columns. An empty cell becomes `-`."""
    cells = [list(head), *([str(cell) if cell not in (None, "", []) else "-" for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join(lines) + "\n"


def has_pods(rows: Sequence[Document]) -> tuple[str, ...]:
    """The head of the column of pods, where a row has one: a node without Kubernetes needs no such column."""
    return ("POD",) if any("pod" in row for row in rows) else ()


def pod_of(row: Document) -> str:
    return f"{row['pod']['namespace']}/{row['pod']['name']}" if "pod" in row else ""
