"""Locks between processes: flock(2) on files, close-on-exec, with the file's identity compared after locking.

flock works between threads too, as each lock is its own open file. Who may write on a node: see `WriterLocks`.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from pathlib import Path

from bgpcni import folders
from bgpcni.errors import IoFailure, TryAgain

log = logging.getLogger(__name__)
PROBE_SECONDS = 1.0
"""A starting agent's patience with calls that look whether there is one; each holds the lock for an instant."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.02
_NO_ROOM = (errno.EROFS, errno.ENOSPC, errno.EDQUOT)
"""What a disk says that takes no new file."""


class Busy(Exception):
    """The lock is held by another, and stayed so until the deadline."""


class FolderGone(IoFailure):
    """The folder of the lock was removed."""


def acquire(name: str, folder: int, *, shared: bool = False, seconds: float | None = 0.0) -> int:
    """Lock `name` in the folder behind the descriptor; returns the descriptor that holds the lock.

    `seconds`: how long to wait, None for ever. flock has no deadline of its own, so a bounded wait asks again
    in growing steps of up to 20 ms. Raises Busy.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        fd = _open(name, folder)
        try:
            _lock(fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, deadline)
            if folders.is_behind(fd, name, folder):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # somebody unlinked the file between open and flock: lock the one that is there now


def _open(name: str, folder: int) -> int:
    """The lock's file, made if it is missing; on a disk that takes no writing the one that is there serves as well.

    Nothing is written into it, so that it does not keep its file system from being mounted read-only.
    """
    flags = os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(name, os.O_RDONLY | os.O_CREAT | flags, 0o600, dir_fd=folder)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        try:
            return os.open(name, os.O_RDONLY | flags, dir_fd=folder)
        except FileNotFoundError:
            raise error from None


def obtain(name: str, folder: int, path: Path, *, busy: str, seconds: float) -> int:
    """As `acquire`, for who is told why not: raises TryAgain with `busy`, IoFailure with `path` (FolderGone)."""
    try:
        return acquire(name, folder, seconds=seconds)
    except Busy:
        raise TryAgain(busy) from None
    except FileNotFoundError as error:
        raise FolderGone(f"{path}: {error.strerror}") from None
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


def discard(name: str, folder: int, fd: int) -> None:
    """Let go of a lock whose file goes with it (attachments: their number is not bounded)."""
    try:
        os.unlink(name, dir_fd=folder)
    except OSError:
        pass  # gone, or a disk that refuses: what is locked is the open file, its name may stay
    os.close(fd)


class WriterLocks:
    """Who may write: one agent, or any number of calls without an agent; never both.

    The agent holds `agent.lock` exclusively for life, in run_dir and in data_dir, which nobody wipes, and then waits
    for run_dir's `writer.lock`; a call without an agent tries each `agent.lock` shared without waiting, then shares
    `writer.lock` for its duration. None of the files is ever unlinked here; `renew` locks again what others removed.
    """

    AGENT, WRITER = "agent.lock", "writer.lock"

    def __init__(self, run: int, *more: int) -> None:
        """Descriptors of run_dir and, behind it, of data_dir."""
        self._run = run
        # data_dir first: who has that one is alone, whatever became of run_dir; one folder may be both
        apart = [folder for folder in more if not os.path.sameopenfile(folder, run)]
        self._folders = (*apart, run)
        self._held: dict[tuple[str, int], int] = {}

    def as_agent(self) -> None:
        """Raises Busy when another agent lives. Waits for calls that began without an agent to end."""
        try:
            for folder in self._folders:
                try:
                    self._hold(self.AGENT, folder, seconds=PROBE_SECONDS)
                except OSError as error:
                    if folder == self._run or error.errno not in _NO_ROOM:
                        raise
                    log.warning("%s cannot be made in data_dir (%s): only that of run_dir keeps a second agent off",
                                self.AGENT, error.strerror)  # fmt: skip
            self._hold(self.WRITER, self._run, seconds=None)
        except BaseException:
            self.release()
            raise

    def renew(self) -> list[str]:
        """Lock again what was removed since; the names of those files. Raises Busy, OSError: at the next time then."""
        again = []
        wanted = [(self.AGENT, folder) for folder in self._folders] + [(self.WRITER, self._run)]
        for name, folder in wanted:
            old = self._held.get((name, folder))
            if old is not None and folders.is_behind(old, name, folder):
                continue
            try:
                self._hold(name, folder, seconds=0.0)
            except OSError as error:
                if old is not None or error.errno not in _NO_ROOM:
                    raise
                continue  # as when the agent began
            if old is not None:
                os.close(old)
                again.append(name)
        return again

    def as_call(self) -> None:
        """Raises Busy when an agent lives or is just starting."""
        probes: list[int] = []
        try:
            for folder in self._folders:
                try:
                    probes.append(acquire(self.AGENT, folder, shared=True))
                except OSError as error:
                    if error.errno not in _NO_ROOM:
                        raise  # else it is not there, and cannot be made: nobody holds it
            self._held[self.WRITER, self._run] = acquire(self.WRITER, self._run, shared=True)
        finally:
            for probe in probes:
                os.close(probe)

    def release(self) -> None:
        """Let go of all. Idempotent."""
        while self._held:
            os.close(self._held.popitem()[1])

    def _hold(self, name: str, folder: int, *, seconds: float | None) -> None:
        self._held[name, folder] = acquire(name, folder, seconds=seconds)
