"""The cluster's addresses: real agents, FRR and a real etcd."""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

import pytest

from integration.etcd import Member
from integration.lab import Frr, Lab, Namespace, Node, link, until
from integration.lab.node import BGPCNI, STOCK_PLUGINS, CniAnswer

STORE = "198.18.99.1"
POOL, POOL6 = "10.64.0.0/24", "2001:db8:64::/120"


def pool(name: str = "a", **spec: Any) -> dict[str, Any]:
    spec = {"cidrs": [POOL], "blockSize": {"ipv4": 28}} | spec
    return {"apiVersion": "bgpcni.dev/v1alpha1", "kind": "IPPool", "metadata": {"name": name}, "spec": spec}


@dataclass(frozen=True, slots=True)
class Cluster:
    """Two nodes and FRR, their neighbour, and an etcd that they reach through it."""

    lab: Lab
    frr: Frr
    nodes: tuple[Node, Node]
    etcd: Member

    def start(self, number: int) -> None:
        self.nodes[number].agent(
            bgp={"hold_time": 3, "graceful_restart": 0},
            cluster={"store": "etcd", "node": f"node-{number + 1}", "etcd": {"endpoints": [self.etcd.endpoint]}},
        )

    def run(self, *words: str, stdin: str = "") -> tuple[int, dict[str, Any], str]:
        node = self.nodes[0]
        done = node.namespace.run(BGPCNI, *words, "--config", node.config, "--json", check=False, stdin=stdin)
        return done.returncode, json.loads(done.stdout or "{}"), done.stderr

    def apply(self, *objects: dict[str, Any]) -> None:
        text = "\n---\n".join(json.dumps(item) for item in objects)
        code, document, errors = self.run("apply", "-f", "-", stdin=text)
        assert code == 0, (document, errors)

    def blocks(self) -> dict[str, str]:
        """Each block with its node."""
        _, document, _ = self.run("get", "ipblocks")
        return {item["spec"]["cidr"]: item["spec"]["node"] for item in document["objects"]}

    def tombstone(self, block: str) -> bool:
        _, document, _ = self.run("get", "ipblocks")
        return any(item["spec"].get("tombstone") for item in document["objects"] if item["spec"]["cidr"] == block)

    def conf(self, number: int, **more: Any) -> dict[str, Any]:
        routes = more.pop("routes", [{"dst": "0.0.0.0/0"}])
        return self.nodes[number].network(ipam={"type": "bgpcni-ipam", "pools": ["a"], "routes": routes}, **more)

    def try_to_add(self, number: int, container: str, args: str = "", **more: Any) -> CniAnswer:
        conf = self.conf(number, **more)
        return self.nodes[number].cni("ADD", container, self.lab.container(), conf, args=args)

    def add(self, number: int, container: str, **more: Any) -> CniAnswer:
        answer = self.try_to_add(number, container, **more)
        assert answer.ok, answer
        return answer

    def delete(self, number: int, container: str) -> CniAnswer:
        return self.nodes[number].cni("DEL", container, None, self.conf(number))

    def reaches(self, number: int, address: str) -> None:
        """FRR has the route to a container of this node, and pings it."""
        node, six = self.nodes[number], ":" in address
        prefix, hop = f"{address}/{128 if six else 32}", node.address6 if six else node.address
        until(lambda: self.frr.next_hops(prefix) == {hop}, f"the route {address}")
        self.pings(address)

    def pings(self, address: str) -> None:
        until(lambda: self.frr.namespace.run("ping", "-c1", "-W1", address), f"an answer of {address}")

    def problems(self, number: int) -> dict[str, str]:
        return {item["code"]: item["text"] for item in self.nodes[number].operator("status").document["problems"]}


@pytest.fixture
def cluster(lab: Lab) -> Cluster:
    frr = lab.frr()
    nodes = lab.node(frr), lab.node(frr)
    store = lab.namespace("etcd")
    link(store, frr.namespace, "uplink", "etcd", (f"{STORE}/24",), ("198.18.99.254/24",))
    store.ip("route", "add", "default", "via", "198.18.99.254")
    etcd = Member(lab, store, peers={"etcd": STORE})
    etcd.start()
    return Cluster(lab, frr, nodes, etcd)


