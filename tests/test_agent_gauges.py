"""What a scrape tells, on a node whose exporter is in memory; that it reads no record; and that the documentation names
every metric."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_plain

import bgpcni
from bgpcni.agent import figures
from bgpcni.agent.gauges import REASONS, AttachmentLines, Gauges
from bgpcni.agent.metrics import _with_attachments
from bgpcni.census import Census
from bgpcni.cluster.pools import Usage
from bgpcni.config.agent import AgentConfig
from bgpcni.convergence import catalog
from bgpcni.convergence.convergence import Convergence
from bgpcni.dataplane.dataplane import TableCounts
from bgpcni.dataplane.guard import HARMFUL
from bgpcni.events import Events, Kind
from bgpcni.exporter import Peer, Process
from bgpcni.model import Address, Attachment, ExporterUse, IpamRecord, Pod, State
from bgpcni.node.node import Node
from bgpcni.node.seen import Seen
from bgpcni.nudges import Nudges
from bgpcni.store import Store
from bgpcni.testing.memory import FACTS, Memory

DOCS = Path(bgpcni.__file__).parent.parent / "docs/metrics.md"
PEER = Peer("192.0.2.9", 64512, "Active", "2026-01-31T12:00:00Z", received=7)


class Speaking(Memory):
    """With a session that is not up, and a process that is not there."""

    def peers(self) -> list[Peer]:
        return [PEER]

    def process(self) -> Process:
        return Process(0, 3)


class Pools:
    """Two blocks of one pool, and one of another."""

    def usage(self) -> list[Usage]:
        return [Usage("a", 4, 14, 14), Usage("a", 4, 14, 3), Usage("b", 6, 64, 1)]


class Sending:
    """Traces are asked for."""

    counts = figures.SpanCounts(6, {"queue": 0, "receiver": 2})


class Learning:
    """A data path that has learned something, and has refused more than anybody can read."""

    waiting = 5

    def tables(self) -> list[TableCounts]:
        return [TableCounts("vni 5001", 10, 8, 1, 1)]

    def refused(self) -> dict[str, int]:
        return {f"reason {number}": 2 for number in range(100)} | {HARMFUL[0]: 4}


def attachment(node: Node, container: str = "c1", **more: Any) -> Attachment:
    values = {
        "boot_id": node.boot_id, "network": "net", "container_id": container, "ifname": "eth0", "netns": "/x",
        "created": "2026-01-31T12:00:00Z", "ipam": IpamRecord(type="host-local"),
        "addresses": (Address(address="10.1.2.3/24"),),
        "exporters": (ExporterUse(name="memory", type="memory"),), **more,
    }  # fmt: skip
    return Attachment.model_validate(values)


@pytest.fixture
def census() -> Census:
    return Census()


@pytest.fixture
def node(tmp_path: Path, census: Census, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    monkeypatch.setattr(catalog, "load", lambda kind: Speaking)
    store = Store(tmp_path / "data", tmp_path / "run", census)
    nudges = Nudges()
    events = Events()
    convergence = Convergence(FACTS, nudges, events=events)
    config = AgentConfig(default_exporters=("memory",))
    node = Node(store, config, FACTS, convergence, nudges, Learning(), None, events, Pools())  # type: ignore[arg-type]
    convergence.start()
    yield node
    convergence.stop()
    store.close()


def values(gauges: Gauges) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in gauges.collect()
        for sample in family.samples
    }


def test_a_scrape_tells_of_everything(node: Node, census: Census, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attachments, routes, sessions, speaker, what was learned. It reads no record and asks no kernel."""
    up, lost = attachment(node), attachment(node, "c2", addresses=(Address(address="2001:db8::3/64"),))
    for item in (up, lost, attachment(node, "c3", network="other")):
        node.store.put(State.UP, item)
    node.store.move(attachment(node, "c3", network="other"), State.LEAVING)
    node.seen[lost.key] = Seen(gone=1.0)
    node.amiss = {"run-dir": "it is gone"}
    node.convergence.want(up)
    assert node.convergence.wait_quiet(30) == []
    for kind in (Kind.SESSION_DOWN, Kind.SESSION_DOWN, Kind.SESSION_UP):
        node.events.emit(kind, exporter="memory", peer="192.0.2.9")
    monkeypatch.setattr(Store, "all", None)
    monkeypatch.setattr(Store, "find", None)
    monkeypatch.setattr(Node, "netlink", None)
    found = values(Gauges(node, census, Sending()))
    expected: dict[tuple[str, ...], float] = {
        ("bgpcni_attachments", "net", "up"): 1, ("bgpcni_attachments", "net", "gone"): 1,
        ("bgpcni_attachments", "net", "adding"): 0, ("bgpcni_attachments", "other", "leaving"): 1,
        ("bgpcni_leases", "ipv4", "net"): 1, ("bgpcni_leases", "ipv6", "net"): 1,
        ("bgpcni_routes", "memory", "announced"): 1, ("bgpcni_routes", "memory", "refused"): 0,
        ("bgpcni_exporter_late", "memory"): 0, ("bgpcni_exporter_queue_routes", "memory"): 0,
        ("bgpcni_exporter_lag_seconds", "memory"): 0, ("bgpcni_exporter_failures_total", "memory"): 0,
        ("bgpcni_bgp_session_up", "64512", "memory", "192.0.2.9"): 0,
        ("bgpcni_bgp_session_state", "memory", "192.0.2.9", "Active"): 1,
        ("bgpcni_bgp_session_state", "memory", "192.0.2.9", "Established"): 0,
        ("bgpcni_bgp_session_since_seconds", "memory", "192.0.2.9"): 1769860800,
        ("bgpcni_bgp_session_routes", "received", "memory", "192.0.2.9"): 7,
        ("bgpcni_speaker_up", "memory"): 0, ("bgpcni_speaker_starts_total", "memory"): 3,
        ("bgpcni_bgp_session_flaps_total", "memory", "192.0.2.9"): 2, ("bgpcni_events_total", "session-up"): 1,
        ("bgpcni_events_total", "orphan"): 0, ("bgpcni_events_missed_total",): 0,
        ("bgpcni_pool_blocks", "ipv4", "a"): 2, ("bgpcni_pool_leases", "ipv4", "a"): 17,
        ("bgpcni_pool_capacity", "ipv4", "a"): 28, ("bgpcni_pool_capacity", "ipv6", "b"): 64,
        ("bgpcni_learned_routes", "vni 5001"): 10, ("bgpcni_datapath_entries", "failed", "vni 5001"): 1,
        ("bgpcni_learned_routes_refused", HARMFUL[0]): 4, ("bgpcni_learned_routes_refused", HARMFUL[1]): 0,
        ("bgpcni_queue_length", "learned"): 5, ("bgpcni_queue_length", "reconcile"): 0,
        ("bgpcni_trace_spans_exported_total",): 6, ("bgpcni_trace_spans_dropped_total", "receiver"): 2,
        ("bgpcni_problem", "run-dir"): 1, ("bgpcni_drained",): 0,
        ("bgpcni_maintenance",): 0, ("bgpcni_health_checks", "passing"): 0,
    }  # fmt: skip
    assert {name: found.get(name) for name in expected} == expected
    assert all(name[0].removesuffix("_total") in figures.BY_NAME for name in found)
    # whatever peers announce, there is a bound to the series
    refused = {name: value for name, value in found.items() if name[0] == "bgpcni_learned_routes_refused"}
    assert len(refused) == REASONS + 1
    assert sum(refused.values()) == 204
    assert refused["bgpcni_learned_routes_refused", "other"] == 2 * (100 - (REASONS - len(HARMFUL)))


