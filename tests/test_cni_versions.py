"""Versions of the specification: which are spoken, and what each allows."""

from __future__ import annotations

import pytest

from bgpcni.cni.environment import Command
from bgpcni.cni.errors import encode_error
from bgpcni.cni.versions import SUPPORTED, at_least, read_version, require_command, version_answer
from bgpcni.errors import DecodingFailure, Delegated, IncompatibleVersion, InvalidConfiguration


def test_versions_are_ordered() -> None:
    """Later is later."""
    assert [v for v in SUPPORTED if at_least(v, "0.4.0")] == ["0.4.0", "1.0.0", "1.1.0"]
    assert at_least("0.1.0", "0.1.0")


def test_a_configuration_without_a_version_is_0_1_0() -> None:
    """As the specification's first version, which had no such key."""
    assert read_version(None) == read_version("") == "0.1.0"
    assert [read_version(v) for v in SUPPORTED] == list(SUPPORTED)


def test_a_version_we_do_not_speak_is_error_1() -> None:
    """The details say what was asked for and what is spoken."""
    with pytest.raises(IncompatibleVersion) as error:
        read_version("2.0.0")
    assert error.value.code == 1
    assert '"2.0.0"' in error.value.details
    assert "1.1.0" in error.value.details


@pytest.mark.parametrize("value", [1, 1.0, True, [], {}])
def test_a_version_that_is_no_string_is_error_6(value: object) -> None:
    """A number in its place is a decoding failure, not a crash."""
    with pytest.raises(DecodingFailure, match="cniVersion: expected a string"):
        read_version(value)


@pytest.mark.parametrize(
    ("command", "since"), [(Command.CHECK, "0.4.0"), (Command.GC, "1.1.0"), (Command.STATUS, "1.1.0")]
)
def test_commands_exist_from_their_version_on(command: Command, since: str) -> None:
    """Before it they are error 1, from it on they are allowed; ADD, DEL and VERSION always are."""
    for version in SUPPORTED:
        for always in (Command.ADD, Command.DEL, Command.VERSION):
            require_command(always, version)
        if at_least(version, since):
            require_command(command, version)
        else:
            with pytest.raises(IncompatibleVersion, match=f"config version does not allow {command}"):
                require_command(command, version)


def test_version_echoes_what_was_asked() -> None:
    """VERSION answers in the version asked for, and in the newest if stdin was empty."""
    assert version_answer("0.4.0") == {"cniVersion": "0.4.0", "supportedVersions": list(SUPPORTED)}
    assert version_answer(None)["cniVersion"] == "1.1.0"


def test_errors_carry_version_code_and_message() -> None:
    """What a runtime reads from stdout; details only where there are any; a delegated plugin's own code."""
    assert encode_error(InvalidConfiguration("bgp.vni: missing"), "1.0.0") == {
        "cniVersion": "1.0.0",
        "code": 7,
        "msg": "bgp.vni: missing",
    }
    assert encode_error(Delegated(42, "no", "because"), "0.4.0")["details"] == "because"
    assert encode_error(Delegated(42, "no", "because"), "0.4.0")["code"] == 42
