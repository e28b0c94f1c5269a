"""run_dir and data_dir: made 0700, opened without following a link, refused where another user can write."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

from bgpcni.errors import IoFailure

log = logging.getLogger(__name__)


def open_folder(path: Path) -> int:
    """Make `path` if it is missing and return a descriptor of it. Raises IoFailure in words."""
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
    """The same for a folder inside one that was opened here. `path`: for messages."""
    try:
        try:
            os.mkdir(name, 0o700, dir_fd=folder)
        except FileExistsError:
            pass
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        raise IoFailure(f"{path / name}: {error.strerror}") from None


def is_behind(fd: int, path: str | Path, folder: int | None = None) -> bool:
    """Whether what `fd` is open on is still what has that name (in `folder`)."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path, dir_fd=folder, follow_symlinks=False))
    except FileNotFoundError:
        return False


def exchange(fd: int, fresh: int) -> None:
    """Have `fd` lead where `fresh` does, for everybody who knows its number; `fresh` is closed."""
    os.dup2(fresh, fd, inheritable=False)
    os.close(fresh)


def listed(folder: int) -> list[str]:
    """The names in a folder that is open, whoever else lists it at once: a descriptor has one place to read on from."""
    try:
        own = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return []  # it was removed
    try:
        return os.listdir(own)
    finally:
        os.close(own)


def _make_way(path: Path) -> None:
    """As `mkdir -p`, but no umask can open what is made to other users' writing."""
    if not path.is_dir():
        _make_way(path.parent)
        try:
            os.mkdir(path, 0o755)
        except FileExistsError:
            pass


def _check_way(path: Path) -> None:
    """Who can write a folder above can put another one in the place of ours, unless the sticky bit keeps him off."""
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
    if mode & 0o077:
        log.warning("%s can be read by other users (mode %04o); 0700 is enough", path, mode)
