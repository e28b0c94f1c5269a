"""Time as people read it."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from bgpcni import clock


def test_now_is_rfc_3339_in_utc() -> None:
    """Milliseconds and a Z, also on a whole second."""
    before = datetime.now(UTC).replace(microsecond=0)
    text = clock.now()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)
    assert before <= datetime.fromisoformat(text) <= datetime.now(UTC)
