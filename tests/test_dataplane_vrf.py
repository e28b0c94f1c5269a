"""A VRF on a node: what its attachments import, what is wanted of the kernel for it, and in which messages."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from bgpcni.config.agent import PolicyTable
from bgpcni.dataplane.places.place import Surroundings
from bgpcni.dataplane.places.vrf import VrfPlace
from bgpcni.dataplane.program import At, Change, Key, Remote, Via, Ways
from bgpcni.dataplane.rib import Bounds, Own, Rib, Table, VrfRule
from bgpcni.dataplane.vrf import Vrf
from bgpcni.exporter import Gone, Learned, PathAttributes
from bgpcni.kernel import uapi, vrf
from bgpcni.model import Address, Attachment, Bgp, Family, IpPrefixNlri, VpnNlri
from bgpcni.testing.memory import FACTS

RT = "64512:4001"
MAC, OTHER_MAC = "02:5e:c0:00:02:09", "02:5e:c0:00:02:0a"
MAPPED = str(ip_address("::ffff:192.0.2.9"))
LINK, UPLINK = vrf.Device("red", 7, 182001), 2
EVPN = Bgp(family="evpn", vni=5001, vrf="red", l3vni=4001, table=182001, import_rt=(RT,))
VPN = Bgp(family="vpn", vrf="red", label=16, table=182001, import_rt=(RT,))


def attachment(number: int = 1, bgp: Bgp = EVPN) -> Attachment:
    return Attachment(
        boot_id="b", network="n", container_id=f"c{number}", ifname="eth0", netns="/n", bridge="cni0", bridge_index=3,
        host_index=10 + number, mac=f"02:00:00:00:00:{number:02x}", bgp=bgp,
        addresses=(Address(address=f"10.1.2.{number}/24", gateway="10.1.2.254"),),
    )  # fmt: skip


def five(prefix: str, vtep: str = "192.0.2.9", mac: str | None = MAC, **fields: object) -> Learned:
    """A type 5 route."""
    values: dict[str, object] = {"vni": 4001} | fields
    attributes = PathAttributes(vtep, route_targets=(RT,), router_mac=mac, encapsulation=values.pop("encapsulation", 8))  # type: ignore[arg-type]
    nlri = IpPrefixNlri(f"{vtep}:1", prefix)
    return Learned("192.0.2.254", nlri, attributes, **values)  # type: ignore[arg-type]


def vpn(prefix: str, hop: str = "192.0.2.9", label: int = 80) -> Learned:
    family = Family.IPV6_VPN if ":" in prefix else Family.IPV4_VPN
    nlri = VpnNlri(family, prefix, "192.0.2.9:1")
    return Learned("192.0.2.254", nlri, PathAttributes(hop, route_targets=(RT,)), label=label)


class World:
    """A VRF and the RIB it imports from; 192.0.2.0/24 is on the uplink, all else is behind a router."""

    def __init__(self, *members: Attachment, paths: int = 1) -> None:
        self.paths = paths
        self.rib = Rib(120.0)
        self.vrf = Vrf(LINK, self.rib, lambda hop: (None if hop.startswith("192.0.2.") else "192.0.2.1", UPLINK))
        self.vrf.device = 9
        for member in members:
            self.vrf.add(member)
        self.follow()

    def follow(self) -> None:
        self.vrf.follow(Own(), Bounds(paths=self.paths))

    def hear(self, *events: Learned | Gone) -> None:
        for event in events:
            self.rib.hear("e", event, 0.0)
        self.vrf.refresh()

    @property
    def wanted(self) -> dict[Key, object]:
        return dict(self.vrf.program.wanted)

    @property
    def table(self) -> Table:
        return self.rib.tables["vrf red"]


def test_a_type_5_route_leads_through_a_router() -> None:
    """The gateway is the VTEP at the Router's MAC, which is behind the VTEP; for IPv6 the VTEP is mapped."""
    world = World(attachment())
    world.hear(five("10.9.0.0/24"), five("2001:db8:9::/64"))
    assert world.wanted == {
        Key("fdb", MAC): Remote("192.0.2.9"),
        Key("neighbour", "192.0.2.9"): At(MAC),
        Key("neighbour", MAPPED): At(MAC),
        Key("route", "10.9.0.0/24"): Via("192.0.2.9", 9),
        Key("route", "2001:db8:9::/64"): Via(MAPPED, 9),
    }


def test_a_router_is_there_for_as_long_as_a_route_leads_through_it() -> None:
    """Many routes share it; the last takes it along, and what leads through it goes first."""
    world = World(attachment())
    routes = [five(f"10.{number}.0.0/16") for number in range(2, 6)]
    world.hear(*routes)
    for change in world.vrf.program.take(100):
        world.vrf.program.done(change)
    for number, route in enumerate(routes, 1):
        world.hear(Gone(route.peer, route.nlri))
        assert (Key("neighbour", "192.0.2.9") in world.wanted) == (number < len(routes))
    assert world.wanted == {}
    assert [change.key.what for change in world.vrf.program.take(100)][-2:] == ["fdb", "neighbour"]


