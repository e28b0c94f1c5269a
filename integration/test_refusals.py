"""Errors: each has the right code and message, leaves nothing behind, and never blocks a DEL."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.lab import CniAnswer, Lab, Namespace, Node, until
from integration.lab.node import BGPCNI
from integration.seen import Burst, add, delete, dual, links_in, nothing_left, ready

Change = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture(scope="module")
def served(here: None) -> Iterator[Node]:
    """A node with an agent and no neighbour, for all tests that leave it as it was."""
    with Lab() as lab:
        node = lab.node()
        node.agent(bgp={"next_hop6": node.address6})
        yield node


@pytest.fixture
def space() -> Iterator[Namespace]:
    with Namespace("c") as space:
        yield space


def refused(node: Node, space: Namespace | Path | str, conf: dict[str, Any], code: int, *words: str) -> CniAnswer:
    """ADD fails with the code and the words, leaves nothing, and the DEL that follows succeeds.

    As the stock plugin's, that DEL takes CNI_IFNAME away, whoever made it.
    """
    before = links_in(space) if isinstance(space, Namespace) else []
    configured = addresses_of(node)
    answer = node.cni("ADD", "c1", space, conf)
    assert answer.error == code, (answer.document, answer.stderr)
    for word in words:
        assert word in answer.document["msg"]
        assert word in answer.stderr
    nothing_left(node)
    assert addresses_of(node) == configured
    if isinstance(space, Namespace):
        assert links_in(space) == before
    delete(node, "c1", space, conf)
    nothing_left(node)
    if isinstance(space, Namespace):
        assert set(links_in(space)) == set(before) - {"eth0", "other"}
    return answer


def addresses_of(node: Node) -> dict[str, list[str]]:
    """Of each link of the node: bridges and gateway addresses that a failed ADD made do not stay either."""
    found = node.namespace.ip_json("address", "show")
    return {link["ifname"]: [at["local"] for at in link["addr_info"] if at["scope"] != "link"] for link in found}


def with_keys(**keys: Any) -> Change:
    return lambda conf: conf | keys


def with_ipam(**keys: Any) -> Change:
    return lambda conf: conf | {"ipam": conf["ipam"] | keys}


WRONG: dict[str, tuple[Change, int, tuple[str, ...]]] = {
    "exporter unknown": (with_keys(exporters=["exabpg"]), 7, ("exporters: 'exabpg' is not installed", "exabgp")),
    "exporter's own key wrong": (with_keys(exporters=[{"type": "exabgp", "sokcet": "/x"}]), 7, ("sokcet",)),
    "RT one number": (with_keys(exportRT=["64512"]), 7, ("exportRT", "64512")),
    "RT no numbers": (with_keys(importRT="a:b"), 7, ("importRT", "a:b")),
    "RT too large": (with_keys(exportRT="70000:70000"), 7, ("exportRT", "70000:70000")),
    "vpn without RT": (with_keys(bgp={"family": "vpn"}), 7, ("exportRT",)),
    "evpn without VNI": (with_keys(bgp={"family": "evpn"}), 7, ("bgp.vni",)),
    "family unknown": (with_keys(bgp={"family": "unicats"}), 7, ("bgp.family",)),
    "wait too long": (with_keys(bgp={"waitSeconds": 31}), 7, ("bgp.waitSeconds",)),
    "community wrong": (with_keys(bgp={"communities": ["64512"]}), 7, ("bgp.communities",)),
    "node cannot reach": (with_keys(isGateway=False), 7, ("the node cannot reach 10.1.2.",)),
    "no subnet": (with_ipam(ranges=[]), 7, ("ranges",)),
    "subnet wrong": (with_ipam(ranges=[[{"subnet": "10.1.2.0/33"}]]), 7, ("subnet",)),
    "IPAM plugin missing": (with_ipam(type="nowhere"), 7, ("ipam.type", "nowhere")),
    "mtu no number": (with_keys(mtu="big"), 7, ("mtu",)),
    "bridge name wrong": (with_keys(bridge="a/b"), 7, ("bridge",)),
    "bridge is another link": (with_keys(bridge="lo"), 7, ("bridge: lo",)),
    "name wrong": (with_keys(name="../x"), 7, ("name",)),
    "version unknown": (with_keys(cniVersion="9.9.9"), 1, ("incompatible",)),
}


@pytest.mark.parametrize("case", [case for case in WRONG if case not in ("name wrong", "version unknown")])
def test_a_wrong_configuration(served: Node, space: Namespace, case: str) -> None:
    """Each is refused with the key that is wrong; nothing is left; DEL succeeds with the same configuration."""
    change, code, words = WRONG[case]
    refused(served, space, change(dual(served, bgp={})), code, *words)


@pytest.mark.parametrize("case", ["name wrong", "version unknown"])
def test_a_configuration_that_names_nothing(served: Node, space: Namespace, case: str) -> None:
    """Without a usable name and version even DEL cannot know what is meant."""
    change, code, words = WRONG[case]
    for command in ("ADD", "DEL"):
        answer = served.cni(command, "c1", space, change(dual(served)))
        assert answer.error == code
        assert all(word in answer.document["msg"] for word in words)
    nothing_left(served, space)


def test_an_mtu_above_the_bridge(served: Node, space: Namespace) -> None:
    """Error 7 naming both numbers; the bridge keeps its MTU and its containers."""
    conf = dual(served, bgp={})
    with Namespace("c") as other:
        add(served, "c2", other, conf)
        answer = served.cni("ADD", "c1", space, conf | {"mtu": 9000})
        assert answer.error == 7
        assert "mtu: 9000 is over the 1500 of bridge cni0" in answer.document["msg"]
        assert links_in(space) == []
        assert len(served.records()) == 1
        delete(served, "c1", space, conf | {"mtu": 9000})
        delete(served, "c2", other, conf)
    nothing_left(served, space)


def test_a_pool_that_is_exhausted(served: Node, space: Namespace) -> None:
    """Error 11, try again; what the other range set had given is given back; after a DEL there is room."""
    conf = dual(served, bgp={})
    conf["ipam"]["ranges"][1][0] |= {"rangeStart": "2001:db8:1:2::2", "rangeEnd": "2001:db8:1:2::2"}
    with Namespace("c") as other:
        first = add(served, "c2", other, conf)
        answer = served.cni("ADD", "c1", space, conf)
        assert answer.error == 11
        assert "no IP address available" in answer.document["msg"]
        assert served.lease_files() == set(first.ips)
        assert links_in(space) == []
        delete(served, "c1", space, conf)
        delete(served, "c2", other, conf)
    add(served, "c1", space, conf)
    delete(served, "c1", space, conf)
    nothing_left(served, space)


def test_a_misspelt_key(served: Node, space: Namespace) -> None:
    """Unknown keys are accepted; one that looks like ours gets a warning with the nearest name."""
    conf = dual(served, bgp={"comunities": []}, exporRT=[], somethingElse=1)
    answer = add(served, "c1", space, conf)
    lines = answer.stderr.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("bgpcni: warning: ") for line in lines)
    assert any("exporRT" in line and "'exportRT'" in line for line in lines)
    assert any("bgp.comunities" in line and "'communities'" in line for line in lines)
    delete(served, "c1", space, conf)
    nothing_left(served, space)


SLOW = """#!/bin/sh
cat >/dev/null
[ "$CNI_COMMAND" = ADD ] || exit 0
echo begun >>"{0}/begun"
read -r line <"{0}/gate"
echo '{{"cniVersion": "1.0.0", "ips": [{{"address": "10.1.2.9/24", "gateway": "10.1.2.1"}},'
echo '{{"address": "2001:db8:1:2::9/64", "gateway": "2001:db8:1:2::1"}}]}}'
"""


def test_deleting_while_the_add_runs(served: Node, space: Namespace, tmp_path: Path) -> None:
    """DEL waits for the ADD that runs, then deletes what it made; another container is not held up meanwhile."""
    os.mkfifo(tmp_path / "gate")
    plugin = tmp_path / "slow"
    plugin.write_text(SLOW.format(tmp_path))
    plugin.chmod(0o755)
    conf = dual(served, bgp={}) | {"ipam": {"type": "slow"}}
    path = {"CNI_PATH": f"{tmp_path}:{served.bin_dir}"}
    running = Burst([functools.partial(served.cni, "ADD", "c1", space, conf, env=path)])
    until((tmp_path / "begun").exists, "the ADD in its IPAM plugin")
    deleting = Burst([functools.partial(served.cni, "DEL", "c1", space, conf, env=path)])
    with Namespace("c") as other:
        add(served, "c2", other, dual(served, bgp={}))
        delete(served, "c2", other, dual(served, bgp={}))
    (tmp_path / "gate").write_text("go on\n")
    (added,), (gone,) = running.answers(), deleting.answers()
    assert added.ok, added.document
    assert gone.ok, gone.document
    nothing_left(served, space)


def test_deleting_with_a_broken_configuration(served: Node, space: Namespace) -> None:
    """Anything wrong beyond version and name: DEL acts by the record, warns, and succeeds."""
    conf = dual(served, bgp={})
    for broken in ({"mtu": "big"}, {"ipam": 7}, {"exporters": ["gone"]}, {"bgp": {"vni": -1}}, {"prevResult": 3}):
        add(served, "c1", space, conf)
        answer = delete(served, "c1", space, conf | broken)
        assert "exporters" in broken or "bgpcni: warning: " in answer.stderr
        nothing_left(served, space)


# Conditions of the node


def test_no_bgp_in_the_agents_configuration(lab: Lab) -> None:
    """ExaBGP is asked for, and agent.toml has no [bgp]: error 7 that says so; `status` says it, too."""
    node, space = lab.node(), lab.container()
    node.agent(bgp=None)
    refused(node, space, dual(node), 7, "no [bgp] in agent.toml")
    assert "no-bgp" in {problem["code"] for problem in node.operator("status").document["problems"]}


def test_exabgp_is_not_installed(lab: Lab) -> None:
    """The exporter's package is not installed: error 7 that says so."""
    spec = importlib.util.find_spec("exabgp")
    assert spec is not None
    assert spec.origin is not None
    node, space = lab.node(), lab.container()
    node.prelude = f'mount --bind "$0" {Path(spec.origin).parent}'
    node.agent(bgp={"next_hop6": node.address6})
    refused(node, space, dual(node), 7, "exabgp", "is not installed")


