"""Which routes an attachment has: a pure function of the attachment and the node."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpcni.convergence.derive import derive, left_out
from bgpcni.errors import InvalidConfiguration
from bgpcni.model import Address, Attachment, Bgp, Family, MacIpNlri, MulticastNlri, NodeFacts

NODE = NodeFacts(
    run_dir="/r",
    data_dir="/d",
    asn=64512,
    router_id="192.0.2.9",
    local_address="192.0.2.9",
    next_hop="192.0.2.9",
    next_hop6="2001:db8::9",
    has_bgp=True,
)
MAC = "02:00:00:00:00:01"


def attachment(*addresses: str, **bgp: Any) -> Attachment:
    return Attachment(
        boot_id="b",
        network="net",
        container_id="c1",
        ifname="eth0",
        netns="/n",
        mac=MAC,
        bridge="cni0",
        host_veth="veth1",
        host_index=7,
        addresses=tuple(Address(address=item) for item in addresses),
        bgp=Bgp(**bgp),
    )


def test_unicast_is_a_host_route_for_each_address() -> None:
    """/32 and /128, each with the next hop of its own family, and the endpoint for those who need it."""
    four, six = derive(attachment("10.1.2.3/24", "2001:db8:1::3/64", communities=("64512:1",)), NODE)
    assert (four.nlri.family, four.nlri.prefix, four.next_hop) == (Family.IPV4_UNICAST, "10.1.2.3/32", "192.0.2.9")
    assert (six.nlri.family, six.nlri.prefix, six.next_hop) == (Family.IPV6_UNICAST, "2001:db8:1::3/128", "2001:db8::9")
    assert four.communities == ("64512:1",)
    assert four.endpoint is not None
    assert (four.endpoint.mac, four.endpoint.address, four.endpoint.host_veth, four.endpoint.host_index) == (
        MAC, "10.1.2.3/24", "veth1", 7,
    )  # fmt: skip
    assert four.datapath


def test_a_subnet_is_announced_once_and_is_nobodys_endpoint() -> None:
    """`bgp.advertise: subnet`: the same route whoever asks for it."""
    one = derive(attachment("10.1.2.3/24", "10.1.2.4/24", advertise="subnet"), NODE)
    two = derive(attachment("10.1.2.9/24", advertise="subnet").model_copy(update={"container_id": "c2"}), NODE)
    assert one == two
    assert [route.nlri.prefix for route in one] == ["10.1.2.0/24"]
    assert one[0].endpoint is None


def test_a_vpn_route_has_rd_and_label_and_no_data_path_here() -> None:
    """RFC 4364; this kernel has no MPLS: said, not hidden."""
    (route,) = derive(attachment("10.1.2.3/24", family="vpn", rd="192.0.2.9:1", label=16, export_rt=("64512:1",)), NODE)
    assert (route.nlri.family, route.nlri.rd, route.label) == (Family.IPV4_VPN, "192.0.2.9:1", 16)
    assert (route.export_rt, route.datapath) == (("64512:1",), False)


def test_evpn_announces_mac_ip_and_multicast() -> None:
    """RFC 7432 types 2 and 3, the VTEP as next hop whatever the address's family."""
    routes = derive(attachment("10.1.2.3/24", "2001:db8::3/64", family="evpn", vni=90, rd="192.0.2.9:1"), NODE)
    assert [(route.nlri.kind, route.nlri.prefix) for route in routes] == [
        ("mac-ip", "10.1.2.3/32"), ("mac-ip", "2001:db8::3/128"), ("multicast", None),
    ]  # fmt: skip
    assert {route.next_hop for route in routes} == {"192.0.2.9"}
    assert {route.vni for route in routes} == {90}
    assert routes[-1].nlri.originator == "192.0.2.9"


def test_evpn_without_addresses_announces_the_mac() -> None:
    """Layer 2 only."""
    routes = derive(attachment(family="evpn", vni=90, rd="192.0.2.9:1"), NODE)
    rd = "192.0.2.9:1"
    assert [route.nlri for route in routes] == [MulticastNlri(rd, "192.0.2.9"), MacIpNlri(rd, MAC)]


def test_evpn_with_a_subnet_adds_type_5() -> None:
    """RFC 9136, control plane only."""
    routes = derive(attachment("10.1.2.3/24", family="evpn", vni=90, rd="192.0.2.9:1", advertise="subnet"), NODE)
    (prefix,) = [route for route in routes if route.nlri.kind == "ip-prefix"]
    assert (prefix.nlri.prefix, prefix.datapath) == ("10.1.2.0/24", False)


