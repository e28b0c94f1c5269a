"""The gobgp exporter against the real daemon with FRR as its peer: what every exporter promises, and what this one
does besides."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from bgpcni.errors import InvalidConfiguration
from bgpcni.exporter import MESSAGES, Exporter, NotThereYet, Reach, Wake
from bgpcni.model import ROUTES, Announcement, IpPrefixNlri, MacIpNlri, MulticastNlri, NodeFacts, UnicastNlri, VpnNlri
from bgpcni.testing import ExporterSuite, Woken
from bgpcni.testing.patience import SECONDS
from bgpcni.testing.suite import Life, reached, shows
from integration.gobgp import GoBGP
from integration.lab import Frr, Lab, Neighbor, link, until
from integration.speakers import DaemonSpeaker, impostor, listening

grpc = pytest.importorskip("grpc", reason="grpcio is not installed: pip install bgpcni[gobgp]")

from bgpcni_gobgp import GoBGP as GoBGPExporter  # noqa: E402  # needs grpc
from bgpcni_gobgp.client import Client  # noqa: E402

HERE, THERE, ASN = "198.18.1.2", "198.18.1.1", 64512
HERE6 = "2001:db8:18:1::2"


class Daemon(DaemonSpeaker):
    """gobgpd in one namespace, FRR in another: the table is FRR's."""

    daemon: GoBGP

    def __init__(self, lab: Lab) -> None:
        self.frr: Frr = lab.frr(neighbors=[Neighbor(HERE, ASN)])
        namespace = lab.namespace("gobgp")
        link(namespace, self.frr.namespace, "uplink", "gobgp", (f"{HERE}/24", f"{HERE6}/64"), (f"{THERE}/24",))
        self.daemon = GoBGP(lab, namespace, HERE, THERE, ASN)
        self._folder = str(lab.folder)
        self._target = self.daemon.target
        self.start()

    def exporter(self, wake: Wake) -> Exporter:
        facts = NodeFacts(run_dir=self._folder, data_dir=self._folder)
        return GoBGPExporter("gobgp", GoBGPExporter.Config(target=self._target), facts, wake)

    def route(self, number: int, network: str = "net") -> Announcement:
        return unicast(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}/32", network)

    def table(self) -> set[str]:
        return set(self.frr.json("show bgp ipv4 unicast").get("routes", {}))

    def unwanted(self) -> Announcement:
        return replace(unicast("10.9.9.8/32"), next_hop="2001:db8::1")

    def foreign(self) -> str:
        self.daemon.command("global", "rib", "add", "10.9.9.9/32", "nexthop", HERE)
        return "10.9.9.9/32"

    @contextmanager
    def impostor(self, answer: bytes) -> Iterator[None]:
        path = f"{self._folder}/false.sock"
        self._target = f"unix://{path}"
        with impostor(listening(path), answer):
            yield
        self._target = self.daemon.target


def unicast(prefix: str, network: str = "net") -> Announcement:
    if ":" in prefix:
        return Announcement(UnicastNlri.of(prefix), network, HERE6)
    return Announcement(UnicastNlri.of(prefix), network, HERE)


@pytest.fixture
def speaker(lab: Lab) -> Daemon:
    return Daemon(lab)


@pytest.fixture
def life(speaker: Daemon) -> Iterator[Life]:
    life = Life(speaker)
    yield life
    life.exporter.close()


class TestGoBGP(ExporterSuite):
    @pytest.fixture
    def speaker(self, speaker: Daemon) -> Daemon:
        return speaker


