"""Logging of the agent: one line for each event on stderr, for people and journald, or as a JSON object.

Modules log with the standard library and give what an event is about as `extra`: `network`, `container`, `ifname`,
`exporter`, `peer`, `link`. The text names these in its sentence; JSON also has each as a field of its own.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has; the rest are the fields that the module gave."""


def configure(*, as_json: bool) -> None:
    """Send everything that modules log through one handler on stderr. Times are RFC 3339 in UTC."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Json() if as_json else Text())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    for library in ("pyroute2", "httpx", "httpx2"):
        logging.getLogger(library).setLevel(logging.WARNING)


class Text(logging.Formatter):
    """`2026-01-31T12:00:00.123456Z warning bgpcni.agent.worker: text`; a traceback is folded into the same line."""

    def format(self, record: logging.LogRecord) -> str:
        text = f"{_time(record)} {record.levelname.lower()} {record.name}: {record.getMessage()}"
        if record.exc_info:
            text += " | " + self.formatException(record.exc_info)
        return text.replace("\n", " | ")


class Json(logging.Formatter):
    """One object: `timestamp`, `level`, `logger`, `event` (the text), `exception` (a traceback), and the fields."""

    def format(self, record: logging.LogRecord) -> str:
        event = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        event |= {"timestamp": _time(record), "level": record.levelname.lower(), "logger": record.name}
        event["event"] = record.getMessage()
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event, sort_keys=True, default=str)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
