"""Gives addresses as the stock host-local does: from the same folder and in the same order.

It blocks. One object may serve many calls, from any thread. All state is in the folder (`leases`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from itertools import chain
from types import MappingProxyType
from typing import NamedTuple

from bgpcni.cni.result import Dns
from bgpcni.errors import InvalidConfiguration, IoFailure
from bgpcni.files import Unfit, read_plain
from bgpcni.ip import ip_address
from bgpcni.ipam.config import HostLocalConfig, Ip, Range, RangeSet, parse_host_local, requested_addresses
from bgpcni.ipam.contract import AddressTaken, Given, PoolExhausted, Terms, Wish
from bgpcni.ipam.leases import Entry, Holder, Leases, Owner, bare, content_of
from bgpcni.model import Address, IpamRecord

RESOLV_CONF_MAX = 1 << 16
"""Octets of a file that `resolvConf` names."""
_TRIES = 64
"""After so many taken addresses in a row we list the folder once, instead of trying each of the others."""


class Lease(NamedTuple):
    """One address that was given, with the prefix length of its subnet (`10.1.2.3/24`), and the set it is from.

    `taken_from`: who held it until now, if it was one of `held`.
    """

    address: str
    gateway: str | None
    set_index: int
    taken_from: Holder | None = None


class HostLocalIpam:
    """host-local in this process, for one network. Fulfils `Ipam`."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self.leases = Leases(terms.data_dir, terms.network, terms.recorded)

    @property
    def _config(self) -> HostLocalConfig:
        """Raises InvalidConfiguration."""
        assert self._terms.asked is not None, "a record gives nothing"
        return self._terms.asked.part(parse_host_local)

    def _pool(self) -> HostLocal:
        return HostLocal(self._config, self._terms.network, self._terms.recorded)

    def record(self) -> IpamRecord:
        return IpamRecord(type=self._terms.type, data_dir=self._config.data_dir)

    def example(self) -> tuple[Address, ...]:
        sets = self._config.range_sets
        return tuple(Address(address=f"{each[0].start}/{each[0].subnet.prefixlen}") for each in sets)

    def room(self) -> Mapping[int, int]:
        found: Counter[int] = Counter()
        for each in chain.from_iterable(self._config.range_sets):
            found[each.subnet.version] += each.size()
        return found

    def add(self, owner: Holder, wish: Wish) -> Given:
        pool = self._pool()
        assert self._terms.asked is not None
        asked = requested_addresses(self._terms.asked.document, self._terms.args, wish.ips)
        taken = pool.add(*owner, tuple(wish.own) or asked, wish.own, wish.leaving)
        addresses = tuple(Address(address=lease.address, gateway=lease.gateway) for lease in taken)
        taken_from = {bare(lease.address): lease.taken_from for lease in taken if lease.taken_from is not None}
        return Given(addresses, pool.config.routes, dns_of(pool.config.resolv_conf), taken_from)

    def check(self, owner: Holder, addresses: Sequence[str]) -> None:
        self.leases.check(*owner, addresses)

    def release(
        self, owner: Holder, addresses: Sequence[str] | None, spared: Callable[[str, Entry], bool] | None = None
    ) -> None:
        self.leases.release(*owner, addresses, spared)

    def gc(self, valid: Collection[Holder], stay: Collection[Owner]) -> None:
        self.leases.gc(valid, stay)

    def status(self) -> None:
        if (full := self._pool().exhausted()) is not None:
            raise full


