"""`bgpcni doctor` on a real node: each cause is provoked, named with its remedy, and gone after the repair."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from integration.lab import Lab, Node, until
from integration.lab.node import BGPCNI, to_toml
from integration.seen import dual, ready


def doctor(node: Node) -> list[dict[str, Any]]:
    """The findings. The exit code is 1 exactly if one is an error. It finds agent.toml by the agent, if one runs."""
    config = ("--config", node.config) if node.process is None else ()
    answer = node.operator("doctor", "--conf-dir", node.folder / "net.d", *config)
    findings: list[dict[str, Any]] = answer.document["findings"]
    assert answer.document["schema"] == 1
    assert answer.code == int(any(finding["level"] == "error" for finding in findings))
    assert not [finding for finding in findings if "defect" in finding["text"]]
    return findings


def of(node: Node, *codes: str) -> list[dict[str, Any]]:
    """What is found of these causes and is not well."""
    return [finding for finding in doctor(node) if finding["code"] in codes and finding["level"] != "ok"]


class Fault(NamedTuple):
    """`provoke` and `repair`: commands of the shell in the node's namespace. Faults of one `turn` do not meet."""

    turn: int
    code: str
    level: str
    text: str
    provoke: str
    repair: str


NFT = "table inet fw { chain forward { type filter hook forward priority 0; policy drop; }\n}"
FAULTS = (
    Fault(1, "ipv4-forwarding", "error", "ip_forward is 0", "sysctl -qw net.ipv4.ip_forward=0",
          "sysctl -qw net.ipv4.ip_forward=1"),
    Fault(1, "ipv6-forwarding", "error", "all.forwarding is 0", "sysctl -qw net.ipv6.conf.all.forwarding=0",
          "sysctl -qw net.ipv6.conf.all.forwarding=1"),
    Fault(2, "ipv6-off", "error", "disabled", "sysctl -qw net.ipv6.conf.all.disable_ipv6=1",
          "sysctl -qw net.ipv6.conf.all.disable_ipv6=0"),
    Fault(1, "rp-filter", "warning", "strict (1)", "sysctl -qw net.ipv4.conf.all.rp_filter=1",
          "sysctl -qw net.ipv4.conf.all.rp_filter=0"),
    Fault(1, "forward-policy", "error", "nftables' table inet fw", f"nft '{NFT}'", "nft delete table inet fw"),
    Fault(2, "forward-policy", "error", "FORWARD of nftables' table ip filter", "iptables -P FORWARD DROP",
          "iptables -P FORWARD ACCEPT"),
    Fault(3, "forward-policy", "error", "ip6tables-legacy", "ip6tables-legacy -P FORWARD DROP",
          "ip6tables-legacy -P FORWARD ACCEPT"),
    Fault(1, "subnet-elsewhere", "error", "old0 has 10.1.2.77/24",
          "ip link add old0 type bridge; ip addr add 10.1.2.77/24 dev old0", "ip link del old0"),
    Fault(3, "subnet-elsewhere", "error", "old0 has 2001:db8:1:2::77/64",
          "ip link add old0 type bridge; ip addr add 2001:db8:1:2::77/64 dev old0", "ip link del old0"),
    Fault(1, "bridge-taken", "warning", "10.9.9.1/24", "ip link add cni0 type bridge; ip addr add 10.9.9.1/24 dev cni0",
          "ip link del cni0"),
    Fault(2, "bridge-taken", "error", "cni0 is a veth link", "ip link add cni0 type veth peer name other",
          "ip link del cni0"),
    Fault(1, "other-plugin", "warning", "flannel", "ip link add flannel.1 type vxlan id 7 dstport 8472",
          "ip link del flannel.1"),
    Fault(1, "vni-taken", "error", "VNI 90", "ip link add vx0 type vxlan id 90 dstport 4789", "ip link del vx0"),
    Fault(1, "mtu", "warning", "with 50 octets of VXLAN", "ip link set $UPLINK mtu 1400",
          "ip link set $UPLINK mtu 1500"),
    Fault(2, "next-hop", "error", "is on no interface", "ip addr del $ADDRESS/24 dev $UPLINK",
          "ip addr add $ADDRESS/24 dev $UPLINK"),
    Fault(1, "peer-unreachable", "error", "no route leads to", "ip route add unreachable $PEER/32",
          "ip route del unreachable $PEER/32"),
    Fault(1, "router-advertisements", "warning", "accept_ra is not 2",
          "ip -6 route add default dev $UPLINK proto ra metric 4096",
          "ip -6 route del default dev $UPLINK proto ra metric 4096"),
)  # fmt: skip
"""Faults that a network namespace can have."""
ALSO = {"next-hop": ("peer-unreachable",), "ipv6-off": ("ipv6-forwarding",)}
"""What else follows from some of them."""
NETWORK = {"type": "bgpcni", "mtu": 1450, "exportRT": ["64512:90"], "bgp": {"family": "evpn", "vni": 90}}


