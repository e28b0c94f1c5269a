"""`bgpcni reload` with another set of exporters, while containers run: the neighbour never misses a route."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from integration.gobgp import GoBGP
from integration.lab import CniAnswer, Frr, Lab, Neighbor, Node, until
from integration.seen import Burst, nothing_missed

pytest.importorskip("grpc", reason="grpcio is not installed: pip install bgpcni[gobgp]")

SECOND = "198.18.1.3"
"""The address of gobgpd's session: one pair of addresses is one session."""


class Site:
    """A node with two speakers, ExaBGP and gobgpd, both with sessions to FRR, and two containers."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.frr: Frr = lab.frr()
        self.node: Node = lab.node(self.frr)
        self.node.namespace.ip("address", "add", f"{SECOND}/24", "dev", "uplink")
        self.frr.add_neighbor(Neighbor(SECOND, self.frr.asn))
        self.daemon = GoBGP(lab, self.node.namespace, SECOND, self.node.peer, self.frr.asn)
        self.daemon.start()
        self.table = {"gobgp": {"target": self.daemon.target}}
        self.containers: dict[str, CniAnswer] = {}

    def start(self, *exporters: str) -> None:
        self.node.agent(exporters=self.table, default_exporters=list(exporters))
        for neighbor in (self.node.address, SECOND):
            self.frr.wait_established(neighbor)

    def add(self, name: str) -> None:
        conf = self.node.network(exporters=None)
        answer = self.node.cni("ADD", name, self.lab.container(name), conf)
        assert answer.ok, answer
        self.containers[name] = answer

    def delete(self, name: str) -> None:
        assert self.node.cni("DEL", name, "", self.node.network(exporters=None)).ok
        del self.containers[name]

    def reload(self, *exporters: str) -> None:
        self.node.configure(exporters=self.table, default_exporters=list(exporters))
        answer = self.node.operator("reload")
        assert answer.code == 0, answer

    def waits(self) -> str:
        """What `bgpcni status` says of hand-overs that are not done."""
        problems = self.node.operator("status").document["problems"]
        return "".join(problem["text"] for problem in problems if problem["code"] == "handing-over")

    @property
    def prefixes(self) -> list[str]:
        return [f"{answer.ips[0]}/32" for answer in self.containers.values()]

    def heard_from(self, *neighbors: str) -> bool:
        """Whether FRR has every container from exactly these neighbours."""
        return all(
            {path["peer"]["peerId"] for path in self.frr.paths(prefix)} == set(neighbors) for prefix in self.prefixes
        )

    def through(self, *exporters: str) -> bool:
        """Whether the agent says that every route is announced, by exactly these exporters."""
        routes = self.node.routes()
        return len(routes) == len(self.containers) and all(
            {name: state["state"] for name, state in route["exporters"].items()}
            == dict.fromkeys(exporters, "announced")
            for route in routes
        )

    @contextmanager
    def nothing_missed(self) -> Iterator[None]:
        """FRR's kernel never loses a route to a container meanwhile."""
        with nothing_missed(self.lab, self.frr, self.prefixes):
            yield


@pytest.fixture
def site(lab: Lab) -> Site:
    site = Site(lab)
    site.start("exabgp")
    for name in ("a", "b"):
        site.add(name)
    until(lambda: site.heard_from(site.node.address), "both routes from ExaBGP")
    return site


def test_an_exporter_is_added_and_removed(site: Site) -> None:
    """With a second exporter each route comes from both; without the first, from the second alone."""
    with site.nothing_missed():
        site.reload("exabgp", "gobgp")
        until(lambda: site.heard_from(site.node.address, SECOND), "the routes from both")
        until(lambda: site.through("exabgp", "gobgp"), "`bgpcni routes`")
        site.reload("gobgp")
        until(lambda: site.heard_from(SECOND), "the routes from gobgpd alone")
        until(lambda: site.through("gobgp"), "`bgpcni routes`")
    until(lambda: set(site.node.operator("status").document["exporters"]) == {"gobgp"}, "`bgpcni status`")
    site.delete("a")
    site.add("c")
    until(lambda: site.heard_from(SECOND), "a container more, and one less")


