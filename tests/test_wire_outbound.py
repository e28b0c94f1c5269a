"""What a neighbour hears of a route, by its export policy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpcni.model import (
    Announcement,
    ExportPolicy,
    IpPrefixNlri,
    MacIpNlri,
    MulticastNlri,
    Nlri,
    UnicastNlri,
    VpnNlri,
)
from bgpcni.wire.outbound import adapt, hears

HOSTS: list[Nlri] = [
    UnicastNlri.of("10.1.2.3/32"),
    UnicastNlri.of("2001:db8::1/128"),
    VpnNlri.of("10.1.2.3/32", "1:1"),
    MacIpNlri("1:1", "02:00:00:00:00:01", "10.1.2.3/32"),
    MacIpNlri("1:1", "02:00:00:00:00:01"),
    IpPrefixNlri("1:1", "2001:db8::1/128"),
]
BLOCKS: list[Nlri] = [
    UnicastNlri.of("10.1.2.0/26"),
    UnicastNlri.of("2001:db8::/32"),
    VpnNlri.of("2001:db8::/122", "1:1"),
    IpPrefixNlri("1:1", "10.1.2.0/24"),
]
TYPE_3 = MulticastNlri("1:1", "192.0.2.1")
NETWORKS = st.sampled_from(["tenant-a", "tenant-b", "other", ""])
NUMBERS = st.none() | st.integers(0, 0xFFFFFFFF)
COMMUNITIES = st.lists(st.sampled_from(["64512:1", "64512:2", "65535:0", "1:2:3"]), unique=True).map(tuple)
ROUTES = st.builds(
    Announcement,
    nlri=st.sampled_from([*HOSTS, *BLOCKS, TYPE_3]),
    network=NETWORKS,
    next_hop=st.just("192.0.2.1"),
    communities=COMMUNITIES,
    local_preference=NUMBERS,
    med=NUMBERS,
)
POLICIES = st.builds(
    ExportPolicy,
    networks=st.lists(st.sampled_from(["tenant-*", "other", "*"]), unique=True).map(tuple),
    only=st.sampled_from([None, "hosts", "blocks"]),
    communities=COMMUNITIES,
    local_preference=NUMBERS,
    med=NUMBERS,
)


def route(nlri: Nlri, network: str = "tenant-a") -> Announcement:
    return Announcement(nlri, network, "192.0.2.1")


@pytest.mark.parametrize("nlri", [*HOSTS, *BLOCKS, TYPE_3], ids=str)
def test_hosts_or_blocks(nlri: Nlri) -> None:
    """By the length of the prefix; type 3, without which EVPN floods nothing, is heard in any case."""
    found = {only: hears(route(nlri), ExportPolicy(only=only)) for only in (None, "hosts", "blocks")}  # type: ignore[arg-type]
    assert found == {None: True, "hosts": nlri not in BLOCKS, "blocks": nlri not in HOSTS}


@pytest.mark.parametrize(
    ("patterns", "network", "heard"),
    [
        ((), "x", True),
        (("tenant-*",), "tenant-a", True),
        (("tenant-?", "x"), "x", True),
        (("Tenant-*",), "tenant-a", False),
    ],
)
def test_networks_by_pattern(patterns: tuple[str, ...], network: str, heard: bool) -> None:
    """One of the patterns has to match, in the same case; without any every network is heard."""
    assert (adapt(route(HOSTS[0], network), ExportPolicy(networks=patterns)) is not None) is heard


@given(ROUTES, POLICIES)
def test_a_policy_changes_only_what_it_says(sent: Announcement, policy: ExportPolicy) -> None:
    """The NLRI stays, communities are added once, single values are the policy's where it has one; but nothing raises
    the local preference of a route that announces a graceful shutdown."""
    heard = adapt(sent, policy)
    assert (heard is not None) is hears(sent, policy)
    if heard is None:
        return
    assert (heard.nlri, heard.network, heard.next_hop) == (sent.nlri, sent.network, sent.next_hop)
    assert heard.communities[: len(sent.communities)] == sent.communities
    assert set(heard.communities) == {*sent.communities, *policy.communities}
    assert len(set(heard.communities)) == len(heard.communities)
    assert heard.med == (sent.med if policy.med is None else policy.med)
    leaves = "65535:0" in sent.communities
    own = policy.local_preference is None or leaves
    assert heard.local_preference == (sent.local_preference if own else policy.local_preference)


def test_the_next_hop_is_by_ip_version_and_never_that_of_evpn() -> None:
    """The VTEP is where VXLAN ends, whoever hears of it."""
    policy = ExportPolicy(next_hop="192.0.2.7", next_hop6="2001:db8::7")
    hops = [getattr(adapt(route(nlri), policy), "next_hop", None) for nlri in (*HOSTS[:4], TYPE_3)]
    assert hops == ["192.0.2.7", "2001:db8::7", "192.0.2.7", "192.0.2.1", "192.0.2.1"]
