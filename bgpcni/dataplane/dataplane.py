"""The data path of what was learned: VXLAN for EVPN networks, kernel routes for unicast ones.

Level-driven: attachments and the RIB say what is wanted, a `Program` knows what the kernel has, and what differs is
sent in batches. One lock; nothing waits for a peer while it is held. Attachments come and go in the calls' own threads
(an ADD's entries are there when it is announced), what peers say is worked off by one thread of ours.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from bgpcni.bgp import gateway_mac
from bgpcni.config.agent import PolicyTable
from bgpcni.dataplane.apply import apply, in_segment, in_table
from bgpcni.dataplane.program import At, Key, Program, Remote, Via
from bgpcni.dataplane.rib import UNICAST, Bounds, Destination, Own, Rib, RouteId, VpnRule
from bgpcni.dataplane.segment import Segment, member_of, plain_addresses
from bgpcni.dataplane.unicast import Unicast
from bgpcni.errors import CniError, InvalidConfiguration, KernelRefused
from bgpcni.exporter import Event, Learned, SessionDown
from bgpcni.kernel import gateway, links, routes, vxlan
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
VPN = (Family.IPV4_VPN, Family.IPV6_VPN)


@dataclass(frozen=True, slots=True)
class Received:
    """One learned route for `bgpcni routes --received`. `tables`: what each makes of it: best, other, or why not."""

    route_id: RouteId
    route: Learned
    stale: bool
    tables: dict[str, str]
    datapath: bool


class DataPlane:
    """What this node does with learned routes. Safe for threads; for the agent alone."""

    def __init__(self, facts: NodeFacts, policy: PolicyTable, listen: Callable[[frozenset[Family]], None]) -> None:
        """`listen`: has the exporters tell of these families; called without our lock."""
        self._facts = facts
        self._listen = listen
        self._lock = threading.RLock()
        self._sockets = threading.local()
        self._rib = Rib(facts.graceful_restart)
        self._segments: dict[int, Segment] = {}
        self._unicast = Unicast(self._rib, lambda: self._netlink)
        self._vpns: dict[AttachmentKey, tuple[str, tuple[str, ...]]] = {}
        self._listening: frozenset[Family] = frozenset()
        self._herald = Herald()
        self._fits: int | None = None
        self._queue: deque[tuple[str, Event]] = deque()
        self._gone: set[int] = set()
        self._pending = False
        self._stopping = False
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        # what earlier lives left is held until every peer has told all, or had its time
        self._held = {Family.L2VPN_EVPN, *UNICAST}
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
            moved = bool(self._segments) and facts.local_address != self._facts.local_address
            self._facts, self._fits = facts, None
            self._rib.restart_time = facts.graceful_restart
            addresses = (facts.local_address, facts.next_hop, facts.next_hop6)
            self._own = Own(facts.asn, facts.router_id, frozenset(filter(None, addresses)))
            prefixes = None if policy.prefixes is None else tuple(ip_network(prefix) for prefix in policy.prefixes)
            self._bounds = Bounds(prefixes, policy.maximum_prefix)
            for segment in self._segments.values():
                if moved:
                    self._open(segment)
                self._import(segment)
            self._unicast.configure(self._own, self._bounds)
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
            now = time.monotonic()
            for exporter, peer in {(route_id.exporter, route_id.peer) for route_id in self._rib.routes}:
                self._rib.hear(exporter, SessionDown(peer, graceful=True), now)
        self._tell_wishes(again=True)

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
        devices = {segment.device for segment in self._segments.values()}
        bridges = {segment.bridge_index for segment in self._segments.values()}
        for link in vxlan.ours(self._netlink):
            if link.index not in devices:
                log.info("%s: no attachment is behind it; removed", link.name)
                links.remove(self._netlink, link.index)
        stray = [found for found in vxlan.neighbours(self._netlink) if found[0] not in bridges]
        vxlan.send(self._netlink, [vxlan.forget_neighbour_message(index, address) for index, address, _ in stray])
        guarded = {vxlan.name_of(segment.vni) for segment in self._segments.values() if segment.guarded}
        for name in set(gateway.tables()) - guarded:
            gateway.forget(name)

    # ---------------------------------------------------------------- attachments

    def payload(self) -> int:
        """The largest MTU of a container whose frames fit the underlay whole, in octets."""
        local = self._facts.local_address
        with self._lock:
            if local is None:
                return 0
            if self._fits is None:
                ways = [routes.way_to(self._netlink, neighbor.address) for neighbor in self._facts.neighbors]
                found = [links.find(self._netlink, index=way[1]) for way in ways if way]
                underlay = min((link.mtu for link in found if link), default=1500)
                self._fits = underlay - vxlan.OVERHEAD[ip_address(local).version]
            return self._fits

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
        log.info("%s: moves here from %s, sequence %d", attachment.key, newest.next_hop, newest.mobility + 1)
        return newest.mobility + 1

    def attach(self, attachment: Attachment) -> None:
        """Its part of the data path, there when this returns. Raises KernelRefused; then nothing is left of it."""
        with self._lock:
            if attachment.bgp.family == "unicast":
                self._unicast.add(attachment)
            elif attachment.bgp.family == "vpn":
                self._vpns[attachment.key] = (attachment.network, attachment.bgp.import_rt)
                self._import_vpn(attachment.network)
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
        """It is gone, or not wanted: with the last of a VNI the VXLAN device goes. Unknown: nothing happens."""
        key = attachment.key
        with self._lock:
            segment = self._segments.get(attachment.bgp.vni or 0)
            if segment is not None and key in segment.members:
                self._leave(segment, key)
            self._unicast.remove(key)
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

    def _read(self, segment: Segment) -> None:
        """What the kernel has of a VNI, whatever was thought before."""
        segment.program.lost()
        for entry in vxlan.entries(self._netlink, segment.device):
            key = Key("fdb", entry.mac) if entry.mac else Key("flood", entry.vtep)
            segment.program.adopt(key, Remote(entry.vtep, entry.vni))
        for _, address, mac in vxlan.neighbours(self._netlink, segment.bridge_index):
            segment.program.adopt(Key("neighbour", address), At(mac))
        if Family.L2VPN_EVPN not in self._held:
            segment.program.release()

    def _read_table(self) -> None:
        """The same of the node's own table."""
        self._unicast.program.lost()
        for prefix, hop, device in routes.ours(self._netlink):
            self._unicast.program.adopt(Key("route", prefix), Via(hop, device))
        if not self._held.intersection(UNICAST):
            self._unicast.program.release()

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
        """Which families the exporters shall tell of. EVPN before anybody asks: a container's move must be known."""
        with self._lock:
            wanted = {Family.L2VPN_EVPN}
            if self._unicast.asked:
                wanted.update(UNICAST)
            if any(targets for _, targets in self._vpns.values()):
                wanted.update(VPN)
            wanted &= {family for neighbor in self._facts.neighbors for family in neighbor.families}
            if wanted == self._listening and not again:
                return
            self._listening = frozenset(wanted)
        self._listen(frozenset(wanted))

    # ---------------------------------------------------------------- what happens, from any thread

    def heard(self, exporter: str, events: Sequence[Event]) -> None:
        """From an exporter's thread: noted, and worked off by ours."""
        with self._wake:
            self._queue.extend((exporter, event) for event in events)
            self._wake.notify()

    def link_gone(self, index: int) -> None:
        """A link of this node was deleted; if it was a VXLAN device of ours it is made again."""
        if any(segment.device == index for segment in list(self._segments.values())):
            with self._wake:
                self._gone.add(index)
                self._wake.notify()

    def look_again(self) -> None:
        """Compare with the kernel itself, and try again what it refused (`bgpcni sync`)."""
        with self._lock:
            for segment in self._segments.values():
                self._read(segment)
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
            self._rib.hear(exporter, event, now)
        if gone:
            self._reopen()
        self._refresh()
        if self._held:
            self._release()

    def _reopen(self) -> None:
        for segment in self._segments.values():
            if links.find(self._netlink, index=segment.device) is None:
                log.warning("%s was deleted; made again", vxlan.name_of(segment.vni))
                self._open(segment)

    def _refresh(self) -> None:
        for segment in self._segments.values():
            segment.refresh()
        self._unicast.refresh()
        for network in {network for network, _ in self._vpns.values()}:  # nothing follows from an L3VPN's routes
            if table := self._rib.tables.get(_vpn(network)):
                table.changed.clear()

    def _release(self) -> None:
        """What earlier lives programmed and nobody wants goes, once every peer has told all, or had its time."""
        late = time.monotonic() >= self._held_until
        if Family.L2VPN_EVPN in self._held and (late or self._told((Family.L2VPN_EVPN,))):
            self._held.discard(Family.L2VPN_EVPN)
            for segment in self._segments.values():
                segment.program.release()
        if self._held.intersection(UNICAST) and (late or not self._unicast.asked or self._told(UNICAST)):
            self._held.difference_update(UNICAST)
            self._unicast.program.release()

    def _told(self, families: Collection[Family]) -> bool:
        complete = {(peer, family) for _, peer, family in self._rib.complete}
        return all(
            (neighbor.address, family) in complete
            for neighbor in self._facts.neighbors
            for family in families
            if family in neighbor.families
        )

    def _look(self) -> None:
        """What only time changes: routes kept too long, ways to next hops, what the kernel refused."""
        self._fits = None
        self._reopen()
        self._rib.expire(time.monotonic())
        self._refresh()
        self._unicast.look()
        for program in self._programs().values():
            program.retry()

    def _step(self) -> None:
        """One batch of each program."""
        for segment in self._segments.values():
            self._drive(segment)
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
        return {"routes": self._unicast.program, **{s.name: s.program for s in self._segments.values()}}

    # ---------------------------------------------------------------- questions

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
                forwards = route.nlri.kind in ("mac-ip", "multicast", "unicast")
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
            for name, program in self._programs().items():
                if program.failures:
                    first = next(iter(program.failures.values()))
                    found.append(("datapath", f"{name}: the kernel refused {len(program.failures)}, such as {first}"))
            return found


def _vpn(network: str) -> str:
    return f"vpn {network}"
