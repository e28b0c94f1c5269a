"""A node of the real core upon the models, with its runtime and its operator; and what must never be.

The core runs as it is: transaction, reconcile, next_step, addressing, convergence, announcers, ledgers, nudges, worker,
and of the agent its start, reload and drain. `installed` puts the models in the place of what it stands on.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from bgpcni import clock, nudges
from bgpcni.agent import agent as agents
from bgpcni.agent import policies
from bgpcni.agent import worker as workers
from bgpcni.cluster.objects import RoutePolicy, parse
from bgpcni.cluster.picture import Pictures
from bgpcni.cni.environment import Command
from bgpcni.commands import answers
from bgpcni.commands.answers import orders
from bgpcni.config.agent import AgentConfig
from bgpcni.convergence import announcer, catalog, convergence
from bgpcni.convergence.derive import ALL, derive
from bgpcni.dataplane import claims
from bgpcni.errors import CniError, KernelRefused
from bgpcni.handler import _VERBS
from bgpcni.ipam import host_local
from bgpcni.kernel import vlans
from bgpcni.model import Announcement, Attachment, AttachmentKey, ExporterUse, Nlri, NodeFacts, State
from bgpcni.node import addressing, boots, failures, node, plan, reconcile, transaction, unreadable, unrecorded
from bgpcni.node.ends import Ends
from bgpcni.node.next_step import VAIN_SECONDS
from bgpcni.node.request import Request, parse_request
from bgpcni.nudges import Nudges

from . import models as m
from .models import Link, Peer, Speaker, models
from .scheduler import Actor, Process, Threading, Time, sched, text_of_now

FACTS = NodeFacts(
    "/run/sim", "/data/sim", asn=64512, router_id="192.0.2.1", local_address="192.0.2.1", next_hop="192.0.2.1",
    next_hop6="2001:db8::1", has_bgp=True, hold_time=90, graceful_restart=120,
)  # fmt: skip
GRACE = 60.0
DEL_SECONDS = 2.0
ANSWERS = [each for each in vars(answers).values() if isinstance(each, ModuleType) and hasattr(each, "interface")]
"""The modules of the operators' answers that use the kernel's links."""

DEFECTS = (AssertionError, AttributeError, LookupError, NameError, RecursionError, TypeError, UnboundLocalError)
"""What neither the core nor a model means to raise, also where somebody makes an error for an operator of it."""


TRACE = False
"""Have everything told, for whoever looks at one history."""


def told(what: str) -> None:
    print(f"{sched.steps:5} {sched.now - 1000:8.3f} {sched.actor.name if sched.actor else '-':14} {what}")


class SilentLog:
    """In place of a module's `log`: nothing is formatted; what is logged as a defect is one."""

    def debug(self, text: object, *arguments: object, extra: object = None, exc_info: bool = False) -> None:
        if TRACE:
            told(str(text) % arguments)
        if exc_info:
            self.exception(str(text), *arguments)

    info = warning = error = debug

    def log(self, level: int, text: str, *arguments: object, extra: object = None) -> None:
        self.debug(text, *arguments)

    def exception(self, text: str, *arguments: object, extra: object = None) -> None:
        import sys

        error = sys.exc_info()[1]
        if isinstance(error, Exception):
            world().violated(f"a defect: {text % arguments}: {type(error).__name__}: {error}", error)


class NoDataPlane:
    def restore(self, attachments: object) -> None:
        pass

    def configure(self, *_: object) -> None:
        if models.kernel.unfit:
            models.kernel.unfit -= 1
            raise KernelRefused("opening VNI 100: Cannot allocate memory")

    def relisten(self) -> None:
        pass


class NumbersInUse:
    """In place of `numbers.NumbersInUse`."""

    def __init__(self, store: m.Store, *, resident: bool) -> None:
        self._numbers = store.disk.numbers

    def of(self, name: str, undo: object) -> int:
        sched.point()
        return self._numbers.setdefault(name, len(self._numbers) + 1)


class MadeOfBridges:
    def __init__(self, store: object) -> None:
        pass

    def add(self, *_: object) -> None:
        pass

    keep = remove = add


class NoSharedAddresses:
    """In place of `shared.SharedAddresses`: no container here asks for one."""

    def set(self, *_: object) -> None:
        pass

    drop = restore = set


class Nothing:
    """In place of what has an open socket."""

    @classmethod
    def open(cls) -> Nothing:
        return _NOTHING


_NOTHING = Nothing()


