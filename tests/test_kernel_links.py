"""Links as packed messages: pyroute2 reads what we mean, and whose a link is follows from what is written on it."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from bgpcni.kernel import links, uapi
from bgpcni.kernel.links import GROUP, Link, alias_of, is_ours
from bgpcni.kernel.netlink import Message, Netlink, attribute
from bgpcni.model import AttachmentKey

KEY = AttachmentKey("net", "c1", "eth0")
LINK = Link(7, "veth1", "veth", "02:00:00:00:00:01", 1500, True, False, 3, 2, alias_of(KEY.digest, str(KEY)), GROUP)


def decoded(message: Message) -> Any:
    """The message as pyroute2 understands it."""
    found = ifinfmsg(uapi.NLMSGHDR.pack(16 + len(message.body), message.kind, 5, 1, 0) + message.body)
    found.decode()
    return found


class Recorder(Netlink):
    """Keeps what would be sent, answers with a link of index 42."""

    def __init__(self) -> None:
        self.sent: list[Message] = []

    def run(self, *messages: Message) -> list[bytes]:
        self.sent += messages
        return [links.header(42)] * len(messages)


@pytest.mark.parametrize("mac", [None, "02:00:00:00:00:09"])
@pytest.mark.parametrize("mtu", [0, 1450])
def test_a_pair_is_made_in_one_message(mac: str | None, mtu: int) -> None:
    """Host end up, in our group and on the bridge; the peer already inside, with its final name, MAC and MTU."""
    kernel = Recorder()
    index = links.create_veth(kernel, host="vethabc", inside="eth0", namespace=9, bridge=3, mtu=mtu, mac=mac)
    assert index == 42
    found = decoded(kernel.sent[0])
    assert (found["flags"], found["change"], found.get_attr("IFLA_IFNAME")) == (1, 1, "vethabc")
    assert (found.get_attr("IFLA_GROUP"), found.get_attr("IFLA_MASTER")) == (GROUP, 3)
    info = found.get_attr("IFLA_LINKINFO")
    assert info.get_attr("IFLA_INFO_KIND") == "veth"
    peer = info.get_attr("IFLA_INFO_DATA").get_attr("VETH_INFO_PEER")
    assert (peer.get_attr("IFLA_IFNAME"), peer.get_attr("IFLA_NET_NS_FD")) == ("eth0", 9)
    assert peer.get_attr("IFLA_ADDRESS") == mac
    assert found.get_attr("IFLA_MTU") == peer.get_attr("IFLA_MTU") == (mtu or None)


@pytest.mark.parametrize(("hairpin", "isolated"), [(True, False), (False, True), (True, True), (False, False)])
def test_the_mark_is_set_by_index_with_the_ports_modes(hairpin: bool, isolated: bool) -> None:
    """hairpinMode and portIsolation of the stock plugin."""
    found = decoded(links.mark_message(7, alias_of(KEY.digest, str(KEY)), hairpin=hairpin, isolated=isolated))
    assert (found["index"], found.get_attr("IFLA_IFALIAS")) == (7, alias_of(KEY.digest, str(KEY)))
    info = found.get_attr("IFLA_LINKINFO")
    if not (hairpin or isolated):
        assert info is None
        return
    assert info.get_attr("IFLA_INFO_SLAVE_KIND") == "bridge"
    port = info.get_attr("IFLA_INFO_SLAVE_DATA")
    assert port.get_attr("IFLA_BRPORT_MODE") == (1 if hairpin else None)
    assert port.get_attr("IFLA_BRPORT_ISOLATED") == (1 if isolated else None)


@pytest.mark.parametrize("index", [0, -1])
def test_index_zero_never_reaches_the_kernel(index: int) -> None:
    """It would mean a whole group of links, other people's among them."""
    kernel = Recorder()
    with pytest.raises(AssertionError):
        links.mark_message(index, "x")
    with pytest.raises(AssertionError):
        links.remove(kernel, index)
    with pytest.raises(AssertionError):
        links.find(kernel, index=index)
    assert kernel.sent == []


