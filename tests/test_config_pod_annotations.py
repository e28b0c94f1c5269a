"""A pod's annotations `bgpcni.dev/…`: read, allowed, and what they change for this one attachment."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpcni.config.agent import AgentConfig
from bgpcni.config.pod_annotations import read
from bgpcni.errors import InvalidConfiguration
from bgpcni.model import NodeFacts, Pod
from bgpcni.node import plan
from bgpcni.node.request import Request, parse_request, pod_of

FACTS = NodeFacts(run_dir="/r", data_dir="/d", asn=64512, router_id="192.0.2.9", has_bgp=True)
EVERYTHING = {"annotations": ["*"], "prefixes": ["10.0.0.0/8", "2001:db8::/32"]}


def request(cni_args: str = "", annotations: dict[str, str] | None = None, **document: Any) -> Request:
    variables = {
        "CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_NETNS": "/x", "CNI_IFNAME": "eth0", "CNI_PATH": "/opt",
        "CNI_ARGS": cni_args,
    }  # fmt: skip
    body = {"cniVersion": "1.0.0", "name": "net", "type": "bgpcni", **document}
    ours = {f"bgpcni.dev/{name}": text for name, text in (annotations or {}).items()}
    body["runtimeConfig"] = {"io.kubernetes.cri.pod-annotations": {"kubernetes.io/other": "x", **ours}}
    return parse_request(variables, json.dumps(body).encode())


def policy(**rules: Any) -> AgentConfig:
    return AgentConfig.model_validate({"policy": rules})


def test_one_pod_has_route_targets_and_communities_of_its_own() -> None:
    """export-rt replaces the network's; import-rt and communities join it."""
    own = {"export-rt": "64512:7, 64512:8", "import-rt": "64512:9", "communities": "64512:100,no-export"}
    asked = request(
        annotations=own, exportRT="64512:1", importRT="64512:1", bgp={"family": "vpn", "communities": ["64512:1"]}
    )
    found = plan.routing(asked, policy(**EVERYTHING), FACTS, 7, resident=True).bgp
    assert found.export_rt == ("64512:7", "64512:8")
    assert found.import_rt == ("64512:1", "64512:9")
    assert found.communities == ("64512:1", "64512:100", "65535:65281")


def test_the_runtime_counts_before_the_pod() -> None:
    asked = request(
        "EXPORT_RT=64512:3;MAC=02:00:00:00:00:01",
        annotations={"export-rt": "64512:7", "mac": "02:00:00:00:00:02"},
        mac="02:00:00:00:00:03",
        bgp={"family": "vpn"},
    )
    assert plan.routing(asked, policy(**EVERYTHING), FACTS, 7, resident=True).bgp.export_rt == ("64512:3",)
    assert plan.mac_of(asked) == "02:00:00:00:00:01"
    asked = request(annotations={"mac": "02-00-00-00-00-02"}, mac="02:00:00:00:00:03")
    assert plan.mac_of(asked) == "02:00:00:00:00:02"


@pytest.mark.parametrize("name", ["export-rt", "import-rt", "communities", "ips", "mac"])
def test_each_has_to_be_allowed_by_name(name: str) -> None:
    value = {"ips": "10.1.2.3", "mac": "02:00:00:00:00:02"}.get(name, "64512:7")
    asked = request(annotations={name: value}, ipam={"type": "host-local"})
    for rules in ({}, {"annotations": []}, {"annotations": ["other", "x*"]}):
        with pytest.raises(InvalidConfiguration, match=rf"^annotation bgpcni\.dev/{name}: not allowed by \[policy\]"):
            plan.refuse_wishes(policy(**rules, prefixes=["10.0.0.0/8"]).policy, asked)
    for pattern in (name, f"bgpcni.dev/{name}", "*"):
        plan.refuse_wishes(policy(annotations=[pattern], prefixes=["10.0.0.0/8"]).policy, asked)


