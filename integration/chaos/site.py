"""The laboratory of the chaos: two nodes and two FRRs on one Ethernet segment, every node a peer of every FRR."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from integration.frr_table import Shown, table
from integration.lab import Frr, Lab, Namespace, Neighbor, Node, link
from integration.lab.namespace import run

FAMILIES = ("ipv4-unicast", "ipv6-unicast")
HOLD_SECONDS = 9
GRACE_SECONDS = 1.0
NETWORK = "tenant-a"
DISK = "2m"
PROCESSES = {"agent": b"agent", "engine": b"bgpcni_exabgp.engine", "relay": b"bgpcni_exabgp.relay"}
"""The resident ones of a node, each with the word of its command line that tells it."""


class Peer:
    """One FRR. Its vty is asked by several threads; not at all while bgpd is stopped."""

    def __init__(self, frr: Frr, name: str, address: str, port: str) -> None:
        self.frr, self.name, self.address, self.port = frr, name, address, port
        self.paused = False
        self.deaf: set[str] = set()
        """Addresses of nodes whose packets do not arrive now."""
        self._lock = threading.RLock()

    def ask(self, what: Callable[[Frr], Any]) -> Any:
        """What `what` says of this FRR, None while it cannot be asked."""
        with self._lock:
            if self.paused or not self.frr.running():
                return None
            return what(self.frr)

    def routes(self) -> dict[str, Shown]:
        """Every prefix with its path."""
        with self._lock:
            return {str(nlri.prefix): shown for nlri, shown in table(self.frr).items()}

    def pause(self) -> None:
        with self._lock:
            self.paused = True
            self.frr.kill(signal.SIGSTOP)

    def resume(self) -> None:
        with self._lock:
            self.frr.kill(signal.SIGCONT)
            self.paused = False

    def kill(self, number: int) -> None:
        with self._lock:
            self.frr.kill(number)

    def start(self) -> None:
        with self._lock:
            self.frr.start()


class Host:
    """One node, and what is known of its agent."""

    def __init__(self, node: Node, number: int, spare: int, count: int) -> None:
        self.node, self.number, self.name = node, number, f"n{number}"
        self.port = f"node{number}"
        self.exporters: tuple[str, ...] = ("exabgp",)
        self.epoch = 0
        """Grows with whatever excuses a call that fails: the agent ends or hangs, its disk is full."""
        self.troubles = 0
        """How many of these last now."""
        self.keeps_speaker = False
        """Whether agent.toml names ExaBGP though no network may use it: then it does not end."""
        self.cut = False
        """Whether its uplink is down."""
        self.frozen = False
        """Whether its ExaBGP is stopped."""
        self.adding = 0
        self.size = count + spare
        self._lock = threading.Lock()

    def network(self, number: int | None = None) -> dict[str, Any]:
        """The network's configuration; `number` marks the routes of one attachment."""
        n, last, six = self.number, 9 + self.size, f"2001:db8:{self.number}::"
        ranges = [
            [{"subnet": f"10.{n}.0.0/24", "rangeStart": f"10.{n}.0.10", "rangeEnd": f"10.{n}.0.{last}"}],
            [{"subnet": f"{six}/64", "rangeStart": f"{six}a", "rangeEnd": f"{six}{last:x}"}],
        ]
        document = self.node.network(NETWORK, exporters=None, ipMasq=True, macspoofchk=True)
        document["ipam"] |= {"ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}
        if number is not None:
            document["args"] = {"cni": {"exportRT": [f"64512:{number}"]}}
        return document

    @contextmanager
    def counted(self) -> Iterator[None]:
        with self._lock:
            self.adding += 1
        try:
            yield
        finally:
            with self._lock:
                self.adding -= 1

    def trouble(self, more: int) -> None:
        """One more that disturbs the agent (1), or one that is over (-1)."""
        with self._lock:
            self.epoch += 1
            self.troubles += more

    def was_calm(self, epoch: int) -> bool:
        """Whether nothing disturbed the agent since `epoch` was looked at."""
        with self._lock:
            return self.epoch == epoch and not self.troubles

    def configure(self, peers: list[Peer]) -> None:
        neighbors = [{"address": peer.address, "asn": peer.frr.asn, "families": list(FAMILIES)} for peer in peers]
        self.node.configure(
            bgp={"neighbors": neighbors, "hold_time": HOLD_SECONDS, "graceful_restart": 10},
            default_exporters=list(self.exporters),
            exporters={"exabgp": {"type": "exabgp"}} if self.keeps_speaker else {},
            orphan_grace=GRACE_SECONDS,
        )

    def processes(self) -> dict[str, list[int]]:
        """Our resident processes on this node by what they are: PROCESSES."""
        found: dict[str, list[int]] = {name: [] for name in PROCESSES}
        for pid in self.node.namespace.pids():
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            for name, mark in (
                ("agent", b"agent"),
                ("engine", b"bgpcni_exabgp.engine"),
                ("relay", b"bgpcni_exabgp.relay"),
            ):
                if mark in words:
                    found[name].append(pid)
        return found

    def process(self, name: str) -> int | None:
        """The pid of one of them, None if there is not exactly one."""
        found = self.processes()[name]
        return found[0] if len(found) == 1 else None


class Site:
    """Everything there is. `spare`: how many more addresses than containers each node has."""

    def __init__(self, lab: Lab, spare: int, count: int) -> None:
        self.lab = lab
        self.switch: Namespace = lab.namespace("switch")
        self.switch.ip("link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        self.switch.ip("link", "set", "br0", "up")
        self.peers = [self._peer(number) for number in (1, 2)]
        self.hosts = [self._host(number, spare, count) for number in (1, 2)]

    def _plug(self, space: Namespace, port: str, *addresses: str) -> None:
        link(space, self.switch, "uplink", port, addresses)
        self.switch.ip("link", "set", port, "master", "br0")

    def _peer(self, number: int) -> Peer:
        frr = self.lab.frr(router_id=f"198.18.255.{number}")
        port = f"frr{number}"
        self._plug(frr.namespace, port, f"198.18.254.{number}/16", f"2001:db8:18:fe::{number}/48")
        return Peer(frr, port, f"198.18.254.{number}", port)

    def _host(self, number: int, spare: int, count: int) -> Host:
        node = self.lab.node()
        self._plug(node.namespace, f"node{number}", f"{node.address}/16", f"{node.address6}/48")
        for peer in self.peers:
            peer.frr.add_neighbor(Neighbor(node.address, node.asn, FAMILIES))
        node.data_dir.mkdir(mode=0o700)
        run("mount", "-t", "tmpfs", "-o", f"size={DISK},mode=0700", "none", node.data_dir)
        self.lab.callback(lambda: run("umount", "--lazy", node.data_dir, check=False))
        host = Host(node, number, spare, count)
        host.configure(self.peers)
        node.start_agent()
        return host

    def established(self) -> None:
        """Wait until every session is up."""
        for host in self.hosts:
            for peer in self.peers:
                peer.frr.wait_established(host.node.address)

    def unheard(self, host: Host, peer: Peer) -> bool:
        """Whether nothing that the node says now reaches the peer."""
        return host.cut or host.frozen or host.node.address in peer.deaf

    def speaker(self, host: Host) -> int | None:
        return host.process("engine")


def signal_process(pid: int | None, number: int) -> bool:
    """Signal a process that may be gone; whether it was there."""
    if pid is None:
        return False
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
