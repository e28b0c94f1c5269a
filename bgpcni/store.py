"""The attachments on disk: one file each, written whole or not at all, its state the folder it is in.

    data_dir/attachments/adding|up|leaving/NETWORK@DIGEST.json

This module alone writes records. It is the one place that holds state: everything else (what is announced,
what is held back) follows from it. No fsync: a record of another boot is void, since its namespace went with it.
The numbers of networks outlast a boot and are kept elsewhere (`numbers`).
"""

from __future__ import annotations

import errno
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from pydantic import ValidationError

from bgpcni import folders, locks
from bgpcni.config.network import describe
from bgpcni.errors import IoFailure, TryAgain
from bgpcni.model import Attachment, AttachmentKey, State
from bgpcni.numbers import Numbers
from bgpcni.steps import step

_NOFOLLOW = os.O_CLOEXEC | os.O_NOFOLLOW
_PAGE = 4096
"""Octets that are written at once or not at all, on every architecture's smallest page."""
_SPARES = 256
"""Files that are kept for records to come: as many as there are calls at once."""
_ORDER = (State.UP, State.LEAVING, State.ADDING)
"""Where there are several records of an attachment, the first of these counts."""
_COURSE = (State.ADDING, State.UP, State.LEAVING)
"""The states in the order in which a record goes through them."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One record found. `attachment` is None when it cannot be read; then `problem` says why."""

    state: State
    network: str
    digest: str
    attachment: Attachment | None
    problem: str = ""

    @property
    def told(self) -> bool:
        """Whether exporters may have been told of it: the ADD that its record is of got that far, or an earlier one."""
        return self.state is not State.ADDING or (self.attachment is not None and bool(self.attachment.since))