def words_of_a_defect(error: BaseException) -> str:
    """In place of `catalog._words`: what a model of an exporter raises is no fault that we make."""
    world().violated(f"a defect: {type(error).__name__}: {error}", error)
    return str(error)


# What is pure is reckoned once for the same values: a history asks the same again and again.
_named: dict[tuple[tuple[str, ...], int], tuple[ExporterUse, ...]] = {}
_agents: dict[int, tuple[AgentConfig, tuple[ExporterUse, ...]]] = {}
_really_named, _really_configured, _really_all = plan._named, catalog.configure, plan.configured
_configured_by_speaker: dict[str, Any] = {}
_derived: dict[tuple[int, bool], tuple[Attachment, list[Announcement]]] = {}


def _remembered_names(names: Iterable[str], agent: AgentConfig) -> tuple[ExporterUse, ...]:
    key = tuple(names), id(agent)
    found = _named.get(key)
    if found is None:
        _agents.setdefault(id(agent), (agent, ()))  # which keeps it, and with it its id
        found = _named[key] = _really_named(key[0], agent)
    return found


def _remembered_all(agent: AgentConfig) -> tuple[ExporterUse, ...]:
    found = _agents.get(id(agent))
    if found is None or not found[1]:
        found = _agents[id(agent)] = agent, _really_all(agent)
    return found[1]


def _remembered_configuration(use: ExporterUse, place: str) -> Any:
    speaker = use.config["speaker"]
    if speaker not in _configured_by_speaker:
        _configured_by_speaker[speaker] = _really_configured(use, place)
    return _configured_by_speaker[speaker]


def _remembered_routes(attachment: Attachment, facts: NodeFacts, carried: frozenset[str] = ALL) -> list[Announcement]:
    assert carried >= ALL
    found = _derived.get((id(attachment), facts.maintenance))
    if found is None:
        found = _derived[id(attachment), facts.maintenance] = attachment, derive(attachment, facts)
    return found[1]


def _patches() -> list[tuple[Any, str, Any]]:
    interface = m.Interface
    found: list[tuple[Any, str, Any]] = [(clock, "monotonic", Time.monotonic), (clock, "now", text_of_now)]
    for module in (announcer, convergence, nudges, claims, workers, node, failures, addressing, policies):
        found.append((module, "threading", Threading))
    for module in (announcer, convergence, transaction, reconcile, addressing, agents, orders):
        found.append((module, "time", Time))
    for module in (transaction, reconcile, node, boots, unrecorded, unreadable, *ANSWERS):
        found.append((module, "interface", interface))
    for module in (announcer, convergence, workers, node, transaction, reconcile, agents, addressing, boots, policies):
        found.append((module, "log", SilentLog()))
    found += [
        (announcer, "random", SimpleNamespace(uniform=lambda low, high: low + (high - low) * sched.chance())),
        (catalog, "load", lambda kind: m.ModelExporter),
        (catalog, "configure", _remembered_configuration),
        (catalog, "_words", words_of_a_defect),
        (plan, "_named", _remembered_names),
        (plan, "configured", _remembered_all),
        (convergence, "derive", _remembered_routes),
        (transaction, "Namespace", m.Space),
        (transaction, "bridge", m.Bridge),
        (node, "boot_id", lambda: models.kernel.boot_id),
        (node, "NumbersInUse", NumbersInUse),
        (node, "MadeOfBridges", MadeOfBridges),
        (node, "SharedAddresses", NoSharedAddresses),
        (node, "Herald", Nothing),
        (node, "Reaper", Nothing),
        (node, "Netlink", Nothing),
        (addressing, "_leases_dir", lambda store: "/run/sim/leases"),
        (addressing, "boot_id", lambda: models.kernel.boot_id),
        (addressing, "Reclaimer", m.Reclaimer),
        (host_local, "Leases", m.ModelLeases),
        (host_local, "HostLocal", m.ModelHostLocal),
        (boots, "boot_time_ns", lambda: models.kernel.booted_ns),
        (unrecorded, "_remove_inside", m.remove_inside),
        (unrecorded, "guests", SimpleNamespace(find=lambda *_: ())),
        (unrecorded, "options", SimpleNamespace(remove_unrecorded=lambda *_: None)),
        (unreadable, "options", SimpleNamespace(remove_of=lambda *_: None)),
        (
            agents,
            "facts",
            SimpleNamespace(
                refuse_passwords=lambda config: None,
                resolve=lambda config, others: FACTS,
                acceptable=lambda config, offers: ((), []),
            ),
        ),
        (agents, "load", lambda path: agent_config(world().exporters)),
        (workers.Worker, "_take_down_name", lambda self, key: None),
        (vlans, "require", lambda: None),
    ]
    return found


