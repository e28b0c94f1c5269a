"""What is told of the nodes of a cluster, by its objects. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from bgpcni import clock
from bgpcni.cluster.objects import BGPNode, IPBlock, Object


def described(objects: Iterable[Object], heard: Mapping[str, datetime]) -> list[dict[str, Any]]:
    """Every node in order: since when it is in the cluster, when its agent was heard last, its labels, blocks, and how
    many sessions it said were up."""
    items = sorted(objects, key=lambda item: item.path)
    blocks: dict[str, list[str]] = {}
    for item in items:
        if isinstance(item, IPBlock):
            blocks.setdefault(item.spec.node, []).append(item.spec.cidr)
    return [
        {
            "name": item.metadata.name,
            "since": (item.status or {}).get("since"),
            "lastSeen": clock.text(heard[item.metadata.name]) if item.metadata.name in heard else None,
            "labels": item.metadata.labels,
            "blocks": blocks.get(item.metadata.name, []),
            "sessions": (item.status or {}).get("sessions"),
        }
        for item in items
        if isinstance(item, BGPNode)
    ]
