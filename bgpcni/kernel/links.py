"""Links: veth pairs are made, marked as ours, looked up, and removed only if they are ours.

The alias of a link says whose it is. The kernel ignores an alias in the message that makes the link, so a link is
made in our group and gets its alias in a second message. That message names the link by index, never by name: if the
first message failed, the name belongs to somebody else's link.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
from dataclasses import dataclass, field

from bgpcni.errors import TryAgain
from bgpcni.kernel import uapi
from bgpcni.kernel.netlink import MAKE, Message, Netlink, NetlinkError, attribute, attributes, nested, text, u32

GROUP = 0xB6000000
"""The link group in which a link of ours is made: it says whose the link is until it has its alias."""
EXFULL = errno.EXFULL
"""The bridge has no port left."""
ALIAS_LIMIT = 255
"""The longest alias, in octets (IFALIASZ without its NUL)."""
MARK = 20
"""Digits of the digest in an alias."""
_ALIAS_FORM = re.compile(r"bgpcni:([0-9a-f]{20}) ([^/]+/.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Link:
    """What RTM_GETLINK says of a link.

    `peer`: IFLA_LINK, which for a veth is the index of the other end in the other end's namespace. `nsid`: the number
    by which this namespace knows that one; None if it is the same one, or has no number. `peer_nsid`: the same as the
    kernel wrote it. `hairpin`, `isolated`: how it behaves as a bridge's port. `details`: the attributes of its kind
    (IFLA_INFO_DATA), not parsed.
    """

    index: int
    name: str
    kind: str
    mac: str
    mtu: int
    up: bool
    promiscuous: bool
    master: int
    peer: int
    alias: str
    group: int
    hairpin: bool = False
    isolated: bool = False
    nsid: int | None = None
    details: bytes = field(default=b"", repr=False)
    peer_nsid: int | None = None


def alias_of(digest: str, words: str) -> str:
    """What is written on a link of ours. `digest`: hexadecimal, says whose it is; `words`: for people, cut if long."""
    return f"bgpcni:{digest[:MARK]} {words}".encode()[:ALIAS_LIMIT].decode(errors="ignore")


def mark_of(link: Link) -> str:
    """The first MARK digits of the digest on a veth of ours, "" if it is none."""
    return _alias(link)[0]


def words_of(link: Link) -> str:
    """The words on a veth of ours, "" if it is none."""
    return _alias(link)[1]


def _alias(link: Link) -> tuple[str, str]:
    found = _ALIAS_FORM.fullmatch(link.alias) if link.kind == "veth" else None
    return (found[1], found[2]) if found else ("", "")


def is_ours(link: Link, digest: str) -> bool:
    """The alias says so; or it has none yet and is in our group, because its maker was killed between two sends."""
    if link.alias:
        return link.alias.startswith(f"bgpcni:{digest[:MARK]} ")
    return link.group == GROUP and link.kind == "veth"


def header(index: int = 0, flags: int = 0, change: int = 0, *, family: int = 0) -> bytes:
    """The struct ifinfomsg at the start of every link message. `change`: which of the IFF_* flags are to be set."""
    return uapi.IFINFOMSG.pack(family, 0, index, flags, change)


def change(index: int, *attributes: bytes, family: int = 0) -> Message:
    """Change one link, by index (index 0 and a group would mean every link of the group)."""
    assert index > 0
    return Message(uapi.RTM_NEWLINK, 0, header(index, family=family) + b"".join(attributes))


def of_kind(kind: str, *details: bytes) -> bytes:
    """The attribute that says of what kind a new link is, with the attributes of that kind."""
    return nested(uapi.IFLA_LINKINFO, attribute(uapi.IFLA_INFO_KIND, kind), nested(uapi.IFLA_INFO_DATA, *details))


def port(*settings: bytes) -> bytes:
    """The attribute that says how a port of a bridge behaves (IFLA_BRPORT_*)."""
    kind = attribute(uapi.IFLA_INFO_SLAVE_KIND, b"bridge")
    return nested(uapi.IFLA_LINKINFO, kind, nested(uapi.IFLA_INFO_SLAVE_DATA, *settings))


def mac_bytes(mac: str) -> bytes:
    """`02:00:00:00:00:01` → six octets. Raises ValueError."""
    return bytes.fromhex(mac.replace(":", ""))


def parse(data: bytes) -> Link:
    """One link: RTM_NEWLINK from its struct ifinfomsg on."""
    _, _, index, flags, _ = uapi.IFINFOMSG.unpack_from(data)
    found = attributes(data, uapi.IFINFOMSG.size)
    info = attributes(found.get(uapi.IFLA_LINKINFO, b""), 0)
    is_port = info.get(uapi.IFLA_INFO_SLAVE_KIND, b"").startswith(b"bridge")
    settings = attributes(info[uapi.IFLA_INFO_SLAVE_DATA], 0) if is_port else {}
    return Link(
        index=index,
        name=text(found.get(uapi.IFLA_IFNAME, b"")),
        kind=text(info.get(uapi.IFLA_INFO_KIND, b"")),
        mac=found.get(uapi.IFLA_ADDRESS, b"").hex(":"),
        mtu=u32(found[uapi.IFLA_MTU]) if uapi.IFLA_MTU in found else 0,
        up=bool(flags & uapi.IFF_UP),
        promiscuous=bool(flags & uapi.IFF_PROMISC),
        master=u32(found[uapi.IFLA_MASTER]) if uapi.IFLA_MASTER in found else 0,
        peer=u32(found[uapi.IFLA_LINK]) if uapi.IFLA_LINK in found else 0,
        alias=text(found.get(uapi.IFLA_IFALIAS, b"")),
        group=u32(found[uapi.IFLA_GROUP]) if uapi.IFLA_GROUP in found else 0,
        hairpin=settings.get(uapi.IFLA_BRPORT_MODE) == b"\1",
        isolated=settings.get(uapi.IFLA_BRPORT_ISOLATED) == b"\1",
        nsid=_signed(found.get(uapi.IFLA_LINK_NETNSID, b"")),
        details=info.get(uapi.IFLA_INFO_DATA, b""),
        peer_nsid=u32(found[uapi.IFLA_LINK_NETNSID]) if uapi.IFLA_LINK_NETNSID in found else None,
    )


def _signed(data: bytes) -> int | None:
    """A namespace's number; the kernel says -1 where there is none."""
    number = struct.unpack("=i", data)[0] if len(data) == 4 else -1
    return None if number < 0 else int(number)


