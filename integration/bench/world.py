"""What the sections work with: a laboratory with FRR, a node with the agent, container namespaces, the runner."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from integration.lab import Frr, Lab, Namespace, Node
from integration.lab.namespace import unique
from integration.lab.node import STOCK_PLUGINS

RUNNER = Path(__file__).with_name("runner.py")
Call = dict[str, Any]


class World:
    """One node, ours and stock on bridges of their own, the agent with a session to FRR."""

    def __init__(self, lab: Lab, *, before: Callable[[Node], None] = lambda node: None, **toml: Any) -> None:
        """`before`: called with the node before its agent starts."""
        self.lab = lab
        self.frr: Frr = lab.frr()
        self.node: Node = lab.node(self.frr)
        memory = Path("/dev/shm", unique("run"))  # /run is in memory
        memory.mkdir(mode=0o711)
        lab.callback(lambda: shutil.rmtree(memory, ignore_errors=True))
        self.node.run_dir = memory / "bgpcni"
        before(self.node)
        self.node.agent(**toml)
        self.frr.wait_established(self.node.address)
        self._runner = subprocess.Popen(
            ["ip", "netns", "exec", self.node.namespace.name, sys.executable, "-S", str(RUNNER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        lab.callback(self._end)
        self.spaces: list[Namespace] = []

    def _end(self) -> None:
        assert self._runner.stdin
        self._runner.stdin.close()
        self._runner.wait(60)

    def containers(self, count: int) -> list[Namespace]:
        while len(self.spaces) < count:
            self.spaces.append(self.lab.container())
        return self.spaces[:count]

    def run(self, waves: Sequence[Sequence[Call]]) -> list[dict[str, Any]]:
        """Every wave in turn. Raises AssertionError when a call failed."""
        assert self._runner.stdin
        assert self._runner.stdout
        self._runner.stdin.write(json.dumps(list(map(list, waves))) + "\n")
        self._runner.stdin.flush()
        answer: list[dict[str, Any]] = json.loads(self._runner.stdout.readline())
        for wave in answer:
            for call in wave["calls"]:
                assert call["code"] == 0, call
        return answer

    def network(self, *, dual: bool = False, exporters: list[str] | None = None) -> dict[str, Any]:
        """Ours: a gateway bridge, host-local, a default route; announced unless `exporters` says otherwise."""
        return self.node.network(
            "ours",
            "10.1.0.0/16",
            "2001:db8:1::/64" if dual else None,
            bridge="ours0",
            exporters=["exabgp"] if exporters is None else exporters,
        )

    def stock_network(self, *, dual: bool = False) -> dict[str, Any]:
        """The same work for the stock bridge and host-local."""
        document = self.node.network(
            "stock", "10.2.0.0/16", "2001:db8:2::/64" if dual else None, bridge="stock0", exporters=None
        )
        return document | {"type": "bridge"}

    def call(
        self,
        command: str,
        network: dict[str, Any],
        container: str,
        space: Namespace,
        *,
        alone: bool = False,
        **more: Any,
    ) -> Call:
        """One call of the executable that the network's type names. `alone`: ours, without an agent."""
        stock = network["type"] == "bridge"
        folder = STOCK_PLUGINS if stock else self.node.bin_dir
        env = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": str(space.path),
            "CNI_IFNAME": more.pop("ifname", "eth0"),
            "CNI_PATH": str(STOCK_PLUGINS),
            "PATH": os.environ.get("PATH", os.defpath),
        }
        if alone:
            env |= {"BGPCNI_RUN_DIR": f"{self.node.run_dir}-alone", "BGPCNI_DATA_DIR": f"{self.node.data_dir}-alone"}
        elif not stock:
            env["BGPCNI_SOCKET"] = str(self.node.socket)
        name = "bridge" if stock else "bgpcni"
        return {"argv": [f"{folder}/{name}"], "env": env, "stdin": json.dumps(network), **more}
