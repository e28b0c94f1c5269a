"""A lock on a file that says who holds it: so a process is found without its pid, even where it cannot be seen.

Standard library only: ExaBGP's process takes its locks before anything else is imported.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

PATIENCE = 0.5
"""Seconds for which a lock is tried, since who only looks whether it is taken holds it for a moment."""


class Claim:
    """A file that is locked for life, with words about who holds it: pid, start time and boot, and `more`.

    We write the file ourselves, since who started us may be killed before it could.
    """

    def __init__(self, path: Path, **more: Any) -> None:
        self.path = path
        self._more = more
        self._held: int | None = None

    def take(self) -> bool:
        """False: somebody else has it. Raises OSError."""
        deadline = time.monotonic() + PATIENCE
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self.path.exists() and os.path.samestat(os.fstat(descriptor), self.path.stat()):
                    break  # else it was unlinked between open and lock
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(descriptor)
                    return False
                time.sleep(0.01)
            os.close(descriptor)
        before, self._held = self._held, descriptor
        try:
            self.tell()
        except BaseException:
            self._held = before
            os.close(descriptor)
            raise
        if before is not None:
            os.close(before)
        return True

    def tell(self, **more: Any) -> None:
        """Write into the file who we are, and this. Raises OSError."""
        assert self._held is not None
        self._more |= more
        words = {"pid": os.getpid(), "started": start_time(os.getpid()), "boot": boot(), **self._more}
        text = json.dumps(words).encode()
        os.pwrite(self._held, text, 0)
        os.ftruncate(self._held, len(text))

    def keep(self) -> None:
        """Make the file again if somebody removed it. Raises OSError."""
        if self._held is not None and not self.path.exists():
            self.take()

    def release(self) -> None:
        """Idempotent."""
        if self._held is not None:
            os.close(self._held)
            self._held = None


def holder(path: Path) -> dict[str, Any] | None:
    """What the holder of the lock wrote into this file; {} if that cannot be read, None if nobody holds the lock."""
    deadline = time.monotonic() + PATIENCE
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return None
            except BlockingIOError:
                pass
            try:
                found = json.loads(os.pread(descriptor, 1 << 16, 0))
                return found if isinstance(found, dict) else {}
            except ValueError:  # it is being written
                if time.monotonic() > deadline:
                    return {}
                time.sleep(0.01)
    finally:
        os.close(descriptor)


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        return int(stat.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def boot() -> str:
    """The ID of this boot: only with it do pid and start time name one process."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
