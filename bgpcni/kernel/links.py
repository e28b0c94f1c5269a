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
from bgpcni.kernel.netlink import (
    CREATE,
    ECHO,
    EXCL,
    RTM_DELLINK,
    RTM_GETLINK,
    RTM_NEWLINK,
    Message,
    Netlink,
    NetlinkError,
    attribute,
    attributes,
    nested,
    text,
    u32,
)
from bgpcni.model import AttachmentKey

GROUP = 0xB6000000
"""The link group a host veth is created in: ours, though it has no alias yet."""

EXFULL = 54
"""The bridge has no port left."""
IFF_UP = 1
IFF_PROMISC = 0x100
_ADDRESS, _IFNAME, _MTU, _LINK, _MASTER, _LINKINFO, _ALIAS, _GROUP, _NET_NS_FD, _EXT_MASK = (
    1,
    3,
    4,
    5,
    10,
    18,
    20,
    27,
    28,
    29,
)
_NUM_TX_QUEUES, _NUM_RX_QUEUES = 31, 32
_KIND, _DATA, _SLAVE_KIND, _SLAVE_DATA = 1, 2, 4, 5
_VETH_PEER = 1
_AF_SPEC, _INET_CONF, _DEVCONF_ARP_NOTIFY = 26, 1, 22
_BRPORT_MODE, _BRPORT_ISOLATED = 4, 33
_AF_SPEC, _ADDR_GEN_MODE = 26, 8
_LINK_NETNSID, _TARGET_NETNSID = 37, 46
_INFO = struct.Struct("=BxHiII")
ALIAS_LIMIT = 255
"""Octets the kernel takes (IFALIASZ less its NUL)."""
MARK = 20
"""Digits of the key's digest in an alias."""
_ALIAS_FORM = re.compile(r"bgpcni:([0-9a-f]{20}) ([^/]+)/.*", re.DOTALL)


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


def alias_of(key: AttachmentKey) -> str:
    """What is written on a link of ours: the key's digest decides, the rest is for people."""
    octets = f"bgpcni:{key.digest[:MARK]} {key}".encode()[:ALIAS_LIMIT]
    return octets.decode(errors="ignore")


def mark_of(link: Link) -> str:
    """The first MARK digits of its attachment's digest, "" if the link is none of ours."""
    found = _ALIAS_FORM.fullmatch(link.alias)
    return found[1] if found and link.kind == "veth" else ""


def network_of(link: Link) -> str:
    """The network of a link of ours, "" if it is none. A network's name has no slash, and fits whole."""
    found = _ALIAS_FORM.fullmatch(link.alias)
    return found[2] if found and link.kind == "veth" else ""


def is_ours(link: Link, key: AttachmentKey) -> bool:
    """The alias says so; or it has none yet and was born in our group (killed between the two sends)."""
    return carries(link, key.digest)


def carries(link: Link, digest: str) -> bool:
    """As `is_ours`, by the key's digest."""
    if link.alias:
        return link.alias.startswith(f"bgpcni:{digest[:MARK]} ")
    return link.group == GROUP and link.kind == "veth"


def header(index: int = 0, flags: int = 0, change: int = 0, *, family: int = 0) -> bytes:
    """struct ifinfomsg, which every link message begins with. `change`: which of the IFF_* in `flags` are meant."""
    return _INFO.pack(family, 0, index, flags, change)


def mac_bytes(mac: str) -> bytes:
    """`02:00:00:00:00:01` → six octets. Raises ValueError."""
    return bytes.fromhex(mac.replace(":", ""))


def parse(data: bytes) -> Link:
    """One link: RTM_NEWLINK from its struct ifinfomsg on."""
    _, _, index, flags, _ = _INFO.unpack_from(data)
    found = attributes(data, _INFO.size)
    info = attributes(found.get(_LINKINFO, b""), 0)
    port = attributes(info[_SLAVE_DATA], 0) if info.get(_SLAVE_KIND, b"").startswith(b"bridge") else {}
    return Link(
        index=index,
        name=text(found.get(_IFNAME, b"")),
        kind=text(info.get(_KIND, b"")),
        mac=found.get(_ADDRESS, b"").hex(":"),
        mtu=u32(found[_MTU]) if _MTU in found else 0,
        up=bool(flags & IFF_UP),
        promiscuous=bool(flags & IFF_PROMISC),
        master=u32(found[_MASTER]) if _MASTER in found else 0,
        peer=u32(found[_LINK]) if _LINK in found else 0,
        alias=text(found.get(_ALIAS, b"")),
        group=u32(found[_GROUP]) if _GROUP in found else 0,
        hairpin=port.get(_BRPORT_MODE) == b"\1",
        isolated=port.get(_BRPORT_ISOLATED) == b"\1",
        nsid=_signed(found.get(_LINK_NETNSID, b"")),
        details=info.get(_DATA, b""),
        peer_nsid=u32(found[_LINK_NETNSID]) if _LINK_NETNSID in found else None,
    )


def _signed(data: bytes) -> int | None:
    """A namespace's number; the kernel says -1 where there is none."""
    number = struct.unpack("=i", data)[0] if len(data) == 4 else -1
    return None if number < 0 else int(number)


