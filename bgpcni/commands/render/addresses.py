"""The text of `bgpcni ipam`."""

from __future__ import annotations

from bgpcni.commands import Document
from bgpcni.commands.render.tables import has_pods, pod_of, table


def ipam_show(document: Document) -> str:
    pods = has_pods(document["addresses"])
    addresses = table(
        ("ADDRESS", "NETWORK", *pods, "CONTAINER", "IFNAME", "STATE", "LEASE"),
        [
            (row["address"], row["network"], *(pod_of(row) for _ in pods), row["containerID"], row["ifname"],
             row["state"], "yes" if row["leased"] else "no")
            for row in document["addresses"]
        ],
    )  # fmt: skip
    if "blocks" not in document:
        return addresses
    blocks = table(
        ("BLOCK", "POOL", "NODE", "USED", "SIZE"),
        [(one["block"], one["pool"], one["node"], one["used"], one["size"]) for one in document["blocks"]],
    )
    return f"{addresses}\n{blocks}"


def ipam_check(document: Document) -> str:
    lines = [f"{one['code']}: {one['text']}" for one in document["contradictions"]]
    count = f"{document['leases']} leases and {document['records']} records"
    return "\n".join([*lines, f"{count}: {len(lines) or 'no'} contradictions"]) + "\n"


def ipam_release(document: Document) -> str:
    return "".join(f"released {one['address']} of network {one['network']}\n" for one in document["released"])
