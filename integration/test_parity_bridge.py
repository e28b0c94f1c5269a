"""Replace `"type": "bridge"` by `"type": "bgpcni"`, and everything is as it was.

Each row of the table is a configuration that runs through the stock plugins (Debian's containernetworking-plugins
1.1.1) on one node and through ours on others, without and with an agent. Kernel state, result and leases must be the
same, after ADD and after DEL. Where stock 1.1.1 is wrong, or older than an option, the row says what is different
with us, and why.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from integration.lab import CniAnswer, Lab, Namespace, Node
from integration.lab.kernel import has
from integration.lab.node import STOCK_PLUGINS
from integration.parity import State, observe

pytestmark = pytest.mark.skipif(
    not (STOCK_PLUGINS / "bridge").exists(), reason="not installed: containernetworking-plugins"
)
BRIDGE, NETWORK, ID = "cni9", "parity", "c1"
Config = dict[str, Any]


def ranges(*subnets: str, **keys: Any) -> Config:
    """host-local with a range set for each subnet; `keys` go on top."""
    return {"type": "host-local", "ranges": [[{"subnet": subnet}] for subnet in subnets]} | keys


V4, V6 = "10.1.2.0/24", "fd00:1:2::/64"
DEFAULTS = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]


def _bridge_with(*addresses: str, mtu: int = 1500) -> Callable[[Namespace, Namespace], None]:
    def prepare(node: Namespace, container: Namespace) -> None:
        node.ip("link", "add", BRIDGE, "address", "02:00:00:00:00:99", "mtu", mtu, "type", "bridge")
        node.ip("link", "set", BRIDGE, "up")
        for address in addresses:
            node.ip("address", "add", address, "dev", BRIDGE, *(["nodad"] if ":" in address else ["brd", "+"]))

    return prepare


DNS_DROPPED = "stock 1.1.1 drops what IPAM says of DNS; from 1.2 on it is given where the configuration says nothing"
ACCEPT_RA = "node.sysctl.net/ipv6/conf/{bridge}/accept_ra"
NOT_OURS: Config = {
    "differs": {ACCEPT_RA: "1"},
    "why": "stock switches accept_ra off on a bridge that others made, too; we change what is ours alone",
}


NOT_KNOWN = (
    "stock 1.1.1 knows neither vlanTrunk nor preserveDefaultVlan, and keeps the default VLAN; 1.9 does what we do"
)
DEFAULT_VLAN: Config = {"preserveDefaultVlan": True}
FILTERS: Config = {"node.links.cni9.vlan_filtering": 1}


def _gateway_with(address: str) -> Callable[[Namespace, Namespace], None]:
    """The bridge is there, and the gateway of VLAN 5 with this address."""

    def prepare(node: Namespace, container: Namespace) -> None:
        _bridge_with()(node, container)
        node.ip("link", "set", BRIDGE, "type", "bridge", "vlan_filtering", "1")
        node.ip("link", "add", f"{BRIDGE}.5", "type", "veth", "peer", "name", "other")
        node.ip("link", "set", f"{BRIDGE}.5", "up")
        node.ip("link", "set", "other", "master", BRIDGE, "up")
        node.run("bridge", "vlan", "add", "vid", 5, "dev", "other", "pvid", "untagged")
        node.ip("address", "add", address, "dev", f"{BRIDGE}.5", "brd", "+")

    return prepare


def _without_ipv6(node: Namespace, container: Namespace) -> None:
    container.sysctl(net__ipv6__conf__all__disable_ipv6=1, net__ipv6__conf__default__disable_ipv6=1)


@dataclass(frozen=True)
class Case:
    """One row. `differs`: what of the state is different with us, by its path, and `why`.

    `expected`: text that is in that part of the state of ours, whatever stock's is. `fails`: ADD fails with both
    (True), or with "stock" or "ours" alone; `error` is our code then.
    """

    name: str
    conf: Config = field(default_factory=dict)
    args: str = ""
    ifname: str = "eth0"
    prepare: Callable[[Namespace, Namespace], None] | None = None
    fails: bool | str = False
    error: int | None = None
    differs: Config = field(default_factory=dict)
    expected: Config = field(default_factory=dict)
    why: str = ""


CASES = [
    Case("IPv4, no gateway", {"ipam": ranges(V4)}),
    Case("IPv6, no gateway", {"ipam": ranges(V6)}),
    Case("isGateway, IPv4", {"isGateway": True, "ipam": ranges(V4)}),
    Case("isGateway, IPv6", {"isGateway": True, "ipam": ranges(V6)}),
    Case("isGateway, IPv4 and IPv6", {"isGateway": True, "ipam": ranges(V4, V6, routes=DEFAULTS)}),
    Case("isGateway, IPv6 and IPv4", {"isGateway": True, "ipam": ranges(V6, V4, routes=DEFAULTS)}),
    Case("isDefaultGateway, IPv4 and IPv6", {"isDefaultGateway": True, "ipam": ranges(V4, V6)}),
    Case("isDefaultGateway, IPv6 and IPv4", {"isDefaultGateway": True, "ipam": ranges(V6, V4)}),
    Case(
        "isDefaultGateway and a default route of ipam's with its own gateway",
        {"isDefaultGateway": True, "ipam": ranges(V4, routes=[{"dst": "0.0.0.0/0", "gw": "10.1.2.254"}])},
    ),
    Case(
        "isDefaultGateway and a default route of ipam's without gateway",
        {"isDefaultGateway": True, "ipam": ranges(V4, routes=[{"dst": "0.0.0.0/0"}])},
        fails="stock",
        expected={"container.routes": "default via 10.1.2.1 dev eth0"},
        why="stock adds the same default route twice, and fails on the second",
    ),
    Case(
        "the gateway is configured",
        {
            "isGateway": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": V4, "gateway": "10.1.2.254"}]],
                "routes": DEFAULTS[:1],
            },
        },
    ),
    Case(
        "routes of ipam's, with and without gateway",
        {
            "ipam": ranges(
                V4, V6, routes=[*DEFAULTS, {"dst": "192.0.2.0/24", "gw": "10.1.2.9"}, {"dst": "2001:db8::/32"}]
            )
        },
    ),
    Case(
        "two routes to one destination",
        {"ipam": ranges(V4, routes=[{"dst": "192.0.2.0/24"}, {"dst": "192.0.2.0/24", "gw": "10.1.2.9"}])},
    ),
    Case("two IPv4 addresses", {"ipam": ranges(V4, "10.1.3.0/24")}),
    Case("two IPv6 addresses", {"isGateway": True, "ipam": ranges(V6, "fd00:1:3::/64")}),
    Case(
        "two IPv4 addresses with gateways",
        {"isGateway": True, "ipam": ranges(V4, "10.1.3.0/24")},
        fails="stock",
        expected={"node.links.cni9.addresses": "10.1.3.1/24"},
        why="stock gives a bridge one IPv4 address; here networks may share a bridge, so it may have several",
    ),
    Case(
        "the old form of ipam, with rangeStart and rangeEnd",
        {"ipam": {"type": "host-local", "subnet": V4, "rangeStart": "10.1.2.20", "rangeEnd": "10.1.2.30"}},
    ),
    Case("cniVersion 0.2.0", {"cniVersion": "0.2.0", "isGateway": True, "ipam": ranges(V4, V6, routes=DEFAULTS)}),
    Case("cniVersion 0.3.1", {"cniVersion": "0.3.1", "isGateway": True, "ipam": ranges(V4, V6, routes=DEFAULTS)}),
    Case("cniVersion 0.4.0", {"cniVersion": "0.4.0", "isGateway": True, "ipam": ranges(V4, V6, routes=DEFAULTS)}),
    Case("another interface name", {"isGateway": True, "ipam": ranges(V4)}, ifname="net1.bond-longer"[:15]),
    Case("mtu", {"mtu": 1400, "isGateway": True, "ipam": ranges(V4)}),
    Case(
        "mtu above that of the bridge",
        {"mtu": 9000, "ipam": ranges(V4)},
        prepare=_bridge_with(),
        fails="ours",
        error=7,
        why="stock makes a container whose larger packets vanish in the bridge",
    ),
    Case("mtu below that of the bridge", {"mtu": 1300, "ipam": ranges(V4)}, prepare=_bridge_with(), **NOT_OURS),
    Case("hairpinMode", {"hairpinMode": True, "ipam": ranges(V4)}),
    Case("promiscMode", {"promiscMode": True, "ipam": ranges(V4)}),
    Case(
        "promiscMode on a bridge that is there",
        {"promiscMode": True, "ipam": ranges(V4)},
        prepare=_bridge_with(),
        **NOT_OURS,
    ),
    Case(
        "hairpinMode and promiscMode",
        {"hairpinMode": True, "promiscMode": True, "ipam": ranges(V4)},
        fails=True,
        error=7,
    ),
    Case(
        "portIsolation",
        {"portIsolation": True, "ipam": ranges(V4)},
        differs={"node.links.HOST.port.isolated": True},
        why="stock 1.1.1 does not know it; 1.6 does what we do",
    ),
    Case("macspoofchk", {"macspoofchk": True, "ipam": ranges(V4, V6)}),
    Case("macspoofchk, layer 2 only", {"macspoofchk": True}),
    Case("ipMasq", {"ipMasq": True, "isGateway": True, "ipam": ranges(V4, V6)}),
    Case(
        "ipMasq with iptables", {"ipMasq": True, "ipMasqBackend": "iptables", "isGateway": True, "ipam": ranges(V4, V6)}
    ),
    Case("enabledad", {"enabledad": True, "isGateway": True, "ipam": ranges(V4, V6, routes=DEFAULTS)}),
    Case("layer 2 only", {}),
    Case("layer 2 only, ipam without a type", {"isGateway": True, "ipam": {}}),
    Case(
        "disableContainerInterface",
        {"disableContainerInterface": True},
        differs={
            "container.links.eth0.flags": "BROADCAST,MULTICAST",
            "node.links.HOST.port.state": "disabled",
        },
        why="stock 1.1.1 does not know it; 1.4 does what we do",
    ),
    Case(
        "disableContainerInterface with ipam",
        {"disableContainerInterface": True, "ipam": ranges(V4)},
        fails="ours",
        error=7,
        why="stock 1.1.1 does not know it; 1.4 refuses as we do",
    ),
    Case("preserveDefaultVlan alone", {"preserveDefaultVlan": False, "ipam": ranges(V4)}),
    Case("forceAddress on a new bridge", {"isGateway": True, "forceAddress": True, "ipam": ranges(V4, V6)}),
    Case(
        "forceAddress, renumbered",
        {"isGateway": True, "forceAddress": True, "ipam": ranges(V4, V6)},
        prepare=_bridge_with("192.0.2.1/24", "10.1.2.5/24", "fd00:1:2::5/64", "fd00:9::1/64"),
        **NOT_OURS,
    ),
    Case(
        "another address of the subnet on the bridge",
        {"isGateway": True, "ipam": ranges(V4)},
        prepare=_bridge_with("10.1.2.5/24"),
        fails=True,
        error=7,
    ),
    Case(
        "another IPv6 address of the subnet on the bridge",
        {"isGateway": True, "ipam": ranges(V6)},
        prepare=_bridge_with("fd00:1:2::5/64"),
        fails=True,
        error=7,
    ),
    Case(
        "an IPv6 address of another subnet on the bridge",
        {"isGateway": True, "ipam": ranges(V6)},
        prepare=_bridge_with("fd00:9::1/64"),
        **NOT_OURS,
    ),
    Case("IPv6 is off in the container", {"isGateway": True, "ipam": ranges(V4, V6)}, prepare=_without_ipv6),
    Case("runtimeConfig.mac", {"runtimeConfig": {"mac": "02:00:00:00:00:11"}, "ipam": ranges(V4)}),
    Case("args.cni.mac", {"args": {"cni": {"mac": "02:00:00:00:00:12"}}, "ipam": ranges(V4)}),
    Case("MAC in CNI_ARGS", {"ipam": ranges(V4)}, args="IgnoreUnknown=1;MAC=02:00:00:00:00:13"),
    Case(
        "MAC from everywhere: the runtime's counts",
        {
            "args": {"cni": {"mac": "02:00:00:00:00:12"}},
            "runtimeConfig": {"mac": "02:00:00:00:00:11"},
            "ipam": ranges(V4),
        },
        args="IgnoreUnknown=1;MAC=02:00:00:00:00:13",
    ),
    Case("IP in CNI_ARGS", {"ipam": ranges(V4, V6)}, args="IgnoreUnknown=1;IP=10.1.2.77"),
    Case("args.cni.ips", {"args": {"cni": {"ips": ["10.1.2.78", "fd00:1:2::78"]}}, "ipam": ranges(V4, V6)}),
    Case("runtimeConfig.ips", {"runtimeConfig": {"ips": ["10.1.2.79/24", "fd00:1:2::79/64"]}, "ipam": ranges(V4, V6)}),
    Case(
        "a requested address outside the ranges",
        {"runtimeConfig": {"ips": ["10.9.9.9"]}, "ipam": ranges(V4)},
        fails=True,
        error=7,
    ),
    Case(
        "runtimeConfig.ipRanges",
        {"runtimeConfig": {"ipRanges": [[{"subnet": V4}], [{"subnet": V6}]]}, "ipam": {"type": "host-local"}},
    ),
    Case(
        "CNI_ARGS that nobody knows",
        {"ipam": ranges(V4)},
        args="FOO=bar",
        fails="stock",
        expected={"container.links.eth0.addresses": "10.1.2.2/24"},
        why="stock refuses keys that it does not know; route targets are among those that we must take",
    ),
    Case(
        "dns",
        {
            "dns": {"nameservers": ["192.0.2.53"], "domain": "example", "search": ["a", "b"], "options": ["c"]},
            "ipam": ranges(V4),
        },
    ),
    Case("dns, layer 2 only", {"dns": {"nameservers": ["192.0.2.53"]}}),
    Case(
        "resolvConf",
        {"ipam": ranges(V4, resolvConf="RESOLV_CONF")},
        expected={"result": '"dns": {"domain": "first", "nameservers": ["192.0.2.1", "2001:db8::1"]'},
        why=DNS_DROPPED,
    ),
    Case("dns before resolvConf", {"dns": {"search": ["a"]}, "ipam": ranges(V4, resolvConf="RESOLV_CONF")}),
    Case(
        "runtimeConfig.dns is Windows plugins' alone",
        {"runtimeConfig": {"dns": {"servers": ["192.0.2.54"]}}, "ipam": ranges(V4)},
    ),
    Case(
        "static addresses",
        {
            "isGateway": True,
            "ipam": {
                "type": "static",
                "addresses": [{"address": "10.1.2.9/24", "gateway": "10.1.2.1"}, {"address": "fd00:1:2::9/64"}],
                "routes": [{"dst": "0.0.0.0/0"}],
                "dns": {"nameservers": ["192.0.2.55"]},
            },
        },
        expected={"result": '"dns": {"nameservers": ["192.0.2.55"]}'},
        why=DNS_DROPPED,
    ),
    Case(
        "a static /32 and /128",
        {"ipam": {"type": "static", "addresses": [{"address": "10.1.2.9/32"}, {"address": "fd00::9/128"}]}},
    ),
    Case(
        "a static /32 whose gateway is on the link",
        {
            "ipam": {
                "type": "static",
                "addresses": [{"address": "10.1.2.9/32"}],
                "routes": [{"dst": "169.254.1.1/32"}, {"dst": "0.0.0.0/0", "gw": "169.254.1.1"}],
            }
        },
        fails="stock",
        expected={"container.routes": "default via 169.254.1.1 dev eth0"},
        why="stock gives routes without gateway no link scope, so that no gateway can be reached through them",
    ),
    Case("an IPAM plugin that is not installed", {"ipam": {"type": "no-such-ipam"}}, fails=True, error=7),
    Case("the bridge's name is another link's", {"bridge": "lo", "ipam": ranges(V4)}, fails=True, error=7),
]

NO_VLANS = [
    Case("vlan", {"vlan": 5, "isGateway": True, "ipam": ranges(V4)}, fails=True, error=2),
    Case(
        "vlan on a bridge that is there", {"vlan": 5, "ipam": ranges(V4)}, prepare=_bridge_with(), fails=True, error=2
    ),
    Case("vlanTrunk", {"vlanTrunk": [{"id": 5}]}, fails="ours", error=2, why=NOT_KNOWN),
]
"""Rows for a kernel whose bridge cannot filter VLANs."""

VLANS = [
    Case("vlan", DEFAULT_VLAN | {"vlan": 5, "ipam": ranges(V4, V6)}),
    Case("vlan, isGateway", DEFAULT_VLAN | {"vlan": 5, "isGateway": True, "ipam": ranges(V4, V6, routes=DEFAULTS)}),
    Case(
        "vlan, isDefaultGateway",
        DEFAULT_VLAN | {"vlan": 5, "isDefaultGateway": True, "mtu": 1400, "ipam": ranges(V6)},
    ),
    Case(
        "vlan on a bridge that does not filter",
        DEFAULT_VLAN | {"vlan": 5, "isGateway": True, "ipam": ranges(V4)},
        prepare=_bridge_with(),
        **NOT_OURS,
    ),
    Case(
        "vlan, another address of the subnet on its gateway",
        DEFAULT_VLAN | {"vlan": 5, "isGateway": True, "ipam": ranges(V4)},
        prepare=_gateway_with("10.1.2.5/24"),
        fails=True,
        error=7,
    ),
    Case(
        "vlan, forceAddress",
        DEFAULT_VLAN | {"vlan": 5, "isGateway": True, "forceAddress": True, "ipam": ranges(V4)},
        prepare=_gateway_with("10.1.2.5/24"),
        **NOT_OURS,
    ),
    Case(
        "vlan without the default one",
        {"vlan": 5, "isGateway": True, "ipam": ranges(V4)},
        differs={
            "node.links.HOST.vlans": "5 PVID Egress Untagged",
            "node.links.GATEWAY PORT.vlans": "5 PVID Egress Untagged",
        },
        why=NOT_KNOWN,
    ),
    Case(
        "vlanTrunk",
        DEFAULT_VLAN | {"vlanTrunk": [{"minID": 8, "maxID": 9}, {"id": 5}, {"id": 7}, {"id": 9}], "ipam": ranges(V4)},
        differs=FILTERS | {"node.links.HOST.vlans": "1 PVID Egress Untagged, 5, 7-9"},
        why=NOT_KNOWN,
    ),
    Case(
        "vlanTrunk without the default one",
        {"vlanTrunk": [{"id": 5}]},
        differs=FILTERS | {"node.links.HOST.vlans": "5"},
        why=NOT_KNOWN,
    ),
    Case(
        "vlan as the native VLAN of a vlanTrunk",
        {"vlan": 6, "vlanTrunk": [{"minID": 5, "maxID": 7}], "ipam": ranges(V4)},
        differs={"node.links.HOST.vlans": "5, 6 PVID Egress Untagged, 7"},
        why=NOT_KNOWN,
    ),
]
"""Rows for one whose bridge can."""


@dataclass
class Party:
    """One node and the plugin that runs there."""

    node: Node
    plugin: str

    def call(self, command: str, case: Case, container: Namespace, **more: Any) -> CniAnswer:
        conf = self.conf(case) | more
        return self.node.cni(
            command, ID, container, conf, ifname=case.ifname, args=case.args, plugin=self.plugin,
            env={"CNI_NETNS": str(container.path)},
        )  # fmt: skip

    def conf(self, case: Case) -> Config:
        document: Config = {
            "cniVersion": "1.0.0",
            "name": NETWORK,
            "type": self.plugin,
            "bridge": BRIDGE,
            "exporters": [],
        }
        document |= json.loads(json.dumps(case.conf).replace("RESOLV_CONF", str(self.node.folder / "resolv.conf")))
        if document.get("ipam", {}).get("type") == "host-local":
            document["ipam"]["dataDir"] = str(self.node.leases)
        return document

    def state(self, case: Case, container: Namespace, answer: CniAnswer) -> State:
        return observe(self.node.namespace, container, answer.document, self.node.leases / NETWORK, BRIDGE, case.ifname)

    def clean(self) -> None:
        """As a node that has seen no network yet."""
        space = self.node.namespace
        gone = f"link delete {BRIDGE}\nlink delete {BRIDGE}.5\n"
        space.run("ip", "-force", "-batch", "-", stdin=gone, check=False)
        space.sysctl(net__ipv4__ip_forward=0, net__ipv6__conf__all__forwarding=0)
        for program in ("nft flush ruleset", "rm -rf " + str(self.node.leases / NETWORK)):
            space.run(*program.split(), check=False)


@pytest.fixture(scope="module")
def parties(here: None) -> Iterator[dict[str, Party]]:
    """Three nodes: stock's, ours without an agent, ours with one that has no BGP."""
    with Lab() as lab:
        made = {name: Party(lab.node(), plugin) for name, plugin in PLUGINS.items()}
        made["agent"].node.agent(bgp=None, default_exporters=[])
        stock = made["stock"].node
        stock.bin_dir = STOCK_PLUGINS
        for party in made.values():
            (party.node.folder / "resolv.conf").write_text(
                "domain first\nnameserver 192.0.2.1\nnameserver 2001:db8::1\nsearch x y\noptions ndots:2\n"
            )
        yield made


