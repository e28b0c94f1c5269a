"""Traces: real agent and speaker, and a receiver that decodes what it gets by OTLP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.lab import Frr, Lab, Node, until
from integration.otlp import STEPS, Receiver
from integration.test_metrics import ADDRESS, scrape

PODS = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=5d6a-11"
HERE = "http://127.0.0.1:4318"


@pytest.fixture
def peers(lab: Lab) -> tuple[Frr, Node]:
    frr = lab.frr()
    return frr, lab.node(frr)


@pytest.fixture
def receiver(peers: tuple[Frr, Node]) -> Iterator[Receiver]:
    found = Receiver(peers[1].namespace)
    yield found
    found.close()


def test_a_call_its_steps_and_the_way_of_its_routes(lab: Lab, peers: tuple[Frr, Node], receiver: Receiver) -> None:
    """A span for each call with its steps inside; one for each route, in the same trace and linked to the call, with
    the time at which the socket of each peer had it. Names are those of OpenTelemetry's conventions."""
    frr, node = peers
    node.agent(tracing={"endpoint": HERE})
    frr.wait_established(node.address)
    space = lab.container()
    conf = node.network(subnet6="2001:db8:1:2::/64", bgp={"wait": "sent"})
    added = node.cni("ADD", "t-1", space, conf, args=PODS)
    assert added.ok
    assert node.cni("ADD", "t-1", space, conf).error == 100
    assert node.cni("CHECK", "t-1", space, conf | {"prevResult": added.document}).ok
    assert node.cni("DEL", "t-1", space, conf).ok
    until(lambda: receiver.spans("CNI DEL") and len(receiver.spans("announce route")) == 2, "the spans")
    assert receiver.paths == {"/v1/traces"}

    add, again = receiver.spans("CNI ADD")
    assert add.parent == ""
    assert add.resource["service.name"] == "bgpcni"
    assert add.attributes == {
        "bgpcni.command": "ADD", "bgpcni.network": "tenant-a", "container.id": "t-1", "network.interface.name": "eth0",
        "k8s.namespace.name": "shop", "k8s.pod.name": "web-0", "k8s.pod.uid": "5d6a-11",
    }  # fmt: skip
    steps = [span for span in receiver.spans() if span.parent == add.identity and span.name != "announce route"]
    assert {span.name for span in steps} >= STEPS
    assert all(span.trace == add.trace and span.began >= add.began for span in steps)
    assert all(span.ended <= add.ended for span in steps if span.name != "introduce")  # that is after the answer

    assert (again.attributes["error.type"], again.error is not None) == ("100", True)
    assert again.trace != add.trace
    assert receiver.spans("CNI CHECK")[0].error is None
    withdraw = {span.name for span in receiver.spans() if span.parent == receiver.spans("CNI DEL")[0].identity}
    assert withdraw >= {"parse", "withdraw", "link"}

    routes = receiver.spans("announce route")
    assert {span.attributes["bgpcni.route"] for span in routes} == {
        f"{ip}/{128 if ':' in ip else 32}" for ip in added.ips
    }
    for span in routes:
        assert (span.trace, span.links) == (add.trace, (add.identity,))
        assert span.attributes["container.id"] == "t-1"
        (sent,) = (each for each in receiver.spans("send to peer") if each.parent == span.identity)
        assert sent.attributes["network.peer.address"] == node.peer
        assert span.began <= sent.began <= sent.ended <= span.ended
        assert span.began >= add.began


def test_nothing_waits_for_a_receiver_that_is_away(lab: Lab, peers: tuple[Frr, Node]) -> None:
    """Calls are answered, drops are counted, the log says it once; a receiver that comes gets the next spans."""
    frr, node = peers
    node.flags = ("--metrics", ADDRESS)
    node.agent(tracing={"endpoint": HERE})
    frr.wait_established(node.address)
    space, conf = lab.container(), node.network()
    assert node.cni("ADD", "t-1", space, conf).ok
    dropped = 'bgpcni_trace_spans_dropped_total{reason="receiver"}'
    until(lambda: scrape(node)[dropped] > 0, "dropped spans")
    receiver = Receiver(node.namespace)
    try:
        assert node.cni("DEL", "t-1", space, conf).ok
        until(lambda: receiver.spans("CNI DEL"), "the span of the DEL")
        until(lambda: scrape(node)["bgpcni_trace_spans_exported_total"] >= len(receiver.spans()), "the count")
        assert not receiver.spans("CNI ADD")
    finally:
        receiver.close()
    assert node.log.read_text().count("takes no spans") == 1


@pytest.mark.parametrize(
    ("environment", "toml", "traced"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": HERE, "OTEL_SERVICE_NAME": "edge"}, {}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": HERE, "OTEL_SDK_DISABLED": "true"}, {}, False),
        ({}, {"tracing": {"endpoint": HERE, "ratio": 0.0}}, False),
        ({}, {}, False),
    ],
    ids=["by the environment", "disabled", "no call is sampled", "off"],
)
def test_who_turns_it_on(
    lab: Lab,
    environment: dict[str, str],
    toml: dict[str, object],
    traced: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """agent.toml, or the variables that every program with OpenTelemetry obeys. When the agent ends, it sends what it
    has, so that what has not come then does not come."""
    node = lab.node()
    receiver = Receiver(node.namespace)
    lab.callback(receiver.close)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    node.agent(**toml)
    assert node.cni("ADD", "t-1", lab.container(), node.network(exporters=[])).ok
    assert node.process is not None
    libraries = Path(f"/proc/{node.process.pid}/maps").read_text()
    node.kill_agent(15)
    assert bool(receiver.spans("CNI ADD")) is traced
    if traced:
        assert receiver.spans("CNI ADD")[0].resource["service.name"] == "edge"
    if not (environment or toml):
        assert "google/_upb" not in libraries  # nothing of it is loaded
