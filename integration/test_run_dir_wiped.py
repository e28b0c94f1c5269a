"""run_dir is wiped while the agent runs: the agent makes it again by itself, and no second agent can start."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from integration.lab import Frr, Lab, Node, until
from integration.lab.node import BGPCNI
from integration.seen import add, announced, delete, dual, nothing_stays, session, settled, speaker, withdrawn


def begun(lab: Lab) -> tuple[Frr, Node]:
    """FRR, and a node whose agent has its socket in run_dir, as by default, and its session."""
    frr = lab.frr()
    node = lab.node(frr)
    node.socket = node.run_dir / "agent.sock"
    node.agent()
    frr.wait_established(node.address)
    return frr, node


def answers(node: Node) -> bool:
    return node.socket.exists() and node.operator("status").code == 0


def exabgps(node: Node) -> list[int]:
    """The engines on this node's run_dir, whoever started them."""
    found = subprocess.run(["pgrep", "-f", f"bgpcni_exabgp.engine {node.run_dir}"], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


@pytest.mark.parametrize("whole", [True, False], ids=["the folder", "what is in it"])
def test_everything_comes_again(lab: Lab, whole: bool) -> None:
    """ADD, DEL and status work again, no other agent and no other ExaBGP starts, the session stays; an agent that is
    started later adopts the same ExaBGP."""
    frr, node = begun(lab)
    conf, first, second = dual(node), lab.container("a"), lab.container("b")
    one = add(node, "c1", first, conf)
    announced(frr, node, one)
    pid, since = speaker(node), session(frr, node)
    for path in [node.run_dir] if whole else list(node.run_dir.iterdir()):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    until(lambda: answers(node), "an agent that answers again")
    two = add(node, "c2", second, conf)
    announced(frr, node, one, two)
    delete(node, "c1", first, conf)
    withdrawn(frr, one)
    argv = (BGPCNI, "agent", "--config", node.config, "--socket", node.folder / "other.sock")
    other = node.namespace.run(*argv, check=False, seconds=60)
    assert other.returncode != 0
    assert "another agent holds" in other.stderr
    until((node.run_dir / "exabgp.pid").exists, "ExaBGP's own files again")
    until((node.run_dir / "exabgp.sock").exists, "ExaBGP's socket again")
    until((node.run_dir / "exabgp.log").exists, "ExaBGP's log again")
    assert json.loads((node.run_dir / "exabgp.pid").read_text())["pid"] == pid
    node.restart_agent()
    settled(node)
    assert (speaker(node), exabgps(node), session(frr, node)) == (pid, [pid], since)
    delete(node, "c2", second, conf)
    nothing_stays(node, first, second)


def test_wiped_while_no_agent_lives(lab: Lab) -> None:
    """The next agent adopts the ExaBGP that runs, though nothing in run_dir tells of it."""
    frr, node = begun(lab)
    conf, space = dual(node), lab.container("a")
    one = add(node, "c1", space, conf)
    announced(frr, node, one)
    pid, since = speaker(node), session(frr, node)
    node.kill_agent()
    shutil.rmtree(node.run_dir)
    node.start_agent()
    settled(node)
    assert (speaker(node), exabgps(node), session(frr, node)) == (pid, [pid], since)
    delete(node, "c1", space, conf)
