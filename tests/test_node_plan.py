"""What an ADD is going to build and to announce, decided before anything is touched."""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpcni.cni.result import Dns, Route
from bgpcni.config.agent import AgentConfig, NetworkTable
from bgpcni.errors import InvalidConfiguration, InvalidEnvironment
from bgpcni.kernel.vlans import Tagging
from bgpcni.model import Address, Attachment, AttachmentKey, NodeFacts
from bgpcni.node import plan
from bgpcni.node.request import Request, parse_request

FACTS = NodeFacts(
    run_dir="/r", data_dir="/d", asn=64512, router_id="192.0.2.9", local_address="192.0.2.9", has_bgp=True
)
AGENT = AgentConfig()


def request(cni_args: str = "", **document: Any) -> Request:
    variables = {
        "CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_NETNS": "/x", "CNI_IFNAME": "eth0", "CNI_PATH": "/opt",
        "CNI_ARGS": cni_args,
    }  # fmt: skip
    body = {"cniVersion": "1.0.0", "name": "net", "type": "bgpcni", **document}
    return parse_request(variables, json.dumps(body).encode())


def routing(
    agent: AgentConfig = AGENT, facts: NodeFacts = FACTS, *, resident: bool = True, cni_args: str = "", **document: Any
) -> plan.Routing:
    return plan.routing(request(cni_args, **document), agent, facts, 7, resident=resident)


def names(found: plan.Routing) -> list[str]:
    return [use.name for use in found.exporters]


class TestExporters:
    """Who is told: the operator's word, else the configuration's, else the defaults."""

    def test_the_defaults_are_the_agents(self) -> None:
        assert names(routing()) == ["exabgp"]

    def test_without_an_agent_there_are_none_and_it_is_said(self) -> None:
        found = routing(resident=False)
        assert names(found) == []
        assert "nothing is announced" in found.warnings[0]
        assert routing(resident=False, exporters=[]).warnings == ()

    def test_the_articles_type_means_bagpipe_and_evpn(self) -> None:
        found = routing(type="bagpipe", exportRT="64512:90")
        assert (names(found), found.bgp.family, found.bgp.vni) == (["bagpipe"], "evpn", 90)

    def test_an_empty_list_is_a_plain_bridge_plugin(self) -> None:
        assert names(routing(exporters=[])) == []

    def test_the_operators_word_wins(self) -> None:
        agent = AgentConfig.model_validate(
            {
                "exporters": {"fabric": {"type": "bagpipe", "url": "x"}},
                "networks": {"net": {"exporters": ["fabric", "fabric"]}},
            }
        )
        (use,) = routing(agent, exporters=["exabgp"]).exporters
        assert (use.name, use.type, use.config) == ("fabric", "bagpipe", {"url": "x"})
        assert [use.name for use in plan.configured(agent)] == ["exabgp", "fabric"]

    def test_equal_options_share_one_exporter(self) -> None:
        option = {"type": "bagpipe", "url": "http://127.0.0.1:1"}
        found = routing(exporters=[option, dict(reversed(option.items())), {**option, "url": "http://127.0.0.1:2"}])
        assert len(found.exporters) == 2
        assert len({use.name for use in found.exporters}) == 2


class TestRouteTargets:
    """exportRT of one attachment replaces, its importRT joins."""

    def test_cni_args_and_args_cni(self) -> None:
        document = {"importRT": ["64512:1"], "exportRT": ["64512:1"], "bgp": {"family": "vpn"}}
        intent = routing(cni_args="IMPORT_RT=64512:2,64512:1;EXPORT_RT=64512:3", **document).bgp
        assert (intent.import_rt, intent.export_rt) == (("64512:1", "64512:2"), ("64512:3",))
        own = request(**document, args={"cni": {"importRT": "64512:4", "exportRT": "64512:5"}})
        intent = plan.routing(own, AGENT, FACTS, 7, resident=True).bgp
        assert (intent.import_rt, intent.export_rt) == (("64512:1", "64512:4"), ("64512:5",))

    def test_nonsense_in_cni_args_is_error_7(self) -> None:
        with pytest.raises(InvalidConfiguration, match="CNI_ARGS: EXPORT_RT: 'x' is not a route target"):
            routing(cni_args="EXPORT_RT=x")

    def test_evpn_makes_its_own_from_as_and_vni(self) -> None:
        assert routing(bgp={"family": "evpn", "vni": 5001}).bgp.export_rt == ("64512:5001",)
        big = NodeFacts(run_dir="/r", data_dir="/d", asn=4200000000, router_id="192.0.2.9", has_bgp=True)
        with pytest.raises(InvalidConfiguration, match="exportRT: missing"):
            routing(facts=big, bgp={"family": "evpn", "vni": 70000})

    def test_vpn_needs_one(self) -> None:
        with pytest.raises(InvalidConfiguration, match="exportRT: missing"):
            routing(bgp={"family": "vpn"})


