"""A failed ADD is undone step by step, and the first error is the one reported."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from bgpcni.errors import InvalidConfiguration
from bgpcni.undo import Undo


def fail(error: BaseException, *prepare: Callable[[Undo], object]) -> None:
    """An undo block that ends with `error` after `prepare` was called with it."""
    with Undo() as undo:
        for call in prepare:
            call(undo)
        raise error


def test_steps_are_taken_back_in_reverse() -> None:
    """Last made, first undone."""
    done: list[str] = []
    with pytest.raises(KeyError):
        fail(
            KeyError(),
            lambda undo: undo.push("one", lambda: done.append("one")),
            lambda undo: undo.push("two", lambda: done.append("two")),
        )
    assert done == ["two", "one"]


def test_nothing_is_taken_back_of_what_is_kept() -> None:
    """Neither after `keep` nor when the block ends well."""
    done: list[str] = []
    with pytest.raises(KeyError):
        fail(
            KeyError(),
            lambda undo: undo.push("one", lambda: done.append("one")),
            lambda undo: undo.keep(),
            lambda undo: undo.push("two", lambda: done.append("two")),
        )
    with Undo() as undo:
        undo.push("three", lambda: done.append("three"))
    assert done == ["two"]


def test_a_step_that_fails_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged and remembered; the caller sees what went wrong first."""
    done: list[str] = []

    def broken() -> None:
        raise OSError("disk")

    with caplog.at_level(logging.ERROR), pytest.raises(KeyError, match="first"):
        fail(
            KeyError("first"),
            lambda undo: undo.push("the record", lambda: done.append(",".join(undo.failed))),
            lambda undo: undo.push("the link", broken),
        )
    assert done == ["the link"]  # the record's step knows what could not be taken back
    assert [record.getMessage() for record in caplog.records] == ["'first'; then could not undo the link: disk"]


def test_what_could_not_be_taken_back_is_told_behind_the_cause(caplog: pytest.LogCaptureFixture) -> None:
    """One line in the log, which begins with the cause, and the details of the error that the runtime gets."""

    def broken() -> None:
        raise OSError("disk")

    cause = InvalidConfiguration("bridge: no", "a story")
    with caplog.at_level(logging.ERROR), pytest.raises(InvalidConfiguration) as found:
        fail(cause, lambda undo: undo.push("the record", broken), lambda undo: undo.push("the link", broken))
    story = "could not undo the link: disk; could not undo the record: disk"
    assert (found.value.msg, found.value.details) == ("bridge: no", f"a story; {story}")
    assert [record.getMessage() for record in caplog.records] == [f"bridge: no; then {story}"]


def test_an_interruption_undoes_too() -> None:
    """Ctrl-C in the middle of an ADD leaves nothing."""
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        fail(KeyboardInterrupt(), lambda undo: undo.push("one", lambda: done.append("one")))
    assert done == ["one"]
