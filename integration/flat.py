"""Counts the work of calls while many other attachments exist. Runs inside a node's network namespace.

usage: python -m integration.flat RECORDS NETNS…    prints {command: {event: count}} for one container more

Work is what the interpreter's audit hook sees of the system (files opened, listed, renamed, …) and netlink
messages; time is not looked at.
"""

from __future__ import annotations

import collections
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from bgpcni.config.agent import AgentConfig
from bgpcni.convergence.convergence import Convergence
from bgpcni.handler import Call, handle
from bgpcni.kernel.netlink import Message, Netlink
from bgpcni.model import Attachment, NodeFacts, State
from bgpcni.node.node import Node
from bgpcni.nudges import Nudges
from bgpcni.store import Store

counts: collections.Counter[str] = collections.Counter()
COUNTED = {"open", "os.listdir", "os.scandir", "os.rename", "os.remove", "os.mkdir", "fcntl.flock", "subprocess.Popen"}


def audit(event: str, _: Any) -> None:
    if event in COUNTED:
        counts[event] += 1


class Counting(Netlink):
    """A netlink socket that counts what goes through it."""

    def send(self, *messages: Message) -> Any:
        counts["netlink messages"] += len(messages)
        return super().send(*messages)

    def dump(self, message: Message) -> list[bytes]:
        found = super().dump(message)
        counts["netlink objects dumped"] += len(found)
        return found


def main() -> None:
    records, spaces = int(sys.argv[1]), sys.argv[2:]
    folder = Path(tempfile.mkdtemp(prefix="flat"))
    facts = NodeFacts(run_dir=str(folder / "run"), data_dir=str(folder / "data"))
    store = Store(folder / "data", folder / "run")
    nudges = Nudges()
    node = Node(store, AgentConfig(default_exporters=()), facts, Convergence(facts, nudges), nudges)
    leases = folder / "leases" / "flat"
    leases.mkdir(parents=True)
    for number in range(records):
        address = f"10.9.{number >> 8}.{number & 255}"
        (leases / address).write_text(f"other-{number}\r\neth0")
        store.put(
            State.UP,
            Attachment.model_validate(
                {
                    "boot_id": node.boot_id, "network": "flat", "container_id": f"other-{number}", "ifname": "eth0",
                    "netns": "/nowhere", "host_index": 1_000_000 + number, "host_veth": f"gone{number}",
                    "addresses": [{"address": f"{address}/16"}],
                }
            ),
        )  # fmt: skip
    conf = {
        "cniVersion": "1.0.0", "name": "flat", "type": "bgpcni", "bridge": "flat0", "isGateway": True, "exporters": [],
        "ipam": {"type": "host-local", "dataDir": str(folder / "leases"), "ranges": [
            [{"subnet": "10.8.0.0/16"}], [{"subnet": "2001:db8:8::/64"}]]},
    }  # fmt: skip
    work: dict[str, dict[str, int]] = {}
    # the first container makes the bridge and reads what is read once
    for container, space in enumerate(spaces):
        result: Any = None
        for command in ("ADD", "CHECK", "DEL"):
            document = conf | ({"prevResult": result} if result else {})
            variables = {
                "CNI_COMMAND": command, "CNI_CONTAINERID": f"c-{container}", "CNI_NETNS": space, "CNI_IFNAME": "eth0",
                "CNI_PATH": "/nowhere",
            }  # fmt: skip
            counts.clear()
            reply = handle(Call(variables, json.dumps(document).encode()), lambda request: node)
            work[command] = dict(counts)
            if reply.code:
                sys.exit(reply.stdout.decode())
            if command == "ADD":
                result = json.loads(reply.stdout)
    print(json.dumps(work))


if __name__ == "__main__":
    import bgpcni.kernel.bridge
    import bgpcni.kernel.namespace
    import bgpcni.node.node

    for module in (bgpcni.kernel.namespace, bgpcni.node.node):
        module.Netlink = Counting  # type: ignore[attr-defined]
    sys.addaudithook(audit)
    os.umask(0o022)
    main()
