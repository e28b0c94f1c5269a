"""The way of one attachment as stations, from the runtime to the peers, and as a line of them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from bgpcni.looking_glass.words import tone

Document = dict[str, Any]

_STATIONS = {
    "request": "Runtime", "addresses": "Addresses", "link": "Link", "record": "Record", "data path": "VXLAN",
    "VRF": "VRF", "reachability": "Bridge and forwarding", "exporter": "Exporter", "session": "BGP session",
    "route": "Route", "last ADD": "Last ADD",
}  # fmt: skip
_SAID = {("reachability", "yes"): "reachable", ("reachability", "no"): "unreachable"}
"""States that a reader understands only beside their question."""
_LINE = (
    ("Runtime", ("request", "last ADD")),
    ("Link", ("link",)),
    ("Bridge", ("reachability",)),
    ("VRF", ("VRF",)),
    ("VNI", ("data path",)),
    ("Exporter", ("exporter",)),
    ("Session", ("session",)),
    ("Peers", ("route",)),
)
"""The stations of the line, and which steps each stands for."""


class Station(NamedTuple):
    """One step of `explain`, as the page shows it."""

    title: str
    state: str
    tone: str
    since: str
    detail: str
    problem: str
    remedy: str


class Stop(NamedTuple):
    """One stop of the line. `beyond`: it lies behind the first one that is broken."""

    title: str
    state: str
    tone: str
    beyond: bool


def stations(steps: Sequence[Document]) -> list[Station]:
    return [
        Station(
            _STATIONS.get(str(step["step"]), str(step["step"])),
            _said(step),
            "bad" if step.get("problem") else _calm(step["state"]),
            step["since"] or "",
            step["detail"],
            step.get("problem", ""),
            step.get("remedy", ""),
        )
        for step in steps
    ]


def _said(step: Document) -> str:
    return _SAID.get((step["step"], step["state"]), str(step["state"]))


def _calm(state: str) -> str:
    """What is no problem is never red."""
    found = tone(state)
    return "wait" if found == "bad" else found


def line(steps: Sequence[Document]) -> list[Stop]:
    """The stops that this attachment has; each as bad as the worst of its steps."""
    stops: list[Stop] = []
    broken = False
    for title, names in _LINE:
        mine = [step for step in steps if step["step"] in names]
        if not mine:
            continue
        worst = next((step for step in mine if step.get("problem")), mine[0])
        bad = bool(worst.get("problem"))
        stops.append(Stop(title, _said(worst), "bad" if bad else _calm(worst["state"]), broken and not bad))
        broken = broken or bad
    return stops
