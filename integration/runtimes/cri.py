"""The Container Runtime Interface as kubelet speaks it: pods run, stopped, removed and asked about over gRPC."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from bgpcni.testing.patience import SCALE
from integration.lab import until
from integration.runtimes.containerd import Containerd

SECONDS = 90.0 * SCALE


class CriError(RuntimeError):
    """What the runtime answered instead of success."""


class Cri:
    """A client of the runtime service. Needs grpcio and grpcio-tools, which compile `cri.proto` when it is imported."""

    def __init__(self, containerd: Containerd) -> None:
        import grpc

        self._grpc = grpc
        self._messages, services = grpc.protos_and_services("integration/runtimes/cri.proto")
        # a path is no host name, which some servers want to see
        options = [("grpc.default_authority", "localhost")]
        self._channel = grpc.insecure_channel(f"unix:{containerd.socket}", options)
        self._stub = services.RuntimeServiceStub(self._channel)
        self._parent = containerd.machine.name
        self._threads = ThreadPoolExecutor(4)

    def call(self, method: str, request: Any, seconds: float = SECONDS) -> Any:
        """One call. Raises CriError with the runtime's words."""
        try:
            return getattr(self._stub, method)(request, timeout=seconds, wait_for_ready=True)
        except self._grpc.RpcError as error:
            raise CriError(f"{method}: {error.code().name}: {error.details()}") from None

    def wait_ready(self) -> None:
        """Until the runtime has read its network configuration."""

        until(self.network_ready, "NetworkReady of the runtime", step=0.05)

    def network_ready(self) -> bool:
        """Whether the runtime, and its network with it, would take a pod."""
        status = self.call("Status", self._messages.Nothing()).status
        return all(condition.status for condition in status.conditions) and bool(status.conditions)

    def run_pod(self, name: str, seconds: float = SECONDS, annotations: Mapping[str, str] | None = None) -> str:
        """RunPodSandbox; the pod's ID. Raises CriError."""
        config = {
            "metadata": {"name": name, "namespace": "test", "uid": f"uid-{name}"},
            "annotations": dict(annotations or {}),
            "linux": {"cgroup_parent": f"/{self._parent}"},
        }
        return str(
            self.call("RunPodSandbox", self._messages.RunPodSandboxRequest(config=config), seconds).pod_sandbox_id
        )

    def begin_pod(self, name: str) -> Future[str]:
        """The same in the background; the result is the ID, or a CriError."""
        return self._threads.submit(self.run_pod, name)

    def stop(self, pod: str) -> None:
        self.call("StopPodSandbox", self._messages.PodSandboxRequest(pod_sandbox_id=pod))

    def remove(self, pod: str) -> None:
        self.call("RemovePodSandbox", self._messages.PodSandboxRequest(pod_sandbox_id=pod))

    def status(self, pod: str) -> tuple[Any, dict[str, Any]]:
        """The pod's status, and the runtime's own account of it (pid, namespace, the CNI result)."""
        request = self._messages.PodSandboxStatusRequest(pod_sandbox_id=pod, verbose=True)
        answer = self.call("PodSandboxStatus", request)
        return answer.status, json.loads(answer.info.get("info", "{}"))

    def ready(self, pod: str) -> bool:
        return bool(self.status(pod)[0].state == self._messages.SANDBOX_READY)

    def ips(self, pod: str) -> list[str]:
        network = self.status(pod)[0].network
        return [network.ip, *(more.ip for more in network.additional_ips)]

    def pods(self) -> dict[str, str]:
        """The IDs of all pods, by name."""
        items = self.call("ListPodSandbox", self._messages.Nothing()).items
        return {item.metadata.name: item.id for item in items}

    def close(self) -> None:
        self._channel.close()
        self._threads.shutdown(wait=False)
