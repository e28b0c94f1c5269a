"""Logging of the agent: one line an event on stderr, for people and journald or as JSON."""

from __future__ import annotations

import logging
import sys

import structlog


def configure(*, as_json: bool) -> None:
    """Route everything that modules log through one handler on stderr. Times are RFC 3339 in UTC."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer(sort_keys=True) if as_json else _plain
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            renderer,
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    logging.getLogger("pyroute2").setLevel(logging.WARNING)


def _plain(_: object, __: str, event: structlog.typing.EventDict) -> str:
    """`2026-01-31T12:00:00.1Z warning bgpcni.agent.worker: text`; a traceback is folded into the one line."""
    text = f"{event['timestamp']} {event['level']} {event['logger']}: {event['event']}"
    if trace := event.get("exception"):
        text += " | " + str(trace).replace("\n", " | ")
    return text
