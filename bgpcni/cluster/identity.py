"""Who this node is in its cluster: labels, addresses, ASN and router ID.

With store etcd agent.toml says it. With Kubernetes the Node object does: its labels, its annotations or labels
`bgpcni.dev/asn` and `bgpcni.dev/router-id`, which concern this node alone and so win over the `[bgp]` that all nodes
share; what neither says follows from the Node's address.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Protocol

from bgpcni.config.agent import AgentConfig

ASN, ROUTER_ID = "bgpcni.dev/asn", "bgpcni.dev/router-id"
PRIVATE_ASN = 4_200_000_000
"""The first private ASN of four octets (RFC 6996)."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What is known of this node. `amiss`: what is wrong with it. `owner`: whose end is the end of its BGPNode."""

    labels: Mapping[str, str] = field(default_factory=dict)
    addresses: tuple[str, ...] = ()
    asn: int | None = None
    router_id: str | None = None
    amiss: str = ""
    owner: Mapping[str, str] | None = None

    def completes(self, config: AgentConfig) -> AgentConfig:
        """This agent.toml with the ASN and router ID of this node in `[bgp]`."""
        if config.bgp is None or (config.bgp.asn, config.bgp.router_id) == (self.asn, self.router_id):
            return config
        bgp = config.bgp.model_copy(update={"asn": self.asn, "router_id": self.router_id})
        return config.model_copy(update={"bgp": bgp})


class Source(Protocol):
    """Where a node learns who it is."""

    def identity(self, config: AgentConfig) -> Identity | None:
        """None while that is not known."""
        ...

    def subscribe(self) -> threading.Event:
        """An event that is set whenever the answer may have changed."""
        ...


class ByConfiguration:
    """agent.toml says it."""

    def identity(self, config: AgentConfig) -> Identity:
        bgp = config.bgp
        labels = config.cluster.labels if config.cluster else {}
        if bgp is None:
            return Identity(labels)
        return Identity(labels, (bgp.local_address,), bgp.asn, bgp.router_id)

    def subscribe(self) -> threading.Event:
        return threading.Event()


def of_node(node: Mapping[str, Any], config: AgentConfig) -> Identity:
    """The Node object says it, and agent.toml what the Node does not. Pure."""
    metadata = node["metadata"]
    labels: Mapping[str, str] = metadata.get("labels") or {}
    said = {**labels, **(metadata.get("annotations") or {})}
    internal = [
        item["address"]
        for item in node.get("status", {}).get("addresses") or ()
        if item.get("type") == "InternalIP" and _version(item.get("address", ""))
    ]
    own = (config.bgp.local_address,) if config.bgp else ()
    addresses = tuple(dict.fromkeys((*own, *internal)))
    four = next((address for address in addresses if _version(address) == 4), None)
    amiss = []
    asn, router_id = config.bgp.asn if config.bgp else None, config.bgp.router_id if config.bgp else None
    if text := said.get(ASN):
        if text.isascii() and text.isdigit() and 1 <= int(text) <= 4294967295:
            asn = int(text)
        else:
            amiss.append(f"{ASN}: {text!r} is no ASN from 1 to 4294967295")
    if text := said.get(ROUTER_ID):
        if _version(text) == 4 and int(ip_address(text)):
            router_id = str(ip_address(text))
        else:
            amiss.append(f"{ROUTER_ID}: {text!r} is not a router ID: four octets, not 0.0.0.0")
    router_id = router_id or four
    if asn is None and four is not None:
        asn = PRIVATE_ASN + (int(ip_address(four)) & 0xFFFFFF)
    for name, value in ((ASN, asn), (ROUTER_ID, router_id)):
        if value is None:
            amiss.append(f"{name}: neither the Node nor agent.toml says it, and the Node has no IPv4 address")
    place = f"Node {metadata['name']}: "
    owner = {"apiVersion": "v1", "kind": "Node", "name": metadata["name"], "uid": metadata.get("uid", "")}
    return Identity(labels, addresses, asn, router_id, place + "; ".join(amiss) if amiss else "", owner)


def _version(text: str) -> int:
    """The IP version of an address, 0 for what is none."""
    try:
        return ip_address(text).version
    except ValueError:
        return 0
