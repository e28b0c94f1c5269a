"""Every cause that `bgpcni doctor` knows, judged from recorded facts: what it says, and what the operator can type.

Those that a test can provoke are provoked in `integration/test_doctor.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpcni.config.agent import AgentConfig
from bgpcni.config.network import parse
from bgpcni.doctor import examine
from bgpcni.doctor.causes import CAUSES
from bgpcni.doctor.facts import (
    Answers,
    Clock,
    Disk,
    Dropped,
    Gateway,
    LinkFile,
    Listener,
    Local,
    Managed,
    Mode,
    NetworkFile,
    Open,
    Plugin,
    Record,
    Snapshot,
    Unread,
    User,
    Way,
)
from bgpcni.doctor.look import Where
from bgpcni.kernel.links import Link
from bgpcni.launcher.runtimes import Runtimes

DOCUMENT = Path(__file__).parent.parent / "docs/doctor.md"
BY_CODE = {cause.code: cause for cause in CAUSES}
CONFIG = AgentConfig.model_validate(
    {
        "bgp": {
            "asn": 64512,
            "local_address": "192.0.2.2",
            "neighbors": [{"address": "192.0.2.1", "asn": 64512}],
        }
    }
)


def config(**bgp: Any) -> AgentConfig:
    """The same with other keys of `[bgp]`; `neighbor`: other keys of the neighbour."""
    table: dict[str, Any] = {"asn": 64512, "local_address": "192.0.2.2"}
    neighbor = {"address": "192.0.2.1", "asn": 64512} | bgp.pop("neighbor", {})
    return AgentConfig.model_validate({"bgp": table | {"neighbors": [neighbor]} | bgp})


def network(path: str = "/etc/cni/net.d/10-a.conf", **keys: Any) -> NetworkFile:
    """A file with one network of ours."""
    document = {
        "cniVersion": "1.0.0", "name": "a", "type": "bgpcni", "isGateway": True,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "2001:db8:1::/64"}]]},
    } | keys  # fmt: skip
    return NetworkFile(path, document["name"], (document["type"],), (parse(document)[0],))


def link(name: str, kind: str = "bridge", **keys: Any) -> Link:
    keys = {"index": 7, "mac": "02:00:00:00:00:01", "mtu": 1500, "up": True, "promiscuous": False, "master": 0,
            "peer": 0, "alias": "", "group": 0} | keys  # fmt: skip
    return Link(name=name, kind=kind, **keys)


SYSCTLS = {
    "net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1", "net/ipv6/conf/all/disable_ipv6": "0",
    "net/ipv4/conf/all/rp_filter": "0", "net/ipv4/neigh/default/gc_thresh3": "16384",
    "net/ipv6/neigh/default/gc_thresh3": "16384",
}  # fmt: skip
WELL = Snapshot(
    version="0.1.0",
    user=User(0, False),
    kernel="6.12.5-amd64",
    config_path="/etc/bgpcni/agent.toml",
    config=CONFIG,
    answers=Answers(
        status={"version": "0.1.0", "problems": []},
        peers=({"address": "192.0.2.1", "state": "Established", "lastError": ""},),
    ),
    networks=(network(),),
    sysctls=SYSCTLS,
    links=(link("eth0", ""), link("cni0", index=8)),
    local=(
        Local("192.0.2.2", ip_network("192.0.2.0/24"), "eth0"),
        Local("2001:db8::2", ip_network("2001:db8::/64"), "eth0"),
        Local("10.1.2.1", ip_network("10.1.2.0/24"), "cni0"),
        Local("2001:db8:1::1", ip_network("2001:db8:1::/64"), "cni0"),
    ),
    ways={"192.0.2.1": Way(None, "eth0")},
    gateways=(Gateway(4, "eth0", False),),
    programs=frozenset({"nft"}),
    features=dict.fromkeys(("bridge", "vxlan", "vlan_filtering", "vrf", "mpls"), True),
    clock=Clock(1_800_000_000.0, 1_799_990_000.0, True),
    records=(Record("a/c1/eth0", 1_799_999_000.0, True, "unicast", ("10.1.2.3/24",)),),
    runtimes=Runtimes(("containerd",), (Path("/opt/cni/bin"),), frozenset({Path("/opt/cni/bin")})),
    plugins=(Plugin("/opt/cni/bin/bgpcni", "current"),),
    modes=(Mode("/run/bgpcni", 0o700, 0, 0o700),),
    opened=(Open("nofile of the agent", 40, 65536),),
    neighbours={4: 3, 6: 3},
    disks=(Disk("/var/lib/bgpcni", 5 << 30, 10 << 30, 1000, 2000),),
)
"""A node on which all is well, with a dual-stack network."""


def down(text: str) -> dict[str, Any]:
    """The node when its session is down for this reason."""
    peer = {"address": "192.0.2.1", "state": "Idle", "lastError": text}
    return {"answers": Answers(status={"version": "0.1.0", "problems": []}, peers=(peer,))}


def sysctls(**changed: str) -> dict[str, Any]:
    """The settings with others; `__` stands for a slash."""
    return {"sysctls": SYSCTLS | {name.replace("__", "/"): value for name, value in changed.items()}}


class Case(NamedTuple):
    code: str
    facts: Mapping[str, Any]
    level: str
    text: str
    remedy: str = ""


EVPN = {"type": "bgpcni", "exportRT": ["64512:90"], "bgp": {"family": "evpn"}}
VXLAN90 = b"\x08\x00\x01\x00\x5a\x00\x00\x00"
"""IFLA_VXLAN_ID 90, as a little-endian kernel writes it."""
CASES = (
    Case("not-root", {"user": User(1000, False)}, "warning", "user 1000"),
    Case("not-root", {"user": User(0, True)}, "error", "user namespace"),
    Case("ipv4-forwarding", sysctls(net__ipv4__ip_forward="0"), "error", "ip_forward is 0", "sysctl -w net.ipv4.ip_f"),
    Case("ipv4-forwarding", sysctls(net__ipv4__conf__eth0__forwarding="0"), "error", "net.ipv4.conf.eth0.forwarding"),
    Case("ipv6-forwarding", sysctls(net__ipv6__conf__all__forwarding="0"), "error", "all.forwarding is 0"),
    Case("ipv6-off", sysctls(net__ipv6__conf__all__disable_ipv6="1"), "error", "disabled"),
    Case("router-advertisements", {"gateways": (Gateway(6, "eth0", True),)}, "warning", "accept_ra is not 2",
         "sysctl -w net.ipv6.conf.eth0.accept_ra=2"),
    Case("rp-filter", sysctls(net__ipv4__conf__eth0__rp_filter="1"), "warning", "strict (1) on eth0"),
    Case("rp-filter", sysctls(net__ipv4__conf__all__rp_filter="1"), "warning", "strict (1) on eth0"),
    Case("conntrack-full", sysctls(net__netfilter__nf_conntrack_count="950", net__netfilter__nf_conntrack_max="1000"),
         "warning", "950 of at most 1000", "nf_conntrack_max=4000"),
    Case("conntrack-full", sysctls(net__netfilter__nf_conntrack_count="1000", net__netfilter__nf_conntrack_max="1000"),
         "error", "1000 of at most 1000"),
    Case("neighbour-table", sysctls(net__ipv4__neigh__default__gc_thresh3="1024") | {"neighbours": {4: 1000}},
         "warning", "1000 IPv4 neighbours"),
    Case("neighbour-table", sysctls(net__ipv6__neigh__default__gc_thresh3="1024") | {"neighbours": {6: 1024}},
         "error", "1024 IPv6 neighbours", "net.ipv6.neigh.default.gc_thresh3=16384"),
    Case("neighbour-table", sysctls(net__ipv4__neigh__default__gc_thresh3="1024") | {"networks": (network(**EVPN),)},
         "warning", "EVPN"),
    Case("kernel-vlan-filtering", {"features": {"vlan_filtering": False}, "networks": (network(vlan=5),)}, "error",
         "network a needs it"),
    Case("kernel-vrf", {"features": {"vrf": False}}, "warning", "no network here needs it"),
    Case("kernel-vrf", {"features": {"vrf": False}, "networks": (network(bgp={"vrf": "red", "family": "vpn"}),)},
         "error", "network a needs it", "modprobe vrf"),
    Case("kernel-mpls", {"features": {"mpls": False}, "networks": (network(bgp={"vrf": "red", "family": "vpn"}),)},
         "error", "network a needs it", "modprobe mpls_router"),
    Case("kernel-vxlan", {"features": {"vxlan": False}, "networks": (network(**EVPN),)}, "error", "network a"),
    Case("kernel-bridge", {"features": {"bridge": False}}, "error", "every network"),
    Case("clock", {"clock": Clock(1_700_000_000.0, 1_699_990_000.0, True)}, "error", "set back", "timedatectl"),
    Case("clock", {"clock": Clock(1_900_000_000.0, 1_899_990_000.0, True)}, "warning", "set forward"),
    Case("clock", {"clock": Clock(1_800_000_000.0, 1_799_990_000.0, False)}, "warning", "not synchronised"),
    Case("disk-full", {"disks": (Disk("/var/lib/bgpcni", 1, 100, 50, 100),)}, "warning", "1 of 100 octets",
         "df -h /var/lib/bgpcni"),
    Case("disk-full", {"disks": (Disk("/run/bgpcni", 50, 100, 0, 100),)}, "error", "0 of 100 inodes"),
    Case("open-files", {"opened": (Open("nofile of the agent", 950, 1000),)}, "warning", "950 of 1000"),
    Case("open-files", {"opened": (Open("inotify instances of root", 128, 128),)}, "error", "inotify"),
    Case("open-files", {"opened": (Open("nofile of the agent", 40, 256),)}, "warning", "is little"),
    Case("nft-missing", {"programs": frozenset(), "networks": (network(macspoofchk=True),)}, "error", "macspoofchk",
         "apt-get install nftables"),
    Case("nft-missing", {"programs": frozenset({"iptables"}), "networks": (network(ipMasq=True),)}, "warning",
         "uses iptables"),
    Case("nft-missing", {"programs": frozenset(), "networks": (network(**EVPN),)}, "warning", "answers on other nodes"),
    Case("iptables-missing", {"networks": (network(ipMasq=True, ipMasqBackend="iptables"),)}, "error", "ipMasqBackend"),
    Case("python-packages", {"unmet": ("click is 7.0, and >=8.1 is required",)}, "error", "click is 7.0"),
    Case("kernel-old", {"kernel": "4.19.0-27-amd64"}, "error", "4.19"),
    Case("bridge-nf-call", sysctls(**{"net__bridge__bridge-nf-call-iptables": "1"})
         | {"dropped": (Dropped(4, "within", "cni0", "chain FORWARD of iptables-legacy (policy drop)"),)},
         "error", "between containers on cni0", "iptables -I FORWARD -i cni0 -o cni0"),
    Case("bridge-nf-call", sysctls(**{"net__bridge__bridge-nf-call-ip6tables": "1"})
         | {"dropped": (Dropped(6, "within", "cni0", "chain FORWARD of ip6tables-legacy (policy drop)"),)},
         "error", "IPv6", "ip6tables -I FORWARD"),
    Case("forward-policy",
         {"dropped": (Dropped(4, "to", "cni0", "chain FORWARD of nftables' table ip filter (policy drop)"),)},
         "error", "forwarded to cni0", "iptables -I FORWARD -o cni0 -j ACCEPT"),
    Case("forward-policy",
         {"dropped": (Dropped(6, "from", "cni0", "chain forward of nftables' table inet fw (policy drop)"),)},
         "error", "IPv6", "nft insert rule inet fw forward iifname cni0 accept"),
    Case("mtu", {"networks": (network(mtu=1500, **EVPN),)}, "warning", "with 50 octets of VXLAN", '"mtu": 1450'),
    Case("mtu", {"networks": (network(mtu=1450, **EVPN),),
                 "config": AgentConfig.model_validate({"bgp": {"asn": 1, "router_id": "1.1.1.1",
                                                               "local_address": "2001:db8::2"}})},
         "warning", "with 70 octets of VXLAN", '"mtu": 1430'),
    Case("mtu", {"networks": (network(mtu=9000),)}, "warning", "is over the 1500 of eth0", "mtu 9000"),
    Case("mac-address-policy",
         {"managers": (Managed("systemd-udevd", ()),),
          "link_files": (LinkFile("/usr/lib/systemd/network/99-default.link", "bridge", "persistent"),)},
         "warning", "99-default.link", "MACAddressPolicy=none"),
    Case("network-manager", {"managers": (Managed("NetworkManager", ("veths are not …",)),)}, "warning", "veths",
         "unmanaged-devices"),
    Case("subnet-elsewhere",
         {"local": (*WELL.local, Local("10.1.2.1", ip_network("10.1.2.0/24"), "cbr0"))},  # type: ignore[misc]
         "error", "cbr0 has 10.1.2.1/24", "ip addr del 10.1.2.1/24 dev cbr0"),
    Case("bridge-taken", {"links": (link("cni0", "dummy"),)}, "error", "cni0 is a dummy link"),
    Case("bridge-taken", {"local": (Local("10.244.1.1", ip_network("10.244.1.0/24"), "cni0"),)}, "warning",
         "10.244.1.1/24"),
    Case("other-plugin", {"links": (link("flannel.1", "vxlan"),)}, "warning", "flannel", "ip link del flannel.1"),
    Case("vni-taken", {"links": (link("vx0", "vxlan", details=VXLAN90),), "networks": (network(
        **EVPN | {"bgp": {"family": "evpn", "vni": 90}}),)}, "error", "VNI 90"),
    Case("agent-away", {"answers": Answers("no agent answers on /run/bgpcni/agent.sock", absent=True)}, "error",
         "agent.sock", "systemctl start bgpcni"),
    Case("agent-toml", {"config": None, "config_problem": "/etc/bgpcni/agent.toml: asnn: unknown key"}, "error", "asnn",
         "bgpcni validate /etc/bgpcni/agent.toml"),
    Case("agent-version", {"answers": Answers(status={"version": "0.0.9", "problems": []})}, "warning", "0.0.9"),
    Case("agent-problems", {"answers": Answers(status={"version": "0.1.0", "problems": [
        {"code": "orphans", "text": "2 attachments lost their link"}]})}, "warning", "orphans: 2 attachments"),
    Case("exporter-unusable", {"exporters": {"fabric": "not installed"}}, "error", "fabric: not installed"),
    Case("network-files", {"networks": ()}, "warning", "has no network"),
    Case("network-files", {"networks": (NetworkFile("/n/05-x.conf", "x", ("bridge",)), network())}, "error",
         "/n/05-x.conf comes first"),
    Case("network-files", {"networks": (network(), NetworkFile("/n/20-x.conf", "x", ("bridge",)))}, "warning",
         "do not use 20-x.conf"),
    Case("network-files", {"networks": (NetworkFile("/n/a.conf", problem="/n/a.conf: not JSON"), network())}, "error",
         "not JSON"),
    Case("plugin-folder", {"plugins": (Plugin("/usr/lib/cni/bgpcni", "current"),)}, "error", "it is in /usr/lib/cni",
         "bgpcni install"),
    Case("plugin-old", {"plugins": (Plugin("/opt/cni/bin/bgpcni", "other"),)}, "warning", "another release",
         "bgpcni install --bin-dir /opt/cni/bin"),
    Case("file-modes", {"modes": (Mode("/run/bgpcni", 0o777, 0, 0o700),)}, "error", "written by other users",
         "chmod 0700 /run/bgpcni"),
    Case("file-modes", {"modes": (Mode("/etc/bgpcni/pw", 0o644, 0, 0o600),)}, "warning", "read by other users"),
    Case("file-modes", {"modes": (Mode("/etc/bgpcni/pw", 0o600, 33, 0o600),)}, "error", "belongs to user 33"),
    Case("peer-as", down("NOTIFICATION 2/2 received: OPEN Message Error, Bad Peer AS: the peer expects another AS"),
         "error", "Bad Peer AS", "asn of 192.0.2.1"),
    Case("peer-notification", down("NOTIFICATION 6/1 received: Cease, Maximum Number of Prefixes Reached"), "error",
         "Maximum", "maximum-prefix"),
    Case("peer-notification", down("NOTIFICATION 3/11 received: UPDATE Message Error"), "error", "3/11", "diags"),
    Case("peer-down", down("connection refused"), "error", "connection refused", "nc -vz 192.0.2.1 179"),
    Case("port-taken", {"config": config(neighbor={"passive": True}),
                        "listeners": (Listener("0.0.0.0", "bgpd (pid 7)", False),)}, "error", "bgpd (pid 7)", "ss -l"),
    Case("port-taken", {"listeners": (Listener("::", "bgpd (pid 7)", False),)}, "warning", "bgpd (pid 7)"),
    Case("md5-refused", {"config": config(neighbor={"password_file": "/etc/bgpcni/pw"}),
                         "md5": "Operation not supported"}, "error", "192.0.2.1 has a password"),
    Case("ttl", {"config": config(neighbor={"ttl_security": True}), "ways": {"192.0.2.1": Way("192.0.2.9", "eth0")}},
         "error", "ttl_security", "remove ttl_security"),
    Case("ttl", {"config": config(neighbor={"multihop": 1}), "ways": {"192.0.2.1": Way("192.0.2.9", "eth0")}},
         "error", "multihop 1", "raise multihop of 192.0.2.1"),
    Case("ttl", {"config": config(neighbor={"asn": 64513}), "ways": {"192.0.2.1": Way("192.0.2.9", "eth0")}},
         "warning", "external (AS 64513)", "as multihop"),
    Case("next-hop", {"config": config(next_hop6="2001:db8::99")}, "error", "next_hop6: 2001:db8::99"),
    Case("next-hop-missing", {"local": (Local("192.0.2.2", ip_network("192.0.2.0/24"), "eth0"),)}, "warning", "IPv6",
         "next_hop6"),
    Case("peer-unreachable", {"ways": {"192.0.2.1": None}}, "error", "no route", "ip route get 192.0.2.1"),
    Case("peer-unreachable", {"ways": {"192.0.2.1": Way(None, "cni0")}}, "error", "into the bridge cni0"),
    Case("no-neighbors", {"config": AgentConfig(), "answers": Answers(status={"version": "0.1.0", "problems": []})},
         "warning", "no [bgp]"),
)  # fmt: skip


@pytest.mark.parametrize("cause", CAUSES, ids=BY_CODE)
def test_a_node_on_which_all_is_well_has_no_finding_but_that(cause: Any) -> None:
    assert {finding.level for finding in cause.findings(WELL)} == {"ok"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.code}-{case.level}")
def test_what_is_found(case: Case) -> None:
    """The level, the text, and a remedy with the names filled in; on a node on which all else is well."""
    found = list(BY_CODE[case.code].findings(replace(WELL, **case.facts)))
    (finding,) = [one for one in found if one.level == case.level and case.text in one.text]
    assert case.remedy in finding.remedy
    assert finding.remedy
    assert not any("{" in one.remedy or "defect" in one.text for one in found)


def test_every_cause_is_tried() -> None:
    assert {case.code for case in CASES} == set(BY_CODE)


@given(st.sets(st.sampled_from([item.name for item in fields(Snapshot) if "Unread" in str(item.type)])))
def test_what_cannot_be_read_is_a_finding_and_hides_no_other(lost: set[str]) -> None:
    """Whatever could not be read, each cause still has a finding, and none of them a defect."""
    seen = replace(WELL, **dict.fromkeys(lost, Unread("permission denied")))
    for cause in CAUSES:
        found = list(cause.findings(seen))
        assert found
        assert not any("defect" in one.text for one in found)
        assert all(one.level == "ok" or "permission denied" in one.text for one in found)


def test_the_exit_code_is_1_on_errors_only(tmp_path: Path) -> None:
    """The real node of the test is looked at; nothing is asserted about what is wrong with it."""
    where = Where(tmp_path / "agent.toml", tmp_path, tmp_path, tmp_path, tmp_path)
    document, code = examine(where, lambda: Answers("none", absent=True))
    levels = [finding["level"] for finding in document["findings"]]
    assert code == int("error" in levels)
    assert {finding["code"] for finding in document["findings"]} == set(BY_CODE)
    assert not [finding for finding in document["findings"] if "defect" in finding["text"]]


def test_the_document_has_every_cause() -> None:
    """docs/doctor.md: one row for each cause, in the words of the code."""
    rows = "".join(
        f"| `{one.code}` | {one.symptom} | {one.why} | {one.documented_remedy.replace('|', '/')} |\n" for one in CAUSES
    )
    assert rows in DOCUMENT.read_text()
