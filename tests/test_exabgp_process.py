"""Starting and adopting ExaBGP; here without any neighbour, so that nothing leaves this machine."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bgpcni.testing.patience import SECONDS
from bgpcni_exabgp import process
from bgpcni_exabgp.process import Home, back_off, start_time


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(str(tmp_path), "exabgp")
    yield made
    left = made.adopt()
    if left is not None:
        left.end(time.monotonic() + 10)
        left.close()


def test_a_process_is_known_by_pid_and_start_time(home):
    """A pid that belongs to somebody else by now is not taken for ours."""
    assert home.adopt() is None
    home.identity.write_text(json.dumps({"pid": os.getpid(), "started": (start_time(os.getpid()) or 0) + 1}))
    assert home.adopt() is None
    home.identity.write_text(json.dumps({"pid": os.getpid(), "started": start_time(os.getpid())}))
    found = home.adopt()
    assert found is not None
    assert found.alive()
    found.close()
    for text in ("", "{}", "[1]", '{"pid": "x"}'):
        home.identity.write_text(text)
        assert home.adopt() is None
    home.identity.unlink()


def test_a_start_that_fails_says_why(home):
    """ExaBGP ends over its configuration: the log's last words tell."""
    home.write_configuration("neighbor nonsense {\n}\n")
    running = home.start()
    try:
        assert running.wait(SECONDS)
        assert not running.alive()
        assert home.last_words()
        assert home.adopt() is None
    finally:
        running.close()


def test_nothing_of_the_environment_is_inherited(monkeypatch):
    """No variable of ours, or of the user's ExaBGP, reaches ExaBGP."""
    monkeypatch.setenv("exabgp_tcp_port", "1179")
    monkeypatch.setenv("HTTP_PROXY", "http://192.0.2.1")
    names = set(process.environment())
    assert not names & {"exabgp_tcp_port", "HTTP_PROXY"}
    assert process.environment()["exabgp_api_cli"] == "false"


def test_a_long_log_is_cut(home, monkeypatch):
    """The log does not grow for ever."""
    monkeypatch.setattr(process, "LOG_LIMIT", 10)
    home.log.write_text("x" * 11)
    home.trim_log()
    assert home.log.stat().st_size == 0


def test_files_are_written_whole_and_privately(tmp_path):
    """A configuration with a password is its owner's alone, and links are not followed."""
    path = tmp_path / "file"
    process.write(path, "one")
    process.write(path, "two")
    assert path.read_text() == "two"
    assert path.stat().st_mode & 0o777 == 0o600
    (tmp_path / "file.new").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        process.write(path, "three")


def test_back_off_begins_at_once_and_is_bounded():
    """The first start after a death is immediate, later ones wait longer, up to half a minute."""
    pauses = back_off()
    found = [next(pauses) for _ in range(12)]
    assert found[0] == 0
    assert found == sorted(found)
    assert found[-1] == 30
