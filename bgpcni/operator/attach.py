"""`bgpcni attach` and `detach`: connect a container that was started without a network, found by a process of it.

What a runtime does for its own containers, done by hand: find the namespace, show it under /var/run/netns, run the
network's plugins, remember the result for the DEL. Works for any plugin; it talks to no agent but through the
plugin executable, and asks the agent only what became of the routes.

The namespace is found so that a process number that changes hands meanwhile misleads nobody: pidfd first,
namespace second, pidfd still alive third. From then on the open descriptor is meant, never the number: while the
plugins run, the name they are given leads to that descriptor.
"""

from __future__ import annotations

import errno
import logging
import os
import select
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from bgpcni import folders, locks, paths
from bgpcni.cni.environment import Command, parse_environment
from bgpcni.config.network import describe
from bgpcni.errors import (
    AlreadyAttached,
    CniError,
    Delegated,
    InvalidConfiguration,
    InvalidEnvironment,
    InvalidNamespace,
    IoFailure,
)
from bgpcni.kernel import links
from bgpcni.kernel.namespace import Namespace, NotANamespace, boot_id, home_cookie
from bgpcni.kernel.netlink import Netlink
from bgpcni.launcher import runtimes
from bgpcni.model import AttachmentKey, Record
from bgpcni.operator.libcni import Network, Runtime, find

log = logging.getLogger(__name__)
Document = dict[str, Any]
NETNS = Path("/var/run/netns")
"""Where iproute2 looks for named namespaces."""
LOCK_SECONDS = 60.0
_NOFOLLOW = os.O_CLOEXEC | os.O_NOFOLLOW


