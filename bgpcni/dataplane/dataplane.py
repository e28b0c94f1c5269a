"""The data path of what was learned: VXLAN for EVPN networks, kernel routes for unicast ones.

Level-driven: attachments and the RIB say what is wanted (`_wanted`), a `Program` knows what the kernel has, and what
differs is sent in batches. One lock; nothing waits for a peer while it is held. Attachments come and go in the calls'
own threads (an ADD's entries are there when it is announced), what peers say is worked off by one thread of ours.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

from bgpcni.config.agent import PolicyTable
from bgpcni.dataplane.program import At, Change, Key, Local, Program, Remote, Value, Via
from bgpcni.dataplane.rib import UNICAST, Bounds, Destination, EvpnRule, Own, Rib, RouteId, Table, UnicastRule, VpnRule
from bgpcni.errors import CniError, InvalidConfiguration, KernelRefused
from bgpcni.exporter import Event, Learned, SessionDown
from bgpcni.kernel import gateway, links, routes, vxlan
from bgpcni.kernel.frames import Herald
from bgpcni.kernel.netlink import Message, Netlink, NetlinkError
from bgpcni.model import Attachment, AttachmentKey, Family, NodeFacts

log = logging.getLogger(__name__)

EVENTS = 500
"""Events worked off at a time, before the lock is free again."""
BATCH = 256
"""Changes made at a time."""
LOOK_SECONDS = 5.0
"""How often next hops are looked up again and what the kernel refused is tried again."""
_GONE = {errno.ENOENT, errno.ESRCH, errno.ENODEV}
_KEYS = {"mac": "fdb", "ip": "neighbour", "flood": "flood"}


@dataclass(frozen=True, slots=True)
class Member:
    """What one attachment is to its VNI. `port`: the index of its root-side link."""

    targets: tuple[str, ...]
    mac: str
    addresses: tuple[str, ...]
    port: int
    reserved: tuple[str, ...]


@dataclass(slots=True)
class Segment:
    """One VNI on this node: the VXLAN device, its bridge, the attachments, what is programmed."""

    vni: int
    bridge: str
    bridge_index: int
    mtu: int
    device: int = 0
    table: Table = field(default_factory=lambda: Table(EvpnRule(frozenset())))
    program: Program = field(default_factory=Program)
    members: dict[AttachmentKey, Member] = field(default_factory=dict)
    targets: Counter[str] = field(default_factory=Counter)
    reserved: Counter[str] = field(default_factory=Counter)
    guarded: frozenset[str] = frozenset()
    macs: dict[str, int] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)
    seen: dict[str, str] = field(default_factory=dict)
    """The MAC each address was last at: who has it cached is told when it is another."""

    @property
    def name(self) -> str:
        return f"vni {self.vni}"


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
        self._listen = listen
        self._lock = threading.RLock()
        self._rib = Rib(facts.graceful_restart)
        self._segments: dict[int, Segment] = {}
        self._node = Program()
        self._imports: Counter[str] = Counter()
        self._hosts: Counter[str] = Counter()
        self._vpns: dict[str, Counter[str]] = {}
        self._unicast: dict[AttachmentKey, tuple[tuple[str, ...], tuple[str, ...]]] = {}
        self._vpn_members: dict[AttachmentKey, tuple[str, tuple[str, ...]]] = {}
        self._ways: dict[str, Via | None] = {}
        self._listening: frozenset[Family] = frozenset()
        self._herald = Herald()
        self._sockets = threading.local()
        self._queue: deque[tuple[str, Event]] = deque()
        self._wake = threading.Condition()
        self._gone: set[int] = set()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._held = {"evpn", "unicast"}
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
            self._facts = facts
            self._rib.restart_time = facts.graceful_restart
            addresses = {facts.local_address, facts.next_hop, facts.next_hop6} - {None}
            self._own = Own(facts.asn, facts.router_id, frozenset(str(address) for address in addresses))
            prefixes = None if policy.prefixes is None else tuple(ip_network(prefix) for prefix in policy.prefixes)
            self._bounds = Bounds(prefixes, policy.maximum_prefix)
            for segment in self._segments.values():
                self._import(segment)
            self._import_unicast()
            for network in self._vpns:
                self._import_vpn(network)

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
            except CniError as error:  # one broken network never blocks the rest (rule 8)
                log.error("%s: %s", attachment.key, error.msg)
        with self._lock:
            devices = {segment.device for segment in self._segments.values()}
            bridges = {segment.bridge_index for segment in self._segments.values()}
            for link in vxlan.ours(self._netlink):
                if link.index not in devices:
                    log.info("%s: no attachment is behind it; removed", link.name)
                    links.remove(self._netlink, link.index)
            stray = [
                vxlan.forget_neighbour_message(index, address)
                for index, address, _ in vxlan.neighbours(self._netlink)
                if index not in bridges
            ]
            vxlan.send(self._netlink, stray)
            names = {vxlan.name_of(vni) for vni, segment in self._segments.items() if segment.guarded}
            for name in gateway.tables():
                if name not in names:
                    gateway.forget(name)
            for prefix, hop, device in routes.ours(self._netlink):
                self._node.adopt(Key("route", prefix), Via(hop, device))
            if "unicast" not in self._held:
                self._node.release()
            self._release()

    # ---------------------------------------------------------------- attachments

    def payload(self) -> int:
        """The largest MTU of a container whose frames fit the underlay whole, in octets."""
        local = self._facts.local_address
        if local is None:
            return 0
        found = [
            link.mtu
            for neighbor in self._facts.neighbors
            if (way := routes.way_to(self._netlink, neighbor.address))
            and (link := links.find(self._netlink, index=way[1]))
        ]
        return (min(found) if found else 1500) - vxlan.OVERHEAD[ip_address(local).version]

    def sequence(self, attachment: Attachment) -> int:
        """The mobility sequence to announce: above that of every other node that has its MAC or an address of it."""
        if attachment.bgp.family != "evpn" or not attachment.mac:
            return 0
        hosts = [Destination("mac", attachment.mac), *(Destination("ip", ip) for ip in _plain(attachment))]
        targets = (*attachment.bgp.import_rt, *attachment.bgp.export_rt)
        with self._lock:
            known = self._rib.claims(hosts, targets)
            others = [route for route in known if route.attributes.next_hop not in self._own.addresses]
        if not others:
            return 0
        newest = max(others, key=lambda route: route.attributes.mobility).attributes
        log.info("%s: moves here from %s, sequence %d", attachment.key, newest.next_hop, newest.mobility + 1)
        return newest.mobility + 1

    def attach(self, attachment: Attachment) -> None:
        """Its part of the data path, there when this returns. Raises KernelRefused; then nothing is left of it."""
        with self._lock:
            if attachment.bgp.family == "evpn":
                if attachment.bgp.forwarder == "agent":
                    self._attach(attachment)
            elif attachment.bgp.family == "vpn":
                self._attach_vpn(attachment)
            else:
                self._attach_unicast(attachment)
        self._tell_wishes()

    def detach(self, attachment: Attachment) -> None:
        """It is gone, or not wanted: with the last of a VNI the VXLAN device goes. Unknown: nothing happens."""
        key = attachment.key
        with self._lock:
            segment = self._segments.get(attachment.bgp.vni or 0)
            if segment is not None and key in segment.members:
                self._leave(segment, key)
            elif key in self._unicast:
                self._detach_unicast(key)
            elif key in self._vpn_members:
                network, targets = self._vpn_members.pop(key)
                self._vpns[network].subtract(targets)
                self._import_vpn(network)
        self._tell_wishes()

    def _attach(self, attachment: Attachment) -> None:
        intent = attachment.bgp
        if not attachment.bridge or not attachment.bridge_index or intent.vni is None:
            raise InvalidConfiguration("bgp.family: evpn needs the container to be on a bridge")
        if not attachment.mac or not attachment.host_index:
            raise InvalidConfiguration("bgp.family: evpn needs the container's MAC and the root-side end of its link")
        segment = self._segments.get(intent.vni)
        if segment is None:
            segment = self._open(intent.vni, attachment)
        elif links.find(self._netlink, index=segment.device) is None:
            self._reopen(segment)
        plain = tuple(_plain(attachment))
        gateways = tuple(str(item.gateway) for item in attachment.addresses if item.gateway) if intent.anycast else ()
        reserved = (*gateways, gateway.gateway_mac(intent.vni)) if gateways else ()
        member = Member(intent.import_rt, attachment.mac, plain, attachment.host_index, reserved)
        if segment.members.get(attachment.key) == member:
            return
        try:
            if attachment.key in segment.members:
                self._remove_member(segment, attachment.key)
            segment.members[attachment.key] = member
            segment.targets.update(member.targets)
            segment.reserved.update(member.reserved)
            segment.macs[member.mac] = member.port
            for address in plain:
                segment.addresses[address] = member.mac
            self._guard(segment)
            self._import(segment)
            keys = [Key("fdb", member.mac), *(Key("neighbour", address) for address in plain)]
            self._want(segment, keys)
            self._drive(segment.program, segment, keys)
            if refused := [segment.program.failures[key] for key in keys if key in segment.program.failures]:
                raise KernelRefused(f"VNI {segment.vni}: {refused[0]}")
        except BaseException:
            self._leave(segment, attachment.key)
            raise

    def _open(self, vni: int, attachment: Attachment) -> Segment:
        segment = Segment(vni, str(attachment.bridge), attachment.bridge_index or 0, attachment.mtu or self.payload())
        self._reopen(segment)
        self._segments[vni] = segment
        return segment

    def _reopen(self, segment: Segment) -> None:
        """Make the device, or take over the one that is there with all it has."""
        local = self._facts.local_address
        if local is None:
            raise InvalidConfiguration("bgp.family: evpn needs [bgp] local_address in agent.toml, the VTEP")
        try:
            device = vxlan.Device(segment.vni, local, segment.bridge_index, segment.mtu)
            segment.device, existed = vxlan.ensure(self._netlink, device)
        except NetlinkError as error:
            raise KernelRefused(f"VXLAN device of VNI {segment.vni}: {error.strerror}") from None
        segment.program.lost()
        segment.guarded = frozenset()
        if existed:
            for entry in vxlan.entries(self._netlink, segment.device):
                key = Key("fdb", entry.mac) if entry.mac else Key("flood", entry.vtep)
                segment.program.adopt(key, Remote(entry.vtep, entry.vni))
        for _, address, mac in vxlan.neighbours(self._netlink, segment.bridge_index):
            segment.program.adopt(Key("neighbour", address), At(mac))
        if "evpn" not in self._held:
            segment.program.release()
        if segment.members:
            self._guard(segment)

    def _leave(self, segment: Segment, key: AttachmentKey) -> None:
        """One attachment less; the last takes the device with it, and its neighbours off the bridge."""
        touched = self._remove_member(segment, key)
        if segment.members:
            self._guard(segment)
            self._import(segment)
            self._want(segment, touched)
            self._drive(segment.program, segment, touched)
            return
        self._segments.pop(segment.vni, None)
        self._rib.drop(segment.name)
        neighbours = [item for item in segment.program.present if item.what == "neighbour"]
        vxlan.send(self._netlink, [vxlan.forget_neighbour_message(segment.bridge_index, k.name) for k in neighbours])
        if segment.guarded:
            gateway.forget(vxlan.name_of(segment.vni))
        link = links.find(self._netlink, index=segment.device) if segment.device else None
        if link is not None and vxlan.is_ours(link):
            links.remove(self._netlink, link.index)

    def _remove_member(self, segment: Segment, key: AttachmentKey) -> list[Key]:
        """Take one attachment's part out; the keys that may be others' now."""
        member = segment.members.pop(key, None)
        if member is None:
            return []
        segment.targets -= Counter(member.targets)
        segment.reserved -= Counter(member.reserved)
        touched: list[Key] = []
        if segment.macs.get(member.mac) == member.port:
            del segment.macs[member.mac]
            touched.append(Key("fdb", member.mac))
        for address in member.addresses:
            if segment.addresses.get(address) == member.mac:
                del segment.addresses[address]
                touched.append(Key("neighbour", address))
        return touched

    def _guard(self, segment: Segment) -> None:
        """Keep the anycast gateway's ARP and ND off the VXLAN port."""
        wanted = frozenset(segment.reserved)
        if wanted == segment.guarded:
            return
        name = vxlan.name_of(segment.vni)
        if wanted:
            mac = gateway.gateway_mac(segment.vni)
            gateway.keep_local(name, mac, wanted - {mac})
        else:
            gateway.forget(name)
        segment.guarded = wanted

    # ---------------------------------------------------------------- import

    def _import(self, segment: Segment) -> None:
        """What the VNI imports follows from its attachments; the entries that change are wanted."""
        rule = EvpnRule(frozenset(segment.targets), self._own, self._bounds, frozenset(segment.reserved))
        segment.table = self._rib.configure(segment.name, rule, self._bounds.maximum)
        self._refresh(segment)

    def _refresh(self, segment: Segment) -> None:
        changed, segment.table.changed = segment.table.changed, {}
        self._want(segment, [Key(_KEYS[d.what], d.value) for d in changed if d.what in _KEYS])

    def _want(self, segment: Segment, keys: Iterable[Key]) -> None:
        for key in keys:
            segment.program.want(key, self._wanted(segment, key))

    def _wanted(self, segment: Segment, key: Key) -> Value | None:
        """What the kernel should have there. What is on this node is on this node, whatever others say."""
        table = segment.table
        if key.what == "fdb":
            if key.name in segment.macs:
                return Local(segment.macs[key.name])
            best = table.best(Destination("mac", key.name))
            return _remote(segment, best)
        if key.what == "neighbour":
            if key.name in segment.addresses:
                return At(segment.addresses[key.name])
            best = table.best(Destination("ip", key.name))
            return At(str(best.nlri.mac)) if best else None
        return _remote(segment, table.best(Destination("flood", key.name)))

    def _attach_unicast(self, attachment: Attachment) -> None:
        hosts = tuple(f"{ip}/{ip_address(ip).max_prefixlen}" for ip in _plain(attachment))
        known = self._unicast.get(attachment.key)
        mine = (attachment.bgp.import_prefixes, hosts)
        if known == mine:
            return
        if known is not None:
            self._detach_unicast(attachment.key)
        self._unicast[attachment.key] = mine
        self._imports.update(attachment.bgp.import_prefixes)
        self._hosts.update(hosts)
        self._import_unicast()
        self._want_routes(hosts)

    def _detach_unicast(self, key: AttachmentKey) -> None:
        prefixes, hosts = self._unicast.pop(key)
        self._imports -= Counter(prefixes)
        self._hosts -= Counter(hosts)
        self._import_unicast()
        self._want_routes(hosts)

    def _import_unicast(self) -> None:
        if not self._imports and "unicast" not in self._rib.tables:
            return
        connected = routes.connected(self._netlink) if self._imports else frozenset()
        rule = UnicastRule(frozenset(self._imports), self._own, self._bounds, connected)
        table = self._rib.configure("unicast", rule, self._bounds.maximum)
        changed, table.changed = table.changed, {}
        self._want_routes(destination.value for destination in changed)

    def _want_routes(self, prefixes: Iterable[str]) -> None:
        table = self._rib.tables.get("unicast")
        if table is None:
            return
        for prefix in prefixes:
            best = None if prefix in self._hosts else table.best(Destination("prefix", prefix))
            self._node.want(Key("route", prefix), self._way(best.attributes.next_hop) if best else None)

    def _way(self, hop: str) -> Via | None:
        """How the node reaches a next hop now (it need not be on a link: a reflector's clients' are not)."""
        if hop not in self._ways:
            found = routes.way_to(self._netlink, hop)
            self._ways[hop] = Via(found[0] or hop, found[1]) if found else None
        return self._ways[hop]

    def _attach_vpn(self, attachment: Attachment) -> None:
        if attachment.key in self._vpn_members:
            return
        targets = attachment.bgp.import_rt
        self._vpn_members[attachment.key] = (attachment.network, targets)
        self._vpns.setdefault(attachment.network, Counter()).update(targets)
        self._import_vpn(attachment.network)

    def _import_vpn(self, network: str) -> None:
        targets = frozenset(target for target, count in self._vpns[network].items() if count > 0)
        if targets:
            table = self._rib.configure(
                f"vpn {network}", VpnRule(targets, self._own, self._bounds), self._bounds.maximum
            )
            table.changed.clear()
        else:
            self._rib.drop(f"vpn {network}")

    def _tell_wishes(self, *, again: bool = False) -> None:
        """Which families the exporters shall tell of. EVPN before anybody asks: a container's move must be known."""
        with self._lock:
            wanted = {Family.L2VPN_EVPN} & {f for neighbor in self._facts.neighbors for f in neighbor.families}
            if self._imports:
                wanted |= set(UNICAST)
            if any(name.startswith("vpn ") for name in self._rib.tables):
                wanted |= {Family.IPV4_VPN, Family.IPV6_VPN}
            if wanted == self._listening and not again:
                return
            self._listening = frozenset(wanted)
        self._listen(frozenset(wanted))

    # ---------------------------------------------------------------- what peers say

    def look_again(self) -> None:
        """What the kernel refused is tried again now (`bgpcni sync`)."""
        with self._lock:
            self._look()
            self._step()

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

    def _run(self) -> None:
        look = time.monotonic() + LOOK_SECONDS
        while True:
            with self._wake:
                idle = not self._queue and not self._gone and not self._stopping
                if idle and not self._unfinished():
                    self._wake.wait(max(0.0, look - time.monotonic()))
                if self._stopping:
                    return
                events = [self._queue.popleft() for _ in range(min(EVENTS, len(self._queue)))]
                gone, self._gone = self._gone, set()
            try:
                with self._lock:
                    self._work(events, gone)
                    if time.monotonic() >= look:
                        look = time.monotonic() + LOOK_SECONDS
                        self._look()
                    self._step()
            except Exception:  # what is wrong with one route is logged; the others go on
                log.exception("the data path failed in a way that should not happen")

    def _unfinished(self) -> bool:
        return bool(self._node.dirty) or any(segment.program.dirty for segment in list(self._segments.values()))

    def _work(self, events: Iterable[tuple[str, Event]], gone: Collection[int]) -> None:
        now = time.monotonic()
        for exporter, event in events:
            self._rib.hear(exporter, event, now)
        for segment in list(self._segments.values()):
            if segment.device in gone and links.find(self._netlink, index=segment.device) is None:
                log.warning("%s was deleted; made again", vxlan.name_of(segment.vni))
                self._reopen(segment)
        self._take_changes()
        if self._held and (not self._queue or now >= self._held_until):
            self._release()

    def _take_changes(self) -> None:
        for segment in self._segments.values():
            if segment.table.changed:
                self._refresh(segment)
        for name, table in self._rib.tables.items():
            if table.changed and name == "unicast":
                changed, table.changed = table.changed, {}
                self._want_routes(destination.value for destination in changed)
            elif not name.startswith("vni "):
                table.changed.clear()

    def _release(self) -> None:
        """What earlier lives programmed and nobody wants goes, once every peer has told all, or has had its time."""
        late = time.monotonic() >= self._held_until
        if "evpn" in self._held and (late or self._told((Family.L2VPN_EVPN,))):
            self._held.discard("evpn")
            for segment in self._segments.values():
                segment.program.release()
        if "unicast" in self._held and (late or not self._imports or self._told(UNICAST)):
            self._held.discard("unicast")
            self._node.release()

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
        self._rib.expire(time.monotonic())
        self._take_changes()
        if self._imports:
            self._import_unicast()
            known, self._ways = self._ways, {}
            if any(self._way(hop) != via for hop, via in known.items()):
                self._want_routes([destination.value for destination in self._rib.tables["unicast"].candidates])
        for program in (self._node, *(segment.program for segment in self._segments.values())):
            program.retry()

    def _step(self) -> None:
        """One batch of each program."""
        for segment in list(self._segments.values()):
            self._drive(segment.program, segment)
        self._drive(self._node, None)

    # ---------------------------------------------------------------- the kernel

    def _drive(self, program: Program, segment: Segment | None, only: Collection[Key] | None = None) -> None:
        """Make a batch of changes, and note what the kernel answered."""
        changes = program.take(BATCH if only is None else len(only), only)
        messages: list[Message] = []
        spans: list[tuple[Change, int, int]] = []
        for change in changes:
            start = len(messages)
            messages += _messages(change, segment)
            spans.append((change, start, len(messages)))
        answers = vxlan.send(self._netlink, messages)
        for change, start, end in spans:
            errors = [answer for answer in answers[start:end] if isinstance(answer, NetlinkError)]
            # that what is to go has gone already is success
            real = [e for e in errors if e.errno not in _GONE or (change.new is not None and e is answers[end - 1])]
            if not real:
                program.done(change)
                if segment is not None and isinstance(change.new, At):
                    self._introduce(segment, change.key.name, change.new.mac)
                continue
            program.failed(change, f"{change.key.what} {change.key.name}: {real[0].strerror}")
            log.warning("%s: %s", segment.name if segment else "route", program.failures[change.key])

    def _introduce(self, segment: Segment, address: str, mac: str) -> None:
        """Containers here that knew another MAC for an address are told, by a frame that stays on this node."""
        before = segment.seen.get(address)
        segment.seen[address] = mac
        if before not in (None, mac):
            try:
                self._herald.announce(segment.bridge, mac, [address])
            except OSError as error:
                log.warning("%s: telling of %s: %s", segment.name, address, error.strerror)

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

    def problems(self) -> Iterator[tuple[str, str]]:
        """(code, text) of what an operator should look at."""
        with self._lock:
            found = []
            for segment in self._segments.values():
                found += [("duplicate-address", text) for text in _duplicates(segment)]
            programs = {"routes": self._node, **{segment.name: segment.program for segment in self._segments.values()}}
            for name, program in programs.items():
                if program.failures:
                    first = next(iter(program.failures.values()))
                    found.append(("datapath", f"{name}: the kernel refused {len(program.failures)}, such as {first}"))
            full = sum(
                reason.startswith("[policy] maximum_prefix")
                for table in self._rib.tables.values()
                for reason in table.refused.values()
            )
            if full:
                found.append(("maximum-prefix", f"{full} learned routes are over [policy] maximum_prefix"))
        yield from found