def test_up_and_get_name_the_link() -> None:
    up = decoded(links.up_message("eth0"))
    assert (up["flags"], up["change"], up.get_attr("IFLA_IFNAME")) == (1, 1, "eth0")
    assert decoded(links.get_message(index=5))["index"] == 5
    assert decoded(links.get_message(name="eth0")).get_attr("IFLA_IFNAME") == "eth0"


NAME = st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789._-", min_size=1, max_size=15)


@given(
    name=NAME, alias=st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), max_size=60),
    mtu=st.integers(0, 65535), index=st.integers(1, 2**31 - 1), master=st.integers(1, 2**31 - 1),
    flags=st.sampled_from([0, 1, 0x100, 0x101]), mac=st.binary(min_size=6, max_size=6),
)  # fmt: skip
def test_what_pyroute2_writes_we_read(
    name: str, alias: str, mtu: int, index: int, master: int, flags: int, mac: bytes
) -> None:
    """The kernel's answer in the library's packing."""
    message = ifinfmsg()
    message["index"], message["flags"] = index, flags
    message["attrs"] = [
        ("IFLA_IFNAME", name), ("IFLA_IFALIAS", alias), ("IFLA_MTU", mtu), ("IFLA_MASTER", master),
        ("IFLA_LINK", 5), ("IFLA_GROUP", GROUP), ("IFLA_ADDRESS", mac.hex(":")),
        ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "veth")]}),
    ]  # fmt: skip
    message["header"]["type"] = 16
    message.encode()
    expected = Link(
        index=index, name=name, kind="veth", mac=mac.hex(":"), mtu=mtu, up=bool(flags & 1),
        promiscuous=bool(flags & 0x100), master=master, peer=5, alias=alias, group=GROUP,
    )  # fmt: skip
    assert links.parse(bytes(message.data)[16:]) == expected


@pytest.mark.parametrize(("said", "nsid"), [(0, 0), (7, 7), (-1, None)])
def test_where_the_other_end_is(said: int, nsid: int | None) -> None:
    """The number of a veth's other namespace, whose first is 0; -1 is none."""
    assert links.parse(links.header(3) + attribute(37, struct.pack("=i", said))).nsid == nsid


def test_a_link_that_says_nothing_is_read_all_the_same() -> None:
    """No MTU, no kind, no MAC: tunnels and the like."""
    assert links.parse(links.header(3)) == Link(3, "", "", "", 0, False, False, 0, 0, "", 0)


def test_whose_a_link_is_is_written_on_it() -> None:
    """Our alias for this attachment; or none yet, but born in our group (a kill between the two sends)."""
    assert is_ours(LINK, KEY.digest)
    assert is_ours(replace(LINK, alias=""), KEY.digest)
    assert is_ours(replace(LINK, group=0), KEY.digest)
    assert not is_ours(LINK, AttachmentKey("net", "c2", "eth0").digest)
    assert not is_ours(replace(LINK, alias="", group=0), KEY.digest)
    assert not is_ours(replace(LINK, alias="", kind="dummy"), KEY.digest)
    assert not is_ours(replace(LINK, alias="somebody's"), KEY.digest)
    assert not is_ours(replace(LINK, alias=f"bgpcni:{KEY.digest[:19]}"), KEY.digest)


@given(st.text(alphabet="aé€😀", min_size=50, max_size=400))
def test_an_alias_fits_whatever_the_container_is_called(container: str) -> None:
    """The kernel takes 255 octets; what decides whose it is comes first."""
    key = AttachmentKey("net", container, "eth0")
    alias = alias_of(key.digest, str(key))
    assert len(alias.encode()) <= 255
    assert is_ours(replace(LINK, alias=alias), key.digest)


def test_links_of_the_real_kernel_are_read() -> None:
    """As the system's own table has them (no rights needed)."""
    with Netlink.open() as kernel:
        lo = links.find(kernel, name="lo")
        assert lo is not None
        assert (lo.index, lo.mac) == (1, "00:00:00:00:00:00")
        assert links.find(kernel, name="no-such-link0") is None
        assert lo.index in {link.index for link in links.dump(kernel)}
    assert links.mac_bytes("02:00:00:00:00:ff") == bytes.fromhex("0200000000ff")
    assert struct.calcsize("=BxHiII") == len(links.header())
