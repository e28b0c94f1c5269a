"""Prometheus metrics of the agent, named by the usual conventions. Imported only with `--metrics`.

`figures` has every metric by name, `gauges` what is measured when the metrics are read.
"""

from __future__ import annotations

import gzip
import logging
import time
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from prometheus_client import Counter, Histogram, make_wsgi_app, start_http_server
from prometheus_client.exposition import gzip_accepted
from prometheus_client.registry import REGISTRY

from bgpcni import steps
from bgpcni.agent import figures
from bgpcni.agent.gauges import AttachmentLines, Gauges
from bgpcni.census import Census
from bgpcni.convergence.announcer import Reached
from bgpcni.convergence.ledger import Announced
from bgpcni.errors import InvalidConfiguration, IoFailure
from bgpcni.handler import Call, Reply
from bgpcni.node.node import Node

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from bgpcni.cluster.store import Store

log = logging.getLogger(__name__)
_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


def _counter(name: str) -> Counter:
    figure = figures.BY_NAME[name]
    return Counter(name, figure.text, figure.labels)


def _histogram(name: str) -> Histogram:
    figure = figures.BY_NAME[name]
    return Histogram(name, figure.text, figure.labels, buckets=_SECONDS)


_REQUESTS = _counter("bgpcni_cni_requests")
_DURATION = _histogram("bgpcni_cni_request_duration_seconds")
_STEP = _histogram("bgpcni_cni_step_duration_seconds")
_ANNOUNCE = _histogram("bgpcni_announce_latency_seconds")
_STORE = _histogram("bgpcni_store_request_duration_seconds")
_STORE_ERRORS = _counter("bgpcni_store_request_errors")
_COMMANDS = frozenset(["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"])


def place(where: str, *, beyond_loopback: bool) -> tuple[str, int]:
    """The address and port of `ADDR:PORT`. Only loopback, unless `beyond_loopback`. Raises InvalidConfiguration.

    The metrics name networks and peers, and whoever reaches them needs no password.
    """
    text, _, port = where.rpartition(":")
    try:
        address = ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        address = None
    if address is None or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InvalidConfiguration(f"--metrics: {where!r} is not ADDR:PORT, such as 127.0.0.1:9099 or [::1]:9099")
    if not address.is_loopback and not beyond_loopback:
        raise InvalidConfiguration(
            f"--metrics: {address} is not a loopback address, and anybody who reaches it could read the metrics: "
            "add --metrics-beyond-loopback if that is wanted"
        )
    return str(address), int(port)


class Measures:
    """What is counted and timed, served on `ADDR:PORT` (`127.0.0.1:9099`, `[::1]:9099`). `census`: the store's.

    Raises InvalidConfiguration, IoFailure.
    """

    def __init__(self, where: str, census: Census, *, beyond_loopback: bool) -> None:
        self._census = census
        address, port = place(where, beyond_loopback=beyond_loopback)
        try:
            self._server, _ = start_http_server(port, address)
        except OSError as error:
            raise IoFailure(f"--metrics: {where}: {error.strerror}") from None
        if not ip_address(address).is_loopback:
            log.warning("the metrics on %s can be read by anybody who reaches it, without a password", where)
        steps.observe(lambda step, seconds: _STEP.labels(step).observe(seconds))

    def watch(self, node: Node, traces: figures.Traces) -> None:
        """From now on the metrics include the state of this node, and how many spans were sent."""
        node.store.count()
        gauges = Gauges(node, self._census, traces)
        REGISTRY.register(gauges)
        self._server.set_app(_with_attachments(make_wsgi_app(disable_compression=True), AttachmentLines(gauges)))

    def store(self, store: Store) -> Store:
        """The cluster's store, with its requests counted and timed."""
        from bgpcni.cluster.measured import Measured

        return Measured(store, self._asked)

    def _asked(self, operation: str, seconds: float | None, reason: str) -> None:
        if seconds is not None:
            _STORE.labels(operation).observe(seconds)
        if reason:
            _STORE_ERRORS.labels(operation, reason).inc()

    def announced(self, exporter: str, route: Announced, reached: Reached) -> None:
        """A route was announced for the first time."""
        _ANNOUNCE.labels(exporter).observe(time.monotonic() - route.asked)

    def counted(self, handle: Callable[[Call], Reply]) -> Callable[[Call], Reply]:
        """`handle` with its calls counted and timed."""

        def run(call: Call) -> Reply:
            began = time.perf_counter()
            reply = handle(call)
            name = call.variables.get("CNI_COMMAND", "")
            command = name if name in _COMMANDS else "other"  # a label is never chosen by a caller
            _DURATION.labels(command).observe(time.perf_counter() - began)
            _REQUESTS.labels(command, "ok" if reply.code == 0 else str(reply.error)).inc()
            return reply

        return run


def _with_attachments(metrics: WSGIApplication, lines: AttachmentLines) -> WSGIApplication:
    """The metrics with a line for each attachment at their end."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        begun: list[tuple[str, list[tuple[str, str]]]] = []

        def begin(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> Callable[[bytes], object]:
            begun.append((status, headers))
            return lambda data: None

        body = b"".join(metrics(environ, begin))
        status, headers = begun[0]
        if body.startswith(b"# HELP") and "name[]" not in parse_qs(environ.get("QUERY_STRING", "")):
            end = b"# EOF\n" if body.endswith(b"# EOF\n") else b""
            body = body[: len(body) - len(end)] + lines.text().encode() + end
        if gzip_accepted(environ.get("HTTP_ACCEPT_ENCODING", "")):
            body, headers = gzip.compress(body, 1), [*headers, ("Content-Encoding", "gzip")]
        start_response(status, headers)
        return [body]

    return app
