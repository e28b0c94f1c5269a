"""The data path of what was learned: VXLAN for EVPN networks, VRFs for routed ones, kernel routes for unicast ones.

Level-driven: attachments and the RIB say what is wanted, a `Program` knows what the kernel has, and what differs is
sent in batches. One lock; nothing waits for a peer while it is held. Attachments come and go in the calls' own threads
(an ADD's entries are there when it is announced), what peers say is worked off by one thread of ours.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from bgpcni.bgp import gateway_mac, next_sequence, router_mac
from bgpcni.config.agent import PolicyTable
from bgpcni.dataplane.apply import BATCH, Messages, apply, in_segment, in_table, in_vrf
from bgpcni.dataplane.guard import HARMFUL
from bgpcni.dataplane.program import At, Key, Program, Remote, Via
from bgpcni.dataplane.rib import UNICAST, Bounds, Destination, Own, Rib, RouteId, VpnRule
from bgpcni.dataplane.segment import Segment, member_of, plain_addresses
from bgpcni.dataplane.unicast import Unicast
from bgpcni.dataplane.vrf import VPN, Vrf
from bgpcni.errors import CniError, InvalidConfiguration, KernelRefused
from bgpcni.exporter import Event, Learned, SessionDown
from bgpcni.kernel import addresses, gateway, links, routes, vrf, vxlan
from bgpcni.kernel.frames import Herald
from bgpcni.kernel.netlink import Netlink, NetlinkError
from bgpcni.model import Attachment, AttachmentKey, Family, NodeFacts

log = logging.getLogger(__name__)

EVENTS = 500
"""Events worked off at a time, before the lock is free again."""
LOOK_SECONDS = 5.0
"""How often what only time changes is looked at, and what the kernel refused is tried again."""
INTRODUCED = 32
"""So many new addresses at a time are told to the containers here; more are a table that is learned."""
_ANYWHERE = "0.0.0.0"
_FAR = {4: "192.0.2.1", 6: "2001:db8::1"}
"""Addresses that are nobody's (RFC 5737, RFC 3849): the way there is the default route, if there is one."""
RETIRED_SECONDS = 120.0
"""For so long what an exporter told is kept after it was let go of, unless others tell all before."""


@dataclass(frozen=True, slots=True)
class Received:
    """One learned route for `bgpcni routes --received`. `tables`: what each makes of it: best, other, or why not."""

    route_id: RouteId
    route: Learned
    stale: bool
    tables: dict[str, str]
    datapath: bool


class Inbox:
    """What exporters learned and the data path has not worked off: their `Learner`. Made before either of the two."""

    def __init__(self) -> None:
        self.wake = threading.Condition()
        self.queue: deque[tuple[str, Event]] = deque()

    def heard(self, exporter: str, events: Sequence[Event]) -> None:
        """What an exporter learned; from a thread of its own."""
        with self.wake:
            self.queue.extend((exporter, event) for event in events)
            self.wake.notify()