@contextmanager
def namespace_of(pid: int) -> Iterator[Namespace]:
    """The network namespace of a process, open for the block. Raises InvalidNamespace in words."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as error:
        reason = "there is none" if isinstance(error, ProcessLookupError) else error.strerror
        raise InvalidNamespace(f"process {pid}: {reason}") from None
    try:
        try:
            space = Namespace.open(f"/proc/{pid}/ns/net")
        except NotANamespace as error:
            raise InvalidNamespace(f"process {pid}: {error}") from None
        with space:
            if select.select([pidfd], [], [], 0)[0]:
                raise InvalidNamespace(f"process {pid} has ended")
            if space.cookie == home_cookie():
                raise InvalidNamespace(f"process {pid} is in the node's own network namespace")
            yield space
    finally:
        os.close(pidfd)


# ---------------------------------------------------------------- what is remembered


class Kept(Record):
    """What an attach leaves for its detach. `result` is None while the plugins run.

    `name`: the symlink under /var/run/netns that was made, None if the name was not free; `targets`: where it may
    lead and still be ours. `cookie` is the namespace's, unique within `boot_id`.
    """

    schema_number: int = Field(default=1, alias="schema")
    network: Document
    container_id: str
    ifname: str
    pid: int
    boot_id: str
    cookie: int
    name: str | None = None
    targets: tuple[str, ...] = ()
    result: Document | None = None

    @property
    def key(self) -> AttachmentKey:
        return AttachmentKey(self.network["name"], self.container_id, self.ifname)


class Memory:
    """The files of attachments made by hand, one each, and a lock for each. Not the agent's records."""

    def __init__(self, folder: Path) -> None:
        self._path = folder
        self._fd = folders.open_folder(folder)

    @contextmanager
    def locked(self, key: AttachmentKey) -> Iterator[None]:
        name, busy = f"{key.digest}.lock", f"{key}: another attach or detach of it is running"
        fd = locks.obtain(name, self._fd, self._path, busy=busy, seconds=LOCK_SECONDS)
        try:
            yield
        finally:
            locks.discard(name, self._fd, fd)

    def find(self, key: AttachmentKey) -> Kept | None:
        try:
            return self._read(_file(key))
        except FileNotFoundError:
            return None

    def of_network(self, network: str) -> list[Kept]:
        """Raises IoFailure for one that cannot be read."""
        return list(self._all(f"{network}@"))

    def elsewhere(self, network: str) -> Iterator[Kept]:
        """Those of other networks, without what cannot be read: nobody asked for that one."""
        for name in self._names(""):
            if not name.startswith(f"{network}@"):
                try:
                    yield self._read(name)
                except (FileNotFoundError, IoFailure):
                    continue

    def _all(self, prefix: str) -> Iterator[Kept]:
        for name in self._names(prefix):
            try:
                yield self._read(name)
            except FileNotFoundError:
                continue  # detached meanwhile

    def _names(self, prefix: str) -> list[str]:
        names = folders.listed(self._fd)
        return sorted(name for name in names if name.startswith(prefix) and name.endswith(".json") and name[0] != ".")

    def put(self, kept: Kept) -> None:
        """Whole or not at all. Raises IoFailure."""
        name = _file(kept.key)
        data = kept.model_dump_json(by_alias=True).encode() + b"\n"
        try:
            fd = os.open(f".{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _NOFOLLOW, 0o600, dir_fd=self._fd)
            with open(fd, "wb") as file:
                file.write(data)
            os.rename(f".{name}", name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except OSError as error:
            raise IoFailure(f"{self._path / name}: {error.strerror}") from None

    def drop(self, key: AttachmentKey) -> None:
        try:
            os.unlink(_file(key), dir_fd=self._fd)
        except FileNotFoundError:
            pass

    def _read(self, name: str) -> Kept:
        try:
            with open(os.open(name, os.O_RDONLY | _NOFOLLOW, dir_fd=self._fd), "rb") as file:
                text = file.read()
            return Kept.model_validate_json(text)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise IoFailure(f"{self._path / name}: {error.strerror}") from None
        except ValidationError as error:
            raise IoFailure(f"{self._path / name} is damaged, remove it: {describe(error)}") from None


def _file(key: AttachmentKey) -> str:
    return f"{key.network}@{key.digest}.json"


# ---------------------------------------------------------------- the name under /var/run/netns


@dataclass(frozen=True, slots=True)
class Sign:
    """A symlink under /var/run/netns that shows a namespace to `ip netns`."""

    path: Path
    targets: tuple[str, ...]

    def make(self, target: str) -> bool:
        """Put it up if the name is free."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.symlink(target, self.path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return False
            raise IoFailure(f"{self.path}: {error.strerror}") from None
        return True

    def turn(self, target: str) -> None:
        """Have it lead elsewhere, at no moment missing. Left alone if it is not ours any more."""
        if self.ours():
            fresh = self.path.with_name(f".{self.path.name[:200]}.{os.getpid()}")
            try:
                os.symlink(target, fresh)
                os.rename(fresh, self.path)
            except OSError as error:
                raise IoFailure(f"{self.path}: {error.strerror}") from None

    def take_down(self) -> None:
        if self.ours():
            try:
                os.unlink(self.path)
            except FileNotFoundError:
                pass

    def ours(self) -> bool:
        try:
            return os.readlink(self.path) in self.targets
        except OSError:
            return False


# ---------------------------------------------------------------- attach


@dataclass(frozen=True, slots=True)
class Place:
    """Where configurations, plugins and the memory are; `environment` is inherited by the plugins."""

    conf_dir: Path
    folders: tuple[str, ...]
    memory: Memory
    environment: Mapping[str, str]
    say: Callable[[str], None]

    def runtime(self, key: AttachmentKey, netns: str) -> Runtime:
        return Runtime(key.container_id, key.ifname, netns, self.folders, self.environment, self.say)


def memory_folder(environment: Mapping[str, str]) -> Path:
    """`attached` in $BGPCNI_DATA_DIR, else in the default data_dir."""
    return Path(environment.get("BGPCNI_DATA_DIR") or paths.DATA_DIR) / "attached"


def open_memory(environment: Mapping[str, str]) -> Memory:
    """The memory in `memory_folder`, made if it is not there. Raises IoFailure."""
    folder = memory_folder(environment)
    os.close(folders.open_folder(folder.parent))
    return Memory(folder)


def default_id(pid: int) -> str:
    """The container ID of a process for which none was given."""
    return f"pid-{pid}"


def attach(place: Place, pid: int, network: str, ifname: str, container_id: str) -> Document:
    """Connect the namespace of process `pid` to `network`. Raises CniError, and then nothing is left."""
    key = AttachmentKey(network, container_id, ifname)
    parse_environment(
        {"CNI_COMMAND": Command.ADD.value, "CNI_CONTAINERID": container_id, "CNI_NETNS": "-", "CNI_IFNAME": ifname,
         "CNI_PATH": "-"}
    )  # fmt: skip
    chain = find(place.conf_dir, network)
    with place.memory.locked(key), namespace_of(pid) as space:
        earlier = place.memory.find(key)
        if earlier is not None:
            if earlier.result is not None and (earlier.boot_id, earlier.cookie) == (boot_id(), space.cookie):
                raise AlreadyAttached(f"{key} is attached already, to this very namespace: detach it first")
            _undo(place, earlier)  # the container was started anew, or an attach was cut short
        if links.find(space.netlink, name=ifname):
            raise AlreadyAttached(f"process {pid} has an interface {ifname} already")
        return _attach(place, chain, key, pid, space)


def _attach(place: Place, chain: Network, key: AttachmentKey, pid: int, space: Namespace) -> Document:
    lasting, opened = f"/proc/{pid}/ns/net", f"/proc/{os.getpid()}/fd/{space.fd}"
    place.runtime(key, "").executables(chain)
    sign = Sign(NETNS / key.container_id, (lasting, opened))
    shown = sign.make(opened)
    runtime = place.runtime(key, str(sign.path) if shown else opened)
    kept = Kept(
        network=chain.document(),
        container_id=key.container_id,
        ifname=key.ifname,
        pid=pid,
        boot_id=boot_id(),
        cookie=space.cookie,
        name=str(sign.path) if shown else None,
        targets=sign.targets,
    )
    try:
        place.memory.put(kept)
        result = _renamed(runtime.add(chain), opened, lasting)
        kept = kept.model_copy(update={"result": result})
        place.memory.put(kept)
        sign.turn(lasting)
    except BaseException as error:
        _roll_back(place, kept, runtime, chain, error)
        raise
    return _story(key, kept, result, space)


def _roll_back(place: Place, kept: Kept, runtime: Runtime, chain: Network, error: BaseException) -> None:
    """After a failed ADD the chain's DEL is due (section 3), unless the attachment was there before and is alive.

    Whatever comes of it is told behind the cause, in the same error.
    """
    if kept.name is not None:
        Sign(Path(kept.name), kept.targets).take_down()
    try:
        if not (isinstance(error, Delegated) and error.code == AlreadyAttached.code):
            replace(runtime, say=lambda text: None).delete(chain, None)
    except CniError as second:
        story = f"taking it back failed as well, bgpcni detach tries again: {second.msg}"
        if isinstance(error, CniError):
            error.msg += f"; {story}"
        else:
            place.say(f"bgpcni: {story}\n")
        return
    place.memory.drop(kept.key)


def _forget(place: Place, kept: Kept) -> None:
    if kept.name is not None:
        Sign(Path(kept.name), kept.targets).take_down()
    place.memory.drop(kept.key)


def _renamed(result: Document, opened: str, lasting: str) -> Document:
    """The result with the namespace under a name that outlives this process."""
    interfaces = result.get("interfaces")
    if not isinstance(interfaces, list):
        return result
    named = [
        {**item, "sandbox": lasting} if isinstance(item, dict) and item.get("sandbox") == opened else item
        for item in interfaces
    ]
    return {**result, "interfaces": named}


def _story(key: AttachmentKey, kept: Kept, result: Document, space: Namespace) -> Document:
    """What an operator wants to see: interface, peer and routes, read from the namespace itself."""
    link = links.find(space.netlink, name=key.ifname)
    peer: Document | None = None
    if link is not None and link.kind == "veth" and link.peer:
        with Netlink.open() as netlink:
            other = links.find(netlink, index=link.peer)
        peer = {"index": link.peer, "name": other.name if other else None}
    interface = None
    if link is not None:
        interface = {"name": link.name, "index": link.index, "mac": link.mac, "mtu": link.mtu, "up": link.up}
    return {
        "schema": 1,
        "network": key.network,
        "containerID": key.container_id,
        "ifname": key.ifname,
        "pid": kept.pid,
        "netns": kept.name or f"/proc/{kept.pid}/ns/net",
        "interface": interface,
        "peer": peer,
        "ips": _addresses(result),
        "routes": _routes(result),
        "result": result,
    }


def _addresses(result: Document) -> list[Document]:
    """`ips` of a result of any version: address and gateway."""
    found = [entry for entry in result.get("ips") or [] if isinstance(entry, dict)]
    old = [result[name] for name in ("ip4", "ip6") if isinstance(result.get(name), dict)]
    return [{"address": entry.get("address"), "gateway": entry.get("gateway")} for entry in found] + [
        {"address": entry.get("ip"), "gateway": entry.get("gateway")} for entry in old
    ]


def _routes(result: Document) -> list[Document]:
    inside = [result[name].get("routes") or [] for name in ("ip4", "ip6") if isinstance(result.get(name), dict)]
    every = [*(result.get("routes") or []), *(route for routes in inside for route in routes)]
    return [{"dst": route.get("dst"), "gw": route.get("gw")} for route in every if isinstance(route, dict)]


# ---------------------------------------------------------------- detach


def detach(
    place: Place,
    network: str,
    pid: int | None,
    container_id: str | None,
    ifname: str | None,
    known: Callable[[], Sequence[Document]] = lambda: (),
) -> Document:
    """Disconnect what `attach` connected: all of it in this network, or one interface. Nothing there: success.

    What was attached is taken back by the configuration of then; of what is not remembered (another's attach, a
    lost file) by that of now, as a runtime's second DEL does. A container that is on other networks only was not
    meant, and is refused; `known` gives the agent's list of attachments. Raises the first CniError, the rest is done.
    """
    kept = [
        entry
        for entry in place.memory.of_network(network)
        if (container_id is None or entry.container_id == container_id)
        and (pid is None or entry.pid == pid)
        and (ifname is None or entry.ifname == ifname)
    ]
    failures: list[CniError] = []
    gone: list[AttachmentKey] = []
    for entry in kept:
        try:
            with place.memory.locked(entry.key):
                again = place.memory.find(entry.key)
                if again is not None:
                    _undo(place, again)
            gone.append(entry.key)
        except CniError as error:
            failures.append(error)
    if not kept:
        _refuse_other_network(place, network, pid, container_id, known)
        gone.append(_detach_unknown(place, network, pid, container_id, ifname or "eth0"))
    if failures:
        raise failures[0]
    named = [{"containerID": key.container_id, "ifname": key.ifname} for key in gone]
    return {"schema": 1, "network": network, "detached": named}


def _refuse_other_network(
    place: Place, network: str, pid: int | None, container_id: str | None, known: Callable[[], Sequence[Document]]
) -> None:
    """Raises InvalidConfiguration where the container is not on this network, as far as is known, but on others."""
    wanted = container_id or default_id(pid or 0)
    others = [
        entry.network["name"]
        for entry in place.memory.elsewhere(network)
        if entry.container_id == wanted or (pid is not None and entry.pid == pid)
    ]
    attached = [item["network"] for item in known() if item["containerID"] == wanted]
    others += [name for name in attached if name != network]
    if others and network not in attached:
        who = wanted if container_id else f"process {pid}"
        raise InvalidConfiguration(f"{who} is not on network {network}; it is on {', '.join(dict.fromkeys(others))}")


def take_down_name(memory_folders: Iterable[Path], key: AttachmentKey) -> None:
    """The link of `key` is gone: where its namespace is gone as well, so is the name that `attach` gave that one.

    What else `attach` keeps stays for detach, which has the rest of the chain to undo. Of an attachment that another
    made there is nothing. Never raises: a name that stays is a nuisance, and detach removes it too.
    """
    for folder in memory_folders:
        try:
            if not folder.is_dir():
                continue
            kept = Memory(folder).find(key)
            if kept is not None and kept.name is not None and _is_gone(kept):
                Sign(Path(kept.name), kept.targets).take_down()
        except (OSError, CniError) as error:
            log.info("%s: its name under %s stays: %s", key, NETNS, error, extra=key.fields)


def _is_gone(kept: Kept) -> bool:
    with _still(kept) as netns:
        return not netns


def _undo(place: Place, kept: Kept) -> None:
    """The chain's DEL with what was kept, in the namespace if it is still the same one."""
    chain = Network.parse(kept.network, "what attach kept")
    with _still(kept) as netns:
        place.runtime(kept.key, netns).delete(chain, kept.result)
    _forget(place, kept)


@contextmanager
def _still(kept: Kept) -> Iterator[str]:
    """CNI_NETNS for a DEL: a path to the namespace that was attached, "" where that one is gone."""
    with ExitStack() as stack:
        netns = ""
        if kept.boot_id == boot_id():
            try:
                space = stack.enter_context(namespace_of(kept.pid))
            except InvalidNamespace:
                pass
            else:
                netns = f"/proc/{os.getpid()}/fd/{space.fd}" if space.cookie == kept.cookie else ""
        yield netns


def _detach_unknown(
    place: Place, network: str, pid: int | None, container_id: str | None, ifname: str
) -> AttachmentKey:
    if container_id is None:
        if pid is None:
            raise InvalidEnvironment("detach needs --pid or --id")
        container_id = default_id(pid)
    key = AttachmentKey(network, container_id, ifname)
    parse_environment(
        {"CNI_COMMAND": Command.DEL.value, "CNI_CONTAINERID": container_id, "CNI_IFNAME": ifname, "CNI_PATH": "-"}
    )
    place.runtime(key, "").delete(find(place.conf_dir, network), None)
    return key


def plugin_folders(bin_dir: str | None, environment: Mapping[str, str], root: Path = Path("/")) -> tuple[str, ...]:
    """--bin-dir, else $CNI_PATH, folders separated by colons; else where `bgpcni install` puts the plugin."""
    if text := bin_dir or environment.get("CNI_PATH"):
        return tuple(folder for folder in text.split(":") if folder)
    found = runtimes.find(root).folders
    return tuple(map(str, dict.fromkeys([*found, runtimes.DEFAULT])))


def announcements(routes: Sequence[Document], key: Mapping[str, Any]) -> list[Document]:
    """Of `bgpcni routes`, those of one attachment."""
    wanted = [key[name] for name in ("network", "containerID", "ifname")]
    return [route for route in routes if [route[name] for name in ("network", "containerID", "ifname")] == wanted]