def get_message(*, name: str = "", index: int = 0) -> Message:
    """Ask for one link, by name or index."""
    return Message(RTM_GETLINK, 0, header(index) + (attribute(_IFNAME, name) if name else b""))


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
        (data,) = netlink.run(Message(RTM_GETLINK, 0, header(index) + attribute(_TARGET_NETNSID, nsid)))
    except NetlinkError as error:
        if error.errno in (errno.ENODEV, errno.EINVAL):
            return None
        raise
    return parse(data)


def dump(netlink: Netlink) -> list[Link]:
    """Every link: for recovery only, its cost grows with the node."""
    return [parse(data) for data in netlink.dump(Message(RTM_GETLINK, 0, header()))]


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
    queues = attribute(_NUM_TX_QUEUES, 1) + attribute(_NUM_RX_QUEUES, 1)
    peer = header() + attribute(_IFNAME, inside) + queues
    if namespace is not None:
        peer += attribute(_NET_NS_FD, namespace)
    if mac:
        peer += attribute(_ADDRESS, mac_bytes(mac))
    body = header(flags=IFF_UP, change=IFF_UP) + attribute(_IFNAME, host) + attribute(_GROUP, group) + queues
    if mtu:
        peer += attribute(_MTU, mtu)
        body += attribute(_MTU, mtu)
    if bridge is not None:
        assert bridge > 0
        body += attribute(_MASTER, bridge)
    body += nested(_LINKINFO, attribute(_KIND, "veth"), nested(_DATA, attribute(_VETH_PEER, peer)))
    (data,) = netlink.run(Message(RTM_NEWLINK, EXCL | CREATE | ECHO, body))
    index = int(_INFO.unpack_from(data)[2])
    assert index > 0
    return index


def no_port_left(bridge: str) -> TryAgain:
    """What EXFULL means."""
    return TryAgain(f"bridge {bridge} has no port left (1023 is the kernel's limit)")


def mark_message(index: int, alias: str, *, hairpin: bool = False, isolated: bool = False) -> Message:
    """The alias, and what the bridge port is to do, by index (index 0 would change a whole group)."""
    assert index > 0
    body = header(index) + attribute(_ALIAS, alias.encode())
    port = b""
    if hairpin:
        port += attribute(_BRPORT_MODE, b"\1")
    if isolated:
        port += attribute(_BRPORT_ISOLATED, b"\1")
    if port:
        body += nested(_LINKINFO, attribute(_SLAVE_KIND, b"bridge"), nested(_SLAVE_DATA, port))
    return Message(RTM_NEWLINK, 0, body)


def port_message(index: int, bridge: int) -> Message:
    """Make a link a port of a bridge, and set it up."""
    assert index > 0
    assert bridge > 0
    return Message(RTM_NEWLINK, 0, header(index, IFF_UP, IFF_UP) + attribute(_MASTER, bridge))


def bridge_message(*details: bytes) -> Message:
    """Make a bridge, named by the kernel, with these attributes of its kind."""
    return Message(
        RTM_NEWLINK, EXCL | CREATE, header() + nested(_LINKINFO, attribute(_KIND, "bridge"), nested(_DATA, *details))
    )


def no_link_local() -> bytes:
    """The attribute that keeps a link without an IPv6 link-local address (`addrgenmode none`); none without IPv6."""
    if not os.path.exists("/proc/sys/net/ipv6"):
        return b""  # the kernel would refuse the whole message
    return nested(_AF_SPEC, nested(socket.AF_INET6, attribute(_ADDR_GEN_MODE, b"\1")))


def anycast_message(index: int, mac: str) -> Message:
    """A bridge that is the same gateway on every node: its MAC, and no link-local address made of it."""
    assert index > 0
    return Message(RTM_NEWLINK, 0, header(index) + attribute(_ADDRESS, mac_bytes(mac)) + no_link_local())


def group_attribute(group: int) -> bytes:
    return attribute(_GROUP, group)


def group_message(index: int, group: int) -> Message:
    """Put one link into a group, by index."""
    assert index > 0
    return Message(RTM_NEWLINK, 0, header(index) + group_attribute(group))


def set_up_message(index: int) -> Message:
    """Set a link up, by index."""
    assert index > 0
    return Message(RTM_NEWLINK, 0, header(index, IFF_UP, IFF_UP))


def up_message(name: str, *, arp_notify: bool = False) -> Message:
    """Set a link up by name: only inside a container's namespace, where the name is the request's own.

    `arp_notify`: it tells its neighbours when its address or its MAC changes (sysctl net.ipv4.conf.IF.arp_notify).
    """
    body = header(flags=IFF_UP, change=IFF_UP) + attribute(_IFNAME, name)
    if arp_notify:
        body += nested(_AF_SPEC, nested(socket.AF_INET, nested(_INET_CONF, attribute(_DEVCONF_ARP_NOTIFY, 1))))
    return Message(RTM_NEWLINK, 0, body)


def remove(netlink: Netlink, index: int) -> None:
    """Delete one link by index; gone already is success. The caller has read whose it is."""
    assert index > 0
    try:
        netlink.run(Message(RTM_DELLINK, 0, header(index)))
    except NetlinkError as error:
        if error.errno != errno.ENODEV:
            raise
