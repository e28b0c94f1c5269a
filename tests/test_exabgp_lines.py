"""The lines to ExaBGP: grouped, bounded, and with nothing in them that was not validated."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgpcni.model import Announcement, ExportPolicy, Family, MulticastNlri, Neighbor, Nlri, UnicastNlri, VpnNlri
from bgpcni.wire.encode import Unencodable
from bgpcni_exabgp import lines, protocol

INNER = Neighbor("192.0.2.10", 64512, (Family.IPV4_UNICAST,), 90)
OUTER = Neighbor("192.0.2.20", 64513, (Family.IPV4_UNICAST,), 90)
BOTH = lines.audiences([INNER, OUTER], 64512)


def route(n: int, network: str = "net", **fields) -> Announcement:
    nlri = UnicastNlri.of(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}/32")
    return Announcement(nlri, network, "192.0.2.1", **fields)


def never(nlri: Nlri, reason: str) -> None:
    raise AssertionError(reason)


def test_routes_alike_share_a_line():
    """One line for each network, next hop and attribute set, with both kinds of attributes where both are needed."""
    batch = [route(1), route(2), route(3, "other"), route(4, communities=("1:2",))]
    found = list(lines.announce(batch, BOTH, never))
    assert [len(line.routes) for line in found] == [2, 1, 1]
    assert found[0].text(7) == (
        "bgpcni announce 7 ipv4/unicast 6e6574 192.0.2.1 "
        "40010100400200400504 00000064/4001010040020602010000fc00 200a000001 200a000002"
    ).replace("0504 0000", "05040000")
    only = next(iter(lines.announce([route(1)], lines.audiences([OUTER], 64512), never)))
    assert " -/4001" in only.text(1)


@settings(deadline=None)
@given(st.integers(0, 1000), st.text(max_size=300))
def test_lines_are_bounded_and_lose_nothing(count, network):
    """Every route is in exactly one line; a line is ASCII and bounded; names of networks are no syntax."""
    batch = [route(n, network) for n in range(count)]
    found = list(lines.announce(batch, BOTH, never))
    assert [nlri for line in found for nlri in line.routes] == [r.nlri for r in batch]
    for line in found:
        text = line.text(123456789)
        assert text.isascii()
        assert "\n" not in text
        assert len(text) < lines.LENGTH + 2048


def test_a_bad_route_is_refused_alone():
    """The others of the batch are in the line."""
    refused = {}
    batch = [route(1), route(2, communities=("x",)), route(3)]
    found = list(lines.announce(batch, BOTH, refused.__setitem__))
    assert [len(line.routes) for line in found] == [2]
    assert list(refused) == [batch[1].nlri]


def test_neighbours_that_hear_the_same_share_lines():
    """Ten neighbours with one policy get one line; each other policy, or AS number of ours, has a line of its own."""
    export = ExportPolicy(networks=("net",), communities=("1:2",), local_preference=200, med=10, prepend=2)
    alike = [replace(OUTER, address=f"192.0.2.{n}", export=export) for n in range(30, 40)]
    hidden = replace(OUTER, address="192.0.2.40", local_asn=64999)
    found = lines.audiences([INNER, OUTER, *alike, hidden], 64512)
    spoken = list(lines.announce([route(1), route(2, "other")], found, never))
    assert {(len(line.command.peers), len(line.routes)) for line in spoken} == {(2, 1), (10, 1), (1, 1)}
    chosen = next(line for line in spoken if len(line.command.peers) == 10).text(1)
    assert " -/4001010040020e02030000fc000000fc000000fc008004040000000ac0080400010002 " in chosen
    assert "0000fde7" in next(line for line in spoken if line.command.peers == (hidden.address,)).text(1)
    assert lines.withheld(route(2, "other"), found) == {each.address for each in alike}
    assert lines.withheld(route(1), found) == set()


def test_an_older_engine_is_told_of_one_neighbour_at_a_time():
    """Its last line stands for all of them, since it counts a line only for those that it is for."""
    found = lines.audiences([INNER, replace(OUTER, export=ExportPolicy(med=1))], 64512)
    spoken = list(lines.singly(lines.announce([route(1), route(2)], found, never)))
    assert [line.command.peers for line in spoken] == [("192.0.2.10",), ("192.0.2.20",), ()]
    assert spoken[-1].routes == (route(1).nlri, route(2).nlri)
    assert list(lines.singly(lines.announce([route(1)], BOTH, never))) == list(lines.announce([route(1)], BOTH, never))


def test_prune_names_what_stays():
    """Mark, keep by key, spare by network, sweep: in this order."""
    kept = [VpnNlri.of("10.0.0.0/8", "1:1")]
    texts = [line.text(n) for n, line in enumerate(lines.prune({(): kept}, ["odd name", ""]))]
    assert texts == [
        "bgpcni mark 0",
        "bgpcni keep 1 ipv4/mpls-vpn 0800000001000000010a",
        "bgpcni spare 2 6f6464206e616d65",
        "bgpcni spare 3 -",
        "bgpcni sweep 4",
    ]


def test_a_stock_exabgp_is_told_in_text():
    """Unicast with communities of all kinds; what the engine refuses is refused here, other families too."""
    rich = route(1, communities=("64512:1", "NO_EXPORT", "1:2:3"), export_rt=("4200000000:7",))
    rich = replace(rich, local_preference=200, med=0)
    assert lines.stock_announce(rich, 64512).text(0) == (
        "announce route 10.0.0.1/32 next-hop 192.0.2.1 local-preference 200 med 0 community [ 64512:1 65535:65281 ] "
        "large-community [ 1:2:3 ] extended-community [ 0x0202fa56ea000007 ]"
    )
    assert lines.stock_withdraw(rich.nlri).text(0) == "withdraw route 10.0.0.1/32"
    with pytest.raises(Unencodable, match="community"):
        lines.stock_announce(route(1, communities=("1:2 ]; shutdown",)), 64512)
    evpn = MulticastNlri("1:1", "192.0.2.1")
    with pytest.raises(Unencodable, match="only with"):
        lines.stock_announce(Announcement(evpn, "net", "192.0.2.1", vni=5), 64512)


def test_memberships_go_to_those_who_know_them():
    """RFC 4684 section 4: 96 bits, our AS number in the session, the route target. Nobody else hears them."""
    reflector = Neighbor("192.0.2.30", 64512, (Family.L2VPN_EVPN, Family.RTC), 90)
    alias = replace(reflector, address="192.0.2.31", asn=64600, local_asn=64999)
    member = lines.Membership((INNER, reflector, alias), 64512, "192.0.2.1")
    found = {line.command.peers: line.command for line in member.join(["64512:5001"])}
    target = "0002fc00" + "00001389"
    assert {peers: [route.hex() for route, _ in command.routes] for peers, command in found.items()} == {
        ("192.0.2.30",): ["60" + "0000fc00" + target],
        ("192.0.2.31",): ["60" + "0000fde7" + target],
    }
    assert [line.command.peers for line in member.leave(["64512:5001"])] == [("192.0.2.30",), ("192.0.2.31",)]
    assert not list(member.join([]))
    [spared] = member.keep(None)
    assert spared.command == protocol.Spare((lines.MEMBERS,))
    assert not list(lines.Membership((INNER,), 64512, "192.0.2.1").join(["64512:5001"]))


@settings(deadline=None)
@given(st.sets(st.integers(0, 0xFFFF), max_size=1200))
def test_memberships_are_bounded_and_lose_nothing(numbers):
    """Each target is on one line, and no line is longer than ExaBGP reads."""
    only = Neighbor("192.0.2.30", 64512, (Family.L2VPN_EVPN, Family.RTC), 90)
    member = lines.Membership((only,), 64512, "192.0.2.1")
    found = list(member.join(f"64512:{number}" for number in numbers))
    told = [route for line in found for route, _ in line.command.routes]
    assert sorted(int.from_bytes(route[-4:]) for route in told) == sorted(numbers)
    assert all(len(line.text(123456789)) < lines.LENGTH + 2048 for line in found)
