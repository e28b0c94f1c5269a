"""VLANs of a bridge, with real frames: who reaches whom, what is announced, what CHECK finds, and what stays."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from integration.lab import CniAnswer, Frr, Lab, Namespace, Node, until
from integration.lab.node import STOCK_PLUGINS
from integration.seen import add, announced, delete, dual, pinged, withdrawn

pytestmark = pytest.mark.kernel("vlan_filtering")
Config = dict[str, Any]


@pytest.fixture
def frr(lab: Lab) -> Frr:
    """In a network namespace: no container engine runs in the other kernel."""
    return lab.frr()


def plain(node: Node, number: int, **keys: Any) -> Config:
    """A network in the VLAN of that number of bridge cni0, with subnets of its own, announced by nobody."""
    subnets = f"10.1.{number}.0/24", f"2001:db8:1:{number}::/64"
    defaults: Config = {"exporters": [], "vlan": number, "isGateway": True}
    return node.network(f"v{number}", *subnets, **(defaults | keys))


def vlans(node: Node) -> dict[str, set[int]]:
    """Port → its VLANs."""
    listed = json.loads(node.namespace.run("bridge", "-json", "vlan", "show").stdout)
    return {port["ifname"]: {one["vlan"] for one in port["vlans"]} for port in listed}


def host_of(answer: CniAnswer) -> str:
    """The name of the host end."""
    return str(answer.document["interfaces"][1]["name"])


def also(space: Namespace, last: int, device: str = "eth0") -> None:
    """Give a container an address of a subnet that all VLANs share, IPv4 and IPv6."""
    space.ip("address", "add", f"192.0.2.{last}/24", "dev", device)
    space.ip("address", "add", f"2001:db8:2::{last}/64", "dev", device, "nodad")


def reaches(space: Namespace, last: int) -> tuple[bool, bool]:
    """Whether that address of the shared subnet answers, IPv4 and IPv6."""
    with ThreadPoolExecutor(2) as pool:
        four, six = pool.map(lambda address: space.ping(address, seconds=1), (f"192.0.2.{last}", f"2001:db8:2::{last}"))
    return four, six


BOTH, NEITHER = (True, True), (False, False)


def test_a_vlan_is_a_network_of_its_own(lab: Lab) -> None:
    """Two containers of a VLAN and its gateway reach each other, those of another VLAN do not hear them; a trunk has
    both VLANs' frames tagged, and no others; a native VLAN's frames are untagged. All of it with IPv4 and IPv6, and no
    VLAN but its own on a port."""
    node = lab.node()
    node.agent(bgp=None, default_exporters=[])
    five, six = (plain(node, vlan) for vlan in (5, 6))
    trunk = plain(node, 7, vlan=None, vlanTrunk=[{"minID": 5, "maxID": 6}], ipam=None)
    native = plain(node, 8, vlan=5, vlanTrunk=[{"id": 6}], isGateway=False, ipam=None)
    spaces = {name: lab.container(name) for name in ("a5", "b5", "a6", "t", "n")}
    answers = {name: add(node, name, spaces[name], five if "5" in name else six) for name in ("a5", "b5", "a6")}
    carried, mixed = node.cni("ADD", "t", spaces["t"], trunk), node.cni("ADD", "n", spaces["n"], native)
    assert carried.ok, carried
    assert mixed.ok, mixed
    present = vlans(node)
    assert [present[host_of(answers[name])] for name in answers] == [{5}, {5}, {6}]
    assert present[host_of(carried)] == present[host_of(mixed)] == {5, 6}
    assert [one["name"] for one in answers["b5"].document["interfaces"]][3:] == ["cni0.5"]

    for last, name in enumerate(answers, 1):
        also(spaces[name], last)
        for ip in answers[name].document["ips"]:
            assert spaces[name].ping(ip["gateway"]), ip
    assert (reaches(spaces["a5"], 2), reaches(spaces["a5"], 3)) == (BOTH, NEITHER)
    for vlan, mine, others in ((5, 1, 3), (6, 3, 1), (7, None, 1)):
        device = f"eth0.{vlan}"
        spaces["t"].ip("link", "add", "link", "eth0", "name", device, "type", "vlan", "id", vlan)
        spaces["t"].ip("link", "set", device, "up")
        also(spaces["t"], 9, device)
        assert mine is None or reaches(spaces["t"], mine) == BOTH
        assert reaches(spaces["t"], others) == NEITHER
        spaces["t"].ip("link", "delete", device)
    also(spaces["n"], 8)
    assert (reaches(spaces["n"], 1), reaches(spaces["n"], 3)) == (BOTH, NEITHER)
    spaces["n"].ip("address", "flush", "dev", "eth0", "scope", "global")
    spaces["n"].ip("link", "add", "link", "eth0", "name", "eth0.6", "type", "vlan", "id", 6)
    spaces["n"].ip("link", "set", "eth0.6", "up")
    also(spaces["n"], 8, "eth0.6")
    assert (reaches(spaces["n"], 1), reaches(spaces["n"], 3)) == (NEITHER, BOTH)

    for name, conf in (("a5", five), ("b5", five), ("a6", six), ("t", trunk), ("n", native)):
        delete(node, name, spaces[name], conf)
    ports = set(vlans(node)) - {"cni0"}
    assert node.links() == {"cni0", "cni0.5", "cni0.6"} | ports, "the bridge and its gateways stay, as with stock"
    assert len(ports) == 2


def test_a_container_in_a_vlan_is_announced(frr: Frr, lab: Lab) -> None:
    """Its routes are at FRR, which reaches it through the VLAN's gateway; CHECK sees what is taken away from it."""
    node = lab.node(frr)
    node.agent()
    frr.wait_established(node.address)
    conf, space = dual(node, vlan=5), lab.container()
    answer = add(node, "c1", space, conf)
    announced(frr, node, answer)
    pinged(frr, answer)

    def check() -> str | None:
        found = node.cni("CHECK", "c1", space, conf | {"prevResult": answer.document})
        assert found.error in (None, 102), found
        return found.document.get("msg")

    assert check() is None
    host, port = host_of(answer), next(iter(set(vlans(node)) - {"cni0", host_of(answer)}))
    filtering = "ip link set cni0 type bridge vlan_filtering"
    for harm, cure, words in (
        (f"bridge vlan del vid 5 dev {host}", f"bridge vlan add vid 5 dev {host} pvid untagged", f"VLAN of {host}"),
        (f"bridge vlan del vid 5 dev {port}", f"bridge vlan add vid 5 dev {port} pvid untagged", "is not in VLAN 5"),
        (f"{filtering} 0", f"{filtering} 1", "vlan_filtering of bridge cni0 is off"),
        ("ip address del 10.1.2.1/24 dev cni0.5", "ip address add 10.1.2.1/24 dev cni0.5", "10.1.2.1/24 is missing"),
        ("ip link set cni0.5 down", "ip link set cni0.5 up", "interface cni0.5 is down"),
    ):
        node.namespace.run(*harm.split())
        assert words in str(check())
        node.namespace.run(*cure.split())

    delete(node, "c1", space, conf)
    withdrawn(frr, answer)
    assert node.links() == {"cni0", "cni0.5", port}
    assert (node.records(), node.lease_files()) == ([], set())


