"""A node under Kubernetes as `deploy/` makes it: bgpcni runs there from its image, in pods of the applied manifests.

The node begins empty: containerd and the stock plugins, no network configuration, nothing of ours. `kubectl apply -k`
brings the manifests to the API server's double; what they describe is run by containerd, as kubelet would have it run.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from resource import RLIMIT_NOFILE, RLIMIT_NPROC, getrlimit
from typing import Any
from urllib.parse import urlsplit

from bgpcni import __version__
from bgpcni.cluster import network
from integration.kubernetes.cluster import Cluster
from integration.lab import Lab, NotHere, until
from integration.lab.namespace import run
from integration.runtimes.cri import Cri
from integration.runtimes.kubelet import Document, Kubelet, Pod, Server
from integration.runtimes.machine import BIN, CONF, enclose
from integration.runtimes.site import Site, host_prefix

CHECKOUT = Path(__file__).parents[2]
KUBERNETES = CHECKOUT / "deploy/kubernetes"
STORAGE = CHECKOUT / "build/image"
ENGINE = ("podman", "--root", f"{STORAGE}/storage", "--runroot", f"{STORAGE}/run", "--storage-driver", "overlay",
          "--storage-opt", "overlay.skip_mount_home=true")  # fmt: skip
"""Images of the tests are apart from those of this machine's users."""
POD_CIDRS = ("10.1.2.0/24", "2001:db8:1:2::/64")
BGPCNI = "/opt/bgpcni/bin/bgpcni"
IMAGE = "localhost/bgpcni"
OURS = ("bgpcni", "bagpipe", "bgpcni-ipam")
NAMESPACE = "bgpcni"
RENAME = """
import bgpcni, compileall, pathlib, py_compile, sys
path = pathlib.Path(bgpcni.__file__)
path.write_text(path.read_text().replace(bgpcni.__version__, sys.argv[1]))
compileall.compile_file(path, force=True, quiet=1, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
"""
"""Run in an image, makes it another version, of which the bytecode is never compared with the source either."""
TAINT = "bgpcni.dev/agent-not-ready"


def build_image() -> Path:
    """The image as `make image` builds it, as a file; built once for each state of the checkout, whoever asks first.

    Raises NotHere where a program that builds it is missing, RuntimeError with the build's words.
    """
    if missing := [program for program in ("podman", "mmdebstrap") if shutil.which(program) is None]:
        raise NotHere(f"the image cannot be built: {', '.join(missing)} not installed")
    STORAGE.mkdir(parents=True, exist_ok=True)
    archive = STORAGE / f"{__version__}.tar"
    with _alone(STORAGE / "lock"):
        environment = dict(os.environ) | {"IMAGE": f"{IMAGE}:{__version__}", "ENGINE": " ".join(ENGINE)}
        run(CHECKOUT / "deploy/build", archive, env=environment, seconds=600)
    return archive


def renamed_image(tag: str) -> Path:
    """The same program in another image, which says that it is another version."""
    build_image()
    archive, source = STORAGE / f"{tag}.tar", STORAGE / f"{tag}.Containerfile"
    command = json.dumps(["/opt/bgpcni/bin/python", "-c", RENAME, tag])
    source.write_text(f"FROM {IMAGE}:{__version__}\nRUN {command}\n")
    limits = [f"--ulimit={name}={soft}:{hard}" for name, (soft, hard) in _limits().items()]
    name = f"{IMAGE}:{tag}"
    with _alone(STORAGE / "lock"):
        run(*ENGINE, "build", "--quiet", "--network=none", *limits, f"--tag={name}", f"--file={source}", STORAGE)
        archive.unlink(missing_ok=True)
        run(*ENGINE, "save", "--quiet", "--format=oci-archive", f"--output={archive}", name)
    return archive


