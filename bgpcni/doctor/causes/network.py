"""Causes in the node's links, addresses and firewall, and in who else manages them. Pure."""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network

from bgpcni.config.network import NetworkConfig
from bgpcni.doctor.cause import Judgement, cause, error, warning
from bgpcni.doctor.facts import Local, Snapshot, is_ipv6, known, listed, subnets
from bgpcni.kernel.vxlan import OVERHEAD, vni_of
from bgpcni.node.plan import family_of, is_gateway

LEFTOVERS = {
    "flannel": re.compile(r"flannel(-v6)?\.\d+|cbr0"),
    "Calico": re.compile(r"vxlan\.calico|vxlan-v6\.calico|cali[0-9a-f]{11}"),
    "Cilium": re.compile(r"cilium_\w+|lxc[0-9a-f]{12}|lxc_health"),
    "Weave": re.compile(r"weave|vxlan-6784|vethwe-\w+"),
    "kube-router": re.compile(r"kube-bridge|kube-dummy-if|tun-\w{11}"),
    "Antrea": re.compile(r"antrea-\w+"),
}
"""The names of the links of other plugins."""


@cause(
    symptom="Containers on one bridge do not reach each other, although everything else works.",
    why="Frames on a bridge pass iptables (bridge-nf-call-iptables), and its FORWARD chain drops them.",
    remedy="sysctl -w net.bridge.bridge-nf-call-{tables}=0, or: {tables} -I FORWARD -i {bridge} -o {bridge} -j ACCEPT",
    fine="frames on a bridge are not dropped by iptables",
)
def bridge_nf_call(seen: Snapshot) -> Judgement:
    for version, tables in ((4, "iptables"), (6, "ip6tables")):
        if seen.sysctl(f"net/bridge/bridge-nf-call-{tables}") != 1:
            continue
        for item in known(seen.dropped):
            if item.version == version and item.way == "within":
                text = f"bridge-nf-call-{tables} is 1, and {item.where} drops IPv{version} between containers on"
                yield error(f"{text} {item.bridge}", tables=tables, bridge=item.bridge)


@cause(
    symptom="Containers are announced, but nobody outside reaches them, or they reach nobody; Docker runs here.",
    why="The firewall drops what is forwarded: Docker sets the policy of FORWARD to DROP.",
    remedy="{command}",
    fine="the firewall lets through what is forwarded to and from containers",
)
def forward_policy(seen: Snapshot) -> Judgement:
    for item in known(seen.dropped):
        if item.way != "within":
            text = f"the firewall drops IPv{item.version} that is forwarded {item.way} {item.bridge}: {item.where}"
            yield error(text, command=_accept(item.version, item.way, item.bridge, item.where))


def _accept(version: int, way: str, bridge: str, where: str) -> str:
    tables = "iptables" if version == 4 else "ip6tables"
    if "FORWARD" in where:
        return f"{tables} -I FORWARD -{'o' if way == 'to' else 'i'} {bridge} -j ACCEPT (with Docker: in DOCKER-USER)"
    words = where.split()  # chain NAME of nftables' table FAMILY TABLE
    chain, table = words[1], " ".join(words[words.index("table") + 1 :][:2])
    return f"nft insert rule {table} {chain} {'oifname' if way == 'to' else 'iifname'} {bridge} accept"


@cause(
    symptom="Small packets pass between nodes, large ones do not: ssh connects and then hangs.",
    why="Frames do not fit the underlay: VXLAN adds 50 octets, and 70 over IPv6.",
    remedy='set "mtu": {mtu} in {file}, or raise the MTU of {device}: ip link set {device} mtu {wanted}',
    fine="the MTU of each network fits the underlay",
)
def mtu(seen: Snapshot) -> Judgement:
    table = seen.agent().bgp
    outside = [link for name in seen.uplinks() if (link := seen.link(name)) is not None and link.mtu]
    if not outside:
        return
    least = min(outside, key=lambda link: link.mtu)
    for file, config in seen.configs():
        tunnel = family_of(config) == "evpn" and config.exporters != () and table is not None
        extra = OVERHEAD[6 if table and is_ipv6(table.local_address) else 4] if tunnel else 0
        if config.mtu and config.mtu + extra > least.mtu:
            over = f" with {extra} octets of VXLAN" if extra else ""
            yield warning(
                f"network {config.name}: mtu {config.mtu}{over} is over the {least.mtu} of {least.name}",
                mtu=least.mtu - extra, file=file.path, device=least.name, wanted=config.mtu + extra,
            )  # fmt: skip
    for link in known(seen.links):
        if link.kind == "vxlan" and link.alias.startswith("bgpcni:"):
            extra = OVERHEAD[6 if table and is_ipv6(table.local_address) else 4]
            if link.mtu + extra > least.mtu:
                yield warning(
                    f"{link.name} has MTU {link.mtu}, and {least.name} only {least.mtu}",
                    mtu=least.mtu - extra, file="its network", device=least.name, wanted=link.mtu + extra,
                )  # fmt: skip


@cause(
    symptom="The MAC address of a bridge or a veth changes after it was made; the first packets to it are lost.",
    why="systemd-udevd gives new links a MAC address of its own (MACAddressPolicy=persistent in a .link file).",
    remedy="in /etc/systemd/network/80-bgpcni.link: [Match] Driver={kind}, [Link] MACAddressPolicy=none; then udevadm "
    "control --reload",
    fine="systemd-udevd leaves the MAC addresses of our links alone, or does not run",
)
def mac_address_policy(seen: Snapshot) -> Judgement:
    if "systemd-udevd" not in {item.name for item in known(seen.managers)}:
        return
    for file in known(seen.link_files):
        if file.policy == "persistent":
            yield warning(f"{file.path} has MACAddressPolicy=persistent for a new {file.kind}", kind=file.kind)


