"""Files with a secret. We read one only if no other user can read or change it."""

from __future__ import annotations

import os
import stat

from bgpcni.files import opened

_LONGEST = 4096


def read_secret(path: str) -> str:
    """The text of the file without the end of the line. Raises ValueError, which says why the file cannot be used."""
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
