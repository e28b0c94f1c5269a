"""Parts that the exporters' suites share: methods called inside a namespace, a speaker that is a daemon, an
impostor."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from bgpcni.testing import Speaker
from bgpcni.testing.patience import SECONDS
from integration.lab import Daemon, Inside, Lab, Namespace

Value = TypeVar("Value")
Arguments = ParamSpec("Arguments")


class SpeakerInside(Speaker):
    """A speaker whose exporter has to run in its network namespace."""

    def __init__(self, lab: Lab, namespace: Namespace) -> None:
        self.namespace = namespace
        self._inside = Inside(namespace)
        lab.callback(self._inside.close)

    def call(self, verb: Callable[Arguments, Value], /, *arguments: Arguments.args, **named: Arguments.kwargs) -> Value:
        return self._inside.call(verb, *arguments, **named)


class DaemonSpeaker(Speaker):
    """A speaker that is a daemon of the laboratory, and loses its routes when it ends."""

    daemon: Daemon

    def empty(self) -> None:
        self.stop()
        self.start()

    def stop(self) -> None:
        self.daemon.kill()

    def start(self) -> None:
        self.daemon.start()

    def pause(self) -> None:
        self.daemon.pause()

    def resume(self) -> None:
        self.daemon.resume()


@contextmanager
def impostor(server: socket.socket, answer: bytes) -> Iterator[None]:
    """Whoever connects to this listening socket is sent `answer` and disconnected. The socket is closed at the end."""

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            with client:
                client.settimeout(5)
                try:
                    client.sendall(answer)
                    client.recv(1 << 16)  # what is left unread would have the kernel reset the connection
                except OSError:
                    pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(SECONDS)


def listening(path: str) -> socket.socket:
    """A unix socket at `path`, in place of what is there."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    return server
