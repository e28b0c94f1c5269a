"""The text of `explain` and `unreachable`."""

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
    remedies = dict.fromkeys(f"{step['step']}: {step['remedy']}" for step in item["steps"] if step.get("remedy"))
    return table(("STEP", "STATE", "SINCE", "DETAIL"), rows) + "".join(f"  what to do, {each}\n" for each in remedies)


def unreachable(document: Document) -> str:
    """For each container its name, what is wrong, and what to do about that."""
    lines = []
    for item in document["unreachable"]:
        pod = f" (pod {pod_of(item)})" if "pod" in item else ""
        lines.append(f"{item['network']}/{item['containerID']}/{item['ifname']}{pod} {','.join(item['ips'])}")
        for problem in item["problems"]:
            lines.append(f"  {problem['step']}: {problem['text']}")
            lines += [f"    what to do: {problem['remedy']}"] if problem["remedy"] else []
    if document["more"]:
        lines.append("there are more; --limit leaves them out")
    for item in document["failed"]:
        lines.append(f"the last ADD of {item['network']}/{item['containerID']}/{item['ifname']} failed")
        lines += [f"  {ago(problem['since'])}: {problem['text']}" for problem in item["problems"]]
    return "\n".join(lines or ["every container can be reached"]) + "\n"
