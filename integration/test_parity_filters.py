"""ipMasq, macspoofchk and enabledad do what they promise: seen from outside, beside the stock plugin."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from integration.lab import Lab, Namespace, Node, link, until
from integration.lab.node import STOCK_PLUGINS

Config = dict[str, Any]
IPAM: Config = {
    "type": "host-local",
    "ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:1:2::/64"}]],
    "routes": [
        {"dst": "0.0.0.0/0"},
        {"dst": "::/0"},
        {"dst": "10.1.2.192/26", "gw": "10.1.2.1"},
        {"dst": "fd00:1:2::200/128", "gw": "fd00:1:2::1"},
    ],
}
WITNESS = """
import socket
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.bind(("::", 9))
print("ready", flush=True)
while True:
    word, peer = s.recvfrom(64)
    print(word.decode(), peer[0].removeprefix("::ffff:"), flush=True)
"""
SEND = """
import socket, sys
word, to = sys.argv[1:]
socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_DGRAM).sendto(word.encode(), (to, 9))
"""


@pytest.fixture(params=["stock", "alone", "agent"])
def node(request: pytest.FixtureRequest, lab: Lab) -> Node:
    """A node that calls the stock plugin, ours without an agent, and ours with one."""
    node = lab.node()
    if request.param == "stock":
        if not (STOCK_PLUGINS / "bridge").exists():
            pytest.skip("not installed: containernetworking-plugins")
        node.bin_dir = STOCK_PLUGINS
    elif request.param == "agent":
        node.agent(bgp=None, default_exporters=[])
    return node


def network(node: Node, **keys: Any) -> Config:
    kind = "bridge" if node.bin_dir == STOCK_PLUGINS else "bgpcni"
    ipam = IPAM | {"dataDir": str(node.leases)}
    return {
        "cniVersion": "1.0.0", "name": "tenant-a", "type": kind, "bridge": "cni0", "isGateway": True,
        "exporters": [], "ipam": ipam,
    } | keys  # fmt: skip


def elements(node: Node) -> list[Any]:
    """What our nftables tables hold of attachments."""
    ruleset = json.loads(node.namespace.run("nft", "-j", "list", "ruleset").stdout)["nftables"]
    held = [item.get("set") or item.get("map") or {} for item in ruleset]
    return [one for item in held for one in item.get("elem", [])]


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_masquerades_what_leaves_the_subnet(lab: Lab, node: Node, backend: str) -> None:
    """With ipMasq the world sees the node's address, the container's own subnet the container's; DEL ends it."""
    outside = lab.namespace("outside")
    link(
        node.namespace, outside, "uplink", "down",
        ("198.18.9.2/24", "2001:db8:9::2/64"), ("198.18.9.1/24", "2001:db8:9::1/64"),
    )  # fmt: skip
    for address in ("10.1.2.200/32", "fd00:1:2::200/128"):
        outside.ip("address", "add", address, "dev", "lo")
    for prefix, via in (("10.1.2.0/24", "198.18.9.2"), ("fd00:1:2::/64", "2001:db8:9::2")):
        outside.ip("route", "add", prefix, "via", via)
    for prefix, via in (("10.1.2.192/26", "198.18.9.1"), ("fd00:1:2::200/128", "2001:db8:9::1")):
        node.namespace.ip("route", "add", prefix, "via", via)
    log = lab.folder / "witness"
    outside.popen(sys.executable, "-c", WITNESS, log=log)
    until(lambda: "ready" in log.read_text(), "the witness to listen")
    container = lab.container()
    conf = network(node, ipMasq=True, ipMasqBackend=backend)
    added = node.cni("ADD", "c1", container, conf)
    assert added.ok, added
    own4, own6 = added.ips
    for word, to, source in (
        ("out4", "198.18.9.1", "198.18.9.2"),
        ("out6", "2001:db8:9::1", "2001:db8:9::2"),
        ("own4", "10.1.2.200", own4),
        ("own6", "fd00:1:2::200", own6),
    ):
        container.run(sys.executable, "-c", SEND, word, to)
        until(lambda word=word, source=source: f"{word} {source}\n" in log.read_text(), f"{word} from {source}")  # type: ignore[misc]
    if node.bin_dir != STOCK_PLUGINS:
        assert node.cni("CHECK", "c1", container, conf | {"prevResult": added.document}).ok
        if backend == "nftables":
            node.namespace.run("nft", "flush", "chain", "inet", "bgpcni", "postrouting")
        else:
            node.namespace.run("iptables", "-t", "nat", "-F", "POSTROUTING")
        assert node.cni("CHECK", "c1", container, conf | {"prevResult": added.document}).error == 102
    assert node.cni("DEL", "c1", container, conf).ok
    assert elements(node) == []
    assert "BGPCNI" not in node.namespace.run("iptables-save").stdout


def test_masquerading_costs_an_element(lab: Lab) -> None:
    """Ten attachments of two subnets are ten elements of two maps and two chains: no chain for each container."""
    node = lab.node()
    node.agent(bgp=None, default_exporters=[])
    for number in range(10):
        assert node.cni("ADD", f"c{number}", lab.container(), network(node, ipMasq=True)).ok
    assert len(elements(node)) == 20
    listed = json.loads(node.namespace.run("nft", "-j", "list", "table", "inet", "bgpcni").stdout)["nftables"]
    assert sorted(item["chain"]["name"] for item in listed if "chain" in item) == [
        "outside-10.1.2.0/24", "outside-fd00_1_2__/64", "postrouting",
    ]  # fmt: skip


