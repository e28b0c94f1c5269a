"""`bgpcni speaker`, with a real ExaBGP that has no neighbour, so that nothing leaves this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bgpcni.errors import CniError
from bgpcni.model import NodeFacts
from bgpcni.testing import Woken
from bgpcni.testing.patience import SECONDS, until
from bgpcni_exabgp import protocol, supervisor
from bgpcni_exabgp.advertised import Advertised
from bgpcni_exabgp.claim import Claim
from bgpcni_exabgp.events import Events
from bgpcni_exabgp.process import Home, Running
from bgpcni_exabgp.received import AdjRibIn
from bgpcni_exabgp.receiver import Receiver
from bgpcni_exabgp.shared import Shared
from bgpcni_exabgp.speaker import Speaker
from bgpcni_exabgp.supervisor import Ours

NOTHING = "process p { run /bin/sleep 1000; encoder json; }\n"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(str(tmp_path), "exabgp", None)


class Started:
    """A speaker in a thread."""

    def __init__(self, home: Home) -> None:
        self.speaker = Speaker(home)
        self.home = home
        self.thread = threading.Thread(target=self.speaker.run)
        self.thread.start()

    def exabgp(self, other: int = 0) -> int:
        """The pid of ExaBGP, of another one than this.

        Nothing is adopted here: whoever adopts a child that has just died learns how it ended, in the speaker's place.
        """

        found = [0]

        def another() -> bool:
            found.append(int((self.home.claimed() or {}).get("pid", 0)))
            return found[-1] not in (0, other)

        until(another)
        return found[-1]

    def stop(self) -> None:
        self.speaker.stop()
        self.thread.join(SECONDS)
        assert not self.thread.is_alive()


@pytest.fixture
def speaker(home: Home) -> Iterator[Started]:
    made = Started(home)
    yield made
    made.stop()
    assert home.claimed() is None


def test_it_waits_for_a_configuration_and_ends_with_it(home: Home, speaker: Started) -> None:
    """Nothing is started before the agent wrote one. When the agent empties it, ExaBGP ends, but not when somebody
    wipes the folder."""
    until(lambda: home.apart() is not None)
    assert home.claimed() is None
    relay = " ".join(home.relay_command())
    home.write_configuration(f"process p {{ run {relay}; encoder json; }}\n")
    assert speaker.exabgp()
    until(home.socket.exists)  # it has read its configuration
    apart = home.apart()
    assert apart is not None
    assert (apart.count, apart.ending) == (1, "")
    pid = speaker.exabgp()
    for path in home.folder.iterdir():
        path.unlink()
    until(lambda: home.claimed() is not None and home.apart() is not None)
    assert speaker.exabgp() == pid
    home.write_configuration("")
    until(lambda: home.claimed() is None)
    home.write_configuration(NOTHING)
    assert speaker.exabgp()


def test_an_exabgp_that_dies_is_started_again(home: Home, speaker: Started) -> None:
    """And the agent can read how it ended."""
    home.write_configuration(NOTHING)
    pid = speaker.exabgp()
    os.kill(pid, signal.SIGKILL)
    assert speaker.exabgp(other=pid) != pid
    apart = home.apart()
    assert apart is not None
    assert apart.ending == "it was killed by signal 9 (SIGKILL)"


def test_a_bad_configuration_is_said_and_a_better_one_is_taken(home: Home, speaker: Started) -> None:
    """Without waiting for the pause that grows with each failure."""
    home.write_configuration("neighbor nonsense {\n}\n")

    said = 'it ended with exit status 1: "nonsense" is an invalid IP address'
    until(lambda: (apart := home.apart()) is not None and apart.ending == said)
    home.write_configuration(NOTHING)
    assert speaker.exabgp()


def test_there_is_one_speaker(home: Home, speaker: Started) -> None:
    """A second one for the same folder is refused; after a wiped folder too."""
    until(lambda: home.apart() is not None)
    with pytest.raises(CniError, match="another bgpcni speaker runs"):
        Speaker(home).run()
    home.speaker.unlink()
    until(lambda: home.apart() is not None)


def test_the_agents_own_exabgp_is_not_disturbed(home: Home) -> None:
    """The speaker waits until the agent has ended it, and runs its own then."""
    home.write_configuration(NOTHING)
    own = home.start("agent")
    until(lambda: home.claimed() is not None)
    speaker = Started(home)
    try:
        until(lambda: home.apart() is not None)
        assert not own.wait(0.5)
        own.end(time.monotonic() + SECONDS)
        assert speaker.exabgp() != own.identity.pid
    finally:
        speaker.stop()
        own.close()


def test_an_exabgp_of_an_earlier_speaker_is_adopted(home: Home) -> None:
    """A speaker that was killed left it; the next one goes on with it, and ends it with itself."""
    home.write_configuration(NOTHING)
    left = home.start("speaker")
    until(lambda: home.claimed() is not None)
    speaker = Started(home)
    until(lambda: home.apart() is not None)
    assert not left.wait(0.5)
    apart = home.apart()
    assert apart is not None
    assert apart.count == 0
    speaker.stop()
    assert left.wait(SECONDS)
    left.close()


def waiting_agent(home: Home) -> tuple[supervisor.Supervisor, Shared]:
    """The part of the agent that starts ExaBGP, which waits for a speaker in a thread; that thread's end is awaited."""
    node = NodeFacts(run_dir=str(home.folder), data_dir=str(home.folder), asn=1, graceful_restart=0)
    shared = Shared(Advertised((), 0, 0.0))
    events = Events(node, shared, Receiver("test", AdjRibIn(), shared.post), Woken(), configured=True)
    return supervisor.Supervisor("test", node, home, shared, events), shared