def get_message(*, name: str = "", index: int = 0) -> Message:
    """Ask for one link, by name or index."""
    return Message(uapi.RTM_GETLINK, 0, header(index) + (attribute(uapi.IFLA_IFNAME, name) if name else b""))


def find(netlink: Netlink, *, name: str = "", index: int = 0) -> Link | None:
    """One link by name or index, None if there is none."""
    assert name or index > 0
    try:
        (data,) = netlink.run(get_message(name=name, index=index))
    except NetlinkError as error:
        if error.errno == errno.ENODEV:
            return None
        raise
    return parse(data)


def find_in(netlink: Netlink, nsid: int, index: int) -> Link | None:
    """One link of the namespace that ours knows as `nsid`, None if there is none, or no such namespace (EINVAL)."""
    assert index > 0
    try:
        (data,) = netlink.run(Message(uapi.RTM_GETLINK, 0, header(index) + attribute(uapi.IFLA_TARGET_NETNSID, nsid)))
    except NetlinkError as error:
        if error.errno in (errno.ENODEV, errno.EINVAL):
            return None
        raise
    return parse(data)


def dump(netlink: Netlink) -> list[Link]:
    """Every link. Only for recovery: the cost grows with the number of links."""
    return [parse(data) for data in netlink.dump(Message(uapi.RTM_GETLINK, 0, header()))]


def create_veth(
    netlink: Netlink,
    *,
    host: str,
    inside: str,
    namespace: int | None,
    bridge: int | None,
    mtu: int,
    mac: str | None = None,
    group: int = GROUP,
) -> int:
    """Make both ends with one message: the host end is up and on the bridge, the other one is in `namespace`.

    `namespace` None: the other end stays beside the host end. It cannot be set up in the same message. Returns the
    index of the host end. Raises NetlinkError, and then nothing was made. EEXIST: one of the two names is taken.
    EXFULL: the bridge has no port left.
    """
    # One queue in each direction. Otherwise the kernel makes many, uses one and shrinks the rest: for that it waits for
    # RCU twice for each pair, and holds its lock all the time.
    queues = attribute(uapi.IFLA_NUM_TX_QUEUES, 1) + attribute(uapi.IFLA_NUM_RX_QUEUES, 1)
    peer = header() + attribute(uapi.IFLA_IFNAME, inside) + queues
    if namespace is not None:
        peer += attribute(uapi.IFLA_NET_NS_FD, namespace)
    if mac:
        peer += attribute(uapi.IFLA_ADDRESS, mac_bytes(mac))
    body = header(flags=uapi.IFF_UP, change=uapi.IFF_UP) + attribute(uapi.IFLA_IFNAME, host)
    body += attribute(uapi.IFLA_GROUP, group) + queues
    if mtu:
        peer += attribute(uapi.IFLA_MTU, mtu)
        body += attribute(uapi.IFLA_MTU, mtu)
    if bridge is not None:
        assert bridge > 0
        body += attribute(uapi.IFLA_MASTER, bridge)
    body += of_kind("veth", attribute(uapi.VETH_INFO_PEER, peer))
    (data,) = netlink.run(Message(uapi.RTM_NEWLINK, MAKE | uapi.NLM_F_ECHO, body))
    index = int(uapi.IFINFOMSG.unpack_from(data)[2])
    assert index > 0
    return index


