"""What the node's core stands on, as models: disk, kernel, BGP speakers with their peers. Every operation is a `point`.

Each may be told to fail for a while (`disk.full`, `kernel.refusals`, `speaker.mishaps`, `session.lossy`). What is
forbidden at the very moment that it happens, as giving an address that a peer routes to another, is told to `watch`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, ClassVar, Literal, Protocol

from bgpcni.errors import InvalidEnvironment, IoFailure, KernelRefused, TryAgain
from bgpcni.exporter import ATTRIBUTES, Exporter, NotThereYet, Outcome, Reach
from bgpcni.ipam.host_local import HostLocal
from bgpcni.ipam.leases import Entry, Leases, content_of
from bgpcni.kernel.namespace import NotANamespace
from bgpcni.model import ROUTES, Announcement, Attachment, AttachmentKey, Nlri, State
from bgpcni.node import plan
from bgpcni.store import Stored

from .scheduler import Actor, Lock, sched

EPOCH_NS = 1_767_225_600_000_000_000
HOLD_TIME, GRACEFUL_RESTART = 90.0, 120.0
STALE_PATH = 360.0
"""For so long a peer keeps what a session had before, where End-of-RIB does not come."""
CERTAINLY_GONE = HOLD_TIME + GRACEFUL_RESTART + 30
_ORDER = (State.UP, State.LEAVING, State.ADDING)


class Watch(Protocol):
    """What wants to know of the moments that count."""

    def given(self, address: str, network: str, container_id: str, *, taken: bool) -> None: ...

    def withdrawn(self, peer: Peer, speaker: Speaker, nlri: Nlri, route: Announcement) -> None: ...

    def link_removed(self, link: Link) -> None: ...

    def stuck(self, routes: Sequence[Announcement]) -> None: ...


# ---------------------------------------------------------------- disk


class Disk:
    """What outlives a process; `power_cut` says what outlives that."""

    def __init__(self) -> None:
        self.records: dict[State, dict[str, tuple[str, Attachment | None]]] = {state: {} for state in State}
        self.leases: dict[str, dict[str, Entry]] = {}
        self.numbers: dict[str, int] = {}
        self.reclaimed: set[str] = set()
        self.locks: dict[str, Lock] = {}
        self.full = False
        self.unmoved: set[str] = set()
        """Records that could not be moved: an attachment may be on its way out although its record is up."""
        self.inodes = 0
        self.deleted: Callable[[], None] = lambda: None
        """Called once when a record is deleted."""

    def entry(self, content: str) -> Entry:
        self.inodes += 1
        return Entry(self.inodes, EPOCH_NS + int(sched.now * 1e9), content)

    def power_cut(self, chance: Callable[[], float]) -> None:
        """Records are not flushed: each may be as it was, torn, or lost."""
        for state in State:
            folder = self.records[state]
            for digest, (network, _) in list(folder.items()):
                fate = chance()
                if fate < 0.15:
                    del folder[digest]
                elif fate < 0.3:
                    folder[digest] = (network, None)
        self.locks.clear()
        self.reclaimed.clear()


class _Held:
    __slots__ = ("_key", "_lock", "_seconds", "_store")

    def __init__(self, store: Store, key: AttachmentKey, seconds: float) -> None:
        self._store, self._key, self._seconds = store, key, seconds

    def __enter__(self) -> None:
        actor = sched.actor
        if actor is not None and actor.late:
            seconds, actor.late = actor.late, 0.0
            sched.sleep(seconds)
        locks = self._store.disk.locks
        self._lock = locks.get(self._key.digest) or locks.setdefault(self._key.digest, Lock())
        if not self._lock.acquire(timeout=max(self._seconds, 0.0)):
            raise TryAgain(f"{self._key}: another call for this attachment is running; try again")

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._lock.release()


class Store:
    """In place of `store.Store`, upon a `Disk`."""

    path = run_path = None

    def __init__(self, disk: Disk) -> None:
        self.disk = disk

    def locked(self, key: AttachmentKey, seconds: float) -> _Held:
        return _Held(self, key, seconds)

    def find(self, key: AttachmentKey) -> Stored | None:
        sched.point()
        return self.find_digest(key.digest)

    def find_digest(self, digest: str) -> Stored | None:
        for state in _ORDER:
            if found := self.disk.records[state].get(digest):
                network, attachment = found
                return Stored(state, network, digest, attachment, "" if attachment else f"{digest}: torn")
        return None

    def all(self) -> Iterator[Stored]:
        sched.point()
        for digest in list(dict.fromkeys(digest for state in _ORDER for digest in self.disk.records[state])):
            if stored := self.find_digest(digest):
                yield stored
                sched.point()

    def put(self, state: State, attachment: Attachment) -> None:
        digest, value = attachment.key.digest, (attachment.network, attachment)
        records = self.disk.records
        sched.point()
        if self.disk.full:
            raise IoFailure("attachments: No space left on device")
        written = State.ADDING if state is State.UP else state
        records[written][digest] = value
        if written is not state:
            sched.point()
            records[state][digest] = records[written].pop(digest)
        for other in State:
            if other is not state and digest in records[other]:
                sched.point()
                records[other].pop(digest, None)

    def move(self, attachment: Attachment, state: State) -> bool:
        digest = attachment.key.digest
        sched.point()
        for source in _ORDER:
            if digest in self.disk.records[source]:
                if source is not state:
                    if self.disk.full:
                        self.disk.unmoved.add(digest)
                        return False
                    self.disk.records[state][digest] = self.disk.records[source].pop(digest)
                return True
        return True

    def delete(self, key: AttachmentKey) -> None:
        for state in State:
            sched.point()
            self.disk.records[state].pop(key.digest, None)
        self.disk.deleted()
        self.disk.deleted = lambda: None

    def delete_unreadable(self, network: str, digest: str) -> None:
        for state in State:
            sched.point()
            self.disk.records[state].pop(digest, None)

    def written(self, stored: Stored) -> int | None:
        return 0  # before any boot of now: asked only of what a power cut tore

    def unreadable(self) -> set[str]:
        sched.point()
        return {network for folder in self.disk.records.values() for network, item in folder.values() if item is None}

    def sweep(self) -> None:
        """Of two records of one attachment the earlier goes."""
        seen: set[str] = set()
        for state in _ORDER:
            for digest in list(self.disk.records[state]):
                if digest in seen:
                    del self.disk.records[state][digest]
                seen.add(digest)


class _Folder:
    """A network's leases, upon a `Disk`; mixed into the real `Leases` and `HostLocal`."""

    folder: str
    network: str

    @contextmanager
    def _locked(self, *, create: bool = False) -> Iterator[Any]:
        disk = models.disk
        name = self.folder
        lock = disk.locks.get(name) or disk.locks.setdefault(name, Lock())
        with lock:
            found = disk.leases.get(name)
            yield disk.leases.setdefault(name, {}) if found is None and create else found

    def _names(self, folder: dict[str, Entry]) -> list[str]:
        sched.point()
        return [name for name in folder if name[0] != "l"]

    def _read(self, folder: dict[str, Entry], name: str) -> Entry | None:
        return folder.get(name)

    def _unlink(self, folder: dict[str, Entry], name: str) -> bool:
        sched.point()
        return folder.pop(name, None) is not None

    def _create(self, folder: dict[str, Entry], name: str, text: str) -> bool:
        sched.point()
        if name in folder:
            return False
        if models.disk.full:
            raise IoFailure(f"{self.folder}/{name}: No space left on device")
        models.watch.given(name, self.network, text.partition("\r\n")[0], taken=False)
        folder[name] = models.disk.entry(text)
        return True

    def _overwrite(self, folder: dict[str, Entry], name: str, text: str) -> None:
        sched.point()
        if models.disk.full:
            folder.pop(name, None)
            raise IoFailure(f"{self.folder}/{name}: No space left on device")
        folder[name] = models.disk.entry(text)

    def _hand_over(self, folder: dict[str, Entry], name: str, old: tuple[str, str], new: tuple[str, str]) -> bool:
        sched.point()
        entry = folder.get(name)
        if entry is None or entry.owner not in (old, (old[0], None)):
            return False
        if models.disk.full:
            raise IoFailure(f"{self.folder}/{name}: No space left on device")
        models.watch.given(name, self.network, new[0], taken=True)
        folder[name] = models.disk.entry(content_of(*new))
        return True

    def is_leased_elsewhere(self, addresses: Collection[str]) -> bool:
        return False


