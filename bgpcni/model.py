"""The nouns: what an attachment is and what is announced for it. Plain frozen values; no I/O.

`Attachment` describes what one ADD makes. It is planned before anything is built, and kept on disk. `Announcement` is
one route that we want to announce, with the endpoint behind it. `Nlri` identifies a route to a BGP speaker.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bgpcni.cni.result import Route


class Family(StrEnum):
    """Address families (AFI/SAFI) of our sessions; the values are those of `[[bgp.neighbors]] families`.

    All but `RTC` are those of routes. By `RTC` (RFC 4684) a node says which route targets it imports, so that a peer
    sends no others.
    """

    IPV4_UNICAST = "ipv4-unicast"
    IPV6_UNICAST = "ipv6-unicast"
    IPV4_VPN = "ipv4-vpn"
    IPV6_VPN = "ipv6-vpn"
    L2VPN_EVPN = "l2vpn-evpn"
    RTC = "rtc"


ROUTES = frozenset(Family) - {Family.RTC}
"""The families of routes."""
TARGETED = frozenset({Family.IPV4_VPN, Family.IPV6_VPN, Family.L2VPN_EVPN})
"""The families whose routes have route targets."""


class State(StrEnum):
    """How far an attachment is in its life. On disk it is the name of the folder that holds the record."""

    ADDING = "adding"
    UP = "up"
    LEAVING = "leaving"


class UnicastNlri(NamedTuple):
    """RFC 4271, RFC 4760. `of` chooses the family."""

    family: Family
    prefix: str
    kind: Literal["unicast"] = "unicast"

    @classmethod
    def of(cls, prefix: str) -> Self:
        return cls(Family.IPV6_UNICAST if ":" in prefix else Family.IPV4_UNICAST, prefix)

    def __str__(self) -> str:
        return self.prefix


class VpnNlri(NamedTuple):
    """RFC 4364, RFC 4659. `of` chooses the family."""

    family: Family
    prefix: str
    rd: str
    kind: Literal["vpn"] = "vpn"

    @classmethod
    def of(cls, prefix: str, rd: str) -> Self:
        return cls(Family.IPV6_VPN if ":" in prefix else Family.IPV4_VPN, prefix, rd)

    def __str__(self) -> str:
        return f"{self.rd}:{self.prefix}"


class MacIpNlri(NamedTuple):
    """EVPN type 2, MAC/IP Advertisement (RFC 7432 section 7.2). `prefix`: that of one host, None: the MAC alone."""

    rd: str
    mac: str
    prefix: str | None = None
    tag: int = 0
    kind: Literal["mac-ip"] = "mac-ip"
    family: Literal[Family.L2VPN_EVPN] = Family.L2VPN_EVPN

    def __str__(self) -> str:
        host = f":{_bracketed(self.prefix)}" if self.prefix else ""
        return f"{self.rd}:[2]:[{self.tag}]:[48]:[{self.mac}]{host}"


class MulticastNlri(NamedTuple):
    """EVPN type 3, Inclusive Multicast Ethernet Tag (RFC 7432 section 7.3). `originator`: the VTEP's address."""

    rd: str
    originator: str
    tag: int = 0
    kind: Literal["multicast"] = "multicast"
    family: Literal[Family.L2VPN_EVPN] = Family.L2VPN_EVPN

    @property
    def prefix(self) -> None:
        """A multicast route has none."""

    def __str__(self) -> str:
        bits = 128 if ":" in self.originator else 32
        return f"{self.rd}:[3]:[{self.tag}]:[{bits}]:[{self.originator}]"


class IpPrefixNlri(NamedTuple):
    """EVPN type 5, IP Prefix (RFC 9136 section 3.1)."""

    rd: str
    prefix: str
    tag: int = 0
    kind: Literal["ip-prefix"] = "ip-prefix"
    family: Literal[Family.L2VPN_EVPN] = Family.L2VPN_EVPN

    def __str__(self) -> str:
        return f"{self.rd}:[5]:[{self.tag}]:{_bracketed(self.prefix)}"


