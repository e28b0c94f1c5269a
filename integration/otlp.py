"""A receiver of OTLP over HTTP in a network namespace: it decodes the protobuf, and keeps every span."""

from __future__ import annotations

import gzip
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from integration.lab import Namespace
from integration.lab.inside import Inside

STEPS = frozenset(("parse", "addresses", "bridge", "pair", "inside", "record", "announce"))
"""Steps that every ADD of a bridge network takes."""


@dataclass(frozen=True)
class Received:
    """One span. Times in nanoseconds since the epoch; identities as hexadecimal digits, "" for no parent."""

    name: str
    kind: int
    trace: str
    identity: str
    parent: str
    began: int
    ended: int
    attributes: dict[str, str]
    links: tuple[str, ...]
    error: str | None
    resource: dict[str, str] = field(hash=False)


class Receiver:
    """Listens on 127.0.0.1:4318 of a namespace, until `close`."""

    def __init__(self, namespace: Namespace, port: int = 4318) -> None:
        self._lock = threading.Lock()
        self._spans: list[Received] = []
        self.paths: set[str] = set()
        self._inside = Inside(namespace)
        self._server = self._inside.call(ThreadingHTTPServer, ("127.0.0.1", port), self._handler())
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def spans(self, name: str = "") -> list[Received]:
        """What came, in the order in which it came; only spans of this name, if one is given."""
        with self._lock:
            return [span for span in self._spans if name in ("", span.name)]

    def close(self) -> None:
        """Idempotent."""
        self._server.shutdown()
        self._server.server_close()
        self._inside.close()

    def _take(self, body: bytes) -> None:
        found = []
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = _values(group.resource.attributes)
            for scope in group.scope_spans:
                found += [_received(span, resource) for span in scope.spans]
        with self._lock:
            self._spans += found

    def _handler(receiver) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.paths.add(self.path)
                receiver._take(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler


def _received(span: Any, resource: dict[str, str]) -> Received:
    return Received(
        name=span.name,
        kind=span.kind,
        trace=span.trace_id.hex(),
        identity=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        began=span.start_time_unix_nano,
        ended=span.end_time_unix_nano,
        attributes=_values(span.attributes),
        links=tuple(link.span_id.hex() for link in span.links),
        error=span.status.message if span.status.code == 2 else None,
        resource=resource,
    )


def _values(attributes: Any) -> dict[str, str]:
    return {item.key: item.value.string_value for item in attributes}
