"""The frr exporter against a real FRR: what every exporter promises, seen at another FRR that is its peer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import Any

import pytest

from bgpcni.exporter import Exporter, Reach, Wake
from bgpcni.kernel.links import alias_of
from bgpcni.model import (
    Announcement,
    AttachmentKey,
    Endpoint,
    IpPrefixNlri,
    MacIpNlri,
    MulticastNlri,
    NodeFacts,
)
from bgpcni.testing import ExporterSuite
from bgpcni.testing.speaker import until
from bgpcni.testing.suite import Life, reached, shows
from bgpcni_frr import FRR
from integration import evpn
from integration.evpn import Container, connected
from integration.lab import Frr, Lab, Neighbor, Node, link
from integration.speakers import SpeakerInside, impostor, listening
from integration.test_evpn_frr import HOST4, HOST6, HOST_MAC, VTEP, make_router, reaches

VNI, TARGET, HOST, PEER = 5001, "64512:5001", "198.18.90.2", "198.18.90.1"
SAMPLE = Path(__file__).parent.parent / "conf/frr-evpn.conf"
FAMILIES = ("l2vpn-evpn",)
EVPN = ("address-family l2vpn evpn", " advertise-all-vni", "exit-address-family")


def speaks_evpn(lab: Lab, neighbor: str) -> Frr:
    """A host's own FRR, with the one line that this exporter needs of it."""
    return lab.frr(router_id=HOST, neighbors=[Neighbor(neighbor, 64512, FAMILIES)], extra=EVPN)


def alias_for(container: str) -> str:
    """The alias of a container's root-side link, as the agent writes it."""
    key = AttachmentKey("net", container, "eth0")
    return alias_of(key.digest, str(key))


