"""Decoding the UPDATEs of a peer: every value of every family arrives, and malformed routes do not."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_wire_encode import announcements, nlris

from bgpcni.exporter import EndOfRib, Gone, Learned, PathAttributes
from bgpcni.model import ROUTES, Announcement, Family, MacIpNlri, Nlri, UnicastNlri
from bgpcni.wire.decode import FAMILIES, Unusable, decode_update
from bgpcni.wire.encode import attribute, encode, encode_withdrawal

PEER = "192.0.2.7"
CODES = {family: pack("!HB", *code) for code, family in FAMILIES.items()}
V4 = UnicastNlri(Family.IPV4_UNICAST, "10.1.2.0/24")
ORIGIN, PATH = attribute(0x40, 1, b"\0"), attribute(0x40, 2, b"")
HOP = attribute(0x40, 3, bytes([192, 0, 2, 9]))
EVPN = CODES[Family.L2VPN_EVPN]


def update(attributes: bytes, new: bytes = b"", gone: bytes = b"") -> bytes:
    return pack("!H", len(gone)) + gone + pack("!H", len(attributes)) + attributes + new


def reach(family: Family, hop: str, *wires: bytes) -> bytes:
    packed = ip_address(hop).packed
    if family in (Family.IPV4_VPN, Family.IPV6_VPN):
        packed = bytes(8) + packed
    value = CODES[family] + bytes([len(packed)]) + packed + b"\0" + b"".join(wires)
    return attribute(0x80, 14, value)


def seen(body: bytes, internal: bool = True, asn4: bool = True) -> tuple[Learned | Gone | EndOfRib, ...]:
    found = decode_update(PEER, body, internal=internal, asn4=asn4)
    assert not found.faults
    return found.events


@given(announcements(), st.sampled_from(["ibgp", "ebgp"]))
def test_what_one_node_announces_another_learns(route: Announcement, kind: str) -> None:
    """Next hop, route targets, communities, VNI, label, mobility, tunnel and Router's MAC arrive as they were meant."""
    wire = encode(route, 64512, kind)  # type: ignore[arg-type]
    body = update(reach(wire.family, wire.next_hop, wire.nlri) + wire.attributes)
    (learned,) = seen(body, internal=kind == "ibgp")
    assert isinstance(learned, Learned)
    assert learned.nlri == route.nlri
    assert (learned.peer, learned.vni, learned.label) == (PEER, route.vni, route.label)
    found = learned.attributes
    assert found.next_hop == route.next_hop
    assert found.route_targets == route.export_rt
    assert found.communities == route.communities
    assert found.as_path == ((64512,) if kind == "ebgp" else ())
    wanted = 100 if route.local_preference is None else route.local_preference
    assert found.local_pref == (wanted if kind == "ibgp" else None)
    assert found.med == route.med
    assert found.mobility == route.mobility
    assert found.tunnel == (route.next_hop if route.nlri.kind == "multicast" else None)


@given(nlris)
def test_a_withdrawal_names_its_route(nlri: Nlri) -> None:
    """MP_UNREACH_NLRI of any family."""
    value = CODES[nlri.family] + encode_withdrawal(nlri)[0]
    assert seen(update(attribute(0x90, 15, value) if len(value) > 255 else attribute(0x80, 15, value))) == (
        Gone(PEER, nlri),
    )


def test_ipv4_routes_in_the_message_itself() -> None:
    """The fields of RFC 4271: withdrawn routes, NEXT_HOP, NLRI; bits beyond the length of a prefix mean nothing."""
    body = update(ORIGIN + PATH + HOP, bytes([20, 10, 1, 0x2F]), bytes([8, 10, 0]))
    gone, learned = seen(update(ORIGIN + PATH + HOP, bytes([20, 10, 1, 0x2F]), bytes([8, 10])))
    assert gone == Gone(PEER, UnicastNlri(Family.IPV4_UNICAST, "10.0.0.0/8"))
    assert isinstance(learned, Learned)
    assert learned.nlri.prefix == "10.1.32.0/20"
    assert learned.attributes == PathAttributes("192.0.2.9")
    assert decode_update(PEER, body, internal=True).events[0] == gone


