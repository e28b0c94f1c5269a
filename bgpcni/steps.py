"""Measures how long each step of a call takes, for metrics, traces and tests. Without an observer it costs nothing.

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

_observers: tuple[Observer, ...] = ()


def observe(observer: Observer) -> None:
    """From now on call `observer(step, seconds)` as well for every step, in the thread that has taken it."""
    global _observers
    _observers = (*_observers, observer)


def step(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Mark a function as the step `name`."""

    def mark(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def timed(*args: P.args, **kwargs: P.kwargs) -> R:
            observers = _observers
            if not observers:
                return function(*args, **kwargs)
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                seconds = time.perf_counter() - began
                for observer in observers:
                    observer(name, seconds)

        return timed

    return mark
