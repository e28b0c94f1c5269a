"""Gives addresses of the cluster's pools: from the blocks that this node has claimed, without asking the store.

The leases are files as host-local's, in one folder for all networks, because networks share pools. Only the agent gives
addresses; to release them nothing but the folder is needed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bgpcni.errors import CheckFailed, InvalidConfiguration, IoFailure, TryAgain
from bgpcni.ip import ip_address
from bgpcni.ipam.config import ClusterConfig, Ip, parse_cluster, requested_addresses
from bgpcni.ipam.contract import AddressTaken, Given, NoneFree, Terms, Wish
from bgpcni.ipam.host_local import dns_of
from bgpcni.ipam.leases import CLUSTER, Entry, Holder, Leases, Owner, content_of
from bgpcni.model import Address, IpamRecord

if TYPE_CHECKING:
    from bgpcni.cluster.pools import Offer, Pools

CLAIM_SECONDS = 5.0
"""How long an ADD waits for a block at most."""
NO_CLUSTER = (
    f"{CLUSTER} gives addresses of a cluster, and agent.toml of this node has no [cluster] with a store of bgpcni's "
    "objects: use another IPAM plugin, such as host-local"
)


class Lease(NamedTuple):
    """One address that was given. `taken_from`: who held it until now."""

    address: str
    offer: Offer
    taken_from: Holder | None = None


class ClusterIpam:
    """Fulfils `Ipam`."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        folder = str(terms.pools.leases) if terms.pools is not None else terms.data_dir
        self.leases = ClusterLeases(folder, terms.network, terms.recorded, terms.pools) if folder else None

    @property
    def _config(self) -> ClusterConfig:
        """Raises InvalidConfiguration."""
        assert self._terms.asked is not None, "a record gives nothing"
        return self._terms.asked.part(parse_cluster)

    @property
    def _pools(self) -> Pools:
        if self._terms.pools is None:
            raise InvalidConfiguration(f"ipam.type: {NO_CLUSTER}")
        return self._terms.pools

    @property
    def _given(self) -> ClusterLeases:
        assert self._pools is not None
        assert self.leases is not None
        return self.leases

    def record(self) -> IpamRecord:
        return IpamRecord(type=CLUSTER, data_dir=str(self._pools.leases))

    def example(self) -> tuple[Address, ...]:
        return tuple(
            self._described(type(offer.block.network_address)(offer.spans[0][0]), offer)
            for offer in self._pools.examples(self._config.pools)
        )

    def room(self) -> Mapping[int, int]:
        """Networks share the pools: their blocks are counted instead."""
        return {}

    def add(self, owner: Holder, wish: Wish) -> Given:
        config, leases = self._config, self._given
        assert self._terms.asked is not None
        asked = requested_addresses(self._terms.asked.document, self._terms.args, wish.ips)
        taken = leases.add(owner, config.pools, tuple(wish.own) or asked, wish)
        addresses = tuple(self._described(ip_address(lease.address), lease.offer) for lease in taken)
        taken_from = {lease.address: lease.taken_from for lease in taken if lease.taken_from is not None}
        try:
            return Given(addresses, config.routes, dns_of(config.resolv_conf), taken_from)
        except BaseException:
            leases.undo(owner, taken)
            raise

    def check(self, owner: Holder, addresses: Sequence[str]) -> None:
        if self.leases is None:
            raise CheckFailed(f"ipam.type: {NO_CLUSTER}")
        self.leases.check(*owner, addresses)

    def release(
        self, owner: Holder, addresses: Sequence[str] | None, spared: Callable[[str, Entry], bool] | None = None
    ) -> None:
        if self.leases is not None:
            self.leases.release(*owner, addresses, spared)

    def gc(self, valid: Collection[Holder], stay: Collection[Owner]) -> None:
        if self.leases is not None:
            self.leases.gc(valid, stay)

    def status(self) -> None:
        try:
            self._pools.refuse_exhausted(self._config.pools, self._terms.network)
        except TryAgain as error:
            raise NoneFree(f"network {self._terms.network}: {error.msg}") from None

    def _described(self, address: Ip, offer: Offer) -> Address:
        """An address with the length and gateway that its container gets: its block's, or those of the whole pool."""
        terms = self._terms
        flat = terms.flat or (terms.lent and offer.single)  # other plugins cannot route to a gateway beyond a subnet
        subnet = offer.home if flat else offer.block
        gateway = (offer.home if offer.single else subnet).network_address + 1
        block = str(offer.block) if offer.announced and not offer.single and not flat else None
        return Address(address=f"{address}/{subnet.prefixlen}", gateway=str(gateway), block=block)


