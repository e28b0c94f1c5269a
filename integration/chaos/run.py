"""One seed, from its plan to the last DEL.

The seed alone decides which worker calls what for which container in which order, and after how many steps which
fault begins and ends. What the threads make of it together differs from run to run, so a seed shows the
same defect often, not always.
"""

from __future__ import annotations

import os
import threading
import time
import traceback
from dataclasses import dataclass
from random import Random

from bgpcni.testing.patience import SCALE
from integration.chaos import look
from integration.chaos.calls import WITHOUT, Calls, Slot, State
from integration.chaos.faults import FAULTS, Fault
from integration.chaos.history import History
from integration.chaos.site import Site
from integration.lab import Lab

WORKERS = 4
PER_WORKER = 6
STEPS = 24
"""Of all workers together: within so many a fault begins, so many it lasts at most, and so many follow the last."""
SPARE = (5, 8, 30)
PACES = (0.0, 0.0, 0.05, 0.2)
LINGER = (0, 0, 0, 12)
"""Seconds: longer than the hold time, or not at all."""
SETTLE_SECONDS = 60
WEIGHTS = {
    "toggle": 10,
    "check": 2,
    "again": 1,
    "twice": 1,
    "renew": 2,
    "race": 1,
    "killed": 1,
    "overtaken": 2,
    "die": 1,
    "unplug": 1,
    "gc": 1,
}


ONLY = frozenset(os.environ.get("BGPCNI_CHAOS_FAULTS", "").split())
AMONG = [kind for kind in FAULTS if not ONLY or kind.__name__ in ONLY]
"""The faults that are drawn from."""


@dataclass(frozen=True, slots=True)
class Blow:
    """One fault of a round: it begins after so many steps of all workers together, and ends so many later."""

    kind: type[Fault]
    target: int
    after: int
    lasts: int
    seed: int


@dataclass(frozen=True, slots=True)
class Round:
    """`pace`: seconds between two steps of a worker, at most. `linger`: how long every fault lasts at least."""

    blows: tuple[Blow, ...]
    pace: float
    linger: float


def plan(seed: int, rounds: int) -> tuple[int, list[Round]]:
    """How many spare addresses there are, and the rounds."""
    dice = Random(seed)
    spare = dice.choice(SPARE)
    kinds: list[type[Fault]] = []
    drawn = []
    for _ in range(rounds):
        blows: list[Blow] = []
        hit: set[tuple[str, int]] = set()
        for _ in range(dice.randint(1, 3)):
            if not kinds:  # every kind comes before one comes again
                kinds = dice.sample(AMONG, len(AMONG))
            kind, target = kinds.pop(), dice.randrange(2)
            part = (kind.part, 0 if kind.part == "network" else target)  # of the network only one thing fails
            if part not in hit:
                hit.add(part)
                after, lasts, of_its_own = dice.randrange(STEPS), dice.randrange(1, STEPS), dice.randrange(1 << 32)
                blows.append(Blow(kind, target, after, lasts, of_its_own))
        linger = dice.choice(LINGER)
        drawn.append(Round(tuple(blows), 1.0 if linger else dice.choice(PACES), linger))
    return spare, drawn


class Failed(AssertionError):
    """A seed that shows something wrong; the text has its history."""


