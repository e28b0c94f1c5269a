"""A node: a network namespace with an uplink, the agent, and the real plugin executable as a runtime calls it."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bgpcni.testing.patience import SECONDS
from integration.lab.frr import tail
from integration.lab.namespace import Namespace, run, unique
from integration.lab.wait import until

BGPCNI = Path(sys.executable).parent / "bgpcni"
STOCK_PLUGINS = Path("/usr/lib/cni")
SYSTEM_FOLDERS = ("/run/bgpcni", "/etc/bgpcni", "/var/lib/bgpcni")


@functools.cache
def install_plugin() -> Path:
    """The folder with the real plugin executables, made by `bgpcni install` once for this process."""
    folder = Path(tempfile.gettempdir(), unique("bin"))
    folder.mkdir(mode=0o755)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    run(BGPCNI, "install", "--bin-dir", folder / "bin", "--conf-dir", folder / "net.d")
    return folder / "bin"


@dataclass(frozen=True, slots=True)
class CniAnswer:
    """What one call of the plugin gave. `document`: stdout as JSON, {} where it was empty. `seconds`: wall time."""

    code: int
    document: dict[str, Any]
    stderr: str
    seconds: float

    @property
    def ok(self) -> bool:
        return self.code == 0

    @property
    def error(self) -> int | None:
        """The CNI error code, None for a success."""
        return None if self.ok else self.document.get("code")

    @property
    def ips(self) -> list[str]:
        """The addresses of a result, without their lengths."""
        return [ip["address"].partition("/")[0] for ip in self.document.get("ips", [])]


@dataclass(frozen=True, slots=True)
class OperatorAnswer:
    """What one operator's command gave."""

    code: int
    document: dict[str, Any]
    stderr: str


