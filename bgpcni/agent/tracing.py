"""Traces by OpenTelemetry: a span for each CNI call with its steps, and one for the way of each new route to its peers.

Imported only if traces are asked for. A call's thread only notes times, and leaves them in a bounded queue; a thread of
ours makes spans of them and sends them by OTLP. Whatever the receiver does, no call waits: what is too much is dropped
and counted.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import NamedTuple

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    set_span_in_context,
)

from bgpcni import __version__, steps
from bgpcni.agent.figures import SpanCounts
from bgpcni.config.agent import TracingTable
from bgpcni.convergence.announcer import Reached
from bgpcni.convergence.ledger import Announced
from bgpcni.handler import Call, Reply
from bgpcni.model import AttachmentKey
from bgpcni.node.failures import network_named_by, pod_named_by

log = logging.getLogger(__name__)
WAITING = 4096
"""How many calls and routes may wait for the thread that makes spans of them."""
BATCH = 512
"""How many calls and routes are sent at once at most."""
PAUSE = 1.0
"""Seconds for which more is waited for, before what is there is sent."""
CALLS = 4096
"""For so many ADDs it is remembered which span they have, so that the spans of their routes can point there."""
SKEW = 5_000_000
"""Nanoseconds by which the clocks that a call and its routes are timed with may differ."""
CALL_SECONDS = 60.0
"""For so long the span of a route waits for that of its call, which may take this long to end."""
STDIN = 1 << 16
"""Octets of a configuration that is kept until the network's name is read from it. A GC may be as long as 16 MiB."""
STOP_SECONDS = 2.0
"""How long the agent's end waits for the last spans to be sent."""
_RECEIVER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"


class StepTaken(NamedTuple):
    name: str
    ended: int
    """Nanoseconds since the epoch, as all times here."""
    seconds: float


class CallDone(NamedTuple):
    """A call that was answered, without what keeps memory or descriptors. `stdin` is empty where it was long."""

    variables: Mapping[str, str]
    stdin: bytes
    reply: Reply
    began: int
    ended: int
    steps: Sequence[StepTaken]


class Add(NamedTuple):
    """An ADD that worked, and its span."""

    key: AttachmentKey
    began: int
    ended: int
    span: SpanContext


class RouteDone(NamedTuple):
    """`asked`: when the route was first wanted; `ended`: when it was announced. `reached`: when each peer had it."""

    exporter: str
    route: Announced
    reached: Mapping[str, float]
    asked: int
    ended: int


