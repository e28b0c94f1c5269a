"""The double of the Kubernetes API as a server: a thread of this process, reached by TLS like the real one, by way of
a relay that can cut, hold and refuse (`line`).
"""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self, TypeVar

import trustme
import uvicorn

from bgpcni.testing.patience import SECONDS
from integration.kubernetes.api import Api, Seen
from integration.kubernetes.clock import Real
from integration.kubernetes.kinds import Object
from integration.kubernetes.machinery import Machinery, Options
from integration.kubernetes.objects import Key
from integration.kubernetes.relay import Line, Relay

Value = TypeVar("Value")


class Double:
    """`with Double() as double:` runs it on loopback; `double.kubeconfig(path)` lets clients reach it."""

    def __init__(self, listen: Callable[[], socket.socket] | None = None, pace: float = 1.0) -> None:
        """`listen` makes the socket, else it is one on 127.0.0.1. `pace`: how fast time passes for watches."""
        self.machinery = Machinery()
        self.api = Api(self.machinery, Real(pace))
        self._socket = (listen or _on_loopback)()
        self._folder = tempfile.TemporaryDirectory(prefix="bgpcni-api-")
        authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(self._socket.getsockname()[0]).configure_cert(tls)
        self.authority = authority.cert_pem.bytes()
        """The CA's certificate: clients send their tokens by TLS only."""
        self._path = f"{self._folder.name}/http.sock"
        self._relay = Relay(self._socket, lambda: asyncio.open_unix_connection(self._path), tls)
        self._loop = asyncio.new_event_loop()
        self._ready, self._stopping = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),), daemon=True)

    @property
    def line(self) -> Line:
        """What goes wrong between here and the clients."""
        return self._relay.line

    # ---------------------------------------------------------------- life

    def start(self) -> None:
        """Raises RuntimeError where it does not come up."""
        self._thread.start()
        if not self._ready.wait(SECONDS):
            raise RuntimeError("the double of the API server does not start")

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(SECONDS)
        self._socket.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def _run(self) -> None:
        config = uvicorn.Config(
            self.api, uds=self._path, log_level="error", lifespan="off", access_log=False, server_header=False,
            http="h11", ws="none", timeout_graceful_shutdown=1,
        )  # fmt: skip
        server = uvicorn.Server(config)
        serving = asyncio.ensure_future(server._serve())  # `serve` would take this process's signals
        while not server.started:
            await asyncio.sleep(0.005)
        await self._relay.start()
        self._ready.set()
        await self._stopping.wait()
        self.api.closing = True
        self.machinery.objects.tell()
        self._relay.stop()
        server.should_exit = True
        await serving

    # ---------------------------------------------------------------- for tests

    def do(self, work: Callable[[], Value]) -> Value:
        """Run `work` in the server's thread: between two requests, never within one."""
        done: list[Value] = []
        errors: list[BaseException] = []
        over = threading.Event()

        def run() -> None:
            try:
                done.append(work())
            except BaseException as error:  # noqa: BLE001 - it is raised again, in the caller's thread
                errors.append(error)
            over.set()

        self._loop.call_soon_threadsafe(run)
        assert over.wait(SECONDS), "the double does not answer"
        if errors:
            raise errors[0]
        return done[0]

    def create(self, resource: str, body: Object, namespace: str = "") -> Object:
        """Make an object of `resource` (`v1/nodes`, `example.dev/v1/widgets`) as an administrator would."""
        group, version, plural = ("", *resource.split("/"))[-3:]
        machinery = self.machinery
        return self.do(
            lambda: machinery.create(machinery.kind(group, version, plural), namespace, body, Options("test"))
        )

    def get(self, resource: str, name: str, namespace: str = "") -> Object | None:
        group, version, plural = ("", *resource.split("/"))[-3:]
        return self.do(
            lambda: self.machinery.objects.get(self.machinery.kind(group, version, plural), (namespace, name))
        )

    def all(self, resource: str) -> dict[Key, Object]:
        group, version, plural = ("", *resource.split("/"))[-3:]
        found = self.do(lambda: self.machinery.objects.all(self.machinery.kind(group, version, plural)))
        return {(item["metadata"].get("namespace", ""), item["metadata"]["name"]): item for item in found}

    def merge(
        self, resource: str, name: str, patch: Object, namespace: str = "", subresource: str = "", manager: str = "test"
    ) -> Object:
        group, version, plural = ("", *resource.split("/"))[-3:]
        options = Options(manager, subresource=subresource)
        machinery = self.machinery
        return self.do(
            lambda: machinery.patch(
                machinery.kind(group, version, plural),
                (namespace, name),
                "application/merge-patch+json",
                patch,
                options,
            )
        )

    def delete(self, resource: str, name: str, namespace: str = "") -> None:
        group, version, plural = ("", *resource.split("/"))[-3:]
        machinery = self.machinery
        self.do(
            lambda: machinery.delete(machinery.kind(group, version, plural), (namespace, name), {}, Options("test"))
        )

    def forget(self) -> None:
        """Nobody can go on from before now, and every stream is cut: what a restarted server is like."""

        def work() -> None:
            self.machinery.objects.forget(*self.machinery.kinds())
            self._relay.cut()

        self.do(work)

    def cut(self) -> None:
        """Reset every open connection."""
        self.do(self._relay.cut)

    def watching(self) -> list[Seen]:
        """The requests whose streams are open."""
        return self.do(lambda: list(self.api.watching))

    def taken(self) -> list[Seen]:
        """The requests since the last time this was asked."""

        def work() -> list[Seen]:
            seen = list(self.api.seen)
            self.api.seen.clear()
            return seen

        return self.do(work)

    @property
    def url(self) -> str:
        host, port = self._socket.getsockname()[:2]
        return f"https://{f'[{host}]' if ':' in host else host}:{port}"

    def kubeconfig(self, path: Path, **user: str) -> Path:
        """Write a kubeconfig for `token` or `tokenFile`, else for the administrator."""
        cluster = {"server": self.url, "certificate-authority-data": base64.b64encode(self.authority).decode()}
        document = {
            "apiVersion": "v1", "kind": "Config", "current-context": "double",
            "clusters": [{"name": "double", "cluster": cluster}],
            "users": [{"name": "double", "user": user or {"token": self.machinery.access.admin}}],
            "contexts": [{"name": "double", "context": {"cluster": "double", "user": "double"}}],
        }  # fmt: skip
        path.write_text(json.dumps(document))
        path.chmod(0o600)
        return path


def _on_loopback() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock
