"""The operator's command asks the agent over its socket, and says why when nobody answers."""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from bgpcni.agent.server import Server
from bgpcni.commands import client
from bgpcni.handler import Reply
from bgpcni.launcher import protocol
from bgpcni.operator import cli
from bgpcni.operator.cli import main
from bgpcni.testing.patience import SECONDS


@contextmanager
def agent(path: Path, command: Callable[[bytes], Reply]) -> Iterator[None]:
    """The real server, with an answer of ours behind it."""
    server = Server(lambda call: Reply(0), command)
    server.listen(path)
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield
    finally:
        server.close()
        thread.join(SECONDS)


@contextmanager
def saying(path: Path, *octets: bytes) -> Iterator[None]:
    """Something else on the socket: sends these octets to whoever connects, then closes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"".join(octets))
                connection.shutdown(socket.SHUT_WR)
                try:
                    while connection.recv(1 << 16):
                        pass
                except ConnectionResetError:
                    pass  # it left without having read all of ours

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join(SECONDS)


def test_a_command_and_its_arguments_arrive_and_the_answer_comes_back(tmp_path: Path) -> None:
    """The exit code is the agent's."""
    asked: list[object] = []

    def command(stdin: bytes) -> Reply:
        asked.append(json.loads(stdin))
        return Reply(1, json.dumps({"schema": 1, "routes": ["x" * 100_000]}).encode())

    with agent(tmp_path / "s", command):
        document, code = client.ask(tmp_path / "s", "explain", what="10.1.2.3")
    assert (code, len(document["routes"][0])) == (1, 100_000)
    assert asked == [{"command": "explain", "what": "10.1.2.3"}]


def test_the_command_line_shows_the_agents_answer(tmp_path: Path) -> None:
    with agent(tmp_path / "s", lambda stdin: Reply(0, b'{"schema": 1, "reloaded": true}')):
        found = CliRunner().invoke(main, ["reload", "--socket", str(tmp_path / "s")])
    assert (found.exit_code, found.output) == (0, "configuration reloaded\n")


def test_nobody_there_is_said_with_the_socket(tmp_path: Path) -> None:
    with pytest.raises(client.NoAgent, match="none: No such file"):
        client.ask(tmp_path / "none", "status")
    (tmp_path / "file").write_text("")
    with pytest.raises(client.NoAgent, match="file: Connection refused; start bgpcni agent"):
        client.ask(tmp_path / "file", "status")


def test_who_may_not_ask_is_not_told_to_start_an_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent may well be there; nor does the command look at the records in its place."""

    class Forbidden(socket.socket):
        def connect(self, address: object) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(client.socket, "socket", Forbidden)
    monkeypatch.setattr(cli, "_without_agent", lambda *_: pytest.fail("the records were looked at"))
    monkeypatch.setenv("BGPCNI_SOCKET", str(tmp_path / "s"))
    words = f"this user may not ask the agent on {tmp_path}/s: run the command as root"
    found = CliRunner().invoke(main, ["status"])
    assert (found.exit_code, found.output) == (1, f"bgpcni: {words}\n")
    found = CliRunner().invoke(main, ["status", "--json"])
    assert (found.exit_code, json.loads(found.output)) == (1, {"schema": 1, "error": words})


HELLO = protocol.HELLO


@pytest.mark.parametrize(
    "octets",
    [
        [b""], [b"220 smtp"], [HELLO], [HELLO, protocol.REPLY.pack(0, 0, 9, 0), b"{}"], [HELLO, b"\0\0"],
        [HELLO, protocol.REPLY.pack(0, 0, 4, 0), b"[1,}"], [HELLO, protocol.REPLY.pack(0, 0, 1, 0), b"\xff"],
        [HELLO, protocol.REPLY.pack(0, 0, 2, 0), b"[]"],
    ],
    ids=["closed", "another", "dies", "half", "half head", "no JSON", "no UTF-8", "no object"],
)  # fmt: skip
def test_what_is_no_answer_is_no_agent(tmp_path: Path, octets: list[bytes]) -> None:
    """In words, not as a traceback."""
    with saying(tmp_path / "s", *octets), pytest.raises(client.NoAgent, match=r"/s: "):
        client.ask(tmp_path / "s", "status")


def test_a_strangers_socket_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only root and we ourselves are believed to be the agent."""
    monkeypatch.setattr(
        client, "_CREDENTIALS", type("Other", (), {"size": 12, "unpack": lambda self, raw: (1, 7, 7)})()
    )
    with (
        agent(tmp_path / "s", lambda stdin: Reply(0, b"{}")),
        pytest.raises(client.NoAgent, match="belongs to user 7, not to root"),
    ):
        client.ask(tmp_path / "s", "status")
