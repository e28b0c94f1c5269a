"""The records of the attachments: one file each, written completely or not at all. Its folder is its state.

    data_dir/attachments/adding|up|leaving/NETWORK@DIGEST.json

Only this module writes records. They are the only state: everything else (what is announced, which addresses are held)
follows from them. There is no fsync, because a record of another boot is void: its namespace is gone. The numbers of
networks outlast a boot and are kept elsewhere (`numbers`).
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from bgpcni import folders, locks
from bgpcni.census import Census
from bgpcni.config.network import describe
from bgpcni.errors import IoFailure, TryAgain
from bgpcni.known import Known
from bgpcni.model import Attachment, AttachmentKey, Shared, State
from bgpcni.numbers import Numbers
from bgpcni.steps import step

log = logging.getLogger(__name__)
_NOFOLLOW = os.O_CLOEXEC | os.O_NOFOLLOW
_PAGE = 4096
"""So many octets are written completely or not at all: the smallest page of any architecture."""
_SPARES = 256
"""How many files of deleted records are kept for reuse: as many as there are calls at once."""
_ORDER = (State.UP, State.LEAVING, State.ADDING)
"""If an attachment has several records, the first of these states counts."""
_COURSE = (State.ADDING, State.UP, State.LEAVING)
"""The states in the order in which a record goes through them."""


class Stored(NamedTuple):
    """A record that was found. If it cannot be read, `attachment` is None and `problem` says why."""

    state: State
    network: str
    digest: str
    attachment: Attachment | None
    problem: str = ""

    @property
    def told(self) -> bool:
        """Whether exporters may have been given its routes, by the ADD that wrote the record or by an earlier one."""
        return self.state is not State.ADDING or (self.attachment is not None and bool(self.attachment.since))


@dataclass(slots=True)
class _Turn:
    """The lock of one attachment between threads, which does not depend on a file. `users` hold it or wait for it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    users: int = 0


