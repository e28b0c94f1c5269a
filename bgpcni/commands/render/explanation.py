"""The text of `explain`."""

from __future__ import annotations

from bgpcni.commands import Document
from bgpcni.commands.render.tables import ago, pod_of, table


def explain(document: Document) -> str:
    parts = []
    for item in document["attachments"]:
        pod = f" (pod {pod_of(item)})" if "pod" in item else ""
        parts.append(f"{item['network']}/{item.get('containerID', '?')}/{item.get('ifname', '?')}{pod}\n")
        parts.append(_steps(item))
    for item in document.get("peers", ()):
        parts.append(f"session of {item['exporter']} with {item['address']}, AS {item['asn']}\n")
        parts.append(_steps(item))
    return "".join(parts)


def _steps(item: Document) -> str:
    rows = [(step["step"], step["state"], ago(step["since"]), step["detail"]) for step in item["steps"]]
    return table(("STEP", "STATE", "SINCE", "DETAIL"), rows)
