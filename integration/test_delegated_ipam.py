"""IPAM plugins that are not ours: stock static, and one that a test makes slow, broken or silent."""

from __future__ import annotations

import json
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from integration.lab import CniAnswer, Lab, Namespace, Node, until
from integration.lab.node import STOCK_PLUGINS
from integration.seen import freeze, ready, speaker, thaw

Config = dict[str, Any]
DOUBLE = Path(__file__).with_name("ipam_double.py")


@dataclass
class Ipam:
    """A node with the plugin `double` in its CNI_PATH, and what that one saw."""

    node: Node
    folder: Path

    def network(self, does: dict[str, str] | None = None, **keys: Any) -> Config:
        ipam = {"type": "double", "folder": str(self.folder), "does": does or {}}
        return {
            "cniVersion": "1.0.0", "name": "tenant-a", "type": "bgpcni", "bridge": "cni0", "isGateway": True,
            "exporters": [], "ipam": ipam,
        } | keys  # fmt: skip

    def call(self, command: str, container: str, netns: Namespace | str, conf: Config, args: str = "") -> CniAnswer:
        path = f"{self.folder / 'bin'}:{self.node.bin_dir}:{STOCK_PLUGINS}"
        return self.node.cni(command, container, netns, conf, args=args, env={"CNI_PATH": path})

    def calls(self, command: str = "") -> list[dict[str, Any]]:
        """In order: command, variables, stdin."""
        files = sorted((self.folder / "calls").glob(f"*-{command or '*'}"))
        return [json.loads(file.read_text()) for file in files]

    def held(self) -> set[str]:
        return {file.name for file in (self.folder / "held").glob("*")}

    def works(self, command: str) -> None:
        """From now on this command does what it should, whatever the configuration says."""
        (self.folder / f"{command}-works").touch()


def ipam_of(node: Node) -> Ipam:
    ipam = Ipam(node, node.folder / "ipam")
    (ipam.folder / "bin").mkdir(parents=True)
    shutil.copy(DOUBLE, ipam.folder / "bin/double")
    (ipam.folder / "bin/double").chmod(0o755)
    return ipam


@pytest.fixture(params=["alone", "agent"])
def ipam(request: pytest.FixtureRequest, lab: Lab) -> Ipam:
    """Without an agent and with one."""
    node = lab.node()
    if request.param == "agent":
        node.agent(bgp=None, default_exporters=[])
    return ipam_of(node)


def test_a_whole_life(ipam: Ipam, lab: Lab) -> None:
    """ADD, CHECK, DEL and a second DEL reach the plugin, with the call's own variables and configuration."""
    container, conf = lab.container(), ipam.network()
    added = ipam.call("ADD", "c1", container, conf, args="IgnoreUnknown=1;K8S_POD_NAME=p")
    assert added.ok, added
    assert (added.ips, ipam.held()) == (["10.7.0.2"], {"10.7.0.2"})
    assert ipam.call("CHECK", "c1", container, conf | {"prevResult": added.document}).ok
    assert "prevResult" in json.loads(ipam.calls("CHECK")[0]["stdin"])
    assert ipam.call("DEL", "c1", container, conf).ok
    assert ipam.held() == set()
    assert ipam.call("DEL", "c1", "", conf).ok
    add, delete = ipam.calls("ADD")[0], ipam.calls("DEL")[0]
    assert delete["stdin"] == add["stdin"]
    assert delete["variables"] == add["variables"] | {"CNI_COMMAND": "DEL"}
    assert json.loads(add["stdin"]) == conf


@pytest.mark.parametrize(
    ("does", "code", "words"),
    [
        ("fails", 77, "out of order"),
        ("fails without words", 999, "exit code 3 and no CNI error: panic: out of order"),
        ("garbage", 6, "not JSON"),
        ("nothing", 6, "not JSON"),
        ("huge", 6, "octets of output"),
        ("a list", 6, "double: result"),
        ("no address", 7, "gave no address"),
        ("killed", 999, "killed by signal 9"),
    ],
)
def test_a_failed_add_is_given_back(ipam: Ipam, lab: Lab, does: str, code: int, words: str) -> None:
    """Whatever goes wrong with it, its DEL is run: the address that it had taken is free, and nothing is left."""
    container = lab.container()
    answer = ipam.call("ADD", "c1", container, ipam.network({"ADD": does}))
    assert answer.error == code, answer
    assert words in answer.document["msg"]
    assert [call["command"] for call in ipam.calls()] == ["ADD", "DEL"]
    assert ipam.held() == set()
    assert ipam.node.records() == []
    assert container.ip_json("link", "show", "dev", "eth0") == []
    again = ipam.call("ADD", "c1", container, ipam.network())
    assert again.ok, again
    assert ipam.call("DEL", "c1", container, ipam.network()).ok


