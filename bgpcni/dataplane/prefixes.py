"""An index by prefix: finds what is within a network, or around an address, without a look at the rest. Pure."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Generic, TypeVar

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address
T = TypeVar("T")
_FEW = 32
"""Up to so many new prefixes are inserted one by one. If there are more, the whole order is sorted again."""


class PrefixIndex(Generic[T]):
    """Any number of things can have the same prefix."""

    def __init__(self) -> None:
        self._families: dict[int, _Family[T]] = {4: _Family(), 6: _Family()}

    def add(self, prefix: Network, thing: T) -> None:
        self._families[prefix.version].add(_key(int(prefix.network_address), prefix.prefixlen), thing)

    def discard(self, prefix: Network, thing: T) -> None:
        """Unknown: nothing happens."""
        self._families[prefix.version].discard(_key(int(prefix.network_address), prefix.prefixlen), thing)

    def within(self, network: Network) -> Iterator[T]:
        """The things whose prefix is this network or a part of it."""
        first = _key(int(network.network_address), network.prefixlen)
        last = _key(int(network.broadcast_address), network.max_prefixlen)
        yield from self._families[network.version].between(first, last)

    def around(self, address: Address) -> Iterator[T]:
        """The things whose prefix contains this address."""
        family, number = self._families[address.version], int(address)
        for length in range(address.max_prefixlen + 1):
            host_bits = address.max_prefixlen - length
            yield from family.at(_key(number >> host_bits << host_bits, length))


def _key(number: int, length: int) -> int:
    """A prefix as a number. In their order a network is followed by all of its parts, and then by other networks."""
    return number << 8 | length


class _Family(Generic[T]):
    """The order is updated only when it is needed, because nobody needs it while a whole table is learned."""

    def __init__(self) -> None:
        self._things: dict[int, dict[T, None]] = {}
        self._order: list[int] = []
        self._new: dict[int, None] = {}
        self._dead: set[int] = set()
        """Keys that are still in the order, but have no things any more."""

    def add(self, key: int, thing: T) -> None:
        found = self._things.get(key)
        if found is None:
            found = self._things[key] = {}
            if key in self._dead:
                self._dead.discard(key)
            else:
                self._new[key] = None
        found[thing] = None

    def discard(self, key: int, thing: T) -> None:
        found = self._things.get(key)
        if found is None:
            return
        found.pop(thing, None)
        if not found:
            del self._things[key]
            if key in self._new:
                del self._new[key]
            else:
                self._dead.add(key)

    def at(self, key: int) -> list[T]:
        return list(self._things.get(key, ()))

    def between(self, first: int, last: int) -> Iterator[T]:
        self._settle()
        start = bisect_left(self._order, first)
        end = bisect_left(self._order, last + 1, start)
        for key in self._order[start:end]:
            yield from self.at(key)

    def _settle(self) -> None:
        if len(self._dead) > len(self._order) // 2:
            self._order = [key for key in self._order if key not in self._dead]
            self._dead.clear()
        if len(self._new) > _FEW:
            self._order += self._new
            self._order.sort()
        else:
            for key in self._new:
                insort(self._order, key)
        self._new.clear()
