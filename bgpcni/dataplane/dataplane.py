"""The data path of what was learned: VXLAN for EVPN networks, VRFs for routed ones, kernel routes for unicast ones.

Attachments and the RIB say what is wanted, the `Program` of a place knows what the kernel has, and what differs is sent
in batches. There is one lock, and nothing waits for a peer while it is held. Attachments come and go in the threads of
the calls: when an ADD is announced, its entries are in the kernel. What peers say is worked off by one thread of ours.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bgpcni.bgp import next_sequence
from bgpcni.config.agent import PolicyTable
from bgpcni.dataplane.guard import HARMFUL
from bgpcni.dataplane.places.place import Place, Surroundings
from bgpcni.dataplane.places.unicast import UnicastPlace
from bgpcni.dataplane.places.vni import VniPlace
from bgpcni.dataplane.places.vpn import VpnPlace
from bgpcni.dataplane.places.vrf import VrfPlace
from bgpcni.dataplane.program import Key
from bgpcni.dataplane.rib import Destination, RouteId, Table
from bgpcni.dataplane.segment import plain_addresses
from bgpcni.errors import CniError
from bgpcni.exporter import Event, Learned, SessionDown
from bgpcni.kernel import routes, vrf
from bgpcni.model import Attachment, AttachmentKey, Family, IpPrefixNlri, NodeFacts, VpnNlri

log = logging.getLogger(__name__)

EVENTS = 500
"""How many events are worked off at a time, before the lock is free again."""
LOOK_SECONDS = 5.0
"""How often to look at what only the kernel knows, and to retry what it refused."""
RETIRED_SECONDS = 120.0
"""How long the routes of an exporter stay after a reload put it out of use, if others do not tell all before that."""
USED = ("best", "equal")
"""How a route stands with a table that uses it."""
KINDS: tuple[type[Place], ...] = (VrfPlace, VpnPlace, UnicastPlace, VniPlace)
"""The kinds of places, in the order in which an attachment enters them."""


@dataclass(frozen=True, slots=True)
class Received:
    """One learned route for `bgpcni routes --received`. `tables`: how it stands with each, or why it is refused there.

    `best`; `equal`: used beside the best; `other`: not used.
    """

    route_id: RouteId
    route: Learned
    stale: bool
    tables: dict[str, str]
    datapath: bool


def _standing(table: Table, route_id: RouteId, route: Learned) -> str:
    destinations = table.taken[route_id]
    if any(table.best(destination) is route for destination in destinations):
        return "best"
    equal = any(route is each for destination in destinations for each in table.used(destination))
    return "equal" if equal else "other"


class TableCounts(NamedTuple):
    """What a table has taken of the learned routes, and its entries in the kernel."""

    name: str
    taken: int
    present: int
    pending: int
    failed: int


class Inbox:
    """The queue between the threads that learn something and the thread of the data path.

    Made before exporters and data path, and given to both.
    """

    def __init__(self) -> None:
        self._wake = threading.Condition()
        self._events: deque[tuple[str, Event]] = deque()
        self._gone: set[int] = set()
        self._asked = self._closed = False

    def heard(self, exporter: str, events: Sequence[Event]) -> None:
        """An exporter learned this, in this order."""
        with self._wake:
            self._events.extend((exporter, event) for event in events)
            self._wake.notify()

    def __len__(self) -> int:
        """How many events wait."""
        return len(self._events)

    def link_gone(self, index: int) -> None:
        with self._wake:
            self._gone.add(index)
            self._wake.notify()

    def ask(self) -> None:
        """There is something to do, although nothing was learned."""
        with self._wake:
            self._asked = True
            self._wake.notify()

    def close(self) -> None:
        with self._wake:
            self._closed = True
            self._wake.notify()

    def take(self, until: float) -> tuple[list[tuple[str, Event]], set[int]] | None:
        """Wait until `until` (time.monotonic()) for a batch: events, and the links that are gone. None: closed."""
        with self._wake:
            if not (self._events or self._gone or self._asked or self._closed):
                self._wake.wait(max(0.0, until - time.monotonic()))
            if self._closed:
                return None
            events = [self._events.popleft() for _ in range(min(EVENTS, len(self._events)))]
            gone, self._gone, self._asked = self._gone, set(), False
            return events, gone


class DataPlane:
    """What this node does with learned routes. Safe for threads; for the agent alone."""

    def __init__(
        self,
        facts: NodeFacts,
        policy: PolicyTable,
        inbox: Inbox,
        listen: Callable[[frozenset[Family]], None],
        want_targets: Callable[[frozenset[str]], None] = lambda targets: None,
    ) -> None:
        """`listen` makes exporters tell `inbox` of these families; `want_targets` makes them ask their peers for routes
        with these route targets. One thread at a time calls them, without our lock."""
        self._listen = listen
        self._want_targets = want_targets
        self._inbox = inbox
        self._lock = threading.RLock()
        self._around = Surroundings(facts, policy)
        self._rib = self._around.rib
        self._places = self._around.places
        self._unicast = UnicastPlace(self._around)
        self._places[self._unicast.name] = self._unicast
        self._telling = threading.Lock()  # taken before `_lock`, so that the newest wish is told last
        self._listening: frozenset[Family] = frozenset()
        self._targets: frozenset[str] = frozenset()
        self._retired: dict[str, float] = {}
        """Exporters out of use whose routes are still here, and until when (time.monotonic())."""
        self._held_until = time.monotonic() + facts.graceful_restart
        self._thread: threading.Thread | None = None

    # ---------------------------------------------------------------- life

    def configure(self, facts: NodeFacts, policy: PolicyTable) -> None:
        """What the node is and what it may take, after a reload."""
        with self._lock:
            moved = facts.local_address != self._around.facts.local_address
            self._around.configure(facts, policy)
            for place in self._places.values():
                if moved:
                    place.open()
                place.configure()
        self._nudge()

    def start(self) -> None:
        """Tell the exporters what to listen to, and start the thread that works off what they learn."""
        self._tell_wishes(again=True)
        self._thread = threading.Thread(target=self._run, name="dataplane", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread. What is in the kernel stays."""
        self._inbox.close()
        if self._thread is not None:
            self._thread.join(10)

    def relisten(self) -> None:
        """A reload replaced the exporters. Their routes stay until announced again or for the restart time."""
        with self._lock:
            for exporter in {route_id.exporter for route_id in self._rib.routes}:
                self._doubt(exporter)
        self._tell_wishes(again=True)

    def retired(self, exporter: str) -> None:
        """A reload put an exporter out of use. Its routes stay until the other exporters have told all of theirs."""
        with self._lock:
            self._retired[exporter] = time.monotonic() + max(self._rib.restart_time, RETIRED_SECONDS)
        self._inbox.ask()

    def restore(self, attachments: Iterable[Attachment]) -> None:
        """Adopt what is in the kernel, and remove what no attachment needs any more; before `start` or `relisten`."""
        for attachment in attachments:
            try:
                self._attach(attachment)
            except CniError as error:  # one broken network never blocks the rest
                log.error("%s: %s", attachment.key, error.msg, extra=attachment.key.fields)
        with self._lock:
            for kind in reversed(KINDS):
                kind.sweep(self._around)
            self._unicast.read()
            self._release()

    # ---------------------------------------------------------------- attachments

    def lacking(self, family: str) -> str:
        """What this kernel lacks for a VRF with networks of this family, "" if nothing."""
        if not vrf.is_supported(self._around.netlink):
            return "VRF"
        return "MPLS" if family == "vpn" and not routes.forwards_mpls(self._around.netlink) else ""

    def enter(self, attachment: Attachment) -> vrf.Device:
        """The VRF that an attachment is in; made if there is none. `leave` is the reverse. Raises CniError."""
        with self._lock:
            place = VrfPlace.of(attachment, self._around)
            assert place is not None
            link = place.enter(attachment)
            self._keep(place)
            return link

    def leave(self, attachment: Attachment) -> None:
        """Remove the bridge, and the VRF, if nothing else is in it and it is ours. Idempotent."""
        with self._lock:
            place = self._places.get(f"vrf {attachment.bgp.vrf}")
            if isinstance(place, VrfPlace):
                place.leave(attachment.key)
                self._keep(place)

    def payload(self, family: str = "evpn") -> int:
        """The largest MTU of a container whose packets fit the underlay whole, in a tunnel or with a label; octets."""
        with self._lock:
            return self._around.payload(family)

    def sequence(self, attachment: Attachment) -> int:
        """The mobility sequence to announce: higher than that of other nodes that have its MAC or an address of it."""
        if attachment.bgp.family != "evpn" or not attachment.mac:
            return 0
        hosts = [Destination("mac", attachment.mac), *(Destination("ip", ip) for ip in plain_addresses(attachment))]
        with self._lock:
            known = self._rib.claims(hosts, (*attachment.bgp.import_rt, *attachment.bgp.export_rt))
            others = [route for route in known if route.attributes.next_hop not in self._around.own.addresses]
        if not others:
            return 0
        newest = max(others, key=lambda route: route.attributes.mobility).attributes
        sequence = next_sequence(newest.mobility)
        if sequence == newest.mobility:
            log.warning("%s: %s has the highest possible sequence, %d: other nodes may keep sending to it",
                        attachment.key, newest.next_hop, sequence, extra=attachment.key.fields)  # fmt: skip
            return sequence
        key = attachment.key
        log.info("%s: moves here from %s, sequence %d", key, newest.next_hop, sequence, extra=key.fields)
        return sequence

    def shield(self, attachment: Attachment) -> None:
        """Remove the learned routes that would keep this node from reaching it, and refuse them from now on.

        `detach` is the reverse. The cost is that of the routes within its subnets, or nothing if they are known.
        """
        routed = attachment.bgp.table is not None
        if not (routed or attachment.bgp.family == "unicast" or attachment.bgp.anycast):
            return  # the node has no address in its subnets, or will see that at the next look
        with self._lock:
            place = self._places.get(f"vrf {attachment.bgp.vrf}") if routed else self._unicast
            if isinstance(place, VrfPlace | UnicastPlace):
                place.apply(place.shield(attachment))

    def attach(self, attachment: Attachment) -> None:
        """Make its part of the data path. Raises CniError; `detach` then removes what may be left of it."""
        self._attach(attachment)
        self._tell_wishes()
        self._nudge()

    def _attach(self, attachment: Attachment) -> None:
        with self._lock:
            for kind in KINDS:
                place = kind.of(attachment, self._around)
                if place is not None:
                    try:
                        place.attach(attachment)
                    finally:
                        self._keep(place)

    def detach(self, attachment: Attachment) -> None:
        """Remove its part of the data path, with the devices of a VNI or VRF that it is the last in. Idempotent."""
        with self._lock:
            for place in list(self._places.values()):
                place.detach(attachment.key)
                self._keep(place)
        self._tell_wishes()
        self._nudge()

    def _keep(self, place: Place) -> None:
        """A place stays for as long as somebody needs it."""
        if place.used:
            self._places[place.name] = place
        else:
            self._places.pop(place.name, None)
            place.close()

    def rivals(self, attachment: Attachment) -> list[tuple[str, AttachmentKey]]:
        """Its addresses that another attachment of its VNI on this node has as well, and which one has it."""
        with self._lock:
            place = self._places.get(f"vni {attachment.bgp.vni}")
            return list(place.rivals(attachment.key)) if isinstance(place, VniPlace) else []

    # ---------------------------------------------------------------- what exporters are to tell

    def _tell_wishes(self, *, again: bool = False) -> None:
        """Tell the exporters which families to listen to: those that a place needs, and EVPN if a neighbour has it.

        EVPN, because a container may move here before anything of its network is on this node. Neighbours that know
        RFC 4684 are asked for the route targets that are imported. Must not be called with the lock held.
        """
        with self._telling:
            with self._lock:
                wanted, targets = self._wished(), self._imported()
                ask, listen = targets != self._targets or again, wanted != self._listening or again
                self._listening, self._targets = wanted, targets
            if ask:
                self._want_targets(targets)
            if listen:
                self._listen(wanted)

    def _wished(self) -> frozenset[Family]:
        told = {family for neighbor in self._around.facts.neighbors for family in neighbor.families}
        evpn = {Family.L2VPN_EVPN} & told
        return frozenset(evpn.union(*(place.families for place in self._places.values())))

    def _imported(self) -> frozenset[str]:
        """The route targets that some table imports; none if no neighbour is told of them."""
        if not any(Family.RTC in neighbor.families for neighbor in self._around.facts.neighbors):
            return frozenset()
        return frozenset[str]().union(*(table.rule.targets or () for table in self._rib.tables.values()))

    # ---------------------------------------------------------------- what happens, from any thread

    def link_gone(self, index: int) -> None:
        """A link of this node was deleted. If a place needs it, it will be made again."""
        if any(index in place.links for place in list(self._places.values())):
            self._inbox.link_gone(index)

    def look_again(self) -> None:
        """Compare with what the kernel has now, and retry what it refused (`bgpcni sync`)."""
        with self._lock:
            for place in self._places.values():
                place.read()
            self._look()
        self._nudge()

    def _nudge(self) -> None:
        """Wake the thread if anything is to be changed in the kernel."""
        with self._lock:
            dirty = any(place.program.dirty for place in self._places.values())
        if dirty:
            self._inbox.ask()

    # ---------------------------------------------------------------- the thread

    def _run(self) -> None:
        look = time.monotonic() + LOOK_SECONDS
        while (taken := self._inbox.take(look)) is not None:
            try:
                with self._lock:
                    self._work(*taken)
                    if time.monotonic() >= look:
                        look = time.monotonic() + LOOK_SECONDS
                        self._look()
                    for place in self._places.values():
                        place.apply()
                self._nudge()
            except Exception:
                log.exception("the data path failed in a way that should not happen")

    def _work(self, events: Iterable[tuple[str, Event]], gone: Collection[int]) -> None:
        now = time.monotonic()
        for exporter, event in events:
            if exporter in self._retired:  # it is in use again, and tells everything once more
                del self._retired[exporter]
                self._doubt(exporter)
            try:
                self._rib.hear(exporter, event, now)
            except Exception:  # one bad event must not keep the others from being worked off
                log.exception("%s told of something that cannot be understood: %s", exporter, event)
        self._drop_retired(now)
        for place in self._places.values():
            if not place.links.isdisjoint(gone):
                self._look_at(place)
            place.refresh()
        if self._around.held:
            self._release()

    def _drop_retired(self, now: float) -> None:
        told = {family for exporter, _, family in self._rib.complete if exporter not in self._retired}
        for exporter, until in list(self._retired.items()):
            if now >= until or self._rib.families_of(exporter) <= told:
                del self._retired[exporter]
                self._rib.drop_exporter(exporter)

    def _doubt(self, exporter: str) -> None:
        """Keep its routes only until they are announced again, or for the restart time."""
        now = time.monotonic()
        for peer in {route_id.peer for route_id in self._rib.routes if route_id.exporter == exporter}:
            self._rib.hear(exporter, SessionDown(peer, graceful=True), now)

    def _release(self) -> None:
        """Remove what an earlier run left and nobody wants, once all peers have told all or the time for it is over."""
        late = time.monotonic() >= self._held_until
        self._around.held = {family for family in self._around.held if not (late or self._told(family))}
        for place in self._places.values():
            place.release()

    def _told(self, family: Family) -> bool:
        complete = {peer for _, peer, told in self._rib.complete if told is family}
        return all(each.address in complete for each in self._around.facts.neighbors if family in each.families)

    def _look(self) -> None:
        """Look at what changes without an event: routes kept too long, links, ways, what the kernel refused."""
        self._around.forget_ways()
        self._rib.expire(time.monotonic())
        self._drop_retired(time.monotonic())
        for place in self._places.values():
            self._look_at(place)
            place.refresh()
            place.program.retry()

    def _look_at(self, place: Place) -> None:
        try:
            place.look()
        except CniError as error:  # the other places go on
            log.error("%s: %s", place.name, error.msg, extra={"link": place.name})

    # ---------------------------------------------------------------- questions

    def peers(self) -> set[str]:
        """The addresses of the peers that announced a route that we have."""
        with self._lock:
            return self._rib.peers()

    def learned(self) -> list[tuple[RouteId, Learned]]:
        """Every route that peers announce."""
        with self._lock:
            return list(self._rib.routes.items())

    def received(self, chosen: Iterable[tuple[RouteId, Learned]] | None = None) -> list[Received]:
        """What became of every route that peers announce, or of these, if they are still there."""
        with self._lock:
            found = []
            for route_id, route in self._rib.routes.items() if chosen is None else chosen:
                if self._rib.routes.get(route_id) is not route:
                    continue
                tables = {}
                for name, table in self._rib.tables.items():
                    if route_id in table.taken:
                        tables[name] = _standing(table, route_id, route)
                    elif route_id in table.refused:
                        tables[name] = table.refused[route_id]
                forwards = not isinstance(route.nlri, VpnNlri | IpPrefixNlri) or any(
                    tables.get(name) in USED and Key("route", route.nlri.prefix) in place.program.present
                    for name, place in self._places.items()
                )
                found.append(Received(route_id, route, self._rib.is_stale(route_id), tables, forwards))
            return found

    def refused(self) -> dict[str, int]:
        """How many routes were refused, by reason."""
        with self._lock:
            reasons = [reason for table in self._rib.tables.values() for reason in table.refused.values()]
        return dict(Counter(reasons))

    @property
    def waiting(self) -> int:
        """How many events of peers have still to be worked off."""
        return len(self._inbox)

    def tables(self) -> list[TableCounts]:
        """How much each place for learned routes has."""
        with self._lock:
            places = [(name, place.program, self._rib.tables.get(name)) for name, place in self._places.items()]
            return [
                TableCounts(
                    name, len(table.taken) if table else 0,
                    len(program.present), program.dirty, len(program.failures),
                )
                for name, program, table in places
            ]  # fmt: skip

    def problems(self) -> list[tuple[str, str]]:
        """(code, text) of what an operator should look at."""
        with self._lock:
            found = [problem for place in self._places.values() for problem in place.problems()]
            return found + [("harmful-route", text) for text in self._harmful()]

    def _harmful(self) -> Iterator[str]:
        """A text for each table: how many of its routes would harm this node, and one of them as an example."""
        for name, table in self._rib.tables.items():
            refused = [(route_id, reason) for route_id, reason in table.refused.items() if reason in HARMFUL]
            if refused:
                first, reason = min(refused, key=lambda item: (item[0].peer, str(item[0].nlri)))
                yield (
                    f"{name}: {len(refused)} learned routes would harm this node and are refused, such as "
                    f"{first.nlri.prefix} from {first.peer}: {reason}"
                )
