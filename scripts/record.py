#!/usr/bin/env python3
"""Draws a part of a tutorial as a terminal, from what its commands print when they are run (as root).

usage: scripts/record.py PAGE.md FIRST LAST OUT.svg
FIRST, LAST: the lines of the page between which commands are shown.
"""

from __future__ import annotations

import sys
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from integration.lab import Lab  # noqa: E402
from integration.tutorials import Reader, reading  # noqa: E402

COLUMNS, LINE, LETTER = 112, 18, 7.7
STYLE = """rect { fill: #10181d }
text { fill: #c3ced4; font: 13px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; white-space: pre }
.typed { fill: #fff; font-weight: bold }"""


def session(page: str, first: int, last: int) -> list[tuple[bool, str]]:
    """The lines on the terminal, and for each whether it was typed."""
    lines: list[tuple[bool, str]] = []
    lab = Lab()
    try:
        machine = reading(lab, lab.folder / "machine")
        reader = Reader(machine)
        for step, output in reader.follow(page):
            if first <= step.line <= last:
                typed = step.text.splitlines()
                lines += [(True, f"{'#' if not number else '>'} {line}") for number, line in enumerate(typed)]
                lines += [(False, line) for line in output.splitlines()]
        reader.close()
        machine.close()
    finally:
        lab.close()
    return lines


def draw(lines: list[tuple[bool, str]]) -> str:
    """An SVG with these lines. Longer ones are cut."""
    body = []
    for number, (typed, line) in enumerate(lines, 1):
        line = line.expandtabs()
        line = line if len(line) <= COLUMNS else line[: COLUMNS - 1] + "…"
        style = ' class="typed"' if typed else ""
        body.append(f'<text x="14" y="{number * LINE + 6}"{style}>{escape(line)}</text>')
    width, height = round(COLUMNS * LETTER) + 28, len(lines) * LINE + 20
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"'
    return "\n".join([
        f'{head} aria-label="A recorded terminal session">', f"<style>{STYLE}</style>",
        f'<rect width="{width}" height="{height}" rx="8"/>', *body, "</svg>", "",
    ])  # fmt: skip


def main() -> None:
    page, first, last, out = sys.argv[1:]
    Path(out).write_text(draw(session(Path(page).read_text(), int(first), int(last))))


if __name__ == "__main__":
    main()
