"""Routes in netlink's messages: what is written is what is read, and pyroute2 reads it the same."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from bgpcni.kernel import routes, uapi
from bgpcni.kernel.netlink import Message
from bgpcni.kernel.routes import MAIN, Path

devices = st.integers(1, 2**31 - 1)
labels = st.none() | st.integers(16, 2**20 - 1)
sixes = st.integers(1, 2**128 - 1).map(lambda number: str(IPv6Address(number)))
fours = st.integers(1, 2**32 - 1).map(lambda number: str(IPv4Address(number)))
paths4 = st.lists(st.builds(Path, fours | sixes, devices, labels), min_size=1, max_size=64)
paths6 = st.lists(st.builds(Path, sixes, devices, labels), min_size=1, max_size=64)
many = st.tuples(st.just("10.1.0.0/16"), paths4) | st.tuples(st.sampled_from(["2001:db8::/32", "::/0"]), paths6)


@given(many, st.sampled_from([MAIN, 77, 182001]))
def test_what_is_written_is_what_is_read(route: tuple[str, list[Path]], table: int) -> None:
    """One path or many, in order, with gateways of either version and labels, in any table."""
    prefix, paths = route
    version = 6 if ":" in prefix else 4
    for make in (routes.add_message, routes.replace_message, routes.delete_message):
        assert routes._read(make(prefix, paths, table).body, version, table) == (prefix, paths)


def parsed(message: Message) -> rtmsg:
    head = uapi.NLMSGHDR.pack(uapi.NLMSGHDR.size + len(message.body), message.kind, message.flags, 1, 0)
    found = rtmsg(head + message.body)
    found.decode()
    return found


@pytest.mark.parametrize(("table", "flags"), [(MAIN, 0), (182001, uapi.RTNH_F_ONLINK)])
def test_several_paths_are_what_pyroute2_reads(table: int, flags: int) -> None:
    """Each has its link, gateway and label; in a VRF its gateway is taken as on the link."""
    found = parsed(
        routes.add_message("10.1.0.0/16", [Path("192.0.2.1", 3), Path("fe80::1", 4), Path("192.0.2.2", 3, 80)], table)
    )
    one, two, three = found.get_attr("RTA_MULTIPATH")
    assert (found["flags"], found.get_attr("RTA_OIF"), found.get_attr("RTA_TABLE") or found["table"]) == (
        0,
        None,
        table,
    )
    assert (one["oif"], one["flags"], one["hops"], one.get_attr("RTA_GATEWAY")) == (3, flags, 0, "192.0.2.1")
    assert two.get_attr("RTA_GATEWAY") is None
    assert two.get_attr("RTA_VIA")["addr"] == "fe80::1"
    assert three.get_attr("RTA_ENCAP").get_attr("MPLS_IPTUNNEL_DST")[0]["label"] == 80
