"""The stock bridge plugin and ours used in turn on one network: each removes completely what the other has made.

Also, CHECK after a later stock plugin of the chain has changed something.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from integration.lab import CniAnswer, Lab, Namespace, Node, until
from integration.lab.node import STOCK_PLUGINS

Config = dict[str, Any]


def stock(node: Node, command: str, name: str, space: Namespace, conf: Config, kind: str = "bridge") -> CniAnswer:
    """The same call, by a stock plugin."""
    node.bin_dir, ours = STOCK_PLUGINS, node.bin_dir
    try:
        return node.cni(command, name, space, conf | {"type": kind})
    finally:
        node.bin_dir = ours


def stock_deletes(node: Node, name: str, space: Namespace, conf: Config) -> None:
    """As a runtime does it: what failed is tried again. In the end stock 1.1.1 misses an iptables chain of its own."""
    if not (first := stock(node, "DEL", name, space, conf)).ok:
        assert "CNI-" in first.document["msg"], first
        again = stock(node, "DEL", name, space, conf)
        assert again.ok, again


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


# ---------------------------------------------------------------- the one makes it, the other deletes it


def network(node: Node, **keys: Any) -> Config:
    """Dual stack, masqueraded, its spoofed frames dropped: all that either plugin leaves on a node."""
    defaults: Config = {"exporters": [], "isGateway": True, "ipMasq": True, "macspoofchk": True}
    return node.network("tenant-a", "10.1.2.0/24", "2001:db8:1:2::/64", **(defaults | keys))


def installed(node: Node, container_id: str) -> list[str]:
    """The lines of iptables and nftables that are a container's: stock's and ours."""
    rules = [node.namespace.run(program).stdout for program in ("iptables-save", "ip6tables-save")]
    rules.append(node.namespace.run("nft", "list", "ruleset").stdout)
    words = (f'id: \\"{container_id}\\"', f"-{container_id}-eth0", f"/{container_id}/eth0", f"id: {container_id}")
    return [line for text in rules for line in text.splitlines() if any(word in line for word in words)]


def gone(node: Node, space: Namespace, container_id: str) -> None:
    """Nothing of the container is left, in it or on the node."""
    assert space.ip_json("link", "show", "eth0") == []
    assert installed(node, container_id) == []
    held = [node.leases / "tenant-a" / name for name in node.lease_files()]
    assert [lease for lease in held if lease.read_text().split()[0] == container_id] == []
    assert not [record for record in node.records() if f'"{container_id}"' in record.read_text()]


def of_stock_1_9(node: Node, container_id: str, address: str) -> None:
    """The masquerading of a newer stock plugin, as its source has it; Debian's knows iptables alone."""
    short = [hashlib.sha512(text.encode()).hexdigest()[:16] for text in ("tenant-a", f"eth0:{container_id}")]
    comment = f"{'-'.join(short)}, net: tenant-a, if: eth0, id: {container_id}"
    script = (
        "add table inet cni_plugins_masquerade\n"
        "add chain inet cni_plugins_masquerade masq_checks\n"
        f"add rule inet cni_plugins_masquerade masq_checks ip saddr == {address} ip daddr != 10.1.2.0/24"
        f' masquerade comment "{comment}"\n'
    )
    node.namespace.run("nft", "-f", "-", stdin=script)


