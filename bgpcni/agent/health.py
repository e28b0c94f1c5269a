"""The health checks of services, asked inside the containers' namespaces by one thread.

No call of it waits: sockets are opened in the container's namespace and then served by one selector, so a server that
hangs holds up nobody. At most `MOST` checks run at once, and those that last got no answer have half of these places,
so that they leave room for the others.
"""

from __future__ import annotations

import errno
import heapq
import logging
import os
import re
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count

from bgpcni.ip import ip_address
from bgpcni.kernel import namespace
from bgpcni.model import Attachment, AttachmentKey, Health
from bgpcni.node.health import Verdict, judged, words
from bgpcni.nudges import Nudges

log = logging.getLogger(__name__)
MOST = 128
"""How many checks run at once."""
LONGEST = 2.0
"""The most seconds that an answer may take; less if the interval is shorter."""
_HEAD = 4096
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})\b")
_SILENT = "no answer within"


@dataclass(slots=True)
class _Watched:
    """One attachment. `serial` tells it from an earlier one of the same key."""

    serial: int
    key: AttachmentKey
    netns: str
    cookie: int | None
    address: str
    check: Health
    verdict: Verdict
    due: float = 0.0

    @property
    def patience(self) -> float:
        """How many seconds its server has for an answer."""
        return min(self.check.interval, LONGEST)


@dataclass(slots=True)
class _Probe:
    """A check that runs. `sent`: the question of HTTP was sent; `head`: what came of the answer."""

    watched: _Watched
    sock: socket.socket
    deadline: float
    slow: bool
    sent: bool = False
    head: bytearray = field(default_factory=bytearray)


