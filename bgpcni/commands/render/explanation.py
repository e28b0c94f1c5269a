"""The text of `explain`."""

from __future__ import annotations

from bgpcni.commands import Document
from bgpcni.commands.render.tables import pod_of, table


def explain(document: Document) -> str:
    parts = []
    for item in document["attachments"]:
        pod = f" (pod {pod_of(item)})" if "pod" in item else ""
        parts.append(f"{item['network']}/{item.get('containerID', '?')}/{item.get('ifname', '?')}{pod}\n")
        rows = [(step["step"], step["state"], step["since"], step["detail"]) for step in item["steps"]]
        body = table(("STEP", "STATE", "SINCE", "DETAIL"), rows)
        parts.append("".join(f"  {line}\n" for line in body.splitlines()))
    return "".join(parts)
