"""What a node finds after its power failed, or when something makes it believe that it did."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from bgpcni.ipam.boot import boot_time_ns
from bgpcni.kernel.namespace import boot_id
from integration.lab import Lab, Namespace, Node, until

Config = dict[str, Any]
MODES = pytest.mark.parametrize("mode", ["alone", "agent"])


def start(lab: Lab, mode: str) -> Node:
    node = lab.node()
    if mode == "agent":
        node.agent(bgp=None, default_exporters=[])
    return node


def again(node: Node, mode: str, conf: Config) -> None:
    """A new life: the agent's, or another call's."""
    if mode == "agent":
        node.kill_agent()
        node.start_agent()
    else:
        assert node.cni("STATUS", conf=conf | {"cniVersion": "1.1.0"}).ok


def network(node: Node, name: str = "tenant-a", subnet: str = "10.1.2.0/24", **keys: Any) -> Config:
    ipam = {"type": "host-local", "dataDir": str(node.leases), "ranges": [[{"subnet": subnet}]]}
    return {
        "cniVersion": "1.0.0", "name": name, "type": "bgpcni", "bridge": f"br-{name}", "isGateway": True,
        "exporters": [], "ipam": ipam,
    } | keys  # fmt: skip


def add(node: Node, container_id: str, container: Namespace, conf: Config) -> str:
    added = node.cni("ADD", container_id, container, conf)
    assert added.ok, added.document
    return str(added.ips[0])


def record_of(node: Node, container_id: str) -> Path:
    (found,) = [path for path in node.records() if json.loads(path.read_text())["container_id"] == container_id]
    return found


@MODES
def test_what_is_attached_is_kept_whatever_the_boot_id_says(lab: Lab, mode: str) -> None:
    """A sandbox showed another one, or shows one now: link, lease and record stay. Of the one whose link is gone
    nothing stays."""
    node = start(lab, mode)
    conf, living, gone = network(node), lab.container("living"), lab.container("gone")
    address = add(node, "living", living, conf)
    add(node, "gone", gone, conf)
    gone.close()
    until(lambda: len(node.links()) == 2, "the end of the link of a namespace that is gone")
    if mode == "agent":
        node.kill_agent()
    for name in ("living", "gone"):
        record = record_of(node, name)
        record.write_text(json.dumps(json.loads(record.read_text()) | {"boot_id": "0" * 32}))
    if mode == "agent":
        node.start_agent()
        until(lambda: len(node.records()) == 1, "the record of the container that is gone to go")
    again(node, mode, conf)
    assert node.lease_files() == {address}
    assert len(node.links()) == 2
    assert json.loads(record_of(node, "living").read_text())["boot_id"] == boot_id()
    assert living.ping("10.1.2.1")
    assert node.cni("ADD", "living", living, conf).error == 100
    assert node.cni("DEL", "living", living, conf).ok
    assert node.lease_files() == set()
    assert node.links() == {"br-tenant-a"}
    assert not node.records()


@MODES
def test_a_record_of_an_earlier_boot_that_cannot_be_read_goes(lab: Lab, mode: str) -> None:
    """Nobody will ever send its DEL. One whose link is there stays, and one that was written since the boot."""
    node = start(lab, mode)
    conf = network(node)
    spaces = {name: lab.container(name) for name in ("living", "recent", "earlier")}
    for name, space in spaces.items():
        add(node, name, space, conf)
    records = {name: record_of(node, name) for name in spaces}
    for name in ("recent", "earlier"):
        spaces[name].close()
    until(lambda: len(node.links()) == 2, "the end of the links of two namespaces")
    if mode == "agent":
        node.kill_agent()
    before = boot_time_ns() / 1e9 - 3600
    for name, when in (("living", before), ("recent", time.time()), ("earlier", before)):
        records[name].write_bytes(b"")
        os.utime(records[name], (when, when))
    if mode == "agent":
        node.start_agent()
    again(node, mode, conf)
    assert set(node.records()) == {records["living"], records["recent"]}
    problems = node.operator("status").document["problems"] if mode == "agent" else []
    assert [problem["code"] for problem in problems] == ["unreadable-record"] * (2 * (mode == "agent"))
    for name in ("living", "recent"):
        assert node.cni("DEL", name, lab.container(), conf).ok
    assert not node.records()
    assert node.links() == {"br-tenant-a"}


def test_numbers_that_were_lost(lab: Lab) -> None:
    """Empty after a power failure: networks go on with the numbers that their records have; where one cannot be
    read, STATUS and `status` say what ADD says, until its DEL."""
    node = lab.node()
    node.agent()
    vpn = {"bgp": {"family": "vpn"}, "exportRT": ["64512:1"], "exporters": ["exabgp"]}
    one, two = (network(node, name, f"10.1.{n}.0/24", **vpn) for n, name in enumerate(("one", "two"), 2))
    container = lab.container()
    add(node, "c0", lab.container(), one)
    add(node, "c1", container, two)
    rd = json.loads(record_of(node, "c1").read_text())["bgp"]["rd"]
    numbers = node.data_dir / "numbers.json"
    numbers.write_bytes(b"")
    assert node.cni("STATUS", conf=two | {"cniVersion": "1.1.0"}).ok
    add(node, "c2", lab.container(), two)
    assert json.loads(record_of(node, "c2").read_text())["bgp"]["rd"] == rd
    assert json.loads(numbers.read_text()) == {"one": 1, "two": 2}
    numbers.write_bytes(b"")
    broken = record_of(node, "c1")
    broken.write_bytes(b"")
    status, added = node.cni("STATUS", conf=one | {"cniVersion": "1.1.0"}), node.cni("ADD", "c3", lab.container(), one)
    assert (status.error, added.error) == (50, 5)
    for answer in (status, added):
        assert "numbers.json" in answer.document["msg"]
        assert str(broken) in answer.document["msg"]
    codes = [problem["code"] for problem in node.operator("status").document["problems"]]
    assert {"numbers", "unreadable-record"} <= set(codes)
    assert node.cni("STATUS", conf=network(node) | {"cniVersion": "1.1.0"}).ok
    assert node.cni("DEL", "c1", container, two).ok
    assert node.cni("STATUS", conf=one | {"cniVersion": "1.1.0"}).ok
    add(node, "c3", lab.container(), one)
    assert json.loads(record_of(node, "c3").read_text())["bgp"]["rd"] == rd[:-1] + "1"


@MODES
def test_leases_that_lost_their_content(lab: Lab, mode: str) -> None:
    """STATUS changes none of them; nobody else gets the address of a living container, and its DEL gives it back."""
    node = start(lab, mode)
    conf = network(node, subnet="10.1.2.0/29")
    container = lab.container()
    address = add(node, "living", container, conf)
    lease = node.leases / "tenant-a" / address
    lease.write_bytes(b"")
    assert node.cni("STATUS", conf=conf | {"cniVersion": "1.1.0"}).ok
    assert lease.read_bytes() == b""
    wanted = conf | {"args": {"cni": {"ips": [address]}}}
    assert node.cni("ADD", "other", lab.container(), wanted).error == 11
    assert lease.read_bytes() == b"living\r\neth0"
    lease.write_bytes(b"")
    assert node.cni("DEL", "living", container, conf).ok
    assert not lease.exists()
