"""Type 5 and L3VPN with a VRF in the kernel: packets, with FRR's own VRFs and between nodes.

FRR is AS 64512; its VRF has a host behind it, and its zebra does the forwarding.
"""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest

from bgpcni.testing.patience import SECONDS
from integration import evpn
from integration.lab import Frr, Lab, Namespace, Node, until
from integration.lab.frr import bgp
from integration.lab.namespace import link

pytestmark = pytest.mark.kernel("vrf", "mpls")

RED, GREEN = "64512:4001", "64512:4002"
BRANCH, BRANCH6 = "10.9.0.2", "2001:db8:9::2"


class Container(evpn.Container):
    """One container, added, which is given a second for an answer: the other kernel is slow."""

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(self.answer.ips)

    def reaches(self, *addresses: str) -> bool:
        return all(
            not self.space.run("ping", "-n", "-c", "1", "-W", "1", address, check=False).returncode
            for address in addresses
        )


def routed(node: Node, name: str, number: int, **keys: Any) -> dict[str, Any]:
    """A network with the gateway of its own subnets, 10.1.NUMBER.0/24 and 2001:db8:1:NUMBER::/64."""
    bridge = f"br-{name}"
    keys = {"bridge": bridge, "isDefaultGateway": True} | keys
    return node.network(name, f"10.1.{number}.0/24", f"2001:db8:1:{number}::/64", **keys)


def in_red(node: Node, number: int, name: str = "red", **keys: Any) -> dict[str, Any]:
    vrf = {"family": "evpn", "vni": 5000 + number, "vrf": "red", "l3vni": 4001, "advertise": "subnet"}
    return routed(node, name, number, **{"importRT": [RED], "exportRT": [RED], "bgp": vrf} | keys)


def in_green(node: Node, number: int) -> dict[str, Any]:
    vrf = {"family": "evpn", "vni": 6000 + number, "vrf": "green", "l3vni": 4002}
    return routed(node, "green", number, importRT=[GREEN], exportRT=[GREEN], bgp=vrf)


def add(lab: Lab, node: Node, conf: dict[str, Any], name: str) -> Container:
    space = lab.container(name)
    answer = node.cni("ADD", name, space, conf)
    assert answer.ok, answer
    assert answer.stderr == "", answer.stderr
    return Container(name, node, space, conf, answer)


def without_guard(node: Node) -> Node:
    """The user-mode Linux has no netdev tables, which keep an anycast gateway's ARP off VNIs that are on two nodes: no
    VNI here is on two."""
    nft = node.folder / "nft"
    nft.write_text("#!/bin/sh\necho '{\"nftables\": []}'\n")
    nft.chmod(0o755)
    node.prelude = f"mount --bind {nft} {shutil.which('nft')}"
    return node


def branch_of(lab: Lab, frr: Namespace, vrf: str) -> Namespace:
    """A host behind FRR's VRF, which is made here."""
    space = lab.container("branch")
    frr.ip("link", "add", vrf, "type", "vrf", "table", "1001")
    frr.ip("link", "set", vrf, "up")
    link(space, frr, "eth0", "lan", (f"{BRANCH}/24", f"{BRANCH6}/64"), ("10.9.0.1/24", "2001:db8:9::1/64"))
    frr.ip("link", "set", "lan", "master", vrf)
    frr.ip("addr", "replace", "2001:db8:9::1/64", "dev", "lan", "nodad")  # lost as it went into the VRF
    space.ip("route", "add", "default", "via", "10.9.0.1")
    space.ip("-6", "route", "add", "default", "via", "2001:db8:9::1")
    return space


def evpn_router(lab: Lab) -> tuple[Frr, Namespace]:
    """FRR as reflector of EVPN and itself a router in VRF red with VNI 4001, and the host behind it."""
    frr = lab.frr(start=False)
    branch = branch_of(lab, frr.namespace, "red")
    space = frr.namespace
    space.ip("link", "add", "br4001", "type", "bridge")
    space.ip("link", "set", "br4001", "master", "red", "addrgenmode", "none")
    space.ip("link", "add", "vni4001", "type", "vxlan", "id", "4001", "local", "198.18.1.1", "dstport", "4789",
             "nolearning")  # fmt: skip
    space.ip("link", "set", "vni4001", "master", "br4001", "addrgenmode", "none")
    for name in ("br4001", "vni4001"):
        space.ip("link", "set", name, "up")
    families = [f"address-family ipv{v} unicast\n  redistribute connected\n exit-address-family" for v in (4, 6)]
    evpn = f"address-family l2vpn evpn\n  advertise ipv4 unicast\n  advertise ipv6 unicast\n  route-target both {RED}"
    vrf = [f"router bgp {frr.asn} vrf red", *families, f"{evpn}\n exit-address-family", "exit", ""]
    extra = ["address-family l2vpn evpn", " advertise-all-vni", "exit-address-family"]
    frr.start(bgp(frr.asn, "198.18.255.1", extra=extra) + "\n".join(vrf), {"mgmtd": "vrf red\n vni 4001\nexit-vrf\n"})
    return frr, branch


