"""Starting and adopting ExaBGP; here without any neighbour, so that nothing leaves this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bgpcni.model import Family, Neighbor, NodeFacts
from bgpcni.testing.patience import SECONDS
from bgpcni_exabgp import process
from bgpcni_exabgp.configure import configure
from bgpcni_exabgp.process import Home, Identity, Running, back_off, start_time


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(str(tmp_path), "exabgp", str(tmp_path / "data"))
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
    """Lines that were logged before the start are not quoted as its reason."""
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
    """The line must come from the process itself, not from one of its sessions."""
    running = Running(Identity(7, 1), os.open(os.devnull, os.O_RDONLY))
    running.status = process._status(os.CLD_EXITED, 1)
    home.log.write_text(log.format(pid=7))
    assert home.ending(running) == f"it ended with exit status 1{words}"
    running.close()


def test_how_another_agents_exabgp_ended_is_not_known(home):
    """It is no child of ours; what it logged last is not taken for the reason."""
    running = Running(Identity(7, 1), os.open(os.devnull, os.O_RDONLY))
    home.log.write_text("12:00:00 7  configuration   could not load")
    assert home.ending(running) == "it ended, and how is not known: an earlier agent started it"
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
    """It is known by the file in data_dir too, but for one of an earlier boot: that pid may be anybody's."""
    home.lasting.parent.mkdir()
    own = {"pid": os.getpid(), "started": start_time(os.getpid()), "plain": "old", "boot": process.boot()}
    home.lasting.write_text(json.dumps(own))
    found = home.adopt()
    assert found is not None
    assert home.plain() == "old"
    found.close()
    home.lasting.write_text(json.dumps(own | {"boot": "an earlier one"}))
    assert home.adopt() is None
    home.lasting.unlink()


class TestTaking:
    """Which files an exporter uses: those of a live ExaBGP that has its sessions, else those of its own name."""

    @staticmethod
    def facts(folder: Path, *peers: str, speakers: tuple[str, ...] = ()) -> NodeFacts:
        neighbors = tuple(Neighbor(peer, 64512, (Family.IPV4_UNICAST,), 90) for peer in peers)
        return NodeFacts(
            run_dir=str(folder), data_dir=str(folder), asn=64512, router_id="192.0.2.1", local_address="192.0.2.1",
            neighbors=neighbors, has_bgp=True, speakers=speakers,
        )  # fmt: skip

    @staticmethod
    def live(home: Home, facts: NodeFacts) -> Iterator[Home]:
        """A process that runs on this home's configuration."""
        home.write_configuration(configure(facts, home.relay_command(), {}))
        child = subprocess.Popen(["sleep", "1000"])
        home.identity.write_text(json.dumps({"pid": child.pid, "started": start_time(child.pid)}))
        yield home
        child.kill()
        child.wait()

    @pytest.fixture
    def old(self, tmp_path: Path) -> Iterator[Home]:
        """The ExaBGP of an exporter `old`, with one session."""
        facts = self.facts(tmp_path, "192.0.2.254")
        yield from self.live(Home.of("old", facts), facts)

    @staticmethod
    def taken(exporter: str, facts: NodeFacts) -> str:
        home = Home.of(exporter, facts).take()
        home.leave()
        return home.name

    def test_each_exporter_has_files_of_its_own(self, tmp_path: Path) -> None:
        facts = self.facts(tmp_path, "192.0.2.254")
        names = [self.taken(name, facts) for name in ("exabgp", "a", "b", "a/b")]
        assert names[:3] == ["exabgp", "exabgp-a", "exabgp-b"]
        assert len(set(names)) == 4
        assert "/" not in names[3]

    def test_a_speaker_is_known_by_its_sessions(self, old: Home, tmp_path: Path) -> None:
        """Its exporter is called otherwise now. Sessions of others, or of another address, are not ours."""
        assert self.taken("new", self.facts(tmp_path, "192.0.2.254", "192.0.2.253")) == old.name
        assert self.taken("new", self.facts(tmp_path, "192.0.2.253")) == "exabgp-new"
        moved = replace(self.facts(tmp_path, "192.0.2.254"), local_address="192.0.2.2")
        assert self.taken("new", moved) == "exabgp-new"
        assert self.taken("old", moved) == f"{old.name}@2", "the other one is handed over, or ends"
        assert self.taken("old", self.facts(tmp_path, "192.0.2.253")) == old.name, "it has other neighbours now"
        assert self.taken("old", self.facts(tmp_path)) == old.name, "it has none now, and is to end"

    def test_a_speaker_of_another_exporter_stays(self, old: Home, tmp_path: Path) -> None:
        """A neighbour moved from one to the other: the other lets it go when it reads its configuration."""
        facts = self.facts(tmp_path, "192.0.2.254", speakers=("new", "old"))
        assert self.taken("new", facts) == "exabgp-new"

    def test_two_exporters_never_have_one_speaker(self, old: Home, tmp_path: Path) -> None:
        """Also two of one name, while a reload hands over from one to the other."""
        facts = self.facts(tmp_path, "192.0.2.254")
        first = Home.of("new", facts).take()
        second = Home.of("old", facts).take()
        try:
            assert (first.name, second.name) == (old.name, f"{old.name}@2")
        finally:
            first.leave()
            second.leave()

    def test_what_two_had_is_one_afterwards(self, old: Home, tmp_path: Path) -> None:
        """Two speakers become one: the second ends, for its session is the first one's now."""
        more = self.facts(tmp_path, "192.0.2.253")
        for other in self.live(Home.of("other", more), more):
            both = self.facts(tmp_path, "192.0.2.254", "192.0.2.253")
            assert self.taken("other", both) == other.name
            assert old.adopt() is None