class Host(SpeakerInside):
    """A host with FRR, a bridge, and one container's port on it; its peer sees the routes."""

    def __init__(self, lab: Lab) -> None:
        self.peer = lab.frr(neighbors=[Neighbor(HOST, 64512, FAMILIES)])
        self.frr = speaks_evpn(lab, PEER)
        super().__init__(lab, self.frr.namespace)
        link(self.namespace, self.peer.namespace, "uplink", "host", (f"{HOST}/24",), (f"{PEER}/24",))
        self.folder = str(lab.folder)
        self.port = self.container("veth1", alias_for("c1"))
        self.peer.wait_established(HOST)

    def container(self, name: str, alias: str) -> int:
        """A port of the bridge, the index of its root-side end. The bridge's MAC follows its ports'."""
        if not self.namespace.ip_json("link", "show", "cni0"):
            self.namespace.ip("link", "add", "cni0", "type", "bridge")
            self.namespace.ip("link", "set", "cni0", "up")
        self.namespace.ip("link", "add", name, "type", "veth", "peer", "name", f"{name}p")
        for end in (name, f"{name}p"):
            self.namespace.ip("link", "set", end, "up", "addrgenmode", "none")
        self.namespace.ip("link", "set", name, "master", "cni0", "alias", alias)
        return int(self.namespace.ip_json("link", "show", name)[0]["ifindex"])

    def exporter(self, wake: Wake, **config: Any) -> Exporter:
        facts = NodeFacts(run_dir=self.folder, data_dir=self.folder, local_address=HOST, has_bgp=True)
        return FRR("frr", FRR.Config(**{"vty_dir": str(self.frr.folder), **config}), facts, wake)

    def route(self, number: int, network: str = "net") -> Announcement:
        """Even ones are IPv4, odd ones IPv6; each is at a MAC of its own."""
        mac = f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"
        prefix = f"2001:db8::{number:x}/128" if number % 2 else f"10.0.{number >> 8}.{number & 255}/32"
        return self.at(mac, prefix, network)

    def at(self, mac: str, prefix: str | None, network: str = "net", port: int = 0) -> Announcement:
        endpoint = Endpoint("c1", "eth0", mac, prefix or "", None, "cni0", "veth1", port or self.port)
        nlri = MacIpNlri(f"{HOST}:1", mac, prefix)
        return Announcement(nlri, network, HOST, (TARGET,), (TARGET,), vni=VNI, endpoint=endpoint)

    def type3(self) -> Announcement:
        nlri = MulticastNlri(f"{HOST}:1", HOST)
        return Announcement(nlri, "net", HOST, (TARGET,), (TARGET,), vni=VNI)

    def table(self) -> set[str]:
        """The addresses at the peer, with their MACs. FRR announces each MAC alone besides."""
        names = self.peer.evpn("macip").values()
        found = {name for routes in names for name, entry in routes.items() if isinstance(entry, dict)}
        return {name for name in found if name.count("[") == 6}

    def key(self, route: Announcement) -> str:
        return str(route.nlri).partition(":[")[2].join(("[", ""))

    def unwanted(self) -> Announcement:
        return replace(self.route(8), export_rt=("64512:7",))

    def foreign(self) -> str:
        """Somebody's own VNI: a bridge, its device, an entry and a neighbour."""
        mac = "02:00:00:00:ff:01"
        vxlan = ("type", "vxlan", "id", "9", "local", HOST, "dstport", "4789", "nolearning")
        self.namespace.ip("link", "add", "br9", "type", "bridge")
        self.namespace.ip("link", "add", "vx9", *vxlan)
        self.namespace.ip("link", "add", "other", "type", "veth", "peer", "name", "otherp")
        for name in ("vx9", "other"):
            self.namespace.ip("link", "set", name, "master", "br9", "addrgenmode", "none")
        for name in ("br9", "vx9", "other", "otherp"):
            self.namespace.ip("link", "set", name, "up")
        self.entry(mac, "10.9.9.9", "other", "br9")
        return self.key(self.at(mac, "10.9.9.9/32"))

    def entry(self, mac: str, address: str, port: str, bridge: str) -> None:
        """A static entry and a neighbour as an operator would make them."""
        self.namespace.run("bridge", "fdb", "replace", mac, "dev", port, "master", "static")
        self.namespace.ip("neigh", "replace", address, "lladdr", mac, "dev", bridge, "nud", "permanent")

    def empty(self) -> None:
        self.namespace.ip("link", "delete", evpn.DEVICE)

    def stop(self) -> None:
        self.frr.stop()

    def start(self) -> None:
        self.frr.start()
        self.peer.wait_established(HOST)

    def pause(self) -> None:
        self.frr.kill(SIGSTOP)

    def resume(self) -> None:
        self.frr.kill(SIGCONT)

    @contextmanager
    def impostor(self, answer: bytes) -> Iterator[None]:
        self.frr.stop()
        path = self.frr.folder / "bgpd.vty"
        path.unlink(missing_ok=True)
        with impostor(listening(str(path)), answer):
            yield
        path.unlink()


@pytest.fixture
def speaker(lab: Lab) -> Host:
    return Host(lab)


@pytest.fixture
def life(speaker: Host) -> Iterator[Life]:
    life = Life(speaker)
    yield life
    life.exporter.close()


class TestFrr(ExporterSuite):
    @pytest.fixture
    def speaker(self, speaker: Host) -> Host:
        return speaker


def device(host: Host) -> dict[str, Any] | None:
    found = host.namespace.ip_json("-d", "link", "show", evpn.DEVICE)
    return found[0] if found else None


def type3(host: Host) -> set[str]:
    return {name for name in host.peer.evpn_routes("multicast") if name.endswith(f"[{HOST}]")}


def test_the_vni_is_made_with_its_first_route_and_goes_with_its_last(speaker: Host, life: Life) -> None:
    """A VXLAN device of the right VNI, VTEP and port, without learning, and a bridge whose MAC stays."""
    route, three = speaker.route(0), speaker.type3()
    reached(life.announce(route, three))
    life.prune(route, three)
    until(lambda: bool(type3(speaker)), "type 3 at the peer")
    made = device(speaker)
    assert made is not None
    data = made["linkinfo"]["info_data"]
    assert (data["id"], data["local"], data["port"], data["learning"]) == (VNI, HOST, 4789, False)
    assert made["linkinfo"]["info_slave_data"]["neigh_suppress"] is True
    assert made["ifalias"] == f"bgpcni:frr {VNI}"
    before = speaker.namespace.ip_json("link", "show", "cni0")[0]["address"]
    for number in range(5):
        speaker.container(f"more{number}", "")
    assert speaker.namespace.ip_json("link", "show", "cni0")[0]["address"] == before
    shows(speaker, route)
    life.withdraw(route, three)
    until(lambda: not type3(speaker), "no type 3 at the peer")
    assert device(speaker) is None


