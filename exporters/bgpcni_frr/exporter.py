"""The exporter: EVPN types 2 and 3 through the host FRR's own data path.

With `advertise-all-vni` FRR announces what the kernel has: a VXLAN device on a bridge becomes a type 3 route, and a
static forwarding entry on a port of that bridge, with a neighbour of the bridge, becomes a type 2 route. The exporter
makes these, and reads from bgpd whether the routes are announced. It does not change FRR's configuration, so FRR's
route targets must equal ours already.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BaseModel

from bgpcni.bgp import MAX_VNI
from bgpcni.errors import InvalidConfiguration
from bgpcni.exporter import Exporter, NotThereYet, Outcome, Peer, Reach, Wake
from bgpcni.kernel import links
from bgpcni.kernel.netlink import Netlink, NetlinkError
from bgpcni.model import Announcement, Family, Nlri, NodeFacts
from bgpcni_frr import bgpd, datapath
from bgpcni_frr.datapath import Entry
from bgpcni_frr.vty import Vty

PATIENCE = 5.0
"""How many seconds a method waits for FRR, which usually needs a twentieth of that. Then the route is tried again."""
ASKING = 2.0
"""How many seconds an operator's command waits for FRR."""
GLANCE = 0.02
_DONE = Outcome(Reach.ACCEPTED)


def _absolute(value: str) -> str:
    if not os.path.isabs(value) or "\0" in value:
        raise ValueError(f"{value!r} is not an absolute path")
    return value


def _address(value: str | None) -> str | None:
    return None if value is None else str(ip_address(value))


@dataclass(slots=True)
class Segment:
    """A VNI with routes that this instance has announced, and its network. `device`: the index of the VXLAN device."""

    network: str
    device: int
    bridge: int
    routes: dict[Nlri, Entry | None]


