"""A seed is a history: containers, faults and the order of turns. Run, and shrunk where it fails."""

from __future__ import annotations

import functools
import gc
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from bgpcni.node.next_step import VAIN_SECONDS

from . import world as worlds
from .models import MISHAPS, models
from .scheduler import Endless, Failed, sched
from .world import POLICIES, Container, World

KINDS = (
    "kill agent", "kill agent", "kill agent", "kill speaker", "kill speaker", "lose session", "kill peer", "silence",
    "silence", "mishap", "refuse", "full disk", "stall", "stall", "deaf", "reload", "reload", "reload", "reload",
    "reload", "power cut", "release", "sync", "end space", "drain", "delete by another", "uninstall", "hurry", "hurry",
)  # fmt: skip
CONFIGURATIONS = (("a",), ("b",), ("a", "b"), ("c",), ("b", "c"), ("b", "-a"), ("a", "-b"), (), ("b",), ("c",))


@dataclass(frozen=True, slots=True)
class Fault:
    """`step`: at which operation of the models. `kind`, and a number in [0, 1) for what is left to choose."""

    step: int
    kind: str
    how: float


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is decided before; the order of turns follows from `seed`."""

    seed: int
    containers: tuple[Container, ...]
    faults: tuple[Fault, ...]
    patience: float = 6.0
    trouble: float = 0.0
    """How often, besides, a speaker does not do what it is asked."""


@dataclass(slots=True)
class Result:
    """What became of a plan."""

    plan: Plan
    violations: list[str]
    steps: int = 0
    turns: int = 0
    seconds: float = 0.0
    cause: BaseException | None = field(default=None, repr=False)


def plan_of(seed: int) -> Plan:
    """At least three containers and two faults."""
    dice = random.Random(seed * 2 + 1)
    chance = dice.random
    containers = []
    networks = dice.sample(("unicast", "evpn", "small", "narrow", "lingering"), 2)
    for number in range(3 + int(chance() * 2.5)):
        containers.append(
            Container(
                f"c{number}",
                networks[int(chance() * len(networks))],
                start=chance() * chance() * 2,
                hang_up=1 + int(chance() * 30) if chance() < 0.2 else 0,
                life=chance() * chance() * 3,
                end=("delete", "delete", "delete", "vanish", "abandon", "stay", "stay")[int(chance() * 7)],
                again=chance() < 0.3,
            )
        )
    faults = []
    for _ in range(2 + int(chance() * 4)):
        faults.append(Fault(int(chance() * 600) + 10, KINDS[int(chance() * len(KINDS))], chance()))
    if any(fault.kind == "release" for fault in faults):  # of one that lives, and lives again
        containers[0] = replace(
            containers[0], start=containers[0].start / 4, hang_up=0, life=2.0, end="delete", again=True
        )
    if any(fault.kind == "reload" for fault in faults):  # of one that runs by then
        containers[1] = replace(containers[1], start=0.0, hang_up=0, life=2.0, end="delete")
    if seed % 4 == 0:  # with dice of their own, so that the others are the histories that they were
        more = random.Random(seed * 2 + 2).random
        for _ in range(1 + int(more() * 3)):
            kind = "policies" if more() < 0.7 else "maintenance"
            faults.append(Fault(int(more() * 600) + 10, kind, more()))
    rate = 0.3 * chance() if chance() < 0.4 else 0.0
    order = tuple(sorted(faults, key=lambda fault: fault.step))
    return Plan(seed, tuple(containers), order, 2.0 + 24 * chance(), rate)


LONG = 1000.0
"""Seconds in which all comes to rest, but for a node that is drained and waits for its restart."""


def strike(world: World, fault: Fault) -> None:
    """Have a fault happen now."""
    if worlds.TRACE:
        worlds.told(str(fault))
    how = fault.how
    names = sorted(world.runtimes)
    name = names[int(how * len(names))]
    sessions = [session for speaker in models.speakers.values() for session in speaker.sessions]
    session = sessions[int(how * len(sessions))]
    speaker = session.speaker
    match fault.kind:
        case "kill agent" if how < 0.3:  # when the next record goes
            models.disk.deleted = functools.partial(sched.soon, functools.partial(world.restart, how * 5))
        case "kill agent":
            world.restart(how * 5)
        case "kill speaker" if how < 0.3:
            speaker.mishaps.append("reborn")
        case "kill speaker":
            speaker.die()
            sched.at(sched.now + (how * 20 if how > 0.3 else 0.0), speaker.revive)
        case "lose session":
            session.lose()
            sched.at(sched.now + (how * 1000) % 40, session.establish)
        case "kill peer":
            for other in sessions:
                if other.peer is session.peer:
                    other.lose(routes=True)
                    sched.at(sched.now + (how * 1000) % 40, other.establish)
        case "silence":
            session.silence((how * 1000) % 120)
        case "mishap":
            chosen = MISHAPS[int(how * 100) % len(MISHAPS)]
            speaker.mishaps += [chosen] * (1 + int(how * 1000) % 3)
        case "refuse":
            models.kernel.refusals = 1 + int(how * 3)
        case "full disk":
            models.disk.full = True
            disk = models.disk
            sched.at(sched.now + how * 20, lambda: setattr(disk, "full", False))
        case "stall":
            actors = list(world.agent.process.actors)
            if actors:
                actor = actors[int(how * len(actors))]
                # an exporter that was removed and does nothing for VAIN_SECONDS is given up, with its speaker's routes
                most = VAIN_SECONDS - 1 if actor.name.startswith("announce") else 12
                actor.stalled_until = sched.now + (how * 1000) % most
        case "deaf":
            models.kernel.deaf = True

            def hear() -> None:
                models.kernel.deaf = False
                if world.agent.serving:
                    world.agent.lose_events()

            sched.at(sched.now + how * 10, hear)
        case "reload":
            wanted, later = CONFIGURATIONS[int(how * 100) % len(CONFIGURATIONS)], 0.0
            if wanted == ("b",):  # to one that has pruned already
                world.reload(("a", "-b"))
                later = 0.2
            sched.at(sched.now + later, functools.partial(world.reload, wanted))
            if how < 0.7:  # and some containers' lives end in the middle of the hand-over
                for number, each in enumerate(names):
                    delay = later + 0.002 + (how * 1000 + number * 0.37) % 1 * (0.03 if how < 0.5 else 2.5)
                    # the withdrawal that follows may not be taken, the first time
                    untaken = ["untouched"] * (int(how * 1e5 + number) % 3)
                    sched.at(sched.now + delay, functools.partial(_hurry, world, each, untaken))
            killed = how > 0.7 or (wanted == ("b",) and how * 1e6 % 1 < 0.5)
            if killed:  # the agent, when the old one should withdraw, and does not
                for other in models.speakers.values():
                    sched.at(sched.now + later + 0.95, functools.partial(setattr, other, "mishaps", ["untouched"] * 3))
                sched.at(sched.now + later + 1.02 + how * 1000 % 1 * 0.2, functools.partial(world.restart, 0.1))
            models.kernel.unfit = max(0, int(how * 1000) % 10 - 7)
            if how * 1000 % 1 < 0.5:
                chosen = ("after", "half", "after", "slow")[int(how * 1e5) % 4]
                mishaps = [chosen] * (1 + int(how * 1e4) % 3)
                sched.at(sched.now + later, functools.partial(models.speakers["b"].mishaps.extend, mishaps))
        case "hurry":
            for each in names[: 1 + int(how * 3)]:
                world.hurry(each)
        case "delete by another":
            world.delete_by_another(name)
        case "uninstall":
            world.reload(("b",) if speaker.name == "a" else ("a",), speaker)
        case "power cut":
            world.power_cut(how * 10)
        case "release":
            # of one that is added again after its DEL, if there is any: that may happen before the command has the lock
            again = [each for each in names if world.runtimes[each].living and world.runtimes[each].to_be_added]
            name = again[int(how * len(again))] if again else name
            actor = world.force(name)
            if actor is not None and (again or how * 100 % 1 < 0.6):
                actor.late = how * 1000 % 1 * 0.3
                sched.at(sched.now + how * 1e4 % 1 * 0.002, functools.partial(world.hurry, name))
        case "sync":
            from bgpcni.commands import answers

            world.command(lambda agent: answers.sync(agent.node))
        case "drain":
            world.drain()
        case "policies":
            world.rule(POLICIES[int(how * len(POLICIES))])
        case "maintenance":
            world.maintain()
        case "end space":
            runtime = world.runtimes[name]
            runtime.up = False
            models.kernel.end_space(runtime.container.path)


def _hurry(world: World, name: str, mishaps: list[str]) -> None:
    world.hurry(name)
    models.speakers["b"].mishaps = models.speakers["b"].mishaps or mishaps


def run(plan: Plan) -> Result:
    """Drive it through its faults, to rest, then delete all, to rest again. The models must be `installed`."""
    sched.reset(plan.seed)
    sched.patience = plan.patience
    world = World(plan.containers)
    models.trouble = plan.trouble
    models.by_address = plan.seed % 2 == 1
    world.hasty = plan.seed % 3 > 0
    sched.faults = [
        (fault.step, lambda fault=fault: strike(world, fault))
        for fault in reversed(plan.faults)  # type: ignore[misc]
    ]
    world.start()
    steps = 0
    try:
        _rest(world)
        steps = sched.steps
        world.check()
        if not world.violations:
            for runtime in world.runtimes.values():
                if not runtime.deleted and not runtime.abandoned:
                    sched.spawn(runtime.delete, runtime.process, "last")
            _rest(world)
            world.check()
    except Endless as error:
        world.checking = True
        world.violated(f"no rest: {error}")
    except Failed:
        sched.actor = None
    except Exception as error:  # noqa: BLE001 - of a model, in nobody's thread
        world.checking = True
        world.violated(f"a defect: {type(error).__name__}: {error}", error)
    sched.kill(world.agent.process)
    for runtime in world.runtimes.values():
        sched.kill(runtime.process)
    return Result(plan, world.violations, steps, sched.turns, sched.now - 1000, world.cause)


def each(seeds: Iterable[int]) -> Iterator[Result]:
    """Run them in turn. What a history leaves goes with it, but for circles: those are collected now and then."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        for number, seed in enumerate(seeds):
            yield run(plan_of(seed))
            if number % 400 == 399:
                gc.collect()
    finally:
        gc.enable()
        gc.unfreeze()


def _rest(world: World) -> None:
    """Until nothing happens any more. What a drain ended is begun again."""
    sched.run(horizon=sched.now + LONG)
    models.trouble = 0.0
    if world.draining or not world.agent.process.alive:
        world.restart(0.1)
        sched.run()
    if any(session for speaker in models.speakers.values() for session in speaker.sessions if not session.up):
        for speaker in models.speakers.values():
            speaker.revive()
            for session in speaker.sessions:
                session.establish()
        sched.run()


def shrink(result: Result) -> Result:
    """The fewest containers and faults with which it still fails, as far as leaving out one at a time gets."""
    found = result
    changed = True
    while changed:
        changed = False
        plan = found.plan
        smaller = [replace(plan, faults=plan.faults[:at] + plan.faults[at + 1 :]) for at in range(len(plan.faults))]
        smaller += [
            replace(plan, containers=plan.containers[:at] + plan.containers[at + 1 :])
            for at in range(len(plan.containers) if len(plan.containers) > 1 else 0)
        ]
        for candidate in smaller:
            again = run(candidate)
            if again.violations:
                found, changed = again, True
                break
    return found
