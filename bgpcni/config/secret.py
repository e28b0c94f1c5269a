"""Reads files that contain a secret. A file that other users can read or change is refused."""

from __future__ import annotations

import os
import stat

from bgpcni.files import opened

_LONGEST = 4096


def read_secret(path: str) -> str:
    """The text of the file without the newline. Raises ValueError: it is missing, its mode is not 0600, or it belongs
    to another user."""
    try:
        with opened(path, follow=False) as (file, found):
            mode = stat.S_IMODE(found.st_mode)
            if found.st_uid not in (0, os.geteuid()):
                raise ValueError(f"{path} belongs to user {found.st_uid}")
            if mode & 0o077:
                raise ValueError(f"{path} is accessible to other users (mode {mode:04o}); chmod 0600 it")
            octets = os.read(file, _LONGEST)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    try:
        return octets.decode("ascii").rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not ASCII") from None