Nlri = UnicastNlri | VpnNlri | MacIpNlri | MulticastNlri | IpPrefixNlri
"""What identifies a route: the same Nlri is the same route, whatever its label, next hop or attributes.

There is one class for each route type. Each has `family`, `kind`, `prefix` (None if it has none), and prints as FRR
does, with the RD in front. `kind` never varies within a class: it keeps tuples of two classes from being equal.
Prefixes are canonical (`10.1.2.3/32`, `2001:db8::1/128`), MACs are lower case with colons. An RD `0:n` belongs to a
node without a router ID: it only keeps VPNs apart, because the speaker has RDs of its own.

A further route type needs its class in this union, and a line in `EVPN_TYPES` of `wire/nlri.py` to be sent and
received.
"""


def _bracketed(prefix: str) -> str:
    address, _, bits = prefix.partition("/")
    return f"[{bits}]:[{address}]"


class Endpoint(NamedTuple):
    """The interface behind a route on this node. Exporters such as BaGPipe and the kernel's need it.

    `address` has its prefix length (`10.1.2.3/24`); it is "" if there is none (layer 2 only). `host_veth` is the end of
    the link in the node's namespace; its index was read inside the container's namespace. `bridge` is the bridge, or,
    for a unicast route, the node's interface in the container's VLAN if there is one.
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
    """One route that is to be announced. Two announcements with the same `nlri` are two states of one route.

    `export_rt`, `import_rt`: route targets, canonical text (`64512:90`, `192.0.2.1:7`). `communities`:
    standard `a:b`, large `a:b:c`, or a well-known name. `local_preference` and `med` are None if the speaker decides.
    `vni` is EVPN's label (24 bits), `label` the MPLS one (20 bits). `mobility` is the sequence number of RFC 7432
    section 7.7; 0 is not sent. `router_mac`: the Router's MAC of a type 5 route (RFC 9135 section 8.1); None means that
    of the anycast gateway. `endpoint` is None for routes that follow from several attachments (type 3, subnets).
    `datapath` False: this kernel cannot forward to it, so the route is control plane only.
    """

    nlri: Nlri
    network: str
    next_hop: str
    export_rt: tuple[str, ...] = ()
    import_rt: tuple[str, ...] = ()
    communities: tuple[str, ...] = ()
    local_preference: int | None = None
    med: int | None = None
    vni: int | None = None
    label: int | None = None
    mobility: int = 0
    router_mac: str | None = None
    endpoint: Endpoint | None = None
    datapath: bool = True


_UNKNOWN_KEY = frozenset(["extra_forbidden", "unexpected_keyword_argument"])


class Record(BaseModel):
    """Base class of everything that is kept on disk. Records are frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, defer_build=True)

    @classmethod
    def of_disk(cls, text: bytes) -> Self:
        """What this or another version has written. Raises ValidationError.

        Keys that a later version has added are left out. That is safe while `schema` is the same: a version whose
        new key must not be left out writes another `schema`, which is refused.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            wrong = error.errors(include_url=False, include_context=False, include_input=False)
            if any(each["type"] not in _UNKNOWN_KEY for each in wrong):
                raise
        document = json.loads(text)
        for each in wrong:
            *path, key = each["loc"]
            inner = document
            for part in path:
                inner = inner[part]
            del inner[key]
        return cls.model_validate_json(json.dumps(document))


class Address(Record):
    """One address of an attachment. `address` has its prefix length and its host bits (`10.1.2.3/24`).

    `block`: the block of a cluster's pool that is announced in its place.
    """

    address: str
    gateway: str | None = None
    block: str | None = None


class IpamRecord(Record):
    """How the addresses are released: by our own host-local in `data_dir`, or by the DEL of the plugin `type`."""

    type: str
    data_dir: str | None = None
    stdin: str | None = None
    environment: dict[str, str] = Field(default_factory=dict)


class Gateway(Record):
    """The node's interface in the VLAN of an attachment. It has the gateway addresses, instead of the bridge."""

    name: str
    index: int
    mac: str


class Attributes(Record):
    """What of an attachment's routes a policy can set. Absent numbers are the speaker's."""

    import_rt: tuple[str, ...] = ()
    export_rt: tuple[str, ...] = ()
    communities: tuple[str, ...] = ()
    local_preference: int | None = None
    med: int | None = None


