"""Neighbours without an address: what is found for them, and when it is looked for again."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from bgpcni.config.agent import AgentConfig, NeighborTable
from bgpcni.kernel.routers import Ends as Found
from bgpcni.node import facts
from bgpcni.node.ends import Ends

HERE = "192.0.2.1"
ON_LINK = NeighborTable(interface="eth1")
AT_GATEWAY = NeighborTable(gateway=True, asn=64512)


class World:
    """What the kernel says of links and default routes, and what was sent."""

    def __init__(self) -> None:
        self.links: dict[str, Found | str] = {}
        self.gateways: dict[int, str | None] = {}
        self.sent: list[str] = []
        self.ends = Ends(self.gateways.get, lambda name: self.links.get(name, "no link"), self.sent.append)


def test_a_router_is_found_on_its_link_and_stays() -> None:
    """With both addresses. An entry that the kernel dropped changes nothing; another router does, and another link."""
    world = World()
    world.links["eth1"] = Found("fe80::1", None)
    assert world.ends.find(ON_LINK, HERE) == "interface: eth1: no router was heard there yet"
    assert not world.ends.moved()
    world.links["eth1"] = Found("fe80::1", "fe80::2")
    assert world.ends.moved()
    found = world.ends.find(ON_LINK, HERE)
    assert isinstance(found, NeighborTable)
    assert (found.address, found.local_address, found.interface) == ("fe80::2", "fe80::1", "eth1")
    for unknown in (Found("fe80::1", None), "it is down"):
        world.links["eth1"] = unknown
        assert not world.ends.moved()
    for other in (Found("fe80::1", "fe80::3"), Found("fe80::9", "fe80::3")):
        world.links["eth1"] = other
        assert world.ends.moved()
        world.ends.begin()
        world.ends.find(ON_LINK, HERE)
        assert not world.ends.moved()


def test_the_gateway_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the IP version of the node's address; one that is link-local is found on its link."""
    world = World()
    monkeypatch.setattr("bgpcni.node.ends.GATEWAY", 0.0)
    assert world.ends.find(AT_GATEWAY, HERE) == "gateway: this node has no default route of IPv4 by a gateway"
    world.gateways[4] = "192.0.2.254"
    assert world.ends.moved()
    found = world.ends.find(AT_GATEWAY, HERE)
    assert isinstance(found, NeighborTable)
    assert (found.address, found.gateway) == ("192.0.2.254", False)
    world.gateways[6] = "fe80::2%eth0"
    assert world.ends.find(AT_GATEWAY, "2001:db8::1") == "interface: eth0: no link"
    world.links["eth0"] = Found("fe80::1", "fe80::2")
    found = world.ends.find(AT_GATEWAY, "2001:db8::1")
    assert isinstance(found, NeighborTable)
    assert (found.address, found.interface) == ("fe80::2", "eth0")


def test_advertisements_go_where_a_router_is_wanted() -> None:
    """At once, then now and then; not any more once nobody wants it."""
    world = World()
    world.ends.find(ON_LINK, HERE)
    world.ends.advertise()
    world.ends.advertise()
    assert world.sent == ["eth1"]
    world.ends.begin()
    world.ends._due.clear()
    world.ends.advertise()
    assert world.sent == ["eth1"]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"asn": 1}, "exactly one of address, interface, gateway must be given, and there is none of them"),
        ({"asn": 1, "address": "192.0.2.9", "interface": "eth1"}, "there is address and interface"),
        ({"address": "192.0.2.9"}, "asn: missing"),
        ({"gateway": True}, "asn: missing"),
        ({"interface": "eth1", "local_address": "192.0.2.1"}, "local_address: has no place beside interface"),
        ({"interface": "eth1", "passive": True}, "passive: has no place beside interface"),
        ({"interface": "a/b"}, "is not an interface name"),
    ],
)
def test_what_a_neighbour_cannot_be(table: dict[str, object], words: str) -> None:
    """Each is said in words."""
    with pytest.raises(ValidationError, match=words):
        NeighborTable.model_validate(table)


def test_a_neighbour_that_was_not_found_is_left_out() -> None:
    """And the next hops of one on a link are this node's address there, but those of agent.toml win."""
    table = {"asn": 64512, "router_id": HERE, "local_address": HERE, "next_hop6": "2001:db8::1"}
    found = ON_LINK.model_copy(update={"address": "fe80::2", "local_address": "fe80::1"})
    config = AgentConfig.model_validate({"bgp": table | {"neighbors": [{"gateway": True, "asn": 1}]}})
    assert facts.resolve(config).neighbors == ()
    (neighbor,) = facts.resolve(config, [found]).neighbors
    assert (neighbor.address, neighbor.interface, neighbor.asn) == ("fe80::2", "eth1", 0)
    assert (neighbor.export.next_hop, neighbor.export.next_hop6) == ("fe80::1", "fe80::1")
    (neighbor,) = facts.resolve(config, [found.model_copy(update={"next_hop": "192.0.2.7"})]).neighbors
    assert neighbor.export.next_hop == "192.0.2.7"
