"""What `make release` has made can be installed, used and taken away again. `make release` runs it, as root."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bgpcni import __version__
from integration.lab import Lab
from integration.runtimes.machine import Machine

MADE = Path(__file__).parents[1] / "build/release"
SETUP = """
set -e
mount -t tmpfs tmpfs "$0"
for folder in etc usr var opt; do
    mkdir -p "$0/upper/$folder" "$0/work/$folder"
    mount -t overlay -o "lowerdir=/$folder,upperdir=$0/upper/$folder,workdir=$0/work/$folder" overlay "/$folder"
done
mount -t tmpfs tmpfs /run
mkdir -p /run/netns
rm -rf /etc/bgpcni /var/lib/bgpcni /usr/lib/cni/bgpcni /usr/lib/cni/bagpipe /usr/lib/cni/bgpcni-ipam /etc/cni/net.d/*
mkdir -p /etc/cni/net.d
ip link set lo up
echo ready
while :; do sleep 3600 & wait $!; done
"""
"""A machine that dpkg may write to. No systemd runs in it, so units are enabled and not started."""


def only(pattern: str) -> Path:
    (path,) = MADE.glob(pattern)
    return path


def launcher(machine: str, folder: Path) -> Path:
    """The launcher in the wheel for a processor."""
    with zipfile.ZipFile(only(f"*_{machine}.whl")) as wheel:
        path = Path(wheel.extract("bgpcni/launcher/launcher", folder))
    path.chmod(0o755)
    return path


@pytest.fixture
def machine(lab: Lab, tmp_path: Path) -> Iterator[Machine]:
    made = Machine(lab.namespace("debian"), tmp_path / "machine", SETUP)
    yield made
    made.close()


def test_the_sums_are_those_of_the_files() -> None:
    """Every file but the list itself is in it."""
    lines = (MADE / "SHA256SUMS").read_text().splitlines()
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    assert listed == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in MADE.iterdir() if path.name != "SHA256SUMS"
    }
    assert len(listed) == 5


@pytest.mark.parametrize(("machine", "words"), [("x86_64", b"\x3e\x00"), ("aarch64", b"\xb7\x00")])
def test_the_launcher_is_static_and_runs(machine: str, words: bytes, tmp_path: Path) -> None:
    """On this processor, or under qemu: without an agent it executes its Python, which answers VERSION."""
    program = launcher(machine, tmp_path)
    image = program.read_bytes()
    assert image[18:20] == words, "another processor's"
    assert b"/ld-" not in image, "it asks for a dynamic linker"
    from bgpcni.launcher.install import patched

    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho executed\n")
    python.chmod(0o755)
    program.write_bytes(patched(image, os.fsencode(python)))
    run = [] if os.uname().machine == machine else [f"qemu-{machine}"]
    environment = {"CNI_COMMAND": "VERSION", "PATH": os.environ["PATH"], "BGPCNI_SOCKET": str(tmp_path / "none")}
    done = subprocess.run([*run, program], env=environment, input=b"{}", capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, b"executed\n"), done.stderr


def test_the_source_builds_without_a_network(tmp_path: Path) -> None:
    with tarfile.open(only("*.tar.gz")) as tar:
        tar.extractall(tmp_path, filter="data")
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", str(tmp_path), "."]
    folder = tmp_path / f"bgpcni-{__version__}"
    subprocess.run(["unshare", "--net", *pip], cwd=folder, check=True, timeout=600)
    assert list(tmp_path.glob("bgpcni-*.whl"))


def test_lintian_has_nothing_to_say() -> None:
    """Neither an error nor a warning."""
    command = ["lintian", "--allow-root", "--fail-on", "error,warning", "--tag-display-limit", "0", str(only("*.deb"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-3000:]


def test_the_list_names_the_libraries() -> None:
    names = {part["name"].lower() for part in json.loads(only("*.cdx.json").read_text())["components"]}
    assert {"bgpcni", "exabgp", "pyroute2", "pydantic", "stevedore", "starlette", "etcd3gw", "lightkube"} <= names


def files(machine: Machine) -> set[str]:
    """What there is of ours, and where a package may leave something."""
    folders = ["/etc/bgpcni", "/usr/lib/bgpcni", "/usr/lib/cni", "/etc/cni", "/var/lib/bgpcni", "/usr/bin/bgpcni",
               "/etc/systemd/system", "/usr/lib/systemd/system/bgpcni.service"]  # fmt: skip
    return set(machine.run("find", *folders, check=False).stdout.splitlines())


def test_the_debian_package_comes_and_goes(machine: Machine) -> None:
    """Installed, it has the plugin where Debian's runtimes look and the service enabled; upgraded, it keeps a changed
    agent.toml; removed, nothing but that file is left, and that the service is enabled; purged, nothing at all."""
    before = files(machine)
    package = machine.inside(Path("/opt/bgpcni.deb"))
    package.write_bytes(only("*.deb").read_bytes())
    for _ in range(2):
        machine.run("dpkg", "--install", "/opt/bgpcni.deb", seconds=600)
        assert {f"/usr/lib/cni/{name}" for name in ("bgpcni", "bagpipe", "bgpcni-ipam")} <= files(machine)
        assert __version__ in machine.run("bgpcni", "--version").stdout
        units = machine.inside(Path("/etc/systemd/system"))
        assert [path.name for path in units.glob("*.wants/bgpcni*")] == ["bgpcni.service"]
        config = machine.inside(Path("/etc/bgpcni/agent.toml"))
        config.write_text("# mine\n" + config.read_text().removeprefix("# mine\n"))
    assert config.read_text().startswith("# mine\n")
    call = ["env", "CNI_COMMAND=VERSION", "/usr/lib/cni/bgpcni"]
    assert '"1.1.0"' in machine.run("sh", "-c", f'echo \'{{"cniVersion":"1.0.0"}}\' | {" ".join(call)}').stdout
    machine.run("dpkg", "--remove", "bgpcni", seconds=600)
    enabled = "/etc/systemd/system/multi-user.target.wants/bgpcni.service"  # Debian keeps that until a purge
    assert files(machine) - before == {"/etc/bgpcni", "/etc/bgpcni/agent.toml", enabled}
    machine.run("dpkg", "--purge", "bgpcni", seconds=600)
    assert files(machine) == before
