"""Files whose names come from a configuration: plain ones only, opened without waiting for anybody, and no more of them
read than is asked for. A FIFO would make its reader wait, a device has no end.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager


class Unfit(OSError):
    """It is no file to be read: `strerror` says why. Whoever named it made a mistake."""


def require_plain(status: os.stat_result) -> None:
    """Raises Unfit."""
    if not stat.S_ISREG(status.st_mode):
        raise Unfit(errno.EINVAL, "not a plain file")


@contextmanager
def opened(path: str | os.PathLike[str], *, follow: bool = True) -> Iterator[tuple[int, os.stat_result]]:
    """A plain file to be read, and what it is. `follow`: a symbolic link is too. Raises OSError."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    file = os.open(path, flags if follow else flags | os.O_NOFOLLOW)
    try:
        status = os.fstat(file)
        require_plain(status)
        yield file, status
    finally:
        os.close(file)


def read_plain(path: str | os.PathLike[str], most: int) -> bytes:
    """All of a plain file of `most` octets at most. Raises OSError, Unfit for any other one."""
    with opened(path) as (file, status):
        left, parts = most + 1, list[bytes]()
        while left and (octets := os.read(file, left)):  # the size of a file in /proc is 0
            parts.append(octets)
            left -= len(octets)
        if not left or status.st_size > most:
            raise Unfit(errno.EFBIG, f"larger than {most} octets")
        return b"".join(parts)
