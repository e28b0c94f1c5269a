"""Which blocks of a pool nodes claim, when they claim another one, and which they give back. Pure.

A block is claimed by making its IPBlock, whose name follows from its prefix. Blocks never overlap each other or a
pool's `static` ranges: where such a range covers a part of a block, the rest of it is claimed in smaller blocks.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, summarize_address_range
from typing import NamedTuple

from bgpcni.cluster.objects import BGPNode, IPBlock, IPBlockSpec, IPPoolSpec, Metadata, Object, Path, ends
from bgpcni.ip import ip_network

Net = IPv4Network | IPv6Network
Ip = IPv4Address | IPv6Address
Span = tuple[int, int]
"""First and last of a range of numbers."""

SMALLEST = {4: 30, 6: 126}
"""The longest prefix of a block: it has room for a gateway and for one container."""


class Use(NamedTuple):
    """A block of this node: how many containers can have an address of it, and how many do."""

    block: Net
    size: int
    used: int

    @property
    def free(self) -> int:
        return self.size - self.used


# ---------------------------------------------------------------- names and objects


def name_of(block: Net) -> str:
    """The name of its IPBlock, as Kubernetes takes it: `10-64-0-0-26`, `2001-0db8-…-0040-122`."""
    return f"{re.sub('[.:]', '-', block.network_address.exploded)}-{block.prefixlen}"


def path_of(block: Net) -> Path:
    return "IPBlock", name_of(block)


def claim(block: Net, pool: str, node: str, epoch: str, *, tombstone: bool = False) -> IPBlock:
    """The object by which a node claims a block or a single address. `tombstone`: its node is dead."""
    spec = IPBlockSpec(cidr=str(block), pool=pool, node=node, epoch=epoch, tombstone=tombstone)
    return IPBlock(metadata=Metadata(name=name_of(block)), spec=spec)


def is_single(block: Net) -> bool:
    return block.prefixlen == block.max_prefixlen


def alive(objects: Iterable[Object]) -> set[tuple[str, str]]:
    """Name and epoch of every node in the cluster. What is claimed with another epoch is a dead node's."""
    return {(item.metadata.name, item.spec.epoch) for item in objects if isinstance(item, BGPNode)}


# ---------------------------------------------------------------- pools


def home_of(pool: IPPoolSpec, block: Net | Ip) -> Net | None:
    """The pool's cidr that has all of a block, or an address; None: the pool has no such cidr."""
    block = ip_network(str(block)) if isinstance(block, Ip) else block
    return next((cidr for cidr in _cidrs(pool, block.version) if block.subnet_of(cidr)), None)  # type: ignore[arg-type]


def is_static(pool: IPPoolSpec, address: Ip) -> bool:
    return any(low <= int(address) <= high for low, high in _statics(pool, address.version))


def versions(pool: IPPoolSpec) -> tuple[int, ...]:
    return tuple(version for version in (4, 6) if _cidrs(pool, version))


def size_of(pool: IPPoolSpec, version: int) -> int:
    """How many containers can have an address of a whole block."""
    network = ip_network(f"0.0.0.0/{pool.block_size.ipv4}" if version == 4 else f"::/{pool.block_size.ipv6}")
    return int(network.num_addresses) - len(reserved(network))


def reserved(subnet: Net) -> frozenset[int]:
    """What no container of a subnet gets: the network's address, the gateway's, and the broadcast address of IPv4."""
    first = int(subnet.network_address)
    return frozenset((first, first + 1, *((int(subnet.broadcast_address),) if subnet.version == 4 else ())))


def hosts(subnet: Net) -> Iterator[Span]:
    """The addresses of a subnet that containers may have."""
    yield from _without(span_of(subnet), ((number, number) for number in reserved(subnet)))


def spans(pool: IPPoolSpec, block: Net, home: Net) -> Iterator[Span]:
    """The addresses of a block that containers may have. What became static later is left out, and for a single address
    there is nothing to leave out."""
    if is_single(block):
        yield int(block[0]), int(block[0])
        return
    left_out = [(number, number) for number in reserved(block) | reserved(home)]
    yield from _without(span_of(block), [*left_out, *_statics(pool, block.version)])


def next_block(pool: IPPoolSpec, version: int, taken: Iterable[Net], node: str, has: Ip | None = None) -> Net | None:
    """The block that this node claims next; None: no block is free. `taken`: all that is claimed, of any size.

    Each node begins at another place, so that nodes which claim at the same time seldom choose the same block.
    `has`: only the block with this address will do.
    """
    held = [span_of(block) for block in taken if block.version == version]
    static = list(_statics(pool, version))
    for whole in (True, False):
        for cidr in _cidrs(pool, version):
            for slot in _slots(pool, cidr, [*held, *static] if whole else held, node, static, has, whole=whole):
                found = [slot] if whole else list(_pieces(slot, [*held, *static]))
                if fitting := [block for block in found if has is None or has in block]:
                    return fitting[0]
    return None