def test_exporters_are_swapped_and_back(site: Site) -> None:
    """From one to the other in one reload, and back, with a container that comes and one that goes meanwhile."""
    with site.nothing_missed():
        site.reload("gobgp")
        site.add("c")
        until(lambda: site.heard_from(SECOND), "the routes from gobgpd")
        site.reload("exabgp")
        until(lambda: site.heard_from(site.node.address), "the routes from ExaBGP")
        until(lambda: site.through("exabgp"), "`bgpcni routes`")
    site.reload("gobgp")
    prefix = site.prefixes[0]
    site.delete("a")
    until(lambda: not site.frr.paths(prefix), "the end of what was deleted while it was handed over")
    until(lambda: site.heard_from(SECOND), "the others")


def test_a_reload_amid_a_burst(site: Site) -> None:
    """ADDs that a reload overtakes end with the exporters of now, like those before and after them."""
    conf = site.node.network(exporters=None)
    spaces = {f"x{number}": site.lab.container(f"x{number}") for number in range(16)}
    with site.nothing_missed():
        burst = Burst([functools.partial(site.node.cni, "ADD", name, space, conf) for name, space in spaces.items()])
        burst.wait(lambda: len(site.node.records()) > 4, "the first of them")
        site.reload("gobgp")
        answers = burst.answers()
        assert [answer.document for answer in answers if not answer.ok] == []
        site.containers |= dict(zip(spaces, answers, strict=True))
        until(lambda: site.through("gobgp"), "`bgpcni routes`")
        until(lambda: site.heard_from(SECOND), "the routes from gobgpd alone")


def test_the_old_one_stays_until_the_new_one_announces(site: Site) -> None:
    """While the new speaker is down the old one goes on announcing, also over an agent's restart; `status` says what is
    waited for, and a reload that takes it back ends it at once."""
    site.daemon.kill()
    with site.nothing_missed():
        site.reload("gobgp")
        until(lambda: all(set(r["exporters"]) == {"exabgp", "gobgp"} for r in site.node.routes()), "both are named")
        until(lambda: "gobgpd" in site.waits() and "exabgp still announces it" in site.waits(), "what is waited for")
        site.reload("exabgp")
        until(lambda: site.waits() == "" and site.through("exabgp"), "the end of a change that was taken back")
        site.reload("gobgp")
        until(lambda: site.waits() != "", "what is waited for")
        site.node.restart_agent()
        assert site.heard_from(site.node.address)
        site.daemon.start()
        until(lambda: site.heard_from(SECOND), "the routes from gobgpd")
        until(lambda: site.through("gobgp"), "`bgpcni routes`")


def test_the_same_name_becomes_another_exporter(site: Site) -> None:
    """A name that means another speaker now is handed over like any other."""
    with site.nothing_missed():
        site.table = {"fabric": {"type": "gobgp", "target": site.daemon.target}}
        site.reload("fabric")
        until(lambda: site.heard_from(SECOND), "the routes from gobgpd")
        until(lambda: site.through("fabric"), "`bgpcni routes`")
        until(lambda: set(site.node.operator("status").document["exporters"]) == {"fabric"}, "the end of ExaBGP")
        site.table = {"fabric": {"type": "exabgp"}}
        site.reload("fabric")
        until(lambda: site.heard_from(site.node.address), "the routes from ExaBGP")
        until(lambda: site.through("fabric"), "`bgpcni routes`")


def test_a_removed_exporter_owes_nothing(site: Site) -> None:
    """DEL while gobgpd is down: the address is held. A reload without gobgp gives it back, and ends the wait of the
    container that runs."""
    site.reload("exabgp", "gobgp")
    until(lambda: site.through("exabgp", "gobgp"), "the routes from both")
    site.daemon.kill()
    address = site.containers["a"].ips[0]
    site.delete("a")
    until(lambda: not site.frr.kernel_route(f"{address}/32"), "the end of its route")
    assert [record.name for record in site.node.records("leaving")]
    assert address in site.node.lease_files()
    with site.nothing_missed():
        site.table = {}
        site.reload("exabgp")
        until(lambda: site.node.records("leaving") == [], "the end of the record")
        assert site.node.lease_files() == set(site.containers["b"].ips)
        until(lambda: site.through("exabgp"), "`bgpcni routes`")
        until(lambda: set(site.node.operator("status").document["exporters"]) == {"exabgp"}, "the end of gobgp")


