"""Spans are made of what calls and exporters leave behind, and nothing of it makes them wait or fail."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult

from bgpcni import steps
from bgpcni.agent import tracing as module
from bgpcni.agent.tracing import Tracing
from bgpcni.config.agent import TracingTable
from bgpcni.convergence.ledger import Announced
from bgpcni.handler import Call, Reply
from bgpcni.model import Announcement, AttachmentKey, UnicastNlri
from bgpcni.testing.patience import SECONDS

OWNER = AttachmentKey("net", "c1", "eth0")
ROUTE = Announcement(UnicastNlri.of("10.0.0.1/32"), "net", "192.0.2.1")


class Sink:
    """In place of the exporter by OTLP: keeps what it is given, and answers when it may."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []
        self.may = threading.Event()
        self.may.set()
        self.result = SpanExportResult.SUCCESS
        self.begun = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self.result
        self.begun.set()
        assert self.may.wait(SECONDS)
        if result is SpanExportResult.SUCCESS:
            self.spans += spans
        return result

    def shutdown(self) -> None:
        pass


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def tracing(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tracing]:
    monkeypatch.setattr(module, "OTLPSpanExporter", lambda endpoint: sink)
    monkeypatch.setattr(module, "PAUSE", 0.01)
    monkeypatch.setattr(module, "STOP_SECONDS", SECONDS)
    monkeypatch.setattr(steps, "_observers", ())
    found = Tracing(TracingTable(endpoint="http://192.0.2.9:4318"))
    found.start()
    yield found
    sink.may.set()
    found.stop()


@steps.step("record")
def record() -> None:
    pass


def add(stdin: bytes = b'{"name": "net"}', **variables: str) -> Call:
    return Call({"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", **variables}, stdin)


def made(call: Call, handle: Callable[[Call], Reply], tracing: Tracing) -> None:
    tracing.traced(handle)(call).finish()


def works(call: Call) -> Reply:
    record()
    return Reply(0)


def announced(tracing: Tracing, reached: Mapping[str, float] | None = None, ago: float = 0.1) -> None:
    tracing.announced("memory", Announced(ROUTE, (OWNER,), time.monotonic() - ago), lambda: reached or {})


def ended(sink: Sink, tracing: Tracing) -> dict[str, ReadableSpan]:
    tracing.stop()
    return {span.name: span for span in sink.spans}


def test_a_route_that_is_announced_before_its_call_has_ended_belongs_to_it(tracing: Tracing, sink: Sink) -> None:
    """`bgp.wait`: the route is there first."""

    def waits(call: Call) -> Reply:
        assert not sink.begun.wait(0.15)
        announced(tracing, {"192.0.2.7": time.time()})
        assert not sink.begun.wait(0.05)  # nothing can be sent yet
        return works(call)

    made(add(), waits, tracing)
    spans = ended(sink, tracing)
    call, route, peer, step = (spans[name] for name in ("CNI ADD", "announce route", "send to peer", "record"))
    assert {span.context.trace_id for span in spans.values()} == {call.context.trace_id}
    assert route.parent == call.context
    assert [link.context for link in route.links] == [call.context]
    assert (peer.parent, step.parent) == (route.context, call.context)
    assert peer.attributes == {
        "network.peer.address": "192.0.2.7", "network.protocol.name": "bgp", "bgpcni.exporter": "memory",
    }  # fmt: skip
    assert route.start_time
    assert route.end_time
    assert 0.1e9 <= route.end_time - route.start_time < SECONDS * 1e9


def test_each_route_belongs_to_the_add_that_wanted_it(tracing: Tracing, sink: Sink) -> None:
    """The same container is attached twice, with a DEL and an ADD that fails in between."""

    def announces(call: Call) -> Reply:
        announced(tracing, ago=0.0)
        return works(call)

    made(add(), announces, tracing)
    made(add(), lambda call: Reply(1, b"{}", error=100), tracing)
    pause = threading.Event()
    pause.wait(0.02)
    made(add(), announces, tracing)
    tracing.stop()
    calls = [span for span in sink.spans if span.name == "CNI ADD"]
    routes = [span for span in sink.spans if span.name == "announce route"]
    assert [span.parent for span in routes] == [calls[0].context, calls[2].context]


def test_a_route_whose_call_is_not_known_stands_alone(
    tracing: Tracing, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a reload that moved its container to this exporter."""
    monkeypatch.setattr(module, "CALL_SECONDS", 0.0)
    announced(tracing)
    assert sink.begun.wait(SECONDS)
    route = ended(sink, tracing)["announce route"]
    assert (route.parent, list(route.links)) == (None, [])


def test_no_call_waits_for_a_receiver_that_hangs(tracing: Tracing, sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit into the queue is dropped and counted, a call with its step as two spans."""
    monkeypatch.setattr(module, "WAITING", 10)
    sink.may.clear()
    made(add(), works, tracing)
    assert sink.begun.wait(SECONDS)
    for _ in range(15):
        made(add(), works, tracing)
    assert tracing.counts.dropped["queue"] == 10
    sink.may.set()
    tracing.stop()
    assert tracing.counts.exported == len(sink.spans) == 2 * 11
    assert tracing.counts.dropped == {"queue": 10, "receiver": 0}


def test_a_receiver_that_refuses_is_said_once(tracing: Tracing, sink: Sink, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    sink.result = SpanExportResult.FAILURE
    for _ in range(3):
        sink.begun.clear()
        made(add(), works, tracing)
        assert sink.begun.wait(SECONDS)
    sink.result = SpanExportResult.SUCCESS
    made(add(), works, tracing)
    tracing.stop()
    assert tracing.counts.dropped["receiver"] == 6
    assert [record.getMessage() for record in caplog.records if record.name == module.__name__] == [
        "http://192.0.2.9:4318 takes no spans: they are dropped until it does",
        "http://192.0.2.9:4318 takes spans again; 6 were dropped so far",
    ]


@pytest.mark.parametrize(
    ("call", "attributes"),
    [
        (add(b"\xff"), {}),
        (add(b"[" * 100_000), {}),
        (add(b'{"name": 7}'), {}),
        (add(CNI_ARGS="a=b=c"), {"bgpcni.network": "net"}),
        (add(CNI_ARGS="K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web"),
         {"bgpcni.network": "net", "k8s.namespace.name": "shop", "k8s.pod.name": "web"}),
    ],
    ids=["no text", "deep", "no name", "bad arguments", "a pod"],
)  # fmt: skip
def test_a_call_that_makes_no_sense_is_a_span_all_the_same(
    tracing: Tracing, sink: Sink, call: Call, attributes: dict[str, str]
) -> None:
    """With its error, which is the runtime's."""
    answer = json.dumps({"code": 7, "msg": "bad"}).encode()
    made(call, lambda _: Reply(1, answer, error=7), tracing)
    span = ended(sink, tracing)["CNI ADD"]
    known: dict[str, Any] = {"bgpcni.command": "ADD", "container.id": "c1", "network.interface.name": "eth0"}
    assert span.attributes == known | {"error.type": "7"} | attributes
    assert span.status.description == "bad"


def test_steps_outside_of_a_call_are_nobodys(tracing: Tracing, sink: Sink) -> None:
    """The worker takes them, too."""
    made(add(), works, tracing)
    record()
    tracing.stop()
    assert sorted(span.name for span in sink.spans) == ["CNI ADD", "record"]
