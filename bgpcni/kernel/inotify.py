"""inotify(7): which files of some folders were changed, by whatever process. The kernel notes it before the call that
changes a file returns, so whoever asks afterwards is told."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable

_EVENT = struct.Struct("=iIII")
"""struct inotify_event without its name: watch, mask, cookie, length of the name."""
_MODIFY, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x2, 0x40, 0x80, 0x100, 0x200
_UNMOUNT, _OVERFLOW, _IGNORED = 0x2000, 0x4000, 0x8000
_ONLY_FOLDERS = 0x01000000
_CHANGES = _MODIFY | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
_LOST = _UNMOUNT | _OVERFLOW | _IGNORED
"""What says that changes of a folder are missing in the queue."""
_SIZE = 1 << 16


class Watch:
    """The changes of some folders since they were last asked for. For one thread at a time."""

    def __init__(self, folders: Iterable[int]) -> None:
        """`folders`: open descriptors. Raises OSError, such as EMFILE if root has too many watches."""
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise _error()
        try:
            for folder in folders:
                path = f"/proc/self/fd/{folder}".encode()
                if libc.inotify_add_watch(self._fd, path, _CHANGES | _ONLY_FOLDERS) < 0:
                    raise _error()
        except OSError:
            os.close(self._fd)
            raise

    def changed(self) -> set[str] | None:
        """The names of the files that were made, written, moved or removed; None if any file may have been."""
        names: set[str] = set()
        lost = False
        while data := self._read():
            at = 0
            while at < len(data):
                _, mask, _, length = _EVENT.unpack_from(data, at)
                at += _EVENT.size + length
                lost |= bool(mask & _LOST)
                if length:
                    names.add(os.fsdecode(data[at - length : at].rstrip(b"\0")))
        return None if lost else names

    def close(self) -> None:
        os.close(self._fd)

    def _read(self) -> bytes:
        try:
            return os.read(self._fd, _SIZE)
        except BlockingIOError:
            return b""


def _error() -> OSError:
    code = ctypes.get_errno() or errno.EIO
    return OSError(code, os.strerror(code))
