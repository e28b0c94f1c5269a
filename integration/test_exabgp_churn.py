"""After any churn FRR's table is what is wanted: random steps through the agent's own convergence, the real ExaBGP
and the real FRR, each of which, and the link between them, fails again and again.

The seed is printed; CHURN_SEED=N repeats a run, as far as the order of events allows.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from bgpcni.convergence.announcer import Announcer, Book
from bgpcni.model import (
    Announcement,
    AttachmentKey,
    Family,
    IpPrefixNlri,
    MacIpNlri,
    MulticastNlri,
    Neighbor,
    Nlri,
    UnicastNlri,
    VpnNlri,
)
from bgpcni_exabgp import ExaBGP
from integration.exabgp_bench import Bench, bench, facts
from integration.frr_table import meant, stale, table
from integration.lab import ALL_FAMILIES, Frr, Inside, Lab, until

STEPS, EACH = 1000, 10
HOLD = 6
TARGETS = ("64512:1", "64512:70000", "4200000000:7", "192.0.2.9:3", "65000:2")
COMMUNITIES = ("64512:1", "64512:2", "64513:3", "64512:1:1", "4200000000:1:2")


def nlris(place: Bench, count: int) -> list[Nlri]:
    """`count` routes of each kind."""
    rd = f"{place.address}:7"
    found: list[Nlri] = []
    for n in range(1, count + 1):
        mac = f"02:00:00:00:00:{n:02x}"
        found += [
            UnicastNlri.of(f"10.1.2.{n}/32"),
            UnicastNlri.of(f"2001:db8:1::{n:x}/128"),
            VpnNlri.of(f"10.2.{n}.0/24", rd),
            VpnNlri.of(f"2001:db8:2:{n:x}::/64", rd),
            MacIpNlri(rd, mac),
            MacIpNlri(rd, mac, f"10.3.0.{n}/32"),
            MulticastNlri(f"{place.address}:{100 + n}", place.address),
            IpPrefixNlri(rd, f"10.4.{n}.0/24"),
        ]
    return found


class Churn:
    """What is wanted, and the steps that change it or break something."""

    def __init__(self, lab: Lab, frr: Frr, place: Bench, dice: random.Random) -> None:
        self.frr, self.place, self.dice = frr, place, dice
        self.routes = nlris(place, 12)
        self.wanted: dict[Nlri, Announcement] = {}
        near = Neighbor(place.peer, place.peer_asn, tuple(Family(name) for name in place.families), HOLD)
        node = facts(place, near, hold_time=HOLD)
        book = Book()
        self.exporter = ExaBGP("exabgp", ExaBGP.Config(), node, book)
        self.announcer = Announcer("exabgp", self.exporter, book)
        self.inside = Inside(place.namespace)
        self.inside.call(self.announcer.start)
        lab.callback(self.inside.close)
        lab.callback(self.announcer.stop)
        self.killed: set[int] = set()
        self.is_cut = False

    # --- small steps

    def form(self, nlri: Nlri) -> Announcement:
        """Some form of a route: label or VNI, route targets, communities, next hop and mobility at random."""
        dice, six = self.dice, nlri.family in (Family.IPV6_UNICAST, Family.IPV6_VPN)
        hops = (self.place.address6, "2001:db8:99::1") if six else (self.place.address, "198.18.99.1")
        return Announcement(
            nlri,
            "net",
            dice.choice(hops),
            export_rt=tuple(dice.sample(TARGETS, dice.randrange(1, 4))),
            communities=tuple(dice.sample(COMMUNITIES, dice.randrange(4))),
            vni=dice.randrange(1, 1 << 24) if nlri.family is Family.L2VPN_EVPN else None,
            label=dice.randrange(16, 1 << 20) if nlri.kind == "vpn" else None,
            mobility=dice.randrange(4) if nlri.kind == "mac-ip" else 0,
        )

    def changed(self, old: Announcement) -> Announcement:
        """One thing about a route is another."""
        new = self.form(old.nlri)
        names = ["export_rt", "communities", "next_hop", "vni", "label", "mobility"]
        name = self.dice.choice([name for name in names if getattr(new, name) != getattr(old, name)] or ["next_hop"])
        return replace(old, **{name: getattr(new, name)})

    def small(self) -> None:
        nlri = self.dice.choice(self.routes)
        owner = AttachmentKey("net", str(nlri), "eth0")
        old = self.wanted.get(nlri)
        if old is None or self.dice.random() < 0.6:
            new = self.wanted[nlri] = self.form(nlri) if old is None else self.changed(old)
            self.announcer.want(owner, [new])
        else:
            self.announcer.leave(owner, [self.wanted.pop(nlri)])

    # --- what fails

    def established(self) -> None:
        until(lambda: self.frr.established(self.place.address), "the session", 60)

    def speaker(self) -> int:
        """ExaBGP's pid, of one that was not killed before."""

        def pid() -> int | None:
            running = self.exporter._home.adopt()
            if running is None:
                return None
            running.close()
            return running.identity.pid if running.identity.pid not in self.killed else None

        return until(pid, "ExaBGP") or 0

    def kill_exabgp(self) -> None:
        pid = self.speaker()
        self.killed.add(pid)
        os.kill(pid, signal.SIGKILL)

    def kill_frr(self) -> None:
        self.frr.restart(self.dice.choice((signal.SIGKILL, signal.SIGTERM)))

    def cut(self) -> None:
        """Half of the cuts last until the session falls, the others until the next step."""
        self.place.namespace.ip("link", "set", "uplink", "down")
        self.is_cut = True
        if self.dice.random() < 0.5:
            until(lambda: not self.frr.established(self.place.address), "the end of the session", 60)
            self.mend()

    def mend(self) -> None:
        if self.is_cut:
            self.place.namespace.ip("link", "set", "uplink", "up")
            self.is_cut = False

    # --- the whole

    def run(self) -> None:
        """EACH of each failure, at random places among STEPS; a failure meets an established session."""
        failures: list[Callable[[], None]] = [self.kill_exabgp, self.kill_frr, self.cut] * EACH
        self.dice.shuffle(failures)
        places = sorted(self.dice.sample(range(STEPS), len(failures)))
        for step in range(STEPS):
            if places and step == places[0]:
                places.pop(0)
                self.mend()
                self.established()
                failures.pop()()
            else:
                self.small()
                if self.dice.random() < 0.1:
                    self.mend()
        self.mend()

    def expected(self) -> dict[Nlri, object]:
        return {nlri: meant(route) for nlri, route in self.wanted.items()}


@pytest.mark.timeout(400)
def test_the_table_is_right_after_a_thousand_steps(lab: Lab) -> None:
    """Announce, withdraw, change anything, kill ExaBGP, kill FRR, cut the link: in the end every route is as wanted."""
    seed = int(os.environ.get("CHURN_SEED", time.time_ns() % 1_000_000))
    print(f"CHURN_SEED={seed}")
    frr = lab.frr()
    place = bench(lab, frr, families=ALL_FAMILIES)
    churn = Churn(lab, frr, place, random.Random(seed))
    begun = time.monotonic()
    churn.run()
    print(f"{STEPS} steps in {time.monotonic() - begun:.0f} s, {len(churn.wanted)} routes wanted")
    until(lambda: churn.announcer.wait_quiet(time.monotonic() + 1), "that nothing is late", 60)
    expected = churn.expected()

    def different() -> dict[Nlri, tuple[object, object]]:
        found = table(frr)
        return {
            nlri: (expected.get(nlri), found.get(nlri))
            for nlri in {*expected, *found}
            if expected.get(nlri) != found.get(nlri)
        }

    until(lambda: not different() and not stale(frr), f"FRR's table; seed {seed}: {different()}")
