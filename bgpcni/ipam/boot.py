"""Leases that a reboot left behind: no container survives one, but the stock plugin's files do.

Whether a lease may go is decided purely (`reclaimable`); `Reclaimer` reads and keeps what that needs. A lease
is given up only if it was there at our first call after the boot, is older than the boot, was not written again
since, and no record of ours speaks of it. Clocks step, so age alone decides nothing: the noted set does.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from bgpcni.errors import IoFailure
from bgpcni.ipam.leases import Entry, Leases


@dataclass(frozen=True, slots=True)
class Noted:
    """What of a lease was written down at the first call: enough to see that it is still that one."""

    inode: int
    mtime_ns: int
    digest: str

    @classmethod
    def of(cls, entry: Entry) -> Noted:
        return cls(entry.inode, entry.mtime_ns, hashlib.sha256(entry.content.encode()).hexdigest()[:32])


def reclaimable(
    noted: Mapping[str, Noted], now: Mapping[str, Entry], booted_ns: int, recorded: Collection[tuple[str, str]]
) -> list[str]:
    """The addresses whose leases a reboot left behind.

    `noted`: leases at the first call after the boot; `now`: as they are; `booted_ns`: `boot_time_ns`;
    `recorded`: (container ID, interface name) of every record of ours in this network, of whatever boot.
    """
    ids = {container_id for container_id, _ in recorded}
    doomed = []
    for address, entry in now.items():
        container_id, ifname = entry.owner
        ours = container_id in ids if ifname is None else (container_id, ifname) in recorded
        if not ours and entry.mtime_ns < booted_ns and noted.get(address) == Noted.of(entry):
            doomed.append(address)
    return doomed


class Reclaimer:
    """Reclaims each network's leases once per boot; remembers it in a file of `run_dir`, which a reboot empties.

    `boot_id`: this boot's; where run_dir outlives a reboot the one in the file tells. `booted_ns`: `boot_time_ns`
    unless given.
    """

    def __init__(self, run_dir: str, boot_id: str, booted_ns: int | None = None) -> None:
        self.run_dir = run_dir
        self.boot_id = boot_id
        self.booted_ns = boot_time_ns() if booted_ns is None else booted_ns

    def run(self, leases: Leases, recorded: Collection[tuple[str, str]]) -> list[str]:
        """Release what `reclaimable` finds; the addresses. Nothing, and cheaply so, after the first time.

        To be called before the first lease of a network is taken in this boot. Raises IoFailure, TryAgain.
        """
        if self.done(leases):
            return []

        def decide(entries: Mapping[str, Entry]) -> list[str]:
            noted = self._load(leases)
            if noted is None:
                noted = {address: Noted.of(entry) for address, entry in entries.items()}
                self._save(leases, noted)
            return reclaimable(noted, entries, self.booted_ns, recorded)

        released = leases.reclaim(decide)
        self._save(leases, {})
        return released

    def done(self, leases: Leases) -> bool:
        """Whether this network was dealt with in this boot; one small file is read."""
        return self._load(leases) == {}

    def _path(self, leases: Leases) -> str:
        return os.path.join(self.run_dir, f"leases-{hashlib.sha256(leases.folder.encode()).hexdigest()[:16]}.json")

    def _load(self, leases: Leases) -> dict[str, Noted] | None:
        """The leases noted in this boot and not dealt with; None if none were noted yet."""
        try:
            with open(self._path(leases), encoding="utf-8") as file:
                document = json.load(file)
            if document["boot_id"] != self.boot_id:
                return None
            return {address: Noted(*noted) for address, noted in document["leases"].items()}
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError):
            return None  # not ours, or torn: as if there were none, which makes the set newer and so smaller
        except OSError as error:
            raise IoFailure(f"{self._path(leases)}: {error.strerror}") from error

    def _save(self, leases: Leases, noted: Mapping[str, Noted]) -> None:
        path = self._path(leases)
        fields = {address: (note.inode, note.mtime_ns, note.digest) for address, note in noted.items()}
        try:
            os.makedirs(self.run_dir, mode=0o700, exist_ok=True)
            temporary = f"{path}.{os.getpid()}.{threading.get_ident()}"  # many first calls may come at once
            with open(temporary, "w", encoding="utf-8") as file:
                json.dump({"boot_id": self.boot_id, "leases": fields}, file)
            os.rename(temporary, path)
        except OSError as error:
            raise IoFailure(f"{path}: {error.strerror}") from error


def boot_time_ns() -> int:
    """A time, in nanoseconds of the epoch, not later than this boot by any clock it has had.

    The kernel reckons btime from today's clock. Where that stood in the past until it was set, what was written
    in between looks older than btime; the mount of /sys has the time of the clock at boot.
    """
    with open("/proc/stat", encoding="ascii") as file:
        seconds = next(int(line.split()[1]) for line in file if line.startswith("btime "))
    return min(seconds * 1_000_000_000, os.stat("/sys").st_mtime_ns)
