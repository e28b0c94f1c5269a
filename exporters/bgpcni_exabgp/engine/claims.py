"""Only one ExaBGP of ours runs: files that it keeps locked for life, and in which it says who it is.

Standard library only, for these are taken before ExaBGP is imported.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
import time
from pathlib import Path

from bgpcni_exabgp.process import boot, start_time


def claim(path: Path, plain: str = "") -> int | None:
    """Lock this file and write into it who we are; the descriptor holds the lock. None: somebody else has it.

    `plain`: why ExaBGP will run without our command, "" if it has it. Raises OSError. We write the file ourselves: who
    started us may be killed before it could.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            break
        os.close(descriptor)  # unlinked between open and lock
    words = {"pid": os.getpid(), "started": start_time(os.getpid()), "plain": plain, "boot": boot()}
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(words).encode())
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


LOOK = 1.0
"""Seconds between two looks whether our files are still there."""


class Claims:
    """The locks by which this ExaBGP is the only one: on a file beside its configuration, and on `lasting`, a file in a
    folder that nobody wipes."""

    def __init__(self, configuration: Path, lasting: Path | None, plain: str) -> None:
        self._path = configuration.with_suffix(".pid")
        self._log = configuration.with_suffix(".log")
        self._lasting = lasting
        self._plain = plain
        self._held: int | None = None
        self._held_for_good: int | None = None
        self._looked = -LOOK

    def take(self) -> bool:
        """False: another one runs. Raises OSError; but if `lasting` cannot be written, the other lock is enough."""
        if self._lasting is not None:
            try:
                self._held_for_good = claim(self._lasting, self._plain)
                if self._held_for_good is None:
                    return False
            except OSError as error:
                sys.stderr.write(f"bgpcni: {self._lasting}: {error.strerror}: only {self._path} is locked\n")
        self._held = claim(self._path, self._plain)
        return self._held is not None

    def release(self) -> None:
        """Give both locks up. Idempotent."""
        for held in (self._held, self._held_for_good):
            if held is not None:
                os.close(held)
        self._held = self._held_for_good = None

    def keep(self) -> None:
        """Once a second: make the file beside the configuration, and the log, again if somebody removed them."""
        now = time.monotonic()
        if now - self._looked < LOOK:
            return
        self._looked = now
        with contextlib.suppress(OSError):  # the folder may be gone, until the agent makes it again
            if self._held is not None and not self._path.exists():
                fresh = claim(self._path, self._plain)
                if fresh is not None:
                    os.close(self._held)
                    self._held = fresh
            if not os.fstat(1).st_nlink:  # the agent reads in the log why ExaBGP ended
                log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
                os.dup2(log, 1)
                os.dup2(log, 2)
                os.close(log)
