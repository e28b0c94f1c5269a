"""The dashboard: each of its queries returns data from a real Prometheus that scrapes a real node.

Grafana itself cannot be had here. What it needs of the document's structure is checked by hand, and that every metric
is one that the agent has.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.etcd import Member
from integration.lab import Frr, Lab, Node, until
from integration.lab.node import BGPCNI
from integration.otlp import Receiver
from integration.prometheus import Prometheus, metrics_of

DASHBOARD = Path(__file__).parent.parent / "conf/grafana/bgpcni.json"
ADDRESS = "127.0.0.1:9109"
AWAY = {"Failed requests to the store A", "Problems that agents report A"}
"""These have data only once the store was away."""


def dashboard() -> dict[str, Any]:
    return dict(json.loads(DASHBOARD.read_text()))


def queries() -> dict[str, str]:
    """Every query of a panel, by panel and letter."""
    return {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in dashboard()["panels"]
        for target in panel.get("targets", ())
    }


def test_grafana_can_read_it() -> None:
    """The structure that its documentation asks for: identities are unique, panels are within the grid of 24 columns
    and do not overlap, and everything is read from the data source that the user chooses."""
    found = dashboard()
    assert (found["title"], found["uid"], found["schemaVersion"]) == ("bgpcni", "bgpcni", 39)
    variables = {item["name"]: item for item in found["templating"]["list"]}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    ids = [panel["id"] for panel in found["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in found["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["type"] in ("stat", "timeseries", "table")
        assert panel["title"]
        assert panel["description"]
        letters = [target["refId"] for target in panel["targets"]]
        assert letters
        assert len(set(letters)) == len(letters)
        for item in (panel, *panel["targets"]):
            assert item["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    for expression in queries().values():
        used = {name.strip("{}") for name in re.findall(r"\$(\w+|\{\w+\})", expression)}
        assert used <= variables.keys() | {"__rate_interval"}
        assert 'job="$job", instance=~"$instance"' in expression
        assert metrics_of(expression)


class Busy:
    """A node on which everything that the dashboard shows happens again and again."""

    def __init__(self, lab: Lab, frr: Frr, node: Node, etcd: Member) -> None:
        self._frr, self._node, self._etcd = frr, node, etcd
        self._space = lab.container()
        self._conf = node.network(subnet6="2001:db8:1:2::/64", bgp={"import": ["203.0.113.0/24"]})
        self._away = False
        assert node.cni("ADD", "stays", lab.container(), self._conf).ok
        pool = {"apiVersion": "bgpcni.dev/v1alpha1", "kind": "IPPool", "metadata": {"name": "a"}}
        text = json.dumps(pool | {"spec": {"cidrs": ["10.64.0.0/24"], "blockSize": {"ipv4": 28}}})
        node.namespace.run(BGPCNI, "apply", "-f", "-", "--config", node.config, stdin=text)
        ipam = {"type": "bgpcni-ipam", "pools": ["a"], "routes": []}
        conf = node.network("pooled", bridge="pooled0", ipam=ipam)
        until(lambda: node.cni("ADD", "pooled", self._space, conf, ifname="eth1").ok, "an address of the pool")

    def act(self, *, away: bool) -> None:
        """One ADD that works, one that does not, and a DEL. `away`: the store is. Otherwise the session falls, so that
        the agent has to tell the store how many it has."""
        if away and not self._away:
            self._etcd.kill()
        elif self._away and not away:
            self._etcd.start()
        self._away = away
        node = self._node
        if not away and self._frr.established(node.address):
            self._frr.text(f"clear bgp {node.address}")
        assert node.cni("ADD", "comes", self._space, self._conf).ok
        assert node.cni("ADD", "comes", self._space, self._conf).error == 100
        assert node.cni("DEL", "comes", self._space, self._conf).ok


@pytest.fixture
def busy(lab: Lab) -> Iterator[tuple[Prometheus, Busy]]:
    frr = lab.frr(networks=["203.0.113.0/24"])
    node = lab.node(frr)
    etcd = Member(lab, node.namespace)
    etcd.start()
    receiver = Receiver(node.namespace)
    node.flags = ("--metrics", ADDRESS)
    node.agent(
        cluster={"store": "etcd", "node": "node-1", "etcd": {"endpoints": [etcd.endpoint]}},
        tracing={"endpoint": "http://127.0.0.1:4318"},
    )
    frr.wait_established(node.address)
    prometheus = Prometheus(lab, node.namespace, ADDRESS)
    prometheus.start()
    yield prometheus, Busy(lab, frr, node, etcd)
    receiver.close()


def has_data(prometheus: Prometheus, expression: str) -> bool:
    """Whether a query returns a series with a number. Variables have the values that Grafana would offer."""
    for name, value in (("$job", "bgpcni"), ("$instance", ".*"), ("$__rate_interval", "30s")):
        expression = expression.replace(name, value)
    values = [float(series["value"][1]) for series in prometheus.query(expression)]
    return any(not math.isnan(value) for value in values)


def test_every_query_returns_data(busy: tuple[Prometheus, Busy]) -> None:
    """From a node with a session, containers, learned routes, a cluster store that comes and goes, and traces."""
    prometheus, node = busy
    empty = queries()
    assert len(empty) > 40

    def all_seen() -> bool:
        node.act(away=bool(AWAY & empty.keys()))
        for name, expression in list(empty.items()):
            if has_data(prometheus, expression):
                del empty[name]
        return not empty

    try:
        until(all_seen, "data for every query")
    except BaseException:
        print("no data for:", *empty.items(), sep="\n")
        raise
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            metric = re.match(r"label_values\((.*), (\w+)\)", variable["definition"])
            assert metric is not None
            series = prometheus.query(metric[1].replace("$job", "bgpcni"))
            assert series
            assert all(metric[2] in each["metric"] for each in series)
