"""Routes that several containers share, and addresses that they must not: with the agent and in calls without one."""

from __future__ import annotations

import pytest

from integration.lab import Lab, Node
from integration.seen import add, delete, links_in, nothing_left


def announced(node: Node) -> set[str]:
    """What the kernel exporter has in its table."""
    return {entry["dst"] for v in ("-4", "-6") for entry in node.namespace.ip_json(v, "route", "show", "table", 100)}


def test_without_an_agent_the_subnet_goes_with_the_last_container(lab: Lab) -> None:
    """`advertise: subnet` by the kernel exporter: its route stays for as long as one container of the network is up."""
    node = lab.node()
    conf = node.network(subnet6="2001:db8:1:2::/64", exporters=["kernel"], bgp={"advertise": "subnet"})
    spaces = {name: lab.container() for name in ("c1", "c2")}

    for name, space in spaces.items():
        add(node, name, space, conf)
    assert announced(node) == {"10.1.2.0/24", "2001:db8:1:2::/64"}
    delete(node, "c1", spaces["c1"], conf)
    assert announced(node) == {"10.1.2.0/24", "2001:db8:1:2::/64"}
    delete(node, "c2", spaces["c2"], conf)
    assert announced(node) == set()
    nothing_left(node, *spaces.values())


@pytest.mark.parametrize("agent", [True, False], ids=["agent", "call"])
def test_an_address_that_two_networks_give_out(lab: Lab, agent: bool) -> None:
    """Ranges that overlap on one bridge: the second container is refused by name, and the first stays reachable."""
    node = lab.node()
    if agent:
        node.agent(bgp=None)
    first = node.network(subnet6="2001:db8:1:2::/64", exporters=["kernel"])
    second = first | {"name": "tenant-b"}
    spaces = {name: lab.container() for name in ("c1", "c2")}
    address, address6 = add(node, "c1", spaces["c1"], first).ips
    answer = node.cni("ADD", "c2", spaces["c2"], second)
    assert answer.error == 7
    assert f"{address}/32 leads to tenant-a/c1/eth0 on this node already" in answer.document["msg"]
    assert links_in(spaces["c2"]) == []
    delete(node, "c2", spaces["c2"], second)
    assert announced(node) == {address, address6}
    delete(node, "c1", spaces["c1"], first)
    assert announced(node) == set()
    nothing_left(node, *spaces.values(), networks=("tenant-a", "tenant-b"))


@pytest.mark.parametrize("agent", [True, False], ids=["agent", "call"])
def test_an_address_that_two_networks_give_out_unannounced(lab: Lab, agent: bool) -> None:
    """The same where nothing is announced; with an agent, though the leases are in folders apart. Another bridge is
    another matter."""
    node = lab.node()
    if agent:
        node.agent(bgp=None)
    first = node.network(subnet6="2001:db8:1:2::/64", exporters=[])
    second = first | {"name": "tenant-b"}
    if agent:
        second["ipam"] = first["ipam"] | {"dataDir": str(node.folder / "apart")}
    spaces = {name: lab.container() for name in ("c1", "c2")}
    address, _ = add(node, "c1", spaces["c1"], first).ips
    answer = node.cni("ADD", "c2", spaces["c2"], second)
    assert answer.error == 7
    assert f"{address}/32 leads to tenant-a/c1/eth0 on this node already" in answer.document["msg"]
    assert links_in(spaces["c2"]) == []
    elsewhere = second | {"bridge": "cni1", "isGateway": False}
    assert address in add(node, "c3", spaces["c2"], elsewhere | {"name": "tenant-c"}).ips
    delete(node, "c3", spaces["c2"], elsewhere | {"name": "tenant-c"})
    delete(node, "c1", spaces["c1"], first)
    delete(node, "c2", spaces["c2"], second)


def test_an_address_that_two_networks_of_a_vni_give_out(lab: Lab) -> None:
    """EVPN's routes to it differ by MAC; it is refused all the same, and the first keeps its neighbour entry."""
    node = lab.node()
    node.agent(bgp={"next_hop6": node.address6})
    first = node.network(subnet6="2001:db8:1:2::/64", exportRT="64512:77", bgp={"family": "evpn"})
    second = first | {"name": "tenant-b"}
    spaces = {name: lab.container() for name in ("c1", "c2")}
    address, _ = add(node, "c1", spaces["c1"], first).ips
    answer = node.cni("ADD", "c2", spaces["c2"], second)
    assert answer.error == 7
    assert f"{address} is that of tenant-a/c1/eth0 in VNI 77 already" in answer.document["msg"]
    assert links_in(spaces["c2"]) == []
    assert {route["containerID"] for route in node.routes()} == {"c1"}
    delete(node, "c2", spaces["c2"], second)
    delete(node, "c1", spaces["c1"], first)
    nothing_left(node, *spaces.values(), networks=("tenant-a", "tenant-b"))
