"""One VRF on this node: the attachments in it, what it imports, and what the kernel should have. Pure, except that it
asks for the ways to next hops.

Type 5 routes (RFC 9136) lead through the VXLAN device of the VRF's own VNI to the router behind the VTEP. L3VPN routes
(RFC 4364) lead to the next hop, with the label that it announced. What is on this node is never learned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import IPv6Address, ip_address, ip_interface
from typing import Any

from bgpcni.dataplane.guard import SUBNET, Guard, hosts_of, subnets_of
from bgpcni.dataplane.prefixes import Network
from bgpcni.dataplane.program import At, Key, Remote, Via, spread
from bgpcni.dataplane.rib import VPN, Bounds, Own, Rib, VrfRule
from bgpcni.dataplane.routed import Routed
from bgpcni.exporter import Learned
from bgpcni.kernel import vrf
from bgpcni.model import Attachment, AttachmentKey, Family, VpnNlri

Find = Callable[[str], tuple[str | None, int] | None]
Router = tuple[str, str, str]
"""The router that a type 5 route leads to: the gateway in the family of the prefix, the Router's MAC, the VTEP."""


class Vrf(Routed):
    """`device`: the index of the VXLAN device of `l3vni`, 0 while there is none.

    `find`: (gateway, link) by which the kernel reaches a next hop.
    """

    def __init__(self, link: vrf.Device, rib: Rib, find: Find) -> None:
        super().__init__(f"vrf {link.name}", rib, Guard(hosts_pass=True))
        self.link = link
        self.device = 0
        self.members: dict[AttachmentKey, Attachment] = {}
        self.find = find
        self._targets: Counter[str] = Counter()
        self._labels: Counter[int] = Counter()
        self._vnis: Counter[int] = Counter()
        self._through: dict[str, set[Router]] = {}
        self._macs: dict[str, Counter[str]] = {}
        self._vteps: dict[str, Counter[str]] = {}

    @property
    def l3vni(self) -> int | None:
        """Its own VNI, or None if no attachment in it uses EVPN."""
        return next(iter(self._vnis), None)

    @property
    def families(self) -> frozenset[Family]:
        """What it has to be told of."""
        evpn = {Family.L2VPN_EVPN} if self.l3vni else set[Family]()
        return frozenset(evpn.union(VPN if self._labels else ()))

    # ---------------------------------------------------------------- who is in it

    def add(self, attachment: Attachment) -> None:
        """Add or replace an attachment."""
        self.remove(attachment.key)
        self.members[attachment.key] = attachment
        for counter, values in self._counted(attachment):
            counter.update(values)
        self.shield(attachment)

    def subnets(self, attachment: Attachment) -> set[tuple[Network, str]]:
        """The subnets may be on other nodes as well, which announce them, too: that harms nobody."""
        return subnets_of(attachment, SUBNET) | hosts_of(attachment)

    def remove(self, key: AttachmentKey) -> None:
        """Remove an attachment. If it is unknown, nothing happens."""
        self._rib.judge_again(self.name, self._guard.cover(key, ()))
        self.refresh()
        attachment = self.members.pop(key, None)
        if attachment is not None:
            for counter, values in self._counted(attachment):
                counter -= Counter(values)  # in place; what is at zero is removed
            label = attachment.bgp.label
            if label is not None and label not in self._labels:
                self.program.want(Key("label", str(label)), None)

    def _counted(self, attachment: Attachment) -> Iterator[tuple[Counter[Any], Iterable[Any]]]:
        """What follows from an attachment, and may follow from others as well: hence the counters."""
        intent = attachment.bgp
        yield self._targets, intent.import_rt
        yield self.accept, intent.import_prefixes
        yield self._labels, [] if intent.label is None else [intent.label]
        yield self._vnis, [] if intent.l3vni is None else [intent.l3vni]

    def empty(self) -> None:
        """No attachment is left: want nothing of the kernel."""
        self.program.forget()
        for each in (self._ways, self._through, self._macs, self._vteps):
            each.clear()

    def gateways(self, bridge: str) -> set[str]:
        """The gateway addresses of one of its bridges, with their prefix lengths."""
        items = [item for each in self.members.values() if each.bridge == bridge for item in each.addresses]
        return {f"{item.gateway}/{ip_interface(item.address).network.prefixlen}" for item in items if item.gateway}

    def follow(self, own: Own, bounds: Bounds) -> None:
        """Import what all its attachments ask for."""
        rule = VrfRule(
            targets=frozenset(self._targets),
            own=own,
            bounds=bounds,
            l3vni=self.l3vni,
            mpls=bool(self._labels),
            accept=frozenset(self.accept),
        )
        self._rib.configure(self.name, rule, bounds.maximum, self._guard)
        for label in self._labels:
            self.program.want(Key("label", str(label)), Via(None, self.link.index))
        self.refresh()

    # ---------------------------------------------------------------- what is wanted

    def lead(self, prefix: str, used: Sequence[Learned]) -> None:
        ways: list[Via] = []
        routers: set[Router] = set()
        for route in used:
            if not isinstance(route.nlri, VpnNlri):
                router = _router(prefix, route)
                routers.add(router)
                ways.append(Via(router[0], self.device))
            elif way := self.way(route.attributes.next_hop):
                ways.append(Via(way.gateway, way.device, route.label))
        self._lead_through(prefix, routers | self._through.get(prefix, set()))
        self.program.want(Key("route", prefix), spread(ways))
        self._lead_through(prefix, routers)

    def find_way(self, hop: str) -> Via | None:
        """Only a next hop on a link of this node will do: a router on the way would not know the label."""
        found = self.find(str(_unmapped(hop)))
        return Via(hop, found[1]) if found and found[0] is None else None

    def _lead_through(self, prefix: str, routers: set[Router]) -> None:
        """Count the routes through each router: its entries are wanted for as long as a route leads through it.

        A router is added before the route through it, and removed after it.
        """
        before = self._through.pop(prefix, set())
        if routers:
            self._through[prefix] = routers
        gone, fresh = before - routers, routers - before
        for some, step in ((gone, -1), (fresh, 1)):
            for gateway, mac, vtep in some:
                _count(self._macs, gateway, mac, step)
                _count(self._vteps, mac, vtep, step)
        for gateway, mac, _ in sorted(gone) + sorted(fresh):
            found, behind = _most(self._macs.get(gateway)), _most(self._vteps.get(mac))
            self.program.want(Key("fdb", mac), Remote(behind) if behind else None)
            self.program.want(Key("neighbour", gateway), At(found) if found else None)


def _router(prefix: str, route: Learned) -> Router:
    """For an IPv6 prefix behind an IPv4 VTEP the gateway is the mapped IPv4 address, as in FRR; it is never sent."""
    vtep = route.attributes.next_hop
    gateway = ip_address(vtep)
    if ":" in prefix and gateway.version == 4:
        gateway = IPv6Address(f"::ffff:{gateway}")
    return str(gateway), str(route.attributes.router_mac), vtep


def _unmapped(hop: str) -> object:
    """The next hop of a VPN-IPv6 route may be a mapped IPv4 address (RFC 4659 section 3.2.1.2)."""
    address = ip_address(hop)
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _count(counts: dict[str, Counter[str]], key: str, value: str, step: int) -> None:
    found = counts.setdefault(key, Counter())
    found[value] += step
    if found[value] <= 0:
        del found[value]
    if not found:
        del counts[key]


def _most(counts: Counter[str] | None) -> str | None:
    """The value that occurs most often; it does not depend on the order in which they came."""
    return max(counts, key=lambda value: (counts[value], value)) if counts else None