def no_port_left(bridge: str) -> TryAgain:
    """The error to answer EXFULL with."""
    return TryAgain(f"bridge {bridge} has no port left (1023 is the kernel's limit)")


def mark_message(index: int, alias: str, *, hairpin: bool = False, isolated: bool = False) -> Message:
    """The alias, and how the bridge's port behaves."""
    settings = [attribute(uapi.IFLA_IFALIAS, alias.encode())]
    behaviour = [(uapi.IFLA_BRPORT_MODE, hairpin), (uapi.IFLA_BRPORT_ISOLATED, isolated)]
    if hairpin or isolated:
        settings.append(port(*(attribute(kind, b"\1") for kind, is_on in behaviour if is_on)))
    return change(index, *settings)


def port_message(index: int, bridge: int) -> Message:
    """Make a link a port of a bridge, and set it up."""
    assert min(index, bridge) > 0
    head = header(index, uapi.IFF_UP, uapi.IFF_UP)
    return Message(uapi.RTM_NEWLINK, 0, head + attribute(uapi.IFLA_MASTER, bridge))


def bridge_message(*details: bytes) -> Message:
    """Make a bridge, named by the kernel, with these attributes of its kind."""
    return Message(uapi.RTM_NEWLINK, MAKE, header() + of_kind("bridge", *details))


def no_link_local() -> bytes:
    """The attribute that keeps a link without an IPv6 link-local address (`addrgenmode none`); none without IPv6."""
    if not os.path.exists("/proc/sys/net/ipv6"):
        return b""  # the kernel would refuse the whole message
    mode = attribute(uapi.IFLA_INET6_ADDR_GEN_MODE, bytes([uapi.IN6_ADDR_GEN_MODE_NONE]))
    return nested(uapi.IFLA_AF_SPEC, nested(socket.AF_INET6, mode))


def anycast_message(index: int, mac: str) -> Message:
    """A bridge that is the same gateway on every node: its MAC, and no link-local address made of it."""
    return change(index, attribute(uapi.IFLA_ADDRESS, mac_bytes(mac)), no_link_local())


def group_attribute(group: int) -> bytes:
    return attribute(uapi.IFLA_GROUP, group)


def group_message(index: int, group: int) -> Message:
    """Put one link into a group, by index."""
    return change(index, group_attribute(group))


def set_up_message(index: int) -> Message:
    """Set a link up, by index."""
    assert index > 0
    return Message(uapi.RTM_NEWLINK, 0, header(index, uapi.IFF_UP, uapi.IFF_UP))


def up_message(name: str, *, arp_notify: bool = False) -> Message:
    """Set a link up by name. Only for a container's namespace, where the request itself chose the name.

    `arp_notify`: the link tells its neighbours when its address or MAC changes (sysctl net.ipv4.conf.IF.arp_notify).
    """
    body = header(flags=uapi.IFF_UP, change=uapi.IFF_UP) + attribute(uapi.IFLA_IFNAME, name)
    if arp_notify:
        setting = nested(uapi.IFLA_INET_CONF, attribute(uapi.IPV4_DEVCONF_ARP_NOTIFY, 1))
        body += nested(uapi.IFLA_AF_SPEC, nested(socket.AF_INET, setting))
    return Message(uapi.RTM_NEWLINK, 0, body)


def remove(netlink: Netlink, index: int) -> None:
    """Delete one link by index; it is no error if it has gone. The caller has made sure whose link it is."""
    assert index > 0
    try:
        netlink.run(Message(uapi.RTM_DELLINK, 0, header(index)))
    except NetlinkError as error:
        if error.errno != errno.ENODEV:
            raise
