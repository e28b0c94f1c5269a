"""Shared addresses (anycast) of this node: which containers have which one now, and the node's routes into them.

A route leads by the containers' own addresses, to all of them at once where several of this node share the address. It
has a metric of its own, lower than that of learned routes, and is there while the address is announced. The members
are in memory; records say what they should be, and `restore` makes the kernel agree with them.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Iterable

from bgpcni.bgp import host_prefix
from bgpcni.errors import InvalidConfiguration, KernelRefused
from bgpcni.ip import ip_address, ip_interface
from bgpcni.kernel import addresses, links, routes
from bgpcni.kernel.namespace import Namespace
from bgpcni.kernel.netlink import Netlink, NetlinkError
from bgpcni.model import Address, Attachment, AttachmentKey

log = logging.getLogger(__name__)
_MISSING = (errno.ESRCH, errno.ENODEV, errno.ENOENT)


class SharedAddresses:
    """Safe for threads. `table`: the number of a table in the kernel."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._members: dict[tuple[int, str], dict[AttachmentKey, routes.Path]] = {}

    def set(self, netlink: Netlink, attachment: Attachment) -> None:
        """Have the node's routes lead to it, or not any more, as its record says. Raises KernelRefused."""
        self._set(netlink, attachment.key, _wanted(attachment))

    def drop(self, netlink: Netlink, key: AttachmentKey) -> None:
        """It ends. Raises KernelRefused."""
        self._set(netlink, key, {})

    def _set(self, netlink: Netlink, key: AttachmentKey, wanted: dict[tuple[int, str], routes.Path]) -> None:
        if not wanted and not self._members:
            return  # as most nodes have it
        with self._lock:
            for place, way in wanted.items():
                members = self._members.setdefault(place, {})
                if members.get(key) != way:
                    self._put(netlink, place, members | {key: way})
                    members[key] = way
            for place in [place for place, has in self._members.items() if key in has and place not in wanted]:
                del self._members[place][key]
                self._put(netlink, place, self._members[place])
                if not self._members[place]:
                    del self._members[place]

    def restore(self, netlink: Netlink, attachments: Iterable[Attachment]) -> None:
        """Have exactly these, whatever an earlier run of the agent left in the kernel. What cannot be is logged."""
        tables, found = {routes.MAIN}, dict[tuple[int, str], dict[AttachmentKey, routes.Path]]()
        for attachment in attachments:
            tables |= {_table(attachment)} - {0}
            for place, way in _wanted(attachment).items():
                found.setdefault(place, {})[attachment.key] = way
        with self._lock:
            self._members = found
            present = {
                (table, prefix.partition("/")[0])
                for table in tables
                for prefix, _ in routes.ours(netlink, table, routes.SHARED_METRIC)
            }
            for place in present | found.keys():
                try:
                    self._put(netlink, place, found.get(place, {}))
                except KernelRefused as error:
                    log.error("%s", error.msg)

    @staticmethod
    def _put(netlink: Netlink, place: tuple[int, str], members: dict[AttachmentKey, routes.Path]) -> None:
        table, address = place
        prefix = host_prefix(address)
        (answer,) = netlink.send(routes.shared_message(prefix, list(members.values()), table))
        if isinstance(answer, NetlinkError) and (members or answer.errno not in _MISSING):
            raise KernelRefused(f"anycast: route to {prefix}: {answer.strerror}")


def assign(space: Namespace, attachment: Attachment) -> None:
    """Give the container its shared addresses, on its interface, so that they go with it. Repeated, nothing changes.

    The loopback interface is set up: what the container sends to an address of its own goes through it. IPv6 addresses
    are deprecated, so that the container does not choose them for connections of its own. Raises KernelRefused.
    """
    if attachment.anycast is None:
        return
    link = links.find(space.netlink, name=attachment.ifname)
    if link is None:
        raise KernelRefused(f"{attachment.ifname} is not in {space.path}")
    messages = [
        addresses.address_message(link.index, host_prefix(one), deprecated=True) for one in attachment.anycast.addresses
    ]
    up, *answers = space.netlink.send(links.up_message("lo"), *messages)
    for what, answer in zip(("lo", *attachment.anycast.addresses), (up, *answers), strict=True):
        if isinstance(answer, NetlinkError) and answer.errno != errno.EEXIST:
            raise KernelRefused(f"shared address {what} on {attachment.ifname}: {answer.strerror}")


def refuse(netlink: Netlink, attachment: Attachment, owned: Iterable[Address], place: str) -> None:
    """Raises InvalidConfiguration for a shared address that cannot lead to this container, which has `owned`."""
    if attachment.anycast is None:
        return
    own = [ip_interface(item.address) for item in owned]
    nodes_own = {address for address, _, _ in routes.connected(netlink)}
    for at, one in enumerate(attachment.anycast.addresses):
        address = ip_address(one)
        where = f"{place}[{at}]: {one}"
        if one in nodes_own:
            raise InvalidConfiguration(f"{where} is an address of this node")
        if all(item.version != address.version for item in own):
            raise InvalidConfiguration(
                f"{where} needs an IPv{address.version} address of the container's own, and it has none"
            )
        for item in own:
            if address in item.network:
                raise InvalidConfiguration(
                    f"{where} is inside {item.network}, the subnet of the container's own address: "
                    "choose one outside of every pool"
                )


def _wanted(attachment: Attachment) -> dict[tuple[int, str], routes.Path]:
    """The node's routes into it, by table and address."""
    shared, table = attachment.anycast, _table(attachment)
    if shared is None or not shared.passing or not table or not attachment.exporters:
        return {}
    return {(table, one): way for one in shared.addresses if (way := _way(attachment, one)) is not None}


def _table(attachment: Attachment) -> int:
    """The table that leads to it; 0: this node does not forward for it."""
    return routes.MAIN if attachment.bgp.family == "unicast" else attachment.bgp.table or 0


def _way(attachment: Attachment, address: str) -> routes.Path | None:
    """How the node reaches it: by its own address of that family."""
    version = ip_address(address).version
    own = (ip_interface(item.address) for item in attachment.addresses)
    via = next((str(item.ip) for item in own if item.version == version), None)
    device = attachment.gateway.index if attachment.gateway else attachment.bridge_index or attachment.host_index
    return routes.Path(via, device) if via and device else None
