"""read.sock: commands that change nothing are answered there, and nothing else."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bgpcni.agent import commands, readers
from bgpcni.agent.readers import Readers
from bgpcni.commands import client
from bgpcni.commands.table import COMMANDS
from bgpcni.handler import Reply
from bgpcni.launcher import protocol
from bgpcni.store import Store
from bgpcni.testing.patience import SECONDS


def answer(stdin: bytes) -> Reply:
    """The agent's dispatcher, without an agent behind it: what it lets through is told by name."""
    name = json.loads(stdin)["command"]
    if COMMANDS[name].reads:
        return Reply(0, json.dumps({"schema": 1, "ran": name}).encode())
    return commands.reply(None, stdin, read_only=True)  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(readers, "GROUP", "bgpcni-no-such-group")
    store = Store(tmp_path / "data", tmp_path / "run")
    served = Readers(store, answer)
    assert served.look() == ""
    assert not (tmp_path / "run/read.sock").exists(), "not before it is started"
    served.start()
    served.look()
    yield tmp_path / "run/read.sock"
    served.close()
    store.close()


def test_only_what_changes_nothing_is_answered(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o640
    reading = {name for name, row in COMMANDS.items() if row.reads}
    assert {"status", "attachments", "routes", "peers", "explain"} <= reading
    assert not {"sync", "release", "drain", "reload"} & reading
    for name in COMMANDS:
        document, code = client.ask(path, name)
        if name in reading:
            assert (code, document["ran"]) == (0, name)
        else:
            assert (code, document["error"]) == (2, f"{name} is not answered on this socket: it changes something")


def test_no_cni_call_is_answered(path: Path) -> None:
    """The connection is closed without a reply."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(SECONDS)
        sock.connect(str(path))
        assert sock.recv(1) == protocol.HELLO
        environment = b"CNI_COMMAND=VERSION\0"
        sock.sendall(protocol.HEADER.pack(protocol.MAGIC, protocol.CALL, len(environment), 0) + environment)
        assert sock.recv(1) == b""


def test_a_socket_that_was_removed_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So is one whose whole folder was removed."""
    monkeypatch.setattr(readers, "GROUP", "bgpcni-no-such-group")
    store = Store(tmp_path / "data", tmp_path / "run")
    served, path = Readers(store, answer), tmp_path / "run/read.sock"
    served.start()
    served.look()
    path.unlink()
    served.look()
    assert client.ask(path, "status") == ({"schema": 1, "ran": "status"}, 0)
    (tmp_path / "run").rename(tmp_path / "away")
    store.renew()
    served.look()
    assert client.ask(path, "status") == ({"schema": 1, "ran": "status"}, 0)
    served.close()
    store.close()
