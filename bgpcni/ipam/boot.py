"""Leases that a reboot left behind: no container survives a reboot, but the files of its leases do.

`reclaimable` decides which leases may be released (pure); `Reclaimer` reads and writes the files for that. A lease is
released only if it was there at our first call after the boot, is older than the boot, was not written again since,
and belongs to no record of ours. The clock may be set, so its age alone is not enough: it has to be on the list that
the first call made.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Collection, Mapping
from typing import NamedTuple

from bgpcni.errors import IoFailure
from bgpcni.ipam.leases import Entry, Leases


class Noted(NamedTuple):
    """What we note of a lease at the first call. A lease with the same values later is the same one."""

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
    """Reclaims the leases of each network once per boot. A file in `run_dir` says that it was done.

    `boot_id`: that of this boot. The file has it too, for a `run_dir` that outlives a reboot. `booted_ns`: the default
    is `boot_time_ns`.
    """

    def __init__(self, run_dir: str, boot_id: str, booted_ns: int | None = None) -> None:
        self.run_dir = run_dir
        self.boot_id = boot_id
        self.booted_ns = boot_time_ns() if booted_ns is None else booted_ns

    def run(self, leases: Leases, recorded: Collection[tuple[str, str]]) -> list[str]:
        """Release what `reclaimable` finds, and return the addresses. After the first time it does nothing.

        It has to be called before the first lease of a network is taken in this boot. Raises IoFailure, TryAgain.
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
        """Whether the leases of this network were reclaimed in this boot. Reads one small file."""
        return self._load(leases) == {}

    def _path(self, leases: Leases) -> str:
        return os.path.join(self.run_dir, f"leases-{hashlib.sha256(leases.scope.encode()).hexdigest()[:16]}.json")

    def _load(self, leases: Leases) -> dict[str, Noted] | None:
        """The leases that were noted in this boot and may be reclaimed; None if nothing was noted yet."""
        try:
            with open(self._path(leases), encoding="utf-8") as file:
                document = json.load(file)
            if document["boot_id"] != self.boot_id:
                return None
            return {address: Noted(*noted) for address, noted in document["leases"].items()}
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError):
            return None  # not ours, or half written: we note anew, which can only make the list shorter
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
    """A time, in nanoseconds since the epoch, that is not later than the boot.

    The kernel computes btime from the present clock. If the clock was behind at boot and was set later, files written
    in between look older than btime. The mount of /sys has the time that the clock showed at boot.
    """
    with open("/proc/stat", encoding="ascii") as file:
        seconds = next(int(line.split()[1]) for line in file if line.startswith("btime "))
    return min(seconds * 1_000_000_000, os.stat("/sys").st_mtime_ns)
