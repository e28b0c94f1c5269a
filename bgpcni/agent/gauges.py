"""What is measured each time the metrics are read. Nothing here reads a record, asks the kernel, or holds a lock for
longer than it takes to copy what the lock protects."""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bgpcni import __version__
from bgpcni.agent import figures
from bgpcni.census import Census, Counted
from bgpcni.commands import answers
from bgpcni.convergence.announcer import ROUTE_STATES, Announcer
from bgpcni.dataplane.dataplane import DataPlane
from bgpcni.dataplane.guard import HARMFUL
from bgpcni.errors import CniError
from bgpcni.events import Events, Kind
from bgpcni.model import State
from bgpcni.node.node import Node

log = logging.getLogger(__name__)
SESSION_STATES = ("Idle", "Connect", "Active", "OpenSent", "OpenConfirm", "Established")
REASONS = 32
"""So many reasons to refuse learned routes are told apart; the others are counted together as `other`."""
_NAMES = {state: state.value for state in State}
_STATES = (*_NAMES.values(), answers.GONE)
_FAMILIES = {4: "ipv4", 6: "ipv6"}
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


_SECTIONS = (
    figures.NODE,
    figures.ATTACHMENTS,
    figures.ROUTES,
    figures.SPEAKERS,
    figures.SESSIONS,
    figures.LEARNED,
    figures.TRACES,
)


class _Families:
    """The metrics of one reading, by name, each made when it gets its first value."""

    def __init__(self) -> None:
        self._made: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}

    def put(self, name: str, value: float, *labels: str) -> None:
        family = self._made.get(name)
        if family is None:
            figure = figures.BY_NAME[name]
            kind = CounterMetricFamily if figure.kind == "counter" else GaugeMetricFamily
            family = self._made[name] = kind(name, figure.text, labels=figure.labels)
        family.add_metric(labels, value)

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._made.values())


class Gauges(Collector):
    """The state of a node. `attachments` are told apart, because their lines are many and change seldom."""

    def __init__(self, node: Node, census: Census, tracing: figures.Traces) -> None:
        self._node, self._census, self._tracing = node, census, tracing

    def describe(self) -> Iterator[Metric]:
        """What `collect` may give, so that a scrape can ask for some metrics by name."""
        for figure in (each for section in _SECTIONS for each in section if each.kind != "histogram"):
            yield Metric(figure.name, figure.text, figure.kind)

    def collect(self) -> Iterator[Metric]:
        began = time.perf_counter()
        found = _Families()
        self._of_node(found)
        self._of_attachments(found)
        for name, announcer in self._node.convergence.announcers().items():
            try:
                _of_routes(found, name, announcer)
                _of_sessions(found, name, announcer, self._node.events)
                _of_speaker(found, name, announcer)
            except Exception:  # a defect of one exporter must not hide the others
                log.exception("exporter %s cannot be measured", name, extra={"exporter": name})
        if (spans := self._tracing.counts) is not None:
            found.put("bgpcni_trace_spans_exported", spans.exported)
            for reason, count in spans.dropped.items():
                found.put("bgpcni_trace_spans_dropped", count, reason)
        if self._node.dataplane is not None:
            _of_learned(found, self._node.dataplane)
        found.put("bgpcni_scrape_duration_seconds", time.perf_counter() - began)
        yield from found

    def _of_node(self, found: _Families) -> None:
        node = self._node
        found.put("bgpcni_build_info", 1, __version__, platform.python_version())
        found.put("bgpcni_drained", node.drained)
        found.put("bgpcni_maintenance", bool(node.maintenance))
        for state, count in zip(("passing", "failing"), node.health.counts(), strict=True):
            found.put("bgpcni_health_checks", count, state)
        kinds = Counter(dict.fromkeys(Kind, 0))
        for (kind, _, _), count in node.events.counts.copy().items():
            kinds[kind] += count
        for kind, count in kinds.items():
            found.put("bgpcni_events", count, kind)
        found.put("bgpcni_events_missed", node.events.missed)
        for code in list(node.amiss):
            found.put("bgpcni_problem", 1, code)
        found.put("bgpcni_queue_length", len(node.nudges), "reconcile")
        if node.dataplane is not None:
            found.put("bgpcni_queue_length", node.dataplane.waiting, "learned")

    def _of_attachments(self, found: _Families) -> None:
        states: Counter[tuple[str, str]] = Counter()
        leases: Counter[tuple[str, int]] = Counter()
        for counted, state in self.attachments().values():
            states[counted.network, state] += 1
            leases[counted.network, 4] += counted.leases[0]
            leases[counted.network, 6] += counted.leases[1]
        networks = dict.fromkeys(network for network, _ in states)
        for network in networks:
            for state in _STATES:
                found.put("bgpcni_attachments", states[network, state], network, state)
            for version, family in _FAMILIES.items():
                found.put("bgpcni_leases", leases[network, version], network, family)
        for network, pool in self._node.addressing.pools.copy().items():
            try:
                room = pool.room()
            except CniError:  # its ADD has failed for this reason
                continue
            for version, size in room.items():
                found.put("bgpcni_lease_capacity", size, network, _FAMILIES[version])
        blocks: Counter[tuple[str, str, str]] = Counter()
        for used in self._node.pools.usage() if self._node.pools is not None else ():
            family = _FAMILIES[used.version]
            for name, value in (("blocks", 1), ("leases", used.used), ("capacity", used.size)):
                blocks[name, used.pool, family] += value
        for (name, pool_name, family), value in blocks.items():
            found.put(f"bgpcni_pool_{name}", value, pool_name, family)

    def attachments(self) -> dict[str, tuple[Counted, str]]:
        """Each record with its state, which is GONE where the reconciler has found that the link is lost."""
        found = {name: (each, _NAMES[each.state]) for name, each in self._census.all().items()}
        lost = {key for key, seen in self._node.seen.copy().items() if seen.gone is not None}
        for name, (each, _) in list(found.items()) if lost else ():
            if each.state is State.UP and each.key in lost:
                found[name] = each, answers.GONE
        return found


