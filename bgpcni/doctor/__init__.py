"""`bgpcni doctor`: what on this node would keep bgpcni from working.

`look` collects a snapshot of facts (`facts`) and changes nothing. Each cause (`causes`) is a pure judgement over that
snapshot: it says what is wrong, and what the operator can type against it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bgpcni.doctor.causes import CAUSES
from bgpcni.doctor.facts import Answers
from bgpcni.doctor.look import Where, look

_ORDER = ("error", "warning", "ok")


def examine(where: Where, ask: Callable[[], Answers]) -> tuple[dict[str, Any], int]:
    """The document of `bgpcni doctor`, errors first; exit 1 if there is one. It never raises."""
    seen = look(where, ask)
    findings = [finding._asdict() for cause in CAUSES for finding in cause.findings(seen)]
    findings.sort(key=lambda finding: _ORDER.index(finding["level"]))
    return {"schema": 1, "findings": findings}, 1 if findings[0]["level"] == "error" else 0
