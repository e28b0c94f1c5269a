"""What a network imports: nothing unless it asks, then what it asks for, and never what the node must not take."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from bgpcni.testing.patience import SECONDS
from integration import evpn
from integration.evpn import Fabric
from integration.lab import Frr, Lab, Node, kernel, until

OTHERS = ["203.0.113.7/32", "203.0.113.0/24", "10.0.0.0/8", "0.0.0.0/0", "127.0.0.0/8", "169.254.7.0/24",
          "224.1.0.0/16", "198.51.100.0/24", "2001:db8:7::7/128", "fe80:7::/64", "::/0"]  # fmt: skip


@pytest.fixture
def frr(lab: Lab) -> Frr:
    return lab.frr(networks=OTHERS)


def imported(node: Node, version: int = 4) -> dict[str, str]:
    """The routes in the node's kernel that have our protocol number: prefix to gateway."""
    listed = node.namespace.ip_json(f"-{version}", "route", "show", "proto", "182")
    return {route["dst"]: route.get("gateway", "") for route in listed}


def received(node: Node) -> list[dict[str, Any]]:
    return list(node.operator("routes", "--received").document["received"])


def unicast(node: Node, **bgp: Any) -> dict[str, Any]:
    return node.network("plain", "10.1.9.0/24", "2001:db8:1:9::/64", bgp={"family": "unicast"} | bgp)


def add(lab: Lab, node: Node, name: str, conf: dict[str, Any], **more: Any) -> Any:
    answer = node.cni("ADD", name, lab.container(name), conf, **more)
    assert answer.ok, answer
    return answer


def test_a_unicast_network_takes_what_it_asks_for(lab: Lab, frr: Frr) -> None:
    """Within `bgp.import` only; a default only if named; loopback, link-local and multicast never."""
    node = lab.node(frr)
    node.agent()
    frr.wait_established(node.address)
    plain = unicast(node)
    add(lab, node, "c0", plain)
    assert imported(node) == {}
    accepting = unicast(
        node, **{"import": ["203.0.113.0/24", "0.0.0.0/1", "127.0.0.0/8", "169.254.0.0/16", "2001:db8::/32"]}
    )
    add(lab, node, "c1", accepting)
    until(lambda: set(imported(node)) == {"203.0.113.7", "203.0.113.0/24", "10.0.0.0/8"}, "the routes")
    assert set(imported(node).values()) == {node.peer}
    until(lambda: imported(node, 6) == {"2001:db8:7::7": node.peer6}, "the IPv6 route")
    document = node.operator("routes", "--received").document
    assert document["refused"]["bgp.import does not name it"] >= 2
    text = json.dumps(document)
    assert "loopback, link-local or multicast" in text
    frr.configure(f"router bgp {frr.asn}", "address-family ipv4 unicast", "no network 203.0.113.7/32")
    until(lambda: "203.0.113.7" not in imported(node), "the withdrawn route")

    before = imported(node)
    node.restart_agent()
    evpn.same_for(1.5, lambda: imported(node), "the agent's restart changes nothing")
    assert imported(node) == before
    node.kill_agent()
    frr.configure(f"router bgp {frr.asn}", "address-family ipv4 unicast", "no network 203.0.113.0/24")
    until(lambda: not frr.paths("203.0.113.0/24"), "withdrawn while no agent is there")
    node.start_agent()
    until(lambda: set(imported(node)) == {"10.0.0.0/8"}, "removed by the next agent")
    assert node.cni("DEL", "c1", None, accepting).ok
    until(lambda: imported(node) == {} and imported(node, 6) == {}, "nobody asks any more")


