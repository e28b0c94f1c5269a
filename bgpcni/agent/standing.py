"""What the agent tells the cluster of itself: whether it could serve an ADD, and its sessions. Changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from bgpcni.errors import Degraded
from bgpcni.handler import Call, Reply
from bgpcni.launcher import runtimes
from bgpcni.node.node import Node

if TYPE_CHECKING:
    from bgpcni.dataplane.dataplane import DataPlane

_UP = "Established"


class Standing:
    """`answer`: as the agent answers a runtime's calls."""

    def __init__(self, node: Node, dataplane: DataPlane, answer: Callable[[Call], Reply]) -> None:
        self._node, self._dataplane, self._answer = node, dataplane, answer

    @property
    def drained(self) -> bool:
        return self._node.drained

    def unservable(self, network: bytes) -> str:
        """What STATUS says of it, but for late routes: a pod may start all the same."""
        document = json.loads(network) | {"cniVersion": "1.1.0"}
        variables = {"CNI_COMMAND": "STATUS", "CNI_PATH": ":".join(str(folder) for folder in runtimes.find().folders)}
        reply = self._answer(Call(variables, json.dumps(document).encode()))
        if reply.error in (0, Degraded.code):
            return ""
        return str(json.loads(reply.stdout)["msg"])

    def sessions(self) -> int | None:
        peers = [peer for announcer in self._node.convergence.announcers().values() for peer in announcer.peers()]
        return sum(peer.state == _UP for peer in peers) if peers else None

    def mtu(self, family: str) -> int:
        return self._dataplane.payload(family)
