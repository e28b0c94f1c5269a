"""What an ADD is going to make, decided before anything is changed. Pure.

Request + agent.toml → a planned `Attachment` and the bridge that it needs. Every refusal that needs no look at the
system is here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from bgpcni import bgp
from bgpcni.cni.result import Dns, IpConfig, Route
from bgpcni.config.agent import AgentConfig, PolicyTable
from bgpcni.config.network import ExporterSection, NetworkConfig, mac_address
from bgpcni.config.pod_annotations import PREFIX
from bgpcni.config.urls import loopback_url
from bgpcni.convergence import catalog
from bgpcni.errors import InvalidConfiguration, InvalidEnvironment
from bgpcni.ip import ip_address, ip_interface, ip_network
from bgpcni.ipam.config import DEFAULT_DATA_DIR
from bgpcni.ipam.leases import CLUSTER
from bgpcni.kernel.bridge import BridgePlan
from bgpcni.kernel.vlans import Tagging, gateway_name
from bgpcni.kernel.vrf import Device
from bgpcni.model import Address, Anycast, AttachmentKey, Bgp, ExporterUse, Health, NodeFacts
from bgpcni.node.request import Request, pod_of
from bgpcni.numbers import TABLES, label_of

LINK_NAME_LIMIT = 15
_NAMES_A_PATH = re.compile(r"(socket|file|path|dir)$", re.IGNORECASE)
"""Keys of exporters' options."""


class Routing(NamedTuple):
    """What is announced, and by which exporters."""

    bgp: Bgp
    exporters: tuple[ExporterUse, ...]
    warnings: tuple[str, ...] = ()


class VrfHere(NamedTuple):
    """The VRF of a network. `number`: its number on this node. `lacking`: what it needs and is missing here, or ""."""

    number: int
    lacking: str = ""


def host_veth(key: AttachmentKey, attempt: int = 0) -> str:
    """The name of the root-side end, 15 characters: a hash of network, container ID and interface name.

    `attempt` > 0: another name, in case someone else's link has the first one.
    """
    return host_veth_of(key.digest, attempt)


def host_veth_of(digest: str, attempt: int = 0) -> str:
    """The same, by the key's digest."""
    return "veth" + (digest[:11] if not attempt else f"{digest[11 : 11 + 9]}{attempt:02x}")


def refuse_unsupported(config: NetworkConfig) -> None:
    """Raises InvalidConfiguration for keys that exclude each other, and for what no kernel can do."""
    tagging = tagging_of(config)
    if tagging and tagging.untagged:
        name = gateway_name(config.bridge, tagging.untagged)
        if is_gateway(config) and len(name) > LINK_NAME_LIMIT:
            raise InvalidConfiguration(
                f"vlan: the gateway's interface {name} would have more than {LINK_NAME_LIMIT} characters: "
                "choose a shorter bridge"
            )
    if config.disable_container_interface and config.ipam_type:
        raise InvalidConfiguration("disableContainerInterface: cannot be used together with ipam")
    if config.hairpin_mode and config.promisc_mode:
        raise InvalidConfiguration("hairpinMode: cannot be used together with promiscMode")


def refuse_vlan_with(config: NetworkConfig, intent: Bgp, exporters: Sequence[ExporterUse]) -> None:
    """Raises InvalidConfiguration for a VLAN with EVPN or a VRF: one VLAN of a bridge cannot have its own VNI or
    VRF."""
    if exporters and (intent.family == "evpn" or intent.vrf) and (tagging := tagging_of(config)):
        what, why = ("bgp.vrf", "a bridge is in one VRF as a whole")
        if intent.family == "evpn":
            what, why = "bgp.family evpn", "bridge and VNI are one to one"
        raise InvalidConfiguration(
            f"{vlan_key(tagging)}: cannot be used together with {what}: {why}, so give this network a bridge of its own"
        )


