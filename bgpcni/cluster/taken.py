"""Which addresses of the cluster's pools are given to containers of this node, in memory: the folder of the leases is
the truth, and whoever writes a file there says so here. Safe for threads."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

from bgpcni.cluster.blocks import Ip, Net, Span, span_of
from bgpcni.ip import ip_address


class Taken:
    """At first the addresses of the leases that are there."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._numbers: dict[int, set[int]] = {4: set(), 6: set()}
        for name in names:
            self.add(name)

    def add(self, name: str) -> None:
        address = ip_address(name)
        self._numbers[address.version].add(int(address))

    def discard(self, name: str) -> None:
        address = ip_address(name)
        self._numbers[address.version].discard(int(address))

    def count(self, block: Net) -> int:
        """How many addresses of a block are taken. It costs as much as the smaller of the two."""
        low, high = span_of(block)
        numbers = self._numbers[block.version]
        if high - low < len(numbers):
            return sum(number in numbers for number in range(low, high + 1))
        return sum(low <= number <= high for number in tuple(numbers))

    def next_free(self, spans: Iterable[Span], version: int, after: int) -> int | None:
        """The first free address behind `after`, else the first one of all: no address is given again soon."""
        numbers, spans = self._numbers[version], list(spans)
        for since, until in ((after + 1, None), (0, after)):
            for low, high in spans:
                for number in range(max(low, since), (high if until is None else min(high, until)) + 1):
                    if number not in numbers:
                        return number
        return None

    def outside(self, known: Iterable[Net]) -> list[Ip]:
        """The addresses that are in none of these blocks."""
        known = list(known)
        spans = {version: [span_of(block) for block in known if block.version == version] for version in (4, 6)}
        return [
            IPv4Address(number) if version == 4 else IPv6Address(number)
            for version, numbers in self._numbers.items()
            for number in sorted(numbers)
            if not any(low <= number <= high for low, high in spans[version])
        ]

    def within(self, block: Net) -> list[Ip]:
        """The addresses of a block that are taken, in order."""
        low, high = span_of(block)
        make = type(block.network_address)
        return [make(number) for number in sorted(self._numbers[block.version]) if low <= number <= high]