@pytest.mark.parametrize(
    ("ranges", "inside", "later", "inside_later"),
    [
        (["10.1.9.0/24"], "10.1.9.0/25", ["10.77.0.0/24"], "10.77.0.0/25"),
        (["2001:db8:1:9::/64"], "2001:db8:1:9::/65", ["2001:db8:77::/64"], "2001:db8:77::/65"),
    ],
    ids=["IPv4", "IPv6"],
)
def test_a_peers_route_takes_no_container_away(
    lab: Lab, ranges: list[str], inside: str, later: list[str], inside_later: str
) -> None:
    """A more specific route into a subnet of ours is refused, counted and told; one that was taken goes in the ADD of
    the network whose subnet it is in."""
    frr = lab.frr(networks=[inside, inside_later])
    node = lab.node(frr)
    node.flags = ("--metrics", "127.0.0.1:9109")
    node.agent()
    frr.wait_established(node.address)
    conf = node.network("plain", *ranges, bgp={"family": "unicast", "import": ["0.0.0.0/0", "::/0"]})
    version = 6 if ":" in inside else 4
    first = add(lab, node, "c1", conf).document["ips"][0]["address"].partition("/")[0]
    until(lambda: set(imported(node, version)) == {inside_later}, "the route that harms nobody")
    node.namespace.run("ping", "-c1", "-W5", first)
    add(lab, node, "c2", conf)
    status = node.operator("status").document
    [problem] = [found for found in status["problems"] if found["code"] == "harmful-route"]
    assert f"{inside} from " in problem["text"]
    assert "it is within a subnet of containers on this node" in problem["text"]
    assert not status["healthy"]
    refused = node.operator("routes", "--received").document["refused"]
    assert refused == {"it is within a subnet of containers on this node": 1}
    metrics = node.namespace.run("curl", "-sf", "--max-time", "60", "http://127.0.0.1:9109/metrics").stdout
    name = "bgpcni_learned_routes_refused"
    assert f'{name}{{reason="it is within a subnet of containers on this node"}} 1.0' in metrics
    assert f'{name}{{reason="it would take the way to a BGP peer"}} 0.0' in metrics

    new = node.network("later", *later, bridge="later0", bgp={"family": "unicast"})
    second = add(lab, node, "c3", new).document["ips"][0]["address"].partition("/")[0]
    assert imported(node, version) == {}
    node.namespace.run("ping", "-c1", "-W5", second)
    assert node.cni("DEL", "c3", None, new).ok
    node.namespace.ip("link", "del", "later0")
    until(lambda: set(imported(node, version)) == {inside_later}, "taken again when the subnet is gone")


def test_a_session_that_ends_takes_unicast_routes_along(lab: Lab, frr: Frr) -> None:
    """Without graceful restart they go when the session does, and are back with it."""
    node = lab.node(frr)
    node.agent()
    add(lab, node, "c1", unicast(node, **{"import": ["203.0.113.0/24"]}))
    until(lambda: imported(node), "the routes")
    frr.stop()
    until(lambda: imported(node) == {}, "no route without its session")
    frr.start()
    until(lambda: set(imported(node)) == {"203.0.113.7", "203.0.113.0/24"}, "the routes again")


def test_policy_bounds_what_is_learned(lab: Lab, frr: Frr) -> None:
    """[policy] prefixes and maximum_prefix hold for learned routes, whatever a network asks."""
    node = lab.node(frr)
    node.agent(policy={"prefixes": ["203.0.113.0/25", "10.1.0.0/16", "2001:db8:1::/48"]})
    asks = unicast(node, **{"import": ["203.0.113.0/24", "198.51.100.0/24"]})
    add(lab, node, "c1", asks)
    until(lambda: set(imported(node)) == {"203.0.113.7"}, "what both allow")
    assert node.operator("routes", "--received").document["refused"]["[policy] prefixes does not allow it"] == 2
    node.configure(policy={"maximum_prefix": 3})
    node.restart_agent()
    until(lambda: len(received(node)) == 3, "three routes, no more")
    [peer] = node.operator("peers").document["peers"]
    assert "maximum_prefix 3 is reached" in peer["lastError"]


