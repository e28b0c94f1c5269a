"""containerd on a machine: started, killed, started again; by its own client `ctr` and, see `cri`, as kubelet does."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from bgpcni.testing.patience import SECONDS
from integration.lab import Node, until
from integration.lab.engine import NoEngine, busybox_archive
from integration.lab.frr import tail
from integration.lab.namespace import Argument
from integration.runtimes.machine import BIN, CONF, Machine

IMAGE = "localhost/bgpcni-busybox:local"
PROGRAMS = ("containerd", "containerd-shim-runc-v2", "ctr", "runc")
CONFIG = """version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{bin}"
    conf_dir = "{conf}"
"""


class Containerd:
    """The daemon of one node, with the node's environment, so that its plugins find the agent.

    `snapshotter`: `native` works on any file system and copies each image for each container; with `overlayfs` all that
    containerd keeps is on the machine's own tmpfs.
    """

    def __init__(self, node: Node, machine: Machine, snapshotter: str = "native") -> None:
        missing = [program for program in PROGRAMS if shutil.which(program) is None]
        if missing:
            raise NoEngine(f"containerd: {', '.join(missing)} not installed")
        self.node, self.machine = node, machine
        self.folder = node.folder / "containerd"
        self.folder.mkdir()
        self.socket, self.log = self.folder / "c.sock", self.folder / "log"
        self._config = self.folder / "config.toml"
        self._snapshotter = snapshotter
        self._root = self.folder / "root" if snapshotter == "native" else machine.box.folder / "containerd"
        self._config.write_text(CONFIG.format(image=IMAGE, snapshotter=snapshotter, bin=BIN, conf=CONF))
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it and wait for its answer; containers of an earlier life are taken up again."""
        process = self.process = self.machine.popen(
            *("containerd", "--config", self._config, "--root", self._root),
            *("--state", "/run/containerd", "--address", self.socket),
            log=self.log,
            env=self.node._environment(),
        )

        def answers() -> bool:
            return process.poll() is not None or not self.ctr("plugins", "ls", check=False).returncode

        until(answers, "an answer of containerd", step=0.05)
        if process.poll() is not None:
            raise NoEngine(f"containerd ended with {process.returncode}: {tail(self.log, 800)}")

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End the daemon alone; shims and containers stay."""
        assert self.process
        self.process.send_signal(number)
        self.process.wait(SECONDS)

    def import_image(self) -> None:
        """Give it the image of pods and containers."""
        archive = self.folder / "image.tar"
        oci_archive(archive)
        for namespace in ("k8s.io", "test"):
            self.load(archive, namespace)

    def load(self, archive: Path, namespace: str = "k8s.io") -> None:
        """Give it an image that is a file in OCI's format."""
        self.ctr("-n", namespace, "images", "import", "--snapshotter", self._snapshotter, archive)

    def ctr(self, *argv: Argument, check: bool = True, seconds: float = 120) -> CompletedProcess[str]:
        command = ("ctr", "--address", self.socket, *argv)
        return self.machine.run(*command, check=check, env=self.node._environment(), seconds=seconds)

    def run(self, ident: str, *argv: str, flags: tuple[str, ...] = ("--cni", "-d")) -> CompletedProcess[str]:
        """`ctr run` of a container in the namespace `test`."""
        cgroup = f"--cgroup=/{self.machine.name}/{ident}"
        return self.ctr("-n", "test", "run", "--snapshotter", self._snapshotter, cgroup, *flags, IMAGE, ident, *argv)

    def pid(self, ident: str) -> int:
        """The first process of a container of `run`, as the machine numbers it."""
        for line in self.ctr("-n", "test", "tasks", "ls").stdout.splitlines():
            words = line.split()
            if words[0] == ident:
                return int(words[1])
        raise LookupError(f"ctr knows no task {ident}")

    def close(self) -> None:
        """End the daemon; all else ends with the machine."""
        if self.process is not None and self.process.poll() is None:
            self.kill()


def oci_archive(archive: Path, name: str = IMAGE) -> None:
    """An image of busybox alone, as an OCI image layout, that sleeps unless told otherwise."""
    blobs: dict[str, bytes] = {}

    def blob(data: bytes, kind: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    def document(content: object, kind: str) -> dict[str, Any]:
        return blob(json.dumps(content).encode(), kind)

    with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
        busybox_archive(Path(folder, "rootfs.tar"))
        layer = blob(Path(folder, "rootfs.tar").read_bytes(), "layer.v1.tar")
        machine = os.uname().machine
        config = {
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine),
            "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sleep", "2147483647"]},
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
        }
        parts = {"schemaVersion": 2, "config": document(config, "config.v1+json"), "layers": [layer]}
        manifest = document(parts, "manifest.v1+json")
        manifest["annotations"] = {"io.containerd.image.name": name}
        blobs["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [manifest]}).encode()
        blobs["oci-layout"] = b'{"imageLayoutVersion": "1.0.0"}'
        with tarfile.open(archive, "w") as tar:
            for path, data in blobs.items():
                file = Path(folder, "blob")
                file.write_bytes(data)
                tar.add(file, path)
