"""Reads files whose names come from a configuration: plain files only, opened without blocking, and up to a limit. A
FIFO would block its reader, and a device may have no end.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager


class Unfit(OSError):
    """The file cannot be used; `strerror` says why. The configuration that names it is wrong."""


def require_plain(status: os.stat_result) -> None:
    """Raises Unfit unless it is a plain file."""
    if not stat.S_ISREG(status.st_mode):
        raise Unfit(errno.EINVAL, "not a plain file")


@contextmanager
def opened(path: str | os.PathLike[str], *, follow: bool = True) -> Iterator[tuple[int, os.stat_result]]:
    """Open a plain file for reading; returns the descriptor and its stat. `follow`: follow a symbolic link. Raises
    OSError, Unfit."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    file = os.open(path, flags if follow else flags | os.O_NOFOLLOW)
    try:
        status = os.fstat(file)
        require_plain(status)
        yield file, status
    finally:
        os.close(file)


def read_plain(path: str | os.PathLike[str], most: int) -> bytes:
    """The content of a plain file of at most `most` octets. Raises OSError, and Unfit for any other file."""
    with opened(path) as (file, status):
        left, parts = most + 1, list[bytes]()
        while left and (octets := os.read(file, left)):  # a file in /proc has size 0, so the size is not asked
            parts.append(octets)
            left -= len(octets)
        if not left or status.st_size > most:
            raise Unfit(errno.EFBIG, f"larger than {most} octets")
        return b"".join(parts)
