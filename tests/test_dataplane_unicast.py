"""The node's own table: what a learned route must not take, whatever comes first."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpcni.config.agent import PolicyTable
from bgpcni.dataplane import guard
from bgpcni.dataplane.guard import Guard
from bgpcni.dataplane.places.place import Surroundings
from bgpcni.dataplane.places.unicast import UnicastPlace
from bgpcni.dataplane.places.vrf import VrfPlace
from bgpcni.dataplane.prefixes import PrefixIndex
from bgpcni.dataplane.program import Key
from bgpcni.dataplane.rib import Rib, UnicastRule
from bgpcni.exporter import Gone, Learned, PathAttributes
from bgpcni.kernel import routes, vrf
from bgpcni.model import Address, Attachment, Bgp, Neighbor, NodeFacts, UnicastNlri

PEER, HOP, PEER6 = "192.0.2.254", "192.0.2.9", "2001:db8::254"
ALL = ("0.0.0.0/0", "::/0")


def unicast(prefix: str, hop: str = "", peer: str = PEER) -> Learned:
    six = ":" in prefix
    nlri = UnicastNlri.of(prefix)
    return Learned(peer, nlri, PathAttributes(hop or ("2001:db8::9" if six else HOP)))


def attachment(name: str, *addresses: str, imports: tuple[str, ...] = ()) -> Attachment:
    return Attachment(
        boot_id="b", network="n", container_id=name, ifname="eth0", netns="/n",
        bgp=Bgp(family="unicast", import_prefixes=imports),
        addresses=tuple(Address(address=address) for address in addresses),
    )  # fmt: skip


class Kernel:
    """The node's own routes, as far as these tests ask. `connected`: (address with length, device)."""

    def __init__(self) -> None:
        self.connected = [("192.0.2.1/24", 2), ("2001:db8::1/64", 2)]
        self.others: list[str] = []
        self.asked = 0

    def addresses(self, _: object) -> Iterator[tuple[str, IPv4Network | IPv6Network, int]]:
        for text, device in self.connected:
            yield text.partition("/")[0], ip_network(text, strict=False), device

    def reached_by(self, _: object, address: str) -> int | None:
        self.asked += 1
        networks = [ip_network(text, strict=False) for text in [*(text for text, _ in self.connected), *self.others]]
        target = ip_address(address)
        return max((one.prefixlen for one in networks if target in one), default=None)


def facts(*neighbors: str) -> NodeFacts:
    return NodeFacts("/r", "/d", neighbors=[Neighbor(address, 64512, (), 90) for address in neighbors])


class World:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kernel = Kernel()
        monkeypatch.setattr(routes, "connected", self.kernel.addresses)
        monkeypatch.setattr(routes, "reached_by", self.kernel.reached_by)
        monkeypatch.setattr(routes, "way_to", lambda netlink, hop: (None, 2))
        self.around = Surroundings(facts(PEER, PEER6), PolicyTable())
        self.rib = self.around.rib
        self.table = UnicastPlace(self.around)

    def configure(self, *neighbors: str) -> None:
        self.around.configure(facts(*neighbors), PolicyTable())
        self.table.configure()

    def hear(self, *events: Learned | Gone) -> None:
        for event in events:
            self.rib.hear("e", event, 0.0)
        self.table.refresh()

    @property
    def wanted(self) -> set[str]:
        return {key.name for key in self.table.program.wanted}

    @property
    def refused(self) -> dict[str, str]:
        assert self.table.table is not None
        return {str(route.nlri.prefix): reason for route, reason in self.table.table.refused.items()}

    def applied(self) -> None:
        for change in self.table.program.take(10_000):
            self.table.program.done(change)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


@pytest.mark.parametrize(
    ("subnet", "inside", "less"),
    [
        ("10.1.0.5/24", ["10.1.0.0/24", "10.1.0.0/25", "10.1.0.128/25", "10.1.0.5/32", "10.1.0.77/32"], "10.1.0.0/16"),
        ("2001:db8:1::5/64", ["2001:db8:1::/64", "2001:db8:1::/65", "2001:db8:1::77/128"], "2001:db8:1::/48"),
    ],
)
def test_a_route_into_a_subnet_of_containers_is_refused(
    world: World, subnet: str, inside: list[str], less: str
) -> None:
    """As specific or more specific: refused with its reason. Less specific: taken, the subnet's own route wins."""
    world.table.attach(attachment("c1", subnet, imports=ALL))
    world.hear(*(unicast(prefix) for prefix in [*inside, less]))
    assert world.wanted == {less}
    assert world.refused == dict.fromkeys(inside, guard.CONTAINERS)