class ModelLeases(_Folder, Leases):  # type: ignore[misc]
    pass


class ModelHostLocal(_Folder, HostLocal):  # type: ignore[misc]
    pass


class Reclaimer:
    """In place of `ipam.boot.Reclaimer`: once in each boot, leases without a record go."""

    def __init__(self, run_dir: str, boot_id: str) -> None:
        pass

    def done(self, leases: Leases) -> bool:
        return leases.folder in models.disk.reclaimed

    def run(self, leases: Leases, recorded: Collection[tuple[str, str]]) -> list[str]:
        found = leases.reclaim(
            lambda entries: [
                address
                for address, entry in entries.items()
                if entry.owner not in recorded and entry.mtime_ns < models.kernel.booted_ns
            ]
        )
        models.disk.reclaimed.add(leases.folder)
        return found


# ---------------------------------------------------------------- kernel


@dataclass(slots=True)
class Link:
    """The root-side end of a pair."""

    index: int
    name: str
    key: AttachmentKey
    path: str
    mac: str
    addresses: tuple[str, ...] = ()
    alias: str = ""

    def __post_init__(self) -> None:
        self.alias = str(self.key)


@dataclass(slots=True)
class Switch:
    index: int
    name: str
    mac: str = "02:00:00:00:00:01"
    kind: str = "bridge"


