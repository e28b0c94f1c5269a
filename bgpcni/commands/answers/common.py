"""What the answers share: the shape of a document, and what an attachment is called in it."""

from __future__ import annotations

from typing import Literal, Protocol

from bgpcni.commands import Document
from bgpcni.model import Attachment, State
from bgpcni.node import interface
from bgpcni.node.node import Node

GONE = "gone"
"""The state of an attachment that is up by its record, but has lost its link."""


class Resident(Protocol):
    """The agent, as far as commands need it."""

    node: Node

    def nodes(self) -> list[Document]:
        """The nodes of the cluster, as far as this one has heard."""
        ...

    def reload(self) -> None:
        """Read agent.toml again. Raises CniError, and then nothing has changed."""

    def maintain(self, who: Literal["operator", "annotation"], *, on: bool, until_reboot: bool = False) -> None:
        """Have peers prefer other paths, or take that back. Raises CniError, and then nothing has changed."""

    def drain(self, seconds: float) -> list[str]:
        """Withdraw everything; the names of the exporters that are late."""
        ...


def failure(text: str) -> Document:
    """The document of a command that could not be answered."""
    return {"schema": 1, "error": text}


def named(attachment: Attachment) -> Document:
    """What an attachment is called in every document: its key, and its pod where the runtime named one."""
    named: Document = {
        "network": attachment.network,
        "containerID": attachment.container_id,
        "ifname": attachment.ifname,
    }
    return named | ({"pod": attachment.pod.model_dump()} if attachment.pod else {})


def state_of(node: Node, state: State, attachment: Attachment | None) -> str:
    """The state of the record, or GONE if that is up and the link has gone."""
    gone = state is State.UP and attachment is not None and interface.vanished(node.netlink, attachment)
    return GONE if gone else state.value
