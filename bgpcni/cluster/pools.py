"""The cluster's pools on this node: which blocks are ours, and the thread that claims, keeps and gives them back.

A block is ours once our own claim has come back by the watch, so that every claim made before it is known, and once it
is on disk (`blocks.json`), so that a start without the store has it. Addresses are then given without asking anybody.
All changes of claims are made by one thread; whoever needs a block says so and waits for it.

Order of events that a kill may cut: claim in the store, then on disk, then in use; and back: not in use, off the disk,
deleted in the store. What the store says is ours and the disk does not know is claimed again before it is used, so that
a deletion of an earlier life that is still on its way finds another version.
"""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import threading
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from bgpcni import atomic
from bgpcni.cluster import blocks
from bgpcni.cluster.blocks import Ip, Net, Span, Use
from bgpcni.cluster.objects import BGPNode, BGPPeer, IPBlock, IPPool
from bgpcni.cluster.objects import Path as ObjectPath
from bgpcni.cluster.peers import selects
from bgpcni.cluster.picture import Picture, Pictures
from bgpcni.cluster.store import Conflict, Kept, Store, Trouble
from bgpcni.cluster.taken import Taken
from bgpcni.config.agent import AgentConfig
from bgpcni.errors import CniError, InvalidConfiguration, TryAgain
from bgpcni.files import read_plain

log = logging.getLogger(__name__)
FILE, LEASES = "blocks.json", "leases"
_MOST = 16 << 20
PENDING_SECONDS = 60.0
"""How long a claim of ours may be on its way. After that it is taken for lost, and made again."""
IDLE_SECONDS = 10.0
"""How long a block is empty before it is given back, and a static address (the second) before its claim is."""
IDLE_SINGLE = 1.0
LOOK_SECONDS = 1.0
"""Between two looks, if nothing wakes us."""
BREATH_SECONDS = 0.02
"""Between two looks at least, so that a burst of ADDs costs few."""
BURST_SECONDS = 0.1
"""Between two looks that addresses taken or given back make necessary."""
TRIES = 16
"""Claims in a row that others were faster with, before the next picture is waited for."""
SPREAD_SECONDS = 2.0
"""Nodes that see a dead node's block act at different times within these, so that most find it done."""
SLACK_SECONDS = 30.0
"""How long a dead node's routes may live on beyond hold time and graceful restart."""


class Membership(Protocol):
    """This node in the cluster: `Member` is one."""

    name: str
    epoch: str
    store: Store
    pictures: Pictures

    @property
    def own_node(self) -> OwnNode | None:
        """Its Node object; None where the store is not Kubernetes."""
        ...  # pragma: no cover

    @property
    def trouble(self) -> str:
        """Why the store cannot be asked now, "" if it can."""
        ...  # pragma: no cover

    @property
    def synced(self) -> bool:
        """Whether the picture has been the store's in this life of the agent."""
        ...  # pragma: no cover

    def kept(self, path: ObjectPath) -> Kept | None:
        """An object with its version, as it was followed last."""
        ...  # pragma: no cover


class OwnNode(Protocol):
    @property
    def object(self) -> Mapping[str, Any] | None:
        """As the server has it; None where it has none of that name, or has not been asked."""
        ...  # pragma: no cover


class Ground(Protocol):
    """What the kernel has for blocks."""

    def cover(self, covered: Collection[Net]) -> None:
        """Have a blackhole for each of these blocks, and for no other one."""
        ...  # pragma: no cover

    def let_go(self, block: Net) -> None:
        """Take away the gateway's address of a block, which another node may have next. Raises OSError, CniError."""
        ...  # pragma: no cover


@dataclass(frozen=True, slots=True)
class Offer:
    """A block, or a single address, from which this node gives addresses. `home`: the pool's cidr that it is part of.

    `announced`: the block is announced as a whole.
    """

    block: Net
    home: Net
    pool: str
    spans: tuple[Span, ...] = ()
    announced: bool = False

    @property
    def single(self) -> bool:
        return blocks.is_single(self.block)


@dataclass(frozen=True, slots=True)
class Block:
    """A block of this node, as the disk has it. `lost`: why it is another's by now, "" if it is ours.

    `announced`: containers may have been announced by it as a whole.
    """

    net: Net
    pool: str
    home: Net
    announced: bool = False
    lost: str = ""


class Usage(NamedTuple):
    """One block of this node: how many addresses it has for containers, and how many are given."""

    pool: str
    version: int
    size: int
    used: int


class Claimed(NamedTuple):
    """A claim of whatever node."""

    net: Net
    pool: str
    node: str
    epoch: str
    tombstone: bool


class Pending(NamedTuple):
    """A claim of ours on its way: what we have written as which version, and when."""

    pool: str
    version: str
    when: float


@dataclass(slots=True)
class Demand:
    """A call that waits for a block of these pools. `met`: it waits no more. `reason`: why it cannot have one now."""

    pools: tuple[str, ...]
    version: int
    met: Callable[[], bool]
    address: Ip | None = None
    reason: str = ""