def in_table(node: Node, vrf: str, version: int = 4) -> dict[str, str]:
    """The routes of ours in a VRF: prefix to gateway."""
    listed = node.namespace.ip_json(f"-{version}", "route", "show", "vrf", vrf, "proto", "182")
    return {route["dst"]: route.get("gateway", route.get("via", {}).get("host", "")) for route in listed
            if route.get("type") != "unreachable"}  # fmt: skip


def received(node: Node, prefix: str) -> dict[str, Any]:
    [found] = [r for r in node.operator("routes", "--received").document["received"] if r["prefix"] == prefix]
    return dict(found)


def nothing_left(node: Node) -> None:
    assert node.links() == set(), node.links()
    for version in (4, 6):
        assert node.namespace.ip_json(f"-{version}", "route", "show", "table", "all", "proto", "182") == []
        assert node.namespace.ip_json(f"-{version}", "neigh", "show", "proto", "182") == []
    assert "proto 182" not in node.namespace.ip("-f", "mpls", "route", "show")


def test_type_5_through_a_vrf(lab: Lab) -> None:
    """With FRR and between nodes; two VRFs with the same addresses do not leak; a killed agent's routes are adopted."""
    frr, branch = evpn_router(lab)
    one, two = (without_guard(lab.node(frr, reflect=True)) for _ in range(2))
    for node in (one, two):
        node.agent()
    for node in (one, two):
        frr.wait_established(node.address)
    a, b = add(lab, one, in_red(one, 1), "a"), add(lab, two, in_red(two, 2), "b")
    until(lambda: a.reaches(BRANCH, BRANCH6), "FRR's host")
    until(lambda: a.reaches(*b.addresses), "the other node's container")
    assert b.reaches(*a.addresses, BRANCH, BRANCH6)
    for address in (*a.addresses, *b.addresses):
        assert not branch.run("ping", "-n", "-c", "1", "-W", "2", address, check=False).returncode

    fives = [route for route in one.routes() if "[5]" in route["nlri"]]
    assert {(r["prefix"], r["vni"], r["datapath"]) for r in fives} == {
        ("10.1.1.0/24", 4001, True), ("2001:db8:1:1::/64", 4001, True)
    }  # fmt: skip
    found = received(one, "10.9.0.0/24")
    assert (found["datapath"], found["imported"]) == (True, [{"table": "vrf red", "state": "best", "reason": ""}])
    steps = one.operator("explain", "a").document["attachments"][0]["steps"]
    assert [step["state"] for step in steps if step["step"] == "VRF"] == ["up"], steps
    check = one.cni("CHECK", "a", a.space, {**a.conf, "prevResult": a.answer.document})
    assert check.ok, check

    c, d = add(lab, one, in_green(one, 2), "c"), add(lab, two, in_green(two, 3), "d")
    assert c.addresses == b.addresses
    until(lambda: c.reaches(*d.addresses), "in the other VRF")
    assert set(in_table(one, "green")) == {"10.1.3.2"}
    assert not c.reaches(*a.addresses), "two VRFs are apart"
    assert not d.reaches(BRANCH)
    assert a.reaches(*b.addresses, BRANCH, BRANCH6)

    before = [in_table(one, "red", version) for version in (4, 6)]
    assert set(before[0]) == {"10.9.0.0/24", "10.1.2.0/24"}
    log = one.folder / "monitor.log"
    with log.open("w") as out:
        monitor = one.namespace.popen("ip", "monitor", "link", "route", "neigh", stdout=out)
    one.restart_agent(9)
    frr.configure(f"router bgp {frr.asn} vrf red", "address-family l2vpn evpn", "no advertise ipv4 unicast")
    until(lambda: "10.9.0.0/24" not in in_table(one, "red"), "withdrawn")
    assert in_table(one, "red") == {"10.1.2.0/24": before[0]["10.1.2.0/24"]}
    assert in_table(one, "red", 6) == before[1]
    assert a.reaches(*b.addresses, BRANCH6)
    monitor.terminate()
    monitor.wait(SECONDS)
    gone = [line for line in log.read_text().splitlines() if line.startswith("Deleted") and "proto 182" in line]
    assert len(gone) == 2, gone  # the route, and the router that nothing of IPv4 leads through any more

    one.namespace.ip("link", "delete", "red")
    until(lambda: a.reaches(*b.addresses, BRANCH6), "a VRF that was deleted is made again")

    for container in (a, b, c, d):
        container.delete()
    for node in (one, two):
        until(lambda node=node: not node.records(), "the withdrawals are confirmed")  # type: ignore[misc]
        nothing_left(node)