class TestIdentifiers:
    """VNI, RD and label."""

    def test_the_vni_is_given_or_the_first_export_targets(self) -> None:
        assert routing(exportRT="64512:90", bgp={"family": "evpn"}).bgp.vni == 90
        assert routing(exportRT="64512:90", bgp={"family": "evpn", "vni": 5}).bgp.vni == 5
        assert routing(exportRT="64512:90").bgp.vni is None
        for target in ([], ["64512:0"], ["64512:16777216"]):
            with pytest.raises(InvalidConfiguration, match=r"^bgp\.vni: missing"):
                routing(exportRT=target, bgp={"family": "evpn"})

    def test_the_rd_is_the_routers_and_the_networks(self) -> None:
        vpn = {"family": "vpn"}
        assert routing(exportRT="64512:1", bgp=vpn).bgp.rd == "192.0.2.9:7"
        assert routing(exportRT="64512:1", bgp={**vpn, "rd": "64512:9"}).bgp.rd == "64512:9"
        assert routing(exportRT="64512:1").bgp.rd is None
        with pytest.raises(InvalidConfiguration, match=r"^bgp\.rd: 'x' is not a route distinguisher"):
            routing(exportRT="64512:1", bgp={**vpn, "rd": "x"})

    def test_labels_are_not_reserved_ones(self) -> None:
        label = routing(exportRT="64512:1", bgp={"family": "vpn"}).bgp.label
        assert label is not None
        assert label >= 16  # RFC 3032 section 2.1


@pytest.mark.parametrize(
    ("policy", "document", "place"),
    [
        ({"import_rt": ["1:*"]}, {"importRT": "64512:1"}, "importRT"),
        ({"export_rt": ["1:*"]}, {"exportRT": "64512:1"}, "exportRT"),
        ({"exporters": ["fabric"]}, {"exporters": ["exabgp"]}, "exporters"),
        ({"vni": ["5-9"]}, {"bgp": {"family": "evpn", "vni": 10}}, r"bgp\.vni"),
        ({"export_rt": ["1:*"]}, {"bgp": {"family": "evpn", "vni": 10}}, "exportRT"),
        ({"vni": ["5-9"]}, {"bgp": {"family": "evpn", "vni": 9, "vrf": "red", "l3vni": 10}}, r"bgp\.l3vni"),
        ({"vrfs": ["t*"]}, {"bgp": {"family": "evpn", "vni": 9, "vrf": "red", "l3vni": 10}}, r"bgp\.vrf"),
        ({"rd": ["1:*"]}, {"bgp": {"family": "evpn", "vni": 9, "rd": "64512:1"}}, r"bgp\.rd"),
        ({"rd": ["1:*"]}, {"exportRT": "1:1", "bgp": {"family": "vpn", "rd": "192.0.2.1:1"}}, r"bgp\.rd"),
        ({"communities": ["1:*"]}, {"bgp": {"communities": "1:5,no-export"}}, r"bgp\.communities"),
        ({"communities": []}, {"bgp": {"communities": "64512:1:2"}}, r"bgp\.communities"),
    ],
)
def test_policy_bounds_what_a_tenant_may_ask(policy: dict[str, Any], document: dict[str, Any], place: str) -> None:
    """Error 7 says which list refused it."""
    with pytest.raises(InvalidConfiguration, match=rf"^{place}: .*\[policy\]"):
        routing(AgentConfig.model_validate({"policy": policy}), **document)