class Space:
    """In place of `Namespace`."""

    fd = 0
    netlink = None

    def __init__(self, path: str) -> None:
        self.path = path
        self.cookie = models.kernel.spaces[path]

    @classmethod
    def of_container(cls, path: str, fd: int | None = None) -> Space:
        sched.point()
        if path not in models.kernel.spaces:
            raise NotANamespace(f"{path} is no namespace")
        return cls(path)

    def __enter__(self) -> Space:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Kernel:
    """Links, namespaces and the events of both. `refusals`: so many of the next operations fail; `unfit`: so often a
    configuration cannot be applied."""

    def __init__(self) -> None:
        self.links: dict[int, Link] = {}
        self.spaces: dict[str, int] = {}
        self.refusals = self.unfit = 0
        self.deaf = False
        self.boots = 1
        self.booted_ns = 0
        self._indexes = 10
        self.listener: Callable[[int], None] | None = None

    @property
    def boot_id(self) -> str:
        return f"boot-{self.boots}"

    def number(self) -> int:
        self._indexes += 1
        return self._indexes

    def may_refuse(self, what: str) -> None:
        sched.point()
        if self.refusals:
            self.refusals -= 1
            raise KernelRefused(f"{what}: Cannot allocate memory")

    def delete(self, index: int) -> None:
        del self.links[index]
        if self.listener is not None and not self.deaf:
            self.listener(index)

    def end_space(self, path: str) -> None:
        """It dies, with every link in it."""
        self.spaces.pop(path, None)
        for link in [link for link in self.links.values() if link.path == path]:
            self.delete(link.index)

    def reboot(self) -> None:
        self.boots += 1
        self.booted_ns = EPOCH_NS + int(sched.now * 1e9)
        self.links.clear()
        self.spaces.clear()
        self.refusals = 0

    def of_key(self, key: AttachmentKey) -> Link | None:
        return next((link for link in self.links.values() if link.key == key), None)


