"""A VRF in the kernel: its link, the bridges in it, the VXLAN device of its own VNI, its table and its labels."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from bgpcni.dataplane.places.place import Place, Surroundings, neighbour_message
from bgpcni.dataplane.places.unicast import route_messages, routes_present
from bgpcni.dataplane.places.vni import VniPlace
from bgpcni.dataplane.program import At, Change, Key, Remote, Value, Via
from bgpcni.dataplane.vrf import Vrf
from bgpcni.errors import KernelRefused
from bgpcni.kernel import addresses, links, routes, vrf, vxlan
from bgpcni.kernel.netlink import Message
from bgpcni.model import Attachment, AttachmentKey

log = logging.getLogger(__name__)


class VrfPlace(Vrf, Place):
    """`users`: the attachments that need the VRF, and the bridge of each. `members`: those of them that import."""

    def __init__(self, link: vrf.Device, around: Surroundings) -> None:
        """`link`: the VRF as it should be. Its index is 0 as long as it has not been made."""
        super().__init__(link, around.rib, self._find)
        self.around = around
        self.users: dict[AttachmentKey, str | None] = {}

    @classmethod
    def of(cls, attachment: Attachment, around: Surroundings) -> VrfPlace | None:
        name, table = attachment.bgp.vrf, attachment.bgp.table
        if name is None or table is None:
            return None
        known = around.places.get(f"vrf {name}")
        return known if isinstance(known, VrfPlace) else cls(vrf.Device(name, 0, table), around)

    @classmethod
    def sweep(cls, around: Surroundings) -> None:
        """Bridges first, because a VRF with something in it stays."""
        places = [place for place in around.places.values() if isinstance(place, cls)]
        bridges = {bridge for place in places for bridge in place.users.values()}
        kept = {place.link.index for place in places}
        found = links.dump(around.netlink)
        for link in found:
            if vrf.is_our_bridge(link) and link.name not in bridges:
                vrf.remove_bridge(around.netlink, link.name)
        for link in found:
            if vrf.is_ours(link) and link.index not in kept and vrf.remove(around.netlink, link.index):
                log.info("%s: no attachment needs it any more; removed", link.name, extra={"link": link.name})
        stray = [entry for entry in routes.labels(around.netlink) if entry[1] not in kept]
        vxlan.send(around.netlink, [routes.label_message(*entry, make=False) for entry in stray])

    @property
    def used(self) -> bool:
        return bool(self.users)

    @property
    def links(self) -> set[int]:
        return {self.link.index, self.device}

    def enter(self, attachment: Attachment) -> vrf.Device:
        """The VRF as the kernel has it; made if there is none. `leave` is the reverse. Raises CniError."""
        self._ensure()
        self.users[attachment.key] = attachment.bridge
        return self.link

    def leave(self, key: AttachmentKey) -> None:
        """If it was the last one on its bridge, remove the bridge if it is ours. If it is unknown, nothing happens."""
        bridge = self.users.pop(key, None)
        if bridge is not None and bridge not in self.users.values():
            vrf.remove_bridge(self.around.netlink, bridge)

    def attach(self, attachment: Attachment) -> None:
        self.enter(attachment)
        first = not self.members
        self.add(attachment)
        if attachment.bgp.l3vni is not None and not self.around.has(self.device):
            self._open_device()
        elif first:
            self.read()
        if attachment.bgp.label is not None:
            routes.accept_labels(attachment.bgp.label)
            for index in self.around.uplinks():
                routes.accept_mpls(index)
        self.configure()
        label = Key("label", str(attachment.bgp.label))
        self.apply([label])
        if label in self.program.failures:
            raise KernelRefused(f"VRF {self.link.name}: {self.program.failures[label]}")

    def detach(self, key: AttachmentKey) -> None:
        """With the last one, remove all that was imported, and the device of the VRF's own VNI."""
        if key not in self.members:
            return
        self.remove(key)
        if self.members:
            self.configure()
        else:
            self.around.rib.drop(self.name)
            self.empty()
        if self.members and (self.l3vni is not None or not self.device):
            return
        while self.apply():
            pass  # before the device goes, which the messages name
        self.around.remove_device(self.device)
        self.device = 0

    def configure(self) -> None:
        self.follow(self.around.own, self.around.bounds)

    # ---------------------------------------------------------------- the kernel

    def open(self) -> None:
        self._open_device()

    def look(self) -> None:
        if not self.around.has(self.link.index):
            self._ensure()
        elif self.l3vni is not None and not self.around.has(self.device):
            name = vxlan.name_of(self.l3vni)
            log.warning("%s was deleted; made again", name, extra={"link": name})
            self._open_device()
        super().look()

    def close(self) -> None:
        super().close()
        vrf.remove(self.around.netlink, self.link.index)

    def _open_device(self) -> None:
        """Make or adopt the VXLAN device of the VRF's own VNI. Raises CniError."""
        if self.l3vni is not None:
            mtu = self.around.payload()
            self.device = self.around.make_device("bgp.l3vni:", self.l3vni, self.link.index, mtu, routed=True)
            self.read()
            self.again()

    def _ensure(self) -> None:
        """Make the VRF if it is not there. If it has been replaced, put its bridges and its own device into it."""
        known, self.link = self.link, vrf.ensure(self.around.netlink, self.link.name, self.link.table)
        if known == self.link or not known.index:
            return
        log.warning("VRF %s was deleted; made again", self.link.name, extra={"link": self.link.name})
        netlink, bridges = self.around.netlink, {name for name in self.users.values() if name}
        for name in bridges:
            found = links.find(netlink, name=name)
            if found is not None and vrf.is_our_bridge(found):
                netlink.run(vrf.enslave_message(found.index, self.link))
                given = [addresses.address_message(found.index, item) for item in self.gateways(name)]
                vxlan.send(netlink, given)
        for place in self.around.places.values():
            if isinstance(place, VniPlace) and place.bridge in bridges:
                place.read()  # the bridge went down, and lost its neighbours
        self._open_device()
        self.read()
        self.configure()
        self.again()

    def _find(self, hop: str) -> tuple[str | None, int] | None:
        """The way to the next hop of a VPN route. Packets that it sends back come in there, with our label."""
        found = routes.way_to(self.around.netlink, hop)
        if found:
            routes.accept_mpls(found[1])
        return found

    def present(self) -> Iterator[tuple[Key, Value]]:
        netlink = self.around.netlink
        yield from routes_present(netlink, self.link.table)
        for label, index in routes.labels(netlink):
            if index == self.link.index:
                yield Key("label", str(label)), Via(None, index)
        if self.around.has(self.device):
            for entry in vxlan.entries(netlink, self.device):
                if entry.mac:
                    yield Key("fdb", entry.mac), Remote(entry.vtep, entry.vni)
            for _, address, mac in vxlan.neighbours(netlink, self.device):
                yield Key("neighbour", address), At(mac)

    def messages(self, change: Change) -> Iterator[Message]:
        """Its entries are routes, the routers that they lead through, and the labels that lead to it."""
        key, old, new = change.key, change.old, change.new
        if key.what == "route":
            yield from route_messages(change, self.link.table)
        elif key.what == "label":
            if isinstance(old, Via):
                yield routes.label_message(int(key.name), old.device, make=False)
            if isinstance(new, Via):
                yield routes.label_message(int(key.name), new.device, make=True)
        elif key.what == "neighbour":
            yield neighbour_message(change, self.device)
        elif isinstance(new, Remote):
            yield vxlan.router_message(self.device, key.name, new.vtep)
        else:
            yield vxlan.forget_router_message(self.device, key.name)