class Pools:
    """Made before the node, `start`ed when the agent serves. Safe for threads."""

    def __init__(
        self,
        member: Membership,
        config: AgentConfig,
        ground: Ground,
        leased: Callable[[Path], Iterable[tuple[str, str]]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`leased`: the addresses that have a lease in a folder, each with its network."""
        self._member, self._ground, self._clock, self._config = member, ground, clock, config
        self.folder = Path(config.data_dir) / "ipam"
        self.leases = self.folder / LEASES
        leases = list(leased(self.leases))
        self.taken = Taken(address for address, _ in leases)
        self.given_last: dict[Net, int] = {}
        """By block the address that was given last: the next one is behind it, so that none is given again soon."""
        self._pod_cidrs: tuple[Net, ...] = ()
        """`spec.podCIDRs` of the Node: what a network without pools has, and nobody claims."""
        self._file = self.folder / FILE
        self._moved = threading.Condition()
        self._wake, self._stopped = threading.Event(), False
        self._demands: list[Demand] = []
        self._epochs = {member.epoch}
        """Claims of this node with one of these are ours: the disk may know the epoch better than the member."""
        self._blocks: dict[Net, Block] = self._read()
        self._written_pods: tuple[Net, ...] = self._pod_cidrs
        self._users: dict[Net, str] = {}
        """By block the network that uses it: no two do, because they may be on different bridges."""
        for address, network in leases:
            self._users.update({net: network for net in self._blocks if ip_address(address) in net})
        self._shut: set[Net] = set()
        """Blocks of ours from which nothing is given now."""
        self._published: object = None
        self._generation = 0
        """Another number whenever `offers` may be different."""
        self._offers: dict[tuple[int, tuple[str, ...] | None], tuple[int, int, list[Offer]]] = {}
        self._all: tuple[int, list[IPPool]] = (-1, [])
        self._made: dict[Net, tuple[IPPool, Offer | None]] = {}
        """By block its offer, and the pool that it was made for."""
        self._picture = Picture()
        self._claims: dict[ObjectPath, Claimed] = {}
        self._own: dict[ObjectPath, Claimed] = {}
        self._alive: set[tuple[str, str]] = set()
        self._pending: dict[Net, Pending] = {}
        self._given_back: dict[ObjectPath, str] = {}
        """Claims that we have deleted or mean to: the version that was."""
        self._deleting: set[ObjectPath] = set()
        self._empty_since: dict[Net, float] = {}
        self._orphans: dict[tuple[ObjectPath, str], float] = {}
        self._short: dict[tuple[str, int], str] = {}
        self._looked = 0.0
        self._unwritten = ""
        self._covered: set[Net] | None = None
        self._losses = {net: block.lost for net, block in self._blocks.items() if block.lost}
        self.conflicts = 0
        """Another number whenever `conflict` may say something else."""
        self.requests = 0
        """How many changes the store was asked for."""

    # ---------------------------------------------------------------- life

    def start(self) -> None:
        for name, run in (("cluster-pools", self._run), ("cluster-pools-picture", self._follow)):
            threading.Thread(target=run, name=name, daemon=True).start()

    def stop(self) -> None:
        self._stopped = True
        self._wake.set()

    @property
    def given(self) -> Pools:
        """What gives the node its addresses."""
        return self

    def renew(self, config: AgentConfig) -> None:
        """This agent.toml is in force from now on."""
        self._config = config
        self._wake.set()

    @property
    def looks(self) -> Mapping[str, Callable[[], str]]:
        """What is amiss, by its code in `status`."""
        return {"cluster-pools": self._amiss}

    def _amiss(self) -> str:
        return "; ".join(filter(None, (*sorted(self._short.values()), self._unwritten)))

    def lost(self) -> str:
        """Which blocks are another node's by now, and how many containers here have addresses of them."""
        return "; ".join(
            f"block {block.net} is not this node's any more: {block.lost}; {len(found)} of its addresses are still "
            f"used here and are not announced: {', '.join(map(str, found[:3]))}{', …' if len(found) > 3 else ''}"
            for block in list(self._blocks.values()) if block.lost and (found := self.taken.within(block.net))
        )  # fmt: skip

    def _follow(self) -> None:
        pictures = self._member.pictures
        picture = pictures.last
        while not self._stopped and not pictures.closed:
            picture = pictures.wait(picture)
            self._wake.set()

    def _run(self) -> None:
        while not self._stopped:
            self._wake.clear()
            self._looked = time.monotonic()
            try:
                self.look()
            except Exception:
                log.exception("looking after this node's blocks failed because of a defect")
            self._wake.wait(BREATH_SECONDS)
            if self._wake.wait(LOOK_SECONDS) and not self._demands:
                time.sleep(BREATH_SECONDS)

    # ---------------------------------------------------------------- for those who give addresses

    def versions(self, names: tuple[str, ...] | None) -> tuple[int, ...]:
        """The IP versions of which a container gets an address each. Raises InvalidConfiguration, TryAgain."""
        if pods := self._of_pods(names):
            return tuple(sorted({offer.block.version for offer in pods}))
        found = {version for pool in self._selected(names) for version in blocks.versions(pool.spec)}
        return tuple(sorted(found))

    def offers(self, version: int, names: tuple[str, ...] | None, network: str) -> tuple[list[Offer], int]:
        """The blocks from which a network gets addresses, in order, and a ticket for `more`. Raises as `versions`."""
        if pods := self._of_pods(names):
            return [offer for offer in pods if offer.block.version == version], 0
        key = version, names
        generation, seen = self._generation, self._member.pictures.last.generation
        known = self._offers.get(key)
        if known is None or known[:2] != (generation, seen):
            pools = {pool.metadata.name: (at, pool) for at, pool in enumerate(self._selected(names))}
            found = [
                (pools[block.pool][0], offer)
                for block in self._open()
                if block.net.version == version and not blocks.is_single(block.net) and block.pool in pools
                and (offer := self._offer(block, pools[block.pool][1])) is not None and offer.spans
            ]  # fmt: skip
            known = self._offers[key] = generation, seen, [offer for _, offer in sorted(found, key=lambda one: one[0])]
        users = self._users
        return [offer for offer in known[2] if users.get(offer.block, network) == network], generation

    def more(self, version: int, names: tuple[str, ...] | None, ticket: int, deadline: float) -> None:
        """Wait until there are other offers than those of the ticket. Raises TryAgain that says why there are none."""
        if pods := self._of_pods(names):
            said = ", ".join(str(offer.block) for offer in pods if offer.block.version == version)
            raise TryAgain(f"no address is free in this Node's podCIDRs: {said}")
        pools = tuple(pool.metadata.name for pool in self._selected(names) if version in blocks.versions(pool.spec))
        self._demand(Demand(pools, version, lambda: self._generation != ticket), deadline)

    def offer_of(self, address: Ip, names: tuple[str, ...] | None, network: str, deadline: float) -> Offer:
        """The offer with an address that is asked for; it is claimed if need be.

        Raises InvalidConfiguration for an address that no container can have, TryAgain for one that another node has.
        """
        if pods := self._of_pods(names):
            for one in pods:
                if address in one.block and any(low <= int(address) <= high for low, high in one.spans):
                    return one
            raise InvalidConfiguration(f"ipam: requested IP address {address} is for no container of this Node")
        pool = next((each for each in self._selected(names) if blocks.home_of(each.spec, address) is not None), None)
        if pool is None:
            raise InvalidConfiguration(f"ipam: requested IP address {address} is in no pool of this network")

        def known() -> bool:
            return self._mine(address) is not None or bool(self._owner(address))

        if not known():
            self._demand(Demand((pool.metadata.name,), address.version, known, address), deadline)
        block = self._mine(address)
        if block is None:
            raise TryAgain(f"requested IP address {address} is {self._owner(address)}")
        if self._users.get(block.net, network) != network:
            raise TryAgain(f"requested IP address {address} is in block {block.net}, which network "
                           f"{self._users[block.net]} uses on this node")  # fmt: skip
        offer = self._offer(block, pool)
        if offer is None or not any(low <= int(address) <= high for low, high in offer.spans):
            if not blocks.is_static(pool.spec, address):
                raise InvalidConfiguration(
                    f"ipam: requested IP address {address} is the gateway or no host of {block.net}"
                )
            offer = Offer(block.net, block.home, block.pool, ((int(address), int(address)),))
        return offer

    def keep(self, block: Net, network: str) -> bool:
        """Whether an address that was just taken from a block may be kept: the block is open, and the network's."""
        if block in self._pod_cidrs:
            return True
        with self._moved:
            ours = block in self._blocks and block not in self._shut and not self._blocks[block].lost
            return ours and self._users.setdefault(block, network) == network

    def touched(self) -> None:
        """An address was taken or given back. A burst of them costs few looks; the last ones wait for the next one."""
        if time.monotonic() >= self._looked + BURST_SECONDS:
            self._wake.set()

    def refuse_exhausted(self, names: tuple[str, ...] | None, network: str) -> None:
        """Raises TryAgain if an ADD could not have an address of each IP version now."""
        for version in self.versions(names):
            offers, _ = self.offers(version, names, network)
            if any(self.taken.next_free(offer.spans, version, 0) is not None for offer in offers):
                continue
            if self._of_pods(names):
                raise TryAgain("no address is free in this Node's podCIDRs")
            pools = [pool for pool in self._selected(names) if version in blocks.versions(pool.spec)]
            if reason := self._obstacle():
                raise TryAgain(f"no IPv{version} address is left in this node's blocks: {reason}")
            taken = [one.net for one in list(self._claims.values())]
            if all(blocks.next_block(pool.spec, version, taken, self._member.name) is None for pool in pools):
                raise TryAgain(self._none_free([pool.metadata.name for pool in pools], version))

    def examples(self, names: tuple[str, ...] | None) -> list[Offer]:
        """For each IP version an offer such as an ADD would get, as far as the pools tell. Nothing is claimed."""
        if pods := self._of_pods(names):
            return pods
        found = []
        for version in self.versions(names):
            pools = [pool for pool in self._selected(names) if version in blocks.versions(pool.spec)]
            block = blocks.next_block(pools[0].spec, version, (), self._member.name)
            if block is not None and (home := blocks.home_of(pools[0].spec, block)) is not None:
                spans = tuple(blocks.spans(pools[0].spec, block, home))
                found.append(Offer(block, home, pools[0].metadata.name, spans))
        return found

    def conflict(self, address: str) -> str:
        """Why this address must not be announced by this node: it is another's by now. "" if it is not."""
        if not self._losses:
            return ""
        ip = ip_address(address.partition("/")[0])
        return next((f"{block.net} is not this node's any more: {block.lost}"
                     for block in list(self._blocks.values()) if block.lost and ip in block.net), "")  # fmt: skip

    # ---------------------------------------------------------------- for the operator

    def view(self) -> list[dict[str, object]]:
        """Every claim of the cluster, and how much of it is used where that is known: on this node."""
        own = {block.net: block for block in list(self._blocks.values())}
        claims = {one.net: one for one in list(self._claims.values())}
        found = []
        for net in sorted(own.keys() | claims.keys(), key=lambda net: (net.version, net)):
            one, block = claims.get(net), own.get(net)
            mine = block is not None and not block.lost
            found.append(
                {
                    "block": str(net),
                    "pool": one.pool if one is not None else block.pool if block is not None else "",
                    "node": one.node if one is not None else "",
                    "dead": one is not None and (one.node, one.epoch) not in self._alive,
                    "ours": mine,
                    "used": self.taken.count(net) if block is not None else None,
                    "size": self._size(block) if block is not None else None,
                }
            )
        return found

    def usage(self) -> list[Usage]:
        """How much of this node's own blocks is used, for the metrics."""
        return [
            Usage(block.pool, block.net.version, self._size(block), self.taken.count(block.net))
            for block in list(self._blocks.values())
            if not block.lost
        ]

    def _size(self, block: Block) -> int:
        pool = self._member.pictures.last.find(IPPool, block.pool)
        offer = self._offer(block, pool) if pool is not None else None
        return sum(high - low + 1 for low, high in offer.spans) if offer is not None else 0

    def contradictions(self) -> Iterator[str]:
        """What the store, the disk and the leases of this node say against each other, a sentence each."""
        own, claims = dict(self._blocks), dict(self._claims)
        for net, block in own.items():
            if block.lost:
                yield f"block {net}: leases here, and {block.lost}"
            elif self._member.synced and blocks.path_of(net) not in claims:
                yield f"block {net}: on this node's disk, and claimed by nobody in the cluster's store"
        pools = {pool.metadata.name: pool for pool in self._member.pictures.last.of(IPPool)}
        ranked = sorted(claims.items(), key=lambda one: (one[1].net.version, *blocks.span_of(one[1].net)))
        before: tuple[ObjectPath, Claimed] | None = None
        for path, one in ranked:
            if before is not None and before[1].net.overlaps(one.net):
                yield f"block {one.net} of node {one.node} overlaps {before[1].net} of node {before[1].node}"
            if before is None or before[1].net.version != one.net.version or one.net[-1] > before[1].net[-1]:  # type: ignore[operator]
                before = path, one
            if self._is_me(one) and one.net not in own and one.net not in self._pending:
                yield f"block {one.net}: this node's in the cluster's store, and not on its disk"
            if one.pool not in pools:
                yield f"block {one.net} of node {one.node}: there is no IPPool {one.pool}"
            elif blocks.home_of(pools[one.pool].spec, one.net) is None:
                yield f"block {one.net} of node {one.node}: outside of IPPool {one.pool}"
            if (one.node, one.epoch) not in self._alive and not one.tombstone and self._member.synced:
                yield f"block {one.net}: of node {one.node}, which is not in the cluster"
        for address in self.taken.outside([*own, *self._pod_cidrs]):
            yield f"{address}: leased here, and in no block of this node"

    # ---------------------------------------------------------------- what is ours

    def _selected(self, names: tuple[str, ...] | None) -> list[IPPool]:
        """The pools of a network, those that it names or all that select this node. Raises as `versions` says."""
        picture = self._member.pictures.last
        labels = self._labels(picture)
        if names is None:
            if self._all[0] != picture.generation:
                pools = [pool for pool in picture.of(IPPool) if selects(pool.spec.node_selector, labels)]
                self._all = picture.generation, pools
            found = self._all[1]
            if not found:
                self._refuse_unread()
                raise InvalidConfiguration("ipam.pools: missing, and no IPPool of the cluster selects this node")
            return found
        found = []
        for at, name in enumerate(names):
            pool = picture.find(IPPool, name)
            if pool is None:
                self._refuse_unread()
                raise InvalidConfiguration(f"ipam.pools[{at}]: there is no IPPool {name} in the cluster")
            if not selects(pool.spec.node_selector, labels):
                raise InvalidConfiguration(f"ipam.pools[{at}]: IPPool {name} does not select this node")
            found.append(pool)
        return found

    def _of_pods(self, names: tuple[str, ...] | None) -> list[Offer]:
        """What a network without pools has by the Node's `spec.podCIDRs`. Raises TryAgain while that is not known."""
        node = self._member.own_node
        if names is not None or node is None:
            return []
        found = node.object
        if found is not None:
            self._pod_cidrs = tuple(ip_network(cidr) for cidr in found.get("spec", {}).get("podCIDRs") or ())
        elif not self._pod_cidrs:
            raise TryAgain(f"the Node {self._member.name} has not been read yet, and with it its spec.podCIDRs")
        return [Offer(net, net, "", tuple(blocks.hosts(net))) for net in self._pod_cidrs]

    def _refuse_unread(self) -> None:
        if not self._member.synced:
            raise TryAgain(f"the cluster's store has not been read yet: {self._member.trouble or 'wait a moment'}")

    def _labels(self, picture: Picture) -> Mapping[str, str]:
        me = picture.find(BGPNode, self._member.name)
        if me is not None:
            return me.metadata.labels
        return self._config.cluster.labels if self._config.cluster else {}

    def _open(self) -> list[Block]:
        return [block for net, block in list(self._blocks.items()) if net not in self._shut and not block.lost]

    def _offer(self, block: Block, pool: IPPool) -> Offer | None:
        """None: the pool has this block no more."""
        known = self._made.get(block.net)
        if known is not None and known[0] is pool:
            return known[1]
        home, offer = blocks.home_of(pool.spec, block.net), None
        if home is not None:
            spans = tuple(blocks.spans(pool.spec, block.net, home))
            offer = Offer(block.net, home, block.pool, spans, pool.spec.advertise == "block")
        self._made[block.net] = pool, offer
        return offer

    def _mine(self, address: Ip) -> Block | None:
        return next((block for block in self._open() if address in block.net), None)

    def _owner(self, address: Ip) -> str:
        """Whose an address is, if it is another node's: `in block 10.64.0.0/26 of node node-2`."""
        for one in list(self._claims.values()):
            if one.net.version == address.version and address in one.net and not self._is_me(one):
                dead = ", which is dead: it is free soon" if one.tombstone else ""
                what = "claimed by" if blocks.is_single(one.net) else f"in block {one.net} of"
                return f"{what} node {one.node}{dead}"
        return ""

    def _is_me(self, one: Claimed) -> bool:
        return one.node == self._member.name and one.epoch in self._epochs

    def _demand(self, demand: Demand, deadline: float) -> None:
        with self._moved:
            self._demands.append(demand)
            self._wake.set()
            try:
                left = max(0.0, deadline - time.monotonic())
                self._moved.wait_for(lambda: demand.met() or demand.reason or self._stopped, left)
            finally:
                self._demands.remove(demand)
            if demand.met():
                return
        what = "no address is free in this node's blocks" if demand.address is None else f"{demand.address}"
        raise TryAgain(f"{what}: {demand.reason or self._obstacle() or 'no block could be claimed in time'}")

    def _obstacle(self) -> str:
        """Why no block can be claimed now."""
        member = self._member
        if member.trouble:
            return f"the cluster's store is away: {member.trouble}"
        if not member.synced:
            return "the cluster's store has not been read yet"
        if (member.name, member.epoch) not in self._alive:
            return f"this node's BGPNode {member.name} is not in the cluster's store"
        return ""

    def _none_free(self, pools: Iterable[str], version: int) -> str:
        return f"no block of IPv{version} is free in IPPool {', '.join(pools)}"

    # ---------------------------------------------------------------- one look

    def look(self) -> None:
        """Compare what is with what should be, and change claims. Only the thread of this object calls it."""
        self._understand(self._member.pictures.last)
        late = self._clock() - PENDING_SECONDS
        self._pending = {net: one for net, one in self._pending.items() if one.when > late}
        if self._member.synced and not self._member.trouble:
            self._settle()
            self._delete_again()
            used = self.uses()
            self._give_back(used)
            self._prefetch(used)
            self._bury()
        self._serve()
        self._cover()

    def _understand(self, picture: Picture) -> None:
        if picture is self._picture:
            return
        claims, own = dict(self._claims), dict(self._own)
        for path in picture.changed(self._picture):
            item = picture.objects.get(path)
            claims.pop(path, None)
            own.pop(path, None)
            if isinstance(item, IPBlock):
                spec = item.spec
                one = Claimed(ip_network(spec.cidr), spec.pool, spec.node, spec.epoch, spec.tombstone)
                claims[path] = one
                if self._is_me(one):
                    own[path] = one
            elif path not in self._deleting:
                self._given_back.pop(path, None)
        self._claims, self._own = claims, own
        self._alive, self._picture = blocks.alive(picture.of(BGPNode)), picture
        self._short.clear()

    def _settle(self) -> None:
        """Have the same blocks here as the store says are ours."""
        found = dict(self._blocks)
        for path, one in self._own.items():
            if one.net not in found and (block := self._adopt(path, one)) is not None:
                found[one.net] = block
        for net in self._blocks:
            kept = self._hold(found[net])
            if kept is None:
                del found[net]
            else:
                found[net] = kept
        self._keep(found)

    def _adopt(self, path: ObjectPath, one: Claimed) -> Block | None:
        """A claim of ours that the disk does not know: the one that we have just made, or one of an earlier life."""
        kept = self._member.kept(path)
        if kept is None or self._given_back.get(path) == kept.version:
            return None
        pending = self._pending.get(one.net)
        if pending is None or pending.version != kept.version:
            self._write_again(one.net, one.pool, kept)
            return None
        del self._pending[one.net]
        if other := blocks.overlapping(one.net, {path: its.net for path, its in self._claims.items()}):
            log.warning("block %s overlaps %s: given back", one.net, " ".join(other))
            self._delete(path, kept.version)
            return None
        log.info("block %s of IPPool %s is this node's", one.net, one.pool)
        return self._described(Block(one.net, one.pool, one.net))

    def _described(self, block: Block) -> Block:
        """With what its pool says of it now, if there is the pool."""
        pool = self._picture.find(IPPool, block.pool)
        if pool is None:
            return block
        home = blocks.home_of(pool.spec, block.net) or block.home
        return replace(block, home=home, announced=block.announced or pool.spec.advertise == "block")

    def _hold(self, block: Block) -> Block | None:
        """A block of the disk, as the store sees it. None: it is not ours, and nobody uses it."""
        path = blocks.path_of(block.net)
        one, kept = self._own.get(path), self._member.kept(path)
        if one is not None:
            pending = self._pending.get(block.net)
            if pending is not None and kept is not None and pending.version == kept.version:
                del self._pending[block.net]
            if (one.tombstone or one.epoch != self._member.epoch) and kept is not None:
                self._write_again(block.net, block.pool, kept)  # somebody has deleted our BGPNode, and we live
            if block.lost:
                log.warning("block %s is this node's again", block.net)
            self._shut.discard(block.net)
            return self._described(replace(block, lost="") if block.lost else block)
        self._shut.add(block.net)  # until it is ours again nothing is given from it
        used = self.taken.count(block.net)
        if not used:
            log.info("block %s is not this node's any more, and no container here has an address of it", block.net)
            self._clear(block.net)
            return None
        other = path if path in self._claims else self._overlapping(block.net)
        if other is None:
            if not self._obstacle():
                self._write_again(block.net, block.pool)
            return block
        lost = f"{self._claims[other].net} is claimed by node {self._claims[other].node}"
        if lost != block.lost:
            log.error("block %s is not this node's any more: %s; its %d addresses in use are not announced",
                      block.net, lost, used)  # fmt: skip
        return replace(block, lost=lost)

    def _overlapping(self, net: Net) -> ObjectPath | None:
        return blocks.overlapping(net, {path: its.net for path, its in self._claims.items()})

    def _keep(self, found: dict[Net, Block]) -> bool:
        """These are our blocks from now on: on disk first, then in use. False if the disk refuses new ones."""
        if found != self._blocks or self._pod_cidrs != self._written_pods or self._unwritten:
            document = {
                "schema": 1, "epoch": self._member.epoch, "podCIDRs": [str(net) for net in self._pod_cidrs], "blocks": [
                    {"cidr": str(one.net), "pool": one.pool, "home": str(one.home), "announced": one.announced,
                     "lost": one.lost}
                    for one in found.values()
                ],
            }  # fmt: skip
            try:
                self.folder.mkdir(mode=0o700, exist_ok=True)
                atomic.put(self._file, json.dumps(document).encode(), 0o600)
                self._unwritten, self._written_pods = "", self._pod_cidrs
            except OSError as error:
                self._unwritten = f"{self._file}: {error.strerror}: blocks cannot be claimed or given back"
                return False
            losses, self._blocks = {net: block.lost for net, block in found.items() if block.lost}, found
            self._made = {net: made for net, made in self._made.items() if net in found}
            self.conflicts += losses != self._losses
            self._losses = losses
        self._shut &= self._blocks.keys()
        self._publish()
        return True

    def _publish(self) -> None:
        state = list(self._blocks.values()), frozenset(self._shut)
        if state != self._published:
            with self._moved:
                self._published = state
                self._generation += 1
                self._moved.notify_all()
        elif self._demands:
            with self._moved:  # who an address belongs to may be known now
                self._moved.notify_all()

    # ---------------------------------------------------------------- claims

    def _claim(self, net: Net, pool: str) -> IPBlock:
        """With a mark of its own: each claim is another version, whatever store has it."""
        claim = blocks.claim(net, pool, self._member.name, self._member.epoch)
        marked = claim.metadata.model_copy(update={"annotations": {"bgpcni.dev/claim": secrets.token_hex(8)}})
        return claim.model_copy(update={"metadata": marked})

    def _write(self, net: Net, pool: str, over: Kept | None = None) -> str:
        """Claim what nobody has, or write our claim anew over what is there.

        Returns why that was impossible, "" if it is on its way. Raises Conflict if somebody was faster.
        """
        if net in self._pending:
            return ""
        claim, store = self._claim(net, pool), self._member.store
        self.requests += 1
        try:
            kept = store.create(claim) if over is None else store.swap(claim, over.version)
        except Trouble as trouble:
            return f"the cluster's store is away: {trouble}"
        self._pending[net] = Pending(pool, kept.version, self._clock())
        return ""

    def _write_again(self, net: Net, pool: str, over: Kept | None = None) -> None:
        with contextlib.suppress(Conflict):  # the next picture says by whom
            self._write(net, pool, over)

    def _serve(self) -> None:
        """Claim what calls wait for."""
        with self._moved:
            demands = [demand for demand in self._demands if not demand.met()]
        obstacle = self._obstacle()
        done: dict[tuple[tuple[str, ...], int, Ip | None], str] = {}
        for demand in demands:
            key = demand.pools, demand.version, demand.address
            if key not in done:  # at a start the store is read within moments
                done[key] = self._member.trouble and obstacle if obstacle else self._claim_for(demand)
            demand.reason = done[key]
        if any(done.values()):
            with self._moved:
                self._moved.notify_all()

    def _claim_for(self, demand: Demand) -> str:
        """Why there is nothing to be claimed for it, "" if a claim is on its way."""
        if self._unwritten:
            return self._unwritten
        pools = [pool for name in demand.pools if (pool := self._picture.find(IPPool, name)) is not None]
        address = demand.address
        if address is not None and pools and blocks.is_static(pools[0].spec, address):
            with contextlib.suppress(Conflict):  # the next picture says whose it is
                return self._write(ip_network(f"{address}/{address.max_prefixlen}"), demand.pools[0])
            return ""
        if any(net.version == demand.version and pending.pool in demand.pools and (address is None or address in net)
               for net, pending in self._pending.items()):  # fmt: skip
            return ""
        return self._claim_next(pools, demand.version, address)

    def _claim_next(self, pools: Sequence[IPPool], version: int, address: Ip | None = None) -> str:
        """Claim the next block of the first of these pools that has one. Why there is none, "" if it is on its way."""
        taken: list[Net] = [*(one.net for one in self._claims.values()), *self._blocks, *self._pending]
        for tries in range(TRIES):
            found = ((blocks.next_block(one.spec, version, taken, self._member.name, address), one) for one in pools)
            block, pool = next(((net, one) for net, one in found if net is not None), (None, None))
            if block is None or pool is None:
                if tries:
                    break  # others were faster: the next picture says what is left
                if address is not None:
                    return "it is in no block that this node could claim"
                return self._none_free([pool.metadata.name for pool in pools], version)
            try:
                return self._write(block, pool.metadata.name)
            except Conflict:
                taken.append(block)
        return ""

    def _prefetch(self, used: Mapping[tuple[str, int], Sequence[Use]]) -> None:
        """Claim the next block of a pool before the last one of a network is full."""
        short = {}
        for (name, version), uses in used.items():
            pool = self._picture.find(IPPool, name)
            if pool is None:
                continue
            spare = [use for use in uses if use.block not in self._users]
            needy = [mine for mine in self._by_network(uses)
                     if blocks.is_short([*mine, *spare], blocks.size_of(pool.spec, version))]  # fmt: skip
            if needy:
                short[name, version] = sum(use.free for use in (*needy[0], *spare))
        self._short = {key: text for key, text in self._short.items() if key in short}
        for (name, version), left in short.items():
            pool = self._picture.find(IPPool, name)
            waiting = any(net.version == version and one.pool == name for net, one in self._pending.items())
            if pool is None or (name, version) in self._short or waiting or self._obstacle() or self._unwritten:
                continue
            if reason := self._claim_next([pool], version):
                self._short[name, version] = f"{reason}; this node has {left} addresses left"

    def _by_network(self, uses: Iterable[Use]) -> Collection[list[Use]]:
        """The blocks that networks use, by network."""
        found: dict[str, list[Use]] = {}
        for use in uses:
            if (user := self._users.get(use.block)) is not None:
                found.setdefault(user, []).append(use)
        return found.values()

    def uses(self) -> dict[tuple[str, int], list[Use]]:
        """The blocks from which this node gives addresses, by pool and IP version."""
        labels, found = self._labels(self._picture), dict[tuple[str, int], list[Use]]()
        for block in self._open():
            pool = self._picture.find(IPPool, block.pool)
            if pool is None or blocks.is_single(block.net) or not selects(pool.spec.node_selector, labels):
                continue
            if size := self._size(block):
                use = Use(block.net, size, min(size, self.taken.count(block.net)))
                found.setdefault((block.pool, block.net.version), []).append(use)
        return found

    # ---------------------------------------------------------------- giving back

    def _give_back(self, used: Mapping[tuple[str, int], Sequence[Use]]) -> None:
        """Give back what has been empty for a while: surplus blocks, blocks that their pool has no more, static
        addresses. What stays is free for any network."""
        serving = {use.block for uses in used.values() for use in uses}
        going = {block.net for block in self._open() if block.net not in serving}
        for (name, version), uses in used.items():
            pool = self._picture.find(IPPool, name)
            if pool is not None:
                empty = [use.block for use in uses if not use.used]
                busy = self._by_network(use for use in uses if use.used)
                going |= set(blocks.surplus(empty, busy, blocks.size_of(pool.spec, version)))
        now = self._clock()
        self._empty_since = {
            block.net: self._empty_since.get(block.net, now)
            for block in self._open()
            if block.net not in self._pending and not self.taken.count(block.net)
        }
        for net, since in list(self._empty_since.items()):
            if now >= since + (IDLE_SINGLE if blocks.is_single(net) else IDLE_SECONDS):
                if net in going:
                    self._return(net)
                elif net in self._users:
                    self._free(net)

    def _free(self, net: Net) -> None:
        """Have no network use an empty block: its gateway's address may be on another bridge next."""
        with self._moved:
            self._shut.add(net)
        if not self.taken.count(net) and self._clear(net):
            self._users.pop(net, None)
        self._shut.discard(net)

    def _return(self, net: Net) -> None:
        path = blocks.path_of(net)
        kept = self._member.kept(path)
        with self._moved:  # first: who takes an address now sees that it is shut, or we see the address
            self._shut.add(net)
        if kept is None or self.taken.count(net) or not self._clear(net):
            self._shut.discard(net)
            return
        if self._keep({one: block for one, block in self._blocks.items() if one != net}):
            self._users.pop(net, None)
            log.info("block %s is given back: no container here has an address of it", net)
            self._delete(path, kept.version)
        else:
            self._shut.discard(net)

    def _clear(self, net: Net) -> bool:
        try:
            self._ground.let_go(net)
        except (CniError, OSError) as error:
            log.warning("block %s: its gateway's address cannot be taken away: %s", net, error)
            return False
        return True

    def _delete(self, path: ObjectPath, version: str) -> None:
        self._given_back[path] = version
        self._deleting.add(path)
        self._delete_again()

    def _delete_again(self) -> None:
        """Until the store has answered, nobody knows whether it has heard it, and we do not take it up again."""
        for path in list(self._deleting):
            self.requests += 1
            try:
                self._member.store.delete(path, self._given_back[path])
            except Conflict:
                pass  # it is gone, or is another claim by now
            except Trouble:
                continue
            self._deleting.discard(path)

    # ---------------------------------------------------------------- the blocks of the dead

    def _bury(self) -> None:
        """Free the blocks of nodes whose object was deleted: set a tombstone, and delete them when no router can lead
        to them any more. Whoever has seen a tombstone for that long knows that it has been there for that long."""
        now, seen = self._clock(), dict[tuple[ObjectPath, str], float]()
        for path, one in self._claims.items():
            if (one.node, one.epoch) in self._alive or path in self._own:
                continue
            kept = self._member.kept(path)
            if kept is None:
                continue
            since = seen[path, kept.version] = self._orphans.get((path, kept.version), now)
            spread = SPREAD_SECONDS * (zlib.crc32(f"{self._member.name} {one.net}".encode()) % 1000) / 1000
            if now < since + spread + (self.mourning() if one.tombstone else 0.0):
                continue
            self.requests += 1
            with contextlib.suppress(Conflict, Trouble):
                if one.tombstone:
                    self._member.store.delete(path, kept.version)
                    log.info("block %s of node %s, which is dead, is free", one.net, one.node)
                else:
                    dead = blocks.claim(one.net, one.pool, one.node, one.epoch, tombstone=True)
                    self._member.store.swap(dead, kept.version)
                    log.info("block %s: node %s is dead, its object was deleted", one.net, one.node)
        self._orphans = seen

    def mourning(self) -> float:
        """Seconds after which no router leads to a dead node's addresses: the longest hold time, the times of graceful
        and of long-lived graceful restart (RFC 4724, RFC 9494), and some more."""
        bgp = self._config.bgp
        times = [peer.spec.hold_time for peer in self._picture.of(BGPPeer)]
        if bgp is not None:
            times += [bgp.hold_time, *(item.hold_time for item in bgp.neighbors)]
        longest = max((seconds for seconds in times if seconds is not None), default=90)
        restart = bgp.graceful_restart + bgp.long_lived_graceful_restart if bgp else 120
        return longest + restart + SLACK_SECONDS

    # ---------------------------------------------------------------- kernel and disk

    def _cover(self) -> None:
        covered = {block.net for block in self._blocks.values()
                   if block.announced and not block.lost and not blocks.is_single(block.net)}  # fmt: skip
        if covered != self._covered:
            try:
                self._ground.cover(covered)
                self._covered = covered
            except (CniError, OSError) as error:
                log.error("blackholes of blocks: %s", error)

    def _read(self) -> dict[Net, Block]:
        try:
            document = json.loads(read_plain(self._file, _MOST))
            found = [
                Block(ip_network(one["cidr"]), one["pool"], ip_network(one["home"]), one["announced"], one["lost"])
                for one in document["blocks"]
            ]
            self._pod_cidrs = tuple(ip_network(cidr) for cidr in document.get("podCIDRs", ()))
            self._epochs.add(str(document["epoch"]))
            return {block.net: block for block in found}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.error("%s cannot be read, so this node starts without it: %s", self._file, error)
        return {}
