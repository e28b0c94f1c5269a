"""Waits for events by polling, with a bound, and never with a fixed sleep."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from bgpcni.testing.patience import SCALE

Value = TypeVar("Value")


class NeverHappened(AssertionError):
    """The expected event did not happen within its bound."""


def until(predicate: Callable[[], Value], what: str, seconds: float = 30, step: float = 0.015) -> Value:
    """Call `predicate` every `step` seconds until its value is true; that value.

    An exception counts as "not yet". After `seconds` times `SCALE`: `NeverHappened`, which names `what` and what was
    seen last.
    """
    seconds *= SCALE
    end = time.monotonic() + seconds
    while True:
        seen: object
        try:
            if value := predicate():
                return value
            seen, cause = value, None
        except Exception as error:  # noqa: BLE001 - whatever it is, it is reported if it stays
            seen, cause = error, error
        if time.monotonic() > end:
            raise NeverHappened(f"not within {seconds:g} s: {what}; seen last: {seen!r:.2000}") from cause
        time.sleep(step)
