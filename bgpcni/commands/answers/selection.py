"""Which rows of a long list are asked for. A page of it costs the agent no more than its rows, unless it searches."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from bgpcni.ip import ip_address, ip_network
from bgpcni.model import Attachment
from bgpcni.store import Store, Stored

T = TypeVar("T")
_MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Page:
    """`limit` rows from row `offset` on, counted from 0. Without a limit all of them."""

    limit: int | None = None
    offset: int = 0

    @property
    def end(self) -> int | None:
        return None if self.limit is None else self.offset + self.limit

    def told(self, total: int) -> dict[str, int]:
        """What a document of a page says besides its rows: how many there are in all."""
        return {} if self.limit is None else {"total": total}

    def of(self, rows: Iterable[T]) -> tuple[list[T], int]:
        """The rows of the page, and how many rows there are in all."""
        rows, total = iter(rows), 0
        found = []
        for total, row in enumerate(rows, 1):
            if total > self.offset and (self.end is None or total <= self.end):
                found.append(row)
        return found, total


def stored_on(store: Store, page: Page, wanted: Callable[[Stored], bool] | None) -> tuple[list[Stored], int]:
    """The records of the page, and how many there are. Unless `wanted` chooses among all, only these are read."""
    if wanted is not None:
        return page.of(stored for stored in store.all() if wanted(stored))
    names = store.names()
    return list(store.all(names[page.offset : page.end])), len(names)


Wanted = Callable[[Stored], bool]


def chosen_by(network: str | None, container: str | None, search: str | None, *more: Wanted) -> Wanted | None:
    """Whether a record is of this network, of this container (its ID, or 6 or more characters that it begins with),
    and fits the search and `more`. None: every record is."""
    tests = list(more)
    if network:
        tests.append(lambda stored: stored.network == network)
    if container:
        tests.append(lambda stored: stored.attachment is not None and is_of(stored.attachment, container))
    if (found := searched(search)) is not None:
        tests.append(found)
    return (lambda stored: all(test(stored) for test in tests)) if tests else None


def is_of(attachment: Attachment, container: str) -> bool:
    own = attachment.container_id
    return own == container or (len(container) >= 6 and own.startswith(container))


def leads_to(what: str) -> Callable[[str | None, str | None], bool]:
    """Whether a route with this prefix and this MAC is about `what`: an address in it, a prefix that overlaps it, or
    its MAC."""
    if _MAC.fullmatch(what):
        return lambda prefix, mac: mac == what.lower()
    asked = ip_network(what, False)

    def test(prefix: str | None, mac: str | None) -> bool:
        if prefix is None:
            return False
        own = ip_network(prefix, False)
        return own.version == asked.version and own.overlaps(asked)

    return test


def searched(text: str | None) -> Callable[[Stored], bool] | None:
    """Whether a record fits to every word of a search; None if nothing is searched for."""
    found = words(text)
    if not found:
        return None
    return lambda stored: stored.attachment is not None and fits(found, Subject.of(stored.attachment))


@dataclass(frozen=True, slots=True)
class Subject:
    """What a search looks at. `text`: names, in lower case. `numbers`: VNIs and VLANs, which only fit as a whole."""

    text: str
    addresses: tuple[str, ...]
    numbers: frozenset[str]

    @classmethod
    def of(cls, item: Attachment) -> Subject:
        names = (
            item.network, item.container_id, item.ifname, str(item.pod or ""), item.mac, item.host_veth, item.bridge,
            item.bgp.vrf, *item.bgp.export_rt,
        )  # fmt: skip
        addresses = tuple(each.address.partition("/")[0] for each in item.addresses)
        numbers = frozenset(str(number) for number in (item.bgp.vni, item.bgp.l3vni, item.vlan) if number)
        return cls("\n".join(str(name) for name in (*names, *addresses) if name).lower(), addresses, numbers)


Test = Callable[[Subject], bool]


def fits(tests: Iterable[Test], subject: Subject) -> bool:
    return all(test(subject) for test in tests)


def words(text: str | None) -> list[Test]:
    """One for each word of a search."""
    return [_test(word.lower()) for word in (text or "").split()]


def _test(word: str) -> Test:
    """An address fits as a whole, a prefix if the address is in it, a number as a VNI or within a name."""
    try:
        if "/" in word:
            network = ip_network(word, False)
            return lambda subject: any(ip_address(each) in network for each in subject.addresses)
        address = str(ip_address(word))
        return lambda subject: address in subject.addresses
    except ValueError:
        return lambda subject: word in subject.text or word in subject.numbers
