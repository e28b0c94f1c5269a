"""VXLAN devices and what is programmed for them: forwarding entries, flood lists, neighbours.

There is one device for each VNI: a port of a bridge, or a device of its own in a VRF. The kernel learns nothing from
packets: it forwards as its entries say. A device of ours has the alias `bgpcni:vxlan …`, and all its entries are ours.
Neighbours are on the bridge, or on the device in the VRF. Others may have neighbours there too; ours have our protocol
number.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from typing import NamedTuple

from bgpcni.kernel import links, uapi
from bgpcni.kernel.addresses import family_of
from bgpcni.kernel.library import iproute
from bgpcni.kernel.netlink import PUT, Message, Netlink, NetlinkError, attribute, attributes, u32

PORT = 4789
"""RFC 7348 section 5."""
PROTOCOL = 0xB6
"""The protocol number that says that we made a neighbour or a route (rtnetlink(7))."""
OVERHEAD = {4: 50, 6: 70}
"""Octets that VXLAN adds to an Ethernet frame's payload, by the version of the underlay (RFC 7348 section 5)."""
MARK = "bgpcni:vxlan "
CHUNK = 128
"""Messages in one send: their answers have to fit the buffer of the socket."""

_FLOOD = "00:00:00:00:00:00"
"""The MAC under which the kernel keeps a device's flood list."""
_FIXED = uapi.NUD_NOARP | uapi.NUD_REACHABLE
"""An entry that never ages. NUD_REACHABLE is there for the bridge, which takes nothing less."""
_TTL = 64


class Device(NamedTuple):
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
    """The device, as it should be and up; its index. One that is there keeps its entries.

    The kernel chooses the UDP source port of the tunnel by flow, which is its default. Raises NetlinkError; EEXIST:
    somebody else has a device of this name, or one of this VNI and port.
    """
    name = name_of(device.vni)
    link = links.find(netlink, name=name)
    if link is not None:
        if not is_ours(link, device.mark, device.group):
            raise NetlinkError(errno.EEXIST, f"{name} is not ours")
        if _local_of(link) == device.local:
            same = link.mac == device.router_mac or device.router_mac is None
            if link.master != device.master or not link.up or link.mtu != device.mtu or not link.alias or not same:
                netlink.run(*_settings(device, link.index))
            return link.index
        links.remove(netlink, link.index)  # the node has another VTEP address now
    tunnel = {"vxlan_id": device.vni, "vxlan_ttl": _TTL, "vxlan_learning": 0, "vxlan_port": PORT}
    source = {"vxlan_local6" if ":" in device.local else "vxlan_local": device.local}
    with iproute() as library:
        library.link("add", ifname=name, kind="vxlan", group=device.group, **tunnel, **source)
    made = links.find(netlink, name=name)
    if made is None or not is_ours(made, device.mark, device.group):
        raise NetlinkError(errno.EAGAIN, f"{name} was renamed or replaced as it was made")
    try:
        netlink.run(*_settings(device, made.index))
    except BaseException:
        links.remove(netlink, made.index)
        raise
    return made.index


def _settings(device: Device, index: int) -> tuple[Message, ...]:
    """Mark the device, make it a port of the bridge, set how the port behaves, and only then set it up."""
    settings = [
        attribute(uapi.IFLA_IFALIAS, f"{device.mark}{device.vni}".encode()),
        attribute(uapi.IFLA_MASTER, device.master),
        attribute(uapi.IFLA_MTU, device.mtu),
        links.no_link_local(),  # it needs none, and its MLD and ND would go to every VTEP
    ]
    if device.router_mac is None:
        behaviour = links.port(
            attribute(uapi.IFLA_BRPORT_LEARNING, b"\0"), attribute(uapi.IFLA_BRPORT_NEIGH_SUPPRESS, b"\1")
        )
    else:
        behaviour = attribute(uapi.IFLA_ADDRESS, links.mac_bytes(device.router_mac))
    return links.change(index, *settings), links.change(index, behaviour), links.set_up_message(index)


