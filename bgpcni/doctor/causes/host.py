"""Causes in the host: the kernel and its settings, limits, disks, the clock. Pure."""

from __future__ import annotations

from bgpcni.doctor.cause import Judgement, cause, error, ok, warning
from bgpcni.doctor.facts import Snapshot, known, listed
from bgpcni.node.plan import family_of, is_gateway

FULL = 0.9
"""From this share on a table or a limit counts as nearly full."""
DISK_FULL = 0.05
"""Below this free share a disk counts as nearly full."""
SKEW = 60.0
"""Seconds by which clocks may differ without harm."""
DEFAULT_NEIGHBOURS = 1024
"""gc_thresh3 as Linux sets it."""


@cause(
    symptom="Every command fails, or sees nothing.",
    why="The command does not run as root in the host's own user namespace (rootless Podman, a nested container).",
    remedy="sudo bgpcni doctor",
    fine="this is root of the host",
)
def not_root(seen: Snapshot) -> Judgement:
    user = known(seen.user)
    if user.mapped:
        yield error("this is a user namespace: its root may not change the host's network, so no agent works here")
    elif user.uid:
        yield warning(f"this is user {user.uid}, not root: a part of the node cannot be seen")


@cause(
    symptom="Containers reach this node only, and nobody else reaches them by IPv4.",
    why="The kernel does not forward IPv4.",
    remedy="sysctl -w net.ipv4.ip_forward=1, and the same line in /etc/sysctl.d/90-bgpcni.conf",
    fine="IPv4 is forwarded",
)
def ipv4_forwarding(seen: Snapshot) -> Judgement:
    if known(seen.sysctls).get("net/ipv4/ip_forward") != "1":
        yield error("sysctl net.ipv4.ip_forward is 0: no IPv4 packet is forwarded to or from a container")
        return
    for name in seen.uplinks():
        if known(seen.sysctls).get(f"net/ipv4/conf/{name}/forwarding") == "0":
            yield error(f"sysctl net.ipv4.conf.{name}.forwarding is 0: no IPv4 packet that comes in there is forwarded")


@cause(
    symptom="Containers reach this node only, and nobody else reaches them by IPv6.",
    why="The kernel does not forward IPv6.",
    remedy="sysctl -w net.ipv6.conf.all.forwarding=1, and the same line in /etc/sysctl.d/90-bgpcni.conf",
    fine="IPv6 is forwarded, or no network here has IPv6",
)
def ipv6_forwarding(seen: Snapshot) -> Judgement:
    sysctls = known(seen.sysctls)
    forced = [name for name in seen.uplinks() if sysctls.get(f"net/ipv6/conf/{name}/force_forwarding") == "1"]
    if sysctls.get("net/ipv6/conf/all/forwarding") == "1" or (forced and set(forced) == set(seen.uplinks())):
        return
    if seen.uses(6):
        yield error("sysctl net.ipv6.conf.all.forwarding is 0: no IPv6 packet is forwarded to or from a container")


@cause(
    symptom="Containers get no IPv6 address: ADD fails, or the address is missing.",
    why="IPv6 is switched off in the kernel, or on all its interfaces.",
    remedy="sysctl -w net.ipv6.conf.all.disable_ipv6=0; if that does not exist, boot without ipv6.disable=1",
    fine="IPv6 is on, or no network here has IPv6",
)
def ipv6_off(seen: Snapshot) -> Judgement:
    state = seen.sysctl("net/ipv6/conf/all/disable_ipv6")
    if state != 0 and seen.uses(6):
        yield error("a network here has IPv6, and this kernel " + ("has none" if state is None else "has it disabled"))


@cause(
    symptom="The node loses its IPv6 default route some time after containers came.",
    why="The default route came by a router advertisement, and a node that forwards ignores these.",
    remedy="sysctl -w net.ipv6.conf.{device}.accept_ra=2",
    fine="no default route depends on accept_ra",
)
def router_advertisements(seen: Snapshot) -> Judgement:
    if seen.sysctl("net/ipv6/conf/all/forwarding") != 1 and not seen.uses(6):
        return
    for gateway in known(seen.gateways):
        if gateway.advertised and seen.sysctl(f"net/ipv6/conf/{gateway.device}/accept_ra") != 2:
            text = f"{gateway.device} has its default route from router advertisements, and accept_ra is not 2"
            yield warning(text, device=gateway.device)


@cause(
    symptom="Packets from some remote hosts never reach a container, others do.",
    why="rp_filter is strict on an uplink: packets that come in where no route leads back are dropped.",
    remedy="sysctl -w net.ipv4.conf.{device}.rp_filter=2, and net.ipv4.conf.all.rp_filter=2 if that is 1",
    fine="rp_filter is not strict on an uplink",
)
def rp_filter(seen: Snapshot) -> Judgement:
    whole = seen.sysctl("net/ipv4/conf/all/rp_filter") or 0
    for name in seen.uplinks():
        if max(whole, seen.sysctl(f"net/ipv4/conf/{name}/rp_filter") or 0) == 1:
            yield warning(
                f"rp_filter is strict (1) on {name}: with a second way to a peer packets are lost", device=name
            )


