"""Routes that neighbours announce, through the real ExaBGP: from FRR, and from a peer that says whatever it likes."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest

from bgpcni.model import Announcement, Family, Nlri
from integration.exabgp_bench import Bench, Speaker, bench, facts, unicast
from integration.lab import Frr, Lab, until

EVERY = frozenset(Family)


@pytest.fixture
def frr(lab: Lab) -> Frr:
    return lab.frr()


@pytest.fixture
def node(lab: Lab, frr: Frr) -> Bench:
    return bench(lab, frr, reflect=True)


@pytest.fixture
def other(lab: Lab, frr: Frr) -> Bench:
    return bench(lab, frr, reflect=True)


def of_every_family(place: Bench) -> list[Announcement]:
    """One route of each kind, with all that it can carry."""
    rd, mac, evpn = f"{place.address}:7", "02:00:00:00:00:01", Family.L2VPN_EVPN
    rt = ("64512:5001", "4200000000:7", "192.0.2.9:3")
    communities = ("64512:100", "64512:1:2")
    return [
        unicast(place, "10.1.2.3/32", export_rt=rt, communities=communities),
        unicast(place, "2001:db8:1::/64", communities=communities),
        Announcement(Nlri(Family.IPV4_VPN, "vpn", "10.9.0.0/24", rd), "v", place.address, rt, label=4711),
        Announcement(Nlri(Family.IPV6_VPN, "vpn", "2001:db8:9::/64", rd), "v", place.address6, rt, label=4712),
        *(
            Announcement(nlri, "e", place.address, rt, (), communities, vni=5001, mobility=3 * (nlri.kind == "mac-ip"))
            for nlri in (
                Nlri(evpn, "mac-ip", rd=rd, mac=mac),
                Nlri(evpn, "mac-ip", rd=rd, mac=mac, prefix="10.9.0.5/32"),
                Nlri(evpn, "mac-ip", rd=rd, mac=mac, prefix="2001:db8:9::5/128"),
                Nlri(evpn, "multicast", rd=rd, originator=place.address),
                Nlri(evpn, "ip-prefix", rd=rd, prefix="10.9.1.0/24"),
                Nlri(evpn, "ip-prefix", rd=rd, prefix="2001:db8:9:1::/64"),
            )
        ),
    ]


def start(lab: Lab, place: Bench, *routes: Announcement) -> Speaker:
    speaker = Speaker(lab, place.namespace, facts(place))
    speaker.announce(*routes)
    speaker.prune(*routes)
    return speaker


def test_routes_of_every_family_come_as_they_were_meant(lab: Lab, frr: Frr, node: Bench, other: Bench) -> None:
    """What one node announces, another learns through FRR: RTs, communities, VNI, label, mobility, tunnel, origin."""
    routes = of_every_family(other)
    source = start(lab, other, *routes)
    speaker = start(lab, node)
    ears = speaker.listen()
    until(lambda: ears.nlris() == {route.nlri for route in routes}, "all routes")
    until(lambda: set(ears.ended) == EVERY, "End-of-RIB of every family")
    for route in routes:
        learned = ears.of(route.nlri)
        found = learned.attributes
        assert learned.peer == node.peer
        assert (learned.vni, learned.label) == (route.vni, route.label)
        assert set(found.route_targets) == set(route.export_rt)
        assert set(found.communities) == set(route.communities)
        assert found.next_hop == route.next_hop
        assert (found.mobility, found.local_pref, found.as_path, found.origin) == (route.mobility, 100, (), 0)
        assert found.originator == other.address
        assert found.clusters == ("198.18.255.1",)
        assert found.encapsulation == (8 if route.nlri.family is Family.L2VPN_EVPN else None)
        assert found.tunnel == (other.address if route.nlri.kind == "multicast" else None)
        assert found.router_mac == ("02:00:5e:00:13:89" if route.nlri.kind == "ip-prefix" else None)
    assert speaker.exporter.peers()[0].received == len(routes)
    changed = replace(routes[6], vni=5002)
    source.announce(changed)
    until(lambda: ears.of(changed.nlri).vni == 5002, "the change")
    source.withdraw(*routes)
    until(lambda: not ears.routes, "the end of all")
    assert speaker.exporter.peers()[0].received == 0


def test_nothing_is_passed_on_that_nobody_asked_for(lab: Lab, frr: Frr, node: Bench, other: Bench) -> None:
    """Without `listen` ExaBGP keeps received routes to itself; then only the families asked for come, when asked."""
    routes = of_every_family(other)
    start(lab, other, *routes)
    speaker = start(lab, node)
    until(lambda: frr.neighbor(node.address)["addressFamilyInfo"]["l2VpnEvpn"]["sentPrefixCounter"], "routes sent")
    assert not speaker.exporter._hearing._queue
    assert speaker.exporter._hearing._thread is None
    ears = speaker.listen({Family.IPV4_VPN})
    until(lambda: ears.ended == [Family.IPV4_VPN], "End-of-RIB of the one family")
    assert ears.nlris() == {routes[2].nlri}
    speaker.exporter.listen(frozenset({Family.IPV4_VPN, Family.L2VPN_EVPN}), ears)
    until(lambda: ears.ended == [Family.IPV4_VPN, Family.L2VPN_EVPN], "the other family")
    assert ears.nlris() == {routes[2].nlri, *(route.nlri for route in routes[4:])}


def test_a_new_agent_learns_what_exabgp_was_told(lab: Lab, frr: Frr, node: Bench, other: Bench) -> None:
    """An agent's restart: the session stays, and all routes are told again, with End-of-RIB."""
    routes = of_every_family(other)
    source = start(lab, other, *routes)
    first = start(lab, node)
    first.listen()
    until(lambda: first.exporter.peers()[0].received == len(routes), "the routes")
    before = frr.neighbor(node.address)
    first.close()
    source.withdraw(routes[0])
    second = start(lab, node)
    ears = second.listen()
    until(lambda: set(ears.ended) == EVERY, "End-of-RIB of every family")
    assert ears.nlris() == {route.nlri for route in routes[1:]}
    after = frr.neighbor(node.address)
    for key in ("connectionsEstablished", "connectionsDropped"):
        assert before[key] == after[key]