@contextmanager
def installed() -> Iterator[None]:
    """The models in place of kernel, disk, threads and clock, for as long as it lasts."""
    before = []
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        for owner, name, value in _patches():
            before.append((owner, name, getattr(owner, name)))
            if isinstance(owner, type):
                setattr(owner, name, value)
            else:
                setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in reversed(before):
            setattr(owner, name, value)
        logging.disable(level)


# ---------------------------------------------------------------- configurations


@cache
def agent_config(names: tuple[str, ...]) -> AgentConfig:
    """agent.toml with these exporters as its defaults: `a`, `b`, and `c`, which is `a` by another name; `-a`: it is
    named, and no default."""
    speakers = {"a": "a", "b": "b", "c": "a"}
    return AgentConfig.model_validate(
        {
            "default_exporters": tuple(name for name in names if name[0] != "-"),
            "exporters": {name[-1]: {"type": "model", "speaker": speakers[name[-1]]} for name in names},
            "orphan_grace": GRACE,
            "run_dir": "/run/sim",
            "data_dir": "/data/sim",
        }
    )


NETWORKS: dict[str, dict[str, Any]] = {
    "unicast": {"bgp": {"family": "unicast"}, "range": ("10.1.0.2", "10.1.0.4")},
    "evpn": {"bgp": {"family": "evpn", "vni": 100}, "exportRT": ["64512:100"], "range": ("10.2.0.2", "10.2.0.4")},
    "small": {"bgp": {"family": "unicast"}, "range": ("10.3.0.2", "10.3.0.3")},
    "narrow": {"bgp": {"family": "evpn", "vni": 101}, "exportRT": ["64512:101"], "range": ("10.4.0.2", "10.4.0.3")},
    "lingering": {"bgp": {"family": "unicast", "drainSeconds": 1}, "range": ("10.5.0.2", "10.5.0.4")},
}


WEB = ("c0", "c2")
"""The containers that have a label."""


def _policy(name: str, match: dict[str, Any], **wanted: Any) -> RoutePolicy:
    document = {"apiVersion": "bgpcni.dev/v1alpha1", "kind": "RoutePolicy", "metadata": {"name": name}}
    found = parse({**document, "spec": {"match": match, "set": wanted}})
    assert isinstance(found, RoutePolicy)
    return found


POLICIES: tuple[tuple[RoutePolicy, ...], ...] = (
    (),
    (_policy("all", {}, communities=["64512:1"]),),
    (_policy("all", {}, communities=["64512:2"], med=7),),
    (_policy("web", {"podSelector": {"tier": "web"}}, localPreference=200),),
    (_policy("evpn", {"networks": ["evpn", "narrow"]}, exportRT=["64512:999"]), _policy("web", {}, med=3)),
)


class Maintenance:
    """In place of `agent.maintenance.Maintenance`: what its file has."""

    def __init__(self) -> None:
        self.asked: dict[str, str] = {}

    def ask(self, who: str, *, on: bool, until_reboot: bool = False) -> None:
        sched.point()
        self.asked = {who: "then"} if on else {}


@cache
def request_of(command: str, network: str, container: str) -> Request:
    section = dict(NETWORKS[network])
    first, last = section.pop("range")
    network_part = first.rpartition(".")[0]
    subnet, gateway = f"{network_part}.0/24", f"{network_part}.1"
    document = {
        "cniVersion": "1.0.0", "name": network, "type": "bgpcni", "bridge": f"br-{network}", "isGateway": True,
        "ipam": {
            "type": "host-local", "dataDir": "/leases",
            "ranges": [[{"subnet": subnet, "rangeStart": first, "rangeEnd": last, "gateway": gateway}]],
        },
        **section,
        **({"args": {"cni": {"labels": {"tier": "web"}}}} if container in WEB else {}),
    }  # fmt: skip
    variables = {
        "CNI_COMMAND": command, "CNI_CONTAINERID": container, "CNI_IFNAME": "eth0",
        "CNI_NETNS": f"/run/netns/{container}", "CNI_PATH": "/opt/cni/bin",
    }  # fmt: skip
    return parse_request(variables, json.dumps(document).encode())


# ---------------------------------------------------------------- the node's process


