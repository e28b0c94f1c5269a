"""The API server's failures: a status code, and the Status object that says what was wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from integration.kubernetes.kinds import Kind, Object

Cause = tuple[str, str, str]
"""Reason, field, message."""


class Failure(Exception):
    """An answer other than success. `text`: a plain text instead of a Status."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        details: Mapping[str, Any] | None = None,
        *,
        retry_after: int = 0,
        text: bool = False,
        token: str = "",
    ) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message
        self.details, self.retry_after, self.text, self.token = details, retry_after, text, token

    def status(self) -> Object:
        details = dict(self.details or {})
        if self.retry_after:
            details["retryAfterSeconds"] = self.retry_after
        document = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {"continue": self.token} if self.token else {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "details": details,
            "code": self.code,
        }
        return {key: value for key, value in document.items() if value or key in ("metadata", "code")}


def _of(kind: Kind, name: str, *, as_kind: bool = False) -> Object:
    details = {"name": name, "group": kind.group, "kind": kind.name if as_kind else kind.plural}
    return {key: value for key, value in details.items() if value}


def bad_request(message: str) -> Failure:
    return Failure(400, "BadRequest", message)


def no_such_page() -> Failure:
    return Failure(404, "", "404 page not found", text=True)


def no_such_resource() -> Failure:
    return Failure(404, "NotFound", "the server could not find the requested resource")


def not_found(kind: Kind, name: str) -> Failure:
    return Failure(404, "NotFound", f'{kind.qualified} "{name}" not found', _of(kind, name))


def already_exists(kind: Kind, name: str, *, deleting: bool = False) -> Failure:
    prefix = "object is being deleted: " * deleting
    return Failure(409, "AlreadyExists", f'{prefix}{kind.qualified} "{name}" already exists', _of(kind, name))


def conflict(kind: Kind, name: str) -> Failure:
    text = "the object has been modified; please apply your changes to the latest version and try again"
    message = f'Operation cannot be fulfilled on {kind.qualified} "{name}": {text}'
    return Failure(409, "Conflict", message, _of(kind, name))


def precondition(kind: Kind, name: str, what: str, asked: str, found: str) -> Failure:
    may = {"UID": "deleted and then recreated", "ResourceVersion": "modified"}[what]
    message = (
        f'Operation cannot be fulfilled on {kind.qualified_kind} "{name}": the {what} in the precondition ({asked}) '
        f"does not match the {what} in record ({found}). The object might have been {may}"
    )
    return Failure(409, "Conflict", message, _of(kind, name, as_kind=True))


def too_old(message: str, token: str = "") -> Failure:
    return Failure(410, "Expired", message, token=token)


def not_allowed() -> Failure:
    message = "the server does not allow this method on the requested resource"
    return Failure(405, "MethodNotAllowed", message)


def invalid(subject: str, details: Mapping[str, Any], causes: Sequence[Cause]) -> Failure:
    """422; `causes` in the order of the message, which has each as `field: message`."""
    texts = list(dict.fromkeys(f"{field}: {message}" for _, field, message in causes))
    said = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    listed = [{"reason": reason, "message": message, "field": field} for reason, field, message in causes]
    return Failure(422, "Invalid", f"{subject} is invalid: {said}", {**details, "causes": listed})


def invalid_object(kind: Kind, name: str, causes: Sequence[Cause], *, plural: bool = False) -> Failure:
    called = kind.qualified if plural else kind.qualified_kind
    return invalid(f'{called} "{name}"', _of(kind, name, as_kind=not plural), causes)


def invalid_options(options: str, causes: Sequence[Cause]) -> Failure:
    return invalid(f'{options}.meta.k8s.io ""', {"group": "meta.k8s.io", "kind": options}, causes)