def test_a_record_that_cannot_be_read_holds_up_its_own_network_alone(speaker: Host, life: Life) -> None:
    """Of another network: the last route of this one takes the VNI with it. Of this one: the VNI stays for what the
    record stands for, and nobody waits for its end."""
    route, three = speaker.route(0), speaker.type3()
    reached(life.announce(route, three))
    life.prune(route, three, spare=["net"])
    reached(life.withdraw(route, three))
    shows(speaker)
    assert device(speaker) is not None
    reached(life.announce(route, three))
    life.prune(route, three, spare=["other"])
    reached(life.withdraw(route, three))
    until(lambda: not type3(speaker), "no type 3 at the peer")
    assert device(speaker) is None


def test_a_mac_without_address(speaker: Host, life: Life) -> None:
    """Layer 2 only: its MAC alone is announced, and pruned."""
    route, kept = speaker.at("02:00:00:00:00:77", None), speaker.route(0)

    def seen() -> bool:
        return any("[02:00:00:00:00:77]" in name for name in speaker.peer.evpn_routes("macip"))

    reached(life.announce(route, kept))
    until(seen, "the MAC at the peer")
    life.prune(kept)
    until(lambda: not seen(), "no MAC at the peer")
    shows(speaker, kept)


def test_both_addresses_of_a_container_come_and_go_alone(speaker: Host, life: Life) -> None:
    """IPv4 and IPv6 share a MAC: one withdrawn, the other stays."""
    mac = "02:00:00:00:00:55"
    four, six = speaker.at(mac, "10.0.0.55/32"), speaker.at(mac, "2001:db8::55/128")
    reached(life.announce(four, six))
    life.prune(four, six)
    shows(speaker, four, six)
    life.withdraw(four)
    shows(speaker, six)
    life.withdraw(six)
    shows(speaker)


def test_an_address_that_moved_to_another_container(speaker: Host, life: Life) -> None:
    """The new owner is announced before the old one is withdrawn, and stays."""
    old, new = speaker.at("02:00:00:00:00:01", "10.0.0.5/32"), speaker.at("02:00:00:00:00:02", "10.0.0.5/32")
    reached(life.announce(old))
    life.prune(old)
    shows(speaker, old)
    reached(life.announce(new))
    life.withdraw(old)
    shows(speaker, new)


def test_what_an_operator_put_on_our_bridge_stays(speaker: Host, life: Life) -> None:
    """A static entry on a port of his, and a neighbour: neither pruned nor withdrawn."""
    mac = "02:00:00:00:ff:02"
    his, route = speaker.at(mac, "10.9.9.8/32"), speaker.route(0)
    reached(life.announce(route))
    speaker.container("other", "somebody's")
    speaker.entry(mac, "10.9.9.8", "other", "cni0")
    shows(speaker, route, his)
    life.prune(route)
    shows(speaker, route, his)
    life.withdraw(his)
    shows(speaker, route, his)


def test_other_route_targets_are_an_error_in_words(speaker: Host, life: Life) -> None:
    """FRR's route targets of a VNI are FRR's: what is not the same is refused, says both, and nothing is made."""
    route = replace(speaker.route(0), export_rt=("64512:7",))
    (outcome,) = life.announce(route)
    assert outcome.reach is Reach.REFUSED
    assert f"FRR's VNI 5001 exports {TARGET}, the network's exportRT is 64512:7" in outcome.reason
    life.prune(route)
    assert device(speaker) is None
    lines = ("vni 5001", "route-target export 64512:7", f"route-target import {TARGET}", "exit-vni")
    speaker.frr.configure("router bgp 64512", "address-family l2vpn evpn", *lines)
    reached(life.announce(route))
    life.prune(route)
    shows(speaker, route)
    (outcome,) = life.announce(replace(speaker.route(1), export_rt=("64512:7",), import_rt=()))
    assert "FRR's VNI 5001 imports 64512:5001, the network's importRT is not given" in outcome.reason


