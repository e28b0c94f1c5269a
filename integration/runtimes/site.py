"""A machine with the agent, a session with FRR, and what tests of runtimes ask again and again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from integration.lab import Lab, NeverHappened, until
from integration.lab.engine import Engine, NoEngine
from integration.lab.frr import tail
from integration.lab.namespace import Argument
from integration.lab.node import OperatorAnswer
from integration.runtimes.containerd import Containerd
from integration.runtimes.cri import Cri
from integration.runtimes.machine import enclose

SUBNETS = ("10.1.2.0/24", "2001:db8:1:2::/64")
NETWORK = "tenant-a"


class Site:
    """FRR, and a node that is a whole machine, with a dual-stack network. All of it ends with the laboratory.

    The network's ADD waits until FRR was sent the routes, so what `bgpcni` says is what FRR will soon have.
    """

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.frr = lab.frr()
        self.node = lab.node(self.frr)
        self.machine = enclose(self.node)
        self.node.configure()
        self.network()

    def agent(self, **toml: Any) -> None:
        """Start the agent and wait for its session."""
        self.node.agent(**toml)
        self.frr.wait_established(self.node.address)

    def configuration(self, *plugins: dict[str, Any], **keys: Any) -> dict[str, Any]:
        """Our plugin's dual-stack network as a list, with `plugins` behind it."""
        keys.setdefault("bgp", {"wait": "sent", "waitSeconds": 20})
        own = self.node.network(NETWORK, *SUBNETS, **keys)
        version, name = own.pop("cniVersion"), own.pop("name")
        return {"cniVersion": version, "name": name, "plugins": [own, *plugins]}

    def network(self, *plugins: dict[str, Any], **keys: Any) -> None:
        """Put that configuration where runtimes look for it."""
        self.machine.network(self.configuration(*plugins, **keys))

    # what FRR and the node have

    def announced(self, ips: Iterable[str]) -> None:
        """Wait until FRR has a route to each address, with the node as next hop."""
        for ip in ips:
            hop = self.node.address6 if ":" in ip else self.node.address
            until(lambda ip=ip, hop=hop: self.frr.next_hops(host_prefix(ip)) == {hop}, f"{ip} at FRR")  # type: ignore[misc]

    def withdrawn(self, ips: Iterable[str]) -> None:
        """Wait until FRR has no route to any of them."""
        for ip in ips:
            until(lambda ip=ip: not self.frr.paths(host_prefix(ip)), f"no {ip} at FRR")  # type: ignore[misc]

    def reachable(self, ips: Iterable[str]) -> None:
        """Wait until FRR's side pings each address."""
        for ip in ips:
            until(lambda ip=ip: self.frr.ping(ip), f"an answer of {ip}")  # type: ignore[misc]

    def leases(self) -> set[str]:
        return self.node.lease_files(NETWORK)

    def nothing_left(self) -> None:
        """Wait until neither record, lease nor link of a container is there."""
        until(lambda: not self.node.records(), "no records")
        until(lambda: not self.leases(), "no leases")
        until(lambda: self.node.links() <= {"cni0"}, "no links")

    def key(self) -> dict[str, Any]:
        """The one attachment there is."""
        (only,) = self.node.attachments()
        return only

    # attach and detach

    def attach(self, pid: int, ident: str, **options: Argument) -> OperatorAnswer:
        return self.operator("attach", pid=pid, id=ident, network=NETWORK, **options)

    def detach(self, **options: Argument) -> OperatorAnswer:
        return self.operator("detach", network=NETWORK, **options)

    def operator(self, command: str, **options: Argument) -> OperatorAnswer:
        words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        return self.node.operator(command, *words)

    # runtimes

    def containerd(self, snapshotter: str = "native") -> Containerd:
        """Started, with an image, and tried out. Raises NoEngine where it cannot run a container here."""
        containerd = Containerd(self.node, self.machine, snapshotter)
        self.lab.callback(containerd.close)
        try:
            containerd.start()
            containerd.import_image()
            containerd.run("trial", "true", flags=("--rm",))
        except (RuntimeError, NeverHappened) as error:
            raise NoEngine(f"{error} ({tail(containerd.log, 800).strip()})") from error
        return containerd

    def cri(self, containerd: Containerd) -> Cri:
        cri = Cri(containerd)
        self.lab.callback(cri.close)
        cri.wait_ready()
        return cri

    def engine(self, kind: type[Engine]) -> Engine:
        engine = kind(self.node.folder / kind.name, self.machine.box)
        self.lab.callback(engine.close)
        return engine

    def start(self, engine: Engine) -> tuple[str, int]:
        """Start a container that has no network; its ID, and its first process as the machine numbers it."""
        flags = ("--detach", "--network=none", *engine.run_flags)
        ident = engine.run("run", *flags, engine.busybox_image(), "sleep", "100000").stdout.strip()
        return ident, self.pid(engine, ident)

    def pid(self, engine: Engine, ident: str) -> int:
        return int(engine.run("inspect", "--format={{.State.Pid}}", ident).stdout)


def addresses(document: dict[str, Any]) -> list[str]:
    """The addresses of a result, an attachment or an answer of `attach`, without lengths."""
    assert "ips" in document, document
    found = [ip["address"] if isinstance(ip, dict) else ip for ip in document["ips"]]
    return [str(ip).partition("/")[0] for ip in found]


def host_prefix(ip: str) -> str:
    return f"{ip}/{128 if ':' in ip else 32}"