class Bgp(Attributes):
    """What is to be announced, as configuration, arguments and the defaults of the agent say together.

    `forwarder`: who makes the VXLAN of an EVPN network, our agent or the daemon of an exporter; None: nobody on this
    node. `import_prefixes`: `bgp.import`. `anycast`: every node has the same gateway addresses (EVPN). `label`: the
    MPLS label, 20 bits (vpn). `vrf`, `l3vni`: the VRF that the bridge is in, and the VNI of that VRF. `table`: the
    number of its table in the kernel; None: this kernel does not forward for it, control plane only. `drain_seconds`:
    how long to wait between the withdrawal and the removal of the link.
    """

    family: Literal["unicast", "vpn", "evpn"] = "unicast"
    advertise: Literal["host", "subnet"] = "host"
    vni: int | None = None
    rd: str | None = None
    label: int | None = None
    vrf: str | None = None
    l3vni: int | None = None
    table: int | None = None
    import_prefixes: tuple[str, ...] = ()
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


class Health(Record):
    """The health check of a service. `host` "": the shared address. `path`: of HTTP. `interval`: seconds. `ready`: the
    Pod's condition Ready, which Kubernetes tells us; then the other values count for nothing."""

    kind: Literal["tcp", "http", "ready"]
    host: str = ""
    port: int = 0
    path: str = ""
    interval: float = 2.0
    rise: int = 1
    fall: int = 3


class Anycast(Record):
    """Addresses that several containers share, here or on other nodes. They are announced beside a container's own
    while `passing`: what the health check said last. Without `health` they always are."""

    addresses: tuple[str, ...]
    health: Health | None = None
    passing: bool = False


class ExporterUse(Record):
    """An exporter that announces an attachment, and the configuration that it had."""

    name: str
    type: str
    config: dict[str, Any] = Field(default_factory=dict)


class Attachment(Record):
    """What one ADD makes. Planned values are set from the start; those of the kernel (`host_index`, `mac`, …) later.

    `cookie` is SO_NETNS_COOKIE of the container's namespace, unique within `boot_id`. `nsid`: the number by which the
    node's namespace knows the container's; set if it has no link to the node's namespace, whose removal would show its
    end. `chained`: another plugin made the interface; we only announce it. `vlan`: the VLAN of its port, 0 if it has
    none of its own. `vlan_filtering`: its bridge keeps VLANs apart. `gateway`: the node's interface in the VLAN.
    `is_gateway`: the node is the gateway of its subnets, on the bridge or on that interface. `ip_masq`: the back end
    that masquerades for it. `mobility`: the sequence number of EVPN, higher than that of the node it came from.
    `pod`: the pod that the runtime named; None outside of Kubernetes. `labels`, `namespace_labels`: its labels and its
    namespace's, as they were last known. `own_export_rt`: it asks for its own exportRT, which no policy changes.
    `bgp` has what policies say; `plain` has what network and attachment ask for, `common` what counts for routes that
    several containers share. None: the same as `bgp`. `policies`: which of them set what, by the key in their `set`.
    `asked`: the exporters that its network configuration names; one that agent.toml defines has only name and type
    here. None: the configuration names none. `created`: when the ADD began. `since`: when the record was moved to `up`;
    both are RFC 3339, UTC. `mtu`: octets, None: the kernel's default. `anycast`: what it shares with other containers.
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
    ipam: IpamRecord | None = None
    bgp: Bgp = Bgp()
    exporters: tuple[ExporterUse, ...] = ()
    asked: tuple[ExporterUse, ...] | None = None
    mobility: int = 0
    pod: Pod | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    namespace_labels: dict[str, str] = Field(default_factory=dict)
    own_export_rt: bool = False
    plain: Attributes | None = None
    common: Attributes | None = None
    policies: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    anycast: Anycast | None = None
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

    def share(self, known: Shared) -> None:
        """Take the values that many attachments have from `known`: what thousands of them need shrinks to a third."""
        values = self.__dict__
        values.update((name, sys.intern(value)) for name in _COMMON if (value := values[name]) is not None)
        for name in ("bgp", "exporters", "ipam"):
            values[name] = known.value(values[name])
        for record in (self, *self.addresses, *((self.pod,) if self.pod else ())):
            known.forget_which_are_set(record)


_COMMON = ("boot_id", "network", "ifname", "cni_version", "bridge", "bridge_mac", "ip_masq")


class Shared:
    """Equal values of many records, each once. It begins anew when it has become large. For one thread at a time."""

    _MOST = 1024

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._fields: dict[type[Record], set[str]] = {}

    def value(self, value: Any) -> Any:
        """The first value that is equal to this one."""
        if len(self._values) > self._MOST:
            self._values.clear()
        return self._values.setdefault(repr(value), value)

    def forget_which_are_set(self, record: Record) -> None:
        """Have one set of names for all records of a type, as if each value had been given: nobody asks which were."""
        kind = type(record)
        object.__setattr__(record, "__pydantic_fields_set__", self._fields.setdefault(kind, set(kind.model_fields)))


class AttachmentKey(NamedTuple):
    """What identifies an attachment: the container ID and interface name of the CNI specification, and the network."""

    network: str
    container_id: str
    ifname: str

    @property
    def digest(self) -> str:
        """40 hexadecimal digits. The names of files, locks and links begin with some of them."""
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
class ExportPolicy:
    """What a neighbour hears: of `networks` (patterns; none: all), `only` "hosts" or "blocks", and what it is told of
    them. `prepend`: how many times more our AS number is in the AS path, for eBGP. `next_hop`, `next_hop6`: in place of
    the node's, for unicast and VPN routes."""

    networks: tuple[str, ...] = ()
    only: Literal["hosts", "blocks"] | None = None
    communities: tuple[str, ...] = ()
    local_preference: int | None = None
    med: int | None = None
    prepend: int = 0
    next_hop: str | None = None
    next_hop6: str | None = None