@pytest.mark.parametrize("imports", [ALL, ("10.1.0.0/25",)])
def test_a_subnet_that_comes_later_takes_the_route_away(world: World, imports: tuple[str, ...]) -> None:
    """Also one that `bgp.import` names; with the last container of the subnet it comes back."""
    world.table.attach(attachment("c1", "10.9.0.5/24", imports=imports))
    world.hear(unicast("10.1.0.0/25"))
    world.applied()
    assert world.wanted == {"10.1.0.0/25"}
    assert world.table.shield(attachment("c2", "10.1.0.5/24")) == [Key("route", "10.1.0.0/25")]
    assert world.table.shield(attachment("c3", "10.1.0.6/24")) == []
    assert (world.wanted, world.refused) == (set(), {"10.1.0.0/25": guard.CONTAINERS})
    world.table.detach(attachment("c2").key)
    assert world.wanted == set()
    world.table.detach(attachment("c3").key)
    assert (world.wanted, world.refused) == ({"10.1.0.0/25"}, {})


def test_the_nodes_own_subnets_and_addresses(world: World) -> None:
    """Another router of the link announces it: refused, and no fault. What is within it would take hosts away."""
    world.table.attach(attachment("c1", "10.9.0.5/24", imports=ALL))
    world.hear(
        unicast("192.0.2.0/24", "203.0.113.1"),
        unicast("192.0.2.128/25"),
        unicast("192.0.2.1/32"),
        unicast("2001:db8::1/128"),
    )
    assert world.wanted == set()
    assert world.refused == {
        "192.0.2.0/24": guard.SAME,
        "192.0.2.128/25": guard.SUBNET,
        "192.0.2.1/32": guard.ADDRESS,
        "2001:db8::1/128": guard.ADDRESS,
    }
    assert guard.SAME not in guard.HARMFUL
    world.hear(unicast("198.51.100.0/25"))
    assert "198.51.100.0/25" in world.wanted
    world.kernel.connected.append(("198.51.100.1/24", 3))
    world.table.look()
    assert world.refused["198.51.100.0/25"] == guard.SUBNET
    red = VrfPlace(vrf.Device("red", 7, 182001), world.around)  # it is in a VRF: another table's
    red.members[attachment("c9").key] = attachment("c9").model_copy(update={"bridge_index": 3})
    world.around.places[red.name] = red
    world.table.look()
    assert "198.51.100.0/25" in world.wanted


@pytest.mark.parametrize(
    ("peer", "default", "moving", "harmless"),
    [
        ("198.51.100.7", "0.0.0.0/0", ["0.0.0.0/0", "198.51.0.0/16", "198.51.100.7/32"], "203.0.113.0/24"),
        ("2001:db8:f::7", "::/0", ["::/0", "2001:db8:f::/48", "2001:db8:f::7/128"], "2001:db8:e::/48"),
    ],
)
def test_the_way_to_a_peer_behind_a_router(
    world: World, peer: str, default: str, moving: list[str], harmless: str
) -> None:
    """A default route, an aggregate or a host route that would take it is refused, even where `import` names it."""
    world.kernel.others.append(default)
    world.configure(peer)
    world.table.attach(attachment("c1", "10.9.0.5/24", imports=(*ALL, *moving)))
    world.hear(*(unicast(prefix) for prefix in [*moving, harmless]))
    assert world.refused == dict.fromkeys(moving, guard.PEER)
    assert world.wanted == {harmless}
    world.kernel.others.append(f"{peer}/{ip_address(peer).max_prefixlen - 2}")  # a way of its own, more specific
    world.table.look()
    assert world.wanted == {*moving[:2], harmless}
    world.configure()  # a reload: it is our speaker's no longer, nor anybody's
    assert world.wanted == {*moving, harmless}


def test_a_peer_of_another_speaker(world: World) -> None:
    """Whoever tells something is a peer, whichever speaker has the session."""
    world.kernel.others.append("0.0.0.0/0")
    world.table.attach(attachment("c1", "10.9.0.5/24", imports=ALL))
    world.hear(unicast("203.0.113.0/24"))
    assert world.wanted == {"203.0.113.0/24"}
    world.hear(unicast("10.200.0.0/16", peer="203.0.113.7"))
    assert (world.wanted, world.refused) == ({"10.200.0.0/16"}, {"203.0.113.0/24": guard.PEER})


@pytest.mark.parametrize("order", [1, -1])
def test_the_way_to_a_next_hop(world: World, order: int) -> None:
    """A route that would take the way to another's next hop is refused, whichever comes first, until that goes."""
    world.kernel.others.append("10.0.0.0/8")
    world.table.attach(attachment("c1", "172.16.0.5/24", imports=ALL))
    behind, taker = unicast("203.0.113.0/24", "10.7.7.7"), unicast("10.7.7.0/24")
    world.hear(*[behind, taker][::order])
    assert (world.wanted, world.refused) == ({"203.0.113.0/24"}, {"10.7.7.0/24": guard.HOP})
    world.hear(Gone(PEER, behind.nlri))
    assert (world.wanted, world.refused) == ({"10.7.7.0/24"}, {})


