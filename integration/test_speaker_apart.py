"""`bgpcni speaker` in a PID namespace of its own, as in a pod, and the agent in another: neither's end is an event to a
peer with graceful restart."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bgpcni.testing.patience import SECONDS
from bgpcni_exabgp.process import Home, home_name
from integration.lab import CniAnswer, Frr, Lab, Namespace, Node, until
from integration.lab.node import BGPCNI
from integration.seen import (
    add,
    announced,
    delete,
    dual,
    freeze,
    nothing_stays,
    pinged,
    prefixes,
    session,
    settled,
    withdrawn,
)


class Pod:
    """A program of ours as the first process of its own PID namespace, in the node's network namespace."""

    def __init__(self, lab: Lab, node: Node, log: Path, *argv: str | Path) -> None:
        unshare = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
        self.process = node.namespace.popen(*node._private(), *unshare, BGPCNI, *argv, log=log)
        lab.callback(lambda: self.end(signal.SIGKILL))
        proc = Path(f"/proc/{self.process.pid}")

        def children() -> list[str]:  # of `unshare`, and not of the shell that it was before
            return (proc / f"task/{proc.name}/children").read_text().split() if name() == "unshare" else []

        def name() -> str:
            return (proc / "comm").read_text().strip()

        self.pid = int(until(children, "the first process of the pod")[0])

    def end(self, number: int) -> int:
        """Signal the program, and wait for the end of its whole namespace."""
        if self.process.poll() is None:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                pass
        return self.process.wait(SECONDS)


class Pods:
    """Agent and speaker of one node, each in its own pod, and what FRR sees of them."""

    def __init__(self, lab: Lab, frr: Frr, node: Node) -> None:
        self.lab, self.frr, self.node = lab, frr, node
        node.configure()

    def agent(self) -> Pod:
        pod = Pod(
            self.lab, self.node, self.node.log, "agent", "--config", self.node.config, "--socket", self.node.socket
        )
        until(lambda: "peers" in self.node.operator("peers").document, "an agent that answers")
        return pod

    def speaker(self, name: str = "exabgp") -> Pod:
        log = self.node.folder / f"speaker-{name}.log"
        return Pod(self.lab, self.node, log, "speaker", "--run-dir", self.node.run_dir, "--name", name)

    def engines(self) -> list[int]:
        """Every ExaBGP on this node's folder, by the machine's pids."""
        command = ["pgrep", "-f", f"bgpcni_exabgp.engine {self.node.run_dir}"]
        return [int(pid) for pid in subprocess.run(command, capture_output=True, text=True).stdout.split()]

    def engine(self, other: int = 0) -> int:
        """The one ExaBGP that runs; another one than this."""

        def one() -> int:
            (pid,) = self.engines()
            return pid if pid != other else 0

        return until(one, "one ExaBGP")

    def versions(self, answer: CniAnswer) -> dict[str, int]:
        """FRR's versions of the routes: each change of a route, also a withdrawal, makes another one."""
        return {prefix: self.frr.route(prefix)["version"] for prefix in prefixes(answer)}

    def keeps(self, answer: CniAnswer, until_so: Callable[[], object], what: str) -> None:
        """FRR has the routes at each look until something is so."""

        def look() -> object:
            assert all(self.frr.paths(prefix) for prefix in prefixes(answer)), "a route was gone"
            return until_so()

        until(look, what)


@pytest.fixture
def pods(lab: Lab) -> Pods:
    frr = lab.frr()
    return Pods(lab, frr, lab.node(frr))


@pytest.fixture
def space(lab: Lab) -> Namespace:
    return lab.container("a")


def begun(pods: Pods, space: Namespace) -> tuple[Pod, Pod, CniAnswer]:
    """Speaker, agent, and one container's routes at FRR, with End-of-RIB."""
    frr, node = pods.frr, pods.node
    speaker = pods.speaker()
    home = Home(str(node.run_dir), home_name("exabgp"), None)
    until(lambda: home.apart() is not None, "the speaker's claim; an agent before it starts an ExaBGP of its own")
    agent = pods.agent()
    frr.wait_established(node.address)
    answer = add(node, "c1", space, dual(node))
    announced(frr, node, answer)
    until(lambda: frr.neighbor(node.address)["gracefulRestartInfo"]["endOfRibRecv"], "End-of-RIB")
    return speaker, agent, answer