def test_containers_of_two_nodes_have_addresses_of_one_pool(lab: Lab, cluster: Cluster) -> None:
    """Each node claims blocks of its own, of both families; FRR pings the containers. With EVPN a pool is a subnet."""
    cluster.start(0)
    cluster.start(1)
    cluster.apply(pool(cidrs=[POOL, POOL6], blockSize={"ipv4": 28, "ipv6": 124}))
    for number in range(2):
        answer = cluster.add(number, f"c{number}", routes=[{"dst": "0.0.0.0/0"}, {"dst": "::/0"}])
        for item, address, bits in zip(answer.document["ips"], answer.ips, ("28", "124"), strict=True):
            subnet = ip_network(item["address"], strict=False)
            assert item["address"].endswith(f"/{bits}")
            assert item["gateway"] == str(subnet[1])
            assert cluster.blocks()[str(subnet)] == f"node-{number + 1}"
            cluster.reaches(number, address)
    flat = cluster.add(0, "c2", bridge="br5", name="tenant-b", bgp={"family": "evpn", "vni": 5001})
    assert [(item["address"].partition("/")[2], item["gateway"]) for item in flat.document["ips"]] == [
        ("24", "10.64.0.1"), ("120", "2001:db8:64::1"),
    ]  # fmt: skip
    checked = cluster.nodes[0].operator("ipam", "check")
    assert checked.code == 0, checked
    assert {one["node"] for one in cluster.nodes[0].operator("ipam", "show").document["blocks"]} == {"node-1", "node-2"}
    assert {ip_network(f"{address}/28", strict=False) for address in flat.ips[:1]} <= set(
        map(ip_network, cluster.blocks())
    )


def test_a_block_is_announced_as_a_whole(lab: Lab, cluster: Cluster) -> None:
    """FRR has one route for the containers of a block, the node a blackhole for what is free, and a static address is
    a host. All of it outlives the agent, and goes with the last container."""
    cluster.start(0)
    cluster.apply(pool(advertise="block", static=["10.64.0.240-10.64.0.255"]))
    node = cluster.nodes[0]
    first, second = cluster.add(0, "c0"), cluster.add(0, "c1")
    static = cluster.add(0, "c2", args="IP=10.64.0.250")
    block = str(ip_network(first.document["ips"][0]["address"], strict=False))
    assert static.document["ips"] == [{"address": "10.64.0.250/32", "gateway": "10.64.0.1", "interface": 2}]
    until(lambda: cluster.frr.next_hops(block) == {node.address}, "the route of the block")
    until(lambda: cluster.frr.next_hops("10.64.0.250/32") == {node.address}, "the route of the static address")
    for address in (*first.ips, *second.ips, "10.64.0.250"):
        assert not cluster.frr.paths(f"{address}/32") or address == "10.64.0.250"
        cluster.pings(address)
    routes = node.namespace.ip_json("route", "show", "proto", "182")
    assert {(one.get("type"), one["dst"], one.get("dev")) for one in routes} >= {
        ("blackhole", block, None), (None, "10.64.0.250", "cni0"),
    }  # fmt: skip
    assert {one["prefix"] for one in node.routes()} == {block, "10.64.0.250/32"}
    node.kill_agent()
    node.start_agent()
    until(lambda: all(state["state"] == "announced" for one in node.routes() for state in one["exporters"].values()),
          "the routes announced again")  # fmt: skip
    for name in ("c0", "c2"):
        assert cluster.delete(0, name).ok
    until(lambda: not cluster.frr.paths("10.64.0.250/32"), "the end of the static address's route")
    assert cluster.frr.next_hops(block) == {node.address}
    until(lambda: "10.64.0.250/32" not in cluster.blocks(), "its claim given back")
    assert not [one for one in node.namespace.ip_json("route", "show") if one["dst"] == "10.64.0.250"]
    assert cluster.delete(0, "c1").ok
    until(lambda: not cluster.frr.paths(block), "the end of the block's route")


def test_other_plugins_have_addresses_of_the_cluster(lab: Lab, cluster: Cluster) -> None:
    """macvlan, bridge and ptp name `bgpcni-ipam`, and GC releases what their runtime does not list."""
    cluster.start(0)
    cluster.apply(pool(static=["10.64.0.240-10.64.0.255"]))
    node = cluster.nodes[0]
    node.namespace.ip("link", "add", "wire", "type", "veth", "peer", "name", "wire-end")
    node.namespace.ip("link", "set", "wire", "up")
    ipam = {"type": "bgpcni-ipam", "pools": ["a"], "routes": [{"dst": "0.0.0.0/0"}]}
    given = {}
    for kind, more in (
        ("macvlan", {"master": "wire"}),
        ("bridge", {"bridge": "br7", "isGateway": True}),
        ("ptp", {}),
    ):
        conf = {"cniVersion": "1.0.0", "name": f"n-{kind}", "type": kind, "ipam": ipam} | more
        container = lab.container()
        answer = stock(node, "ADD", kind, container, conf)
        assert answer.ok, answer
        given[kind] = answer.ips[0]
        inside = container.ip_json("-4", "addr", "show", "dev", "eth0")
        assert [one["local"] for one in inside[0]["addr_info"]] == answer.ips
        checked = conf | {"prevResult": answer.document}
        assert stock(node, "CHECK", kind, container, checked).ok
        again = stock(node, "ADD", kind, lab.container(), conf)
        assert again.error == 7, again
        assert "there was no DEL" in again.document["msg"]
    assert len(set(given.values())) == 3
    assert len({ip_network(f"{one}/28", strict=False) for one in given.values()}) == 3  # a block is one network's
    conf = {"cniVersion": "1.1.0", "name": "n-ptp", "type": "ptp", "ipam": ipam}
    assert stock(node, "GC", "", None, conf | {"cni.dev/valid-attachments": []}, plugin="bgpcni-ipam").ok
    leases = node.data_dir / "ipam" / "leases"
    assert {path.name for path in leases.iterdir()} - {"lock"} == {given["macvlan"], given["bridge"]}
    for kind, more in (("macvlan", {"master": "wire"}), ("bridge", {"bridge": "br7", "isGateway": True})):
        conf = {"cniVersion": "1.0.0", "name": f"n-{kind}", "type": kind, "ipam": ipam} | more
        assert stock(node, "DEL", kind, None, conf).ok
    assert {path.name for path in leases.iterdir()} == {"lock"}
    node.kill_agent()
    late = stock(node, "ADD", "late", lab.container(), conf)
    assert (late.error, "no agent answers" in late.document["msg"]) == (11, True)


