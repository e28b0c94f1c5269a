"""The cluster that a test has: the double, or a real one that KUBECONFIG names; and kubectl, which is real in any case.

A node's namespace reaches it at the address that the kubeconfig has: for a real cluster that address is put on the
namespace's lo, where a relay listens.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from bgpcni.testing.patience import SECONDS
from integration.kubernetes.double import Double
from integration.kubernetes.relay import Relay
from integration.lab.core import NotHere
from integration.lab.inside import Inside
from integration.lab.namespace import Namespace, unique

CRDS = Path(__file__).parents[2] / "deploy/kubernetes/crds"
RBAC = CRDS.parent / "base/rbac.yaml"
VARIABLE = "BGPCNI_KUBECONFIG"
"""Names the kubeconfig of a real cluster: `make kubernetes` sets it from KUBECONFIG."""


def document(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """One of our objects."""
    return {"apiVersion": "bgpcni.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


class NoKubectl(NotHere):
    """kubectl is not on this machine."""


class Cluster:
    """One cluster, reached from one network namespace. `double` is None for a real one."""

    def __init__(self, namespace: Namespace, folder: Path, pace: float = 1.0) -> None:
        if shutil.which("kubectl") is None:
            raise NoKubectl("kubectl is not installed (Debian: kubernetes-client)")
        folder.mkdir(mode=0o755)
        self.namespace, self.folder = namespace, folder
        self.kubeconfig = folder / "kubeconfig"
        self.double: Double | None = None
        self.accounts: dict[Path, str] = {}
        """The service accounts that were made, by their kubeconfig."""
        self._inside = Inside(namespace)
        self._undo: list[Callable[[], object]] = [self._inside.close]
        real = os.environ.get(VARIABLE)
        if real:
            self._reach(Path(real))
        else:
            self.double = Double(lambda: self._inside.call(bound, "127.0.0.1", 0), pace)
            self.double.start()
            self._undo.append(self.double.stop)
            self.double.kubeconfig(self.kubeconfig)
            self.line, self.cut = self.double.line, self.double.cut

    def close(self) -> None:
        """End the double, and take away what tests made in a real cluster. Idempotent."""
        while self._undo:
            self._undo.pop()()

    def _reach(self, real: Path) -> None:
        document = yaml.safe_load(real.read_text())
        self.kubeconfig.write_text(json.dumps(document))
        self.kubeconfig.chmod(0o600)
        name = document["current-context"]
        context = next(item["context"] for item in document["contexts"] if item["name"] == name)
        server = next(item["cluster"]["server"] for item in document["clusters"] if item["name"] == context["cluster"])
        host, port = urlsplit(server).hostname or "", urlsplit(server).port or 443
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0]
        if not str(address).startswith("127."):
            self.namespace.ip("address", "replace", f"{address}/{128 if ':' in str(address) else 32}", "dev", "lo")
        if address != host:
            hosts = Path("/etc/netns", self.namespace.name, "hosts")
            hosts.parent.mkdir(parents=True)
            hosts.write_text(f"{address} {host}\n")
            self._undo.append(lambda: shutil.rmtree(hosts.parent, ignore_errors=True))
        way = _Way(self._inside.call(bound, str(address), port), str(address), port)
        self.line, self.cut = way.relay.line, way.cut
        self._undo.append(way.stop)

    # ---------------------------------------------------------------- what tests do

    def kubectl(self, *argv: str, stdin: str | Mapping[str, Any] = "", check: bool = True) -> str:
        """Run kubectl in the namespace, to its end; what it printed."""
        text = stdin if isinstance(stdin, str) else json.dumps(stdin)
        done = self.namespace.run("kubectl", *argv, check=check, stdin=text, env=self._environment())
        return done.stdout

    def define(self) -> None:
        """Have the definitions of our objects, as an overlay installs them."""
        self.kubectl("apply", "-f", str(CRDS / "crds.yaml"))
        self.kubectl("wait", "--for=condition=Established", "crd", "--all")

    def kubectl_json(self, *argv: str) -> dict[str, Any]:
        return dict(json.loads(self.kubectl(*argv, "-o", "json")))

    def kubectl_open(self, *argv: str, log: Path) -> subprocess.Popen[str]:
        """Start kubectl, for what does not end by itself; what it prints goes to `log`."""
        process = self.namespace.popen("kubectl", *argv, log=log, env=self._environment())
        self._undo += [lambda: process.wait(SECONDS), process.kill]
        return process

    def account(self, name: str, rules: list[dict[str, Any]], file: Path) -> Path:
        """A service account that may do just this; the kubeconfig that reads its token from `file`, written here."""
        name = unique(name)
        metadata = {"metadata": {"name": name}}
        rbac = {"apiVersion": "rbac.authorization.k8s.io/v1"}
        subject = {"kind": "ServiceAccount", "namespace": "default", "name": name}
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
        for document in (
            {"apiVersion": "v1", "kind": "ServiceAccount", **metadata},
            {**rbac, "kind": "ClusterRole", **metadata, "rules": rules},
            {**rbac, "kind": "ClusterRoleBinding", **metadata, "subjects": [subject], "roleRef": reference},
        ):
            self.kubectl("create", "-f", "-", stdin=document)
        for kind in ("clusterrolebinding", "clusterrole", "serviceaccount"):
            self._undo.append(lambda kind=kind: self.kubectl("delete", kind, name, check=False))  # type: ignore[misc]
        file.write_text(self.token(name))
        document = yaml.safe_load(self.kubeconfig.read_text())
        document["users"] = [{"name": item["name"], "user": {"tokenFile": str(file)}} for item in document["users"]]
        kubeconfig = file.with_name("kubeconfig-of-account")
        kubeconfig.write_text(json.dumps(document))
        self.accounts[kubeconfig] = name
        return kubeconfig

    def token(self, account: str) -> str:
        """A new token of a service account."""
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        path = f"/api/v1/namespaces/default/serviceaccounts/{account}/token"
        return str(json.loads(self.kubectl("create", "--raw", path, "-f", "-", stdin=request))["status"]["token"])

    def node(self, pod_cidrs: tuple[str, ...] = (), name: str = "", taints: tuple[str, ...] = ()) -> str:
        """Make a Node, as kubelet would; its name. It goes with the cluster's `close`."""
        name = name or unique("node")
        document = {
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
            "spec": {"taints": [{"key": key, "effect": "NoSchedule"} for key in taints]}
            | ({"podCIDR": pod_cidrs[0], "podCIDRs": list(pod_cidrs)} if pod_cidrs else {}),
        }  # fmt: skip
        self.kubectl("create", "-f", "-", stdin=document)
        self._undo.append(lambda: self.kubectl("delete", "node", name, "--ignore-not-found", check=False))
        return name

    def condition(self, node: str, kind: str = "NetworkUnavailable") -> dict[str, Any]:
        """A condition of a Node, {} where it has none of that type."""
        conditions = self.kubectl_json("get", "node", node)["status"].get("conditions") or []
        return next((item for item in conditions if item["type"] == kind), {})

    def taints(self, node: str) -> set[str]:
        return {taint["key"] for taint in self.kubectl_json("get", "node", node)["spec"].get("taints") or []}

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig), "HOME": str(self.folder)}


class _Way:
    """A relay to a real server, in a thread."""

    def __init__(self, sock: socket.socket, host: str, port: int) -> None:
        self._loop = asyncio.new_event_loop()
        self.relay = Relay(sock, lambda: asyncio.open_connection(host, port), None)
        self._stopping, ready = asyncio.Event(), threading.Event()

        async def work() -> None:
            await self.relay.start()
            ready.set()
            await self._stopping.wait()
            self.relay.stop()

        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(work(),), daemon=True)
        self._thread.start()
        assert ready.wait(SECONDS)

    def cut(self) -> None:
        self._loop.call_soon_threadsafe(self.relay.cut)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(SECONDS)


def bound(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((host, port))
    return sock