@pytest.mark.parametrize("family", sorted(ROUTES))
def test_end_of_rib(family: Family) -> None:
    """RFC 4724 section 2, of each family."""
    body = bytes(4) if family is Family.IPV4_UNICAST else update(attribute(0x80, 15, CODES[family]))
    assert seen(body) == (EndOfRib(PEER, family),)
    assert seen(update(attribute(0x80, 15, CODES[family]))) == (EndOfRib(PEER, family),)


def test_every_attribute() -> None:
    """MED, ORIGINATOR_ID, CLUSTER_LIST, sticky MAC mobility, a second label, an IPv6 next hop with a link-local one."""
    mac_ip = bytes.fromhex("0001c00002010003") + bytes(14) + b"\x30\x02\x00\x00\x00\x00\x01\x00"
    extended = bytes.fromhex("0002fc0000001389 0202fa56ea000007 0102c00002090003 030c00000000000a 030c000000000008")
    extended += bytes.fromhex("0600010000000009 060302005e001389 4004000000000000")
    attributes = (
        attribute(0x40, 1, b"\x02")
        + attribute(0x40, 2, bytes.fromhex("0202 0000fde8 fa56ea00 0101 0000fde9"))
        + attribute(0x80, 4, b"\0\0\0\x05")
        + attribute(0x40, 5, b"\0\0\0\xc8")
        + attribute(0xC0, 8, bytes.fromhex("fc000064"))
        + attribute(0x80, 9, bytes([192, 0, 2, 1]))
        + attribute(0x80, 10, bytes([192, 0, 2, 2, 192, 0, 2, 3]))
        + attribute(0xC0, 16, extended)
        + attribute(0xC0, 32, pack("!III", 1, 2, 3))
        + attribute(0xC0, 99, b"unknown")
    )
    hop = ip_address("2001:db8::1").packed + ip_address("fe80::1").packed
    nlri = bytes([2, 36]) + mac_ip + b"\0\x13\x89\0\x13\x8a"
    value = EVPN + bytes([32]) + hop + b"\0" + nlri + bytes([9, 1, 0])
    (learned,) = seen(update(attribute(0x80, 14, value) + attributes))
    assert learned == Learned(
        PEER,
        MacIpNlri("192.0.2.1:3", "02:00:00:00:00:01"),
        PathAttributes(
            next_hop="2001:db8::1",
            route_targets=("64512:5001", "4200000000:7", "192.0.2.9:3"),
            communities=("64512:100", "1:2:3"),
            as_path=(65000, 4200000000, 65001),
            origin=2,
            local_pref=200,
            med=5,
            mobility=9,
            sticky=True,
            router_mac="02:00:5e:00:13:89",
            encapsulation=8,
            originator="192.0.2.1",
            clusters=("192.0.2.2", "192.0.2.3"),
        ),
        vni=5001,
        l3_vni=5002,
    )


def test_a_gateway_of_a_type_5() -> None:
    """RFC 9136 section 3.1: a gateway address that is not zero."""
    value = bytes.fromhex("0000fc0000000001") + bytes(14) + bytes([24, 10, 9, 1, 0, 10, 0, 0, 1, 0, 0, 7])
    (learned,) = seen(update(reach(Family.L2VPN_EVPN, "192.0.2.1", bytes([5, 34]) + value) + ORIGIN + PATH))
    assert isinstance(learned, Learned)
    assert (learned.nlri.prefix, learned.gateway, learned.vni) == ("10.9.1.0/24", "10.0.0.1", 7)


def test_a_peer_without_four_octet_as_numbers() -> None:
    """AS4_PATH replaces the end of an AS_PATH of two octets (RFC 6793)."""
    path = attribute(0x40, 2, bytes.fromhex("0203 fde8 5ba0 5ba0"))
    four = attribute(0xC0, 17, bytes.fromhex("0202 fa56ea00 fa56ea01"))
    (learned,) = seen(update(ORIGIN + path + HOP + four, bytes([8, 10])), internal=False, asn4=False)
    assert isinstance(learned, Learned)
    assert learned.attributes.as_path == (65000, 4200000000, 4200000001)