@cause(
    symptom="New connections fail at random, and the kernel logs `nf_conntrack: table full, dropping packet`.",
    why="The table of connections is full, or nearly.",
    remedy="sysctl -w net.netfilter.nf_conntrack_max={more}",
    fine="the table of connections has room, or there is none",
)
def conntrack_full(seen: Snapshot) -> Judgement:
    used = seen.sysctl("net/netfilter/nf_conntrack_count")
    most = seen.sysctl("net/netfilter/nf_conntrack_max")
    if used is None or not most or used < most * FULL:
        return
    say = error if used >= most else warning
    yield say(f"{used} of at most {most} connections are tracked", more=most * 4)


@cause(
    symptom="Some hosts cannot be reached; the kernel logs `neighbour: arp_cache: neighbor table overflow!`.",
    why="The neighbour table is too small for the hosts on the links: with EVPN that is every container of a network.",
    remedy="sysctl -w net.ipv{version}.neigh.default.gc_thresh3={more} "
    "net.ipv{version}.neigh.default.gc_thresh2={half}",
    fine="the neighbour tables have room",
)
def neighbour_table(seen: Snapshot) -> Judgement:
    evpn = any(family_of(config) == "evpn" for _, config in seen.configs()) or any(
        record.family == "evpn" for record in known(seen.records)
    )
    for version, used in sorted(known(seen.neighbours).items()):
        most = seen.sysctl(f"net/ipv{version}/neigh/default/gc_thresh3")
        if most is None:
            continue
        words = {"version": version, "more": max(most * 4, 16384), "half": max(most * 2, 8192)}
        if used >= most * FULL:
            say = error if used >= most else warning
            yield say(f"{used} IPv{version} neighbours, and the kernel keeps {most} at most (gc_thresh3)", **words)
        elif evpn and most <= DEFAULT_NEIGHBOURS and (version == 4 or seen.uses(6)):
            yield warning(
                f"a network has EVPN, and the kernel keeps {most} IPv{version} neighbours at most (gc_thresh3)", **words
            )


def _lacking(seen: Snapshot, feature: str, needed: str) -> Judgement:
    """A feature of the kernel that is missing: an error where a network needs it, which `needed` names."""
    have = known(seen.features).get(feature)
    if have is None:
        yield warning(f"it cannot be told whether this kernel has {feature}", feature=feature)
    elif not have and needed:
        yield error(f"this kernel has no {feature}, and {needed} needs it", feature=feature)
    elif not have:
        yield warning(f"this kernel has no {feature}; no network here needs it", feature=feature)


_MODULE = "modprobe {feature}; if there is no such module, boot a kernel that is built with it"


def _needs(seen: Snapshot, *wanted: str) -> str:
    """The networks whose configuration has a key of these."""
    names = [
        config.name
        for _, config in seen.configs()
        for key in wanted
        if (key == "vlan" and (config.vlan or config.vlan_trunk))
        or (key == "vrf" and config.bgp.vrf)
        or (key == "l3vpn" and config.bgp.vrf and family_of(config) == "vpn")
        or (key == "evpn" and family_of(config) == "evpn" and config.exporters != ())
    ]
    return f"network {listed(set(names))}" if names else ""


@cause(
    symptom="ADD of a network with `vlan` or `vlanTrunk` is refused.",
    why="The kernel's bridge cannot filter VLANs.",
    remedy="boot a kernel that is built with CONFIG_BRIDGE_VLAN_FILTERING",
    fine="the kernel's bridge filters VLANs",
)
def kernel_vlan_filtering(seen: Snapshot) -> Judgement:
    yield from _lacking(seen, "vlan_filtering", _needs(seen, "vlan"))


@cause(
    symptom="Routes of a network with `bgp.vrf` have `datapath: false`.",
    why="The kernel has no VRFs.",
    remedy=_MODULE,
    fine="the kernel has VRFs",
)
def kernel_vrf(seen: Snapshot) -> Judgement:
    yield from _lacking(seen, "vrf", _needs(seen, "vrf"))


@cause(
    symptom="Routes of an L3VPN have `datapath: false`.",
    why="The kernel cannot forward by MPLS labels.",
    remedy="modprobe mpls_router mpls_iptunnel; if there are no such modules, boot a kernel that is built with them",
    fine="the kernel forwards by MPLS labels",
)
def kernel_mpls(seen: Snapshot) -> Judgement:
    yield from _lacking(seen, "mpls", _needs(seen, "l3vpn"))


@cause(
    symptom="ADD of an EVPN network fails, or its containers reach no other node.",
    why="The kernel has no VXLAN devices.",
    remedy=_MODULE,
    fine="the kernel has VXLAN devices",
)
def kernel_vxlan(seen: Snapshot) -> Judgement:
    yield from _lacking(seen, "vxlan", _needs(seen, "evpn"))


@cause(
    symptom="Every ADD fails: no bridge can be made.",
    why="The kernel has no bridges.",
    remedy=_MODULE,
    fine="the kernel has bridges",
)
def kernel_bridge(seen: Snapshot) -> Judgement:
    yield from _lacking(seen, "bridge", "every network")