def test_an_agent_is_restarted(pods: Pods, space: Namespace) -> None:
    """Killed, ended, and started in yet another PID namespace: same session, same ExaBGP, no change of a route at FRR.
    A new agent.toml reaches ExaBGP, and touches only what it changes."""
    frr, node = pods.frr, pods.node
    _, agent, answer = begun(pods, space)
    before, pid, versions = session(frr, node), pods.engine(), pods.versions(answer)
    for number in (signal.SIGKILL, signal.SIGTERM):
        agent.end(number)
        pinged(frr, answer)
        agent = pods.agent()
        settled(node)
        assert (session(frr, node), pods.engine(), pods.versions(answer)) == (before, pid, versions)
    neighbors = node.agent_config()["bgp"]["neighbors"]
    far: dict[str, Any] = {"address": "198.18.250.1", "asn": 64999}
    for more in ([far], []):
        node.configure(bgp={"neighbors": [*neighbors, *more]})
        assert node.operator("reload").code == 0
        count = 1 + len(more)
        until(lambda c=count: len(node.operator("peers").document["peers"]) == c, "the peers")  # type: ignore[misc]
        known = (node.run_dir / "exabgp.conf").read_text()
        assert (far["address"] in known) is bool(more)
        until(lambda: node.routes()[0]["exporters"]["exabgp"]["state"] == "announced", "the routes again")
    assert (session(frr, node), pods.engine()) == (before, pid)
    delete(node, "c1", space, dual(node))
    withdrawn(frr, answer)
    nothing_stays(node, space)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_speaker_is_restarted(pods: Pods, space: Namespace, number: int) -> None:
    """FRR, a helper of graceful restart, keeps the unicast routes until the next speaker's ExaBGP has announced them.
    The agent starts no ExaBGP of its own meanwhile."""
    frr, node = pods.frr, pods.node
    speaker, _, answer = begun(pods, space)
    before = session(frr, node)
    status = speaker.end(number)
    assert status == 0 or number == signal.SIGKILL
    pods.keeps(answer, lambda: not pods.engines(), "the end of ExaBGP with its speaker")

    def told() -> bool:
        return "bgpcni speaker" in json.dumps(node.operator("status").document)

    pods.keeps(answer, told, "that status names the speaker")
    assert pods.engines() == []
    pods.speaker()
    pods.keeps(answer, lambda: session(frr, node)[0] > before[0] and frr.established(node.address), "a new session")
    pods.keeps(answer, lambda: node.operator("routes").code == 0, "every route announced")
    pinged(frr, answer)
    delete(node, "c1", space, dual(node))
    withdrawn(frr, answer)
    nothing_stays(node, space)


@pytest.mark.parametrize("how", ["killed", "hangs"])
def test_exabgp_dies_or_hangs(pods: Pods, lab: Lab, space: Namespace, how: str) -> None:
    """The speaker starts it again. One that hangs is ended by the agent, which cannot see its process."""
    frr, node = pods.frr, pods.node
    _, _, answer = begun(pods, space)
    pid, before = pods.engine(), session(frr, node)
    if how == "killed":
        os.kill(pid, signal.SIGKILL)
        pods.keeps(answer, lambda: pods.engine(other=pid), "another ExaBGP")
    else:
        freeze(lab, pid)
        delete(node, "c1", space, dual(node))
        assert pods.engine(other=pid)
    until(lambda: session(frr, node)[0] > before[0] and frr.established(node.address), "a new session")
    settled(node)
    if how == "killed":
        delete(node, "c1", space, dual(node))
    withdrawn(frr, answer)
    nothing_stays(node, space)


