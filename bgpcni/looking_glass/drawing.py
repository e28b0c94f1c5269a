"""The map of the node: boxes in columns and lines between them, from networks to peers. Pure; a template draws it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from bgpcni.looking_glass.words import count, tone

Document = dict[str, Any]
WIDTH, HEIGHT, GAP, CHANNEL, MARGIN, HEAD = 184, 54, 16, 62, 8, 30
MOST = 60
"""Boxes in one column; the last one stands for those that have no room."""
_COLUMNS = ("Networks", "Bridges", "VNIs and VRFs", "Exporters", "Peers")


class Box(NamedTuple):
    """`key` names it for the lines; `title` is not shortened, `name` fits into the box."""

    key: tuple[str, str]
    column: int
    x: int
    y: int
    name: str
    title: str
    note: str
    tone: str
    href: str


class Line(NamedTuple):
    path: str
    tone: str


class Map(NamedTuple):
    width: int
    height: int
    heads: tuple[tuple[int, str], ...]
    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]


def draw(networks: Document, peers: Sequence[Document], exporters: dict[str, Document]) -> Map:
    """All of a node. Lines go from each network over its devices to the exporters that announce it, and their peers."""
    drawing = _Drawing()
    devices = {(each["kind"], each["name"]): each for each in networks["devices"]}
    for network in networks["networks"]:
        _network(drawing, network, devices)
    for name, state in exporters.items():
        drawing.box(3, ("exporter", name), name, state["state"], tone(state["state"]), "/peers")
    for peer in peers:
        key = ("peer", f"{peer['exporter']} {peer['address']}")
        note = f"AS {peer['asn']} · {peer['state']}"
        drawing.box(4, key, peer["address"], note, _of_peer(peer["state"]), f"/peers#{quote(peer['address'])}")
        drawing.line(("exporter", peer["exporter"]), key)
    return drawing.done()


def cluster(nodes: Sequence[Document]) -> Map:
    """The nodes of the cluster, in rows of five; one without a session is red."""
    boxes = []
    for place, node in enumerate(nodes[: 5 * MOST]):
        x, y = MARGIN + place % 5 * (WIDTH + GAP), MARGIN + place // 5 * (HEIGHT + GAP)
        sessions, blocks = node["sessions"], len(node["blocks"])
        note = "sessions unknown" if sessions is None else count(sessions, "session")
        note += f" · {count(blocks, 'block')}" if blocks else ""
        colour = "quiet" if sessions is None else "ok" if sessions else "bad"
        title = node["name"]
        href = f"#node-{quote(title)}"
        boxes.append(Box(("node", title), place % 5, x, y, _short(title, 21), title, note, colour, href))
    rows = (len(boxes) + 4) // 5
    width = 2 * MARGIN + min(max(len(boxes), 1), 5) * (WIDTH + GAP) - GAP
    return Map(width, 2 * MARGIN + rows * (HEIGHT + GAP), (), tuple(boxes), ())


def _of_peer(state: str) -> str:
    return "ok" if state == "Established" else "bad"


def _network(drawing: _Drawing, network: Document, devices: dict[tuple[str, str], Document]) -> None:
    name, containers = network["network"], sum(network["attachments"].values())
    lost = network["attachments"].get("gone", 0)
    note = f"{network['family']} · {count(containers, 'interface')}"
    here = ("network", name)
    drawing.box(0, here, name, note, "bad" if lost else "ok", f"/attachments?network={quote(name, safe='')}")
    ends = []
    for bridge in network["bridges"]:
        key = ("bridge", bridge)
        drawing.box(1, key, bridge, *_state(devices.get(key)), f"/attachments?search={quote(bridge, safe='')}")
        drawing.line(here, key)
        ends.append(key)
    middles = []
    if network["vni"] is not None:
        device = next((each for each in devices.values() if each["vni"] == network["vni"]), None)
        state = _state(device) if device else ("by the exporter", "quiet")
        middles.append((("vni", str(network["vni"])), f"VNI {network['vni']}", *state))
    if network["vrf"] is not None:
        label = f"VRF {network['vrf']}"
        device = devices.get(("vrf", network["vrf"]))
        state = _state(device) if device else ("control plane only", "quiet")
        middles.append((("vrf", network["vrf"]), label, *state))
    for key, label, note, colour in middles:
        drawing.box(2, key, label, note, colour, f"/attachments?search={quote(key[1], safe='')}")
        for end in ends or [here]:
            drawing.line(end, key)
    for exporter in network["exporters"]:
        drawing.box(3, ("exporter", exporter), exporter, "not at work", "bad", "/peers")
        for end in [key for key, *_ in middles] or ends or [here]:
            drawing.line(end, ("exporter", exporter))


def _state(device: Document | None) -> tuple[str, str]:
    if device is None:
        return "", "quiet"
    return device["state"] + (f" · MTU {device['mtu']}" if device["mtu"] else ""), tone(device["state"])


class _Drawing:
    """Boxes get their places in the order in which they come; a box that comes again is what it was told last."""

    def __init__(self) -> None:
        self._boxes: dict[tuple[str, str], Box] = {}
        self._lines: dict[tuple[tuple[str, str], tuple[str, str]], None] = {}
        self._rows = [0] * len(_COLUMNS)
        self._left: dict[int, int] = {}
        self._gaps: dict[tuple[int, tuple[str, str]], int] = {}

    def box(self, column: int, key: tuple[str, str], name: str, note: str, colour: str, href: str) -> None:
        known = self._boxes.get(key)
        if known is None and self._rows[column] >= MOST:
            self._left[column] = self._left.get(column, 0) + 1
            return
        row = self._rows[column] if known is None else (known.y - HEAD) // (HEIGHT + GAP)
        self._rows[column] += known is None
        x, y = MARGIN + column * (WIDTH + CHANNEL), HEAD + row * (HEIGHT + GAP)
        self._boxes[key] = Box(key, column, x, y, _short(name, 21), name, _short(note, 28), colour, href)

    def line(self, start: tuple[str, str], end: tuple[str, str]) -> None:
        """Where it crosses a column, a row of that column is left free for it."""
        self._lines[start, end] = None
        if start not in self._boxes or end not in self._boxes:
            return
        for column in range(self._boxes[start].column + 1, self._boxes[end].column):
            if (column, start) not in self._gaps and self._rows[column] < MOST:
                self._gaps[column, start] = self._rows[column]
                self._rows[column] += 1

    def done(self) -> Map:
        rows = max(max(self._rows), 1) + bool(self._left)
        # a column that is empty takes no room; exporters and peers stand in the middle, unless that is far down
        used = sorted({box.column for box in self._boxes.values()})
        places = {column: MARGIN + place * (WIDTH + CHANNEL) for place, column in enumerate(used)}
        down = [0, 0, 0, *(min(rows - filled, 6) * (HEIGHT + GAP) // 2 for filled in self._rows[3:])]
        if self._left:
            down = [0] * len(_COLUMNS)
        moved = {
            key: box._replace(x=places[box.column], y=box.y + down[box.column]) for key, box in self._boxes.items()
        }
        for column, left in self._left.items():
            key, name, y = ("more", str(column)), f"{left:,} more", HEAD + MOST * (HEIGHT + GAP)
            moved[key] = Box(key, column, places[column], y, name, name, "", "quiet", "/attachments")
        lines = []
        for start, end in self._lines:
            if start not in moved or end not in moved:
                continue
            over = [
                (places[column], HEAD + self._gaps[column, start] * (HEIGHT + GAP) + HEIGHT // 2)
                for column in range(moved[start].column + 1, moved[end].column)
                if column in places and (column, start) in self._gaps
            ]
            colour = "bad" if "bad" in (moved[start].tone, moved[end].tone) else "ok"
            lines.append(Line(_path(moved[start], moved[end], over), colour))
        return Map(
            2 * MARGIN + max(len(used), 1) * (WIDTH + CHANNEL) - CHANNEL,
            HEAD + rows * (HEIGHT + GAP),
            tuple((places[column], _COLUMNS[column]) for column in used),
            tuple(moved.values()),
            tuple(lines),
        )


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _path(start: Box, end: Box, over: Sequence[tuple[int, int]]) -> str:
    """Curves from the right side of one box to the left side of another, through the free places in between."""
    x, y = start.x + WIDTH, start.y + HEIGHT // 2
    path = f"M{x} {y}"
    for place, (x2, y2) in enumerate([*over, (end.x, end.y + HEIGHT // 2)]):
        bend = (x + x2) // 2
        path += f" C{bend} {y} {bend} {y2} {x2} {y2}"
        x, y = x2, y2
        if place < len(over):
            x += WIDTH
            path += f" H{x}"
    return path
