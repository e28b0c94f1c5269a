"""One VRF on this node: the attachments in it, what it imports, and what the kernel should have. Pure, except that it
asks for the ways to next hops.

Type 5 routes (RFC 9136) lead through the VXLAN device of the VRF's own VNI to the router behind the VTEP. L3VPN routes
(RFC 4364) lead to the next hop, with the label that it announced. What is on this node is never learned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv6Address, ip_address, ip_interface
from typing import Any

from bgpcni.dataplane.guard import SUBNET, Guard, hosts_of, subnets_of
from bgpcni.dataplane.prefixes import Network
from bgpcni.dataplane.program import At, Key, Remote, Via
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
        self._through: dict[str, Router] = {}
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

    def lead(self, prefix: str, best: Learned | None) -> None:
        via: Via | None = None
        router: Router | None = None
        if best is not None and isinstance(best.nlri, VpnNlri):
            way = self.way(best.attributes.next_hop)
            via = Via(way.gateway, way.device, best.label) if way else None
        elif best is not None:
            router = _router(prefix, best)
            via = Via(router[0], self.device)
        if via is not None:  # a router is added before the route through it, and removed after it
            self._lead_through(prefix, router)
            self.program.want(Key("route", prefix), via)
        else:
            self.program.want(Key("route", prefix), None)
            self._lead_through(prefix, None)

    def find_way(self, hop: str) -> Via | None:
        """Only a next hop on a link of this node will do: a router on the way would not know the label."""
        found = self.find(str(_unmapped(hop)))
        return Via(hop, found[1]) if found and found[0] is None else None

    def _lead_through(self, prefix: str, router: Router | None) -> None:
        """Count the routes through each router: its entries are wanted for as long as a route leads through it."""
        before = self._through.get(prefix)
        if before == router:
            return
        if router is None:
            del self._through[prefix]
        else:
            self._through[prefix] = router
        for one, step in ((before, -1), (router, 1)):
            if one is not None:
                gateway, mac, vtep = one
                _count(self._macs, gateway, mac, step)
                _count(self._vteps, mac, vtep, step)
        for one in (before, router):
            if one is not None:
                found, behind = _most(self._macs.get(one[0])), _most(self._vteps.get(one[1]))
                self.program.want(Key("fdb", one[1]), Remote(behind) if behind else None)
                self.program.want(Key("neighbour", one[0]), At(found) if found else None)


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
