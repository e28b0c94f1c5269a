"""What happened, line by line, for who has to understand a seed that failed."""

from __future__ import annotations

import threading
import time
from collections import Counter


class History:
    """Safe for threads. `text` is the whole; `calls` counts what was called and what it gave."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.wrong: list[str] = []
        """Contradictions that were seen while the round ran."""
        self.calls: Counter[str] = Counter()
        self._lines: list[str] = []
        self._begun = time.monotonic()
        self._lock = threading.Lock()

    def add(self, who: str, what: str) -> None:
        with self._lock:
            self._lines.append(f"{time.monotonic() - self._begun:9.3f} {who:10} {what}")

    def called(self, what: str) -> None:
        with self._lock:
            self.calls[what] += 1

    def contradiction(self, who: str, what: str) -> None:
        """Note something that must never be the case, not even for a moment."""
        self.add(who, f"WRONG: {what}")
        with self._lock:
            self.wrong.append(f"{who}: {what}")

    def text(self) -> str:
        with self._lock:
            return "\n".join(self._lines)
