"""The CNI_* variables: which values are refused, and with which message."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bgpcni.cni.environment import REQUIRED, Command, Environment, parse_args, parse_environment
from bgpcni.errors import CniError, InvalidEnvironment

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a loaded machine is no failure
FULL = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c0ffee",
    "CNI_NETNS": "/run/netns/blue",
    "CNI_IFNAME": "eth0",
    "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAME=web-0",
    "CNI_PATH": "/opt/cni/bin:/usr/lib/cni",
}


def test_a_whole_environment_is_read() -> None:
    """Every variable ends up as a typed value."""
    assert parse_environment(FULL | {"HOME": "/root"}) == Environment(
        command=Command.ADD,
        container_id="c0ffee",
        netns="/run/netns/blue",
        ifname="eth0",
        args={"IgnoreUnknown": "1", "K8S_POD_NAME": "web-0"},
        path=("/opt/cni/bin", "/usr/lib/cni"),
    )


@pytest.mark.parametrize(
    ("command", "required"),
    [
        ("ADD", ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"]),
        ("CHECK", ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"]),
        ("DEL", ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"]),
        ("GC", ["CNI_PATH"]),
        ("STATUS", ["CNI_PATH"]),
        ("VERSION", []),
    ],
)
def test_all_missing_variables_are_named_at_once(command: str, required: list[str]) -> None:
    """The error lists all missing variables, and only those that the command requires."""
    bare = {"CNI_COMMAND": command}
    if required:
        with pytest.raises(InvalidEnvironment) as error:
            parse_environment(bare)
        assert error.value.code == 4
        assert error.value.msg == f"required env variables [{','.join(required)}] missing"
    whole = bare | {name: FULL[name] for name in required}
    assert parse_environment(whole).command == command
    for name in required:
        with pytest.raises(InvalidEnvironment, match=rf"\[{name}\] missing"):
            parse_environment(whole | {name: ""})


def test_no_command_and_an_unknown_one() -> None:
    """Both are error 4 with the command in the text."""
    with pytest.raises(InvalidEnvironment, match=r"required env variables \[CNI_COMMAND\] missing"):
        parse_environment({})
    for command in ("add", "UPDATE", "ADD ", "\udcff"):
        with pytest.raises(InvalidEnvironment, match="unknown CNI_COMMAND"):
            parse_environment(FULL | {"CNI_COMMAND": command})


@pytest.mark.parametrize("container_id", ["-a", ".a", "a b", "a/b", "a\n", "é", "_x", "a\udcff"])
def test_a_malformed_container_id_is_refused(container_id: str) -> None:
    """It becomes part of file names, so nothing but the specification's characters is let in."""
    with pytest.raises(InvalidEnvironment, match="CNI_CONTAINERID"):
        parse_environment(FULL | {"CNI_CONTAINERID": container_id})


@pytest.mark.parametrize(
    "ifname",
    [
        "sixteencharacter",
        ".",
        "..",
        "all",
        "default",
        "a/b",
        "a:b",
        "a b",
        "a\tb",
        "a\n",
        "a\x01",
        "eth%d",
        "ééééééééé",
    ],
)
def test_a_malformed_interface_name_is_refused(ifname: str) -> None:
    """A name that the kernel would refuse is refused before anything is made. Lengths are octets."""
    with pytest.raises(InvalidEnvironment, match="CNI_IFNAME"):
        parse_environment(FULL | {"CNI_IFNAME": ifname})


def test_the_longest_interface_name_is_taken() -> None:
    """Fifteen octets fit."""
    assert parse_environment(FULL | {"CNI_IFNAME": "fifteencharacte"}).ifname == "fifteencharacte"


def test_a_path_that_is_not_utf8_is_refused_in_words() -> None:
    """Such a value could not be written into any JSON answer."""
    with pytest.raises(InvalidEnvironment, match="CNI_NETNS: not UTF-8"):
        parse_environment(FULL | {"CNI_NETNS": "/run/\udcff"})


@pytest.mark.parametrize("args", ["A", "A=1;", ";A=1", "=1", "A=1=2", ";"])
def test_malformed_args_fail_add_but_never_del(args: str) -> None:
    """ADD and CHECK say so; a DEL does without them, or the pod could never go away."""
    for command in ("ADD", "CHECK"):
        with pytest.raises(InvalidEnvironment, match="CNI_ARGS"):
            parse_environment(FULL | {"CNI_COMMAND": command, "CNI_ARGS": args})
    assert parse_environment(FULL | {"CNI_COMMAND": "DEL", "CNI_ARGS": args}).args == {}


def test_args_may_be_empty_valued_and_the_last_of_two_counts() -> None:
    """CNI_ARGS are read as the reference library reads them."""
    assert parse_args("A=;B=1;B=2") == {"A": "", "B": "2"}
    assert parse_args("") == {}


@patient
@given(st.dictionaries(st.sampled_from([*REQUIRED, "X"]), st.sampled_from(["", *Command]) | st.text()))
def test_no_environment_raises_anything_but_a_cni_error(env: dict[str, str]) -> None:
    """Whatever a runtime sends, the answer has a CNI code."""
    error = raised(parse_environment, env)
    if error is not None:
        assert error.code == 4
        error.msg.encode()


def raised(call: Callable[..., object], *arguments: object) -> CniError | None:
    try:
        call(*arguments)
    except CniError as error:
        return error
    return None
