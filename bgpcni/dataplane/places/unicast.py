"""The node's own table: the routes that unicast networks import, each by the way on which its next hop is reached.

A route is refused if it would lead this node's own subnets, or the ways to its peers and next hops, elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from ipaddress import ip_address, ip_network

from bgpcni.dataplane.guard import ADDRESS, HOP, PEER, SUBNET, Guard, subnets_of
from bgpcni.dataplane.places.place import Place, Surroundings
from bgpcni.dataplane.prefixes import Address, Network
from bgpcni.dataplane.program import Change, Key, Value, Via, spread, ways_of
from bgpcni.dataplane.rib import UNICAST, UnicastRule
from bgpcni.dataplane.routed import Routed
from bgpcni.dataplane.vrf import Vrf
from bgpcni.exporter import Learned
from bgpcni.kernel import links, routes
from bgpcni.kernel.netlink import Message, Netlink
from bgpcni.model import Attachment, AttachmentKey, Family


class UnicastPlace(Routed, Place):
    """It accepts the prefixes that its attachments import, and protects the subnets of all of them."""

    def __init__(self, around: Surroundings) -> None:
        super().__init__("unicast", around.rib, Guard())
        self.around = around
        self._members: dict[AttachmentKey, tuple[str, ...]] = {}
        self._peers: frozenset[str] = frozenset()

    @classmethod
    def of(cls, attachment: Attachment, around: Surroundings) -> UnicastPlace | None:
        """Every node has exactly one."""
        place = around.places["unicast"] if attachment.bgp.family == "unicast" else None
        return place if isinstance(place, UnicastPlace) else None

    @property
    def used(self) -> bool:
        return True

    @property
    def asked(self) -> bool:
        """Whether any network on this node imports unicast routes."""
        return bool(self.accept)

    @property
    def families(self) -> Collection[Family]:
        return UNICAST if self.asked else ()

    def attach(self, attachment: Attachment) -> None:
        first = not self.asked
        before = self._members.get(attachment.key, ())
        self._members[attachment.key] = attachment.bgp.import_prefixes
        self.accept.update(attachment.bgp.import_prefixes)
        self.accept -= Counter(before)
        self.shield(attachment)
        if first and self.asked:
            self._see_connected()
        self.configure()

    def detach(self, key: AttachmentKey) -> None:
        self._rib.judge_again(self.name, self._guard.cover(key, ()))
        prefixes = self._members.pop(key, ())
        if prefixes:
            self.accept -= Counter(prefixes)
            self.configure()
        self.refresh()

    def configure(self) -> None:
        if self.asked or self.table is not None:
            rule = UnicastRule(frozenset(self.accept), self.around.own, self.around.bounds)
            self._rib.configure(self.name, rule, self.around.bounds.maximum, self._guard)
            self.refresh()

    def refresh(self) -> None:
        if self.table is not None:
            self._watch()
            super().refresh()

    def look(self) -> None:
        """The node's subnets, and the ways to peers and next hops, may have changed."""
        if self.asked and self.table is not None:
            self._see_connected()
            self._look_at(self._peers, PEER)
            self._look_at(self.table.hops, HOP)
            super().look()

    def lead(self, prefix: str, used: Sequence[Learned]) -> None:
        ways = (self.way(route.attributes.next_hop) for route in used)
        self.program.want(Key("route", prefix), spread(way for way in ways if way is not None))

    # ---------------------------------------------------------------- what is guarded

    def subnets(self, attachment: Attachment) -> set[tuple[Network, str]]:
        return subnets_of(attachment)

    def _see_connected(self) -> None:
        """Protect the subnets and addresses that the node has now, and no others.

        Those of a bridge that is in a VRF are not of this table.
        """
        vrfs = [place for place in self.around.places.values() if isinstance(place, Vrf)]
        elsewhere = {member.bridge_index for place in vrfs for member in place.members.values()}
        found: set[tuple[Network, str]] = set()
        for address, subnet, device in routes.connected(self.around.netlink):
            if device not in elsewhere:
                found |= {(ip_network(address), ADDRESS), (subnet, SUBNET)}
        self._rib.judge_again(self.name, self._guard.cover(None, found))

    def _watch(self) -> None:
        """Protect the ways to the peers and next hops that there are now, and no others.

        The neighbours of our own speaker are peers; those of others are known by what they announce.
        """
        table = self.table
        assert table is not None
        peers = self._rib.peers() | {neighbor.address for neighbor in self.around.facts.neighbors}
        if peers != self._peers:
            fresh, gone, self._peers = peers - self._peers, self._peers - peers, frozenset(peers)
            self._look_at(fresh, PEER)
            self._forget(gone, PEER)
        while table.moved:
            moved, table.moved = table.moved, {}
            self._look_at([hop for hop in moved if hop in table.hops], HOP)
            self._forget([hop for hop in moved if hop not in table.hops], HOP)

    def _look_at(self, hosts: Iterable[str], reason: str) -> None:
        """Find out how specific the way to each of them is.

        If it is one of our own routes, what was known before stays: what would be used without it is not known.
        """
        for address, host in _global(hosts):
            found = routes.reached_by(self.around.netlink, host)
            if found is not None and self._guard.watch(address, reason, found):
                self._rib.judge_again(self.name, around=[address])

    def _forget(self, hosts: Iterable[str], reason: str) -> None:
        for address, host in _global(hosts):
            if reason == HOP:
                self._ways.pop(host, None)
            if self._guard.watch(address, reason, None):
                self._rib.judge_again(self.name, around=[address])

    # ---------------------------------------------------------------- the kernel

    def find_way(self, hop: str) -> Via | None:
        address, _, zone = hop.partition("%")
        if zone:
            link = links.find(self.around.netlink, name=zone)
            return Via(address, link.index) if link is not None else None
        found = routes.way_to(self.around.netlink, hop)
        return Via(found[0] or hop, found[1]) if found else None

    def present(self) -> Iterator[tuple[Key, Value]]:
        yield from routes_present(self.around.netlink)

    def messages(self, change: Change) -> Iterator[Message]:
        return route_messages(change)


def route_messages(change: Change, table: int = routes.MAIN) -> Iterator[Message]:
    """The messages that change a route of this table. A route of somebody else with this prefix and metric stays."""
    prefix, old, new = change.key.name, change.old, change.new
    if ways := ways_of(new):
        message = routes.replace_message if ways_of(old) else routes.add_message
        yield message(prefix, [_path(via) for via in ways], table)
    elif ways := ways_of(old):
        yield routes.delete_message(prefix, [_path(via) for via in ways], table)


def routes_present(netlink: Netlink, table: int = routes.MAIN) -> Iterator[tuple[Key, Value]]:
    """Our routes in this table, as the kernel has them."""
    for prefix, paths in routes.ours(netlink, table):
        if value := spread(Via(path.gateway, path.device, path.label) for path in paths):
            yield Key("route", prefix), value


def _path(via: Via) -> routes.Path:
    return routes.Path(via.gateway, via.device, via.label)


def _global(hosts: Iterable[str]) -> list[tuple[Address, str]]:
    """The addresses among them. Left out are link-local ones, which no route leads to, and names of interfaces."""
    found = []
    for host in hosts:
        try:
            address = ip_address(host)
        except ValueError:
            continue
        if not address.is_link_local:
            found.append((address, host))
    return found
