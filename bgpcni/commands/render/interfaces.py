"""The text of `attachments` and `networks`."""

from __future__ import annotations

from bgpcni.commands import Document
from bgpcni.commands.render.tables import ago, has_pods, pod_of, table


def attachments(document: Document) -> str:
    pods = has_pods(document["attachments"])
    return table(
        ("NETWORK", *pods, "CONTAINER", "IFNAME", "STATE", "ADDRESSES", "MAC", "VETH", "SINCE"),
        [
            (a["network"], *(pod_of(a) for _ in pods), a["containerID"], a["ifname"],
             "conflict" if "conflict" in a else a["state"], ", ".join(a["ips"]),
             a["mac"], a["hostVeth"], ago(a["since"]))
            for a in document["attachments"]
        ],
    )  # fmt: skip


def networks(document: Document) -> str:
    """The networks with their use, then the devices that they stand on."""
    text = table(
        ("NETWORK", "FAMILY", "BRIDGE", "VNI", "VRF", "EXPORTERS", "INTERFACES", "ADDRESSES"),
        [
            (n["network"], n["family"], ",".join(n["bridges"]), n["vni"], n["vrf"], ",".join(n["exporters"]),
             sum(n["attachments"].values()),
             ", ".join(f"{each['used']} of {each['size']} in {each['subnet']}" for each in n["subnets"]))
            for n in document["networks"]
        ],
    )  # fmt: skip
    return text + "".join(f"{each['kind']} {each['name']} is {each['state']}\n" for each in document["devices"])
