"""A call without an agent: when it may do the work itself, and what it answers when it may not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from bgpcni import locks, paths, plugin
from bgpcni.handler import Call
from bgpcni.launcher import protocol
from bgpcni.store import Store

VARIABLES = {"CNI_CONTAINERID": "c1", "CNI_NETNS": "", "CNI_IFNAME": "eth0", "CNI_PATH": "/opt"}
BODY = b'{"cniVersion": "1.1.0", "name": "net", "type": "bgpcni", "exporters": []}'


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """No agent is meant to be: neither socket nor agent.toml."""
    monkeypatch.setattr(paths, "SOCKET", tmp_path / "agent.sock")
    monkeypatch.setattr(paths, "AGENT_CONFIG", tmp_path / "agent.toml")
    monkeypatch.setenv("XDG_CACHE_HOME", "")  # put back what the plugin sets for its process
    return {"BGPCNI_RUN_DIR": str(tmp_path / "run"), "BGPCNI_DATA_DIR": str(tmp_path / "data")}


def answered(command: str, environment: dict[str, str], stdin: bytes = BODY) -> tuple[int, dict[str, Any]]:
    reply = plugin.answer(Call({**VARIABLES, "CNI_COMMAND": command}, stdin), environment)
    return reply.code, json.loads(reply.stdout) if reply.stdout else {}


def test_where_no_agent_is_meant_to_be_the_call_does_the_work(environment: dict[str, str]) -> None:
    assert plugin.why_not(environment) == ""
    assert answered("DEL", environment) == (0, {})
    assert answered("STATUS", environment) == (0, {})


@pytest.mark.parametrize("sign", ["variable", "socket", "configuration"])
def test_where_one_should_be_there_is_never_a_second_writer(environment: dict[str, str], sign: str) -> None:
    """Error 11, for STATUS 50; VERSION answers; nothing is written."""
    if sign == "variable":
        environment["BGPCNI_SOCKET"] = "/elsewhere.sock"
    else:
        {"socket": paths.SOCKET, "configuration": paths.AGENT_CONFIG}[sign].write_text("")
    for command in ("ADD", "DEL", "GC"):
        variables = {"CNI_NETNS": "/x"} if command == "ADD" else {}
        reply = plugin.answer(Call({**VARIABLES, **variables, "CNI_COMMAND": command}, BODY), environment)
        found = json.loads(reply.stdout)
        assert (reply.code, found["code"]) == (1, 11)
        assert "start bgpcni agent" in found["msg"]
    assert answered("STATUS", environment)[1]["code"] == 50
    assert "supportedVersions" in answered("VERSION", environment)[1]
    assert not Path(environment["BGPCNI_RUN_DIR"]).exists()


def test_a_living_agent_refuses_the_call(environment: dict[str, str]) -> None:
    """A running agent is noticed by its lock, even if its socket is elsewhere."""
    store = Store(Path(environment["BGPCNI_DATA_DIR"]), Path(environment["BGPCNI_RUN_DIR"]))
    agent = locks.WriterLocks(store.run_fd)
    agent.as_agent()
    assert answered("DEL", environment)[1]["code"] == 11
    agent.release()
    assert answered("DEL", environment) == (0, {})
    store.close()


def test_a_request_that_is_too_large_is_error_6() -> None:
    """With its own bound in words."""
    reply = plugin.too_large(Call({"CNI_COMMAND": "ADD"}, b"x" * 100), protocol.limit("ADD"))
    found = json.loads(reply.stdout)
    assert (reply.code, found["code"]) == (1, 6)
    assert "larger than 1048576 octets" in found["msg"]
    assert (protocol.limit("GC"), protocol.limit("DEL")) == (16 << 20, 1 << 20)


@pytest.mark.parametrize(("command", "size"), [("ADD", (1 << 20) + 1), ("GC", (16 << 20) + 1)])
def test_the_bound_is_the_agents(command: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """main() reads no more than that."""
    reader, writer = os.pipe()
    os.close(writer)

    class Stdin:
        class buffer:
            @staticmethod
            def read(most: int) -> bytes:
                assert most == size
                return b"x" * most

    written: list[bytes] = []

    class Out:
        class buffer:
            write = staticmethod(written.append)

        @staticmethod
        def flush() -> None: ...

    monkeypatch.setenv("CNI_COMMAND", command)
    monkeypatch.setattr(plugin.sys, "stdin", Stdin)
    monkeypatch.setattr(plugin.sys, "stdout", Out)
    monkeypatch.setattr(plugin.sys, "stderr", Out)
    monkeypatch.setattr(plugin.logging, "basicConfig", lambda **_: None)
    assert plugin.main() == 1
    assert b'"code": 6' in b"".join(written)
    os.close(reader)