@pytest.mark.parametrize(
    "attributes",
    [
        attribute(0x40, 1, b"\x03") + PATH + HOP,  # no such ORIGIN
        attribute(0x40, 1, b"") + PATH + HOP,
        attribute(0xC0, 1, b"\0") + PATH + HOP,  # flags
        PATH + HOP,  # no ORIGIN
        ORIGIN + HOP,  # no AS_PATH
        ORIGIN + PATH,  # no NEXT_HOP
        ORIGIN + attribute(0x40, 2, b"\x02\x02\0\0\0\x01") + HOP,
        ORIGIN + attribute(0x40, 2, b"\x09\x01\0\0\0\x01") + HOP,
        ORIGIN + PATH + attribute(0x40, 3, bytes(16)),
        ORIGIN + PATH + HOP + attribute(0x80, 4, b"\0"),
        ORIGIN + PATH + HOP + attribute(0x40, 5, b"\0"),
        ORIGIN + PATH + HOP + attribute(0xC0, 8, b"\0\0\0"),
        ORIGIN + PATH + HOP + attribute(0x80, 9, b"\0\0\0"),
        ORIGIN + PATH + HOP + attribute(0xC0, 16, b"\0\0\0"),
        ORIGIN + PATH + HOP + attribute(0xC0, 22, b"\0\0\0"),
        ORIGIN + PATH + HOP + attribute(0xC0, 32, b"\0\0\0"),
        ORIGIN + PATH + HOP + b"\x40\x05\x20\0",  # longer than the message
        ORIGIN + PATH + HOP + b"\x40",
    ],
)
def test_a_route_with_a_bad_attribute_is_treated_as_withdrawn(attributes: bytes) -> None:
    """RFC 7606 section 7: the session and the other routes stay; the fault is told in words."""
    found = decode_update(PEER, update(attributes, bytes([24, 10, 1, 2])), internal=True)
    assert found.events == (Gone(PEER, V4),)
    assert found.faults
    assert "treated as withdrawn" in found.faults[0]
    assert not found.given_up


def test_what_an_external_peer_may_not_say_is_discarded() -> None:
    """LOCAL_PREF, ORIGINATOR_ID and CLUSTER_LIST over eBGP (RFC 7606 section 7), whatever is in them."""
    extra = attribute(0x40, 5, b"\0") + attribute(0x80, 9, b"\0") + attribute(0x80, 10, b"\0")
    (learned,) = seen(update(ORIGIN + PATH + HOP + extra, bytes([8, 10])), internal=False)
    assert isinstance(learned, Learned)
    assert learned.attributes == PathAttributes("192.0.2.9")


@pytest.mark.parametrize(
    ("family", "value"),
    [
        (Family.IPV6_UNICAST, b"\x10" + bytes(16) + b"\0\xff\x20\x01"),  # a prefix of 255 bits
        (Family.IPV6_UNICAST, b"\x10" + bytes(16) + b"\0\x80\x20\x01"),  # cut short
        (Family.IPV6_UNICAST, b"\x04" + bytes(4) + b"\0"),  # the next hop of another family
        (Family.IPV4_VPN, b"\x0c" + bytes(12) + b"\0\x20" + bytes(4)),  # no room for label and RD
        (Family.L2VPN_EVPN, b"\x04" + bytes(4) + b"\0\x02\x21\0"),
        (Family.L2VPN_EVPN, b"\x40" + bytes(4)),
        (Family.L2VPN_EVPN, b""),
    ],
)
def test_a_family_whose_routes_cannot_be_found_is_given_up(family: Family, value: bytes) -> None:
    """RFC 7606 section 3 (j): that family is ignored until the next session, the others go on."""
    good = bytes([24, 10, 1, 2])
    mp = attribute(0x80, 14, CODES[family] + value)
    found = decode_update(PEER, update(mp + ORIGIN + PATH + HOP, good), internal=True)
    assert found.given_up == (family,)
    assert [e.nlri for e in found.events if isinstance(e, Learned)] == [V4]


