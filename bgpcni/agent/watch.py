"""What the living agent looks after by itself: each look mends what it can, and says what it could not."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from bgpcni.errors import CniError

log = logging.getLogger(__name__)
SECONDS = 1.0

Look = Callable[[], str]
"""What is amiss, "" if nothing is, or nothing is any more."""


class Watch:
    """Looks once a second: a few system calls, and no event tells of all of it."""

    def __init__(self, looks: Mapping[str, Look], amiss: dict[str, str]) -> None:
        """Both by the code of the problem in `status`; `amiss` is kept up to date."""
        self._looks = looks
        self._amiss = amiss
        self._stopped = threading.Event()

    def run(self) -> None:
        """Until `stop`."""
        while not self._stopped.wait(SECONDS):
            self.look()

    def stop(self) -> None:
        self._stopped.set()

    def look(self) -> None:
        """One round; none of the looks hinders another. What changed is logged."""
        for code, look in self._looks.items():
            try:
                words = look()
            except CniError as error:
                words = error.msg
            except OSError as error:
                words = error.strerror or str(error)
            except Exception as error:
                if code not in self._amiss:
                    log.exception("%s", code)
                words = repr(error)
            before = self._amiss.get(code, "")
            if words and words != before:
                log.error("%s", words)
            elif before and not words:
                log.info("mended: %s", before)
            self._amiss.pop(code, None)
            if words:
                self._amiss[code] = words
