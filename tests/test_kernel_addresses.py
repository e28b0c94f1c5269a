"""Addresses, routes and neighbours as packed messages: pyroute2 reads what we mean."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from bgpcni.cni.result import Route
from bgpcni.kernel import addresses, uapi
from bgpcni.kernel.netlink import Message, Netlink
from bgpcni.node.interface import _route_message


def decoded(kind: Any, message: Message) -> Any:
    """The message as pyroute2 understands it."""
    found = kind(uapi.NLMSGHDR.pack(16 + len(message.body), message.kind, message.flags | 5, 1, 0) + message.body)
    found.decode()
    return found


@given(st.ip_addresses(), st.data())
def test_an_address_is_assigned_with_its_length(address: Any, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, address.max_prefixlen))
    found = decoded(ifaddrmsg, addresses.address_message(7, f"{address}/{length}"))
    assert found["family"] == (socket.AF_INET if address.version == 4 else socket.AF_INET6)
    assert (found["index"], found["prefixlen"]) == (7, length)
    assert ip_address(found.get_attr("IFA_ADDRESS")) == address
    assert ip_address(found.get_attr("IFA_LOCAL")) == address


def test_duplicate_address_detection_only_where_asked_for() -> None:
    """`enabledad`; IPv4 knows none."""
    assert decoded(ifaddrmsg, addresses.address_message(7, "2001:db8::1/64"))["flags"] == 0x02
    assert decoded(ifaddrmsg, addresses.address_message(7, "2001:db8::1/64", dad=True))["flags"] == 0
    assert decoded(ifaddrmsg, addresses.address_message(7, "10.0.0.1/24"))["flags"] == 0


@pytest.mark.parametrize(
    ("route", "expected"),
    [
        (Route(dst="0.0.0.0/0", gw="10.0.0.1"), {"dst": None, "gw": "10.0.0.1", "scope": 0, "table": 254}),
        (Route(dst="::/0", gw="fe80::1"), {"dst": None, "gw": "fe80::1", "scope": 0, "table": 254}),
        (Route(dst="192.0.2.0/24"), {"dst": "192.0.2.0", "gw": None, "scope": 253, "table": 254}),
        (Route(dst="192.0.2.0/24", scope=200), {"dst": "192.0.2.0", "scope": 200}),
        (Route(dst="192.0.2.0/24", table=100), {"table": 100}),
        (Route(dst="192.0.2.0/24", table=1000), {"table": 1000}),
        (Route(dst="192.0.2.0/24", priority=0), {"priority": 0}),
        (Route(dst="2001:db8::/32", priority=50, mtu=1400, advmss=1300),
         {"dst": "2001:db8::", "priority": 50, "mtu": 1400, "advmss": 1300}),
    ],
)  # fmt: skip
def test_a_route_carries_what_the_configuration_gave(route: Route, expected: dict[str, Any]) -> None:
    """dst, gw, mtu, advmss, priority, table, scope: all keys of the specification."""
    found = decoded(rtmsg, _route_message(7, route))
    metrics = found.get_attr("RTA_METRICS")
    read = {
        "dst": found.get_attr("RTA_DST"),
        "gw": found.get_attr("RTA_GATEWAY"),
        "scope": found["scope"],
        "table": found.get_attr("RTA_TABLE") or found["table"],
        "priority": found.get_attr("RTA_PRIORITY"),
        "mtu": metrics and metrics.get_attr("RTAX_MTU"),
        "advmss": metrics and metrics.get_attr("RTAX_ADVMSS"),
    }
    assert {key: read[key] for key in expected} == expected
    assert (found["dst_len"], found["type"], found["proto"]) == (int(route.dst.partition("/")[2]), 1, 3)
    assert found.get_attr("RTA_OIF") == 7


@pytest.mark.parametrize("address", ["10.0.0.5", "2001:db8::5"])
def test_a_neighbour_is_forgotten_on_one_link(address: str) -> None:
    found = decoded(ndmsg, addresses.forget_neighbour(9, address))
    assert (found["ifindex"], found.get_attr("NDA_DST")) == (9, address)
    assert found["family"] == (socket.AF_INET if ":" not in address else socket.AF_INET6)


def test_the_real_kernels_loopback_is_understood() -> None:
    """Read-only, in this process's namespace."""
    with Netlink.open() as kernel:
        assert "127.0.0.1/8" in {item.address for item in addresses.assigned(kernel, 1)}
        (answer,) = kernel.send(addresses.way_message("127.0.0.1"))
        assert addresses.not_on(answer, {1}.__contains__) == "the address is the node's own"
        assert not addresses.has_route(kernel, 1, "203.0.113.77/32", None, None)
