"""The contract of an IPAM: where a network's addresses come from, and how they go back.

`host_local` and `delegate` fulfil it; another kind is one more module here and a line in `kinds`. An IPAM knows no
records and no routes: when an address may be given or released is for the caller to decide (`bgpcni.node.addressing`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from bgpcni.cni.result import Dns, Route
from bgpcni.errors import InvalidConfiguration, TryAgain
from bgpcni.ipam.config import RangeSet
from bgpcni.ipam.leases import Entry, Holder, Leases, Owner
from bgpcni.model import Address, IpamRecord

if TYPE_CHECKING:
    from bgpcni.cluster.pools import Pools

R = TypeVar("R")


class NoneFree(TryAgain):
    """No address is free that an ADD could have."""


class PoolExhausted(NoneFree):
    """No address of a range set is free. `set_index`: which of the network's sets."""

    def __init__(self, network: str, set_index: int, ranges: RangeSet) -> None:
        text = ",".join(str(range_) for range_ in ranges)
        super().__init__(f"network {network}: no IP address available in range set {set_index} ({text})")
        self.set_index = set_index


class AddressTaken(TryAgain):
    """A requested address is leased already. `address`: without prefix length; `owner`: who holds it."""

    def __init__(self, network: str, address: str, owner: Owner) -> None:
        super().__init__(f"network {network}: requested IP address {address} is not available, {owner[0]} holds it")
        self.address = address
        self.owner = owner


class NotInstalled(InvalidConfiguration):
    """The plugin that the configuration names is in no folder of CNI_PATH."""


@dataclass(frozen=True, slots=True)
class Given:
    """What an IPAM gave. `taken_from`: by address without prefix length, who held it until now."""

    addresses: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: Dns = field(default_factory=Dns)
    taken_from: Mapping[str, Holder] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Wish:
    """Addresses that an ADD may have although somebody holds them; by address without prefix length, the holder.

    `own`: what the container had before. If there are any, it gets these or none. `leaving`: which addresses it may
    have if nothing else is free, the first of them first. It is called only then, with the lock of the leases held.
    `ips`: addresses that the container's pod asks for, besides those of the call.
    """

    own: Mapping[str, Holder] = field(default_factory=dict)
    leaving: Callable[[], Mapping[str, Holder]] = dict
    ips: tuple[str, ...] = ()


class Configuration(Protocol):
    """A call's network configuration."""

    document: Mapping[str, Any]

    def part(self, parse: Callable[[Mapping[str, Any]], R]) -> R:
        """The result of `parse(document)`. It is kept for the next call with the same configuration."""
        ...  # pragma: no cover


@dataclass(frozen=True, slots=True)
class Terms:
    """What an IPAM needs to begin: from the configuration of a call, or from a record.

    `type`: its name. `data_dir`: where its leases are on this node; None: at its default place. `stdin`, `environment`:
    the call as it came, with the CNI_* variables. `recorded`: the addresses that records say are in use. `asked`,
    `args`: the configuration and CNI_ARGS, without which no address can be given; a record has none. `pools`: those of
    the cluster, None where there is no cluster. `flat`: all addresses of a pool are on one link, as with EVPN. `lent`:
    another plugin makes the interface.
    """

    network: str
    type: str
    data_dir: str | None
    stdin: bytes
    environment: Mapping[str, str]
    recorded: Callable[[], Mapping[str, Holder]] = dict
    asked: Configuration | None = None
    args: Mapping[str, str] = field(default_factory=dict)
    pools: Pools | None = None
    flat: bool = False
    lent: bool = False


class Ipam(Protocol):
    """The IPAM of one network. Its methods block, within deadlines; each may raise CniError."""

    @property
    def leases(self) -> Leases | None:
        """Who holds which address, if this node can know; None: only another plugin knows."""
        ...  # pragma: no cover

    def record(self) -> IpamRecord:
        """What a record has to keep so that the addresses can be released."""
        ...  # pragma: no cover

    def example(self) -> tuple[Address, ...]:
        """An address of each family that `add` would give, as far as that is known. Nothing is taken."""
        ...  # pragma: no cover

    def room(self) -> Mapping[int, int]:
        """How many addresses it has for containers, free or not, by IP version; {} if this node cannot know."""
        ...  # pragma: no cover

    def add(self, owner: Holder, wish: Wish) -> Given:
        """Take the addresses of an attachment, all or none. Raises NoneFree, AddressTaken."""
        ...  # pragma: no cover

    def check(self, owner: Holder, addresses: Sequence[str]) -> None:
        """Raise CheckFailed, or the plugin's own error, unless `owner` holds each of these."""
        ...  # pragma: no cover

    def release(
        self, owner: Holder, addresses: Sequence[str] | None, spared: Callable[[str, Entry], bool] | None = None
    ) -> None:
        """Release the addresses that `owner` holds of these; None: all of them. `spared` says which leases stay.

        Idempotent.
        """
        ...  # pragma: no cover

    def gc(self, valid: Collection[Holder], stay: Collection[Owner]) -> None:
        """Release every address that is held by none of `valid` and none of `stay`."""
        ...  # pragma: no cover

    def status(self) -> None:
        """Raise NoneFree if no address is free, or Unavailable or Degraded if the plugin says so."""
        ...  # pragma: no cover
