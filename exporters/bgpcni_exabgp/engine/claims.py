"""Only one ExaBGP of ours runs: the locks that it takes before ExaBGP is imported. Standard library only."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

from bgpcni_exabgp.claim import Claim

LOOK = 1.0
"""Seconds between two looks whether our files are still there."""


class Claims:
    """The locks by which this ExaBGP is the only one: on a file beside its configuration, and on `lasting`, a file in a
    folder that nobody wipes.

    `plain`: why ExaBGP runs without our command, "" if it has it. `by`: who started it, the agent or `bgpcni speaker`.
    """

    def __init__(self, configuration: Path, lasting: Path | None, plain: str, by: str = "agent") -> None:
        self._own = Claim(configuration.with_suffix(".pid"), plain=plain, by=by)
        self._lasting = Claim(lasting, plain=plain, by=by) if lasting is not None else None
        self._log = configuration.with_suffix(".log")
        self._looked = -LOOK

    def take(self) -> bool:
        """False: another one runs. Raises OSError; but if `lasting` cannot be written, the other lock is enough."""
        if self._lasting is not None:
            try:
                if not self._lasting.take():
                    return False
            except OSError as error:
                sys.stderr.write(f"bgpcni: {self._lasting.path}: {error.strerror}: only {self._own.path} is locked\n")
        return self._own.take()

    def release(self) -> None:
        """Give both locks up. Idempotent."""
        self._own.release()
        if self._lasting is not None:
            self._lasting.release()

    def keep(self) -> None:
        """Once a second: make the file beside the configuration, and the log, again if somebody removed them."""
        now = time.monotonic()
        if now - self._looked < LOOK:
            return
        self._looked = now
        with contextlib.suppress(OSError):  # the folder may be gone, until the agent makes it again
            self._own.keep()
            if not os.fstat(1).st_nlink:  # the agent reads in the log why ExaBGP ended
                log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
                os.dup2(log, 1)
                os.dup2(log, 2)
                os.close(log)