class Interface:
    """In place of the module `node.interface`."""

    @staticmethod
    def create(netlink: object, space: Space, attachment: Attachment, bridge: Switch, **_: object) -> Attachment:
        kernel = models.kernel
        kernel.may_refuse("creating the veth pair")
        if space.path not in kernel.spaces:
            raise KernelRefused("creating the veth pair: No such namespace")
        if any(link.path == space.path and link.key.ifname == attachment.ifname for link in kernel.links.values()):
            raise InvalidEnvironment(f"CNI_IFNAME: {attachment.ifname} exists already in {space.path}")
        index = kernel.number()
        mac = f"02:00:00:00:{index >> 8:02x}:{index & 255:02x}"
        name = plan.host_veth(attachment.key)
        kernel.links[index] = Link(index, name, attachment.key, space.path, mac)
        sched.point()
        if index not in kernel.links:
            raise KernelRefused("marking the veth pair: No such device")
        update = {"host_veth": name, "host_index": index, "host_mac": "02:00:00:00:00:02", "peer_index": 2}
        return attachment.model_copy(update=update)

    @staticmethod
    def configure(space: Space, attachment: Attachment, *, dad: bool) -> Attachment:
        kernel = models.kernel
        kernel.may_refuse("setting eth0 up")
        link = kernel.links.get(attachment.host_index or 0)
        if link is None:
            raise KernelRefused("setting eth0 up: No such device")
        link.addresses = tuple(item.address.partition("/")[0] for item in attachment.addresses)
        return attachment.model_copy(update={"mac": link.mac, "mtu": 1500})

    @staticmethod
    def introduce_itself(space: Space, attachment: Attachment) -> None:
        pass

    @staticmethod
    def lead_to_singles(netlink: object, attachment: Attachment, *, make: bool) -> None:
        """The simulation's addresses have subnets."""

    @staticmethod
    def introduce(herald: object, attachment: Attachment) -> None:
        sched.point()

    @staticmethod
    def reach(netlink: object, attachment: Attachment) -> str | None:
        sched.point()
        return None if attachment.host_index in models.kernel.links else "no way"

    @staticmethod
    def vanished(netlink: object, attachment: Attachment) -> bool:
        sched.point()
        link = models.kernel.links.get(attachment.host_index or 0)
        return link is None or link.key != attachment.key

    @staticmethod
    def link_state(netlink: object, attachment: Attachment) -> str:
        return "gone" if Interface.vanished(netlink, attachment) else "up"

    @staticmethod
    def present(netlink: object, attachment: Attachment) -> bool:
        sched.point()
        if attachment.host_index is None:
            return models.kernel.of_key(attachment.key) is not None
        link = models.kernel.links.get(attachment.host_index)
        return link is not None and link.key == attachment.key

    @staticmethod
    def remove(netlink: object, reaper: object, attachment: Attachment) -> bool:
        kernel = models.kernel
        kernel.may_refuse("deleting the link")
        if not attachment.host_index:
            return Interface.remove_by_name(netlink, attachment.key)
        link = kernel.links.get(attachment.host_index)
        if link is None or link.key != attachment.key:
            return False
        sched.point()
        if attachment.host_index in kernel.links:
            models.watch.link_removed(link)
            kernel.delete(attachment.host_index)
        sched.point()
        return True

    @staticmethod
    def remove_by_name(netlink: object, key: AttachmentKey) -> bool:
        sched.point()
        link = models.kernel.of_key(key)
        if link is None:
            return False
        models.watch.link_removed(link)
        models.kernel.delete(link.index)
        return True

    @staticmethod
    def remove_by_digest(netlink: object, digest: str) -> bool:
        sched.point()
        for link in list(models.kernel.links.values()):
            if link.key.digest == digest:
                models.kernel.delete(link.index)
                return True
        return False

    @staticmethod
    def is_there(netlink: object, digest: str) -> bool:
        sched.point()
        return any(link.key.digest == digest for link in models.kernel.links.values())


class Bridge:
    """In place of the module `kernel.bridge`."""

    @staticmethod
    def ensure(netlink: object, wanted: Any, made: object) -> tuple[Switch, Switch]:
        models.kernel.may_refuse("bridge")
        switch = Switch(3, wanted.name)
        return switch, switch


def remove_inside(node: object, request: Any, cookie: int | None = None) -> list[str] | None:
    """In place of `unrecorded._remove_inside`."""
    sched.point()
    path = request.environment.netns
    if path not in models.kernel.spaces or cookie not in (None, models.kernel.spaces[path]):
        return None
    for link in list(models.kernel.links.values()):
        if link.path == path and link.key.ifname == request.environment.ifname:
            models.kernel.delete(link.index)
            return list(link.addresses)
    return None


# ---------------------------------------------------------------- speakers and peers

_Update = tuple[int, Nlri | None, Announcement | None]
"""Its number, and what it says of a route; without a route: End-of-RIB."""


