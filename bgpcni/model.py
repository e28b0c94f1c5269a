"""The nouns: what an attachment is and what is announced for it. Plain frozen values; no I/O.

`Attachment` is what one ADD gives, planned before it is built and kept on disk. `Announcement` is one route
wanted, with the endpoint behind it. `Nlri` is what identifies a route to a BGP speaker.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bgpcni.cni.result import Route
from bgpcni.ip import ip_network


class Family(StrEnum):
    """Address families (AFI/SAFI) we announce; the values are those of `[[bgp.neighbors]] families`."""

    IPV4_UNICAST = "ipv4-unicast"
    IPV6_UNICAST = "ipv6-unicast"
    IPV4_VPN = "ipv4-vpn"
    IPV6_VPN = "ipv6-vpn"
    L2VPN_EVPN = "l2vpn-evpn"


class State(StrEnum):
    """Where an attachment is in its life; on disk the name of the folder that holds its record."""

    ADDING = "adding"
    UP = "up"
    LEAVING = "leaving"


Kind = Literal["unicast", "vpn", "mac-ip", "multicast", "ip-prefix"]


@dataclass(frozen=True, slots=True)
class Nlri:
    """What identifies a route: same Nlri, same route, whatever its label, next hop or attributes.

    unicast: `prefix`. vpn (RFC 4364): `rd`, `prefix`. EVPN (RFC 7432 section 7, RFC 9136): `rd`, `tag` and
    `mac` with an optional host `prefix` (type 2, mac-ip), `originator` (type 3, multicast), `prefix` (type 5,
    ip-prefix). Prefixes are canonical: `10.1.2.3/32`, `2001:db8::1/128`; MACs lower case with colons. An RD `0:n`
    is of a node without a router ID: it only keeps VPNs apart, the speaker has RDs of its own.
    """

    family: Family
    kind: Kind
    prefix: str | None = None
    rd: str | None = None
    mac: str | None = None
    originator: str | None = None
    tag: int = 0

    def __str__(self) -> str:
        """As FRR prints it, the RD in front."""
        if self.kind == "unicast":
            return str(self.prefix)
        if self.kind == "vpn":
            return f"{self.rd}:{self.prefix}"
        if self.kind == "multicast":
            address = str(self.originator)
            return f"{self.rd}:[3]:[{self.tag}]:[{128 if ':' in address else 32}]:[{address}]"
        if self.kind == "mac-ip":
            host = ""
            if self.prefix:
                network = ip_network(self.prefix)
                host = f":[{network.prefixlen}]:[{network.network_address}]"
            return f"{self.rd}:[2]:[{self.tag}]:[48]:[{self.mac}]{host}"
        network = ip_network(str(self.prefix))
        return f"{self.rd}:[5]:[{self.tag}]:[{network.prefixlen}]:[{network.network_address}]"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What is behind a route on this node, for exporters that are told of interfaces (BaGPipe, the kernel).

    `address` has its prefix length (`10.1.2.3/24`), "" where there is none (layer 2 only); `host_veth` is the
    root-side end, whose index was read inside the container's namespace; `bridge` is the node's interface in the
    container's VLAN where it has one and the route is unicast.
    """

    container_id: str
    ifname: str
    mac: str
    address: str
    gateway: str | None
    bridge: str | None
    host_veth: str
    host_index: int


@dataclass(frozen=True, slots=True)
class Announcement:
    """One route wanted. Two announcements with equal `nlri` are two states of one route.

    `export_rt`, `import_rt`: route targets, canonical text (`64512:90`, `192.0.2.1:7`). `communities`:
    standard `a:b`, large `a:b:c`, or a well-known name. `vni` is EVPN's label (24 bits), `label` the MPLS one
    (20 bits). `mobility` is the sequence number of RFC 7432 section 7.7, 0: none sent. `router_mac`: a type 5's
    Router's MAC (RFC 9135 section 8.1), None: that of the anycast gateway. `endpoint` is None for routes that follow
    from the set of attachments (type 3, aggregates). `datapath` False: this kernel cannot forward it, control plane
    only.
    """

    nlri: Nlri
    network: str
    next_hop: str
    export_rt: tuple[str, ...] = ()
    import_rt: tuple[str, ...] = ()
    communities: tuple[str, ...] = ()
    vni: int | None = None
    label: int | None = None
    mobility: int = 0
    router_mac: str | None = None
    endpoint: Endpoint | None = None
    datapath: bool = True


class Record(BaseModel):
    """Base of everything that is kept on disk: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, defer_build=True)


class Address(Record):
    """One address of an attachment. `address`: with prefix length, host bits kept (`10.1.2.3/24`)."""

    address: str
    gateway: str | None = None


class Ipam(Record):
    """How the addresses are given back: by our host-local on `data_dir`, or by running `type`'s DEL again."""

    type: str
    data_dir: str | None = None
    stdin: str | None = None
    environment: dict[str, str] = Field(default_factory=dict)


class Gateway(Record):
    """The node's interface in the VLAN of an attachment, which has the gateway addresses in the bridge's place."""

    name: str
    index: int
    mac: str