def test_one_exporter_that_cannot_be_measured_hides_nothing_else(
    node: Node, census: Census, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    node.convergence.want(attachment(node))
    monkeypatch.setattr(Speaking, "peers", None)
    found = values(Gauges(node, census, Sending()))
    assert found["bgpcni_learned_routes", "vni 5001"] == 10
    assert "exporter memory cannot be measured" in caplog.text


def scrape(app: Any, accept: str = "", *, query: str = "", zipped: bool = False) -> str:
    environ: dict[str, Any] = {
        "HTTP_ACCEPT": accept,
        "QUERY_STRING": query,
        "HTTP_ACCEPT_ENCODING": "gzip" if zipped else "",
    }
    setup_testing_defaults(environ)
    begun: list[Any] = []
    body = b"".join(app(environ, lambda status, headers: begun.append((status, dict(headers)))))
    assert begun[0][0] == "200 OK"
    assert (begun[0][1].get("Content-Encoding") == "gzip") is zipped
    return (gzip.decompress(body) if zipped else body).decode()


def test_each_attachment_has_a_line_in_every_format(node: Node, census: Census) -> None:
    """Hostile names of pods are labels like others. A line that has not changed is not written again."""
    hostile = Pod(namespace='a"b\\c', name="x\ny")
    node.store.put(State.UP, attachment(node, pod=hostile))
    gauges = Gauges(node, census, Sending())
    registry = CollectorRegistry()
    registry.register(gauges)
    lines = AttachmentLines(gauges)
    app = _with_attachments(make_wsgi_app(registry, disable_compression=True), lines)
    for read, accept in ((read_plain, ""), (read_openmetrics, "application/openmetrics-text; version=1.0.0")):
        for zipped in (False, True):
            families = {family.name: family for family in read(scrape(app, accept, zipped=zipped))}
            (sample,) = families["bgpcni_attachment_info"].samples
            assert (sample.labels["namespace"], sample.labels["pod"]) == (hostile.namespace, hostile.name)
            assert (sample.labels["container"], sample.labels["state"], sample.value) == ("c1", "up", 1)
            assert "bgpcni_build_info" in families
    only = scrape(app, query="name[]=bgpcni_drained")
    assert {family.name for family in read_plain(only)} == {"bgpcni_drained"}
    node.store.put(State.UP, attachment(node, "c2"))
    before = dict(lines._lines)
    lines.text()
    assert len(lines._lines) == 2
    assert all(lines._lines[name] is line for name, line in before.items())
    node.store.delete(attachment(node, "c2").key)
    assert lines.text().count("\nbgpcni_attachment_info{") == 1


def test_the_documentation_names_every_metric() -> None:
    """`python -m bgpcni.agent.figures` prints what belongs between the marks of docs/metrics.md."""
    text = DOCS.read_text()
    between = re.search(r"<!-- begin: metrics -->\n(.*)<!-- end -->", text, re.S)
    assert between is not None
    assert between[1].strip() == "\n".join(figures.tables()).strip()


def test_names_follow_the_conventions() -> None:
    """Prefix, base units, `_total` for counters only, labels that Prometheus takes."""
    for figure in figures.BY_NAME.values():
        assert re.fullmatch(r"bgpcni_[a-z0-9_]+", figure.name)
        assert not figure.name.endswith(("_total", "_ms", "_milliseconds", "_kb"))
        assert all(re.fullmatch(r"[a-z_]+", label) for label in figure.labels)
        assert figure.text.endswith(".")
        assert (figure.kind != "histogram") or figure.name.endswith("_seconds")
