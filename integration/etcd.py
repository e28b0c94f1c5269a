"""Real etcd members in network namespaces."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence

from integration.lab import Daemon, Lab, Namespace, NotHere
from integration.lab.namespace import Argument


class Member(Daemon):
    """One member of an etcd cluster: `peers` has each member's name and address, its own too."""

    def __init__(self, lab: Lab, namespace: Namespace, name: str = "etcd", peers: dict[str, str] | None = None) -> None:
        program = shutil.which("etcd")
        if program is None:
            raise NotHere("not installed: etcd-server")
        super().__init__(namespace, lab.folder / name)
        self.program, self.name = program, name
        self.peers = peers or {name: "127.0.0.1"}
        self.address = self.peers[name]
        lab.adopt(self)

    @property
    def endpoint(self) -> str:
        return f"http://{self.address}:2379"

    def argv(self) -> Sequence[Argument]:
        cluster = ",".join(f"{name}=http://{address}:2380" for name, address in self.peers.items())
        return [
            self.program, "--name", self.name, "--data-dir", self.folder / "data",
            "--listen-client-urls", self.endpoint, "--advertise-client-urls", self.endpoint,
            "--listen-peer-urls", f"http://{self.address}:2380",
            "--initial-advertise-peer-urls", f"http://{self.address}:2380",
            "--initial-cluster", cluster, "--initial-cluster-state", "new",
            "--experimental-watch-progress-notify-interval", "1s", "--logger", "zap", "--log-level", "warn",
        ]  # fmt: skip

    def answers(self) -> bool:
        return "true" in self.ctl("endpoint", "health", "--write-out=json")

    def ctl(self, *words: str) -> str:
        """What `etcdctl` says."""
        return self.namespace.run("etcdctl", "--endpoints", self.endpoint, *words).stdout

    def compact(self) -> None:
        """Forget every revision but the present one."""
        (status,) = json.loads(self.ctl("endpoint", "status", "--write-out=json"))
        self.ctl("compact", str(status["Status"]["header"]["revision"]))
