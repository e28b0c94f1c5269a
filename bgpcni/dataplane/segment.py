"""One VNI on this node: the attachments in it, what it imports, and what the kernel should have. Pure.

The MAC and the addresses of a container on this node always win over learned routes, whatever other nodes announce.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address

from bgpcni.bgp import MAX_SEQUENCE, gateway_mac
from bgpcni.dataplane.program import At, Key, Local, Program, Remote, Value
from bgpcni.dataplane.rib import GATEWAY, Bounds, Destination, EvpnRule, Own, Table
from bgpcni.errors import InvalidConfiguration
from bgpcni.exporter import Learned
from bgpcni.model import Attachment, AttachmentKey, IpPrefixNlri, MacIpNlri

SEEN = 1 << 16
"""How many addresses of a VNI are remembered; if there are more, those that are not used any more are forgotten."""
_KEYS = {"mac": "fdb", "ip": "neighbour", "flood": "flood"}


@dataclass(frozen=True, slots=True)
class Member:
    """What a VNI needs to know of an attachment. `port`: the index of its link on the bridge. `gateways`: anycast ones.

    `routed`: it is in a VRF as well, and the VRF imports the type 5 routes.
    """

    targets: tuple[str, ...]
    mac: str
    addresses: tuple[str, ...]
    port: int
    gateways: tuple[str, ...]
    routed: bool = False

    @property
    def keys(self) -> list[Key]:
        return [Key("fdb", self.mac), *(Key("neighbour", address) for address in self.addresses)]


def member_of(attachment: Attachment) -> Member:
    """Raises InvalidConfiguration if the attachment has no bridge or no link, so that it cannot be in a VXLAN."""
    if not attachment.bridge or not attachment.bridge_index or attachment.bgp.vni is None:
        raise InvalidConfiguration("bgp.family: evpn needs the container to be on a bridge")
    if not attachment.mac or not attachment.host_index:
        raise InvalidConfiguration("bgp.family: evpn needs the container's MAC and the root-side end of its link")
    gateways = (str(item.gateway) for item in attachment.addresses if item.gateway and attachment.bgp.anycast)
    return Member(
        targets=attachment.bgp.import_rt,
        mac=attachment.mac,
        addresses=plain_addresses(attachment),
        port=attachment.host_index,
        gateways=tuple(str(ip_address(gateway)) for gateway in gateways),
        routed=attachment.bgp.table is not None,
    )


def plain_addresses(attachment: Attachment) -> tuple[str, ...]:
    """Its addresses, canonical, without prefix lengths."""
    return tuple(str(ip_address(item.address.partition("/")[0])) for item in attachment.addresses)


class Segment:
    """What follows from the attachments of a VNI, and from the routes that it imports."""

    def __init__(self, vni: int) -> None:
        self.vni = vni
        self.name = f"vni {vni}"
        self.table = Table(EvpnRule(frozenset()))
        self.program = Program()
        self.members: dict[AttachmentKey, Member] = {}
        self.seen: dict[str, str] = {}
        """The MAC that each address last had. If it changes, the containers that have cached it are told."""
        self._targets: Counter[str] = Counter()
        self._gateways: Counter[str] = Counter()
        self._macs: dict[str, int] = {}
        self._addresses: dict[str, str] = {}
        self._held: Counter[str] = Counter()

    # ---------------------------------------------------------------- who is in it

    def add(self, key: AttachmentKey, member: Member) -> list[Key]:
        """Add or replace an attachment. Returns the entries that may have changed."""
        touched = self.remove(key)
        self.members[key] = member
        self._targets.update(member.targets)
        self._gateways.update(member.gateways)
        self._macs[member.mac] = member.port
        self._held.update(member.addresses)
        for address in member.addresses:
            self._addresses[address] = member.mac
        return list(dict.fromkeys((*touched, *member.keys)))

    def remove(self, key: AttachmentKey) -> list[Key]:
        """Remove an attachment. Returns the entries that may have changed; none if it is unknown."""
        member = self.members.pop(key, None)
        if member is None:
            return []
        self._targets -= Counter(member.targets)
        self._gateways -= Counter(member.gateways)
        if self._macs.get(member.mac) == member.port:
            del self._macs[member.mac]
        self._held -= Counter(member.addresses)
        for address in member.addresses:
            if self._addresses.get(address) == member.mac:
                del self._addresses[address]
                self._addresses.update((address, self.members[other].mac) for other in self._holders(address))
        return member.keys

    def rivals(self, key: AttachmentKey) -> Iterator[tuple[str, AttachmentKey]]:
        """The addresses of an attachment that another one on this node has as well, and which one has it."""
        member = self.members.get(key)
        for address in member.addresses if member else ():
            if self._held[address] > 1:
                yield from ((address, other) for other in self._holders(address) if other != key)

    def _holders(self, address: str) -> list[AttachmentKey]:
        """The attachments that have an address. Slow, so only called if two have it, or if one of them goes."""
        if not self._held[address]:
            return []
        return [key for key, member in self.members.items() if address in member.addresses]

    @property
    def gateways(self) -> frozenset[str]:
        return frozenset(self._gateways)

    def rule(self, own: Own, bounds: Bounds) -> EvpnRule:
        """What it imports: the route targets of all its attachments.

        The MAC of the anycast gateway is on every gateway and never announced. Whoever announces it would get the
        traffic for the gateway, so it is refused.
        """
        reserved = self.gateways | {gateway_mac(self.vni)}
        rule = EvpnRule(frozenset(self._targets), own, bounds, reserved)
        routed = any(member.routed for member in self.members.values())
        return replace(rule, kinds=rule.kinds - {IpPrefixNlri}) if routed else rule

    # ---------------------------------------------------------------- what is wanted

    def refresh(self) -> None:
        """Want what follows from the routes that changed."""
        changed, self.table.changed = self.table.changed, {}
        self.want(Key(_KEYS[found.what], found.value) for found in changed if found.what in _KEYS)

    def want(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self.program.want(key, self._wanted(key))

    def _wanted(self, key: Key) -> Value | None:
        if key.what == "fdb":
            if key.name in self._macs:
                return Local(self._macs[key.name])
            return self._remote(self.table.best(Destination("mac", key.name)))
        if key.what == "neighbour":
            if key.name in self._addresses:
                return At(self._addresses[key.name])
            best = self.table.best(Destination("ip", key.name))
            return At(best.nlri.mac) if best and isinstance(best.nlri, MacIpNlri) else None
        return self._remote(self.table.best(Destination("flood", key.name)))

    def _remote(self, route: Learned | None) -> Remote | None:
        if route is None:
            return None
        return Remote(route.attributes.next_hop, route.vni if route.vni != self.vni else None)

    def remember(self, found: Mapping[str, str]) -> None:
        """Remember the MACs of these addresses. If there are too many, forget the addresses that are not used."""
        self.seen.update(found)
        if len(self.seen) > SEEN:
            self.seen = {key.name: at.mac for key, at in self.program.present.items() if isinstance(at, At)}

    # ---------------------------------------------------------------- what is wrong

    def duplicates(self) -> Iterator[str]:
        """Who else announces what is on this node, and what two others announce alike. It is only reported."""
        here = dict.fromkeys(Destination("mac", mac) for mac in self._macs)
        here |= dict.fromkeys(Destination("ip", address) for address in self._addresses)
        for destination in here:
            for route in self.table.candidates.get(destination, {}).values():
                found = route.attributes
                last = (
                    ", the highest possible: other nodes may keep sending there"
                    if found.mobility == MAX_SEQUENCE
                    else ""
                )
                yield (
                    f"{destination.value} of this node is announced by {found.next_hop} too, "
                    f"sequence {found.mobility}{last} (VNI {self.vni})"
                )
                break
        for destination, rivals in self.table.rivals():
            if destination not in here:
                hops = " and ".join(sorted({route.attributes.next_hop for route in rivals}))
                yield f"{destination.value} is announced by {hops} alike (VNI {self.vni})"
        gateway = gateway_mac(self.vni)
        for route_id, reason in self.table.refused.items():
            nlri = route_id.nlri  # routers announce the gateway's addresses, too
            if reason == GATEWAY and isinstance(nlri, MacIpNlri) and nlri.mac == gateway:
                yield f"{gateway} of the anycast gateway is announced by {route_id.peer} (VNI {self.vni}); refused"
