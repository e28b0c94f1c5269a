"""agent.toml: every error names its place, and unknown keys are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpcni.config.agent import AgentConfig, PolicyTable, load
from bgpcni.errors import InvalidConfiguration
from bgpcni.model import Family

BGP = '[bgp]\nasn = 64512\nrouter_id = "10.0.0.1"\nlocal_address = "10.0.0.1"\n'
CLUSTER = '[cluster]\nstore = "kubernetes"\n'
KUBERNETES = CLUSTER + "[cluster.kubernetes]\n"
NEIGHBOR = '[[bgp.neighbors]]\naddress = "10.0.0.254"\nasn = 64512\n'


def read(tmp_path: Path, text: str) -> AgentConfig:
    path = tmp_path / "agent.toml"
    path.write_text(text)
    return load(path)


def test_an_empty_file_is_a_node_without_bgp(tmp_path: Path) -> None:
    """An empty file is valid, because everything has a default."""
    config = read(tmp_path, "")
    assert config == AgentConfig()
    assert (config.run_dir, config.data_dir, config.orphan_grace) == ("/run/bgpcni", "/var/lib/bgpcni", 60)
    assert (config.default_exporters, config.bgp) == (("exabgp",), None)


def test_the_documented_file_is_understood(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        'default_exporters = ["exabgp"]\norphan_grace = 5\n' + BGP + "hold_time = 30\n" + NEIGHBOR
        + 'families = ["ipv4-unicast", "l2vpn-evpn"]\npassword_file = "/etc/bgpcni/secret"\nttl_security = true\n'
        + '[exporters.fabric]\ntype = "bagpipe"\nurl = "http://127.0.0.1:8082"\n'
        + '[networks.tenant-a]\nexporters = ["exabgp", "fabric"]\n'
        + '[policy]\nimport_rt = ["64512:*"]\nvni = ["5000-5999", "7"]\nprefixes = ["10.0.0.0/8"]\n',
    )  # fmt: skip
    assert config.bgp is not None
    (neighbor,) = config.bgp.neighbors
    assert neighbor.families == (Family.IPV4_UNICAST, Family.L2VPN_EVPN)
    assert (config.bgp.hold_time, neighbor.hold_time) == (30, None)
    assert (config.exporters["fabric"].type, config.exporters["fabric"].options) == (
        "bagpipe", {"url": "http://127.0.0.1:8082"},
    )  # fmt: skip
    assert config.networks["tenant-a"].exporters == ("exabgp", "fabric")


@pytest.mark.parametrize(
    ("environment", "text", "found"),
    [
        ("10.0.0.7", "", ("10.0.0.7", "10.0.0.7")),
        ("10.0.0.7", 'router_id = "1.1.1.1"\n', ("10.0.0.7", "1.1.1.1")),
        ("10.0.0.7", 'local_address = "10.0.0.8"\n', ("10.0.0.8", "10.0.0.8")),
        ("2001:db8::7", 'router_id = "1.1.1.1"\n', ("2001:db8::7", "1.1.1.1")),
    ],
)
def test_nodes_that_share_a_file_are_told_their_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: str, text: str, found: tuple[str, str]
) -> None:
    """NODE_IP is where sessions come from unless the file says so; an IPv4 address is the router ID as well."""
    monkeypatch.setenv("NODE_IP", environment)
    bgp = read(tmp_path, "[bgp]\nasn = 64512\n" + text).bgp
    assert bgp is not None
    assert (bgp.local_address, bgp.router_id) == found


@pytest.mark.parametrize(
    ("address", "message"),
    [("2001:db8::7", "bgp.router_id: missing"), ("node-1", "bgp.local_address: ")],
)
def test_an_address_of_the_node_that_does_not_do_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, message: str
) -> None:
    """A node of IPv6 alone has no router ID to take."""
    monkeypatch.setenv("NODE_IP", address)
    with pytest.raises(InvalidConfiguration, match=message):
        read(tmp_path, "[bgp]\nasn = 64512\n")


def test_the_shipped_sample_is_understood() -> None:
    load(Path(__file__).parent.parent / "conf" / "agent.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "x: unknown key"),
        (BGP + "hold_tiem = 3", "bgp.hold_tiem: unknown key; did you mean 'hold_time'?"),
        (BGP + NEIGHBOR + "as = 1", "bgp.neighbors[0].as: unknown key; did you mean 'asn'?"),
        (BGP + NEIGHBOR + "colour = 1", "bgp.neighbors[0].colour: unknown key"),
        ("orphan-grace = 3", "orphan-grace: unknown key; did you mean 'orphan_grace'?"),
        ('[polciy]\nvni = ["1"]', "polciy: unknown key; did you mean 'policy'?"),
        ('[policy]\nVNIs = ["1"]', "policy.VNIs: unknown key; did you mean 'vni'?"),
        ('[networks.red]\nexporter = ["x"]', "networks.red.exporter: unknown key; did you mean 'exporters'?"),
        ('[tracing]\nendpoint = "127.0.0.1:4318"', "tracing.endpoint: '127.0.0.1:4318' is not the address of an OTLP"),
        ('[tracing]\nendpoint = "http://[::1]:4318/v1/traces"', "leave out /v1/traces"),
        ('[tracing]\nendpoint = "http://me:secret@[::1]:4318"', "tracing.endpoint: put a password or token into"),
        ("[tracing]\nratio = 1.5", "tracing.ratio: "),
        ("[cluster]", "cluster.store: missing"),
        ('[cluster]\nstore = "consul"', "cluster.store: should be 'etcd' or 'kubernetes'"),
        (CLUSTER + 'node = "Node_1"', "cluster.node: 'Node_1' is no node's name"),
        (CLUSTER + 'nodes = "a"', "cluster.nodes: unknown key; did you mean 'node'?"),
        (KUBERNETES + 'kubeconfig = "config"', "cluster.kubernetes.kubeconfig: 'config' is not an absolute path"),
        (KUBERNETES + "network = 1", "cluster.kubernetes.network: "),
        (KUBERNETES + "unready_after = -1", "cluster.kubernetes.unready_after: -1 is below 0"),
        (KUBERNETES + "unready_after = true", "cluster.kubernetes.unready_after: should be a number"),
        (KUBERNETES + "unready-after = 1", "unready-after: unknown key; did you mean 'unready_after'?"),
        ("[bgp]\nasn = 1", "bgp.router_id: missing; bgp.local_address: missing"),
        (BGP.replace("64512", "0"), "bgp.asn: 0 is below 1"),
        (BGP.replace('router_id = "10.0.0.1"', 'router_id = "0.0.0.0"'), "bgp.router_id: '0.0.0.0' is not a router ID"),
        (BGP.replace('router_id = "10.0.0.1"', 'router_id = "::1"'), "is not a router ID"),
        (BGP + 'next_hop = "::1"', "bgp: next_hop ::1 is not an IPv4 address"),
        (BGP + 'next_hop6 = "10.0.0.1"', "bgp: next_hop6 10.0.0.1 is not an IPv6 address"),
        (BGP + NEIGHBOR + NEIGHBOR, "neighbors: 10.0.0.254 is there twice"),
        (BGP + 2 * (NEIGHBOR + 'exporter = "a"\n'), "neighbors: 10.0.0.254 is there twice"),
        (BGP + NEIGHBOR + "exporter = 7", "bgp.neighbors[0].exporter: should be a string"),
        (BGP + NEIGHBOR + "families = []", "bgp.neighbors[0].families: has 0 entries, but needs at least 1"),
        (BGP + NEIGHBOR + 'families = ["rtc"]', "families: rtc needs one of ipv4-vpn, "),
        (BGP + NEIGHBOR + 'families = ["ipv4"]', "bgp.neighbors[0].families[0]: should be 'ipv4-unicast', "),
        (BGP + NEIGHBOR + 'passive = "maybe"', "bgp.neighbors[0].passive: should be true or false"),
        (BGP + NEIGHBOR + "passive = 7", "bgp.neighbors[0].passive: should be true or false"),
        (BGP + NEIGHBOR + 'families = "ipv4-unicast"', "bgp.neighbors[0].families: should be a list"),
        (BGP.replace('"10.0.0.1"', "7", 1), "bgp.router_id: should be a string"),
        ("default_exporters = [7]", "default_exporters[0]: should be a string"),
        (BGP.replace("64512", "true"), "bgp.asn: should be a number"),
        (BGP + "hold_time = true", "bgp.hold_time: should be a number"),
        ("orphan_grace = true", "orphan_grace: should be a number"),
        ("[policy]\nmaximum_prefix = true", "policy.maximum_prefix: should be a number"),
        (BGP + "hold_time = 2", "bgp.hold_time: 2 is below 3"),
        (BGP.replace('local_address = "10.0.0.1"', 'local_address = "fe80::1%eth0"'), "bgp.local_address: "),
        (BGP + NEIGHBOR + 'password_file = "secret"', "'secret' is not an absolute path"),
        ('run_dir = "run"', "run_dir: 'run' is not an absolute path"),
        ("orphan_grace = -1", "orphan_grace: -1 is below 0"),
        ('[policy]\nvni = ["9-5"]', "policy.vni[0]: '9-5' is not a VNI or a range"),
        ('[policy]\nprefixes = ["10.0.0.1/8"]', "policy.prefixes: 10.0.0.1/8 has host bits set"),
        ("x =", "Invalid value"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidConfiguration) as error:
        read(tmp_path, text)
    assert message in error.value.msg
    assert error.value.msg.startswith(f"{tmp_path / 'agent.toml'}: ")
    assert "\n" not in error.value.msg


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match="there is no such file"):
        load(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b'x = "\xe4"')
    with pytest.raises(InvalidConfiguration, match="utf-8"):
        load(tmp_path / "latin.toml")


def test_policy_lists_are_patterns() -> None:
    """`64512:*`; the message names the value, the place and the list."""
    policy = PolicyTable(import_rt=("64512:*", "1:1"))
    policy.refuse_names("import_rt", ["64512:5", "1:1"], policy.import_rt, "importRT")
    with pytest.raises(InvalidConfiguration, match=r"importRT: 1:2 is not allowed by \[policy\] import_rt"):
        policy.refuse_names("import_rt", ["64512:5", "1:2"], policy.import_rt, "importRT")
    policy.refuse_names("bridges", ["anything"], policy.bridges, "bridge")


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20))
def test_policy_vnis_are_ranges(low: int, high: int, value: int) -> None:
    """Both ends included."""
    low, high = sorted((low, high))
    policy = PolicyTable(vni=(f"{low}-{high}", "30"))
    policy.refuse_vni(30)
    policy.refuse_vni(None)
    PolicyTable().refuse_vni(value)
    if low <= value <= high:
        policy.refuse_vni(value)
    else:
        with pytest.raises(InvalidConfiguration, match=r"bgp\.vni"):
            policy.refuse_vni(value)


def test_policy_prefixes_hold_for_both_families() -> None:
    policy = PolicyTable(prefixes=("10.0.0.0/8", "2001:db8::/32"))
    policy.refuse_addresses(["10.1.2.3/24", "2001:db8::1/64"])
    PolicyTable().refuse_addresses(["192.0.2.1/24"])
    for address in ("192.0.2.1/24", "2001:db9::1/64"):
        with pytest.raises(InvalidConfiguration, match="not allowed by"):
            policy.refuse_addresses([address])


def test_a_cluster_is_asked_for_by_its_store_alone(tmp_path: Path) -> None:
    """Everything else has a default: the pod's service account, the usual net.d, a node that is never unready."""
    path = tmp_path / "agent.toml"
    path.write_text(CLUSTER)
    table = load(path).cluster
    assert table is not None
    assert (table.node, table.kubernetes.kubeconfig, table.kubernetes.network) == (None, None, None)
    assert (table.kubernetes.conf_dir, table.kubernetes.unready_after) == ("/etc/cni/net.d", 0)
    path.write_text(KUBERNETES + 'network = "/etc/bgpcni/network.conflist"\nunready_after = 300\n')
    table = load(path).cluster
    assert table is not None
    assert (table.kubernetes.network, table.kubernetes.unready_after) == ("/etc/bgpcni/network.conflist", 300)


def test_without_a_cluster_there_is_none(tmp_path: Path) -> None:
    """agent.toml is all there is."""
    path = tmp_path / "agent.toml"
    path.write_text("")
    assert load(path).cluster is None
