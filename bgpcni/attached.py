"""What `bgpcni attach` keeps for its detach: a file for each attachment, and a name under /var/run/netns.

These are not the agent's records. The agent only takes a name down whose namespace is gone; the rest belongs to the
commands (`operator.attach`).
"""

from __future__ import annotations

import errno
import logging
import os
import select
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from bgpcni import folders, locks, paths
from bgpcni.config.network import describe
from bgpcni.errors import CniError, InvalidNamespace, IoFailure
from bgpcni.kernel.namespace import Namespace, NotANamespace, boot_id, home_cookie
from bgpcni.model import AttachmentKey, Record

log = logging.getLogger(__name__)
Document = dict[str, Any]
NETNS = Path("/var/run/netns")
"""Where iproute2 looks for named namespaces."""
LOCK_SECONDS = 60.0
_NOFOLLOW = os.O_CLOEXEC | os.O_NOFOLLOW


class Kept(Record):
    """What an attach leaves for its detach. `result` is None while the plugins run.

    `name`: the symlink under /var/run/netns that was made, None if the name was not free; `targets`: where it may
    lead and still be ours. `cookie` is the namespace's, unique within `boot_id`.
    """

    schema_number: Literal[1] = Field(default=1, alias="schema")
    network: Document
    container_id: str
    ifname: str
    pid: int
    boot_id: str
    cookie: int
    name: str | None = None
    targets: tuple[str, ...] = ()
    result: Document | None = None

    @property
    def key(self) -> AttachmentKey:
        return AttachmentKey(self.network["name"], self.container_id, self.ifname)


