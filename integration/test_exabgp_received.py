"""Routes that neighbours announce, through the real ExaBGP: from FRR, and from a peer that says whatever it likes."""

from __future__ import annotations

import gc
import os
import signal
import tracemalloc
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from bgpcni.exporter import Reach
from bgpcni.model import ROUTES, Announcement, Family, IpPrefixNlri, MacIpNlri, MulticastNlri, Neighbor, VpnNlri
from integration.exabgp_bench import Bench, Ears, Speaker, bench, facts, unicast
from integration.hand_peer import UPDATE, HandPeer, message, prefix, update
from integration.lab import Frr, Lab, link, until

EVERY = ROUTES


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
    rd, mac = f"{place.address}:7", "02:00:00:00:00:01"
    rt = ("64512:5001", "4200000000:7", "192.0.2.9:3")
    communities = ("64512:100", "64512:1:2")
    return [
        unicast(place, "10.1.2.3/32", export_rt=rt, communities=communities),
        unicast(place, "2001:db8:1::/64", communities=communities),
        Announcement(VpnNlri.of("10.9.0.0/24", rd), "v", place.address, rt, label=4711),
        Announcement(VpnNlri.of("2001:db8:9::/64", rd), "v", place.address6, rt, label=4712),
        *(
            Announcement(nlri, "e", place.address, rt, (), communities, vni=5001, mobility=3 * (nlri.kind == "mac-ip"))
            for nlri in (
                MacIpNlri(rd, mac),
                MacIpNlri(rd, mac, "10.9.0.5/32"),
                MacIpNlri(rd, mac, "2001:db8:9::5/128"),
                MulticastNlri(rd, place.address),
                IpPrefixNlri(rd, "10.9.1.0/24"),
                IpPrefixNlri(rd, "2001:db8:9:1::/64"),
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
    assert not speaker.exporter._receiver._queue
    assert speaker.exporter._receiver._thread is None
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
    """Routes beyond `maximum_prefix` are left out and reported; they are learned once there is room."""
    routes = [unicast(other, f"10.7.{n}.0/24") for n in range(30)]
    source = start(lab, other, *routes)
    speaker = Speaker(lab, node.namespace, facts(node, maximum_prefix=20))
    ears = speaker.listen()
    speaker.prune()
    until(lambda: len(ears.routes) == 20 and set(ears.ended) == EVERY, "the first 20")
    (peer,) = speaker.exporter.peers()
    assert (peer.state, peer.received) == ("Established", 20)
    assert "maximum_prefix 20 is reached: 10 routes are left out" in peer.last_error
    source.withdraw(*routes[:12])
    until(lambda: ears.nlris() == {route.nlri for route in routes[12:]}, "the others")
    assert "18 routes received, maximum_prefix is 20" in speaker.exporter.peers()[0].last_error
    source.withdraw(*routes[12:20])
    until(lambda: len(ears.routes) == 10, "the end of some")
    assert "maximum_prefix" not in speaker.exporter.peers()[0].last_error


# --- a peer that says whatever it likes


@dataclass
class Stage:
    """A node whose only neighbour is written by hand."""

    place: Bench
    peer: HandPeer
    speaker: Speaker
    ears: Ears

    def state(self) -> tuple[str, int, str]:
        (peer,) = self.speaker.exporter.peers()
        return peer.state, peer.received, peer.last_error

    def unharmed(self) -> None:
        """A route still gets to the peer, in the first session."""
        route = unicast(self.place, "10.200.0.1/32")
        self.speaker.announce(route)
        self.speaker.wait(Reach.ACKED, route)
        assert self.peer.sessions == 1


@pytest.fixture
def stage(lab: Lab, request: pytest.FixtureRequest) -> Stage:
    fields: dict[str, Any] = dict(getattr(request, "param", {}))
    facts_of = fields.pop("facts", {})
    there = lab.namespace("hand")
    families = (Family.IPV4_UNICAST, Family.L2VPN_EVPN)
    place = Bench(
        lab.namespace("alone"), lab.folder / "alone", 64512, 64512, families,
        "198.18.90.2", "198.18.90.1", "2001:db8:18:90::2", "2001:db8:18:90::1",
    )  # fmt: skip
    place.run_dir.mkdir(mode=0o700)
    link(place.namespace, there, "uplink", "hand", [f"{place.address}/24"], [f"{place.peer}/24"])
    peer = HandPeer(lab, there, place.peer, 64512, families=families, **fields)
    near = Neighbor(place.peer, 64512, families, 90)
    speaker = Speaker(lab, place.namespace, facts(place, near, next_hop6=None, **facts_of))
    ears = speaker.listen()
    speaker.prune()
    until(lambda: speaker.exporter.peers()[0].state == "Established", "the session")
    if fields.get("refresh", True):
        peer.wait_asked(len(families))
    return Stage(place, peer, speaker, ears)


def prefixes(ears: Ears) -> set[str | None]:
    return {nlri.prefix for nlri in ears.nlris()}


def test_a_peer_without_end_of_rib(stage: Stage) -> None:
    """A peer that never says End-of-RIB: what it has is taken to be told once it is quiet."""
    stage.peer.say(update(new=prefix("10.1.0.0/16") + prefix("10.2.0.0/16")))
    until(lambda: prefixes(stage.ears) == {"10.1.0.0/16", "10.2.0.0/16"}, "both routes")
    until(lambda: Family.IPV4_UNICAST in stage.ears.ended, "the end of what is told")
    stage.peer.say(update(b"", gone=prefix("10.1.0.0/16")))
    until(lambda: prefixes(stage.ears) == {"10.2.0.0/16"}, "the withdrawal")


def test_a_malformed_route_goes_alone(stage: Stage) -> None:
    """RFC 7606: a route with a bad attribute is treated as withdrawn, a family that cannot be read is given up."""
    stage.peer.say(update(new=prefix("10.1.0.0/16") + prefix("10.2.0.0/16")))
    until(lambda: len(stage.ears.routes) == 2, "both routes")
    bad = bytes.fromhex("40010109 400200 40030401020304 40050400000064")
    stage.peer.say(update(bad, new=prefix("10.1.0.0/16")))
    until(lambda: prefixes(stage.ears) == {"10.2.0.0/16"}, "the end of the malformed route")
    assert "1 malformed UPDATE, the last: ORIGIN is none of the three: treated as withdrawn" in stage.state()[2]
    evpn = bytes.fromhex("800e0d 0019 46 04 01020304 00 02ff 0000") + bytes.fromhex("40010100 400200 40050400000064")
    stage.peer.say(update(evpn), update(new=prefix("10.3.0.0/16")))
    until(lambda: prefixes(stage.ears) == {"10.2.0.0/16", "10.3.0.0/16"}, "the route after it")
    assert "l2vpn-evpn: an EVPN NLRI is cut short" in stage.state()[2]
    stage.unharmed()


def attribute(flags: int, code: int, value: str = "") -> bytes:
    octets = bytes.fromhex(value)
    return bytes([flags, code, len(octets)]) + octets


ORIGIN, AS_PATH, NEXT_HOP, LOCAL_PREF = (
    attribute(0x40, code, value) for code, value in ((1, "00"), (2, ""), (3, "01020304"), (5, "00000064"))
)
GOOD = ORIGIN + AS_PATH + NEXT_HOP + LOCAL_PREF
WITHDRAWN = {
    "ORIGIN: an unknown value": attribute(0x40, 1, "09") + AS_PATH + NEXT_HOP + LOCAL_PREF,
    "ORIGIN: empty": attribute(0x40, 1) + AS_PATH + NEXT_HOP + LOCAL_PREF,
    "ORIGIN: two octets": attribute(0x40, 1, "0000") + AS_PATH + NEXT_HOP + LOCAL_PREF,
    "ORIGIN: flagged as optional": attribute(0xC0, 1, "00") + AS_PATH + NEXT_HOP + LOCAL_PREF,
    "ORIGIN: absent": AS_PATH + NEXT_HOP + LOCAL_PREF,
    "AS_PATH: an unknown segment": ORIGIN + attribute(0x40, 2, "07010000fbff") + NEXT_HOP + LOCAL_PREF,
    "AS_PATH: a segment without ASNs": ORIGIN + attribute(0x40, 2, "0200") + NEXT_HOP + LOCAL_PREF,
    "AS_PATH: a segment beyond the end": ORIGIN + attribute(0x40, 2, "02020000fbff") + NEXT_HOP + LOCAL_PREF,
    "AS_PATH: one octet too many": ORIGIN + attribute(0x40, 2, "02010000fbff02") + NEXT_HOP + LOCAL_PREF,
    "AS_PATH: absent": ORIGIN + NEXT_HOP + LOCAL_PREF,
    "NEXT_HOP: three octets": ORIGIN + AS_PATH + attribute(0x40, 3, "010203") + LOCAL_PREF,
    "NEXT_HOP: five octets": ORIGIN + AS_PATH + attribute(0x40, 3, "0102030405") + LOCAL_PREF,
    "NEXT_HOP: absent": ORIGIN + AS_PATH + LOCAL_PREF,
    "MED: three octets": GOOD + attribute(0x80, 4, "000001"),
    "MED: flagged as transitive": GOOD + attribute(0xC0, 4, "00000001"),
    "LOCAL_PREF: three octets": ORIGIN + AS_PATH + NEXT_HOP + attribute(0x40, 5, "000064"),
    "COMMUNITIES: five octets": GOOD + attribute(0xC0, 8, "0102030405"),
    "COMMUNITIES: empty": GOOD + attribute(0xC0, 8),
    "ORIGINATOR_ID: five octets": GOOD + attribute(0x80, 9, "0102030405"),
    "CLUSTER_LIST: three octets": GOOD + attribute(0x80, 10, "010203"),
    "CLUSTER_LIST: empty": GOOD + attribute(0x80, 10),
    "EXTENDED COMMUNITIES: seven octets": GOOD + attribute(0xC0, 16, "00020000fbff00"),
    "EXTENDED COMMUNITIES: empty": GOOD + attribute(0xC0, 16),
    "LARGE_COMMUNITY: eleven octets": GOOD + attribute(0xC0, 32, "0102030405060708090a0b"),
    "LARGE_COMMUNITY: empty": GOOD + attribute(0xC0, 32),
    "PMSI_TUNNEL: three octets": GOOD + attribute(0xC0, 22, "000600"),
    "an attribute that is longer than all of them": GOOD + b"\x80\x04\xff" + bytes(4),
    "an attribute without a length": GOOD + b"\x80\x04",
}
"""RFC 7606: attributes with which a route is treated as withdrawn."""
DISCARDED = {
    "ORIGIN: a second, bad one": GOOD + attribute(0x40, 1, "09"),
    "NEXT_HOP: a second, bad one": GOOD + attribute(0x40, 3, "01"),
    "ATOMIC_AGGREGATE: with a value": GOOD + attribute(0x40, 6, "0102"),
    "AGGREGATOR: three octets": GOOD + attribute(0xC0, 7, "010203"),
    "AS4_PATH: cut short, to a speaker of four-octet ASNs": GOOD + attribute(0xC0, 17, "0202"),
    "AS4_AGGREGATOR: three octets": GOOD + attribute(0xC0, 18, "010203"),
    "an unknown optional attribute": GOOD + attribute(0xC0, 200, "ff" * 40),
}
"""RFC 7606: attributes that are left out, and the route stays."""


def test_each_malformed_attribute_costs_its_own_route_only(stage: Stage) -> None:
    """RFC 7606, one row of the tables after the other: the session stays, the route is treated as withdrawn or loses
    the attribute, and a route that nothing is wrong with stays."""
    rows = WITHDRAWN | DISCARDED
    names = {f"10.1.{n}.0/24": row for n, row in enumerate(rows)}
    stage.peer.say(update(new=prefix("10.9.0.0/16")), *(update(new=prefix(name)) for name in names))
    until(lambda: prefixes(stage.ears) == {"10.9.0.0/16", *names}, "all routes as they should be")
    stage.peer.say(*(update(rows[row], new=prefix(name)) for name, row in names.items()))
    stage.peer.say(update(new=prefix("10.8.0.0/16")))
    until(lambda: "10.8.0.0/16" in prefixes(stage.ears), "the route after them")
    found = prefixes(stage.ears)
    left = {row for name, row in names.items() if name in found}
    assert left == set(DISCARDED)
    assert {"10.8.0.0/16", "10.9.0.0/16"} <= prefixes(stage.ears)
    assert f"{len(WITHDRAWN)} malformed UPDATEs" in stage.state()[2]
    assert stage.peer.notifications() == []
    stage.unharmed()


def resident(pid: int) -> int:
    """KiB of memory that a process has."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def test_malformed_updates_without_end_take_no_memory(stage: Stage) -> None:
    """Thousands of malformed UPDATEs, each of another prefix and with other octets: neither ExaBGP nor we keep any."""
    marks = iter(range(256))

    def storm(start: int, count: int) -> None:
        attacks = list(WITHDRAWN.values())
        said = []
        for n in range(start, start + count):
            unlike = attribute(0xC0, 17, f"0201{n:08x}") + attacks[n % len(attacks)]
            said.append(update(unlike, new=prefix(f"10.{n >> 8 & 255}.{n & 255}.1/32")))
        mark = f"172.16.{next(marks)}.0/24"
        stage.peer.say(*said, update(new=prefix(mark)))
        until(lambda: mark in prefixes(stage.ears), "the route after them")

    storm(0, 5_000)  # fills every cache that has a bound
    tracemalloc.start()
    try:
        gc.collect()
        ours, theirs = tracemalloc.get_traced_memory()[0], resident(stage.speaker.pid)
        storm(5_000, 20_000)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - ours
        assert grown < 2 << 20, f"{grown} octets more here"
        more = resident(stage.speaker.pid) - theirs
        assert more < 8 << 10, f"{more} KiB more at ExaBGP"
    finally:
        tracemalloc.stop()
    assert stage.state()[1] == 2
    stage.unharmed()


def test_an_update_whose_lengths_contradict_each_other(stage: Stage) -> None:
    """For these errors the standard requires to end the session: with NOTIFICATION 3/1, and a new session follows."""
    stage.peer.say(update(new=prefix("10.1.0.0/16")))
    until(lambda: stage.ears.routes, "the route")
    stage.peer.say(message(UPDATE, b"\0\0\x0f\xff"))
    until(lambda: stage.peer.notifications() == [(3, 1)], "the NOTIFICATION")
    until(lambda: not stage.ears.routes, "the end of its routes")
    assert [down.graceful for down in stage.ears.downs] == [False]
    until(lambda: stage.peer.sessions == 2 and stage.state()[0] == "Established", "a new session")
    assert "NOTIFICATION 3/1 sent: UPDATE Message Error, Malformed Attribute List" in stage.state()[2]


def test_a_message_that_is_too_long(stage: Stage) -> None:
    """Longer than 4096 octets: NOTIFICATION 1/2 (which the reset may overtake), and nothing but a new session."""
    stage.peer.say(message(UPDATE, bytes(5000)))
    until(lambda: stage.peer.sessions == 2 and stage.state()[0] == "Established", "a new session")
    assert "NOTIFICATION 1/2 sent: Message Header Error, Bad Message Length" in stage.state()[2]


@pytest.mark.parametrize("stage", [{"facts": {"maximum_prefix": 10_000}}], indirect=True)
def test_a_hundred_thousand_prefixes(stage: Stage) -> None:
    """A peer that tells 100,000 routes: `maximum_prefix` of them are taken, the session and our routes stay."""
    routes = [prefix(f"{10 + (n >> 16)}.{n >> 8 & 255}.{n & 255}.1/32") for n in range(100_000)]
    chunks = [b"".join(routes[at : at + 800]) for at in range(0, len(routes), 800)]
    stage.peer.say(*(update(new=chunk) for chunk in chunks))
    until(lambda: "90000 routes are left out" in stage.state()[2], "all of them")
    assert stage.state()[:2] == ("Established", 10_000)
    assert len(stage.ears.routes) == 10_000
    stage.unharmed()
    stage.peer.say(*(update(b"", gone=chunk) for chunk in chunks))
    until(lambda: not stage.ears.routes and "maximum_prefix" not in stage.state()[2], "the end of all")


@pytest.mark.parametrize("stage", [{"graceful": [Family.IPV4_UNICAST]}], indirect=True)
def test_a_session_that_ends_with_graceful_restart(stage: Stage) -> None:
    """Hung up without a word: its routes stay until it has told all again; after a NOTIFICATION they go at once."""
    stage.peer.say(update(new=prefix("10.1.0.0/16") + prefix("10.2.0.0/16")), message(UPDATE, bytes(4)))
    until(lambda: Family.IPV4_UNICAST in stage.ears.ended and len(stage.ears.routes) == 2, "both routes")
    stage.peer.hang_up()
    until(lambda: len(stage.ears.downs) == 1, "the end of the session")
    assert stage.ears.downs[0].graceful
    assert len(stage.ears.stale) == 2
    until(lambda: stage.state()[0] == "Established" and stage.peer.sessions == 2, "a new session")
    stage.peer.say(update(new=prefix("10.2.0.0/16")), message(UPDATE, bytes(4)))
    until(lambda: prefixes(stage.ears) == {"10.2.0.0/16"}, "what was not told again is gone")
    stage.peer.say(message(3, bytes([6, 2])))
    until(lambda: len(stage.ears.downs) == 2, "the end of the session")
    assert not stage.ears.downs[1].graceful
    assert not stage.ears.routes
    until(lambda: "NOTIFICATION 6/2 received: Cease, Administrative Shutdown" in stage.state()[2], "the reason")


@pytest.mark.parametrize("stage", [{"refresh": False}], indirect=True)
def test_a_peer_that_cannot_be_asked_again(lab: Lab, stage: Stage) -> None:
    """Without route refresh a new agent cannot know what ExaBGP was told; it says so, and nothing is wrongly ended."""
    stage.peer.say(update(new=prefix("10.1.0.0/16")))
    until(lambda: stage.ears.routes, "the route")
    stage.speaker.close()
    second = Speaker(lab, stage.place.namespace, stage.speaker.facts)
    ears = second.listen()
    second.prune()
    until(lambda: "no route refresh" in second.exporter.peers()[0].last_error, "the words")
    stage.peer.say(update(new=prefix("10.2.0.0/16")))
    until(lambda: prefixes(ears) == {"10.2.0.0/16"}, "what comes since")
    assert stage.peer.sessions == 1
