"""The agent's dispatcher of operators' commands: one JSON object in, the answer of `commands` out."""

from __future__ import annotations

import json
import logging
from typing import Any

import click

from bgpcni.commands import answers
from bgpcni.commands.table import COMMANDS
from bgpcni.errors import CniError
from bgpcni.handler import Reply

log = logging.getLogger(__name__)


def reply(agent: answers.Resident, stdin: bytes, *, read_only: bool = False) -> Reply:
    """Answer `{"command": NAME, …arguments}`. Whatever goes wrong, the operator gets a document that says so.

    `read_only`: a command that can change something is refused.
    """
    try:
        asked = json.loads(stdin)
        command = COMMANDS[asked["command"]]
    except (ValueError, KeyError, TypeError):
        return _reply(answers.failure("this agent knows no such command"), 2)
    if read_only and not command.reads:
        return _reply(answers.failure(f"{command.name} is not answered on this socket: it changes something"), 2)
    try:
        log.debug("operator: %s", asked)
        arguments = command.arguments(asked)
        return _reply(*command.answer(agent if command.needs_agent else agent.node, arguments))
    except click.UsageError as error:
        return _reply(answers.failure(error.format_message()), 2)
    except CniError as error:
        return _reply(answers.failure(error.msg), 1)
    except Exception as error:  # without an answer the operator would believe that the agent had gone
        log.exception("bgpcni %s failed because of a defect", command.name)
        return _reply(answers.failure(f"internal error: {type(error).__name__}: {error}; see the agent's log"), 1)


def _reply(document: dict[str, Any], code: int) -> Reply:
    return Reply(code, json.dumps(document).encode())