def test_a_failed_step_behind_it(ipam: Ipam, lab: Lab) -> None:
    """ADD fails after the address was given: the address goes back."""
    container = lab.container()
    container.ip("link", "add", "eth0", "type", "veth", "peer", "name", "other")
    assert ipam.call("ADD", "c1", container, ipam.network()).error == 4
    assert [call["command"] for call in ipam.calls()] == ["ADD", "DEL"]
    assert (ipam.held(), ipam.node.records()) == (set(), [])


def test_del_fails_and_is_tried_again(ipam: Ipam, lab: Lab) -> None:
    """While the plugin's DEL fails so does ours, with its words; the record stays, and the next DEL ends it all."""
    container, conf = lab.container(), ipam.network({"DEL": "fails"})
    assert ipam.call("ADD", "c1", container, conf).ok
    refused = ipam.call("DEL", "c1", container, conf)
    assert (refused.error, refused.document["msg"]) == (77, "out of order")
    assert ipam.node.links() <= {"cni0"}
    assert len(ipam.node.records("leaving")) == 1
    ipam.works("DEL")
    assert ipam.call("DEL", "c1", "", conf).ok
    assert (ipam.held(), ipam.node.records()) == (set(), [])


def test_add_and_its_del_fail(ipam: Ipam, lab: Lab) -> None:
    """The first error is the one reported, and the runtime's DEL finishes what could not be undone."""
    container, conf = lab.container(), ipam.network({"ADD": "fails without words", "DEL": "fails"})
    assert ipam.call("ADD", "c1", container, conf).error == 999
    assert len(ipam.node.records("leaving")) == 1
    ipam.works("DEL")
    assert ipam.call("DEL", "c1", container, conf).ok
    assert (ipam.held(), ipam.node.records()) == (set(), [])


def test_uninstalled_after_add(ipam: Ipam, lab: Lab) -> None:
    """If the plugin was uninstalled, DEL still succeeds; ADD is error 7 and changes nothing."""
    container, conf = lab.container(), ipam.network()
    assert ipam.call("ADD", "c1", container, conf).ok
    (ipam.folder / "bin/double").unlink()
    assert ipam.call("DEL", "c1", container, conf).ok
    assert ipam.node.records() == []
    refused = ipam.call("ADD", "c2", container, conf)
    assert refused.error == 7
    assert "double" in refused.document["msg"]


def test_without_check(ipam: Ipam, lab: Lab) -> None:
    """CHECK ignores a plugin that does not support it, and fails if the plugin's CHECK fails."""
    container, conf = lab.container(), ipam.network({"CHECK": "unknown"})
    added = ipam.call("ADD", "c1", container, conf)
    previous = {"prevResult": added.document}
    assert ipam.call("CHECK", "c1", container, conf | previous).ok
    assert ipam.call("CHECK", "c1", container, ipam.network({"CHECK": "fails"}) | previous).error == 77
    assert ipam.call("DEL", "c1", container, conf).ok


def test_a_child_lives_on(ipam: Ipam, lab: Lab) -> None:
    """A child that keeps the plugin's stdout open does not delay the call."""
    container, conf = lab.container(), ipam.network({"ADD": "leaves a child"})
    try:
        added = ipam.call("ADD", "c1", container, conf)
        assert added.ok, added
        assert ipam.call("DEL", "c1", container, conf).ok
    finally:
        (ipam.folder / "go").touch()


def test_a_slow_one_delays_nobody_else(lab: Lab) -> None:
    """While one ADD waits for its IPAM plugin others are served, and a DEL for it waits; then its error is told."""
    node = lab.node()
    node.agent(bgp=None, default_exporters=[])
    ipam = ipam_of(node)
    first, second = lab.container(), lab.container()
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(ipam.call, "ADD", "slow", first, ipam.network({"ADD": "slow"}))
        until(lambda: ipam.calls("ADD"), "the slow ADD at its IPAM plugin")
        quick = ipam.call("ADD", "quick", second, ipam.network())
        assert quick.ok, quick
        assert not slow.done()
        gone = pool.submit(ipam.call, "DEL", "slow", first, ipam.network())
        (ipam.folder / "go").touch()
        assert slow.result().error == 75
        assert gone.result().ok
    assert ipam.held() == set(quick.ips)