@pytest.mark.parametrize(
    ("policy", "document"),
    [
        ({"rd": []}, {"bgp": {"family": "evpn", "vni": 9}}),  # auto: the node's own word
        ({"rd": []}, {"bgp": {"rd": "64512:1"}}),  # unicast has none
        ({"rd": ["64512:*"]}, {"bgp": {"family": "evpn", "vni": 9, "rd": "64512:1"}}),
        ({"communities": ["64512:*", "no-export"]}, {"bgp": {"communities": ["64512:1:2", "no-export"]}}),
    ],
)
def test_what_a_policy_allows(policy: dict[str, Any], document: dict[str, Any]) -> None:
    routing(AgentConfig.model_validate({"policy": policy}), **document)


WISHES: list[tuple[dict[str, Any], dict[str, Any], str, str]] = [
    ({"mac": ["06:*"]}, {"mac": "02:00:00:00:00:01"}, "", "mac: 02:00:00:00:00:01"),
    ({"mac": ["06:*"]}, {"runtimeConfig": {"mac": "02:00:00:00:00:01"}}, "", r"runtimeConfig\.mac: 02:"),
    ({"mac": ["06:*"]}, {"args": {"cni": {"mac": "02:00:00:00:00:01"}}}, "", r"args\.cni\.mac: 02:"),
    ({"mac": []}, {}, "MAC=02:00:00:00:00:01", "CNI_ARGS: MAC: 02:"),
    ({"mac": ["06:*"]}, {"mac": "06:00:00:00:00:01"}, "MAC=02-00-00-00-00-01", "CNI_ARGS: MAC: 02:"),
    (
        {"data_dirs": ["/var/lib/cni/*"]},
        {"ipam": {"type": "host-local", "dataDir": "/etc"}},
        "",
        r"ipam\.dataDir: /etc",
    ),
    (
        {"data_dirs": ["/x/*"]},
        {"ipam": {"type": "host-local", "DATADIR": "/x/../etc"}},
        "",
        r"ipam\.dataDir: /x/\.\./etc",
    ),
    ({"data_dirs": ["/x/*"]}, {"ipam": {"type": "other", "dataDir": "//etc"}}, "", r"ipam\.dataDir: //etc"),
    ({"data_dirs": ["*"]}, {"ipam": {"type": "host-local", "dataDir": "relative"}}, "", r"ipam\.dataDir: relative"),
    (
        {"resolv_conf": ["/etc/resolv.conf"]},
        {"ipam": {"resolvConf": "/etc/shadow"}},
        "",
        r"ipam\.resolvConf: /etc/shadow",
    ),
]


@pytest.mark.parametrize(("policy", "document", "args", "place"), WISHES)
def test_policy_bounds_macs_and_paths(policy: dict[str, Any], document: dict[str, Any], args: str, place: str) -> None:
    """Wherever it was asked for; a path is what it leads to."""
    rules = AgentConfig.model_validate({"policy": policy}).policy
    with pytest.raises(InvalidConfiguration, match=rf"^{place}.* is not allowed by \[policy\] {next(iter(policy))}"):
        plan.refuse_wishes(rules, request(args, **document))
    plan.refuse_wishes(AgentConfig().policy, request(args, **document))


def test_what_is_allowed_or_not_asked_for_passes_the_policy() -> None:
    """No MAC, the default folder, no resolvConf: nothing was asked."""
    rules = AgentConfig.model_validate(
        {"policy": {"mac": ["02:AA:*"], "data_dirs": ["/x/*"], "resolv_conf": ["/etc/*"], "annotations": ["mac"]}}
    ).policy
    plan.refuse_wishes(rules, request())
    default = {"type": "host-local", "dataDir": "/var/lib/cni/networks", "resolvConf": ""}
    plan.refuse_wishes(rules, request("MAC=02:aa:00:00:00:01", ipam=default))
    plan.refuse_wishes(rules, request(ipam={"dataDir": "/x//y/", "resolvConf": "/etc/resolv.conf"}))


