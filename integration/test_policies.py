"""RoutePolicies of a real etcd: what FRR hears of running containers when policies, labels or agent.toml change."""

from __future__ import annotations

import functools
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from integration.etcd import Member
from integration.evpn import Fabric, connected, remote
from integration.lab import Frr, Lab, Node, until
from integration.lab.node import BGPCNI
from integration.seen import at_once, nothing_missed

MANY = int(os.environ.get("BGPCNI_MANY", "200"))
"""How many containers have the policy at once."""
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


def test_route_targets_are_changed_while_containers_run(lab: Lab, frr: Frr) -> None:
    """EVPN: a policy lets a container import and export one more route target: it reaches a container of another
    VPN, both ways, by the same routes that peers have already. Without the policy it does not any more."""
    fabric = Fabric(lab, frr, 2)
    node, target = fabric.nodes[0], "64512:7777"
    etcd = Member(lab, node.namespace)
    etcd.start()
    site = Site(lab, frr, node, etcd)
    node.kill_agent(signal.SIGTERM)
    node.agent(**site.toml)
    here = fabric.add(0, "here", args={"cni": {"labels": {"tier": "web"}}})
    there = fabric.add(1, "there", importRT=[target], exportRT=[target])

    def targets() -> list[str]:
        """Those of the type 2 routes that FRR has of the first container."""
        found = frr.evpn_routes("macip")
        return [
            path["extendedCommunity"]["string"] for name, paths in found.items() if here.mac in name for path in paths
        ]

    until(lambda: len(targets()) == 2, "the routes of both addresses")
    assert not any(target in text for text in targets())
    assert not here.reaches(there.four)
    site.apply(policy("shared", WEB, importRT=[target], exportRT=[target]))
    connected(here, there)
    assert len(targets()) == 2
    assert all(target in text for text in targets())
    node.restart_agent(signal.SIGKILL)
    connected(here, there)
    site.delete("shared")
    until(lambda: not any(target in text for text in targets()), "the routes as before")
    until(lambda: there.mac not in remote(node), "the end of what was imported")
    assert not here.reaches(there.four)


def test_many_containers_at_once(site: Site) -> None:
    """A policy comes to 200 containers, changes, and goes: FRR never misses a route, and the records say the same."""
    site.start()
    spaces = [site.lab.container(f"c{number}") for number in range(MANY)]
    conf = site.node.network(subnet="10.1.0.0/16", args={"cni": {"labels": {"tier": "web"}}})
    calls = [functools.partial(site.node.cni, "ADD", f"c{at}", space, conf) for at, space in enumerate(spaces)]
    answers = at_once(calls, 4)
    assert all(answer.ok for answer in answers)
    prefixes = [f"{answer.ips[0]}/32" for answer in answers]
    until(lambda: site.frr.received(site.node.address) == MANY, "all routes")
    with nothing_missed(site.lab, site.frr, prefixes):
        for wanted in ("64512:100", "64512:200"):
            begun = time.monotonic()
            site.apply(policy("web", WEB, communities=[wanted]))
            until(lambda wanted=wanted: with_community(site.frr, wanted) == MANY, "all with it")  # type: ignore[misc]
            print(f"{MANY} containers have {wanted} {time.monotonic() - begun:.2f} s after apply began")
        begun = time.monotonic()
        site.delete("web")
        until(lambda: with_community(site.frr, "64512:200") == 0, "all without it")
        print(f"{MANY} containers are as before after {time.monotonic() - begun:.2f} s")
    assert site.frr.received(site.node.address) == MANY


def with_community(frr: Frr, community: str) -> int:
    found = frr.json(f"show bgp ipv4 unicast community {community}")
    return len(found.get("routes", {}))
