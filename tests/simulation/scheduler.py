"""Actors in place of threads, one at a time, in an order that a seed decides; a clock that jumps; locks of its own.

Every operation of a model, every lock and every wait is a `point`: there, and nowhere else, another actor may come
to turn, a fault may strike, the process may be killed. Between two points an actor runs alone, so a seed is a history.
"""

from __future__ import annotations

import functools
import heapq
import random
from collections.abc import Callable
from types import TracebackType
from typing import Any

from greenlet import getcurrent, greenlet

MOST_STEPS = 40_000
"""In one history; more is a loop without an end."""
IDLE = 5.0
"""Seconds without anything to do after which a fault comes although its step has not."""
TICK = 0.0005
"""Seconds that pass with every change of turn."""


class Killed(BaseException):
    """The actor's process was killed: it must not do anything more."""


class Endless(AssertionError):
    """The history does not come to rest."""


class Process:
    """What is killed together."""

    __slots__ = ("actors", "alive", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.actors: dict[Actor, None] = {}


class Actor(greenlet):
    """One thread. `timeout`: the wait it is in ended by its time."""

    def __init__(self, run: Callable[[], object], process: Process, name: str) -> None:
        super().__init__(self._main, sched.hub)
        self._target = run
        self.process = process
        self.name = name
        self.waiting: list[Actor] | None = None
        self.wait = 0
        self.timed_out = False
        self.stalled_until = 0.0
        self.joiners: list[Actor] = []
        process.actors[self] = None

    def _main(self) -> None:
        try:
            self._target()
        except Killed:
            pass
        except Exception as error:  # noqa: BLE001 - a thread that dies is a defect, and must not end the scheduler
            sched.crashed(self, error)
        finally:
            self.process.actors.pop(self, None)
            for joiner in self.joiners:
                sched.wake(joiner)


class Scheduler:
    """The only one of this process; `reset` begins a history."""

    def __init__(self) -> None:
        self.hub = getcurrent()
        self.reset(0)

    def reset(self, seed: int) -> None:
        self.hub = getcurrent()
        self.random = random.Random(seed)
        self.chance = self.random.random
        self.now = 1000.0
        self.steps = 0
        self.turns = 0
        self.ready: list[Any] = []
        self.timers: list[tuple[float, int, Any, int]] = []
        self.order = 0
        self.actor: Actor | None = None
        self.faults: list[tuple[int, Callable[[], None]]] = []
        self.unwinding = False
        self.patience = 3.0
        self.crash: Callable[[Actor, BaseException], None] = lambda actor, error: None
        self._next_stop = 0
        self._plan()

    def crashed(self, actor: Actor, error: BaseException) -> None:
        self.crash(actor, error)

    # ---------------------------------------------------------------- points

    def point(self) -> None:
        """Here another may come to turn. Raises Killed in an actor whose process is dead."""
        self.steps += 1
        if self.steps >= self._next_stop:
            self._stop()

    def _stop(self) -> None:
        if self.unwinding:
            raise Killed
        if self.actor is None:
            return  # the hub itself, or somebody who looks from outside
        self._plan()
        self.ready.append(self.actor)
        self.hub.switch()

    def _plan(self) -> None:
        """When the next change of turn comes, if nobody waits before."""
        stop = self.steps + 1 + int(self.chance() * self.patience)
        if self.faults and self.faults[-1][0] < stop:
            stop = self.faults[-1][0]
        self._next_stop = stop

    # ---------------------------------------------------------------- waiting

    def block(self, queue: list[Actor] | None, seconds: float | None) -> bool:
        """Wait until woken; False when `seconds` passed before."""
        actor = self.actor
        if self.unwinding or actor is None:
            raise Killed
        actor.wait += 1
        actor.timed_out = False
        actor.waiting = queue
        if queue is not None:
            queue.append(actor)
        if seconds is not None:
            self.at(self.now + max(seconds, 0.0), actor)
        self._plan()
        self.hub.switch()
        return not actor.timed_out

    def wake(self, actor: Actor) -> None:
        """Its wait is over."""
        if actor.dead or not actor.process.alive:
            return
        actor.wait += 1
        if actor.waiting is not None:
            if actor in actor.waiting:
                actor.waiting.remove(actor)
            actor.waiting = None
        self.ready.append(actor)

    def sleep(self, seconds: float) -> None:
        self.block(None, seconds)

    def at(self, when: float, what: Any) -> None:
        """Wake an actor, or call a function, at that time."""
        self.order += 1
        heapq.heappush(self.timers, (when, self.order, what, what.wait if isinstance(what, Actor) else 0))

    def soon(self, what: Callable[[], None]) -> None:
        """Call a function, from the hub, when its turn comes."""
        self.ready.append(what)

    def spawn(self, run: Callable[[], object], process: Process, name: str = "") -> Actor:
        actor = Actor(run, process, name)
        self.ready.append(actor)
        return actor

    def kill(self, process: Process) -> None:
        """End all its actors where they are; what they would do on their way out they do not. From the hub."""
        process.alive = False
        self.unwinding, before = True, self._next_stop
        self._next_stop = 0
        try:
            while process.actors:
                actor = next(iter(process.actors))
                if actor.waiting is not None and actor in actor.waiting:
                    actor.waiting.remove(actor)
                actor.wait += 1
                previous, self.actor = self.actor, actor
                while actor:  # it has begun, and is not at its end
                    actor.throw(Killed)
                self.actor = previous
                process.actors.pop(actor, None)
        finally:
            self.unwinding, self._next_stop = False, before
        self.ready[:] = [one for one in self.ready if not (isinstance(one, Actor) and not one.process.alive)]

    # ---------------------------------------------------------------- the hub

    def run(self, until: Callable[[], bool] = lambda: False, horizon: float | None = None) -> None:
        """Until nothing is left to do, `until` holds, or the clock passes `horizon`. Faults strike when due."""
        while not until():
            self.turns += 1
            if self.steps > MOST_STEPS or self.turns > MOST_STEPS:
                raise Endless(f"{self.steps} steps, {self.turns} turns, {self.now - 1000:.1f} s")
            while self.faults and self.faults[-1][0] <= self.steps:
                self.faults.pop()[1]()
            self.now += TICK
            timers = self.timers
            while timers and timers[0][0] <= self.now:
                self._due(heapq.heappop(timers))
            ready = self.ready
            if not ready:
                if self.faults and (not timers or timers[0][0] > self.now + IDLE):  # nothing happens before it for long
                    self.steps = self.faults[-1][0]
                    continue
                if not timers or (horizon is not None and timers[0][0] > horizon):
                    return
                self.now = timers[0][0]
                continue
            place = int(self.chance() * len(ready))
            ready[place], ready[-1] = ready[-1], ready[place]
            chosen = ready.pop()
            if type(chosen) is not Actor:
                chosen()
            elif chosen.stalled_until > self.now:
                self.at(chosen.stalled_until, functools.partial(ready.append, chosen))
            elif chosen.process.alive and not chosen.dead:
                self.actor = chosen
                chosen.switch()
                self.actor = None

    def _due(self, timer: tuple[float, int, Any, int]) -> None:
        _, _, what, wait = timer
        if type(what) is not Actor:
            self.ready.append(what)
        elif what.wait == wait and not what.dead:
            what.timed_out = True
            self.wake(what)


sched: Scheduler
sched = Scheduler.__new__(Scheduler)
sched.__init__()  # type: ignore[misc]


# ---------------------------------------------------------------- in place of `threading`


class Lock:
    """As threading.Lock; `reentrant`: as threading.RLock."""

    __slots__ = ("depth", "owner", "queue")
    reentrant = False

    def __init__(self) -> None:
        self.owner: object = None
        self.depth = 0
        self.queue: list[Actor] = []

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        me = sched.actor or self
        if self.owner is me and self.reentrant:  # nobody else can tell that from holding it: no point
            self.depth += 1
            return True
        sched.point()
        if self.owner is None:
            self.owner = me
            return True
        if not blocking:
            return False
        deadline = None if timeout < 0 else sched.now + timeout
        while self.owner is not None:
            if not sched.block(self.queue, None if deadline is None else deadline - sched.now):
                return False
        self.owner = me
        return True

    def release(self) -> None:
        if self.depth:
            self.depth -= 1
            return
        self.owner = None
        if self.queue:
            sched.wake(self.queue[0])

    def __enter__(self) -> bool:
        s = sched
        if self.owner is None and s.steps + 1 < s._next_stop:  # as `acquire`, for the most frequent case
            s.steps += 1
            self.owner = s.actor or self
            return True
        return self.acquire()

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.depth:  # as `release`
            self.depth -= 1
            return
        self.owner = None
        if self.queue:
            sched.wake(self.queue[0])


class RLock(Lock):
    __slots__ = ()
    reentrant = True


class Condition(RLock):
    """As threading.Condition, with an RLock of its own."""

    __slots__ = ("sleepers",)

    def __init__(self) -> None:
        super().__init__()
        self.sleepers: list[Actor] = []

    def wait(self, timeout: float | None = None) -> bool:
        depth, self.depth = self.depth, 0
        self.release()
        try:
            return sched.block(self.sleepers, timeout)
        finally:
            if not sched.unwinding:
                while self.owner is not None:
                    sched.block(self.queue, None)
                self.owner, self.depth = sched.actor, depth

    def wait_for(self, holds: Callable[[], bool], timeout: float | None = None) -> bool:
        deadline = None if timeout is None else sched.now + timeout
        while not holds():
            if deadline is not None and sched.now >= deadline:
                return False
            self.wait(None if deadline is None else deadline - sched.now)
        return True

    def notify(self) -> None:
        if self.sleepers:
            sched.wake(self.sleepers[0])

    def notify_all(self) -> None:
        while self.sleepers:
            sched.wake(self.sleepers[0])


class Thread:
    """As threading.Thread: of the process whose actor makes it."""

    def __init__(
        self, target: Callable[..., object], args: tuple[Any, ...] = (), name: str = "", daemon: bool = False
    ) -> None:
        self._run = (lambda: target(*args)) if args else target
        self._name = name
        self._actor: Actor | None = None

    def start(self) -> None:
        assert sched.actor is not None
        self._actor = sched.spawn(self._run, sched.actor.process, self._name)

    def join(self, timeout: float | None = None) -> None:
        if self._actor is not None and not self._actor.dead and self._actor is not sched.actor:
            sched.block(self._actor.joiners, timeout)

    def is_alive(self) -> bool:
        return self._actor is not None and not self._actor.dead


class Timer(Thread):
    """As threading.Timer."""

    def __init__(self, interval: float, function: Callable[[], object]) -> None:
        self._cancelled = False

        def run() -> None:
            sched.sleep(interval)
            if not self._cancelled:
                function()

        super().__init__(run, name="timer")
        self.daemon = True

    def cancel(self) -> None:
        self._cancelled = True


class Local:
    pass


class Threading:
    """The module."""

    Lock, RLock, Condition, Thread, Timer, local = Lock, RLock, Condition, Thread, Timer, Local

    @staticmethod
    def get_ident() -> int:
        return id(getcurrent())


class Time:
    """The module `time`, as the core uses it."""

    @staticmethod
    def monotonic() -> float:
        return sched.now

    perf_counter = monotonic

    @staticmethod
    def sleep(seconds: float) -> None:
        sched.sleep(seconds)


def text_of_now() -> str:
    """In place of `clock.now`."""
    minute, second = divmod(sched.now, 60)
    return f"{_minute(minute)}{second:06.3f}Z"


@functools.cache
def _minute(number: float) -> str:
    return f"2026-01-01T{int(number) // 60:02}:{int(number) % 60:02}:"
