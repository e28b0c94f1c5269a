"""A VNI in the kernel: its VXLAN device as a port of the network's bridge, and the entries of both."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator

from bgpcni.bgp import gateway_mac
from bgpcni.dataplane.places.place import Place, Surroundings, neighbour_message
from bgpcni.dataplane.program import At, Change, Key, Local, Remote, Value
from bgpcni.dataplane.segment import Segment, member_of
from bgpcni.errors import KernelRefused
from bgpcni.kernel import gateway, links, vxlan
from bgpcni.kernel.netlink import Message
from bgpcni.model import Attachment, AttachmentKey, Family

log = logging.getLogger(__name__)
INTRODUCED = 32
"""Up to so many new addresses at a time are told to the containers; if there are more, a whole table is learned."""


class VniPlace(Segment, Place):
    """`device`: the index of the VXLAN device, 0 while there is none."""

    families = frozenset({Family.L2VPN_EVPN})

    def __init__(self, attachment: Attachment, around: Surroundings) -> None:
        super().__init__(attachment.bgp.vni or 0)
        self.around = around
        self.bridge, self.bridge_index = str(attachment.bridge), attachment.bridge_index or 0
        self.mtu = attachment.mtu or around.payload()
        self.device = 0
        self._guarded: frozenset[str] = frozenset()
        """The gateways whose ARP and ND are kept off the device."""

    @classmethod
    def of(cls, attachment: Attachment, around: Surroundings) -> VniPlace | None:
        if attachment.bgp.family == "unicast" or attachment.bgp.forwarder != "agent":
            return None
        known = around.places.get(f"vni {attachment.bgp.vni}")
        return known if isinstance(known, VniPlace) else cls(attachment, around)

    @classmethod
    def sweep(cls, around: Surroundings) -> None:
        in_use = {index for place in around.places.values() for index in place.links}
        for link in vxlan.ours(around.netlink):
            if link.index not in in_use:
                log.info("%s: no attachment needs it any more; removed", link.name, extra={"link": link.name})
                links.remove(around.netlink, link.index)
        stray = [found for found in vxlan.neighbours(around.netlink) if found[0] not in in_use]
        vxlan.send(around.netlink, [vxlan.forget_neighbour_message(index, address) for index, address, _ in stray])
        guarded = {
            vxlan.name_of(each.vni) for each in around.places.values() if isinstance(each, cls) and each._guarded
        }
        for name in set(gateway.tables()) - guarded:
            gateway.forget(name)

    @property
    def used(self) -> bool:
        return bool(self.members)

    @property
    def links(self) -> set[int]:
        return {self.device, self.bridge_index}

    def attach(self, attachment: Attachment) -> None:
        """If this fails, nothing is left of the attachment."""
        member = member_of(attachment)
        if not self.around.has(self.device):
            self.open()
        if self.members.get(attachment.key) == member:
            return
        try:
            self._follow(self.add(attachment.key, member))
            if refused := [self.program.failures[key] for key in member.keys if key in self.program.failures]:
                raise KernelRefused(f"VNI {self.vni}: {refused[0]}")
        except BaseException:
            self.detach(attachment.key)
            raise

    def detach(self, key: AttachmentKey) -> None:
        if key in self.members:
            self._follow(self.remove(key))

    def _follow(self, touched: Collection[Key]) -> None:
        """Do what follows from a change of attachments, which may have changed these entries."""
        if self.members:
            self._guard()
            self.configure()
            self.want(touched)
            self.apply(touched)

    def configure(self) -> None:
        bounds = self.around.bounds
        self.table = self.around.rib.configure(self.name, self.rule(self.around.own, bounds), bounds.maximum)
        self.refresh()

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from (("duplicate-address", text) for text in self.duplicates())
        yield from super().problems()

    # ---------------------------------------------------------------- the kernel

    def open(self) -> None:
        self.device = self.around.make_device("bgp.family: evpn", self.vni, self.bridge_index, self.mtu)
        self.read()
        self._guarded = frozenset()
        self._guard()

    def look(self) -> None:
        if not self.around.has(self.device):
            log.warning("%s was deleted; made again", self.name, extra={"link": self.name})
            self.open()

    def close(self) -> None:
        """The neighbours are on the bridge, where they would stay."""
        super().close()
        there = [key.name for key in self.program.present if key.what == "neighbour"]
        vxlan.send(self.around.netlink, [vxlan.forget_neighbour_message(self.bridge_index, name) for name in there])
        if self._guarded:
            gateway.forget(vxlan.name_of(self.vni))
        self.around.remove_device(self.device)

    def _guard(self) -> None:
        """Keep the anycast gateway's ARP and ND off the VXLAN port."""
        if self.gateways == self._guarded:
            return
        name = vxlan.name_of(self.vni)
        if self.gateways:
            gateway.keep_local(name, gateway_mac(self.vni), self.gateways)
        else:
            gateway.forget(name)
        self._guarded = self.gateways

    def present(self) -> Iterator[tuple[Key, Value]]:
        for entry in vxlan.entries(self.around.netlink, self.device):
            yield Key("fdb", entry.mac) if entry.mac else Key("flood", entry.vtep), Remote(entry.vtep, entry.vni)
        for _, address, mac in vxlan.neighbours(self.around.netlink, self.bridge_index):
            yield Key("neighbour", address), At(mac)

    def messages(self, change: Change) -> Iterator[Message]:
        key, old, new = change.key, change.old, change.new
        if key.what == "neighbour":
            yield neighbour_message(change, self.bridge_index)
            return
        flood = key.what == "flood"
        if isinstance(old, Local):
            yield from vxlan.forget_local_messages(old.port, key.name)
        elif isinstance(old, Remote) and flood:
            yield vxlan.forget_flood_message(self.device, old.vtep, old.vni)
        elif isinstance(old, Remote) and (not isinstance(new, Remote) or new.vni != old.vni):
            yield from vxlan.forget_remote_messages(self.device, key.name)
        if isinstance(new, Local):
            yield from vxlan.local_messages(new.port, key.name)
        elif isinstance(new, Remote) and flood:
            yield vxlan.flood_message(self.device, new.vtep, new.vni)
        elif isinstance(new, Remote):
            yield from vxlan.remote_messages(self.device, key.name, new.vtep, new.vni)

    def apply(self, only: Collection[Key] | None = None) -> list[Change]:
        made = super().apply(only)
        found = {change.key.name: change.new.mac for change in made if isinstance(change.new, At)}
        known = {address: self.seen.get(address) for address in found}
        self.remember(found)
        few = len(found) <= INTRODUCED
        for address, mac in found.items():
            if known[address] != mac and (few or known[address]):
                self._introduce(address, mac)
        return made

    def _introduce(self, address: str, mac: str) -> None:
        """Tell the containers here where an address is, by a frame that stays on this node.

        Some may have cached another MAC for it. Those that asked before the route came would only ask again after a
        second.
        """
        try:
            self.around.herald.announce(self.bridge, mac, [address])
        except OSError as error:
            log.warning("%s: telling of %s: %s", self.name, address, error.strerror, extra={"link": self.name})
