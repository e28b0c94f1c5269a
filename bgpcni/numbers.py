"""The numbers of a node's networks and VRFs, 1 to 65535, kept permanently in data_dir/numbers.json.

An RD is `router_id:n`, and the label of a VPN and the table of a VRF follow from n, too. Two networks with the same
number would mix their routes. So a number is never guessed: the file is on disk before a new number is used, and if the
file is lost or cannot be read, the records say which numbers are in use.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, TypeAdapter

from bgpcni import locks
from bgpcni.bgp import FIRST_LABEL
from bgpcni.errors import IoFailure, TryAgain

if TYPE_CHECKING:
    from bgpcni.model import Attachment

log = logging.getLogger(__name__)
SECONDS = 30.0
LAST = 65535
TABLES = 182000
"""A VRF's table, and its MPLS label, is this plus its number: far from those that other programs give out first."""
_FILE, _LOCK = "numbers.json", "numbers.lock"
_NUMBERS = TypeAdapter(dict[str, Annotated[int, Field(ge=1, le=LAST)]])
Recorded = Callable[[], Iterator["Attachment | str"]]


def label_of(number: int) -> int:
    """The MPLS label of a network without a VRF."""
    return FIRST_LABEL + number - 1


def vrf_name(vrf: str) -> str:
    """The name under which a VRF's number is kept. Names of networks contain no space."""
    return f"vrf {vrf}"


class Numbers:
    """The file of numbers. Safe for threads and processes.

    `recorded` yields every recorded attachment, or a text that says why its record cannot be read.
    """

    def __init__(self, folder: int, path: Path, recorded: Recorded) -> None:
        self._folder = folder
        self._path = path / _FILE
        self._lock_path = path / _LOCK
        self._recorded = recorded

    def of(self, name: str, given: Callable[[str], object] = lambda name: None) -> int:
        """The number of a network or VRF. If it gets a new one, `given` is called with its name.

        Raises TryAgain, IoFailure.
        """
        with self._locked():
            return self._of(name, given)

    def free(self, name: str) -> None:
        """Free the number of a network or VRF. Raises TryAgain, IoFailure."""
        with self._locked():
            numbers, problem = self._load()
            if problem:
                raise ValueError(problem)
            if numbers.pop(name, None) is not None:
                self._write(numbers)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of the file. Raises TryAgain, IoFailure."""
        try:
            fd = locks.acquire(_LOCK, self._folder, seconds=SECONDS)
            try:
                yield
            finally:
                os.close(fd)
        except locks.Busy:
            raise TryAgain(f"{self._lock_path} is held by another process; try again") from None
        except (OSError, ValueError) as error:
            raise IoFailure(f"{self._path}: {getattr(error, 'strerror', None) or error}") from None

    def check(self) -> None:
        """Raises IoFailure if `of` would, except for a disk that cannot be written."""
        try:
            self._load()
        except (OSError, ValueError) as error:
            raise IoFailure(f"{self._path}: {error}") from None

    def _of(self, name: str, given: Callable[[str], object]) -> int:
        numbers, problem = self._load()
        if name in numbers and not problem:
            return numbers[name]
        is_new = name not in numbers
        if is_new:
            taken = set(numbers.values())
            free = next((number for number in range(1, LAST + 1) if number not in taken), None)
            if free is None:
                raise ValueError(f"all {LAST} numbers are taken; remove networks that are not used any more")
            numbers[name] = free
        if problem:
            aside = f"{_FILE}.broken"
            os.rename(_FILE, aside, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            log.error(
                "%s cannot be read (%s) and was renamed to %s; networks with attachments get their numbers from their"
                " records, others get new ones", self._path, problem, aside,
            )  # fmt: skip
        self._write(numbers)
        if is_new:
            given(name)
        return numbers[name]

    def _load(self) -> tuple[dict[str, int], str]:
        """The numbers, and what is wrong with the file if they come from the records instead."""
        try:
            with open(os.open(_FILE, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._folder), "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return self._from_records(), ""  # the first start, or someone removed it: a power failure does not
        try:
            return _NUMBERS.validate_json(data), ""
        except ValueError as error:
            problem = "it is empty" if not data.strip(b"\0 \n") else str(error).splitlines()[0]
        return self._from_records(problem), problem

    def _from_records(self, problem: str = "") -> dict[str, int]:
        """The numbers that the records use. Raises ValueError if neither the file nor one of the records can be
        read."""
        numbers: dict[str, int] = {}
        for attachment in self._recorded():
            if isinstance(attachment, str):
                if not problem:
                    continue
                raise ValueError(
                    f"{problem}, and a record that says which numbers are in use cannot be read"
                    f" either: {attachment}; a DEL or GC removes that record"
                )
            for name, number in numbers_in(attachment):
                if number not in numbers.values():
                    numbers.setdefault(name, number)
        return numbers

    def _write(self, numbers: dict[str, int]) -> None:
        """Write the file. It is on disk, complete, when this returns, so that no power failure can lose a used
        number."""
        fresh = f".{_FILE}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        with open(os.open(fresh, flags, 0o600, dir_fd=self._folder), "wb") as file:
            file.write(json.dumps(numbers, indent=1).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.rename(fresh, _FILE, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        os.fsync(self._folder)


def numbers_in(attachment: Attachment) -> Iterator[tuple[str, int]]:
    """The numbers that a recorded attachment uses, each with the name under which it is kept.

    An RD that the user has set may look like one of ours. Then its number is not given out, which does no harm.
    """
    intent = attachment.bgp
    if intent.family == "unicast":
        return
    found: list[tuple[str, int]] = []
    if intent.vrf is not None:
        found.append((vrf_name(intent.vrf), (intent.table or intent.label or 0) - TABLES))
    elif intent.label is not None:
        found.append((attachment.network, intent.label - label_of(0)))
    first, _, last = (intent.rd or "").rpartition(":")
    if (first == "0" or _is_ipv4(first)) and last.isdecimal():
        found.append((attachment.network, int(last)))
    yield from ((name, number) for name, number in found if 1 <= number <= LAST)


def _is_ipv4(text: str) -> bool:
    try:
        return bool(IPv4Address(text))
    except ValueError:
        return False
