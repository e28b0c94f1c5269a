"""What the pages of the looking glass say: words, times, the way of an attachment, the map, the strip of a session."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpcni.commands.remedies import REMEDIES, remedy
from bgpcni.looking_glass import drawing, history, way, words
from bgpcni.looking_glass.app import _templates

NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("since", "said"),
    [
        ("2026-01-31T12:00:00Z", "just now"), ("2026-01-31T11:59:48.900Z", "11 s ago"),
        ("2026-01-31T11:58:00+00:00", "2 min ago"), ("2026-01-31T09:00:00Z", "3 h ago"),
        ("2026-01-29T12:00:00Z", "2 d ago"), ("2026-01-31T12:00:03Z", "just now"),
        ("2027-01-31T12:00:00Z", "in the future"), ("", ""), (None, ""), ("<b>", "<b>"),
    ],
)  # fmt: skip
def test_times_are_said_as_people_say_them(since: object, said: str) -> None:
    assert words.ago(since, NOW) == said


@given(st.text())
def test_what_is_not_seen_is_written_out(text: str) -> None:
    """Nothing in a name hides, breaks out of its line, or turns round what stands beside it."""
    shown = str(words.visible(text))
    hidden = r"[\0-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]"
    assert not re.search(hidden, shown)
    if text.isascii() and text.isprintable():
        assert shown == text


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))


def tags(name: str) -> list[tuple[str, tuple[str, ...]]]:
    """The tags and attributes of a page on which everything is called so."""
    row = {"network": name, "containerID": name or "c", "ifname": name, "state": name, "mac": name, "hostVeth": name,
           "ips": [name], "since": name, "pod": {"namespace": name, "name": name, "uid": ""}}  # fmt: skip
    step = {
        "step": f"the step {name}",
        "state": name,
        "since": "x",
        "detail": name,
        "problem": "x",
        "remedy": name or "x",
    }
    parser = Tags()
    environment = _templates()
    common = {"title": name, "node": name, "version": "1", "pages": (), "path": "/"}
    ways = [(row, way.line([step, {**step, "step": "link"}]), way.stations([step]))]
    parser.feed(environment.get_template("attachment.html").render(**common, ways=ways, container=name))
    return parser.tags


@given(st.text())
def test_no_name_makes_a_tag_or_an_attribute(name: str) -> None:
    """A page has the same tags and attributes whatever its containers are called."""
    assert tags(name) == tags("a")


def step(name: str, state: str = "up", problem: str = "") -> dict[str, Any]:
    found = {"step": name, "state": state, "since": "", "detail": ""}
    return found | ({"problem": problem, "remedy": "mend it"} if problem else {})


def test_the_line_is_broken_where_the_first_step_is() -> None:
    """What lies beyond is not red, unless it is broken itself; what an attachment does not have is no stop."""
    steps = [
        step("request", "received"), step("link"), step("reachability", "no", "firewall"), step("exporter", "ok"),
        step("session", "Established"), step("session", "Active", "peer-down"), step("route", "wanted"),
    ]  # fmt: skip
    assert [(stop.title, stop.state, stop.tone, stop.beyond) for stop in way.line(steps)] == [
        ("Runtime", "received", "ok", False),
        ("Link", "up", "ok", False),
        ("Bridge", "unreachable", "bad", False),
        ("Exporter", "ok", "ok", True),
        ("Session", "Active", "bad", False),
        ("Peers", "wanted", "wait", True),
    ]


def test_only_what_is_a_problem_is_red() -> None:
    assert [each.tone for each in way.stations([step("link", "gone"), step("link", "gone", "link-gone")])] == [
        "wait", "bad",
    ]  # fmt: skip


@pytest.mark.parametrize("code", REMEDIES)
def test_every_remedy_is_a_sentence(code: str) -> None:
    assert remedy(code).endswith(".")
    assert remedy(code)[0].isupper()


def network(name: str, bridge: str, vni: int | None = None) -> dict[str, Any]:
    return {
        "network": name, "family": "evpn" if vni else "unicast", "bridges": [bridge], "vni": vni, "vrf": None,
        "exporters": ["exabgp"], "attachments": {"up": 2}, "subnets": [],
    }  # fmt: skip


def test_the_map_has_each_thing_once_and_lines_between() -> None:
    networks = {
        "networks": [network("a", "cni0"), network("b", "cni0"), network("c", "br-c", 5001)],
        "devices": [
            {"kind": "bridge", "name": "cni0", "state": "up", "master": None, "mtu": 1500, "vni": None},
            {"kind": "bridge", "name": "br-c", "state": "down", "master": None, "mtu": 1450, "vni": None},
            {"kind": "vxlan", "name": "vxlan5001", "state": "up", "master": "br-c", "mtu": 1450, "vni": 5001},
        ],
    }
    peers = [{"exporter": "exabgp", "address": "192.0.2.1", "asn": 64512, "state": "Active"}]
    drawn = drawing.draw(networks, peers, {"exabgp": {"state": "ok"}})
    assert {box.name: box.tone for box in drawn.boxes} == {
        "a": "ok", "b": "ok", "c": "ok", "cni0": "ok", "br-c": "bad", "VNI 5001": "ok", "exabgp": "ok",
        "192.0.2.1": "bad",
    }  # fmt: skip
    assert len(drawn.lines) == 7
    assert [line.tone for line in drawn.lines].count("bad") == 3
    places = [(box.x, box.y) for box in drawn.boxes]
    assert len(set(places)) == len(places)


@given(st.integers(0, 200), st.integers(0, 200))
def test_a_large_map_ends_and_says_so(networks: int, peers: int) -> None:
    document = {"networks": [network(f"n{i}", f"b{i}") for i in range(networks)], "devices": []}
    sessions = [{"exporter": "e", "address": f"a{i}", "asn": 1, "state": "Idle"} for i in range(peers)]
    drawn = drawing.draw(document, sessions, {"e": {"state": "ok"}})
    assert all(box.x >= 0 and box.x + drawing.WIDTH <= drawn.width for box in drawn.boxes)
    assert all(box.y >= 0 and box.y + drawing.HEIGHT <= drawn.height for box in drawn.boxes)
    assert ("more", "0") in {box.key for box in drawn.boxes} or networks <= drawing.MOST


def change(kind: str, before: timedelta) -> dict[str, Any]:
    return {"kind": f"session-{kind}", "time": (NOW - before).isoformat()}


def test_the_strip_of_a_session_is_to_scale() -> None:
    changes = [change("up", timedelta(hours=4)), change("down", timedelta(hours=3)), change("up", timedelta(hours=2))]
    spans = history.strip(changes, "Established", NOW)
    assert [(span.x, span.width, span.tone) for span in spans] == [(0, 180, "ok"), (180, 180, "bad"), (360, 360, "ok")]
    assert history.strip([], "Active", NOW) == [history.Span(0, history.WIDTH, "bad")]


def test_the_overview_says_it_in_words() -> None:
    networks = {"networks": [network("a", "b")], "routes": {"exabgp": {"announced": 3, "wanted": 1}}}
    peers = [{"state": "Established"}, {"state": "Idle"}]
    said = words.overview({"problems": [{"code": "peer-down", "text": "x"}]}, peers, networks)
    assert said == (
        "bad",
        "1 thing is wrong",
        "2 container interfaces are attached, 3 of 4 routes are announced, and 1 of 2 sessions are established.",
    )
    calm = words.overview({"problems": []}, [], {"networks": [], "routes": {}})
    assert calm.headline == "All is well"
    assert "no BGP peer" in calm.sentence


def colours(text: str) -> dict[str, tuple[float, float, float]]:
    found = re.findall(r"--([a-z-]+): #([0-9a-f]{6})", text)
    return {name: tuple(int(value[at : at + 2], 16) / 255 for at in (0, 2, 4)) for name, value in found}  # type: ignore[misc]


def contrast(one: tuple[float, ...], two: tuple[float, ...]) -> float:
    """By WCAG 2.2."""

    def luminance(colour: tuple[float, ...]) -> float:
        red, green, blue = (each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in colour)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    high, low = sorted((luminance(one), luminance(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_every_text_has_enough_contrast(scheme: int) -> None:
    """At least 4.5 to 1, WCAG AA: in light and in dark."""
    style = (files("bgpcni.looking_glass") / "static/style.css").read_text()
    named = colours(re.findall(r":root \{(.*?)\}", style, re.DOTALL)[scheme])
    pairs = [(text, paper) for text in ("ink", "soft", "accent") for paper in ("paper", "sheet", "hover")]
    pairs += [(each, f"{each}-soft") for each in ("ok", "wait", "bad")]
    pairs += [("ink", "ok-soft"), ("ink", "bad-soft"), ("soft", "bad-soft"), ("soft", "quiet-soft")]
    found = {pair: contrast(named[pair[0]], named[pair[1]]) for pair in pairs}
    assert {pair: ratio for pair, ratio in found.items() if ratio < 4.5} == {}


def test_a_line_of_the_map_crosses_no_box() -> None:
    """A network without VNI or VRF has its line through a free place between those of the others."""
    document = {
        "networks": [network("a", "br-a", 5001), network("b", "br-b"), network("c", "br-c", 5003)],
        "devices": [],
    }
    drawn = drawing.draw(document, [], {"exabgp": {"state": "ok"}})
    (bridge,) = [box for box in drawn.boxes if box.name == "br-b"]
    (line,) = [line for line in drawn.lines if line.path.startswith(f"M{bridge.x + drawing.WIDTH} {bridge.y + 27} ")]
    assert " H" in line.path
    level = int(line.path.partition(" H")[0].rsplit(" ", 1)[1])
    in_the_way = [box for box in drawn.boxes if box.column == 2 and box.y <= level <= box.y + drawing.HEIGHT]
    assert in_the_way == []


def test_thousands_of_ranges_of_one_address_are_one_line() -> None:
    subnets = [{"subnet": f"10.0.{i >> 8}.{i & 255}/32", "used": 1, "size": 1} for i in range(3000)]
    some = {"network": "a", "subnets": [{"subnet": "10.1.0.0/24", "used": 3, "size": 253}, *subnets]}
    one = {"network": "b", "subnets": subnets[:1]}
    assert words.ranges({"networks": [some, one]}) == [
        ("a", "10.1.0.0/24", 3, 253), ("a", "3,000 single addresses", 3000, 3000), ("b", "10.0.0.0/32", 1, 1),
    ]  # fmt: skip
