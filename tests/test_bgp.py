"""BGP's small values as people write them."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpcni import bgp

AS2, AS4 = st.integers(0, 0xFFFF), st.integers(0x10000, 0xFFFFFFFF)
LOW, HIGH = st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
ADMINISTERED = st.one_of(
    st.tuples(AS2, HIGH).map(lambda p: f"{p[0]}:{p[1]}"),
    st.tuples(AS4, LOW).map(lambda p: f"{p[0]}:{p[1]}"),
    st.tuples(st.ip_addresses(v=4), LOW).map(lambda p: f"{p[0]}:{p[1]}"),
)
COMMUNITY = st.one_of(
    st.tuples(LOW, LOW).map(lambda p: f"{p[0]}:{p[1]}"),
    st.tuples(HIGH, HIGH, HIGH).map(lambda p: ":".join(map(str, p))),
)


@given(ADMINISTERED)
def test_every_route_target_is_its_own_canonical_text(text: str) -> None:
    """2-octet AS, 4-octet AS, IPv4: what is written is what is announced and shown."""
    assert bgp.route_target(text) == text
    assert bgp.route_distinguisher(f"  {text}\n") == text


@given(COMMUNITY)
def test_every_community_is_its_own_canonical_text(text: str) -> None:
    """Standard and large."""
    assert bgp.community(text) == text


@given(st.one_of(st.text(), ADMINISTERED, COMMUNITY, st.from_regex(r"[0-9.:a-f]{0,20}")))
def test_what_passes_can_be_encoded_and_passes_again(text: str) -> None:
    """Whatever the text: a canonical value in range, or a ValueError in words."""
    for check in (bgp.route_target, bgp.route_distinguisher, bgp.community):
        try:
            once = check(text)
        except ValueError:
            continue
        assert check(once) == once
        parts = once.split(":")
        assert all(part.isascii() for part in parts)
        if check is bgp.community:
            top = 0xFFFF if len(parts) == 2 else 0xFFFFFFFF
            assert len(parts) in (2, 3)
            assert all(int(part) <= top for part in parts)
            continue
        octets = 4 if "." in parts[0] or int(parts[0]) > 0xFFFF else 2
        if "." in parts[0]:
            assert str(IPv4Address(parts[0])) == parts[0]
        assert int(parts[1]) < 1 << 8 * (6 - octets)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it takes the form"),
        ("64512", "it takes the form"),
        (":1", "it takes the form"),
        ("64512:", "'' is not a number"),
        ("64512:-1", "not a number"),
        ("64512:+1", "not a number"),
        ("64512:01", "not a number"),
        ("64512: 1", "not a number"),
        ("٦:1", "not a number"),
        ("64512:4294967296", "over 4294967295"),
        ("4200000000:65536", "over 65535"),
        ("4294967296:1", "over 4294967295"),
        ("192.0.2.1:65536", "over 65535"),
        ("192.0.2:1", "no IPv4 address"),
        ("192.0.2.01:1", "no IPv4 address"),
        ("2001:db8::1:1", "not a number"),
        ("9" * 5000 + ":1", "not a route target"),
    ],
)
def test_what_is_wrong_with_a_route_target_is_said(text: str, words: str) -> None:
    """The message fits behind a key's name."""
    with pytest.raises(ValueError, match=words):
        bgp.route_target(text)


@pytest.mark.parametrize(("name", "value"), bgp.WELL_KNOWN.items())
def test_well_known_communities_have_names(name: str, value: str) -> None:
    """In any case of letters; a number is as good."""
    assert bgp.community(name.upper()) == value == bgp.community(value)


def test_a_misspelt_community_gets_a_hint() -> None:
    with pytest.raises(ValueError, match="did you mean 'no-export'"):
        bgp.community("no-exprot")
    with pytest.raises(ValueError, match="over 65535"):
        bgp.community("65536:1")


@pytest.mark.parametrize("value", [0, -1, 1 << 24])
def test_vnis_have_24_bits_and_are_not_zero(value: int) -> None:
    assert bgp.vni(1) == 1
    assert bgp.vni(bgp.MAX_VNI) == (1 << 24) - 1
    with pytest.raises(ValueError, match=r"under 1|over 16777215"):
        bgp.vni(value)


@pytest.mark.parametrize(
    ("targets", "vni"),
    [([], None), (["64512:90"], 90), (["64512:0"], None), (["64512:16777216", "64512:1"], None), (["192.0.2.1:7"], 7)],
)
def test_the_first_route_target_stands_for_the_vni(targets: list[str], vni: int | None) -> None:
    """`64512:90` → 90, as the article's configuration had it."""
    assert bgp.vni_of(targets) == vni


@pytest.mark.parametrize(
    ("call", "text", "expected"),
    [
        (bgp.host_prefix, "10.1.2.3/24", "10.1.2.3/32"),
        (bgp.host_prefix, "2001:DB8::1", "2001:db8::1/128"),
        (bgp.subnet, "10.1.2.3/24", "10.1.2.0/24"),
        (bgp.subnet, "2001:db8::1/64", "2001:db8::/64"),
    ],
)
def test_prefixes_are_canonical(call: Callable[[str], str], text: str, expected: str) -> None:
    assert call(text) == expected


def test_a_vteps_router_mac_is_its_own_for_good() -> None:
    """A unicast MAC, locally administered; another VTEP has another, whatever its family."""
    assert bgp.router_mac("192.0.2.9") == "02:5e:c0:00:02:09"
    assert bgp.router_mac("2001:db8::1") == bgp.router_mac("2001:db8:0::1") != bgp.router_mac("2001:db8::2")
