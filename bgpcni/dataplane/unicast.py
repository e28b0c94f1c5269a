"""The node's own table: what unicast networks import, and by which way the kernel reaches it.

Next hops need not be on a link (those of a reflector's clients are not): they are looked up in the kernel, and again
from time to time. What is on this node, and what this node needs, is never learned: `guard` knows it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from ipaddress import ip_address, ip_network

from bgpcni.dataplane.guard import ADDRESS, HOP, PEER, SUBNET, Guard, subnets_of
from bgpcni.dataplane.prefixes import Address, Network
from bgpcni.dataplane.program import Key, Program, Via
from bgpcni.dataplane.rib import Bounds, Destination, Own, Rib, Table, UnicastRule
from bgpcni.kernel import routes
from bgpcni.kernel.netlink import Netlink
from bgpcni.model import Attachment, AttachmentKey

NAME = "unicast"


class Unicast:
    """Which prefixes are accepted follows from the attachments that import; the subnets of all are guarded."""

    def __init__(self, rib: Rib, netlink: Callable[[], Netlink], elsewhere: Callable[[], Collection[int]]) -> None:
        """`elsewhere`: links that are in a VRF, whose subnets are not of this table."""
        self.program = Program()
        self._rib = rib
        self._netlink = netlink
        self._elsewhere = elsewhere
        self._own, self._bounds = Own(), Bounds()
        self._guard = Guard()
        self._members: dict[AttachmentKey, tuple[str, ...]] = {}
        self._accept: Counter[str] = Counter()
        self._neighbors: frozenset[str] = frozenset()
        self._peers: frozenset[str] = frozenset()
        self._ways: dict[str, Via | None] = {}

    @property
    def asked(self) -> bool:
        """Whether any network here imports unicast routes."""
        return bool(self._accept)

    @property
    def table(self) -> Table | None:
        return self._rib.tables.get(NAME)

    def configure(self, own: Own, bounds: Bounds, neighbors: Iterable[str]) -> None:
        """`neighbors`: addresses of our own speaker's; those of others are known by what they tell."""
        self._own, self._bounds, self._neighbors = own, bounds, frozenset(neighbors)
        self._import()

    def add(self, attachment: Attachment) -> None:
        first = not self._accept
        before = self._members.get(attachment.key, ())
        self._members[attachment.key] = attachment.bgp.import_prefixes
        self._accept.update(attachment.bgp.import_prefixes)
        self._accept -= Counter(before)
        self.shield(attachment)
        if first and self._accept:
            self._see_connected()
        self._import()

    def remove(self, key: AttachmentKey) -> None:
        """Unknown: nothing happens."""
        self._rib.judge_again(NAME, self._guard.cover(key, ()))
        prefixes = self._members.pop(key, ())
        if prefixes:
            self._accept -= Counter(prefixes)
            self._import()
        self.refresh()

    def shield(self, attachment: Attachment) -> list[Key]:
        """Its subnets are here from now on, by whatever it is announced; the entries that have to go for it."""
        changed = self._guard.cover(attachment.key, subnets_of(attachment))
        if not changed or self.table is None:
            return []
        self._rib.judge_again(NAME, changed)
        touched = [Key("route", destination.value) for destination in self.table.changed]
        self.refresh()
        return [key for key in touched if key in self.program.present and key not in self.program.wanted]

    def refresh(self) -> None:
        """Want what follows from the routes that changed."""
        table = self.table
        if table is None:
            return
        self._watch()
        if table.changed:
            changed, table.changed = table.changed, {}
            self._want(destination.value for destination in changed)

    def look(self) -> None:
        """What only the kernel knows may have changed: the node's subnets, and the ways to peers and next hops."""
        if not self.asked or self.table is None:
            return
        self._see_connected()
        known, self._ways = self._ways, {}
        self._look_at(self._peers, PEER)
        self._look_at(self.table.hops, HOP)
        if any(self._way(hop) != via for hop, via in known.items() if hop in self.table.hops):
            self._want([destination.value for destination in self.table.candidates])
        self.refresh()

    def _import(self) -> None:
        if not self._accept and self.table is None:
            return
        rule = UnicastRule(frozenset(self._accept), self._own, self._bounds)
        self._rib.configure(NAME, rule, self._bounds.maximum, self._guard)
        self.refresh()

    def _want(self, prefixes: Iterable[str]) -> None:
        if self.table is None:
            return
        for prefix in prefixes:
            best = self.table.best(Destination("prefix", prefix))
            self.program.want(Key("route", prefix), self._way(best.attributes.next_hop) if best else None)

    def _way(self, hop: str) -> Via | None:
        if hop not in self._ways:
            found = routes.way_to(self._netlink(), hop)
            self._ways[hop] = Via(found[0] or hop, found[1]) if found else None
        return self._ways[hop]

    # ---------------------------------------------------------------- what is guarded

    def _see_connected(self) -> None:
        """Guard the node's subnets and addresses, and no longer those that are none any more."""
        found: set[tuple[Network, str]] = set()
        elsewhere = self._elsewhere()
        for address, subnet, device in routes.connected(self._netlink()):
            if device not in elsewhere:
                found |= {(ip_network(address), ADDRESS), (subnet, SUBNET)}
        self._rib.judge_again(NAME, self._guard.cover(None, found))

    def _watch(self) -> None:
        """Guard the ways to peers and next hops that are new, and no longer those of none that is left."""
        table = self.table
        assert table is not None
        peers = self._neighbors | self._rib.peers()
        if peers != self._peers:
            fresh, gone, self._peers = peers - self._peers, self._peers - peers, peers
            self._look_at(fresh, PEER)
            self._forget(gone, PEER)
        while table.moved:
            moved, table.moved = table.moved, {}
            self._look_at([hop for hop in moved if hop in table.hops], HOP)
            self._forget([hop for hop in moved if hop not in table.hops], HOP)

    def _look_at(self, hosts: Iterable[str], reason: str) -> None:
        """How specific the way to each is. One of our own routes says nothing of what is below it: what was known
        before stays."""
        for address, host in _global(hosts):
            found = routes.reached_by(self._netlink(), host)
            if found is not None and self._guard.watch(address, reason, found):
                self._rib.judge_again(NAME, around=[address])

    def _forget(self, hosts: Iterable[str], reason: str) -> None:
        for address, host in _global(hosts):
            if reason == HOP:
                self._ways.pop(host, None)
            if self._guard.watch(address, reason, None):
                self._rib.judge_again(NAME, around=[address])


def _global(hosts: Iterable[str]) -> list[tuple[Address, str]]:
    """Addresses that a route could take the way to: not link-local ones, nor the names that some speakers have."""
    found = []
    for host in hosts:
        try:
            address = ip_address(host)
        except ValueError:
            continue
        if not address.is_link_local:
            found.append((address, host))
    return found
