"""Two ExaBGPs of our own on one node, each with its neighbours: what one does is no event to the other."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from typing import Any

import pytest

from bgpcni.testing.patience import SECONDS
from integration.lab import Frr, Lab, Neighbor, Node, link, until

SECOND, SECOND_PEER = "198.18.2.2", "198.18.2.1"


@dataclass(frozen=True, slots=True)
class Pair:
    """A node with an uplink to each of two FRRs, which know it by the address in `seen`."""

    node: Node
    frrs: dict[str, Frr]
    seen: dict[str, str]

    def exporters(self) -> dict[str, dict[str, str]]:
        return {name: {"type": "exabgp", "local_address": self.seen[name]} for name in self.frrs}

    def neighbors(self) -> list[dict[str, Any]]:
        said = {"a": (self.node.peer, self.node.families), "b": (SECOND_PEER, ("ipv4-unicast",))}
        return [
            {"address": said[name][0], "asn": frr.asn, "families": list(said[name][1]), "exporter": name}
            for name, frr in self.frrs.items()
        ]

    def toml(self) -> dict[str, Any]:
        return {"exporters": self.exporters(), "bgp": {"neighbors": self.neighbors()}}

    def begun(self, name: str) -> int:
        """How many sessions an FRR has had with the node."""
        return int(self.frrs[name].neighbor(self.seen[name])["connectionsEstablished"])

    def wait_established(self) -> None:
        for name, frr in self.frrs.items():
            frr.wait_established(self.seen[name])

    def heard_by(self, prefix: str) -> set[str]:
        """The FRRs that have a route."""
        return {name for name, frr in self.frrs.items() if frr.paths(prefix)}

    def speaker(self, name: str) -> int:
        """The pid of an exporter's ExaBGP."""
        return int(json.loads((self.node.run_dir / f"exabgp-{name}.pid").read_text())["pid"])

    def add(self, lab: Lab, name: str, **keys: Any) -> str:
        """A container; its prefix."""
        answer = self.node.cni("ADD", name, lab.container(name), self.node.network(**keys))
        assert answer.ok, answer
        return f"{answer.ips[0]}/32"

    def reload(self, **toml: Any) -> None:
        self.node.configure(**toml)
        answer = self.node.operator("reload")
        assert answer.code == 0, answer


@pytest.fixture(params=["an address each", "one address"])
def pair(request: pytest.FixtureRequest, lab: Lab) -> Pair:
    first, second = lab.frr(), lab.frr(router_id="198.18.255.2")
    node = lab.node(first)
    link(node.namespace, second.namespace, "uplink2", "node1", (f"{SECOND}/24",), (f"{SECOND_PEER}/24",))
    seen = {"a": node.address, "b": SECOND if request.param == "an address each" else node.address}
    second.namespace.ip("route", "add", node.address, "via", SECOND)
    second.add_neighbor(Neighbor(seen["b"], node.asn, ("ipv4-unicast",)))
    return Pair(node, {"a": first, "b": second}, seen)


def test_both_announce_and_live_apart(lab: Lab, pair: Pair) -> None:
    """`"exporters": ["exabgp"]` means both. `peers` and `status` tell them apart. One is killed: the other's session
    stays. The agent starts anew: no session ends. DEL withdraws at both."""
    node = pair.node
    node.agent(**pair.toml())
    pair.wait_established()
    prefix = pair.add(lab, "c1")
    until(lambda: pair.heard_by(prefix) == {"a", "b"}, "the route at both")
    until(lambda: node.operator("status").code == 0, "that all is well")
    assert set(node.operator("status").document["exporters"]) == {"a", "b"}
    peers = {peer["exporter"]: peer["address"] for peer in node.operator("peers").document["peers"]}
    assert peers == {"a": node.peer, "b": SECOND_PEER}
    assert pair.speaker("a") != pair.speaker("b")

    os.kill(pair.speaker("b"), signal.SIGKILL)
    until(lambda: pair.begun("b") == 2, "another session of the one that was killed")
    until(lambda: pair.heard_by(prefix) == {"a", "b"}, "the route at both again")
    node.restart_agent()
    second = pair.add(lab, "c2")
    until(lambda: pair.heard_by(second) == {"a", "b"}, "another route at both")
    assert (pair.begun("a"), pair.begun("b")) == (1, 2)

    for name in ("c1", "c2"):
        assert node.cni("DEL", name, "", node.network()).ok
    until(lambda: pair.heard_by(prefix) == pair.heard_by(second) == set(), "the end of the routes")
    until(lambda: node.records() == [], "no record")


