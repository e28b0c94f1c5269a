"""Interleavings of threads that a test forces, in place of hoping that they happen.

`Halt` stops the first thread that comes to a function until the test lets it go on, `Calls` says who has come, and
`Running` is a thread of the race.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import pytest

from bgpcni.testing.patience import SECONDS, until

R = TypeVar("R")


class Calls:
    """Counts the calls of `owner.name` that have begun."""

    def __init__(self, patch: pytest.MonkeyPatch, owner: object, name: str) -> None:
        self.count = 0
        self._real: Callable[..., Any] = getattr(owner, name)
        patch.setattr(owner, name, lambda *args, **more: self._called(*args, **more))

    def _called(self, *args: Any, **more: Any) -> Any:
        self.count += 1
        return self._real(*args, **more)

    def wait(self, count: int) -> None:
        """Until so many have begun."""
        until(lambda: self.count >= count)


class Halt(Calls):
    """Stops the first thread that calls `owner.name`, before it is done or `after` it is, until `go_on`."""

    def __init__(self, patch: pytest.MonkeyPatch, owner: object, name: str, *, after: bool = False) -> None:
        self._after = after
        self._reached, self._go = threading.Event(), threading.Event()
        super().__init__(patch, owner, name)

    def _called(self, *args: Any, **more: Any) -> Any:
        self.count += 1
        if self.count > 1:
            return self._real(*args, **more)
        if self._after:
            found = self._real(*args, **more)
            self._stand()
            return found
        self._stand()
        return self._real(*args, **more)

    def _stand(self) -> None:
        self._reached.set()
        assert self._go.wait(SECONDS)

    def reached(self) -> None:
        """Wait until a thread stands there."""
        assert self._reached.wait(SECONDS)

    def go_on(self) -> None:
        self._go.set()


class Running(Generic[R]):
    """A thread that does this from now on."""

    def __init__(self, action: Callable[[], R]) -> None:
        self._action = action
        self._found: list[R] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._found.append(self._action())
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            self._error = error

    @property
    def runs(self) -> bool:
        return self._thread.is_alive()

    def result(self) -> R:
        """Its value once it has ended, or its error raised."""
        self._thread.join(SECONDS)
        assert not self.runs, "it never ended"
        if self._error is not None:
            raise self._error
        return self._found[0]