@pytest.mark.parametrize(
    "value",
    [
        b"\x02\x21" + bytes(33),  # no MAC address of 48 bits
        b"\x02\x25" + bytes(22) + b"\x30" + bytes(6) + b"\x10" + bytes(7),  # an address of 16 bits
        b"\x03\x11" + bytes(12) + b"\x10" + bytes(4),
        b"\x05\x20" + bytes(32),
        b"\x05\x22\0\x09" + bytes(32),  # an RD of no known type
    ],
)
def test_an_evpn_route_that_cannot_be_read_is_ignored(value: bytes) -> None:
    """Its length is known, so those after it are still found."""
    good = b"\x03\x11" + bytes.fromhex("0000fc0000000001") + bytes(4) + b"\x20" + bytes([192, 0, 2, 1])
    pmsi = attribute(0xC0, 22, b"\0\x06\0\0\x07" + bytes([192, 0, 2, 1]))
    body = update(reach(Family.L2VPN_EVPN, "192.0.2.1", value, good) + ORIGIN + PATH + pmsi)
    found = decode_update(PEER, body, internal=True)
    (learned,) = found.events
    assert isinstance(learned, Learned)
    assert (learned.nlri.originator, learned.vni, learned.attributes.tunnel) == ("192.0.2.1", 7, "192.0.2.1")
    assert len(found.faults) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0\0\0",
        b"\0\x09\0\0",  # more withdrawn routes than octets
        b"\0\0\0\x09",  # more attributes than octets
        update(reach(Family.IPV6_UNICAST, "2001:db8::1") * 2),
        update(attribute(0x80, 15, b"\0")),
    ],
)
def test_what_leaves_only_the_end_of_the_session(body: bytes) -> None:
    """RFC 7606 section 3: where the lengths of an UPDATE contradict each other."""
    with pytest.raises(Unusable):
        decode_update(PEER, body, internal=True)


@given(st.binary(max_size=300), st.booleans(), st.booleans())
def test_any_octets(body: bytes, internal: bool, asn4: bool) -> None:
    """Whatever comes is decoded, or said to be unusable."""
    try:
        decode_update(PEER, body, internal=internal, asn4=asn4)
    except Unusable:
        pass


@given(announcements(), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4))
def test_a_damaged_update(route: Announcement, damage: list[tuple[int, int]]) -> None:
    """Some octets of a good UPDATE changed: what is learned still has values of the right kind only."""
    wire = encode(replace(route, export_rt=route.export_rt[:3]), 64512, "ibgp")
    body = bytearray(update(reach(wire.family, wire.next_hop, wire.nlri) + wire.attributes))
    for place, octet in damage:
        body[place % len(body)] = octet
    try:
        found = decode_update(PEER, bytes(body), internal=True)
    except Unusable:
        return
    for event in found.events:
        if isinstance(event, Learned):
            ip_address(event.attributes.next_hop)
            assert event.nlri.family in Family


def test_between_two_routers_without_other_addresses_the_link_local_next_hop_counts() -> None:
    """RFC 8950 and RFC 2545: alone or after the global one. Without a zone the global one counts, as ever."""
    both = bytes.fromhex("20010db8" + "00" * 11 + "09" + "fe80" + "00" * 13 + "02")
    for hop, plain in ((both, "2001:db8::9"), (both[16:], "fe80::2")):
        for afi, prefix in ((1, bytes([16, 10, 1])), (2, bytes([16, 0x20, 0x01]))):
            mp = bytes([0, afi, 1, len(hop)]) + hop + b"\0" + prefix
            body = update(bytes([0x80, 14, len(mp)]) + mp + ORIGIN + PATH)
            (there,) = decode_update(PEER, body, internal=True, zone="eth1").events
            assert there.attributes.next_hop == "fe80::2%eth1"
            (there,) = decode_update(PEER, body, internal=True).events
            assert there.attributes.next_hop == plain
