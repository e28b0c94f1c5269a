"""The table of commands: what it promises of each command is there."""

from __future__ import annotations

import inspect

import click
import pytest
from click.testing import CliRunner

from bgpcni.commands import answers, render
from bgpcni.commands.table import COMMANDS, Moment, OperatorCommand
from bgpcni.operator.cli import main

FIXED = ["status", "attachments", "routes", "peers", "explain", "reload", "drain", "sync", "release"]
"""The commands that other people's scripts rely on."""


def test_the_commands_that_scripts_rely_on_are_there() -> None:
    assert set(FIXED) <= set(COMMANDS)


@pytest.mark.parametrize("command", [row for row in COMMANDS.values() if row.on_command_line], ids=lambda row: row.name)
def test_every_command_has_an_answer_a_text_and_a_line_of_help(command: OperatorCommand) -> None:
    """The answer takes exactly the parameters of the row, so that no command fails only when it is typed."""
    subject, *rest = inspect.signature(getattr(answers, command.function)).parameters
    assert subject == ("agent" if command.needs_agent else "node")
    assert rest == [parameter.name for parameter in command.parameters]
    assert callable(getattr(render, command.function))
    shown = CliRunner().invoke(main, [*command.name.split(), "--help"])
    assert shown.exit_code == 0
    assert command.help.split()[0] in shown.output
    assert "--json" in shown.output
    assert "--socket" in shown.output


def test_a_flag_that_was_not_sent_is_off() -> None:
    assert COMMANDS["release"].arguments({"container_id": "c1"}) == {"container_id": "c1", "force": False}


def test_an_option_that_was_not_sent_has_its_default() -> None:
    """An earlier release of the command asks the agent, or nobody gave the option."""
    assert COMMANDS["events"].arguments({"since": None}) == {
        "since": None, "no_follow": False, "after": 0, "run": "", "wait": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "understood"),
    [
        ("2026-01-31T13:00:00+01:00", "2026-01-31T12:00:00.000Z"),
        ("2026-01-31T12:00:00.123Z", "2026-01-31T12:00:00.123Z"),
    ],
)
def test_a_time_is_understood_in_every_zone_and_twice(asked: str, understood: str) -> None:
    assert Moment()(asked) == understood
    assert Moment()(understood) == understood


def test_how_long_ago_is_a_time() -> None:
    assert Moment()("2h") < Moment()("10m") < Moment()("0s")


@pytest.mark.parametrize("asked", ["", "yesterday", "10", "-1h", "9999999999s", "10 m"])
def test_what_is_no_time_says_what_is(asked: str) -> None:
    with pytest.raises(click.UsageError, match=r"neither a time .* nor how long ago"):
        Moment()(asked)


def test_an_argument_that_was_not_sent_is_named() -> None:
    with pytest.raises(click.UsageError) as caught:
        COMMANDS["explain"].arguments({})
    assert "what" in caught.value.format_message().lower()
