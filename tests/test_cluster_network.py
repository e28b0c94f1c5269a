"""The network configuration of a node of a cluster: what its template stands for, and how the file comes and goes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bgpcni.cluster import network
from bgpcni.errors import InvalidConfiguration, IoFailure
from bgpcni.operator.cli import main

CIDRS = ["10.244.1.0/24", "fd00:1::/64"]
OURS = {"type": "bgpcni", "bridge": "cni0", "isGateway": True, "ipam": {"type": "host-local"}}
MARK = {"bootID": "b", "node": "n"}


@pytest.fixture
def template(tmp_path: Path) -> Path:
    return tmp_path / "template"


def _rendered(template: Path, document: Any, cidrs: list[str] | None = CIDRS) -> dict[str, Any]:
    template.write_text(json.dumps(document))
    return network.render(template, cidrs, {"unicast": 1500, "evpn": 1450, "vpn": 1496}.__getitem__, MARK)


def _list(*plugins: dict[str, Any]) -> dict[str, Any]:
    return {"cniVersion": "1.0.0", "name": "pods", "plugins": list(plugins)}


def test_what_is_absent_is_filled_in(template: Path) -> None:
    """One range and one default route for each of the Node's podCIDRs, the uplink's MTU, portmap behind ours."""
    rendered = _rendered(template, _list(OURS))
    ours, portmap = rendered["plugins"]
    assert ours == OURS | {
        "mtu": 1500,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": "10.244.1.0/24"}], [{"subnet": "fd00:1::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        },
    }
    assert portmap == {"type": "portmap", "capabilities": {"portMappings": True}}
    assert rendered["bgpcni.dev"] == MARK
    assert (rendered["name"], rendered["cniVersion"]) == ("pods", "1.0.0")


def test_a_node_of_one_family_has_routes_of_that_family(template: Path) -> None:
    """IPv6 alone is as good as IPv4 alone."""
    assert _rendered(template, _list(OURS), CIDRS[1:])["plugins"][0]["ipam"]["routes"] == [{"dst": "::/0"}]
    assert _rendered(template, _list(OURS), CIDRS[:1])["plugins"][0]["ipam"]["routes"] == [{"dst": "0.0.0.0/0"}]


def test_what_the_template_says_stays(template: Path) -> None:
    """Ranges, routes, MTU and portmap of the operator's are theirs; and then no podCIDRs are needed."""
    ours = OURS | {"MTU": 1400, "ipam": {"type": "host-local", "subnet": "10.9.0.0/24", "routes": []}}
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}, "snat": False}
    tuning = {"type": "tuning"}
    rendered = _rendered(template, _list(ours, tuning, portmap), None)
    assert rendered["plugins"] == [ours, tuning, portmap]


def test_portmap_comes_right_behind_ours(template: Path) -> None:
    """What an operator chains behind ours may follow portmap."""
    rendered = _rendered(template, _list(OURS, {"type": "bandwidth"}))
    assert [plugin["type"] for plugin in rendered["plugins"]] == ["bgpcni", "portmap", "bandwidth"]


@pytest.mark.parametrize(
    ("bgp", "mtu"), [({"family": "evpn"}, 1450), ({"family": "vpn"}, 1496), ({}, 1500), (None, 1500)]
)
def test_the_mtu_leaves_room_for_the_tunnel(template: Path, bgp: dict[str, str] | None, mtu: int) -> None:
    """By the family of the network's routes."""
    ours = OURS if bgp is None else OURS | {"bgp": bgp}
    assert _rendered(template, _list(ours))["plugins"][0]["mtu"] == mtu


def test_behind_another_plugin_nothing_is_filled_in(template: Path) -> None:
    """Addresses and MTU are what that one made."""
    chained = {"type": "bgpcni", "exporters": ["exabgp"]}
    rendered = _rendered(template, _list({"type": "ptp", "ipam": {"type": "host-local"}}, chained), None)
    assert rendered["plugins"][1] == chained
    assert [plugin["type"] for plugin in rendered["plugins"]] == ["ptp", "bgpcni", "portmap"]


def test_a_rendered_file_is_a_template_too(template: Path) -> None:
    """Whoever copies the file of another node does not copy whose it is."""
    rendered = _rendered(template, _list(OURS) | {"bgpcni.dev": {"bootID": "other"}})
    assert rendered["bgpcni.dev"] == MARK


def test_a_single_plugin_becomes_a_list(template: Path) -> None:
    """A template may be a plain network configuration; portmap needs a list."""
    rendered = _rendered(template, OURS | {"cniVersion": "1.0.0", "name": "pods"})
    assert [plugin["type"] for plugin in rendered["plugins"]] == ["bgpcni", "portmap"]
    assert (rendered["name"], rendered["cniVersion"]) == ("pods", "1.0.0")
    assert "name" not in rendered["plugins"][0]


