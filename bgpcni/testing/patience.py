"""How long a test waits for what should happen at once, and the waiting.

Each bound fits a machine without other load. It is multiplied by `SCALE`, so that a busy or slow machine meets it, too.
A bound costs time only if the test fails.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

SCALE = float(os.environ.get("BGPCNI_TEST_SCALE", "10"))
"""How many times slower this machine may be than one without other load."""

SECONDS = 30 * SCALE
"""The bound of a single wait."""


def until(seen: Callable[[], object]) -> None:
    """Look every 5 ms until it is so. Raises AssertionError after SECONDS."""
    pause = threading.Event()
    for _ in range(int(SECONDS / 0.005)):
        if seen():
            return
        pause.wait(0.005)
    raise AssertionError("it never came")