def test_what_the_node_cannot_reach_in_a_vlan_is_not_announced(lab: Lab) -> None:
    """A node that is not in the container's VLAN refuses to announce it, and leaves nothing; an interface that the
    operator made there, or behind the stock plugin the one that that made, is as good as one of ours."""
    node = lab.node()
    node.agent(bgp=None)
    space, conf = lab.container(), plain(node, 5, isGateway=False, exporters=["kernel"])
    trunk = plain(node, 6, vlan=None, vlanTrunk=[{"id": 6}], exporters=["kernel"])
    for refused in (conf, trunk):
        answer = node.cni("ADD", "c1", space, refused)
        assert (answer.error, "the node cannot reach 10.1." in answer.document["msg"]) == (7, True), answer
        assert node.links() == set()
        assert (node.records(), node.lease_files("v5"), node.lease_files("v6")) == ([], set(), set())

    node.namespace.ip("link", "add", "name", "cni0", "type", "bridge", "vlan_filtering", "1")
    node.namespace.ip("link", "set", "cni0", "up")
    node.namespace.ip("link", "add", "link", "cni0", "name", "vlan5", "type", "vlan", "id", 5)
    node.namespace.run("bridge", "vlan", "add", "vid", 5, "dev", "cni0", "self")
    node.namespace.ip("link", "set", "vlan5", "up")
    node.namespace.ip("address", "add", "10.1.5.1/24", "dev", "vlan5")
    node.namespace.ip("address", "add", "2001:db8:1:5::1/64", "dev", "vlan5", "nodad")
    answer = add(node, "c1", space, conf)
    assert [node.namespace.ping(ip) for ip in answer.ips] == [True, True]
    delete(node, "c1", space, conf)
    node.namespace.ip("link", "delete", "vlan5")

    bridge = plain(node, 5, type="bridge")
    node.bin_dir, ours = STOCK_PLUGINS, node.bin_dir
    behind = node.cni("ADD", "c1", space, bridge)
    assert behind.ok, behind
    node.bin_dir = ours
    chained = {key: value for key, value in conf.items() if key != "ipam"} | {"prevResult": behind.document}
    add(node, "c1", space, chained)
    for family in ("-4", "-6"):
        written = node.namespace.ip_json(family, "route", "show", "table", 100)
        assert [route["dev"] for route in written if route["dst"] in behind.ips] == ["cni0.5"]
    delete(node, "c1", space, chained)


def test_an_add_that_fails_leaves_no_port_in_a_vlan(lab: Lab) -> None:
    """A route that the container cannot have ends it: link, lease, record, and the bridge and gateway that it made are
    gone. An ADD completes a gateway that lost its bridge; a bridge that does not filter is told of."""
    node = lab.node()
    space, conf = lab.container(), plain(node, 5)
    broken = conf | {"ipam": conf["ipam"] | {"routes": [{"dst": "192.0.2.0/24", "gw": "203.0.113.1"}]}}
    answer = node.cni("ADD", "c1", space, broken)
    assert answer.error == 101, answer
    assert "route 192.0.2.0/24" in answer.document["msg"]
    assert (node.links(), node.records(), node.lease_files("v5")) == (set(), [], set())

    node.agent(bgp=None, default_exporters=[])
    add(node, "c1", space, conf)
    delete(node, "c1", space, conf)
    (port,) = node.links() - {"cni0", "cni0.5"}
    assert vlans(node) == {"cni0": {1}, port: {5}}
    node.namespace.ip("link", "delete", "cni0")
    node.namespace.ip("link", "set", "cni0.5", "down")
    answer = add(node, "c1", space, conf)
    assert [node.namespace.ping(ip) for ip in answer.ips] == [True, True]
    assert vlans(node)[port] == {5}
    delete(node, "c1", space, conf)
    node.namespace.ip("link", "set", "cni0", "type", "bridge", "vlan_filtering", "0")
    answer = add(node, "c1", space, conf)
    assert "vlan: bridge cni0 has vlan_filtering off" in answer.stderr
    until(lambda: node.namespace.ping(answer.ips[0]), "the way to the container")
