"""Lists of texts as people write them. Pure."""

from __future__ import annotations

from typing import Any


def texts(value: Any) -> Any:
    """A string, a string with commas, or a list: the configuration of the article has all three."""
    if value is None:
        return ()
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value
