"""One EVPN network on three nodes, each announced by another speaker: ExaBGP, BaGPipe, GoBGP; FRR reflects."""

from __future__ import annotations

import json
from typing import Any

import pytest

from integration import evpn
from integration.bagpipe import BaGPipe
from integration.evpn import TARGET
from integration.gobgp import GoBGP
from integration.lab import CniAnswer, Frr, Lab, Namespace, Node, until

pytest.importorskip("grpc", reason="grpcio is not installed: pip install bgpcni[gobgp]")

FAMILIES = ("l2vpn-evpn",)
EXABGP, BAGPIPE, GOBGP = range(3)
SPEAKERS = ("exabgp", "bagpipe", "gobgp")


def conf(node: Node, number: int) -> dict[str, Any]:
    """The network on a node: layer 2, IPv4, each node with addresses of its own."""
    document = evpn.network(node, number + 1, exporters=[SPEAKERS[number]])
    document["ipam"]["ranges"] = document["ipam"]["ranges"][:1]
    return document


class Three:
    """The nodes, in the order of `SPEAKERS`, each with one container."""

    def __init__(self, lab: Lab) -> None:
        self.frr: Frr = lab.frr()
        self.nodes = [lab.node(self.frr, families=FAMILIES, reflect=True) for _ in SPEAKERS]
        one, two, three = self.nodes
        self.bagpipe = BaGPipe(lab, two.namespace, two.address, two.peer, self.frr.asn, "labvxlan")
        self.gobgp = GoBGP(lab, three.namespace, three.address, three.peer, self.frr.asn, families=FAMILIES)
        self.bagpipe.start()
        self.gobgp.start()
        one.agent()
        two.agent(bgp={"neighbors": []}, default_exporters=["bagpipe"])
        target = {"gobgp": {"target": self.gobgp.target}}
        three.agent(bgp={"neighbors": []}, default_exporters=["gobgp"], exporters=target)
        for node in self.nodes:
            self.frr.wait_established(node.address)
        self.spaces: list[Namespace] = [lab.container(name) for name in SPEAKERS]
        self.answers: list[CniAnswer] = []
        for number, node in enumerate(self.nodes):
            answer = node.cni("ADD", SPEAKERS[number], self.spaces[number], conf(node, number))
            assert answer.ok, answer
            self.answers.append(answer)

    @property
    def addresses(self) -> set[str]:
        return {answer.ips[0] for answer in self.answers}

    def at_frr(self) -> set[str]:
        return {name.rpartition("[")[2].rstrip("]") for name in self.frr.evpn_routes("macip")} - {""}

    def at_exabgp(self) -> set[str]:
        """What ExaBGP was told on the first node."""
        document = self.nodes[EXABGP].operator("routes", "--received").document
        return {address for address in self.addresses if address in str(document)}

    def at_bagpipe(self) -> set[str]:
        """The VTEPs of what BaGPipe was told on the second node, by what it put into its kernel."""
        entries = json.loads(self.nodes[BAGPIPE].namespace.run("bridge", "-json", "fdb", "show").stdout)
        return {entry["dst"] for entry in entries if entry.get("dst") and entry["mac"] in self.macs}

    @property
    def macs(self) -> set[str]:
        interfaces = [i for answer in self.answers for i in answer.document["interfaces"]]
        return {interface["mac"] for interface in interfaces if interface.get("sandbox")}

    def at_gobgp(self) -> set[str]:
        rib = self.gobgp.ask("global", "rib", "-a", "evpn")
        return {address for address in self.addresses if address in str(rib)}


@pytest.fixture
def three(lab: Lab) -> Three:
    return Three(lab)


def test_three_speakers_are_one_network(three: Three) -> None:
    """Every container's route is at every speaker, with the same route target; those with a data path ping."""
    own = {number: three.answers[number].ips[0] for number in range(3)}
    until(lambda: three.at_frr() == three.addresses, f"all of {three.addresses} at FRR")
    until(lambda: three.at_exabgp() >= three.addresses - {own[EXABGP]}, "the others' at ExaBGP")
    others = {three.nodes[number].address for number in (EXABGP, GOBGP)}
    until(lambda: three.at_bagpipe() == others, "the others' at BaGPipe")
    until(lambda: three.at_gobgp() == three.addresses, "all at GoBGP")
    for entry in three.frr.evpn_routes("macip").values():
        assert all(TARGET in str(path.get("extendedCommunity")) for path in entry), entry
    until(lambda: three.spaces[EXABGP].ping(own[BAGPIPE], seconds=1), "a ping from ExaBGP's to BaGPipe's")
    until(lambda: three.spaces[BAGPIPE].ping(own[EXABGP], seconds=1), "a ping from BaGPipe's to ExaBGP's")
    for number, node in enumerate(three.nodes):
        assert node.cni("DEL", SPEAKERS[number], three.spaces[number], conf(node, number)).ok
    until(lambda: three.at_frr() == set(), "the end of all at FRR")
    until(lambda: three.at_gobgp() == set(), "the end of all at GoBGP")
    until(lambda: three.at_exabgp() == set(), "the end of all at ExaBGP")