def test_drain_ends_exabgp_and_not_the_speaker(pods: Pods, space: Namespace) -> None:
    """Every route is withdrawn, and ExaBGP ends in order. Its speaker goes on, and starts one for the next agent."""
    frr, node = pods.frr, pods.node
    speaker, agent, answer = begun(pods, space)
    drained = node.operator("drain")
    assert (drained.code, drained.document["drained"]) == (0, True)
    withdrawn(frr, answer)
    until(lambda: not frr.established(node.address), "the end of the session")
    agent.end(signal.SIGTERM)
    assert pods.engines() == []
    assert speaker.process.poll() is None
    pods.agent()
    announced(frr, node, answer)
    assert pids_of(speaker, pods.engines())
    delete(node, "c1", space, dual(node))
    nothing_stays(node, space)


def test_each_exporter_has_its_speaker(pods: Pods, lab: Lab, space: Namespace) -> None:
    """An exporter gets another name, by reload: its ExaBGP goes on under the old speaker, with no event to FRR. Once
    there is a speaker of the new name, that runs ExaBGP, and FRR keeps the routes meanwhile."""
    frr, node = pods.frr, pods.node
    speaker, _, answer = begun(pods, space)
    before, pid = session(frr, node), pods.engine()
    node.configure(exporters={"far": {"type": "exabgp"}})
    assert node.operator("reload").code == 0
    settled(node)
    assert (session(frr, node), pods.engine()) == (before, pid)
    other = pods.speaker("far")
    pods.keeps(answer, lambda: pids_of(other, pods.engines()) and session(frr, node)[0] > before[0], "the move")
    pods.keeps(answer, lambda: node.operator("routes").code == 0, "every route announced")
    assert speaker.end(signal.SIGTERM) == 0
    assert pids_of(other, pods.engines())
    assert node.operator("status").code == 0
    delete(node, "c1", space, dual(node))
    withdrawn(frr, answer)
    nothing_stays(node, space)


def test_a_speaker_that_comes_later_takes_over(pods: Pods, space: Namespace) -> None:
    """The agent runs ExaBGP until there is a speaker, and hands over to it without losing a route at FRR."""
    frr, node = pods.frr, pods.node
    node.start_agent()
    frr.wait_established(node.address)
    answer = add(node, "c1", space, dual(node))
    announced(frr, node, answer)
    until(lambda: frr.neighbor(node.address)["gracefulRestartInfo"]["endOfRibRecv"], "End-of-RIB")
    pid, before = pods.engine(), session(frr, node)
    speaker = pods.speaker()

    def taken_over() -> bool:
        return pids_of(speaker, pods.engines()) and session(frr, node)[0] > before[0]

    pods.keeps(answer, taken_over, "the speaker's ExaBGP")
    assert pid not in pods.engines()
    pods.keeps(answer, lambda: node.operator("routes").code == 0, "every route announced")
    delete(node, "c1", space, dual(node))
    withdrawn(frr, answer)
    nothing_stays(node, space)


def pids_of(pod: Pod, pids: list[int]) -> bool:
    """Whether the one process is in the pod."""
    return len(pids) == 1 and os.readlink(f"/proc/{pids[0]}/ns/pid") == os.readlink(f"/proc/{pod.pid}/ns/pid")


def test_an_agent_adopts_an_exabgp_that_it_cannot_see(pods: Pods, space: Namespace) -> None:
    """An agent left it in the machine's PID namespace, and one in another adopts it: no event to FRR. It can reload and
    end it all the same."""
    frr, node = pods.frr, pods.node
    node.start_agent()
    frr.wait_established(node.address)
    answer = add(node, "c1", space, dual(node))
    announced(frr, node, answer)
    before, pid, versions = session(frr, node), pods.engine(), pods.versions(answer)
    node.kill_agent()
    pods.agent()
    settled(node)
    assert (session(frr, node), pods.engine(), pods.versions(answer)) == (before, pid, versions)
    node.configure(bgp={"graceful_restart": 60})
    assert node.operator("reload").code == 0
    until(lambda: session(frr, node)[0] > before[0] and frr.established(node.address), "a session of the new terms")
    settled(node)
    assert pods.engine() == pid
    assert node.operator("drain").code == 0
    withdrawn(frr, answer)
    until(lambda: not pods.engines(), "the end of ExaBGP")
