"""What several tests look for: a dual-stack network, its routes at FRR, a node on which nothing is left."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bgpcni.testing.patience import SECONDS
from integration.lab import CniAnswer, Frr, Lab, Namespace, Node, until

SUBNET, SUBNET6 = "10.1.2.0/24", "2001:db8:1:2::/64"


def ready(lab: Lab) -> tuple[Frr, Node]:
    """FRR, and a node whose agent runs and has its session with it."""
    frr = lab.frr()
    node = lab.node(frr)
    node.agent()
    frr.wait_established(node.address)
    return frr, node


def dual(node: Node, name: str = "tenant-a", **keys: Any) -> dict[str, Any]:
    """A network with IPv4 and IPv6, announced as unicast routes; ADD waits until they are sent, up to 30 s.

    The other's default of 2 s would be an assertion on time. `keys` replace top-level keys.
    """
    return node.network(name, SUBNET, SUBNET6, **{"bgp": {"wait": "sent", "waitSeconds": 30}} | keys)


def prefixes(answer: CniAnswer) -> dict[str, str]:
    """The host routes of an ADD's addresses, each with its address."""
    return {f"{ip}/{128 if ':' in ip else 32}": ip for ip in answer.ips}


def add(node: Node, name: str, space: Namespace, conf: dict[str, Any], **more: Any) -> CniAnswer:
    """ADD that must succeed, with an address of each family."""
    answer = node.cni("ADD", name, space, conf, **more)
    assert answer.ok, (answer.document, answer.stderr)
    assert [":" in ip for ip in answer.ips] == [False, True], answer.document
    return answer


def delete(node: Node, name: str, space: Namespace | Path | str | None, conf: Any, **more: Any) -> CniAnswer:
    """DEL that must succeed, with nothing on stdout."""
    answer = node.cni("DEL", name, space, conf, **more)
    assert answer.ok, (answer.document, answer.stderr)
    assert answer.document == {}
    return answer


def announced(frr: Frr, node: Node, *answers: CniAnswer) -> None:
    """Wait until FRR, and its kernel, have every route of these ADDs, with the node as next hop."""
    for answer in answers:
        for prefix in prefixes(answer):
            hop = node.address6 if ":" in prefix else node.address
            until(lambda p=prefix, h=hop: frr.next_hops(p) == {h}, f"{prefix} via {hop}")  # type: ignore[misc]
            until(lambda p=prefix: frr.kernel_route(p), f"{prefix} in the kernel of FRR's side")  # type: ignore[misc]


def pinged(frr: Frr, *answers: CniAnswer) -> None:
    """FRR's side reaches both addresses of each ADD."""
    for answer in answers:
        for ip in answer.ips:
            until(lambda a=ip: frr.ping(a), f"an answer of {ip}")  # type: ignore[misc]


def withdrawn(frr: Frr, *answers: CniAnswer) -> None:
    """Wait until FRR has none of these routes."""
    for answer in answers:
        for prefix in prefixes(answer):
            until(lambda p=prefix: not frr.paths(p) and not frr.kernel_route(p), f"{prefix} gone")  # type: ignore[misc]


def nothing_left(node: Node, *spaces: Namespace, networks: Iterable[str] = ("tenant-a",)) -> None:
    """No link but the bridge, no interface in the containers, and soon no lease and no record of any state: they wait
    until the peers acknowledged the withdrawal, DEL does not."""
    assert node.links() <= {"cni0"}
    for space in spaces:
        assert links_in(space) == []
    until(lambda: not node.records(), "the end of every record")
    for network in networks:
        assert node.lease_files(network) == set()


def nothing_stays(node: Node, *spaces: Namespace) -> None:
    """The same, but wait until all withdrawals are confirmed."""

    def look() -> bool:
        nothing_left(node, *spaces)
        return True

    until(look, "that nothing is left")


def links_in(space: Namespace) -> list[str]:
    """The links of a container, without lo."""
    return [link["ifname"] for link in space.ip_json("link", "show") if link["ifname"] != "lo"]


def settled(node: Node) -> list[dict[str, Any]]:
    """Wait until `bgpcni routes` has every route announced; the list."""
    until(lambda: node.operator("routes").code == 0, "every route announced")
    return node.routes()


def at_once(calls: Sequence[Any], width: int = 200) -> list[Any]:
    """Run all at the same time, each in a thread; their results in order."""
    with ThreadPoolExecutor(min(width, max(1, len(calls)))) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


class Burst:
    """Calls of the plugin that run together in the background."""

    def __init__(self, calls: Sequence[Callable[[], CniAnswer]]) -> None:
        self._answers: list[CniAnswer] = []
        self._thread = threading.Thread(target=lambda: self._answers.extend(at_once(calls)))
        self._thread.start()

    def wait(self, predicate: Callable[[], bool], what: str) -> None:
        """Until something is so, or until all calls have ended."""
        until(lambda: predicate() or not self._thread.is_alive(), what, step=0.001)

    def answers(self) -> list[CniAnswer]:
        """All answers, in the order of the calls."""
        self._thread.join()
        return self._answers


def speaker(node: Node) -> int:
    """The pid of the node's ExaBGP; waits for it."""

    def pid() -> int:
        found = int(json.loads((node.run_dir / "exabgp.pid").read_text())["pid"])
        os.kill(found, 0)
        return found

    return until(pid, "ExaBGP")


def freeze(lab: Lab, pid: int) -> None:
    """Stop a process until `thaw`, or until the laboratory closes."""
    os.kill(pid, signal.SIGSTOP)
    lab.callback(lambda: thaw(pid))


def thaw(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        pass


@contextmanager
def cut_off(frr: Frr, address: str) -> Iterator[None]:
    """Drop every packet of the BGP session from this node, on FRR's side; the session stays up."""
    for command in (
        "add table inet cut",
        "add chain inet cut input { type filter hook input priority 0; }",
        f"add rule inet cut input {'ip6' if ':' in address else 'ip'} saddr {address} tcp dport 179 drop",
        f"add rule inet cut input {'ip6' if ':' in address else 'ip'} saddr {address} tcp sport 179 drop",
    ):
        frr.namespace.run("nft", command)
    try:
        yield
    finally:
        frr.namespace.run("nft", "delete table inet cut")


def session(frr: Frr, node: Node) -> tuple[int, int]:
    """How often FRR's session with the node came up and fell: unchanged means that nothing happened to it."""
    found = frr.neighbor(node.address)
    return found["connectionsEstablished"], found["connectionsDropped"]


@contextmanager
def nothing_missed(lab: Lab, frr: Frr, prefixes: Sequence[str]) -> Iterator[None]:
    """FRR's kernel never loses one of these routes meanwhile."""
    for prefix in prefixes:
        until(lambda prefix=prefix: frr.kernel_route(prefix), f"{prefix} in FRR's kernel")  # type: ignore[misc]
    log = lab.folder / f"monitor-{frr.folder.name}"
    monitor = frr.namespace.popen("ip", "monitor", "route", log=log)

    def listens() -> bool:
        """It shows a route of our own."""
        frr.namespace.ip("route", "replace", "203.0.113.0/24", "dev", "lo")
        frr.namespace.ip("route", "delete", "203.0.113.0/24", "dev", "lo")
        return "203.0.113.0/24" in log.read_text()

    until(listens, "the monitor's first line")
    yield
    monitor.terminate()
    monitor.wait(SECONDS)
    names = {prefix.removesuffix("/32").removesuffix("/128") for prefix in prefixes}
    lines = [line.split() for line in log.read_text().splitlines() if line.startswith("Deleted")]
    assert [line for line in lines if line[1] in names] == []
    log.unlink()