class ClusterLeases(Leases):
    """The leases of one network in the folder that all networks share. `pools` None: they can be released only."""

    def __init__(
        self, folder: str, network: str, recorded: Callable[[], Mapping[str, Holder]], pools: Pools | None
    ) -> None:
        super().__init__(folder, network, recorded)
        self._pools = pools

    def _place(self, data_dir: str | None, network: str) -> str:
        return data_dir or ""

    @property
    def scope(self) -> str:
        return f"{self.folder}\0{self.network}"

    def _content(self, owner: Holder) -> str:
        return f"{content_of(*owner)}\r\n{self.network}"

    def _entries(self, folder: int) -> dict[str, Entry]:
        """This network's."""
        return {name: one for name, one in super()._entries(folder).items() if one.network == self.network}

    # ---------------------------------------------------------------- giving

    def add(self, owner: Holder, names: tuple[str, ...] | None, requested: Sequence[str], wish: Wish) -> list[Lease]:
        """Lease an address of each IP version that the pools have, or none at all.

        Raises NoneFree, AddressTaken, TryAgain (another node has it), InvalidConfiguration, IoFailure.
        """
        assert self._pools is not None
        deadline = time.monotonic() + CLAIM_SECONDS
        versions = self._pools.versions(names)
        asked: dict[int, str] = {}
        for text in requested:
            version: int = ip_address(text).version
            if version in asked or version not in versions:
                why = "it has one of that IP version already" if version in asked else "its pools have no such address"
                raise InvalidConfiguration(f"ipam: requested IP address {text} of network {self.network}: {why}")
            asked[version] = text
        leases: list[Lease] = []
        try:
            for version in versions:
                if version in asked:
                    leases.append(self._take(asked[version], names, owner, wish, deadline))
                else:
                    leases.append(self._take_next(version, names, owner, wish, deadline))
        except BaseException:
            self.undo(owner, leases)
            raise
        self._pools.touched()
        return leases

    def undo(self, owner: Holder, leases: Sequence[Lease]) -> None:
        """Give back what was just taken. An error here is not raised: the caller raises the one that counts."""
        with suppress(IoFailure, TryAgain), self._locked() as folder:
            for lease in leases:
                if folder is None:
                    return
                if lease.taken_from is not None:
                    self._hand_over(folder, lease.address, owner, lease.taken_from)
                elif (entry := self._read(folder, lease.address)) and entry.owner == owner:
                    self._unlink(folder, lease.address)

    def _take(self, address: str, names: tuple[str, ...] | None, owner: Holder, wish: Wish, deadline: float) -> Lease:
        """Lease this address, which is claimed if it is nobody's."""
        assert self._pools is not None
        while True:
            offer = self._pools.offer_of(ip_address(address), names, self.network, deadline)
            with self._locked(create=True) as folder:
                assert folder is not None
                entry = self._read_live(folder, address)
                if entry is None and self._create(folder, address, self._content(owner)):
                    if self._pools.keep(offer.block, self.network):
                        return Lease(address, offer)
                    self._unlink(folder, address)  # it was given back at this moment: ask again
                    continue
                holder = wish.own.get(address) or wish.leaving().get(address)
                if holder is not None and self._hand_over(folder, address, holder, owner):
                    return Lease(address, offer, holder)
            raise AddressTaken(self.network, address, entry.owner if entry else ("", None))

    def _take_next(
        self, version: int, names: tuple[str, ...] | None, owner: Holder, wish: Wish, deadline: float
    ) -> Lease:
        """Lease the next free address of this node's blocks, waiting for another block if they are full."""
        assert self._pools is not None
        while True:
            offers, ticket = self._pools.offers(version, names, self.network)
            with self._locked(create=True) as folder:
                assert folder is not None
                for offer in offers:
                    if (found := self._next_in(folder, offer, owner)) is not None:
                        return found
            try:
                self._pools.more(version, names, ticket, deadline)
            except TryAgain as error:
                with self._locked() as folder:
                    if folder is not None and (found := self._take_held(folder, offers, owner, wish)) is not None:
                        return found
                raise NoneFree(f"network {self.network}: {error.msg}") from None

    def _next_in(self, folder: int, offer: Offer, owner: Holder) -> Lease | None:
        """The next free address of a block, behind the one that was given last."""
        assert self._pools is not None
        taken, last = self._pools.taken, self._pools.given_last
        while (number := taken.next_free(offer.spans, offer.block.version, last.get(offer.block, -1))) is not None:
            name = str(type(offer.block.network_address)(number))
            if not self._create(folder, name, self._content(owner)):
                taken.add(name)  # somebody has made the file
                continue
            last[offer.block] = number
            if self._pools.keep(offer.block, self.network):
                return Lease(name, offer)
            self._unlink(folder, name)
            return None
        return None

    def _take_held(self, folder: int, offers: Sequence[Offer], owner: Holder, wish: Wish) -> Lease | None:
        """An address that is held only because peers may still route it to its old owner on this node."""
        for name, holder in wish.leaving().items():
            ip = ip_address(name)
            offer = next((one for one in offers if ip in one.block), None)
            if offer is not None and self._hand_over(folder, str(ip), holder, owner):
                return Lease(str(ip), offer, holder)
        return None

    # ---------------------------------------------------------------- what is told to the pools

    def _create(self, folder: int, name: str, text: str) -> bool:
        if self._pools is not None:
            self._pools.taken.add(name)  # before: whoever sees the file sees that it is counted
        try:
            made = super()._create(folder, name, text)
        except BaseException:
            self._miscounted(folder, name)
            raise
        return made

    def _unlink(self, folder: int, name: str) -> bool:
        done = super()._unlink(folder, name)
        self._miscounted(folder, name)
        return done

    def _miscounted(self, folder: int, name: str) -> None:
        if self._pools is not None:
            with suppress(FileNotFoundError):
                os.stat(name, dir_fd=folder, follow_symlinks=False)
                return
            self._pools.taken.discard(name)
            self._pools.touched()

    def is_leased_elsewhere(self, addresses: object) -> bool:
        """Networks share the folder, so no address is leased twice."""
        return False


def leased(folder: Path) -> Iterator[tuple[str, str]]:
    """The addresses that have a lease in this folder, each with its network."""
    with suppress(FileNotFoundError):
        for name in os.listdir(folder):
            with suppress(ValueError, OSError):
                yield str(ip_address(name)), Entry(0, 0, (folder / name).read_bytes().decode()).network