def test_other_addresses_need_no_pod_cidrs(template: Path) -> None:
    """Only host-local without ranges asks for the Node's podCIDRs."""
    rendered = _rendered(template, _list(OURS | {"ipam": {"type": "bgpcni-ipam"}}), None)
    assert rendered["plugins"][0]["ipam"] == {"type": "bgpcni-ipam"}
    with pytest.raises(network.NotYet, match=r"no spec\.podCIDRs"):
        _rendered(template, _list(OURS), None)
    with pytest.raises(network.NotYet):
        _rendered(template, _list(OURS), [])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON"),
        ('{"name": ', "not JSON"),
        ("[]", "not a JSON object"),
        ('{"name": "a", "plugins": {}}', "plugins: not a list of objects"),
        ('{"name": "a", "plugins": ["bgpcni"]}', "plugins: not a list of objects"),
        ('{"name": "a", "plugins": []}', "none is of type bgpcni or bagpipe"),
        ('{"name": "a", "plugins": [{"type": "bridge"}]}', "none is of type bgpcni or bagpipe"),
        ('{"plugins": [{"type": "bgpcni"}]}', "name: missing"),
    ],
)
def test_a_template_that_is_none_is_named(template: Path, text: str, said: str) -> None:
    """Key of agent.toml, file, and what is wrong."""
    template.write_text(text)
    with pytest.raises(InvalidConfiguration) as caught:
        network.render(template, CIDRS, lambda family: 1500, MARK)
    assert caught.value.msg.startswith(f"cluster.kubernetes.network: {template}: ")
    assert said in caught.value.msg


def test_a_template_that_is_not_there_is_named(template: Path) -> None:
    """As any other file that a configuration names."""
    with pytest.raises(InvalidConfiguration, match="No such file"):
        network.render(template, CIDRS, lambda family: 1500, MARK)


# ---------------------------------------------------------------- the file


def test_the_file_is_written_whole_and_only_if_it_differs(template: Path, tmp_path: Path) -> None:
    """A folder that is missing is made; nothing else is left in it; the same again touches nothing."""
    folder = tmp_path / "etc/cni/net.d"
    rendered = _rendered(template, _list(OURS))
    assert network.put(folder, rendered)
    assert [path.name for path in folder.iterdir()] == ["10-bgpcni.conflist"]
    path = folder / network.NAME
    assert json.loads(path.read_text()) == rendered
    assert path.stat().st_mode & 0o777 == 0o644
    before = path.stat()
    assert not network.put(folder, rendered)
    assert path.stat().st_ino == before.st_ino
    assert network.put(folder, rendered | {"name": "other"})
    assert path.stat().st_ino != before.st_ino


def test_a_file_of_this_boot_is_kept_and_one_of_another_goes(template: Path, tmp_path: Path) -> None:
    """The boot ID is in the file."""
    network.put(tmp_path, _rendered(template, _list(OURS)))
    assert network.boot_of(tmp_path / network.NAME) == "b"
    assert not network.take_away(tmp_path, unless="b")
    assert network.take_away(tmp_path, unless="c")
    assert not (tmp_path / network.NAME).exists()
    assert not network.take_away(tmp_path)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"bgpcni.dev": 1}', "\xff", '{"name": "pods", "plugins": []}'])
def test_somebody_elses_file_of_that_name_stays(tmp_path: Path, text: str) -> None:
    """Without our mark it is not ours to take away."""
    (tmp_path / network.NAME).write_text(text)
    assert network.boot_of(tmp_path / network.NAME) is None
    assert not network.take_away(tmp_path)
    assert (tmp_path / network.NAME).exists()


def test_a_folder_that_cannot_be_written_is_named(template: Path, tmp_path: Path) -> None:
    """As an error of I/O that names the file; nothing is left behind."""
    (tmp_path / "file").touch()
    with pytest.raises(IoFailure, match=r"file/net\.d/10-bgpcni\.conflist: Not a directory"):
        network.put(tmp_path / "file/net.d", _rendered(template, _list(OURS)))


def test_a_rename_that_fails_leaves_nothing(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old file stays, and no temporary one beside it."""
    folder = tmp_path / "net.d"
    first = _rendered(template, _list(OURS))
    network.put(folder, first)

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(IoFailure, match="No space left"):
        network.put(folder, first | {"name": "other"})
    assert [path.name for path in folder.iterdir()] == [network.NAME]
    assert json.loads((folder / network.NAME).read_text()) == first


def test_uninstall_takes_the_network_along(template: Path, tmp_path: Path) -> None:
    """What the agent wrote goes with the plugin; what others wrote stays."""
    network.put(tmp_path, _rendered(template, _list(OURS)))
    (tmp_path / "20-other.conflist").write_text("{}")
    done = CliRunner().invoke(main, ["uninstall", "--bin-dir", str(tmp_path / "bin"), "--conf-dir", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert f"removed  {tmp_path / network.NAME}" in done.output
    assert [path.name for path in tmp_path.iterdir() if path != template] == ["20-other.conflist"]