def exporters_of(config: NetworkConfig, agent: AgentConfig, *, resident: bool) -> tuple[ExporterUse, ...]:
    """The exporters of a network: those of agent.toml, else those of its configuration, else the defaults."""
    return exporters_now(config.name, asked_of(config), agent, resident=resident)


def exporters_now(
    network: str, asked: tuple[ExporterUse, ...] | None, agent: AgentConfig, *, resident: bool
) -> tuple[ExporterUse, ...]:
    """The same, from what a record keeps of the network's configuration (`Attachment.asked`)."""
    table = agent.networks.get(network)
    if table is not None and table.exporters is not None:
        return _named(table.exporters, agent)
    if asked is not None:
        uses = [(use,) if use.config or use.name != use.type else _named([use.name], agent) for use in asked]
        return tuple({use.name: use for found in uses for use in found}.values())
    return _named(agent.default_exporters, agent) if resident else ()


def asked_of(config: NetworkConfig) -> tuple[ExporterUse, ...] | None:
    """What the network configuration itself names. Raises InvalidConfiguration."""
    if config.exporters is not None:
        return tuple(_of_section(section, f"exporters[{at}]") for at, section in enumerate(config.exporters))
    return (ExporterUse(name="bagpipe", type="bagpipe"),) if config.type == "bagpipe" else None


def configured(agent: AgentConfig) -> tuple[ExporterUse, ...]:
    """Every exporter that agent.toml names: the defaults, the named ones, those of its networks."""
    names = [*agent.default_exporters, *agent.exporters]
    for table in agent.networks.values():
        names += table.exporters or ()
    return _named(names, agent)


def _of_section(section: ExporterSection, place: str) -> ExporterUse:
    """An exporter of a network configuration, which may come from a tenant: a URL in it may only lead to this node."""
    if not section.options and section.name is None:
        return ExporterUse(name=section.type, type=section.type)
    for key, value in section.options.items():
        if isinstance(value, str) and "://" in value:
            try:
                loopback_url(value)
            except ValueError as error:
                raise InvalidConfiguration(f"{place}.{key}: {error}") from None
    return catalog.identify(section.type, section.options, section.name)


def _refuse_paths(config: NetworkConfig, agent: AgentConfig) -> None:
    """Raises InvalidConfiguration for a path in a network configuration that agent.toml does not give to an exporter.

    We use an exporter's socket, file or folder as root, so only the operator may choose it.
    """
    for at, section in enumerate(config.exporters or ()):
        known = [table.options for name, table in agent.exporters.items() if (table.type or name) == section.type]
        for key, value in section.options.items():
            for text in _strings(value):
                is_path = "://" not in text and ("/" in text or text.startswith(("@", "\0")))
                if (is_path or _NAMES_A_PATH.search(key)) and value not in [options.get(key) for options in known]:
                    raise InvalidConfiguration(
                        f"exporters[{at}].{key}: {text!a} is not a path that agent.toml gives an exporter of type "
                        f"{section.type}: configure the exporter there and name it here"
                    )


