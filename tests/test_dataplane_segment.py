"""A VNI on a node: what is wanted of the kernel, what is imported, what is reported; and who may have which VNI."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from test_dataplane_wishes import Watched

from bgpcni.config.agent import PolicyTable
from bgpcni.dataplane.claims import Claims
from bgpcni.dataplane.dataplane import DataPlane, Inbox
from bgpcni.dataplane.places.place import Surroundings
from bgpcni.dataplane.places.unicast import route_messages
from bgpcni.dataplane.places.vni import VniPlace
from bgpcni.dataplane.program import At, Change, Key, Local, Remote, Via
from bgpcni.dataplane.rib import Bounds, Own, Rib
from bgpcni.dataplane.segment import Segment, member_of
from bgpcni.errors import InvalidConfiguration
from bgpcni.exporter import Gone, Learned, PathAttributes
from bgpcni.kernel import uapi
from bgpcni.model import Address, Attachment, Bgp, IpPrefixNlri, MacIpNlri, NodeFacts
from bgpcni.testing.patience import SECONDS

RT = "64512:5001"
FACTS = NodeFacts(run_dir="/r", data_dir="/d", asn=64512, router_id="192.0.2.1", local_address="192.0.2.1")
GATEWAY_MAC = "02:00:5e:00:13:89"
REMOTE_MAC, LOCAL_MAC = "02:00:00:00:00:09", "02:00:00:00:00:01"


def attachment(number: int = 1, **fields: object) -> Attachment:
    values: dict[str, object] = {
        "boot_id": "b", "network": "n", "container_id": f"c{number}", "ifname": "eth0", "netns": "/n",
        "bridge": "cni0", "bridge_index": 3, "host_index": 10 + number, "mac": f"02:00:00:00:00:{number:02x}",
        "addresses": (Address(address=f"10.1.2.{number}/24", gateway="10.1.2.254"),),
        "bgp": Bgp(family="evpn", vni=5001, import_rt=(RT,), forwarder="agent"),
    }  # fmt: skip
    return Attachment(**values | fields)  # type: ignore[arg-type]


def remote(mac: str = REMOTE_MAC, ip: str = "10.1.2.9", vtep: str = "192.0.2.9", **fields: object) -> Learned:
    values: dict[str, object] = {"route_targets": (RT,)} | fields
    vni = values.pop("vni", 5001)
    nlri = MacIpNlri(f"{vtep}:1", mac, f"{ip}/32")
    return Learned("192.0.2.254", nlri, PathAttributes(vtep, **values), vni=vni)  # type: ignore[arg-type]


class World:
    """A segment and the RIB it imports from."""

    def __init__(self, *members: Attachment) -> None:
        self.rib = Rib(120.0)
        self.segment = Segment(5001)
        for member in members:
            self.join(member)

    def join(self, member: Attachment) -> None:
        self.segment.want(self.segment.add(member.key, member_of(member)))
        self.follow()

    def leave(self, member: Attachment) -> None:
        self.segment.want(self.segment.remove(member.key))
        self.follow()

    def follow(self) -> None:
        rule = self.segment.rule(Own(), Bounds())
        self.segment.table = self.rib.configure(self.segment.name, rule, None)
        self.segment.refresh()

    def hear(self, *events: Learned | Gone) -> None:
        for event in events:
            self.rib.hear("e", event, 0.0)
        self.segment.refresh()

    @property
    def wanted(self) -> dict[Key, object]:
        return dict(self.segment.program.wanted)


def test_local_and_learned_entries() -> None:
    """Containers here behind their ports, others behind their VTEPs, addresses at their MACs."""
    world = World(attachment())
    world.hear(remote())
    assert world.wanted == {
        Key("fdb", LOCAL_MAC): Local(11),
        Key("neighbour", "10.1.2.1"): At(LOCAL_MAC),
        Key("fdb", REMOTE_MAC): Remote("192.0.2.9"),
        Key("neighbour", "10.1.2.9"): At(REMOTE_MAC),
    }


def test_what_is_here_is_here() -> None:
    """A learned route for a container's MAC or address is reported, and used only when the container has gone."""
    one = attachment()
    world = World(one, attachment(2))
    world.hear(remote(mac=LOCAL_MAC, ip="10.1.2.1", mobility=7))
    assert world.wanted[Key("fdb", LOCAL_MAC)] == Local(11)
    assert world.wanted[Key("neighbour", "10.1.2.1")] == At(LOCAL_MAC)
    assert [text for text in world.segment.duplicates() if "192.0.2.9 too, sequence 7" in text]
    world.leave(one)
    assert world.wanted[Key("fdb", LOCAL_MAC)] == Remote("192.0.2.9")
    assert not list(world.segment.duplicates())


