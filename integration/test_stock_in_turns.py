"""One node, one network, the stock bridge plugin and ours in turns: what the one made, the other takes away whole.

And what a stock plugin changes behind us in a chain, as CHECK sees it.
"""

from __future__ import annotations

from typing import Any

from integration.lab import CniAnswer, Lab, Namespace, Node
from integration.lab.node import STOCK_PLUGINS

Config = dict[str, Any]


def stock(node: Node, command: str, name: str, space: Namespace, conf: Config, kind: str = "bridge") -> CniAnswer:
    """The same call, by a stock plugin."""
    node.bin_dir, ours = STOCK_PLUGINS, node.bin_dir
    try:
        return node.cni(command, name, space, conf | {"type": kind})
    finally:
        node.bin_dir = ours


def test_check_allows_what_a_later_plugin_changed(lab: Lab) -> None:
    """tuning behind us sets MTU, MAC and a sysctl: CHECK compares with prevResult, and with nothing else."""
    node, space = lab.node(), lab.container()
    conf = node.network("tenant-a", "10.1.2.0/24", "2001:db8:1:2::/64", exporters=[], isGateway=True)
    added = node.cni("ADD", "c1", space, conf)
    assert added.ok, added
    tuning = {"cniVersion": "1.0.0", "name": "tenant-a", "type": "tuning", "mtu": 1300, "mac": "02:00:00:00:00:07"}
    tuning["sysctl"] = {"net.ipv4.conf.eth0.arp_filter": "1"}
    tuned = stock(node, "ADD", "c1", space, tuning | {"prevResult": added.document}, "tuning")
    assert tuned.ok, tuned
    assert space.ip_json("link", "show", "eth0")[0]["mtu"] == 1300

    def check() -> CniAnswer:
        return node.cni("CHECK", "c1", space, conf | {"prevResult": tuned.document})

    assert check().ok, check()
    space.ip("link", "set", "eth0", "address", "02:00:00:00:00:08")
    assert (check().error, "prevResult says 02:00:00:00:00:07" in check().document["msg"]) == (102, True)
    space.ip("link", "set", "eth0", "address", "02:00:00:00:00:07")
    assert check().ok, check()
    space.ip("address", "delete", "10.1.2.2/24", "dev", "eth0")
    assert (check().error, "address 10.1.2.2/24 is missing" in check().document["msg"]) == (102, True)
    assert node.cni("DEL", "c1", space, conf).ok
