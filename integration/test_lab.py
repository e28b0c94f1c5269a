"""The laboratory itself: FRR speaks BGP in a namespace and in a container, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from bgpcni.testing.patience import SECONDS
from integration.lab import Frr, Lab, Namespace, Neighbor, NeverHappened, link, sweep, until
from integration.lab.namespace import NETNS, PREFIX, alive
from integration.lab.node import to_toml

PEER, PEER6 = "198.18.200.2", "2001:db8:18:200::2"
PREFIX4, PREFIX6 = "203.0.113.7/32", "2001:db8:7::7/128"


def words(file: Path) -> list[str]:
    """What a file says; nothing if it is not there yet."""
    return file.read_text().split() if file.exists() else []


@pytest.fixture
def other(lab: Lab, frr: Frr) -> Frr:
    """A second FRR, in a namespace, with a session to `frr` and one prefix of each family."""
    other = lab.frr(router_id="198.18.255.2", asn=64513, networks=[PREFIX4, PREFIX6])
    ours, theirs = ("198.18.200.1/24", "2001:db8:18:200::1/64"), (f"{PEER}/24", f"{PEER6}/64")
    link(frr.namespace, other.namespace, "peer", "peer", ours, theirs)
    for address in (PREFIX4, PREFIX6):
        other.namespace.ip("address", "add", address, "dev", "lo")
    other.add_neighbor(Neighbor("198.18.200.1", 64512))
    frr.add_neighbor(Neighbor(PEER, 64513))
    return other


def test_frr_learns_routes_and_reaches_what_is_behind_them(frr: Frr, other: Frr) -> None:
    """What a peer announces is in FRR's table, in its kernel, and answers pings from FRR's side."""
    frr.wait_established(PEER)
    until(lambda: frr.next_hops(PREFIX4) == {PEER}, "the IPv4 route")
    until(lambda: frr.next_hops(PREFIX6) == {PEER6}, "the IPv6 route")
    until(lambda: frr.kernel_route(PREFIX4) and frr.kernel_route(PREFIX6), "both routes in the kernel")
    until(lambda: frr.ping("203.0.113.7", "198.18.200.1"), "an answer over IPv4")
    until(lambda: frr.ping("2001:db8:7::7"), "an answer over IPv6")
    assert frr.received(PEER) == 1
    assert frr.paths("203.0.113.8/32") == []
    other.configure("router bgp 64513", "address-family ipv4 unicast", f"no network {PREFIX4}")
    until(lambda: not frr.paths(PREFIX4), "the withdraw")


def test_frr_killed_and_restarted_learns_again(frr: Frr, other: Frr) -> None:
    """kill -9 ends bgpd, and after a start it has its session and its routes again."""
    until(lambda: frr.next_hops(PREFIX4), "the route")
    first = frr.pid()
    frr.kill(signal.SIGKILL)
    assert not frr.running()
    with pytest.raises((ConnectionError, FileNotFoundError)):
        frr.text("show version")
    frr.start()
    assert frr.pid() != first
    until(lambda: frr.next_hops(PREFIX4) == {PEER}, "the route, again")


def test_the_laboratory_leaves_nothing_behind(here: None) -> None:
    """After `close` its namespaces, processes and folder are gone."""
    with Lab() as lab:
        frr = lab.frr()
        space = lab.namespace("s")
        sleeper = space.popen("sleep", "1000")
        until(lambda: sleeper.pid in space.pids(), "that it sleeps inside")
        pids = [frr.pid("zebra"), frr.pid("bgpd")]
        paths = [frr.namespace.path, lab.folder]
        assert all(path.exists() for path in paths)
    assert sleeper.wait(SECONDS) == -signal.SIGKILL
    assert not any(pid and alive(pid) for pid in pids)
    assert not any(path.exists() for path in paths)


def test_a_dead_runs_leftovers_are_swept(here: None, tmp_path: Path) -> None:
    """A run that was killed with SIGKILL leaves things behind; the next run removes them by the name's pid."""
    ready = tmp_path / "ready"
    script = f"""
import pathlib, time
from integration.lab import Lab
lab = Lab()
frr = lab.frr()
pathlib.Path({str(ready)!r}).write_text(f"{{frr.namespace.name}} {{frr.pid()}} {{lab.folder}}")
time.sleep(1000)
"""
    run = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[1])
    name, pid, folder = until(lambda: words(ready), "the other run's laboratory")
    run.kill()
    run.wait()
    assert (NETNS / name).exists()
    assert alive(int(pid))
    assert name in sweep()
    assert not (NETNS / name).exists()
    until(lambda: not alive(int(pid)), "the end of a process that was killed")
    assert not Path(folder).exists()


def test_sigterm_takes_the_fixtures_down(here: None, tmp_path: Path) -> None:
    """A terminated test session removes what its tests had made."""
    ready = tmp_path / "ready"
    (tmp_path / "test_inner.py").write_text(
        "import pathlib, threading\n"
        "def test_waits(lab):\n"
        "    frr = lab.frr()\n"
        f"    pathlib.Path({str(ready)!r}).write_text(f'{{frr.namespace.name}} {{lab.folder}}')\n"
        "    threading.Event().wait(1000)\n"
    )
    root = Path(__file__).parents[1]
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "integration.conftest",
        "-c",
        f"{root}/pyproject.toml",
        str(tmp_path),
    ]
    inner = subprocess.Popen(argv, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    name, folder = until(lambda: words(ready), "the inner session's laboratory")
    inner.send_signal(signal.SIGTERM)
    output, _ = inner.communicate(timeout=SECONDS)
    assert inner.returncode == 128 + signal.SIGTERM, output
    assert not (NETNS / name).exists()
    assert not Path(folder).exists()


def test_names_say_which_run_they_belong_to(here: None) -> None:
    """Two namespaces never share a name, and each carries this run's pid."""
    with Namespace("a") as one, Namespace("a") as two:
        assert one.name != two.name
        assert one.name.startswith(f"{PREFIX}-{os.getpid()}-")
        assert one.run("ip", "-br", "link").stdout.startswith("lo")


def test_waiting_says_what_it_waited_for() -> None:
    """A wait that fails names what was awaited and what was seen last."""
    with pytest.raises(NeverHappened, match=r"the moon.*seen last: 0"):
        until(lambda: 0, "the moon", seconds=0)


def test_agent_toml_is_read_as_it_was_meant() -> None:
    """The agent's configuration reaches the agent unchanged, whatever is in its strings."""
    document = {
        "run_dir": '/tmp/a "quoted" \\ path',
        "grace": 1.5,
        "bgp": {"asn": 64512, "neighbors": [{"address": "198.18.1.1", "families": ["ipv4-unicast"], "ttl": False}]},
        "networks": {"tenant-a.x": {"exporters": []}},
    }
    assert tomllib.loads(to_toml(document)) == document