class Run:
    """One seed's run."""

    def __init__(self, lab: Lab, seed: int, rounds: int) -> None:
        self.seed, self.count = seed, rounds
        spare, self.rounds = plan(seed, rounds)
        self.history = History(seed)
        self.site = Site(lab, spare, WORKERS * PER_WORKER // 2)
        self.slots = [
            Slot(f"w{worker}c{number}", self.site.hosts[number % 2], lab.container(f"w{worker}c{number}"))
            for worker in range(WORKERS)
            for number in range(PER_WORKER)
        ]
        self.calls = Calls(self.site, self.history, self.slots)
        self.steps, self._over = 0, False
        self._progress = threading.Condition()

    def run(self) -> None:
        """Everything. Raises Failed."""
        self.site.established()
        for number, one in enumerate(self.rounds):
            self.history.add(
                "round",
                f"{number}: {', '.join(f'{b.kind.__name__} {b.target}' for b in one.blows)}; {one.pace} {one.linger}",
            )
            self._round(number, one)
            self._resolve()
            self._settled(f"after round {number}")
        for slot in self.slots:
            if slot.state is not State.GONE:
                self.calls.delete(slot)
        self._settled("after the DEL of all")

    # --- a round

    def _round(self, number: int, one: Round) -> None:
        self.steps, self._over = 0, False
        threads = [threading.Thread(target=self._work, args=(number, worker, one.pace)) for worker in range(WORKERS)]
        moments: list[tuple[int, bool, Fault]] = []
        for blow in one.blows:
            if blow.kind.__name__ in WITHOUT:
                continue
            fault = blow.kind(self.site, self.calls, blow.kind.targets(self.site)[blow.target], Random(blow.seed))
            moments += [(blow.after, True, fault), (blow.after + blow.lasts, False, fault)]
        begun: dict[Fault, float] = {}
        for thread in threads:
            thread.start()
        try:
            for after, begins, fault in sorted(moments, key=lambda moment: moment[0]):
                self._await(after)
                if begins:
                    begun[fault] = time.monotonic() + one.linger
                else:
                    time.sleep(max(0.0, begun.pop(fault) - time.monotonic()))
                self._turn(fault, begins=begins)
            self._await(self.steps + STEPS)
        finally:
            self._over = True
            for fault in begun:
                self._turn(fault, begins=False)
            for thread in threads:
                thread.join()

    def _turn(self, fault: Fault, *, begins: bool) -> None:
        self.history.add("fault", f"{fault.name} {'begins' if begins else 'ends'}")
        try:
            if begins:
                self.history.called(f"fault {type(fault).__name__}")
                fault.begin()
            else:
                fault.end()
        except Exception:  # noqa: BLE001 - it is told with the history
            self.history.contradiction(fault.name, traceback.format_exc())

    def _await(self, steps: int) -> None:
        """Until the workers have done so many steps together."""
        with self._progress:
            self._progress.wait_for(lambda: self.steps >= steps)

    def _work(self, number: int, worker: int, pace: float) -> None:
        choice, moment = Random(f"{self.seed} {number} {worker}"), Random(self.seed)
        while not self._over:
            (what,) = choice.choices(list(WEIGHTS), list(WEIGHTS.values()))
            slot = self.slots[worker * PER_WORKER + choice.randrange(PER_WORKER)]
            try:
                self.calls.step("toggle" if what in WITHOUT else what, slot, moment)
            except Exception:  # noqa: BLE001 - it is told with the history
                self.history.contradiction(slot.id, f"the test itself: {traceback.format_exc()}")
            time.sleep(pace * moment.random())
            with self._progress:
                self.steps += 1
                self._progress.notify_all()

    def _resolve(self) -> None:
        """What is in doubt is deleted, as a runtime does it: until DEL answers 0."""
        end = time.monotonic() + SETTLE_SECONDS * SCALE
        for slot in self.slots:
            while slot.state is State.DOUBT and not self.calls.delete(slot):
                if time.monotonic() > end:
                    raise self._failed(f"DEL of {slot.id} does not come to an end", [])

    def _settled(self, when: str) -> None:
        """Nothing is wrong, within a bound."""
        for slot in self.slots:
            if slot.state is State.LOST:  # the agent's to end: it is so when nothing is left of it
                slot.state, slot.answer = State.GONE, None
        end = time.monotonic() + SETTLE_SECONDS * SCALE
        while True:
            try:
                wrong = look.contradictions(self.site, self.slots)
            except (OSError, RuntimeError, ValueError, LookupError, AssertionError) as error:
                wrong = [f"could not look: {error!r}"]
            if self.history.wrong:
                raise self._failed(when, wrong)
            if not wrong:
                self.history.add("look", f"all is well {when}")
                return
            if time.monotonic() > end:
                raise self._failed(when, wrong)
            time.sleep(0.2)

    def _failed(self, when: str, wrong: list[str]) -> Failed:
        lines = [f"seed {self.seed}, {when}:", *self.history.wrong, *wrong]
        chosen = {"BGPCNI_CHAOS_SEEDS": self.seed, "BGPCNI_CHAOS_ROUNDS": self.count}
        kept = {
            name: os.environ[name] for name in ("BGPCNI_CHAOS_FAULTS", "BGPCNI_CHAOS_WITHOUT") if name in os.environ
        }
        again = " ".join(f"{name}='{value}'" for name, value in (chosen | kept).items()) + " make soak"
        folder = os.environ.get("BGPCNI_CHAOS_HISTORY")
        text = self.history.text()
        if folder:
            with open(os.path.join(folder, f"seed-{self.seed}.txt"), "w") as file:
                file.write(text + "\n" + "\n".join(lines) + "\n")
        return Failed("\n".join([*lines, f"again: {again}", "what happened:", text]))