@dataclass(frozen=True, slots=True)
class ImportPolicy:
    """What is taken from a neighbour: routes within `prefixes` (none: all), `maximum_prefix` of them at most."""

    prefixes: tuple[str, ...] = ()
    maximum_prefix: int | None = None


@dataclass(frozen=True, slots=True)
class Neighbor:
    """A BGP peer of this node, from `[[bgp.neighbors]]`. `hold_time`: seconds. `ttl_security`: RFC 5082.

    `password`: a text that changes when the password in the file does; it is not the password itself. `exporter`: the
    name of the exporter that has the session; None: this node has one speaker, whatever it is called. `port`: where the
    end that waits for the connection listens. `local_address`, `local_asn`: this node's own in this session, where they
    are not those of the speaker. `multihop`: the TTL of what we send, None: the system's. `export`: what it hears;
    `accept`: what is taken from it. `interface`: the link on which a link-local `address` is. `asn` 0: whatever AS it
    has.
    """

    address: str
    asn: int
    families: tuple[Family, ...]
    hold_time: int
    password_file: str | None = None
    ttl_security: bool = False
    passive: bool = False
    password: str = ""
    exporter: str | None = None
    port: int = 179
    local_address: str | None = None
    local_asn: int | None = None
    multihop: int | None = None
    export: ExportPolicy = ExportPolicy()
    accept: ImportPolicy = ImportPolicy()
    interface: str | None = None

    def own_asn(self, asn: int | None) -> int | None:
        """Our AS number in this session; `asn`: the node's."""
        return self.local_asn or asn

    def internal(self, asn: int | None) -> bool:
        """Whether this is iBGP; `asn`: the node's."""
        return self.asn == self.own_asn(asn)


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What exporters and `derive` know of this node: `[bgp]` of agent.toml, with every default filled in.

    `next_hop`/`next_hop6` are None if the node has no usable address of that family. `hold_time`,
    `graceful_restart`: seconds. `long_lived_graceful_restart`: for how many seconds more peers may keep our routes as a
    last resort (RFC 9494), 0: not at all. `maximum_prefix`: how many routes one peer may announce, None: any number.
    `paths`: how many equal learned routes to a prefix the kernel gets.
    `speakers`: the exporters of agent.toml that have neighbours of `[[bgp.neighbors]]`. `maintenance`: peers are to
    prefer other paths. An exporter is given `local_address` and `neighbors` as they are for its own sessions.
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
    long_lived_graceful_restart: int = 0
    neighbors: Sequence[Neighbor] = field(default=())
    has_bgp: bool = False
    maximum_prefix: int | None = None
    paths: int = field(default=1, compare=False)
    speakers: Sequence[str] = field(default=(), compare=False)
    maintenance: bool = field(default=False, compare=False)
