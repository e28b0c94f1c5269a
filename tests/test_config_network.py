"""The network configuration as people and runtimes write it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpcni.config import network
from bgpcni.config.network import BgpSection, CniArgs, DnsSection, NetworkConfig, RuntimeSection, is_name
from bgpcni.errors import CniError, DecodingFailure, InvalidConfiguration

ARTICLE: dict[str, Any] = {
    "cniVersion": "0.1.0", "name": "mynet", "type": "bagpipe", "importrt": "64512:90", "exportrt": "64512:90",
    "bridge": "cni0", "isGateway": False, "ipMasq": False, "mtu": "1500",
    "ipam": {"type": "host-local", "subnet": "10.1.2.0/24", "routes": [{"dst": "0.0.0.0/0"}]},
}  # fmt: skip


SAMPLES = Path(__file__).parents[1] / "conf"


def parse(stdin: bytes) -> tuple[NetworkConfig, tuple[str, ...]]:
    return network.parse(network.decode(stdin), escaped=b"\\u" in stdin)


def read(**document: Any) -> tuple[NetworkConfig, tuple[str, ...]]:
    return parse(json.dumps({"name": "net", **document}).encode())


def refusal(**document: Any) -> str:
    with pytest.raises(InvalidConfiguration) as error:
        read(**document)
    return error.value.msg


def test_the_articles_configuration_is_understood() -> None:
    """The article's configuration works unchanged: lower-case keys, a string as MTU, strings as route targets."""
    config, warnings = parse(json.dumps(ARTICLE).encode())
    assert warnings == ()
    assert (config.type, config.mtu, config.import_rt, config.export_rt) == (
        "bagpipe", 1500, ("64512:90",), ("64512:90",),
    )  # fmt: skip
    assert (config.bridge, config.exporters, config.ipam_type) == ("cni0", None, "host-local")


@pytest.mark.parametrize("value", ["64512:1,64512:2", "64512:1 , 64512:2,", ["64512:1", "64512:2", "64512:1"]])
def test_route_targets_may_be_a_string_or_a_list(value: Any) -> None:
    assert read(importRT=value)[0].import_rt == ("64512:1", "64512:2")


@pytest.mark.parametrize("value", [None, "", []])
def test_no_route_targets_are_none(value: Any) -> None:
    assert read(importRT=value)[0].import_rt == ()


def test_absent_and_null_are_the_same() -> None:
    """Null counts as absent, as in Go's JSON."""
    keys = [field.alias or name for name, field in NetworkConfig.model_fields.items() if name not in ("name", "bgp")]
    assert read(**dict.fromkeys(keys), bgp={"family": None, "vni": None, "wait": None, "communities": None}) == read()


