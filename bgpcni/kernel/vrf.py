"""VRF devices and the bridges in them: found, made, removed only if ours. Packed messages, off the hot path but one.

A VRF that an operator made is used as it is, with the table that he gave it, and stays. One of ours has our alias
(`bgpcni:vrf NAME`) and a default route to nowhere; a bridge that was made in a VRF says so (`bgpcni:bridge NAME`).
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from bgpcni.errors import InvalidConfiguration, KernelRefused
from bgpcni.kernel import links, routes, vxlan
from bgpcni.kernel.netlink import (
    CREATE,
    EXCL,
    RTM_GETLINK,
    RTM_NEWLINK,
    Message,
    Netlink,
    NetlinkError,
    attribute,
    attributes,
    nested,
    u32,
)

MARK, BRIDGE_MARK = "bgpcni:vrf ", "bgpcni:bridge "
TABLES = 182000
"""A VRF of ours has the table of this number and its own (1 to 65535), as its MPLS label: 182 is our protocol, too."""

_IFNAME, _MASTER, _LINKINFO, _ALIAS, _GROUP = 3, 10, 18, 20, 27
_KIND, _DATA = 1, 2
_TABLE = 1


@dataclass(frozen=True, slots=True)
class Device:
    """A VRF device as the kernel has it."""

    name: str
    index: int
    table: int


def is_supported(netlink: Netlink) -> bool:
    """Whether this kernel has VRFs (its module is loaded by this). Asked for by one without a table: none is made."""
    body = links.header() + nested(_LINKINFO, attribute(_KIND, b"vrf"))
    (answer,) = netlink.send(Message(RTM_NEWLINK, EXCL | CREATE, body))
    return isinstance(answer, NetlinkError) and answer.errno == errno.EINVAL


def find(netlink: Netlink, name: str) -> Device | None:
    """The VRF of this name. Raises InvalidConfiguration if that is a link of another kind."""
    link = links.find(netlink, name=name)
    return _device(link) if link is not None else None


def _device(link: links.Link) -> Device:
    if link.kind != "vrf":
        raise InvalidConfiguration(f"bgp.vrf: {link.name} exists and is a {link.kind or 'physical'} link, not a VRF")
    found = attributes(link.details, 0)
    return Device(link.name, link.index, u32(found[_TABLE]) if _TABLE in found else 0)


def ensure(netlink: Netlink, name: str, table: int) -> Device:
    """The VRF, up; made with this table if it is not there. Raises InvalidConfiguration, KernelRefused."""
    try:
        link = links.find(netlink, name=name)
        if link is None:
            _refuse_taken(netlink, table)
            body = links.header() + attribute(_IFNAME, name) + attribute(_GROUP, links.GROUP)
            body += nested(_LINKINFO, attribute(_KIND, b"vrf"), nested(_DATA, attribute(_TABLE, table)))
            netlink.run(Message(RTM_NEWLINK, EXCL | CREATE, body))
            link = links.find(netlink, name=name)
        if link is None:
            raise KernelRefused(f"VRF {name} vanished while it was made")
        found = _device(link)
        if is_ours(link) and not (link.up and link.alias):
            alias = links.header(link.index) + attribute(_ALIAS, f"{MARK}{name}".encode())
            last = routes.last_messages(found.table, make=True)
            netlink.run(Message(RTM_NEWLINK, 0, alias), *last, links.set_up_message(link.index))
        return found
    except NetlinkError as error:
        raise KernelRefused(f"VRF {name}: {error.strerror}") from None


def _refuse_taken(netlink: Netlink, table: int) -> None:
    for link in links.dump(netlink):
        if link.kind == "vrf" and _device(link).table == table:
            raise KernelRefused(f"table {table} is that of VRF {link.name} already")


def is_ours(link: links.Link) -> bool:
    """The alias says so; or it has none yet and was born in our group (killed between the two sends)."""
    return link.kind == "vrf" and (link.alias.startswith(MARK) or (not link.alias and link.group == links.GROUP))


def is_our_bridge(link: links.Link) -> bool:
    """A bridge that was made in a VRF, by us."""
    return link.kind == "bridge" and (
        link.alias.startswith(BRIDGE_MARK) or (not link.alias and link.group == links.GROUP)
    )


def enslave_message(bridge: int, vrf: Device) -> Message:
    """Into the VRF, and marked as ours: before it is up or has an address, which it would lose."""
    assert min(bridge, vrf.index) > 0
    alias = attribute(_ALIAS, f"{BRIDGE_MARK}{vrf.name}".encode())
    return Message(RTM_NEWLINK, 0, links.header(bridge) + alias + attribute(_MASTER, vrf.index))


def within(netlink: Netlink, master: int) -> list[links.Link]:
    """The links in a VRF, or the ports of a bridge."""
    assert master > 0
    message = Message(RTM_GETLINK, 0, links.header() + attribute(_MASTER, master))
    return [link for link in map(links.parse, netlink.dump(message)) if link.master == master]


def remove_bridge(netlink: Netlink, name: str) -> None:
    """A bridge of ours goes when nothing is in it any more. Gone already is success."""
    link = links.find(netlink, name=name)
    if link is not None and is_our_bridge(link) and not within(netlink, link.index):
        links.remove(netlink, link.index)


def remove(netlink: Netlink, index: int) -> bool:
    """A VRF of ours goes, with what is ours in its table, unless somebody's link is in it. False: it is not ours."""
    found = links.find(netlink, index=index)
    if found is None or not is_ours(found) or within(netlink, index):
        return False
    clear(netlink, _device(found).table)
    links.remove(netlink, index)
    return True


def clear(netlink: Netlink, table: int) -> None:
    """Remove our routes from a table: those by devices outside of the VRF would outlive it."""
    messages = [routes.delete_message(route, table) for route in routes.ours(netlink, table)]
    vxlan.send(netlink, [*messages, *routes.last_messages(table, make=False)])
