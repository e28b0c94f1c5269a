"""VLANs of a bridge: whether the kernel can filter them, which ones a port is in, the node's own interface in one.

The node's interface is a veth pair, as with the stock bridge plugin: one end is a port of the bridge in that VLAN, the
other end, `BRIDGE.VLAN`, has the addresses. It stays when the last container goes, as the bridge does.
"""

from __future__ import annotations

import errno
import secrets
import struct
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import groupby
from typing import NamedTuple

from bgpcni.errors import KernelRefused, Unsupported
from bgpcni.kernel import links, namespace, sysctl, uapi
from bgpcni.kernel.netlink import Message, Netlink, NetlinkError, attribute, attributes, each_attribute, nested

PVID, UNTAGGED = uapi.BRIDGE_VLAN_INFO_PVID, uapi.BRIDGE_VLAN_INFO_UNTAGGED
"""Frames that come in without a tag are in this VLAN; frames of this VLAN go out without a tag."""
LARGEST = 4094


class Tagging(NamedTuple):
    """The VLANs of a port. `untagged`: its only VLAN, or the native one of a trunk, 0 for none. `tagged`: the others.

    `keep_default`: the port also stays in the bridge's default VLAN.
    """

    untagged: int = 0
    tagged: tuple[int, ...] = ()
    keep_default: bool = False


# ---------------------------------------------------------------- the kernel's part


def require() -> None:
    """Raises Unsupported if this kernel's bridge cannot filter VLANs. Changes nothing."""
    if not supported():
        raise Unsupported("this kernel's bridge cannot filter VLANs")


@cache
def supported() -> bool:
    """Whether this kernel's bridge can filter VLANs. It is tried with a bridge in a network namespace of its own."""
    from concurrent.futures import ThreadPoolExecutor  # imported here, because most calls do not need it

    with ThreadPoolExecutor(1) as pool:  # the thread stays in the new namespace, and both end
        return pool.submit(_try).result()


def _try() -> bool:
    try:
        namespace.unshare()
        with Netlink.open() as netlink:
            netlink.run(links.bridge_message(attribute(uapi.IFLA_BR_VLAN_FILTERING, b"\1")))
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return False
        raise KernelRefused(f"making a bridge that filters VLANs: {error.strerror}") from None
    return True


def filters(bridge: links.Link) -> bool:
    """Whether it keeps VLANs apart (vlan_filtering). A bridge that does not sends every frame to every port."""
    return attributes(bridge.details, 0).get(uapi.IFLA_BR_VLAN_FILTERING) == b"\1"


# ---------------------------------------------------------------- ports


def port_messages(index: int, tagging: Tagging) -> list[Message]:
    """The messages that put a port into its VLANs; none if nothing is to change. It may be in them already."""
    assert index > 0
    wanted = list(_infos(tagging.tagged))
    if tagging.untagged:
        wanted.append((PVID | UNTAGGED, tagging.untagged))
    if not wanted:
        return []
    join = Message(uapi.RTM_SETLINK, 0, _of_port(index, wanted))
    if tagging.keep_default:
        return [join]
    others = set(range(1, LARGEST + 1)) - {tagging.untagged, *tagging.tagged}
    return [Message(uapi.RTM_DELLINK, 0, _of_port(index, _infos(others))), join]


def _infos(vlans: Iterable[int]) -> Iterator[tuple[int, int]]:
    """(flags, VLAN) for each struct bridge_vlan_info. Consecutive VLANs become a range."""
    for _, run in groupby(enumerate(sorted(vlans)), lambda item: item[1] - item[0]):
        found = [vlan for _, vlan in run]
        if len(found) == 1:
            yield 0, found[0]
        else:
            yield from ((uapi.BRIDGE_VLAN_INFO_RANGE_BEGIN, found[0]), (uapi.BRIDGE_VLAN_INFO_RANGE_END, found[-1]))


def _of_port(index: int, infos: Iterable[tuple[int, int]]) -> bytes:
    where = attribute(uapi.IFLA_BRIDGE_FLAGS, struct.pack("=H", uapi.BRIDGE_FLAGS_MASTER))
    vlans = (attribute(uapi.IFLA_BRIDGE_VLAN_INFO, uapi.BRIDGE_VLAN_INFO.pack(*info)) for info in infos)
    return links.header(index, family=uapi.AF_BRIDGE) + nested(uapi.IFLA_AF_SPEC, where, *vlans)


