"""What the pages say of a document: sentences, tones, times. Pure."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

Document = dict[str, Any]

_TONES = {
    "ok": ("up", "announced", "established", "ok", "yes", "received", "leased", "best", "equal", "connected"),
    "wait": ("wanted", "withdrawing", "leaving", "adding", "starting", "held", "other"),
    "bad": (
        "gone", "refused", "missing", "no", "late", "down", "failed", "unreadable", "disputed", "idle", "active",
        "connect", "opensent", "openconfirm",
    ),
}  # fmt: skip
_TONE = {word: tone for tone, words in _TONES.items() for word in words}
MARKS = {"ok": "✓", "wait": "…", "bad": "✗", "quiet": "·"}
"""Said besides the colour, for those who do not see it."""


def tone(state: object) -> str:
    """`ok`, `wait`, `bad` or `quiet`."""
    return _TONE.get(str(state).lower(), "quiet")


def visible(value: object) -> object:
    """Text without characters that are not seen, or turn round what stands beside them: these are written as \\u202e.

    Names come from whoever starts containers.
    """
    if not isinstance(value, str) or (value.isascii() and value.isprintable()):
        return value
    return type(value)("".join(_shown(character) for character in value))


def _shown(character: str) -> str:
    if character in "\n\t" or not unicodedata.category(character).startswith(("C", "Zl", "Zp")):
        return character
    return f"\\u{ord(character):04x}" if ord(character) < 0x10000 else f"\\U{ord(character):08x}"


def count(number: int, what: str, several: str = "") -> str:
    """`1 route`, `12,000 routes`."""
    return f"{number:,} {what if number == 1 else several or what + 's'}"


def ago(since: object, now: datetime | None = None) -> str:
    """`12 s ago` of a time in RFC 3339; what is none as it is."""
    moment = when(since)
    if moment is None:
        return str(since or "")
    seconds = int(((now or datetime.now(UTC)) - moment).total_seconds())
    if seconds < 0:
        return "just now" if seconds > -5 else "in the future"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago" if seconds else "just now"


def when(text: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def title(row: Mapping[str, Any]) -> str:
    """What a container is called: its pod, or its ID."""
    pod = row.get("pod")
    return f"{pod['namespace']}/{pod['name']}" if pod else str(row.get("containerID") or "?")


class Overview(NamedTuple):
    """`tone`: `ok` or `bad`. `headline` says it in three words, `sentence` in numbers."""

    tone: str
    headline: str
    sentence: str


def overview(status: Document, peers: Sequence[Document], networks: Document) -> Overview:
    problems = len(status["problems"])
    headline = "All is well" if not problems else f"{count(problems, 'thing')} {'is' if problems == 1 else 'are'} wrong"
    attached = sum(sum(each["attachments"].values()) for each in networks["networks"])
    states: Counter[str] = Counter()
    for counts in networks["routes"].values():
        states.update(counts)
    up = sum(peer["state"] == "Established" for peer in peers)
    routes = states.total()
    parts = [
        f"{count(attached, 'container interface')} {'is' if attached == 1 else 'are'} attached",
        f"{states['announced']:,} of {count(routes, 'route')} {'is' if routes == 1 else 'are'} announced"
        if routes else "no route is to be announced",
        f"{up} of {count(len(peers), 'session')} {'is' if len(peers) == 1 else 'are'} established"
        if peers else "this node has no BGP peer",
    ]  # fmt: skip
    return Overview("bad" if problems else "ok", headline, f"{parts[0].capitalize()}, {parts[1]}, and {parts[2]}.")


class Range(NamedTuple):
    """Addresses of a network, and how many of them are used."""

    network: str
    subnet: str
    used: int
    size: int


def ranges(networks: Document) -> list[Range]:
    """The ranges of each network. Those of one address each, which a network may have by thousands, are one line."""
    found = []
    for network in networks["networks"]:
        mine = [Range(network["network"], each["subnet"], each["used"], each["size"]) for each in network["subnets"]]
        found += [each for each in mine if each.size > 1]
        if single := [each for each in mine if each.size <= 1]:
            found.append(single[0] if len(single) == 1 else _together(single))
    return found


def _together(single: Sequence[Range]) -> Range:
    return Range(single[0].network, count(len(single), "single address", "single addresses"), len(single), len(single))


def not_imported(route: Document) -> str:
    """Why a received route is not used; "" if it is."""
    imported = route["imported"]
    if any(item["state"] in ("best", "equal") for item in imported):
        return "" if route["datapath"] else "it is the best route, but this node cannot forward by it"
    if not imported:
        return "no network of this node imports it: no route target or prefix of its own fits"
    return "; ".join(
        f"{item['table']}: {item['reason'] or 'another route to the same destination is better'}" for item in imported
    )