def _strings(value: object) -> Iterator[str]:
    """Every string in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, Sequence):
        for item in value:
            yield from _strings(item)


def _named(names: Iterable[str], agent: AgentConfig) -> tuple[ExporterUse, ...]:
    """What agent.toml means by these names, each once: a name of its own, and every exporter of the type so called."""
    found: dict[str, ExporterUse] = {}
    for name in names:
        tables = {key: table for key, table in agent.exporters.items() if name in (key, table.type)}
        for key, table in tables.items():
            found[key] = ExporterUse(name=key, type=table.type or key, config=table.options)
        if not tables:
            found[name] = ExporterUse(name=name, type=name)
    return tuple(found.values())


def routing(request: Request, agent: AgentConfig, facts: NodeFacts, number: int, *, resident: bool) -> Routing:
    """Route targets, VNI, RD and communities of this attachment. `number`: the network's number on this node.

    Raises InvalidConfiguration, also for what `[policy]` forbids.
    """
    config = request.settings
    exporters = exporters_of(config, agent, resident=resident)
    warnings: tuple[str, ...] = ()
    if config.exporters is None and config.type != "bagpipe" and not resident and config.name not in agent.networks:
        warnings = ("exporters: none given and no agent is running: nothing is announced",)
    family = family_of(config)
    _refuse_vrf(config, family)
    import_rt, export_rt = _targets(request)
    if not exporters:
        return Routing(Bgp(family=family), (), warnings)
    vni = _vni(config, family, config.export_rt)
    if not export_rt and family == "evpn":
        export_rt = (_automatic_target(facts, vni),)
    if not export_rt and family == "vpn":
        raise InvalidConfiguration("exportRT: missing, bgp.family vpn needs at least one route target")
    policy, pod = agent.policy, request.annotations
    policy.refuse_names("import_rt", pod.import_rt, policy.import_rt, f"annotation {PREFIX}import-rt")
    policy.refuse_names("export_rt", pod.export_rt, policy.export_rt, f"annotation {PREFIX}export-rt")
    policy.refuse_names("communities", pod.communities, policy.communities, f"annotation {PREFIX}communities")
    policy.refuse_names("import_rt", import_rt, policy.import_rt, "importRT")
    policy.refuse_names("export_rt", export_rt, policy.export_rt, "exportRT")
    policy.refuse_names("communities", config.bgp.communities, policy.communities, "bgp.communities")
    if config.bgp.rd != "auto" and family != "unicast":
        policy.refuse_names("rd", [config.bgp.rd], policy.rd, "bgp.rd")
    allowed_types = policy.exporters or ()  # a type in the list allows all that agent.toml has of it
    strangers = [use.name for use in exporters if use.name not in agent.exporters or use.type not in allowed_types]
    policy.refuse_names("exporters", strangers, policy.exporters, "exporters")
    _refuse_paths(config, agent)
    policy.refuse_vni(vni)
    policy.refuse_vni(config.bgp.l3vni, "bgp.l3vni")
    if config.bgp.vrf is not None:
        policy.refuse_names("vrfs", [config.bgp.vrf], policy.vrfs, "bgp.vrf")
        if config.bgp.l3vni == vni and vni is not None:
            raise InvalidConfiguration(f"bgp.l3vni: {vni} is the network's own VNI; a VRF needs another one")
    intent = Bgp(
        family=family,
        advertise=config.bgp.advertise,
        vni=vni,
        rd=None if family == "unicast" else _distinguisher(config, facts, number),
        label=label_of(number) if family == "vpn" else None,
        vrf=config.bgp.vrf,
        l3vni=config.bgp.l3vni,
        import_rt=import_rt,
        export_rt=export_rt,
        import_prefixes=config.bgp.import_ if family == "unicast" or config.bgp.vrf else (),
        communities=tuple(dict.fromkeys((*config.bgp.communities, *pod.communities))),
        local_preference=config.bgp.local_preference,
        med=config.bgp.med,
        drain_seconds=config.bgp.drain_seconds,
    )
    return Routing(intent, exporters, warnings)


def anycast_of(request: Request, routing: Routing, agent: AgentConfig, *, resident: bool) -> Anycast | None:
    """The addresses that this container shares with others, as far as that is known before it has its own.

    `args.cni` win over the annotations of the pod. Raises InvalidConfiguration, also for what `[policy]` forbids.
    """
    own, pod = request.settings.args.cni, request.annotations
    wanted, place = own.anycast or pod.anycast, shared_place(request)
    check = own.health or pod.health
    if not wanted:
        if check is not None:
            name = "args.cni.health" if own.health else f"annotation {PREFIX}health"
            raise InvalidConfiguration(f"{name}: no address depends on it: anycast is missing beside it")
        return None
    if not resident:
        raise InvalidConfiguration(f"{place}: it needs the agent: start bgpcni agent")
    if not routing.exporters:
        raise InvalidConfiguration(f"{place}: no exporter is there to announce it")
    for at, one in enumerate(wanted):
        agent.policy.refuse_shared(one, f"{place}[{at}]")
    intent = routing.bgp
    if intent.family == "evpn" and intent.vrf is None:
        raise InvalidConfiguration(
            f"{place}: with bgp.family evpn it needs bgp.vrf, because an address of one segment has one MAC"
        )
    if own_datapath := [use.name for use in routing.exporters if catalog.load(use.type).imports == "datapath"]:
        raise InvalidConfiguration(f"{place}: {own_datapath[0]} announces a container's own addresses only")
    health = check.check if check is not None else None
    if health is None and pod_of(request.environment.args) and agent.cluster and agent.cluster.store == "kubernetes":
        health = Health(kind="ready")
    return Anycast(addresses=wanted, health=health, passing=health is None)


def shared_place(request: Request) -> str:
    """Where the shared addresses of a request were asked for."""
    return "args.cni.anycast" if request.settings.args.cni.anycast else f"annotation {PREFIX}anycast"


def _refuse_vrf(config: NetworkConfig, family: str) -> None:
    """Raises InvalidConfiguration if `bgp.vrf` and `bgp.l3vni` do not fit each other or the other keys."""
    vrf, l3vni = config.bgp.vrf, config.bgp.l3vni
    if vrf is None:
        if l3vni is not None:
            raise InvalidConfiguration("bgp.l3vni: it is the VNI of a VRF, and bgp.vrf is missing")
    elif family == "unicast":
        raise InvalidConfiguration(
            "bgp.vrf: unicast routes go into the node's own table: set bgp.family to evpn or vpn"
        )
    elif vrf == config.bridge:
        raise InvalidConfiguration(f"bgp.vrf: {vrf} is the name of the bridge; the VRF needs another name")
    elif family == "evpn" and l3vni is None:
        raise InvalidConfiguration("bgp.l3vni: missing; with EVPN a VRF needs a VNI of its own (1 to 16777215)")
    elif family == "vpn" and l3vni is not None:
        raise InvalidConfiguration("bgp.l3vni: it belongs to EVPN, and bgp.family is vpn")


def family_of(config: NetworkConfig) -> Literal["unicast", "vpn", "evpn"]:
    """The address family that is announced; `type: bagpipe` without `exporters` means EVPN."""
    return config.bgp.family or ("evpn" if config.type == "bagpipe" and config.exporters is None else "unicast")


def forwarded(
    config: NetworkConfig, intent: Bgp, imports: Mapping[str, str], vrf: VrfHere | None = None
) -> tuple[Bgp, tuple[str, ...]]:
    """Who forwards what is announced, with a warning if nobody does. `imports`: `Exporter.imports` by name.

    Raises InvalidConfiguration if two exporters would own the VXLAN, or if a VRF is asked of one that knows none.
    """
    owners = [name for name, kind in imports.items() if kind == "datapath"]
    learns = "routes" in imports.values()
    if intent.vrf is not None and owners:
        raise InvalidConfiguration(f"bgp.vrf: {owners[0]} has a data path of its own, which does not know VRFs")
    warnings: list[str] = []
    if vrf is not None:
        lacking = vrf.lacking if learns else "exporter that learns routes"
        if lacking:
            warnings.append(
                f"bgp.vrf: routes of VRF {intent.vrf} are announced only, not forwarded: there is no {lacking} here"
            )
        number = TABLES + vrf.number  # it is the MPLS label too, far from those given out first
        label = number if intent.family == "vpn" else None
        intent = intent.model_copy(update={"label": label, "table": None if lacking else number})
    elif intent.family == "vpn" and not owners:
        warnings.append("bgp.family: vpn is announced only, not forwarded: MPLS needs bgp.vrf")
    if intent.family != "evpn":
        return intent, tuple(warnings)
    if len(owners) > 1:
        raise InvalidConfiguration(f"exporters: {' and '.join(owners)} would both own the VXLAN of this network")
    forwarder: Literal["agent", "exporter"] | None = None
    if owners:
        forwarder = "exporter"
    elif learns:
        forwarder = "agent"
    else:
        warnings.append(
            "bgp.family: evpn is announced only, not forwarded: no exporter here has a VXLAN or learns routes"
        )
    if intent.advertise == "subnet" and vrf is None:
        warnings.append(
            "bgp.advertise: the subnet's type 5 route is announced only, not forwarded: bgp.vrf names no VRF"
        )
    anycast = forwarder == "agent" and is_gateway(config)
    return intent.model_copy(update={"forwarder": forwarder, "anycast": anycast}), tuple(warnings)


_ATTRIBUTES = {"communities": "communities", "local_preference": "localPreference", "med": "med"}
"""The attributes that not every exporter carries: fields of `Bgp`, and their keys in a network configuration."""


def uncarried(intent: Bgp, carried: Collection[str]) -> list[str]:
    """The keys of `bgp` by which a network asks for what an exporter cannot give its speaker."""
    found = {name: getattr(intent, name) for name in _ATTRIBUTES if name not in carried}
    return [_ATTRIBUTES[name] for name, value in found.items() if value not in (None, ())]


def has_own_export_rt(request: Request) -> bool:
    """Whether this attachment asks for an exportRT in place of its network's."""
    args = request.environment.args.items()
    named = any(key.upper() == "EXPORT_RT" and value for key, value in args)
    return bool(named or request.settings.args.cni.export_rt or request.annotations.export_rt)


