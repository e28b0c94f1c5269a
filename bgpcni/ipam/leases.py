"""The folder with the leases of a network, in the format of the stock host-local, which may use it at the same time.

There is one file for each address; its name is the address, its content is `CONTAINERID\\r\\nIFNAME` (entries of old
versions lack the second line; where networks share a folder, the network's name is the third). There are also
`last_reserved_ip.N`, and `lock`, which every operation here holds by flock. Operations block. They are safe from any
number of threads and processes; nothing is kept in memory.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from bgpcni.errors import CheckFailed, InvalidConfiguration, IoFailure, TryAgain
from bgpcni.files import Unfit, require_plain
from bgpcni.ip import ip_address
from bgpcni.ipam.config import DEFAULT_DATA_DIR

Holder = tuple[str, str]
"""Container ID and interface name of who holds an address."""
Owner = tuple[str, str | None]
"""The same as a lease says it; no interface name in entries that old versions wrote."""

LOCK_SECONDS = 30.0
_SEPARATOR = "\r\n"
_FILE_MODE, _LOCK_MODE, _FOLDER_MODE = 0o644, 0o640, 0o755  # whoever may open the lock file may hold the lock
_CONTENT_MAX = 4096
_turns: dict[str, threading.Lock] = {}
"""By folder: the lock between the threads of this process."""


class Entry(NamedTuple):
    """A lease as it was found. If two entries of one address are equal, it was not written again in between."""

    inode: int
    mtime_ns: int
    content: str

    @property
    def owner(self) -> Owner:
        container_id, *rest = self.content.strip().split(_SEPARATOR)
        return container_id, rest[0] if rest else None

    @property
    def network(self) -> str:
        """ "" where the folder is one network's."""
        return "".join(self.content.strip().split(_SEPARATOR)[2:3])