def mpls_router(lab: Lab) -> tuple[Frr, Namespace]:
    """FRR as an L3VPN router with VRF blue, for external neighbours on its links, and the host behind it."""
    frr = lab.frr(start=False)
    frr.namespace.sysctl(net__mpls__platform_labels=100000)  # zebra looks once
    branch = branch_of(lab, frr.namespace, "blue")
    families = [
        f"address-family ipv{version} unicast\n  redistribute connected\n  label vpn export auto\n"
        "  rd vpn export 198.18.255.1:7\n  rt vpn both 64512:7\n  export vpn\n  import vpn\n exit-address-family"
        for version in (4, 6)
    ]
    # without a router ID of its own FRR 10.3 replaces the VRF's RD and export RT as zebra tells of its addresses
    router = [f"router bgp {frr.asn} vrf blue", " bgp router-id 198.18.255.1"]
    vrf = [*router, *families, "exit", "interface node1", " mpls bgp forwarding", "exit", ""]
    frr.start(bgp(frr.asn, "198.18.255.1") + "\n".join(vrf))
    return frr, branch


def test_l3vpn_over_mpls(lab: Lab) -> None:
    """Labels both ways with FRR, IPv4 and IPv6; what another VRF says is not imported."""
    frr, branch = mpls_router(lab)
    node = lab.node(frr, asn=64513)
    frr.namespace.sysctl(net__mpls__conf__node1__input=1)
    node.agent()
    frr.wait_established(node.address)
    intent = {"family": "vpn", "vrf": "blue", "advertise": "subnet"}
    conf = routed(node, "blue", 7, importRT=["64512:7"], exportRT=["64512:7"], bgp=intent)
    a = add(lab, node, conf, "a")
    until(lambda: a.reaches(BRANCH, BRANCH6), "FRR's host")
    for address in a.addresses:
        assert not branch.run("ping", "-n", "-c", "1", "-W", "2", address, check=False).returncode
    assert {(r["family"], r["datapath"]) for r in node.routes()} == {("ipv4-vpn", True), ("ipv6-vpn", True)}
    assert received(node, "10.9.0.0/24")["datapath"] is True
    assert node.cni("CHECK", "a", a.space, {**conf, "prevResult": a.answer.document}).ok
    node.restart_agent(9)
    assert set(in_table(node, "blue")) == {"10.9.0.0/24"}
    assert a.reaches(BRANCH, BRANCH6)
    frr.stop()
    until(lambda: not in_table(node, "blue"), "no route without its session")
    frr.start()
    until(lambda: a.reaches(BRANCH, BRANCH6), "FRR's host again")
    a.delete()
    until(lambda: not node.records(), "the withdrawal is confirmed")
    nothing_left(node)


def test_what_is_refused(lab: Lab) -> None:
    """One VRF, one VNI; a bridge in one VRF; nothing of a stranger's is taken over."""
    node = without_guard(lab.node())
    node.agent(policy={"vrfs": ["red", "mgmt"]})
    a = add(lab, node, in_red(node, 1), "a")

    def refused(conf: dict[str, Any]) -> str:
        answer = node.cni("ADD", "x", lab.container("x"), conf)
        assert answer.error == 7, answer
        return str(answer.document["msg"])

    red = a.conf["bgp"]
    other = in_red(node, 2, "other")
    assert "VRF red has VNI 4001" in refused(other | {"bgp": other["bgp"] | {"l3vni": 4002}})
    assert "VNI 4001" in refused(other | {"bgp": other["bgp"] | {"vni": 4001, "l3vni": 4003, "vrf": "mgmt"}})
    assert "bridge br-red is in VRF red" in refused(a.conf | {"name": "o", "bgp": red | {"vrf": "mgmt", "l3vni": 1}})
    assert "[policy] vrfs" in refused(other | {"bgp": other["bgp"] | {"vrf": "green", "l3vni": 4002}})
    node.namespace.ip("link", "add", "br-other", "type", "bridge")
    assert "br-other exists and is not in VRF red" in refused(other)
    assert "not in VRF mgmt" in refused(other | {"bgp": other["bgp"] | {"vrf": "mgmt", "l3vni": 4009}})
    assert "mgmt" not in node.links(), "an ADD that fails leaves nothing"
    node.namespace.ip("link", "add", "mgmt", "type", "vrf", "table", "77")
    node.namespace.ip("link", "set", "mgmt", "up")
    node.namespace.ip("link", "set", "br-other", "master", "mgmt")
    mine = other | {"bgp": other["bgp"] | {"vrf": "mgmt", "l3vni": 4009}}
    b = add(lab, node, mine, "b")
    assert [route["dst"] for route in node.namespace.ip_json("route", "show", "table", "77", "type", "unicast")]
    b.delete()
    a.delete()
    until(lambda: not node.records(), "the withdrawals are confirmed")
    assert node.links() == {"mgmt", "br-other"}
    assert json.loads(node.namespace.ip("-json", "link", "show", "br-other"))[0].get("master") == "mgmt"