def test_a_spoofed_mac_does_not_pass(lab: Lab, node: Node) -> None:
    """With macspoofchk a container that takes another MAC is not heard; with its own it is again."""
    container, conf = lab.container(), network(node, macspoofchk=True)
    added = node.cni("ADD", "c1", container, conf)
    assert added.ok, added
    mac = added.document["interfaces"][2]["mac"]
    for gateway in ("10.1.2.1", "fd00:1:2::1"):
        until(lambda gateway=gateway: container.ping(gateway), f"an answer of {gateway}")  # type: ignore[misc]
    container.ip("link", "set", "eth0", "address", "02:00:00:00:00:66")
    assert not container.ping("10.1.2.1", seconds=1)
    container.ip("link", "set", "eth0", "address", mac)
    until(lambda: container.ping("10.1.2.1"), "an answer to the right MAC")
    if node.bin_dir != STOCK_PLUGINS:
        assert node.cni("CHECK", "c1", container, conf | {"prevResult": added.document}).ok
        node.namespace.run("nft", "flush", "set", "bridge", "bgpcni", "checked")
        assert node.cni("CHECK", "c1", container, conf | {"prevResult": added.document}).error == 102
    assert node.cni("DEL", "c1", container, conf).ok
    assert elements(node) == []


def test_a_cut_short_add_leaves_no_rule(lab: Lab) -> None:
    """An agent killed in mid-ADD: the next one takes masquerading and the MAC check back, with link and lease."""
    node = lab.node()
    node.agent(bgp=None, default_exporters=[])
    assert node.cni("ADD", "c1", lab.container(), network(node, ipMasq=True, macspoofchk=True)).ok
    assert len(elements(node)) == 4
    node.kill_agent()
    (record,) = node.records("up")
    record.rename(node.data_dir / "attachments/adding" / record.name)
    node.start_agent()
    until(lambda: not node.records(), "the record to go")
    assert elements(node) == []
    assert node.links() == {"cni0"}
    assert node.lease_files() == set()


@pytest.mark.parametrize("command", ["DEL", "GC"])
@pytest.mark.parametrize("mode", ["alone", "agent"])
def test_a_record_that_cannot_be_read_leaves_no_rule(lab: Lab, mode: str, command: str) -> None:
    """Its port and MAC are not allowed any more, its addresses not masqueraded; those of others are."""
    node = lab.node()
    if mode == "agent":
        node.agent(bgp=None, default_exporters=[])
    container, other = lab.container(), lab.container()
    conf = network(node, ipMasq=True, macspoofchk=True)
    assert node.cni("ADD", "c2", other, conf).ok
    kept = elements(node)
    assert node.cni("ADD", "c1", container, conf).ok
    assert len(elements(node)) == 8
    (record,) = [path for path in node.records("up") if json.loads(path.read_text())["container_id"] == "c1"]
    record.write_text(record.read_text()[:100])
    if command == "DEL":
        answer = node.cni("DEL", "c1", container, network(node))
    else:
        valid = {"cniVersion": "1.1.0", "cni.dev/valid-attachments": [{"containerID": "c2", "ifname": "eth0"}]}
        answer = node.cni("GC", conf=network(node) | valid)
    assert answer.ok, answer.document
    assert str(record) in answer.stderr
    assert json.dumps(elements(node), sort_keys=True) == json.dumps(kept, sort_keys=True)
    assert len(node.records()) == 1
    assert len(node.lease_files()) == 2
    assert node.cni("ADD", "c1", container, conf).ok
    for container_id, space in (("c1", container), ("c2", other)):
        assert node.cni("DEL", container_id, space, conf).ok
    assert elements(node) == []


@pytest.mark.parametrize("mode", ["alone", "agent"])
def test_a_duplicate_address_is_an_error(lab: Lab, mode: str) -> None:
    """With enabledad ADD waits until the address is sure to be unique; another host's is refused, nothing left."""
    node = lab.node()
    if mode == "agent":
        node.agent(bgp=None, default_exporters=[])
    first, second = lab.container("first"), lab.container("second")
    conf = network(node, enabledad=True)
    added = node.cni("ADD", "c1", first, conf)
    assert added.ok, added
    (seen,) = [
        item
        for item in first.ip_json("-6", "address", "show", "dev", "eth0")[0]["addr_info"]
        if item["scope"] == "global"
    ]
    assert not seen.get("tentative")
    taken = "fd00:1:2::77"
    link(node.namespace, lab.namespace("stranger"), "port", "nic", (), (f"{taken}/64",))
    node.namespace.ip("link", "set", "port", "master", "cni0")
    before = node.lease_files()
    refused = node.cni("ADD", "c2", second, conf | {"runtimeConfig": {"ips": [taken]}})
    assert refused.error == 103, refused
    assert taken in refused.document["msg"]
    assert node.lease_files() == before
    assert second.ip_json("link", "show", "dev", "eth0") == []
    assert len(node.records()) == 1


def test_no_option_no_cost(lab: Lab) -> None:
    """Who asks for none of this has no table of ours in the kernel."""
    node: Node = lab.node()
    container: Namespace = lab.container()
    assert node.cni("ADD", "c1", container, network(node)).ok
    assert "bgpcni" not in node.namespace.run("nft", "list", "ruleset").stdout
    assert node.cni("DEL", "c1", container, network(node)).ok
