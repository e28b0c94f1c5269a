"""Every metric of the agent: its name, kind, labels and meaning. docs/metrics.md is made from this table.

Names follow Prometheus' conventions: base units, `_total` for what only grows, `_info` for what is always 1.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple, Protocol


class Figure(NamedTuple):
    """One metric. A counter's name is without the suffix `_total`, which the library appends."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    text: str

    @property
    def shown(self) -> str:
        """The name in the output; a histogram has `_bucket`, `_sum` and `_count` behind it."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


class SpanCounts(NamedTuple):
    """How many spans were sent, and how many were dropped, by reason."""

    exported: int
    dropped: Mapping[str, int]


class Traces(Protocol):
    """What sends spans, if anything does."""

    @property
    def counts(self) -> SpanCounts | None:
        """How many spans were sent and dropped; None: nobody asked for traces."""
        ...  # pragma: no cover


_E = ("exporter",)
_P = ("exporter", "peer")

CALLS = (
    Figure("bgpcni_cni_requests", "counter", ("command", "outcome"),
           "CNI calls by command and outcome: `ok`, or the code of the CNI error."),
    Figure("bgpcni_cni_request_duration_seconds", "histogram", ("command",), "Duration of CNI calls in the agent."),
    Figure("bgpcni_cni_step_duration_seconds", "histogram", ("step",), "Duration of the steps of CNI calls."),
)  # fmt: skip
ATTACHMENTS = (
    Figure("bgpcni_attachments", "gauge", ("network", "state"),
           "Attachments by network and state. `gone`: the link was lost without a DEL."),
    Figure("bgpcni_attachment_info", "gauge", ("network", "container", "ifname", "state", "namespace", "pod"),
           "1 for each attachment, with the pod where the runtime named one."),
    Figure("bgpcni_leases", "gauge", ("network", "family"),
           "Addresses leased to attachments, held ones included."),
    Figure("bgpcni_lease_capacity", "gauge", ("network", "family"),
           "Addresses that the ranges of a host-local network have for containers. Known after the network's first ADD "
           "since the agent's start."),
    Figure("bgpcni_pool_blocks", "gauge", ("pool", "family"), "Blocks of the cluster's pools that this node has."),
    Figure("bgpcni_pool_leases", "gauge", ("pool", "family"),
           "Addresses of these blocks that are given to containers, held ones included."),
    Figure("bgpcni_pool_capacity", "gauge", ("pool", "family"), "Addresses that these blocks have for containers."),
)  # fmt: skip
ROUTES = (
    Figure("bgpcni_routes", "gauge", ("exporter", "state"),
           "Routes of this node by exporter and state: `wanted`, `announced`, `withdrawing` or `refused`."),
    Figure("bgpcni_announce_latency_seconds", "histogram", _E,
           "From a route first wanted until it is sent to every peer (accepted, if the exporter can tell no more)."),
    Figure("bgpcni_exporter_late", "gauge", _E, "1 if the exporter is late: its speaker is down, or does not answer."),
    Figure("bgpcni_exporter_queue_routes", "gauge", _E, "Routes that the exporter has still to be given."),
    Figure("bgpcni_exporter_pending_routes", "gauge", _E,
           "Routes that the exporter has been given and that are not at all of its peers."),
    Figure("bgpcni_exporter_lag_seconds", "gauge", _E, "For how long the first of these routes has been waiting."),
    Figure("bgpcni_exporter_failures", "counter", _E,
           "Calls that the exporter could not carry out, and that are retried."),
)  # fmt: skip
SPEAKERS = (
    Figure("bgpcni_speaker_up", "gauge", _E, "1 if the process of the speaker runs. Only speakers that bgpcni runs."),
    Figure("bgpcni_speaker_starts", "counter", _E,
           "How often the speaker's process was started, or found by the agent; more than 1 are restarts."),
    Figure("bgpcni_speaker_resident_memory_bytes", "gauge", _E, "Resident memory of the speaker's process."),
    Figure("bgpcni_speaker_open_fds", "gauge", _E, "Open file descriptors of the speaker's process."),
    Figure("bgpcni_speaker_cpu_seconds", "counter", _E, "Processor time of the speaker's process, user and system."),
)  # fmt: skip
SESSIONS = (
    Figure("bgpcni_bgp_session_up", "gauge", (*_P, "asn"), "1 if the BGP session is Established."),
    Figure("bgpcni_bgp_session_state", "gauge", (*_P, "state"),
           "1 for the state that the BGP session is in, 0 for others."),
    Figure("bgpcni_bgp_session_since_seconds", "gauge", _P,
           "When the BGP session came into its state, in seconds since the epoch."),
    Figure("bgpcni_bgp_session_routes", "gauge", (*_P, "direction"),
           "Routes `sent` to the peer, and `received` from it."),
    Figure("bgpcni_bgp_session_flaps", "counter", _P, "How often an Established BGP session has ended."),
)  # fmt: skip
LEARNED = (
    Figure("bgpcni_learned_routes", "gauge", ("table",), "Routes of peers that a table of this node has taken."),
    Figure("bgpcni_learned_routes_refused", "gauge", ("reason",), "Routes of peers that were not taken, by reason."),
    Figure("bgpcni_datapath_entries", "gauge", ("table", "state"),
           "Entries of learned routes in the kernel: `present`, `pending`, or `failed` (the kernel refused them)."),
)  # fmt: skip
NODE = (
    Figure("bgpcni_build_info", "gauge", ("version", "python"), "1, with the version of bgpcni and of Python."),
    Figure("bgpcni_drained", "gauge", (), "1 after `bgpcni drain`."),
    Figure("bgpcni_maintenance", "gauge", (), "1 while the node is in maintenance, so that peers prefer other paths."),
    Figure("bgpcni_health_checks", "gauge", ("state",),
           "Services that are asked by HTTP or TCP: `passing`, their shared addresses are announced, or `failing`."),
    Figure("bgpcni_problem", "gauge", ("code",),
           "1 for each problem that the agent found by itself, by its code in `status`."),
    Figure("bgpcni_queue_length", "gauge", ("queue",),
           "What waits in the agent: attachments to `reconcile`, events of `learned` routes."),
    Figure("bgpcni_events", "counter", ("kind",), "Events by kind, as `bgpcni events` shows them."),
    Figure("bgpcni_events_missed", "counter", (),
           "Events that a reader of `bgpcni events` was too slow for, counted for each reader."),
    Figure("bgpcni_scrape_duration_seconds", "gauge", (), "How long collecting these metrics took the agent."),
)  # fmt: skip
STORE = (
    Figure("bgpcni_store_request_duration_seconds", "histogram", ("operation",),
           "Duration of the requests to the cluster's store, whatever came of them."),
    Figure("bgpcni_store_request_errors", "counter", ("operation", "reason"),
           "Requests to the cluster's store that failed: `trouble` (away, or an error of its own), `conflict` (someone "
           "else was first), `too-old` (everything is read anew), `invalid`."),
)  # fmt: skip
TRACES = (
    Figure("bgpcni_trace_spans_exported", "counter", (), "Spans that the receiver of traces has taken."),
    Figure("bgpcni_trace_spans_dropped", "counter", ("reason",),
           "Spans that were dropped: the `queue` was full, or the `receiver` did not take them."),
)  # fmt: skip
SECTIONS = (
    ("The node and its agent", NODE),
    ("CNI calls", CALLS),
    ("Attachments and addresses", ATTACHMENTS),
    ("Routes and exporters", ROUTES),
    ("BGP sessions", SESSIONS),
    ("The speaker's process", SPEAKERS),
    ("Learned routes", LEARNED),
    ("The cluster's store", STORE),
    ("Traces", TRACES),
)
BY_NAME = {figure.name: figure for _, figures in SECTIONS for figure in figures}


def tables() -> Iterator[str]:
    """The lines of docs/metrics.md that list every metric."""
    for title, figures in SECTIONS:
        yield from (f"### {title}", "", "| metric | type | labels | meaning |", "| --- | --- | --- | --- |")
        for each in figures:
            labels = ", ".join(f"`{label}`" for label in each.labels)
            yield f"| `{each.shown}` | {each.kind} | {labels} | {each.text} |"
        yield ""


if __name__ == "__main__":
    sys.stdout.write("\n".join(tables()))
