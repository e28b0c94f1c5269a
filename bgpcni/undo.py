"""The one undo mechanism: a step registers how to take it back as it succeeds."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType

from bgpcni.errors import CniError

log = logging.getLogger(__name__)


class Undo:
    """A stack of steps to take back, in reverse, when the block is left by an exception and `keep` was not called.

    A step that cannot be taken back is remembered in `failed`; the others still run, and the first error, the one
    that made us undo, is the one the caller sees. What could not be taken back is logged behind it, and is in its
    details.
    """

    def __init__(self) -> None:
        self._steps: list[tuple[str, Callable[[], object]]] = []
        self._kept: list[Callable[[], object]] = []
        self.failed: list[str] = []

    def push(self, what: str, step: Callable[[], object], kept: Callable[[], object] | None = None) -> None:
        """`what` completes the sentence "could not undo …"; `kept` is called instead of the step when all is well."""
        self._steps.append((what, step))
        if kept is not None:
            self._kept.append(kept)

    def keep(self) -> None:
        """All is well: nothing is taken back any more."""
        self._steps.clear()
        for told in self._kept:
            told()

    def __enter__(self) -> Undo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            return
        left: list[str] = []
        while self._steps:
            what, step = self._steps.pop()
            try:
                step()
            except Exception as second:  # noqa: BLE001 - whatever it is, the remaining steps must run
                left.append(f"could not undo {what}: {second}")
                self.failed.append(what)
        if left:
            log.error("%s; then %s", str(error) or repr(error), "; ".join(left))
            if isinstance(error, CniError):
                error.details = "; ".join(filter(None, [error.details, *left]))
