"""The RIB: what is imported, which route is best, what goes when a session does."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpcni.dataplane.rib import Bounds, Destination, EvpnRule, Own, Rib, RouteId, Table, UnicastRule, VpnRule
from bgpcni.exporter import EndOfRib, Event, Gone, Learned, PathAttributes, SessionDown
from bgpcni.model import Family, MacIpNlri, UnicastNlri

EVPN, FOUR, SIX = Family.L2VPN_EVPN, Family.IPV4_UNICAST, Family.IPV6_UNICAST
RT, OTHER = "64512:1", "64512:2"
MAC = "02:00:00:00:00:01"


def host(
    vtep: str, mac: str = MAC, ip: str | None = "10.1.2.3", peer: str = "192.0.2.254", **fields: object
) -> Learned:
    """A type 2 route of a VTEP."""
    values: dict[str, object] = {"route_targets": (RT,)} | fields
    prefix = f"{ip}/{128 if ':' in ip else 32}" if ip else None
    nlri = MacIpNlri(f"{vtep}:1", mac, prefix)
    return Learned(peer, nlri, PathAttributes(vtep, **values), vni=5001)  # type: ignore[arg-type]


def unicast(prefix: str, hop: str = "192.0.2.9", peer: str = "192.0.2.254", **fields: object) -> Learned:
    family = SIX if ":" in prefix else FOUR
    return Learned(peer, UnicastNlri(family, prefix), PathAttributes(hop, **fields))  # type: ignore[arg-type]


def rib(*events: Event, restart: float = 120.0) -> Rib:
    made = Rib(restart)
    made.configure("vni", EvpnRule(frozenset({RT})), None)
    for event in events:
        made.hear("e", event, 0.0)
    return made


def vtep(made: Rib, what: str = "mac", value: str = MAC) -> str | None:
    best = made.tables["vni"].best(Destination(what, value))
    return best.attributes.next_hop if best else None


# --- best ----------------------------------------------------------------------------------------


def test_the_highest_sequence_wins_then_the_lowest_vtep() -> None:
    """RFC 7432 section 7.7: who announces the higher sequence has it; a tie goes to the lowest VTEP."""
    made = rib(host("192.0.2.10"), host("192.0.2.9"))
    assert vtep(made) == "192.0.2.9"
    made.hear("e", host("192.0.2.10", mobility=1), 0.0)
    assert (vtep(made), vtep(made, "ip", "10.1.2.3")) == ("192.0.2.10", "192.0.2.10")
    made.hear("e", host("192.0.2.11", sticky=True), 0.0)
    assert vtep(made) == "192.0.2.11"


def test_an_address_is_at_the_mac_of_the_newest() -> None:
    """An address that moved to another MAC is there, though both routes are announced."""
    made = rib(host("192.0.2.9"), host("192.0.2.10", mac="02:00:00:00:00:02", mobility=1))
    best = made.tables["vni"].best(Destination("ip", "10.1.2.3"))
    assert best is not None
    assert best.nlri.mac == "02:00:00:00:00:02"


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"local_pref": 101}, {}),
        ({"as_path": (1,)}, {"as_path": (1, 2)}),
        ({"origin": 0}, {"origin": 2}),
        ({"med": 1}, {"med": 2}),
        ({"local_pref": 200, "as_path": (1, 2, 3)}, {"local_pref": 100}),
    ],
)
def test_unicast_is_chosen_as_bgp_chooses(better: dict[str, object], worse: dict[str, object]) -> None:
    """RFC 4271 section 9.1: local preference, AS path, origin, MED; at last the lowest peer."""
    made = Rib(120.0)
    table = made.configure("u", UnicastRule(frozenset({"10.0.0.0/8"})), None)
    made.hear("e", unicast("10.1.0.0/16", "192.0.2.1", peer="192.0.2.1", **worse), 0.0)
    made.hear("e", unicast("10.1.0.0/16", "192.0.2.2", peer="192.0.2.2", **better), 0.0)
    best = table.best(Destination("prefix", "10.1.0.0/16"))
    assert best is not None
    assert best.peer == "192.0.2.2"
    made.hear("e", unicast("10.1.0.0/16", "192.0.2.1", peer="192.0.2.1", **better), 0.0)
    best = table.best(Destination("prefix", "10.1.0.0/16"))
    assert best is not None
    assert best.peer == "192.0.2.1"


def used(table: Table) -> list[str]:
    return [route.attributes.next_hop for route in table.used(Destination("prefix", "10.1.0.0/16"))]


@pytest.mark.parametrize("worse", [{"local_pref": 99}, {"as_path": (1, 2)}, {"origin": 2}, {"med": 1}])
def test_equal_routes_are_used_together(worse: dict[str, object]) -> None:
    """The best first; one for each next hop; none that is worse; as many as may be."""
    made = Rib(120.0)
    table = made.configure("u", UnicastRule(frozenset({"10.0.0.0/8"}), bounds=Bounds(paths=2)), None)
    assert used(table) == []
    for number in (3, 2, 1):
        peer = f"192.0.2.{number}"
        made.hear("e", unicast("10.1.0.0/16", peer, peer=peer, as_path=(number,)), 0.0)
    made.hear("e", unicast("10.1.0.0/16", "192.0.2.1", peer="192.0.2.0", as_path=(9,)), 0.0)
    assert used(table) == ["192.0.2.1", "192.0.2.2"]
    table = made.configure("u", UnicastRule(frozenset({"10.0.0.0/8"}), bounds=Bounds(paths=16)), None)
    assert used(table) == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
    values = {"as_path": (2,)} | worse
    made.hear("e", unicast("10.1.0.0/16", "192.0.2.2", peer="192.0.2.2", **values), 0.0)
    assert used(table) == ["192.0.2.1", "192.0.2.3"]
    made.configure("u", UnicastRule(frozenset({"10.0.0.0/8"})), None)
    assert used(made.tables["u"]) == ["192.0.2.1"]


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(0, 1)), max_size=12), st.integers(1, 4))
def test_what_is_used_does_not_depend_on_the_order(told: list[tuple[int, int, int]], paths: int) -> None:
    """(peer, next hop, MED) in any order: the best is the first, no next hop twice, all as good as the best."""
    latest = {peer: (hop, med) for peer, hop, med in told}
    found = []
    for peers in (list(latest), sorted(latest), sorted(latest, reverse=True)):
        made = Rib(120.0)
        table = made.configure("u", UnicastRule(frozenset({"10.0.0.0/8"}), bounds=Bounds(paths=paths)), None)
        for peer in peers:
            hop, med = latest[peer]
            made.hear("e", unicast("10.1.0.0/16", f"192.0.2.{hop}", peer=f"192.0.2.{100 + peer}", med=med), 0.0)
        found.append(used(table))
    assert found[0] == found[1] == found[2]
    top = min((med for _, med in latest.values()), default=0)
    hops = {f"192.0.2.{hop}" for hop, med in latest.values() if med == top}
    assert len(found[0]) == len(set(found[0])) == min(paths, len(hops))
    assert set(found[0]) <= hops


# --- refused -------------------------------------------------------------------------------------


def why_not(rule: EvpnRule | UnicastRule | VpnRule, route: Learned) -> str:
    made = Rib(120.0)
    table = made.configure("t", rule, None)
    made.hear("e", route, 0.0)
    assert not table.taken
    return next(iter(table.refused.values()))


OWN = Own(frozenset({64512}), "192.0.2.1", frozenset({"192.0.2.1"}))


@pytest.mark.parametrize(
    ("route", "reason"),
    [
        (host("192.0.2.1"), "our own route"),
        (host("192.0.2.9", originator="192.0.2.1"), "our own route"),
        (host("192.0.2.9", as_path=(1, 64512)), "our own AS is in its AS path"),
        (host("192.0.2.9", encapsulation=10), "its encapsulation is not VXLAN"),
        (host("0.0.0.0"), "its next hop is no address that can be reached"),
        (host("192.0.2.9", mac="03:00:00:00:00:01"), "its MAC is not of one host"),
        (host("192.0.2.9", mac="02:00:5e:00:13:89"), "it is the anycast gateway"),
        (host("192.0.2.9", ip="10.1.2.1"), "it is the anycast gateway"),
        (host("192.0.2.9", ip="224.0.0.1"), "its address is not of one host"),
        (host("192.0.2.9", ip="10.2.0.1"), "[policy] prefixes does not allow it"),
    ],
)
def test_evpn_routes_that_are_refused(route: Learned, reason: str) -> None:
    """Our own, looped, not VXLAN, not of one host, the gateway's, outside of the policy: each with its reason."""
    bounds = Bounds((ip_network("10.1.0.0/16"), ip_network("224.0.0.0/4")))
    reserved = frozenset({"10.1.2.1", "02:00:5e:00:13:89"})
    assert why_not(EvpnRule(frozenset({RT}), OWN, bounds, reserved), route) == reason


