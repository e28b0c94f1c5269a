"""BaGPipe as the article had it: EVPN between two nodes through the real daemons, FRR reflecting their routes."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from integration.bagpipe import BaGPipe
from integration.lab import CniAnswer, Frr, Lab, Namespace, Node, until

ARTICLE = Path(__file__).parents[1] / "conf/10-bagpipe.conf"
FAMILIES = ("l2vpn-evpn", "ipv4-vpn")


@dataclass(frozen=True, slots=True)
class Host:
    """A node without an agent, with a BaGPipe daemon, and a `/var/lib` of its own for the leases."""

    node: Node
    daemon: BaGPipe
    plugin: str

    def cni(self, command: str, name: str, space: Namespace | str, conf: dict[str, Any] | None = None) -> CniAnswer:
        text = json.dumps(conf) if conf else ARTICLE.read_text()
        return self.node.cni(command, name, space, text, plugin=self.plugin)

    @property
    def leases(self) -> set[str]:
        folder = self.node.folder / "varlib/cni/networks/mynet"
        found = folder.iterdir() if folder.exists() else ()
        return {file.name for file in found if not file.name.startswith(("last_reserved", "lock"))}

    def nothing_left(self, frr: Frr, besides: str = "") -> None:
        """No link but the bridge (and `besides`), no lease, no record, no route at FRR."""
        assert self.node.links() <= {"cni0", besides}, self.node.links()
        assert self.leases == set()
        assert self.node.records() == []
        until(lambda: self.node.address not in str(frr.evpn_routes()), f"no route of {self.node.address} at FRR")


def host(lab: Lab, frr: Frr, driver: str = "labvxlan") -> Host:
    node = lab.node(frr, families=FAMILIES, reflect=True)
    daemon = BaGPipe(lab, node.namespace, node.address, node.peer, frr.asn, driver)
    daemon.start()
    varlib = node.folder / "varlib"
    varlib.mkdir()
    plugin = node.folder / "bagpipe"
    plugin.write_text(f'#!/bin/sh\nmount --bind {varlib} /var/lib && exec {node.bin_dir}/bagpipe "$@"\n')
    plugin.chmod(0o755)
    return Host(node, daemon, str(plugin))


@pytest.fixture
def frr(lab: Lab) -> Frr:
    return lab.frr()


@pytest.fixture
def hosts(lab: Lab, frr: Frr) -> list[Host]:
    """Two nodes whose sessions with FRR are up."""
    found = [host(lab, frr) for _ in range(2)]
    for one in found:
        frr.wait_established(one.node.address)
    return found


def mac_ips(frr: Frr) -> set[str]:
    """The addresses in EVPN type 2 routes at FRR."""
    return {name.rpartition("[")[2].rstrip("]") for name in frr.evpn_routes("macip")}


def test_the_article(lab: Lab, frr: Frr, hosts: list[Host]) -> None:
    """The article's configuration as it stands: ADD on two nodes, they reach each other, DEL, DEL again."""
    spaces = [lab.container(), lab.container()]
    answers = []
    for number, one in enumerate(hosts):
        # Both nodes give out the same range: a container is added and deleted first to move the second one on.
        for _ in range(number):
            with one.node.container() as passing:
                assert one.cni("ADD", "passing", passing).ok
                assert one.cni("DEL", "passing", passing).ok
        answer = one.cni("ADD", f"c{number}", spaces[number])
        assert answer.ok, answer
        answers.append(answer)
        assert one.daemon.get("/looking-glass/vpns/instances/90")["route_targets"] == {
            "import": ["target:64512:90"],
            "export": ["target:64512:90"],
        }
    addresses = {answer.ips[0] for answer in answers}
    assert addresses == {"10.1.2.2", "10.1.2.3"}
    until(lambda: mac_ips(frr) == addresses, "both routes at FRR")
    (link,) = spaces[0].ip_json("link", "show", "eth0")
    assert any(link["address"] in name for name in frr.evpn_routes("macip"))
    until(lambda: spaces[0].ping("10.1.2.3"), "a ping between the nodes")
    assert spaces[1].ping("10.1.2.2")

    for number, one in enumerate(hosts):
        assert one.cni("DEL", f"c{number}", spaces[number]).ok
        assert one.cni("DEL", f"c{number}", spaces[number]).ok
        one.nothing_left(frr)
        assert one.daemon.endpoints() == set()


def test_a_daemon_that_is_down(lab: Lab, frr: Frr, hosts: list[Host]) -> None:
    """ADD fails in words and leaves nothing; DEL succeeds, and its route and lease go with the next call."""
    one, space, other = hosts[0], lab.container(), lab.container()
    assert one.cni("ADD", "c1", space).ok
    until(lambda: mac_ips(frr) == {"10.1.2.2"}, "the route")
    one.daemon.kill(signal.SIGKILL)

    refused = one.cni("ADD", "c2", other)
    assert refused.error == 11
    assert "http://127.0.0.1:8082 does not answer: connection refused" in refused.document["msg"]
    assert one.leases == {"10.1.2.2"}
    assert len(one.node.records()) == 1
    assert len(one.node.links() - {"vxlan--90"}) == 2
    assert other.ip_json("link", "show", "eth0") == []

    deleted = one.cni("DEL", "c1", space)
    assert deleted.ok
    assert one.leases == {"10.1.2.2"}
    assert [path.parent.name for path in one.node.records()] == ["leaving"] or one.node.records("leaving")
    assert one.cni("DEL", "c1", space).ok

    one.daemon.start()
    frr.wait_established(one.node.address)
    assert one.cni("DEL", "unknown", "").ok
    # The port that a killed daemon left goes with its next first attachment, not by us.
    one.nothing_left(frr, besides="vxlan--90")


