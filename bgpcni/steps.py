"""Measures how long each step of a call takes, for the metrics and the benchmark. Without an observer it costs nothing.

A step is marked at its function, so that the transaction does not mention it.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
Observer = Callable[[str, float], None]

_observer: Observer | None = None


def observe(observer: Observer | None) -> None:
    """From now on call `observer(step, seconds)` for every step, in the thread that has taken it."""
    global _observer
    _observer = observer


def step(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Mark a function as the step `name`."""

    def mark(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def timed(*args: P.args, **kwargs: P.kwargs) -> R:
            observer = _observer
            if observer is None:
                return function(*args, **kwargs)
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                observer(name, time.perf_counter() - began)

        return timed

    return mark