class Memory:
    """The files of attachments made by hand, one each, and a lock for each. Not the agent's records."""

    def __init__(self, folder: Path) -> None:
        self._path = folder
        self._fd = folders.open_folder(folder)

    @contextmanager
    def locked(self, key: AttachmentKey) -> Iterator[None]:
        name, busy = f"{key.digest}.lock", f"{key}: another attach or detach of it is running"
        fd = locks.obtain(name, self._fd, self._path, busy=busy, seconds=LOCK_SECONDS)
        try:
            yield
        finally:
            locks.discard(name, self._fd, fd)

    def find(self, key: AttachmentKey) -> Kept | None:
        try:
            return self._read(_file(key))
        except FileNotFoundError:
            return None

    def of_network(self, network: str) -> list[Kept]:
        """What is kept for one network. Raises IoFailure if a file cannot be read."""
        return list(self._all(f"{network}@"))

    def elsewhere(self, network: str) -> Iterator[Kept]:
        """What is kept for other networks. Files that cannot be read are left out, since nobody asked for them."""
        for name in self._names(""):
            if not name.startswith(f"{network}@"):
                try:
                    yield self._read(name)
                except (FileNotFoundError, IoFailure):
                    continue

    def _all(self, prefix: str) -> Iterator[Kept]:
        for name in self._names(prefix):
            try:
                yield self._read(name)
            except FileNotFoundError:
                continue  # detached meanwhile

    def _names(self, prefix: str) -> list[str]:
        names = folders.listed(self._fd)
        return sorted(name for name in names if name.startswith(prefix) and name.endswith(".json") and name[0] != ".")

    def put(self, kept: Kept) -> None:
        """Write it, whole or not at all. Raises IoFailure."""
        name = _file(kept.key)
        data = kept.model_dump_json(by_alias=True).encode() + b"\n"
        try:
            fd = os.open(f".{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _NOFOLLOW, 0o600, dir_fd=self._fd)
            with open(fd, "wb") as file:
                file.write(data)
            os.rename(f".{name}", name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except OSError as error:
            raise IoFailure(f"{self._path / name}: {error.strerror}") from None

    def drop(self, key: AttachmentKey) -> None:
        try:
            os.unlink(_file(key), dir_fd=self._fd)
        except FileNotFoundError:
            pass

    def _read(self, name: str) -> Kept:
        try:
            with open(os.open(name, os.O_RDONLY | _NOFOLLOW, dir_fd=self._fd), "rb") as file:
                text = file.read()
            return Kept.of_disk(text)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise IoFailure(f"{self._path / name}: {error.strerror}") from None
        except ValidationError as error:
            raise IoFailure(f"{self._path / name} is damaged, remove it: {describe(error)}") from None


def _file(key: AttachmentKey) -> str:
    return f"{key.network}@{key.digest}.json"


# ---------------------------------------------------------------- the name under /var/run/netns


@dataclass(frozen=True, slots=True)
class Sign:
    """A symlink under /var/run/netns that shows a namespace to `ip netns`."""

    path: Path
    targets: tuple[str, ...]

    def make(self, target: str) -> bool:
        """Make the symlink if the name is free. Returns whether it was."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.symlink(target, self.path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return False
            raise IoFailure(f"{self.path}: {error.strerror}") from None
        return True

    def turn(self, target: str) -> None:
        """Change where it leads; it is never missing meanwhile. If it is not ours any more, it stays."""
        if self.ours():
            fresh = self.path.with_name(f".{self.path.name[:200]}.{os.getpid()}")
            try:
                os.symlink(target, fresh)
                os.rename(fresh, self.path)
            except OSError as error:
                raise IoFailure(f"{self.path}: {error.strerror}") from None

    def take_down(self) -> None:
        if self.ours():
            try:
                os.unlink(self.path)
            except FileNotFoundError:
                pass

    def ours(self) -> bool:
        try:
            return os.readlink(self.path) in self.targets
        except OSError:
            return False


def memory_folder(environment: Mapping[str, str]) -> Path:
    """`attached` in $BGPCNI_DATA_DIR, else in the default data_dir."""
    return Path(environment.get("BGPCNI_DATA_DIR") or paths.DATA_DIR) / "attached"


def open_memory(environment: Mapping[str, str]) -> Memory:
    """The memory in `memory_folder`, made if it is not there. Raises IoFailure."""
    folder = memory_folder(environment)
    os.close(folders.open_folder(folder.parent))
    return Memory(folder)


# ---------------------------------------------------------------- the namespace


@contextmanager
def namespace_of(pid: int) -> Iterator[Namespace]:
    """The network namespace of a process, open for the block. Raises InvalidNamespace in words."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as error:
        reason = "there is none" if isinstance(error, ProcessLookupError) else error.strerror
        raise InvalidNamespace(f"process {pid}: {reason}") from None
    try:
        try:
            space = Namespace.open(f"/proc/{pid}/ns/net")
        except NotANamespace as error:
            raise InvalidNamespace(f"process {pid}: {error}") from None
        with space:
            if select.select([pidfd], [], [], 0)[0]:
                raise InvalidNamespace(f"process {pid} has ended")
            if space.cookie == home_cookie():
                raise InvalidNamespace(f"process {pid} is in the node's own network namespace")
            yield space
    finally:
        os.close(pidfd)


@contextmanager
def still(kept: Kept) -> Iterator[str]:
    """CNI_NETNS for a DEL: a path to the namespace that was attached, "" if it has gone."""
    with ExitStack() as stack:
        netns = ""
        if kept.boot_id == boot_id():
            try:
                space = stack.enter_context(namespace_of(kept.pid))
            except InvalidNamespace:
                pass
            else:
                netns = f"/proc/{os.getpid()}/fd/{space.fd}" if space.cookie == kept.cookie else ""
        yield netns


def take_down_name(memory_folders: Iterable[Path], key: AttachmentKey) -> None:
    """Remove the name that `attach` gave a namespace, if that has gone. `key`: an attachment whose link has gone.

    What else `attach` keeps stays for detach, which has the rest of the chain to undo. Of an attachment that another
    made there is nothing. Never raises: a name that stays is a nuisance, and detach removes it too.
    """
    for folder in memory_folders:
        try:
            if not folder.is_dir():
                continue
            kept = Memory(folder).find(key)
            if kept is not None and kept.name is not None and _is_gone(kept):
                Sign(Path(kept.name), kept.targets).take_down()
        except (OSError, CniError) as error:
            log.info("%s: its name under %s stays: %s", key, NETNS, error, extra=key.fields)


def _is_gone(kept: Kept) -> bool:
    with still(kept) as netns:
        return not netns
