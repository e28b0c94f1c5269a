"""An error as the runtime reads it from stdout (CNI specification, section 5, "Error"). Pure."""

from __future__ import annotations

from typing import Any

from bgpcni.errors import CniError


def encode_error(error: CniError, version: str) -> dict[str, Any]:
    """The JSON object for `error`; `version` is the configuration's cniVersion, as far as it is known."""
    document: dict[str, Any] = {"cniVersion": version, "code": error.code, "msg": error.msg}
    if error.details:
        document["details"] = error.details
    return document