class HostLocal(Leases):
    """A network's addresses: `add`, and everything that `Leases` does."""

    def __init__(
        self, config: HostLocalConfig, network: str, recorded: Callable[[], Mapping[str, Holder]] = dict
    ) -> None:
        super().__init__(config.data_dir, network, recorded)
        self.config = config

    def add(
        self,
        container_id: str,
        ifname: str,
        requested: Sequence[str] = (),
        held: Mapping[str, Holder] = MappingProxyType({}),
        leaving: Callable[[], Mapping[str, Holder]] = dict,
    ) -> list[Lease]:
        """Lease one address of each range set, or none at all.

        `requested`: addresses without prefix length, at most one of each set; other sets give their next free
        one. `held`: addresses without prefix length that may be had from their owner (container ID, interface
        name) if they are requested, or, the first of them first, if nothing else in their set is free. `leaving`: more
        of these; asked under the lock, so that it is what holds then, and only if need be. Raises
        PoolExhausted, AddressTaken, InvalidConfiguration (a request that no range can serve), IoFailure.
        """
        owner = (container_id, ifname)
        wishes = self._match([ip_address(text) for text in requested])
        leases: list[Lease] = []
        with self._locked(create=True) as folder:
            assert folder is not None
            try:
                for index, ranges in enumerate(self.config.range_sets):
                    wish = wishes.get(index)
                    lease = (
                        self._take_next(folder, index, ranges, owner, held, leaving)
                        if wish is None
                        else self._take(folder, index, wish, owner, held, leaving)
                    )
                    leases.append(lease)
                    self._overwrite(folder, f"last_reserved_ip.{index}", bare(lease.address))
            except BaseException:
                for lease in leases:
                    self._give_back(folder, lease, owner)
                raise
        return leases

    def exhausted(self) -> PoolExhausted | None:
        """The error that `add` would raise now; None if each set has a free address. Changes nothing."""
        with self._locked() as folder:
            found = {name: self._read(folder, name) for name in self._names(folder)} if folder is not None else {}
        without = {name for name, entry in found.items() if entry is None or not entry.content.strip()}
        if without:
            without -= self._recorded().keys()
        taken = [ip_address(name) for name in found if name not in without]
        for index, ranges in enumerate(self.config.range_sets):
            used = sum(any(ip in range_ and int(ip) not in range_.spared() for range_ in ranges) for ip in taken)
            if used >= sum(range_.size() for range_ in ranges):
                return PoolExhausted(self.network, index, ranges)
        return None

    def _match(self, requested: Sequence[Ip]) -> dict[int, Ip]:
        """Which requested address each set is to give."""
        wishes: dict[int, Ip] = {}
        for ip in requested:
            for index, ranges in enumerate(self.config.range_sets):
                range_ = next((range_ for range_ in ranges if ip in range_), None)
                if range_ is None or index in wishes:
                    continue
                if int(ip) in range_.spared():
                    raise InvalidConfiguration(
                        f"ipam: requested IP address {ip} is the gateway or no host of {range_.subnet}"
                    )
                wishes[index] = ip
                break
            else:
                raise InvalidConfiguration(
                    f"ipam: requested IP address {ip} is in no range left of network {self.network}"
                )
        return wishes

    def _lease(self, index: int, ip: Ip, taken_from: Holder | None = None) -> Lease:
        range_ = next(range_ for range_ in self.config.range_sets[index] if ip in range_)
        return Lease(f"{ip}/{range_.subnet.prefixlen}", str(range_.gateway), index, taken_from)

    def _give_back(self, folder: int, lease: Lease, owner: Holder) -> None:
        """Undo one lease. An error here is not raised: the caller already raises the one that counts."""
        try:
            self._return(folder, lease, owner)
        except IoFailure:
            pass

    def _return(self, folder: int, lease: Lease, owner: Holder) -> None:
        name = bare(lease.address)
        if lease.taken_from is not None:
            self._hand_over(folder, name, owner, lease.taken_from)
        elif (entry := self._read(folder, name)) and entry.owner == owner:
            self._unlink(folder, name)

    def _take(
        self,
        folder: int,
        index: int,
        ip: Ip,
        owner: Holder,
        held: Mapping[str, Holder],
        leaving: Callable[[], Mapping[str, Holder]],
    ) -> Lease:
        name = str(ip)
        entry = self._read_live(folder, name)
        if entry is None and self._create(folder, name, content_of(*owner)):
            return self._lease(index, ip)
        holder = held.get(name) or leaving().get(name)
        if holder is None or not self._hand_over(folder, name, holder, owner):
            raise AddressTaken(self.network, name, entry.owner if entry else ("", None))
        return self._lease(index, ip, holder)

    def _take_next(
        self,
        folder: int,
        index: int,
        ranges: RangeSet,
        owner: Holder,
        held: Mapping[str, Holder],
        leaving: Callable[[], Mapping[str, Holder]],
    ) -> Lease:
        content = content_of(*owner)
        taken: set[str] = set()
        for tries, ip in enumerate(_round(ranges, self._read_last(folder, index))):
            if tries == _TRIES:
                taken = set(self._entries(folder))
            name = str(ip)
            if name not in taken and self._create(folder, name, content):
                return self._lease(index, ip)
        for name, holder in (*held.items(), *leaving().items()):
            ip = ip_address(name)
            if any(ip in range_ for range_ in ranges) and self._hand_over(folder, str(ip), holder, owner):
                return self._lease(index, ip, holder)
        raise PoolExhausted(self.network, index, ranges)

    def _read_last(self, folder: int, index: int) -> Ip | None:
        entry = self._read(folder, f"last_reserved_ip.{index}")
        try:
            return None if entry is None else ip_address(entry.content)
        except ValueError:
            return None


def _round(ranges: RangeSet, last: Ip | None) -> Iterator[Ip]:
    """Every address of a set once, beginning after `last` and ending with it."""
    at = next((i for i, range_ in enumerate(ranges) if last is not None and last in range_), None)
    if at is None or last is None:
        for range_ in ranges:
            yield from _span(range_, int(range_.start), int(range_.end))
        return
    here = ranges[at]
    yield from _span(here, int(last) + 1, int(here.end))
    for range_ in ranges[at + 1 :] + ranges[:at]:
        yield from _span(range_, int(range_.start), int(range_.end))
    yield from _span(here, int(here.start), int(last))


def _span(range_: Range, first: int, last: int) -> Iterator[Ip]:
    spared = range_.spared()
    make = IPv4Address if range_.subnet.version == 4 else IPv6Address
    number = first
    while number <= last:
        if number not in spared:
            yield make(number)
        number += 1


def dns_of(path: str | None) -> Dns:
    """What `resolvConf` names, a plain file; empty without it. Raises InvalidConfiguration, IoFailure."""
    if not path:
        return Dns()
    try:
        return parse_resolv_conf(read_plain(path, RESOLV_CONF_MAX).decode(errors="replace"))
    except Unfit as error:
        raise InvalidConfiguration(f"ipam.resolvConf: {path}: {error.strerror}") from None
    except OSError as error:
        raise IoFailure(f"ipam.resolvConf: {path}: {error.strerror}") from error


def parse_resolv_conf(text: str) -> Dns:
    """A resolv.conf as the stock plugin reads it: of `domain` and `search` the last line counts."""
    nameservers: list[str] = []
    options: list[str] = []
    search: tuple[str, ...] = ()
    domain: str | None = None
    for line in text.splitlines():
        keyword, *values = line.split() or [""]
        if not values:
            continue
        if keyword == "nameserver":
            nameservers.append(values[0])
        elif keyword == "domain":
            domain = values[0]
        elif keyword == "search":
            search = tuple(values)
        elif keyword == "options":
            options += values
    return Dns(nameservers=tuple(nameservers), domain=domain, search=search, options=tuple(options))
