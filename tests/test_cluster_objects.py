"""The cluster's objects: what is taken, what is refused, and that the error says where."""

from __future__ import annotations

from typing import Any

import pytest

from bgpcni.cluster.objects import contradictions, kind_of, parse
from bgpcni.errors import InvalidConfiguration


def document(kind: str, name: str = "a", **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "bgpcni.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


PEER: dict[str, Any] = {"address": "192.0.2.1", "asn": 64512}


@pytest.mark.parametrize(
    "given",
    [
        document("BGPPeer", **PEER, nodeSelector={"rack": "r1"}, holdTime=30, families=["l2vpn-evpn"]),
        document("BGPPeer", gateway=True),
        document("BGPPeer", peerSelector={"role": "rr"}, **{"import": {"prefixes": ["10.0.0.0/8"]}}),
        document("IPPool", cidrs=["10.1.0.0/16", "2001:db8::/56"], blockSize={"ipv4": 27}, static=["10.1.0.1"]),
        document("RoutePolicy", set={"communities": ["64512:1"]}, match={"networks": ["tenant-*"]}),
        document("IPBlock", cidr="10.1.0.0/26", pool="a", node="node-1"),
        document("BGPNode", addresses=["192.0.2.1"], asn=64512, routerID="192.0.2.1", epoch="e", version="1"),
    ],
)
def test_an_object_is_kept_as_it_was_given(given: dict[str, Any]) -> None:
    """So that what `get` shows can be applied again."""
    found = parse(given)
    assert parse(found.document()) == found
    assert found.document()["spec"].keys() == given["spec"].keys()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "should be an object with apiVersion, kind, metadata and spec"),
        (document("BGPPeer", **PEER) | {"apiVersion": "v1"}, "apiVersion: 'v1' is not bgpcni.dev/v1alpha1"),
        (document("Peer", **PEER), "kind: 'Peer' is none of BGPNode, BGPPeer"),
        (document("BGPPeer", "A", **PEER), "BGPPeer A: metadata.name: "),
        (document("BGPPeer", asn=1), "exactly one of address, gateway, interface, peerSelector"),
        (document("BGPPeer", **PEER, gateway=True), "there is address and gateway"),
        (document("BGPPeer", **PEER | {"asn": 0}), "BGPPeer a: spec.asn: "),
        (document("BGPPeer", **PEER, hold=1), "BGPPeer a: spec.hold: "),
        (document("BGPPeer", **PEER, ttlSecurity=True, multihop=2), "ttlSecurity and multihop exclude each other"),
        (document("BGPPeer", **PEER, families=["ipv4-unicast", "rtc"]), "families: rtc needs one of ipv4-vpn, "),
        (document("IPPool", cidrs=[]), "IPPool a: spec.cidrs: "),
        (document("IPPool", cidrs=["10.0.0.0/8", "10.1.0.0/16"]), "10.0.0.0/8 overlaps 10.1.0.0/16"),
        (document("IPPool", cidrs=["10.0.0.0/28"]), "a /26 does not fit into 10.0.0.0/28"),
        (document("IPPool", cidrs=["10.1.0.0/16"], static=["10.2.0.1"]), "is not in any of the pool's cidrs"),
        (document("RoutePolicy", set={}), "is empty, so the policy changes nothing"),
    ],
)
def test_an_error_says_which_object_and_which_key(given: Any, said: str) -> None:
    """One line: the place that was given, the object, the key, and what is wrong."""
    with pytest.raises(InvalidConfiguration) as caught:
        parse(given, "rack.yaml")
    assert caught.value.msg.startswith("rack.yaml: ")
    assert said in caught.value.msg
    assert "\n" not in caught.value.msg


def test_pools_that_overlap_contradict_each_other() -> None:
    """The later one is blamed; IPv4 and IPv6 never overlap."""
    pools = [
        parse(document("IPPool", "a", cidrs=["10.1.0.0/16"])),
        parse(document("IPPool", "b", cidrs=["10.1.128.0/17", "2001:db8::/56"])),
        parse(document("IPPool", "c", cidrs=["::/0"], blockSize={"ipv6": 64})),
    ]
    assert list(contradictions(pools)) == [
        (("IPPool", "b"), "spec.cidrs: 10.1.128.0/17 overlaps 10.1.0.0/16 of IPPool a"),
        (("IPPool", "c"), "spec.cidrs: ::/0 overlaps 2001:db8::/56 of IPPool b"),
    ]


@pytest.mark.parametrize("word", ["BGPPeer", "bgppeer", "bgppeers", "BGPPEERS"])
def test_a_kind_is_known_in_any_case_and_in_the_plural(word: str) -> None:
    """As kubectl has it."""
    assert kind_of(word).__name__ == "BGPPeer"
    assert kind_of("routepolicies").__name__ == "RoutePolicy"
    with pytest.raises(InvalidConfiguration, match="is none of"):
        kind_of("peer")
