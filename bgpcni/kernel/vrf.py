"""VRF devices and the bridges in them: finds them, makes them, and removes them only if they are ours.

A VRF that an operator made is used as it is, with its own table, and stays. A VRF of ours has an alias (`bgpcni:vrf
NAME`) and an unreachable default route. A bridge that we made for a VRF has the alias `bgpcni:bridge NAME`.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from bgpcni.errors import KernelRefused, Unfit
from bgpcni.kernel import links, routes, uapi, vxlan
from bgpcni.kernel.library import iproute
from bgpcni.kernel.netlink import MAKE, Message, Netlink, NetlinkError, attribute, attributes, u32

MARK, BRIDGE_MARK = "bgpcni:vrf ", "bgpcni:bridge "


@dataclass(frozen=True, slots=True)
class Device:
    """A VRF device, and the number of its routing table."""

    name: str
    index: int
    table: int


def is_supported(netlink: Netlink) -> bool:
    """Whether this kernel has VRFs; it loads its module. A VRF without a table is asked for, which is never made."""
    (answer,) = netlink.send(Message(uapi.RTM_NEWLINK, MAKE, links.header() + links.of_kind("vrf")))
    return isinstance(answer, NetlinkError) and answer.errno == errno.EINVAL


def find(netlink: Netlink, name: str) -> Device | None:
    """The VRF of this name. Raises Unfit if that is a link of another kind."""
    link = links.find(netlink, name=name)
    return _device(link) if link is not None else None


def _device(link: links.Link) -> Device:
    if link.kind != "vrf":
        raise Unfit("VRF", f"{link.name} exists and is a {link.kind or 'physical'} link, not a VRF")
    found = attributes(link.details, 0)
    return Device(link.name, link.index, u32(found[uapi.IFLA_VRF_TABLE]) if uapi.IFLA_VRF_TABLE in found else 0)


def ensure(netlink: Netlink, name: str, table: int) -> Device:
    """Make sure that the VRF is there and up. A new one gets this table. Raises Unfit, KernelRefused."""
    try:
        link = links.find(netlink, name=name)
        if link is None:
            _refuse_taken(netlink, table)
            with iproute() as library:
                library.link("add", ifname=name, kind="vrf", vrf_table=table, group=links.GROUP)
            link = links.find(netlink, name=name)
        if link is None:
            raise KernelRefused(f"VRF {name} vanished while it was made")
        found = _device(link)
        if is_ours(link) and not (link.up and link.alias):
            alias = links.change(link.index, attribute(uapi.IFLA_IFALIAS, f"{MARK}{name}".encode()))
            netlink.run(alias, *routes.last_messages(found.table, make=True), links.set_up_message(link.index))
        return found
    except NetlinkError as error:
        raise KernelRefused(f"VRF {name}: {error.strerror}") from None


def _refuse_taken(netlink: Netlink, table: int) -> None:
    for link in links.dump(netlink):
        if link.kind == "vrf" and _device(link).table == table:
            raise KernelRefused(f"table {table} is that of VRF {link.name} already")


def is_ours(link: links.Link) -> bool:
    """The alias says so; or it has none yet and is in our group, because its maker was killed between two sends."""
    return link.kind == "vrf" and (link.alias.startswith(MARK) or (not link.alias and link.group == links.GROUP))


def is_our_bridge(link: links.Link) -> bool:
    """Whether it is a bridge that we made for a VRF."""
    return link.kind == "bridge" and (
        link.alias.startswith(BRIDGE_MARK) or (not link.alias and link.group == links.GROUP)
    )


def enslave_message(bridge: int, vrf: Device) -> Message:
    """Put a bridge into the VRF and mark it as ours. It must not be up, nor have an address: it would lose that."""
    assert min(bridge, vrf.index) > 0
    alias = attribute(uapi.IFLA_IFALIAS, f"{BRIDGE_MARK}{vrf.name}".encode())
    return links.change(bridge, alias, attribute(uapi.IFLA_MASTER, vrf.index))


def within(netlink: Netlink, master: int) -> list[links.Link]:
    """The links in a VRF, or the ports of a bridge."""
    assert master > 0
    message = Message(uapi.RTM_GETLINK, 0, links.header() + attribute(uapi.IFLA_MASTER, master))
    return [link for link in map(links.parse, netlink.dump(message)) if link.master == master]


def remove_bridge(netlink: Netlink, name: str) -> None:
    """Remove a bridge of ours if it has no port any more. It is no error if it has gone."""
    link = links.find(netlink, name=name)
    if link is not None and is_our_bridge(link) and not within(netlink, link.index):
        links.remove(netlink, link.index)


def remove(netlink: Netlink, index: int) -> bool:
    """Remove a VRF of ours and our routes in its table, unless a link is in it. Returns whether it was removed."""
    found = links.find(netlink, index=index)
    if found is None or not is_ours(found) or within(netlink, index):
        return False
    clear(netlink, _device(found).table)
    links.remove(netlink, index)
    return True


def clear(netlink: Netlink, table: int) -> None:
    """Remove our routes from a table. Those through devices outside the VRF would outlive it."""
    messages = [routes.delete_message(*route, table) for route in routes.ours(netlink, table)]
    vxlan.send(netlink, [*messages, *routes.last_messages(table, make=False)])