def is_ours(link: links.Link, mark: str = MARK, group: int = links.GROUP) -> bool:
    """The alias says so; or it has none yet and is in our group, because its maker was killed between two sends."""
    return link.kind == "vxlan" and (link.alias.startswith(mark) or (not link.alias and link.group == group))


def vni_of(link: links.Link) -> int | None:
    """The VNI of a VXLAN device, whoever made it; None for any other link."""
    found = attributes(link.details, 0).get(uapi.IFLA_VXLAN_ID) if link.kind == "vxlan" else None
    return u32(found) if found else None


def _local_of(link: links.Link) -> str | None:
    found = attributes(link.details, 0)
    packed = found.get(uapi.IFLA_VXLAN_LOCAL) or found.get(uapi.IFLA_VXLAN_LOCAL6)
    return str(ip_address(packed)) if link.kind == "vxlan" and packed else None


def ours(netlink: Netlink, mark: str = MARK, group: int = links.GROUP) -> list[links.Link]:
    """Every VXLAN device of ours. Only at the agent's start: it dumps all links."""
    return [link for link in links.dump(netlink) if is_ours(link, mark, group)]


# --- entries ---------------------------------------------------------------------------------------


def _fdb(
    kind: int,
    flags: int,
    device: int,
    mac: str,
    state: int,
    where: int,
    vtep: str | None = None,
    vni: int | None = None,
) -> Message:
    """A forwarding entry for `mac` on a device. `where`: NTF_*; `vtep`: the node behind; `vni`: if not the device's."""
    assert device > 0
    body = uapi.NDMSG.pack(uapi.AF_BRIDGE, device, state, where, 0)
    body += attribute(uapi.NDA_LLADDR, links.mac_bytes(mac))
    if vtep is not None:
        body += attribute(uapi.NDA_DST, ip_address(vtep).packed)
    if vni is not None:
        body += attribute(uapi.NDA_VNI, vni)
    return Message(kind, flags, body)


def remote_messages(device: int, mac: str, vtep: str, vni: int | None) -> tuple[Message, ...]:
    """`mac` is behind `vtep`: the device's entry and the bridge's in one message. `vni`: if it is not the device's."""
    where = uapi.NTF_SELF | uapi.NTF_MASTER | uapi.NTF_EXT_LEARNED
    return (_fdb(uapi.RTM_NEWNEIGH, PUT, device, mac, _FIXED, where, vtep, vni),)


def forget_remote_messages(device: int, mac: str) -> tuple[Message, ...]:
    """Two messages: in a single one, an entry that is gone would keep the other from being deleted."""
    return tuple(_fdb(uapi.RTM_DELNEIGH, 0, device, mac, 0, where) for where in (uapi.NTF_MASTER, uapi.NTF_SELF))


def router_message(device: int, mac: str, vtep: str) -> Message:
    """The router with this MAC is behind `vtep`: the entry of a device that is no port of a bridge."""
    return _fdb(uapi.RTM_NEWNEIGH, PUT, device, mac, _FIXED, uapi.NTF_SELF | uapi.NTF_EXT_LEARNED, vtep)


def forget_router_message(device: int, mac: str) -> Message:
    return _fdb(uapi.RTM_DELNEIGH, 0, device, mac, 0, uapi.NTF_SELF)


def local_messages(port: int, mac: str) -> tuple[Message, ...]:
    """`mac` is a container's behind this port of the bridge: a static entry, so it is never flooded to VTEPs."""
    return (_fdb(uapi.RTM_NEWNEIGH, PUT, port, mac, uapi.NUD_NOARP, uapi.NTF_MASTER),)


def forget_local_messages(port: int, mac: str) -> tuple[Message, ...]:
    return (_fdb(uapi.RTM_DELNEIGH, 0, port, mac, 0, uapi.NTF_MASTER),)