def _limits() -> dict[str, tuple[int, int]]:
    """An engine's own limits may be higher than ours, which not every machine allows."""
    return {"nofile": getrlimit(RLIMIT_NOFILE), "nproc": getrlimit(RLIMIT_NPROC)}


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Deployed(Site):
    """FRR, and a node of a cluster whose pods come from an overlay of `deploy/kubernetes`."""

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
        self.pods = Cri(self.runtime)
        lab.callback(self.pods.close)
        self.cluster = Cluster(self.machine, lab.folder / "cluster")
        lab.callback(self.cluster.close)
        assert self.cluster.double, "a real cluster has nodes of its own"
        home = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "test"}}  # of the pods of `Cri`
        self.cluster.kubectl("create", "-f", "-", stdin=home)
        self.name = self.cluster.node(POD_CIDRS, "node-1", taints=(TAINT,))
        url = urlsplit(self.cluster.double.url)
        issue = self.cluster.double.machinery.access.issue
        server = Server(str(url.hostname), str(url.port), self.cluster.double.authority, issue)
        self.kubelet = Kubelet(self.name, node, self.machine, self.pods, server, self._object)

    def load(self, image: Path) -> None:
        """Give containerd an image of `build_image`, under the two names that the manifests have for it."""
        self.runtime.load(image)
        name, speaker = f"{IMAGE}:{image.stem}", f"{IMAGE}-speaker:{image.stem}"
        self.runtime.ctr("-n", "k8s.io", "images", "tag", "--force", name, speaker)

    def apply(self, overlay: str, tags: Mapping[str, str] | None = None, bgp: str = "") -> None:
        """`kubectl apply -k` of an overlay, with FRR for its neighbour and, by image name, other `tags`.

        It is done as an operator does it: by a kustomization on top, whose agent.toml is the overlay's but for the
        neighbour's address and further lines of `[bgp]`.
        """
        folder = self.node.folder / f"overlay-{overlay}"
        folder.mkdir(exist_ok=True)
        agent = (KUBERNETES / "overlays" / overlay / "agent.toml").read_text()
        agent = agent.replace("192.0.2.1", self.node.peer).replace("[bgp]\n", f"[bgp]\n{bgp}\n")
        (folder / "agent.toml").write_text(agent)
        document = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": NAMESPACE,
            "resources": [os.path.relpath(KUBERNETES / "overlays" / overlay, folder.resolve())],
            "configMapGenerator": [{"name": "bgpcni", "behavior": "merge", "files": ["agent.toml"]}],
            "images": [{"name": image, "newTag": tag} for image, tag in (tags or {}).items()],
        }
        (folder / "kustomization.yaml").write_text(json.dumps(document))
        self.cluster.kubectl("apply", "-k", str(folder))

    def run(self, daemonset: str) -> Pod:
        """Start the pod of a DaemonSet, and wait until it is ready."""
        pod = self.kubelet.start(daemonset)
        self.kubelet.wait_ready(pod)
        return pod

    def roll(self, pod: Pod, daemonset: str) -> Pod:
        """The pod that is started in the place of this one, of what was applied last: when that is ready."""
        self.kubelet.stop(pod)
        return self.run(daemonset)

    def up(self, overlay: str, bgp: str = "") -> tuple[Pod, Pod]:
        """Apply an overlay that has a speaker and wait until the node serves: the pods of the agent and the speaker."""
        self.apply(overlay, bgp=bgp)
        speaker = self.kubelet.start("bgpcni-speaker")
        agent = self.run("bgpcni-agent")
        self.kubelet.wait_ready(speaker)
        self.wait_schedulable()
        self.frr.wait_established(self.node.address)
        return agent, speaker

    def network_in_place(self) -> dict[str, Any]:
        """Our plugin's configuration, out of what the agent wrote for the runtime."""
        return network.ours_in(json.loads(self.machine.inside(CONF / network.NAME).read_text()))

    def ask(self, agent: Pod, *argv: str) -> Mapping[str, Any]:
        """A command of the operator's, in the agent's container; its answer as JSON."""
        _, said = self.kubelet.exec(agent, "agent", BGPCNI, *argv, "--json")
        answer: Mapping[str, Any] = json.loads(said)
        return answer

    def schedulable(self) -> bool:
        """Whether the Node says that it has a network, and pods may come."""
        condition = self.cluster.condition(self.name)
        return condition.get("status") == "False" and TAINT not in self.cluster.taints(self.name)

    def wait_schedulable(self) -> None:
        """Wait until pods may come, and the runtime has read its network."""
        until(self.schedulable, "a Node that takes pods")
        self.pods.wait_ready()

    def pod(self, name: str) -> tuple[str, list[str]]:
        """Run a pod, again and again as kubelet does; its sandbox and its addresses."""
        sandbox = until(lambda: self.pods.try_pod(name), f"the pod {name}", step=0.2)
        return sandbox, self.pods.ips(sandbox)

    def versions(self, ips: Iterable[str]) -> dict[str, int]:
        """FRR's versions of the routes to these: each change of a route, also a withdrawal, makes another one."""
        return {ip: self.frr.route(host_prefix(ip))["version"] for ip in ips}

    def installed(self) -> set[str]:
        """What of ours is in the folder of plugins."""
        return {name for name in OURS if self.machine.inside(BIN / name).exists()}

    def networks(self) -> set[str]:
        """The files where runtimes look for networks."""
        return set(os.listdir(self.machine.inside(CONF)))

    def _object(self, kind: str, name: str) -> Document:
        return self.cluster.kubectl_json("get", kind, name, "-n", NAMESPACE)
