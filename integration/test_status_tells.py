"""`status` and `explain` report what keeps containers from being reached, exactly as long as it lasts."""

from __future__ import annotations

from typing import Any

from bgpcni.commands import render
from integration.lab import Lab, Node, until
from integration.seen import add, announced, delete, dual, pinged, ready, settled


def problems(node: Node, *codes: str) -> list[str]:
    """The texts of these problems, after the exit code was compared; as text they are the same."""
    answer = node.operator("status")
    assert answer.code == (1 if answer.document["problems"] else 0)
    found = [problem["text"] for problem in answer.document["problems"] if problem["code"] in codes]
    printed = render.status(answer.document)
    assert all(text in printed for text in found)
    return found


def reachability(node: Node, what: str) -> tuple[str, str]:
    """State and detail of `explain`'s step."""
    (attachment,) = node.operator("explain", what).document["attachments"]
    (step,) = [step for step in attachment["steps"] if step["step"] == "reachability"]
    return step["state"], step["detail"]


NFT = "table inet fw { chain forward { type filter hook forward priority 0; policy drop; %s }\n}"
CAUSES = {
    "IPv4 forwarding": (
        ["sysctl -qw net.ipv4.ip_forward=0"],
        ["sysctl -qw net.ipv4.ip_forward=1"],
        "forwarding-off",
        "forwards no IPv4 to containers: sysctl net/ipv4/ip_forward is off (2 attachments)",
    ),
    "IPv6 forwarding": (
        ["sysctl -qw net.ipv6.conf.all.forwarding=0"],
        ["sysctl -qw net.ipv6.conf.all.forwarding=1"],
        "forwarding-off",
        "forwards no IPv6 to containers: sysctl net/ipv6/conf/all/forwarding is off (2 attachments)",
    ),
    "nftables": (
        [f"nft '{NFT % ''}'"],
        [f"nft delete table inet fw; nft '{NFT % 'oifname cni0 accept; ct state established accept;'}'"],
        "firewall",
        "drops what is forwarded to containers on cni0: chain forward of nftables' table inet fw (policy drop)",
    ),
    "iptables": (
        ["iptables -P FORWARD DROP", "iptables -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"],
        ["iptables -A FORWARD -o cni0 -j ACCEPT"],
        "firewall",
        "containers on cni0: chain FORWARD of nftables' table ip filter (policy drop)",
    ),
    "ip6tables-legacy": (
        ["ip6tables-legacy -P FORWARD DROP"],
        ["ip6tables-legacy -P FORWARD ACCEPT"],
        "firewall",
        "containers on cni0: chain FORWARD of ip6tables-legacy (policy drop)",
    ),
    "the bridge": (
        ["ip link set cni0 down"],
        ["ip link set cni0 up", "ip addr replace 2001:db8:1:2::1/64 dev cni0 nodad"],
        "bridge-down",
        "bridge cni0 is down (2 attachments)",
    ),
    "the gateway's address": (
        ["ip addr del 10.1.2.1/24 dev cni0"],
        ["ip addr add 10.1.2.1/24 dev cni0"],
        "gateway-missing",
        "bridge cni0: gateway address 10.1.2.1/24 is missing (2 attachments)",
    ),
    "the gateway's IPv6 address": (
        ["ip addr del 2001:db8:1:2::1/64 dev cni0"],
        ["ip addr add 2001:db8:1:2::1/64 dev cni0 nodad"],
        "gateway-missing",
        "bridge cni0: gateway address 2001:db8:1:2::1/64 is missing (2 attachments)",
    ),
}


def test_what_keeps_containers_from_being_reached(lab: Lab) -> None:
    """Each cause by itself: named while it is so, counted once for both containers, and gone after the repair."""
    frr, node = ready(lab)
    conf, first, second = dual(node), lab.container("a"), lab.container("b")
    one, two = add(node, "c1", first, conf), add(node, "c2", second, conf)
    announced(frr, node, one, two)
    settled(node)
    codes = ("bridge-down", "gateway-missing", "unreachable", "forwarding-off", "firewall")
    assert problems(node, *codes) == []
    assert reachability(node, "c1")[0] == "yes"
    for name, (provoke, repair, code, words) in CAUSES.items():
        for command in provoke:
            node.namespace.run("sh", "-c", command)
        (text,) = problems(node, code)
        assert words in text, name
        state, detail = reachability(node, "c1")
        assert (state, words.partition(" (2 attachments)")[0] in detail) == ("no", True), (name, detail)
        for command in repair:
            node.namespace.run("sh", "-c", command)
        until(lambda: problems(node, *codes) == [], f"nothing said of {name}")
        assert reachability(node, "c1")[0] == "yes"
    pinged(frr, one, two)
    delete(node, "c1", first, conf)
    delete(node, "c2", second, conf)


def uplink(node: Node, address: str) -> str:
    """The node's interface that has an address."""
    links = node.namespace.ip_json("addr", "show", "to", address)
    return str(next(link["ifname"] for link in links if link))


def test_a_local_address_that_comes_later(lab: Lab) -> None:
    """The agent starts although local_address is missing and says why no session begins; once it exists, all works."""
    frr = lab.frr()
    node = lab.node(frr)
    device = uplink(node, node.address)
    node.namespace.ip("addr", "del", f"{node.address}/24", "dev", device)
    node.agent()
    words = f"bgp.local_address: {node.address} is on no interface of this node"
    until(lambda: node.operator("peers").document["peers"], "the peer")
    assert any(words in text for text in problems(node, "local-address"))
    (peer,) = node.operator("peers").document["peers"]
    assert words in peer["lastError"]
    assert words in node.log.read_text()
    node.namespace.ip("addr", "add", f"{node.address}/24", "dev", device)
    frr.wait_established(node.address)
    until(lambda: problems(node, "local-address", "peer-down") == [], "nothing said of it")
    until(lambda: f"mended: {words}" in node.log.read_text(), "the log says that it is mended")
    (peer,) = node.operator("peers").document["peers"]
    assert words not in peer["lastError"]


def test_a_family_without_a_next_hop(lab: Lab) -> None:
    """Of a dual-stack container the other family is announced; the rest is said everywhere, and comes with the
    address."""
    frr = lab.frr()
    node = lab.node(frr)
    device = uplink(node, node.address)
    node.namespace.ip("addr", "del", f"{node.address6}/64", "dev", device)
    node.agent()
    frr.wait_established(node.address)
    conf, space = dual(node), lab.container()
    until(lambda: node.cni("STATUS", conf=conf | {"cniVersion": "1.1.0"}).ok, "STATUS without an error")
    one = add(node, "c1", space, conf)
    words = "this node has no next hop for IPv6: set [bgp] next_hop6"
    assert f"some addresses are not announced: bgp: {words}" in one.stderr

    def states() -> dict[str, Any]:
        return {route["family"]: route["exporters"]["exabgp"] for route in node.routes()}

    until(lambda: states()["ipv4-unicast"]["state"] == "announced", "the IPv4 route")
    assert (states()["ipv6-unicast"]["state"], words in states()["ipv6-unicast"]["reason"]) == ("wanted", True)
    (text,) = problems(node, "no-next-hop")
    assert words in text
    assert node.operator("routes").code == 1
    node.namespace.ip("addr", "add", f"{node.address6}/64", "dev", device, "nodad")
    settled(node)
    announced(frr, node, one)
    assert problems(node, "no-next-hop") == []
    delete(node, "c1", space, conf)