def test_a_route_over_its_own_next_hop_does_not_come_and_go(world: World) -> None:
    """It would lead to itself: refused for good, and not looked at again and again."""
    world.kernel.others.append("0.0.0.0/0")
    world.table.attach(attachment("c1", "172.16.0.5/24", imports=("10.7.7.0/24",)))
    world.hear(unicast("10.7.7.0/24", "10.7.7.7"))
    assert (world.wanted, world.refused) == (set(), {"10.7.7.0/24": guard.HOP})
    world.table.look()
    assert world.refused == {"10.7.7.0/24": guard.HOP}


def test_an_uplink_that_goes_does_not_take_the_other_ones_default_along(world: World) -> None:
    """A peer that is not reached for now keeps nothing away: the way to it is what it was before."""
    world.table.attach(attachment("c1", "10.9.0.5/24", imports=ALL))
    world.hear(unicast("0.0.0.0/0"), unicast("::/0"))
    assert world.wanted == {"0.0.0.0/0", "::/0"}
    world.kernel.connected.clear()
    world.table.look()
    assert world.wanted == {"0.0.0.0/0", "::/0"}


def test_a_new_subnet_does_not_look_at_every_route(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten thousand routes those are judged again that are within what came or went, and their next hops asked for
    once."""
    world.table.attach(attachment("c1", "10.9.0.5/24", imports=ALL))
    world.hear(*(unicast(f"100.{number >> 8}.{number & 255}.0/24") for number in range(10_000)))
    world.applied()
    judged: list[str] = []
    objection = Guard.objection
    monkeypatch.setattr(Guard, "objection", lambda self, prefix: judged.append(str(prefix)) or objection(self, prefix))
    asked = world.kernel.asked
    world.table.attach(attachment("c2", "100.1.0.5/23", imports=("100.2.2.0/23",)))
    world.table.attach(attachment("c3", "100.1.0.6/23"))
    world.table.attach(attachment("c4", "10.8.0.6/24"))
    assert sorted(set(judged)) == ["100.1.0.0/24", "100.1.1.0/24", "100.2.2.0/24", "100.2.3.0/24"]
    assert len(judged) <= 8
    assert world.kernel.asked == asked


# --- the parts -----------------------------------------------------------------------------------

networks = st.one_of(
    st.builds(
        lambda number, length: ip_network((number, length), strict=False), st.integers(0, 255), st.integers(24, 32)
    ),
    st.builds(
        lambda number, length: ip_network((number << 120, length), strict=False), st.integers(0, 255), st.integers(0, 8)
    ),
)


@given(st.lists(st.tuples(networks, st.integers(0, 2), st.booleans()), max_size=80), networks)
def test_the_index_finds_what_is_there(
    steps: list[tuple[IPv4Network | IPv6Network, int, bool]], asked: IPv4Network | IPv6Network
) -> None:
    """Whatever came and went, and was asked in between: what is within a network, and around an address."""
    index: PrefixIndex[tuple[str, int]] = PrefixIndex()
    there: dict[tuple[str, int], IPv4Network | IPv6Network] = {}
    for at, (network, number, comes) in enumerate(steps):
        thing = (str(network), number)
        if comes:
            index.add(network, thing)
            there[thing] = network
        else:
            index.discard(network, thing)
            there.pop(thing, None)
        if at % 7 == 0:
            list(index.within(asked))
    same = {thing: network for thing, network in there.items() if network.version == asked.version}
    within = [thing for thing, network in same.items() if network.subnet_of(asked)]  # type: ignore[arg-type]
    assert sorted(index.within(asked)) == sorted(within)
    around = [thing for thing, network in same.items() if asked.network_address in network]
    assert sorted(index.around(asked.network_address)) == sorted(around)


kept = st.lists(st.tuples(networks, st.sampled_from(["c1", "c2"])), max_size=6)
told = st.lists(st.builds(lambda network: unicast(str(network)), networks), max_size=12)


@given(kept, kept, told)
def test_a_table_is_what_guard_and_rule_say(
    before: list[tuple[IPv4Network | IPv6Network, str]],
    after: list[tuple[IPv4Network | IPv6Network, str]],
    learned: list[Learned],
) -> None:
    """Whatever was covered before and is no more, what is taken is what a table made anew would take."""
    rule = UnicastRule(frozenset({*ALL, "0.0.0.0/24", "::/1", "8000::/1"}))
    made, kept_by = Rib(120.0), Guard()
    made.configure("t", rule, None, kept_by)
    for owned in (before, after):
        for owner in ("c1", "c2"):
            mine = {(network, guard.CONTAINERS) for network, whose in owned if whose == owner}
            made.judge_again("t", kept_by.cover(owner, mine))
        for route in learned:
            made.hear("e", route, 0.0)
    fresh, now = Rib(120.0), Guard()
    now.cover("all", {(network, guard.CONTAINERS) for network, _ in after})
    for route in learned:
        fresh.hear("e", route, 0.0)
    expected = fresh.configure("t", rule, None, now)
    assert made.tables["t"].taken == expected.taken
    assert made.tables["t"].refused == expected.refused