@pytest.mark.parametrize(
    ("prefix", "accept", "reason"),
    [
        ("10.1.0.0/16", ["10.2.0.0/16"], "bgp.import does not name it"),
        ("0.0.0.0/0", ["10.0.0.0/8"], "bgp.import does not name it"),
        ("127.0.0.0/8", ["127.0.0.0/8"], "it is loopback, link-local or multicast"),
        ("169.254.1.0/24", ["0.0.0.0/0"], "it is loopback, link-local or multicast"),
        ("224.0.0.0/4", ["224.0.0.0/4"], "it is loopback, link-local or multicast"),
        ("fe80::/64", ["fe80::/64"], "it is loopback, link-local or multicast"),
        ("ff02::/16", ["::/0"], "it is loopback, link-local or multicast"),
        ("0.0.0.0/8", ["0.0.0.0/8"], "it is loopback, link-local or multicast"),
        ("0.0.0.0/1", ["0.0.0.0/0"], "a default route, and bgp.import does not name it itself"),
        ("192.0.2.0/28", ["192.0.2.0/24"], "its next hop is inside it, and bgp.import does not name it itself"),
    ],
)
def test_unicast_routes_that_are_refused(prefix: str, accept: list[str], reason: str) -> None:
    """Outside of bgp.import, and what would take the node's own connectivity away."""
    route = unicast(prefix, "2001:db8::9" if ":" in prefix else "192.0.2.9")
    rule = UnicastRule(frozenset(accept), OWN, Bounds())
    assert why_not(rule, route) == reason


