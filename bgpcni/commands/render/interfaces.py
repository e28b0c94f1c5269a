"""The text of `attachments`."""

from __future__ import annotations

from bgpcni.commands import Document
from bgpcni.commands.render.tables import ago, has_pods, pod_of, table


def attachments(document: Document) -> str:
    pods = has_pods(document["attachments"])
    return table(
        ("NETWORK", *pods, "CONTAINER", "IFNAME", "STATE", "ADDRESSES", "MAC", "VETH", "SINCE"),
        [
            (a["network"], *(pod_of(a) for _ in pods), a["containerID"], a["ifname"],
             "conflict" if "conflict" in a else a["state"], ",".join(a["ips"]),
             a["mac"], a["hostVeth"], ago(a["since"]))
            for a in document["attachments"]
        ],
    )  # fmt: skip