def test_what_frr_cannot_announce_is_refused(speaker: Host, life: Life) -> None:
    """Type 5, communities of an attachment, a VNI that somebody else has: refused, each in words."""
    five = replace(speaker.route(0), nlri=IpPrefixNlri(f"{HOST}:1", "10.0.0.0/24"))
    coloured = replace(speaker.route(2), communities=("64512:1",))
    speaker.foreign()
    theirs = replace(speaker.route(4), vni=9, export_rt=("64512:9",), import_rt=("64512:9",))
    outcomes = life.announce(five, coloured, theirs)
    assert [outcome.reach for outcome in outcomes] == [Reach.REFUSED] * 3
    assert "not ip-prefix" in outcomes[0].reason
    assert "communities" in outcomes[1].reason
    assert "not ours" in outcomes[2].reason


def test_without_advertise_all_vni_it_is_said(speaker: Host, life: Life) -> None:
    """FRR does not take up a VNI unless it is told to: the route waits, and says for what."""
    speaker.frr.configure("router bgp 64512", "address-family l2vpn evpn", "no advertise-all-vni")
    (outcome,) = life.announce(speaker.route(0))
    assert outcome.reach is Reach.WANTED
    assert "advertise-all-vni" in outcome.reason
    speaker.frr.configure("router bgp 64512", "address-family l2vpn evpn", "advertise-all-vni")
    reached(life.announce(speaker.route(0)))
    shows(speaker, speaker.route(0))


def test_a_restarted_frr_finds_everything(speaker: Host, life: Life) -> None:
    """The kernel keeps what FRR announces; the exporter notices the restart and looks at each route again."""
    route = speaker.route(0)
    reached(life.announce(route))
    life.prune(route)
    life.look()
    before = life.wake.emptied
    speaker.stop()
    speaker.start()
    shows(speaker, route)

    def noticed() -> bool:
        life.look()
        return life.wake.emptied > before

    until(noticed, "that the exporter noticed")
    reached(life.announce(route))
    life.prune(route)
    shows(speaker, route)


def test_ports_that_went_before_their_routes(speaker: Host, life: Life) -> None:
    """Many containers whose links go at once, before anything is withdrawn: no route of theirs stays behind."""
    kept = speaker.route(9999)
    routes = []
    for number in range(40):
        port = speaker.container(f"gone{number}", alias_for(f"gone{number}"))
        mac = f"02:00:00:00:aa:{number:02x}"
        routes += [
            speaker.at(mac, f"10.0.7.{number + 1}/32", port=port),
            speaker.at(mac, f"fd00::{number + 1:x}/128", port=port),
        ]
    reached(life.announce(kept, *routes))
    life.prune(kept, *routes)
    shows(speaker, kept, *routes)
    for number in range(40):
        speaker.namespace.ip("link", "delete", f"gone{number}")
    life.withdraw(*routes)
    shows(speaker, kept)
    until(lambda: ":aa:" not in str(list(speaker.peer.evpn_routes("macip"))), "no MAC at the peer")


def node_with_frr(lab: Lab) -> tuple[Frr, Node]:
    """FRR as the far router, and a node with an FRR of its own, from conf/frr-evpn.conf, which is its only speaker."""
    router = lab.frr()
    node = lab.node(router, families=FAMILIES)
    folder = lab.folder / "hostfrr"
    host = Frr(node.namespace, folder, 64512)
    lab.callback(host.close)
    host.start(SAMPLE.read_text().replace("192.0.2.1", node.address).replace("192.0.2.2", node.peer))
    exporter = {"type": "frr", "vty_dir": str(folder), "local_address": node.address}
    node.agent(bgp=None, exporters={"frr": exporter}, default_exporters=["frr"])
    router.wait_established(node.address)
    return router, node