@pytest.mark.parametrize(
    "options",
    [
        {"socket": "/run/other.sock"},
        {"socket": "@abstract"},
        {"socket": "relative"},
        {"vty_dir": "/tmp"},
        {"anything": "../x"},
        {"nested": {"list": ["/tmp/x"]}},
    ],
)
def test_a_path_of_an_exporter_is_agent_tomls(options: dict[str, Any]) -> None:
    """A tenant's word leads the agent, which is root, to no socket and no file that the operator did not name."""
    agent = AgentConfig.model_validate(
        {"exporters": {"users": {"type": "exabgp", "socket": "/run/users.sock"}, "exabgp": {"port": 1}}}
    )
    with pytest.raises(InvalidConfiguration, match=rf"^exporters\[0\]\.{next(iter(options))}: .* agent\.toml"):
        routing(agent, exporters=[{"type": "exabgp", **options}])
    with pytest.raises(InvalidConfiguration, match=r"^exporters\[1\]\.socket: "):
        routing(agent, exporters=["exabgp", {"type": "gobgp", "socket": "/run/users.sock"}])


def test_a_path_that_agent_toml_names_may_be_named() -> None:
    agent = AgentConfig.model_validate({"exporters": {"users": {"type": "exabgp", "socket": "/run/users.sock"}}})
    found = routing(agent, exporters=[{"type": "exabgp", "socket": "/run/users.sock", "text": "plain", "number": 1}])
    assert found.exporters[0].config["socket"] == "/run/users.sock"
    routing(agent, exporters=[{"type": "bagpipe", "url": "http://127.0.0.1:8082/x"}])


@pytest.mark.parametrize(
    ("asks", "words"),
    [
        ({"family": "evpn", "vni": 5, "vrf": "red"}, r"bgp\.l3vni: missing"),
        ({"family": "evpn", "vni": 5, "l3vni": 6}, r"bgp\.l3vni: .* bgp\.vrf is missing"),
        ({"family": "evpn", "vni": 5, "vrf": "red", "l3vni": 5}, r"bgp\.l3vni: 5 is the network's own VNI"),
        ({"family": "evpn", "vni": 5, "vrf": "red", "l3vni": 0}, r"bgp\.l3vni: 0 is under 1"),
        ({"family": "evpn", "vni": 5, "vrf": "red", "l3vni": 16777216}, r"bgp\.l3vni: 16777216 is over 16777215"),
        (
            {"family": "evpn", "vni": 5, "vrf": "more-than-15-of-them", "l3vni": 6},
            r"bgp\.vrf: .* longer than 15 characters",
        ),
        ({"family": "evpn", "vni": 5, "vrf": "cni0", "l3vni": 6}, r"bgp\.vrf: cni0 is the name of the bridge"),
        ({"family": "vpn", "vrf": "red", "l3vni": 6}, r"bgp\.l3vni: it belongs to EVPN"),
        ({"family": "unicast", "vrf": "red"}, r"bgp\.vrf: unicast routes go into the node's own table"),
        ({"vrf": "red"}, r"bgp\.vrf: unicast routes go into the node's own table"),
    ],
)
def test_a_vrf_that_cannot_be_is_refused(asks: dict[str, Any], words: str) -> None:
    """The field is named."""
    with pytest.raises(InvalidConfiguration, match=words):
        routing(exportRT="64512:1", bgp=asks)


def test_a_vrf_is_asked_for() -> None:
    """EVPN with a VNI of its own, L3VPN without; `bgp.import` counts as for unicast."""
    asks = {"family": "evpn", "vni": 5, "vrf": "red", "l3vni": "6", "import": ["0.0.0.0/0"]}
    intent = routing(exportRT="64512:1", bgp=asks).bgp
    assert (intent.vrf, intent.l3vni, intent.import_prefixes) == ("red", 6, ("0.0.0.0/0",))
    assert routing(exportRT="64512:1", bgp={"family": "vpn", "vrf": "red"}).bgp.vrf == "red"


def test_the_host_ends_name_is_a_hash_that_fits() -> None:
    """15 characters; the second try is another name."""
    key = AttachmentKey("net", "c1", "eth0")
    found = [plan.host_veth(key, attempt) for attempt in range(5)]
    assert len(set(found)) == 5
    assert all(name.startswith("veth") and len(name) == 15 for name in found)
    assert plan.host_veth(AttachmentKey("net", "c1", "eth1")) not in found


@pytest.mark.parametrize(
    "document",
    [
        {"hairpinMode": True, "promiscMode": True},
        {"disableContainerInterface": True, "ipam": {"type": "x"}},
    ],
)
def test_what_excludes_each_other_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfiguration, match="cannot be used together"):
        plan.refuse_unsupported(request(**document).settings)


