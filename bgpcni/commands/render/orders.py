"""The text of the commands that change something."""

from __future__ import annotations

from bgpcni.commands import Document
from bgpcni.commands.render.tables import since


def sync(document: Document) -> str:
    lines = [f"exporter {name} is still late" for name in document["late"]]
    lines += [f"{key} is not withdrawn yet" for key in document["leaving"]]
    return "\n".join(lines or ["nothing is late"]) + "\n"


def release(document: Document) -> str:
    return "".join(f"released {key}\n" for key in document["released"])


def drain(document: Document) -> str:
    if document["drained"]:
        return "everything is withdrawn; the speaker has ended\n"
    return f"not everything is withdrawn: {', '.join(document['late'])} is late\n"


def restart_speaker(document: Document) -> str:
    lines = [f"{name} is restarted, and its peers have every route" for name in document["restarted"]]
    if document["late"]:
        lines.append(f"stopped: {document['late']}")
    return "\n".join(lines or ["no exporter has a speaker that bgpcni runs"]) + "\n"


def maintenance(document: Document) -> str:
    asked = document["maintenance"]
    lines = ["this node is in service"]
    if asked:
        told = ", ".join(f"{who} {since(time)}" for who, time in asked.items())
        lines = [f"this node is in maintenance ({told}): peers prefer other paths"]
    lines += [f"exporter {name} has not told every peer yet" for name in document["late"]]
    if asked:
        lines += [f"exporter {name} cannot tell its peers of maintenance" for name in document["unable"]]
    return "\n".join(lines) + "\n"


def reload(document: Document) -> str:
    return "configuration reloaded\n"


def stacks(document: Document) -> str:
    return "".join(f"{one['thread']}\n" + "\n".join(one["frames"]) + "\n" for one in document["stacks"])


def log_level(document: Document) -> str:
    return f"{', '.join(document['modules'])}: {document['level']} and above are logged until the agent ends\n"