@pytest.mark.parametrize(
    ("annotations", "rules", "words"),
    [
        (
            {"export-rt": "64512:7"},
            {"export_rt": ["64512:1"]},
            "annotation bgpcni.dev/export-rt: 64512:7 is",
        ),
        ({"communities": "64512:7"}, {"communities": ["64512:1"]}, "annotation bgpcni.dev/communities: 64512:7 is not"),
    ],
)
def test_what_is_allowed_is_still_bound_by_the_other_policies(
    annotations: dict[str, str], rules: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidConfiguration, match=words):
        plan.routing(request(annotations=annotations), policy(**EVERYTHING, **rules), FACTS, 7, resident=True)


def test_a_mac_is_still_bound_by_the_policy_of_macs() -> None:
    with pytest.raises(InvalidConfiguration, match=r"^annotation bgpcni.dev/mac: 02:00:00:00:00:02 is not allowed"):
        plan.refuse_wishes(
            policy(**EVERYTHING, mac=["02:aa:*"]).policy, request(annotations={"mac": "02:00:00:00:00:02"})
        )


def test_addresses_need_bounds() -> None:
    """Without `[policy] prefixes` a pod's author could take any address."""
    asked = request(annotations={"ips": "10.1.2.3"}, ipam={"type": "host-local"})
    with pytest.raises(InvalidConfiguration, match=r"^annotation bgpcni\.dev/ips: not allowed while \[policy\] has no"):
        plan.refuse_wishes(policy(annotations=["*"]).policy, asked)
    with pytest.raises(InvalidConfiguration, match=r"ipam\.type must be host-local"):
        plan.refuse_wishes(policy(**EVERYTHING).policy, request(annotations={"ips": "10.1.2.3"}, ipam={"type": "dhcp"}))


def test_an_interface_of_another_plugin_keeps_its_address_and_mac() -> None:
    prev = {"cniVersion": "1.0.0", "interfaces": [], "ips": []}
    for name, value in (("ips", "10.1.2.3"), ("mac", "02:00:00:00:00:02")):
        with pytest.raises(InvalidConfiguration, match=rf"^annotation bgpcni\.dev/{name}: .*another plugin"):
            plan.refuse_wishes(policy(**EVERYTHING).policy, request(annotations={name: value}, prevResult=prev))


@pytest.mark.parametrize(
    ("name", "value"),
    [("export-rt", "x"), ("import-rt", "64512"), ("communities", "1:2:3:4"), ("ips", "10.1.2.3/24"), ("mac", "01:x")],
)
def test_a_bad_value_names_the_annotation(name: str, value: str) -> None:
    with pytest.raises(InvalidConfiguration, match=rf"^annotation bgpcni\.dev/{name}: "):
        read({f"bgpcni.dev/{name}": value})


def test_one_that_looks_misspelt_is_a_warning() -> None:
    (warning,) = read({"bgpcni.dev/comunities": "64512:1"}).warnings
    assert warning == "annotation bgpcni.dev/comunities: unknown; did you mean bgpcni.dev/communities?"


@given(st.dictionaries(st.text(max_size=40), st.text(max_size=60), max_size=6))
def test_annotations_of_others_are_left_alone(annotations: dict[str, str]) -> None:
    others = {key: text for key, text in annotations.items() if not key.startswith("bgpcni.dev/")}
    assert read(others).names == ()


@given(st.sampled_from(["export-rt", "import-rt", "communities", "ips", "mac"]), st.text(max_size=60))
def test_whatever_a_pod_says_is_an_error_or_is_understood(name: str, text: str) -> None:
    with contextlib.suppress(InvalidConfiguration):
        assert read({f"bgpcni.dev/{name}": text}).names == (name,)


def test_the_pod_is_kept_as_the_runtime_names_it() -> None:
    args = {"IgnoreUnknown": "1", "K8S_POD_NAMESPACE": "shop", "K8S_POD_NAME": "web-0", "K8S_POD_UID": "1b-2c"}
    assert pod_of(args) == Pod(namespace="shop", name="web-0", uid="1b-2c")
    assert str(pod_of(args)) == "shop/web-0"
    assert pod_of({}) is None
    assert pod_of(args | {"K8S_POD_NAME": "<b>"}) is None
    assert pod_of({**args, "K8S_POD_UID": "\n"}) == Pod(namespace="shop", name="web-0")
