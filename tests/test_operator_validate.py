"""`bgpcni validate`: every error of every file, named by file and key; kinds are told apart by content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bgpcni.cluster.objects import API_VERSION
from bgpcni.operator import validate
from bgpcni.operator.cli import main
from bgpcni.paths import SAMPLES

NETWORK = {
    "cniVersion": "1.0.0", "name": "a", "type": "bgpcni", "exporters": ["kernel"],
    "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.2.0/24"}]]},
}  # fmt: skip
AGENT = '[bgp]\nasn = 64512\nlocal_address = "192.0.2.2"\n'
PEER = {"apiVersion": API_VERSION, "kind": "BGPPeer", "metadata": {"name": "p"}, "spec": {"address": "192.0.2.1"}}


def check(folder: Path, content: str | bytes | dict[str, Any], name: str = "file") -> tuple[dict[str, Any], int]:
    path = folder / name
    octets = content if isinstance(content, bytes) else (
        content if isinstance(content, str) else json.dumps(content)).encode()  # fmt: skip
    path.write_bytes(octets)
    document, code = validate.run([str(path)])
    (found,) = document["files"]
    assert code == int(bool(found["errors"])) == int(not document["valid"])
    return found, code


def errors(folder: Path, content: str | bytes | dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["key"], one["text"]) for one in check(folder, content)[0]["errors"]]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (NETWORK, "network"),
        ({"cniVersion": "1.0.0", "name": "a", "plugins": [NETWORK, {"type": "portmap"}]}, "network"),
        ({"cniVersion": "1.0.0", "name": "a", "type": "bridge", "mtu": "of another plugin"}, "network"),
        (AGENT, "agent"),
        ("# all defaults\norphan_grace = 60\n", "agent"),
        (PEER, "objects"),
        (f"apiVersion: {API_VERSION}\nkind: BGPPeer\nmetadata: {{name: p}}\nspec: {{gateway: true}}\n---\n", "objects"),
    ],
)
def test_what_a_file_is_follows_from_its_content(tmp_path: Path, content: Any, kind: str) -> None:
    found, code = check(tmp_path, content)
    assert (found["kind"], found["errors"], code) == (kind, [], 0)


def test_our_samples_are_valid() -> None:
    """Those that conf/ ships."""
    files = [SAMPLES / name for name in ("agent.toml", "10-bagpipe.conf", "20-bgpcni-chain.conflist")]
    document, code = validate.run(validate.expanded(files))
    assert (code, [one["kind"] for one in document["files"]]) == (0, ["agent", "network", "network"])


def test_every_error_of_a_network(tmp_path: Path) -> None:
    """Not the first only: of the schema, and of each range of its addresses."""
    wrong = NETWORK | {
        "mtu": 7, "bgp": {"vni": 16777216, "wait": "long"}, "vlan": 5000,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.2.3/24"}], [{"subnet": "2001:db8::/128"}]]},
    }  # fmt: skip
    found = errors(tmp_path, wrong)
    assert {key for key, _ in found} == {
        "mtu", "bgp.vni", "bgp.wait", "vlan", "ipam.ranges[0][0].subnet", "ipam.ranges[1][0].subnet",
    }  # fmt: skip
    assert ("mtu", "7 is below 68") in found
    chain = {"cniVersion": "1.0.0", "name": "a", "plugins": [{"type": "loopback"}, wrong, {"type": 7}]}
    assert {key for key, _ in errors(tmp_path, chain)} == {
        "plugins[2].type", *(f"plugins[1].{key}" for key, _ in found),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"bgp": {"family": "evpn"}}, "bgp.vni"),
        ({"bgp": {"family": "vpn"}}, "exportRT"),
        ({"bgp": {"vrf": "red"}}, "bgp.vrf"),
        ({"hairpinMode": True, "promiscMode": True}, "hairpinMode"),
        ({"exporters": ["nobody"]}, "exporters"),
        ({"name": "a/b"}, "name"),
        ({"cniVersion": "9.9.9"}, "cniVersion"),
        ({"ipam": {"type": "host-local"}}, "ipam"),
    ],
)
def test_what_an_add_would_refuse(tmp_path: Path, changed: dict[str, Any], key: str) -> None:
    """Also what follows only from several keys together."""
    ((found, text),) = errors(tmp_path, NETWORK | changed)
    assert found == key
    assert text


def test_a_key_that_looks_misspelt_is_a_warning(tmp_path: Path) -> None:
    found, code = check(tmp_path, NETWORK | {"isGatway": True})
    assert (code, [one["key"] for one in found["warnings"]]) == (0, ["isGatway"])


def test_every_error_of_agent_toml(tmp_path: Path) -> None:
    """Of the schema at once; then what the agent would refuse when it starts."""
    found = errors(tmp_path, 'orphan_grce = 1\n[bgp]\nasn = 0\nlocal_address = "x"\n')
    assert {"orphan_grce", "bgp.asn", "bgp.local_address"} <= {key for key, _ in found}
    neighbor = '[[bgp.neighbors]]\naddress = "192.0.2.1"\nasn = 1\npassword_file = "/nowhere"\n'
    found = errors(tmp_path, AGENT + neighbor + '[exporters.x]\ntype = "nobody"\n[exporters.kernel]\nwrong = 1\n')
    assert [key for key, _ in found] == ["exporters", "exporters.kernel.wrong", "bgp.neighbors"]
    ((key, text),) = errors(tmp_path, "[bgp\nasn = 1\n")
    assert (key, text.startswith("not TOML")) == ("", True)


def test_every_error_of_objects(tmp_path: Path) -> None:
    """Of each object, and pools that overlap in different files."""
    wrong = PEER | {"spec": {"address": "x", "asn": 0}}
    keys = {key for key, _ in errors(tmp_path, wrong)}
    assert {"BGPPeer p: spec.address", "BGPPeer p: spec.asn"} <= keys
    pool = {"apiVersion": API_VERSION, "kind": "IPPool", "spec": {"cidrs": ["10.0.0.0/16"]}}
    for name in ("one", "two"):
        (tmp_path / name).write_text(json.dumps(pool | {"metadata": {"name": name}}))
    document, code = validate.run([str(tmp_path / "one"), str(tmp_path / "two")])
    assert code == 1
    assert [one["key"] for one in document["files"][1]["errors"]] == ["IPPool two: spec.cidrs"]


def test_the_policy_of_an_agent_toml_among_the_files(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text('[policy]\nbridges = ["tenant*"]\n')
    (tmp_path / "a.conf").write_text(json.dumps(NETWORK))
    document, code = validate.run(validate.expanded([tmp_path]))
    assert (code, document["files"][0]["errors"][0]["key"]) == (1, "bridge")


@pytest.mark.parametrize(
    "content", ["", "\n", "{", "[1]", "{}", "a: [", b"\xff\xfe", "\0", "a = ", "--- \n---\n", "[" * 9999]
)
def test_bad_files_have_one_clear_error(tmp_path: Path, content: str | bytes) -> None:
    found, code = check(tmp_path, content)
    assert code == 1
    assert all(one["text"] for one in found["errors"])


def test_what_is_printed(tmp_path: Path) -> None:
    """`FILE: key: text` on stdout, exit 1; JSON has the same; a file that is missing is an error of its own."""
    (tmp_path / "a").write_text(json.dumps(NETWORK | {"mtu": 7}))
    (tmp_path / "b").write_text(AGENT)
    names = [str(tmp_path / name) for name in ("a", "b", "none")]
    done = CliRunner().invoke(main, ["validate", *names])
    assert done.exit_code == 1
    assert done.output.splitlines() == [
        f"{names[0]}: mtu: 7 is below 68",
        f"{names[1]}: valid: agent.toml",
        f"{names[2]}: No such file or directory",
    ]
    done = CliRunner().invoke(main, ["validate", "--json", *names])
    assert (done.exit_code, json.loads(done.output)["schema"]) == (1, 1)


KEYS = st.sampled_from([*NETWORK, "plugins", "apiVersion", "kind", "spec", "bgp", "mtu"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100)
@given(st.one_of(st.binary(max_size=200), st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
).map(lambda value: json.dumps(value).encode())))  # fmt: skip
def test_whatever_the_file_is_it_has_an_answer(tmp_path: Path, content: bytes) -> None:
    check(tmp_path, content)
