"""Finds interfaces inside containers from this node, by the end of the veth pair that is here, whoever made it.

This is for containers whose namespace has no path that we know. It is slow (a dump of all links, and two questions for
each pair), so only rare cases use it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import NamedTuple

from bgpcni.kernel import addresses, links
from bgpcni.kernel.netlink import Netlink, NetlinkError


class Guest(NamedTuple):
    """An interface in another namespace. `host`: its other end, on this node. `addresses`: without prefix length."""

    host: links.Link
    name: str
    addresses: frozenset[str]


def find(netlink: Netlink, ours_too: Callable[[links.Link], bool] = lambda host: False) -> Iterator[Guest]:
    """The interfaces that others made, and those of ours for whose host end `ours_too` is true."""
    for host in links.dump(netlink):
        if host.kind != "veth" or host.nsid is None or (links.mark_of(host) and not ours_too(host)):
            continue
        link = links.find_in(netlink, host.nsid, host.peer)
        if link is None:
            continue
        try:
            assigned = addresses.assigned(netlink, link.index, host.nsid)
        except NetlinkError as error:
            if error.errno in (errno.ENODEV, errno.EINVAL):  # it went meanwhile
                continue
            raise
        yield Guest(host, link.name, frozenset(item.address.partition("/")[0] for item in assigned))