class FRR(Exporter):
    """Announces EVPN types 2 and 3 and owns the VXLAN. FRR's configuration sets the route targets, one set for each
    VNI."""

    class Config(Exporter.Config):
        """`vty_dir`: the folder of bgpd.vty. `local_address`: the VTEP, if it is not `[bgp] local_address`."""

        vty_dir: Annotated[str, AfterValidator(_absolute)] = "/run/frr"
        local_address: Annotated[str | None, AfterValidator(_address)] = None

    contract: ClassVar[int] = 1
    families: ClassVar[frozenset[Family]] = frozenset({Family.L2VPN_EVPN})
    imports: ClassVar = "datapath"
    needs_agent: ClassVar[bool] = True
    programs: ClassVar[Mapping[str, Sequence[str]]] = {"bgpd": ("/usr/lib/frr/bgpd", "--version")}
    targets_per_route: ClassVar[bool] = False
    carries: ClassVar[frozenset[str]] = frozenset()
    look_every: ClassVar[float] = 1.0

    def __init__(self, name: str, config: BaseModel, node: NodeFacts, wake: Wake) -> None:
        super().__init__(name, config, node, wake)
        assert isinstance(config, FRR.Config)
        self._local = config.local_address or node.local_address or ""
        self._path = os.path.join(config.vty_dir, "bgpd.vty")
        self._vty = Vty(self._path)
        self._connections = 0
        self._netlink: Netlink | None = None
        self._segments: dict[int, Segment] = {}
        self._whole = False
        self._spared: frozenset[str] = frozenset()
        self._peers: list[Peer] = []

    @classmethod
    def check(cls, config: BaseModel, node: NodeFacts) -> str | None:
        assert isinstance(config, FRR.Config)
        if config.local_address or node.local_address:
            return None
        return "the VTEP is missing: set local_address in [bgp] of agent.toml, or as an option of this exporter"

    @classmethod
    def owns(cls, config: BaseModel) -> str:
        return "the VXLAN devices of FRR"

    # ---------------------------------------------------------------- verbs

    def announce(self, routes: Sequence[Announcement], deadline: float) -> list[Outcome]:
        until = min(deadline, time.monotonic() + PATIENCE)
        self._reach(until)
        outcomes: dict[int, Outcome] = {}
        placed: dict[int, Entry] = {}
        live: dict[int, bgpd.Vni] = {}
        for at in _containers_first(routes):
            found = self._place(routes[at], live, until)
            if isinstance(found, Outcome):
                outcomes[at] = found
            elif found is not None:
                placed[at] = found
        for (at, entry), code in zip(placed.items(), datapath.put(self._kernel, placed.values()), strict=True):
            if code:
                outcomes[at] = _refusal(code, routes[at])
            else:
                self._segments[_vni(routes[at])].routes[routes[at].nlri] = entry
        for at, route in enumerate(routes):
            if at not in outcomes:
                outcomes[at] = self._announced(route.nlri, live[_vni(route)], until)
        self._close_empty()
        return [outcomes[at] for at in range(len(routes))]

    def withdraw(self, routes: Sequence[Announcement], deadline: float) -> list[Outcome]:
        until = min(deadline, time.monotonic() + PATIENCE)
        going: dict[int, list[Entry]] = {}
        for route in routes:
            segment = self._segments.get(_vni(route))
            held = segment.routes.pop(route.nlri, None) if segment else None
            entry = held or _entry(route)
            if isinstance(entry, Entry):
                going.setdefault(entry.bridge, []).append(entry)
        for bridge, entries in going.items():
            datapath.take(self._kernel, entries, self._needed(bridge, entries))
        self._close_empty()
        found = {vni: bgpd.vni(self._vty, vni, _later(until)) for vni in {_vni(route) for route in routes} if vni}
        return [
            # type 3 stays announced for a record that cannot be read; no address is held because of that
            _DONE
            if route.nlri.kind == "multicast" and route.network in self._spared
            else self._withdrawn(route.nlri, found.get(_vni(route)), until)
            for route in routes
        ]

    def prune(self, keep: Collection[Announcement], spare: Collection[str], deadline: float) -> None:
        self._reach(deadline)
        kept = {route.nlri for route in keep}
        for segment in self._segments.values():
            if segment.network not in spare:
                segment.routes = {nlri: entry for nlri, entry in segment.routes.items() if nlri in kept}
        self._whole, self._spared = True, frozenset(spare)
        self._close_empty()
        if spare:
            return  # entries in the kernel do not say to which network they belong
        wanted = [entry for segment in self._segments.values() for entry in segment.routes.values() if entry]
        known = {(entry.bridge, entry.mac, entry.address) for entry in wanted}
        macs = {(entry.bridge, entry.mac) for entry in wanted}
        left: dict[int, list[Entry]] = {}
        for entry in datapath.present(self._kernel):
            if (entry.bridge, entry.mac, entry.address) not in known:
                left.setdefault(entry.bridge, []).append(entry)
        for bridge, entries in left.items():
            datapath.take(self._kernel, entries, frozenset(mac for at, mac in macs if at == bridge))
        for vni, link in datapath.devices(self._kernel).items():
            if vni not in self._segments:
                links.remove(self._kernel, link.index)

    def look(self, deadline: float) -> None:
        try:
            self._reach(deadline)
            self._peers = bgpd.peers(self._vty, deadline, time.time())
        except NotThereYet:
            self._peers = []
            raise
        lost = [vni for vni, segment in self._segments.items() if self._is_gone(vni, segment)]
        restarted, self._connections = self._vty.connections != self._connections, self._vty.connections
        if lost or restarted:
            self._forget()
            self.wake.empty()

    def peers(self) -> list[Peer]:
        """All sessions of bgpd, whoever configured them, with the counts of all their routes."""
        return self._peers

    def session(self, peer: str) -> Mapping[str, object]:
        with contextlib.suppress(NotThereYet), contextlib.closing(Vty(self._path)) as vty:
            counts = bgpd.messages(vty, peer, time.monotonic() + ASKING)
            return {"messages": counts} if counts else {}
        return {}

    def reset(self, peer: str, *, soft: bool) -> None:
        with contextlib.closing(Vty(self._path)) as vty:
            try:
                bgpd.reset(vty, peer, soft=soft, deadline=time.monotonic() + ASKING)
            except NotThereYet as error:
                raise InvalidConfiguration(str(error)) from None

    def close(self) -> None:
        """Close the connection to bgpd. The netlink socket is not closed here, because another thread may be using
        it."""
        self._vty.close()

    # ---------------------------------------------------------------- one route

    def _place(self, route: Announcement, live: dict[int, bgpd.Vni], until: float) -> Entry | Outcome | None:
        """Prepare the VNI of a route and return the entry to make; None for type 3, for which the VNI is enough.

        `live`: the VNIs that bgpd has; this one is added to it.
        """
        entry = _entry(route)
        if isinstance(entry, Outcome):
            return entry
        vni = _vni(route)
        segment = self._segments.get(vni)
        if entry is None and segment is None:
            return Outcome(Reach.WANTED, f"VNI {vni} has no container yet")
        known = live.get(vni) or bgpd.vni(self._vty, vni, until)
        if known is not None and (different := _difference(vni, known, route)):
            return Outcome(Reach.REFUSED, different)
        if entry is not None:
            if segment is not None and segment.bridge != entry.bridge and any(segment.routes.values()):
                return Outcome(
                    Reach.REFUSED, f"VNI {vni} is already on another bridge of this node, and can be on one only"
                )
            try:
                segment = self._open(vni, entry, route.network, fresh=vni not in live)
            except NetlinkError as error:
                return _no_device(vni, error)
        assert segment is not None
        if vni not in live:
            known = self._live(vni, until)
            if known is None:
                segment.routes[route.nlri] = None  # the device stays, because FRR may only be slow
                return Outcome(Reach.WANTED, f"FRR has not noticed VNI {vni}{self._why(until)}")
            if different := _difference(vni, known, route):
                return Outcome(Reach.REFUSED, different)
            live[vni] = known
        if entry is None:
            segment.routes[route.nlri] = None
        return entry

    def _announced(self, nlri: Nlri, of: bgpd.Vni, until: float) -> Outcome:
        """Wait until bgpd announces the route."""
        while not bgpd.announces(self._vty, of, nlri, _later(until)):
            if not self._wait(until):
                return Outcome(Reach.WANTED, "FRR has not announced it yet")
        return _DONE

    def _withdrawn(self, nlri: Nlri, of: bgpd.Vni | None, until: float) -> Outcome:
        """Wait until bgpd does not announce the route any more. `of` None: it does not know the VNI."""
        if of is None or nlri.kind not in ("mac-ip", "multicast"):
            return _DONE
        while bgpd.announces(self._vty, of, nlri, _later(until)):
            if not self._wait(until):
                return Outcome(Reach.WANTED, "FRR still announces it")
        return _DONE

    # ---------------------------------------------------------------- VNIs

    def _open(self, vni: int, entry: Entry, network: str, *, fresh: bool) -> Segment:
        """The segment of the VNI on this bridge, with its device (checked if `fresh`). Raises NetlinkError."""
        segment = self._segments.get(vni)
        if segment is not None and segment.bridge == entry.bridge and not (fresh and self._is_gone(vni, segment)):
            return segment
        bridge = links.find(self._kernel, index=entry.bridge)
        if bridge is None:
            raise NetlinkError(errno.ENODEV, "the bridge is gone")
        device = datapath.open_device(self._kernel, vni, self._local, bridge)
        self._segments[vni] = Segment(network, device, entry.bridge, segment.routes if segment else {})
        return self._segments[vni]

    def _live(self, vni: int, until: float) -> bgpd.Vni | None:
        """Wait until bgpd has found the VNI in the kernel. None if it has not at the deadline."""
        while True:
            found = bgpd.vni(self._vty, vni, _later(until))
            if found is not None and found.live:
                return found
            if not self._wait(until):
                return None

    def _why(self, until: float) -> str:
        return "" if bgpd.takes_all(self._vty, _later(until)) else ": `advertise-all-vni` is not configured"

    def _is_gone(self, vni: int, segment: Segment) -> bool:
        link = datapath.find_device(self._kernel, vni)
        return link is None or link.index != segment.device or link.master != segment.bridge or not link.up

    def _close_empty(self) -> None:
        """Remove VNIs without a route. Before the first `prune` routes of an earlier run may be in them, so they
        stay."""
        for vni, segment in list(self._segments.items()):
            if segment.routes or segment.network in self._spared:
                continue  # a container whose record cannot be read may be in it
            if self._whole:
                link = datapath.find_device(self._kernel, vni)
                if link is not None:
                    links.remove(self._kernel, link.index)
            del self._segments[vni]

    def _needed(self, bridge: int, going: Sequence[Entry]) -> frozenset[str]:
        """The MACs of the entries to be removed that other routes use, too."""
        macs = {entry.mac for entry in going}
        held = {
            entry.mac
            for segment in self._segments.values()
            if segment.bridge == bridge
            for entry in segment.routes.values()
            if entry is not None and entry.mac in macs
        }
        if not self._whole or self._spared:  # routes of an earlier run may still be wanted
            addresses = {entry.address for entry in going}
            there = datapath.named(self._kernel, bridge)
            held |= {mac for address, mac in there.items() if mac in macs and address not in addresses}
        return frozenset(held)

    def _forget(self) -> None:
        self._segments.clear()
        self._whole = False

    # ---------------------------------------------------------------- reaching

    @property
    def _kernel(self) -> Netlink:
        """The netlink socket. The first method opens it, because its thread is in the right network namespace."""
        if self._netlink is None:
            try:
                self._netlink = Netlink.open()
            except OSError as error:
                raise NotThereYet(f"no netlink socket: {error.strerror}", untouched=True) from None
        return self._netlink

    def _reach(self, deadline: float) -> None:
        """Raises NotThereYet unless bgpd answers."""
        bgpd.takes_all(self._vty, deadline)
        self._connections = self._connections or self._vty.connections

    def _wait(self, until: float) -> bool:
        """Wait for a moment. False if no time is left or the exporter was closed."""
        if self._vty.closed or time.monotonic() > until:
            return False
        time.sleep(GLANCE)
        return True


