"""Routes through the real ExaBGP to the real FRR."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bgpcni.exporter import Reach
from bgpcni.model import Announcement, Family, IpPrefixNlri, MacIpNlri, MulticastNlri, Neighbor, VpnNlri
from bgpcni.wire.encode import EncodedRoute, Kind, encode
from bgpcni_exabgp import lines, protocol, quarantine, supervisor
from bgpcni_exabgp.process import Home, Running
from integration.exabgp_bench import Bench, Speaker, bench, facts, many, unicast
from integration.frr_table import meant, table
from integration.lab import ALL_FAMILIES, Frr, Lab, link, until
from integration.lab import Neighbor as FrrNeighbor


@pytest.fixture
def frr(lab: Lab) -> Frr:
    return lab.frr()


@pytest.fixture
def node(lab: Lab, frr: Frr) -> Bench:
    return bench(lab, frr)


@pytest.fixture
def speaker(lab: Lab, node: Bench) -> Speaker:
    return Speaker(lab, node.namespace, facts(node))


def test_a_route_is_at_the_peer_when_it_is_said_to_be(frr: Frr, node: Bench, speaker: Speaker) -> None:
    """A route said to be acknowledged is in FRR's table, with all it carries; a withdrawn one is not."""
    routes = [
        unicast(node, "10.1.2.3/32", communities=("64512:100", "64512:1:2", "no-export"), export_rt=("64512:5",)),
        unicast(node, "2001:db8:1::/64"),
    ]
    speaker.announce(*routes)
    speaker.prune(*routes)
    speaker.wait(Reach.ACKED, *routes)
    until(lambda: frr.next_hops("10.1.2.3/32") == {node.address}, "the IPv4 route")
    until(lambda: frr.next_hops("2001:db8:1::/64") == {node.address6}, "the IPv6 route")
    detail = frr.text("show bgp ipv4 unicast 10.1.2.3/32")
    assert "64512:100" in detail
    assert "no-export" in detail
    assert "64512:1:2" in detail
    assert "RT:64512:5" in detail
    assert [(p.state, p.sent) for p in speaker.exporter.peers()] == [("Established", 2)]
    speaker.withdraw(*routes)
    speaker.wait(Reach.ACKED, *routes)
    until(lambda: not frr.paths("10.1.2.3/32") and not frr.paths("2001:db8:1::/64"), "the end of both")


def test_ten_thousand_routes(frr: Frr, node: Bench, speaker: Speaker) -> None:
    """Ten thousand routes arrive, and go, whole."""
    routes = many(node, 10_000)
    speaker.announce(*routes)
    speaker.prune(*routes)
    speaker.wait(Reach.SENT, *routes)
    until(lambda: frr.received(node.address) == 10_000, "10,000 routes at FRR")
    speaker.withdraw(*routes)
    speaker.wait(Reach.SENT, *routes)
    until(lambda: frr.received(node.address) == 0, "no route at FRR")


