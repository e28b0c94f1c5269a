"""`bgpcni doctor` on a whole host whose kernel is the test's own: what is one for all namespaces is provoked here."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from integration.lab import Lab, Node, until
from integration.lab.node import BGPCNI
from integration.seen import dual
from integration.test_doctor import of, write

pytestmark = pytest.mark.kernel("vrf", "mpls", "vlan_filtering")
SYSCTLS = Path("/proc/sys")


@pytest.fixture
def host(lab: Lab) -> Node:
    """A node without an agent, and a network with EVPN."""
    node = lab.node()
    write(node, "10-a.conf", dual(node) | {"exportRT": ["64512:90"], "bgp": {"family": "evpn"}})
    return node


def found(node: Node, code: str) -> list[dict[str, Any]]:
    """What is found of a cause in the host's first namespace, which alone has some settings, and is not well."""
    command = (BGPCNI, "doctor", "--json", "--conf-dir", node.folder / "net.d", "--config", node.config)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    findings = json.loads(done.stdout)["findings"]
    return [finding for finding in findings if finding["code"] == code and finding["level"] != "ok"]


@contextmanager
def setting(name: str, value: int) -> Iterator[None]:
    path = SYSCTLS / name
    before = path.read_text()
    path.write_text(str(value))
    try:
        yield
    finally:
        path.write_text(before)


def test_tables_of_neighbours_that_are_too_small(host: Node) -> None:
    """gc_thresh3 as Linux sets it is a warning with EVPN; when the table is full, an error. IPv6 as IPv4."""
    assert [one["level"] for one in found(host, "neighbour-table")] == ["warning", "warning"]
    limits = [f"net/{version}/neigh/default/gc_thresh3" for version in ("ipv4", "ipv6")]
    with setting(limits[0], 100_000), setting(limits[1], 100_000):
        assert found(host, "neighbour-table") == []
        subprocess.run(["ip", "link", "add", "full", "up", "type", "bridge"], check=True)
        for n in range(1, 10):
            for address in (f"192.0.2.{n}", f"2001:db8::{n}"):
                subprocess.run(
                    ["ip", "neigh", "add", address, "lladdr", f"02:00:00:00:00:0{n}", "dev", "full"], check=True
                )
        for version, limit in zip("46", limits, strict=True):
            with setting(limit, 9):
                (finding,) = found(host, "neighbour-table")
                assert (finding["level"], f"IPv{version}" in finding["text"]) == ("error", True)
                assert "gc_thresh3=16384" in finding["remedy"]
    subprocess.run(["ip", "link", "del", "full"], check=True)


def test_a_clock_that_jumped(lab: Lab, host: Node) -> None:
    """A record from the future: the clock was set back. One from before the boot: it was set forward."""
    with lab.container() as space:
        conf = dual(host) | {"exporters": [], "bgp": {}}
        assert host.cni("ADD", "c1", space, conf).ok
        assert [one for one in of(host, "clock") if "set" in one["text"].split()] == []
        now = time.time()
        for jump, level, words in ((-7200, "error", "set back"), (7200, "warning", "set forward")):
            time.clock_settime(time.CLOCK_REALTIME, now + jump)
            try:
                assert (level, True) in [(one["level"], words in one["text"]) for one in of(host, "clock")]
            finally:
                time.clock_settime(time.CLOCK_REALTIME, now)
        assert host.cni("DEL", "c1", space, conf).ok


def test_limits_of_the_host(host: Node) -> None:
    """No inotify instance is left for root."""
    log = host.folder / "holder.log"
    program = "import ctypes, signal; print(ctypes.CDLL(None).inotify_init(), flush=True); signal.pause()"
    holder = host.namespace.popen("python3", "-c", program, log=log)
    until(log.read_text, "the instance")
    assert found(host, "open-files") == []
    with setting("fs/inotify/max_user_instances", 1):
        (finding,) = found(host, "open-files")
    assert (finding["level"], "inotify" in finding["text"]) == ("error", True)
    holder.kill()
    holder.wait()


def test_a_kernel_that_has_all(host: Node) -> None:
    """VRFs, MPLS, VXLAN and VLAN filtering are there, and are found."""
    codes = ("kernel-vrf", "kernel-mpls", "kernel-vxlan", "kernel-vlan-filtering", "kernel-bridge")
    assert of(host, *codes) == []