class Agent:
    """One life of `bgpcni agent`."""

    def __init__(self, config: AgentConfig) -> None:
        self.process = Process("agent")
        self.config = config
        self.serving = False
        self.running: agents.Running
        self.replies: set[Call] = set()

    def start(self) -> None:
        sched.spawn(self._run, self.process, "main")

    def _run(self) -> None:
        running = agents.Running.__new__(agents.Running)
        store: Any = m.Store(models.disk)
        nudges = Nudges()
        facts = replace(FACTS, maintenance=bool(world().maintenance.asked))
        made = convergence.Convergence(facts, nudges, spare=store.unreadable)
        running._changing = Threading.Lock()
        running._applied = True
        running._cluster = running._pools = agents.Alone()
        running._maintenance = world().maintenance  # type: ignore[assignment]
        running._policies = policies.Policies(world().pictures, dict, self.config, nudges)
        running._ends = Ends(lambda version: None)
        running._config_path = Path("agent.toml")
        running._dataplane = NoDataPlane()  # type: ignore[assignment]
        running.node = node.Node(store, self.config, facts, made, nudges, policies=running._policies)
        running.worker = workers.Worker(running.node)
        self.running = running
        store.sweep()
        models.kernel.listener = self._link_gone
        made.employ(plan.configured(self.config))
        try:
            running._restore()
        except CniError:  # it ends, and is started again
            sched.soon(lambda: world().restart(1.0))
            return
        running.node.claims.load()
        made.start()
        sched.spawn(running.worker.run, self.process, "worker")
        running.worker.look_at_all()
        running.worker.retire_soon()
        self.serving = True
        world().serve()

    @property
    def node(self) -> node.Node:
        return self.running.node

    def _link_gone(self, index: int) -> None:
        """The kernel's event, heard some time later."""
        if self.process.alive:
            sched.spawn(lambda: self.running.worker.link_gone(index), self.process, "monitor")

    def lose_events(self) -> None:
        sched.spawn(lambda: self.running.worker.look_at_all(), self.process, "monitor")

    def kill(self) -> None:
        models.kernel.listener = None
        self.serving = False
        sched.kill(self.process)
        for speaker in models.speakers.values():
            speaker.client = None
        for reply in list(self.replies):
            reply.answer("reset")


@dataclass(eq=False, slots=True)
class Call:
    """One call of the runtime. `outcome`: "" while it runs, `ok`, `error`, or `reset` where its agent died."""

    outcome: str = ""
    error: BaseException | None = None
    hung_up: bool = False
    waiting: list[Actor] = field(default_factory=list)

    def answer(self, outcome: str, error: BaseException | None = None) -> None:
        self.outcome, self.error = outcome, error
        for actor in list(self.waiting):
            sched.wake(actor)


# ---------------------------------------------------------------- containers


@dataclass(frozen=True, slots=True)
class Container:
    """What its runtime does. `hang_up`: turns until the ADD's caller dies, 0: it does not. `end`: `delete`, `vanish`
    (its namespace dies, and DEL comes after), `abandon` (no DEL comes), `stay`. `life`: seconds until then."""

    name: str
    network: str
    start: float = 0.0
    hang_up: int = 0
    life: float = 1.0
    end: str = "delete"
    again: bool = False

    @property
    def key(self) -> AttachmentKey:
        return AttachmentKey(self.network, self.name, "eth0")

    @property
    def path(self) -> str:
        return f"/run/netns/{self.name}"


