"""VXLAN devices and what is programmed behind them: forwarding entries, flood lists, neighbours. Packed messages.

One device for each VNI: a port of the network's bridge, or itself in a VRF, whose own VNI it has. Learning is off
everywhere: the kernel forwards to where BGP says and asks nobody. A device of ours has our alias (`bgpcni:vxlan …`);
its entries are ours with it. Neighbours are on the bridge or the VRF's device, where others may have some too: ours
carry our protocol number.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from bgpcni.kernel import links
from bgpcni.kernel.addresses import family_of
from bgpcni.kernel.netlink import (
    CREATE,
    EXCL,
    RTM_DELNEIGH,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
    Message,
    Netlink,
    NetlinkError,
    attribute,
    attributes,
    nested,
    u32,
)

PORT = 4789
"""RFC 7348 section 5."""
PROTOCOL = 0xB6
"""Who made a neighbour or a route, rtnetlink(7): ours."""
OVERHEAD = {4: 50, 6: 70}
"""Octets that VXLAN adds to an Ethernet frame's payload, by the version of the underlay (RFC 7348 section 5)."""
MARK = "bgpcni:vxlan "
CHUNK = 128
"""Messages in one send: the kernel answers all before any answer is read, and they must fit the socket."""

RTM_GETNEIGH = 30
REPLACE, APPEND = 0x100, 0x800
AF_BRIDGE = 7
_NDMSG = struct.Struct("=BxxxiHBB")
_DST, _LLADDR, _VNI, _IFINDEX, _MASTER, _PROTOCOL = 1, 2, 7, 8, 9, 12
_SELF, _ON_MASTER, _EXT_LEARNED = 0x02, 0x04, 0x10
_REACHABLE, _NOARP, _PERMANENT = 0x02, 0x40, 0x80
_FLOOD = bytes(6)

_LINK_ADDRESS, _IFNAME, _LINK_MTU, _LINK_MASTER, _LINKINFO, _ALIAS, _GROUP = 1, 3, 4, 10, 18, 20, 27
_KIND, _DATA, _SLAVE_KIND, _SLAVE_DATA = 1, 2, 4, 5
_ID, _LOCAL, _TTL, _LEARNING, _UDP_PORT, _LOCAL6 = 1, 4, 5, 7, 15, 17
_PORT_LEARNING, _PORT_SUPPRESS = 8, 32
_TTL_OF_TUNNEL = 64


@dataclass(frozen=True, slots=True)
class Device:
    """A VXLAN device. `mtu`: of the frames' payload inside; `master`: the index of the bridge it is a port of.

    `router_mac`: its own MAC where it is no port but routes, and then `master` is a VRF. `mark`, `group`: whose it is,
    if not the data path's: what its alias begins with, the group it is born in.
    """

    vni: int
    local: str
    master: int
    mtu: int
    mark: str = MARK
    group: int = links.GROUP
    router_mac: str | None = None


def name_of(vni: int) -> str:
    """Its name: at most 13 characters."""
    return f"vxlan{vni}"


def ensure(netlink: Netlink, device: Device) -> int:
    """The device, as it should be and up; its index. One that is there keeps what it has.

    The tunnel's UDP source port is the kernel's choice by flow, which is its default. Raises NetlinkError; EEXIST:
    somebody else has a device of this name, or one of this VNI and port.
    """
    link = links.find(netlink, name=name_of(device.vni))
    if link is not None:
        if not is_ours(link, device.mark, device.group):
            raise NetlinkError(errno.EEXIST, f"{link.name} is not ours")
        if _local_of(link) == device.local:
            same = link.mac == device.router_mac or device.router_mac is None
            if link.master != device.master or not link.up or link.mtu != device.mtu or not link.alias or not same:
                netlink.run(*_settings(device, link.index))
            return link.index
        links.remove(netlink, link.index)  # the node has another VTEP address now
    local = ip_address(device.local)
    body = links.header() + attribute(_IFNAME, name_of(device.vni)) + attribute(_GROUP, device.group)
    body += nested(
        _LINKINFO,
        attribute(_KIND, b"vxlan"),
        nested(
            _DATA,
            attribute(_ID, device.vni),
            attribute(_LOCAL if local.version == 4 else _LOCAL6, local.packed),
            attribute(_TTL, bytes([_TTL_OF_TUNNEL])),
            attribute(_LEARNING, b"\0"),
            attribute(_UDP_PORT, struct.pack("!H", PORT)),
        ),
    )
    netlink.run(Message(RTM_NEWLINK, EXCL | CREATE, body))  # of a vxlan device the kernel echoes nothing
    made = links.find(netlink, name=name_of(device.vni))
    if made is None or not is_ours(made, device.mark, device.group):
        raise NetlinkError(errno.EAGAIN, f"{name_of(device.vni)} was renamed or replaced as it was made")
    try:
        netlink.run(*_settings(device, made.index))
    except BaseException:
        links.remove(netlink, made.index)
        raise
    return made.index


