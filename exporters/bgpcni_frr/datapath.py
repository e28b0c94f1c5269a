"""The part of the kernel that FRR reads: the VXLAN device, static forwarding entries, neighbours. Ours are marked.

The device has an alias of ours. A neighbour has our protocol number. A forwarding entry has no room for a mark: ours
are the static ones on the ports of our containers, and those whose MAC a neighbour of ours names. FRR's own entries are
learned by it (`extern_learn`) and never touched.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address

from bgpcni.kernel import links, uapi, vxlan
from bgpcni.kernel.addresses import family_of
from bgpcni.kernel.netlink import Message, Netlink, NetlinkError, attribute, attributes

MARK = "bgpcni:frr "
"""What the alias of a device of ours begins with. Not the agent's own mark: it removes what it has no segment for."""
GROUP = links.GROUP + 1
"""The link group a device is born in, before it has the alias."""
PROTOCOL = 45
"""Who made a neighbour, rtnetlink(7): we. Free in the lists of iproute2, the kernel and FRR."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What one type 2 route is in the kernel. `address`: "" for the MAC alone; `port`: the index of its port."""

    bridge: int
    port: int
    mac: str
    address: str = ""


def open_device(netlink: Netlink, vni: int, local: str, bridge: links.Link) -> int:
    """The VXLAN device of a VNI, a port of this bridge; its index. Raises NetlinkError (EEXIST: somebody else's).

    A bridge that has the MAC of one of its ports follows them, and with each change all its neighbours go: it keeps
    this one from now on. Said once more than needed it would cost the neighbours too.
    """
    if any(link.master == bridge.index and link.mac == bridge.mac for link in links.dump(netlink)):
        mac = attribute(uapi.IFLA_ADDRESS, links.mac_bytes(bridge.mac))
        netlink.run(Message(uapi.RTM_NEWLINK, 0, links.header(bridge.index) + mac))
    return vxlan.ensure(netlink, vxlan.Device(vni, local, bridge.index, bridge.mtu, MARK, GROUP))


def find_device(netlink: Netlink, vni: int) -> links.Link | None:
    """The device of a VNI, if it is there and ours."""
    link = links.find(netlink, name=vxlan.name_of(vni))
    return link if link is not None and vxlan.is_ours(link, MARK, GROUP) else None


def devices(netlink: Netlink) -> dict[int, links.Link]:
    """Every device of ours, by its VNI (0 for one that has no alias yet)."""
    found = vxlan.ours(netlink, MARK, GROUP)
    return {int(number) if (number := link.alias.removeprefix(MARK)).isdecimal() else 0: link for link in found}


def put(netlink: Netlink, entries: Iterable[Entry]) -> list[int]:
    """Entries made, or made anew; the error number of each, 0 for done. The forwarding entry comes first: FRR
    announces an address only at a MAC that it knows."""

    def messages(entry: Entry) -> Iterator[Message]:
        yield from vxlan.local_messages(entry.port, entry.mac)
        if entry.address:
            yield _neighbour(entry)

    return _send(netlink, [list(messages(entry)) for entry in entries])


def take(netlink: Netlink, entries: Iterable[Entry], kept: frozenset[str]) -> None:
    """Entries removed, the neighbour first; `kept`: MACs whose forwarding entry stays, other routes need it.

    What is not as we made it is not ours and stays: an address that is at another MAC by now, an entry of FRR's.
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
    """Have FRR see MACs go whose port went before: it may have missed that, and goes on announcing them.

    Each is shown on another port for a moment, unless the bridge has it again from somewhere.
    """
    ports = (link.index for link in links.dump(netlink) if link.master == bridge and link.kind != "vxlan")
    port = next(ports, None)
    if port is None:
        return
    made = _send(
        netlink,
        [
            [replace(m, flags=uapi.NLM_F_CREATE | uapi.NLM_F_EXCL) for m in vxlan.local_messages(port, mac)]
            for mac in macs
        ],
    )
    shown = [mac for mac, code in zip(macs, made, strict=True) if not code]
    _send(netlink, [list(vxlan.forget_local_messages(port, mac)) for mac in shown])


def named(netlink: Netlink, bridge: int) -> dict[str, str]:
    """Address to MAC of our neighbours on a bridge."""
    return {address: mac for _, address, mac in vxlan.neighbours(netlink, bridge, PROTOCOL)}


def present(netlink: Netlink) -> list[Entry]:
    """Every entry of ours on any bridge: for `prune`, its cost grows with the node."""
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
    """(port, MAC) of the static entries of a bridge."""
    body = uapi.NDMSG.pack(uapi.AF_BRIDGE, 0, 0, 0, 0) + attribute(uapi.NDA_MASTER, bridge)
    for data in netlink.dump(Message(uapi.RTM_GETNEIGH, 0, body)):
        _, port, state, flags, _ = uapi.NDMSG.unpack_from(data)
        if state == uapi.NUD_NOARP and not flags & (uapi.NTF_SELF | uapi.NTF_EXT_LEARNED):
            yield port, attributes(data, uapi.NDMSG.size).get(uapi.NDA_LLADDR, b"").hex(":")


def _those_of_ours(netlink: Netlink, entries: list[Entry]) -> set[Entry]:
    """Those whose neighbour is there as we made it, or as the kernel learned it by itself from the container."""
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
    """Permanent: of anything less the kernel keeps a thousand and forgets the rest (net.ipv4.neigh.default.gc_thresh3);
    what is marked as learned elsewhere FRR takes for another node's."""
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
    """The first error of each group, 0 if there is none."""
    answers = iter(vxlan.send(netlink, [message for group in groups for message in group]))
    return [
        next((answer.errno or 0 for answer in [next(answers) for _ in group] if isinstance(answer, NetlinkError)), 0)
        for group in groups
    ]


def index_of(name: str) -> int:
    """A link's index, 0 if there is none of that name."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0
