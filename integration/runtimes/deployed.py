"""A node under Kubernetes as `deploy/` makes it: bgpcni runs there from its image, in pods of the rendered manifests.

The node begins empty: containerd and the stock plugins, no network configuration, nothing of ours.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from integration.lab import Lab, until
from integration.runtimes.cri import Cri
from integration.runtimes.kubelet import Document, Kubelet, Pod, render
from integration.runtimes.machine import BIN, CONF, enclose
from integration.runtimes.site import Site

CHECKOUT = Path(__file__).parents[2]
KUBERNETES = CHECKOUT / "deploy/kubernetes"
STORAGE = CHECKOUT / "build/image"
POD_CIDRS = ("10.1.2.0/24", "2001:db8:1:2::/64")
BGPCNI = "/opt/bgpcni/bin/bgpcni"
IMAGE = "localhost/bgpcni"
OURS = ("bgpcni", "bagpipe", "bgpcni-ipam")


def build_image(tag: str = "0.1.0") -> Path:
    """The image as `make image` builds it, as a file; built once for each state of the checkout, whoever asks first.

    Raises RuntimeError with the build's words.
    """
    STORAGE.mkdir(parents=True, exist_ok=True)
    archive = STORAGE / f"{tag}.tar"
    with _alone(STORAGE / "lock"):
        environment = dict(os.environ) | {
            "IMAGE": f"{IMAGE}:{tag}",
            "ENGINE": f"podman --root {STORAGE}/storage --runroot {STORAGE}/run --storage-driver overlay",
        }
        done = subprocess.run(
            [CHECKOUT / "deploy/build", archive], env=environment, capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise RuntimeError(f"deploy/build: exit {done.returncode}: {(done.stdout + done.stderr)[-4000:]}")
    return archive


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Deployed(Site):
    """FRR, and a node whose pods come from an overlay of `deploy/kubernetes`."""

    def __init__(self, lab: Lab, image: Path) -> None:
        self.lab = lab
        self.frr = lab.frr()
        node = self.node = lab.node(self.frr)
        self.machine = enclose(node)
        for name in OURS:
            self.machine.inside(BIN / name).unlink()
        node.socket, node.run_dir = Path("/run/bgpcni/agent.sock"), self.machine.inside(Path("/run/bgpcni"))
        node.data_dir = self.machine.inside(Path("/var/lib/bgpcni"))
        node.config = self.machine.inside(Path("/etc/bgpcni/agent.toml"))
        node.leases = self.machine.inside(Path("/var/lib/cni/networks"))
        self.runtime = self.containerd("overlayfs")
        self.load(image)
        cri = Cri(self.runtime)
        lab.callback(cri.close)
        self.cri_client = cri

    def load(self, image: Path) -> None:
        """Give containerd an image of `build_image`, under the two names that the manifests have for it."""
        self.runtime.load(image)
        name, speaker = f"{IMAGE}:{image.stem}", f"{IMAGE}-speaker:{image.stem}"
        self.runtime.ctr("-n", "k8s.io", "images", "tag", "--force", name, speaker)

    def overlay(self, name: str, *, tag: str | None = None, speaker_tag: str | None = None) -> list[Document]:
        """An overlay, rendered, with FRR for its neighbour and, where they are given, other tags of the images.

        It is done as an operator does it: by a kustomization on top, whose files are those of the overlay.
        """
        folder = self.node.folder / f"overlay-{name}"
        folder.mkdir(exist_ok=True)
        agent = (KUBERNETES / "overlays" / name / "agent.toml").read_text()
        (folder / "agent.toml").write_text(agent.replace("192.0.2.1", self.node.peer))
        tags = {IMAGE: tag, f"{IMAGE}-speaker": speaker_tag}
        document = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": "bgpcni",
            "resources": [os.path.relpath(KUBERNETES / "overlays" / name, folder.resolve())],
            "configMapGenerator": [{"name": "bgpcni", "behavior": "merge", "files": ["agent.toml"]}],
            "images": [{"name": image, "newTag": new} for image, new in tags.items() if new],
        }
        (folder / "kustomization.yaml").write_text(json.dumps(document))
        return render(folder)

    def kubelet(self, manifests: Iterable[Document]) -> Kubelet:
        return Kubelet(self.node, self.machine, self.cri_client, manifests)

    def write_network(self, manifests: Iterable[Document]) -> None:
        """The network's configuration out of the ConfigMap, with this node's podCIDRs, as the agent writes it."""
        (data,) = (one["data"] for one in manifests if one["kind"] == "ConfigMap")
        text = data["network.conflist"].replace('"podCIDRs"', json.dumps([[{"subnet": cidr}] for cidr in POD_CIDRS]))
        self.machine.network(json.loads(text), "10-bgpcni.conflist")
        self.cri_client.wait_ready()

    def ask(self, kubelet: Kubelet, pod: Pod, *argv: str) -> Mapping[str, Any]:
        """A command of the operator's, in the agent's container, its answer as JSON."""
        _, said = kubelet.exec(pod, "agent", BGPCNI, *argv, "--json")
        answer: Mapping[str, Any] = json.loads(said)
        return answer

    def installed(self) -> set[str]:
        """What of ours is in the folder of plugins."""
        return {name for name in OURS if self.machine.inside(BIN / name).exists()}

    def networks(self) -> set[str]:
        """The files where runtimes look for networks."""
        return set(os.listdir(self.machine.inside(CONF)))

    def established(self) -> None:
        """Wait for the session with FRR."""
        self.frr.wait_established(self.node.address)

    def pod(self, name: str) -> tuple[str, list[str]]:
        """Run a pod, again and again as kubelet does; its sandbox and its addresses."""
        sandbox = until(lambda: self.cri_client.run_pod(name), f"the pod {name}", step=0.2)
        return sandbox, self.cri_client.ips(sandbox)