@pytest.mark.parametrize(
    ("document", "tagging"),
    [
        ({}, None),
        ({"vlan": 0, "preserveDefaultVlan": False}, None),
        ({"vlan": 5}, Tagging(5)),
        ({"vlan": 5, "preserveDefaultVlan": True}, Tagging(5, (), True)),
        ({"vlan": 5, "vlanTrunk": [{}], "preserveDefaultVlan": False}, Tagging(5, (), False)),
        ({"vlan": 6, "vlanTrunk": [{"id": 5}]}, Tagging(6, (5,))),
        ({"vlan": 6, "vlanTrunk": [{"minID": 5, "maxID": 7}]}, Tagging(6, (5, 7))),
        ({"vlanTrunk": []}, Tagging()),
        ({"vlanTrunk": [{"minID": 9, "maxID": 11}, {"id": 3}, {"id": 10, "minID": 5, "maxID": 5}]},
         Tagging(0, (3, 5, 9, 10, 11))),
    ],
)  # fmt: skip
def test_a_port_carries_what_vlan_or_vlan_trunk_say(document: dict[str, Any], tagging: Tagging | None) -> None:
    """Ranges and single VLANs in any order, each once; an empty trunk needs a bridge that filters all the same.

    As with stock 1.9 the port leaves the bridge's default VLAN, and `vlan` is the native VLAN of a trunk.
    """
    config = request(**document).settings
    plan.refuse_unsupported(config)
    assert plan.tagging_of(config) == plan.bridge_of(config, ()).tagging == tagging


def test_a_vlans_gateway_must_have_a_name_that_fits() -> None:
    """It is an interface called BRIDGE.VLAN; without a gateway there is none."""
    document = {"bridge": "bridge-of-net0", "vlan": 5}
    plan.refuse_unsupported(request(**document).settings)
    for key in ("isGateway", "isDefaultGateway"):
        with pytest.raises(InvalidConfiguration, match=r"^vlan: .* bridge-of-net0\.5 would have more than 15"):
            plan.refuse_unsupported(request(**document, **{key: True}).settings)


@pytest.mark.parametrize("document", [{"vlan": 5}, {"vlanTrunk": [{"id": 5}]}])
def test_a_vlan_is_not_announced_as_a_vni(document: dict[str, Any]) -> None:
    """EVPN needs a bridge for each VNI; a network that announces nothing is a plain bridge plugin's."""
    config = request(**document).settings
    evpn = {"bgp": {"family": "evpn", "vni": 5001}}
    for more, refused in (({}, False), (evpn, True), (evpn | {"exporters": []}, False)):
        found = routing(**document, **more)
        words = rf"^{next(iter(document))}: .* evpn"
        with pytest.raises(InvalidConfiguration, match=words) if refused else nullcontext():
            plan.refuse_vlan_with(config, found.bgp, found.exporters)


ITEMS = (Address(address="10.1.2.3/24"), Address(address="2001:db8::3/64", gateway="2001:db8::1"))


def test_a_gateway_bridge_takes_the_first_address_where_none_is_given() -> None:
    """As the stock plugin."""
    config = request(isGateway=True).settings
    four, six = plan.with_gateways(config, ITEMS)
    assert (four.gateway, six.gateway) == ("10.1.2.1", "2001:db8::1")
    assert plan.with_gateways(request().settings, ITEMS) == ITEMS


def test_default_routes_go_through_the_gateways_once() -> None:
    """isDefaultGateway; a default that IPAM gave stays the only one of its family."""
    config = request(isDefaultGateway=True).settings
    items = plan.with_gateways(config, ITEMS)
    assert plan.default_routes(config, items, ()) == (
        Route(dst="0.0.0.0/0", gw="10.1.2.1"), Route(dst="::/0", gw="2001:db8::1"),
    )  # fmt: skip
    given_route = Route(dst="0.0.0.0/0", gw="10.1.2.9")
    assert [route.gw for route in plan.default_routes(config, items, [given_route])] == ["10.1.2.9", "2001:db8::1"]