@cause(
    symptom="A container's host end loses its bridge or gets addresses; routes disappear when a service restarts.",
    why="NetworkManager or systemd-networkd manages veths or bridges that it did not make, or removes others' routes.",
    remedy="exclude them: {how}",
    fine="no network manager touches our links",
)
def network_manager(seen: Snapshot) -> Judgement:
    for item in known(seen.managers):
        for claim in item.claims:
            yield warning(f"{item.name}: {claim}", how=_EXCLUDE.get(item.name, "see its documentation"))


_EXCLUDE = {
    "NetworkManager": "[keyfile] unmanaged-devices=driver:veth;driver:bridge in "
    "/etc/NetworkManager/conf.d/bgpcni.conf, then systemctl reload NetworkManager",
    "systemd-networkd": "[Match] Kind=veth bridge vxlan, [Link] Unmanaged=yes in "
    "/etc/systemd/network/05-bgpcni.network; ManageForeignRoutes=no in networkd.conf",
}


@cause(
    symptom="ADD fails: the bridge has another address; or containers do not answer although they are announced.",
    why="Another interface has a subnet of one of our networks, mostly a bridge that another plugin left.",
    remedy="ip addr del {address} dev {device}; if nothing uses that link: ip link del {device}",
    fine="no other interface has a subnet of our networks",
)
def subnet_elsewhere(seen: Snapshot) -> Judgement:
    for _, config in seen.configs():
        for text in set(subnets(config)):
            for item in known(seen.local):
                if item.device != config.bridge and not _is_its_gateway(seen, item, config) and _overlaps(text, item):
                    length = item.subnet.prefixlen
                    yield error(
                        f"network {config.name}: {item.device} has {item.address}/{length}, which is in {text}",
                        address=f"{item.address}/{length}", device=item.device,
                    )  # fmt: skip


def _is_its_gateway(seen: Snapshot, item: Local, config: NetworkConfig) -> bool:
    """Whether the interface is one in a VLAN of the network's bridge, which then has the gateway addresses."""
    link, bridge = seen.link(item.device), seen.link(config.bridge)
    return link is not None and bridge is not None and link.peer == bridge.index


def _overlaps(text: str, item: Local) -> bool:
    try:
        subnet = ip_network(text, strict=False)
    except ValueError:
        return False  # the file's own error, which another cause reports
    if item.subnet.version != subnet.version or item.subnet.is_link_local:
        return False
    return ip_address(item.address) in subnet or (
        item.subnet.prefixlen >= subnet.prefixlen and item.subnet.overlaps(subnet)
    )


@cause(
    symptom="ADD fails: `cni0 exists and is no bridge`, or the bridge has an address that the network does not have.",
    why="A link of the bridge's name is there already and was made by something else.",
    remedy="ip -d link show {device}; ip addr show {device}; if nothing uses it: ip link del {device}",
    fine="each bridge is ours, or not made yet",
)
def bridge_taken(seen: Snapshot) -> Judgement:
    for name in sorted(seen.bridges()):
        link = seen.link(name)
        if link is None:
            continue
        if link.kind != "bridge":
            yield error(f"{name} is a {link.kind or 'physical'} link, and a network here needs a bridge of that name",
                        device=name)  # fmt: skip
            continue
        mine = [config for _, config in seen.configs() if config.bridge == name]
        gateways = [text for config in mine if is_gateway(config) for text in subnets(config)]
        foreign = [
            f"{item.address}/{item.subnet.prefixlen}"
            for item in known(seen.local)
            if item.device == name and not item.subnet.is_link_local and not any(_overlaps(t, item) for t in gateways)
        ]
        if foreign and gateways:
            yield warning(f"bridge {name} has {listed(foreign)}, which is in no subnet of our networks", device=name)


@cause(
    symptom="Containers get their interface from another plugin, or packets take a way that nobody expects.",
    why="Links of another network plugin are still here.",
    remedy="if that plugin is not used any more: ip link del {device}",
    fine="no links of another network plugin are here",
)
def other_plugin(seen: Snapshot) -> Judgement:
    for plugin, form in LEFTOVERS.items():
        if found := [link.name for link in known(seen.links) if form.fullmatch(link.name)]:
            yield warning(f"links of {plugin} are here: {listed(found)}", device=min(found))


@cause(
    symptom="An EVPN network does not reach other nodes; the agent logs that its VXLAN device cannot be made.",
    why="Another VXLAN device has the same VNI and port, and the kernel allows one.",
    remedy="ip -d link show {device}; if nothing uses it: ip link del {device}",
    fine="no other VXLAN device has a VNI of ours",
)
def vni_taken(seen: Snapshot) -> Judgement:
    wanted = {vni: one.name for _, one in seen.configs() for vni in (one.bgp.vni, one.bgp.l3vni) if vni}
    for link in known(seen.links):
        vni = vni_of(link)
        if vni in wanted and not link.alias.startswith("bgpcni:"):
            yield error(f"{link.name} has VNI {vni}, which network {wanted[vni]} needs", device=link.name)
