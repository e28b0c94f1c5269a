"""Requests to the double in this process, without a socket: for many, and for what happens between two octets."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from integration.kubernetes.api import Api


@dataclass(slots=True)
class Answer:
    """What came so far."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)
    over: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def header(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]


class Asking:
    """A client of one double; `token` is its user's."""

    def __init__(self, api: Api, token: str | None = None) -> None:
        self._api = api
        self._token = token or api.machinery.access.admin

    async def ask(
        self,
        method: str,
        url: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        *,
        anonymous: bool = False,
    ) -> Answer:
        answer = self.begin(method, url, body, headers, anonymous=anonymous)[0]
        while not answer.over:
            await asyncio.sleep(0)
        return answer

    def begin(
        self,
        method: str,
        url: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        *,
        anonymous: bool = False,
    ) -> tuple[Answer, asyncio.Task[None]]:
        """The answer fills while the task runs."""
        path, _, query = url.partition("?")
        sent = {"authorization": f"Bearer {self._token}"} if not anonymous else {}
        sent |= {name.lower(): value for name, value in (headers or {}).items()}
        scope = {
            "type": "http", "method": method, "path": unquote(path), "raw_path": path.encode(),
            "query_string": query.encode(), "http_version": "1.1", "scheme": "https", "asgi": {"version": "3.0"},
            "headers": [(name.encode(), value.encode()) for name, value in sent.items()], "server": ("double", 443),
        }  # fmt: skip
        answer = Answer()
        requests = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            if requests:
                return requests.pop()
            await asyncio.Event().wait()
            return None

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = [(name.decode(), value.decode()) for name, value in message["headers"]]
            elif message.get("body"):
                answer.chunks.append(message["body"])

        async def work() -> None:
            try:
                await self._api(scope, receive, send)
            finally:
                answer.over = True

        return answer, asyncio.ensure_future(work())