@cause(
    symptom="Ages in the answers are negative or absurd; certificates of the cluster's store are refused.",
    why="The clock jumped, or is not synchronised.",
    remedy="timedatectl set-ntp true; timedatectl status",
    fine="the clock fits the records, and is synchronised",
)
def clock(seen: Snapshot) -> Judgement:
    time = known(seen.clock)
    dated = [record for record in known(seen.records) if record.created is not None and record.this_boot]
    if future := [record.key for record in dated if (record.created or 0) > time.now + SKEW]:
        yield error(f"the clock was set back: records are from its future ({listed(future)})")
    if past := [record.key for record in dated if (record.created or 0) < time.boot - SKEW]:
        yield warning(f"the clock was set forward: records of this boot are from before it ({listed(past)})")
    if time.synchronised is False:
        yield warning("the kernel says that the clock is not synchronised")


@cause(
    symptom="ADD fails with `No space left on device`; leases or records are missing.",
    why="A disk that bgpcni writes to is full, or has no inodes left.",
    remedy="df -h {path}; df -i {path}; then make room, or move the folder (run_dir, data_dir, ipam.dataDir)",
    fine="the disks have room",
)
def disk_full(seen: Snapshot) -> Judgement:
    for disk in known(seen.disks):
        for what, free, whole in (("octets", disk.free, disk.size), ("inodes", disk.inodes_free, disk.inodes)):
            if whole and free <= whole * DISK_FULL:
                say = error if not free else warning
                yield say(f"{disk.path}: {free} of {whole} {what} are free", path=disk.path)


@cause(
    symptom="The agent logs `Too many open files`, or containerd does not see a new network.",
    why="A limit on open files or on inotify is reached.",
    remedy="{what}: raise it: LimitNOFILE= of the unit, or sysctl -w fs.file-max, fs.inotify.max_user_instances",
    fine="the limits on open files and on inotify have room",
)
def open_files(seen: Snapshot) -> Judgement:
    for item in known(seen.opened):
        if item.most and item.used >= item.most * FULL:
            say = error if item.used >= item.most else warning
            yield say(f"{item.what}: {item.used} of {item.most} are in use", what=item.what)
        elif item.what == "nofile of the agent" and 0 < item.most < 1024:
            yield warning(f"{item.what}: {item.most} is little; the unit asks for 65536", what=item.what)


@cause(
    symptom="ADD of a network with `ipMasq` or `macspoofchk` fails.",
    why="The program nft is not installed.",
    remedy="apt-get install nftables",
    fine="nft is installed, or no network needs it",
)
def nft_missing(seen: Snapshot) -> Judgement:
    programs = known(seen.programs)
    if "nft" in programs:
        return
    configs = [config for _, config in seen.configs()]
    needing = {one.name for one in configs if one.macspoofchk or (one.ip_masq and one.ip_masq_backend == "nftables")}
    open_to_both = {one.name for one in configs if one.ip_masq and one.ip_masq_backend is None} - needing
    if "iptables" not in programs:
        needing, open_to_both = needing | open_to_both, set()
    anycast = {one.name for one in configs if family_of(one) == "evpn" and is_gateway(one)} - needing
    if needing:
        yield error(f"nft is not installed, and network {listed(needing)} has ipMasq or macspoofchk")
    if open_to_both:
        yield warning(f"nft is not installed: ipMasq of network {listed(open_to_both)} uses iptables, which is slower")
    if anycast:
        yield warning(f"nft is not installed: the gateway of network {listed(anycast)} answers on other nodes too")


@cause(
    symptom="ADD with `ipMasqBackend: iptables` fails.",
    why="The program iptables is not installed.",
    remedy="apt-get install iptables",
    fine="iptables is installed, or no network needs it",
)
def iptables_missing(seen: Snapshot) -> Judgement:
    asking = {config.name for _, config in seen.configs() if config.ip_masq and config.ip_masq_backend == "iptables"}
    if asking and "iptables" not in known(seen.programs):
        yield error(f"iptables is not installed, and network {listed(asking)} has ipMasqBackend iptables")


@cause(
    symptom="The agent or a command ends with an error of Python.",
    why="A Python package that bgpcni needs is missing, or of a version that it was not made for.",
    remedy="pip install --upgrade bgpcni, in the environment that has it",
    fine="the Python packages are as required",
)
def python_packages(seen: Snapshot) -> Judgement:
    for text in known(seen.unmet):
        yield error(text)


@cause(
    symptom="Every ADD fails with `Protocol not available`.",
    why="The kernel is older than Linux 5.14: it does not tell network namespaces apart by a cookie.",
    remedy="boot a newer kernel",
    fine="the kernel is not too old",
)
def kernel_old(seen: Snapshot) -> Judgement:
    text = known(seen.kernel)
    numbers = text.split("-")[0].split(".")
    if len(numbers) > 1 and numbers[0].isdigit() and numbers[1].isdigit():
        if (int(numbers[0]), int(numbers[1])) < (5, 14):
            yield error(f"this is Linux {text}")
        else:
            yield ok(f"this is Linux {text}")
    else:
        yield warning(f"{text!r} is no version of a kernel that can be compared")
