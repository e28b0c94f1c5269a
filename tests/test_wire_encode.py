"""What is put on the wire for a route, and what is refused rather than sent."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpcni.bgp import gateway_mac
from bgpcni.model import ROUTES, Announcement, Family, IpPrefixNlri, MacIpNlri, MulticastNlri, UnicastNlri, VpnNlri
from bgpcni.wire.decode import decode_attributes, decode_nlri
from bgpcni.wire.encode import encode, encode_withdrawal
from bgpcni.wire.nlri import BY_CODE, EVPN_TYPES, EvpnType, ReadNlri, write_nlri
from bgpcni.wire.values import Malformed, Unencodable, read_administered, route_distinguisher

UNICAST = Announcement(UnicastNlri(Family.IPV4_UNICAST, "10.1.2.3/32"), "net", "192.0.2.1")

numbers16, numbers32 = st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
ipv4 = st.integers(1 << 24, (127 << 24) - 1).map(lambda n: str(IPv4Address(n)))
ipv6 = st.integers(0x2000 << 112, (0x3FFF << 112) - 1).map(lambda n: str(IPv6Address(n)))
administered = st.one_of(
    st.builds("{}:{}".format, numbers16, numbers32),
    st.builds("{}:{}".format, st.integers(1 << 16, 0xFFFFFFFF), numbers16),
    st.builds("{}:{}".format, ipv4, numbers16),
)
prefix4 = st.builds(lambda a, n: str(IPv4Network((a, n), strict=False)), ipv4, st.integers(0, 32))
prefix6 = st.builds(lambda a, n: str(IPv6Network((a, n), strict=False)), ipv6, st.integers(0, 128))
hosts = st.one_of(ipv4.map("{}/32".format), ipv6.map("{}/128".format))
macs = st.binary(min_size=6, max_size=6).filter(lambda m: not m[0] & 1 and any(m)).map(lambda m: m.hex(":"))
F = Family
nlris = st.one_of(
    st.builds(lambda p: UnicastNlri(F.IPV4_UNICAST, p), prefix4),
    st.builds(lambda p: UnicastNlri(F.IPV6_UNICAST, p), prefix6),
    st.builds(lambda p, r: VpnNlri(F.IPV4_VPN, p, r), prefix4, administered),
    st.builds(lambda p, r: VpnNlri(F.IPV6_VPN, p, r), prefix6, administered),
    st.builds(
        lambda r, m, p, t: MacIpNlri(r, m, p, tag=t),
        administered,
        macs,
        st.none() | hosts,
        numbers32,
    ),
    st.builds(lambda r, o, t: MulticastNlri(r, o, tag=t), administered, ipv4, numbers32),
    st.builds(
        lambda r, p, t: IpPrefixNlri(r, p, tag=t),
        administered,
        prefix4 | prefix6,
        numbers32,
    ),
)


@st.composite
def announcements(draw: st.DrawFn) -> Announcement:
    nlri = draw(nlris)
    standard = st.builds("{}:{}".format, numbers16, numbers16)
    large = st.builds("{}:{}:{}".format, numbers32, numbers32, numbers32)
    return Announcement(
        nlri,
        "net",
        draw(ipv6 if nlri.family in (F.IPV6_UNICAST, F.IPV6_VPN) else ipv4),
        export_rt=tuple(draw(st.lists(administered, max_size=40))),
        communities=(*draw(st.lists(standard, max_size=70)), *draw(st.lists(large, max_size=30))),
        local_preference=draw(st.none() | numbers32),
        med=draw(st.none() | numbers32),
        vni=draw(st.integers(1, (1 << 24) - 1)) if nlri.family is F.L2VPN_EVPN else None,
        label=draw(st.integers(16, (1 << 20) - 1)) if nlri.kind == "vpn" else None,
        mobility=draw(numbers32) if nlri.kind == "mac-ip" else 0,
        router_mac=draw(st.none() | st.just("02:5e:c0:00:02:09")) if nlri.kind == "ip-prefix" else None,
    )


@given(announcements(), st.sampled_from(["ibgp", "ebgp"]), st.integers(1, 0xFFFFFFFF))
def test_a_route_reads_back_as_it_was_wanted(route, kind, asn):
    """Prefix, RD, MAC, label, VNI, communities and route targets arrive at the peer as configured."""
    wire = encode(route, asn, kind)
    found = decode_nlri(wire.family, wire.nlri)
    assert found.nlri == route.nlri
    assert found.label == route.label
    assert found.vni == (None if route.nlri.kind == "multicast" else route.vni)
    seen = decode_attributes(wire.attributes)
    assert (seen.origin, seen.as_path) == (0, (asn,) if kind == "ebgp" else ())
    wanted = 100 if route.local_preference is None else route.local_preference
    assert seen.local_pref == (wanted if kind == "ibgp" else None)
    assert seen.med == route.med
    assert seen.communities == route.communities
    assert seen.route_targets == route.export_rt
    assert seen.encapsulation == (8 if route.nlri.family is F.L2VPN_EVPN else None)
    assert seen.mobility == route.mobility
    assert seen.tunnel == (route.next_hop if route.nlri.kind == "multicast" else None)
    assert seen.router_mac == (route.router_mac or gateway_mac(route.vni) if route.nlri.kind == "ip-prefix" else None)


@given(announcements())
def test_a_withdrawal_has_the_key_of_its_announcement(route):
    """Whatever label or VNI a route has, its withdrawal names the same route."""
    assert encode_withdrawal(route.nlri)[1] == encode(route, 64512, "ibgp").key


@given(nlris, nlris)
def test_two_routes_share_a_key_only_if_they_are_one(one, other):
    """No two routes of a family are taken for each other."""
    if one.family is other.family:
        assert (encode_withdrawal(one)[1] == encode_withdrawal(other)[1]) == (one == other)


@given(st.sampled_from(sorted(ROUTES)), st.binary(max_size=80))
def test_any_octets_decode_or_are_malformed(family, octets):
    """The decoder never fails but by saying that the octets are malformed."""
    for decode in (lambda: decode_nlri(family, octets), lambda: decode_attributes(octets)):
        try:
            decode()
        except Malformed:
            pass


def test_octets_of_known_routes():
    """The encodings of the RFCs, octet by octet."""
    assert encode(UNICAST, 64512, "ibgp").nlri == bytes.fromhex("200a010203")
    assert encode(UNICAST, 64512, "ibgp").attributes == bytes.fromhex("40010100 400200 400504 00000064")
    assert encode(UNICAST, 64512, "ebgp").attributes == bytes.fromhex("40010100 40020602010000fc00")
    vpn = VpnNlri(F.IPV4_VPN, "10.1.2.0/24", "64512:7")
    assert write_nlri(vpn, vni=None, label=100)[0] == bytes.fromhex("70 000641 0000fc0000000007 0a0102")
    assert encode_withdrawal(vpn)[0] == bytes.fromhex("70 800000 0000fc0000000007 0a0102")
    mac = MacIpNlri("192.0.2.1:3", "02:00:00:00:00:01", "10.1.2.3/32")
    assert write_nlri(mac, vni=5001, label=None)[0] == bytes.fromhex(
        "0225 0001c00002010003 00000000000000000000 00000000 30 020000000001 20 0a010203 001389"
    )


def test_a_further_evpn_type_is_a_class_and_a_line(monkeypatch):
    """Type 4, say (RFC 7432 section 7.4): whoever adds it to the table can announce it, withdraw it and learn it."""

    class SegmentNlri(NamedTuple):
        rd: str
        esi: bytes
        kind: str = "segment"
        family: Family = F.L2VPN_EVPN

    def written(nlri, vni):
        return (route_distinguisher(nlri.rd) + nlri.esi,) * 2

    def read(value):
        return ReadNlri(SegmentNlri(read_administered(0, value[2:8]), value[8:]))

    segment = EvpnType(4, written, read, lambda route: b"\x06\x02" + route.nlri.esi[1:7], has_vni=False)
    monkeypatch.setitem(EVPN_TYPES, SegmentNlri, segment)
    monkeypatch.setitem(BY_CODE, 4, segment)
    route = Announcement(SegmentNlri("64512:7", bytes(range(10))), "net", "192.0.2.1")
    wire = encode(route, 64512, "ibgp")
    assert decode_nlri(wire.family, wire.nlri).nlri == route.nlri
    assert encode_withdrawal(route.nlri) == (wire.nlri, wire.key)
    assert bytes.fromhex("0602 010203040506") in wire.attributes


def test_well_known_communities_have_names():
    """`no-export`, `NO_EXPORT` and `65535:65281` are the same community."""
    octets = {
        encode(Announcement(UNICAST.nlri, "net", "192.0.2.1", communities=(name,)), 1, "ibgp").attributes
        for name in ("no-export", "NO_EXPORT", "65535:65281")
    }
    assert len(octets) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"next_hop": "fe80::1%eth0"}, "next hop"),
        ({"next_hop": "0.0.0.0"}, "next hop"),
        ({"next_hop": "2001:db8::1"}, "RFC 8950"),
        ({"next_hop": "x"}, "no IP address"),
        ({"communities": ("64512:70000",)}, "70000"),
        ({"communities": ("a:b",)}, "community 'a:b'"),
        ({"communities": ("1:2:3:4",)}, "neither two numbers"),
        ({"communities": tuple(f"1:2:{n}" for n in range(300))}, "do not fit"),
        ({"local_preference": 1 << 32}, "local preference 4294967296"),
        ({"med": -1}, "MED -1"),
        ({"export_rt": ("64512",)}, "no colon"),
        ({"export_rt": ("70000:70000",)}, "70000"),
        ({"export_rt": ("1.2.3.400:1",)}, "no IPv4 address"),
        ({"nlri": UnicastNlri(F.IPV4_UNICAST, "10.1.2.3/24")}, "host bits"),
        ({"nlri": UnicastNlri(F.IPV4_UNICAST, "2001:db8::/64")}, "family"),
        ({"nlri": UnicastNlri(F.IPV4_UNICAST, "224.0.0.1/32")}, "multicast"),
        ({"nlri": VpnNlri(F.IPV4_UNICAST, "10.0.0.0/8", "1:1")}, "kind vpn"),
        ({"nlri": UnicastNlri(F.L2VPN_EVPN, "10.0.0.0/8")}, "kind unicast"),
        ({"nlri": VpnNlri(F.IPV4_VPN, "10.0.0.0/8", "1:1")}, "label"),
        ({"nlri": VpnNlri(F.IPV4_VPN, "10.0.0.0/8", "1:1"), "label": 3}, "label"),
        ({"nlri": VpnNlri(F.IPV4_VPN, "10.0.0.0/8", ""), "label": 16}, "distinguisher"),
        ({"nlri": MacIpNlri("1:1", "02:00:00:00:00:01")}, "VNI"),
        ({"nlri": MacIpNlri("1:1", "01:00:00:00:00:01"), "vni": 5}, "unicast MAC"),
        (
            {"nlri": MacIpNlri("1:1", "02:00:00:00:00:01", "10.0.0.0/8"), "vni": 5},
            "host",
        ),
        ({"nlri": MulticastNlri("1:1", "2001:db8::1"), "vni": 5}, "IPv6 VTEP"),
        ({"nlri": MulticastNlri("1:1", "192.0.2.1"), "vni": 1 << 24}, "VNI"),
    ],
)
def test_what_would_reset_the_session_is_refused_in_words(change, words):
    """A bad value concerns its own route only, and the reason names it."""
    fields = {name: getattr(UNICAST, name) for name in UNICAST.__dataclass_fields__}
    with pytest.raises(Unencodable, match=words):
        encode(Announcement(**{**fields, **change}), 64512, "ibgp")