def test_a_router_that_has_another_mac() -> None:
    """It restarted: the entries follow what most of its routes say, whatever order they come in."""
    world = World(attachment())
    world.hear(five("10.2.0.0/16"), five("10.3.0.0/16"))
    world.hear(five("10.2.0.0/16", mac=OTHER_MAC), five("10.3.0.0/16", mac=OTHER_MAC))
    assert world.wanted[Key("neighbour", "192.0.2.9")] == At(OTHER_MAC)
    assert Key("fdb", MAC) not in world.wanted
    assert world.wanted[Key("fdb", OTHER_MAC)] == Remote("192.0.2.9")


def test_equal_type_5_routes_are_one_route_through_several_routers() -> None:
    """A router that goes is removed after the route that led through it, and the others are not touched."""
    world = World(attachment(), paths=2)
    one, two = five("10.9.0.0/24"), five("10.9.0.0/24", vtep="192.0.2.10", mac=OTHER_MAC)
    world.hear(one, two, five("10.9.0.0/24", vtep="192.0.2.11", mac="02:5e:c0:00:02:0b")._replace(peer="192.0.2.255"))
    key = Key("route", "10.9.0.0/24")
    assert len(world.wanted) == 5
    assert world.wanted[key] == Ways((Via("192.0.2.10", 9), Via("192.0.2.9", 9)))
    program = world.vrf.program
    for change in program.take(100):
        program.done(change)
    world.hear(Gone(one.peer, one.nlri))
    changes = program.take(100)
    assert [change.key.name for change in changes if change.new is not None][-1] == key.name
    assert [change.key.name for change in changes if change.new is None] == [MAC, "192.0.2.9"]
    assert changes.index(next(change for change in changes if change.key == key)) < len(changes) - 2
    world.hear(Gone(two.peer, two.nlri))
    assert world.wanted[key] == Via("192.0.2.11", 9)


def test_equal_vpn_routes_have_each_its_label() -> None:
    world = World(attachment(bgp=VPN), paths=16)
    world.hear(vpn("10.9.0.0/24"), vpn("10.9.0.0/24", "192.0.2.10", 81)._replace(peer="192.0.2.253"))
    world.hear(vpn("10.9.0.0/24", "198.51.100.1")._replace(peer="192.0.2.252"))
    assert world.wanted[Key("route", "10.9.0.0/24")] == Ways(
        (Via("192.0.2.10", UPLINK, 81), Via("192.0.2.9", UPLINK, 80))
    )


def test_a_vpn_route_has_its_next_hops_label() -> None:
    """Only where the next hop is on a link: a router between would not know the label. IPv4 may be mapped."""
    world = World(attachment(bgp=VPN))
    world.hear(vpn("10.9.0.0/24"), vpn("10.8.0.0/24", hop="198.51.100.1"), vpn("2001:db8:9::/64", MAPPED))
    assert world.wanted == {
        Key("label", "16"): Via(None, LINK.index),
        Key("route", "10.9.0.0/24"): Via("192.0.2.9", UPLINK, 80),
        Key("route", "2001:db8:9::/64"): Via(MAPPED, UPLINK, 80),
    }


def test_what_is_here_is_never_learned() -> None:
    """A container's own address, until it has gone; the subnets of the VRF's bridges."""
    one = attachment(1)
    world = World(one, attachment(2))
    world.hear(five("10.1.2.1/32"), five("10.1.2.0/24"))
    assert world.wanted == {}
    assert {route.nlri.prefix: reason for route, reason in world.table.refused.items()} == {
        "10.1.2.1/32": "it is within a subnet of containers on this node",
        "10.1.2.0/24": "it is a subnet of this node",
    }
    world.vrf.remove(one.key)
    world.follow()
    assert world.wanted[Key("route", "10.1.2.1/32")] == Via("192.0.2.9", 9)


@pytest.mark.parametrize(
    ("route", "reason"),
    [
        (five("10.9.0.0/24", vni=4002), "its VNI is not that of the VRF, 4001"),
        (five("10.9.0.0/24", mac=None), "no Router's MAC"),
        (five("10.9.0.0/24", mac="03:00:00:00:00:01"), "no Router's MAC"),
        (five("10.9.0.0/24", gateway="10.1.2.9"), "gateway address"),
        (five("10.9.0.0/24", encapsulation=11), "encapsulation"),
        (five("10.9.0.0/24", vtep="127.0.0.1"), "next hop"),
        (five("0.0.0.0/0"), "default route"),
        (five("169.254.0.0/16"), "link-local"),
        (five("224.0.0.0/8"), "multicast"),
        (vpn("10.9.0.0/24", label=3), "label"),
        (vpn("10.9.0.0/24", hop="2001:db8::1"), "another family"),
        (vpn("::/0"), "default route"),
    ],
)
def test_what_is_not_taken(route: Learned, reason: str) -> None:
    """Each with its reason; nothing is wanted of the kernel."""
    world = World(attachment(), attachment(2, VPN))
    world.hear(route)
    (said,) = world.table.refused.values()
    assert reason in said
    assert set(world.wanted) <= {Key("label", "16")}


