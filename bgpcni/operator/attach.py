"""`bgpcni attach` and `detach`: connect a container that was started without a network, found by a process of it.

They do by hand what a runtime does for its own containers: find the namespace, show it under /var/run/netns, run the
network's plugins, and keep the result for the DEL (`attached`). They work with any plugin, and ask the agent only what
became of the routes.

The namespace is found so that a process number that changes hands meanwhile misleads nobody: pidfd first,
namespace second, pidfd still alive third. From then on the open descriptor is meant, never the number: while the
plugins run, the name they are given leads to that descriptor.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bgpcni import attached
from bgpcni.attached import NETNS, Kept, Memory, Sign, namespace_of
from bgpcni.cni.environment import Command, parse_environment
from bgpcni.errors import AlreadyAttached, CniError, Delegated, InvalidConfiguration, InvalidEnvironment
from bgpcni.kernel import links
from bgpcni.kernel.namespace import Namespace, boot_id
from bgpcni.kernel.netlink import Netlink
from bgpcni.launcher import runtimes
from bgpcni.model import AttachmentKey
from bgpcni.operator.libcni import Network, Runtime, find

Document = dict[str, Any]


# ---------------------------------------------------------------- attach


@dataclass(frozen=True, slots=True)
class Place:
    """Where configurations, plugins and the memory are. The plugins inherit `environment`."""

    conf_dir: Path
    folders: tuple[str, ...]
    memory: Memory
    environment: Mapping[str, str]
    say: Callable[[str], None]

    def runtime(self, key: AttachmentKey, netns: str) -> Runtime:
        return Runtime(key.container_id, key.ifname, netns, self.folders, self.environment, self.say)


def default_id(pid: int) -> str:
    """The container ID that is used if none was given."""
    return f"pid-{pid}"


def labels_of(texts: Sequence[str]) -> dict[str, str]:
    """Labels as they are typed, `tier=web`. Raises InvalidConfiguration."""
    from bgpcni.cluster.selectors import label_key, label_value

    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        try:
            if not equals:
                raise ValueError("it should be KEY=VALUE")
            found[label_key(key)] = label_value(value)
        except ValueError as error:
            raise InvalidConfiguration(f"--label {text}: {error}") from None
    return found


def attach(
    place: Place, pid: int, network: str, ifname: str, container_id: str, labels: Mapping[str, str] | None = None
) -> Document:
    """Connect the namespace of process `pid` to `network`. Raises CniError, and then nothing is left."""
    key = AttachmentKey(network, container_id, ifname)
    parse_environment(
        {"CNI_COMMAND": Command.ADD.value, "CNI_CONTAINERID": container_id, "CNI_NETNS": "-", "CNI_IFNAME": ifname,
         "CNI_PATH": "-"}
    )  # fmt: skip
    chain = find(place.conf_dir, network).labelled(labels or {})
    with place.memory.locked(key), namespace_of(pid) as space:
        earlier = place.memory.find(key)
        if earlier is not None:
            if earlier.result is not None and (earlier.boot_id, earlier.cookie) == (boot_id(), space.cookie):
                raise AlreadyAttached(f"{key} is attached to this namespace already: detach it first")
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
    """Run the chain's DEL after a failed ADD (section 3), unless the attachment was there before and is alive.

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
    """The result, in which the namespace has a name that stays valid after this process."""
    interfaces = result.get("interfaces")
    if not isinstance(interfaces, list):
        return result
    named = [
        {**item, "sandbox": lasting} if isinstance(item, dict) and item.get("sandbox") == opened else item
        for item in interfaces
    ]
    return {**result, "interfaces": named}


def _story(key: AttachmentKey, kept: Kept, result: Document, space: Namespace) -> Document:
    """What is shown to the operator: interface, other end and routes, read from the namespace itself."""
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
    """Address and gateway of each IP of a result, whatever its version."""
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
    """Disconnect what `attach` connected to this network: everything, or one interface. Nothing there is no error.

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
    """Raises InvalidConfiguration if the container is known to be on other networks, and not on this one."""
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


def _undo(place: Place, kept: Kept) -> None:
    """Run the chain's DEL with what was kept, inside the namespace if it is still the same one."""
    chain = Network.parse(kept.network, "what attach kept")
    with attached.still(kept) as netns:
        place.runtime(kept.key, netns).delete(chain, kept.result)
    _forget(place, kept)


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
    """The folders in --bin-dir, else in $CNI_PATH (separated by colons), else those where `bgpcni install` would go."""
    if text := bin_dir or environment.get("CNI_PATH"):
        return tuple(folder for folder in text.split(":") if folder)
    found = runtimes.find(root).folders
    return tuple(map(str, dict.fromkeys([*found, runtimes.DEFAULT])))


def announcements(routes: Sequence[Document], key: Mapping[str, Any]) -> list[Document]:
    """The routes of one attachment, out of those of `bgpcni routes`."""
    wanted = [key[name] for name in ("network", "containerID", "ifname")]
    return [route for route in routes if [route[name] for name in ("network", "containerID", "ifname")] == wanted]
