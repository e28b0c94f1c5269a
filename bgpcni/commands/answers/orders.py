"""The commands that change something: sync, drain, maintenance, reload, release."""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections.abc import Iterable

from bgpcni.commands import Document
from bgpcni.commands.answers.common import Resident, failure
from bgpcni.errors import CniError, InvalidConfiguration
from bgpcni.model import AttachmentKey, State
from bgpcni.node import interface, reconcile, without_agent
from bgpcni.node.node import Node

SYNC_SECONDS = 10.0
DRAIN_SECONDS = 30.0
RESTART_SECONDS = 100.0


def sync(node: Node) -> tuple[Document, int]:
    """Try once more whatever is late; exit 1 if something is still late."""
    deadline = time.monotonic() + (SYNC_SECONDS if node.resident else 0)
    node.convergence.retry()
    if node.dataplane is not None:
        node.dataplane.look_again()
    _settle(node)
    late = node.convergence.wait_quiet(deadline - time.monotonic())
    _settle(node)
    remaining = [
        str(stored.attachment.key)
        for stored in node.store.all()
        if stored.attachment is not None and stored.state is State.LEAVING
    ]
    return {"schema": 1, "late": late, "leaving": remaining}, 1 if late or remaining else 0


def _settle(node: Node) -> None:
    """Reconcile every attachment that is not as it should be."""
    if not node.resident:
        without_agent.settle_all(node)
        return
    _settle_each(node, list(reconcile.concerned(node)))


def _settle_each(node: Node, keys: Iterable[AttachmentKey]) -> None:
    for key in keys:
        try:
            reconcile.settle(node, key)
        except (CniError, OSError):  # the worker does it, or reports what is wrong
            node.nudges.nudge(key)


def drain(agent: Resident) -> tuple[Document, int]:
    """Withdraw every route and end the speaker; exit 1 if an exporter is late."""
    late = agent.drain(DRAIN_SECONDS)
    return {"schema": 1, "drained": not late, "late": late}, 1 if late else 0


def restart_speaker(agent: Resident, name: str | None) -> tuple[Document, int]:
    """Restart one speaker after the other; exit 1 if the peers of one do not have all routes again."""
    done, reason = agent.node.convergence.restart_speakers(name, RESTART_SECONDS)
    return {"schema": 1, "restarted": done, "late": reason}, 1 if reason else 0


def maintenance(agent: Resident, state: str, *, until_reboot: bool) -> tuple[Document, int]:
    """Have peers prefer other paths; exit 1 if not every exporter has told its peers in time."""
    if until_reboot and state == "off":
        raise InvalidConfiguration("--until-reboot: it says how long maintenance lasts, and belongs to `on`")
    agent.maintain("operator", on=state == "on", until_reboot=until_reboot)
    node = agent.node
    _settle_each(node, node.attached())
    late = node.convergence.wait_quiet(SYNC_SECONDS)
    unable = [
        name
        for name, announcer in node.convergence.announcers().items()
        if not {"communities", "local_preference"} <= announcer.carried
    ]
    document = {"schema": 1, "maintenance": dict(node.maintenance), "late": late, "unable": unable}
    return document, 1 if late else 0


def reload(agent: Resident) -> tuple[Document, int]:
    """Read agent.toml again and apply it."""
    agent.reload()
    return {"schema": 1, "reloaded": True}, 0


def stacks(agent: Resident) -> tuple[Document, int]:
    """Where each thread of this process is at this moment."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    found = [
        {"thread": names.get(number, str(number)), "frames": [line.rstrip() for line in traceback.format_stack(frame)]}
        for number, frame in sys._current_frames().items()
    ]
    return {"schema": 1, "stacks": found}, 0


def log_level(agent: Resident, level: str, module: str | None) -> tuple[Document, int]:
    """Change how much the agent logs. Raises InvalidConfiguration for a module that there is not."""
    names = [name for name in logging.root.manager.loggerDict if name.startswith("bgpcni")]
    parts = sorted({name.partition(".")[0] for name in names})
    if module is None:
        for name in names:
            logging.getLogger(name).setLevel(logging.NOTSET)
        chosen = parts
    else:
        full = module if module.partition(".")[0] in parts else f"bgpcni.{module}"
        if not any(name == full or name.startswith(f"{full}.") for name in names):
            known = sorted({".".join(name.split(".")[:2]).removeprefix("bgpcni.") for name in names})
            raise InvalidConfiguration(f"log-level: no module {module!r}; there are {', '.join(known)}")
        chosen = [full]
    for name in chosen:
        logging.getLogger(name).setLevel(level.upper())
    return {"schema": 1, "level": level, "modules": chosen}, 0


def release(node: Node, container_id: str, *, force: bool) -> tuple[Document, int]:
    """Stop waiting until a container's withdrawals are confirmed, and release its addresses and records now."""
    if not force:
        raise InvalidConfiguration("release gives back an address to which a peer may still have a route: add --force")
    released = []
    for stored in list(node.store.all()):
        attachment = stored.attachment
        if attachment is None or attachment.container_id != container_id:
            continue
        with node.store.locked(attachment.key, 30):
            again = node.store.find(attachment.key)
            if again is None or again.attachment is None:
                continue
            if again.state is State.UP and not interface.vanished(node.netlink, again.attachment):
                raise InvalidConfiguration(f"{attachment.key} is up: DEL it first")
            reconcile.end_unconfirmed(node, again.attachment)
            released.append(str(attachment.key))
    if not released:
        return failure(f"no attachment of container {container_id!r}"), 1
    return {"schema": 1, "released": released}, 0
