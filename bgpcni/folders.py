"""Opens run_dir and data_dir: they are made with mode 0700, links are not followed, and a folder in which another user
can write is refused."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

from bgpcni.errors import IoFailure

log = logging.getLogger(__name__)


def open_folder(path: Path) -> int:
    """Make `path` if it is missing and return a descriptor of it. Raises IoFailure."""
    try:
        _make_way(path.parent)
        _check_way(path)
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise IoFailure(f"{path}: {error.strerror}") from None
    try:
        _check(path, os.fstat(fd))
    except BaseException:
        os.close(fd)
        raise
    return fd


def open_below(name: str, folder: int, path: Path) -> int:
    """The same for a folder inside one that was opened here. `path`: the outer folder, for messages."""
    try:
        try:
            os.mkdir(name, 0o700, dir_fd=folder)
        except FileExistsError:
            pass
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        raise IoFailure(f"{path / name}: {error.strerror}") from None


def is_behind(fd: int, path: str | Path, folder: int | None = None) -> bool:
    """Whether the name (in `folder`) still leads to the file or folder that `fd` is open on."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path, dir_fd=folder, follow_symlinks=False))
    except FileNotFoundError:
        return False


def exchange(fd: int, fresh: int) -> None:
    """Make descriptor `fd` refer to what `fresh` refers to, so that all its users see the new folder. Closes
    `fresh`."""
    os.dup2(fresh, fd, inheritable=False)
    os.close(fresh)


def listed(folder: int) -> list[str]:
    """The names in an open folder. It is opened again, because two listings of one descriptor would share their
    position."""
    try:
        own = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return []  # the folder was removed
    try:
        return os.listdir(own)
    finally:
        os.close(own)


def _make_way(path: Path) -> None:
    """Make the folders above, as `mkdir -p` does, but never writable for other users, whatever the umask is."""
    if not path.is_dir():
        _make_way(path.parent)
        try:
            os.mkdir(path, 0o755)
        except FileExistsError:
            pass


def _check_way(path: Path) -> None:
    """Raises IoFailure if another user can write a folder above: without the sticky bit that user could replace
    ours."""
    for above in path.absolute().parents:
        found = above.stat()
        open_to_all = found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX
        if open_to_all or found.st_uid not in (0, os.geteuid()):
            raise IoFailure(f"{path}: {above} can be written by other users, who could replace what is in it")


def _check(path: Path, found: os.stat_result) -> None:
    if found.st_uid not in (0, os.geteuid()):
        raise IoFailure(f"{path} belongs to user {found.st_uid}, who could change what we write there")
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o022:
        raise IoFailure(f"{path} can be written by other users (mode {mode:04o}); chmod 0700 it")
    if mode & 0o044:
        log.warning("%s can be read by other users (mode %04o); 0700 is enough", path, mode)
