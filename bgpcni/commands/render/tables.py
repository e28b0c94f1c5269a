"""Tables of text that fit the screen, or say what was left out.

The command line sets SCREEN. Without it a table is as wide as it needs to be, and times are as in the document.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from contextvars import ContextVar
from datetime import datetime
from typing import NamedTuple

from bgpcni.commands import Document


class Screen(NamedTuple):
    """`width`: columns of the terminal, 0: any number. `now`: times become ages, `12 s ago`."""

    width: int = 0
    now: datetime | None = None


SCREEN: ContextVar[Screen] = ContextVar("screen", default=Screen())  # noqa: B039 - a NamedTuple does not change

LEAST_NEEDED = (
    "VETH", "MAC", "ROUTE TARGETS", "FAMILIES", "ATTRIBUTES", "VNI", "IFNAME", "SENT", "RECEIVED", "NEXT HOP", "AS",
    "SINCE", "EXPORTER",
)  # fmt: skip
"""Columns that a table does without where it is too wide, in this order."""
LAST_RESORT = ("POD", "NETWORK", "FLAPS")
"""Columns that go if cutting long cells was not enough."""
SENTENCES = ("DETAIL", "REASON", "LAST ERROR", "IMPORTED", "TEXT", "ADDRESSES")
"""A last column of sentences is wrapped, and never cut."""
SUBJECTS = ("ROUTE", "ADDRESS", "PREFIX", "BLOCK", "PEER", "ADDRESSES")
"""What a row is about is cut to no fewer characters than READABLE while anything else can go."""
READABLE = 20
"""An IPv6 host route of a short prefix: `2001:db8:1:2::2/128`."""
GAP = 2
NARROWEST = 20
"""Columns that a sentence needs at least, to be wrapped."""
SHORTEST = 8
"""No cell is cut to fewer characters."""
SHORT_ID = 12
"""Characters of a container ID that are shown where there is not room for more, as Docker shows it."""


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table with aligned columns. An empty cell becomes `-`."""
    screen = SCREEN.get()
    return fitted(head, [[_cell(cell) for cell in row] for row in rows], screen.width)


def _cell(cell: object) -> str:
    return str(cell) if cell not in (None, "", []) else "-"


def fitted(head: Sequence[str], rows: list[list[str]], width: int) -> str:
    """The table in so many columns, and a line that says what was left out. `width` 0: all of it."""
    head, notes = list(head), list[str]()
    if width and _needs(head, rows) > width:
        head, rows, notes = _made_to_fit(head, rows, width)
    last = _widest(head, rows, len(head) - 1)
    if width and head[-1] in SENTENCES:
        last = max(min(last, width - (_needs(head, rows) - last)), SHORTEST)
    lines: list[str] = []
    widths = [_widest(head, rows, column) for column in range(len(head) - 1)]
    for row in (head, *rows):
        front = "".join(cell.ljust(size + GAP) for cell, size in zip(row, widths, strict=False))
        wrapped = textwrap.wrap(row[-1], last, break_on_hyphens=False) or [""]
        lines += [f"{front}{wrapped[0]}".rstrip(), *(" " * len(front) + more for more in wrapped[1:])]
    return "\n".join([*lines, *notes]) + "\n"


def _widest(head: Sequence[str], rows: Sequence[Sequence[str]], column: int) -> int:
    return max(len(row[column]) for row in (head, *rows))