def _settings(device: Device, index: int) -> tuple[Message, ...]:
    """By index: ours, a port of the bridge, then how the port behaves, and last up: no frame passes before that."""
    assert index > 0
    alias = f"{device.mark}{device.vni}".encode()
    port = attribute(_PORT_LEARNING, b"\0") + attribute(_PORT_SUPPRESS, b"\1")
    enslave = attribute(_ALIAS, alias) + attribute(_LINK_MASTER, device.master) + attribute(_LINK_MTU, device.mtu)
    enslave += links.no_link_local()  # it needs none, and its MLD and ND would go to every VTEP
    if device.router_mac is None:
        behave = nested(_LINKINFO, attribute(_SLAVE_KIND, b"bridge"), nested(_SLAVE_DATA, port))
    else:
        behave = attribute(_LINK_ADDRESS, links.mac_bytes(device.router_mac))
    return (
        Message(RTM_NEWLINK, 0, links.header(index) + enslave),
        Message(RTM_NEWLINK, 0, links.header(index) + behave),
        links.set_up_message(index),
    )


def is_ours(link: links.Link, mark: str = MARK, group: int = links.GROUP) -> bool:
    """The alias says so; or it has none yet and was born in our group (killed between the two sends)."""
    return link.kind == "vxlan" and (link.alias.startswith(mark) or (not link.alias and link.group == group))


def _local_of(link: links.Link) -> str | None:
    found = attributes(link.details, 0)
    packed = found.get(_LOCAL) or found.get(_LOCAL6)
    return str(ip_address(packed)) if link.kind == "vxlan" and packed else None


def ours(netlink: Netlink, mark: str = MARK, group: int = links.GROUP) -> list[links.Link]:
    """Every VXLAN device of ours: at the agent's start, for the dump is of all links."""
    return [link for link in links.dump(netlink) if is_ours(link, mark, group)]


# --- entries ---------------------------------------------------------------------------------------


def remote_messages(device: int, mac: str, vtep: str, vni: int | None) -> tuple[Message, ...]:
    """`mac` is behind `vtep`: the device's entry and the bridge's in one message. `vni`: if other than ours."""
    assert device > 0
    body = _NDMSG.pack(AF_BRIDGE, device, _NOARP | _REACHABLE, _SELF | _ON_MASTER | _EXT_LEARNED, 0)
    body += attribute(_LLADDR, links.mac_bytes(mac)) + attribute(_DST, ip_address(vtep).packed)
    if vni is not None:
        body += attribute(_VNI, vni)
    return (Message(RTM_NEWNEIGH, CREATE | REPLACE, body),)


def router_message(device: int, mac: str, vtep: str) -> Message:
    """The router of this MAC is behind `vtep`: the entry of a device that is no port of a bridge."""
    assert device > 0
    body = _NDMSG.pack(AF_BRIDGE, device, _NOARP | _REACHABLE, _SELF | _EXT_LEARNED, 0)
    body += attribute(_LLADDR, links.mac_bytes(mac)) + attribute(_DST, ip_address(vtep).packed)
    return Message(RTM_NEWNEIGH, CREATE | REPLACE, body)


def forget_router_message(device: int, mac: str) -> Message:
    assert device > 0
    body = _NDMSG.pack(AF_BRIDGE, device, 0, _SELF, 0) + attribute(_LLADDR, links.mac_bytes(mac))
    return Message(RTM_DELNEIGH, 0, body)


def forget_remote_messages(device: int, mac: str) -> tuple[Message, ...]:
    """Two messages: together, one entry that is gone would keep the other from being deleted."""
    assert device > 0
    tail = attribute(_LLADDR, links.mac_bytes(mac))
    return tuple(
        Message(RTM_DELNEIGH, 0, _NDMSG.pack(AF_BRIDGE, device, 0, where, 0) + tail) for where in (_ON_MASTER, _SELF)
    )


