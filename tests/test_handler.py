"""Every call is answered in JSON, whatever happens in it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpcni.errors import CniError, Delegated, InvalidConfiguration, TryAgain
from bgpcni.handler import Call, Reply, failure, handle
from bgpcni.node.node import Node
from bgpcni.node.request import Request

VARIABLES = {
    "CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_NETNS": "/x", "CNI_IFNAME": "eth0", "CNI_PATH": "/opt",
}  # fmt: skip


def call(stdin: bytes = b'{"cniVersion": "1.0.0", "name": "net"}', **variables: str) -> Call:
    return Call({**VARIABLES, **variables}, stdin)


def raising(error: Exception) -> Any:
    def node(request: Request) -> Node:
        raise error

    return node


def error_of(reply: Reply) -> dict[str, Any]:
    assert reply.code == 1
    document: dict[str, Any] = json.loads(reply.stdout)
    return document


def test_version_needs_nothing_but_its_name() -> None:
    """Without stdin, and with one."""
    nobody = raising(AssertionError())
    bare = json.loads(handle(Call({"CNI_COMMAND": "VERSION"}, b""), nobody).stdout)
    assert bare["cniVersion"] == "1.1.0"
    asked = json.loads(handle(Call({"CNI_COMMAND": "VERSION"}, b'{"cniVersion": "0.4.0"}'), nobody).stdout)
    assert asked["cniVersion"] == "0.4.0"
    assert "0.1.0" in asked["supportedVersions"]


def test_an_error_is_json_in_the_configurations_version() -> None:
    """With the code, the message, the details; and one line for people on stderr."""
    reply = handle(call(b'{"cniVersion": "0.3.1", "name": "net"}'), raising(Delegated(17, "no", "because")))
    assert error_of(reply) == {"cniVersion": "0.3.1", "code": 17, "msg": "no", "details": "because"}
    assert reply.stderr == b"bgpcni: ADD failed: no\n"


@pytest.mark.parametrize("stdin", [b"", b"{", b'{"cniVersion": "9.0.0"}', b'{"cniVersion": 7}'])
def test_where_the_version_is_unknown_the_error_is_still_json(stdin: bytes) -> None:
    assert error_of(handle(call(stdin), raising(AssertionError())))["cniVersion"] == "1.0.0"


def test_a_defect_is_error_999_that_names_it() -> None:
    """Not a traceback on stdout."""
    found = error_of(handle(call(), raising(ZeroDivisionError("oh"))))
    assert (found["code"], found["msg"]) == (999, "internal error: ZeroDivisionError: oh")


def test_a_message_that_is_no_text_is_still_sent() -> None:
    """An environment that is not UTF-8 (lone surrogates) is answered in JSON."""
    reply = failure(call(), CniError("bad \udcff"))
    assert json.loads(reply.stdout)["msg"] == "bad \udcff"
    assert b"?" in reply.stderr


@given(
    st.dictionaries(st.sampled_from([*VARIABLES, "CNI_ARGS"]), st.text(max_size=8) | st.sampled_from(["ADD", "GC"])),
    st.binary(max_size=30) | st.sampled_from([b'{"name": "n", "cniVersion": "1.1.0"}']),
)
def test_whatever_comes_in_json_goes_out(variables: dict[str, str], stdin: bytes) -> None:
    reply = handle(Call({**VARIABLES, **variables}, stdin), raising(TryAgain("no node here")))
    document = json.loads(reply.stdout)
    assert reply.code == 1 or "supportedVersions" in document
    assert reply.code == 0 or document["code"] in (1, 4, 6, 7, 11)


def test_the_code_of_an_error_is_known_to_metrics() -> None:
    assert handle(call(), raising(InvalidConfiguration("x"))).error == 7