def _later(until: float) -> float:
    """A deadline that allows one last question, even after `until`."""
    return max(until, time.monotonic()) + 1.0


def _vni(route: Announcement) -> int:
    return route.vni or 0


def _containers_first(routes: Sequence[Announcement]) -> list[int]:
    """Indexes of the routes, type 2 before type 3, because type 3 does not name a bridge."""
    return sorted(range(len(routes)), key=lambda at: routes[at].nlri.kind == "multicast")


def _entry(route: Announcement) -> Entry | Outcome | None:
    """The entry of a route in the kernel; None for type 3; an outcome with the reason if the route is impossible."""
    nlri, endpoint = route.nlri, route.endpoint
    if nlri.family is not Family.L2VPN_EVPN or nlri.kind not in ("mac-ip", "multicast"):
        return Outcome(Reach.REFUSED, f"FRR announces MACs, addresses and VNIs of this kernel, not {nlri.kind}")
    if type(route.vni) is not int or not 0 < route.vni <= MAX_VNI:
        return Outcome(Reach.REFUSED, f"{route.vni!r} is not a VNI")
    for key, value in (
        ("communities", route.communities or None),
        ("localPreference", route.local_preference),
        ("med", route.med),
    ):
        if value is not None:
            return Outcome(Reach.REFUSED, f"bgp.{key}: FRR announces the routes itself; set it in its route-map")
    if nlri.kind == "multicast":
        return None
    if endpoint is None or not endpoint.bridge or not nlri.mac:
        return Outcome(Reach.REFUSED, "the container is on no bridge")
    bridge = datapath.index_of(endpoint.bridge)
    port = endpoint.host_index or datapath.index_of(endpoint.host_veth)
    if not bridge or not port:
        return Outcome(Reach.WANTED, f"{endpoint.host_veth if bridge else endpoint.bridge} does not exist")
    return Entry(bridge, port, nlri.mac, nlri.prefix.partition("/")[0] if nlri.prefix else "")