class Store:
    """Records, and a lock for each attachment. Safe for threads; between processes the attachment's lock protects
    it."""

    def __init__(self, data_dir: Path, run_dir: Path, census: Census | None = None) -> None:
        """Opens (and makes) both folders. Raises IoFailure. `census`: is told of each change, after `count`."""
        self.path = data_dir
        self.run_path = run_dir
        self.run_fd = folders.open_folder(run_dir)
        self.data_fd = folders.open_folder(data_dir)
        self._locks = folders.open_below("locks", self.run_fd, run_dir)
        self._base = folders.open_below("attachments", self.data_fd, data_dir)
        self._folders = {
            state: folders.open_below(state.value, self._base, data_dir / "attachments") for state in State
        }
        self._census = census
        self._known: Known[Stored] | None = None
        self._shared = Shared()
        self._numbers = Numbers(self.data_fd, data_dir, self._recorded_or_why_not)
        self._spares: deque[str] | None = None
        self._spare_folder = -1
        self._turns: dict[str, _Turn] = {}
        self._changing = threading.Lock()
        self._renewing = threading.Lock()
        self._life, self._spare_numbers = secrets.token_hex(8), count()  # `next` of a count is atomic

    def recycle(self) -> None:
        """Reuse the files of deleted records from now on. Only for the agent, once it is sure to be alone.

        Making and removing files is what takes a journaling file system longest: ext4 looks at every inode that was
        freed in the last seconds. Raises IoFailure.
        """
        self._spare_folder = folders.open_below("spare", self.data_fd, self.path)
        self._spares = deque(folders.listed(self._spare_folder))

    def remember(self) -> None:
        """Keep every record in memory from now on, as true as on disk. Only for the agent: it needs 25 MB for 10,000.

        If the kernel cannot tell what is changed, the records are read each time that all are asked for.
        """
        from bgpcni.kernel import inotify  # a call without an agent needs neither it nor ctypes

        try:
            changes = inotify.Watch(self._folders.values())
        except OSError as error:
            log.warning("%s: the agent reads all records for each command, because it cannot watch them: %s",
                        self.path / "attachments", error.strerror)  # fmt: skip
            return
        order = {state: place for place, state in enumerate(_ORDER)}
        self._known = Known(changes, self._listed, self._lean, lambda item: (order[item[1].state], item[0]))

    def listen(self) -> str:
        """Note what was changed. The agent calls it now and then, so that the kernel's queue does not overflow."""
        if self._known is not None:
            self._known.listen()
        return ""

    def count(self) -> None:
        """Enter every record into the census. Only for the agent, before anything changes."""
        for stored in self.all() if self._census is not None else ():
            assert self._census is not None
            self._census.written(f"{stored.network}@{stored.digest}.json", stored.network, stored.state,
                                 stored.attachment)  # fmt: skip

    def renew(self) -> bool:
        """If someone has removed run_dir, make it again, with what is below it. Returns whether it was removed.

        The descriptors keep their numbers, so their users need not notice. Raises IoFailure.
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
        if self._known is not None:
            self._known.close()
        if self._spares is not None:
            os.close(self._spare_folder)
        for fd in (*self._folders.values(), self._base, self._locks, self.data_fd, self.run_fd):
            os.close(fd)

    def locked(self, key: AttachmentKey, seconds: float) -> AbstractContextManager[None]:
        """Hold this attachment's lock. Raises TryAgain (11) if it is busy for longer than `seconds`."""
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
                if self._recorded(key):  # the lock's file is kept as long as the record
                    os.close(fd)
                else:
                    locks.discard(key.digest, self._locks, fd)

    @contextmanager
    def _turn(self, name: str, busy: str, seconds: float) -> Iterator[None]:
        """Be the only thread: if the lock's file was removed, a second thread of this process could lock a new one."""
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
        """Be the only one that announces or withdraws a route that several attachments want. Raises TryAgain (11)."""
        path = self.run_path / "shared.lock"
        busy = f"{path} is held by another call; try again"
        fd = self._obtain(path.name, self.run_fd, path, busy, seconds)
        try:
            yield
        finally:
            os.close(fd)

    def find(self, key: AttachmentKey) -> Stored | None:
        """The record of one attachment. If a kill left two, that in the later state counts."""
        return self._find(_name(key))

    def _find(self, name: str) -> Stored | None:
        for state in _ORDER:
            try:
                return self._read(state, name)
            except FileNotFoundError:
                continue
        return None

    def names(self) -> list[str]:
        """The names of all records, each once, even if it is moved from one state to the next meanwhile."""
        return self._listed() if self._known is None else list(self._known.all())

    def _listed(self) -> list[str]:
        listed = {state: folders.listed(self._folders[state]) for state in _COURSE}
        ordered = (name for state in _ORDER for name in sorted(listed[state]))
        return list(dict.fromkeys(filter(_is_record, ordered)))

    def all(self, names: Iterable[str] | None = None) -> Iterator[Stored]:
        """Every record once, or those of these names that are still there. Without `remember` it reads all: for the
        start and operators."""
        if self._known is None:
            yield from filter(None, map(self._moving, self._listed() if names is None else names))
            return
        known = self._known.all()
        yield from known.values() if names is None else (known[name] for name in names if name in known)

    def _moving(self, name: str) -> Stored | None:
        """The record of this name, which may have been moved to the next state each time we look."""
        return next(filter(None, (self._find(name) for _ in _COURSE)), None)

    def _lean(self, name: str) -> Stored | None:
        """As `_moving`, with little memory. None for a file that is no record."""
        stored = self._moving(name) if _is_record(name) else None
        if stored is not None and stored.attachment is not None:
            stored.attachment.share(self._shared)
        return stored

    def unwritable(self) -> str:
        """Why no record could be written now; "" if nothing prevents it."""
        for descriptor, folder in ((self._locks, self.run_path / "locks"), (self._base, self.path / "attachments")):
            if not os.fstat(descriptor).st_nlink:
                return f"{folder}: No such file or directory: it was removed, restart the agent"
        disk = os.fstatvfs(self._base)
        if disk.f_flag & os.ST_RDONLY:
            return f"{self.path / 'attachments'}: Read-only file system"
        if not disk.f_bfree or (disk.f_files and not disk.f_ffree):  # with the blocks for root, as which we write
            return f"{self.path / 'attachments'}: No space left on device"
        return ""

    def unreadable(self) -> set[str]:
        """The networks with a record that cannot be read."""
        return {stored.network for stored in self.all() if stored.attachment is None}

    def sweep(self) -> None:
        """Remove what a kill left: incomplete and empty files, the earlier of two records, locks without a record.

        Only for the agent, once it is sure to be alone.
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
        """Write the record into `state`, completely or not at all, and remove it from other states. Raises
        IoFailure."""
        name, data = _name(attachment.key), attachment.model_dump_json(by_alias=True).encode() + b"\n"
        # `up` follows `adding`: the same file is overwritten and then moved
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
        if self._census is not None:
            self._census.written(name, attachment.network, state, attachment)

    def _write(self, folder: int, name: str, data: bytes) -> None:
        """Write a new record or overwrite one. Raises OSError; then the file is as it was before.

        A kill cannot interrupt a write within one page, so such a record is written in place. If it became shorter, it
        is padded with spaces, which JSON allows. A larger record is written to another file, which is renamed.
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
        """Write a new record into the file of a deleted one and rename that. False if there is none into which it
        fits."""
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
                pass  # the caller makes a new file, or learns there what is wrong
            finally:
                os.close(fd)
            _remove(self._spare_folder, spare)
        return False

    def _spare(self, state: State, name: str) -> bool:
        """Delete a record by keeping its file for reuse. False if the file has to be removed.

        The file gets a new name each time, so only the thread that takes the name off the queue opens it.
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
        """Move the record to another state without writing it again. False if the disk refuses even that.

        If a kill left two records, the one that `find` returns is moved.
        """
        name = _name(attachment.key)
        for source in _ORDER:
            try:
                if source is state:
                    os.stat(name, dir_fd=self._folders[state], follow_symlinks=False)
                    return True
                os.rename(name, name, src_dir_fd=self._folders[source], dst_dir_fd=self._folders[state])
                if self._census is not None:
                    self._census.moved(name, state)
                return True
            except FileNotFoundError:
                continue
            except OSError:
                return False
        return True

    def delete(self, key: AttachmentKey) -> None:
        """Delete the record of an attachment, in whatever state it is. A missing one is no error."""
        name = _name(key)
        for state in State:
            if not self._spare(state, name):
                self._unlink(state, name)
        if self._census is not None:
            self._census.gone(name)

    def written(self, stored: Stored) -> int | None:
        """When the file of a record was last written, in nanoseconds since the epoch; None if that is not known."""
        try:
            name = f"{stored.network}@{stored.digest}.json"
            return os.stat(name, dir_fd=self._folders[stored.state], follow_symlinks=False).st_mtime_ns
        except OSError:
            return None

    def delete_unreadable(self, network: str, digest: str) -> None:
        """Delete a record that cannot be read, by the parts of its file's name."""
        name = f"{network}@{digest}.json"
        for state in State:
            self._unlink(state, name)
        if self._census is not None:
            self._census.gone(name)

    def number_of(self, name: str, given: Callable[[str], object] = lambda name: None) -> int:
        """The permanent number of a network or VRF on this node (`numbers`). Raises TryAgain, IoFailure.

        `given` is called with the name if it gets a new number.
        """
        return self._numbers.of(name, given)

    def free_number(self, name: str) -> None:
        """Free the number of a network or VRF. Raises TryAgain, IoFailure."""
        self._numbers.free(name)

    def check_numbers(self) -> None:
        """Raises IoFailure if `number_of` would, except for a disk that cannot be written."""
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
            attachment = Attachment.of_disk(data)
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
            raise FileNotFoundError  # it was made, but a kill prevented writing it, or it is not written yet
        return data

    def _in_motion(self, state: State, name: str, data: bytes | None) -> bool:
        """Whether the record may have been written, or deleted and its file reused, while we read it.

        Raises FileNotFoundError if it was deleted.
        """
        if state is State.ADDING:
            time.sleep(0.001)  # its ADD may be writing it at this moment
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
                return  # the kernel returns this error before it looks for the file
            raise IoFailure(f"{self.path / 'attachments' / state / name}: {error.strerror}") from None

    def _exists(self, state: State, name: str) -> bool:
        """Whether the file exists. Also True if the disk cannot tell."""
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
    """The content of an open file, read with fewer system calls than `open` needs. Closes it."""
    try:
        data = os.read(fd, _PAGE + 1)
        while len(data) > _PAGE and (more := os.read(fd, 1 << 20)):
            data += more
        return data
    finally:
        os.close(fd)


def _is_record(name: str) -> bool:
    return name.endswith(".json") and not name.startswith(".")


def _name(key: AttachmentKey) -> str:
    return f"{key.network}@{key.digest}.json"


def _digest(name: str) -> str:
    return name.partition("@")[2].removesuffix(".json")