def of(netlink: Netlink, index: int) -> dict[int, int]:
    """The VLANs of a port, with their flags; or of the bridge itself, which is a port of its own."""
    found: dict[int, int] = {}
    for data in netlink.dump(Message(uapi.RTM_GETVLAN, 0, uapi.BR_VLAN_MSG.pack(uapi.AF_BRIDGE, index))):
        for kind, value in each_attribute(data, uapi.BR_VLAN_MSG.size):
            if kind == uapi.BRIDGE_VLANDB_ENTRY:
                entry = attributes(value, 0)
                flags, first = uapi.BRIDGE_VLAN_INFO.unpack(entry[uapi.BRIDGE_VLANDB_ENTRY_INFO])
                last = int.from_bytes(entry.get(uapi.BRIDGE_VLANDB_ENTRY_RANGE, b""), sys.byteorder) or first
                found |= dict.fromkeys(range(first, last + 1), flags)
    return found


def is_untagged(flags: int) -> bool:
    """Whether frames of this VLAN have no tag in both directions."""
    return flags & (PVID | UNTAGGED) == PVID | UNTAGGED


def _untagged(netlink: Netlink, index: int) -> int | None:
    return next((vlan for vlan, flags in of(netlink, index).items() if is_untagged(flags)), None)


# ---------------------------------------------------------------- the node's own interface in a VLAN


def gateway_name(bridge: str, vlan: int) -> str:
    """The name that the stock bridge plugin gives it."""
    return f"{bridge}.{vlan}"


def ensure_gateway(netlink: Netlink, bridge: links.Link, tagging: Tagging) -> links.Link:
    """Make sure that the node has an interface in the VLAN, and that it is up. It completes what was cut short.

    An interface that is no veth pair on this bridge (a VLAN device that the operator made) is used as it is. Raises
    KernelRefused; TryAgain if the bridge has no port left.
    """
    name = gateway_name(bridge.name, tagging.untagged)
    try:
        link = links.find(netlink, name=name) or _make(netlink, bridge, name, tagging)
        port = _other_end(netlink, link)
        if port is not None and port.master in (0, bridge.index):
            keep = True
            if not port.master:  # the bridge puts it into its default VLAN again
                netlink.run(links.port_message(port.index, bridge.index))
                keep = tagging.keep_default
            netlink.run(*port_messages(port.index, Tagging(tagging.untagged, keep_default=keep)))
        if not link.up:
            for setting in ("accept_dad", "accept_ra"):  # as on a bridge that we make
                sysctl.put(f"net/ipv6/conf/{name}/{setting}", "0")
            netlink.run(links.set_up_message(link.index))
    except NetlinkError as error:
        if error.errno == links.EXFULL:
            raise links.no_port_left(bridge.name) from None
        raise KernelRefused(f"VLAN interface {name}: {error.strerror}") from None
    return link


def _make(netlink: Netlink, bridge: links.Link, name: str, tagging: Tagging) -> links.Link:
    try:
        port = links.create_veth(
            netlink, host=f"veth{secrets.token_hex(4)}", inside=name, namespace=None, bridge=bridge.index,
            mtu=bridge.mtu, group=0,
        )  # fmt: skip
        netlink.run(*port_messages(port, tagging._replace(tagged=())))
    except NetlinkError as error:
        if error.errno != errno.EEXIST:  # else another ADD made it meanwhile
            raise
    link = links.find(netlink, name=name)
    if link is None:
        raise KernelRefused(f"VLAN interface {name} vanished while it was made")
    return link


def _other_end(netlink: Netlink, link: links.Link) -> links.Link | None:
    """The other end of a veth pair, if that is on this node too."""
    other = links.find(netlink, index=link.peer) if link.kind == "veth" and link.peer else None
    return other if other is not None and other.kind == "veth" and other.peer == link.index else None


def leads(netlink: Netlink, device: int, bridge: int, port: int) -> bool:
    """Whether frames between `device` and the bridge's `port` pass without a tag, in both directions.

    `device`: the bridge itself, a veth whose other end is a port of the bridge, or a VLAN device on the bridge.
    """
    via, switch = links.find(netlink, index=device), links.find(netlink, index=bridge)
    if via is None or switch is None:
        return False
    keeps_apart = filters(switch)
    if via.kind == "vlan" and via.peer == bridge:
        (vlan,) = struct.unpack("=H", attributes(via.details, 0)[uapi.IFLA_VLAN_ID])
        own = of(netlink, bridge)
        return keeps_apart and vlan in own and not own[vlan] & UNTAGGED and vlan == _untagged(netlink, port)
    entry = via if device == bridge else _other_end(netlink, via)
    if entry is None or (entry is not via and entry.master != bridge):
        return False
    if not keeps_apart:
        return True
    vlan = _untagged(netlink, port)
    return vlan is not None and vlan == _untagged(netlink, entry.index)