@pytest.mark.parametrize("prefix", ["0.0.0.0/0", "0.0.0.0/1", "192.0.2.0/28"])
def test_what_is_named_itself_is_taken(prefix: str) -> None:
    """`bgp.import` may name a default route, or what its own next hop is in, by itself."""
    made = Rib(120.0)
    table = made.configure("t", UnicastRule(frozenset({prefix})), None)
    made.hear("e", unicast(prefix), 0.0)
    assert table.best(Destination("prefix", prefix)) is not None


def test_maximum_prefix_counts_and_lets_in_when_there_is_room() -> None:
    """Beyond the maximum routes are refused, and taken when others have gone."""
    made = Rib(120.0)
    table = made.configure("t", UnicastRule(frozenset({"10.0.0.0/8"})), 2)
    routes = [unicast(f"10.{n}.0.0/16") for n in range(4)]
    for route in routes:
        made.hear("e", route, 0.0)
    assert (len(table.taken), len(table.refused)) == (2, 2)
    made.hear("e", Gone("192.0.2.254", routes[0].nlri), 0.0)
    made.hear("e", Gone("192.0.2.254", routes[1].nlri), 0.0)
    assert (len(table.taken), len(table.refused)) == (2, 0)


def test_nothing_is_imported_without_a_target() -> None:
    """A table without route targets, or with others, has nothing; with the target of a route that is there it has."""
    made = rib(host("192.0.2.9", route_targets=(OTHER,)))
    assert not made.tables["vni"].taken
    made.configure("vni", EvpnRule(frozenset({OTHER})), None)
    assert vtep(made) == "192.0.2.9"
    made.configure("vni", EvpnRule(frozenset()), None)
    assert vtep(made) is None
    assert made.tables["vni"].changed


