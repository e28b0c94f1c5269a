"""Operators' commands as the agent gets them: one JSON object in, one out."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from bgpcni.errors import CniError
from bgpcni.handler import Reply
from bgpcni.node.node import Node
from bgpcni.operator import answers
from bgpcni.operator.answers import Document

log = logging.getLogger(__name__)
DRAIN_SECONDS = 30.0


class Commanded(Protocol):
    """What a command works on: the agent."""

    node: Node

    def reload(self) -> None:
        """Raises CniError, and then nothing has changed."""

    def drain(self, seconds: float) -> list[str]:
        """The exporters that are late."""
        ...


def reply(agent: Commanded, stdin: bytes) -> Reply:
    """Answer `{"command": NAME, …arguments}`."""
    try:
        asked = json.loads(stdin)
        verb = _VERBS[asked["command"]]
    except (ValueError, KeyError, TypeError):
        return _reply(answers.failure("not a command of this agent"), 2)
    try:
        document, code = verb(agent, asked)
    except CniError as error:
        return _reply(answers.failure(error.msg), 1)
    except Exception as error:  # whatever went wrong, the operator is told, and not that the agent is away
        log.exception("bgpcni %s failed in a way that should not happen", asked["command"])
        return _reply(answers.failure(f"internal error: {type(error).__name__}: {error}; see the agent's log"), 1)
    return _reply(document, code)


def _reply(document: Document, code: int) -> Reply:
    return Reply(code, json.dumps(document).encode())


def _drain(agent: Commanded) -> tuple[Document, int]:
    late = agent.drain(DRAIN_SECONDS)
    return {"schema": 1, "drained": not late, "late": late}, 1 if late else 0


def _reload(agent: Commanded) -> tuple[Document, int]:
    agent.reload()
    return {"schema": 1, "reloaded": True}, 0


_VERBS: dict[str, Callable[[Commanded, Mapping[str, Any]], tuple[Document, int]]] = {
    "status": lambda agent, asked: answers.status(agent.node),
    "attachments": lambda agent, asked: answers.attachments(agent.node),
    "routes": lambda agent, asked: answers.routes(agent.node),
    "received": lambda agent, asked: answers.received(agent.node),
    "peers": lambda agent, asked: answers.peers(agent.node),
    "explain": lambda agent, asked: answers.explain(agent.node, str(asked.get("what", ""))),
    "sync": lambda agent, asked: answers.sync(agent.node),
    "release": lambda agent, asked: answers.release(
        agent.node, str(asked.get("id", "")), force=bool(asked.get("force"))
    ),
    "drain": lambda agent, asked: _drain(agent),
    "reload": lambda agent, asked: _reload(agent),
}
