"""Locks between processes: flock(2) on files, close-on-exec. After locking, the file's identity is compared.

flock works between threads, too, because each lock opens the file anew. `WriterLocks` says who may write on a node.
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
"""How long a starting agent waits for calls that check whether an agent runs; each holds the lock very briefly."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.02
_NO_ROOM = (errno.EROFS, errno.ENOSPC, errno.EDQUOT)
"""The errors of a disk on which no file can be made."""


class Busy(Exception):
    """Someone else held the lock until the deadline."""


class FolderGone(IoFailure):
    """The folder of the lock was removed."""


def acquire(name: str, folder: int, *, shared: bool = False, seconds: float | None = 0.0) -> int:
    """Lock `name` in the folder of descriptor `folder`. Returns the descriptor that holds the lock.

    `seconds`: how long to wait; None: for ever. flock has no deadline, so this polls at growing intervals of up to
    20 ms. Raises Busy.
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
        os.close(fd)  # the file was unlinked between open and flock: lock the file that has the name now


def _open(name: str, folder: int) -> int:
    """Open the lock's file and make it if it is missing. On a disk that cannot be written an existing one is used.

    The file is opened read-only, so that it does not prevent remounting its file system read-only.
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
    """As `acquire`, with messages: raises TryAgain with the text `busy`, and IoFailure or FolderGone that name
    `path`."""
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
    """Release a lock and remove its file (for attachments, whose number is not bounded)."""
    try:
        os.unlink(name, dir_fd=folder)
    except OSError:
        pass  # it is gone, or the disk refuses; the name may stay, because the open file is what is locked
    os.close(fd)


class WriterLocks:
    """Decides who may write: one agent, or any number of calls without an agent, never both.

    The agent holds `agent.lock` exclusively while it runs, in run_dir and in data_dir, because run_dir may be wiped.
    Then it waits for `writer.lock` in run_dir. A call without an agent tries to share each `agent.lock`, without
    waiting, and then shares `writer.lock` until it ends. These files are never removed here; if others remove them,
    `renew` locks new ones.
    """

    AGENT, WRITER = "agent.lock", "writer.lock"

    def __init__(self, run: int, *more: int) -> None:
        """`run`: a descriptor of run_dir. `more`: one of data_dir."""
        self._run = run
        # data_dir first: whoever holds that lock is alone, even if run_dir was wiped; run_dir and data_dir may be the
        # same
        apart = [folder for folder in more if not os.path.sameopenfile(folder, run)]
        self._folders = (*apart, run)
        self._held: dict[tuple[str, int], int] = {}

    def as_agent(self) -> None:
        """Lock as the agent. Raises Busy if another agent runs. Waits until calls that began without an agent have
        ended."""
        try:
            for folder in self._folders:
                try:
                    self._hold(self.AGENT, folder, seconds=PROBE_SECONDS)
                except OSError as error:
                    if folder == self._run or error.errno not in _NO_ROOM:
                        raise
                    log.warning("cannot make %s in data_dir (%s): only the lock in run_dir prevents a second agent",
                                self.AGENT, error.strerror)  # fmt: skip
            self._hold(self.WRITER, self._run, seconds=None)
        except BaseException:
            self.release()
            raise

    def renew(self) -> list[str]:
        """Lock again the files that were removed meanwhile, and return their names. Raises Busy and OSError; the caller
        then retries later."""
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
                continue  # the lock could not be made when the agent began, either
            if old is not None:
                os.close(old)
                again.append(name)
        return again

    def as_call(self) -> None:
        """Lock as a call without an agent. Raises Busy if an agent runs or starts."""
        probes: list[int] = []
        try:
            for folder in self._folders:
                try:
                    probes.append(acquire(self.AGENT, folder, shared=True))
                except OSError as error:
                    if error.errno not in _NO_ROOM:
                        raise  # otherwise the file does not exist and cannot be made, so nobody holds it
            self._held[self.WRITER, self._run] = acquire(self.WRITER, self._run, shared=True)
        finally:
            for probe in probes:
                os.close(probe)

    def release(self) -> None:
        """Release all locks. Idempotent."""
        while self._held:
            os.close(self._held.popitem()[1])

    def _hold(self, name: str, folder: int, *, seconds: float | None) -> None:
        self._held[name, folder] = acquire(name, folder, seconds=seconds)