def test_two_others_with_one_address_are_reported() -> None:
    """Two nodes that hand out one address: said once, with both."""
    world = World(attachment())
    world.hear(remote(), remote(mac="02:00:00:00:00:0a", vtep="192.0.2.10"))
    assert list(world.segment.duplicates()) == ["10.1.2.9 is announced by 192.0.2.10 and 192.0.2.9 alike (VNI 5001)"]


def test_two_of_this_node_with_one_address() -> None:
    """Each is told of the other; when the later one goes the address is at the first again."""
    world = World(attachment(1))
    later = attachment(2, addresses=attachment(1).addresses)
    assert list(world.segment.rivals(attachment(1).key)) == []
    world.join(later)
    assert list(world.segment.rivals(later.key)) == [("10.1.2.1", attachment(1).key)]
    world.segment.want(world.segment.remove(later.key))
    assert world.segment.program.wanted[Key("neighbour", "10.1.2.1")] == At("02:00:00:00:00:01")
    assert list(world.segment.rivals(attachment(1).key)) == []


def test_another_nodes_vni_is_used_towards_it() -> None:
    """A VTEP that numbers the network otherwise is sent its own VNI (RFC 8365 section 5.1.3)."""
    world = World(attachment())
    world.hear(remote(vni=7))
    assert world.wanted[Key("fdb", REMOTE_MAC)] == Remote("192.0.2.9", 7)


def test_imports_follow_from_who_is_there() -> None:
    """An attachment's own importRT joins the network's while it lives."""
    world = World(attachment(bgp=Bgp(family="evpn", vni=5001, forwarder="agent")))
    curious = attachment(2)
    world.hear(remote())
    assert Key("fdb", REMOTE_MAC) not in world.wanted
    world.join(curious)
    assert Key("fdb", REMOTE_MAC) in world.wanted
    world.leave(curious)
    assert Key("fdb", REMOTE_MAC) not in world.wanted


def test_the_anycast_gateway_is_nobody_elses() -> None:
    """Its addresses and MAC are refused from others, and kept off the device."""
    world = World(attachment(bgp=Bgp(family="evpn", vni=5001, import_rt=(RT,), forwarder="agent", anycast=True)))
    assert world.segment.gateways == {"10.1.2.254"}
    world.hear(remote(ip="10.1.2.254"), remote(mac=GATEWAY_MAC, ip="10.1.2.8"))
    assert set(world.segment.table.refused.values()) == {"it is the anycast gateway"}
    assert list(world.segment.duplicates()) == [
        f"{GATEWAY_MAC} of the anycast gateway is announced by 192.0.2.254 (VNI 5001); refused"
    ]


def test_the_anycast_gateways_mac_is_refused_where_no_gateway_is() -> None:
    """Other nodes of the VNI may be one: their containers would lose it to whoever announces its MAC."""
    world = World(attachment())
    world.hear(remote(mac=GATEWAY_MAC, ip="10.1.2.8"))
    assert Key("fdb", GATEWAY_MAC) not in world.wanted
    assert "anycast gateway" in next(world.segment.duplicates())


def test_the_highest_possible_sequence_is_reported() -> None:
    """RFC 7432 section 7.7 knows none above it: an operator has to look."""
    world = World(attachment())
    world.hear(remote(mac=LOCAL_MAC, mobility=4294967295))
    assert "sequence 4294967295, the highest possible: other nodes may keep sending there" in next(
        world.segment.duplicates()
    )


@pytest.mark.parametrize("missing", ["bridge", "mac", "host_index"])
def test_evpn_needs_a_bridge_and_a_link(missing: str) -> None:
    """What cannot be in a VXLAN is refused in words."""
    with pytest.raises(InvalidConfiguration, match=r"bgp\.family: evpn needs"):
        member_of(attachment(**{missing: None}))