# --- sessions ------------------------------------------------------------------------------------


def test_graceful_restart_keeps_until_end_of_rib() -> None:
    """Kept while the session is away; told again it stays, else it goes with End-of-RIB."""
    kept, dropped = host("192.0.2.9"), host("192.0.2.9", mac="02:00:00:00:00:02", ip=None)
    made = rib(kept, dropped, EndOfRib("192.0.2.254", EVPN))
    made.hear("e", SessionDown("192.0.2.254", graceful=True), 10.0)
    assert len(made.tables["vni"].taken) == 2
    assert made.is_stale(RouteId("e", "192.0.2.254", kept.nlri))
    made.hear("e", kept, 11.0)
    assert not made.is_stale(RouteId("e", "192.0.2.254", kept.nlri))
    made.hear("e", EndOfRib("192.0.2.254", EVPN), 12.0)
    assert list(made.routes) == [RouteId("e", "192.0.2.254", kept.nlri)]


def test_what_one_exporter_told_can_go_alone() -> None:
    """Another one's of the same peer stays, and is the best then."""
    made, other = rib(host("192.0.2.9")), host("192.0.2.9")
    made.hear("other", other, 0.0)
    made.hear("other", EndOfRib(other.peer, other.nlri.family), 0.0)
    (first,) = {route_id.exporter for route_id in made.routes} - {"other"}
    assert made.families_of(first) == {other.nlri.family}
    made.drop_exporter(first)
    assert {route_id.exporter for route_id in made.routes} == {"other"}
    assert vtep(made) is not None
    made.drop_exporter("other")
    assert (made.routes, made.complete, vtep(made)) == ({}, set(), None)


def test_unicast_goes_with_its_session_and_evpn_after_the_restart_time() -> None:
    """Without graceful restart unicast goes at once; EVPN, told by a reflector, has the restart time."""
    made = rib(host("192.0.2.9"), unicast("10.1.0.0/16"))
    made.hear("e", SessionDown("192.0.2.254", graceful=False), 10.0)
    assert {route_id.nlri.family for route_id in made.routes} == {EVPN}
    made.hear("e", SessionDown("192.0.2.254", graceful=False), 50.0)  # again, before anything was told
    assert made.expire(129.0) == 130.0
    assert made.routes
    assert made.expire(130.0) is None
    assert not made.routes
    assert vtep(made) is None


def test_a_long_lived_route_is_the_last_resort() -> None:
    """After the restart time any other route wins, and it is marked (RFC 9494); told again it is as before. At the end
    of its own time it goes. A route that forbids it goes at the end of the restart time."""
    one = host("192.0.2.9", peer="192.0.2.253")
    made = rib(one)
    down = SessionDown("192.0.2.253", graceful=True, long_lived=((EVPN, 600),))
    made.hear("e", down, 10.0)
    made.hear("e", down, 20.0)  # again, before anything was told
    assert made.expire(130.0) == 730.0
    marked = made.routes[RouteId("e", one.peer, one.nlri)]
    assert marked.attributes.communities == ("65535:6",)
    assert vtep(made) == "192.0.2.9"
    made.hear("e", host("192.0.2.99", peer="192.0.2.254"), 140.0)
    assert vtep(made) == "192.0.2.99"
    made.hear("e", one, 150.0)
    assert vtep(made) == "192.0.2.9"
    assert made.expire(730.0) is None
    assert RouteId("e", one.peer, one.nlri) in made.routes

    forbidden = one._replace(attributes=one.attributes._replace(communities=("65535:7",)))
    made = rib(forbidden)
    made.hear("e", down, 10.0)
    made.expire(130.0)
    assert not made.routes


def test_two_peers_tell_of_one_route() -> None:
    """What one reflector withdraws, the other may still say."""
    one, two = host("192.0.2.9", peer="192.0.2.253"), host("192.0.2.9", peer="192.0.2.254")
    made = rib(one, two, Gone("192.0.2.253", one.nlri))
    assert vtep(made) == "192.0.2.9"
    made.hear("e", Gone("192.0.2.254", two.nlri), 0.0)
    assert vtep(made) is None


