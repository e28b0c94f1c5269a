"""What FRR reads from the kernel: the VXLAN device, static forwarding entries, neighbours. This makes and removes ours.

Our device has an alias of ours, a neighbour of ours has our protocol number. A forwarding entry cannot be marked: ours
are the static ones on the ports of our containers, and those with the MAC of a neighbour of ours. FRR's own entries are
flagged `extern_learn` and never touched.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from bgpcni.kernel import links, uapi, vxlan
from bgpcni.kernel.addresses import family_of
from bgpcni.kernel.netlink import Message, Netlink, NetlinkError, attribute, attributes

MARK = "bgpcni:frr "
"""How the alias of our devices begins. It is not the agent's mark, because the agent removes devices that have its mark
and no segment."""
GROUP = links.GROUP + 1
"""The link group in which a device is made, before it has the alias."""
PROTOCOL = 45
"""The protocol number by which we mark our neighbours (rtnetlink(7)). iproute2, the kernel and FRR do not use it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One type 2 route as entries of the kernel. `address`: "" for the MAC alone. `port`: the index of the bridge
    port."""

    bridge: int
    port: int
    mac: str
    address: str = ""


def open_device(netlink: Netlink, vni: int, local: str, bridge: links.Link) -> int:
    """Make the VXLAN device of a VNI as a port of this bridge, if missing, and return its index.

    Raises NetlinkError (EEXIST: the device is not ours). A bridge with the MAC of one of its ports changes its MAC when
    its ports change, and then loses all its neighbours. So its present MAC is set permanently, but only if need be,
    because setting it loses the neighbours, too.
    """
    if any(link.master == bridge.index and link.mac == bridge.mac for link in links.dump(netlink)):
        mac = attribute(uapi.IFLA_ADDRESS, links.mac_bytes(bridge.mac))
        netlink.run(Message(uapi.RTM_NEWLINK, 0, links.header(bridge.index) + mac))
    return vxlan.ensure(netlink, vxlan.Device(vni, local, bridge.index, bridge.mtu, MARK, GROUP))


def find_device(netlink: Netlink, vni: int) -> links.Link | None:
    """The device of a VNI, if it exists and is ours."""
    link = links.find(netlink, name=vxlan.name_of(vni))
    return link if link is not None and vxlan.is_ours(link, MARK, GROUP) else None


def devices(netlink: Netlink) -> dict[int, links.Link]:
    """All our devices by VNI (0 for one that has no alias yet)."""
    found = vxlan.ours(netlink, MARK, GROUP)
    return {int(number) if (number := link.alias.removeprefix(MARK)).isdecimal() else 0: link for link in found}


def put(netlink: Netlink, entries: Iterable[Entry]) -> list[int]:
    """Make or replace entries. Returns the error number of each, 0 for success. The forwarding entry is made first,
    because FRR announces an address only with a MAC that it knows."""

    def messages(entry: Entry) -> Iterator[Message]:
        yield from vxlan.local_messages(entry.port, entry.mac)
        if entry.address:
            yield _neighbour(entry)

    return _send(netlink, [list(messages(entry)) for entry in entries])


def take(netlink: Netlink, entries: Iterable[Entry], kept: frozenset[str]) -> None:
    """Remove entries, the neighbour first. `kept`: MACs whose forwarding entry stays because other routes need it.

    An entry that is not as we made it is not ours and stays: the address has another MAC by now, or it is FRR's.
    """
    found = list(entries)
    ours = _those_of_ours(netlink, found)
    _send(netlink, [[_forget_neighbour(entry.bridge, entry.address)] for entry in found if entry in ours])
    there = [entry for entry in found if entry.port and entry.mac not in kept]
    codes = _send(netlink, [list(vxlan.forget_local_messages(entry.port, entry.mac)) for entry in there])
    lost = {entry for entry, code in zip(there, codes, strict=True) if code == errno.ENODEV}
    for bridge in {entry.bridge for entry in lost}:
        _show_gone(netlink, bridge, sorted({entry.mac for entry in lost if entry.bridge == bridge}))


def _show_gone(netlink: Netlink, bridge: int, macs: list[str]) -> None:
    """Make FRR withdraw MACs whose port was removed before: it may have missed that and still announce them.

    Each MAC is put on another port for a moment and removed, unless the bridge has it again by now.
    """
    ports = (link.index for link in links.dump(netlink) if link.master == bridge and link.kind != "vxlan")
    port = next(ports, None)
    if port is None:
        return
    made = _send(
        netlink,
        [
            [m._replace(flags=uapi.NLM_F_CREATE | uapi.NLM_F_EXCL) for m in vxlan.local_messages(port, mac)]
            for mac in macs
        ],
    )
    shown = [mac for mac, code in zip(macs, made, strict=True) if not code]
    _send(netlink, [list(vxlan.forget_local_messages(port, mac)) for mac in shown])


def named(netlink: Netlink, bridge: int) -> dict[str, str]:
    """Our neighbours on a bridge, as address → MAC."""
    return {address: mac for _, address, mac in vxlan.neighbours(netlink, bridge, PROTOCOL)}


def present(netlink: Netlink) -> list[Entry]:
    """All our entries on all bridges. Only for `prune`, because its cost grows with the node."""
    found = links.dump(netlink)
    ports = {link.index: link for link in found if link.master}
    held: dict[int, dict[str, set[str]]] = {}
    for bridge, address, mac in vxlan.neighbours(netlink, protocol=PROTOCOL):
        held.setdefault(bridge, {}).setdefault(mac, set()).add(address)
    bridges = {link.master for link in devices(netlink).values() if link.master} | set(held)
    entries: list[Entry] = []
    for bridge in bridges:
        addresses = held.pop(bridge, {})
        for port, mac in _static(netlink, bridge):
            if port not in ports or ports[port].kind == "vxlan":
                continue
            if mac in addresses:
                entries += [Entry(bridge, port, mac, address) for address in addresses.pop(mac)]
            elif links.mark_of(ports[port]):
                entries.append(Entry(bridge, port, mac))
        entries += [Entry(bridge, 0, mac, address) for mac, those in addresses.items() for address in those]
    return entries


def _static(netlink: Netlink, bridge: int) -> Iterator[tuple[int, str]]:
    """The static entries of a bridge, as (port, MAC)."""
    body = uapi.NDMSG.pack(uapi.AF_BRIDGE, 0, 0, 0, 0) + attribute(uapi.NDA_MASTER, bridge)
    for data in netlink.dump(Message(uapi.RTM_GETNEIGH, 0, body)):
        _, port, state, flags, _ = uapi.NDMSG.unpack_from(data)
        if state == uapi.NUD_NOARP and not flags & (uapi.NTF_SELF | uapi.NTF_EXT_LEARNED):
            yield port, attributes(data, uapi.NDMSG.size).get(uapi.NDA_LLADDR, b"").hex(":")


def _those_of_ours(netlink: Netlink, entries: list[Entry]) -> set[Entry]:
    """The entries whose neighbour is as we made it, or as the kernel itself has learned it from the container."""
    asked = [entry for entry in entries if entry.address]
    messages = [Message(uapi.RTM_GETNEIGH, 0, _address(entry.bridge, entry.address, 0)) for entry in asked]
    ours = set()
    for entry, answer in zip(asked, vxlan.send(netlink, messages), strict=True):
        if isinstance(answer, NetlinkError) or len(answer) < uapi.NDMSG.size:
            continue
        _, _, state, flags, _ = uapi.NDMSG.unpack_from(answer)
        found = attributes(answer, uapi.NDMSG.size)
        mine = found.get(uapi.NDA_PROTOCOL) == bytes([PROTOCOL])
        learned = not state & (uapi.NUD_NOARP | uapi.NUD_PERMANENT) and not flags & uapi.NTF_EXT_LEARNED
        if found.get(uapi.NDA_LLADDR, b"").hex(":") == entry.mac and (mine or learned):
            ours.add(entry)
    return ours


def _neighbour(entry: Entry) -> Message:
    """A permanent neighbour: of others the kernel keeps only a thousand (net.ipv4.neigh.default.gc_thresh3), and one
    that is marked as externally learned would belong to another node for FRR."""
    body = _address(entry.bridge, entry.address, uapi.NUD_PERMANENT) + attribute(
        uapi.NDA_LLADDR, links.mac_bytes(entry.mac)
    )
    return Message(
        uapi.RTM_NEWNEIGH,
        uapi.NLM_F_CREATE | uapi.NLM_F_REPLACE,
        body + attribute(uapi.NDA_PROTOCOL, bytes([PROTOCOL])),
    )


def _forget_neighbour(bridge: int, address: str) -> Message:
    return Message(uapi.RTM_DELNEIGH, 0, _address(bridge, address, 0))


def _address(bridge: int, address: str, state: int) -> bytes:
    assert bridge > 0
    target = ip_address(address)
    return uapi.NDMSG.pack(family_of(target.version), bridge, state, 0, 0) + attribute(uapi.NDA_DST, target.packed)


def _send(netlink: Netlink, groups: list[list[Message]]) -> list[int]:
    """Send groups of messages. Returns the first error number of each group, 0 if there is none."""
    answers = iter(vxlan.send(netlink, [message for group in groups for message in group]))
    return [
        next((answer.errno or 0 for answer in [next(answers) for _ in group] if isinstance(answer, NetlinkError)), 0)
        for group in groups
    ]


def index_of(name: str) -> int:
    """The index of a link; 0 if there is none of that name."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0
