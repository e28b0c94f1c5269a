"""Which files an exporter uses: those of an ExaBGP that has its sessions, else those of its own name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from bgpcni.model import Family, Neighbor, NodeFacts
from bgpcni.testing.patience import SECONDS
from bgpcni_exabgp.claim import Claim
from bgpcni_exabgp.configure import configure
from bgpcni_exabgp.homes import Homes
from bgpcni_exabgp.process import Home

FIRST, SECOND = "192.0.2.254", "192.0.2.253"
HOLDER = """
import sys
from pathlib import Path
from bgpcni_exabgp.claim import Claim
assert Claim(Path(sys.argv[1]), by=sys.argv[2]).take()
print(flush=True)
sys.stdin.read()
"""


class Folder:
    """A node's folder, and what runs in it."""

    def __init__(self, path: Path, until: ExitStack) -> None:
        self.path = path
        self._until = until

    def facts(self, *peers: str, speakers: tuple[str, ...] = ()) -> NodeFacts:
        neighbors = tuple(Neighbor(peer, 64512, (Family.IPV4_UNICAST,), 90) for peer in peers)
        return NodeFacts(
            run_dir=str(self.path), data_dir=str(self.path), asn=64512, router_id="192.0.2.1",
            local_address="192.0.2.1", neighbors=neighbors, has_bgp=True, speakers=speakers,
        )  # fmt: skip

    def taken(self, exporter: str, facts: NodeFacts) -> str:
        """The name of the home that an exporter would have now."""
        homes = Homes(exporter, facts)
        name = homes.take().name
        homes.leave()
        return name

    def live(self, exporter: str, facts: NodeFacts, by: str = "agent") -> Home:
        """A process that holds ExaBGP's lock in the home of an exporter, with its configuration."""
        home = Homes(exporter, facts).home
        home.write_configuration(configure(facts, home.relay_command(), {}))
        child = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(home.identity), by], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._until.callback(child.communicate)
        self._until.callback(child.kill)
        assert child.stdout
        assert child.stdout.readline()
        return home

    def speaker(self, exporter: str) -> Claim:
        """A `bgpcni speaker` for an exporter, of which only its lock counts here."""
        claim = Claim(Homes(exporter, self.facts()).home.speaker, python=sys.executable, ending="", count=0)
        assert claim.take()
        self._until.callback(claim.release)
        return claim


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    with ExitStack() as until:
        yield Folder(tmp_path, until)


@pytest.fixture
def old(folder: Folder) -> Home:
    """The ExaBGP of an exporter `old`, with one session."""
    return folder.live("old", folder.facts(FIRST))


def alive(home: Home) -> bool:
    return home.claimed() is not None


def test_each_exporter_has_files_of_its_own(folder: Folder) -> None:
    """A name that no file can have makes no difference."""
    names = [folder.taken(name, folder.facts(FIRST)) for name in ("exabgp", "a", "b", "a/b")]
    assert names[:3] == ["exabgp", "exabgp-a", "exabgp-b"]
    assert len(set(names)) == 4
    assert "/" not in names[3]


def test_a_speaker_is_known_by_its_sessions(folder: Folder, old: Home) -> None:
    """Its exporter has another name now. Sessions with other peers, or from another address, are not ours."""
    assert folder.taken("new", folder.facts(FIRST, SECOND)) == old.name
    assert folder.taken("new", folder.facts(SECOND)) == "exabgp-new"
    moved = replace(folder.facts(FIRST), local_address="192.0.2.2")
    assert folder.taken("new", moved) == "exabgp-new"
    assert folder.taken("old", moved) == f"{old.name}@2", "another exporter hands over from it, or it ends"
    assert folder.taken("old", folder.facts(SECOND)) == old.name, "it has other neighbours now"
    assert folder.taken("old", folder.facts()) == old.name, "it has none now, and is to end"