def local_messages(port: int, mac: str) -> tuple[Message, ...]:
    """`mac` is a container's behind this port of the bridge: a static entry, so it is never flooded to VTEPs."""
    assert port > 0
    body = _NDMSG.pack(AF_BRIDGE, port, _NOARP, _ON_MASTER, 0) + attribute(_LLADDR, links.mac_bytes(mac))
    return (Message(RTM_NEWNEIGH, CREATE | REPLACE, body),)


def forget_local_messages(port: int, mac: str) -> tuple[Message, ...]:
    assert port > 0
    body = _NDMSG.pack(AF_BRIDGE, port, 0, _ON_MASTER, 0) + attribute(_LLADDR, links.mac_bytes(mac))
    return (Message(RTM_DELNEIGH, 0, body),)


def flood_message(device: int, vtep: str, vni: int | None) -> Message:
    """One more VTEP that gets broadcast, multicast and unknown unicast. Only appending makes a list."""
    assert device > 0
    body = _NDMSG.pack(AF_BRIDGE, device, _NOARP | _PERMANENT, _SELF, 0)
    body += attribute(_LLADDR, _FLOOD) + attribute(_DST, ip_address(vtep).packed)
    if vni is not None:
        body += attribute(_VNI, vni)
    return Message(RTM_NEWNEIGH, CREATE | APPEND, body)


def forget_flood_message(device: int, vtep: str, vni: int | None) -> Message:
    assert device > 0
    body = _NDMSG.pack(AF_BRIDGE, device, 0, _SELF, 0)
    body += attribute(_LLADDR, _FLOOD) + attribute(_DST, ip_address(vtep).packed)
    if vni is not None:
        body += attribute(_VNI, vni)
    return Message(RTM_DELNEIGH, 0, body)


def neighbour_message(bridge: int, address: str, mac: str) -> Message:
    """`address` is at `mac`: what the bridge answers ARP and ND from, and the node sends by. Never asked about."""
    assert bridge > 0
    target = ip_address(address)
    body = _NDMSG.pack(family_of(target.version), bridge, _NOARP, _EXT_LEARNED, 0) + attribute(_DST, target.packed)
    body += attribute(_LLADDR, links.mac_bytes(mac)) + attribute(_PROTOCOL, bytes([PROTOCOL]))
    return Message(RTM_NEWNEIGH, CREATE | REPLACE, body)


def forget_neighbour_message(bridge: int, address: str) -> Message:
    assert bridge > 0
    target = ip_address(address)
    body = _NDMSG.pack(family_of(target.version), bridge, 0, 0, 0) + attribute(_DST, target.packed)
    return Message(RTM_DELNEIGH, 0, body)


def send(netlink: Netlink, messages: Sequence[Message]) -> list[bytes | NetlinkError]:
    """As `Netlink.send`, in portions that the socket's buffer holds the answers of."""
    answers: list[bytes | NetlinkError] = []
    for start in range(0, len(messages), CHUNK):
        answers += netlink.send(*messages[start : start + CHUNK])
    return answers


# --- what is there ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a device. `mac` None: of its flood list. `vni`: None if the device's own."""

    mac: str | None
    vtep: str
    vni: int | None


def entries(netlink: Netlink, device: int) -> Iterator[Entry]:
    """The device's forwarding entries and flood list."""
    body = _NDMSG.pack(AF_BRIDGE, device, 0, 0, 0)
    for data in netlink.dump(Message(RTM_GETNEIGH, 0, body)):
        _, index, _, flags, _ = _NDMSG.unpack_from(data)
        found = attributes(data, _NDMSG.size)
        if index != device or not flags & _SELF or _DST not in found or _LLADDR not in found:
            continue
        mac = found[_LLADDR]
        vni = u32(found[_VNI]) if _VNI in found else None
        yield Entry(None if mac == _FLOOD else mac.hex(":"), str(ip_address(found[_DST])), vni)


def neighbours(netlink: Netlink, bridge: int = 0, protocol: int = PROTOCOL) -> Iterator[tuple[int, str, str]]:
    """(bridge, address, MAC) of the neighbours that we put on a bridge; 0: on any. `protocol`: who did, if not we."""
    for version in (4, 6):
        body = _NDMSG.pack(family_of(version), 0, 0, 0, 0) + (attribute(_IFINDEX, bridge) if bridge else b"")
        for data in netlink.dump(Message(RTM_GETNEIGH, 0, body)):
            _, index, _, _, _ = _NDMSG.unpack_from(data)
            found = attributes(data, _NDMSG.size)
            if found.get(_PROTOCOL) == bytes([protocol]) and _DST in found and _LLADDR in found:
                yield index, str(ip_address(found[_DST])), found[_LLADDR].hex(":")
