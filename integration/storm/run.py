"""One seed, from the first ADD to the comparison at the end.

The seed decides who calls what and what fails after how many calls; what the threads make of it differs from run to
run, so a seed shows the same defect often, not always.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace

from bgpcni.testing.patience import SCALE
from integration.lab import Lab, Namespace
from integration.storm.history import Call, Death, History, Outage, contradictions
from integration.storm.plan import Fault, Plan, plan
from integration.storm.site import HOLD_SECONDS, ROOM, Host, Site

RECOVERY_SECONDS = 20.0
"""How long after a fault a node may not have found the store again: an answer's bound, then the longest pause."""
SETTLE_SECONDS = 90
"""A dead node's blocks are freed within: hold time, graceful restart, 30 s, and what it takes to see it."""
SLOTS = 20
"""Containers of a node: more than a block has room for."""


class Run:
    def __init__(self, lab: Lab, seed: int, nodes: int, calls: int, faults: int, longest: float = 6.0) -> None:
        self.seed, self.site = seed, Site(lab, nodes)
        self.plan: Plan = plan(seed, nodes, calls, SLOTS, faults, longest)
        self._spaces = {host.name: [lab.container() for _ in range(SLOTS)] for host in self.site.hosts}
        self._lock = threading.Lock()
        self._moved = threading.Condition(self._lock)
        self._calls: list[Call] = []
        self._deaths: list[Death] = []
        self._outages: list[Outage] = []
        self._defects: list[str] = []
        self._done = False
        self.seconds = 0.0

    @property
    def answered(self) -> list[Call]:
        return self._calls

    def run(self) -> list[str]:
        """Carry it out; what must not be."""
        self.site.start()
        began = time.monotonic()
        workers = [
            threading.Thread(target=self._guarded, args=(lambda at=at: self._work(at),), name=f"storm-{at}")
            for at in range(len(self.site.hosts))
        ]
        faults = threading.Thread(target=self._guarded, args=(self._fail,), name="storm-faults")
        for thread in (*workers, faults):
            thread.start()
        for thread in workers:
            thread.join()
        with self._moved:
            self._done = True
            self._moved.notify_all()
        faults.join()
        self.seconds = time.monotonic() - began
        return [*self._defects, *self._settled()]

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException:  # noqa: BLE001 - it is told at the end
            self._defects.append(traceback.format_exc())

    # ---------------------------------------------------------------- containers

    def _work(self, at: int) -> None:
        """One node's calls, in their order."""
        host = self.site.hosts[at]
        up: set[int] = set()
        for burst in self.plan.bursts[at]:
            for slot in burst.slots:
                with host.busy:
                    if host.dead:
                        return
                    command = "DEL" if slot in up else "ADD"
                    call = self._call(host, command, f"{host.name}-{slot}", self._spaces[host.name][slot])
                if call.error is None:
                    (up.discard if command == "DEL" else up.add)(slot)
            time.sleep(burst.quiet)

    def _call(self, host: Host, command: str, container: str, space: Namespace) -> Call:
        begin = time.monotonic()
        answer = host.node.cni(command, container, space, self.site.conf(host))
        message = str(answer.document.get("msg", "")) if not answer.ok else ""
        ips = tuple(answer.ips) if answer.ok and command == "ADD" else ()
        call = Call(command, host.name, container, begin, time.monotonic(), ips, answer.error, message)
        with self._moved:
            self._calls.append(call)
            self._moved.notify_all()
        if command == "DEL" and not answer.ok:
            self._defects.append(f"DEL of {container} failed: {answer}")
        return call

    # ---------------------------------------------------------------- faults

    def _fail(self) -> None:
        for fault in self.plan.faults:
            with self._moved:
                self._moved.wait_for(lambda fault=fault: self._done or len(self._calls) >= fault.after)  # type: ignore[misc]
                if self._done:
                    return
            getattr(self, f"_{fault.kind}")(fault)

    def _lasts(self, fault: Fault, hosts: list[Host], begin: Callable[[], None], end: Callable[[], None]) -> None:
        """A fault from which the nodes may notice something until it has been over for a while."""
        began = time.monotonic()
        places = [Outage(host.name, began, float("inf")) for host in hosts]
        self._outages += places
        begin()
        with self._moved:
            self._moved.wait_for(lambda: self._done, fault.seconds)
        end()
        over = time.monotonic() + RECOVERY_SECONDS * SCALE
        self._outages = [replace(one, end=over) if one in places else one for one in self._outages]

    def _leader(self, fault: Fault) -> None:
        leader = self.site.leader()
        self._lasts(fault, self.site.hosts, leader.kill, leader.start)

    def _member(self, fault: Fault) -> None:
        member = self.site.members[fault.target % 3]
        self._lasts(fault, self.site.hosts, member.kill, member.start)

    def _cut(self, fault: Fault) -> None:
        """From nodes and the other members; its connections stay open and say nothing."""
        space = self.site.members[fault.target % 3].namespace
        gateway = f"198.18.{201 + fault.target % 3}.254"

        def begin() -> None:
            space.ip("route", "replace", "blackhole", "default")

        def end() -> None:
            space.ip("route", "replace", "default", "via", gateway)

        self._lasts(fault, self.site.hosts, begin, end)

    def _majority(self, fault: Fault) -> None:
        members = [member for at, member in enumerate(self.site.members) if at != fault.target % 3]

        def begin() -> None:
            for member in members:
                member.pause()

        def end() -> None:
            for member in members:
                member.resume()

        self._lasts(fault, self.site.hosts, begin, end)

    def _alone(self, fault: Fault) -> None:
        host = self._living(fault)

        def end() -> None:
            if not host.dead:
                self.site.reach(host, reaches=True)

        self._lasts(fault, [host], lambda: self.site.reach(host, reaches=False), end)

    def _death(self, fault: Fault) -> None:
        """A node ends, and somebody says so."""
        host = self._living(fault)
        with host.busy:
            host.dead = True
        at = time.monotonic()
        self.site.kill(host)
        for space in self._spaces[host.name]:
            space.close()
        self.site.run("delete", "BGPNode", host.name)
        self._deaths.append(Death(host.name, at, time.monotonic()))

    def _living(self, fault: Fault) -> Host:
        living = [host for host in self.site.hosts if not host.dead]
        return living[fault.target % len(living)]

    # ---------------------------------------------------------------- the end

    def history(self) -> History:
        return History(self._calls, self._deaths, self._outages, room=ROOM, patience=3 * HOLD_SECONDS * SCALE)

    def _settled(self) -> list[str]:
        """What is still wrong once everything has had the time to settle."""
        bound = time.monotonic() + SETTLE_SECONDS * SCALE
        while True:
            found = contradictions(replace(self.history(), ending=self.site.ending()))
            if not found or time.monotonic() > bound:
                return found
            time.sleep(1.0)