def flood_message(device: int, vtep: str, vni: int | None) -> Message:
    """One more VTEP that gets broadcast, multicast and unknown unicast. Only appending makes a list."""
    flags, state = uapi.NLM_F_CREATE | uapi.NLM_F_APPEND, uapi.NUD_NOARP | uapi.NUD_PERMANENT
    return _fdb(uapi.RTM_NEWNEIGH, flags, device, _FLOOD, state, uapi.NTF_SELF, vtep, vni)


def forget_flood_message(device: int, vtep: str, vni: int | None) -> Message:
    return _fdb(uapi.RTM_DELNEIGH, 0, device, _FLOOD, 0, uapi.NTF_SELF, vtep, vni)


def _neighbour(kind: int, flags: int, link: int, address: str, state: int, more: int, *details: bytes) -> Message:
    assert link > 0
    target = ip_address(address)
    head = uapi.NDMSG.pack(family_of(target.version), link, state, more, 0)
    return Message(kind, flags, head + attribute(uapi.NDA_DST, target.packed) + b"".join(details))


def neighbour_message(bridge: int, address: str, mac: str) -> Message:
    """`address` is at `mac`: the bridge answers ARP and ND from it, and the node sends by it without asking."""
    details = attribute(uapi.NDA_LLADDR, links.mac_bytes(mac)), attribute(uapi.NDA_PROTOCOL, bytes([PROTOCOL]))
    return _neighbour(uapi.RTM_NEWNEIGH, PUT, bridge, address, uapi.NUD_NOARP, uapi.NTF_EXT_LEARNED, *details)


def forget_neighbour_message(bridge: int, address: str) -> Message:
    return _neighbour(uapi.RTM_DELNEIGH, 0, bridge, address, 0, 0)


def send(netlink: Netlink, messages: Sequence[Message]) -> list[bytes | NetlinkError]:
    return netlink.send_all(messages, CHUNK)


# --- what is there ---------------------------------------------------------------------------------


class FdbEntry(NamedTuple):
    """A forwarding entry of a device. `mac` None: of its flood list. `vni`: None if it is the device's own."""

    mac: str | None
    vtep: str
    vni: int | None


def entries(netlink: Netlink, device: int) -> Iterator[FdbEntry]:
    """The device's forwarding entries and flood list."""
    body = uapi.NDMSG.pack(uapi.AF_BRIDGE, device, 0, 0, 0)
    for data in netlink.dump(Message(uapi.RTM_GETNEIGH, 0, body)):
        _, index, _, flags, _ = uapi.NDMSG.unpack_from(data)
        found = attributes(data, uapi.NDMSG.size)
        if index != device or not flags & uapi.NTF_SELF or uapi.NDA_DST not in found or uapi.NDA_LLADDR not in found:
            continue
        mac = found[uapi.NDA_LLADDR].hex(":")
        vni = u32(found[uapi.NDA_VNI]) if uapi.NDA_VNI in found else None
        yield FdbEntry(None if mac == _FLOOD else mac, str(ip_address(found[uapi.NDA_DST])), vni)


def neighbours(netlink: Netlink, bridge: int = 0, protocol: int = PROTOCOL) -> Iterator[tuple[int, str, str]]:
    """(bridge, address, MAC) of the neighbours with this protocol number on a bridge; 0: on any link."""
    where = attribute(uapi.NDA_IFINDEX, bridge) if bridge else b""
    for version in (4, 6):
        body = uapi.NDMSG.pack(family_of(version), 0, 0, 0, 0) + where
        for data in netlink.dump(Message(uapi.RTM_GETNEIGH, 0, body)):
            _, index, _, _, _ = uapi.NDMSG.unpack_from(data)
            found = attributes(data, uapi.NDMSG.size)
            mine = found.get(uapi.NDA_PROTOCOL) == bytes([protocol])
            if mine and uapi.NDA_DST in found and uapi.NDA_LLADDR in found:
                yield index, str(ip_address(found[uapi.NDA_DST])), found[uapi.NDA_LLADDR].hex(":")