def _of_routes(found: _Families, name: str, announcer: Announcer) -> None:
    for state, count in (dict.fromkeys(ROUTE_STATES, 0) | announcer.counts()).items():
        found.put("bgpcni_routes", count, name, state)
    waiting = announcer.waiting()
    found.put("bgpcni_exporter_late", announcer.state().state == "late", name)
    found.put("bgpcni_exporter_queue_routes", waiting.to_give, name)
    found.put("bgpcni_exporter_pending_routes", waiting.under_way, name)
    found.put(
        "bgpcni_exporter_lag_seconds", max(0.0, time.time() - _epoch(waiting.since)) if waiting.since else 0, name
    )
    found.put("bgpcni_exporter_failures", announcer.failed_calls, name)


def _of_sessions(found: _Families, name: str, announcer: Announcer, events: Events) -> None:
    for peer in announcer.peers():
        found.put("bgpcni_bgp_session_up", peer.state == "Established", name, peer.address, str(peer.asn))
        for state in SESSION_STATES:
            found.put("bgpcni_bgp_session_state", peer.state == state, name, peer.address, state)
        if peer.since:
            found.put("bgpcni_bgp_session_since_seconds", _epoch(peer.since), name, peer.address)
        found.put("bgpcni_bgp_session_routes", peer.sent, name, peer.address, "sent")
        found.put("bgpcni_bgp_session_routes", peer.received, name, peer.address, "received")
        ended = events.counts[Kind.SESSION_DOWN, name, peer.address]
        found.put("bgpcni_bgp_session_flaps", ended, name, peer.address)


def _of_speaker(found: _Families, name: str, announcer: Announcer) -> None:
    process = announcer.process()
    if process is None:
        return
    found.put("bgpcni_speaker_up", process.pid != 0, name)
    found.put("bgpcni_speaker_starts", process.starts, name)
    folder = Path("/proc", str(process.pid))
    try:
        resident = int((folder / "statm").read_text().split()[1]) * _PAGE
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        descriptors = len(os.listdir(folder / "fd"))
    except (OSError, IndexError, ValueError):  # it does not run, or has just ended
        return
    found.put("bgpcni_speaker_resident_memory_bytes", resident, name)
    found.put("bgpcni_speaker_open_fds", descriptors, name)
    found.put("bgpcni_speaker_cpu_seconds", (int(fields[11]) + int(fields[12])) / _TICKS, name)


def _of_learned(found: _Families, dataplane: DataPlane) -> None:
    for table in dataplane.tables():
        found.put("bgpcni_learned_routes", table.taken, table.name)
        for state, count in (("present", table.present), ("pending", table.pending), ("failed", table.failed)):
            found.put("bgpcni_datapath_entries", count, table.name, state)
    refused = Counter(dict.fromkeys(HARMFUL, 0) | dataplane.refused())
    told = [*HARMFUL, *(reason for reason, _ in refused.most_common() if reason not in HARMFUL)][:REASONS]
    for reason in told:
        found.put("bgpcni_learned_routes_refused", refused.pop(reason), reason)
    if refused:
        found.put("bgpcni_learned_routes_refused", refused.total(), "other")


def _epoch(since: str) -> float:
    """RFC 3339 as seconds since the epoch."""
    return datetime.fromisoformat(since).timestamp()


class AttachmentLines:
    """`bgpcni_attachment_info` as text. A line is written again only when its attachment has changed: writing thousands
    at each reading would keep CNI calls from the interpreter for a tenth of a second."""

    _figure = figures.BY_NAME["bgpcni_attachment_info"]
    _HEAD = f"# HELP {_figure.name} {_figure.text}\n# TYPE {_figure.name} gauge\n"

    def __init__(self, gauges: Gauges) -> None:
        self._gauges = gauges
        self._lock = threading.Lock()
        self._lines: dict[str, tuple[tuple[Counted, str], str]] = {}

    def text(self) -> str:
        with self._lock:
            before, self._lines = self._lines, {}
            for name, item in self._gauges.attachments().items():
                known = before.get(name)
                if item[0].key is not None:
                    self._lines[name] = known if known is not None and known[0] == item else (item, self._line(*item))
            return self._HEAD + "".join(line for _, line in self._lines.values())

    def _line(self, counted: Counted, state: str) -> str:
        assert counted.key is not None
        values = (counted.network, counted.key.container_id, counted.key.ifname, state, counted.namespace, counted.pod)
        labels = ",".join(
            f'{label}="{_escaped(value)}"' for label, value in zip(self._figure.labels, values, strict=True)
        )
        return f"{self._figure.name}{{{labels}}} 1.0\n"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
