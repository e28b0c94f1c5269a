"""Locks between processes: flock(2) on files, close-on-exec, with the file's identity compared after locking.

flock works between threads too, as each lock is its own open file. Who may write on a node: see `WriterLocks`.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from bgpcni.errors import IoFailure, TryAgain

PROBE_SECONDS = 1.0
"""A starting agent's patience with calls that look whether there is one; each holds the lock for an instant."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.02


class Busy(Exception):
    """The lock is held by another, and stayed so until the deadline."""


def acquire(name: str, folder: int, *, shared: bool = False, seconds: float | None = 0.0) -> int:
    """Lock `name` in the folder behind the descriptor; returns the descriptor that holds the lock.

    `seconds`: how long to wait, None for ever. flock has no deadline of its own, so a bounded wait asks again
    in growing steps of up to 20 ms. Raises Busy.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=folder)
        try:
            _lock(fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, deadline)
            if _same(fd, name, folder):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # somebody unlinked the file between open and flock: lock the one that is there now


def obtain(name: str, folder: int, path: Path, *, busy: str, seconds: float) -> int:
    """As `acquire`, for who is told why not: raises TryAgain with `busy`, IoFailure with `path`."""
    try:
        return acquire(name, folder, seconds=seconds)
    except Busy:
        raise TryAgain(busy) from None
    except OSError as error:
        raise IoFailure(f"{path}: {error.strerror}") from None


def _lock(fd: int, mode: int, deadline: float | None) -> None:
    pause = _FIRST_PAUSE
    while True:
        try:
            fcntl.flock(fd, mode if deadline is None else mode | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if deadline is None or time.monotonic() >= deadline:
                raise Busy from None
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)


def _same(fd: int, name: str, folder: int) -> bool:
    held = os.fstat(fd)
    try:
        there = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (held.st_dev, held.st_ino) == (there.st_dev, there.st_ino)


def discard(name: str, folder: int, fd: int) -> None:
    """Let go of a lock whose file goes with it (attachments: their number is not bounded)."""
    try:
        os.unlink(name, dir_fd=folder)
    except OSError:
        pass  # gone, or a disk that refuses: what is locked is the open file, its name may stay
    os.close(fd)


class WriterLocks:
    """Who may write: one agent, or any number of calls without an agent; never both.

    The agent holds `agent.lock` exclusively for life and then waits for `writer.lock`; a call without an agent
    tries `agent.lock` shared without waiting, then shares `writer.lock` for its duration. Neither file is ever
    unlinked.
    """

    AGENT, WRITER = "agent.lock", "writer.lock"

    def __init__(self, folder: int) -> None:
        self._folder = folder
        self._held: list[int] = []

    def as_agent(self) -> None:
        """Raises Busy when another agent lives. Waits for calls that began without an agent to end."""
        self._held.append(acquire(self.AGENT, self._folder, seconds=PROBE_SECONDS))
        self._held.append(acquire(self.WRITER, self._folder, seconds=None))

    def as_call(self) -> None:
        """Raises Busy when an agent lives or is just starting."""
        probe = acquire(self.AGENT, self._folder, shared=True)
        try:
            self._held.append(acquire(self.WRITER, self._folder, shared=True))
        finally:
            os.close(probe)

    def release(self) -> None:
        """Let go of both. Idempotent."""
        while self._held:
            os.close(self._held.pop())
