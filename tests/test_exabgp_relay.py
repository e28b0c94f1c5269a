"""The relay between ExaBGP's pipes and an agent, as a process of its own; the test is ExaBGP."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bgpcni.testing.patience import SECONDS

UP = '{"type": "state", "neighbor": {"address": {"peer": "192.0.2.1"}, "state": "up"}}'
DOWN = UP.replace('"up"', '"down"')
NEGOTIATED = (
    '{"type": "negotiated", "neighbor": {"address": {"peer": "192.0.2.1"}, "negotiated": '
    '{"families": ["ipv4 unicast", "l2vpn evpn"], "nexthop": []}}}'
)
BEFORE_5_0_15 = NEGOTIATED.replace('["ipv4 unicast", "l2vpn evpn"]', "[ ipv4 unicast ,l2vpn evpn ]")


class Exabgp:
    """ExaBGP's end of the pipes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-m", "bgpcni_exabgp.relay", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def say(self, *lines: str) -> None:
        assert self.process.stdin
        self.process.stdin.write("".join(line + "\n" for line in lines))
        self.process.stdin.flush()

    def hear(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().rstrip("\n")

    def agent(self) -> Agent:
        end = time.monotonic() + SECONDS
        while True:
            try:
                return Agent(self.path)
            except OSError:
                assert time.monotonic() < end
                assert self.process.poll() is None


class Agent:
    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(SECONDS)
        self.socket.connect(str(path))
        self.lines = self.socket.makefile("r")

    def hear(self) -> str:
        return self.lines.readline().rstrip("\n")

    def hello(self) -> dict:
        return json.loads(self.hear())["relay"]

    def say(self, text: str) -> None:
        self.socket.sendall(text.encode())

    def close(self) -> None:
        self.lines.close()
        self.socket.close()


@pytest.fixture
def exabgp(tmp_path: Path) -> Iterator[Exabgp]:
    made = Exabgp(tmp_path / "relay.sock")
    yield made
    made.process.kill()
    made.process.wait(SECONDS)
    for pipe in (made.process.stdin, made.process.stdout):
        if pipe is not None:
            pipe.close()


def test_lines_go_both_ways(exabgp):
    """What the agent says reaches ExaBGP, what ExaBGP says reaches the agent; the socket is its owner's alone."""
    agent = exabgp.agent()
    assert agent.hello() == {"version": 1, "up": {}, "down": [], "lost": 0}
    assert exabgp.path.stat().st_mode & 0o077 == 0
    agent.say("bgpcni state\n")
    assert exabgp.hear() == "bgpcni state"
    exabgp.say("done", UP)
    assert [agent.hear(), agent.hear()] == ["done", UP]


@pytest.mark.parametrize("negotiated", [NEGOTIATED, BEFORE_5_0_15])
def test_an_agent_that_connects_hears_of_sessions_and_of_what_it_missed(exabgp, negotiated):
    """Sessions that came up while nobody was there, with their families; those that fell; the lines dropped."""
    first = exabgp.agent()
    first.hello()
    exabgp.say(negotiated, UP)
    families = ["ipv4/unicast", "l2vpn/evpn"]
    assert json.loads(first.hear()) == {"relay": {"peer": "192.0.2.1", "families": families}}
    assert first.hear() == UP
    second = exabgp.agent()
    assert second.hello()["up"] == {"192.0.2.1": families}
    assert first.hear() == ""
    exabgp.say(DOWN)
    assert second.hear() == DOWN
    assert exabgp.agent().hello()["down"] == ["192.0.2.1"]


def test_answers_owed_to_an_earlier_agent_are_not_given_to_the_next(exabgp):
    """Answers to lines of an earlier agent, and half a line of it, are not passed on."""
    first = exabgp.agent()
    first.hello()
    first.say("one\ntwo\nhalf a li")
    assert [exabgp.hear(), exabgp.hear()] == ["one", "two"]
    second = exabgp.agent()
    second.hello()
    second.say("three\n")
    assert exabgp.hear() == "three"
    exabgp.say("done", "done", "error")
    assert second.hear() == "error"


def test_what_exabgp_would_die_of_is_not_passed_on(exabgp):
    """A line that is not ASCII ends that agent's connection, not ExaBGP's process."""
    agent = exabgp.agent()
    agent.hello()
    agent.say("über\n")
    assert agent.hear() == ""
    again = exabgp.agent()
    again.hello()
    again.say("fine\n")
    assert exabgp.hear() == "fine"


def test_it_survives_what_it_does_not_understand(exabgp):
    """The relay survives lines of ExaBGP that it does not know, and always reads them."""
    agent = exabgp.agent()
    agent.hello()
    exabgp.say('{"type": "state", broken', '{"type": "state"}', *["x" * 1000] * 2000, "done")
    assert [agent.hear() for _ in range(2000)] == ["x" * 1000] * 2000


def test_it_ends_with_exabgp(exabgp):
    """It ends when ExaBGP closes its end, and only then."""
    exabgp.agent().close()
    assert exabgp.process.poll() is None
    exabgp.process.stdin.close()
    assert exabgp.process.wait(SECONDS) == 0


def test_a_socket_that_was_removed_is_made_again(exabgp):
    """The agent that is connected stays so, and the next one finds the socket; it is the owner's alone."""
    first = exabgp.agent()
    first.hear()
    exabgp.path.unlink()
    second = exabgp.agent()
    second.hear()
    assert exabgp.path.stat().st_mode & 0o777 == 0o600
    exabgp.say('{"type": "x"}')
    assert second.hear() == '{"type": "x"}'