def test_a_killed_exabgp_and_a_killed_peer(lab: Lab, frr: Frr, node: Bench, other: Bench) -> None:
    """Our speaker's death takes no learned route away; a peer's does, at once or when it has told all again."""
    routes = of_every_family(other)
    start(lab, other, *routes)
    speaker = start(lab, node)
    ears = speaker.listen()
    until(lambda: ears.nlris() == {route.nlri for route in routes} and set(ears.ended) == EVERY, "the routes")
    ears.ended.clear()
    os.kill(speaker.pid, signal.SIGKILL)
    until(lambda: set(ears.ended) == EVERY, "End-of-RIB after the new start")
    assert ears.gone == 0
    assert [down.graceful for down in ears.downs] == [True]
    assert ears.nlris() == {route.nlri for route in routes}
    frr.kill()
    until(lambda: len(ears.downs) == 2, "the end of the session")
    assert ears.downs[1].graceful is bool(ears.stale)
    ears.ended.clear()
    frr.start()
    until(lambda: ears.nlris() == {route.nlri for route in routes} and set(ears.ended) == EVERY, "all again")
    assert not ears.stale


def test_maximum_prefix(lab: Lab, frr: Frr, node: Bench, other: Bench) -> None:
    """Beyond `maximum_prefix` routes are left out and it is said; they come once there is room."""
    routes = [unicast(other, f"10.7.{n}.0/24") for n in range(30)]
    source = start(lab, other, *routes)
    speaker = Speaker(lab, node.namespace, facts(node, maximum_prefix=20))
    ears = speaker.listen()
    speaker.prune()
    until(lambda: len(ears.routes) == 20 and set(ears.ended) == EVERY, "the first 20")
    (peer,) = speaker.exporter.peers()
    assert (peer.state, peer.received) == ("Established", 20)
    assert "maximum_prefix 20 is reached: 10 routes were left out" in peer.last_error
    source.withdraw(*routes[:12])
    until(lambda: ears.nlris() == {route.nlri for route in routes[12:]}, "the others")
    assert "18 routes received, maximum_prefix is 20" in speaker.exporter.peers()[0].last_error
    source.withdraw(*routes[12:20])
    until(lambda: len(ears.routes) == 10 and not speaker.exporter.peers()[0].last_error, "no warning")
