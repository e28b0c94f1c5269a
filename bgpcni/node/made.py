"""What ADDs made for a bridge before any of them succeeded: the bridge, gateway addresses, an interface in a VLAN.

An ADD that fails removes it again. If other attachments are on that bridge, the last one that fails removes it,
whoever made it. They may be in different processes, so the list of each bridge is a file. The file is locked while it
is read or written, and deleted by the first ADD that succeeds.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict

from bgpcni import folders, locks
from bgpcni.errors import CniError, IoFailure
from bgpcni.kernel import bridge
from bgpcni.kernel.bridge import Made
from bgpcni.kernel.netlink import Netlink
from bgpcni.store import Store

log = logging.getLogger(__name__)
_LOCK_SECONDS = 5.0
_LIST_MAX = 1 << 16


class MadeOfBridges:
    """The lists of all bridges. Safe for threads and processes."""

    def __init__(self, store: Store) -> None:
        self._path = store.run_path / "bridges"
        self._folder = folders.open_below("bridges", store.run_fd, store.run_path)

    def add(self, netlink: Netlink, name: str, made: Made) -> None:
        """Note what an ADD made for bridge `name`. If that fails, remove it at once and raise TryAgain or IoFailure."""
        try:
            with self._locked(name) as file:
                os.lseek(file, 0, os.SEEK_END)
                self._write(name, file, json.dumps(asdict(made)).encode() + b"\n")
        except CniError:
            bridge.take_away(netlink, made)
            raise

    def keep(self, name: str) -> None:
        """An ADD succeeded: the bridge stays, and its list is deleted."""
        with suppress(OSError):  # usually there is no list
            os.unlink(name, dir_fd=self._folder)

    def remove(self, netlink: Netlink, name: str, shared: Callable[[], bool]) -> None:
        """An ADD failed, and its record is deleted: remove what is listed. `shared`: are other attachments on the
        bridge?"""
        if not self._has(name):
            return
        try:
            with self._locked(name) as file:
                if shared():
                    return
                for line in reversed(os.read(file, _LIST_MAX).splitlines()):
                    bridge.take_away(netlink, Made(**json.loads(line)))
                self.keep(name)
        except (CniError, OSError, ValueError, TypeError) as error:
            log.error("could not remove what failed ADDs made for bridge %s: %s", name, error, extra={"link": name})

    def _has(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self._folder, follow_symlinks=False)
        except OSError:
            return False
        return True

    @contextmanager
    def _locked(self, name: str) -> Iterator[int]:
        written = None
        while written is None:
            written = self._opened(name)
        lock, file = written
        try:
            yield file
        finally:
            os.close(file)
            os.close(lock)

    def _opened(self, name: str) -> tuple[int, int] | None:
        """The lock of a list and the list, or None if an ADD that succeeded has deleted it in between (`keep`)."""
        path = self._path / name
        lock = locks.obtain(name, self._folder, path, busy=f"{path} is held by another call", seconds=_LOCK_SECONDS)
        try:
            file = os.open(name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._folder)
        except FileNotFoundError:
            os.close(lock)
            return None
        except OSError as error:
            os.close(lock)
            raise IoFailure(f"{path}: {error.strerror}") from None
        if os.path.sameopenfile(lock, file):
            return lock, file
        os.close(file)
        os.close(lock)
        return None

    def _write(self, name: str, file: int, line: bytes) -> None:
        try:
            if os.write(file, line) != len(line):
                raise IoFailure(f"{self._path / name}: no space left")
        except OSError as error:
            raise IoFailure(f"{self._path / name}: {error.strerror}") from None
