"""The agent's socket: receives requests and sends replies, within bounds and deadlines. Handlers know their meaning."""

from __future__ import annotations

import array
import functools
import logging
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bgpcni.handler import Call, Reply
from bgpcni.launcher import protocol
from bgpcni.sockets import OWNER_ONLY, Access, bound, identity

log = logging.getLogger(__name__)

AT_ONCE = 256
READ_SECONDS = 5.0
WRITE_SECONDS = 30.0
BACKLOG = 1024
_CREDENTIALS = struct.Struct("=iII")
_PASSED = 3  # systemd's first descriptor, sd_listen_fds(3)


class Refused(Exception):
    """A request that is not served; the connection is closed without a reply."""


@dataclass(slots=True)
class _Incoming:
    kind: bytes
    environment: bytes
    stdin: bytes
    descriptors: list[int]


class Server:
    """Accepts on one unix socket. Each request has a thread. More than `at_once` wait in the backlog.

    The threads accept for themselves, so that nothing is handed from one to another; one that leaves none waiting
    starts the next.
    """

    def __init__(
        self, call: Callable[[Call], Reply] | None, command: Callable[[bytes], Reply], *, at_once: int | None = None
    ) -> None:
        """`call` answers a CNI call, None: there are none here; `command` answers an operator's command, in JSON."""
        self._call = call
        self._command = command
        self._at_once = at_once or AT_ONCE
        self._access = OWNER_ONLY
        self._socket: socket.socket
        self._path: Path | None = None  # None: the socket has no file
        self._identity: tuple[int, int] | None = None
        self._old: list[socket.socket] = []
        self._closing = False
        self._change = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._waiting = 0

    def listen(self, path: Path) -> None:
        """Bind `path` with mode 0600, or take the socket that systemd passed.

        Raises TryAgain where another process answers on it, IoFailure.
        """
        if not self._passed():
            self.bind(path, OWNER_ONLY)

    def bind(self, path: Path, access: Access) -> None:
        """Bind `path` for those who have access. Raises as `listen` does."""
        self._access = access
        self._socket, self._path = bound(path, access, BACKLOG), path
        self._identity = identity(path)

    def _passed(self) -> bool:
        """Take the socket that systemd passed. Returns whether it passed one."""
        if os.environ.get("LISTEN_PID") == str(os.getpid()) and os.environ.get("LISTEN_FDS", "0") != "0":
            self._socket = socket.socket(fileno=_PASSED)
            self._socket.set_inheritable(False)
            name = self._socket.getsockname()
            self._path = Path(name) if isinstance(name, str) and name.startswith("/") else None
            self._identity = identity(self._path) if self._path is not None else None
            return True
        return False

    def renew(self) -> bool:
        """Bind again if the file of the socket was removed. Returns whether it was. Requests that are served go on.

        Raises TryAgain where another process answers there, IoFailure.
        """
        if self._path is None or (self._identity and identity(self._path) == self._identity):
            return False
        with self._change:
            if self._closing:
                return False
            fresh = bound(self._path, self._access, BACKLOG)
            self._identity = identity(self._path)
            old, self._socket = self._socket, fresh
            self._old.append(old)  # closed only at the end, because a thread may be about to use its descriptor
        try:
            old.shutdown(socket.SHUT_RDWR)  # wakes the threads that wait there; no client can reach it any more
        except OSError:
            pass
        return True

    def serve(self) -> None:
        """Accept requests from now on, until `close`."""
        with self._change:
            self._start_one()

    def _start_one(self) -> None:
        thread = threading.Thread(target=self._work, name=f"request-{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        self._waiting += 1
        thread.start()

    def close(self) -> None:
        """Accept no new requests, and wait for those that are running."""
        with self._change:
            self._closing = True
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        for thread in self._threads:  # none is added any more
            thread.join()
        for one in (self._socket, *self._old):
            one.close()

    def _work(self) -> None:
        while True:
            listener = self._socket
            try:
                connection, _ = listener.accept()
            except OSError:
                if self._closing:
                    return
                if listener is not self._socket:
                    continue  # another one was bound in its place
                log.exception("a request cannot be accepted")
                time.sleep(0.1)  # out of descriptors: do not spin
                continue
            with self._change:
                self._waiting -= 1
                if not self._waiting and len(self._threads) < self._at_once and not self._closing:
                    self._start_one()
            if self._closing:  # the client gets no greeting, so for it there is no agent
                connection.close()
                return
            self._serve_one(connection)
            with self._change:
                self._waiting += 1

    def _serve_one(self, connection: socket.socket) -> None:
        try:
            with connection:
                self._converse(connection)
        except BlockingIOError:
            log.warning("request not served: it did not arrive in time")
        except (Refused, OSError) as error:
            log.warning("request not served: %s", error)
        except Exception:
            log.exception("request failed")

    def _converse(self, connection: socket.socket) -> None:
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, uid, _ = _CREDENTIALS.unpack(raw)
        if self._access.private and uid not in (0, os.geteuid()):
            raise Refused(f"user {uid} may not ask")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(WRITE_SECONDS))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(READ_SECONDS))
        connection.sendall(protocol.HELLO)
        incoming = _receive(connection)
        if incoming is None:
            return  # the client only checked that the agent is there
        try:
            reply = self._answer(incoming, connection)
        finally:
            for fd in incoming.descriptors:
                os.close(fd)
        try:
            head = protocol.REPLY.pack(reply.code, 0, len(reply.stdout), len(reply.stderr))
            connection.sendall(head + reply.stdout + reply.stderr)
            os.sched_yield()  # the waiting client may need this processor
        except BrokenPipeError:
            if incoming.kind != protocol.COMMAND:  # an operator may interrupt a command, such as `bgpcni events`
                raise
        finally:
            reply.finish()

    def _answer(self, incoming: _Incoming, connection: socket.socket) -> Reply:
        if incoming.kind == protocol.COMMAND:
            return self._command(incoming.stdin)
        if self._call is None:
            raise Refused("no CNI call is answered on this socket")
        variables: dict[str, str] = {}
        for item in incoming.environment.split(b"\0"):
            name, equals, value = item.partition(b"=")
            if equals:
                variables.setdefault(os.fsdecode(name), os.fsdecode(value))
        descriptor = next(iter(incoming.descriptors), None)
        hung_up = functools.partial(_hung_up, connection)
        return self._call(Call(variables, incoming.stdin, descriptor, hung_up, incoming.kind == protocol.IPAM))