def test_every_family_arrives_whole(speaker: Daemon, life: Life) -> None:
    """Unicast, L3VPN and EVPN types 2, 3 and 5 are at FRR with all they carry."""
    rd, mac, frr = f"{HERE}:7", "02:00:00:00:00:01", speaker.frr
    rt = ("64512:5001", "4200000000:7", "192.0.2.9:3")
    plain = replace(unicast("10.1.2.3/32"), communities=("64512:100", "64512:1:2", "no-export"), export_rt=rt)
    six = unicast("2001:db8:1::/64")
    four_vpn = VpnNlri.of("10.9.0.0/24", rd)
    six_vpn = VpnNlri.of("2001:db8:9::/64", rd)
    layer2 = [
        Announcement(nlri, "e", HERE, export_rt=rt, vni=5001, mobility=3 if nlri.kind == "mac-ip" else 0)
        for nlri in (
            MacIpNlri(rd, mac),
            MacIpNlri(rd, mac, "10.9.0.5/32"),
            MacIpNlri(rd, mac, "2001:db8:9::5/128"),
            MulticastNlri(rd, HERE),
            IpPrefixNlri(rd, "10.9.1.0/24"),
        )
    ]
    routes = [
        plain,
        six,
        Announcement(four_vpn, "v", HERE, export_rt=rt, label=4711),
        Announcement(six_vpn, "v", HERE6, export_rt=rt, label=4712),
        *layer2,
    ]
    reached(life.announce(*routes))
    life.prune(*routes)
    until(lambda: set(frr.evpn_routes()) == {str(route.nlri) for route in layer2}, "EVPN at FRR")
    until(lambda: bool(frr.paths("10.9.0.0/24", "ipv4-vpn")) and bool(frr.paths("2001:db8:9::/64", "ipv6-vpn")), "VPN")
    until(lambda: frr.next_hops("10.1.2.3/32") == {HERE} and bool(frr.paths("2001:db8:1::/64")), "unicast")
    seen = frr.text("show bgp ipv4 unicast 10.1.2.3/32")
    assert [word for word in ("64512:100", "no-export", "64512:1:2", "RT:64512:5001") if word not in seen] == []
    seen = frr.text("show bgp ipv4 vpn 10.9.0.0/24")
    assert [word for word in ("4711", "RT:64512:5001", "RT:4200000000:7", "RT:192.0.2.9:3") if word not in seen] == []
    assert "4712" in frr.text("show bgp ipv6 vpn 2001:db8:9::/64")
    seen = frr.text(f"show bgp l2vpn evpn route rd {rd}")
    wanted = ("5001", "ET:8", "RT:64512:5001", "MM:3", "Rmac:02:00:5e:00:13:89")
    assert [word for word in wanted if word not in seen] == []
    seen = frr.text(f"show bgp l2vpn evpn route rd {rd} type multicast")
    assert "PMSI Tunnel Type: Ingress Replication, label: 5001" in seen
    life.withdraw(*routes)
    until(lambda: not frr.evpn_routes() and not frr.paths("10.9.0.0/24", "ipv4-vpn"), "the end of all")
    assert speaker.table() == set()


def test_a_changed_route_replaces_the_old_one(speaker: Daemon, life: Life) -> None:
    """Other communities, or another network's name for the same prefix: one path, the new one."""
    old, new = (replace(unicast("10.1.2.3/32"), communities=(text,)) for text in ("64512:1", "64512:2"))
    reached(life.announce(old))
    reached(life.announce(new))
    until(lambda: "64512:2" in speaker.frr.text("show bgp ipv4 unicast 10.1.2.3/32"), "the new community")
    elsewhere = replace(new, network="other")
    reached(life.announce(elsewhere))
    rib = speaker.daemon.ask("global", "rib")
    assert [len(paths) for paths in rib.values()] == [1]
    life.withdraw(elsewhere)
    shows(speaker)


def test_a_session_that_is_not_there(speaker: Daemon, life: Life) -> None:
    """Without a session a route waits and says for whom; with it, it is announced, and `peers` shows it."""
    route = speaker.route(0)
    speaker.frr.kill()
    (first,) = life.announce(route)
    until(lambda: life.exporter.progress([route])[0].reach is Reach.WANTED, "that nobody hears it")
    assert THERE in life.exporter.progress([route])[0].reason
    assert first.reach in (Reach.WANTED, Reach.ACCEPTED)
    before = life.wake.progressed
    speaker.frr.start()
    until(lambda: life.wake.progressed > before, "that the exporter says so")
    until(lambda: life.exporter.progress([route])[0].reach is Reach.ACCEPTED, "that somebody hears it")
    shows(speaker, route)
    (peer,) = life.exporter.peers()
    assert (peer.address, peer.asn, peer.state) == (THERE, ASN, "Established")
    assert peer.sent == 1
    assert set(peer.families) == ROUTES
    assert peer.since.endswith("Z")


def test_a_session_is_counted_and_reset(speaker: Daemon, life: Life) -> None:
    """A soft reset sends all routes again within the session; the other ends it with Cease, and it comes up anew. The
    messages of both ways are counted by their types. A peer that the daemon has not, or no daemon, is an error."""
    route = speaker.route(0)
    reached(life.announce(route))
    shows(speaker, route)
    frr, exporter = speaker.frr, life.exporter

    def counts(way: str) -> dict[str, int]:
        life.exporter.look(time.monotonic() + SECONDS)
        return dict(exporter.session(THERE)["messages"][way])  # type: ignore[index]

    until(lambda: counts("sent")["open"] >= 1 and counts("received")["keepalive"] >= 1, "messages of both ways")
    assert set(counts("sent")) == set(counts("received")) == set(MESSAGES)

    def stats() -> dict[str, int]:
        return dict(frr.neighbor(HERE)["messageStats"])

    before, since, opens = stats(), frr.neighbor(HERE)["connectionsEstablished"], counts("sent")["open"]
    exporter.reset(THERE, soft=True)
    until(lambda: stats()["updatesRecv"] > before["updatesRecv"], "the routes, sent again")
    assert frr.neighbor(HERE)["connectionsEstablished"] == since
    exporter.reset(THERE, soft=False)
    until(lambda: frr.neighbor(HERE)["connectionsEstablished"] > since, "a new session")
    assert stats()["notificationsRecv"] > before["notificationsRecv"]
    until(lambda: counts("sent")["open"] > opens, "the counts, which go on")
    shows(speaker, route)
    with pytest.raises(InvalidConfiguration, match="gobgpd: "):
        exporter.reset("192.0.2.99", soft=False)
    assert exporter.session("192.0.2.99") == {}
    speaker.daemon.kill()
    with pytest.raises(InvalidConfiguration, match="gobgpd at unix://"):
        exporter.reset(THERE, soft=True)