@pytest.mark.parametrize(
    ("table", "exporters", "words"),
    [
        ({"gobgp": {"target": "192.0.2.1:50051"}}, ["gobgp"], "not an address of a gobgpd on this node"),
        ({"x": {"type": "none-such"}}, ["x"], "'none-such' is not installed"),
        ({"bagpipe": {}}, ["bagpipe"], "bagpipe cannot announce ipv4-unicast"),
        ({name: {"type": "exabgp"} for name in ("fabric", "edge")}, ["edge"], "neighbors[0].exporter: missing"),
    ],
    ids=["not valid", "not installed", "not for these routes", "whose neighbour?"],
)
def test_a_bad_configuration_is_refused_whole(
    site: Site, table: dict[str, dict[str, str]], exporters: list[str], words: str
) -> None:
    """The answer says why, and what was announced stays announced as it was, for those that come too."""
    with site.nothing_missed():
        site.node.configure(exporters=table, default_exporters=exporters)
        answer = site.node.operator("reload")
        assert answer.code == 1
        assert words in answer.document["error"]
        site.add("c")
        until(lambda: site.heard_from(site.node.address), "the routes from ExaBGP")
        assert site.through("exabgp")


def test_a_speaker_gets_another_name(site: Site) -> None:
    """The exporter is called otherwise, and its speaker is the same: the neighbour hears nothing of it. A DEL after it
    withdraws; an agent that finds the new name when it starts takes it as well."""
    with site.nothing_missed():
        session = site.frr.neighbor(site.node.address)["connectionsEstablished"]
        site.node.configure(exporters={"fabric": {"type": "exabgp"}}, default_exporters=["fabric"])
        answer = site.node.operator("reload")
        assert answer.code == 0, answer
        until(lambda: site.through("fabric"), "`bgpcni routes`")
        until(lambda: set(site.node.operator("status").document["exporters"]) == {"fabric"}, "the new name alone")
        site.node.configure(exporters={"edge": {"type": "exabgp"}}, default_exporters=["edge"])
        site.node.restart_agent()
        until(lambda: site.through("edge"), "`bgpcni routes` after a restart")
        site.add("c")
        until(lambda: site.heard_from(site.node.address), "the routes from ExaBGP")
        assert site.frr.neighbor(site.node.address)["connectionsEstablished"] == session
    site.delete("c")
    until(lambda: site.heard_from(site.node.address), "the others alone")
    assert site.node.operator("status").code == 0


def test_both_speakers_announce_the_attributes_of_a_network(site: Site) -> None:
    """Local preference, MED and communities of the network; a reload changes them for containers that run."""

    def heard() -> list[tuple[int, int, list[str]]]:
        prefix = site.prefixes[-1]
        return [(p["locPrf"], p["metric"], p["community"]["list"]) for p in site.frr.paths(prefix)]

    site.reload("exabgp", "gobgp")
    conf = site.node.network(exporters=None, bgp={"localPreference": 200, "med": 7, "communities": ["64512:1"]})
    answer = site.node.cni("ADD", "c", site.lab.container("c"), conf)
    assert answer.ok, answer
    site.containers["c"] = answer
    until(lambda: heard() == [(200, 7, ["64512:1"])] * 2, "what the network says, from both")
    with site.nothing_missed():
        site.node.configure(
            exporters=site.table, default_exporters=["exabgp", "gobgp"],
            networks={"tenant-a": {"local_preference": 300, "med": 0}},
        )  # fmt: skip
        assert site.node.operator("reload").code == 0
        until(lambda: heard() == [(300, 0, ["64512:1"])] * 2, "what agent.toml says, from both")
        assert site.node.operator("maintenance", "on").code == 0
        until(lambda: [(pref, med) for pref, med, _ in heard()] == [(0, 0)] * 2, "maintenance, from both")