def has_own_targets(request: Request) -> bool:
    """Whether this attachment asks for route targets that are not its network's."""
    own = request.settings.args.cni
    named = {key.upper() for key, value in request.environment.args.items() if value}
    pod = request.annotations
    return bool(own.import_rt or own.export_rt or pod.import_rt or pod.export_rt or named & {"IMPORT_RT", "EXPORT_RT"})


def _targets(request: Request) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Import and export route targets. An attachment's own exportRT replaces the network's; its importRT is added.

    CNI_ARGS win over `args.cni`, and these over the annotation of the pod.
    """
    config = request.settings
    own_import: tuple[str, ...] = config.args.cni.import_rt or ()
    own_export: tuple[str, ...] = config.args.cni.export_rt or ()
    for key, value in request.environment.args.items():
        if key.upper() not in ("IMPORT_RT", "EXPORT_RT") or not value:
            continue
        try:
            targets = tuple(bgp.route_target(part) for part in value.split(","))
        except ValueError as error:
            raise InvalidConfiguration(f"CNI_ARGS: {key}: {error}") from None
        if key.upper() == "IMPORT_RT":
            own_import = targets
        else:
            own_export = targets
    pod = request.annotations
    merged = tuple(dict.fromkeys((*config.import_rt, *own_import, *pod.import_rt)))
    return merged, own_export or pod.export_rt or config.export_rt


def _vni(config: NetworkConfig, family: str, targets: Sequence[str]) -> int | None:
    if family != "evpn":
        return None
    found = config.bgp.vni if config.bgp.vni is not None else bgp.vni_of(targets)
    if found is None:
        raise InvalidConfiguration(
            "bgp.vni: missing, and the number of the first exportRT is no VNI (1 to 16777215): set bgp.vni"
        )
    return found


def _automatic_target(facts: NodeFacts, vni: int | None) -> str:
    try:
        return bgp.route_target(f"{facts.asn or 0}:{vni}")
    except ValueError:
        raise InvalidConfiguration(
            f"exportRT: missing, and {facts.asn}:{vni} is no route target, a 4-octet AS leaves two octets: set exportRT"
        ) from None


def _distinguisher(config: NetworkConfig, facts: NodeFacts, number: int) -> str | None:
    if config.bgp.rd != "auto":
        return config.bgp.rd
    # Without a router ID the speakers choose the RDs themselves; this one only tells VPNs apart on this node.
    return f"{facts.router_id or 0}:{number}"


def bridge_of(
    config: NetworkConfig, addresses: Sequence[Address], intent: Bgp | None = None, vrf: Device | None = None
) -> BridgePlan:
    """The bridge that an attachment needs, with the gateway address of each subnet if the node is the gateway.

    An anycast gateway has the same MAC on every node. It has no link-local address, which would be the same, too.
    """
    gateways: tuple[str, ...] = ()
    if is_gateway(config):
        gateways = tuple(
            f"{item.gateway}/{ip_interface(item.address).network.prefixlen}" for item in addresses if item.gateway
        )
    return BridgePlan(
        name=config.bridge,
        mtu=config.mtu,
        anycast_mac=bgp.gateway_mac(intent.vni) if intent and intent.anycast and intent.vni else None,
        gateways=gateways,
        promiscuous=config.promisc_mode,
        force_address=config.force_address and config.ipam_type != CLUSTER,  # a network has a subnet for each block
        tagging=tagging_of(config),
        vrf=vrf,
    )


def is_gateway(config: NetworkConfig) -> bool:
    """Whether the node is the gateway of this network."""
    return config.is_gateway or config.is_default_gateway


def gateway_device(config: NetworkConfig) -> str:
    """Name of the link that has the gateway's addresses: the bridge, or the node's interface in a VLAN."""
    tagging = tagging_of(config)
    return gateway_name(config.bridge, tagging.untagged) if tagging and tagging.untagged else config.bridge


def tagging_of(config: NetworkConfig) -> Tagging | None:
    """The VLANs of the container's port; None if none are asked for.

    `vlan` is the native VLAN of a trunk, so its frames are not tagged even if the trunk lists it. An empty trunk asks
    for a bridge that filters VLANs and leaves the port as it is, like the stock plugin.
    """
    if not config.vlan and config.vlan_trunk is None:
        return None
    trunk = frozenset[int]().union(*(item.vlans for item in config.vlan_trunk or ()))
    return Tagging(config.vlan, tuple(sorted(trunk - {config.vlan})), config.preserve_default_vlan)


def vlan_key(tagging: Tagging) -> str:
    """The key of the network configuration that asks for these VLANs."""
    return "vlan" if tagging.untagged else "vlanTrunk"


def mac_of(request: Request) -> str | None:
    """The MAC that is asked for. The first of these wins: `runtimeConfig`, `args.cni`, CNI_ARGS, the annotation of the
    pod, the configuration."""
    return next(_macs(request), (None, ""))[0]


def _macs(request: Request) -> Iterator[tuple[str, str]]:
    """Where a MAC is asked for, and which one; the one that wins comes first."""
    config = request.settings
    if config.runtime.mac:
        yield config.runtime.mac, "runtimeConfig.mac"
    if config.args.cni.mac:
        yield config.args.cni.mac, "args.cni.mac"
    for key, value in request.environment.args.items():
        if key.upper() == "MAC" and value:
            try:
                yield mac_address(value), "CNI_ARGS: MAC"
            except ValueError as error:
                raise InvalidEnvironment(f"CNI_ARGS: MAC: {error}") from None
    if request.annotations.mac:
        yield request.annotations.mac, f"annotation {PREFIX}mac"
    if config.mac:
        yield config.mac, "mac"


def refuse_wishes(policy: PolicyTable, request: Request) -> None:
    """Raises InvalidConfiguration for what `[policy]` forbids a configuration to ask of the node, besides routes."""
    _refuse_annotations(policy, request)
    if policy.mac is not None:
        for mac, place in _macs(request):
            policy.refuse_names("mac", [mac], policy.mac, place)
    ipam = {key.lower(): value for key, value in (request.settings.ipam or {}).items()}
    for key, name, allowed, default in (
        ("dataDir", "data_dirs", policy.data_dirs, DEFAULT_DATA_DIR),
        ("resolvConf", "resolv_conf", policy.resolv_conf, ""),
    ):
        path = ipam.get(key.lower())
        if isinstance(path, str) and path and path != default:
            policy.refuse_path(name, path, allowed, f"ipam.{key}")


def _refuse_annotations(policy: PolicyTable, request: Request) -> None:
    """The pod's annotations that this node does not obey, or that cannot be obeyed in this network."""
    for name in request.annotations.names:
        if not policy.obeys(name):
            raise InvalidConfiguration(f"annotation {PREFIX}{name}: not allowed by [policy] annotations of this node")
        if name in ("ips", "mac") and request.prev_result is not None:
            raise InvalidConfiguration(
                f"annotation {PREFIX}{name}: the interface is made by another plugin of the chain"
            )
    if request.annotations.anycast and policy.anycast is None:
        raise InvalidConfiguration(
            f"annotation {PREFIX}anycast: not allowed while [policy] has no anycast on this node"
        )
    if not request.annotations.ips:
        return
    if policy.prefixes is None:
        raise InvalidConfiguration(f"annotation {PREFIX}ips: not allowed while [policy] has no prefixes on this node")
    if request.settings.ipam_type not in ("host-local", CLUSTER):
        raise InvalidConfiguration(f"annotation {PREFIX}ips: ipam.type must be host-local or {CLUSTER} for it")