def test_gc(ipam: Ipam, lab: Lab) -> None:
    """GC goes on to a plugin that knows it, with the list of those that live."""
    conf = ipam.network(cniVersion="1.1.0")
    first, second = lab.container(), lab.container()
    kept, lost = ipam.call("ADD", "c1", first, conf), ipam.call("ADD", "c2", second, conf)
    assert kept.ok, kept
    assert lost.ok, lost
    leaked = ipam.folder / "held/10.7.0.99"
    leaked.write_text("c9 eth0")
    valid = [{"containerID": "c1", "ifname": "eth0"}]
    assert ipam.call("GC", "", "", conf | {"cni.dev/valid-attachments": valid}).ok
    assert ipam.held() == set(kept.ips)
    assert json.loads(ipam.calls("GC")[0]["stdin"])["cni.dev/valid-attachments"] == valid


def test_status(ipam: Ipam) -> None:
    """STATUS: 50 and 51 are the plugin's own word, any other failure is 50."""
    assert ipam.call("STATUS", "", "", ipam.network(cniVersion="1.1.0")).ok
    for does, code in (("unavailable", 51), ("fails", 50), ("garbage", None)):
        answer = ipam.call("STATUS", "", "", ipam.network({"STATUS": does}, cniVersion="1.1.0"))
        assert answer.error == code, answer


@pytest.mark.skipif(not (STOCK_PLUGINS / "static").exists(), reason="not installed: containernetworking-plugins")
def test_stock_static(ipam: Ipam, lab: Lab) -> None:
    """static: ADD, CHECK, DEL, with addresses of both families and the runtime's own."""
    addresses = [{"address": "10.7.0.9/24", "gateway": "10.7.0.1"}, {"address": "fd07::9/64"}]
    conf = ipam.network() | {"ipam": {"type": "static", "addresses": addresses, "routes": [{"dst": "0.0.0.0/0"}]}}
    container = lab.container()
    added = ipam.call("ADD", "c1", container, conf)
    assert added.ok, added
    assert added.ips == ["10.7.0.9", "fd07::9"]
    assert ipam.call("CHECK", "c1", container, conf | {"prevResult": added.document}).ok
    assert ipam.call("DEL", "c1", container, conf).ok


def test_its_address_goes_back_after_the_route(lab: Lab) -> None:
    """While the withdrawal is not confirmed the plugin is not asked to take the address back, by DEL or GC, also over
    an agent's end; then it is, with ADD's own words."""
    frr, node = ready(lab)
    ipam, container = ipam_of(node), lab.container()
    conf = ipam.network(exporters=["exabgp"], cniVersion="1.1.0", bgp={"wait": "sent", "waitSeconds": 30})
    added = ipam.call("ADD", "c1", container, conf, args="IgnoreUnknown=1;K8S_POD_NAME=p")
    assert added.ok, added
    until(lambda: frr.paths("10.7.0.2/32"), "the route")
    pid = speaker(node)
    freeze(lab, pid)
    assert ipam.call("DEL", "c1", container, conf | {"ipMasq": True}).ok
    assert ipam.call("GC", "", "", conf | {"cni.dev/valid-attachments": []}).ok
    assert (ipam.held(), ipam.calls("DEL")) == ({"10.7.0.2"}, [])
    again = ipam.call("ADD", "c1", container, conf)
    assert again.error == 11, again
    assert ipam.call("GC", "", "", conf | {"cni.dev/valid-attachments": []}).ok
    node.restart_agent(signal.SIGKILL)
    assert (ipam.held(), ipam.calls("DEL")) == ({"10.7.0.2"}, [])
    thaw(pid)
    until(lambda: not node.records(), "the release")
    assert not frr.paths("10.7.0.2/32")
    assert ipam.held() == set()
    add, delete = ipam.calls("ADD")[0], ipam.calls("DEL")[0]
    assert delete["stdin"] == add["stdin"]
    assert delete["variables"] == add["variables"] | {"CNI_COMMAND": "DEL"}
    assert os.path.exists(container.path)
