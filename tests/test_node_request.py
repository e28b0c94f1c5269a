"""One call, parsed: strict for ADD, lenient for DEL and GC, which must never wedge."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bgpcni.errors import CniError, DecodingFailure, IncompatibleVersion, InvalidConfiguration
from bgpcni.node.request import Request, asked_version, parse_request

BASE = {"CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/x", "CNI_IFNAME": "eth0", "CNI_PATH": "/opt/cni/bin"}


def parse(command: str, variables: dict[str, str] | None = None, **document: Any) -> Request:
    body = json.dumps({"cniVersion": "1.1.0", "name": "net", **document}).encode()
    return parse_request({**BASE, "CNI_COMMAND": command, **(variables or {})}, body)


def test_an_add_is_parsed_whole() -> None:
    """Configuration, key, variables; nothing that is not CNI's is passed on to delegated plugins."""
    request = parse("ADD", {"CNI_ARGS": "IgnoreUnknown=1;K=V", "HOME": "/root"}, mtu="1500")
    assert (request.command, request.name, request.version) == ("ADD", "net", "1.1.0")
    assert str(request.key) == "net/c1/eth0"
    assert request.settings.mtu == 1500
    assert dict(request.environment.args) == {"IgnoreUnknown": "1", "K": "V"}
    assert "HOME" not in request.variables
    assert request.prev_result is None


@pytest.mark.parametrize("command", ["DEL", "GC"])
@pytest.mark.parametrize(
    "broken",
    [{"mtu": "big"}, {"bgp": {"vni": -1}}, {"prevResult": 7}, {"prevResult": {"ips": "x"}}, {"importRT": "nonsense"}],
)
def test_a_broken_configuration_does_not_stop_what_deletes(command: str, broken: dict[str, Any]) -> None:
    """It acts by the record and says so on stderr."""
    request = parse(command, **broken)
    assert request.name == "net"
    assert len(request.warnings) == 1
    with pytest.raises(CniError):
        parse("ADD", **broken)


@pytest.mark.parametrize("command", ["DEL", "GC"])
@pytest.mark.parametrize(
    ("document", "error"),
    [
        ({"name": ""}, InvalidConfiguration), ({"name": "../x"}, InvalidConfiguration), ({"name": 7}, CniError),
        ({"cniVersion": "9.9.9"}, IncompatibleVersion), ({"cniVersion": 1}, DecodingFailure),
    ],
)  # fmt: skip
def test_without_name_or_version_nothing_is_deleted(command: str, document: dict[str, Any], error: type) -> None:
    with pytest.raises(error):
        parse(command, **document)


def test_name_and_version_are_found_in_any_case() -> None:
    """As every other key."""
    body = b'{"CNIVERSION": "1.0.0", "NAME": "net", "mtu": "big"}'
    request = parse_request({**BASE, "CNI_COMMAND": "DEL"}, body)
    assert (request.name, request.version) == ("net", "1.0.0")
    assert asked_version(body) == "1.0.0"


@pytest.mark.parametrize(
    ("stdin", "version"), [(b"", None), (b"[]", None), (b"{}", None), (b'{"cniVersion": ""}', None), (b"\xff", None)]
)
def test_a_version_that_is_not_there_is_none(stdin: bytes, version: str | None) -> None:
    assert asked_version(stdin) == version


def test_check_needs_the_previous_result() -> None:
    with pytest.raises(InvalidConfiguration, match="prevResult: missing"):
        parse("CHECK")
    request = parse("CHECK", prevResult={"cniVersion": "1.1.0", "ips": [{"address": "10.1.2.3/24"}]})
    assert request.prev_result is not None
    assert request.prev_result.ips[0].address == "10.1.2.3/24"


@pytest.mark.parametrize(("command", "version"), [("CHECK", "0.3.1"), ("GC", "1.0.0"), ("STATUS", "1.0.0")])
def test_a_command_of_a_later_version_is_error_1(command: str, version: str) -> None:
    with pytest.raises(IncompatibleVersion):
        parse(command, cniVersion=version, prevResult={})