class Node:
    """One node. Everything it writes is below `folder`. Made by `Lab.node`."""

    def __init__(
        self,
        namespace: Namespace,
        folder: Path,
        bin_dir: Path,
        *,
        asn: int,
        address: str,
        address6: str,
        peer: str,
        peer6: str,
        peer_asn: int | None,
        families: tuple[str, ...],
    ) -> None:
        self.namespace, self.folder, self.bin_dir = namespace, folder, bin_dir
        self.asn, self.address, self.address6 = asn, address, address6
        self.peer, self.peer6, self.peer_asn, self.families = peer, peer6, peer_asn, families
        # 0755 all the way: the speaker runs as a user of its own
        for name in ("", "leases", "empty", "conf"):
            (folder / name).mkdir(mode=0o755, exist_ok=True)
        self.run_dir, self.data_dir, self.leases = folder / "run", folder / "data", folder / "leases"
        self.socket, self.config, self.log = folder / "agent.sock", folder / "conf/agent.toml", folder / "agent.log"
        self.process: subprocess.Popen[str] | None = None
        self.prelude = ""
        """Shell commands that run before each program of ours, in a mount namespace that it has to itself."""
        self.flags: tuple[str, ...] = ()
        """Further arguments of `bgpcni agent`."""

    # The agent

    def agent_config(self, **toml: Any) -> dict[str, Any]:
        """agent.toml as a document: the folders, and `[bgp]` with FRR as its neighbour.

        `toml` goes on top; a `bgp` table is laid over the default one, key by key, `bgp=None` takes it away.
        """
        neighbor = {"address": self.peer, "asn": self.peer_asn, "families": list(self.families)}
        bgp: dict[str, Any] = {"asn": self.asn, "router_id": self.address, "local_address": self.address}
        if self.peer_asn is not None:
            bgp["neighbors"] = [neighbor]
        document: dict[str, Any] = {"run_dir": str(self.run_dir), "data_dir": str(self.data_dir), "bgp": bgp} | toml
        if "bgp" in toml:
            document["bgp"] = None if toml["bgp"] is None else bgp | toml["bgp"]
        return {key: value for key, value in document.items() if value is not None}

    def configure(self, **toml: Any) -> None:
        """Write agent.toml (`agent_config`) without starting anything."""
        self.config.write_text(to_toml(self.agent_config(**toml)))

    def agent(self, **toml: Any) -> subprocess.Popen[str]:
        """Write agent.toml, start the agent and wait until it answers on its socket."""
        self.configure(**toml)
        return self.start_agent()

    def start_agent(self) -> subprocess.Popen[str]:
        """Start the agent on the agent.toml that is there."""
        argv: list[str | Path] = [BGPCNI, "agent", "--config", self.config, "--socket", self.socket, *self.flags]
        process = self.process = self.namespace.popen(*self._private(), *argv, log=self.log)

        def answers() -> bool:
            if process.poll() is not None:
                return True
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(5)
                probe.connect(str(self.socket))
                return bool(probe.recv(1))

        until(answers, "an answer of the agent on its socket")
        if process.poll() is not None:
            raise RuntimeError(f"the agent ended with {process.returncode}: {tail(self.log)}")
        return process

    def kill_agent(self, number: int = signal.SIGKILL) -> int:
        """Signal the agent and wait for its end; its exit status. The speaker lives on."""
        assert self.process, "no agent was started"
        self.process.send_signal(number)
        return self.process.wait(SECONDS)

    def restart_agent(self, number: int = signal.SIGTERM) -> subprocess.Popen[str]:
        """End the agent by a signal and start it again on the same configuration."""
        self.kill_agent(number)
        return self.start_agent()

    # The plugin

    def network(
        self,
        name: str = "tenant-a",
        subnet: str | None = "10.1.2.0/24",
        subnet6: str | None = None,
        **keys: Any,
    ) -> dict[str, Any]:
        """A network configuration: a bridge as gateway, host-local addresses, a default route for each family.

        `keys` replace or add top-level keys; a key that is None is left out. A `bgp` table is taken as it is.
        """
        subnets = [given for given in (subnet, subnet6) if given]
        document: dict[str, Any] = {
            "cniVersion": "1.0.0",
            "name": name,
            "type": "bgpcni",
            "bridge": "cni0",
            "isGateway": True,
            "exporters": ["exabgp"],
            "ipam": {
                "type": "host-local",
                "dataDir": str(self.leases),
                "ranges": [[{"subnet": given}] for given in subnets],
                "routes": [{"dst": "::/0" if ":" in given else "0.0.0.0/0"} for given in subnets],
            },
        } | keys
        return {key: value for key, value in document.items() if value is not None}

    def cni(
        self,
        command: str,
        container: str = "",
        netns: Namespace | Path | str | None = None,
        conf: Mapping[str, Any] | str | None = None,
        ifname: str = "eth0",
        args: str = "",
        env: Mapping[str, str] | None = None,
        plugin: str | None = None,
        seconds: float = 120,
    ) -> CniAnswer:
        """One call of the real plugin executable, in the node's namespace, as a runtime makes it.

        Without an agent configured (`agent`, `configure`) the call does the work itself, in this node's folders.
        Empty `container`, `ifname` and `args` are not set; `env` is laid on top. `plugin`: the executable's name,
        else the configuration's `type`.
        """
        text = conf if isinstance(conf, str) else json.dumps(conf or {})
        name = plugin or (conf.get("type") if isinstance(conf, Mapping) else None) or "bgpcni"
        path = str(netns.path) if isinstance(netns, Namespace) else str(netns or "")
        chosen = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": path,
            "CNI_IFNAME": ifname,
            "CNI_ARGS": args,
            "CNI_PATH": f"{self.bin_dir}:{STOCK_PLUGINS}",
        }
        variables = {key: value for key, value in chosen.items() if value}
        start = time.monotonic()
        done = self.namespace.run(
            *self._private(),
            self.bin_dir / name,
            check=False,
            stdin=text,
            env=self._environment() | variables | dict(env or {}),
            seconds=seconds,
        )
        took = time.monotonic() - start
        try:
            document = json.loads(done.stdout) if done.stdout.strip() else {}
        except ValueError as error:
            raise AssertionError(f"{command}: no JSON on stdout: {done.stdout!r}; stderr {done.stderr!r}") from error
        return CniAnswer(done.returncode, document, done.stderr, took)

    # The operator

    def operator(self, *argv: str | int | Path, seconds: float = 120) -> OperatorAnswer:
        """One command of the operator's `bgpcni`, its answer as JSON."""
        return self._operator((BGPCNI, *argv, "--socket", self.socket, "--json"), seconds)

    def alone(self, *argv: str | int | Path, seconds: float = 120) -> OperatorAnswer:
        """The same on a node that is not meant to have an agent."""
        return self._operator((BGPCNI, *argv, "--json"), seconds)

    def _operator(self, command: Sequence[str | int | Path], seconds: float) -> OperatorAnswer:
        done = self.namespace.run(*self._private(), *command, check=False, env=self._environment(), seconds=seconds)
        try:
            document = json.loads(done.stdout) if done.stdout.strip() else {}
        except ValueError as error:
            raise AssertionError(f"{command}: no JSON on stdout: {done.stdout!r}; stderr {done.stderr!r}") from error
        return OperatorAnswer(done.returncode, document, done.stderr)

    def routes(self) -> list[dict[str, Any]]:
        """`bgpcni routes`, its list."""
        return list(self.operator("routes").document.get("routes", []))

    def attachments(self) -> list[dict[str, Any]]:
        """`bgpcni attachments`, its list."""
        return list(self.operator("attachments").document.get("attachments", []))

    # What is left on the node

    def links(self) -> set[str]:
        """The names of the node's links, without lo and the uplinks."""
        names = {entry["ifname"] for entry in self.namespace.ip_json("link", "show")}
        return {name for name in names if name != "lo" and not name.startswith("uplink")}

    def lease_files(self, network: str = "tenant-a") -> set[str]:
        """The addresses with a lease."""
        folder = self.leases / network
        found = folder.iterdir() if folder.exists() else ()
        return {file.name for file in found if not file.name.startswith(("last_reserved", "lock"))}

    def records(self, state: str = "*") -> list[Path]:
        """The files of attachments on disk, of all states or one (adding, up, leaving)."""
        return sorted(self.data_dir.glob(f"attachments/{state}/**/*.json"))

    def container(self, what: str = "c") -> Namespace:
        """A container's network namespace; the caller closes it (`with`), or uses `Lab.container`."""
        return Namespace(what)

    def logs(self) -> dict[str, str]:
        """The ends of what the agent and its speaker wrote, by file."""
        files = [*self.folder.glob("*.log"), *(file for file in self.run_dir.rglob("*.log") if file.is_file())]
        return {f"{self.folder.name}/{file.name}": tail(file) for file in files}

    def close(self) -> None:
        """End the agent and the speaker that outlives it, with all that runs in the namespace."""
        self.namespace.close()
        if self.process is not None:
            self.process.wait(SECONDS)

    def _environment(self) -> dict[str, str]:
        """The test's own environment without our variables, and with this node's."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("CNI_", "BGPCNI_"))}
        if self.config.exists():
            return kept | {"BGPCNI_SOCKET": str(self.socket)}
        return kept | {"BGPCNI_RUN_DIR": str(self.run_dir), "BGPCNI_DATA_DIR": str(self.data_dir)}

    def _private(self) -> list[str]:
        """A prefix that runs the prelude, and hides an installation of bgpcni on this very machine."""
        # `ip netns exec` has made a mount namespace for the program alone.
        hidden = () if self.namespace.has_own_mounts else SYSTEM_FOLDERS
        steps = [f'mount --bind "$0" {folder}' for folder in hidden if Path(folder).exists()]
        steps += [self.prelude] if self.prelude else []
        return ["sh", "-c", " && ".join([*steps, 'exec "$@"']), str(self.folder / "empty")] if steps else []


def to_toml(document: Mapping[str, Any]) -> str:
    """A document as TOML, nested tables inline. Strings, numbers, booleans, lists and tables only."""
    return "".join(f"{json.dumps(key)} = {_toml_value(value)}\n" for key, value in document.items())


def _toml_value(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    if isinstance(value, bool | int | float | str):
        return json.dumps(value)
    raise TypeError(f"not for TOML: {value!r}")
