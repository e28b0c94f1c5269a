"""How long a test waits for what should happen at once, and the waiting.

Bounds are written as a quiet machine needs them; each is multiplied by `SCALE`, so that a busy or slow machine keeps
them too. A bound costs time only where a test fails.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

SCALE = float(os.environ.get("BGPCNI_TEST_SCALE", "10"))
"""How many times slower than a quiet machine this one may be."""

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