PLUGINS = {"stock": "bridge", "alone": "bgpcni", "agent": "bgpcni"}


@pytest.fixture(params=["alone", "agent"])
def ours(request: pytest.FixtureRequest, parties: dict[str, Party]) -> Party:
    """Ours, once without and once with an agent."""
    return parties[request.param]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_same_as_stock(case: Case, parties: dict[str, Party], ours: Party) -> None:
    """The same configuration gives the same kernel state, result and leases as the stock plugin, and DEL takes them."""
    compare(case, parties["stock"], ours)


@pytest.mark.kernel("vlan_filtering")
@pytest.mark.parametrize("case", VLANS, ids=lambda case: case.name)
def test_same_as_stock_with_vlans(case: Case, parties: dict[str, Party]) -> None:
    """The same where the kernel's bridge filters VLANs."""
    compare(case, parties["stock"], parties["agent"])


@pytest.mark.parametrize("case", NO_VLANS, ids=lambda case: case.name)
def test_vlans_are_refused_where_the_kernel_has_none(case: Case, parties: dict[str, Party], ours: Party) -> None:
    """ADD and STATUS name the key and say why; nothing is changed."""
    if has("vlan_filtering"):
        pytest.skip("this kernel's bridge can filter VLANs")
    compare(case, parties["stock"], ours)
    key = next(iter(case.conf))
    words = f"{key}: this kernel's bridge cannot filter VLANs"
    before = ours.node.links()
    with Namespace("container") as container:
        assert ours.call("ADD", case, container).document["msg"] == words
        status = ours.call("STATUS", case, container, cniVersion="1.1.0")
    assert (status.error, status.document["msg"]) == (50, words)
    assert ours.node.links() == before
    assert not (ours.node.leases / NETWORK).exists()