def test_vpn_and_evpn_routes(frr: Frr, node: Bench, speaker: Speaker) -> None:
    """L3VPN and EVPN types 2, 3 and 5 are at FRR with RD, label or VNI, route targets, encapsulation and tunnel."""
    rd, mac = f"{node.address}:7", "02:00:00:00:00:01"
    rt = ("64512:5001", "4200000000:7", "192.0.2.9:3")
    vpn4 = Announcement(VpnNlri.of("10.9.0.0/24", rd), "v", node.address, export_rt=rt, label=4711)
    vpn6 = Announcement(VpnNlri.of("2001:db8:9::/64", rd), "v", node.address6, export_rt=rt, label=4712)
    others = [
        Announcement(nlri, "e", node.address, export_rt=rt, vni=5001, mobility=3 if nlri.kind == "mac-ip" else 0)
        for nlri in (
            MacIpNlri(rd, mac),
            MacIpNlri(rd, mac, "10.9.0.5/32"),
            MacIpNlri(rd, mac, "2001:db8:9::5/128"),
            MulticastNlri(rd, node.address),
            IpPrefixNlri(rd, "10.9.1.0/24"),
        )
    ]
    routes = [vpn4, vpn6, *others]
    assert not [o.reason for o in speaker.announce(*routes) if o.reach is Reach.REFUSED]
    speaker.prune(*routes)
    speaker.wait(Reach.ACKED, *routes)
    until(lambda: frr.paths("10.9.0.0/24", "ipv4-vpn"), "the VPNv4 route")
    until(lambda: frr.paths("2001:db8:9::/64", "ipv6-vpn"), "the VPNv6 route")
    text = frr.text("show bgp ipv4 vpn 10.9.0.0/24")
    assert "4711" in text
    assert "RT:64512:5001" in text
    assert "RT:4200000000:7" in text
    assert "RT:192.0.2.9:3" in text
    assert "4712" in frr.text("show bgp ipv6 vpn 2001:db8:9::/64")
    wanted = {str(route.nlri).replace("[5]:[0]:[24]:[10.9.1.0]", "[5]:[0]:[24]:[10.9.1.0]"): route for route in others}
    until(lambda: set(frr.evpn_routes()) == set(wanted), f"{sorted(wanted)}, not {sorted(frr.evpn_routes())}")
    detail = frr.text(f"show bgp l2vpn evpn route rd {rd}")
    assert "5001" in detail
    assert "ET:8" in detail
    assert "RT:64512:5001" in detail
    assert "MM:3" in detail
    assert "Rmac:02:00:5e:00:13:89" in detail
    multicast = frr.text(f"show bgp l2vpn evpn route rd {rd} type multicast")
    assert "PMSI Tunnel Type: Ingress Replication, label: 5001" in multicast
    speaker.withdraw(*routes)
    speaker.wait(Reach.ACKED, *routes)
    until(lambda: not frr.evpn_routes() and not frr.paths("10.9.0.0/24", "ipv4-vpn"), "the end of all")


def test_a_new_agent_adopts_exabgp(lab: Lab, frr: Frr, node: Bench, speaker: Speaker) -> None:
    """An agent's restart is no event to a peer; routes that only the earlier life knew are pruned, others' spared."""
    kept, spared, left = (unicast(node, f"10.1.{n}.1/32", f"net{n}") for n in range(3))
    speaker.announce(kept, spared, left)
    speaker.prune(kept, spared, left)
    until(lambda: frr.received(node.address) == 3, "three routes")
    before, pid = frr.neighbor(node.address), speaker.pid
    speaker.close()

    second = Speaker(lab, node.namespace, facts(node))
    assert second.announce(kept)[0].reach >= Reach.WANTED
    second.prune(kept, spare=["net1"])
    second.wait(Reach.ACKED, kept)
    until(lambda: not frr.paths("10.1.2.1/32"), "the end of what nobody wants")
    assert frr.paths("10.1.0.1/32")
    assert frr.paths("10.1.1.1/32")
    after = frr.neighbor(node.address)
    for key in ("connectionsEstablished", "connectionsDropped"):
        assert before[key] == after[key]
    assert second.pid == pid
    second.withdraw(left, kept)
    second.wait(Reach.ACKED, left, kept)
    until(lambda: frr.received(node.address) == 1, "only the spared route")


