"""What a container may ask for of an anycast service, and what is said of everything else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bgpcni.config import network, pod_annotations
from bgpcni.config.agent import AgentConfig
from bgpcni.errors import InvalidConfiguration
from bgpcni.model import Anycast, Health, NodeFacts
from bgpcni.node import plan
from bgpcni.node.request import Request, parse_request

FACTS = NodeFacts(run_dir="/r", data_dir="/d", asn=64512, router_id="192.0.2.9", has_bgp=True)


def request(cni: dict[str, Any], annotations: dict[str, str] | None = None, **document: Any) -> Request:
    variables = {
        "CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_NETNS": "/x", "CNI_IFNAME": "eth0", "CNI_PATH": "/opt",
        "CNI_ARGS": "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0",
    }  # fmt: skip
    ours = {f"bgpcni.dev/{name}": text for name, text in (annotations or {}).items()}
    body = {
        "cniVersion": "1.0.0", "name": "net", "type": "bgpcni", "exporters": ["exabgp"], "args": {"cni": cni},
        "runtimeConfig": {"io.kubernetes.cri.pod-annotations": ours}, **document,
    }  # fmt: skip
    return parse_request(variables, json.dumps(body).encode())


def asked(request: Request, resident: bool = True, **config: Any) -> Anycast | None:
    agent = AgentConfig.model_validate(config)
    plan.refuse_wishes(agent.policy, request)
    routing = plan.routing(request, agent, FACTS, 7, resident=resident)
    return plan.anycast_of(request, routing, agent, resident=resident)


def test_addresses_and_a_check() -> None:
    assert asked(request({})) is None
    found = asked(request({"Anycast": "192.0.2.53, 2001:DB8::0:53"}))
    assert found == Anycast(addresses=("192.0.2.53", "2001:db8::53"), passing=True)
    check = {"http": "http://:8080/ready?deep=1", "Interval": 0.5, "rise": 2, "fall": 4}
    found = asked(request({"anycast": ["192.0.2.53", "192.0.2.53"], "health": check}))
    health = Health(kind="http", port=8080, path="/ready?deep=1", interval=0.5, rise=2, fall=4)
    assert found == Anycast(addresses=("192.0.2.53",), health=health, passing=False)
    found = asked(request({"anycast": ["192.0.2.53"], "health": {"http": "http://[::1]"}}))
    assert found is not None
    assert found.health == Health(kind="http", host="::1", port=80, path="/")


def test_a_pod_asks_by_annotations_and_its_runtime_wins() -> None:
    policy = {"annotations": ["anycast", "health"], "anycast": ["192.0.2.0/24"]}
    pod = {"anycast": "192.0.2.53", "health": '{"tcp": 53}'}
    assert asked(request({}, pod), policy=policy) == Anycast(
        addresses=("192.0.2.53",), health=Health(kind="tcp", port=53)
    )
    found = asked(request({"anycast": ["192.0.2.54"], "health": {"tcp": 54}}, pod), policy=policy)
    assert found == Anycast(addresses=("192.0.2.54",), health=Health(kind="tcp", port=54))


def test_under_kubernetes_the_pods_readiness_is_the_check() -> None:
    found = asked(request({"anycast": ["192.0.2.53"]}), cluster={"store": "kubernetes"})
    assert found is not None
    assert found.health == Health(kind="ready")
    assert not found.passing


@pytest.mark.parametrize(
    ("cni", "words"),
    [
        ({"anycast": ["x"]}, "args.cni.anycast[0]: 'x' does not appear to be an IPv4 or IPv6 address"),
        ({"anycast": ["192.0.2.1", "192.0.2.0/24"]}, "args.cni.anycast[1]: '192.0.2.0/24' has a prefix length"),
        ({"anycast": ["fe80::1"]}, "args.cni.anycast[0]: 'fe80::1' is valid on one link only"),
        ({"anycast": ["224.0.0.1"]}, "args.cni.anycast[0]: '224.0.0.1' cannot be the address of a service"),
        ({"anycast": 7}, "args.cni.anycast: should be a list"),
        ({"anycast": [f"192.0.2.{n}" for n in range(17)]}, "args.cni.anycast: has 17 entries, but may have 16 at most"),
        ({"health": {"tcp": 53}}, "args.cni.health: no address depends on it: anycast is missing beside it"),
        ({"health": {}}, "args.cni.health: needs exactly one of http and tcp"),
        ({"health": {"tcp": 53, "http": "http://:1/"}}, "args.cni.health: needs exactly one of http and tcp"),
        ({"health": {"tcp": 0}}, "args.cni.health.tcp: 0 is below 1"),
        ({"health": {"tcp": 65536}}, "args.cni.health.tcp: 65536 is over 65535"),
        ({"health": {"tcp": 53, "interval": 0}}, "args.cni.health.interval: 0 is below 0.2"),
        ({"health": {"tcp": 53, "interval": float("nan")}}, "args.cni.health.interval: "),
        ({"health": {"tcp": 53, "fall": 0}}, "args.cni.health.fall: 0 is below 1"),
        ({"health": {"tcp": 53, "intervall": 1}}, "args.cni.health.intervall: unknown key"),
        ({"health": {"http": "https://:1/"}}, "args.cni.health.http: 'https://:1/' is not a URL of the form http"),
        ({"health": {"http": "http://:99999/"}}, "args.cni.health.http: 'http://:99999/' is not a URL: "),
        ({"health": {"http": "http://:0/"}}, "args.cni.health.http: 'http://:0/': port 0 is no port"),
        ({"health": {"http": "http://a.example/"}}, "args.cni.health.http: 'http://a.example/': the host is not an IP"),
        ({"health": {"http": "http://:1/a\r\nb"}}, "args.cni.health.http: "),
    ],
)
def test_errors_name_their_place(cni: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidConfiguration) as error:
        asked(request(cni))
    assert words in error.value.msg


@pytest.mark.parametrize(
    ("document", "config", "words"),
    [
        ({}, {"policy": {"anycast": ["198.51.100.0/24"]}}, "args.cni.anycast[0]: 192.0.2.53 is not allowed by"),
        ({"exporters": []}, {}, "args.cni.anycast: no exporter is there to announce it"),
        ({"bgp": {"family": "evpn", "vni": 7}}, {}, "args.cni.anycast: with bgp.family evpn it needs bgp.vrf"),
        (
            {"exporters": ["bagpipe"], "bgp": {"family": "vpn"}, "exportRT": "64512:1"}, {},
            "args.cni.anycast: bagpipe announces a container's own addresses only",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_here_is_refused(document: dict[str, Any], config: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidConfiguration) as error:
        asked(request({"anycast": ["192.0.2.53"]}, **document), **config)
    assert words in error.value.msg
    with pytest.raises(InvalidConfiguration, match="it needs the agent: start bgpcni agent"):
        asked(request({"anycast": ["192.0.2.53"]}), resident=False)


def test_annotations_need_a_policy_of_their_own() -> None:
    """Without `[policy] anycast` a pod's author could take any address."""
    pod = request({}, {"anycast": "192.0.2.53"})
    for policy, words in (({}, r"not allowed by \[policy\] annotations"), ({"annotations": ["*"]}, "has no anycast")):
        with pytest.raises(InvalidConfiguration, match=rf"annotation bgpcni.dev/anycast: .*{words}"):
            asked(pod, policy=policy)
    for text, words in (("{", "is not JSON"), ('{"tcp": 0}', "tcp: 0 is below 1"), ("7", "should be an object")):
        with pytest.raises(InvalidConfiguration, match=f"annotation bgpcni.dev/health: {words}"):
            pod_annotations.read({"bgpcni.dev/health": text})


def test_a_misspelt_key_is_noticed() -> None:
    _, warnings = network.parse({"name": "n", "args": {"cni": {"anycasts": []}}})
    assert warnings == ("args.cni.anycasts: unknown key; did you mean 'anycast'?",)
