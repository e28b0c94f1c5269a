"""A unix socket that listens: made in the place of a dead process's, for those who may connect."""

from __future__ import annotations

import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from bgpcni.errors import IoFailure, TryAgain


@dataclass(frozen=True, slots=True)
class Access:
    """Who may connect: mode, owner and group of the socket's file. `uid`, `gid`: None leaves those of the process."""

    mode: int
    uid: int | None = None
    gid: int | None = None

    @property
    def private(self) -> bool:
        return not self.mode & 0o077


OWNER_ONLY = Access(0o600)


def bound(path: Path, access: Access, backlog: int) -> socket.socket:
    """A socket that listens on `path`. It replaces the socket of a process that is dead.

    Raises TryAgain where another process answers there, IoFailure.
    """
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        if _answers(path):
            raise TryAgain(f"{path}: another process answers there")
        if path.exists() and stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()
        os.fchmod(made.fileno(), 0o600)  # what `bind` makes has this mode, whatever the umask of other threads
        made.bind(str(path))
        if access != OWNER_ONLY:
            _hand_to(path, access)
        made.listen(backlog)
    except OSError as error:
        made.close()
        raise IoFailure(f"{path}: {error.strerror or error}") from None
    except BaseException:
        made.close()
        raise
    return made


def identity(path: Path) -> tuple[int, int] | None:
    """What tells whether the file at `path` is still the same; None if there is none."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _hand_to(path: Path, access: Access) -> None:
    """The mode first: of what is another's, it may be changed only with the capability FOWNER."""
    path.chmod(access.mode)
    if (access.uid, access.gid) != (None, None):
        os.chown(path, -1 if access.uid is None else access.uid, -1 if access.gid is None else access.gid)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:
            return True  # its backlog is full
        except OSError:
            return False
        return True
