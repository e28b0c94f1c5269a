"""Operators' commands in the agent: each gets an answer, whatever happens."""

from __future__ import annotations

import json
import logging

import pytest

from bgpcni.agent import commands
from bgpcni.errors import TryAgain


class Agent:
    """An agent whose reload fails with this."""

    node = None

    def __init__(self, error: Exception) -> None:
        self._error = error

    def reload(self) -> None:
        raise self._error

    def drain(self, seconds: float) -> list[str]:
        return []


def reload(error: Exception) -> tuple[int, dict[str, object]]:
    reply = commands.reply(Agent(error), b'{"command": "reload"}')  # type: ignore[arg-type]
    return reply.code, json.loads(reply.stdout)


def test_a_refusal_is_its_message() -> None:
    assert reload(TryAgain("not now")) == (1, {"schema": 1, "error": "not now"})


def test_a_defect_is_told_too(caplog: pytest.LogCaptureFixture) -> None:
    """A defect is answered as an error, not as an agent that went away; the log has the traceback."""
    with caplog.at_level(logging.ERROR):
        code, document = reload(KeyError("x"))
    assert (code, document["error"]) == (1, "internal error: KeyError: 'x'; see the agent's log")
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("stdin", [b"", b"[]", b"{}", b'{"command": "frob"}', b'{"command": []}', b"\xff"])
def test_what_is_no_command_is_said(stdin: bytes) -> None:
    reply = commands.reply(Agent(TryAgain("")), stdin)  # type: ignore[arg-type]
    assert (reply.code, json.loads(reply.stdout)["error"]) == (2, "this agent knows no such command")


def test_an_argument_that_is_missing_is_named() -> None:
    """A client of another version is told what this agent expects, and the log has no defect."""
    reply = commands.reply(Agent(TryAgain("")), b'{"command": "explain"}')  # type: ignore[arg-type]
    assert reply.code == 2
    assert "WHAT" in json.loads(reply.stdout)["error"]
