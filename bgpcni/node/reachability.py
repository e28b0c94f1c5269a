"""Why an attachment cannot be reached although its routes are announced: one answer for `status` and `explain`.

The answer is read from the kernel now. Attachments of one bridge and subnet share it, so the cost grows with the
bridges, not with the attachments. This module changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from bgpcni.ip import ip_interface
from bgpcni.kernel import addresses, firewall, links, sysctl, vxlan
from bgpcni.kernel.netlink import Netlink
from bgpcni.model import Attachment, Neighbor, NodeFacts
from bgpcni.node import interface

Problem = tuple[str, str]
"""Code and text."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """What the answer depends on: attachments that agree in all of it are reached, or not, for the same reason."""

    bridge: str | None
    veth: str | None
    """Only without a bridge of ours: each such attachment has a path of its own."""
    holder: str
    """The link that has the gateways' addresses."""
    gateways: tuple[str, ...]
    subnets: tuple[str, ...]
    routed: bool
    forwarded: bool
    vrf: str | None
    tunnel: str | None
    """The VXLAN that this node made for its VNI."""


class Reachability:
    """The answers within one command of an operator: nothing is asked of the kernel twice."""

    def __init__(self, netlink: Netlink, facts: NodeFacts) -> None:
        self._netlink = netlink
        self._facts = facts
        self._known: dict[_Kind, list[Problem]] = {}
        self._bases: list[firewall.Base] | None = None
        self._uplinks: list[str] | None = None

    def problems(self, attachments: Iterable[Attachment]) -> list[Problem]:
        """The problems of these attachments, which are up; each one once, with the number of attachments that have
        it."""
        counts: Counter[Problem] = Counter()
        for attachment in attachments:
            counts.update(self.of(attachment))
        return [(code, f"{text} ({count} attachment{'s' * (count != 1)})") for (code, text), count in counts.items()]

    def of(self, attachment: Attachment) -> list[Problem]:
        """The problems of one attachment that is up; the first one is the cause of the others."""
        kind = _kind(attachment)
        if kind not in self._known:
            self._known[kind] = list(dict.fromkeys(self._look(kind, attachment)))
        return self._known[kind]

    def tunnel(self, name: str) -> Literal["up", "down", "missing"]:
        """The state of a VXLAN that this node made."""
        link = links.find(self._netlink, name=name)
        if link is None or not vxlan.is_ours(link):
            return "missing"
        return "up" if link.up else "down"

    def _look(self, kind: _Kind, attachment: Attachment) -> Iterator[Problem]:
        there = True
        if kind.tunnel and (state := self.tunnel(kind.tunnel)) != "up":
            yield f"vxlan-{state}", f"{kind.tunnel} is {state}"
        for name in dict.fromkeys(filter(None, (kind.bridge, kind.holder))):
            link = links.find(self._netlink, name=name)
            what = f"bridge {name}" if name == kind.bridge else f"gateway interface {name}"
            if link is None:
                yield "bridge-down", f"{what} is missing"
                there = False
            elif not link.up:
                yield "bridge-down", f"{what} is down"
                there = False
            elif name == kind.holder and kind.gateways:
                present = {item.address for item in addresses.assigned(self._netlink, link.index)}
                for gateway in kind.gateways:
                    if gateway not in present:
                        yield "gateway-missing", f"{what}: gateway address {gateway} is missing"
                        there = False
        if there and kind.routed and (reason := interface.unreachable(self._netlink, attachment)):
            # this attachment stands for its subnet; its own address is named only if nobody else is on that path
            yield "unreachable", reason
        if kind.forwarded:
            for version in sorted({ip_interface(subnet).version for subnet in kind.subnets}):
                yield from self._forwarding(version, kind)
            if not kind.vrf:
                yield from self._filtered(kind, attachment)

    def _forwarding(self, version: int, kind: _Kind) -> Iterator[Problem]:
        for device in dict.fromkeys(filter(None, (self._uplink(), kind.holder))):
            if not sysctl.forwards(version, device):
                whole = "net/ipv4/ip_forward" if version == 4 else "net/ipv6/conf/all/forwarding"
                off = whole if sysctl.read(whole) != "1" else f"net/ipv{version}/conf/{device}/forwarding"
                yield "forwarding-off", f"this node forwards no IPv{version} to containers: sysctl {off} is off"
                return

    def _filtered(self, kind: _Kind, attachment: Attachment) -> Iterator[Problem]:
        if self._bases is None:
            self._bases = firewall.chains()
        for item in attachment.addresses:
            version, address = ip_interface(item.address).version, str(ip_interface(item.address).ip)
            uplink = self._uplink() if kind.routed else None
            # announced addresses are reached from outside; if there is only a gateway, connections start at the
            # containers
            first, second = ("new", "established") if kind.routed else ("established", "new")
            come = firewall.Packet(version, first, uplink, kind.holder, None, address)
            go = firewall.Packet(version, second, kind.holder, uplink, address, None)
            for packet, way in ((come, "to"), (go, "from")):
                if where := firewall.dropped(packet, self._bases):
                    name = f"containers on {kind.holder}" if kind.bridge else address
                    yield "firewall", f"the firewall drops what is forwarded {way} {name}: {where}"
                    break

    def _uplink(self) -> str | None:
        """The device towards the first neighbour that can be reached; None if it is not known."""
        if self._uplinks is None:
            found = (self._towards(neighbor) for neighbor in self._facts.neighbors)
            link = next(filter(None, found), None)
            self._uplinks = [link.name] if link is not None else []
        return self._uplinks[0] if self._uplinks else None

    def _towards(self, neighbor: Neighbor) -> links.Link | None:
        if neighbor.interface is not None:
            return links.find(self._netlink, name=neighbor.interface)
        index = addresses.device_of(self._netlink, neighbor.address)
        return links.find(self._netlink, index=index) if index else None


def _kind(attachment: Attachment) -> _Kind:
    bridge = None if attachment.chained else attachment.bridge
    holder = attachment.gateway.name if attachment.gateway else bridge or attachment.host_veth or ""
    routed = bool(attachment.exporters) and (attachment.bgp.family == "unicast" or attachment.bgp.table is not None)
    interfaces = [ip_interface(item.address) for item in attachment.addresses]
    held = attachment.is_gateway and not attachment.chained
    return _Kind(
        bridge=bridge,
        veth=None if bridge else attachment.host_veth or attachment.key.digest,
        holder=holder,
        gateways=tuple(
            f"{item.gateway}/{own.network.prefixlen}"
            for item, own in zip(attachment.addresses, interfaces, strict=True)
            if held and item.gateway
        ),
        subnets=tuple(str(own.network) for own in interfaces),
        routed=routed,
        forwarded=routed or held,
        vrf=attachment.bgp.vrf if attachment.bgp.table is not None else None,
        tunnel=vxlan.name_of(attachment.bgp.vni)
        if attachment.bgp.forwarder == "agent" and attachment.bgp.vni
        else None,
    )
