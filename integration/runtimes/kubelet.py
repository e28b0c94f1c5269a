"""What kubelet does with the pods of a DaemonSet, as far as `deploy/` needs it: volumes, init containers, containers,
probes and their end, through the Container Runtime Interface of a real containerd.

It reads manifests as `kubectl kustomize` renders them and adds nothing to them. A field of a pod that it does not know
is an error, so that no manifest says what no test has done.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from integration.lab import Node, until
from integration.runtimes.cri import Cri
from integration.runtimes.machine import Machine

Document = Mapping[str, Any]
FOLDER = Path("/var/lib/kubelet/pods")
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
MASKED = ("asound", "acpi", "interrupts", "kcore", "keys", "latency_stats", "timer_list", "timer_stats", "sched_debug",
          "scsi")  # fmt: skip
READ_ONLY = ("bus", "fs", "irq", "sys", "sysrq-trigger")
"""Below /proc: what kubelet has masked and made read-only in a container that does not ask otherwise."""
POD = frozenset({
    "containers", "initContainers", "volumes", "hostNetwork", "securityContext", "terminationGracePeriodSeconds",
    # the API server's and the scheduler's
    "nodeSelector", "priorityClassName", "tolerations", "serviceAccountName", "automountServiceAccountToken",
    "dnsPolicy",
})  # fmt: skip
CONTAINER = frozenset({
    "name", "image", "imagePullPolicy", "command", "args", "env", "securityContext", "volumeMounts", "resources",
    "startupProbe", "livenessProbe", "readinessProbe",
})  # fmt: skip
SECURITY = frozenset({
    "runAsUser", "readOnlyRootFilesystem", "allowPrivilegeEscalation", "capabilities", "seccompProfile",
})  # fmt: skip


def render(folder: Path) -> list[Document]:
    """The manifests of a kustomization, as Debian's kubectl renders it. Raises RuntimeError with kubectl's words."""
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"kubectl kustomize {folder}: {done.stderr.strip()}")
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@dataclass
class Pod:
    """One pod that runs. `containers`: the IDs by name, of those that are to stay."""

    name: str
    sandbox: str
    spec: Document
    containers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Server:
    """How pods reach the API server. `token`: that of a service account, by its namespace and name."""

    host: str
    port: str
    authority: bytes
    token: Callable[[str, str], str]


class Kubelet:
    """Runs the pods of one node, `name`. `find`: an object by its kind and name; pods that run stay as they are."""

    def __init__(
        self, name: str, node: Node, machine: Machine, cri: Cri, server: Server, find: Callable[[str, str], Document]
    ) -> None:
        self.name, self.node, self.machine, self.cri = name, node, machine, cri
        self._server, self._find = server, find
        self._attempts = 0

    def start(self, daemonset: str) -> Pod:
        """Start the pod of a DaemonSet: its init containers to their end, then its containers."""
        found = self._find("DaemonSet", daemonset)
        template = found["spec"]["template"]
        spec = template["spec"]
        self._attempts += 1
        name = f"{daemonset}-{self._attempts}"
        _refuse_unknown(daemonset, spec, POD)
        annotations = template["metadata"].get("annotations", {})
        sandbox = self.cri.run_pod(
            name,
            host_network=spec.get("hostNetwork", False),
            logs=self.node.folder,
            labels=template["metadata"]["labels"],
            annotations=annotations,
        )
        pod = Pod(name, sandbox, spec)
        volumes = {one["name"]: self._volume(name, one) for one in spec.get("volumes", ())}
        if spec.get("automountServiceAccountToken", True):
            account = self._account(name, found["metadata"]["namespace"], spec["serviceAccountName"])
            volumes[ACCOUNT] = account
        for container in spec.get("initContainers", ()):
            ident = self._begin(pod, container, volumes)
            until(lambda ident=ident: self.cri.exited(ident) is not None, f"the end of {container['name']}")  # type: ignore[misc]
            assert self.cri.exited(ident) == 0, f"{container['name']} of {name} ended with {self.cri.exited(ident)}"
        for container in spec["containers"]:
            pod.containers[container["name"]] = self._begin(pod, container, volumes)
        return pod

    def ready(self, pod: Pod) -> bool:
        """Whether every container passes its readiness probe."""
        return all(self.probe(pod, one["name"], "readinessProbe") for one in pod.spec["containers"])

    def wait_ready(self, pod: Pod) -> None:
        def ready() -> bool:
            ended = [name for name, ident in pod.containers.items() if self.cri.exited(ident) is not None]
            return bool(ended) or self.ready(pod)

        until(ready, f"{pod.name} ready")
        assert not [name for name, ident in pod.containers.items() if self.cri.exited(ident) is not None], pod.name

    def probe(self, pod: Pod, container: str, kind: str) -> bool:
        """One probe of a container, as its manifest has it; one that it has not passes."""
        (spec,) = (one for one in pod.spec["containers"] if one["name"] == container)
        if kind not in spec:
            return True
        return self.exec(pod, container, *spec[kind]["exec"]["command"])[0] == 0

    def exec(self, pod: Pod, container: str, *argv: str) -> tuple[int, str]:
        """Run a program in a container; its exit code and what it said on both streams."""
        return self.cri.exec(pod.containers[container], *argv)

    def stop(self, pod: Pod) -> None:
        """End a pod in order: SIGTERM, SIGKILL after its grace, then the sandbox."""
        for ident in pod.containers.values():
            self.cri.stop_container(ident, pod.spec.get("terminationGracePeriodSeconds", 30))
        self.cri.stop(pod.sandbox)
        self.cri.remove(pod.sandbox)

    def _begin(self, pod: Pod, container: Document, volumes: Mapping[str, Path]) -> str:
        _refuse_unknown(container["name"], container, CONTAINER)
        mounts = [self._mount(one, volumes) for one in container.get("volumeMounts", ())]
        if ACCOUNT in volumes:
            mounts.append({"container_path": ACCOUNT, "host_path": str(volumes[ACCOUNT]), "readonly": True})
        variables = {"KUBERNETES_SERVICE_HOST": self._server.host, "KUBERNETES_SERVICE_PORT": self._server.port}
        variables |= {one["name"]: self._value(one) for one in container.get("env", ())}
        return self.cri.create_container(
            pod.sandbox,
            {
                "metadata": {"name": container["name"], "attempt": self._attempts},
                "image": {"image": container["image"]},
                "command": container.get("command", ()),
                "args": container.get("args", ()),
                "envs": [{"key": key, "value": value} for key, value in variables.items()],
                "mounts": mounts,
                "log_path": f"{container['name']}.log",
                "linux": {"security_context": _security(pod.spec, container)},
            },
        )

    def _value(self, variable: Document) -> str:
        if "value" in variable:
            return str(variable["value"])
        known = {"spec.nodeName": self.name, "status.hostIP": self.node.address}
        return known[variable["valueFrom"]["fieldRef"]["fieldPath"]]

    def _mount(self, mount: Document, volumes: Mapping[str, Path]) -> Document:
        propagation = mount.get("mountPropagation", "None")
        modes = {"None": 0, "HostToContainer": 1, "Bidirectional": 2}
        path = volumes[mount["name"]]
        return {
            "container_path": mount["mountPath"],
            "host_path": str(path / mount["subPath"] if "subPath" in mount else path),
            "readonly": mount.get("readOnly", False),
            "propagation": modes[propagation],
        }

    def _volume(self, pod: str, volume: Document) -> Path:
        """The folder of a volume on the machine, made as its kind wants it."""
        if "hostPath" in volume:
            path, kind = Path(volume["hostPath"]["path"]), volume["hostPath"].get("type", "")
            if kind == "DirectoryOrCreate":
                self.machine.inside(path).mkdir(mode=0o755, parents=True, exist_ok=True)
            assert kind in ("", "DirectoryOrCreate", "Directory")
            assert not kind or self.machine.inside(path).is_dir(), path
            return path
        folder = FOLDER / pod / str(volume["name"])
        self.machine.inside(folder).mkdir(parents=True)
        if "emptyDir" in volume:
            return folder
        self.publish(folder, self._find("ConfigMap", volume["configMap"]["name"])["data"])
        return folder

    def _account(self, pod: str, namespace: str, name: str) -> Path:
        """The folder that lets a pod reach the API server as its service account."""
        folder = FOLDER / pod / "account"
        self.machine.inside(folder).mkdir(parents=True)
        data = {"token": self._server.token(namespace, name), "namespace": namespace}
        self.publish(folder, data | {"ca.crt": self._server.authority.decode()})
        return folder

    def publish(self, folder: Path, data: Mapping[str, str]) -> None:
        """A ConfigMap's files as kubelet has them: links into a folder that is exchanged whole."""
        here = self.machine.inside(folder)
        generation = f"..{len(list(here.glob('..[0-9]*')))}"
        (here / generation).mkdir()
        for name, text in data.items():
            (here / generation / name).write_text(text)
            if not (here / name).is_symlink():
                (here / name).symlink_to(f"..data/{name}")
        (here / "..data_tmp").symlink_to(generation)
        (here / "..data_tmp").rename(here / "..data")


def _security(pod: Document, container: Document) -> Document:
    """A container's security context in the runtime's words."""
    context = pod.get("securityContext", {}) | container.get("securityContext", {})
    _refuse_unknown(container["name"], context, SECURITY)
    capabilities = context.get("capabilities", {})
    return {
        "capabilities": {
            "add_capabilities": capabilities.get("add", ()),
            "drop_capabilities": capabilities.get("drop", ()),
        },
        "namespace_options": {"network": 2 if pod.get("hostNetwork") else 0, "pid": 1, "ipc": 0},
        "run_as_user": {"value": context["runAsUser"]},
        "readonly_rootfs": context.get("readOnlyRootFilesystem", False),
        "no_new_privs": not context.get("allowPrivilegeEscalation", True),
        "masked_paths": [*(f"/proc/{name}" for name in MASKED), "/sys/firmware"],
        "readonly_paths": [f"/proc/{name}" for name in READ_ONLY],
        "seccomp": {"profile_type": {"RuntimeDefault": 0, "Unconfined": 1}[context["seccompProfile"]["type"]]},
    }


def _refuse_unknown(what: str, document: Document, known: frozenset[str]) -> None:
    assert not document.keys() - known, f"{what}: {sorted(document.keys() - known)}"