def dns_of(config: NetworkConfig, given: Dns) -> Dns:
    """The configuration's DNS settings if it has any, else IPAM's. `runtimeConfig.dns` is not used, as in stock."""
    dns = config.dns
    if dns is None or not (dns.nameservers or dns.domain or dns.search or dns.options):
        return given
    return Dns(nameservers=dns.nameservers, domain=dns.domain, search=dns.search, options=dns.options)


def with_gateways(config: NetworkConfig, addresses: Sequence[Address]) -> tuple[Address, ...]:
    """A gateway bridge without a configured gateway takes the first address of the subnet, as in stock."""
    if not is_gateway(config):
        return tuple(addresses)
    return tuple(
        item
        if item.gateway
        else Address(address=item.address, gateway=str(ip_interface(item.address).network.network_address + 1))
        for item in addresses
    )


def refuse_by_policy(
    policy: PolicyTable, config: NetworkConfig, addresses: Sequence[Address], gateways: Sequence[str] = ()
) -> None:
    """Raises InvalidConfiguration for an address, gateway or aggregate outside of `[policy] prefixes`.

    `gateways`: the addresses that the bridge gets (`BridgePlan.gateways`).
    """
    policy.refuse_addresses(item.address for item in addresses)
    policy.refuse_subnets([*gateways, *(item.block for item in addresses if item.block)])
    if gateways or config.bgp.advertise == "subnet":
        policy.refuse_subnets(item.address for item in addresses)


