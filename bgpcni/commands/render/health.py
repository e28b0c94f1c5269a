"""The text of `status`."""

from __future__ import annotations

from bgpcni.commands import Document
from bgpcni.commands.render.tables import since


def status(document: Document) -> str:
    lines = [f"bgpcni {document['version']}: {'healthy' if document['healthy'] else 'not healthy'}"]
    if document["mode"] == "none":
        lines[0] += " (no agent is running)"
    for name, state in document["exporters"].items():
        reason = f": {state['reason']}" if state["reason"] else ""
        lines.append(f"  exporter {name} is {state['state']} {since(state['since'])}{reason}")
    lines += [f"  in maintenance {since(when)} ({who})" for who, when in document.get("maintenance", {}).items()]
    lines += [f"  problem: {problem['text']}" for problem in document["problems"]]
    return "\n".join(lines) + "\n"
