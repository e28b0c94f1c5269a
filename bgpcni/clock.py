"""The time of day, for people, and a monotonic clock, for durations."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def now() -> str:
    """The time of day as RFC 3339, in UTC with milliseconds: `2026-01-31T12:00:00.123Z`."""
    return text(datetime.now(UTC))


def text(moment: datetime) -> str:
    """A moment in that form."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def monotonic() -> float:
    """Seconds since some moment in the past; they never go back. A simulation replaces this function."""
    return time.monotonic()
