"""A node at work on folders of its own, its worker running, its exporters in memory: for the tests of what follows
without a call."""

from __future__ import annotations

import threading
from pathlib import Path

from bgpcni.agent.policies import Policies
from bgpcni.agent.worker import Worker
from bgpcni.cluster.picture import Pictures
from bgpcni.config.agent import AgentConfig
from bgpcni.convergence.convergence import Convergence
from bgpcni.model import Address, Attachment, ExporterUse
from bgpcni.node.node import Node
from bgpcni.nudges import Nudges
from bgpcni.store import Store
from bgpcni.testing.memory import FACTS, Memory
from bgpcni.testing.patience import SECONDS


class AtWork:
    """While it is entered it works. `catalog.load` has to give `Memory`."""

    def __init__(self, folder: Path, config: AgentConfig, pictures: Pictures | None = None) -> None:
        """`pictures`: it is in a cluster, whose policies are there."""
        self.store = Store(folder / "data", folder / "run")
        self.nudges = Nudges()
        self.policies = Policies(pictures or Pictures(), dict, config, self.nudges)
        self.convergence = Convergence(FACTS, self.nudges)
        self.node = Node(self.store, config, FACTS, self.convergence, self.nudges, policies=self.policies)
        self.worker = Worker(self.node)
        self._thread = threading.Thread(target=self.worker.run)

    def __enter__(self) -> None:
        self.convergence.start()
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self.nudges.close()
        self._thread.join(SECONDS)
        self.convergence.stop()
        self.store.close()

    def attachment(self, **more: object) -> Attachment:
        """One of this boot, announced through an exporter `memory`."""
        values = {
            "boot_id": self.node.boot_id, "network": "net", "container_id": "c1", "ifname": "eth0", "netns": "/x",
            "chained": True, "addresses": (Address(address="10.1.2.3/24"),),
            "exporters": (ExporterUse(name="memory", type="memory"),), **more,
        }  # fmt: skip
        return Attachment.model_validate(values)

    def exporter(self, name: str = "memory") -> Memory:
        """An exporter, made if it is not at work."""
        found = self.convergence.ensure(ExporterUse(name=name, type="memory"))._exporter
        assert isinstance(found, Memory)
        return found
