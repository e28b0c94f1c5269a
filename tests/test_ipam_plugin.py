"""`bgpcni-ipam` on a node without a cluster: it reports that as the specification asks, and blocks no DEL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from bgpcni.cni.versions import SUPPORTED
from bgpcni.handler import Call, Reply
from bgpcni.ipam_plugin import answer

MACVLAN = {"cniVersion": "1.1.0", "name": "n", "type": "macvlan", "master": "eth0", "ipam": {"type": "bgpcni-ipam"}}
VARIABLES = {"CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/x", "CNI_IFNAME": "eth0", "CNI_PATH": "/opt/cni/bin"}


def ask(command: str, document: object = MACVLAN, **variables: str) -> Reply:
    return answer(Call({"CNI_COMMAND": command} | VARIABLES | variables, json.dumps(document).encode()))


def error(reply: Reply) -> dict[str, Any]:
    assert reply.code == 1
    found: dict[str, Any] = json.loads(reply.stdout)
    return found


def test_version() -> None:
    """Asked without a configuration too, as a runtime may."""
    assert json.loads(answer(Call({"CNI_COMMAND": "VERSION"}, b"")).stdout)["supportedVersions"] == list(SUPPORTED)
    assert json.loads(ask("VERSION", {"cniVersion": "1.0.0"}).stdout)["cniVersion"] == "1.0.0"


@pytest.mark.parametrize(("command", "code"), [("ADD", 7), ("CHECK", 7), ("STATUS", 50)])
def test_there_is_no_cluster(command: str, code: int) -> None:
    """ADD gives no address; the error says what is missing and what to do."""
    said = error(ask(command))
    assert said["code"] == code
    assert said["cniVersion"] == "1.1.0"
    assert "ipam.type: bgpcni-ipam gives addresses of a cluster" in said["msg"]
    assert "no [cluster]" in said["msg"]


@pytest.mark.parametrize("command", ["DEL", "GC"])
def test_there_is_nothing_to_release(command: str) -> None:
    """The DEL that follows a failed ADD succeeds, else the pod would never go."""
    reply = ask(command)
    assert (reply.code, reply.stdout) == (0, b"")
    assert b"no [cluster]" in reply.stderr


def test_a_call_that_is_wrong_is_told_so_first() -> None:
    assert error(ask("ADD", CNI_IFNAME=""))["code"] == 4
    assert error(ask("NONSENSE"))["code"] == 4
    assert error(ask("ADD", []))["code"] == 6
    assert error(answer(Call({"CNI_COMMAND": "ADD"} | VARIABLES, b"{")))["code"] == 6
    assert error(ask("ADD", MACVLAN | {"cniVersion": "9.0.0"}))["code"] == 1
    assert error(ask("STATUS", MACVLAN | {"cniVersion": "1.0.0"}))["code"] == 1


def test_it_runs_as_the_launcher_executes_it() -> None:
    environment = {"PATH": os.defpath, "CNI_COMMAND": "ADD"} | VARIABLES
    command = [sys.executable, "-I", "-m", "bgpcni.ipam_plugin"]
    done = subprocess.run(
        command, env=environment, input=json.dumps(MACVLAN).encode(), capture_output=True, timeout=120, check=False
    )
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, 7)
