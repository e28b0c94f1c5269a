"""The node's own table: what unicast networks import, and by which way the kernel reaches it.

Next hops need not be on a link (those of a reflector's clients are not): they are looked up in the kernel, and again
from time to time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from ipaddress import ip_address

from bgpcni import bgp
from bgpcni.dataplane.program import Key, Program, Via
from bgpcni.dataplane.rib import Bounds, Destination, Own, Rib, Table, UnicastRule
from bgpcni.dataplane.segment import plain_addresses
from bgpcni.kernel import routes
from bgpcni.kernel.netlink import Netlink
from bgpcni.model import Attachment, AttachmentKey

NAME = "unicast"


class Unicast:
    """Which prefixes are accepted follows from the attachments; what is on this node is never learned."""

    def __init__(self, rib: Rib, netlink: Callable[[], Netlink]) -> None:
        self.program = Program()
        self._rib = rib
        self._netlink = netlink
        self._own, self._bounds = Own(), Bounds()
        self._members: dict[AttachmentKey, Attachment] = {}
        self._accept: Counter[str] = Counter()
        self._hosts: Counter[str] = Counter()
        self._subnets: Counter[str] = Counter()
        self._connected: frozenset[str] | None = None
        self._ways: dict[str, Via | None] = {}

    @property
    def asked(self) -> bool:
        """Whether any network here imports unicast routes."""
        return bool(self._accept)

    @property
    def table(self) -> Table | None:
        return self._rib.tables.get(NAME)

    def configure(self, own: Own, bounds: Bounds) -> None:
        self._own, self._bounds = own, bounds
        self._import()

    def add(self, attachment: Attachment) -> None:
        if attachment.key in self._members:
            self.remove(attachment.key)
        self._members[attachment.key] = attachment
        self._accept.update(attachment.bgp.import_prefixes)
        self._hosts.update(_hosts(attachment))
        self._subnets.update(_subnets(attachment))
        self._import()
        self._want(_hosts(attachment))

    def remove(self, key: AttachmentKey) -> None:
        """Unknown: nothing happens."""
        attachment = self._members.pop(key, None)
        if attachment is None:
            return
        self._accept -= Counter(attachment.bgp.import_prefixes)
        self._hosts -= Counter(_hosts(attachment))
        self._subnets -= Counter(_subnets(attachment))
        self._import()
        self._want(_hosts(attachment))

    def refresh(self) -> None:
        """Want what follows from the routes that changed."""
        if self.table is not None and self.table.changed:
            changed, self.table.changed = self.table.changed, {}
            self._want(destination.value for destination in changed)

    def look(self) -> None:
        """What only the kernel knows may have changed: the node's subnets, and the ways to next hops."""
        if not self.asked or self.table is None:
            return
        self._connected = None
        self._import()
        known, self._ways = self._ways, {}
        if any(self._way(hop) != via for hop, via in known.items()):
            self._want([destination.value for destination in self.table.candidates])

    def _import(self) -> None:
        if not self._accept and self.table is None:
            return
        if self._connected is None:
            self._connected = routes.connected(self._netlink())
        connected = self._connected | frozenset(self._subnets)
        rule = UnicastRule(frozenset(self._accept), self._own, self._bounds, connected)
        self._rib.configure(NAME, rule, self._bounds.maximum)
        self.refresh()

    def _want(self, prefixes: Iterable[str]) -> None:
        if self.table is None:
            return
        for prefix in prefixes:
            best = None if prefix in self._hosts else self.table.best(Destination("prefix", prefix))
            self.program.want(Key("route", prefix), self._way(best.attributes.next_hop) if best else None)

    def _way(self, hop: str) -> Via | None:
        if hop not in self._ways:
            found = routes.way_to(self._netlink(), hop)
            self._ways[hop] = Via(found[0] or hop, found[1]) if found else None
        return self._ways[hop]


def _hosts(attachment: Attachment) -> list[str]:
    return [f"{ip}/{ip_address(ip).max_prefixlen}" for ip in plain_addresses(attachment)]


def _subnets(attachment: Attachment) -> list[str]:
    return [bgp.subnet(item.address) for item in attachment.addresses]