class Peer:
    """A router: what it has from each speaker."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.routes: dict[str, dict[Nlri, Announcement]] = {}

    def best(self, nlri: Nlri) -> Announcement | None:
        return next((table[nlri] for table in self.routes.values() if nlri in table), None)


class Session:
    """Between a speaker and a peer: what is not in the socket, what is not acknowledged, what is stale."""

    def __init__(self, speaker: Speaker, peer: Peer) -> None:
        self.speaker, self.peer = speaker, peer
        self.up = False
        self.epoch = 0
        self.lossy = False
        self.waiting: list[_Update] = []
        self.socket: list[_Update] = []
        self.began = self.snapshot = self.sent = self.acked = 0
        self.end_of_rib = -1
        self.down_since = -CERTAINLY_GONE
        self.stale: set[Nlri] = set()
        self.at_work = False
        peer.routes[speaker.name] = {}

    def establish(self) -> None:
        """The session comes up: the whole table, then End-of-RIB, as soon as the table is whole."""
        if self.up or not self.speaker.alive:
            return
        speaker = self.speaker
        self.up, self.lossy = True, False
        self.epoch += 1
        self.stale = set(self.peer.routes[speaker.name])
        if self.stale:
            epoch = self.epoch
            sched.at(sched.now + STALE_PATH, lambda: self.drop_stale() if self.epoch == epoch else None)
        self.waiting, self.socket = [], []
        self.began = speaker.count()
        for nlri, route in speaker.table.items():
            self.waiting.append((speaker.count(), nlri, route))
        self.snapshot = self.sent = self.acked = speaker.number if speaker.table else self.began
        self.sent = self.acked = self.began
        self.end_of_rib = -1
        if speaker.whole:
            self.finish_table()
        self.work()
        speaker.tell_sessions()

    def finish_table(self) -> None:
        if self.up and self.end_of_rib < 0:
            self.end_of_rib = self.speaker.count()
            self.say((self.end_of_rib, None, None))

    def lose(self, *, routes: bool = False) -> None:
        """It ends; the peer keeps what it has for a graceful restart, unless it was the peer that died."""
        if routes:
            self.peer.routes[self.speaker.name].clear()
        if not self.up:
            return
        self.up = False
        self.epoch += 1
        self.down_since = sched.now
        self.waiting, self.socket = [], []
        epoch = self.epoch

        def flush() -> None:
            if self.epoch == epoch:
                self.peer.routes[self.speaker.name].clear()

        sched.at(sched.now + HOLD_TIME + GRACEFUL_RESTART, flush)
        sched.at(sched.now + CERTAINLY_GONE + 0.1, self.speaker.tell_sessions)
        self.speaker.tell_sessions()

    def say(self, update: _Update) -> None:
        if self.up:
            self.waiting.append(update)
            self.work()

    def work(self) -> None:
        if not self.at_work:
            self.at_work = True
            sched.soon(self._work)

    def _work(self) -> None:
        self.at_work = False
        if not self.up:
            return
        if self.waiting:
            self.socket += self.waiting
            self.sent = self.waiting[-1][0]
            self.waiting = []
        elif self.socket and not self.lossy:
            for number, nlri, route in self.socket[: 1 + int(sched.chance() * 4)]:
                self._arrive(number, nlri, route)
            self.socket = [update for update in self.socket if update[0] > self.acked]
        else:
            return
        if self.waiting or (self.socket and not self.lossy):
            self.work()
        self.speaker.tell_progress()

    def _arrive(self, number: int, nlri: Nlri | None, route: Announcement | None) -> None:
        table = self.peer.routes[self.speaker.name]
        self.acked = number
        if nlri is None:
            self.drop_stale()
            return
        self.stale.discard(nlri)
        if route is None:
            self._lost(table, nlri)
        else:
            table[nlri] = route

    def drop_stale(self) -> None:
        for old in self.stale:
            self._lost(self.peer.routes[self.speaker.name], old)
        self.stale = set()

    def _lost(self, table: dict[Nlri, Announcement], nlri: Nlri) -> None:
        route = table.pop(nlri, None)
        if route is not None:
            models.watch.withdrawn(self.peer, self.speaker, nlri, route)

    def silence(self, seconds: float) -> None:
        """Packets are lost for a while; past the hold time the session goes down."""
        if not self.up:
            return
        self.lossy = True
        epoch = self.epoch

        def over() -> None:
            if self.epoch == epoch:
                self.lossy = False
                self.work()

        def expire() -> None:
            if self.epoch == epoch and self.lossy:
                self.lossy = False
                self.lose()
                sched.at(sched.now + 5, self.establish)

        sched.at(sched.now + seconds, over)
        sched.at(sched.now + HOLD_TIME, expire)


class Speaker:
    """A BGP speaker, which outlives the agent. `whole`: it was told all that is wanted, so End-of-RIB may be sent."""

    def __init__(self, name: str, peers: Sequence[Peer]) -> None:
        self.name = name
        self.alive = True
        self.gone = False
        """For good: it was uninstalled."""
        self.uninstalled: float | None = None
        """When it was last uninstalled."""
        self.life = 1
        self.number = 0
        self.table: dict[Nlri, Announcement] = {}
        self.numbers: dict[Nlri, int] = {}
        self.whole = False
        self.mishaps: list[str] = []
        self.client: ModelExporter | None = None
        self.sessions = [Session(self, peer) for peer in peers]
        for session in self.sessions:
            session.establish()

    def count(self) -> int:
        self.number += 1
        return self.number

    def change(self, nlri: Nlri, route: Announcement | None) -> None:
        if route is None:
            self.table.pop(nlri, None)
        else:
            self.table[nlri] = route
        self.numbers[nlri] = number = self.count()
        for session in self.sessions:
            session.say((number, nlri, route))

    def replayed(self) -> None:
        self.whole = True
        for session in self.sessions:
            session.finish_table()

    def die(self) -> None:
        if not self.alive:
            return
        self.alive = False
        self.table, self.numbers, self.whole = {}, {}, False
        for session in self.sessions:
            session.lose()

    def uninstall(self) -> None:
        self.die()
        self.gone, self.uninstalled = True, sched.now

    def revive(self) -> None:
        if self.alive or self.gone:
            return
        self.alive = True
        self.life += 1
        for number, session in enumerate(self.sessions):
            sched.at(sched.now + 0.5 + number, session.establish)
        if self.client is not None:
            self.client.tell("revived")

    def reach(self, nlri: Nlri) -> Outcome:
        """How far what was last asked of a route got."""
        if not self.alive:
            return Outcome(Reach.WANTED, "the speaker is away")
        number = self.numbers.get(nlri)
        if number is None:
            return Outcome(Reach.WANTED)
        withdrawn = nlri not in self.table
        reach, reason, any_up = Reach.ACKED, "", False
        for session in self.sessions:
            if not session.up:
                if withdrawn and sched.now - session.down_since > CERTAINLY_GONE:
                    continue
                if withdrawn or not reason:
                    reason = f"no session with {session.peer.name}"
                if withdrawn:
                    reach = min(reach, Reach.SENT)
                continue
            any_up = True
            need = number if number > session.began else (session.end_of_rib if withdrawn else session.snapshot)
            if need < 0 or session.sent < need:
                reach = min(reach, Reach.WANTED)
            elif session.acked < need:
                reach = min(reach, Reach.SENT)
        if not any_up and (reason or not withdrawn):
            return Outcome(Reach.WANTED, reason)
        if reach is Reach.WANTED or (not withdrawn):
            reason = ""
        return Outcome(reach, reason)

    def tell_progress(self) -> None:
        if self.client is not None:
            self.client.tell("progress")

    def tell_sessions(self) -> None:
        if self.client is not None:
            self.client.tell("sessions")


SLOW = 0.03
MISHAPS = ("untouched", "before", "half", "after", "slow", "short")
"""What a verb may come to: the speaker was given nothing; it is not known what it was given. One more is `reborn`: the
speaker restarts before it answers."""


class ModelExporter(Exporter):
    """The exporter contract upon a `Speaker`; `config.speaker` names it."""

    contract = 1
    families = ROUTES
    carries = ATTRIBUTES
    acks: ClassVar[Literal["accepted", "sent", "acked"]] = "acked"

    class Config(Exporter.Config):
        speaker: str = ""

    def __init__(self, name: str, config: Any, node: Any, wake: Any) -> None:
        super().__init__(name, config, node, wake)
        self.speaker = models.speakers[config.speaker]
        self.process = sched.actor.process if sched.actor else None
        self.life = 0
        self.closed = False
        self._told: dict[str, None] = {}
        self._reader: list[Actor] | None = None
        self.speaker.client = self

    @classmethod
    def owns(cls, config: Any) -> str:
        return f"speaker {config.speaker}"

    @classmethod
    def source(cls, config: Any, local_address: str) -> str | None:
        """With an address it is known by that, as one that has neighbours; without, by its configuration."""
        return {"a": "192.0.2.1", "b": "192.0.2.2"}[config.speaker] if models.by_address else None

    # what the speaker tells, in a thread of ours

    def tell(self, what: str) -> None:
        """Have the reader do it: once, however often it is told until then."""
        if self.process is None or not self.process.alive or self.closed:
            return
        self._told[what] = None
        if self._reader is None:
            self._reader = []
            sched.spawn(self._read, self.process, f"reader-{self.name}")
        elif self._reader:
            sched.wake(self._reader[0])

    def _read(self) -> None:
        verbs = {"progress": self.wake.progress, "sessions": self.wake.sessions, "revived": self.look_at_speaker}
        while not self.closed:
            if self._told:
                what = next(iter(self._told))
                del self._told[what]
                verbs[what]()
            else:
                assert self._reader is not None
                sched.block(self._reader, None)

    def look_at_speaker(self) -> None:
        if self.speaker.alive and self.life != self.speaker.life:
            known, self.life = self.life, self.speaker.life
            if known:
                self.wake.empty()

    # verbs

    def _begin(self) -> str:
        sched.point()
        if self.closed:
            raise NotThereYet("let go of", untouched=True)
        if not self.speaker.alive:
            raise NotThereYet("the speaker is away", untouched=True)
        self.look_at_speaker()
        if self.speaker.mishaps:
            return self.speaker.mishaps.pop(0)
        if models.trouble and sched.chance() < models.trouble:
            return MISHAPS[int(sched.chance() * len(MISHAPS))]
        return ""

    def _act(self, routes: Sequence[Announcement], change: Callable[[Announcement], None]) -> list[Outcome]:
        mishap = self._begin()
        if mishap == "untouched":
            raise NotThereYet("try again", untouched=True)
        if mishap == "before":
            raise NotThereYet("no answer")
        life = self.speaker.life
        for index, route in enumerate(routes):
            if mishap == "half" and index >= len(routes) // 2:
                models.watch.stuck(routes)
                sched.sleep(SLOW)
                raise NotThereYet("no answer to the rest")
            if self.closed:
                raise NotThereYet("let go of")
            if self.speaker.life != life or not self.speaker.alive:
                raise NotThereYet("the speaker went away")
            change(route)
            if index % 2 == 0:
                sched.point()
        if mishap == "reborn":
            self.speaker.die()
            self.speaker.revive()
        if mishap in ("after", "slow", "reborn"):
            models.watch.stuck(routes)
            sched.sleep(SLOW)
        if mishap == "after":
            raise NotThereYet("the answer was lost")
        outcomes = self.progress(routes)
        sched.point()
        return outcomes[:-1] if mishap == "short" and len(outcomes) > 1 else outcomes

    def announce(self, routes: Sequence[Announcement], deadline: float) -> list[Outcome]:
        return self._act(routes, lambda route: self.speaker.change(route.nlri, route))

    def withdraw(self, routes: Sequence[Announcement], deadline: float) -> list[Outcome]:
        return self._act(routes, lambda route: self.speaker.change(route.nlri, None))

    def prune(self, keep: Collection[Announcement], spare: Collection[str], deadline: float) -> None:
        mishap = self._begin()
        if mishap in ("untouched", "before"):
            raise NotThereYet("try again")
        kept = {route.nlri for route in keep}
        for nlri, route in list(self.speaker.table.items()):
            if nlri not in kept and route.network not in spare:
                self.speaker.change(nlri, None)
        if mishap:
            raise NotThereYet("no answer")

    def replayed(self) -> None:
        if self.life == self.speaker.life and self.speaker.alive:
            self.speaker.replayed()

    def progress(self, routes: Sequence[Announcement]) -> list[Outcome]:
        if self.life != self.speaker.life:
            return [Outcome(Reach.WANTED, "" if self.speaker.alive else "the speaker is away")] * len(routes)
        return [self.speaker.reach(route.nlri) for route in routes]

    def drain(self, deadline: float) -> None:
        pass

    def close(self) -> None:
        self.closed = True
        if self.speaker.client is self:
            self.speaker.client = None


# ---------------------------------------------------------------- all of them


@dataclass(slots=True)
class Models:
    """Those of the history that runs."""

    disk: Disk = field(default_factory=Disk)
    kernel: Kernel = field(default_factory=Kernel)
    peers: list[Peer] = field(default_factory=list)
    speakers: dict[str, Speaker] = field(default_factory=dict)
    watch: Any = None
    trouble: float = 0.0
    """How often a verb comes to one of MISHAPS."""
    by_address: bool = False
    """Speakers are told apart by the addresses of their sessions."""

    def reset(self, watch: Watch, speakers: Sequence[str], peers: int) -> None:
        self.disk, self.kernel, self.watch = Disk(), Kernel(), watch
        self.peers = [Peer(f"peer{number}") for number in range(peers)]
        self.speakers = {name: Speaker(name, self.peers) for name in speakers}


models = Models()