@pytest.mark.parametrize(("advertise", "prefix"), [("host", "10.1.2.3/32"), ("subnet", "10.1.2.0/24")])
@pytest.mark.parametrize("table", [None, 182001])
def test_a_vrf_has_type_5_routes_of_its_own_vni(advertise: str, prefix: str, table: int | None) -> None:
    """Host or subnet as `bgp.advertise` says, at this node's own router; with a data path if the kernel has the VRF."""
    asks = {"family": "evpn", "vni": 90, "rd": "192.0.2.9:1", "vrf": "red", "l3vni": 91, "table": table}
    routes = derive(attachment("10.1.2.3/24", advertise=advertise, **asks), NODE)
    (five,) = [route for route in routes if route.nlri.kind == "ip-prefix"]
    assert (five.nlri.prefix, five.vni, five.next_hop) == (prefix, 91, "192.0.2.9")
    assert (five.router_mac, five.datapath) == ("02:5e:c0:00:02:09", table is not None)
    assert {route.vni for route in routes if route is not five} == {90}


def test_a_vpn_route_in_a_vrf_has_a_data_path() -> None:
    """If the kernel has VRF and MPLS."""
    asks = {"family": "vpn", "rd": "192.0.2.9:1", "label": 16, "vrf": "red", "table": 182001}
    (route,) = derive(attachment("10.1.2.3/24", **asks), NODE)
    assert (route.label, route.datapath) == (16, True)


@pytest.mark.parametrize(("missing", "address"), [("next_hop", "10.1.2.3/24"), ("next_hop6", "2001:db8::3/64")])
def test_a_missing_next_hop_is_said_with_the_key_to_set(missing: str, address: str) -> None:
    node = replace(NODE, **{missing: None})
    with pytest.raises(InvalidConfiguration, match=rf"\[bgp\] {missing}\b"):
        derive(attachment(address), node)


@pytest.mark.parametrize(("missing", "lost", "kept"), [("next_hop", 4, 6), ("next_hop6", 6, 4)])
def test_what_has_a_next_hop_is_announced_all_the_same(missing: str, lost: int, kept: int) -> None:
    """Of two families the one that can be; the other is known with the reason, and needs nothing but the address."""
    node, dual = replace(NODE, **{missing: None}), attachment("10.1.2.3/24", "2001:db8::3/64")
    (announced,) = derive(dual, node)
    ((other, reason),) = left_out(dual, node)
    assert (announced.nlri.family, other.nlri.family) == (f"ipv{kept}-unicast", f"ipv{lost}-unicast")
    assert other.next_hop == ""
    assert f"[bgp] {missing} " in reason
    assert {announced.nlri, other.nlri} == {route.nlri for route in derive(dual, NODE)}
    assert left_out(dual, NODE) == []


def test_a_node_without_bgp_announces_without_a_next_hop() -> None:
    """BaGPipe knows its own."""
    (route,) = derive(attachment("10.1.2.3/24"), NodeFacts(run_dir="/r", data_dir="/d"))
    assert route.next_hop == ""


ADDRESSES = st.lists(
    st.one_of(
        st.tuples(st.ip_addresses(v=4), st.integers(0, 32)), st.tuples(st.ip_addresses(v=6), st.integers(0, 128))
    ).map(lambda pair: f"{pair[0]}/{pair[1]}"),
    max_size=4,
)


@given(
    addresses=ADDRESSES,
    family=st.sampled_from(["unicast", "vpn", "evpn"]),
    advertise=st.sampled_from(["host", "subnet"]),
    restarts=st.integers(0, 1),
)
def test_the_same_attachment_has_the_same_routes_in_every_life(
    addresses: list[str], family: Literal["unicast"], advertise: Literal["host"], restarts: int
) -> None:
    """No duplicates, no order that changes, nothing that the record's way over the disk would change."""
    rd = None if family == "unicast" else "192.0.2.9:1"
    item = attachment(*addresses, family=family, advertise=advertise, rd=rd, vni=90 if rd else None)
    routes = derive(item, NODE)
    again = Attachment.model_validate_json(item.model_dump_json(by_alias=True))
    assert derive(again, replace(NODE)) == routes
    nlris = [route.nlri for route in routes]
    assert len(nlris) == len(set(nlris))
    assert all(route.network == "net" for route in routes)
    assert bool(routes) == bool(addresses or family == "evpn")


def test_a_container_that_came_from_elsewhere_says_so() -> None:
    """Its MAC's routes carry the sequence of its ADD (RFC 7432 section 7.7); those of the network do not."""
    moved = attachment("10.1.2.3/24", family="evpn", vni=90, rd="192.0.2.9:1").model_copy(update={"mobility": 3})
    assert {route.nlri.kind: route.mobility for route in derive(moved, NODE)} == {"mac-ip": 3, "multicast": 0}
    bare = attachment(family="evpn", vni=90, rd="192.0.2.9:1").model_copy(update={"mobility": 3})
    assert {route.nlri.kind: route.mobility for route in derive(bare, NODE)} == {"mac-ip": 3, "multicast": 0}