def test_an_exabgp_that_hangs_is_replaced(
    frr: Frr, node: Bench, speaker: Speaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ExaBGP lives but does not answer: it is ended and started again, and the routes stay at FRR meanwhile."""
    route = unicast(node, "10.1.2.3/32")
    speaker.announce(route)
    speaker.prune(route)
    pid = speaker.pid
    patient, begin = supervisor.ANSWER, Home.start

    def start(home: Home) -> Running:
        monkeypatch.setattr(supervisor, "ANSWER", patient)  # the next one may take its time to start
        return begin(home)

    monkeypatch.setattr(supervisor, "ANSWER", 1.0)
    monkeypatch.setattr(Home, "start", start)
    speaker.announce(route)
    speaker.wait(Reach.ACKED, route)
    os.kill(pid, signal.SIGSTOP)
    speaker.announce(unicast(node, "10.1.2.4/32"))
    speaker.announce(route)
    speaker.prune(route)
    speaker.wait(Reach.ACKED, route)
    assert speaker.pid != pid
    assert frr.paths("10.1.2.3/32")


def test_a_killed_frr_gets_everything_back(frr: Frr, node: Bench, speaker: Speaker) -> None:
    """FRR is killed and started again: the routes come back with End-of-RIB, without the agent."""
    routes = many(node, 100)
    speaker.announce(*routes)
    speaker.prune(*routes)
    speaker.wait(Reach.SENT, *routes)
    frr.kill()
    until(lambda: speaker.reach(*routes) == {Reach.WANTED}, "that nothing is announced")
    assert speaker.reason(routes[0]).startswith(f"no session: {node.peer} is ")
    speaker.withdraw(routes[0])
    assert speaker.reach(routes[0]) == {Reach.WANTED}
    frr.start()
    until(lambda: frr.received(node.address) == 99, "the routes")
    speaker.wait(Reach.SENT, *routes)

    def ended() -> bool:
        return bool(frr.neighbor(node.address)["gracefulRestartInfo"]["endOfRibRecv"]["ipv4Unicast"])

    until(ended, "End-of-RIB")


def test_a_family_that_the_peer_lacks(lab: Lab) -> None:
    """FRR without EVPN: the route stays `wanted`, and the reason names the peer that lacks the family."""
    frr = lab.frr()
    node = bench(lab, frr, families=["ipv4-unicast", "ipv6-unicast"])
    some = tuple(Family(name) for name in ALL_FAMILIES if name != "ipv6-vpn")
    speaker = Speaker(lab, node.namespace, facts(node, Neighbor(node.peer, node.asn, some, 90)))
    evpn = MulticastNlri("64512:1", node.address)
    route = Announcement(evpn, "e", node.address, vni=5)
    vpn6 = Announcement(VpnNlri.of("2001:db8::/64", "64512:1"), "v", node.address6, label=16)
    plain = unicast(node, "10.1.2.3/32")
    speaker.announce(route, vpn6, plain)
    speaker.prune(route, vpn6, plain)
    speaker.wait(Reach.ACKED, plain)
    assert speaker.reach(route, vpn6) == {Reach.WANTED}
    assert speaker.reason(route) == f"no session negotiated l2vpn-evpn: {node.peer} did not"
    assert speaker.reason(vpn6) == "no neighbour has family ipv6-vpn"
    speaker.withdraw(route, vpn6)
    assert speaker.reach(route) == {Reach.ACKED}


def test_an_ebgp_peer_with_a_password(lab: Lab, tmp_path: Path) -> None:
    """TCP MD5 and another AS: the session comes up and the AS path is ours; a bad value concerns its route only."""
    frr = lab.frr(asn=4_200_000_001)
    node = bench(lab, frr, asn=64513, extra=("password s3cret;#{}",))
    secret = tmp_path / "password"
    secret.write_text("s3cret;#{}\n")
    secret.chmod(0o600)
    families = (Family.IPV4_UNICAST,)
    peer = Neighbor(node.peer, frr.asn, families, 90, password_file=str(secret))
    speaker = Speaker(lab, node.namespace, facts(node, peer))
    good, bad = unicast(node, "10.1.2.3/32"), unicast(node, "10.1.2.4/32", communities=("64512:99999",))
    outcomes = speaker.announce(good, bad)
    assert outcomes[1].reach is Reach.REFUSED
    assert "99999" in outcomes[1].reason
    speaker.prune(good)
    speaker.wait(Reach.ACKED, good)
    until(lambda: frr.paths("10.1.2.3/32"), "the route")
    assert frr.paths("10.1.2.3/32")[0]["aspath"]["string"] == "64513"


def test_a_value_that_is_refused_takes_its_old_form_away(frr: Frr, node: Bench, speaker: Speaker) -> None:
    """A route that is announced and then wanted with a value that cannot be sent: the old form does not stay."""
    good = unicast(node, "10.1.2.3/32")
    speaker.announce(good)
    speaker.prune(good)
    speaker.wait(Reach.ACKED, good)
    until(lambda: frr.paths("10.1.2.3/32"), "the route")
    bad = replace(good, communities=("64512:99999",))
    assert speaker.announce(bad)[0].reach is Reach.REFUSED
    assert "99999" in speaker.reason(bad)
    until(lambda: not frr.paths("10.1.2.3/32"), "the end of the old form")
    speaker.announce(good)
    speaker.wait(Reach.ACKED, good)
    until(lambda: frr.paths("10.1.2.3/32"), "the route again")


def test_a_neighbour_taken_out_of_the_configuration(lab: Lab, frr: Frr, node: Bench, speaker: Speaker) -> None:
    """It gets the withdrawals before its session ends, and does not keep the routes; the last one ends ExaBGP."""
    route = unicast(node, "10.1.2.3/32")
    speaker.announce(route)
    speaker.prune(route)
    until(lambda: frr.paths("10.1.2.3/32"), "the route")
    pid = speaker.pid
    speaker.close()
    second = Speaker(lab, node.namespace, facts(node, Neighbor("198.18.200.1", 64999, (Family.IPV4_UNICAST,), 90)))
    second.announce(route)
    second.prune(route)
    until(lambda: not frr.paths("10.1.2.3/32") and not frr.established(node.address), "the end of the route")
    assert second.pid == pid
    second.close()
    third = Speaker(lab, node.namespace, facts(node))
    third.announce(route)
    third.prune(route)
    until(lambda: frr.paths("10.1.2.3/32"), "the route again")
    third.close()
    nobody = replace(facts(node), neighbors=())
    fourth = Speaker(lab, node.namespace, nobody)
    fourth.prune()
    until(lambda: not frr.paths("10.1.2.3/32"), "the end of the route")
    until(lambda: not Path(f"/proc/{pid}").exists(), "the end of ExaBGP")


def test_a_killed_relay_touches_no_session(frr: Frr, node: Bench, speaker: Speaker) -> None:
    """The process between agent and ExaBGP is killed: it comes back, and no peer notices."""
    route, later = unicast(node, "10.1.2.3/32"), unicast(node, "10.1.2.4/32")
    speaker.announce(route)
    speaker.prune(route)
    until(lambda: frr.paths("10.1.2.3/32"), "the route")
    before, pid, emptied = frr.neighbor(node.address), speaker.pid, speaker.wake.emptied
    (relay,) = (found for found in node.namespace.pids() if found != pid)
    os.kill(relay, signal.SIGKILL)
    until(lambda: speaker.wake.emptied > emptied, "the new relay")
    speaker.announce(route, later)
    speaker.prune(route, later)
    speaker.wait(Reach.ACKED, route, later)
    assert frr.neighbor(node.address)["connectionsEstablished"] == before["connectionsEstablished"]
    assert speaker.pid == pid


def test_a_route_that_a_peer_cannot_stand_is_taken_back(
    frr: Frr, node: Bench, speaker: Speaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A route over which FRR ends the session again and again is withdrawn and refused; the others stay announced."""
    good = unicast(node, "10.1.2.3/32")
    speaker.announce(good)
    speaker.prune(good)
    speaker.wait(Reach.ACKED, good)
    # past the validation, which does not let it through: FRR 10 takes an IPv6 originator for a malformed route

    def unchecked(route: Announcement, asn: int, kind: Kind, prepend: int = 0, **options: bool) -> EncodedRoute:
        wire = encode(route, asn, kind, prepend, **options)
        if route.nlri.kind != "multicast":
            return wire
        rd, tag, originator = wire.nlri[2:10], bytes(4), b"\x80" + bytes.fromhex("20010db8" + "00" * 12)
        return replace(wire, nlri=b"\x03\x1d" + rd + tag + originator, key=wire.key)

    monkeypatch.setattr(lines, "encode", unchecked)
    # what is older than that is above suspicion
    batches = speaker.exporter._shared.quarantine._batches
    until(lambda: time.monotonic() - batches[-1][0] > quarantine.SUSPECT, "a moment of peace")
    evpn = MulticastNlri("64512:1", node.address)
    bad = Announcement(evpn, "e", node.address, vni=5)
    together = [unicast(node, f"10.1.3.{n}/32") for n in range(1, 8)]
    speaker.announce(*together[:4], bad, *together[4:])
    until(lambda: speaker.reach(bad) == {Reach.REFUSED}, "that the bad route is refused", 60)
    assert f"{node.peer} ended the session over it: NOTIFICATION 3/" in speaker.reason(bad)
    speaker.wait(Reach.ACKED, good, *together)
    until(lambda: frr.paths("10.1.2.3/32") and frr.established(node.address), "a session that lasts")
    assert frr.received(node.address) == 8
    assert speaker.announce(bad)[0].reach is Reach.REFUSED
    assert "NOTIFICATION 3/" in speaker.exporter.peers()[0].last_error


def test_a_passive_session_over_ipv6_with_ttl_security(lab: Lab, frr: Frr, tmp_path: Path) -> None:
    """FRR connects to us, over IPv6, and both sides check that the other is one hop away."""
    node = bench(lab, frr)
    families = (Family.IPV6_UNICAST,)
    frr.add_neighbor(FrrNeighbor(node.address6, 64513, families, extra=("ttl-security hops 1",)))
    peer = Neighbor(node.peer6, frr.asn, families, 90, ttl_security=True, passive=True)
    place = facts(node, peer, asn=64513, local_address=node.address6)
    speaker = Speaker(lab, node.namespace, place)
    route = unicast(node, "2001:db8:1::/64")
    speaker.announce(route)
    speaker.prune(route)
    speaker.wait(Reach.ACKED, route)
    until(lambda: frr.next_hops("2001:db8:1::/64") == {node.address6}, "the route")


def test_an_exabgp_that_the_user_runs(lab: Lab, frr: Frr, node: Bench) -> None:
    """The sample configuration works with a stock ExaBGP: unicast and L3VPN come and go, EVPN is refused."""
    sample = (Path(__file__).parent.parent / "conf/exabgp.conf").read_text()
    path = node.run_dir / "own.sock"
    for old, new in (
        ("192.0.2.1 ", f"{node.peer} "),
        ("192.0.2.2", node.address),
        ("/usr/bin/python3", sys.executable),
        ("/run/exabgp/bgpcni.sock;", f"{path};"),
    ):
        assert old in sample
        sample = sample.replace(old, new)
    configuration = node.run_dir / "own.conf"
    configuration.write_text(sample)
    settings = {
        "exabgp_daemon_user": "root",
        "exabgp_api_cli": "false",
        "exabgp_tcp_bind": "",
        "PATH": os.environ["PATH"],
    }
    program = Path(sys.executable).parent / "exabgp"
    own = node.namespace.popen(program, "server", configuration, log=node.run_dir / "own.log", env=settings)
    lab.callback(own.wait)
    lab.callback(own.kill)
    speaker = Speaker(lab, node.namespace, facts(node), socket=str(path))
    routes = [
        unicast(node, "10.1.2.3/32", communities=("64512:1", "no-export"), export_rt=("4200000000:7",)),
        unicast(node, "2001:db8:1::/64"),
        Announcement(
            VpnNlri.of("10.9.0.0/24", f"{node.address}:7"),
            "v",
            node.address,
            ("64512:1", "4200000000:7"),
            label=100,
        ),
        Announcement(
            VpnNlri.of("2001:db8:9::/64", "64512:70000"),
            "v",
            node.address6,
            ("64512:1",),
            label=101,
        ),
    ]
    evpn = Announcement(MulticastNlri("1:1", node.address), "e", node.address, vni=5)
    speaker.announce(*routes, evpn)
    until(lambda: speaker.reach(*routes) == {Reach.ACCEPTED}, "that ExaBGP took them and a session is up")
    assert speaker.exporter.progress([evpn])[0].reach is Reach.REFUSED
    until(
        lambda: (
            table(frr)
            == {r.nlri: meant(r) for r in [replace(routes[0], communities=("64512:1", "noExport")), *routes[1:]]}
        ),
        "all routes",
    )
    text = frr.text("show bgp ipv4 unicast 10.1.2.3/32")
    assert "64512:1" in text
    assert "no-export" in text
    assert "RT:4200000000:7" in text
    assert not (path.stat().st_mode & 0o077)
    speaker.prune(routes[0])
    until(lambda: set(table(frr)) == {routes[0].nlri}, "the end of what is not kept")
    odd = replace(routes[0], communities=("64512:99999",))
    assert speaker.announce(odd)[0].reach is Reach.REFUSED
    until(lambda: not table(frr), "the end of the form that nobody wants any more")
    speaker.announce(routes[0])
    until(lambda: frr.paths("10.1.2.3/32"), "the route again")
    speaker.withdraw(*routes)
    until(lambda: not frr.paths("10.1.2.3/32"), "the end of the other")


def test_peers_of_both_kinds_at_once(lab: Lab, frr: Frr, node: Bench) -> None:
    """An iBGP and an eBGP peer: each gets AS path and local preference of its kind; sent means sent to both."""
    other = lab.frr(asn=64999, router_id="198.18.255.2")
    link(node.namespace, other.namespace, "second", "second", ["198.18.200.2/24"], ["198.18.200.1/24"])
    families = (Family.IPV4_UNICAST, Family.IPV4_VPN)
    near = Neighbor(node.peer, frr.asn, families, 90)
    far = Neighbor("198.18.200.1", other.asn, families, 90)
    # the second neighbour sees another source address: local_address is the uplink's
    other.namespace.ip("route", "add", node.address, "via", "198.18.200.2")
    other.add_neighbor(FrrNeighbor(node.address, node.asn, families, extra=("ebgp-multihop 2",)))
    speaker = Speaker(lab, node.namespace, facts(node, near, far))
    routes = many(node, 50)
    speaker.announce(*routes)
    speaker.prune(*routes)
    until(lambda: all(peer.state == "Established" for peer in speaker.exporter.peers()), "both sessions")
    speaker.wait(Reach.ACKED, *routes)
    until(lambda: frr.received(node.address) == 50 and other.received(node.address) == 50, "the routes at both")
    prefix = str(routes[0].nlri.prefix)
    assert frr.paths(prefix)[0]["aspath"]["string"] == "Local"
    assert frr.paths(prefix)[0]["locPrf"] == 100
    assert other.paths(prefix)[0]["aspath"]["string"] == str(node.asn)
    speaker.withdraw(*routes)
    speaker.wait(Reach.SENT, *routes)
    until(lambda: not frr.received(node.address) and not other.received(node.address), "their end at both")
    other.kill()
    until(lambda: {p.state for p in speaker.exporter.peers()} != {"Established"}, "the fall of one session")
    speaker.announce(routes[0])
    speaker.wait(Reach.SENT, routes[0])
    speaker.withdraw(routes[0])
    speaker.wait(Reach.SENT, routes[0])


def other_engine(node: Bench, monkeypatch: pytest.MonkeyPatch, *changes: str) -> None:
    """Have the next ExaBGP started with these changes to our engine, made before it runs."""
    folder = node.run_dir / "site"
    folder.mkdir()
    (folder / "other.py").write_text(
        "import sys\n"
        "from bgpcni_exabgp import protocol\n"
        "from bgpcni_exabgp.engine import check\n"
        "from bgpcni_exabgp.engine.__main__ import main\n"
        + "".join(f"{change}\n" for change in changes)
        + "sys.argv = ['engine', *sys.argv[1:]]\n"
        "sys.exit(main())\n"
    )
    stock = subprocess.Popen

    def popen(command: list[str], **more: Any) -> Any:
        if "bgpcni_exabgp.engine" in command:
            arguments = command[command.index("bgpcni_exabgp.engine") + 1 :]
            command = [command[0], str(folder / "other.py"), *arguments]
            monkeypatch.undo()
        return stock(command, **more)

    monkeypatch.setattr(subprocess, "Popen", popen)


@pytest.mark.parametrize(("version", "stays"), [(protocol.PROTOCOL + 1, True), (protocol.PROTOCOL + 2, False)])
def test_an_engine_of_a_newer_version(
    frr: Frr, node: Bench, speaker: Speaker, monkeypatch: pytest.MonkeyPatch, version: int, stays: bool
) -> None:
    """One version more is understood: its process goes on, and routes get to the peer. Two more: it is replaced."""
    other_engine(node, monkeypatch, f"protocol.PROTOCOL = {version}")
    route = unicast(node, "10.1.2.3/32")
    speaker.announce(route)
    speaker.prune(route)
    speaker.wait(Reach.ACKED, route)
    assert frr.next_hops("10.1.2.3/32") == {node.address}
    command = Path(f"/proc/{speaker.pid}/cmdline").read_bytes()
    assert (b"other.py" in command) is stays


def test_an_exabgp_whose_inside_is_another(lab: Lab, frr: Frr, node: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an ExaBGP version that our engine does not know, `status` says so, and unicast and L3VPN work through its
    text commands, with End-of-RIB."""
    other_engine(node, monkeypatch, "check.version = lambda name: '5.9.0'")
    speaker = Speaker(lab, node.namespace, facts(node))
    route = unicast(node, "10.1.2.3/32", communities=("64512:1",))
    speaker.announce(route)
    speaker.prune(route)
    until(lambda: speaker.reach(route) == {Reach.ACCEPTED}, "that ExaBGP took it and a session is up")
    until(lambda: table(frr) == {route.nlri: meant(route)}, "the route")
    assert "ExaBGP 5.9.0: from 5.0.8 to below 5.1 is needed" in speaker.exporter.peers()[0].last_error

    def ended() -> bool:
        return bool(frr.neighbor(node.address)["gracefulRestartInfo"]["endOfRibRecv"]["ipv4Unicast"])

    until(ended, "End-of-RIB")
    speaker.withdraw(route)
    until(lambda: not table(frr), "the end of the route")