def test_import_and_export_targets_are_two_things(lab: Lab, frr: Frr) -> None:
    """A VNI imports by importRT alone; an attachment's own joins while it lives, and its exportRT replaces."""
    fabric = Fabric(lab, frr, 2)
    one, two = fabric.nodes
    deaf = fabric.add(0, "deaf", importRT=[], exportRT=["64512:7"])
    other = fabric.add(1, "other", importRT=["64512:7"], exportRT=["64512:8", "64512:9"])
    until(lambda: evpn.remote(two) == {deaf.mac: one.address}, "what is imported")
    assert evpn.behind(one) == {}
    conf = evpn.network(one, 1, importRT=[], exportRT=["64512:7"])
    space = lab.container("curious")
    answer = one.cni("ADD", "curious", space, conf, args="IMPORT_RT=64512:9;EXPORT_RT=64512:11")
    assert answer.ok, answer
    curious = evpn.Container("curious", one, space, conf, answer)
    until(lambda: evpn.remote(one) == {other.mac: two.address}, "imported for one attachment")
    assert set(evpn.remote(two)) == {deaf.mac}
    own = [route for route in one.routes() if route["mac"] == curious.mac and route["prefix"]]
    assert {tuple(route["exportRT"]) for route in own} == {("64512:11",)}
    curious.delete()
    until(lambda: evpn.behind(one) == {}, "not imported any more")


def test_bridge_and_vni_are_one_to_one(lab: Lab, frr: Frr) -> None:
    """A bridge for two VNIs, or a VNI on two bridges, is refused; two networks may share both."""
    fabric = Fabric(lab, frr, 1)
    node = fabric.nodes[0]
    first = fabric.add(0, "first")

    def refused(**keys: Any) -> str:
        conf = evpn.network(node, 2, **keys) | {"name": "tenant-b"}
        answer = node.cni("ADD", "second", lab.container("second"), conf)
        assert answer.error == 7, answer
        return str(answer.document["msg"])

    assert "bridge cni0 carries VNI 5001" in refused(bgp={"family": "evpn", "vni": 5002})
    assert "VNI 5001 is on bridge cni0" in refused(bridge="other0")
    assert f"{evpn.GATEWAY_MAC} is that of the anycast gateway of VNI 5001" in refused(mac=evpn.GATEWAY_MAC)
    assert f"{first.mac} in VNI 5001 is that of first eth0" in refused(mac=first.mac)
    node.restart_agent()
    assert "bridge cni0 carries VNI 5001" in refused(bgp={"family": "evpn", "vni": 5002})
    shared = evpn.network(node, 2) | {"name": "tenant-b"}
    space = lab.container("shared")
    assert node.cni("ADD", "shared", space, shared).ok
    assert node.cni("DEL", "shared", space, shared).ok
    first.delete()
    evpn.empty(node)
    fabric.add(0, "first", bgp={"family": "evpn", "vni": 5002}).delete()


def test_what_is_not_forwarded_says_so(lab: Lab, frr: Frr) -> None:
    """L3VPN and type 5 are announced and imported; ADD warns, and `routes` says that no data path is behind them."""
    fabric = Fabric(lab, frr, 2)
    one, two = fabric.nodes
    for node, subnet in ((one, "10.1.3.0/24"), (two, "10.1.4.0/24")):
        conf = node.network(
            "vpn", subnet, bridge="vpn0", bgp={"family": "vpn"}, importRT=["64512:3"], exportRT=["64512:3"]
        )
        assert "announced only" in add(lab, node, "v", conf).stderr
    until(lambda: [r for r in received(one) if r["family"] == "ipv4-vpn" and r["imported"]], "the other's VPN route")
    [route] = [r for r in received(one) if r["family"] == "ipv4-vpn" and r["nextHop"] == two.address]
    assert (route["imported"], route["datapath"]) == ([{"table": "vpn vpn", "state": "best", "reason": ""}], False)
    assert {r["datapath"] for r in one.routes()} == {False}
    wide = fabric.add(0, "s", bgp={"family": "evpn", "vni": evpn.VNI, "advertise": "subnet"})
    assert "announced only" in wide.answer.stderr
    fabric.add(1, "t")
    until(lambda: [r for r in received(two) if "[5]" in r["nlri"] and r["imported"]], "the type 5 route")
    fives = [r for r in received(two) if "[5]" in r["nlri"]]
    assert {(r["prefix"], r["datapath"], r["imported"][0]["state"]) for r in fives} == {
        (evpn.SUBNET, False, "best"), (evpn.SUBNET6, False, "best")
    }  # fmt: skip
    assert {r["datapath"] for r in one.routes() if "[5]" in r["nlri"]} == {False}