class DataPlane:
    """What this node does with learned routes. Safe for threads; for the agent alone."""

    def __init__(
        self, facts: NodeFacts, policy: PolicyTable, inbox: Inbox, listen: Callable[[frozenset[Family]], None]
    ) -> None:
        """`listen`: exporters tell of these families, into `inbox`; called by one at a time, unlocked."""
        self._facts = facts
        self._listen = listen
        self._lock = threading.RLock()
        self._sockets = threading.local()
        self._rib = Rib(facts.graceful_restart)
        self._segments: dict[int, Segment] = {}
        self._unicast = Unicast(self._rib, lambda: self._netlink, self._in_vrfs)
        self._vrfs: dict[str, Vrf] = {}
        self._vpns: dict[AttachmentKey, tuple[str, tuple[str, ...]]] = {}
        self._telling = threading.Lock()  # taken before `_lock`, so that the newest wish is told last
        self._listening: frozenset[Family] = frozenset()
        self._herald = Herald()
        self._underlay: int | None = None
        self._queue = inbox.queue
        self._retired: dict[str, float] = {}
        """Exporters that were let go of, whose routes are here yet, and until when (time.monotonic())."""
        self._gone: set[int] = set()
        self._pending = False
        self._stopping = False
        self._wake = inbox.wake
        self._thread: threading.Thread | None = None
        # what earlier lives left is held until every peer has told all, or had its time
        self._held = set(Family)
        self._held_until = time.monotonic() + facts.graceful_restart
        self.configure(facts, policy)

    @property
    def _netlink(self) -> Netlink:
        found: Netlink | None = getattr(self._sockets, "netlink", None)
        if found is None:
            found = self._sockets.netlink = Netlink.open()
        return found

    # ---------------------------------------------------------------- life

    def configure(self, facts: NodeFacts, policy: PolicyTable) -> None:
        """What the node is and what it may take, at start and after a reload."""
        with self._lock:
            moved = facts.local_address != self._facts.local_address
            self._facts, self._underlay = facts, None
            self._rib.restart_time = facts.graceful_restart
            addresses = (facts.local_address, facts.next_hop, facts.next_hop6)
            self._own = Own(facts.asn, facts.router_id, frozenset(filter(None, addresses)))
            prefixes = None if policy.prefixes is None else tuple(ip_network(prefix) for prefix in policy.prefixes)
            self._bounds = Bounds(prefixes, policy.maximum_prefix)
            for segment in self._segments.values():
                if moved:
                    self._open(segment)
                self._import(segment)
            for instance in self._vrfs.values():
                if moved:
                    self._open_l3(instance)
                instance.configure(self._own, self._bounds)
            self._unicast.configure(self._own, self._bounds, [neighbor.address for neighbor in facts.neighbors])
            for network in {network for network, _ in self._vpns.values()}:
                self._import_vpn(network)
        self._nudge()

    def start(self) -> None:
        """Have the exporters tell, and work off what they say."""
        self._tell_wishes(again=True)
        self._thread = threading.Thread(target=self._run, name="dataplane", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """The thread ends; what is programmed stays."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(10)

    def relisten(self) -> None:
        """The exporters are new ones (reload): what the old ones told stays until told again, or too old."""
        with self._lock:
            for exporter in {route_id.exporter for route_id in self._rib.routes}:
                self._doubt(exporter)
        self._tell_wishes(again=True)

    def retired(self, exporter: str) -> None:
        """An exporter was let go of (reload): what it told stays until those in its place have told all of theirs."""
        with self._lock:
            self._retired[exporter] = time.monotonic() + max(self._rib.restart_time, RETIRED_SECONDS)
        with self._wake:
            self._pending = True
            self._wake.notify()

    def restore(self, attachments: Iterable[Attachment]) -> None:
        """The agent starts: take over what is in the kernel, and remove what no attachment is behind any more."""
        for attachment in attachments:
            try:
                self.attach(attachment)
            except CniError as error:  # one broken network never blocks the rest
                log.error("%s: %s", attachment.key, error.msg)
        with self._lock:
            self._sweep()
            self._read_table()
            self._release()

    def _sweep(self) -> None:
        """What is ours in the kernel and belongs to no VNI of now."""
        routers = {instance.device for instance in self._vrfs.values()}
        devices = {segment.device for segment in self._segments.values()} | routers
        bridges = {segment.bridge_index for segment in self._segments.values()} | routers
        for link in vxlan.ours(self._netlink):
            if link.index not in devices:
                log.info("%s: no attachment is behind it; removed", link.name)
                links.remove(self._netlink, link.index)
        self._sweep_vrfs()
        stray = [found for found in vxlan.neighbours(self._netlink) if found[0] not in bridges]
        vxlan.send(self._netlink, [vxlan.forget_neighbour_message(index, address) for index, address, _ in stray])
        guarded = {vxlan.name_of(segment.vni) for segment in self._segments.values() if segment.guarded}
        for name in set(gateway.tables()) - guarded:
            gateway.forget(name)

    def _sweep_vrfs(self) -> None:
        """The same of VRFs: bridges first, for a VRF with something in it stays."""
        used = {bridge for instance in self._vrfs.values() for bridge in instance.users.values()}
        kept = {instance.link.index for instance in self._vrfs.values()}
        found = links.dump(self._netlink)
        for link in found:
            if vrf.is_our_bridge(link) and link.name not in used:
                vrf.remove_bridge(self._netlink, link.name)
        for link in found:
            if vrf.is_ours(link) and link.index not in kept and vrf.remove(self._netlink, link.index):
                log.info("%s: no attachment is in it; removed", link.name)
        stray = [entry for entry in routes.labels(self._netlink) if entry[1] not in kept]
        vxlan.send(self._netlink, [routes.label_message(*entry, make=False) for entry in stray])

    # ---------------------------------------------------------------- attachments

    def lacking(self, family: str) -> str:
        """What this kernel lacks for a VRF whose routes come by this family, "" if nothing."""
        if not vrf.is_supported(self._netlink):
            return "VRF"
        return "MPLS" if family == "vpn" and not routes.forwards_mpls(self._netlink) else ""

    def enter(self, attachment: Attachment) -> vrf.Device:
        """The VRF that it is in, made if need be, before its bridge. `detach` leaves it. Raises CniError."""
        name, table = attachment.bgp.vrf, attachment.bgp.table
        assert name is not None
        assert table is not None
        with self._lock:
            link = vrf.ensure(self._netlink, name, table)
            instance = self._vrfs.get(name)
            if instance is None:
                instance = self._vrfs[name] = Vrf(link, self._rib, self._way)
            elif instance.link != link:
                self._reenter(instance, link)
            instance.users[attachment.key] = attachment.bridge
            return link

    def leave(self, attachment: Attachment) -> None:
        """The reverse of `enter`: the last of a bridge, and of a VRF, takes it along if it is ours. Idempotent."""
        with self._lock:
            instance = self._vrfs.get(attachment.bgp.vrf or "")
            if instance is None or attachment.key not in instance.users:
                return
            bridge = instance.users.pop(attachment.key)
            if bridge is not None and bridge not in instance.users.values():
                vrf.remove_bridge(self._netlink, bridge)
            if not instance.users:
                del self._vrfs[instance.link.name]
                vrf.remove(self._netlink, instance.link.index)

    def payload(self, family: str = "evpn") -> int:
        """The largest MTU of a container whose packets fit the underlay whole: in a tunnel, labelled or plain.

        The underlay is the way to our neighbours; without any, where another speaker has them, the default route's.
        """
        local = ip_address(self._facts.local_address or _ANYWHERE)
        with self._lock:
            if self._underlay is None:
                uplinks = self._uplinks() if self._facts.neighbors else self._ways([_FAR[local.version]])
                found = [links.find(self._netlink, index=index) for index in uplinks]
                self._underlay = min((link.mtu for link in found if link), default=1500)
            return self._underlay - {"unicast": 0, "vpn": 4}.get(family, vxlan.OVERHEAD[local.version])

    def _uplinks(self) -> set[int]:
        return self._ways(neighbor.address for neighbor in self._facts.neighbors)

    def _ways(self, addresses: Iterable[str]) -> set[int]:
        """The devices by which these are reached."""
        ways = [routes.way_to(self._netlink, address) for address in addresses]
        return {way[1] for way in ways if way}

    def sequence(self, attachment: Attachment) -> int:
        """The mobility sequence to announce: above that of every other node that has its MAC or an address of it."""
        if attachment.bgp.family != "evpn" or not attachment.mac:
            return 0
        hosts = [Destination("mac", attachment.mac), *(Destination("ip", ip) for ip in plain_addresses(attachment))]
        with self._lock:
            known = self._rib.claims(hosts, (*attachment.bgp.import_rt, *attachment.bgp.export_rt))
            others = [route for route in known if route.attributes.next_hop not in self._own.addresses]
        if not others:
            return 0
        newest = max(others, key=lambda route: route.attributes.mobility).attributes
        sequence = next_sequence(newest.mobility)
        if sequence == newest.mobility:
            log.warning("%s: %s has the last sequence there is, %d: other nodes may go on sending to it",
                        attachment.key, newest.next_hop, sequence)  # fmt: skip
            return sequence
        log.info("%s: moves here from %s, sequence %d", attachment.key, newest.next_hop, sequence)
        return sequence

    def shield(self, attachment: Attachment) -> None:
        """The node is to reach it: learned routes that would take its subnets go from the kernel, and stay away.

        `detach` is the reverse. A subnet that is known costs nothing; one that is new, the routes within it.
        """
        with self._lock:
            instance = self._vrfs.get(attachment.bgp.vrf or "") if attachment.bgp.table is not None else None
            if instance is not None:
                program, gone = instance.program, instance.shield(attachment)
                messages: Messages = in_vrf(instance)
            elif attachment.bgp.family == "unicast" or attachment.bgp.anycast:
                program, messages, gone = self._unicast.program, in_table, self._unicast.shield(attachment)
            else:  # no address of its subnet is on this node, or it is seen there by and by
                return
            while gone:
                apply(self._netlink, program, messages, gone[:BATCH])
                gone = gone[BATCH:]

    def _in_vrfs(self) -> set[int]:
        """The bridges that are in a VRF."""
        members = [each for instance in self._vrfs.values() for each in instance.members.values()]
        return {each.bridge_index for each in members if each.bridge_index}

    def attach(self, attachment: Attachment) -> None:
        """Its part of the data path, there when this returns. Raises KernelRefused; then nothing is left of it."""
        with self._lock:
            if attachment.bgp.table is not None:
                self._route(attachment)
            elif attachment.bgp.family == "vpn":
                self._vpns[attachment.key] = (attachment.network, attachment.bgp.import_rt)
                self._import_vpn(attachment.network)
            if attachment.bgp.family == "unicast":
                self._unicast.add(attachment)
            elif attachment.bgp.forwarder == "agent":
                self._join(attachment)
        self._tell_wishes()
        self._nudge()

    def rivals(self, attachment: Attachment) -> list[tuple[str, AttachmentKey]]:
        """Its addresses that another attachment of its VNI on this node has as well, and which."""
        with self._lock:
            segment = self._segments.get(attachment.bgp.vni or 0)
            return list(segment.rivals(attachment.key)) if segment is not None else []

    def detach(self, attachment: Attachment) -> None:
        """It is gone, or not wanted: with the last of a VNI or VRF its devices go. Unknown: nothing happens."""
        key = attachment.key
        with self._lock:
            segment = self._segments.get(attachment.bgp.vni or 0)
            if segment is not None and key in segment.members:
                self._leave(segment, key)
            self._unicast.remove(key)
            instance = self._vrfs.get(attachment.bgp.vrf or "")
            if instance is not None and key in instance.members:
                self._unroute(instance, key)
            if key in self._vpns:
                network, _ = self._vpns.pop(key)
                self._import_vpn(network)
        self._tell_wishes()
        self._nudge()

    def _join(self, attachment: Attachment) -> None:
        member = member_of(attachment)
        assert attachment.bgp.vni is not None
        segment = self._segments.get(attachment.bgp.vni)
        if segment is None:
            mtu = attachment.mtu or self.payload()
            segment = Segment(attachment.bgp.vni, str(attachment.bridge), attachment.bridge_index or 0, mtu)
            self._open(segment)
            self._segments[segment.vni] = segment
        elif links.find(self._netlink, index=segment.device) is None:
            self._open(segment)
        if segment.members.get(attachment.key) == member:
            return
        try:
            touched = segment.add(attachment.key, member)
            self._guard(segment)
            self._import(segment)
            segment.want(touched)
            self._drive(segment, touched)
            if refused := [segment.program.failures[key] for key in member.keys if key in segment.program.failures]:
                raise KernelRefused(f"VNI {segment.vni}: {refused[0]}")
        except BaseException:
            self._leave(segment, attachment.key)
            raise

    def _open(self, segment: Segment) -> None:
        """Make the device, or take over the one that is there with all it has. Raises KernelRefused."""
        local = self._facts.local_address
        if local is None:
            raise InvalidConfiguration("bgp.family: evpn needs [bgp] local_address in agent.toml, the VTEP")
        device = vxlan.Device(segment.vni, local, segment.bridge_index, segment.mtu)
        try:
            segment.device = vxlan.ensure(self._netlink, device)
        except NetlinkError as error:
            raise KernelRefused(f"VXLAN device of VNI {segment.vni}: {error.strerror}") from None
        self._read(segment)
        segment.guarded = frozenset()
        self._guard(segment)

    # ---------------------------------------------------------------- VRFs

    def _route(self, attachment: Attachment) -> None:
        """Its part of its VRF: what is imported there, and what leads to it. Raises CniError."""
        instance = self._vrfs[self.enter(attachment).name]
        first = not instance.members
        instance.add(attachment)
        if attachment.bgp.l3vni is not None and not self._is_there(instance):
            self._open_l3(instance)
        elif first:
            self._read_vrf(instance)
        if attachment.bgp.label is not None:
            routes.accept_labels(attachment.bgp.label)
            for index in self._uplinks():
                routes.accept_mpls(index)
        instance.configure(self._own, self._bounds)
        label = Key("label", str(attachment.bgp.label))
        apply(self._netlink, instance.program, in_vrf(instance), [label])
        if label in instance.program.failures:
            raise KernelRefused(f"VRF {instance.link.name}: {instance.program.failures[label]}")

    def _unroute(self, instance: Vrf, key: AttachmentKey) -> None:
        """One attachment less in a VRF; with the last of them goes all that was imported, and the VRF's own device."""
        instance.remove(key)
        if instance.members:
            instance.configure(self._own, self._bounds)
        else:
            self._rib.drop(instance.name)
            instance.empty()
        if instance.members and (instance.l3vni is not None or not instance.device):
            return
        while apply(self._netlink, instance.program, in_vrf(instance)):
            pass  # before its device goes, which the messages name
        link = links.find(self._netlink, index=instance.device) if instance.device else None
        if link is not None and vxlan.is_ours(link):
            links.remove(self._netlink, link.index)
        instance.device = 0

    def _is_there(self, instance: Vrf) -> bool:
        return bool(instance.device) and links.find(self._netlink, index=instance.device) is not None

    def _open_l3(self, instance: Vrf) -> None:
        """The VXLAN device of a VRF's own VNI, made or taken over with all it has. Raises CniError."""
        local = self._facts.local_address
        if instance.l3vni is None:
            return
        if local is None:
            raise InvalidConfiguration("bgp.l3vni: needs [bgp] local_address in agent.toml, the VTEP")
        mac = router_mac(local)
        device = vxlan.Device(instance.l3vni, local, instance.link.index, self.payload(), router_mac=mac)
        try:
            instance.device = vxlan.ensure(self._netlink, device)
        except NetlinkError as error:
            raise KernelRefused(f"VXLAN device of VNI {instance.l3vni}: {error.strerror}") from None
        self._read_vrf(instance)
        instance.again()

    def _reenter(self, instance: Vrf, link: vrf.Device) -> None:
        """The VRF was deleted and is another one now: its bridges and its own device belong in there."""
        log.warning("VRF %s was deleted; made again", link.name)
        instance.link = link
        for name in {name for name in instance.users.values() if name}:
            found = links.find(self._netlink, name=name)
            if found is not None and vrf.is_our_bridge(found):
                self._netlink.run(vrf.enslave_message(found.index, link))
                given = [addresses.address_message(found.index, item) for item in instance.gateways(name)]
                vxlan.send(self._netlink, given)
        for segment in self._segments.values():
            if segment.bridge in instance.users.values():
                self._read(segment)  # going down took the bridge's neighbours
        self._open_l3(instance)
        self._read_vrf(instance)
        instance.configure(self._own, self._bounds)
        instance.again()

    def _read_vrf(self, instance: Vrf) -> None:
        """What the kernel has of a VRF, whatever was thought before."""
        program, netlink = instance.program, self._netlink
        program.lost()
        for route in routes.ours(netlink, instance.link.table):
            program.adopt(Key("route", route.prefix), Via(route.gateway, route.device, route.label))
        for label, device in routes.labels(netlink):
            if device == instance.link.index:
                program.adopt(Key("label", str(label)), Via(None, device))
        if self._is_there(instance):
            for entry in vxlan.entries(netlink, instance.device):
                if entry.mac:
                    program.adopt(Key("fdb", entry.mac), Remote(entry.vtep, entry.vni))
            for _, address, mac in vxlan.neighbours(netlink, instance.device):
                program.adopt(Key("neighbour", address), At(mac))
        self._release_one(program, instance.families)

    def _way(self, hop: str) -> tuple[str | None, int] | None:
        """The way to the next hop of a VPN route: what it sends back comes in there, with our label."""
        found = routes.way_to(self._netlink, hop)
        if found:
            routes.accept_mpls(found[1])
        return found

    # ---------------------------------------------------------------- VNIs

    def _read(self, segment: Segment) -> None:
        """What the kernel has of a VNI, whatever was thought before."""
        segment.program.lost()
        for entry in vxlan.entries(self._netlink, segment.device):
            key = Key("fdb", entry.mac) if entry.mac else Key("flood", entry.vtep)
            segment.program.adopt(key, Remote(entry.vtep, entry.vni))
        for _, address, mac in vxlan.neighbours(self._netlink, segment.bridge_index):
            segment.program.adopt(Key("neighbour", address), At(mac))
        self._release_one(segment.program, {Family.L2VPN_EVPN})

    def _read_table(self) -> None:
        """The same of the node's own table."""
        self._unicast.program.lost()
        for route in routes.ours(self._netlink):
            self._unicast.program.adopt(Key("route", route.prefix), Via(route.gateway, route.device, route.label))
        self._release_one(self._unicast.program, UNICAST if self._unicast.asked else ())

    def _leave(self, segment: Segment, key: AttachmentKey) -> None:
        """One attachment less; the last takes the device with it, and its neighbours off the bridge."""
        touched = segment.remove(key)
        if segment.members:
            self._guard(segment)
            self._import(segment)
            segment.want(touched)
            self._drive(segment, touched)
            return
        self._segments.pop(segment.vni, None)
        self._rib.drop(segment.name)
        neighbours = [item.name for item in segment.program.present if item.what == "neighbour"]
        vxlan.send(self._netlink, [vxlan.forget_neighbour_message(segment.bridge_index, name) for name in neighbours])
        if segment.guarded:
            gateway.forget(vxlan.name_of(segment.vni))
        link = links.find(self._netlink, index=segment.device) if segment.device else None
        if link is not None and vxlan.is_ours(link):
            links.remove(self._netlink, link.index)

    def _guard(self, segment: Segment) -> None:
        """Keep the anycast gateway's ARP and ND off the VXLAN port."""
        if segment.gateways == segment.guarded:
            return
        name = vxlan.name_of(segment.vni)
        if segment.gateways:
            gateway.keep_local(name, gateway_mac(segment.vni), segment.gateways)
        else:
            gateway.forget(name)
        segment.guarded = segment.gateways

    # ---------------------------------------------------------------- import

    def _import(self, segment: Segment) -> None:
        """What the VNI imports follows from its attachments."""
        rule = segment.rule(self._own, self._bounds)
        segment.table = self._rib.configure(segment.name, rule, self._bounds.maximum)
        segment.refresh()

    def _import_vpn(self, network: str) -> None:
        """An L3VPN is imported for the control plane alone."""
        targets = frozenset(target for name, own in self._vpns.values() if name == network for target in own)
        if targets:
            self._rib.configure(_vpn(network), VpnRule(targets, self._own, self._bounds), self._bounds.maximum)
        else:
            self._rib.drop(_vpn(network))

    def _tell_wishes(self, *, again: bool = False) -> None:
        """Which families the exporters shall tell of. EVPN before anybody asks, where a neighbour of ours has it: a
        container's move must be known. What somebody needs may come from an exporter whose neighbours are its own.
        Not to be called with our lock."""
        with self._telling:
            with self._lock:
                wanted = self._wished()
                if wanted == self._listening and not again:
                    return
                self._listening = wanted
            self._listen(wanted)

    def _wished(self) -> frozenset[Family]:
        wanted = {Family.L2VPN_EVPN}
        wanted &= {family for neighbor in self._facts.neighbors for family in neighbor.families}
        if self._segments:
            wanted.add(Family.L2VPN_EVPN)
        if self._unicast.asked:
            wanted.update(UNICAST)
        if any(targets for _, targets in self._vpns.values()):
            wanted.update(VPN)
        for instance in self._vrfs.values():
            wanted.update(instance.families)
        return frozenset(wanted)

    # ---------------------------------------------------------------- what happens, from any thread

    def link_gone(self, index: int) -> None:
        """A link of this node was deleted; if it was a VXLAN device of ours, or a VRF, it is made again."""
        known = {segment.device for segment in list(self._segments.values())}
        for instance in list(self._vrfs.values()):
            known |= {instance.device, instance.link.index}
        if index in known:
            with self._wake:
                self._gone.add(index)
                self._wake.notify()

    def look_again(self) -> None:
        """Compare with the kernel itself, and try again what it refused (`bgpcni sync`)."""
        with self._lock:
            for segment in self._segments.values():
                self._read(segment)
            for instance in self._vrfs.values():
                self._read_vrf(instance)
            self._read_table()
            self._look()
        self._nudge()

    def _nudge(self) -> None:
        """If something is to be done, the thread is to see to it."""
        with self._lock:
            if not any(program.dirty for program in self._programs().values()):
                return
        with self._wake:
            self._pending = True
            self._wake.notify()

    # ---------------------------------------------------------------- the thread

    def _run(self) -> None:
        look = time.monotonic() + LOOK_SECONDS
        while True:
            with self._wake:
                if not (self._queue or self._gone or self._pending or self._stopping):
                    self._wake.wait(max(0.0, look - time.monotonic()))
                if self._stopping:
                    return
                events = [self._queue.popleft() for _ in range(min(EVENTS, len(self._queue)))]
                gone, self._gone, self._pending = self._gone, set(), False
            try:
                with self._lock:
                    self._work(events, gone)
                    if time.monotonic() >= look:
                        look = time.monotonic() + LOOK_SECONDS
                        self._look()
                    self._step()
                self._nudge()
            except Exception:  # what is wrong with one route is logged; the others go on
                log.exception("the data path failed in a way that should not happen")

    def _work(self, events: Iterable[tuple[str, Event]], gone: Collection[int]) -> None:
        now = time.monotonic()
        for exporter, event in events:
            if exporter in self._retired:  # back again: it tells all of it anew
                del self._retired[exporter]
                self._doubt(exporter)
            self._rib.hear(exporter, event, now)
        self._drop_retired(now)
        if gone:
            self._reopen()
        self._refresh()
        if self._held:
            self._release()

    def _drop_retired(self, now: float) -> None:
        told = {family for exporter, _, family in self._rib.complete if exporter not in self._retired}
        for exporter, until in list(self._retired.items()):
            if now >= until or self._rib.families_of(exporter) <= told:
                del self._retired[exporter]
                self._rib.drop_exporter(exporter)

    def _doubt(self, exporter: str) -> None:
        """What it told stays until told again, or too old."""
        now = time.monotonic()
        for peer in {route_id.peer for route_id in self._rib.routes if route_id.exporter == exporter}:
            self._rib.hear(exporter, SessionDown(peer, graceful=True), now)

    def _reopen(self) -> None:
        for segment in self._segments.values():
            if links.find(self._netlink, index=segment.device) is None:
                log.warning("%s was deleted; made again", vxlan.name_of(segment.vni))
                self._open(segment)
        for instance in self._vrfs.values():
            if links.find(self._netlink, index=instance.link.index) is None:
                self._reenter(instance, vrf.ensure(self._netlink, instance.link.name, instance.link.table))
            elif instance.l3vni is not None and not self._is_there(instance):
                log.warning("%s was deleted; made again", vxlan.name_of(instance.l3vni))
                self._open_l3(instance)

    def _refresh(self) -> None:
        for segment in self._segments.values():
            segment.refresh()
        for instance in self._vrfs.values():
            instance.refresh()
        self._unicast.refresh()
        for network in {network for network, _ in self._vpns.values()}:  # nothing follows from an L3VPN's routes
            if table := self._rib.tables.get(_vpn(network)):
                table.changed.clear()

    def _release(self) -> None:
        """What earlier lives programmed and nobody wants goes, once every peer has told all, or had its time."""
        late = time.monotonic() >= self._held_until
        self._held = {family for family in self._held if not (late or self._told(family))}
        for segment in self._segments.values():
            self._release_one(segment.program, {Family.L2VPN_EVPN})
        for instance in self._vrfs.values():
            self._release_one(instance.program, instance.families)
        self._release_one(self._unicast.program, UNICAST if self._unicast.asked else ())

    def _release_one(self, program: Program, families: Iterable[Family]) -> None:
        """Unless what it follows from is not all known yet."""
        if self._held.isdisjoint(families):
            program.release()

    def _told(self, family: Family) -> bool:
        complete = {peer for _, peer, told in self._rib.complete if told is family}
        return all(each.address in complete for each in self._facts.neighbors if family in each.families)

    def _look(self) -> None:
        """What only time changes: routes kept too long, ways to next hops, what the kernel refused."""
        self._underlay = None
        self._reopen()
        self._rib.expire(time.monotonic())
        self._drop_retired(time.monotonic())
        self._refresh()
        self._unicast.look()
        for instance in self._vrfs.values():
            instance.look()
        for program in self._programs().values():
            program.retry()

    def _step(self) -> None:
        """One batch of each program."""
        for segment in self._segments.values():
            self._drive(segment)
        for instance in self._vrfs.values():
            apply(self._netlink, instance.program, in_vrf(instance))
        apply(self._netlink, self._unicast.program, in_table)

    def _drive(self, segment: Segment, only: Collection[Key] | None = None) -> None:
        """One batch of a VNI."""
        made = apply(self._netlink, segment.program, in_segment(segment), only)
        found = {change.key.name: change.new.mac for change in made if isinstance(change.new, At)}
        known = {address: segment.seen.get(address) for address in found}
        segment.remember(found)
        few = len(found) <= INTRODUCED
        for address, mac in found.items():
            if known[address] != mac and (few or known[address]):
                self._introduce(segment, address, mac)

    def _introduce(self, segment: Segment, address: str, mac: str) -> None:
        """Tell the containers here, by a frame that stays on this node: some have another MAC for it, or wait for one.

        Whoever asked before the route came would ask again after a second only.
        """
        try:
            self._herald.announce(segment.bridge, mac, [address])
        except OSError as error:
            log.warning("%s: telling of %s: %s", segment.name, address, error.strerror)

    def _programs(self) -> dict[str, Program]:
        places: list[Segment | Vrf] = [*self._segments.values(), *self._vrfs.values()]
        return {"routes": self._unicast.program, **{place.name: place.program for place in places}}

    # ---------------------------------------------------------------- questions

    def peers(self) -> set[str]:
        """Addresses of those that told a route which is here."""
        with self._lock:
            return self._rib.peers()

    def received(self) -> list[Received]:
        """Every route that was told, and what became of it."""
        with self._lock:
            found = []
            for route_id, route in self._rib.routes.items():
                tables = {}
                for name, table in self._rib.tables.items():
                    if route_id in table.taken:
                        best = any(table.best(destination) is route for destination in table.taken[route_id])
                        tables[name] = "best" if best else "other"
                    elif route_id in table.refused:
                        tables[name] = table.refused[route_id]
                forwards = route.nlri.kind in ("mac-ip", "multicast", "unicast") or any(
                    tables.get(each.name) == "best" and each.has(str(route.nlri.prefix)) for each in self._vrfs.values()
                )
                found.append(Received(route_id, route, self._rib.is_stale(route_id), tables, forwards))
            return found

    def refused(self) -> dict[str, int]:
        """How many routes were refused, by reason."""
        with self._lock:
            return dict(Counter(reason for table in self._rib.tables.values() for reason in table.refused.values()))

    def problems(self) -> list[tuple[str, str]]:
        """(code, text) of what an operator should look at."""
        with self._lock:
            found = [("duplicate-address", text) for each in self._segments.values() for text in each.duplicates()]
            found += [("harmful-route", text) for text in self._harmful()]
            for name, program in self._programs().items():
                if program.failures:
                    first = next(iter(program.failures.values()))
                    found.append(("datapath", f"{name}: the kernel refused {len(program.failures)}, such as {first}"))
            return found

    def _harmful(self) -> Iterator[str]:
        """Of each table: how many routes are refused because they would harm this node, and one of them."""
        for name, table in self._rib.tables.items():
            refused = [(route_id, reason) for route_id, reason in table.refused.items() if reason in HARMFUL]
            if refused:
                first, reason = min(refused, key=lambda item: (item[0].peer, str(item[0].nlri)))
                yield (
                    f"{name}: {len(refused)} learned routes would harm this node and are refused, such as "
                    f"{first.nlri.prefix} from {first.peer}: {reason}"
                )


def _vpn(network: str) -> str:
    return f"vpn {network}"
