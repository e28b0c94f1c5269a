"""What reaches the terminal: tables that fit it or say what is left out, ages, colours, no control characters."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpcni.commands.render import tables
from bgpcni.commands.render.tables import SCREEN, Screen, ago, fitted, since
from bgpcni.operator import screen

HEAD = ("ROUTE", "NEXT HOP", "NETWORK", "CONTAINER", "EXPORTER", "STATE", "SINCE", "REASON")
ROW = ["10.1.2.3/32", "192.0.2.1", "tenant-a", "0123456789abcdef" * 4, "exabgp", "wanted", "12 s ago",
       "no session: 192.0.2.254 is Idle (cannot connect: Connection refused)"]  # fmt: skip
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
def now() -> Iterator[None]:
    token = SCREEN.set(Screen(80, NOW))
    yield
    SCREEN.reset(token)


def widest(text: str) -> int:
    return max(map(len, text.splitlines()))


def test_a_table_that_fits_is_whole() -> None:
    text = fitted(("A", "B"), [["x", "y"]], 80)
    assert text == "A  B\nx  y\n"


def test_sentences_are_wrapped_and_ids_shortened_before_a_column_is_left_out() -> None:
    text = fitted(HEAD, [ROW], 110)
    assert widest(text) <= 110
    assert "0123456789ab " in text
    assert "(left out: the rest of long container IDs. --wide shows all)" in text
    assert all(word in text for word in ROW[-1].split())


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_table_in_few_columns_says_which_it_left_out(width: int) -> None:
    text = fitted(HEAD, [ROW], width)
    *body, note = text.splitlines()
    assert max(map(len, body)) <= width
    assert note.startswith("(left out: columns ")
    assert ".3/32" in text
    assert "wanted" in text


def test_a_column_without_a_value_goes_first_and_is_not_worth_a_word() -> None:
    text = fitted(HEAD, [[*ROW[:3], "c1", *ROW[4:7], "-"]], 72)
    assert "REASON" not in text
    assert "left out" not in text


def test_a_long_name_is_cut_where_nothing_else_helps() -> None:
    text = fitted(("NETWORK", "STATE"), [["n" * 200, "up"]], 40)
    assert widest(text.splitlines()[1]) <= 40
    assert "…" in text
    assert "the middle of long cells" in text


@given(
    st.lists(st.lists(st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=60), min_size=4,
                      max_size=4), max_size=5),
    st.integers(40, 120),
)  # fmt: skip
def test_every_table_fits(rows: list[list[str]], width: int) -> None:
    text = fitted(("ROUTE", "MAC", "STATE", "REASON"), rows, width)
    table = [line for line in text.splitlines() if not line.startswith("(left out: ")]
    assert max(map(len, table)) <= width


def test_no_rows_are_the_heads_alone_at_any_width() -> None:
    assert fitted(("A", "B"), [], 2) in ("A  B\n", "A\n(left out: columns B. --wide shows all)\n")


@pytest.mark.usefixtures("now")
@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-5, "0 s"), (0, "0 s"), (12, "12 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (200_000, "2 d")],
)
def test_times_are_ages(seconds: int, words: str) -> None:
    time = (NOW - timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
    assert (ago(time), since(time)) == (f"{words} ago", f"for {words}")


@pytest.mark.usefixtures("now")
@pytest.mark.parametrize("time", ["", "T", "2026-01-31", "yesterday"])
def test_what_is_no_time_stays(time: str) -> None:
    assert ago(time) == time


def test_without_a_screen_times_are_those_of_the_document() -> None:
    assert ago("2026-01-31T12:00:00Z") == "2026-01-31T12:00:00Z"


def test_words_of_states_have_colours_and_names_have_none() -> None:
    text = "NETWORK  STATE      SINCE\nup-lift  announced  12 s ago\nrefused2  refused  -\n"
    shown = screen.coloured(text)
    assert "\x1b[32mannounced\x1b[0m" in shown
    assert "\x1b[31mrefused\x1b[0m" in shown
    assert "up-lift" in shown
    assert "refused2" in shown


@pytest.mark.parametrize(
    ("set_to", "terminal", "colours"),
    [({}, True, True), ({"NO_COLOR": "1"}, True, False), ({"NO_COLOR": ""}, True, True),
     ({"TERM": "dumb"}, True, False), ({}, False, False)],
)  # fmt: skip
def test_colours_are_for_terminals(
    monkeypatch: pytest.MonkeyPatch, set_to: dict[str, str], terminal: bool, colours: bool
) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in set_to.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(screen.sys.stdout, "isatty", lambda: terminal, raising=False)
    assert screen.has_colours() is colours


@pytest.mark.parametrize("evil", ["\x1b[2J", "\x07", "\r", "\x9b", "\u202e", "\u2066"])
def test_a_name_cannot_move_the_cursor_or_turn_the_text(evil: str) -> None:
    shown = screen.clean(f"a{evil}b\n")
    assert evil[0] not in shown
    assert shown.endswith("b\n")


def test_a_width_is_that_of_the_variable_or_80(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(screen.shutil, "get_terminal_size", lambda fallback: __import__("os").terminal_size(fallback))
    with screen.used(wide=False):
        assert tables.SCREEN.get().width == 80
    with screen.used(wide=True):
        assert tables.SCREEN.get().width == 0
    assert tables.SCREEN.get() == Screen()