def test_rivals_are_those_of_one_sequence() -> None:
    """Two VTEPs that claim a MAC alike are rivals; a newer sequence settles it."""
    made = rib(host("192.0.2.9"), host("192.0.2.10"))
    assert {destination.what for destination, _ in made.tables["vni"].rivals()} == {"mac", "ip"}
    made.hear("e", host("192.0.2.10", mobility=1), 0.0)
    assert not list(made.tables["vni"].rivals())


def test_claims_are_found_before_a_table_exists() -> None:
    """A network's first attachment learns who has its MAC or address now, by route target."""
    made = Rib(120.0)
    made.hear("e", host("192.0.2.9", mobility=3), 0.0)
    assert [r.attributes.mobility for r in made.claims([Destination("ip", "10.1.2.3")], [RT])] == [3]
    assert made.claims([Destination("mac", MAC)], [OTHER]) == []


# --- as a whole ----------------------------------------------------------------------------------

peers = st.sampled_from(["192.0.2.253", "192.0.2.254"])
hosts = st.builds(
    host,
    st.sampled_from(["192.0.2.9", "192.0.2.10", "2001:db8::9"]),
    mac=st.sampled_from([MAC, "02:00:00:00:00:02"]),
    ip=st.sampled_from([None, "10.1.2.3", "2001:db8::3"]),
    peer=peers,
    mobility=st.integers(0, 2),
    sticky=st.booleans(),
    route_targets=st.sampled_from([(RT,), (OTHER,), (RT, OTHER), ()]),
)
events = st.lists(
    st.one_of(
        hosts,
        st.builds(lambda route: Gone(route.peer, route.nlri), hosts),
        st.builds(EndOfRib, peers, st.just(EVPN)),
        st.builds(SessionDown, peers, st.booleans()),
    ),
    max_size=40,
)
rules = st.lists(st.sampled_from([frozenset({RT}), frozenset({OTHER}), frozenset[str]()]), min_size=1, max_size=3)


@given(events, events, rules)
def test_a_table_is_what_the_routes_and_the_rule_say(
    before: Sequence[Event], after: Sequence[Event], targets: Sequence[frozenset[str]]
) -> None:
    """Whatever was told in whatever order, a table equals one made anew from the routes that are there."""
    made = Rib(120.0)
    for chosen in targets:
        made.configure("t", EvpnRule(chosen), None)
        for event in before:
            made.hear("e", event, 0.0)
    for event in after:
        made.hear("e", event, 1.0)
    table = made.tables["t"]
    fresh = Rib(120.0)
    for route in made.routes.values():
        fresh.hear("e", route, 0.0)
    expected = fresh.configure("t", EvpnRule(targets[-1]), None)
    assert table.candidates == expected.candidates
    assert table.taken == expected.taken
    assert {d: table.best(d) for d in table.candidates} == {d: expected.best(d) for d in expected.candidates}


@given(st.lists(hosts, max_size=12), st.randoms(use_true_random=False))
def test_the_best_does_not_depend_on_the_order(routes: list[Learned], chance: object) -> None:
    """Each node chooses the same, in whatever order the routes came."""
    latest = list({(route.peer, route.nlri): route for route in routes}.values())
    shuffled = list(latest)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    one, two = rib(*latest).tables["vni"], rib(*shuffled).tables["vni"]
    assert {d: one.best(d) for d in one.candidates} == {d: two.best(d) for d in two.candidates}


@given(events)
def test_what_changed_is_said(told: Sequence[Event]) -> None:
    """A destination whose best route is another one is among the changed."""
    made = rib()
    table = made.tables["vni"]
    known: dict[Destination, Learned] = {}
    for event in told:
        made.hear("e", event, 0.0)
        changed, table.changed = table.changed, {}
        for destination in changed:
            best = table.best(destination)
            if best is None:
                known.pop(destination, None)
            else:
                known[destination] = best
        assert known == {destination: table.best(destination) for destination in table.candidates}
