"""`run_dir/read.sock`: answers the commands that change nothing, to programs that do not run as root.

Linux asks for the right to write before it lets a program connect, so with mode 0640 that is the file's owner: the
user whose main group is `bgpcni`. The group exists where somebody made it for this purpose; else root alone can ask.
"""

from __future__ import annotations

import grp
import logging
import os
import pwd
from collections.abc import Callable
from pathlib import Path

from bgpcni import paths
from bgpcni.agent.server import Server
from bgpcni.handler import Reply
from bgpcni.sockets import Access
from bgpcni.store import Store

log = logging.getLogger(__name__)
GROUP = "bgpcni"
MODE = 0o640
FOLDER_MODE = 0o710
"""Of run_dir: the group can go through it to the socket, and cannot list it."""
AT_ONCE = 16


class Readers:
    """The socket, looked after by the agent's watch. Requests that wait there do not delay those on the agent's own."""

    def __init__(self, store: Store, command: Callable[[bytes], Reply]) -> None:
        self._store = store
        self._access = _access()
        self._server = Server(None, command, at_once=AT_ONCE)
        self._wanted = self._bound = False

    def start(self) -> None:
        """From the next look on it is served."""
        self._wanted = True

    def look(self) -> str:
        """Serve, or serve again if somebody removed the socket or run_dir. Raises CniError, OSError."""
        if self._bound and self._server.renew():
            log.warning("%s: somebody removed it; the agent made it again", self._path)
        elif self._wanted and not self._bound:
            self._server.bind(self._path, self._access)
            self._bound = True
            self._server.serve()
        if self._bound:
            self._open_way()
        return ""

    def close(self) -> None:
        self._wanted = False
        if self._bound:
            self._server.close()

    @property
    def _path(self) -> Path:
        return self._store.run_path / paths.READ_SOCKET

    def _open_way(self) -> None:
        """Let the group go through run_dir, unless more than that is allowed already."""
        group, found = self._access.gid, os.fstat(self._store.run_fd)
        if group is None or found.st_mode & 0o001 or (found.st_gid == group and found.st_mode & 0o010):
            return
        os.fchown(self._store.run_fd, -1, group)
        os.fchmod(self._store.run_fd, FOLDER_MODE)


def _access() -> Access:
    try:
        group = grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return Access(MODE)
    members = sorted((user for user in pwd.getpwall() if user.pw_gid == group), key=lambda user: user.pw_name != GROUP)
    return Access(MODE, members[0].pw_uid if members else None, group)