@pytest.mark.parametrize("netns", ["there", "empty", "a plain file"])
def test_we_delete_what_stock_made(lab: Lab, tmp_path: Path, netns: str) -> None:
    """Interface, both kinds of masquerading, the MAC check and leases go; those of another container stay."""
    node, spaces = lab.node(), {name: lab.container(name) for name in ("c1", "c2")}
    conf = network(node)
    for name, space in spaces.items():
        made = stock(node, "ADD", name, space, conf)
        assert made.ok, made
        of_stock_1_9(node, name, made.ips[0])
        assert len(installed(node, name)) > 8
    before = installed(node, "c2")
    (tmp_path / "stale").touch()
    where = {"there": spaces["c1"], "empty": None, "a plain file": tmp_path / "stale"}[netns]
    deleted = node.cni("DEL", "c1", where, conf)
    assert deleted.ok, deleted
    assert not deleted.stderr
    gone(node, spaces["c1"], "c1")
    assert installed(node, "c2") == before
    assert spaces["c2"].ping("10.1.2.1")
    assert node.cni("DEL", "c1", where, conf).ok
    assert node.cni("DEL", "c2", spaces["c2"], {key: conf[key] for key in conf if key != "ipam"}).ok
    assert spaces["c2"].ping("10.1.2.1"), "without ipam only our own link goes"
    assert node.cni("DEL", "c2", spaces["c2"], conf | {"ipMasq": False, "macspoofchk": False}).ok
    gone(node, spaces["c2"], "c2")


@pytest.mark.parametrize("agent", [False, True])
def test_stock_deletes_what_we_made(lab: Lab, agent: bool) -> None:
    """What is ours on the node goes without a DEL of ours: with an agent soon, whatever the grace; else at a call."""
    node, spaces = lab.node(), [lab.container(name) for name in ("c1", "c2", "c3")]
    if agent:
        node.agent(bgp=None, orphan_grace=3600)
    conf = network(node)
    kept = node.network("tenant-b", "10.1.3.0/24", exporters=[], isGateway=True, ipam=None)
    for number, asked in enumerate((conf, conf, kept), 1):
        added = node.cni("ADD", f"c{number}", spaces[number - 1], asked)
        assert added.ok, added
    assert len(installed(node, "c1")) == 4
    stock_deletes(node, "c1", spaces[0], conf)
    if agent:
        until(lambda: len(node.records()) == 2, "the record to go", 60)
    else:
        assert node.cni("DEL", "c9", None, conf).ok
    gone(node, spaces[0], "c1")
    assert spaces[1].ping("10.1.2.1")
    assert len(installed(node, "c2")) == 4

    # a container that went without any DEL has its grace
    spaces[1].ip("link", "delete", "eth0")
    if agent:
        until(lambda: len(installed(node, "c2")) == 0, "what was installed for it to go")
        assert len(node.records()) == 2
        assert len(node.lease_files()) == 2
    assert node.cni("DEL", "c2", spaces[1], conf).ok
    gone(node, spaces[1], "c2")
    assert node.cni("DEL", "c3", spaces[2], kept).ok


@pytest.mark.parametrize("agent", [False, True])
def test_a_container_is_made_anew_by_the_other(lab: Lab, agent: bool) -> None:
    """The same container and the same address: the lease stays with the interface that has it, until our DEL."""
    node, space = lab.node(), lab.container()
    if agent:
        node.agent(bgp=None, orphan_grace=3600)
    conf = network(node)
    ranges = [[{"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.7", "rangeEnd": "10.1.2.7"}]]
    conf["ipam"] |= {"ranges": ranges}
    assert node.cni("ADD", "c1", space, conf).ok
    for _ in range(2):
        stock_deletes(node, "c1", space, conf)
        made = stock(node, "ADD", "c1", space, conf)
        assert made.ips == ["10.1.2.7"], made
        refused = node.cni("ADD", "c2", lab.container(), conf)
        assert refused.error == 11, refused
        again = node.cni("ADD", "c1", space, conf)
        assert not again.ok, "it is there already"
        assert node.lease_files() == {"10.1.2.7"}
        assert space.ping("10.1.2.1")
        deleted = node.cni("DEL", "c1", space, conf)
        assert deleted.ok, deleted
        gone(node, space, "c1")
        added = node.cni("ADD", "c1", space, conf)
        assert added.ips == ["10.1.2.7"], added
    stock_deletes(node, "c1", space, conf)
    assert stock(node, "ADD", "c1", space, conf).ok
    assert node.cni("DEL", "c1", space, conf).ok, "at once, before anybody looked"
    gone(node, space, "c1")