def test_messages_of_changes() -> None:
    """A move deletes before it makes; what makes comes last."""
    place = VniPlace(attachment(mtu=1450), Surroundings(FACTS, PolicyTable()))
    place.device = 5

    def kinds(key: Key, old: object, new: object) -> list[int]:
        return [message.kind for message in place.messages(Change(key, old, new))]  # type: ignore[arg-type]

    fdb, flood, neighbour = Key("fdb", REMOTE_MAC), Key("flood", "192.0.2.9"), Key("neighbour", "10.1.2.9")
    here, there = Local(11), Remote("192.0.2.9")
    assert kinds(fdb, None, there) == [uapi.RTM_NEWNEIGH]
    assert kinds(fdb, there, Remote("192.0.2.10")) == [uapi.RTM_NEWNEIGH]
    assert kinds(fdb, there, here) == [uapi.RTM_DELNEIGH, uapi.RTM_DELNEIGH, uapi.RTM_NEWNEIGH]
    assert kinds(fdb, here, there) == [uapi.RTM_DELNEIGH, uapi.RTM_NEWNEIGH]
    assert kinds(fdb, there, None) == [uapi.RTM_DELNEIGH, uapi.RTM_DELNEIGH]
    assert kinds(flood, None, there) == [uapi.RTM_NEWNEIGH]
    assert kinds(flood, there, None) == [uapi.RTM_DELNEIGH]
    assert kinds(neighbour, None, At(REMOTE_MAC)) == [uapi.RTM_NEWNEIGH]
    assert kinds(neighbour, At(REMOTE_MAC), None) == [uapi.RTM_DELNEIGH]
    assert len(list(route_messages(Change(Key("route", "10.0.0.0/8"), Via(None, 2), Via("192.0.2.1", 3))))) == 1


