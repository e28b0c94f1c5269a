"""Events as Kubernetes gets them: on which object, how often, and what a server that is away costs."""

from __future__ import annotations

from typing import Any

import pytest

from bgpcni.cluster.kubernetes import Api, Resource, Trouble
from bgpcni.cluster.reporter import ALIKE, BURST, REFILL_SECONDS, About, Correlator, Reporter, about
from bgpcni.events import Event, Events, Kind

POD = About("Pod", "web-0", "shop", "1-2")
NODE = About("Node", "n1", uid="n1")


def event(kind: Kind = Kind.ROUTE_REFUSED, number: int = 1, **fields: str) -> Event:
    given = {"pod": "shop/web-0", "pod_uid": "1-2", "exporter": "exabgp", "nlri": "10.1.2.3/32", **fields}
    return Event(number, "2026-01-31T12:00:00.123Z", kind, **given)


class Server(Api):
    """An API server that writes down what it is asked, and fails when told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str, dict[str, Any]]] = []
        self.trouble: Trouble | None = None

    def create(self, resource: Resource, body: dict[str, Any]) -> dict[str, Any]:
        return self._note("create", resource, body["metadata"]["name"], body)

    def patch(self, resource: Resource, name: str, body: Any, *rest: Any, **more: Any) -> dict[str, Any]:
        return self._note("patch", resource, name, body)

    def _note(self, verb: str, resource: Resource, name: str, body: dict[str, Any]) -> dict[str, Any]:
        trouble, self.trouble = self.trouble, None
        if trouble is not None:
            raise trouble
        self.asked.append((verb, resource.namespace, name, body))
        return body


@pytest.mark.parametrize(
    ("what", "found"),
    [
        (event(Kind.ROUTE_REFUSED), POD), (event(Kind.ORPHAN), POD), (event(Kind.ROUTE_REFUSED, pod=""), None),
        (event(Kind.SESSION_DOWN), NODE), (event(Kind.PROBLEM), NODE), (event(Kind.ROUTE_WITHDRAWN), None),
    ],
)  # fmt: skip
def test_an_event_is_about_its_pod_or_the_node_or_nobody(what: Event, found: About | None) -> None:
    assert about(what, "n1") == found


def test_the_same_again_is_counted() -> None:
    correlator = Correlator()
    first, second = correlator.told(POD, event(), 0.0), correlator.told(POD, event(number=2), 1.0)
    assert first is not None
    assert second == first._replace(times=2)


def test_many_that_differ_in_their_words_become_one() -> None:
    correlator = Correlator()
    told = [correlator.told(POD, event(detail=f"reason {number}"), 0.0) for number in range(ALIKE + 3)]
    names = [each.name for each in told if each is not None]
    assert len(set(names)) == ALIKE + 1
    last = told[-1]
    assert last is not None
    assert last.times == 3
    assert last.message.startswith("(combined from similar events): ")


def test_an_object_has_so_many_and_then_one_at_a_time() -> None:
    correlator = Correlator()
    told = [correlator.told(POD, event(), 0.0) for _ in range(BURST + 10)]
    assert sum(each is not None for each in told) == BURST
    assert correlator.told(NODE, event(Kind.SESSION_DOWN), 0.0) is not None
    assert correlator.told(POD, event(), REFILL_SECONDS + 1) is not None
    assert correlator.told(POD, event(), REFILL_SECONDS + 1) is None


def test_it_is_written_where_kubectl_looks_for_it() -> None:
    server = Server()
    reporter = Reporter(server, Events(), "n1")
    reporter.report(event())
    reporter.report(event(number=2))
    reporter.report(event(Kind.SESSION_DOWN, peer="192.0.2.1", detail="hold timer expired"))
    (made, pod, name, body), (changed, _, same, change), (_, node, _, down) = server.asked
    assert (made, changed, pod, node, same) == ("create", "patch", "shop", "default", name)
    assert body["involvedObject"] == {
        "apiVersion": "v1", "kind": "Pod", "name": "web-0", "namespace": "shop", "uid": "1-2",
    }  # fmt: skip
    assert (body["reason"], body["type"], body["count"]) == ("RouteRefused", "Warning", 1)
    assert body["firstTimestamp"] == "2026-01-31T12:00:00Z"
    assert change["count"] == 2
    assert down["involvedObject"]["kind"] == "Node"
    assert down["message"] == "the session of exabgp with 192.0.2.1 is down: hold timer expired"


def test_an_event_that_the_server_has_forgotten_is_written_anew() -> None:
    server = Server()
    reporter = Reporter(server, Events(), "n1")
    reporter.report(event())
    server.trouble = Trouble("not found", 404)
    reporter.report(event(number=2))
    verbs, names = [each[0] for each in server.asked], [each[2] for each in server.asked]
    assert verbs == ["create", "create"]
    assert names[0] != names[1]


def test_a_server_that_is_away_costs_events_and_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    reporter = Reporter(server, Events(), "n1")
    for number in range(3):
        server.trouble = Trouble("connection refused")
        reporter.report(event(number=number, detail=str(number)))
    assert caplog.messages == ["events cannot be told to the API server: connection refused"]
    reporter.report(event(detail="again"))
    assert len(server.asked) == 1
