"""Time: as people read it, and as durations are measured."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def now() -> str:
    """RFC 3339 in UTC, milliseconds: `2026-01-31T12:00:00.123Z`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def monotonic() -> float:
    """Seconds that never go back, since some moment in the past. One place, so that a simulation can have its own."""
    return time.monotonic()