def test_a_peer_that_may_still_hold_a_route(speaker: Daemon, life: Life) -> None:
    """A withdrawal is not confirmed while a peer whose session just ended may go on using the route."""
    route = speaker.route(0)
    reached(life.announce(route))
    shows(speaker, route)
    speaker.frr.kill()
    until(lambda: life.exporter.peers()[0].state != "Established", "the session's end")
    (outcome,) = life.withdraw(route)
    assert outcome.reach is Reach.WANTED
    assert THERE in outcome.reason
    speaker.frr.start()
    until(lambda: life.exporter.progress([route])[0].reach is Reach.ACCEPTED, "the confirmation")


def test_a_peer_whose_session_ended_before_this_life(speaker: Daemon, life: Life) -> None:
    """A peer that was up and is down when the exporter first asks may go on using what it was told: an exporter that
    never saw the session, for it began with or came late to a daemon that runs, confirms no withdrawal either."""
    route = speaker.route(0)
    reached(life.announce(route))
    shows(speaker, route)
    speaker.frr.kill()
    until(lambda: life.exporter.peers()[0].state != "Established", "the session's end")
    life.exporter.close()
    second = Life(speaker)
    try:
        (outcome,) = second.withdraw(route)
        assert outcome.reach is Reach.WANTED
        assert THERE in outcome.reason
        speaker.frr.start()
        until(lambda: second.exporter.progress([route])[0].reach is Reach.ACCEPTED, "the confirmation")
    finally:
        second.exporter.close()


def test_a_session_that_ended_unnoticed(speaker: Daemon, life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon knows that a session ended, and the exporter has not heard it yet: a withdrawal that went to the
    daemon meanwhile reached nobody, and is not confirmed."""
    route = speaker.route(0)
    reached(life.announce(route))
    shows(speaker, route)
    exporter = life.exporter
    assert isinstance(exporter, GoBGPExporter)
    until(lambda: exporter.peers()[0].state == "Established", "that the session is noticed")
    note, late = exporter._note_sessions, threading.Event()

    def held_up(client: Client) -> None:
        if threading.current_thread().name == f"watch-{exporter.name}":
            late.wait()
        note(client)

    monkeypatch.setattr(exporter, "_note_sessions", held_up)
    try:
        speaker.frr.kill()
        until(lambda: "Establ" not in speaker.daemon.command("neighbor").stdout, "that the daemon knows of its end")
        (outcome,) = life.withdraw(route)
        assert outcome.reach is Reach.WANTED
        assert THERE in outcome.reason
    finally:
        late.set()


def test_two_agents_of_one_daemon(speaker: Daemon, life: Life) -> None:
    """Another owner's routes are neither pruned nor withdrawn."""
    route, other = speaker.route(0), speaker.route(1)
    facts = life.exporter.node
    config = GoBGPExporter.Config(target=speaker.daemon.target, owner=7)
    second = Life(speaker)
    second.exporter = GoBGPExporter("second", config, facts, Woken())
    try:
        reached(second.announce(other, route))
        reached(life.announce(route))
        life.prune(route)
        shows(speaker, route, other)
        life.withdraw(route)
        shows(speaker, route, other)
        second.prune(other)
        shows(speaker, other)
    finally:
        second.exporter.close()


def test_gobgp_4_is_refused_in_words(tmp_path: Path) -> None:
    """A daemon whose API is another is named as such, and nothing is said to be announced."""
    server = grpc.server(ThreadPoolExecutor(2))
    answer = grpc.unary_unary_rpc_method_handler(lambda request, context: b"")
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("api.GoBgpService", {"GetBgp": answer})])
    target = f"unix://{tmp_path}/api.sock"
    server.add_insecure_port(target)
    server.start()
    facts = NodeFacts(run_dir=str(tmp_path), data_dir=str(tmp_path))
    exporter = GoBGPExporter("gobgp", GoBGPExporter.Config(target=target), facts, Woken())
    try:
        with pytest.raises(NotThereYet, match=r"GoBGP 4 or later.* needs GoBGP 3"):
            exporter.announce([unicast("10.1.2.3/32")], deadline=time.monotonic() + SECONDS)
    finally:
        exporter.close()
        server.stop(None).wait()
