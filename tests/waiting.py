"""Waiting for what another thread does: bounded, by looking."""

from __future__ import annotations

import threading
from collections.abc import Callable

from bgpcni.testing.patience import SECONDS


def until(seen: Callable[[], object]) -> None:
    """Look every 5 ms until it is so. Raises AssertionError after SECONDS."""
    pause = threading.Event()
    for _ in range(int(SECONDS / 0.005)):
        if seen():
            return
        pause.wait(0.005)
    raise AssertionError("it never came")