def stock(
    node: Node, command: str, name: str, container: Namespace | None, conf: dict[str, Any], plugin: str = ""
) -> CniAnswer:
    """A call of a stock plugin, which finds `bgpcni-ipam` in CNI_PATH."""
    return node.cni(command, name, container, conf, plugin=plugin or f"{STOCK_PLUGINS}/{conf['type']}")


def test_the_store_is_away(lab: Lab, cluster: Cluster) -> None:
    """What runs goes on, and ADDs are served while the block has room, also by an agent that starts without the store;
    then the error says why. When it is back, a node that is dead leaves its block to the other one."""
    cluster.start(0)
    cluster.start(1)
    cluster.apply(pool(cidrs=["10.64.0.0/27"]))
    kept, lost = cluster.add(0, "c0"), cluster.add(1, "d0")
    cluster.etcd.kill()
    until(lambda: "cluster-store" in cluster.problems(0), "the problem in `status`")
    cluster.nodes[0].kill_agent()
    cluster.nodes[0].start_agent()
    for n in range(1, 13):
        cluster.add(0, f"c{n}")
    full = cluster.try_to_add(0, "late")
    assert full.error == 11, full
    assert "the cluster's store is away" in full.document["msg"]
    cluster.reaches(0, kept.ips[0])
    assert cluster.delete(0, "c1").ok
    until(lambda: cluster.try_to_add(0, "c13").ok, "an ADD with the address that is free again")
    cluster.etcd.start()
    until(lambda: "cluster-store" not in cluster.problems(0), "the store followed again")
    empty = cluster.try_to_add(0, "late")
    assert (empty.error, "no block of IPv4 is free in IPPool a" in empty.document["msg"]) == (11, True)

    block = str(ip_network(lost.document["ips"][0]["address"], strict=False))
    cluster.nodes[1].kill_agent()
    code, document, _ = cluster.run("delete", "bgpnode", "node-2")
    assert code == 0, document
    until(lambda: cluster.tombstone(block), "a tombstone on the block of the node that is dead")
    assert cluster.blocks()[block] == "node-2"
    until(lambda: cluster.try_to_add(0, "late").ok, "an address of the block of the node that was dead", seconds=120)
    assert cluster.blocks()[block] == "node-1"

    cluster.start(1)
    until(lambda: "cluster-addresses" in cluster.problems(1), "the node that is back says whose its addresses are")
    assert lost.ips[0] in cluster.problems(1)["cluster-addresses"]
    until(lambda: all(not one["exporters"] for one in cluster.nodes[1].routes()), "and does not announce them")
    (late,) = cluster.nodes[1].attachments()
    assert f"{block} is claimed by node node-1" in late["conflict"]
    assert cluster.nodes[1].operator("ipam", "check").code == 1


def test_ipam_shows_the_blocks_and_gives_a_leaked_lease_back(cluster: Cluster) -> None:
    """`bgpcni ipam`: a leaked lease in the folder that all networks share is named, and given back."""
    cluster.start(0)
    cluster.apply(pool())
    node = cluster.nodes[0]
    (address,) = cluster.add(0, "c1").ips
    document = node.operator("ipam", "show").document
    assert [(row["address"], row["state"], row["leased"]) for row in document["addresses"]] == [(address, "used", True)]
    assert [(one["node"], one["used"]) for one in document["blocks"] if one["used"]] == [("node-1", 1)]
    assert node.operator("ipam", "check").document["contradictions"] == []
    lease = node.data_dir / "ipam/leases" / address
    leaked = lease.with_name(f"{address.rpartition('.')[0]}.13")
    leaked.write_text("ghost\r\neth0\r\ntenant-a")
    (found,) = node.operator("ipam", "check").document["contradictions"]
    assert (found["code"], found["address"], str(lease.parent) in found["text"]) == (
        "lease-without-owner", leaked.name, True,
    )  # fmt: skip
    assert node.operator("ipam", "release", address).code == 1
    assert node.operator("ipam", "release", leaked.name).code == 0
    assert not leaked.exists()
