"""Objects as Tables, which is what `kubectl get` asks for. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from integration.kubernetes.kinds import Column, Kind, Object

_NAME = (
    "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a "
    "client to request the generation of an appropriate name automatically. Name is primarily intended for creation "
    "idempotence and configuration definition. Cannot be updated. More info: "
    "https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names"
)
NAME = Column("Name", format="name", description=_NAME)
AGE = Column("Age", "string", description="CreationTimestamp is a timestamp of when the object was created.")
Cells = Callable[[Object, datetime], list[Any]]


def table(kind: Kind, items: list[Object], metadata: Object, now: datetime, include: str, *, columns: bool) -> Object:
    """`include`: what of each object comes with its row: None, Metadata or Object."""
    listed, cells = _OF.get(kind.plural, (_GENERIC, _generic)) if not kind.custom else (_custom(kind), _cells(kind))
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": [_shown(column) for column in listed] if columns else None,
        "rows": [{"cells": cells(item, now), "object": _object(kind, item, include)} for item in items],
    }


def partial(item: Object) -> Object:
    """Its metadata alone."""
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": item["metadata"]}


def _object(kind: Kind, item: Object, include: str) -> Any:
    if include == "None":
        return None
    if include == "Object":
        return {"kind": kind.name, "apiVersion": kind.group_version} | item
    return partial(item)


def _shown(column: Column) -> Object:
    return {
        "name": column.name, "type": column.type, "format": column.format, "description": column.description,
        "priority": column.priority,
    }  # fmt: skip


def _custom(kind: Kind) -> tuple[Column, ...]:
    age = Column("Age", "date", description=AGE.description, path=".metadata.creationTimestamp")
    return NAME, *(kind.columns or (age,))


def _cells(kind: Kind) -> Cells:
    columns = _custom(kind)[1:]

    def cells(item: Object, now: datetime) -> list[Any]:
        values = [find(item, column.path) for column in columns]
        return [item["metadata"]["name"]] + [
            since(value, now) if column.type == "date" and value else value
            for column, value in zip(columns, values, strict=True)
        ]

    return cells


def find(item: Any, path: str) -> Any:
    """The value at a JSONPath of the simple kind: names, `[0]`, `[*]`, and `[?(@.key=='value')]`; None for none."""
    steps = re.findall(r"\.([A-Za-z0-9_-]+)|\[\?\(@\.([\w.-]+)\s*==\s*[\"']([^\"']*)[\"']\)\]|\[(\d+|\*)\]", path)
    found = [item]
    for name, key, value, index in steps:
        after: list[Any] = []
        for one in found:
            if name and isinstance(one, dict) and name in one:
                after.append(one[name])
            elif key and isinstance(one, list):
                after += [entry for entry in one if isinstance(entry, dict) and entry.get(key) == value]
            elif index == "*" and isinstance(one, list):
                after += one
            elif index and isinstance(one, list) and int(index) < len(one):
                after.append(one[int(index)])
        found = after
    return found[0] if found else None


def since(time: str, now: datetime) -> str:
    """How long ago, as kubectl's users read it: `45s`, `6m3s`, `3h`, `2d`."""
    seconds = max(0, int((now - datetime.fromisoformat(time).astimezone(UTC)).total_seconds()))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if seconds < 120:
        return f"{seconds}s"
    if minutes < 10:
        return f"{minutes}m" + (f"{seconds % 60}s" if seconds % 60 else "")
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h" + (f"{minutes % 60}m" if minutes % 60 else "")
    return f"{hours}h" if hours < 48 else f"{days}d"


def _age(item: Object, now: datetime) -> str:
    return since(item["metadata"]["creationTimestamp"], now)


def _generic(item: Object, now: datetime) -> list[Any]:
    return [item["metadata"]["name"], item["metadata"]["creationTimestamp"]]


def _node(item: Object, now: datetime) -> list[Any]:
    conditions = {entry["type"]: entry["status"] for entry in item["status"].get("conditions") or ()}
    words = [{"True": "Ready", "False": "NotReady"}.get(conditions.get("Ready", ""), "Unknown")]
    words += ["SchedulingDisabled"] if item["spec"].get("unschedulable") else []
    prefix = "node-role.kubernetes.io/"
    roles = [name[len(prefix) :] for name in item["metadata"].get("labels", {}) if name.startswith(prefix)]
    info = item["status"].get("nodeInfo", {})
    addresses = {entry["type"]: entry["address"] for entry in item["status"].get("addresses") or ()}
    return [
        item["metadata"]["name"], ",".join(words), ",".join(sorted(roles)) or "<none>", _age(item, now),
        info.get("kubeletVersion", ""), addresses.get("InternalIP", "<none>"), addresses.get("ExternalIP", "<none>"),
        info.get("osImage") or "<unknown>", info.get("kernelVersion") or "<unknown>",
        info.get("containerRuntimeVersion") or "<unknown>",
    ]  # fmt: skip


def _pod(item: Object, now: datetime) -> list[Any]:
    status = item["status"]
    containers = status.get("containerStatuses") or ()
    ready = sum(bool(entry.get("ready")) for entry in containers)
    word = "Terminating" if item["metadata"].get("deletionTimestamp") else status.get("phase", "")
    return [
        item["metadata"]["name"], f"{ready}/{len(item['spec'].get('containers', ()))}", word,
        str(sum(entry.get("restartCount", 0) for entry in containers)), _age(item, now),
        status.get("podIP") or "<none>", item["spec"].get("nodeName") or "<none>", "<none>", "<none>",
    ]  # fmt: skip


def _namespace(item: Object, now: datetime) -> list[Any]:
    return [item["metadata"]["name"], item["status"].get("phase", ""), _age(item, now)]


def _config_map(item: Object, now: datetime) -> list[Any]:
    return [item["metadata"]["name"], len(item.get("data") or ()) + len(item.get("binaryData") or ()), _age(item, now)]


def _columns(*names: str, wide: int = 0) -> tuple[Column, ...]:
    return tuple(
        NAME if name == "Name" else AGE if name == "Age" else
        Column(name, description=_SAID.get(name, name), priority=1 if index >= len(names) - wide else 0)
        for index, name in enumerate(names)
    )  # fmt: skip


_SAID = {"Status": "The status of the node"}
_GENERIC = (NAME, Column("Created At", "date", description=AGE.description))
_OF: dict[str, tuple[tuple[Column, ...], Cells]] = {
    "nodes": (
        _columns("Name", "Status", "Roles", "Age", "Version", "Internal-IP", "External-IP", "OS-Image",
                 "Kernel-Version", "Container-Runtime", wide=5), _node,
    ),
    "pods": (
        _columns("Name", "Ready", "Status", "Restarts", "Age", "IP", "Node", "Nominated Node", "Readiness Gates",
                 wide=4), _pod,
    ),
    "namespaces": (_columns("Name", "Status", "Age"), _namespace),
    "configmaps": (_columns("Name", "Data", "Age"), _config_map),
}  # fmt: skip