def test_containers_behind_the_hosts_frr_and_a_host_behind_another(lab: Lab) -> None:
    """ADD, both ways over IPv4 and IPv6, on the node too, and DEL leaves nothing; the data path is FRR's own."""
    router, node = node_with_frr(lab)
    host = make_router(lab, router)
    conf = evpn.network(node, 1, exporters=["frr"])
    containers = []
    for name in ("a", "b"):
        space = lab.container(name)
        answer = node.cni("ADD", name, space, conf)
        assert answer.ok, answer
        containers.append(Container(name, node, space, conf, answer))
    one, other = containers
    until(lambda: reaches(one.space, HOST4, HOST6), "the container reaches the host")
    until(lambda: reaches(host, one.four, one.six, other.four, other.six), "the host reaches the containers")
    connected(one, other)
    assert evpn.behind(node)[HOST_MAC] == {VTEP}
    assert all(r["exporters"]["frr"]["state"] == "announced" for r in node.routes()), node.routes()
    for place, name in ((one.space, "eth0"), (node.namespace, evpn.DEVICE), (node.namespace, evpn.BRIDGE)):
        assert place.ip_json("link", "show", name)[0]["mtu"] == 1450, name

    node.restart_agent()
    assert one.reaches(HOST4, HOST6)
    one.delete()
    until(lambda: one.mac not in str(router.evpn_routes()), "no route of the one")
    assert reaches(host, other.four, other.six)
    other.delete()
    until(lambda: node.address not in str(router.evpn_routes()), "no route of the node")
    evpn.empty(node)


def test_the_sessions_of_the_hosts_frr_are_shown(lab: Lab) -> None:
    """`bgpcni peers`: the state of each, its families and how many routes went either way; why one is down. With an
    address how many messages of each type; and both ways to reset it."""
    router, node = node_with_frr(lab)
    make_router(lab, router)
    conf = evpn.network(node, 1, exporters=["frr"])
    assert node.cni("ADD", "a", lab.container("a"), conf).ok

    def peer() -> dict[str, Any]:
        (found,) = node.operator("peers").document["peers"]
        return dict(found)

    until(lambda: node.operator("peers").document["peers"], "the session")
    until(lambda: peer()["sent"] >= 3 and peer()["received"] >= 3, "routes both ways")
    up = peer()
    assert (up["exporter"], up["address"], up["asn"], up["state"]) == ("frr", node.peer, 64512, "Established")
    assert (up["families"], up["lastError"]) == (["l2vpn-evpn"], "")
    assert up["since"].endswith("Z")
    assert node.operator("peers").code == 0

    def told() -> dict[str, Any]:
        return dict(router.neighbor(node.address))

    (more,) = node.operator("peers", node.peer).document["peers"]
    assert more["messages"]["sent"]["open"] >= 1
    assert more["messages"]["received"]["update"] >= 1
    before, since = told()["messageStats"], told()["connectionsEstablished"]
    assert node.operator("peers", "reset", node.peer, "--soft").code == 0
    until(lambda: told()["messageStats"]["updatesRecv"] > before["updatesRecv"], "the routes, sent again")
    until(lambda: told()["messageStats"]["routeRefreshRecv"] > before["routeRefreshRecv"], "a route refresh")
    assert told()["connectionsEstablished"] == since
    assert node.operator("peers", "reset", node.peer).code == 0
    until(lambda: told()["connectionsEstablished"] > since, "a new session")
    until(lambda: peer()["state"] == "Established" and peer()["received"] >= 3, "its routes")
    router.stop()
    until(lambda: peer()["state"] != "Established", "the end of the session")
    down = peer()
    assert (down["families"], down["sent"], down["received"]) == ([], 0, 0)
    assert down["lastError"]
    assert node.operator("peers").code == 1
    assert "peer-down" in {problem["code"] for problem in node.operator("status").document["problems"]}


def test_a_container_that_went_without_a_del(lab: Lab) -> None:
    """Its port is gone before its routes are: they go all the same, those of others stay."""
    router, node = node_with_frr(lab)
    conf = evpn.network(node, 1, exporters=["frr"])
    spaces = {name: lab.container(name) for name in ("a", "b")}
    answers = {name: node.cni("ADD", name, space, conf) for name, space in spaces.items()}
    assert all(answer.ok for answer in answers.values()), answers
    gone, kept = (set(answers[name].ips) for name in ("a", "b"))

    def seen() -> set[str]:
        names = router.evpn_routes("macip")
        return {name.rpartition("[")[2].rstrip("]") for name in names if name.count("[") == 6}

    until(lambda: seen() == gone | kept, "all routes at the router")
    spaces["a"].close()
    until(lambda: seen() == kept, "the routes of the other alone")