class HealthChecks:
    """Safe for threads. `ready`: the Pod's condition Ready, None if it is not known; `start` begins the checks."""

    def __init__(self, nudges: Nudges, ready: Callable[[Attachment], bool | None] = lambda attachment: None) -> None:
        self._nudges, self._ready = nudges, ready
        self._lock = threading.Lock()
        self._known: dict[AttachmentKey, _Watched] = {}
        self._serial = count()
        self._queue: list[tuple[float, int, _Watched]] = []
        self._selector: selectors.BaseSelector | None = None
        self._wake = -1
        self._started = self._stopped = False
        self._thread: threading.Thread | None = None
        self._waiting: tuple[deque[_Watched], deque[_Watched]] = deque(), deque()
        """Due: those that answered last time, and those that did not."""
        self._probes: dict[int, _Probe] = {}

    # ---------------------------------------------------------------- for the node

    def passing(self, attachment: Attachment) -> bool:
        shared = attachment.anycast
        if shared is None or shared.health is None:
            return shared is not None
        if shared.health.kind == "ready":
            ready = self._ready(attachment)
            return shared.passing if ready is None else ready
        known = self._known.get(attachment.key)
        return shared.passing if known is None else known.verdict.passing

    def words(self, attachment: Attachment) -> str:
        shared = attachment.anycast
        if shared is None or shared.health is None:
            return ""
        if shared.health.kind == "ready":
            ready = self._ready(attachment)
            if ready is None:
                return "Kubernetes has not told whether the pod is ready; what was last known holds"
            return "the pod is ready" if ready else "the pod is not ready"
        known = self._known.get(attachment.key)
        return words(known.verdict if known else Verdict(shared.passing), shared.health, time.monotonic())

    def counts(self) -> tuple[int, int]:
        known = list(self._known.values())
        passing = sum(one.verdict.passing for one in known)
        return passing, len(known) - passing

    def remember(self, attachment: Attachment) -> None:
        shared = attachment.anycast
        if shared is None or shared.health is None or shared.health.kind == "ready":
            return
        with self._lock:
            known = self._known.get(attachment.key)
            if known is not None and (known.cookie, known.check) == (attachment.cookie, shared.health):
                return
            one = _Watched(
                next(self._serial), attachment.key, attachment.netns, attachment.cookie,
                shared.health.host or shared.addresses[0], shared.health, Verdict(shared.passing),
            )  # fmt: skip
            self._known[attachment.key] = one
            heapq.heappush(self._queue, (time.monotonic(), one.serial, one))
            self._run_if_needed()

    def forget(self, key: AttachmentKey) -> None:
        if key in self._known:
            with self._lock:
                self._known.pop(key, None)

    # ---------------------------------------------------------------- for the agent

    def start(self) -> None:
        with self._lock:
            self._started = True
            self._run_if_needed()

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            thread = self._thread
            self._call()
        if thread is not None:
            thread.join(LONGEST)

    def _run_if_needed(self) -> None:
        """The thread is made for the first attachment that has a check."""
        if not self._started or self._stopped or not self._known:
            return
        if self._thread is None:
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._thread = threading.Thread(target=self._run, name="health", daemon=True)
            self._thread.start()
        else:
            self._call()

    def _call(self) -> None:
        if self._wake >= 0:
            os.eventfd_write(self._wake, 1)

    # ---------------------------------------------------------------- the thread

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            self._selector = selector
            selector.register(self._wake, selectors.EVENT_READ)
            while not self._stopped:
                for found, _ in selector.select(self._pause()):
                    if found.fd == self._wake:
                        with suppress(BlockingIOError):
                            os.eventfd_read(self._wake)
                    elif (probe := self._probes.get(found.fd)) is not None:
                        self._guarded(probe.watched, self._step, probe)
                now = time.monotonic()
                for probe in [probe for probe in self._probes.values() if probe.deadline <= now]:
                    self._end(probe, f"{_SILENT} {probe.watched.patience:g} s")
                self._begin_due(now)
            for probe in list(self._probes.values()):
                self._close(probe)

    def _pause(self) -> float | None:
        """Seconds until there is something to do by itself."""
        with self._lock:
            times = [self._queue[0][0]] if self._queue else []
        if self._waiting[0] or self._waiting[1]:
            times += [probe.deadline for probe in self._probes.values()]
        elif self._probes:
            times.append(min(probe.deadline for probe in self._probes.values()))
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _begin_due(self, now: float) -> None:
        with self._lock:
            while self._queue and self._queue[0][0] <= now:
                one = heapq.heappop(self._queue)[2]
                one.due = now
                self._waiting[_is_slow(one)].append(one)
        for slow, most in ((False, MOST), (True, MOST // 2)):
            while self._waiting[slow]:
                busy = sum(probe.slow for probe in self._probes.values()) if slow else len(self._probes)
                if busy >= most or len(self._probes) >= MOST:
                    break
                one = self._waiting[slow].popleft()
                if self._known.get(one.key) is one:
                    self._guarded(one, self._begin, one)

    def _guarded(self, one: _Watched, do: Callable[..., None], *given: object) -> None:
        """A defect of ours in one check must not end the others."""
        try:
            do(*given)
        except Exception as error:
            log.exception("%s: a defect of bgpcni in its health check", one.key, extra=one.key.fields)
            for probe in [probe for probe in self._probes.values() if probe.watched is one]:
                self._close(probe)
            self._judge(one, repr(error))

    def _begin(self, one: _Watched) -> None:
        try:
            sock = _socket_in(one)
        except (OSError, namespace.NotANamespace) as error:
            self._judge(one, f"its namespace cannot be entered: {error}")
            return
        probe = _Probe(one, sock, time.monotonic() + one.patience, _is_slow(one))
        code = sock.connect_ex((one.address, one.check.port))
        if code not in (0, errno.EINPROGRESS):
            sock.close()
            self._judge(one, _words_of(code))
            return
        self._probes[sock.fileno()] = probe
        assert self._selector is not None
        self._selector.register(sock, selectors.EVENT_WRITE)

    def _step(self, probe: _Probe) -> None:
        """Its socket can be written or read."""
        check, sock = probe.watched.check, probe.sock
        try:
            if not probe.sent:
                if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    self._end(probe, _words_of(code))
                elif check.kind == "tcp":
                    self._end(probe, "")
                else:
                    sock.send(_question(probe.watched))  # a new socket's buffer takes all of it
                    probe.sent = True
                    assert self._selector is not None
                    self._selector.modify(sock, selectors.EVENT_READ)
                return
            data = sock.recv(_HEAD)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(probe, _words_of(error.errno or 0))
            return
        probe.head += data
        if data and b"\n" not in probe.head and len(probe.head) < _HEAD:
            return
        found = _STATUS.match(probe.head)
        if found is None:
            self._end(probe, "the answer is not HTTP" if probe.head else "the connection was closed without an answer")
        else:
            status = int(found[1])
            self._end(probe, "" if 200 <= status < 400 else f"HTTP status {status}")

    def _end(self, probe: _Probe, fault: str) -> None:
        self._close(probe)
        self._judge(probe.watched, fault)

    def _close(self, probe: _Probe) -> None:
        self._probes.pop(probe.sock.fileno(), None)
        assert self._selector is not None
        self._selector.unregister(probe.sock)
        probe.sock.close()

    def _judge(self, one: _Watched, fault: str) -> None:
        now = time.monotonic()
        before, one.verdict = one.verdict, judged(one.verdict, one.check, fault, now)
        with self._lock:
            if self._known.get(one.key) is not one:
                return
            heapq.heappush(self._queue, (max(now, one.due + one.check.interval), one.serial, one))
        if before.passing != one.verdict.passing:
            self._nudges.nudge(one.key)


def _is_slow(one: _Watched) -> bool:
    return one.verdict.fault.startswith(_SILENT)


def _socket_in(one: _Watched) -> socket.socket:
    """A socket in the container's namespace. Raises OSError, NotANamespace."""
    fd = namespace.open_path(one.netns)
    try:
        namespace.verify(fd, one.netns)
        with namespace.inside(fd):
            family = socket.AF_INET6 if ip_address(one.address).version == 6 else socket.AF_INET
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    finally:
        os.close(fd)
    if one.cookie is not None and namespace.cookie_of(sock) != one.cookie:
        sock.close()
        raise namespace.NotANamespace(f"{one.netns} is the namespace of another container")
    return sock


def _question(one: _Watched) -> bytes:
    host = f"[{one.address}]" if ":" in one.address else one.address
    return (
        f"GET {one.check.path} HTTP/1.1\r\nHost: {host}:{one.check.port}\r\nUser-Agent: bgpcni\r\n"
        "Accept: */*\r\nConnection: close\r\n\r\n"
    ).encode()


def _words_of(code: int) -> str:
    return os.strerror(code).lower()
