"""RoutePolicies of a real etcd: what FRR hears of running containers when policies, labels or agent.toml change."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from integration.etcd import Member
from integration.lab import Frr, Lab, Node, until
from integration.lab.node import BGPCNI
from integration.seen import nothing_missed

WEB = {"podSelector": {"tier": "web"}}


def policy(name: str, match: dict[str, Any], **wanted: Any) -> dict[str, Any]:
    spec = {"match": match, "set": wanted}
    return {"apiVersion": "bgpcni.dev/v1alpha1", "kind": "RoutePolicy", "metadata": {"name": name}, "spec": spec}


@dataclass(slots=True)
class Site:
    """FRR, a node with its agent, and an etcd beside it. `containers`: their addresses."""

    lab: Lab
    frr: Frr
    node: Node
    etcd: Member
    containers: dict[str, list[str]] = field(default_factory=dict)

    @property
    def toml(self) -> dict[str, Any]:
        etcd = {"endpoints": [self.etcd.endpoint]}
        return {"cluster": {"store": "etcd", "node": "node-1", "labels": {"rack": "r1"}, "etcd": etcd}}

    def start(self, **toml: Any) -> None:
        self.node.agent(**self.toml | toml)
        self.frr.wait_established(self.node.address)

    def apply(self, *objects: dict[str, Any]) -> None:
        self._run("apply", "-f", "-", stdin="\n---\n".join(json.dumps(item) for item in objects))

    def delete(self, name: str) -> None:
        self._run("delete", "RoutePolicy", name)

    def _run(self, *words: str, stdin: str = "") -> None:
        self.node.namespace.run(BGPCNI, *words, "--config", self.node.config, stdin=stdin)

    def add(self, name: str, labels: dict[str, str] | None = None, **keys: Any) -> None:
        conf = self.node.network(**{"subnet6": "2001:db8:1:2::/64", "args": {"cni": {"labels": labels or {}}}} | keys)
        answer = self.node.cni("ADD", name, self.lab.container(name), conf)
        assert answer.ok, answer
        self.containers[name] = answer.ips

    def prefixes(self, name: str) -> list[str]:
        return [f"{ip}/{128 if ':' in ip else 32}" for ip in self.containers[name]]

    def heard(self, name: str) -> list[tuple[Any, ...]]:
        """Communities, local preference and MED that FRR has of a container, of each IP version."""
        found = []
        for prefix in self.prefixes(name):
            for path in self.frr.paths(prefix):
                listed = path.get("community", {}).get("list", [])
                found.append((set(listed), path.get("locPrf"), path.get("metric")))
        return found

    def hears(self, name: str, *communities: str, preference: int = 100, med: int | None = None) -> None:
        """Wait until FRR has just these of both addresses."""
        wanted = [(set(communities), preference, med)] * 2
        until(lambda: self.heard(name) == wanted, f"{wanted} of {name}, there is {self.heard(name)}")

    @contextmanager
    def nothing_missed(self) -> Iterator[None]:
        with nothing_missed(self.lab, self.frr, [prefix for name in self.containers for prefix in self.prefixes(name)]):
            yield

    def problems(self) -> dict[str, str]:
        return {item["code"]: item["text"] for item in self.node.operator("status").document["problems"]}


@pytest.fixture
def site(lab: Lab) -> Site:
    frr = lab.frr()
    node = lab.node(frr)
    etcd = Member(lab, node.namespace)
    etcd.start()
    return Site(lab, frr, node, etcd)


def test_a_policy_changes_the_routes_of_running_containers(site: Site) -> None:
    """FRR hears what policies set, for those that they match, and never misses a route; `explain` and `routes` name the
    policy. Without the store a killed agent announces the same. When the policies are gone all is as before."""
    site.start()
    site.add("web", {"tier": "web"}, bgp={"communities": ["64512:1"], "med": 7})
    site.add("db", {"tier": "db"})
    site.hears("web", "64512:1", med=7)
    with site.nothing_missed():
        site.apply(policy("a-web", WEB, communities=["64512:100"], localPreference=200))
        site.hears("web", "64512:1", "64512:100", preference=200, med=7)
        site.hears("db")
        site.apply(policy("b-all", {"networks": ["tenant-*"], "nodeSelector": {"rack": "r1"}}, med=5))
        site.hears("web", "64512:1", "64512:100", preference=200, med=5)
        site.hears("db", med=5)
        (item,) = site.node.operator("explain", "web").document["attachments"]
        (said,) = [step["detail"] for step in item["steps"] if step["step"] == "attributes"]
        assert said == (
            "communities 64512:1 64512:100 (RoutePolicy a-web); localPreference 200 (RoutePolicy a-web); "
            "med 5 (RoutePolicy b-all)"
        )
        route = next(route for route in site.node.routes() if route["containerID"] == "web")
        assert route["policies"] == {"communities": ["a-web"], "localPreference": ["a-web"], "med": ["b-all"]}

        site.etcd.kill()
        site.node.restart_agent(signal.SIGKILL)
        site.add("late", {"tier": "web"})
        site.hears("late", "64512:100", preference=200, med=5)
        site.hears("web", "64512:1", "64512:100", preference=200, med=5)
        site.etcd.start()
        until(lambda: "cluster-store" not in site.problems(), "the store")
        site.delete("a-web")
        site.hears("web", "64512:1", med=5)
        site.delete("b-all")
        site.hears("web", "64512:1", med=7)
        site.hears("db")
    assert site.node.operator("status").code == 0