def test_exporters_are_names_or_objects() -> None:
    """The other keys of an object are that exporter's own configuration."""
    config, _ = read(exporters=["exabgp", {"type": "bagpipe", "name": "fabric", "url": "http://127.0.0.1:1"}])
    assert config.exporters is not None
    assert [(item.type, item.name, item.options) for item in config.exporters] == [
        ("exabgp", None, {}),
        ("bagpipe", "fabric", {"url": "http://127.0.0.1:1"}),
    ]
    assert read(exporters=[])[0].exporters == ()
    alone = read(exporters="exabgp, kernel")[0].exporters
    assert alone is not None
    assert [item.type for item in alone] == ["exabgp", "kernel"]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"bgp": {"vni": 1 << 24}}, "bgp.vni: 16777216 is over 16777215"),
        ({"bgp": {"vni": 0}}, "bgp.vni: 0 is under 1"),
        ({"bgp": {"family": "evpm"}}, "bgp.family: should be 'unicast', 'vpn' or 'evpn'"),
        ({"bgp": {"waitSeconds": 31}}, "bgp.waitSeconds: 31 is over 30"),
        ({"BGP": {"WAIT": "ever"}}, "bgp.wait: should be 'none', 'sent' or 'acked'"),
        ({"bgp": {"vni": True}}, "bgp.vni: should be a number"),
        ({"bgp": {"vni": "five"}}, "bgp.vni: should be a number"),
        ({"bgp": {"rd": "x"}}, "bgp.rd: 'x' is not a route distinguisher"),
        ({"bgp": []}, "bgp: should be an object"),
        ({"args": {"cni": 5}}, "args.cni: should be an object"),
        ({"mtu": "big"}, "mtu: should be a number"),
        ({"mtu": True}, "mtu: should be a number"),
        ({"mtu": 67}, "mtu: 67 is below 68"),
        ({"mtu": 70000}, "mtu: 70000 is over 65535"),
        ({"importRT": ["64512"]}, "importRT: '64512' is not a route target"),
        ({"bridge": "a/b"}, "bridge: 'a/b' is not an interface name"),
        ({"bridge": "sixteencharacter"}, "is not an interface name"),
        ({"bridge": ".."}, "is not an interface name"),
        ({"bridge": "br%d"}, "bridge: 'br%d' is not an interface name"),
        ({"bridge": "a\x01"}, "is not an interface name"),
        ({"bridge": "all"}, "bridge: 'all' is not an interface name: reserved"),
        ({"bridge": "\ud800"}, "bridge: half of a surrogate pair"),
        ({"dns": {"search": ["x", "\ud800"]}}, "dns.search[1]: half of a surrogate pair"),
        ({"mac": "01:00:5e:00:00:01"}, "mac: '01:00:5e:00:00:01' is a multicast MAC address"),
        ({"mac": "nonsense"}, "mac: 'nonsense' is not a MAC address"),
        ({"exporters": [{"url": "x"}]}, "exporters[0].type: missing"),
        ({"mac": "00:00:00:00:00:00"}, "mac: '00:00:00:00:00:00' is no MAC address"),
        ({"exporters": [7]}, "exporters[0]: should be an object"),
        ({"ipam": {"type": 5}}, "ipam.type: should be a string"),
        ({"ipam": "host-local"}, "ipam: should be an object"),
        ({"bgp": {"import": ["10.0.0.1/8"]}}, "bgp.import: 10.0.0.1/8 has host bits set"),
        ({"bgp": {"import": ["fe80::%eth0/64"]}}, "bgp.import: 'fe80::%eth0/64' has a zone"),
        ({"name": ""}, "name: '' is not a network name"),
        ({"name": "a" * 181}, "180 at most"),
        ({"name": "../x"}, "name: '../x' is not a network name"),
        ({"name": None}, "name: "),
        ({"args": {"cni": {"exportRT": "x"}}}, "args.cni.exportRT: 'x' is not a route target"),
        ({"vlan": 4095}, "vlan: 4095 is over 4094"),
        ({"vlan": True}, "vlan: should be a number"),
        ({"vlanTrunk": [{"id": True}]}, "vlanTrunk[0].id: should be a number"),
        ({"bgp": {"waitSeconds": True}}, "bgp.waitSeconds: should be a number"),
        ({"vlan": -1}, "vlan: -1 is below 0"),
        ({"vlanTrunk": 5}, "vlanTrunk: should be a list"),
        ({"vlanTrunk": [None]}, "vlanTrunk[0]: "),
        ({"vlanTrunk": [{"id": 1}, {"id": 0}]}, "vlanTrunk[1].id: 0 is below 1"),
        ({"vlanTrunk": [{"id": 4095}]}, "vlanTrunk[0].id: 4095 is over 4094"),
        ({"vlanTrunk": [{"minID": 0, "maxID": 2}]}, "vlanTrunk[0].minID: 0 is below 1"),
        ({"vlanTrunk": [{"minID": 1, "maxID": 4095}]}, "vlanTrunk[0].maxID: 4095 is over 4094"),
        ({"vlanTrunk": [{"minID": 7, "maxID": 6}]}, "vlanTrunk[0]: minID 7 is over maxID 6"),
        ({"vlanTrunk": [{"minid": 7}]}, "vlanTrunk[0]: minID and maxID must be given together: maxID is missing"),
        ({"vlanTrunk": [{"MAXID": 7}]}, "vlanTrunk[0]: minID and maxID must be given together: minID is missing"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(document: dict[str, Any], message: str) -> None:
    assert message in refusal(**document)


@pytest.mark.parametrize(
    ("document", "warning"),
    [
        ({"isGatway": True}, "isGatway: unknown key; did you mean 'isGateway'?"),
        ({"bgp": {"comunities": []}}, "bgp.comunities: unknown key; did you mean 'communities'?"),
        ({"bgp": {"localPreferences": 1}}, "bgp.localPreferences: unknown key; did you mean 'localPreference'?"),
        ({"exporter": []}, "exporter: unknown key; did you mean 'exporters'?"),
        ({"vlanTrunk": [{"id": 1}, {"min_ID": 2}]}, "vlanTrunk[1].min_ID: unknown key; did you mean 'minID'?"),
        ({"ipam": {"type": "host-local", "rnges": []}}, "ipam.rnges: unknown key; did you mean 'ranges'?"),
        (
            {"ipam": {"type": "host-local", "ranges": [[{"Subnet": "10.0.0.0/24", "rangeSart": "10.0.0.9"}]]}},
            "ipam.ranges[0][0].rangeSart: unknown key; did you mean 'rangeStart'?",
        ),
    ],
)
def test_a_misspelt_key_gets_a_warning(document: dict[str, Any], warning: str) -> None:
    assert read(**document)[1] == (warning,)


def test_keys_of_another_ipam_plugin_are_its_own() -> None:
    assert read(ipam={"type": "mine", "rnges": [], "rangeSart": 1})[1] == ()


@pytest.mark.parametrize("key", ["capabilities", "disableCheck", "cni.dev/attachments", "whatever", "cniVersions"])
def test_keys_of_others_are_let_pass(key: str) -> None:
    """Unknown keys are accepted, as the specification asks."""
    assert read(**{key: {"a": 1}})[1] == ()


@pytest.mark.parametrize("stdin", [b"", b"{", b"[]", b"null", b"\xff", b"7", b"[" * 100_000, b'{"a": ' + b"9" * 5000])
def test_what_is_no_json_object_is_error_6(stdin: bytes) -> None:
    with pytest.raises(DecodingFailure, match="the network configuration is not"):
        parse(stdin)


KEYS = [field.alias or name for name, field in NetworkConfig.model_fields.items()]
SCALAR = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from(["64512:1", "10.0.0.0/8", "evpn", "1500", "exabgp", "\ud800", "fe80::%x\n/64"]),
)  # fmt: skip
JSON = st.recursive(
    SCALAR,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*KEYS, "vni", "rd", "communities", "wait", "waitSeconds", "cni", "ips", "mac"])
            | st.text(max_size=4),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), JSON, max_size=6))
