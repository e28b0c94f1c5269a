"""The exporter alone, without the agent, in a network namespace: helpers for the tests of the ExaBGP exporter."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bgpcni.exporter import EndOfRib, Event, Gone, Learned, NotThereYet, Outcome, Reach, SessionDown
from bgpcni.model import ROUTES, Announcement, Family, Neighbor, Nlri, NodeFacts, UnicastNlri
from bgpcni.testing import Woken
from bgpcni.testing.patience import SECONDS
from bgpcni_exabgp import ExaBGP
from bgpcni_exabgp.homes import Homes
from integration.lab import ALL_FAMILIES, Frr, Inside, Lab, Namespace, link, until
from integration.lab import Neighbor as FrrNeighbor

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Bench:
    """A node without an agent: a namespace with an uplink to FRR, which knows it as a neighbour."""

    namespace: Namespace
    run_dir: Path
    asn: int
    peer_asn: int
    families: tuple[str, ...]
    address: str
    peer: str
    address6: str
    peer6: str


def bench(
    lab: Lab,
    frr: Frr,
    *,
    asn: int | None = None,
    families: Sequence[str] = ALL_FAMILIES,
    extra: Sequence[str] = (),
    reflect: bool = False,
) -> Bench:
    """A node for the exporter alone. `families` are both sides'; `extra`, `reflect`: of FRR's neighbour."""
    k = 100 + len(list(lab.folder.glob("bench*")))
    place = Bench(
        namespace=lab.namespace(f"bench{k}"),
        run_dir=lab.folder / f"bench{k}",
        asn=asn or frr.asn,
        peer_asn=frr.asn,
        families=tuple(families),
        address=f"198.18.{k}.2",
        peer=f"198.18.{k}.1",
        address6=f"2001:db8:18:{k}::2",
        peer6=f"2001:db8:18:{k}::1",
    )
    place.run_dir.mkdir(mode=0o700)
    here, there = (
        (f"{place.address}/24", f"{place.address6}/64"),
        (f"{place.peer}/24", f"{place.peer6}/64"),
    )
    link(place.namespace, frr.namespace, "uplink", f"bench{k}", here, there)
    frr.add_neighbor(FrrNeighbor(place.address, place.asn, families, extra=extra, reflect=reflect))
    return place


class Ears:
    """Listens, and keeps what is to be believed: the routes by peer and NLRI, and what happened."""

    def __init__(self) -> None:
        self.routes: dict[tuple[str, Nlri], Learned] = {}
        self.stale: set[tuple[str, Nlri]] = set()
        self.ended: list[Family] = []
        self.downs: list[SessionDown] = []
        self.gone = 0

    def __call__(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Learned):
                self.routes[event.peer, event.nlri] = event
                self.stale.discard((event.peer, event.nlri))
            elif isinstance(event, Gone):
                self.gone += self.routes.pop((event.peer, event.nlri), None) is not None
            elif isinstance(event, EndOfRib):
                self.ended.append(event.family)
                for key in [k for k in self.stale if k[0] == event.peer and k[1].family is event.family]:
                    self.stale.discard(key)
                    del self.routes[key]
            else:
                self.downs.append(event)
                mine = {key for key in self.routes if key[0] == event.peer}
                if event.graceful:
                    self.stale |= mine
                else:
                    for key in mine:
                        del self.routes[key]

    def nlris(self) -> set[Nlri]:
        return {nlri for _, nlri in self.routes}

    def of(self, nlri: Nlri) -> Learned:
        (found,) = (route for (_, other), route in self.routes.items() if other == nlri)
        return found


def pid_of(exporter: ExaBGP) -> int | None:
    """The pid of an exporter's ExaBGP, None if none runs."""
    running = Homes(exporter.name, exporter.node).home.adopt()
    if running is None:
        return None
    running.close()
    return running.identity.pid


class Speaker:
    """One instance of an exporter. Its methods run in a thread inside the namespace, and ExaBGP starts there, too."""

    def __init__(self, lab: Lab, place: Namespace, facts: NodeFacts, socket: str | None = None) -> None:
        self.wake = Woken()
        self.facts = facts
        self._inside = Inside(place)
        self.exporter = ExaBGP("exabgp", ExaBGP.Config(socket=socket), facts, self.wake)
        lab.callback(self.close)

    def call(self, verb: Callable[..., Value], *arguments: Any) -> Value:
        """A verb with a deadline half a minute away; NotThereYet is asked again, as the agent does."""
        end = time.monotonic() + SECONDS
        while True:
            try:
                return self._inside.call(verb, *arguments, end)
            except NotThereYet:
                if time.monotonic() > end:
                    raise

    def announce(self, *routes: Announcement) -> list[Outcome]:
        return self.call(self.exporter.announce, routes)

    def withdraw(self, *routes: Announcement) -> list[Outcome]:
        return self.call(self.exporter.withdraw, routes)

    def prune(self, *keep: Announcement, spare: Sequence[str] = ()) -> None:
        self.call(self.exporter.prune, keep, spare)

    def listen(self, families: Collection[Family] = ROUTES) -> Ears:
        ears = Ears()
        self._inside.call(self.exporter.listen, frozenset(families), ears)
        return ears

    def drain(self) -> None:
        self.call(self.exporter.drain)

    def reach(self, *routes: Announcement) -> set[Reach]:
        return {outcome.reach for outcome in self.exporter.progress(routes)}

    def reason(self, route: Announcement) -> str:
        return self.exporter.progress([route])[0].reason

    def wait(self, reach: Reach, *routes: Announcement) -> None:
        until(lambda: all(found >= reach for found in self.reach(*routes)), f"{reach.name} of {len(routes)} routes")

    @property
    def pid(self) -> int:
        """ExaBGP's, now."""
        pid = pid_of(self.exporter)
        assert pid is not None, "ExaBGP does not run"
        return pid

    def close(self) -> None:
        """End this instance as an agent that ends would: ExaBGP goes on. Idempotent."""
        self.exporter.close()
        self._inside.close()


def facts(node: Bench, *neighbors: Neighbor, **fields: Any) -> NodeFacts:
    """The node as the agent would see it. Without `neighbors`: its FRR, of all the node's families."""
    own = Neighbor(node.peer, node.peer_asn, tuple(Family(name) for name in node.families), 90)
    values: dict[str, Any] = {
        "run_dir": str(node.run_dir),
        "data_dir": str(node.run_dir),
        "asn": node.asn,
        "router_id": node.address,
        "local_address": node.address,
        "next_hop": node.address,
        "next_hop6": node.address6,
        "neighbors": neighbors or (own,),
        "has_bgp": True,
    }
    return NodeFacts(**values | fields)


def unicast(node: Bench, prefix: str, network: str = "net", **fields: Any) -> Announcement:
    six = ":" in prefix
    nlri = UnicastNlri.of(prefix)
    return Announcement(nlri, network, node.address6 if six else node.address, **fields)


def many(node: Bench, count: int, network: str = "net") -> list[Announcement]:
    """`count` host routes of 10.0.0.0/8."""
    return [unicast(node, f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}/32", network) for n in range(count)]
