"""The text of `routes`."""

from __future__ import annotations

from bgpcni.commands import Document
from bgpcni.commands.render.tables import ago, has_pods, pod_of, table


def routes(document: Document) -> str:
    """One line for each route and exporter, or what peers announced if the document is about that."""
    if "received" in document:
        return _received(document)
    if "peer" in document:
        return _advertised(document)
    pods = has_pods(document["routes"])
    rich = ("ATTRIBUTES",) if any(map(_attributes, document["routes"])) else ()
    return table(
        ("ROUTE", "NEXT HOP", *rich, "NETWORK", *pods, "CONTAINER", "EXPORTER", "STATE", "SINCE", "REASON"),
        [
            (r["nlri"], r["nextHop"], *(_attributes(r) for _ in rich), r["network"], *(pod_of(r) for _ in pods),
             r["containerID"], name, state["state"], ago(state["since"]), state["reason"])
            for r in document["routes"]
            for name, state in r["exporters"].items()
        ],
    )  # fmt: skip


def _advertised(document: Document) -> str:
    return table(
        ("ROUTE", "NEXT HOP", "ATTRIBUTES", "NETWORK", "CONTAINER", "EXPORTER"),
        [
            (r["nlri"], r["nextHop"], _attributes(r), r["network"], r["containerID"], r["exporter"])
            for r in document["routes"]
        ],
    )  # fmt: skip


def _attributes(route: Document) -> str:
    """What it is announced with besides route targets: `64512:100 local-preference 200 med 10`."""
    numbers = (("local-preference", route.get("localPreference")), ("med", route.get("med")))
    return " ".join([*route["communities"], *(f"{name} {value}" for name, value in numbers if value is not None)])


def _received(document: Document) -> str:
    """One line for each route; then how many were refused, and why."""
    rows = []
    for route in document["received"]:
        into = [f"{item['table']}: {item['reason'] or item['state']}" for item in route["imported"]]
        if any(item["state"] in ("best", "equal") for item in route["imported"]) and not route["datapath"]:
            into.append("not forwarded here")
        stale = "stale" if route["stale"] else ""
        targets = ",".join(route["routeTargets"])
        rows.append((route["nlri"], route["nextHop"], route["vni"], route["peer"], targets, stale, "; ".join(into)))
    text = table(("ROUTE", "NEXT HOP", "VNI", "PEER", "ROUTE TARGETS", "STATE", "IMPORTED"), rows)
    lines = [f"{count} refused: {reason}" for reason, count in sorted(document["refused"].items())]
    return text + "".join(f"{line}\n" for line in lines)
