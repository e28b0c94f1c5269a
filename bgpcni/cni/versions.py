"""The versions of the CNI specification that we support, and what each of them has. Pure; standard library only."""

from __future__ import annotations

from typing import Any

from bgpcni.cni.environment import Command
from bgpcni.errors import DecodingFailure, IncompatibleVersion

SUPPORTED = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
"""Oldest first."""

FALLBACK = SUPPORTED[0]
"""The version of a configuration without `cniVersion`."""

_SINCE = {Command.CHECK: "0.4.0", Command.GC: "1.1.0", Command.STATUS: "1.1.0"}
_RANK = {version: rank for rank, version in enumerate(SUPPORTED)}


def at_least(version: str, floor: str) -> bool:
    """Whether `version` is `floor` or a later one; both of SUPPORTED."""
    return _RANK[version] >= _RANK[floor]


def read_version(value: object, place: str = "cniVersion") -> str:
    """The version that a document's `cniVersion` asks for, one of SUPPORTED.

    None and "" stand for a document without one. Raises DecodingFailure if it is not a string, IncompatibleVersion
    if we do not support it.
    """
    if value is None or value == "":
        return FALLBACK
    if not isinstance(value, str):
        raise DecodingFailure(f"{place}: expected a string, not {type(value).__name__}")
    if value not in _RANK:
        raise IncompatibleVersion(
            "incompatible CNI versions", f'{place} is "{value}", supported: {", ".join(SUPPORTED)}'
        )
    return value


def require_command(command: Command, version: str) -> None:
    """Raise IncompatibleVersion if `command` does not exist in `version` of the specification."""
    since = _SINCE.get(command)
    if since and not at_least(version, since):
        raise IncompatibleVersion(
            f"config version does not allow {command}", f"cniVersion is {version}, {command} exists from {since} on"
        )


def version_answer(asked: str | None) -> dict[str, Any]:
    """What VERSION prints: the requested version, even if we do not support it; without one the newest that we
    support."""
    return {"cniVersion": asked or SUPPORTED[-1], "supportedVersions": list(SUPPORTED)}
