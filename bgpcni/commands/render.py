"""The documents of `answers` as text for people, the most important first. Pure: nothing is looked up here."""

from __future__ import annotations

from collections.abc import Sequence

from bgpcni.commands import Document


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table with aligned columns. An empty cell becomes `-`."""
    cells = [list(head), *([str(cell) if cell not in (None, "", []) else "-" for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join(lines) + "\n"


def status(document: Document) -> str:
    lines = [f"bgpcni {document['version']}: {'healthy' if document['healthy'] else 'not healthy'}"]
    if document["mode"] == "none":
        lines[0] += " (no agent is running)"
    for name, state in document["exporters"].items():
        reason = f": {state['reason']}" if state["reason"] else ""
        lines.append(f"  exporter {name} is {state['state']} since {state['since']}{reason}")
    lines += [f"  problem: {problem['text']}" for problem in document["problems"]]
    return "\n".join(lines) + "\n"


def attachments(document: Document) -> str:
    pods = _has_pods(document["attachments"])
    return table(
        ("NETWORK", *pods, "CONTAINER", "IFNAME", "STATE", "ADDRESSES", "MAC", "VETH", "SINCE"),
        [
            (a["network"], *(_pod(a) for _ in pods), a["containerID"], a["ifname"], a["state"], ",".join(a["ips"]),
             a["mac"], a["hostVeth"], a["since"])
            for a in document["attachments"]
        ],
    )  # fmt: skip


def _has_pods(rows: Sequence[Document]) -> tuple[str, ...]:
    """The head of the column of pods, where a row has one: a node without Kubernetes needs no such column."""
    return ("POD",) if any("pod" in row for row in rows) else ()


def _pod(row: Document) -> str:
    return f"{row['pod']['namespace']}/{row['pod']['name']}" if "pod" in row else ""


def routes(document: Document) -> str:
    """One line for each route and exporter, or what peers announced if the document is about that."""
    if "received" in document:
        return _received(document)
    pods = _has_pods(document["routes"])
    return table(
        ("ROUTE", "NEXT HOP", "NETWORK", *pods, "CONTAINER", "EXPORTER", "STATE", "SINCE", "REASON"),
        [
            (r["nlri"], r["nextHop"], r["network"], *(_pod(r) for _ in pods), r["containerID"][:24], name,
             state["state"], state["since"], state["reason"])
            for r in document["routes"]
            for name, state in r["exporters"].items()
        ],
    )  # fmt: skip


def _received(document: Document) -> str:
    """One line for each route; then how many were refused, and why."""
    rows = []
    for route in document["received"]:
        into = [f"{item['table']}: {item['reason'] or item['state']}" for item in route["imported"]]
        if any(item["state"] == "best" for item in route["imported"]) and not route["datapath"]:
            into.append("not forwarded here")
        stale = "stale" if route["stale"] else ""
        targets = ",".join(route["routeTargets"])
        rows.append((route["nlri"], route["nextHop"], route["vni"], route["peer"], targets, "; ".join(into), stale))
    text = table(("ROUTE", "NEXT HOP", "VNI", "PEER", "ROUTE TARGETS", "IMPORTED", "STATE"), rows)
    lines = [f"{count} refused: {reason}" for reason, count in sorted(document["refused"].items())]
    return text + "".join(f"{line}\n" for line in lines)


def peers(document: Document) -> str:
    return table(
        ("PEER", "AS", "EXPORTER", "STATE", "SINCE", "SENT", "RECEIVED", "FAMILIES", "LAST ERROR"),
        [
            (p["address"], p["asn"], p["exporter"], p["state"], p["since"], p["sent"], p["received"],
             ",".join(p["families"]), p["lastError"])
            for p in document["peers"]
        ],
    )  # fmt: skip


def explain(document: Document) -> str:
    parts = []
    for item in document["attachments"]:
        pod = f" (pod {_pod(item)})" if "pod" in item else ""
        parts.append(f"{item['network']}/{item.get('containerID', '?')}/{item.get('ifname', '?')}{pod}\n")
        rows = [(step["step"], step["state"], step["since"], step["detail"]) for step in item["steps"]]
        body = table(("STEP", "STATE", "SINCE", "DETAIL"), rows)
        parts.append("".join(f"  {line}\n" for line in body.splitlines()))
    return "".join(parts)


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


def reload(document: Document) -> str:
    return "configuration reloaded\n"


def attach(document: Document) -> str:
    """Interface, index of the other end, and routes, as `ip` and `ethtool -S` show them."""
    interface, peer = document["interface"] or {}, document["peer"]
    lines = [f"{document['containerID']}: {document['ifname']} in {document['netns']} is on {document['network']}"]
    if interface:
        facts = f"index {interface['index']}  MAC {interface['mac']}  MTU {interface['mtu']}"
        lines.append(f"  {interface['name']}  {facts}  {'up' if interface['up'] else 'down'}")
    if peer:
        lines.append(f"  peer_ifindex {peer['index']}" + (f" ({peer['name']})" if peer["name"] else ""))
    for ip in document["ips"]:
        lines.append(f"  address {ip['address']}" + (f" gateway {ip['gateway']}" if ip["gateway"] else ""))
    for route in document["routes"]:
        lines.append(f"  route {route['dst']}" + (f" via {route['gw']}" if route["gw"] else ""))
    for route in document["announcements"]:
        for name, state in route["exporters"].items():
            reason = f": {state['reason']}" if state["reason"] else ""
            lines.append(f"  {route['nlri']} next hop {route['nextHop']} is {state['state']} by {name}{reason}")
    return "\n".join(lines) + "\n"


def detach(document: Document) -> str:
    network = document["network"]
    return "".join(f"{item['containerID']}: {item['ifname']} is off {network}\n" for item in document["detached"])
