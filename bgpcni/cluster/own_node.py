"""The Node object of this node, followed once for all who need it: its identity, its duties, its network."""

from __future__ import annotations

import threading

from bgpcni.cluster.identity import Identity, of_node
from bgpcni.cluster.kubernetes import NODES, Api, Mirror, Object
from bgpcni.cluster.store import Key
from bgpcni.config.agent import AgentConfig


class OwnNode:
    """Made before the agent is; `run` is for a thread of its own."""

    def __init__(self, api: Api, name: str) -> None:
        self.api, self.name = api, name
        self.mirror = Mirror(api, NODES, self._changed, fields=f"metadata.name={name}")
        self._moved: list[threading.Event] = []

    @property
    def object(self) -> Object | None:
        """As the server has it; None where it has none of that name, or has not been asked."""
        return self.mirror.objects.get(("", self.name))

    def identity(self, config: AgentConfig) -> Identity | None:
        found = self.object
        return of_node(found, config) if found is not None else None

    def subscribe(self) -> threading.Event:
        """An event that is set whenever the Node has changed. Before `run`."""
        event = threading.Event()
        self._moved.append(event)
        return event

    def run(self) -> None:
        self.mirror.run()

    def stop(self) -> None:
        self.mirror.stop()

    def _changed(self, keys: set[Key]) -> None:
        for event in self._moved:
            event.set()