def test_a_speaker_is_known_where_the_kernel_chooses_its_address(folder: Folder) -> None:
    """A neighbour with IPv6 only, and a node whose local_address is IPv4."""
    facts = folder.facts("2001:db8::1")
    home = folder.live("old", facts)
    assert folder.taken("old", facts) == folder.taken("new", facts) == home.name


def test_a_speaker_of_another_exporter_stays(folder: Folder, old: Home) -> None:
    """A neighbour moved from one exporter to another: the first ends the session when it reads its configuration."""
    assert folder.taken("new", folder.facts(FIRST, speakers=("new", "old"))) == "exabgp-new"


def test_two_exporters_never_have_one_speaker(folder: Folder, old: Home) -> None:
    """Neither have two of one name, while a reload hands over from one to the other."""
    first, second = Homes("new", folder.facts(FIRST)), Homes("old", folder.facts(FIRST))
    try:
        assert (first.take().name, second.take().name) == (old.name, f"{old.name}@2")
        assert first.take().name == old.name, "it keeps it from one life of ExaBGP to the next"
    finally:
        first.leave()
        second.leave()


def test_what_two_had_is_one_afterwards(folder: Folder, old: Home) -> None:
    """Two speakers become one: the second ends, since the first has its session now."""
    other = folder.live("other", folder.facts(SECOND))
    assert folder.taken("other", folder.facts(FIRST, SECOND)) == other.name
    assert not alive(old)
    assert alive(other)


def test_what_nobody_took_ends(folder: Folder, old: Home) -> None:
    """The node has another address since the agent's last run, and no exporter hands over from the old one."""
    homes = Homes("old", replace(folder.facts(FIRST), local_address="192.0.2.2"))
    earlier = Homes("old", folder.facts(FIRST))
    try:
        assert homes.take().name == f"{old.name}@2"
        assert earlier.take().name == old.name
        homes.sweep()
        assert alive(old), "an exporter of this process has it"
        earlier.leave()
        homes.sweep()
        assert not alive(old)
    finally:
        homes.leave()
        earlier.leave()


class TestSpeakers:
    """With a `bgpcni speaker` in another pod."""

    def test_each_exporter_uses_the_speaker_of_its_name(self, folder: Folder) -> None:
        """Before there is any configuration, which that speaker waits for."""
        folder.speaker("a")
        folder.speaker("b")
        facts = folder.facts(FIRST, speakers=("a", "b"))
        assert (folder.taken("b", facts), folder.taken("a", facts)) == ("exabgp-b", "exabgp-a")
        assert folder.taken("exabgp", folder.facts(FIRST)) == "exabgp", "a speaker that is another exporter's"

    def test_a_speaker_that_was_there_is_waited_for(self, folder: Folder, old: Home) -> None:
        """It ended, and its ExaBGP with it. It is that of our sessions all the same, whatever the exporter's name."""
        folder.speaker("old").release()
        folder._until.close()
        assert not alive(old)
        assert folder.taken("new", folder.facts(FIRST)) == old.name

    def test_an_exporter_moves_to_a_speaker_of_its_name(self, folder: Folder, old: Home) -> None:
        """It was renamed, and then a speaker comes under its new name. The ExaBGP of the old name ends."""
        homes = Homes("new", folder.facts(FIRST))
        try:
            assert homes.take().name == old.name
            assert not homes.better()
            folder.speaker("new")
            assert homes.better()
            assert homes.take().name == "exabgp-new"
            assert not alive(old)
            assert not homes.better()
        finally:
            homes.leave()

    def test_the_speaker_of_an_old_name_starts_nothing_more(self, folder: Folder) -> None:
        """Its configuration is empty, once the speaker of the new name has the sessions."""
        old = folder.live("old", folder.facts(FIRST), by="speaker")
        folder.speaker("old")
        assert folder.taken("new", folder.facts(FIRST)) == old.name
        folder.speaker("new")
        assert folder.taken("new", folder.facts(FIRST)) == "exabgp-new"
        assert old.dismissed()
        running = old.adopt()
        assert running is None or running.wait(SECONDS)
