"""Links: the veth pair of an attachment, looked up, marked as ours, removed only if it is.

Ownership is written on the link (its alias). The kernel ignores an alias in the creating message, so a link is
born in our group and gets its alias by index in a second send, never by name: had the create failed, the name
would be somebody else's.
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
"""Octets the kernel takes (IFALIASZ less its NUL)."""
MARK = 20
"""Digits of the digest in an alias."""
_ALIAS_FORM = re.compile(r"bgpcni:([0-9a-f]{20}) ([^/]+/.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Link:
    """What RTM_GETLINK says. `peer`: IFLA_LINK, for a veth the other end's index in its own namespace; `peer_nsid`:
    the nsid of that namespace, None if it is the same.

    `nsid`: the number by which the node's namespace knows that one, None: it is the node's own, or has no number.
    `hairpin`, `isolated`: of a bridge's port. `details`: its kind's own attributes (IFLA_INFO_DATA), unparsed.
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
    """struct ifinfomsg, which every link message begins with. `change`: which of the IFF_* in `flags` are meant."""
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
    """Every link: for recovery only, its cost grows with the node."""
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
    """Both ends in one message: the host end up and on the bridge, the other in `namespace` with its final name.

    `namespace` None: it stays with the host end. The peer cannot be up yet (its open would find no partner). Returns
    the host end's index. Raises NetlinkError, and then nothing is left: EEXIST, a name is taken (which one is for the
    caller to find out); EXFULL, the bridge has no port left.
    """
    # One queue each way, as the kernel uses of the many it makes unless told how many: shrinking them to one is a wait
    # for RCU, twice for each pair, and all the while the kernel's lock is held.
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
    """What EXFULL means."""
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
    """Set a link up by name: only inside a container's namespace, where the name is the request's own.

    `arp_notify`: it tells its neighbours when its address or its MAC changes (sysctl net.ipv4.conf.IF.arp_notify).
    """
    body = header(flags=uapi.IFF_UP, change=uapi.IFF_UP) + attribute(uapi.IFLA_IFNAME, name)
    if arp_notify:
        setting = nested(uapi.IFLA_INET_CONF, attribute(uapi.IPV4_DEVCONF_ARP_NOTIFY, 1))
        body += nested(uapi.IFLA_AF_SPEC, nested(socket.AF_INET, setting))
    return Message(uapi.RTM_NEWLINK, 0, body)


def remove(netlink: Netlink, index: int) -> None:
    """Delete one link by index; gone already is success. The caller has read whose it is."""
    assert index > 0
    try:
        netlink.run(Message(uapi.RTM_DELLINK, 0, header(index)))
    except NetlinkError as error:
        if error.errno != errno.ENODEV:
            raise
