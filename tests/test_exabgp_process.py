"""Starting and adopting ExaBGP; here without any neighbour, so that nothing leaves this machine."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bgpcni.testing.patience import SECONDS
from bgpcni_exabgp import process
from bgpcni_exabgp.claim import Claim, holder, start_time
from bgpcni_exabgp.process import Apart, Home, Identity, Running, back_off


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(str(tmp_path), "exabgp", str(tmp_path / "data"))
    yield made
    left = made.adopt()
    if left is not None:
        left.end(time.monotonic() + 10)
        left.close()


def test_a_process_is_known_by_its_lock(home):
    """Whatever its file says: while nobody holds the lock there is no process, while somebody does there is one."""
    assert home.adopt() is None
    claim = Claim(home.identity, plain="odd", by="speaker")
    assert claim.take()
    found = home.adopt()
    assert found is not None
    assert (found.identity.pid, found.by, home.plain()) == (os.getpid(), "speaker", "odd")
    assert found.alive()
    found.close()
    for text in ("", "{}", "[1]", '{"pid": "x"}'):
        home.identity.write_text(text)
        found = home.adopt()
        assert found is not None
        assert found.identity == Identity(0, 0)
        assert found.alive()
        found.close()
    claim.release()
    assert home.adopt() is None


def test_a_process_of_another_pid_namespace_is_awaited_by_its_lock(home):
    """Its pid is another process's here, which is not taken for it: it has ended once it lets go of the lock."""
    claim = Claim(home.identity)
    assert claim.take()
    claim.tell(started=(start_time(os.getpid()) or 0) + 1)
    found = home.adopt()
    assert found is not None
    assert not found.wait(0.01)
    with pytest.raises(OSError, match="No such file"):
        found.signal(signal.SIGTERM)  # there is no relay either
    threading.Timer(0.05, claim.release).start()
    assert found.wait(SECONDS)
    found.close()


def test_a_start_that_fails_says_why(home):
    """ExaBGP ends over its configuration: its exit status, and the log's last line, tell."""
    home.write_configuration("neighbor nonsense {\n}\n")
    running = home.start()
    try:
        assert running.wait(SECONDS)
        assert not running.alive()
        assert home.ending(running) == 'it ended with exit status 1: "nonsense" is an invalid IP address'
        assert home.adopt() is None
    finally:
        running.close()


def test_a_death_is_told_by_its_signal_and_not_by_the_last_line(home):
    """Whatever was logged before has nothing to do with it."""
    home.write_configuration("process p { run /bin/sleep 1000; encoder json; }\n")
    running = home.start()
    try:
        running.signal(signal.SIGKILL)
        assert running.wait(30)
        home.log.write_text(f"12:00:00 {running.identity.pid}  configuration   an invalid thing, long ago\n")
        assert home.ending(running) == "it was killed by signal 9 (SIGKILL)"
        assert running.wait(0)
        assert home.ending(running) == "it was killed by signal 9 (SIGKILL)"
    finally:
        running.close()


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("12:00:00 {pid}  outgoing-1      connection to 10.0.0.1 failed", ""),
        ("12:00:00 {pid}  reactor         performing shutdown", ""),
        ("12:00:00 1  configuration   could not load", ""),
        ("12:00:00 {pid}  configuration   could not load", ": could not load"),
        ("Traceback (most recent call last):\n  ...\nKeyError: 'x'", ": KeyError: 'x'"),
        ("bgpcni: another one runs on x", ": bgpcni: another one runs on x"),
        ("", ""),
    ],
    ids=["session", "no error", "another's", "error", "traceback", "ours", "empty"],
)
def test_the_last_line_is_told_only_if_it_is_an_error(home, log, words):
    """Of this very process, and not of one of its sessions."""
    running = Running(home, Identity(7, 1), os.open(os.devnull, os.O_RDONLY))
    running.status = process._status(os.CLD_EXITED, 1)
    home.log.write_text(log.format(pid=7))
    assert home.ending(running) == f"it ended with exit status 1{words}"
    running.close()


def test_how_another_agents_exabgp_ended_is_not_known(home):
    """It is no child of ours; what it logged last is not taken for the reason."""
    running = Running(home, Identity(7, 1), os.open(os.devnull, os.O_RDONLY))
    home.log.write_text("12:00:00 7  configuration   could not load")
    assert home.ending(running) == "it ended, and how is not known: we did not start it"
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


def test_a_wiped_run_dir_hides_no_exabgp(home):
    """It is known by the lock in data_dir too."""
    assert home.lasting is not None
    home.lasting.parent.mkdir()
    claim = Claim(home.lasting, plain="old")
    assert claim.take()
    found = home.adopt()
    assert found is not None
    assert home.plain() == "old"
    found.close()
    claim.release()
    assert home.adopt() is None


def test_a_lock_is_taken_although_somebody_looks(home):
    """Who looks whether it is taken holds it for a moment, over which no start fails."""
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            holder(home.identity)

    lookers = [threading.Thread(target=look) for _ in range(3)]
    for thread in lookers:
        thread.start()
    try:
        for _ in range(50):
            claim = Claim(home.identity)
            assert claim.take()
            claim.release()
    finally:
        stop.set()
        for thread in lookers:
            thread.join()


def test_a_speaker_elsewhere_is_known_by_its_lock(home):
    """With its interpreter, which the configuration names for the relay, and how its last ExaBGP ended."""
    assert home.apart() is None
    claim = Claim(home.speaker, python="/usr/bin/other", ending="", count=0)
    assert claim.take()
    claim.tell(ending="it ended", count=2)
    assert home.apart() == Apart("/usr/bin/other", "it ended", 2)
    assert home.relay_command("/usr/bin/other")[0] == "/usr/bin/other"
    claim.release()
    assert home.apart() is None