def _difference(vni: int, of: bgpd.Vni, route: Announcement) -> str:
    """How FRR's route targets of a VNI differ from the network's; "" if they do not."""
    compared: list[tuple[str, frozenset[str], tuple[str, ...]]] = [
        ("export", of.exports, route.export_rt),
        ("import", of.imports, route.import_rt),
    ]
    for what, theirs, ours in compared:
        if theirs != frozenset(ours):
            return (
                f"FRR's VNI {vni} {what}s {' '.join(sorted(theirs)) or 'nothing'}, the network's {what}RT is "
                f"{' '.join(ours) or 'not given'}: they must be the same (FRR: `vni {vni}`, `route-target {what} …`)"
            )
    return ""


def _no_device(vni: int, error: NetlinkError) -> Outcome:
    if error.errno == errno.EEXIST:
        return Outcome(Reach.REFUSED, f"VNI {vni} already has a VXLAN device on this node that is not ours")
    return Outcome(Reach.WANTED, f"cannot make the VXLAN device of VNI {vni}: {error.strerror}")


def _refusal(code: int, route: Announcement) -> Outcome:
    name = route.endpoint.host_veth if route.endpoint else "the port"
    if code in (errno.ENODEV, errno.ENETDOWN, errno.EINVAL):
        return Outcome(Reach.WANTED, f"{name} is not a port of the bridge")
    return Outcome(Reach.REFUSED, f"the kernel: {os.strerror(code).lower()}")
