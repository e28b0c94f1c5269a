"""For each fault the looking glass names the container that cannot be reached, the cause, and what to do about it.

With `BGPCNI_PICTURES=DIR` each test leaves a picture of the container's page there: those of the documentation.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from integration.glass import Browser, LookingGlass
from integration.lab import Frr, Lab, Node, until
from integration.seen import add, announced, dual, freeze, ready, speaker, thaw


@dataclass(frozen=True)
class Scene:
    """A node with two containers, web and db, which FRR reaches; its looking glass, and a browser in front of it."""

    lab: Lab
    frr: Frr
    node: Node
    conf: dict[str, Any]
    browser: Browser

    def sh(self, *commands: str) -> None:
        for command in commands:
            self.node.namespace.run("sh", "-c", command)

    def tells(self, name: str, cause: str, remedy: str, *containers: str) -> None:
        """Overview and page of each container show the cause; the overview names the container, the page helps."""
        self.browser.open("/")
        self.browser.shows("cannot be reached", cause, *(f"shop/{each}" for each in containers))
        for each in containers:
            self.browser.open(f"/attachments/{each}-id")
            self.browser.shows(f"shop/{each}", cause, remedy)
        self.picture(name)

    def is_well(self) -> None:
        self.browser.open("/")
        self.browser.shows("All is well", gone="cannot be reached")
        for each in ("web", "db"):
            self.browser.open(f"/attachments/{each}-id")
            self.browser.shows("Nothing on the way is broken")

    def picture(self, name: str) -> None:
        if folder := os.environ.get("BGPCNI_PICTURES"):
            self.browser.wide(860)
            self.browser.picture(Path(folder) / f"{name}.png", until=".scroll")
            self.browser.wide(None)


def run_container(lab: Lab, node: Node, name: str, conf: dict[str, Any], **more: Any) -> Any:
    return add(
        node, f"{name}-id", lab.container(name), conf, args=f"K8S_POD_NAMESPACE=shop;K8S_POD_NAME={name}", **more
    )


@pytest.fixture(scope="module")
def scene() -> Any:
    with Lab() as lab:
        frr, node = ready(lab)
        conf = dual(node)
        announced(frr, node, *(run_container(lab, node, name, conf) for name in ("web", "db")))
        LookingGlass(lab, node).start()
        scene = Scene(lab, frr, node, conf, Browser(lab, node))
        scene.is_well()
        yield scene


NFT = "table inet fw { chain forward { type filter hook forward priority 0; policy drop; }\n}"


@pytest.mark.parametrize(
    ("name", "break_it", "mend_it", "cause", "remedy"),
    [
        ("forwarding-off", "sysctl -qw net.ipv4.ip_forward=0", "sysctl -qw net.ipv4.ip_forward=1",
         "this node forwards no IPv4 to containers: sysctl net/ipv4/ip_forward is off", "Set the sysctl"),
        ("forward-drop", f"nft '{NFT}'", "nft delete table inet fw",
         "the firewall drops what is forwarded to containers on cni0: chain forward of nftables' table inet fw",
         "Accept this traffic"),
        ("bridge-down", "ip link set cni0 down",
         "ip link set cni0 up; ip addr replace 2001:db8:1:2::1/64 dev cni0 nodad",
         "bridge cni0 is down", "ip link set BRIDGE up"),
        ("gateway-missing", "ip addr del 10.1.2.1/24 dev cni0", "ip addr add 10.1.2.1/24 dev cni0",
         "bridge cni0: gateway address 10.1.2.1/24 is missing", "ip address add"),
        ("another-rule", "ip rule add to 10.1.2.0/24 unreachable pref 5",
         "ip rule del to 10.1.2.0/24 unreachable pref 5", "the node cannot reach", "ip rule"),
    ],
)  # fmt: skip
def test_what_keeps_the_node_from_forwarding(
    scene: Scene, name: str, break_it: str, mend_it: str, cause: str, remedy: str
) -> None:
    scene.sh(break_it)
    scene.tells(name, cause, remedy, "web", "db")
    scene.sh(mend_it)
    scene.is_well()


def test_a_peer_that_is_down(scene: Scene) -> None:
    """While it restarts; afterwards all is well again without anybody's doing."""
    scene.frr.stop()
    scene.tells(
        "peer-down", f"{scene.node.peer}, AS {scene.frr.asn}, of exabgp", "answers on TCP port 179", "web", "db"
    )
    scene.browser.shows("Session")
    scene.frr.start()
    scene.frr.wait_established(scene.node.address)
    until(lambda: scene.node.operator("routes").code == 0, "the routes announced again")
    scene.is_well()


