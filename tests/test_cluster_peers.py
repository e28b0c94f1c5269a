"""Which neighbours a node has by the cluster's objects, and how they are merged with those of agent.toml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpcni.cluster.objects import BGPNode, BGPNodeSpec, Metadata, Object, parse
from bgpcni.cluster.peers import Wish, wishes
from bgpcni.config.agent import AgentConfig, NeighborTable
from bgpcni.node import facts


def node(number: int, asn: int = 64512, **labels: str) -> BGPNode:
    return BGPNode(
        metadata=Metadata(name=f"node-{number}", labels=labels),
        spec=BGPNodeSpec(addresses=(f"192.0.2.{number}",), asn=asn),
    )


def peer(name: str, **spec: Any) -> Object:
    return parse({"apiVersion": "bgpcni.dev/v1alpha1", "kind": "BGPPeer", "metadata": {"name": name}, "spec": spec})


def of(me: BGPNode, *objects: Object, gateway: str | None = None) -> list[Wish]:
    return wishes([me, *objects], me, lambda version: gateway if version == 4 else None)


def addresses(found: list[Wish]) -> list[str]:
    return [each.neighbor.address for each in found if each.neighbor]


def test_a_peer_is_for_the_nodes_that_its_selector_selects() -> None:
    """Without a selector for all; without an ASN with the node's own."""
    me = node(1, rack="r1")
    found = of(me, peer("a", address="198.51.100.1"), peer("b", address="198.51.100.2", nodeSelector={"rack": "r2"}))
    assert found == [Wish("BGPPeer a", NeighborTable(address="198.51.100.1", asn=64512))]


def test_the_default_gateway_is_the_peer() -> None:
    """Its address is the kernel's; one that is link-local is found on its link. Without one that is said."""
    me, tor = node(1), peer("tor", gateway=True, asn=64999)
    assert of(me, tor, gateway="192.0.2.254") == [Wish("BGPPeer tor", NeighborTable(address="192.0.2.254", asn=64999))]
    assert "no default route of IPv4" in of(me, tor)[0].reason
    (wish,) = of(me, tor, gateway="fe80::1%eth0")
    assert wish.neighbor == NeighborTable(interface="eth0", asn=64999)


def test_the_router_on_a_link_is_the_peer() -> None:
    """Without an ASN it has the node's own, as with every other way to find a peer."""
    (wish,) = of(node(1), peer("fabric", interface="eth1"))
    assert wish.neighbor == NeighborTable(interface="eth1", asn=64512)


@pytest.mark.parametrize(
    ("key", "spec"),
    [
        ("passwordSecret", {"address": "198.51.100.1", "passwordSecret": "s"}),
    ],
)
def test_what_cannot_be_done_is_said_and_never_done_by_half(key: str, spec: dict[str, Any]) -> None:
    """No session with half of what was asked for; and only a node that is selected says so."""
    (wish,) = of(node(1, rack="r1"), peer("a", **spec))
    assert wish.neighbor is None
    assert wish.reason.startswith(f"spec.{key}: ")
    assert of(node(1, rack="r1"), peer("a", **spec, nodeSelector={"rack": "r2"})) == []


def test_the_session_is_what_the_object_says() -> None:
    """Port, our own end, hops, and what goes out and comes in: as the same keys of agent.toml say it."""
    export = {"networks": ["a*"], "only": "hosts", "communities": ["64512:1"], "localPreference": 5, "med": 1}
    (wish,) = of(
        node(1),
        peer(
            "a",
            address="198.51.100.1",
            port=1179,
            localAddress="192.0.2.9",
            localASN=64999,
            multihop=3,
            export=export | {"prepend": 2},
            **{"import": {"prefixes": ["10.0.0.0/8"], "maximumPrefix": 7}},
        ),
    )
    mine = {key: value for key, value in export.items() if key != "localPreference"} | {"local_preference": 5}
    assert wish.neighbor == NeighborTable.model_validate(
        {
            "address": "198.51.100.1",
            "asn": 64512,
            "port": 1179,
            "local_address": "192.0.2.9",
            "local_asn": 64999,
            "multihop": 3,
            "export": mine | {"prepend": 2},
            "import": {"prefixes": ["10.0.0.0/8"], "maximum_prefix": 7},
        }
    )


def test_route_reflectors_are_found_by_label_from_both_ends() -> None:
    """A client has every reflector, a reflector every client, and neither has its like; each with the other's ASN."""
    reflectors = [node(1, asn=64999, role="rr"), node(2, role="rr")]
    clients = [node(3, role="client"), node(4, role="client")]
    document = peer("rr", nodeSelector={"role": "client"}, peerSelector={"role": "rr"})
    found = wishes([*reflectors, *clients, document], clients[0], lambda version: None)
    assert [(one.neighbor.address, one.neighbor.asn) for one in found if one.neighbor] == [
        ("192.0.2.1", 64999), ("192.0.2.2", 64512),
    ]  # fmt: skip
    assert addresses(wishes([*reflectors, *clients, document], reflectors[0], lambda version: None)) == [
        "192.0.2.3", "192.0.2.4",
    ]  # fmt: skip