class Runtime:
    """The runtime's side of one container, and what it knows: whether it is up, and whether it is deleted."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self.up = False
        self.deleting = False
        self.deleted = False
        self.abandoned = False
        self.forced = False
        self.to_be_added = container.again
        """A second life follows this one."""
        self.living: Actor | None = None
        """Who waits for its life to end."""
        self.process = Process(container.name)
        self.done = False

    def start(self) -> None:
        sched.spawn(self._run, self.process, self.container.name)

    def _run(self) -> None:
        container = self.container
        sched.sleep(container.start)
        for life in range(2 if container.again else 1):
            self.to_be_added = container.again and life == 0
            models.kernel.spaces[container.path] = models.kernel.number()
            self.deleting = self.deleted = False
            boots = models.kernel.boots
            outcome = self._call("ADD", container.hang_up)
            if outcome == "error":
                self._call("DEL")
                outcome = self._call("ADD")
            if outcome == "ok" and boots == models.kernel.boots:
                self.up = container.path in models.kernel.spaces
                world().added(self)
                self.living = sched.actor
                sched.sleep(container.life)
                self.living = None
            if container.end == "stay" and self.up:
                break
            if container.end in ("vanish", "abandon"):
                self.up = False
                models.kernel.end_space(container.path)
                sched.sleep(container.life)
            if container.end == "abandon" and outcome == "ok":
                self.abandoned = True
                break
            self.delete()
        self.done = True

    def delete(self) -> None:
        """DEL until it answers 0."""
        self.deleting, self.up = True, False
        while self._call("DEL") != "ok":
            sched.sleep(0.5)
        self.deleted = True
        world().deleted(self)
        models.kernel.end_space(self.container.path)

    def reboot(self) -> None:
        """Its container ended with the node. Its runtime sends a DEL all the same."""
        self.up = False

    def _call(self, command: str, hang_up: int = 0) -> str:
        w = world()
        while not (w.agent.serving and w.agent.process.alive):
            sched.block(w.callers, 1.0)
        agent, call = w.agent, Call()
        request = replace(
            request_of(command, self.container.network, self.container.name), hung_up=lambda: call.hung_up
        )
        agent.replies.add(call)
        actor = sched.spawn(
            lambda: _serve(agent, call, command, request), agent.process, f"{command} {self.container.name}"
        )
        limit = sched.now + hang_up * 0.0005 if hang_up else None
        if limit is not None and hang_up % 2:  # it is overtaken by what its caller's end brings
            actor.stalled_until = limit + hang_up % 7 * 0.01
        while not call.outcome:
            if not sched.block(call.waiting, None if limit is None else limit - sched.now) and not call.outcome:
                call.hung_up = True
                return "hung up"
        agent.replies.discard(call)
        return call.outcome


def _serve(agent: Agent, call: Call, command: str, request: Request) -> None:
    try:
        answer = _VERBS[Command(command)](agent.node, request)
    except CniError as error:
        world().look_behind(error)
        call.answer("error", error)
        return
    except Exception as error:  # noqa: BLE001 - as handler.handle: an internal error, and a defect
        world().violated(f"{command} {request.key}: {type(error).__name__}: {error}", error)
        call.answer("error", error)
        return
    call.answer("ok")
    for job in answer.after:
        sched.point()
        job()


# ---------------------------------------------------------------- all of it


class World:
    """One history's node. It is told of the moments that count (`models.Watch`)."""

    def __init__(self, containers: tuple[Container, ...], peers: int = 2) -> None:
        self.violations: list[str] = []
        self.checking = False
        """At rest everything that is wrong is told; until then the first thing ends the history."""
        self.cause: BaseException | None = None
        self.trace: list[str] | None = None
        self.callers: list[Actor] = []
        self.lost: set[str] = set()
        """Addresses that a power cut made the node forget."""
        self.draining = self.drained = False
        self.hasty = False
        self.silenced = False
        self.exporters: tuple[str, ...] = ("a",)
        self.pictures = Pictures()
        self.maintenance = Maintenance()
        global _world
        _world = self
        _derived.clear()
        models.reset(self, ("a", "b"), peers)
        self.runtimes = {container.name: Runtime(container) for container in containers}
        self.agent = Agent(agent_config(self.exporters))
        self.operator = Process("operator")
        sched.crash = lambda actor, error: self.violated(f"{actor.name}: {type(error).__name__}: {error}", error)

    def start(self) -> None:
        self.agent.start()
        for runtime in self.runtimes.values():
            runtime.start()

    def serve(self) -> None:
        for actor in list(self.callers):
            sched.wake(actor)

    def violated(self, what: str, cause: BaseException | None = None) -> None:
        if not self.violations:
            self.cause = cause
        self.violations.append(f"{sched.steps} {sched.now - 1000:.3f}: {what}")
        if not self.checking:
            sched.fail()

    def look_behind(self, error: BaseException) -> None:
        """An error for a runtime or an operator must not hide a defect."""
        behind: BaseException | None = error
        while behind is not None:
            if isinstance(behind, DEFECTS):
                self.violated(f"a defect: {type(behind).__name__}: {behind}", behind)
            behind = behind.__context__

    # ---------------------------------------------------------------- faults

    def restart(self, seconds: float) -> None:
        """The agent is killed, and started again after a while."""
        if not self.agent.process.alive:
            return
        self.agent.kill()
        self.draining = False
        sched.at(sched.now + seconds, self._start)

    def _start(self) -> None:
        if not self.agent.process.alive:
            self.install()
            self.agent = Agent(agent_config(self.exporters))
            self.agent.start()

    def power_cut(self, seconds: float) -> None:
        before = {digest for folder in models.disk.records.values() for digest in folder}
        self.agent.kill()
        for speaker in models.speakers.values():
            speaker.die()
            sched.at(sched.now + seconds + 1, speaker.revive)
        models.kernel.reboot()
        models.disk.power_cut(sched.chance)
        store = m.Store(models.disk)
        for runtime in self.runtimes.values():
            runtime.reboot()
            digest = runtime.container.key.digest
            if digest in before and ((stored := store.find_digest(digest)) is None or stored.attachment is None):
                self.lost.add(runtime.container.name)
        sched.at(sched.now + seconds, self._start)

    def command(self, what: Callable[[Agent], object]) -> Actor | None:
        """The operator says something to the agent, if there is one; errors are for the operator."""
        agent = self.agent
        if not agent.serving:
            return None

        def run() -> None:
            try:
                what(agent)
            except CniError as error:
                self.look_behind(error)

        return sched.spawn(run, agent.process, "operator")

    def reload(self, names: tuple[str, ...], uninstalled: Speaker | None = None) -> None:
        """agent.toml changes; the speaker that it does not name any more may be uninstalled at once."""

        def run(agent: Agent) -> None:
            self.silenced |= not names
            before, self.exporters = self.exporters, names  # agent.toml is changed first
            try:
                agent.running.reload()
            except CniError:
                self.exporters = before
                while not agent.running._applied:
                    sched.sleep(1.0)
                    with suppress(CniError):
                        agent.running._keep_configuration()
                raise
            if uninstalled is not None and uninstalled.name not in self.named():
                uninstalled.uninstall()
            self.install()

        self.command(run)

    def rule(self, wanted: tuple[RoutePolicy, ...]) -> None:
        """The cluster's policies change; the agent hears of it some time later, or when it starts."""
        self.pictures.put({item.path: item for item in wanted})
        agent = self.agent
        if agent.serving and agent.process.alive:
            ruling: Any = agent.running._policies
            sched.spawn(lambda: ruling._judge(self.pictures.last), agent.process, "policies")

    def maintain(self) -> None:
        """The operator has peers prefer other paths, or takes that back."""
        self.command(lambda agent: agent.running.maintain("operator", on=not self.maintenance.asked))

    def named(self) -> set[str]:
        """The speakers that agent.toml names."""
        return {"b" if name[-1] == "b" else "a" for name in self.exporters}

    def install(self) -> None:
        """What agent.toml names is there."""
        for speaker in models.speakers.values():
            if speaker.gone and speaker.name in self.named():
                speaker.gone = False
                sched.at(sched.now + 1, speaker.revive)

    def hurry(self, name: str) -> None:
        """A container's life ends sooner."""
        living = self.runtimes[name].living
        if living is not None:
            self.runtimes[name].living = None
            sched.wake(living)

    def delete_by_another(self, name: str) -> None:
        """The stock plugin gets the DEL: link and lease go, and nobody tells us."""
        runtime = self.runtimes[name]
        if not runtime.up or runtime.living is None:
            return
        container = runtime.container
        runtime.up, runtime.abandoned = False, True
        sched.kill(runtime.process)
        models.kernel.end_space(container.path)
        folder = models.disk.leases.get(f"/leases/{container.network}", {})
        for address in [address for address, entry in folder.items() if entry.owner[0] == container.name]:
            del folder[address]
        self.lost.add(name)  # the other plugin does not wait for any withdrawal

    def force(self, name: str) -> Actor | None:
        runtime = self.runtimes[name]

        def run(agent: Agent) -> None:
            runtime.forced = True
            answers.release(agent.node, name, force=True)

        return self.command(run)

    def drain(self) -> None:
        def run(agent: Agent) -> None:
            self.draining = self.drained = True
            agent.running.drain(30.0)

        self.command(run)

    # ---------------------------------------------------------------- at the moment

    def added(self, runtime: Runtime) -> None:
        """An ADD answered success."""
        container = runtime.container
        if container.path in models.kernel.spaces and models.kernel.of_key(container.key) is None:
            self.violated(f"ADD of {container.name} answered success, and there is no link")

    def deleted(self, runtime: Runtime) -> None:
        """A DEL answered 0."""
        container = runtime.container
        if models.kernel.of_key(container.key) is not None:
            self.violated(f"DEL of {container.name} answered 0, and its link is there")
        for state in (State.ADDING, State.UP):
            found = models.disk.records[state].get(container.key.digest)
            if found is not None and container.key.digest not in models.disk.unmoved:
                self.violated(f"DEL of {container.name} answered 0, and its record is {state}")

    def given(self, address: str, network: str, container_id: str, *, taken: bool) -> None:
        """An address is leased: does anybody still route it to another container?"""
        prefix = f"{address}/32"
        for place, table in self._tables():
            for nlri, route in table.items():
                end = route.endpoint
                if nlri.prefix != prefix or end is None or end.container_id == container_id:
                    continue
                if end.container_id in self.lost or self.runtimes[end.container_id].forced:
                    continue
                if taken and network != "narrow" and network != "evpn" and self._is_exhausted(network):
                    continue  # rule 2: on this node, with the same NLRI and the same next hop
                if self._is_given_up(place, nlri):
                    continue
                self.violated(f"{address} is given to {container_id}, and {place} routes it to {end.container_id}")

    def _is_given_up(self, place: str, nlri: Nlri) -> bool:
        """Rule 2: nobody waits for ever for a speaker that was removed from agent.toml and is away. Its peers keep what
        they had from it for a graceful restart."""
        for speaker in models.speakers.values():
            since = speaker.uninstalled
            if since is not None and sched.now - since >= VAIN_SECONDS:
                for session in speaker.sessions:
                    if place == f"{session.peer.name} from {speaker.name}":
                        return not session.up or nlri in session.stale
        return False

    def _is_exhausted(self, network: str) -> bool:
        first, last = NETWORKS[network]["range"]
        size = int(last.rpartition(".")[2]) - int(first.rpartition(".")[2]) + 1
        leases = models.disk.leases.get(f"/leases/{network}", {})
        return sum(1 for name in leases if name[0] != "l") >= size

    def _tables(self) -> Iterator[tuple[str, dict[Nlri, Announcement]]]:
        for speaker in models.speakers.values():
            yield speaker.name, speaker.table
        for peer in models.peers:
            for name, table in peer.routes.items():
                yield f"{peer.name} from {name}", table

    def withdrawn(self, peer: Peer, speaker: Speaker, nlri: Nlri, route: Announcement) -> None:
        """A peer takes a route out of its table: is it that of a container that runs, and has it no other?"""
        if route.endpoint is None or self.drained:
            return
        runtime = self.runtimes.get(route.endpoint.container_id)
        if runtime is None or not runtime.up or runtime.container.path not in models.kernel.spaces:
            return
        if self.silenced:
            return  # nothing was to be announced for a while
        link = models.kernel.of_key(runtime.container.key)
        if link is None or link.index != route.endpoint.host_index or peer.best(nlri) is not None:
            return
        for other in models.speakers.values():
            if not other.alive or not all(session.up for session in other.sessions if session.peer is peer):
                return  # nobody can help it
        self.violated(f"{peer.name} loses {nlri} of {runtime.container.name}, which runs")

    def stuck(self, routes: Sequence[Announcement]) -> None:
        """A verb does not answer any more. Meanwhile the containers of its routes may be deleted."""
        if self.hasty:
            for route in routes:
                if route.endpoint is not None:
                    self.hurry(route.endpoint.container_id)

    def link_removed(self, link: Link) -> None:
        """We remove a link: the routes to it are to be withdrawn by now."""
        for name, at_work in self.agent.node.convergence._announcers.items():
            if at_work._ledger._owned.get(link.key) and at_work._ledger.standing(link.key, None).value == "announced":
                self.violated(f"the link of {link.key} goes, and {name} announces it")

    # ---------------------------------------------------------------- at rest

    def check(self) -> None:
        """Everything is as it should be, now that nothing happens any more."""
        self.checking = True
        alive = {name: runtime for name, runtime in self.runtimes.items() if self._is_alive(runtime)}
        records = {}
        for state in State:
            for digest, (_, attachment) in models.disk.records[state].items():
                records[digest] = (state, attachment)
        keys = {runtime.container.key.digest: runtime for runtime in alive.values()}
        for digest, (state, attachment) in records.items():
            if digest not in keys:
                self.violated(f"the record of {attachment.key if attachment else digest} is left in {state}")
        for digest, runtime in keys.items():
            if digest not in records or records[digest][0] is not State.UP:
                self.violated(f"{runtime.container.name} runs, and has no record that is up")
        self._check_links(alive)
        attachments = [item for digest, (_, item) in records.items() if digest in keys and item is not None]
        self._check_leases(attachments, set(alive))
        self._check_routes(attachments)
        self._check_memory(set(alive))
        self.checking = False

    def _is_alive(self, runtime: Runtime) -> bool:
        return runtime.up

    def _check_links(self, alive: dict[str, Runtime]) -> None:
        for link in models.kernel.links.values():
            if link.key.container_id not in alive:
                self.violated(f"the link of {link.key} is left")
        for name, runtime in alive.items():
            if models.kernel.of_key(runtime.container.key) is None:
                self.violated(f"{name} runs, and has no link")

    def _check_leases(self, attachments: list[Attachment], alive: set[str]) -> None:
        for folder, entries in models.disk.leases.items():
            for address, entry in entries.items():
                owner = entry.owner[0]
                forgotten = owner in self.lost and folder not in models.disk.reclaimed  # by the network's next ADD
                if address[0] != "l" and owner not in alive and not forgotten:
                    self.violated(f"the lease of {address} in {folder} is left to {owner}")
        used: dict[str, str] = {}
        for attachment in attachments:
            for item in attachment.addresses:
                address = item.address.partition("/")[0]
                if address in used:
                    self.violated(f"{address} is that of {used[address]} and of {attachment.container_id}")
                used[address] = attachment.container_id
                entry = models.disk.leases.get(f"/leases/{attachment.network}", {}).get(address)
                if entry is None or entry.owner[0] != attachment.container_id:
                    self.violated(f"{attachment.container_id} runs with {address}, which is not leased to it")

    def _check_routes(self, attachments: list[Attachment]) -> None:
        wanted: dict[str, dict[Nlri, dict[str, Announcement]]] = {name: {} for name in models.speakers}
        facts = replace(FACTS, maintenance=bool(self.maintenance.asked))
        for attachment in attachments:
            if self.agent.node.is_outdated(attachment):
                self.violated(f"the record of {attachment.key} does not say what policies do: {attachment.bgp}")
            for use in plan.exporters_now(attachment.network, attachment.asked, self.agent.node.agent, resident=True):
                for route in derive(attachment, facts):
                    owners = wanted[use.config["speaker"]].setdefault(route.nlri, {})
                    owners[attachment.container_id] = route
        for place, name, table in [
            *(
                (f"{peer.name} from {name}", name, table)
                for peer in models.peers
                for name, table in peer.routes.items()
            ),
            *((speaker.name, speaker.name, speaker.table) for speaker in models.speakers.values()),
        ]:
            for nlri, route in table.items():
                owners = wanted[name].get(nlri)
                if owners is None:
                    self.violated(f"{place} has {nlri}, which nobody announces")
                elif route.endpoint is not None and route.endpoint.container_id not in owners:
                    self.violated(f"{place} has {nlri} of {route.endpoint.container_id}, not of {[*owners]}")
                elif _attributes(route) not in map(_attributes, owners.values()):
                    self.violated(f"{place} has {nlri} with {_attributes(route)}, not {[*owners.values()]}")
            for nlri in wanted[name]:
                if nlri not in table:
                    self.violated(f"{place} lacks {nlri} of {[*wanted[name][nlri]]}")

    def _check_memory(self, alive: set[str]) -> None:
        node = self.agent.node
        for key in node.seen:
            self.violated(f"the reconciler remembers {key}: {node.seen[key]}")
        for key in [*node.nudges._due, *node.nudges._attended]:
            self.violated(f"{key} is nudged for")
        for key in {*node.claims._claims, *node.by_link.values()}:
            if key.container_id not in alive:
                self.violated(f"claims or watches of {key} are left")
        for name, at_work in node.convergence._announcers.items():
            ledger = at_work._ledger
            for key in {*ledger._owned, *ledger._leaving, *ledger._gone}:
                if key.container_id not in alive:
                    self.violated(f"the ledger of {name} knows {key}")
            for nlri, entry in ledger.entries.items():
                if not entry.owners:
                    self.violated(f"the ledger of {name} has {nlri}, which nobody wants")
            if not ledger.quiet:
                self.violated(f"{name} is not quiet")
        if node.convergence._unreachable:
            self.violated(f"unreachable: {node.convergence._unreachable}")


def _attributes(route: Announcement) -> tuple[object, ...]:
    return route.communities, route.local_preference, route.med, route.export_rt


_world: World | None = None


def world() -> World:
    assert _world is not None
    return _world