def test_a_path_that_is_another_containers_by_now(lab: Lab) -> None:
    """DEL of a container that is gone, with a path that leads to another one, of stock's or ours: that one stays."""
    node, space = lab.node(), lab.container()
    conf = network(node)
    for make in (stock, Node.cni):
        made = make(node, "ADD", "c2", space, conf)
        assert made.ok, made
        assert node.cni("DEL", "c1", space, conf).ok
        (node.leases / "tenant-a" / "10.1.2.77").write_text("c1\r\neth0")
        assert node.cni("DEL", "c1", space, conf).ok
        assert space.ping("10.1.2.1")
        assert node.lease_files() == set(made.ips)
        assert node.cni("DEL", "c2", space, conf).ok
        gone(node, space, "c2")


def test_a_lost_record_loses_nothing_else(lab: Lab) -> None:
    """DEL of a container of ours whose record is not there, or cannot be read: all of it goes all the same."""
    node, conf = lab.node(), None
    for spoil in (Path.unlink, lambda record: record.write_text("{")):
        for netns in (True, False):
            space, conf = lab.container(), network(node)
            assert node.cni("ADD", "c1", space, conf).ok
            for record in node.records():
                spoil(record)
            deleted = node.cni("DEL", "c1", space if netns else None, conf)
            assert deleted.ok, deleted
            assert (space.ip_json("link", "show", "eth0"), node.lease_files()) == ([], set())
            assert installed(node, "c1") == []


def test_a_lease_stays_while_its_interface_does(lab: Lab) -> None:
    """An interface that cannot be removed: DEL says so and releases nothing. The node's own interfaces are no
    container's."""
    node, space = lab.node(), lab.container()
    conf = network(node)
    assert stock(node, "ADD", "c1", space, conf).ok
    lease = node.leases / "tenant-a" / "10.1.2.77"
    lease.write_text("c1\r\nlo")
    refused = node.cni("DEL", "c1", space, conf, ifname="lo")
    assert (refused.ok, "lo in " in refused.document["msg"]) == (False, True), refused
    assert lease.exists()
    lease.write_text("c1\r\ncni0")
    assert node.cni("DEL", "c1", node.namespace, conf, ifname="cni0").ok
    assert not lease.exists()
    assert "cni0" in node.links()
    assert node.cni("DEL", "c1", space, conf).ok


@pytest.mark.parametrize("agent", [False, True])
def test_gc_takes_away_what_stock_made(lab: Lab, agent: bool) -> None:
    """GC removes an interface before its lease is released. An interface behind another bridge keeps its lease, with a
    warning. A valid attachment stays."""
    node, spaces = lab.node(), {name: lab.container(name) for name in ("c1", "c2", "c3", "c4", "c5")}
    if agent:
        node.agent(bgp=None)
    conf = network(node)
    made = {name: stock(node, "ADD", name, spaces[name], conf) for name in ("c1", "c2", "c3", "c4")}
    assert all(answer.ok for answer in made.values()), made
    assert node.cni("ADD", "c5", spaces["c5"], conf).ok
    for name, answer in made.items():
        of_stock_1_9(node, name, answer.ips[0])
    node.namespace.ip("link", "set", made["c3"].document["interfaces"][1]["name"], "nomaster")
    spaces["c4"].ip("link", "delete", "eth0")
    valid = [{"containerID": name, "ifname": "eth0"} for name in ("c2", "c5")]
    kept = {name: installed(node, name) for name in ("c2", "c3", "c5")}
    collected = node.cni("GC", conf=conf | {"cniVersion": "1.1.0", "cni.dev/valid-attachments": valid})
    assert collected.ok, collected
    for name in ("c1", "c4"):
        gone(node, spaces[name], name)
    assert {name: installed(node, name) for name in kept} == kept
    assert len(node.lease_files()) == 6
    assert "c3: 10.1.2." in collected.stderr
    assert "stays leased" in collected.stderr
    assert [bool(spaces[name].ping("10.1.2.1")) for name in ("c2", "c5")] == [True, True]
    for name in ("c2", "c3", "c5"):
        assert node.cni("DEL", name, spaces[name], conf).ok
        gone(node, spaces[name], name)