class Bgp(Record):
    """What is to be announced, resolved from configuration, arguments and the agent's defaults.

    `forwarder`: who has the VXLAN of an EVPN network, our agent or an exporter's daemon; None: nobody here.
    `import_prefixes`: `bgp.import`. `anycast`: the gateway addresses are those of every node (EVPN). `label`: MPLS, 20
    bits (vpn). `vrf`, `l3vni`: the VRF that the bridge is in and its VNI; `table`: that VRF's in the kernel, None: this
    kernel forwards nothing for it, control plane only. `drain_seconds`: between the withdrawal and the link's removal.
    """

    family: Literal["unicast", "vpn", "evpn"] = "unicast"
    advertise: Literal["host", "subnet"] = "host"
    vni: int | None = None
    rd: str | None = None
    label: int | None = None
    vrf: str | None = None
    l3vni: int | None = None
    table: int | None = None
    import_rt: tuple[str, ...] = ()
    export_rt: tuple[str, ...] = ()
    import_prefixes: tuple[str, ...] = ()
    communities: tuple[str, ...] = ()
    forwarder: Literal["agent", "exporter"] | None = None
    anycast: bool = False
    drain_seconds: float = 0.0


class Pod(Record):
    """The pod that a container belongs to, as the runtime named it; `uid` is empty where it did not say it."""

    namespace: str
    name: str
    uid: str = ""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class ExporterUse(Record):
    """An exporter an attachment was handed to, with the configuration used."""

    name: str
    type: str
    config: dict[str, Any] = Field(default_factory=dict)


class Attachment(Record):
    """What one ADD gives. Planned values are set from the start; the kernel's (`host_index`, `mac`, …) later.

    `cookie` is SO_NETNS_COOKIE of the container's namespace, unique within `boot_id`. `nsid`: the number by which
    the node's namespace knows it, where no root-side link tells of its end. `chained`: the interface
    is another plugin's; we only announce it. `vlan`: of its port, 0: none of its own; `vlan_filtering`: its bridge
    keeps VLANs apart; `gateway`: the node's interface in the VLAN. `is_gateway`: the node is that of its subnets, on
    the bridge or on that interface. `ip_masq`: the back end that masquerades for it.
    `mobility`: EVPN's sequence, above that of the node it came from. `pod`: None outside of Kubernetes.
    `asked`: the exporters that its network
    configuration names, one of agent.toml by name and type alone; None: it names none. `created`: when ADD began,
    `since`: when its record went up, both RFC 3339, UTC. `mtu`: octets, None: the kernel's default.
    """

    schema_number: Literal[1] = Field(default=1, alias="schema")
    boot_id: str
    network: str
    container_id: str
    ifname: str
    netns: str
    cookie: int | None = None
    nsid: int | None = None
    chained: bool = False
    cni_version: str = "1.0.0"
    bridge: str | None = None
    bridge_index: int | None = None
    bridge_mac: str | None = None
    vlan: int = 0
    vlan_filtering: bool = False
    gateway: Gateway | None = None
    is_gateway: bool = False
    host_mac: str | None = None
    host_veth: str | None = None
    host_index: int | None = None
    peer_index: int | None = None
    mac: str | None = None
    mtu: int | None = None
    addresses: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()
    ip_masq: Literal["nftables", "iptables"] | None = None
    mac_spoof_check: bool = False
    ipam: Ipam | None = None
    bgp: Bgp = Bgp()
    exporters: tuple[ExporterUse, ...] = ()
    asked: tuple[ExporterUse, ...] | None = None
    mobility: int = 0
    pod: Pod | None = None
    created: str = ""
    since: str = ""

    @property
    def key(self) -> AttachmentKey:
        return AttachmentKey(self.network, self.container_id, self.ifname)

    @property
    def fields(self) -> dict[str, str]:
        """The fields of a log event about this attachment: `log.info("%s: up", item.title, extra=item.fields)`."""
        return self.key.fields | ({"pod": str(self.pod)} if self.pod else {})

    @property
    def title(self) -> str:
        """Its name in a sentence for operators, with the pod where there is one."""
        return f"{self.key} (pod {self.pod})" if self.pod else str(self.key)


@dataclass(frozen=True, slots=True)
class AttachmentKey:
    """What identifies an attachment (CNI specification: container ID and interface name, within a network)."""

    network: str
    container_id: str
    ifname: str

    @property
    def digest(self) -> str:
        """40 hexadecimal digits; names of files, locks and links are cut from it."""
        return _digest(self)

    @property
    def fields(self) -> dict[str, str]:
        """The fields of a log event where no more than the key is known of the attachment."""
        return {"network": self.network, "container": self.container_id, "ifname": self.ifname}

    def __str__(self) -> str:
        return f"{self.network}/{self.container_id}/{self.ifname}"


@lru_cache(1024)
def _digest(key: AttachmentKey) -> str:
    text = "\0".join((key.network, key.container_id, key.ifname))
    return hashlib.sha256(text.encode()).hexdigest()[:40]


@dataclass(frozen=True, slots=True)
class Neighbor:
    """A BGP peer of this node, from `[[bgp.neighbors]]`. `hold_time`: seconds. `ttl_security`: RFC 5082.

    `password`: another one for another password in the same file; not the password itself.
    """

    address: str
    asn: int
    families: tuple[Family, ...]
    hold_time: int
    password_file: str | None = None
    ttl_security: bool = False
    passive: bool = False
    password: str = ""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What exporters and `derive` know of this node: `[bgp]` of the agent's configuration, resolved.

    `next_hop`/`next_hop6` are None where the node has no usable address of that family. `hold_time`,
    `graceful_restart`: seconds. `maximum_prefix`: how many routes one peer may tell, None: any number.
    """

    run_dir: str
    data_dir: str
    asn: int | None = None
    router_id: str | None = None
    local_address: str | None = None
    next_hop: str | None = None
    next_hop6: str | None = None
    hold_time: int = 90
    graceful_restart: int = 120
    neighbors: Sequence[Neighbor] = field(default=())
    has_bgp: bool = False
    maximum_prefix: int | None = None