@pytest.mark.parametrize(("told", "announced"), [(0, 1), (4294967294, 4294967295), (4294967295, 4294967295)])
def test_the_sequence_of_what_moves_here_fits_into_its_32_bits(
    told: int, announced: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Above that of the node it comes from, up to the highest possible; then the log says so."""
    plane = DataPlane(FACTS, PolicyTable(), Inbox(), print)
    plane._rib.hear("e", remote(mac=LOCAL_MAC, ip="10.1.2.1", mobility=told), 0.0)
    assert plane.sequence(attachment()) == announced
    assert ("the highest possible sequence" in caplog.text) == (told == announced)


def test_bridge_and_vni_are_one_to_one() -> None:
    """One bridge, one VNI, whatever the network; what is recorded counts, what was dropped does not."""
    recorded = attachment(1)
    claims = Claims(lambda: [recorded])
    claims.take(attachment(2, network="other"))
    with pytest.raises(InvalidConfiguration, match="bridge cni0 carries VNI 5001 for network n"):
        claims.take(attachment(3, bgp=Bgp(family="evpn", vni=5002)))
    with pytest.raises(InvalidConfiguration, match="VNI 5001 is on bridge cni0"):
        claims.take(attachment(3, bridge="cni1"))
    claims.take(attachment(3, bgp=Bgp(family="unicast")))
    for known in (recorded, attachment(2, network="other")):
        claims.drop(known.key)
    claims.take(attachment(3, bgp=Bgp(family="evpn", vni=5002)))


def test_a_mac_is_that_of_one_container_of_a_vni() -> None:
    """Of two that ask for it the second is refused, by the name of the first; also where the kernel had chosen it."""
    claims = Claims(lambda: [attachment(1)])
    second = attachment(2, network="other", mac=LOCAL_MAC)
    with pytest.raises(InvalidConfiguration, match=f"^mac: {LOCAL_MAC} in VNI 5001 is that of c1 eth0 for network n"):
        claims.take(second)
    claims.take(attachment(2, network="other", mac=None))  # as planned: nothing asked for
    with pytest.raises(InvalidConfiguration, match=r"c1 eth0"):
        claims.take(second)
    claims.take(attachment(3, bridge="cni1", mac=LOCAL_MAC, bgp=Bgp(family="evpn", vni=5002)))
    claims.take(attachment(4, mac=LOCAL_MAC, bgp=Bgp(family="unicast")))
    claims.drop(attachment(1).key)
    claims.take(second)


def test_the_anycast_gateways_mac_is_no_containers() -> None:
    """It is the same on every node: whether this one is a gateway does not matter."""
    claims = Claims(list)
    with pytest.raises(InvalidConfiguration, match=f"^mac: {GATEWAY_MAC} is that of the anycast gateway of VNI 5001"):
        claims.take(attachment(1, mac=GATEWAY_MAC))
    claims.take(attachment(1, mac="02:00:5e:00:13:8a"))


def test_an_address_is_of_one_attachment_on_its_bridge() -> None:
    """Whether it is announced or not, in both families; on another bridge, or in another VLAN, it is another."""

    def plain(number: int, *addresses: str, **more: object) -> Attachment:
        given = tuple(Address(address=address) for address in addresses)
        return attachment(number, addresses=given, bgp=Bgp(), exporters=(), **more)

    recorded = plain(1, "10.1.2.10/24", "2001:db8::10/64")
    claims = Claims(lambda: [recorded])
    claims.load()
    claims.settle(recorded)
    for address in ("10.1.2.10/16", "2001:db8::10/64"):
        with pytest.raises(InvalidConfiguration, match=f"leads to {recorded.key} on this node already; give the netw"):
            claims.settle(plain(2, "10.1.2.11/24", address))
    claims.settle(plain(2, "10.1.2.11/24"))
    claims.settle(plain(3, "10.1.2.10/24", bridge="cni1"))
    claims.settle(plain(4, "10.1.2.10/24", vlan=5))
    claims.settle(plain(5, "10.1.2.10/24", chained=True, vlan_filtering=True))
    claims.drop(recorded.key)
    claims.settle(plain(6, "10.1.2.10/24"))


def test_of_two_that_ask_at_once_the_second_is_refused() -> None:
    """The second comes while the first is in the middle of its claim: it waits, and then sees what the first has."""
    held, go_on = threading.Event(), threading.Event()

    def recorded() -> list[Attachment]:
        held.set()
        assert go_on.wait(SECONDS)
        return []

    claims = Claims(recorded)
    lock = claims._lock = Watched()  # type: ignore[assignment]
    with ThreadPoolExecutor() as pool:
        first = pool.submit(claims.take, attachment(1))
        assert held.wait(SECONDS)
        second = pool.submit(claims.take, attachment(2, mac=LOCAL_MAC))
        assert lock.awaited.wait(SECONDS)
        go_on.set()
        first.result(SECONDS)
        with pytest.raises(InvalidConfiguration, match="that of c1 eth0"):
            second.result(SECONDS)


def test_a_bridge_is_in_one_vrf_and_a_vrf_has_one_vni() -> None:
    """And no VNI is both a network's and a VRF's."""

    def routed(number: int, bridge: str, vni: int, vrf: str | None, l3vni: int | None) -> Attachment:
        return attachment(number, bridge=bridge, bgp=Bgp(family="evpn", vni=vni, vrf=vrf, l3vni=l3vni))

    claims = Claims(list)
    claims.take(routed(1, "cni0", 5001, "red", 4001))
    claims.take(routed(2, "cni1", 5002, "red", 4001))
    for asked, words in (
        (routed(3, "cni0", 5001, None, None), "bgp.vrf: bridge cni0 is in VRF red for network n"),
        (routed(3, "cni0", 5001, "green", 4002), "a bridge is in one VRF or in none"),
        (routed(3, "cni2", 5003, "red", 4002), "bgp.l3vni: VRF red has VNI 4001"),
        (routed(3, "cni2", 5003, "green", 4001), "bgp.l3vni: VNI 4001 is of VRF red"),
        (routed(3, "cni2", 4001, "green", 4002), "bgp.vni: VNI 4001 is a VRF's"),
        (routed(3, "cni2", 5003, "green", 5002), "bgp.l3vni: VNI 5002 is a network's"),
    ):
        with pytest.raises(InvalidConfiguration, match=words):
            claims.take(asked)
    for number in (1, 2):
        claims.drop(attachment(number).key)
    claims.take(routed(3, "cni2", 4001, "green", 5002))


def test_type_5_is_the_vrfs_where_there_is_one() -> None:
    """A VNI whose bridge is in a VRF leaves type 5 to it."""
    plain = World(attachment())
    routed = World(attachment(bgp=Bgp(family="evpn", vni=5001, vrf="red", l3vni=4001, table=182001, import_rt=(RT,))))
    assert plain.segment.rule(Own(), Bounds()).kinds - routed.segment.rule(Own(), Bounds()).kinds == {IpPrefixNlri}
