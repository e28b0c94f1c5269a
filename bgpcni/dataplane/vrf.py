"""One VRF on this node: the attachments in it, what it imports, and what the kernel should have of it. Pure, but that
the way to a next hop is asked for.

Type 5 routes (RFC 9136) lead through the VXLAN device of the VRF's own VNI to the router that is behind the VTEP;
L3VPN routes (RFC 4364) lead to the next hop with the label that it asked for. What is on this node is never learned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv6Address, ip_address, ip_interface
from typing import Any

from bgpcni.dataplane.guard import SUBNET, Guard, hosts_of, subnets_of
from bgpcni.dataplane.program import At, Key, Program, Remote, Via
from bgpcni.dataplane.rib import Bounds, Destination, Own, Rib, Table, VrfRule
from bgpcni.exporter import Learned
from bgpcni.kernel import vrf
from bgpcni.model import Attachment, AttachmentKey, Family

VPN = frozenset({Family.IPV4_VPN, Family.IPV6_VPN})
Way = Callable[[str], tuple[str | None, int] | None]
Router = tuple[str, str, str]
"""What a type 5 route leads through: the gateway as its prefix's family has it, the Router's MAC, the VTEP."""


class Vrf:
    """`device`: the index of the VXLAN device of `l3vni`, once there is one. `users`: who needs it, and the bridges."""

    def __init__(self, link: vrf.Device, rib: Rib, way: Way) -> None:
        self.link = link
        self.name = f"vrf {link.name}"
        self.program = Program()
        self.device = 0
        self.users: dict[AttachmentKey, str | None] = {}
        self.members: dict[AttachmentKey, Attachment] = {}
        self._rib = rib
        self._way = way
        self._ways: dict[str, Via | None] = {}
        self._guard = Guard(hosts_pass=True)
        self._targets: Counter[str] = Counter()
        self._accept: Counter[str] = Counter()
        self._labels: Counter[int] = Counter()
        self._vnis: Counter[int] = Counter()
        self._through: dict[str, Router] = {}
        self._macs: dict[str, Counter[str]] = {}
        self._vteps: dict[str, Counter[str]] = {}

    @property
    def table(self) -> Table | None:
        return self._rib.tables.get(self.name)

    @property
    def l3vni(self) -> int | None:
        """Its own VNI, None where nobody in it is of EVPN."""
        return next(iter(self._vnis), None)

    @property
    def families(self) -> frozenset[Family]:
        """What it is told of: what the kernel had of it before is held until peers have told all of that."""
        evpn = frozenset({Family.L2VPN_EVPN}) if self.l3vni else frozenset[Family]()
        return evpn | (VPN if self._labels else frozenset())

    # ---------------------------------------------------------------- who is in it

    def add(self, attachment: Attachment) -> None:
        """One more attachment, or another state of one."""
        self.remove(attachment.key)
        self.members[attachment.key] = attachment
        for counter, values in self._counted(attachment):
            counter.update(values)
        self.shield(attachment)

    def shield(self, attachment: Attachment) -> list[Key]:
        """Its addresses and subnets are here from now on; the entries that have to go for it.

        The subnets may be on other nodes as well, which announce them too: that harms nobody.
        """
        changed = self._guard.cover(attachment.key, subnets_of(attachment, SUBNET) | hosts_of(attachment))
        if not changed or self.table is None:
            return []
        self._rib.judge_again(self.name, changed)
        touched = [Key("route", destination.value) for destination in self.table.changed]
        self.refresh()
        return [key for key in touched if key in self.program.present and key not in self.program.wanted]

    def remove(self, key: AttachmentKey) -> None:
        """One less. Unknown: nothing happens."""
        self._rib.judge_again(self.name, self._guard.cover(key, ()))
        self.refresh()
        attachment = self.members.pop(key, None)
        if attachment is not None:
            for counter, values in self._counted(attachment):
                counter -= Counter(values)  # in place, and what is at none goes
            label = attachment.bgp.label
            if label is not None and label not in self._labels:
                self.program.want(Key("label", str(label)), None)

    def _counted(self, attachment: Attachment) -> Iterator[tuple[Counter[Any], Iterable[Any]]]:
        """What each attachment brings in, which another may too."""
        intent = attachment.bgp
        yield self._targets, intent.import_rt
        yield self._accept, intent.import_prefixes
        yield self._labels, [] if intent.label is None else [intent.label]
        yield self._vnis, [] if intent.l3vni is None else [intent.l3vni]

    def empty(self) -> None:
        """Nobody is in it any more: nothing is wanted of the kernel."""
        self.program.forget()
        for each in (self._ways, self._through, self._macs, self._vteps):
            each.clear()

    def gateways(self, bridge: str) -> set[str]:
        """The addresses of one of its bridges, with their lengths."""
        items = [item for each in self.members.values() if each.bridge == bridge for item in each.addresses]
        return {f"{item.gateway}/{ip_interface(item.address).network.prefixlen}" for item in items if item.gateway}

    def configure(self, own: Own, bounds: Bounds) -> None:
        """What it imports follows from all that are in it."""
        rule = VrfRule(
            targets=frozenset(self._targets),
            own=own,
            bounds=bounds,
            l3vni=self.l3vni,
            mpls=bool(self._labels),
            accept=frozenset(self._accept),
        )
        self._rib.configure(self.name, rule, bounds.maximum, self._guard)
        for label in self._labels:
            self.program.want(Key("label", str(label)), Via(None, self.link.index))
        self.refresh()

    # ---------------------------------------------------------------- what is wanted

    def refresh(self) -> None:
        """Want what follows from the routes that changed."""
        if self.table is not None and self.table.changed:
            changed, self.table.changed = self.table.changed, {}
            self._want(destination.value for destination in changed)

    def look(self) -> None:
        """The ways to next hops may be others now, which only the kernel knows."""
        known, self._ways = self._ways, {}
        if any(self._labelled(hop) != via for hop, via in known.items()):
            self.again()

    def again(self) -> None:
        """All that is wanted, once more: a device has another index."""
        if self.table is not None:
            self._want([destination.value for destination in self.table.candidates])

    def has(self, prefix: str) -> bool:
        """Whether the kernel has its route to this prefix."""
        return Key("route", prefix) in self.program.present

    def _want(self, prefixes: Iterable[str]) -> None:
        if self.table is None:
            return
        for prefix in prefixes:
            best = self.table.best(Destination("prefix", prefix))
            via: Via | None = None
            router: Router | None = None
            if best is not None and best.nlri.kind == "vpn":
                via = self._behind(best)
            elif best is not None:
                router = _router(prefix, best)
                via = Via(router[0], self.device)
            if via is not None:  # the router first, then what leads through it; the other way round when it goes
                self._lead(prefix, router)
                self.program.want(Key("route", prefix), via)
            else:
                self.program.want(Key("route", prefix), None)
                self._lead(prefix, None)

    def _behind(self, route: Learned) -> Via | None:
        found = self._labelled(route.attributes.next_hop)
        return Via(found.gateway, found.device, route.label) if found else None

    def _labelled(self, hop: str) -> Via | None:
        """A next hop on a link of ours: the label is its own, so no router between may get to see it."""
        if hop not in self._ways:
            found = self._way(str(_unmapped(hop)))
            self._ways[hop] = Via(hop, found[1]) if found and found[0] is None else None
        return self._ways[hop]

    def _lead(self, prefix: str, router: Router | None) -> None:
        """Routers are shared: the entries of one are there for as long as a route leads through it."""
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
    """The gateway of an IPv6 prefix behind an IPv4 VTEP is that VTEP mapped, as with FRR: on this node alone."""
    vtep = route.attributes.next_hop
    gateway = ip_address(vtep)
    if ":" in prefix and gateway.version == 4:
        gateway = IPv6Address(f"::ffff:{gateway}")
    return str(gateway), str(route.attributes.router_mac), vtep


def _unmapped(hop: str) -> object:
    """The next hop of a VPN-IPv6 route may be an IPv4 address, mapped (RFC 4659 section 3.2.1.2)."""
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
    """What most say, whatever order they came in."""
    return max(counts, key=lambda value: (counts[value], value)) if counts else None
