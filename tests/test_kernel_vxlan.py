"""The packed messages of VXLAN entries, neighbours and routes, read back by pyroute2's own classes."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from bgpcni.bgp import gateway_mac
from bgpcni.kernel import gateway, routes, uapi, vrf, vxlan
from bgpcni.kernel.netlink import Message

macs = st.binary(min_size=6, max_size=6).map(lambda octets: octets.hex(":"))
addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)
indexes = st.integers(1, (1 << 31) - 1)
vnis = st.one_of(st.none(), st.integers(1, (1 << 24) - 1))


def read(message: Message, kind: type) -> tuple[dict[str, object], dict[str, object]]:
    """(header, attributes) of a packed message."""
    data = uapi.NLMSGHDR.pack(len(message.body) + 16, message.kind, message.flags, 1, 0) + message.body
    found = kind(data)
    found.decode()
    return {key: found[key] for key, _ in kind.fields}, dict(found["attrs"])  # type: ignore[attr-defined]


@given(indexes, macs, addresses, vnis)
def test_a_mac_behind_a_vtep(device: int, mac: str, vtep: str, vni: int | None) -> None:
    """One message for the device's own table and the bridge's, marked as learned by us and never aged."""
    (message,) = vxlan.remote_messages(device, mac, vtep, vni)
    head, found = read(message, ndmsg)
    assert (head["family"], head["ifindex"]) == (7, device)
    assert head["flags"] == 0x02 | 0x04 | 0x10  # self, master, extern_learn
    assert head["state"] == 0x40 | 0x02  # noarp, reachable
    assert found["NDA_LLADDR"] == mac
    assert ip_address(str(found["NDA_DST"])) == ip_address(vtep)
    assert found.get("NDA_VNI") == vni


@given(indexes, addresses, macs)
def test_a_neighbour_has_our_protocol_number(bridge: int, address: str, mac: str) -> None:
    """So that ours are known from others'."""
    head, found = read(vxlan.neighbour_message(bridge, address, mac), ndmsg)
    assert (head["family"], head["ifindex"]) == (2 if ip_address(address).version == 4 else 10, bridge)
    assert (head["state"], head["flags"]) == (0x40, 0x10)
    assert ip_address(str(found["NDA_DST"])) == ip_address(address)
    assert found["NDA_LLADDR"] == mac
    assert found["NDA_PROTOCOL"] == vxlan.PROTOCOL


@given(indexes, addresses, vnis)
def test_flood_lists_are_appended_to(device: int, vtep: str, vni: int | None) -> None:
    """Replacing would leave one VTEP in the list; the one to go is named."""
    made, gone = vxlan.flood_message(device, vtep, vni), vxlan.forget_flood_message(device, vtep, vni)
    assert made.flags == 0x400 | 0x800  # create, append
    for message in (made, gone):
        head, found = read(message, ndmsg)
        assert (head["ifindex"], head["flags"]) == (device, 0x02)
        assert found["NDA_LLADDR"] == "00:00:00:00:00:00"
        assert found.get("NDA_VNI") == vni


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), st.integers(0, 128), indexes, st.booleans())
def test_a_learned_route(address: object, length: int, device: int, through: bool) -> None:
    """With our protocol number and metric, created only where nobody has one."""
    version = address.version  # type: ignore[attr-defined]
    prefix = ip_network((int(address), min(length, 32 if version == 4 else 128)), strict=False)  # type: ignore[call-overload]
    if version == 6 and prefix.version == 4:
        return  # a small number reads as IPv4
    hop = ("192.0.2.1" if version == 4 else "2001:db8::1") if through else None
    message = routes.add_message(str(prefix), [routes.Path(hop, device)])
    assert message.flags == 0x400 | 0x200  # create, exclusive
    head, found = read(message, rtmsg)
    assert (head["dst_len"], head["proto"], head["table"]) == (prefix.prefixlen, vxlan.PROTOCOL, 254)
    assert (found["RTA_OIF"], found["RTA_PRIORITY"], found.get("RTA_GATEWAY")) == (device, routes.METRIC, hop)
    if prefix.prefixlen:
        assert ip_network((found["RTA_DST"], prefix.prefixlen)) == prefix


@given(st.integers(1, (1 << 32) - 1), st.booleans(), st.none() | st.integers(16, (1 << 20) - 1), indexes)
def test_a_route_of_a_vrf(table: int, six: bool, label: int | None, device: int) -> None:
    """In its table, by a device that may be outside of it, with the label if there is one."""
    prefix, hop = ("2001:db8:9::/64", "2001:db8::1") if six else ("10.9.0.0/24", "192.0.2.1")
    message = routes.add_message(prefix, [routes.Path(hop, device, label)], table)
    head, found = read(message, rtmsg)
    assert (head["proto"], found["RTA_GATEWAY"], found["RTA_OIF"]) == (vxlan.PROTOCOL, hop, device)
    assert found.get("RTA_TABLE", head["table"]) == table
    assert bool(int(str(head["flags"])) & 4) == (table != routes.MAIN)  # onlink
    assert ("RTA_ENCAP" in found) == (label is not None)


def test_a_gateway_of_another_family() -> None:
    """RFC 8950: an IPv4 prefix behind an IPv6 VTEP."""
    message = routes.add_message("10.9.0.0/24", [routes.Path("2001:db8::1", 7)], 182001)
    assert read(message, rtmsg)[1]["RTA_VIA"] == {"family": 10, "addr": "2001:db8::1"}


@pytest.mark.parametrize("make", [
    lambda: vxlan.router_message(0, "02:00:00:00:00:01", "192.0.2.1"),
    lambda: routes.label_message(16, 0, make=True),
    lambda: vrf.enslave_message(0, vrf.Device("red", 7, 1)),
    lambda: vxlan.remote_messages(0, "02:00:00:00:00:01", "192.0.2.1", None),
    lambda: vxlan.local_messages(0, "02:00:00:00:00:01"),
    lambda: vxlan.flood_message(0, "192.0.2.1", None),
    lambda: vxlan.neighbour_message(0, "192.0.2.1", "02:00:00:00:00:01"),
])  # fmt: skip
def test_index_zero_is_never_sent(make: object) -> None:
    """An entry of no device is a mistake of ours, and no message."""
    with pytest.raises(AssertionError):
        make()  # type: ignore[operator]


def test_the_gateways_table() -> None:
    """Both directions of the VXLAN port; nothing but checked values in the text."""
    mac = gateway_mac(5001)
    assert mac == "02:00:5e:00:13:89"
    text = gateway.rules("vxlan5001", mac, ["10.1.3.1", "10.1.2.1", "2001:db8::1"])
    assert text.startswith("table netdev bgpcni_vxlan5001 {}\ndelete table netdev bgpcni_vxlan5001\n")
    assert text.count("arp daddr ip { 10.1.2.1, 10.1.3.1 } drop") == 2
    assert text.count("icmpv6 taddr { 2001:db8::1 } drop") == 2
    assert f"ether saddr {mac} ether daddr & 01:00:00:00:00:00 == 01:00:00:00:00:00 drop" in text
    with pytest.raises(ValueError):
        gateway.rules("vxlan1", mac, ["10.1.2.1; drop"])