def test_a_daemon_that_hangs(lab: Lab, frr: Frr, hosts: list[Host]) -> None:
    """ADD fails in words and leaves nothing; DEL succeeds, and what it could not do is done when the daemon goes on."""
    one, space, other = hosts[0], lab.container(), lab.container()
    assert one.cni("ADD", "c1", space).ok
    until(lambda: mac_ips(frr) == {"10.1.2.2"}, "the route")
    one.daemon.pause()
    refused = one.cni("ADD", "c2", other)
    assert refused.error == 11
    assert "did not answer in time" in refused.document["msg"]
    assert one.leases == {"10.1.2.2"}
    assert len(one.node.records()) == 1
    assert one.cni("DEL", "c1", space).ok
    one.daemon.resume()
    assert one.cni("DEL", "unknown", "").ok
    one.nothing_left(frr)


def test_a_daemon_that_was_restarted(lab: Lab, frr: Frr, hosts: list[Host]) -> None:
    """Without an agent the next call tells it again what is there; a container deleted meanwhile stays away."""
    one = hosts[0]
    spaces = [lab.container() for _ in range(3)]
    for number, space in enumerate(spaces[:2]):
        assert one.cni("ADD", f"c{number}", space).ok
    until(lambda: mac_ips(frr) == {"10.1.2.2", "10.1.2.3"}, "both routes")
    one.daemon.kill()
    assert one.cni("DEL", "c0", spaces[0]).ok
    one.daemon.start()
    frr.wait_established(one.node.address)
    answer = one.cni("ADD", "c2", spaces[2])
    assert answer.ok, answer
    until(lambda: mac_ips(frr) == {"10.1.2.3", answer.ips[0]}, "the routes of those that are there")
    until(lambda: spaces[1].ping(answer.ips[0]), "a ping on the node")


def test_route_targets_of_one_attachment_are_refused(lab: Lab, frr: Frr, hosts: list[Host]) -> None:
    """BaGPipe has route targets for a whole VPN only: others for one attachment are error 7, and nothing is left."""
    one, space = hosts[0], lab.container()
    conf = json.loads(ARTICLE.read_text())
    answer = one.node.cni("ADD", "c1", space, json.dumps(conf), args="EXPORT_RT=64512:7", plugin=one.plugin)
    assert answer.error == 7
    assert "there they belong to the VPN" in answer.document["msg"]
    answer = one.cni("ADD", "c1", space, conf | {"args": {"cni": {"importRT": ["64512:7"]}}})
    assert answer.error == 7
    one.nothing_left(frr)


def test_a_configuration_with_other_route_targets(lab: Lab, frr: Frr, hosts: list[Host]) -> None:
    """An edited configuration cannot change a VPN that has containers: error 7 in words, and they stay announced."""
    one, space, other = hosts[0], lab.container(), lab.container()
    assert one.cni("ADD", "c1", space).ok
    conf = json.loads(ARTICLE.read_text()) | {"bgp": {"family": "evpn", "vni": 90}, "exportrt": "64512:91"}
    answer = one.cni("ADD", "c2", other, conf | {"exporters": ["bagpipe"]})
    assert answer.error == 7
    assert "64512:91" in answer.document["msg"]
    until(lambda: mac_ips(frr) == {"10.1.2.2"}, "the first route")
    assert len(one.node.records()) == 1


def test_with_an_agent(lab: Lab, frr: Frr, hosts: list[Host]) -> None:
    """The exporter also works in the agent; after a restart of the daemon the agent announces everything again."""
    one = hosts[0]
    one.node.agent(bgp=None, default_exporters=[])
    conf = one.node.network(
        "mynet", subnet6="2001:db8:5::/64", type="bagpipe", exporters=None, exportRT="64512:90", importRT="64512:90"
    )
    space = lab.container()
    answer = one.node.cni("ADD", "c1", space, conf)
    assert answer.ok, answer
    until(lambda: mac_ips(frr) == set(answer.ips), "both routes at FRR")

    def announced() -> bool:
        routes = one.node.routes()
        return len(routes) == 2 and all(r["exporters"]["bagpipe"]["state"] == "announced" for r in routes)

    until(announced, "that both are said to be announced")
    one.daemon.kill()
    until(lambda: one.node.operator("status").document["exporters"]["bagpipe"]["state"] == "late", "late")
    one.daemon.start()
    until(lambda: mac_ips(frr) == set(answer.ips), "both routes again", 60)
    assert one.node.cni("DEL", "c1", space, conf).ok
    until(lambda: one.node.records() == [], "no record")
    until(lambda: mac_ips(frr) == set(), "no route")
