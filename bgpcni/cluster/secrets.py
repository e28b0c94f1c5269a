"""Passwords of sessions that are Secrets in the agent's namespace: read by name, and kept as files of run_dir.

A file outlives the agent and a server that is away, and goes when no peer names its Secret any more.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Collection
from pathlib import Path

from bgpcni import atomic
from bgpcni.cluster.kubernetes import Api, Resource, Trouble
from bgpcni.cluster.peers import Password
from bgpcni.config.secret import read_secret

FOLDER, KEY = "secrets", "password"
SECONDS = 60.0
"""Between two looks at a Secret that has been read, and after which another try is made where it was not there."""
AGAIN_SECONDS = 5.0


class Secrets:
    """The Secrets that this node's peers name. `look` is for one thread, `of` for any."""

    def __init__(self, api: Api, run_dir: Path) -> None:
        self._api, self._folder = api, run_dir / FOLDER
        self._resource = Resource("", "v1", "secrets", api.namespace)
        self._reasons: dict[str, str] = {}
        self._due: dict[str, float] = {}

    def of(self, name: str) -> Password:
        """The file with the password, or why there is none."""
        file = self._folder / name
        if not self._reasons.get(name) and file.exists():
            return Password(str(file))
        return Password(None, self._reasons.get(name) or f"the Secret {name} has not been read yet")

    def look(self, names: Collection[str]) -> bool:
        """Read again what is due; whether something is different from before."""
        due = [name for name in sorted(names) if time.monotonic() >= self._due.get(name, 0.0)]
        changed = [name for name in due if self._read(name)]
        for file in self._folder.glob("*") if self._folder.is_dir() else ():
            if file.name not in names:
                file.unlink(missing_ok=True)
                self._due.pop(file.name, None)
        return bool(changed)

    def _read(self, name: str) -> bool:
        file = self._folder / name
        before, reason = self.of(name), ""
        self._due[name] = time.monotonic() + AGAIN_SECONDS
        try:
            data = self._api.get(self._resource, name).get("data") or {}
            password = base64.b64decode(data[KEY], validate=True)
            self._folder.mkdir(mode=0o700, exist_ok=True)
            if not file.exists() or _differs(file, password):
                atomic.put(file, password, 0o600)
                before = Password(None)
            self._due[name] = time.monotonic() + SECONDS
        except Trouble as trouble:
            if trouble.code not in (403, 404):  # a server that is away takes nothing away
                reason = "" if file.exists() else str(trouble)
            else:
                reason = f"{trouble} (namespace {self._api.namespace})"
        except KeyError:
            reason = f"the Secret {name} of namespace {self._api.namespace} has no key {KEY}"
        except (OSError, ValueError) as error:
            reason = f"the Secret {name} of namespace {self._api.namespace}: {error}"
        self._reasons[name] = reason
        return before != self.of(name)


def _differs(file: Path, password: bytes) -> bool:
    try:
        return read_secret(str(file)).encode() != password.rstrip(b"\r\n")
    except ValueError:
        return True