def write(node: Node, name: str, document: dict[str, Any] | str) -> Path:
    """A file in the folder of the node's networks."""
    path = node.folder / "net.d" / name
    path.parent.mkdir(mode=0o755, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    path.chmod(0o644)
    return path


def uplink(node: Node) -> str:
    (found,) = [link["ifname"] for link in node.namespace.ip_json("addr", "show", "to", node.address) if link]
    return str(found)


@pytest.fixture
def node(lab: Lab) -> Node:
    """A node without a neighbour or an agent."""
    return lab.node()


@pytest.fixture
def site(lab: Lab) -> Node:
    """A node with an agent, a session, and a dual-stack EVPN network that no container uses."""
    _, node = ready(lab)
    write(node, "10-a.conf", dual(node) | NETWORK)
    node.namespace.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    return node


def test_faults_of_a_network_namespace(site: Node) -> None:
    """Each is found while it is there, with a command against it, and not before or afterwards."""
    codes = {fault.code for fault in FAULTS}
    assert of(site, *codes) == []
    names = f"UPLINK={uplink(site)}; ADDRESS={site.address}; PEER={site.peer}; "
    for turn in sorted({fault.turn for fault in FAULTS}):
        faults = [fault for fault in FAULTS if fault.turn == turn]
        for fault in faults:
            site.namespace.run("sh", "-ec", names + fault.provoke)
        found = of(site, *codes)
        for fault in faults:
            mine = [one for one in found if one["code"] == fault.code and fault.text in one["text"]]
            assert [one["level"] for one in mine[:1]] == [fault.level], (fault, found)
            assert mine[0]["remedy"]
        expected = {code for fault in faults for code in (fault.code, *ALSO.get(fault.code, ()))}
        assert {one["code"] for one in found} <= expected, (turn, found)
        for fault in reversed(faults):
            site.namespace.run("sh", "-ec", names + fault.repair)
    assert of(site, *codes) == []


def test_frames_on_a_bridge_that_iptables_drops(site: Node) -> None:
    """bridge-nf-call-iptables with FORWARD DROP, as Docker leaves it: named with the setting that is to blame."""
    setting = "net.bridge.bridge-nf-call-iptables"
    site.namespace.run("iptables", "-P", "FORWARD", "DROP")
    if site.namespace.run("sysctl", "-qw", f"{setting}=1", check=False).returncode:
        pytest.skip(f"this kernel has no {setting}")
    (finding,) = of(site, "bridge-nf-call")
    assert (finding["level"], setting.removeprefix("net.bridge.") in finding["text"]) == ("error", True)
    site.namespace.run("sysctl", "-qw", f"{setting}=0")
    assert of(site, "bridge-nf-call") == []


def test_the_networks_of_the_runtime(site: Node) -> None:
    """No file, two, one that is no JSON, one with a bad key, one of another plugin that comes first."""
    own = site.folder / "net.d/10-a.conf"
    text = own.read_text()
    other = {"cniVersion": "1.0.0", "name": "b", "type": "bridge"}
    for name, content, level, words in (
        ("20-b.conf", other, "warning", "do not use 20-b.conf"),
        ("05-b.conf", other, "error", "05-b.conf comes first"),
        ("05-b.conf", "{", "error", "not JSON"),
        ("05-b.conf", {**json.loads(text), "mtu": 7}, "error", "mtu: 7 is below 68"),
        ("20-b.conf", text, "warning", "two files are about a network called tenant-a"),
    ):
        path = write(site, name, content)
        assert (level, True) in [(one["level"], words in one["text"]) for one in of(site, "network-files")], words
        path.unlink()
    assert of(site, "network-files") == []
    own.unlink()
    (finding,) = of(site, "network-files")
    assert "has no network" in finding["text"]


def test_files_that_others_can_use(site: Node) -> None:
    """A folder that others can list is a warning, one that they can write an error; so are configurations."""
    for path, mode, level in (
        (site.run_dir, 0o755, "warning"),
        (site.data_dir, 0o777, "error"),
        (site.config, 0o666, "error"),
        (site.folder / "net.d/10-a.conf", 0o646, "error"),
    ):
        before = path.stat().st_mode
        path.chmod(mode)
        (finding,) = of(site, "file-modes")
        assert (finding["level"], str(path) in finding["text"]) == (level, True)
        assert f"{path}" in finding["remedy"]
        path.chmod(before)
    assert of(site, "file-modes") == []


def test_a_wrong_as(lab: Lab) -> None:
    """The peer refuses our AS, or has another than agent.toml says: the NOTIFICATION is explained."""
    node = lab.node(lab.frr())
    config = node.agent_config()
    config["bgp"]["asn"] = 64999
    node.config.write_text(to_toml(config))
    node.start_agent()
    until(lambda: of(node, "peer-as"), "the finding")
    (finding,) = of(node, "peer-as")
    assert (finding["level"], "2/2" in finding["text"], node.peer in finding["text"]) == ("error", True, True)


def test_a_speaker_that_has_the_port_of_bgp(lab: Lab) -> None:
    """A neighbour that is passive needs port 179, which another program has; our own speaker is no fault."""
    frr = lab.frr()
    node = lab.node(frr)
    config = node.agent_config()
    config["bgp"]["neighbors"][0]["passive"] = True
    node.config.write_text(to_toml(config))
    program = (
        "import signal, socket; s = socket.socket(); s.bind(('', 179)); s.listen(); print(flush=True); signal.pause()"
    )
    taker = node.namespace.popen("python3", "-c", program, log=node.folder / "taker.log")
    until(lambda: (node.folder / "taker.log").read_text(), "the listener")
    (finding,) = of(node, "port-taken")
    assert (finding["level"], f"pid {taker.pid}" in finding["text"]) == ("error", True)
    taker.kill()
    taker.wait()
    node.start_agent()
    frr.wait_established(node.address)
    assert of(node, "port-taken") == []


def test_a_peer_behind_a_router(site: Node) -> None:
    """ttl_security with a peer that is not on a link cannot work."""
    config = site.agent_config()
    far = {"address": "203.0.113.9", "asn": 64512, "ttl_security": True}
    config["bgp"]["neighbors"].append(far)
    site.namespace.ip("route", "add", "203.0.113.0/24", "via", site.peer)
    assert of(site, "ttl") == []
    site.config.write_text(to_toml(config))
    (finding,) = of(site, "ttl")
    assert (finding["level"], "203.0.113.9" in finding["text"]) == ("error", True)


def test_without_an_agent(node: Node) -> None:
    """With an agent.toml and no agent: an error that says how to start it. Without one: all else is still looked at."""
    write(node, "10-a.conf", dual(node))
    levels = {one["code"]: one["level"] for one in doctor(node)}
    assert levels["agent-away"] == "ok"
    node.configure()
    (finding,) = [one for one in doctor(node) if one["code"] == "agent-away"]
    assert (finding["level"], "systemctl start bgpcni" in finding["remedy"]) == ("error", True)
    node.config.write_text("orphan_grce = 1\n")
    (finding,) = [one for one in doctor(node) if one["code"] == "agent-toml"]
    assert (finding["level"], "orphan_grce" in finding["text"]) == ("error", True)


def test_an_agent_that_hangs_is_a_finding(site: Node) -> None:
    """The agent is stopped: the command answers within its deadline, with everything else."""
    assert site.process is not None
    os.kill(site.process.pid, 19)
    try:
        (finding,) = of(site, "agent-away")
        assert "did not answer" in finding["text"]
    finally:
        os.kill(site.process.pid, 18)


def test_the_plugin_and_its_folder(node: Node, tmp_path: Path) -> None:
    """A launcher of another release, one of somebody else, none where the runtime looks."""
    write(node, "10-a.conf", dual(node))
    folder = tmp_path / "cni"
    folder.mkdir()
    node.prelude = f"mount --bind {folder} /usr/lib/cni && mount -t tmpfs none /opt"
    assert of(node, "plugin-folder")
    node.namespace.run("sh", "-ec", f"{BGPCNI} install --bin-dir {folder} --no-sample")
    assert of(node, "plugin-folder") == []
    assert of(node, "plugin-old") == []
    plugin = folder / "bgpcni"
    content = plugin.read_bytes()
    plugin.write_bytes(content.replace(b"bgpcni-release:0", b"bgpcni-release:9"))
    assert ["another release" in one["text"] for one in of(node, "plugin-old")] == [True]
    plugin.write_bytes(b"#!/bin/sh\n")
    assert ["is not ours" in one["text"] for one in of(node, "plugin-old")] == [True]


def test_a_disk_without_room(node: Node) -> None:
    """data_dir on a file system that is full, and on one without inodes."""
    write(node, "10-a.conf", dual(node))
    node.configure()
    node.data_dir.mkdir(mode=0o700)
    for option, fill, words in (
        ("size=64k", "head -c 1M /dev/zero >{0}/fill || true", "octets are free"),
        ("nr_inodes=4", "touch {0}/1 {0}/2 {0}/3 {0}/4 || true", "inodes are free"),
    ):
        node.prelude = f"mount -t tmpfs -o {option},mode=700 none {node.data_dir}; {fill.format(node.data_dir)} 2>&-; :"
        found = [one for one in doctor(node) if one["code"] == "disk-full"]
        assert [(one["level"], words in one["text"]) for one in found] == [("error", True)], words


def test_programs_that_are_missing(node: Node) -> None:
    """nft, which macspoofchk needs; a folder of programs without it stands in for such a host."""
    write(node, "10-a.conf", dual(node) | {"macspoofchk": True})
    node.prelude = "mount --bind /dev/null /usr/sbin/nft"
    (finding,) = of(node, "nft-missing")
    assert (finding["level"], "tenant-a" in finding["text"]) == ("error", True)


def test_iptables_is_missing_and_a_network_asks_for_it(node: Node) -> None:
    """ipMasq by iptables, on a host whose iptables cannot be run."""
    write(node, "10-a.conf", dual(node) | {"ipMasq": True, "ipMasqBackend": "iptables"})
    assert of(node, "iptables-missing") == []
    node.prelude = "mount --bind /dev/null $(command -v iptables)"
    (finding,) = of(node, "iptables-missing")
    assert (finding["level"], "ipMasqBackend" in finding["text"]) == ("error", True)


def test_a_peer_that_shuts_the_session_down(lab: Lab) -> None:
    """Its NOTIFICATION is named with what the peer's operator did."""
    frr, node = ready(lab)
    assert of(node, "peer-notification", "peer-down") == []
    frr.configure(f"router bgp {frr.asn}", f"neighbor {node.address} shutdown")
    until(lambda: of(node, "peer-notification"), "the finding")
    (finding,) = of(node, "peer-notification")
    assert (finding["level"], node.peer in finding["text"], "6/2" in finding["text"]) == ("error", True, True)


def test_a_kernel_that_is_too_old(node: Node) -> None:
    """The release that the kernel tells a program is 2.6, as setarch(8) has it say."""
    assert of(node, "kernel-old") == []
    node.prelude = 'set -- setarch --uname-2.6 "$@"'
    (finding,) = of(node, "kernel-old")
    assert (finding["level"], "2.6." in finding["text"]) == ("error", True)


def test_a_network_manager_at_work(node: Node, tmp_path: Path) -> None:
    """systemd-networkd and NetworkManager with files that match every link, and systemd-udevd with its MAC policy.

    The processes are stand-ins with these names; the files are as packages ship them.
    """
    write(node, "10-a.conf", dual(node))
    (tmp_path / "network").mkdir()
    (tmp_path / "network/99-default.link").write_text("[Match]\nOriginalName=*\n[Link]\nMACAddressPolicy=persistent\n")
    (tmp_path / "network/50-all.network").write_text("[Match]\nName=*\n[Network]\nDHCP=yes\n")
    node.prelude = f"mkdir -p /etc/systemd/network; mount --bind {tmp_path / 'network'} /etc/systemd/network"
    program = "import ctypes, sys; ctypes.CDLL(None).prctl(15, sys.argv[1].encode()); print(flush=True); input()"
    stand_ins = [
        node.namespace.popen(
            "sh", "-c", f"sleep 600 | python3 -c '{program}' {name[:15]}", log=tmp_path / f"{name}.log"
        )
        for name in ("systemd-networkd", "NetworkManager", "systemd-udevd")
    ]
    until(lambda: all((tmp_path / f"{n}.log").read_text() for n in ("NetworkManager", "systemd-udevd")), "the names")
    texts = " ".join(one["text"] for one in of(node, "network-manager"))
    assert "50-all.network is about every veth and bridge" in texts
    assert "removes routes of others" in texts
    (bridge, veth) = of(node, "mac-address-policy")
    assert ("new bridge" in bridge["text"], "new veth" in veth["text"]) == (True, True)
    for process in stand_ins:
        process.kill()
        process.wait()


def test_not_root(node: Node) -> None:
    """Another user gets an answer, which says that a part could not be seen."""
    done = node.namespace.run("setpriv", "--reuid=65534", "--clear-groups", BGPCNI, "doctor", "--json", check=False)
    findings = {one["code"]: one for one in json.loads(done.stdout)["findings"]}
    assert findings["not-root"]["level"] == "warning"
    assert not [one for one in findings.values() if "defect" in one["text"]]
