"""What the probes of bgpcni's pods find out, by the exit code and in words."""

from __future__ import annotations

import fcntl
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bgpcni import paths
from bgpcni.launcher import probe, protocol
from bgpcni.testing.patience import SECONDS


def run(*argv: str | Path) -> tuple[int, str]:
    """The probe in a process of its own, as kubelet has it run."""
    command = [sys.executable, "-I", "-m", "bgpcni.launcher.probe", *argv]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("said", "reason"), [(protocol.HELLO, ""), (b"2", "what answers is no agent"), (b"", "what answers is no agent")]
)
def test_an_agent_is_known_by_its_first_word(tmp_path: Path, said: bytes, reason: str) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def answer() -> None:
            with server.accept()[0] as connection:
                connection.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        found = run(path)
        thread.join(SECONDS)
    assert found == ((1, f"{path}: {reason}\n") if reason else (0, ""))


def test_nobody_behind_a_socket_is_told(tmp_path: Path) -> None:
    path = tmp_path / "s"
    assert run(path) == (1, f"{path}: No such file or directory\n")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    assert run(path) == (1, f"{path}: Connection refused\n")


def test_a_mute_agent_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It accepts, or the kernel does for it, and says nothing: a hung agent has to be started again."""
    monkeypatch.setattr(probe, "HELLO_SECONDS", 0.01)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
        assert probe.why_not(str(tmp_path / "s")) == "timed out"


def test_a_speaker_is_known_by_its_lock(tmp_path: Path) -> None:
    path = tmp_path / "exabgp.pid"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert run(path) == (0, "")
    assert run(path) == (1, f"{path}: nobody holds its lock\n")


def test_the_agents_socket_is_the_usual_one() -> None:
    assert str(paths.SOCKET) == probe.DEFAULT_SOCKET