def _slots(
    pool: IPPoolSpec, cidr: Net, busy: Sequence[Span], node: str, static: Sequence[Span], has: Ip | None, *, whole: bool
) -> Iterator[Net]:
    """Places of whole blocks in a cidr: the first one that is free of `busy`; or all that are partly static."""
    length = pool.block_size.ipv4 if cidr.version == 4 else pool.block_size.ipv6
    first, width = int(cidr.network_address), 1 << (cidr.max_prefixlen - length)
    count = 1 << (length - cidr.prefixlen)

    def place(number: int) -> Net:
        return type(cidr)((first + number * width, length))

    def numbers(spans: Iterable[Span]) -> list[Span]:
        low, high = span_of(cidr)
        return _merged(((max(a, low) - first) // width, (min(b, high) - first) // width)
                       for a, b in spans if a <= high and b >= low)  # fmt: skip

    if has is not None:
        if has in cidr:
            number = (int(has) - first) // width
            if not whole or _free(numbers(busy), number, number + 1) == number:
                yield place(number)
        return
    if not whole:
        edges = sorted({number for one in static for low_high in numbers([one]) for number in low_high})
        yield from map(place, edges)
        return
    begin = int.from_bytes(hashlib.sha256(f"{node} {cidr}".encode()).digest()[:16], "big") % count
    held = numbers(busy)
    for since, until in ((begin, count), (0, begin)):
        if (free := _free(held, since, until)) is not None:
            yield place(free)
            return


def _pieces(slot: Net, busy: Iterable[Span]) -> Iterator[Net]:
    """The largest blocks of what is left of a slot."""
    for low, high in _without(span_of(slot), busy):
        make = IPv4Address if slot.version == 4 else IPv6Address
        for piece in summarize_address_range(make(low), make(high)):
            if piece.prefixlen <= SMALLEST[slot.version]:
                yield piece


def _free(held: Sequence[Span], begin: int, end: int) -> int | None:
    """The first number from `begin` on, and before `end`, that is in none of the merged ranges."""
    at = bisect_right(held, (begin, 1 << 130)) - 1
    number = begin
    for low, high in held[max(at, 0) :]:
        if low <= number <= high:
            number = high + 1
        elif low > number:
            break
    return number if number < end else None


def _merged(ranges: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(high, merged[-1][1])
        else:
            merged.append((low, high))
    return merged


def _without(whole: Span, busy: Iterable[Span]) -> Iterator[Span]:
    low, high = whole
    for first, last in _merged(busy):
        if last < low:
            continue
        if first > high:
            break
        if first > low:
            yield low, first - 1
        low = last + 1
    if low <= high:
        yield low, high


def span_of(block: Net) -> Span:
    return int(block.network_address), int(block.broadcast_address)


def _cidrs(pool: IPPoolSpec, version: int) -> list[Net]:
    return [network for cidr in pool.cidrs if (network := ip_network(cidr)).version == version]


def _statics(pool: IPPoolSpec, version: int) -> Iterator[Span]:
    for text in pool.static:
        first, last = ends(text)
        if first.version == version:
            yield int(first), int(last)


# ---------------------------------------------------------------- how many a node has


def is_short(uses: Collection[Use], whole: int) -> bool:
    """Whether a node with these blocks of a pool claims another one: a quarter of a block is left, or less.

    `whole`: how many containers can have an address of a whole block.
    """
    return sum(use.free for use in uses) <= whole // 4


def surplus(empty: Sequence[Net], busy: Collection[Collection[Use]], whole: int) -> list[Net]:
    """Which empty blocks of a pool a node gives back. `busy`: for each network the blocks that it uses.

    One stays for each network that has half a block left, or less, and the last block of all stays. That is twice of
    what makes a node claim one, so that no block comes and goes with each container.
    """
    needed = sum(sum(use.free for use in uses) <= 2 * (whole // 4) for uses in busy)
    return list(empty[max(needed, not busy) :])


def overlapping(block: Net, others: Mapping[Path, Net]) -> Path | None:
    """Another claim that has some of its addresses."""
    low, high = span_of(block)
    for path, other in others.items():
        if other.version == block.version and path != path_of(block):
            first, last = span_of(other)
            if first <= high and last >= low:
                return path
    return None
