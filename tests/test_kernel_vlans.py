"""VLANs of a port as packed messages: pyroute2 reads what we mean, and the kernel's answer is read range by range."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from bgpcni.kernel import links, uapi, vlans
from bgpcni.kernel.netlink import Message, Netlink, attribute, nested
from bgpcni.kernel.vlans import PVID, UNTAGGED, Tagging


def said(message: Message) -> list[tuple[int, int]]:
    """(VLAN, flags) of each VLAN info in a message about a port."""
    found: Any = ifinfmsg(uapi.NLMSGHDR.pack(16 + len(message.body), message.kind, 5, 1, 0) + message.body)
    found.decode()
    assert (found["family"], found["index"]) == (7, 9)
    spec = found.get_attr("IFLA_AF_SPEC")
    assert spec.get_attr("IFLA_BRIDGE_VLAN_FLAGS") == 1
    return [(info["vid"], info["flags"]) for info in spec.get_attrs("IFLA_BRIDGE_VLAN_INFO")]


class Table(Netlink):
    """Answers a dump with these messages."""

    def __init__(self, *messages: bytes) -> None:
        self.messages = list(messages)

    def dump(self, message: Message) -> list[bytes]:
        assert message.body == struct.pack("=BxxxI", 7, 9)
        return self.messages


def test_a_vlan_is_the_ports_untagged_one() -> None:
    (join,) = vlans.port_messages(9, Tagging(5, keep_default=True))
    assert said(join) == [(5, PVID | UNTAGGED)]


def test_without_the_default_vlan_the_port_is_in_its_own_alone() -> None:
    """Every other VLAN goes first: the bridge's default one may have any number."""
    leave, join = vlans.port_messages(9, Tagging(5))
    assert said(leave) == [(1, 8), (4, 16), (6, 8), (4094, 16)]
    assert said(join) == [(5, PVID | UNTAGGED)]


def test_a_trunks_native_vlan_is_untagged() -> None:
    """The trunk's VLANs are tagged, the native one is not, and the port is in no other."""
    leave, join = vlans.port_messages(9, Tagging(6, (5, 7)))
    assert said(leave) == [(1, 8), (4, 16), (8, 8), (4094, 16)]
    assert said(join) == [(5, 0), (7, 0), (6, PVID | UNTAGGED)]


@pytest.mark.parametrize("keep_default", [True, False])
def test_a_trunk_without_vlans_leaves_the_port_as_it_is(keep_default: bool) -> None:
    assert vlans.port_messages(9, Tagging(keep_default=keep_default)) == []


@given(st.frozensets(st.integers(1, 4094), min_size=1))
def test_a_trunk_is_said_in_ranges(tagged: frozenset[int]) -> None:
    """All of its VLANs and no others, tagged, in as few words as there are gaps."""
    (join,) = vlans.port_messages(9, Tagging(0, tuple(sorted(tagged)), keep_default=True))
    covered: list[int] = []
    for vlan, flags in said(join):
        assert flags in (0, 8, 16)
        covered += range(covered[-1] + 1, vlan + 1) if flags == 16 else [vlan]
    assert covered == sorted(tagged)
    assert len(said(join)) <= 2 * sum(vlan + 1 not in tagged for vlan in tagged)


def test_what_a_port_carries_is_read_range_by_range() -> None:
    """Two entries in one message, and a second message."""
    entries = [
        nested(1, attribute(1, struct.pack("=HH", PVID | UNTAGGED, 1))),
        nested(1, attribute(1, struct.pack("=HH", 0, 7)), attribute(2, struct.pack("=H", 9))),
    ]
    head = struct.pack("=BxxxI", 7, 9)
    kernel = Table(head + b"".join(entries), head + nested(1, attribute(1, struct.pack("=HH", UNTAGGED, 20))))
    assert vlans.of(kernel, 9) == {1: PVID | UNTAGGED, 7: 0, 8: 0, 9: 0, 20: UNTAGGED}
    assert [vlans.is_untagged(flags) for flags in (PVID | UNTAGGED, UNTAGGED, PVID, 0)] == [True, False, False, False]


@pytest.mark.parametrize(("details", "filters"), [(b"", False), (b"\0", False), (b"\1", True)])
def test_whether_a_bridge_filters_is_among_its_details(details: bytes, filters: bool) -> None:
    link = links.Link(3, "cni0", "bridge", "", 1500, True, False, 0, 0, "", 0)
    data = attribute(1, 1500) + (attribute(7, details) if details else b"")
    body = links.header(3) + nested(18, attribute(1, "bridge"), nested(2, data))
    assert vlans.filters(links.parse(body)) == filters
    assert not vlans.filters(link)