class Leases:
    """The leases of one network. `data_dir` None: the stock plugin's default.

    `recorded` gives the addresses, without prefix length, that are known to be in use otherwise, with their owner
    (container ID, interface name): a lease of these that lost its content is written again. Called if need be only.

    Every method raises IoFailure with path and reason when the disk refuses, and TryAgain when another process
    does not let go of the lock for LOCK_SECONDS. Only `add`, in the subclass, creates anything.
    """

    def __init__(self, data_dir: str | None, network: str, recorded: Callable[[], Mapping[str, Holder]] = dict) -> None:
        self.network = network
        self.folder = self._place(data_dir, network)
        self._recorded = recorded

    def _place(self, data_dir: str | None, network: str) -> str:
        return folder_of(data_dir, network)

    @property
    def scope(self) -> str:
        """What a reboot's leases are looked for in, once: a folder, or a network's part of it."""
        return self.folder

    def _content(self, owner: Holder) -> str:
        return content_of(*owner)

    def is_leased_elsewhere(self, addresses: Iterable[str]) -> bool:
        """Whether the folder of another network beside this one has a lease of an address without prefix length."""
        base = os.path.dirname(self.folder)
        try:
            others = [name for name in os.listdir(base) if name != self.network]
        except OSError:
            return False
        return any(os.path.lexists(os.path.join(base, name, address)) for name in others for address in addresses)

    def release(
        self,
        container_id: str,
        ifname: str,
        addresses: Sequence[str] | None = None,
        spared: Callable[[str, Entry], bool] | None = None,
    ) -> list[str]:
        """Give back what (container_id, ifname) holds; return the addresses, without prefix length.

        `addresses` known, with or without prefix length: only these files are touched, and each only if that is
        its owner, or nobody because the file lost its content. None: the whole folder is searched, as the stock
        plugin's DEL does. `spared`: which of its leases stay all the same.
        """
        with self._locked() as folder:
            if folder is None:
                return []
            if addresses is None:
                entries = self._entries(folder)
            else:
                names = [bare(address) for address in addresses]
                entries = {name: entry for name in names if (entry := self._read(folder, name))}
            mine = _of_owner(entries, container_id, ifname)
            if addresses is not None:
                mine |= {name: entry for name, entry in entries.items() if not entry.content.strip()}
            return [n for n, entry in mine.items() if not (spared and spared(n, entry)) and self._unlink(folder, n)]

    def hand_back(self, address: str, owner: Holder, holder: Holder) -> bool:
        """Give an address that `owner` took back to `holder`; it is never free. False if `owner` does not have it."""
        with self._locked() as folder:
            return folder is not None and self._hand_over(folder, bare(address), owner, holder)

    def held(self, container_id: str, ifname: str) -> list[str]:
        """The addresses that (container_id, ifname) holds: what `release` would give back."""
        with self._locked() as folder:
            return [] if folder is None else list(_of_owner(self._entries(folder), container_id, ifname))

    def entries(self, addresses: Sequence[str] | None = None) -> dict[str, Entry]:
        """All leases by address, or those of `addresses`, with or without prefix length."""
        with self._locked() as folder:
            if folder is None:
                return {}
            if addresses is None:
                return self._entries(folder)
            return {name: entry for name in map(bare, addresses) if (entry := self._read(folder, name))}

    def seen(self) -> dict[str, Entry]:
        """All leases by address as they are at this moment, also empty ones. It takes no lock and changes nothing."""
        folder = self._open(create=False)
        if folder is None:
            return {}
        try:
            return {name: entry for name in self._names(folder) if (entry := self._read(folder, name))}
        finally:
            os.close(folder)

    def owner(self, address: str) -> Owner | None:
        """Who holds an address, None if nobody does."""
        name = bare(address)
        with self._locked() as folder:
            entry = None if folder is None else self._read(folder, name)
        return None if entry is None else entry.owner

    def check(self, container_id: str, ifname: str, addresses: Sequence[str]) -> None:
        """Raise CheckFailed unless (container_id, ifname) holds each of `addresses`."""
        for address in addresses:
            owner = self.owner(address)
            if owner not in ((container_id, ifname), (container_id, None)):
                found = "there is none" if owner is None else f"it is held by {owner[0]}"
                raise CheckFailed(f"no lease of {bare(address)} for {container_id} {ifname} in {self.folder}: {found}")

    def gc(self, valid: Collection[Holder], stay: Collection[Owner] = ()) -> list[str]:
        """Release all whose owner is not among `valid` (container ID, interface name); return the addresses.

        `stay`: owners whose leases are kept all the same.
        """
        with self._locked() as folder:
            if folder is None:
                return []
            released = []
            for name, entry in self._entries(folder).items():
                if not is_among(entry.owner, valid) and entry.owner not in stay and self._unlink(folder, name):
                    released.append(name)
            return released

    def reclaim(self, decide: Callable[[Mapping[str, Entry]], Collection[str]]) -> list[str]:
        """Give all leases to `decide` and release the addresses that it returns, without letting go of the lock."""
        with self._locked() as folder:
            entries = {} if folder is None else self._entries(folder)
            doomed = decide(entries)
            return [name for name in entries if folder is not None and name in doomed and self._unlink(folder, name)]

    @contextmanager
    def _locked(self, *, create: bool = False) -> Iterator[int | None]:
        """The folder's descriptor, the lock held; None if there is no folder, and so no lease."""
        folder = self._open(create=create)
        if folder is None:
            yield None
            return
        try:
            with self._flock(folder):
                yield folder
        finally:
            os.close(folder)

    def _open(self, *, create: bool) -> int | None:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        try:
            try:
                return os.open(self.folder, flags)
            except FileNotFoundError:
                if not create:
                    return None
                _make_folder(self.folder)
                return os.open(self.folder, flags)
        except OSError as error:
            raise IoFailure(f"{error.filename or self.folder}: {error.strerror}") from error

    @contextmanager
    def _flock(self, folder: int) -> Iterator[None]:
        """Hold the lock. Threads of this process first wait for each other, so that only one of them polls."""
        turn = _turns.setdefault(self.folder, threading.Lock())
        if not turn.acquire(timeout=LOCK_SECONDS):
            raise self._busy()
        try:
            with self._flock_between_processes(folder):
                yield
        finally:
            turn.release()

    @contextmanager
    def _flock_between_processes(self, folder: int) -> Iterator[None]:
        try:
            lock = os.open("lock", os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, _LOCK_MODE, dir_fd=folder)
        except OSError as error:
            raise self._failure("lock", error) from error
        try:
            deadline = time.monotonic() + LOCK_SECONDS
            while not _try_lock(lock):
                if time.monotonic() > deadline:
                    raise self._busy()
                # We poll, because flock has no deadline; at uneven times, so that not all waiters try at once.
                time.sleep(0.0002 + time.monotonic_ns() % 1000 / 1e6)
            yield
        finally:
            os.close(lock)

    def _busy(self) -> TryAgain:
        return TryAgain(f"{self.folder}/lock: held by another for {LOCK_SECONDS:.0f} s")

    def _names(self, folder: int) -> list[str]:
        try:
            return [name for name in os.listdir(folder) if _is_address(name)]
        except OSError as error:
            raise IoFailure(f"{self.folder}: {error.strerror}") from error

    def _entries(self, folder: int) -> dict[str, Entry]:
        """All leases."""
        return {name: entry for name in self._names(folder) if (entry := self._read_live(folder, name))}

    def _read_live(self, folder: int, name: str) -> Entry | None:
        """Read a lease. One without content is from a writer that died, since nobody writes while we hold the lock. It
        is written again if a record has the address, and removed otherwise."""
        entry = self._read(folder, name)
        if entry is None or entry.content.strip():
            return entry
        owner = self._recorded().get(name)
        if owner is None:
            self._unlink(folder, name)
            return None
        self._overwrite(folder, name, content_of(*owner))
        return self._read(folder, name)

    def _read(self, folder: int, name: str) -> Entry | None:
        try:
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failure(name, error) from error
        try:
            status = os.fstat(file)
            require_plain(status)
            content = os.read(file, _CONTENT_MAX).decode(errors="replace")
        except Unfit:  # no lease, and not ours to remove
            return None
        except OSError as error:
            raise self._failure(name, error) from error
        finally:
            os.close(file)
        return Entry(inode=status.st_ino, mtime_ns=status.st_mtime_ns, content=content)

    def _unlink(self, folder: int, name: str) -> bool:
        try:
            os.unlink(name, dir_fd=folder)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._failure(name, error) from error
        return True

    def _create(self, folder: int, name: str, text: str) -> bool:
        """Write a new small file whole, or leave none; False if there is one already."""
        try:
            file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE, dir_fd=folder)
        except FileExistsError:
            return False
        except OSError as error:
            raise self._failure(name, error) from error
        self._fill(folder, name, file, text)
        return True

    def _overwrite(self, folder: int, name: str, text: str) -> None:
        """Write a small file whole, whether there is one or not; on failure there is none.

        In place: truncating first would make ext4 flush it to disk on closing.
        """
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            file = os.open(name, flags, _FILE_MODE, dir_fd=folder)
        except OSError as error:
            raise self._failure(name, error) from error
        self._fill(folder, name, file, text)

    def _fill(self, folder: int, name: str, file: int, text: str) -> None:
        data = text.encode()
        plain = False
        try:
            status = os.fstat(file)
            require_plain(status)
            plain = True
            if os.write(file, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if status.st_size > len(data):
                os.ftruncate(file, len(data))
        except OSError as error:
            if plain:
                self._unlink(folder, name)
            raise self._failure(name, error) from error
        finally:
            os.close(file)

    def _hand_over(self, folder: int, name: str, old: Holder, new: Holder) -> bool:
        """Give a lease to another owner without the address ever being free; False if `old` has it not."""
        entry = self._read(folder, name)
        if entry is None or entry.owner not in (old, (old[0], None)):
            return False
        self._overwrite(folder, f".{name}.new", self._content(new))
        try:
            os.rename(f".{name}.new", name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError as error:
            raise self._failure(name, error) from error
        return True

    def _failure(self, name: str, error: OSError) -> IoFailure:
        return IoFailure(f"{self.folder}/{name}: {error.strerror}")


CLUSTER = "bgpcni-ipam"
"""The type of IPAM whose leases are in one folder for all networks."""


def folder_for(kind: str, data_dir: str | None, network: str) -> str:
    """The folder of the leases by which an IPAM of this type knows a network's addresses."""
    return data_dir or "" if kind == CLUSTER else folder_of(data_dir, network)


def folder_of(data_dir: str | None, network: str) -> str:
    """The folder of a network's leases. Raises InvalidConfiguration for a name that is no folder's."""
    if not network or "/" in network or "\0" in network or network in (".", ".."):
        raise InvalidConfiguration(f"name: {network!a} cannot name a folder")
    return os.path.join(data_dir or DEFAULT_DATA_DIR, network)


def is_among(owner: Owner, valid: Collection[Holder]) -> bool:
    """Whether the owner of a lease is listed. One without an interface name is if its container is listed."""
    return any(owner[0] == listed for listed, _ in valid) if owner[1] is None else owner in valid


def _of_owner(entries: Mapping[str, Entry], container_id: str, ifname: str) -> dict[str, Entry]:
    """As in the stock plugin, an entry without interface counts only if there is none with it."""
    mine = {name: entry for name, entry in entries.items() if entry.owner == (container_id, ifname)}
    return mine or {name: entry for name, entry in entries.items() if entry.owner == (container_id, None)}


def bare(address: str) -> str:
    """The canonical text of an address, which is the name of its file, without the prefix length."""
    try:
        return str(ip_address(address.partition("/")[0]))
    except ValueError:
        raise InvalidConfiguration(f"ipam: {address!a} is no IP address") from None


def content_of(container_id: str, ifname: str) -> str:
    """The content of the file of a lease."""
    return f"{container_id}{_SEPARATOR}{ifname}"


def _make_folder(path: str) -> None:
    """mkdir -p with the mode on every level; makedirs would leave those above to the umask."""
    try:
        os.mkdir(path, _FOLDER_MODE)
    except FileExistsError:
        return
    except FileNotFoundError:
        _make_folder(os.path.dirname(path))
        _make_folder(path)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EINTR):
            raise IoFailure(f"flock: {error.strerror}") from error
        return False
    return True
