"""How text reaches the terminal: as wide as that is, in colours where it has some, without control characters."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import click

from bgpcni.commands.render.tables import SCREEN, Screen

NARROWEST, USUAL = 40, 80
_GOOD = "Established|announced|up|ok|healthy|yes|best"
_BAD = "refused|gone|missing|unreadable|failed|late|no|not healthy|Idle|error"
_WAITING = "wanted|withdrawing|leaving|adding|held|Active|Connect|OpenSent|OpenConfirm|starting|warning"
_STATES = (("green", _GOOD), ("red", _BAD), ("yellow", _WAITING))
_WORDS = "|".join(words for _, words in _STATES)
_CELL = re.compile(rf"(?:(?<=  )|(?<=: )|(?<=\bis )|^)({_WORDS})(?=  |,|;|:| since| for|$)", re.MULTILINE)
_COLOUR = {word: colour for colour, words in _STATES for word in words.split("|")}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


@contextmanager
def used(*, wide: bool) -> Iterator[None]:
    """Within this, text is for this terminal. `wide`: tables need not fit it."""
    token = SCREEN.set(Screen(0 if wide else _width(), datetime.now(UTC)))
    try:
        yield
    finally:
        SCREEN.reset(token)


def _width() -> int:
    """That of the terminal, or of $COLUMNS; without either 80."""
    return max(NARROWEST, shutil.get_terminal_size((USUAL, 24)).columns)


def again() -> None:
    """Begin a new picture on a terminal."""
    if sys.stdout.isatty():
        click.clear()


def show(text: str) -> None:
    text = clean(text)
    click.echo(coloured(text) if has_colours() else text, nl=False)


def has_colours() -> bool:
    """On a terminal, unless $NO_COLOR (https://no-color.org) is set to anything, or the terminal is dumb."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def clean(text: str) -> str:
    """What a name contains must not move the cursor, or turn the text round: such characters are shown as `\\x1b`."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def coloured(text: str) -> str:
    """Words that are the whole of a cell, or what something is, in the colour of what they mean."""
    return _CELL.sub(lambda found: click.style(found[0], fg=_COLOUR[found[0]]), text)
