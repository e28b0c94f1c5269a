"""Prometheus metrics of the agent, named by the usual conventions. Imported only with `--metrics`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address

from prometheus_client import Counter, Histogram, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import REGISTRY, Collector

from bgpcni import steps
from bgpcni.commands import answers
from bgpcni.convergence.announcer import ROUTE_STATES
from bgpcni.dataplane.guard import HARMFUL
from bgpcni.errors import InvalidConfiguration, IoFailure
from bgpcni.handler import Call, Reply
from bgpcni.model import State
from bgpcni.node.node import Node

log = logging.getLogger(__name__)
_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

_REQUESTS = Counter("bgpcni_cni_requests", "CNI calls by command and outcome (ok, or the CNI error code).",
                    ["command", "outcome"])  # fmt: skip
_DURATION = Histogram("bgpcni_cni_request_duration_seconds", "Duration of CNI calls in the agent.", ["command"],
                      buckets=_SECONDS)  # fmt: skip
_STEP = Histogram("bgpcni_cni_step_duration_seconds", "Duration of the steps of CNI calls.", ["step"], buckets=_SECONDS)
_ANNOUNCE = Histogram("bgpcni_announce_latency_seconds",
                      "From a route first wanted until it is sent (accepted, if no more can be told).",
                      ["exporter"], buckets=_SECONDS)  # fmt: skip
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
    """What is counted and timed, served on `ADDR:PORT` (`127.0.0.1:9099`, `[::1]:9099`).

    Raises InvalidConfiguration, IoFailure.
    """

    def __init__(self, where: str, *, beyond_loopback: bool) -> None:
        address, port = place(where, beyond_loopback=beyond_loopback)
        try:
            start_http_server(port, address)
        except OSError as error:
            raise IoFailure(f"--metrics: {where}: {error.strerror}") from None
        if not ip_address(address).is_loopback:
            log.warning("the metrics on %s can be read by anybody who reaches it, without a password", where)
        steps.observe(lambda step, seconds: _STEP.labels(step).observe(seconds))

    def watch(self, node: Node) -> None:
        """From now on the metrics include the state of this node."""
        REGISTRY.register(_State(node))

    def announced(self, exporter: str, seconds: float) -> None:
        """A route was announced, so many seconds after it was first wanted."""
        _ANNOUNCE.labels(exporter).observe(seconds)

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


class _State(Collector):
    """What is counted each time the metrics are read: attachments, routes by state, sessions."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def collect(self) -> Iterator[Metric]:
        node = self._node
        attachments = GaugeMetricFamily("bgpcni_attachments", "Attachments by state.", labels=["state"])
        addresses = GaugeMetricFamily(
            "bgpcni_leases", "Addresses leased to attachments, held ones included, by network.", labels=["network"]
        )
        info = GaugeMetricFamily(
            "bgpcni_attachment_info", "1 for each attachment, with the pod where the runtime named one.",
            labels=["network", "container", "ifname", "state", "namespace", "pod"],
        )  # fmt: skip
        by_state = dict.fromkeys([*(state.value for state in State), answers.GONE], 0)
        by_network: dict[str, int] = {}
        for stored in node.store.all():
            item, state = stored.attachment, answers.state_of(node, stored.state, stored.attachment)
            by_state[state] += 1
            if item is not None:
                pod = (item.pod.namespace, item.pod.name) if item.pod else ("", "")
                info.add_metric([item.network, item.container_id, item.ifname, state, *pod], 1)
            held = len(item.addresses) if item and item.ipam else 0
            by_network[stored.network] = by_network.get(stored.network, 0) + held
        for state, count in by_state.items():
            attachments.add_metric([state], count)
        for network, count in by_network.items():
            addresses.add_metric([network], count)
        routes = GaugeMetricFamily("bgpcni_routes", "Routes by exporter and state.", labels=["exporter", "state"])
        late = GaugeMetricFamily("bgpcni_exporter_late", "1 if the exporter is late.", labels=["exporter"])
        sessions = GaugeMetricFamily(
            "bgpcni_bgp_session_up", "1 if the BGP session is Established.", labels=["exporter", "peer", "asn"]
        )
        for name, announcer in node.convergence.announcers().items():
            for state, count in (dict.fromkeys(ROUTE_STATES, 0) | announcer.counts()).items():
                routes.add_metric([name, state], count)
            late.add_metric([name], float(announcer.state().state == "late"))
            for peer in announcer.peers():
                sessions.add_metric([name, peer.address, str(peer.asn)], float(peer.state == "Established"))
        refused = GaugeMetricFamily(
            "bgpcni_learned_routes_refused", "Routes of peers that were not taken, by reason.", labels=["reason"]
        )
        if node.dataplane is not None:
            for reason, count in (dict.fromkeys(HARMFUL, 0) | node.dataplane.refused()).items():
                refused.add_metric([reason], count)
        yield from (attachments, info, addresses, routes, late, sessions, refused)
