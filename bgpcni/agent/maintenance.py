"""Who asks that this node be in maintenance, and since when. Kept in data_dir, so that a restart forgets nobody."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

from bgpcni import atomic, clock
from bgpcni.errors import IoFailure
from bgpcni.files import read_plain

log = logging.getLogger(__name__)
FILE = "maintenance.json"
_MOST = 1 << 16

Asker = Literal["operator", "annotation"]


class _Asked(NamedTuple):
    """`boot_id`: until the node is started again; "" for as long as nobody takes it back."""

    since: str
    boot_id: str = ""


class Maintenance:
    """One thread at a time changes it."""

    def __init__(self, folder: Path, boot_id: str) -> None:
        self._file, self._boot_id = folder / FILE, boot_id
        self._asked = self._read()

    @property
    def asked(self) -> Mapping[str, str]:
        """Who asks for it, and since when; empty: the node is in service."""
        return MappingProxyType({who: one.since for who, one in self._asked.items()})

    def ask(self, who: Asker, *, on: bool, until_reboot: bool = False) -> None:
        """Ask for it, or take that back. Raises IoFailure, and then nothing has changed."""
        found = {name: one for name, one in self._asked.items() if name != who}
        if on:
            since = self._asked[who].since if who in self._asked else clock.now()
            found[who] = _Asked(since, self._boot_id if until_reboot else "")
        if found == self._asked:
            return
        document = {"schema": 1, "asked": {name: one._asdict() for name, one in found.items()}}
        try:
            atomic.put(self._file, json.dumps(document).encode(), 0o600)
        except OSError as error:
            raise IoFailure(f"{self._file}: {error.strerror}") from None
        self._asked = found

    def _read(self) -> dict[str, _Asked]:
        try:
            document = json.loads(read_plain(self._file, _MOST))
            found = {str(who): _Asked(**one) for who, one in document["asked"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.error("%s cannot be read, so this node is not in maintenance: %s", self._file, error)
            return {}
        return {who: one for who, one in found.items() if one.boot_id in ("", self._boot_id)}
