"""Real etcd members in network namespaces."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import trustme

from integration.lab import Daemon, Lab, Namespace, NotHere
from integration.lab.namespace import Argument

T = TypeVar("T")


class Tls:
    """A certificate authority, and what it issues: a folder with ca.pem, and NAME.pem and NAME-key.pem for each."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        self.folder, self._authority = folder, trustme.CA()
        self.ca = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(self.ca)

    def issue(self, name: str, *identities: str, until: datetime | None = None) -> tuple[Path, Path]:
        """A certificate and its key, in the place of what there was of that name."""
        made = self._authority.issue_cert(*identities, common_name=name, not_after=until)
        cert, key = self.folder / f"{name}.pem", self.folder / f"{name}-key.pem"
        cert.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        made.private_key_pem.write_to_path(key)
        return cert, key


class Member(Daemon):
    """One member of an etcd cluster: `peers` has each member's name and address, its own too. With `tls` clients need a
    certificate. `quota`: octets that its database may have."""

    def __init__(
        self,
        lab: Lab,
        namespace: Namespace,
        name: str = "etcd",
        peers: dict[str, str] | None = None,
        tls: Tls | None = None,
        quota: int = 0,
    ) -> None:
        program = shutil.which("etcd")
        if program is None:
            raise NotHere("not installed: etcd-server")
        super().__init__(namespace, lab.folder / name)
        self.program, self.name = program, name
        self.peers = peers or {name: "127.0.0.1"}
        self.address, self.tls, self.quota = self.peers[name], tls, quota
        if tls is not None:
            tls.issue(name, *self.peers.values(), "127.0.0.1")
            tls.issue("ctl", "ctl")
        lab.adopt(self)

    @property
    def endpoint(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.address}:2379"

    def argv(self) -> Sequence[Argument]:
        cluster = ",".join(f"{name}=http://{address}:2380" for name, address in self.peers.items())
        return [
            self.program, "--name", self.name, "--data-dir", self.folder / "data",
            "--listen-client-urls", self.endpoint, "--advertise-client-urls", self.endpoint,
            "--listen-peer-urls", f"http://{self.address}:2380",
            "--initial-advertise-peer-urls", f"http://{self.address}:2380",
            "--initial-cluster", cluster, "--initial-cluster-state", "new",
            "--experimental-watch-progress-notify-interval", "1s", "--logger", "zap", "--log-level", "warn",
            *(["--quota-backend-bytes", str(self.quota)] if self.quota else ()), *self._secure(),
        ]  # fmt: skip

    def _secure(self) -> Sequence[Argument]:
        if self.tls is None:
            return ()
        folder = self.tls.folder
        return (
            "--cert-file", folder / f"{self.name}.pem", "--key-file", folder / f"{self.name}-key.pem",
            "--trusted-ca-file", self.tls.ca, "--client-cert-auth",
        )  # fmt: skip

    def answers(self) -> bool:
        return "true" in self.ctl("endpoint", "health", "--write-out=json")

    def ctl(self, *words: str) -> str:
        """What `etcdctl` says."""
        files: Sequence[Argument] = ()
        if self.tls is not None:
            folder = self.tls.folder
            files = ("--cacert", self.tls.ca, "--cert", folder / "ctl.pem", "--key", folder / "ctl-key.pem")
        return self.namespace.run("etcdctl", "--endpoints", self.endpoint, *files, *words).stdout

    def compact(self) -> None:
        """Forget every revision but the present one."""
        (status,) = json.loads(self.ctl("endpoint", "status", "--write-out=json"))
        self.ctl("compact", str(status["Status"]["header"]["revision"]))


def at_once(items: Sequence[T], do: Callable[[T], object]) -> None:
    """Do it with all of them at once: a member of etcd answers once another one is there. Raises what fails."""
    with ThreadPoolExecutor(len(items)) as threads:
        list(threads.map(do, items))


def three(lab: Lab, namespace: Namespace, tls: Tls | None = None) -> tuple[Member, Member, Member]:
    """Three members of one cluster on the loopback addresses of a namespace, started."""
    peers = {f"m{number}": f"127.0.0.{number}" for number in (1, 2, 3)}
    found = tuple(Member(lab, namespace, name, peers, tls) for name in peers)
    at_once(found, Member.start)
    first, second, third = found
    return first, second, third