def default_routes(config: NetworkConfig, addresses: Sequence[Address], wanted: Sequence[Route]) -> tuple[Route, ...]:
    """The `routes` of the result: IPAM's, and with isDefaultGateway a default route through each gateway."""
    routes = list(wanted)
    if config.is_default_gateway:
        present = {ip_network(route.dst) for route in routes}
        for item in addresses:
            default = "0.0.0.0/0" if ip_interface(item.address).version == 4 else "::/0"
            if item.gateway and ip_network(default) not in present:
                routes.append(Route(dst=default, gw=item.gateway))
                present.add(ip_network(default))
    return tuple(routes)


def is_single(address: str) -> bool:
    """Whether an address is a subnet of its own (`10.1.2.3/32`): its gateway is on the link, not in its subnet."""
    interface = ip_interface(address)
    return bool(interface.network.prefixlen == interface.max_prefixlen)


def through_gateways(routes: Iterable[Route], addresses: Sequence[Address | IpConfig]) -> tuple[Route, ...]:
    """The routes as the kernel gets them: one without a gateway gets the gateway of its family, if there is one."""
    gateway = {ip_address(item.gateway).version: item.gateway for item in reversed(addresses) if item.gateway}
    return tuple(
        route if route.gw else replace(route, gw=gateway.get(ip_network(route.dst).version)) for route in routes
    )