def test_one_speaker_becomes_two_and_one_again(lab: Lab, pair: Pair) -> None:
    """By reload, while a container runs: the session that was there goes on under its exporter's new name."""
    node = pair.node
    node.agent()
    pair.frrs["a"].wait_established(node.address)
    prefix = pair.add(lab, "c1")
    until(lambda: pair.heard_by(prefix) == {"a"}, "the route at the first")
    if pair.seen["a"] == pair.seen["b"]:  # which of the two is the one that was there?
        toml = pair.toml() | {"exporters": {"exabgp": {}, "b": {"type": "exabgp"}}}
        toml["bgp"]["neighbors"][0]["exporter"] = "exabgp"
    else:
        toml = pair.toml()
    pair.reload(**toml)
    pair.wait_established()
    until(lambda: pair.heard_by(prefix) == {"a", "b"}, "the route at both")
    until(lambda: node.operator("status").code == 0, "that all is well")
    assert pair.begun("a") == 1
    pair.reload()
    until(lambda: pair.heard_by(prefix) == {"a"}, "the end of the route at the second")
    until(lambda: set(node.operator("status").document["exporters"]) == {"exabgp"}, "the end of the second speaker")
    until(lambda: node.operator("status").code == 0, "that all is well again")
    assert pair.begun("a") == 1


@pytest.mark.parametrize("pair", ["one address"], indirect=True)
def test_a_speaker_gets_another_address(lab: Lab, pair: Pair) -> None:
    """By reload, while a container runs: its session from the new address has the route before that from the old one
    ends, and the agent's restart changes nothing of it."""
    node, frr, another = pair.node, pair.frrs["a"], "198.18.1.3"
    node.namespace.ip("address", "add", f"{another}/24", "dev", "uplink")
    frr.add_neighbor(Neighbor(another, node.asn, node.families))
    node.agent(exporters={"a": {"type": "exabgp"}})
    frr.wait_established(node.address)
    prefix = pair.add(lab, "c1")
    until(lambda: frr.paths(prefix), "the route")
    log = lab.folder / "routes"
    monitor = frr.namespace.popen("ip", "monitor", "route", log=log)
    until(lambda: frr.kernel_route(prefix), "the route in FRR's kernel")
    pair.reload(exporters={"a": {"type": "exabgp", "local_address": another}})
    frr.wait_established(another)
    until(lambda: [path["peer"]["peerId"] for path in frr.paths(prefix)] == [another], "the route from there alone")
    until(lambda: not frr.established(node.address), "the end of the old session")
    until(lambda: node.operator("status").code == 0, "that all is well")
    begun = frr.neighbor(another)["connectionsEstablished"]
    node.restart_agent()
    second = pair.add(lab, "c2")
    until(lambda: frr.paths(second), "another route")
    assert frr.neighbor(another)["connectionsEstablished"] == begun == 1
    monitor.terminate()
    monitor.wait(SECONDS)
    assert [line for line in log.read_text().splitlines() if line.startswith("Deleted") and "10.1.2." in line] == []


@pytest.mark.parametrize("pair", ["one address"], indirect=True)
def test_what_two_speakers_cannot_be_is_refused(lab: Lab, pair: Pair) -> None:
    """A neighbour of nobody, of an exporter that takes none, of both at once: at the start, and by a reload, which
    changes nothing."""
    node, both = pair.node, pair.neighbors()
    wrong = {
        "missing: say which of a, b has the session": [both[0], both[1] | {"exporter": None}],
        "no exporter is called c": [both[0] | {"exporter": "c"}],
        "kernel is of type kernel and takes no neighbours": [both[0] | {"exporter": "kernel"}],
        f"b and a would both own the session between {node.address} and {node.peer}": [
            both[0],
            both[0] | {"exporter": "b"},
        ],
    }
    tables = pair.exporters() | {"kernel": {}}

    def configuration(neighbors: list[dict[str, Any]]) -> dict[str, Any]:
        spoken = [{key: value for key, value in each.items() if value is not None} for each in neighbors]
        return {"exporters": tables, "bgp": {"neighbors": spoken}}

    for words, neighbors in wrong.items():
        node.configure(**configuration(neighbors))
        with pytest.raises(RuntimeError, match=words.replace("[", r"\[")):
            node.start_agent()
    node.agent(**pair.toml())
    pair.wait_established()
    prefix = pair.add(lab, "c1")
    until(lambda: pair.heard_by(prefix) == {"a", "b"}, "the route at both")
    for words, neighbors in wrong.items():
        node.configure(**configuration(neighbors))
        answer = node.operator("reload")
        assert (answer.code, words in answer.document["error"]) == (1, True), answer
    tenants = node.cni("ADD", "c2", lab.container(), node.network(exporters=[{"type": "exabgp", "name": "mine"}]))
    assert tenants.error == 7
    assert "name one of agent.toml" in tenants.document["msg"]
    assert pair.heard_by(prefix) == {"a", "b"}
    assert (pair.begun("a"), pair.begun("b")) == (1, 1)