def _needs(head: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    return sum(_widest(head, rows, column) for column in range(len(head))) + GAP * (len(head) - 1)


def _fits(head: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> bool:
    spare = 0
    if head[-1] in SENTENCES:
        spare = max(0, _widest(head, rows, len(head) - 1) - NARROWEST)
    return _needs(head, rows) - spare <= width


def _made_to_fit(head: list[str], rows: list[list[str]], width: int) -> tuple[list[str], list[list[str]], list[str]]:
    """Without columns that are empty, with short IDs, without what is needed least, and with long cells cut."""
    for column in reversed(range(len(head))):
        if rows and all(row[column] == "-" for row in rows) and head[column] != "STATE":
            head, rows = _without(head, rows, column)
    short = False
    if not _fits(head, rows, width) and "CONTAINER" in head:
        place = head.index("CONTAINER")
        short = any(len(row[place]) > SHORT_ID for row in rows)
        rows = [[*row[:place], row[place][:SHORT_ID], *row[place + 1 :]] for row in rows]
    left_out: list[str] = []
    head, rows = _narrowed(head, rows, width, LEAST_NEEDED, left_out)
    rows, names_cut = _cut_down(head, rows, width, READABLE)
    head, rows = _narrowed(head, rows, width, LAST_RESORT, left_out)
    rows, more_cut = _cut_down(head, rows, width, SHORTEST)
    cut = names_cut or more_cut
    notes = [f"columns {', '.join(left_out)}"] if left_out else []
    notes += ["the rest of long container IDs"] if short else []
    notes += ["the middle of long cells (…)"] if cut else []
    return head, rows, [f"(left out: {'; '.join(notes)}. --wide shows all)"] if notes else []


def _cut_down(head: Sequence[str], rows: list[list[str]], width: int, subject: int) -> tuple[list[list[str]], bool]:
    """With the longest cells cut until the table fits, and whether any was. What a row is about keeps `subject`
    characters at least."""
    if not rows or _fits(head, rows, width):
        return rows, False
    wrapped = len(head) - 1 if head[-1] in SENTENCES else None
    sizes = [max(len(row[column]) for row in rows) for column in range(len(head))]
    least = [max(len(name), subject if name in SUBJECTS else SHORTEST) for name in head]
    excess = _needs(head, rows) - width
    if wrapped is not None:
        excess -= max(0, _widest(head, rows, wrapped) - NARROWEST)
    allowed = list(sizes)
    while excess > 0:
        column = max(range(len(head)), key=lambda at: allowed[at] if at != wrapped and allowed[at] > least[at] else 0)
        if column == wrapped or allowed[column] <= least[column]:
            break
        allowed[column] -= 1
        excess -= 1
    if allowed == sizes:
        return rows, False
    return [[_cut(cell, size) for cell, size in zip(row, allowed, strict=True)] for row in rows], True


def _narrowed(
    head: list[str], rows: list[list[str]], width: int, names: Sequence[str], left_out: list[str]
) -> tuple[list[str], list[list[str]]]:
    """Without as many of these columns as it takes to fit; `left_out` gets their names."""
    for name in names:
        if name in head and len(head) > 1 and not _fits(head, rows, width):
            head, rows = _without(head, rows, head.index(name))
            left_out.append(name)
    return head, rows


def _cut(cell: str, size: int) -> str:
    """Its beginning and, longer, its end: that of an EVPN route is its address."""
    head = (size - 1) // 3
    return cell if len(cell) <= size else cell[:head] + "…" + cell[head + 1 - size :]


def _without(head: list[str], rows: list[list[str]], column: int) -> tuple[list[str], list[list[str]]]:
    return [*head[:column], *head[column + 1 :]], [[*row[:column], *row[column + 1 :]] for row in rows]


def ago(time: str) -> str:
    """`12 s ago` for a time of a document; the time itself without a screen, and where it is none."""
    age = _age(time)
    return f"{age} ago" if age else time


def since(time: str) -> str:
    """`for 12 s`, or `since` and the time itself without a screen."""
    age = _age(time)
    return f"for {age}" if age else f"since {time}"


def _age(time: str) -> str:
    now = SCREEN.get().now
    try:
        seconds = int((now - datetime.fromisoformat(time)).total_seconds()) if now is not None else -1
    except (TypeError, ValueError):
        return ""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return "" if now is None else f"{max(seconds, 0)} s"


def has_pods(rows: Sequence[Document]) -> tuple[str, ...]:
    """The head of the column of pods, where a row has one: a node without Kubernetes needs no such column."""
    return ("POD",) if any("pod" in row for row in rows) else ()


def pod_of(row: Document) -> str:
    return f"{row['pod']['namespace']}/{row['pod']['name']}" if "pod" in row else ""
