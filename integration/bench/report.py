"""A bench document as a table for people and as a plot. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Document = dict[str, Any]

GOALS = {
    ("one at a time", "ADD"): 0.40,
    ("one at a time", "DEL"): 0.20,
    ("100 at once", "ADD"): 0.40,
    ("100 at once", "DEL"): 0.40,
}
"""Ours / stock, medians: what the project promises on a quiet machine."""


def table(document: Document, earlier: Document | None = None) -> str:
    head = ("what", "ours p50", "p99", "stock p50", "p99", "ours/stock", "spread", "goal", "earlier" if earlier else "")
    rows = [head, *_rows(document, earlier)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) if not column else cell.rjust(width) for column, (cell, width) in pairs).rstrip()
        for pairs in (list(enumerate(zip(row, widths, strict=True))) for row in rows)
    ]
    machine = document["machine"]
    title = f"bgpcni {document['version']}, Linux {machine['kernel']}, {machine['cpus']} CPUs, "
    title += f"Python {machine['python']}, {document['at']}; times in ms"
    if document["quick"]:
        title += " (quick: not to be quoted)"
    return "\n".join([title, "", *lines, "", *_notes(document)])


def _rows(document: Document, earlier: Document | None) -> Iterator[tuple[str, ...]]:
    for name, section in document["sections"].items():
        before = (earlier or {"sections": {}})["sections"].get(name, {})
        for command, found in section.get("ratios", {}).items():
            ours, stock = section["ours"][command], section["stock"][command]
            goal = GOALS.get((name, command))
            old = before.get("ratios", {}).get(command)
            yield (
                f"{command}, {name}",
                f"{ours['p50']:.2f}",
                f"{ours['p99']:.2f}",
                f"{stock['p50']:.2f}",
                f"{stock['p99']:.2f}",
                f"{found['median']:.2f}",
                f"{found['low']:.2f}-{found['high']:.2f}",
                f"<= {goal:.2f}" if goal else "",
                f"{old['median']:.2f}" if old else "",
            )
        if name == "without an agent":
            found = section["ratio"]
            yield (
                "ADD, without an agent",
                *(f"{section[kind][point]:.2f}" for kind in ("alone", "stock") for point in ("p50", "p99")),
                f"{found['median']:.2f}",
                f"{found['low']:.2f}-{found['high']:.2f}",
                "",
                "",
            )
        for place in ("from start", "from answer"):
            if place in section:
                found = section[place]
                goal_text = "<= 10 / 50" if place == "from answer" else ""
                yield (f"route at FRR, {place} of ADD", f"{found['p50']:.2f}", f"{found['p99']:.2f}", "", "", "", "",
                       goal_text, "")  # fmt: skip


def _notes(document: Document) -> Iterator[str]:
    if shares := document["sections"].get("steps"):
        agent = shares["agent ms"]
        parts = sorted(shares["mean ms"].items(), key=lambda item: -item[1])
        yield f"in the agent, mean ms: ADD {agent.get('ADD', 0):.2f}, DEL {agent.get('DEL', 0):.2f}; both by step:"
        yield "  " + ", ".join(f"{step} {spent:.2f}" for step, spent in parts)
        for command, found in shares["metrics on/off"].items():
            yield f"{command} with metrics on / off: {found['median']:.2f} ({found['low']:.2f}-{found['high']:.2f})"
    crowd = document["sections"].get("scale", {})
    for size, found in crowd.get("ADD ratios", {}).items():
        add, agent = crowd[size]["ADD"], crowd[size]["processes"].get("agent", {})
        yield (
            f"ADD at {size} attachments: p50 {add['p50']:.2f}, {found['median']:.2f} of that at none "
            f"({found['low']:.2f}-{found['high']:.2f}; goal <= 1.2 at 10000); agent {agent.get('rss MB', 0):.0f} MB"
        )
    yield from _big_node(document["sections"].get("big node", {}))
    yield from _speaker(document["sections"].get("speaker"))
    learned = document["sections"].get("imports", {})
    for size, found in learned.items():
        if "in s" in found and size != "per route":
            goal = " (goal <= 2)" if size == "5000" else ""
            yield f"{size} imported type 2 routes: {found['in s']:.2f} s in, {found['out s']:.2f} s out{goal}"
    for name, found in document["sections"].get("processes", {}).items():
        yield f"{name}: {found['rss MB']:.0f} MB resident, {found['cpu s']:.1f} s CPU in this run"


BIG_NODE = {"status": 200, "routes": 1000, "explain": 50, "reload": 1000}
"""Goals at 10,000 attachments: ms of the whole command, medians."""


def _big_node(sizes: Document) -> Iterator[str]:
    """An agent's start and its operator's commands, at each number of attachments."""
    for size, found in sizes.items():
        memory = ", ".join(f"{name} {one['rss MB']:.0f} MB" for name, one in found["processes"].items())
        goal = {"1000": " (agent's goal <= 100)", "10000": " (agent's goal <= 150)"}.get(size, "")
        yield (
            f"{size} attachments: serving after {found['serving s']:.2f} s (goal <= 2), all at FRR after "
            f"{found['announced s']:.2f} s (goal <= 5), serving again after {found['again serving s']:.2f} s; "
            f"{memory}{goal}"
        )
        parts = [
            f"{name} {value['p50']:.0f} / {value['p99']:.0f}"
            + (f" (goal <= {BIG_NODE[name]})" if name in BIG_NODE else "")
            for name, value in found.items()
            if isinstance(value, dict) and "p50" in value
        ]
        yield "  commands with --json, ms, p50 / p99: " + ", ".join(parts)


def _speaker(found: Document | None) -> Iterator[str]:
    """Routes to FRR's table, from the exporter's call."""
    if not found:
        return
    text = found["text"]["per second"]
    for family, one in found["families"].items():
        yield (
            f"{found['count']} {family}: {one['per second']:,.0f} routes/s to FRR's table (goal >= 20,000), "
            f"{one['per second'] / text:.1f} x ExaBGP's text pipe (goal >= 5); withdrawn at "
            f"{one['gone per second']:,.0f}/s; ExaBGP {one['rss MB']:.0f} MB (goal <= 80)"
        )
    yield f"ExaBGP's text pipe: {text:,.0f} routes/s"
    one = found["one"]
    yield f"one route to FRR's table: p50 {one['p50']:.2f} ms, p99 {one['p99']:.2f} ms (goal <= 5 / 20)"


def plot(document: Document) -> str:
    """ADD one at a time, and each ADD of a burst of 100, as cumulative curves, ours and stock (SVG)."""
    charts = [
        _curves(document["sections"].get(name, {}).get("series"), title, 320 * row)
        for row, (name, title) in enumerate(
            (("one at a time", "one ADD, ms, spawn to exit"), ("100 at once", "100 ADDs at once, ms to each answer"))
        )
    ]
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="640" height="640" font-family="sans-serif" font-size="12">'
        '<rect width="100%" height="100%" fill="white"/>' + "".join(charts) + "</svg>\n"
    )


def _curves(series: dict[str, list[float]] | None, title: str, top: int) -> str:
    width, height, left, bottom = 640, 320, 50, 40
    parts = [f'<g transform="translate(0 {top})">']
    if series:
        limit = sorted(series["stock"])[round(len(series["stock"]) * 0.99) - 1] * 1.2
        inner_width, inner_height = width - left - 20, height - bottom - 30
        for share in (0, 25, 50, 75, 100):
            y = 30 + inner_height * (1 - share / 100)
            parts.append(f'<line x1="{left}" x2="{width - 20}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
            parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{share}%</text>')
        for step in range(6):
            x = left + inner_width * step / 5
            parts.append(f'<text x="{x:.1f}" y="{height - 20}" text-anchor="middle">{limit * step / 5:.1f}</text>')
        parts.append(f'<text x="{width / 2}" y="{height - 4}" text-anchor="middle">{title}</text>')
        for row, (name, colour) in enumerate((("ours", "#0b7285"), ("stock", "#e8590c"))):
            values = sorted(series[name])
            points = " ".join(
                f"{left + inner_width * min(value, limit) / limit:.1f},"
                f"{30 + inner_height * (1 - (place + 1) / len(values)):.1f}"
                for place, value in enumerate(values)
            )
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
            label = "bgpcni, with BGP" if name == "ours" else "stock bridge + host-local"
            parts.append(
                f'<text x="{width - 28}" y="{220 + 16 * row}" text-anchor="end" fill="{colour}">{label}</text>'
            )
    return "".join([*parts, "</g>"])
