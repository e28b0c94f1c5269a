"""The contract of an IPAM: where a network's addresses come from, and how they go back.

`host_local` and `delegate` fulfil it; another kind is one more module here and a line in `kinds`. An IPAM knows no
records and no routes: when an address may be given or released is for the caller to decide (`bgpcni.node.addressing`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from bgpcni.cni.result import Dns, Route
from bgpcni.errors import InvalidConfiguration, TryAgain
from bgpcni.ipam.config import RangeSet
from bgpcni.ipam.leases import Entry, Holder, Leases, Owner
from bgpcni.model import Address, IpamRecord

R = TypeVar("R")


class PoolExhausted(TryAgain):
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
    """What an ADD may be given although somebody holds it, by address without prefix length.

    `own`: what the container had before; where there is any, it gets these or none. `leaving`: what may be had if
    nothing else is free, the first of them first; asked only then, while nobody else can take or release addresses.
    """

    own: Mapping[str, Holder] = field(default_factory=dict)
    leaving: Callable[[], Mapping[str, Holder]] = dict


class Configuration(Protocol):
    """A call's network configuration."""

    document: Mapping[str, Any]

    def part(self, parse: Callable[[Mapping[str, Any]], R]) -> R:
        """What `parse` makes of the document; kept for the next call that has the same one."""
        ...  # pragma: no cover


@dataclass(frozen=True, slots=True)
class Terms:
    """What an IPAM is opened with, by a call's configuration or by what a record kept of it.

    `type`: the IPAM's name. `data_dir`: where its leases are on this node, None: where it puts them by default.
    `stdin`, `environment`: the call as it came (the CNI_* variables). `recorded`: the addresses known to be in use, by
    the records. `asked`, `args`: the configuration and CNI_ARGS, which giving needs; a record has none.
    """

    network: str
    type: str
    data_dir: str | None
    stdin: bytes
    environment: Mapping[str, str]
    recorded: Callable[[], Mapping[str, Holder]] = dict
    asked: Configuration | None = None
    args: Mapping[str, str] = field(default_factory=dict)


class Ipam(Protocol):
    """One network's IPAM. Blocking, with deadlines; every method may raise CniError."""

    @property
    def leases(self) -> Leases | None:
        """Who holds which address, where that is seen on this node; None: another plugin alone knows."""
        ...  # pragma: no cover

    def record(self) -> IpamRecord:
        """What a record has to keep, so that the addresses can be given back."""
        ...  # pragma: no cover

    def example(self) -> tuple[Address, ...]:
        """One address of each family that `add` is known to give; nothing is taken."""
        ...  # pragma: no cover

    def add(self, owner: Holder, wish: Wish) -> Given:
        """Take the addresses of an attachment, all or none. Raises PoolExhausted, AddressTaken."""
        ...  # pragma: no cover

    def check(self, owner: Holder, addresses: Sequence[str]) -> None:
        """Raise CheckFailed, or the plugin's own error, unless `owner` holds each of these."""
        ...  # pragma: no cover

    def release(
        self, owner: Holder, addresses: Sequence[str] | None, spared: Callable[[str, Entry], bool] | None = None
    ) -> None:
        """Give back what `owner` holds of these, None: all of it. `spared`: which leases stay. Idempotent."""
        ...  # pragma: no cover

    def gc(self, valid: Collection[Holder], stay: Collection[Owner]) -> None:
        """Give back what is neither held by one of `valid` nor by one of `stay`."""
        ...  # pragma: no cover

    def status(self) -> None:
        """Raise PoolExhausted where no address is free, or Unavailable or Degraded as the plugin says."""
        ...  # pragma: no cover