def test_a_full_disk(lab: Lab) -> None:
    """The disk of records and leases is full, sooner or later in an ADD: error 5, nothing left; a DEL of a container
    that was there succeeds; with room again everything works."""
    node, there, new = lab.node(), lab.container("there"), lab.container("new")
    node.data_dir.mkdir(mode=0o700)
    node.prelude = f"mount -t tmpfs -o size=256k,mode=0700 tmpfs {node.data_dir}"
    process = node.agent(bgp=None, default_exporters=[])
    conf = dual(node, exporters=[])
    conf["ipam"]["dataDir"] = str(node.data_dir / "leases")
    inside = Path(f"/proc/{process.pid}/root{node.data_dir}")

    def left() -> list[Path]:
        names = ("attachments/*/*.json", "attachments/*/.*", "leases/*/*.*.*.*", "leases/*/*:*")
        return [path for name in names for path in inside.glob(name)]

    add(node, "c0", there, conf)
    filler = inside / "filler"
    before = left()
    # room for nothing; for the record; for the first lease, since by now there is a file for the record
    for pages in (0, 1, 1):
        with filler.open("ab", buffering=0) as file:
            try:
                while file.write(b"x" * 4096):
                    pass
            except OSError:
                pass
            file.truncate(max(0, (file.tell() // 4096 - pages) * 4096))
        answer = node.cni("ADD", "c1", new, conf)
        assert answer.error == 5, (pages, answer.document)
        assert "No space left on device" in answer.document["msg"]
        assert left() == before
        assert len(node.links()) == 2
        assert links_in(new) == []
        delete(node, "c1", new, conf)
    with filler.open("ab", buffering=0) as file:
        try:
            while file.write(b"x"):
                pass
        except OSError:
            pass
    delete(node, "c0", there, conf)
    assert left() == []
    assert links_in(there) == []
    filler.unlink()
    add(node, "c1", new, conf)
    delete(node, "c1", new, conf)
    assert left() == []


READ_ONLY = "mount --bind {0} {0} && mount -o remount,bind,ro {0}"
MODES = {"open to all": 0o1777, "open to the group": 0o770}
UNUSABLE = {
    "another's": "belongs to user 65534",
    "open to all": "chmod 0700",
    "open to the group": "chmod 0700",
    "a file": "",
    "a link": "Not a directory",
    "read-only": "Read-only file system",
}
"""Why a folder cannot be used, and the words that say so."""


@pytest.mark.parametrize("folder", ["data_dir", "run_dir"])
@pytest.mark.parametrize(("what", "words"), UNUSABLE.items(), ids=UNUSABLE)
def test_a_folder_that_cannot_be_used(lab: Lab, folder: str, what: str, words: str) -> None:
    """data_dir or run_dir is somebody else's, writable for others, no folder, or read-only: error 5 without an agent,
    and the agent does not start, in words; once repaired, DEL succeeds and nothing is left."""
    node, space = lab.node(), lab.container()
    path: Path = getattr(node, folder)
    if what == "a file":
        path.write_text("")
    elif what == "a link":
        path.symlink_to(node.folder / "empty")
    else:
        path.mkdir(mode=0o700)
    if what == "another's":
        os.chown(path, 65534, 65534)
    elif what in MODES:
        path.chmod(MODES[what])
    elif what == "read-only":
        node.prelude = READ_ONLY.format(path)
    conf = dual(node, exporters=[])
    answer = node.cni("ADD", "c1", space, conf)
    assert answer.error == 5, answer.document
    assert str(path) in answer.document["msg"]
    assert words in answer.document["msg"]
    assert links_in(space) == []
    assert node.lease_files() == set()
    node.configure(bgp=None, default_exporters=[])
    agent = node.namespace.run(
        *node._private(), BGPCNI, "agent", "--config", node.config, "--socket", node.socket, check=False
    )
    assert agent.returncode == 1
    assert str(path) in agent.stderr
    assert words in agent.stderr
    assert "Traceback" not in agent.stderr
    node.config.unlink()
    node.prelude = ""
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        os.chown(path, 0, 0)
        path.chmod(0o700)
    delete(node, "c1", space, conf)
    add(node, "c1", space, conf)
    delete(node, "c1", space, conf)
    nothing_left(node, space)


def test_a_record_that_cannot_be_read(lab: Lab) -> None:
    """A record is damaged: `status` names the file; the others of its network work; its routes stay until its DEL,
    which succeeds, warns, and leaves nothing."""
    frr, node = ready(lab)
    conf, first, second = dual(node), lab.container("a"), lab.container("b")
    damaged, sound = add(node, "c1", first, conf), add(node, "c2", second, conf)
    (record,) = (path for path in node.records() if json.loads(path.read_text())["container_id"] == "c1")
    node.kill_agent()
    record.write_text(record.read_text()[:40])
    node.start_agent()
    until(lambda: node.operator("routes").code == 0, "the sound routes announced")
    problems = node.operator("status").document["problems"]
    assert [problem["code"] for problem in problems] == ["unreadable-record"]
    assert str(record) in problems[0]["text"]
    assert node.cni("ADD", "c1", first, conf).error == 5
    for ip in (*damaged.ips, *sound.ips):
        until(lambda a=ip: frr.ping(a), f"an answer of {ip}")  # type: ignore[misc]
    gone = delete(node, "c1", first, conf)
    assert str(record) in gone.stderr
    for prefix in (f"{damaged.ips[0]}/32", f"{damaged.ips[1]}/128"):
        until(lambda p=prefix: not frr.paths(p), f"{prefix} gone")  # type: ignore[misc]
    until(lambda: node.lease_files() == set(sound.ips), "the release")
    assert frr.paths(f"{sound.ips[0]}/32")
    delete(node, "c2", second, conf)
    nothing_left(node, first, second)