class Tracing:
    """Made before the node is; `start` begins to send."""

    def __init__(self, table: TracingTable) -> None:
        self._spans = _Collected()
        sampler: Sampler | None = None if table.ratio is None else ParentBased(TraceIdRatioBased(table.ratio))
        provider = TracerProvider(sampler, _resource(), shutdown_on_exit=False)
        provider.add_span_processor(self._spans)
        self._tracer = provider.get_tracer("bgpcni", __version__)
        self._receiver = table.endpoint or "the receiver of $OTEL_EXPORTER_OTLP_ENDPOINT"
        self._exporter = OTLPSpanExporter(f"{table.endpoint.rstrip('/')}/v1/traces" if table.endpoint else None)
        logging.getLogger(_RECEIVER).setLevel(logging.CRITICAL)  # it logs each failure; we log the first one
        self._queue: SimpleQueue[CallDone | RouteDone | None] = SimpleQueue()
        self._adds: deque[Add] = deque(maxlen=CALLS)
        self._early: list[RouteDone] = []
        self._in_call = threading.local()
        self._exported = self._overflowed = self._refused = 0
        self._away = False
        self._thread = threading.Thread(target=self._run, name="tracing", daemon=True)
        steps.observe(self._step)

    @property
    def counts(self) -> SpanCounts:
        return SpanCounts(self._exported, {"queue": self._overflowed, "receiver": self._refused})

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Send what is there, if that is quick."""
        self._queue.put(None)
        self._thread.join(STOP_SECONDS)
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    # ---------------------------------------------------------------- what the threads of calls and exporters do

    def traced(self, handle: Callable[[Call], Reply]) -> Callable[[Call], Reply]:
        """`handle`, with a span for each of its calls."""

        def run(call: Call) -> Reply:
            taken: list[StepTaken] = []
            self._in_call.steps = taken
            began = time.time_ns()
            reply = handle(call)
            ended = time.time_ns()
            stdin = call.stdin if len(call.stdin) <= STDIN else b""
            done = CallDone(call.variables, stdin, reply._replace(after=()), began, ended, taken)
            return reply._replace(after=(*reply.after, lambda: self._done(done)))

        return run

    def _step(self, name: str, seconds: float) -> None:
        taken: list[StepTaken] | None = getattr(self._in_call, "steps", None)
        if taken is not None:
            taken.append(StepTaken(name, time.time_ns(), seconds))

    def _done(self, item: CallDone) -> None:
        self._in_call.steps = None
        self._put(item, 1 + len(item.steps))

    def announced(self, exporter: str, route: Announced, reached: Reached) -> None:
        """A route was announced for the first time."""
        now = time.time_ns()
        asked = now - int((time.monotonic() - route.asked) * 1e9)
        # the exporter is asked at once, because the route may be withdrawn soon
        self._put(RouteDone(exporter, route, reached(), asked, now), 1)

    def _put(self, item: CallDone | RouteDone, spans: int) -> None:
        if self._queue.qsize() >= WAITING:
            self._overflowed += spans
        else:
            self._queue.put(item)

    # ---------------------------------------------------------------- the thread

    def _run(self) -> None:
        ended = False
        while not ended:
            batch, ended = self._take()
            try:
                for item in batch:
                    if isinstance(item, CallDone):
                        self._spans_of_call(item)
                    else:
                        self._early.append(item)
                self._spans_of_routes(at_once=ended)
                self._send(self._spans.take())
            except Exception:
                log.exception("tracing failed because of a defect")

    def _take(self) -> tuple[list[CallDone | RouteDone], bool]:
        """What has come; whether it is the last."""
        batch: list[CallDone | RouteDone] = []
        deadline: float | None = None if not self._early else time.monotonic() + PAUSE
        while len(batch) < BATCH:
            try:
                item = self._queue.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
            except Empty:
                break
            if item is None:
                return batch, True
            batch.append(item)
            deadline = deadline or time.monotonic() + PAUSE
        return batch, False

    def _spans_of_call(self, done: CallDone) -> None:
        variables, network = done.variables, network_named_by(done.stdin)
        command = variables.get("CNI_COMMAND", "")
        known = {
            "bgpcni.command": command,
            "bgpcni.network": network,
            "container.id": variables.get("CNI_CONTAINERID", ""),
            "network.interface.name": variables.get("CNI_IFNAME", ""),
            **_pod(variables.get("CNI_ARGS", "")),
        }
        span = self._tracer.start_span(
            f"CNI {command}", Context(), SpanKind.SERVER, _present(known), start_time=done.began
        )
        if done.reply.error:
            span.set_attribute("error.type", str(done.reply.error))
            span.set_status(Status(StatusCode.ERROR, _message(done.reply.stdout)))
        inside = set_span_in_context(span, Context())
        for taken in done.steps:
            began = max(done.began, taken.ended - int(taken.seconds * 1e9))
            self._tracer.start_span(taken.name, inside, start_time=began).end(max(began, taken.ended))
        span.end(done.ended)
        if command == "ADD" and not done.reply.error:
            key = AttachmentKey(network, variables.get("CNI_CONTAINERID", ""), variables.get("CNI_IFNAME", ""))
            self._adds.append(Add(key, done.began, done.ended, span.get_span_context()))

    def _spans_of_routes(self, *, at_once: bool) -> None:
        """A route may be announced before its call has ended, whose span it points to: then it waits."""
        late = time.time_ns() - int(CALL_SECONDS * 1e9)
        waiting, self._early = self._early, []
        adds: dict[AttachmentKey, list[Add]] = {}
        for each in self._adds if waiting else ():
            adds.setdefault(each.key, []).append(each)
        for done in waiting:
            made = (each for owner in done.route.owners for each in adds.get(owner, ()))
            calls = [each.span for each in made if each.began - SKEW <= done.asked <= each.ended + SKEW]
            if calls or at_once or done.ended < late:
                self._spans_of_route(done, calls)
            else:
                self._early.append(done)
        if len(self._early) > WAITING:
            self._overflowed += len(self._early) - WAITING
            del self._early[:-WAITING]

    def _spans_of_route(self, done: RouteDone, calls: Sequence[SpanContext]) -> None:
        """It belongs to the trace of its call, and links to it, because the call did not wait for it."""
        owner = done.route.owners[0] if done.route.owners else AttachmentKey("", "", "")
        known = {
            "bgpcni.exporter": done.exporter,
            "bgpcni.route": str(done.route.route.nlri),
            "bgpcni.next_hop": done.route.route.next_hop,
            "bgpcni.network": done.route.route.network,
            "container.id": owner.container_id,
            "network.interface.name": owner.ifname,
        }
        within = set_span_in_context(NonRecordingSpan(calls[0]), Context()) if calls else Context()
        links = [Link(each) for each in calls]
        span = self._tracer.start_span(
            "announce route", within, SpanKind.PRODUCER, _present(known), links, start_time=done.asked
        )
        if span.is_recording():
            inside = set_span_in_context(span, Context())
            for peer, at in done.reached.items():
                self._span_of_peer(inside, peer, done, max(done.asked, int(at * 1e9)))
        span.end(done.ended)

    def _span_of_peer(self, inside: Context, peer: str, done: RouteDone, at: int) -> None:
        known = {"network.peer.address": peer, "network.protocol.name": "bgp", "bgpcni.exporter": done.exporter}
        span = self._tracer.start_span("send to peer", inside, SpanKind.PRODUCER, known, start_time=done.asked)
        span.end(at)

    def _send(self, spans: Sequence[ReadableSpan]) -> None:
        if not spans:
            return
        sent = self._exporter.export(spans) is SpanExportResult.SUCCESS
        if sent:
            self._exported += len(spans)
            if self._away:
                log.info("%s takes spans again; %d were dropped so far", self._receiver, self._refused)
        else:
            self._refused += len(spans)
            if not self._away:
                log.warning("%s takes no spans: they are dropped until it does", self._receiver)
        self._away = not sent


class _Collected(SpanProcessor):
    """The spans that have ended, for the only thread that makes any."""

    def __init__(self) -> None:
        self._ended: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is not None and span.context.trace_flags.sampled:
            self._ended.append(span)

    def take(self) -> list[ReadableSpan]:
        found, self._ended = self._ended, []
        return found


def _resource() -> Resource:
    """Who sends the spans. What $OTEL_RESOURCE_ATTRIBUTES and $OTEL_SERVICE_NAME say counts more."""
    host = os.environ.get("NODE_NAME") or socket.gethostname()
    ours = {"service.name": "bgpcni", "service.version": __version__, "service.instance.id": host, "host.name": host}
    return Resource(ours).merge(OTELResourceDetector().detect())


def _pod(args: str) -> Mapping[str, str]:
    """The pod that a Kubernetes runtime names."""
    pod = pod_named_by(args)
    return {"k8s.namespace.name": pod.namespace, "k8s.pod.name": pod.name, "k8s.pod.uid": pod.uid} if pod else {}


def _message(stdout: bytes) -> str:
    """The error that the runtime got."""
    try:
        return str(json.loads(stdout)["msg"])
    except (ValueError, KeyError, TypeError):
        return ""


def _present(values: Mapping[str, str]) -> Mapping[str, str]:
    return {name: value for name, value in values.items() if value}