@given(st.lists(st.sampled_from(["0.0.0.0/0", "::/0", "192.0.2.0/24", "2001:db8:9::/48"]), max_size=4))
def test_a_route_without_gateway_goes_through_that_of_its_family(dsts: list[str]) -> None:
    item = Attachment(
        boot_id="b", network="n", container_id="c", ifname="e", netns="",
        addresses=(Address(address="10.1.2.3/24", gateway="10.1.2.1"), Address(address="2001:db8::3/64")),
        routes=tuple(Route(dst=dst) for dst in dsts),
    )  # fmt: skip
    for route in plan.through_gateways(item.routes, item.addresses):
        assert route.gw == (None if ":" in route.dst else "10.1.2.1")


@pytest.mark.parametrize(
    ("cni_args", "document", "mac"),
    [
        ("", {}, None),
        ("MAC=02:00:00:00:00:AA", {}, "02:00:00:00:00:aa"),
        ("MAC=02:00:00:00:00:01", {"args": {"cni": {"mac": "02:00:00:00:00:02"}}}, "02:00:00:00:00:02"),
        (
            "MAC=02:00:00:00:00:01",
            {"args": {"cni": {"mac": "02:00:00:00:00:02"}}, "runtimeConfig": {"mac": "02:00:00:00:00:03"}},
            "02:00:00:00:00:03",
        ),
    ],
)
def test_the_runtimes_mac_counts_before_the_others(cni_args: str, document: dict[str, Any], mac: str | None) -> None:
    """runtimeConfig before args.cni before CNI_ARGS, as with the stock plugin."""
    assert plan.mac_of(request(cni_args, **document)) == mac


@pytest.mark.parametrize("value", ["x", "02:00:00:00:00", "01:00:00:00:00:01"])
def test_a_mac_in_cni_args_that_is_none_is_error_4(value: str) -> None:
    with pytest.raises(InvalidEnvironment, match="CNI_ARGS: MAC"):
        plan.mac_of(request(f"MAC={value}"))


def test_the_configurations_dns_counts_before_that_of_ipam() -> None:
    """If it says anything; runtimeConfig.dns is for Windows plugins, as with the stock plugin."""
    given = Dns(nameservers=("192.0.2.1",))
    for document, dns in (
        ({}, given),
        ({"dns": {}}, given),
        ({"dns": {"search": ["a"]}}, Dns(search=("a",))),
        ({"runtimeConfig": {"dns": {"servers": ["192.0.2.9"]}}}, given),
    ):
        assert plan.dns_of(request(**document).settings, given) == dns


SPEAKERS = AgentConfig.model_validate(
    {"exporters": {"a": {"type": "exabgp"}, "b": {"type": "exabgp", "local_address": "192.0.2.2"}, "kernel": {}}}
)


@pytest.mark.parametrize(
    ("asked", "names"),
    [(["exabgp"], ["a", "b"]), (["b"], ["b"]), (["b", "exabgp", "frr"], ["b", "a", "frr"]), ([], [])],
)
def test_a_type_means_every_exporter_of_it(asked: list[str], names: list[str]) -> None:
    """`"exporters": ["exabgp"]`, wherever it is said: all of agent.toml's; where it has none, the one so called."""
    config = request(exporters=asked).settings
    assert [use.name for use in plan.exporters_of(config, SPEAKERS, resident=True)] == names
    here = SPEAKERS.model_copy(update={"networks": {config.name: NetworkTable(exporters=tuple(asked))}})
    assert [use.name for use in plan.exporters_of(request().settings, here, resident=True)] == names
    assert [use.name for use in plan.configured(SPEAKERS)] == ["a", "b", "kernel"]


def test_a_type_that_the_policy_allows_is_each_of_its_exporters() -> None:
    """But not one that a network configuration makes up."""
    rules = SPEAKERS.model_copy(
        update={"policy": AgentConfig.model_validate({"policy": {"exporters": ["exabgp"]}}).policy}
    )
    routing = plan.routing(request(exporters=["a", "b"]), rules, FACTS, 1, resident=True)
    assert [use.name for use in routing.exporters] == ["a", "b"]
    with pytest.raises(InvalidConfiguration, match=r"exporters: kernel is not allowed by \[policy\] exporters"):
        plan.routing(request(exporters=["kernel"]), rules, FACTS, 1, resident=True)
    with pytest.raises(InvalidConfiguration, match=r"exporters: mine-.* is not allowed by \[policy\] exporters"):
        plan.routing(request(exporters=[{"type": "exabgp", "name": "mine"}]), rules, FACTS, 1, resident=True)