@given(st.lists(st.sampled_from(["", "a", "b"]), min_size=2, max_size=6), *[st.sampled_from(["", "a", "b", None])] * 2)
def test_every_session_between_nodes_has_two_ends(labels: list[str], one: str | None, two: str | None) -> None:
    """Whatever the selectors: where a node has another as its neighbour, that one has it too, and exactly one of them
    waits for the other to connect."""
    nodes = [node(number, role=label) for number, label in enumerate(labels, 1)]
    spec = {} if one is None else {"nodeSelector": {"role": one}}
    document = peer("mesh", peerSelector={} if two is None else {"role": two}, **spec)
    ends = {}
    for me in nodes:
        for wish in wishes([*nodes, document], me, lambda version: None):
            assert wish.neighbor is not None
            ends[me.spec.addresses[0], wish.neighbor.address] = wish.neighbor.passive
    assert all(ends[there, here] is not passive for (here, there), passive in ends.items())


# ---------------------------------------------------------------- merged with agent.toml


def config(*own: str, **exporters: dict[str, Any]) -> AgentConfig:
    neighbors = [{"address": address, "asn": 64512, "exporter": next(iter(exporters), None)} for address in own]
    bgp = {"asn": 64512, "router_id": "192.0.2.1", "local_address": "192.0.2.1", "neighbors": neighbors}
    return AgentConfig.model_validate({"bgp": bgp, "exporters": exporters})


def offer(address: str, asn: int = 64512, **more: Any) -> NeighborTable:
    return NeighborTable(address=address, asn=asn, **more)


def test_agent_toml_wins_for_the_same_address() -> None:
    """It is what somebody said of this very node; it is no problem either."""
    accepted, reasons = facts.acceptable(config("198.51.100.1"), [("BGPPeer a", offer("198.51.100.1", 65000))])
    assert (accepted, reasons) == ((), [])


def test_of_two_objects_the_first_wins_and_the_other_is_named() -> None:
    """Two that say the same are no contradiction. The order of the neighbours is not that of the objects' names, so
    that one that is renamed touches no session."""
    one, other = offer("198.51.100.9"), offer("198.51.100.2")
    accepted, reasons = facts.acceptable(
        config(),
        [("BGPPeer a", one), ("BGPPeer b", offer(one.address, 65000)), ("BGPPeer c", one), ("BGPPeer d", other)],
    )
    assert accepted == (other, one)
    assert reasons == ["BGPPeer b: 198.51.100.9 is a neighbour by BGPPeer a already, in another way"]


def test_what_this_node_cannot_have_does_not_cost_it_the_others(tmp_path: Path) -> None:
    """Its own address, another family, an exporter that is not there, a password that cannot be read."""
    good = offer("198.51.100.1")
    offers = [
        ("BGPPeer a", offer("192.0.2.1")),
        ("BGPPeer b", offer("2001:db8::1")),
        ("BGPPeer c", offer("198.51.100.2", exporter="nobody")),
        ("BGPPeer d", offer("198.51.100.3", password_file=str(tmp_path / "none"))),
        ("BGPPeer e", good),
    ]
    accepted, reasons = facts.acceptable(config(), offers)
    assert accepted == (good,)
    assert [reason[:11] for reason in reasons] == ["BGPPeer a: ", "BGPPeer b: ", "BGPPeer c: ", "BGPPeer d: "]
    assert facts.acceptable(AgentConfig(), offers[:1]) == ((), ["BGPPeer a: agent.toml has no [bgp]"])


def test_with_several_speakers_an_object_says_which() -> None:
    """As `[[bgp.neighbors]]` has to."""
    two = config(a={"type": "exabgp"}, b={"type": "exabgp", "local_address": "192.0.2.9"})
    accepted, (reason,) = facts.acceptable(
        two, [("BGPPeer a", offer("198.51.100.1")), ("BGPPeer b", offer("198.51.100.2", exporter="b"))]
    )
    assert [one.address for one in accepted] == ["198.51.100.2"]
    assert "say which of a, b" in reason
    both = [("BGPPeer a", offer("198.51.100.1", exporter="a")), ("BGPPeer b", offer("198.51.100.1", exporter="b"))]
    accepted, reasons = facts.acceptable(two, both)
    assert ([one.exporter for one in accepted], reasons) == (["a", "b"], [])
    assert len(facts.acceptable(config(), [both[0], ("BGPPeer c", offer("198.51.100.1"))])[0]) <= 1