def test_import_names_what_is_special_and_bounds_the_rest() -> None:
    """`bgp.import`: a default route named is taken; what no prefix has within is not."""
    asks = EVPN.model_copy(update={"import_prefixes": ("0.0.0.0/0", "2001:db8::/32")})
    world = World(attachment(bgp=asks))
    world.hear(five("0.0.0.0/0"), five("10.9.0.0/24"), five("2001:db8:9::/64"), five("2001:db9::/32"), five("::/0"))
    assert {key.name for key in world.wanted if key.what == "route"} == {
        "0.0.0.0/0", "10.9.0.0/24", "2001:db8:9::/64",
    }  # fmt: skip


def test_a_vrf_is_told_of_what_its_networks_ask_for() -> None:
    """EVPN, L3VPN or both; each route's kind alone decides, not who told it."""
    assert VrfRule(frozenset({RT}), l3vni=4001).kinds == {IpPrefixNlri}
    assert VrfRule(frozenset({RT}), mpls=True).kinds == {VpnNlri}
    assert World(attachment()).vrf.families == {Family.L2VPN_EVPN}
    assert World(attachment(bgp=VPN)).vrf.families == {Family.IPV4_VPN, Family.IPV6_VPN}
    assert len(World(attachment(), attachment(2, VPN)).vrf.families) == 3


def test_a_way_that_changes_changes_the_routes() -> None:
    """A next hop that moved behind a router, or back."""
    world = World(attachment(bgp=VPN))
    world.hear(vpn("10.9.0.0/24"))
    world.vrf.find = lambda hop: ("192.0.2.1", UPLINK)
    world.vrf.look()
    assert set(world.wanted) == {Key("label", "16")}
    world.vrf.find = lambda hop: (None, 5)
    world.vrf.look()
    assert world.wanted[Key("route", "10.9.0.0/24")] == Via("192.0.2.9", 5, 80)


def test_an_empty_vrf_wants_nothing() -> None:
    """All that the kernel has of it goes, in one go."""
    world = World(attachment(), attachment(2, VPN))
    world.hear(five("10.9.0.0/24"), vpn("10.8.0.0/24"))
    program = world.vrf.program
    for change in program.take(100):
        program.done(change)
    world.vrf.empty()
    gone = program.take(100)
    assert {change.key for change in gone} == set(program.present)
    assert all(change.new is None for change in gone)


def test_messages_of_changes() -> None:
    """Routes in the VRF's own table, routers on its device, the label on the VRF itself."""
    place = VrfPlace(LINK, Surroundings(FACTS, PolicyTable()))
    place.device = 9

    def kinds(key: Key, old: object, new: object) -> list[int]:
        return [message.kind for message in place.messages(Change(key, old, new))]  # type: ignore[arg-type]

    route, label = Key("route", "10.9.0.0/24"), Key("label", "16")
    assert kinds(route, None, Via("192.0.2.9", 9)) == [uapi.RTM_NEWROUTE]
    assert kinds(route, Via("192.0.2.9", 9), Via("192.0.2.9", 2, 80)) == [uapi.RTM_NEWROUTE]
    assert kinds(route, Via("192.0.2.9", 2, 80), None) == [uapi.RTM_DELROUTE]
    assert kinds(label, Via(None, 6), Via(None, 7)) == [uapi.RTM_DELROUTE, uapi.RTM_NEWROUTE]
    assert kinds(Key("neighbour", "192.0.2.9"), None, At(MAC)) == [uapi.RTM_NEWNEIGH]
    assert kinds(Key("neighbour", "192.0.2.9"), At(MAC), None) == [uapi.RTM_DELNEIGH]
    assert kinds(Key("fdb", MAC), None, Remote("192.0.2.9")) == [uapi.RTM_NEWNEIGH]
    assert kinds(Key("fdb", MAC), Remote("192.0.2.9"), None) == [uapi.RTM_DELNEIGH]


def test_what_a_family_brought_goes_with_its_last_attachment() -> None:
    """A VRF of both EVPN and L3VPN: the label with the last of L3VPN, type 5 with the last of EVPN."""
    one, two = attachment(1), attachment(2, VPN)
    world = World(one, two)
    world.hear(five("10.9.0.0/24"), vpn("10.8.0.0/24"))
    world.vrf.remove(two.key)
    world.follow()
    assert {key.what for key in world.wanted} == {"route", "neighbour", "fdb"}
    assert (world.vrf.l3vni, world.vrf.families) == (4001, {Family.L2VPN_EVPN})
    world.vrf.add(two)
    world.vrf.remove(one.key)
    world.follow()
    assert {key.name for key in world.wanted} == {"16", "10.8.0.0/24"}
    assert world.vrf.l3vni is None