def test_no_document_raises_anything_but_a_cni_error(document: dict[str, Any]) -> None:
    """Tenants may write it (Multus): a wrong one is refused in words, never a crash."""
    for extra in ({}, {"name": "net"}):
        try:
            config, _ = parse(json.dumps({**document, **extra}).encode())
        except CniError as error:
            refusals = error.msg.splitlines()
            if len(refusals) != 1:
                pytest.fail(f"not one line: {refusals}")
        else:
            assert is_name(config.name)
            assert isinstance(config.ipam_type, str)


@given(st.binary(max_size=40))
def test_no_octets_raise_anything_but_a_cni_error(stdin: bytes) -> None:
    with pytest.raises(CniError):
        parse(stdin)


@given(st.data())
def test_keys_match_without_regard_to_case(data: st.DataObject) -> None:
    """As the reference library's JSON does, in nested objects too."""

    def scramble(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {
            "".join(c.upper() if data.draw(st.booleans()) else c.lower() for c in key): scramble(item)
            for key, item in value.items()
        }

    document = {
        "name": "net",
        "type": "bgpcni",
        "isGateway": True,
        "importRT": ["64512:1"],
        "bgp": {"family": "vpn", "waitSeconds": 3, "communities": ["64512:1"]},
        "args": {"cni": {"exportRT": ["64512:2"]}},
        "runtimeConfig": {"mac": "02:00:00:00:00:01"},
    }
    assert parse(json.dumps(scramble(document)).encode()) == parse(json.dumps(document).encode())


@pytest.mark.parametrize("labels", [{"tier": "web"}, [{"key": "tier", "value": "web"}]], ids=["object", "list"])
def test_labels_of_one_attachment(labels: object) -> None:
    """The list of the CNI conventions and an object mean the same; a broken list is refused with its place."""
    assert read(args={"cni": {"labels": labels}})[0].args.cni.labels == {"tier": "web"}
    assert "args.cni.labels: [0] should be an object" in refusal(args={"cni": {"labels": ["tier"]}})


def test_names_fit_into_a_files_name() -> None:
    assert is_name("a" * 180)
    assert not is_name("a" * 181)
    assert not is_name("a\n")
    assert not is_name("-a")


def test_every_key_is_documented() -> None:
    """conf/README.md names each key of a network configuration, spelt as it is read."""
    text = (SAMPLES / "README.md").read_text()
    models = (NetworkConfig, BgpSection, CniArgs, DnsSection, RuntimeSection)
    keys = {field.alias or name for model in models for name, field in model.model_fields.items()}
    assert [key for key in sorted(keys) if f"`{key}`" not in text] == []
