"""The laboratory of a storm: three real members of etcd in namespaces of their own, nodes, and FRR.

FRR reflects the nodes' routes, and everything reaches everything through it. One BGPPeer is the neighbour of all nodes.
"""

from __future__ import annotations

import json
import signal
import threading
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

from integration.etcd import Member, at_once
from integration.lab import Frr, Lab, Node, link, until
from integration.lab.namespace import send_signal
from integration.lab.node import BGPCNI
from integration.storm.history import Ending

POOL, BLOCK_SIZE = "10.64.0.0/16", 28
ROOM = 2 ** (32 - BLOCK_SIZE) - 3
"""Addresses for containers in a block: without the first, which is the gateway, the network's and the broadcast's."""
HOLD_SECONDS = 3


@dataclass(slots=True)
class Host:
    """One node of the cluster. `busy` is held during each call: a node dies between two of them."""

    number: int
    node: Node
    busy: threading.Lock = field(default_factory=threading.Lock)
    dead: bool = False

    @property
    def name(self) -> str:
        return f"node-{self.number}"


class Site:
    def __init__(self, lab: Lab, nodes: int, block_size: int = BLOCK_SIZE) -> None:
        self.lab, self.block_size = lab, block_size
        self.frr: Frr = lab.frr()
        peers = {f"m{number}": f"198.18.{200 + number}.1" for number in (1, 2, 3)}
        self.members = [self._member(name, peers) for name in peers]
        at_once(self.members, Member.start)
        self.hosts = [
            Host(number + 1, lab.node(self.frr, families=("ipv4-unicast",), reflect=True)) for number in range(nodes)
        ]

    def _member(self, name: str, peers: dict[str, str]) -> Member:
        space, gateway = self.lab.namespace(name), peers[name].removesuffix(".1") + ".254"
        link(space, self.frr.namespace, "uplink", name, (f"{peers[name]}/24",), (f"{gateway}/24",))
        space.ip("route", "add", "default", "via", gateway)
        return Member(self.lab, space, name, peers)

    def start(self) -> None:
        """The agents, the peer of all, the pool."""
        for host in self.hosts:
            self.configure(host)
        at_once(self.hosts, lambda host: host.node.start_agent())
        self.apply(_document("IPPool", "storm", cidrs=[POOL], blockSize={"ipv4": self.block_size}))
        self.peer()
        until(lambda: all(self.frr.established(host.node.address) for host in self.hosts), "all sessions", 120)

    def peer(self) -> None:
        """One object gives all nodes their session with FRR."""
        self.apply(_document("BGPPeer", "reflector", gateway=True, asn=self.frr.asn, families=["ipv4-unicast"]))

    def configure(self, host: Host) -> None:
        host.node.configure(
            bgp={"neighbors": [], "hold_time": HOLD_SECONDS, "graceful_restart": 0},
            cluster={
                "store": "etcd", "node": host.name, "labels": {"rack": f"r{host.number % 2}"},
                "etcd": {"endpoints": [member.endpoint for member in self.members]},
            },
        )  # fmt: skip

    def conf(self, host: Host) -> dict[str, Any]:
        ipam = {"type": "bgpcni-ipam", "pools": ["storm"], "routes": [{"dst": "0.0.0.0/0"}]}
        return host.node.network(ipam=ipam)

    # ---------------------------------------------------------------- the store

    def run(self, *words: str, stdin: str = "") -> dict[str, Any]:
        """A command about the cluster's objects, from a node that lives. Raises RuntimeError."""
        host = next(host for host in self.hosts if not host.dead)
        done = host.node.namespace.run(BGPCNI, *words, "--config", host.node.config, "--json", check=False, stdin=stdin)
        if done.returncode:
            raise RuntimeError(f"{words}: {done.stdout}{done.stderr}")
        return dict(json.loads(done.stdout))

    def apply(self, *objects: dict[str, Any]) -> None:
        self.run("apply", "-f", "-", stdin="\n---\n".join(json.dumps(item) for item in objects))

    def leader(self) -> Member:
        """The member that leads, else any."""
        for member in self.members:
            try:
                (found,) = json.loads(member.ctl("endpoint", "status", "--write-out=json"))
            except (RuntimeError, ValueError):
                continue
            status = found["Status"]  # it names no leader while one is elected
            if status.get("leader") == status["header"]["member_id"]:
                return member
        return self.members[0]

    def reach(self, host: Host, *, reaches: bool) -> None:
        """Have a node lose the store, or find it again; its sessions stay."""
        for member in self.members:
            host.node.namespace.ip("route", "add" if not reaches else "del", "blackhole", f"{member.address}/32")

    def kill(self, host: Host) -> None:
        """A node ends without a word, with all that runs on it."""
        for pid in host.node.namespace.pids():
            send_signal(pid, signal.SIGKILL)
        host.node.namespace.ip("link", "set", "uplink", "down")

    # ---------------------------------------------------------------- at the end

    def ending(self) -> Ending:
        """What store, nodes and peer have now."""
        pool = ip_network(POOL)
        living = [host for host in self.hosts if not host.dead]
        items = [item["spec"] for item in self.run("get", "ipblocks")["objects"]]
        table = self.frr.json("show bgp ipv4 unicast").get("routes", {})
        routes = {
            str(ip_network(prefix)[0]): frozenset(
                hop["ip"] for path in paths for hop in path.get("nexthops", ()) if hop.get("used")
            )
            for prefix, paths in table.items()
            if ip_network(prefix).subnet_of(pool)  # type: ignore[arg-type]
        }
        return Ending(
            nodes={host.name: host.node.address for host in living},
            blocks={spec["cidr"]: spec["node"] for spec in items},
            leases={host.name: _leases(host.node) for host in living},
            routes=routes,
        )


def _leases(node: Node) -> dict[str, str]:
    """The container of each address that has a lease on disk."""
    found = {}
    for file in (node.data_dir / "ipam" / "leases").glob("*"):
        try:
            ip_address(file.name)
        except ValueError:
            continue
        found[file.name] = file.read_text().split()[0]
    return found


def _document(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "bgpcni.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