def test_an_as_number_that_is_wrong(scene: Scene) -> None:
    """What the peer's NOTIFICATION says, in words."""
    frr, node = scene.frr, scene.node
    frr.configure(f"router bgp {frr.asn}", f"neighbor {node.address} remote-as 64999")
    scene.tells("as-wrong", "Bad Peer AS", "has the AS numbers", "web", "db")
    frr.configure(f"router bgp {frr.asn}", f"neighbor {node.address} remote-as {frr.asn}")
    frr.wait_established(node.address)
    until(lambda: node.operator("routes").code == 0, "the routes announced again")
    scene.is_well()


def test_an_exporter_that_does_not_answer(scene: Scene) -> None:
    """Its speaker hangs: what is new is not announced, and the page of the new container says so."""
    pid = speaker(scene.node)
    freeze(scene.lab, pid)
    conf = scene.conf | {"bgp": {"wait": "none"}}
    run_container(scene.lab, scene.node, "late", conf)
    scene.tells("exporter-down", "exabgp: no answer", "See that the speaker runs", "late")
    thaw(pid)
    until(lambda: scene.node.operator("routes").code == 0, "the routes announced")
    assert scene.node.cni("DEL", "late-id", None, conf).ok
    scene.is_well()


def test_a_link_that_is_gone(scene: Scene) -> None:
    """First somebody sets the interface of a container down, then removes it: an orphan, for no DEL came."""
    run_container(scene.lab, scene.node, "lost", scene.conf)
    (row,) = [
        row for row in scene.node.operator("attachments").document["attachments"] if row["containerID"] == "lost-id"
    ]
    scene.sh(f"ip link set {row['hostVeth']} down")
    scene.tells("link-down", f"{row['hostVeth']} (index", "ip link set VETH up", "lost")
    scene.sh(f"ip link del {row['hostVeth']}")
    scene.tells("link-gone", f"{row['hostVeth']} (index", "Start the container again", "lost")
    scene.browser.open("/attachments?search=lost")
    scene.browser.shows("gone")
    assert scene.node.cni("DEL", "lost-id", None, scene.conf).ok
    scene.is_well()


def test_an_add_that_is_refused(scene: Scene) -> None:
    """It asks for the address of another container: the page names both, although nothing is left of it."""
    space = scene.lab.container("thief")
    taken = next(
        row["ips"][0]
        for row in scene.node.operator("attachments").document["attachments"]
        if row["containerID"] == "web-id"
    )
    args = f"K8S_POD_NAMESPACE=shop;K8S_POD_NAME=thief;IP={taken.partition('/')[0]}"
    refused = scene.node.cni("ADD", "thief-id", space, scene.conf, args=args)
    assert not refused.ok
    scene.browser.open("/")
    scene.browser.shows("ADDs that failed", "shop/thief", refused.document["msg"])
    scene.browser.open("/attachments/thief-id")
    scene.browser.shows("Last ADD", refused.document["msg"], "Mend what the error names")
    scene.picture("address-taken")


def test_a_family_without_a_next_hop(scene: Scene) -> None:
    """The node has no IPv6 address of its own: the page says which address is not announced, and how it will be."""
    lab = scene.lab
    node = lab.node(scene.frr)
    device = next(link["ifname"] for link in node.namespace.ip_json("addr", "show", "to", node.address) if link)
    node.namespace.ip("addr", "del", f"{node.address6}/64", "dev", device)
    node.agent()
    scene.frr.wait_established(node.address)
    conf = dual(node, bgp={"wait": "none"})
    run_container(lab, node, "half", conf)
    LookingGlass(lab, node).start()
    other = Scene(lab, scene.frr, node, conf, Browser(lab, node))
    other.tells(
        "no-next-hop", "this node has no next hop for IPv6: set [bgp] next_hop6", "set next_hop or next_hop6", "half"
    )


def test_a_vxlan_that_is_missing_and_an_address_that_is_anothers(lab: Lab) -> None:
    """EVPN: two nodes gave the same address; and somebody removed the VXLAN of one."""
    frr = lab.frr()
    one, two = (lab.node(frr, reflect=True) for _ in range(2))
    for node in (one, two):
        node.agent()
        frr.wait_established(node.address)
        conf = dual(node, bridge="br-blue", bgp={"family": "evpn", "vni": 5001}, importRT=["64512:5001"])
        run_container(lab, node, "twin", conf)
    LookingGlass(lab, one).start()
    scene = Scene(lab, frr, one, conf, Browser(lab, one))
    scene.tells("duplicate-address", f"of this node is announced by {two.address} too", "Stop one of the two", "twin")
    assert two.cni("DEL", "twin-id", None, conf).ok
    until(lambda: one.operator("status").code == 0, "no other with that address")
    scene.browser.open("/")
    scene.browser.shows("All is well")
    scene.sh("ip link set vxlan5001 down")
    scene.tells("vxlan-down", "vxlan5001 is down", "ip link set VXLAN up", "twin")