def compare(case: Case, stock: Party, ours: Party) -> None:
    """ADD, CHECK and DEL through both."""
    states, errors, after = [], [], []
    for party in (stock, ours):
        party.clean()
        with Namespace("container") as container:
            if case.prepare:
                case.prepare(party.node.namespace, container)
            before = party.node.links()
            answer = party.call("ADD", case, container)
            errors.append(answer.error)
            states.append(party.state(case, container, answer) if answer.ok else {})
            if answer.ok and case.conf.get("cniVersion", "1.0.0") >= "0.4.0":
                checked = party.call("CHECK", case, container, prevResult=answer.document)
                assert checked.ok or party is stock, checked
            deleted = party.call("DEL", case, container)
            assert deleted.ok or party is stock, deleted
            assert party is stock or party.call("DEL", case, container).ok, "a second DEL"
            if party is ours and not answer.ok:
                assert party.node.links() - {BRIDGE} == before - {BRIDGE}, "what failed leaves nothing"
            after.append(party.state(case, container, CniAnswer(0, {}, "", 0)))
    assert (errors[0] is not None, errors[1] is not None) == {
        True: (True, True), False: (False, False), "stock": (True, False), "ours": (False, True)
    }[case.fails], errors  # fmt: skip
    if errors[1] is not None:
        assert errors[1] == case.error
        return
    for path, text in case.expected.items():
        assert text in str(states[1][path])
    assert bool(case.differs or case.expected) == bool(case.why)
    if case.fails != "stock":
        given = case.differs | {path: states[1][path] for path in case.expected}
        assert differences(states[0] | given, states[1]) == {}
        assert differences(after[0] | {path: after[1].get(path) for path in given}, after[1]) == {}


def differences(stock: State, ours: State) -> dict[str, tuple[Any, Any]]:
    """Path → (stock's, ours), where they are not the same."""
    return {
        path: (stock.get(path), ours.get(path))
        for path in sorted(stock.keys() | ours.keys())
        if stock.get(path) != ours.get(path)
    }