@pytest.mark.parametrize("comes", ["speaker", "exabgp", "end"])
def test_an_agent_waits_for_a_speaker_that_was_there(home: Home, comes: str) -> None:
    """It starts no ExaBGP meanwhile, and goes on when the speaker comes, or an ExaBGP, or when the agent ends."""
    home.speaker.touch()
    agent, shared = waiting_agent(home)
    thread = threading.Thread(target=agent._await_speaker, args=[home])
    thread.start()
    until(lambda: "is waited for" in (shared.advertised.offline or ""))
    assert thread.is_alive()
    claim = Claim(home.speaker if comes == "speaker" else home.identity)
    if comes == "end":
        agent.close()
    else:
        assert claim.take()
    thread.join(SECONDS)
    assert not thread.is_alive()
    claim.release()


def test_an_agent_does_not_wait_for_ever(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A speaker that does not come back is not waited for again by the next agent either."""
    monkeypatch.setattr(supervisor, "GRACE", 0.0)
    home.speaker.touch()
    waiting_agent(home)[0]._await_speaker(home)
    assert not home.speaker.exists()


class Ended(Running):
    """Notes that it was ended."""

    ended = False

    def __init__(self, by: str) -> None:
        self.by = by  # type: ignore[assignment]

    def end(self, deadline: float, *, keep_routes: bool = False) -> bool:
        self.ended = True
        return True


@pytest.mark.parametrize(("by", "ends"), [("agent", True), ("speaker", False)])
def test_a_protocol_that_is_too_old_or_too_new(home: Home, by: str, ends: bool) -> None:
    """An ExaBGP that the agent started is replaced. One of `bgpcni speaker` would only come again, so it is told."""
    running = Ended(by)
    reason = supervisor._refused(Ours(home, running, ""), protocol.EngineState(protocol.PROTOCOL + 2, 0, "", ()))
    assert running.ended is ends
    assert ("they must not be more than one apart" in reason) is not ends


def command(*argv: str | Path) -> subprocess.Popen[str]:
    """`bgpcni speaker` as a process."""
    words = [sys.executable, "-m", "bgpcni.operator.cli", "speaker", *map(str, argv)]
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True)


def test_the_command_ends_in_order(home: Home) -> None:
    """SIGTERM: exit status 0, and ExaBGP does not outlive it."""
    home.write_configuration(NOTHING)
    with command("--run-dir", home.folder) as process:
        until(lambda: home.claimed() is not None)
        process.terminate()
        assert process.wait(SECONDS) == 0
        assert home.claimed() is None


@pytest.mark.parametrize(
    ("kind", "words"),
    [("kernel", "it has no speaker that bgpcni runs"), ("nothing", "exporters: 'nothing' is not installed")],
)
def test_an_exporter_without_a_speaker(home: Home, kind: str, words: str) -> None:
    """The error names what is wrong, and the exit status is 1."""
    with command("--run-dir", home.folder, "--type", kind) as process:
        assert process.stderr
        assert words in process.stderr.read()
        assert process.wait(SECONDS) == 1