def _duplicates(segment: Segment) -> Iterator[str]:
    """Who claims what is here, and what two others claim."""
    for what, here in (("mac", segment.macs), ("ip", segment.addresses)):
        for value in here:
            for route in segment.table.candidates.get(Destination(what, value), {}).values():
                yield (
                    f"{value} of this node is announced by {route.attributes.next_hop} too, sequence "
                    f"{route.attributes.mobility} (VNI {segment.vni})"
                )
                break
    for destination, rivals in segment.table.rivals():
        if destination.value not in segment.macs and destination.value not in segment.addresses:
            hops = " and ".join(sorted({route.attributes.next_hop for route in rivals}))
            yield f"{destination.value} is announced by {hops} alike (VNI {segment.vni})"


def _messages(change: Change, segment: Segment | None) -> Iterator[Message]:
    """What makes a change. For `new`, the last message is the one that must succeed."""
    key, old, new = change.key, change.old, change.new
    if segment is None:
        if isinstance(new, Via):
            message = routes.replace_message if isinstance(old, Via) else routes.add_message
            yield message(key.name, new.gateway, new.device)
        elif isinstance(old, Via):
            yield routes.delete_message(key.name, old.gateway, old.device)
        return
    if key.what == "neighbour":
        if isinstance(new, At):
            yield vxlan.neighbour_message(segment.bridge_index, key.name, new.mac)
        else:
            yield vxlan.forget_neighbour_message(segment.bridge_index, key.name)
        return
    if key.what == "flood":
        if isinstance(old, Remote):
            yield vxlan.forget_flood_message(segment.device, old.vtep, old.vni)
        if isinstance(new, Remote):
            yield vxlan.flood_message(segment.device, new.vtep, new.vni)
        return
    if isinstance(old, Local):
        yield from vxlan.forget_local_messages(old.port, key.name)
    elif isinstance(old, Remote) and (not isinstance(new, Remote) or new.vni != old.vni):
        yield from vxlan.forget_remote_messages(segment.device, key.name)
    if isinstance(new, Local):
        yield from vxlan.local_messages(new.port, key.name)
    elif isinstance(new, Remote):
        yield from vxlan.remote_messages(segment.device, key.name, new.vtep, new.vni)


def _remote(segment: Segment, route: Learned | None) -> Remote | None:
    if route is None:
        return None
    return Remote(route.attributes.next_hop, route.vni if route.vni != segment.vni else None)


def _plain(attachment: Attachment) -> Iterator[str]:
    """Its addresses without their lengths, canonical."""
    return (str(ip_address(item.address.partition("/")[0])) for item in attachment.addresses)