@dataclass(slots=True)
class _Turn:
    """Who of this process is at one attachment, whatever becomes of the lock's file; `users` hold it or wait."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    users: int = 0


class Store:
    """Records and per-attachment locks. Safe for threads; between processes the attachment's lock decides."""

    def __init__(self, data_dir: Path, run_dir: Path) -> None:
        """Opens (and makes) both folders. Raises IoFailure."""
        self.path = data_dir
        self.run_path = run_dir
        self.run_fd = folders.open_folder(run_dir)
        self.data_fd = folders.open_folder(data_dir)
        self._locks = folders.open_below("locks", self.run_fd, run_dir)
        self._base = folders.open_below("attachments", self.data_fd, data_dir)
        self._folders = {
            state: folders.open_below(state.value, self._base, data_dir / "attachments") for state in State
        }
        self._numbers = Numbers(self.data_fd, data_dir, self._recorded_or_why_not)
        self._spares: deque[str] | None = None
        self._spare_folder = -1
        self._turns: dict[str, _Turn] = {}
        self._changing = threading.Lock()
        self._renewing = threading.Lock()
        self._life, self._spare_numbers = secrets.token_hex(8), count()  # of which `next` is one step for all threads

    def recycle(self) -> None:
        """Keep the files of records that go for those that come. Only for the agent, when it is sure to be alone.

        Making and removing files is what a journaling file system takes longest for: ext4 looks at every inode that
        was freed in the last seconds. Raises IoFailure.
        """
        self._spare_folder = folders.open_below("spare", self.data_fd, self.path)
        self._spares = deque(folders.listed(self._spare_folder))

    def renew(self) -> bool:
        """Make run_dir again, with what is below it, where somebody removed it; whether that was so.

        The descriptors keep their numbers, so whoever has one goes on. Raises IoFailure.
        """
        with self._renewing:
            gone = not folders.is_behind(self.run_fd, self.run_path)
            if gone:
                folders.exchange(self.run_fd, folders.open_folder(self.run_path))
            if gone or not folders.is_behind(self._locks, "locks", self.run_fd):
                folders.exchange(self._locks, folders.open_below("locks", self.run_fd, self.run_path))
                return True
            return False

    def close(self) -> None:
        if self._spares is not None:
            os.close(self._spare_folder)
        for fd in (*self._folders.values(), self._base, self._locks, self.data_fd, self.run_fd):
            os.close(fd)

    def locked(self, key: AttachmentKey, seconds: float) -> AbstractContextManager[None]:
        """Hold this attachment's lock. Raises TryAgain (11) when it stays busy for `seconds`."""
        return self._locked(key, seconds)

    @contextmanager
    def _locked(self, key: AttachmentKey, seconds: float) -> Iterator[None]:
        busy = f"{key}: another call for this attachment is running; try again"
        deadline = time.monotonic() + seconds
        with self._turn(key.digest, busy, seconds):
            left = max(0.0, deadline - time.monotonic())
            fd = self._obtain(key.digest, self._locks, self.run_path / "locks", busy, left)
            try:
                yield
            finally:
                if self._recorded(key):  # the lock's file stays as long as the record
                    os.close(fd)
                else:
                    locks.discard(key.digest, self._locks, fd)

    @contextmanager
    def _turn(self, name: str, busy: str, seconds: float) -> Iterator[None]:
        """Be the only one of this process: a lock whose file was removed would let a second one in."""
        with self._changing:
            turn = self._turns.setdefault(name, _Turn())
            turn.users += 1
        try:
            if not turn.lock.acquire(timeout=max(0.0, seconds)):
                raise TryAgain(busy)
            try:
                yield
            finally:
                turn.lock.release()
        finally:
            with self._changing:
                turn.users -= 1
                if not turn.users:
                    del self._turns[name]

    def _obtain(self, name: str, folder: int, path: Path, busy: str, seconds: float) -> int:
        try:
            return locks.obtain(name, folder, path, busy=busy, seconds=seconds)
        except locks.FolderGone:
            self.renew()
            return locks.obtain(name, folder, path, busy=busy, seconds=seconds)

    def _recorded(self, key: AttachmentKey) -> bool:
        return any(self._exists(state, _name(key)) for state in _ORDER)

    @contextmanager
    def sharing(self, seconds: float) -> Iterator[None]:
        """Be the only one that announces or withdraws what several attachments want. Raises TryAgain (11)."""
        path = self.run_path / "shared.lock"
        busy = f"{path} is held by another call; try again"
        fd = self._obtain(path.name, self.run_fd, path, busy, seconds)
        try:
            yield
        finally:
            os.close(fd)

    def find(self, key: AttachmentKey) -> Stored | None:
        """The record of one attachment; where a kill left two, the later state wins."""
        return self._find(_name(key))

    def _find(self, name: str) -> Stored | None:
        for state in _ORDER:
            try:
                return self._read(state, name)
            except FileNotFoundError:
                continue
        return None

    def all(self) -> Iterator[Stored]:
        """Every record, once each, also one that is on its way from one state to the next. For start and operators."""
        listed = {state: folders.listed(self._folders[state]) for state in _COURSE}
        seen: set[str] = set()
        for state in _ORDER:
            for name in sorted(listed[state]):
                if name.startswith(".") or not name.endswith(".json") or name in seen:
                    continue
                seen.add(name)
                for _ in _COURSE:  # it may be a state further by now, again and again
                    if stored := self._find(name):
                        yield stored
                        break

    def unwritable(self) -> str:
        """Why no record could be written now, "" if nothing speaks against it."""
        for descriptor, folder in ((self._locks, self.run_path / "locks"), (self._base, self.path / "attachments")):
            if not os.fstat(descriptor).st_nlink:
                return f"{folder}: No such file or directory: it was removed, restart the agent"
        disk = os.fstatvfs(self._base)
        if disk.f_flag & os.ST_RDONLY:
            return f"{self.path / 'attachments'}: Read-only file system"
        if not disk.f_bfree or (disk.f_files and not disk.f_ffree):  # root's share counts: it is we who write
            return f"{self.path / 'attachments'}: No space left on device"
        return ""

    def unreadable(self) -> set[str]:
        """The networks with a record that cannot be read."""
        return {stored.network for stored in self.all() if stored.attachment is None}

    def sweep(self) -> None:
        """Remove what a kill left: half-written and empty files, the earlier of two records, locks of no record.

        Only for the agent, when it is sure to be alone.
        """
        seen: set[str] = set()
        for state in _ORDER:
            for name in folders.listed(self._folders[state]):
                if name.startswith(".") or name in seen or self._is_unwritten(state, name):
                    _remove(self._folders[state], name)
                else:
                    seen.add(name)
        digests = {_digest(name) for name in seen}
        for name in folders.listed(self._locks):
            if name not in digests:
                _remove(self._locks, name)

    def _is_unwritten(self, state: State, name: str) -> bool:
        try:
            return state is State.ADDING and not os.stat(name, dir_fd=self._folders[state]).st_size
        except OSError:
            return False

    @step("record")
    def put(self, state: State, attachment: Attachment) -> None:
        """Write the record into `state`, whole or not at all, and out of every other state. Raises IoFailure."""
        name, data = _name(attachment.key), attachment.model_dump_json(by_alias=True).encode() + b"\n"
        # `up` follows `adding`: the same file, written over and then moved
        written = State.ADDING if state is State.UP else state
        try:
            self._write(self._folders[written], name, data)
            if written is not state:
                os.rename(name, name, src_dir_fd=self._folders[written], dst_dir_fd=self._folders[state])
        except OSError as error:
            raise IoFailure(f"{self.path / 'attachments' / state}: {error.strerror}") from None
        for other in State:
            if other is not state and other is not written:
                self._unlink(other, name)

    def _write(self, folder: int, name: str, data: bytes) -> None:
        """Write a record, new or over what is there. Raises OSError, and then there is what was there before.

        A kill does not cut a write within one page short, so that is done in place: where less is to be written
        than there was, spaces fill it up, which JSON does not mind. Anything larger is written aside and renamed.
        """
        try:
            fd = os.open(name, os.O_RDWR | _NOFOLLOW, dir_fd=folder)
        except FileNotFoundError:
            if self._write_spare(folder, name, data):
                return
            fd = os.open(name, os.O_RDWR | os.O_CREAT | _NOFOLLOW, 0o600, dir_fd=folder)
        try:
            before = os.pread(fd, _PAGE + 1, 0)
            if max(len(before), len(data)) > _PAGE:
                self._write_aside(folder, name, data)
                return
            written = os.pwrite(fd, data[:-1].ljust(len(before) - 1) + data[-1:], 0)
            if written < len(data):
                os.pwrite(fd, before[:written], 0)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            if not before:
                _remove(folder, name)
            raise
        finally:
            os.close(fd)

    def _write_spare(self, folder: int, name: str, data: bytes) -> bool:
        """Write a new record into a spare file, then give it its name; False where there is none that it fits into."""
        while self._spares and len(data) <= _PAGE:
            try:
                spare = self._spares.popleft()
                fd = os.open(spare, os.O_RDWR | _NOFOLLOW, dir_fd=self._spare_folder)
            except (IndexError, OSError):
                continue
            try:
                found = os.fstat(fd)
                text = data[:-1].ljust(found.st_size - 1) + data[-1:]
                if found.st_nlink == 1 and found.st_size <= _PAGE and os.pwrite(fd, text, 0) == len(text):
                    os.rename(spare, name, src_dir_fd=self._spare_folder, dst_dir_fd=folder)
                    return True
            except OSError:
                pass  # a new file may do, or says why not
            finally:
                os.close(fd)
            _remove(self._spare_folder, spare)
        return False

    def _spare(self, state: State, name: str) -> bool:
        """Take a record away by making its file a spare one; False where it has to be removed.

        Its name is new each time: who takes a name off the queue is the only one that ever opens that file.
        """
        if self._spares is None or len(self._spares) >= _SPARES:
            return False
        spare = f"{self._life}-{next(self._spare_numbers)}"
        try:
            os.rename(name, spare, src_dir_fd=self._folders[state], dst_dir_fd=self._spare_folder)
        except OSError:
            return False
        self._spares.append(spare)
        return True

    def _write_aside(self, folder: int, name: str, data: bytes) -> None:
        aside = f".{_digest(name)}"
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _NOFOLLOW, 0o600, dir_fd=folder)
        try:
            if os.write(fd, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.rename(aside, name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            _remove(folder, aside)
            raise
        finally:
            os.close(fd)

    def move(self, attachment: Attachment, state: State) -> bool:
        """Move the record between states without writing it again; False where the disk refuses even that.

        Where a kill left two, it is the one that `find` gives.
        """
        name = _name(attachment.key)
        for source in _ORDER:
            try:
                if source is state:
                    os.stat(name, dir_fd=self._folders[state], follow_symlinks=False)
                    return True
                os.rename(name, name, src_dir_fd=self._folders[source], dst_dir_fd=self._folders[state])
                return True
            except FileNotFoundError:
                continue
            except OSError:
                return False
        return True

    def drop(self, key: AttachmentKey) -> None:
        """Forget the attachment, in whatever state it is. Missing is success."""
        name = _name(key)
        for state in State:
            if not self._spare(state, name):
                self._unlink(state, name)

    def written(self, stored: Stored) -> int | None:
        """When the file of a record was last written, in nanoseconds of the epoch; None where that is not known."""
        try:
            name = f"{stored.network}@{stored.digest}.json"
            return os.stat(name, dir_fd=self._folders[stored.state], follow_symlinks=False).st_mtime_ns
        except OSError:
            return None

    def drop_digest(self, network: str, digest: str) -> None:
        """Forget a record by its file's name: for those that cannot be read."""
        for state in State:
            self._unlink(state, f"{network}@{digest}.json")

    def number_of(self, name: str, given: Callable[[str], object] = lambda name: None) -> int:
        """The number of a network, or a VRF, on this node, kept for good (`numbers`). Raises TryAgain, IoFailure.

        `given` is called with the name if it had none before.
        """
        return self._numbers.of(name, given)

    def drop_number(self, name: str) -> None:
        """Have no number for it any more: the one it had is free. Raises TryAgain, IoFailure."""
        self._numbers.drop(name)

    def check_numbers(self) -> None:
        """Raises IoFailure where `number_of` would, but for a disk that cannot be written."""
        self._numbers.check()

    def _recorded_or_why_not(self) -> Iterator[Attachment | str]:
        for stored in self.all():
            yield stored.attachment or stored.problem

    def _read(self, state: State, name: str, patience: int = 3) -> Stored:
        digest = _digest(name)
        network = name.partition("@")[0]
        data = None
        try:
            data = self._data(state, name)
            attachment = Attachment.model_validate_json(data)
            if _name(attachment.key) != name:
                raise ValueError(f"it is the record of {attachment.key}")
        except FileNotFoundError:
            raise
        except (OSError, ValueError) as error:
            if patience and self._in_motion(state, name, data):
                return self._read(state, name, patience - 1)
            problem = (
                describe(error) if isinstance(error, ValidationError) else getattr(error, "strerror", None) or error
            )
            where = self.path / "attachments" / state / name
            return Stored(state, network, digest, None, f"{where}: {problem}")
        return Stored(state, network, digest, attachment)

    def _data(self, state: State, name: str) -> bytes:
        data = _contents(os.open(name, os.O_RDONLY | _NOFOLLOW, dir_fd=self._folders[state]))
        if state is State.ADDING and not data:
            raise FileNotFoundError  # made, but not written before a kill, or not yet
        return data

    def _in_motion(self, state: State, name: str, data: bytes | None) -> bool:
        """Whether the record may have been written, or have gone and its file become another's, while it was read.

        Raises FileNotFoundError where it has gone.
        """
        if state is State.ADDING:
            time.sleep(0.001)  # its ADD may be writing it this very moment
            return True
        try:
            return self._data(state, name) != data
        except FileNotFoundError:
            raise
        except OSError:
            return False

    def _unlink(self, state: State, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self._folders[state])
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno == errno.EROFS and not self._exists(state, name):
                return  # the kernel says so before it looks
            raise IoFailure(f"{self.path / 'attachments' / state / name}: {error.strerror}") from None

    def _exists(self, state: State, name: str) -> bool:
        """Also where the disk cannot say."""
        try:
            os.stat(name, dir_fd=self._folders[state], follow_symlinks=False)
        except FileNotFoundError:
            return False
        except OSError:
            pass
        return True


def _remove(folder: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except OSError:
        pass


def _contents(fd: int) -> bytes:
    """All of a file, with fewer system calls than `open`; closes it."""
    try:
        data = os.read(fd, _PAGE + 1)
        while len(data) > _PAGE and (more := os.read(fd, 1 << 20)):
            data += more
        return data
    finally:
        os.close(fd)


def _name(key: AttachmentKey) -> str:
    return f"{key.network}@{key.digest}.json"


def _digest(name: str) -> str:
    return name.partition("@")[2].removesuffix(".json")