@pytest.mark.skipif(kernel.has("vrf"), reason="this kernel has VRFs: see test_vrf.py")
def test_a_vrf_where_the_kernel_has_none(lab: Lab, frr: Frr) -> None:
    """ADD succeeds and says so; the VRF's routes are announced, and imported for the control plane; nothing is made."""
    node = lab.node(frr)
    node.agent()
    red = {"family": "evpn", "vni": evpn.VNI, "vrf": "red", "l3vni": 4001, "advertise": "subnet"}
    five = add(lab, node, "five", evpn.network(node, 1, gateway=True, bgp=red))
    assert "VRF red are announced only, not forwarded: there is no VRF here" in five.stderr
    blue, targets = {"family": "vpn", "vrf": "blue"}, ["64512:3"]
    conf = node.network("vpn", "10.1.3.0/24", bridge="vpn0", bgp=blue, importRT=targets, exportRT=targets)
    vpn = add(lab, node, "vpn", conf)
    assert "VRF blue are announced only, not forwarded: there is no VRF here" in vpn.stderr
    until(lambda: frr.paths("10.1.3.2/32", "ipv4-vpn"), "the VPN route at FRR")
    until(lambda: [name for name in frr.evpn_routes("prefix") if "10.1.2.0" in name], "the type 5 route at FRR")
    routes = {
        (r["prefix"], r["vni"]): r["datapath"]
        for r in node.routes()
        if r["family"] != "l2vpn-evpn" or "[5]" in r["nlri"]
    }
    assert routes == {("10.1.2.0/24", 4001): False, ("2001:db8:1:2::/64", 4001): False, ("10.1.3.2/32", None): False}
    [steps] = [found["steps"] for found in node.operator("explain", "five").document["attachments"]]
    assert [step["state"] for step in steps if step["step"] == "VRF"] == ["none"]
    assert not {"red", "blue", "vxlan4001"} & node.links()


def test_graceful_restart_keeps_unicast_routes(lab: Lab) -> None:
    """The neighbour's daemon is killed and comes back: what was learned forwards on; what it lost meanwhile goes."""
    frr = lab.frr(networks=["203.0.113.7/32", "203.0.113.8/32"], extra=["bgp graceful-restart",
                  "bgp graceful-restart preserve-fw-state"])  # fmt: skip
    node = lab.node(frr)
    node.agent()
    add(lab, node, "c1", unicast(node, **{"import": ["203.0.113.0/24"]}))
    until(lambda: set(imported(node)) == {"203.0.113.7", "203.0.113.8"}, "the routes")
    log = node.folder / "routes.log"
    with log.open("w") as out:
        monitor = node.namespace.popen("ip", "monitor", "route", stdout=out)
    frr.restart(signal.SIGKILL, frr.config["bgpd"].replace("  network 203.0.113.8/32\n", ""))
    until(lambda: set(imported(node)) == {"203.0.113.7"}, "just what was told again")
    monitor.terminate()
    monitor.wait(SECONDS)
    assert not [line for line in log.read_text().splitlines() if "Deleted" in line and "203.0.113.7" in line]
