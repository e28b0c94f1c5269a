"""Looks at leases, records and the kernel for `bgpcni ipam`, without a lock and without changing anything."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator

from bgpcni.errors import CniError, IoFailure
from bgpcni.ipam.cluster import ClusterLeases
from bgpcni.ipam.config import DEFAULT_DATA_DIR
from bgpcni.ipam.leases import CLUSTER, Leases, bare
from bgpcni.kernel import guests, links
from bgpcni.model import Attachment, State
from bgpcni.node import interface
from bgpcni.node.holdings import Contradiction, Holding, Lease, Picture, Stranger, contradictions
from bgpcni.node.node import Node

HOST_LOCAL = "host-local"


def look(node: Node, data_dirs: Collection[str] = ()) -> Picture:
    """The picture of now. `data_dirs`: folders of leases beside those that records, the agent and the default name."""
    claimed = node.claims.keys() if node.resident else frozenset()
    stored = list(node.store.all())
    present = {link.index: link for link in links.dump(node.netlink)}
    inside = {guest.host.index: guest for guest in guests.find(node.netlink, lambda host: True)}
    holdings = []
    for one in stored:
        item = one.attachment
        if item is None:
            continue
        link = present.get(item.host_index or 0)
        lost = interface.vanished(node.netlink, item) if item.host_index is None else (
            link is None or link.name != item.host_veth
        )  # fmt: skip
        gone = one.state is State.UP and (lost or item.boot_id != node.boot_id)
        guest = inside.get(item.host_index or 0)
        mine = guest is not None and not gone and (item.chained or links.is_ours(guest.host, item.key.digest))
        holdings.append(
            Holding(
                one.state,
                item,
                frozenset(bare(address.address) for address in item.addresses),
                _data_dir(item),
                gone,
                guest.addresses if mine and guest else None,
            )
        )
    known = {one.attachment.host_index for one in holdings}
    named = {one.network for one in stored} | set(node.addressing.pools)
    return Picture(
        (*_leases(node, holdings, data_dirs, named), *_shared_leases(node, holdings)),
        tuple(holdings),
        tuple(
            Stranger(guest.host.name, guest.addresses, bool(links.mark_of(guest.host)))
            for index, guest in inside.items()
            if index not in known
        ),
        tuple(one.problem for one in stored if one.attachment is None),
        claimed,
        tuple(node.pools.contradictions()) if node.pools is not None else (),
    )


def opened(node: Node, lease: Lease) -> Leases:
    """The folder of a lease, to release it."""
    if lease.shared:
        return ClusterLeases(lease.data_dir, lease.network, dict, node.pools)
    return Leases(lease.data_dir, lease.network)


def lasting(node: Node, data_dirs: Collection[str] = ()) -> tuple[Picture, tuple[Contradiction, ...]]:
    """The picture, and what contradicted in two looks: calls that are under way are no contradiction."""
    seen = look(node, data_dirs)
    found = contradictions(seen)
    if found:
        seen = look(node, data_dirs)
        found = tuple(one for one in contradictions(seen) if one in found)
    return seen, found


def _data_dir(item: Attachment) -> str | None:
    if item.ipam is None or item.ipam.type not in (HOST_LOCAL, CLUSTER):
        return None
    return item.ipam.data_dir or DEFAULT_DATA_DIR


def _shared_leases(node: Node, holdings: Iterable[Holding]) -> Iterator[Lease]:
    """The leases of addresses that the cluster gave."""
    folders = {one.data_dir for one in holdings if one.attachment.ipam and one.attachment.ipam.type == CLUSTER}
    folders |= {str(node.pools.leases)} if node.pools is not None else set()
    for folder in sorted(filter(None, folders)):
        for address, entry in ClusterLeases(folder, "", dict, None).seen().items():
            yield Lease(folder, entry.network, address, entry.owner, shared=True)


def _folders(node: Node, holdings: Iterable[Holding], more: Collection[str]) -> list[str]:
    pools = [pool.leases for pool in node.addressing.pools.values()]
    remembered = [os.path.dirname(one.folder) for one in pools if one and not isinstance(one, ClusterLeases)]
    recorded = [one.data_dir for one in holdings if one.data_dir]
    shared = {one.data_dir for one in holdings if one.attachment.ipam and one.attachment.ipam.type == CLUSTER}
    return sorted({DEFAULT_DATA_DIR, *more, *remembered, *recorded} - shared)


def _leases(node: Node, holdings: Collection[Holding], more: Collection[str], ours: Collection[str]) -> Iterator[Lease]:
    """The leases of host-local, in the folder of each network. `ours`: networks that are certainly ours."""
    for data_dir in _folders(node, holdings, more):
        try:
            networks = sorted(os.listdir(data_dir))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise IoFailure(f"{data_dir}: {error.strerror}") from None
        for network in networks:
            try:
                leases = Leases(data_dir, network)
                mine = network in ours or node.addressing.has_given(leases)
                for address, entry in leases.seen().items():
                    yield Lease(data_dir, network, address, entry.owner, ours=mine)
            except CniError:
                continue  # not a folder of leases
