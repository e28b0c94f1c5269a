"""The only undo mechanism: a step that succeeds registers how to undo it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType

from bgpcni.errors import CniError

log = logging.getLogger(__name__)


class Undo:
    """A stack of steps that are undone in reverse order if the block ends with an exception and `keep` was not called.

    If a step cannot be undone, it is remembered in `failed`, and the others are still undone. The caller gets the first
    error, the one that made us undo. What could not be undone is logged with that error and is part of its details.
    """

    def __init__(self) -> None:
        self._steps: list[tuple[str, Callable[[], object]]] = []
        self._kept: list[Callable[[], object]] = []
        self.failed: list[str] = []

    def push(self, what: str, step: Callable[[], object], kept: Callable[[], object] | None = None) -> None:
        """Register a step. `what` completes the sentence "could not undo …". `kept` is called instead, after `keep`."""
        self._steps.append((what, step))
        if kept is not None:
            self._kept.append(kept)

    def keep(self) -> None:
        """All went well: undo nothing."""
        self._steps.clear()
        for kept in self._kept:
            kept()

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