def _hung_up(connection: socket.socket) -> bool:
    """Whether the other end is closed, because its process was killed or gave up. One system call."""
    look = select.poll()
    look.register(connection, select.POLLRDHUP)
    return bool(look.poll(0))


def _timeval(seconds: float) -> bytes:
    """For SO_RCVTIMEO, which saves the poll(2) that Python's own time-outs need before each read."""
    return struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))


def _receive(connection: socket.socket) -> _Incoming | None:
    """Read one request: header, environment, stdin; the descriptor comes with the first octet. None: nothing came."""
    deadline = time.monotonic() + READ_SECONDS
    ancillary = socket.CMSG_SPACE(array.array("i").itemsize * 4)
    data, control, flags, _ = connection.recvmsg(1 << 16, ancillary, socket.MSG_CMSG_CLOEXEC)
    if not data:
        return None
    descriptors = array.array("i")
    for level, kind, payload in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(payload[: len(payload) - len(payload) % descriptors.itemsize])
    passed = list(descriptors)
    try:
        if flags & socket.MSG_CTRUNC or len(passed) > 1:
            raise Refused("more than one descriptor was passed")
        buffer = bytearray(data)
        _fill(connection, buffer, protocol.HEADER.size, deadline)
        magic, kind_of, environment, stdin = protocol.HEADER.unpack_from(buffer)
        if magic != protocol.MAGIC or kind_of not in (protocol.CALL, protocol.IPAM, protocol.COMMAND):
            raise Refused("not our protocol")
        if environment + stdin > protocol.MAX_GC:
            raise Refused(f"a request of {environment + stdin} octets is too large")
        start = protocol.HEADER.size
        _fill(connection, buffer, start + environment, deadline)
        block = bytes(buffer[start : start + environment])
        if environment + stdin > protocol.MAX_REQUEST and b"CNI_COMMAND=GC" not in block.split(b"\0"):
            raise Refused(f"a request of {environment + stdin} octets is too large")
        _fill(connection, buffer, start + environment + stdin, deadline)
        return _Incoming(kind_of, block, bytes(buffer[start + environment : start + environment + stdin]), passed)
    except BaseException:
        for fd in passed:
            os.close(fd)
        raise


def _fill(connection: socket.socket, buffer: bytearray, size: int, deadline: float) -> None:
    while len(buffer) < size:
        left = deadline - time.monotonic()
        if left <= 0:
            raise Refused("the request did not arrive in time")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(left))
        data = connection.recv(min(size - len(buffer), 1 << 18))
        if not data:
            raise Refused("the request ended early")
        buffer += data
