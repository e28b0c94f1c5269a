"""STATUS, GC and CHECK where there is a session: they speak of routes, not only of links."""

from __future__ import annotations

import signal

from integration.lab import Lab, until
from integration.seen import SUBNET6, add, announced, delete, dual, nothing_left, ready, withdrawn


def test_status_follows_the_session(lab: Lab) -> None:
    """0 with a session; 51 with the reason while there is none, though ADD goes through; 51 on a drained node."""
    frr = lab.frr()
    node = lab.node(frr)
    conf = dual(node)
    asked = conf | {"cniVersion": "1.1.0"}
    node.agent()
    frr.wait_established(node.address)
    until(lambda: node.cni("STATUS", conf=asked).ok, "a STATUS without error")
    frr.kill(signal.SIGKILL)
    until(lambda: node.cni("STATUS", conf=asked).error == 51, "STATUS 51")
    assert node.peer in node.cni("STATUS", conf=asked).document["msg"]
    assert node.cni("STATUS", conf=asked | {"exporters": []}).ok, "a network that announces nothing is not concerned"
    container = lab.container()
    added = node.cni("ADD", "c1", container, conf)
    assert added.ok
    assert node.cni("CHECK", "c1", container, conf | {"prevResult": added.document}).ok, (
        "the session is not its business"
    )
    frr.restart()
    frr.wait_established(node.address)
    until(lambda: node.cni("STATUS", conf=asked).ok, "a STATUS without error after the session came back")
    delete(node, "c1", container, conf)
    node.operator("drain")
    assert node.cni("STATUS", conf=asked).error == 51
    assert node.cni("ADD", "c2", container, conf).error == 11


def test_gc_withdraws_routes_of_its_network_alone(lab: Lab) -> None:
    """Routes, links, leases and records of what is not listed go; the listed one, and other networks, stay."""
    frr, node = ready(lab)
    conf = dual(node)
    other = node.network("tenant-b", "10.1.3.0/24", "fd00:3::/64")
    spaces = [lab.container() for _ in range(3)]
    kept, doomed = add(node, "c1", spaces[0], conf), add(node, "c2", spaces[1], conf)
    elsewhere = add(node, "c2", spaces[2], other)
    announced(frr, node, kept, doomed, elsewhere)
    valid = [{"containerID": "c1", "ifname": "eth0"}]
    answer = node.cni("GC", conf=conf | {"cniVersion": "1.1.0", "cni.dev/valid-attachments": valid})
    assert answer.ok, answer.document
    withdrawn(frr, doomed)
    announced(frr, node, kept, elsewhere)
    until(lambda: len(node.records()) == 2, "the release")
    assert node.lease_files() == set(kept.ips)
    delete(node, "c1", spaces[0], conf)
    delete(node, "c2", spaces[1], conf)
    delete(node, "c2", spaces[2], other)
    nothing_left(node, *spaces, networks=("tenant-a", "tenant-b"))


def test_check_wants_the_announcement(lab: Lab) -> None:
    """What ADD announced and is not wanted any more is missing, as a link would be."""
    _, node = ready(lab)
    conf, container = dual(node), lab.container()
    added = node.cni("ADD", "c1", container, conf)
    assert added.ok
    asked = conf | {"prevResult": added.document}
    assert node.cni("CHECK", "c1", container, asked).ok
    node.operator("drain")
    refused = node.cni("CHECK", "c1", container, asked)
    assert refused.error == 102, refused.document


def test_status_knows_what_an_exporter_cannot_announce(lab: Lab) -> None:
    """50 where every ADD would be refused: a family that the exporter has not, a next hop that the node has not."""
    node = lab.node()
    node.agent()
    conf = node.network(exporters=["exabgp"], cniVersion="1.1.0")
    assert node.cni("STATUS", conf=conf).ok
    for keys, words in (
        ({"exporters": ["bagpipe"]}, "exporters: bagpipe cannot announce ipv4-unicast"),
        ({"ipam": node.network(subnet=None, subnet6=SUBNET6)["ipam"]}, "bgp: this node has no next hop for IPv6"),
    ):
        status, added = node.cni("STATUS", conf=conf | keys), node.cni("ADD", "c1", lab.container(), conf | keys)
        assert (status.error, added.error) == (50, 7)
        assert words in status.document["msg"]
        assert words in added.document["msg"]
