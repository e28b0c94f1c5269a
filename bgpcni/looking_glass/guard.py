"""What every request has to pass before a page looks at it, and the headers that every answer has."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from ipaddress import ip_address

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bgpcni.looking_glass.entrance import Entrance

LONGEST_TARGET = 2048
MOST_HEADERS = 64
LONGEST_HEAD = 16 << 10
"""Octets of the headers. The server looks at a head that is not complete yet, the guard at one that is."""
METHODS = ("GET", "HEAD")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


class Guard:
    """ASGI middleware: whoever may not ask gets one line that says why, and nothing else runs."""

    def __init__(self, app: ASGIApp, entrance: Entrance) -> None:
        self._app = app
        self._entrance = entrance

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # the start and the end of the server
            await self._app(scope, receive, send)
            return

        async def protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await (refusal(scope, self._entrance) or self._app)(scope, receive, protected)


def refusal(scope: Scope, entrance: Entrance) -> Response | None:
    """The answer to a request that is not served; None if it is."""
    headers = Headers(scope=scope)
    if scope["method"] not in METHODS:
        return _no(405, "this is read only: GET and HEAD are served", Allow=", ".join(METHODS))
    if len(scope["raw_path"]) + len(scope["query_string"]) > LONGEST_TARGET:
        return _no(414, f"the address is longer than {LONGEST_TARGET} octets")
    size = sum(len(name) + len(value) for name, value in scope["headers"])
    if len(scope["headers"]) > MOST_HEADERS or size > LONGEST_HEAD:
        return _no(431, f"more than {MOST_HEADERS} headers, or {LONGEST_HEAD} octets of them")
    if headers.get("transfer-encoding") or headers.get("content-length", "0") != "0":
        return _no(413, "a request has no body here", Connection="close")
    hosts = headers.getlist("host")
    if entrance.place.address is not None and not (len(hosts) == 1 and is_ours(hosts[0], entrance.names)):
        return _no(400, "this looking glass does not know itself by this name; --host NAME makes it known")
    if entrance.token and not _has_token(headers.getlist("authorization"), entrance.token):
        return _no(401, "the token is missing or wrong", WWW_Authenticate='Bearer realm="bgpcni"')
    return None


def is_ours(host: str, names: Iterable[str]) -> bool:
    """Whether a Host header names us: a literal address, which nobody can point elsewhere by DNS, or a known name."""
    name, colon, port = host.rpartition(":")
    if not colon or host.endswith("]"):
        name, port = host, ""
    if port and not (port.isascii() and port.isdecimal()):
        return False
    if name.lower().rstrip(".") in names:
        return True
    try:
        ip_address(name[1:-1] if name.startswith("[") and name.endswith("]") else name)
    except ValueError:
        return False
    return True


def _has_token(given: list[str], token: str) -> bool:
    scheme, _, word = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    same = hmac.compare_digest(word.strip().encode("utf-8", "surrogateescape"), token.encode())
    return same and scheme.lower() == "bearer"


def _no(code: int, text: str, **headers: str) -> Response:
    return PlainTextResponse(f"{text}\n", code, {name.replace("_", "-"): value for name, value in headers.items()})
