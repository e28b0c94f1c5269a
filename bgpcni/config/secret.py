"""Files that hold a secret: read only where nobody else can read or change them."""

from __future__ import annotations

import os
import stat

_LONGEST = 4096


def read_secret(path: str) -> str:
    """The file's text without the end of the line. Raises ValueError in words: missing, not 0600, another user's."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    try:
        found = os.fstat(file)
        mode = stat.S_IMODE(found.st_mode)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"{path} is not a plain file")
        if found.st_uid not in (0, os.geteuid()):
            raise ValueError(f"{path} belongs to user {found.st_uid}")
        if mode & 0o077:
            raise ValueError(f"{path} is open to other users (mode {mode:04o}); chmod 0600 it")
        octets = os.read(file, _LONGEST)
    finally:
        os.close(file)
    try:
        return octets.decode("ascii").rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not ASCII") from None
