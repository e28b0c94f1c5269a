"""The objects that configure a cluster, `apiVersion: bgpcni.dev/v1alpha1`. Pure.

The same models validate what `bgpcni apply` is given and what a store holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address, ip_network
from itertools import combinations
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema, model_validator
from pydantic.alias_generators import to_camel

from bgpcni.cluster.selectors import AnySelector, Labels
from bgpcni.config.agent import Asn, ExportTable, HoldTime, ImportTable, IpText, PathText, refuse_lone_rtc
from bgpcni.config.network import Communities, LinkName, Number32, Prefixes, RouteTargets, Texts, describe, findings
from bgpcni.errors import InvalidConfiguration
from bgpcni.model import TARGETED, Family

API_VERSION = "bgpcni.dev/v1alpha1"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*")
Path = tuple[str, str]
"""Kind and name of an object."""


def object_name(value: str) -> str:
    """A name as Kubernetes takes it: a DNS subdomain. Raises ValueError."""
    if len(value) > 253 or not _NAME.fullmatch(value):
        raise ValueError(f"{value!r} is not a name: lower case letters, digits, '-' and '.', 253 at most")
    return value


def _router_id(value: str) -> str:
    if ip_address(value).version != 4 or int(ip_address(value)) == 0:
        raise ValueError(f"{value!r} is not a router ID: four octets, not 0.0.0.0")
    return str(ip_address(value))


def _range(value: str) -> str:
    """`10.1.2.10-10.1.2.19`, one address, or a prefix."""
    first, dash, last = (part.strip() for part in value.partition("-"))
    if not dash:
        return str(ip_network(value.strip()))
    low, high = ip_address(first), ip_address(last)
    if low.version != high.version or int(low) > int(high):
        raise ValueError(f"{value!r} is not a range of addresses: it ends before it starts")
    return f"{low}-{high}"


Name = Annotated[str, AfterValidator(object_name)]
RouterId = Annotated[str, AfterValidator(_router_id), WithJsonSchema({"type": "string", "format": "ipv4"})]
AddressRange = Annotated[str, AfterValidator(_range)]
Address = Annotated[IpText, WithJsonSchema({"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]})]
_CIDR = {"type": "string", "format": "cidr"}


class Part(BaseModel):
    """A part of an object: frozen, unknown keys refused, spelt in camelCase."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, hide_input_in_errors=True)


def _rules(*rules: tuple[str, str]) -> ConfigDict:
    """What an API server checks by itself, as a validator below does here: rules in CEL, and what they say."""
    return ConfigDict(
        json_schema_extra={"x-kubernetes-validations": [{"rule": rule, "message": text} for rule, text in rules]}
    )


class Metadata(BaseModel):
    """`metadata`: what a store adds to it is kept and not looked at."""

    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True)

    name: Name
    labels: Labels = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


# ---------------------------------------------------------------- BGPNode


class BGPNodeSpec(Part):
    """A node as its agent describes it. `epoch` is new each time the node begins without its data."""

    addresses: tuple[Address, ...] = ()
    asn: Asn | None = None
    router_id: RouterId | None = Field(default=None, alias="routerID")
    epoch: str = ""
    version: str = ""


# ---------------------------------------------------------------- BGPPeer


class ExportPolicy(ExportTable):
    """What a peer hears, as `[bgp.neighbors.export]`. Absent: everything of its families."""

    model_config = ConfigDict(alias_generator=to_camel)


class ImportPolicy(ImportTable):
    """What is taken from a peer, as `[bgp.neighbors.import]`. Absent: what the networks import."""

    model_config = ConfigDict(alias_generator=to_camel)


WAYS = ("address", "gateway", "interface", "peerSelector")


class BGPPeerSpec(Part):
    """A neighbour of the nodes that `nodeSelector` selects, found in exactly one of four ways."""

    model_config = _rules(
        (
            "(has(self.address) ? 1 : 0) + (has(self.gateway) && self.gateway ? 1 : 0)"
            " + (has(self.interface) ? 1 : 0) + (has(self.peerSelector) ? 1 : 0) == 1",
            f"exactly one of {', '.join(WAYS)} must be given",
        ),
        (
            "!(has(self.passwordSecret) && has(self.passwordFile))",
            "passwordSecret and passwordFile exclude each other",
        ),
        (
            "!(has(self.ttlSecurity) && self.ttlSecurity && has(self.multihop))",
            "ttlSecurity and multihop exclude each other",
        ),
        (
            "!has(self.families) || !('rtc' in self.families)"
            " || self.families.exists(family, family.endsWith('-vpn') || family == 'l2vpn-evpn')",
            f"families: rtc needs one of {', '.join(sorted(TARGETED))} beside it",
        ),
    )

    node_selector: AnySelector | None = Field(default=None, alias="nodeSelector")
    address: Address | None = None
    gateway: bool = False
    interface: LinkName | None = None
    peer_selector: AnySelector | None = Field(default=None, alias="peerSelector")
    asn: Asn | None = None
    families: Annotated[tuple[Family, ...], Field(min_length=1)] = (Family.IPV4_UNICAST, Family.IPV6_UNICAST)
    hold_time: HoldTime | None = Field(default=None, alias="holdTime")
    ttl_security: bool = Field(default=False, alias="ttlSecurity")
    password_secret: Name | None = Field(default=None, alias="passwordSecret")
    password_file: PathText | None = Field(default=None, alias="passwordFile")
    passive: bool = False
    port: Annotated[int, Field(ge=1, le=65535)] = 179
    local_address: Address | None = Field(default=None, alias="localAddress")
    local_asn: Asn | None = Field(default=None, alias="localASN")
    multihop: Annotated[int, Field(ge=1, le=255)] | None = None
    exporter: str | None = None
    export: ExportPolicy | None = None
    import_: ImportPolicy | None = Field(default=None, alias="import")

    @model_validator(mode="after")
    def _is_found_in_one_way(self) -> Self:
        given = [self.address is not None, self.gateway, self.interface is not None, self.peer_selector is not None]
        found = [way for way, there in zip(WAYS, given, strict=True) if there]
        if len(found) != 1:
            said = " and ".join(found) if found else "none of them"
            raise ValueError(f"exactly one of {', '.join(WAYS)} must be given, and there is {said}")
        refuse_lone_rtc(self.families)
        if self.password_secret and self.password_file:
            raise ValueError("passwordSecret and passwordFile exclude each other")
        if self.ttl_security and self.multihop:
            raise ValueError("ttlSecurity and multihop exclude each other")
        return self


# ---------------------------------------------------------------- IPPool, IPBlock


class BlockSize(Part):
    """Prefix lengths of the blocks that nodes claim. Each block has room for its gateway and one container."""

    ipv4: Annotated[int, Field(ge=8, le=30)] = 26
    ipv6: Annotated[int, Field(ge=32, le=126)] = 122


class IPPoolSpec(Part):
    """Addresses for the containers of the nodes that `nodeSelector` selects.

    `static`: ranges that are never in a node's block; each of their addresses is claimed singly in the store.
    """

    cidrs: Annotated[Prefixes, Field(min_length=1), WithJsonSchema({"type": "array", "items": _CIDR, "minItems": 1})]
    block_size: BlockSize = Field(default=BlockSize(), alias="blockSize")
    node_selector: AnySelector | None = Field(default=None, alias="nodeSelector")
    static: tuple[AddressRange, ...] = ()
    advertise: Literal["host", "block"] = "host"

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        networks = [ip_network(cidr) for cidr in self.cidrs]
        for one, other in combinations(networks, 2):
            if one.version == other.version and one.overlaps(other):
                raise ValueError(f"cidrs: {one} overlaps {other}")
        for network in networks:
            size = self.block_size.ipv4 if network.version == 4 else self.block_size.ipv6
            if size < network.prefixlen:
                raise ValueError(f"blockSize.ipv{network.version}: a /{size} does not fit into {network}")
        for text in self.static:
            first, last = ends(text)
            if not any(first in network and last in network for network in networks):
                raise ValueError(f"static: {text} is not in any of the pool's cidrs")
        return self


def ends(text: str) -> tuple[Any, Any]:
    """The first and last address of a range or prefix (`AddressRange`)."""
    first, dash, last = text.partition("-")
    if dash:
        return ip_address(first), ip_address(last)
    network = ip_network(text)
    return network[0], network[-1]


class IPBlockSpec(Part):
    """A block that a node has claimed, or one address of a pool's `static` ranges. Made by nodes, never by hand.

    `tombstone`: the node's object was deleted, so it is dead. The block is free once no router can still lead there.
    """

    cidr: Annotated[str, WithJsonSchema(_CIDR)]
    pool: Name
    node: Name
    epoch: str = ""
    tombstone: bool = False

    @model_validator(mode="after")
    def _is_a_network(self) -> Self:
        ip_network(self.cidr)
        return self


# ---------------------------------------------------------------- RoutePolicy


class Match(Part):
    """Which attachments a policy is about; what is absent matches."""

    networks: Texts | None = None
    node_selector: AnySelector | None = Field(default=None, alias="nodeSelector")
    namespace_selector: AnySelector | None = Field(default=None, alias="namespaceSelector")
    pod_selector: AnySelector | None = Field(default=None, alias="podSelector")


class Setting(Part):
    """What a policy sets. Lists of several policies join, single values are those of the last one by name."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    communities: Communities = ()
    local_preference: Number32 | None = Field(default=None, alias="localPreference")
    med: Number32 | None = None
    export_rt: RouteTargets = Field(default=(), alias="exportRT")
    import_rt: RouteTargets = Field(default=(), alias="importRT")


class RoutePolicySpec(Part):
    match: Match = Match()
    set: Setting

    @model_validator(mode="after")
    def _sets_something(self) -> Self:
        if self.set == Setting():
            raise ValueError("set: is empty, so the policy changes nothing")
        return self


# ---------------------------------------------------------------- the objects


class Object(BaseModel):
    """Base of the objects. `columns`: what `kubectl get` shows besides name and age, by JSON path."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, hide_input_in_errors=True)
    made_by_nodes: ClassVar[bool] = False
    plural: ClassVar[str]
    columns: ClassVar[Mapping[str, str]] = {}

    api_version: Literal["bgpcni.dev/v1alpha1"] = Field(default="bgpcni.dev/v1alpha1", alias="apiVersion")
    kind: str
    metadata: Metadata
    status: dict[str, Any] | None = None

    @property
    def path(self) -> Path:
        return self.kind, self.metadata.name

    def document(self) -> dict[str, Any]:
        """The object as JSON, without what was not given."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True) | {
            "apiVersion": API_VERSION,
            "kind": self.kind,
        }


class BGPNode(Object):
    made_by_nodes: ClassVar[bool] = True
    plural: ClassVar[str] = "bgpnodes"
    columns: ClassVar[Mapping[str, str]] = {
        "ASN": ".spec.asn",
        "Router ID": ".spec.routerID",
        "Addresses": ".spec.addresses",
        "Sessions": ".status.sessions",
        "Since": ".status.since",
        "Version": ".spec.version",
    }
    kind: Literal["BGPNode"] = "BGPNode"
    spec: BGPNodeSpec = BGPNodeSpec()


class BGPPeer(Object):
    plural: ClassVar[str] = "bgppeers"
    columns: ClassVar[Mapping[str, str]] = {
        "Address": ".spec.address",
        "Gateway": ".spec.gateway",
        "Interface": ".spec.interface",
        "ASN": ".spec.asn",
    }
    kind: Literal["BGPPeer"] = "BGPPeer"
    spec: BGPPeerSpec


class IPPool(Object):
    plural: ClassVar[str] = "ippools"
    columns: ClassVar[Mapping[str, str]] = {"CIDRs": ".spec.cidrs", "Advertise": ".spec.advertise"}
    kind: Literal["IPPool"] = "IPPool"
    spec: IPPoolSpec


class IPBlock(Object):
    made_by_nodes: ClassVar[bool] = True
    plural: ClassVar[str] = "ipblocks"
    columns: ClassVar[Mapping[str, str]] = {"CIDR": ".spec.cidr", "Pool": ".spec.pool", "Node": ".spec.node"}
    kind: Literal["IPBlock"] = "IPBlock"
    spec: IPBlockSpec


class RoutePolicy(Object):
    plural: ClassVar[str] = "routepolicies"
    columns: ClassVar[Mapping[str, str]] = {"Networks": ".spec.match.networks", "Communities": ".spec.set.communities"}
    kind: Literal["RoutePolicy"] = "RoutePolicy"
    spec: RoutePolicySpec


KINDS: dict[str, type[Object]] = {kind.__name__: kind for kind in (BGPNode, BGPPeer, IPPool, IPBlock, RoutePolicy)}


def kind_of(word: str) -> type[Object]:
    """The kind that somebody typed, in any case, also in the plural. Raises InvalidConfiguration."""
    for name, kind in KINDS.items():
        if word.lower() in (name.lower(), kind.plural):
            return kind
    raise InvalidConfiguration(f"kind: {word!r} is none of {', '.join(KINDS)}")


def parse(document: Any, place: str = "") -> Object:
    """One object. Raises InvalidConfiguration (7) that says where (`FILE: BGPPeer rack-1: spec.asn: missing`)."""
    where = f"{place}: " if place else ""
    try:
        kind = _kind(document)
        return kind.model_validate(document)
    except InvalidConfiguration as error:
        raise InvalidConfiguration(f"{where}{error.msg}") from None
    except ValidationError as error:
        raise InvalidConfiguration(f"{where}{_title(document)}: {describe(error, model=kind)}") from None


def faults(document: Any) -> Iterator[str]:
    """Every error for which `parse` raises one: `BGPPeer rack-1: spec.asn: missing`."""
    try:
        kind = _kind(document)
        kind.model_validate(document)
    except InvalidConfiguration as error:
        yield error.msg
    except ValidationError as error:
        for text in dict.fromkeys(findings(error, model=kind)):
            yield f"{_title(document)}: {text}"


def _kind(document: Any) -> type[Object]:
    if not isinstance(document, Mapping):
        raise InvalidConfiguration("should be an object with apiVersion, kind, metadata and spec")
    if document.get("apiVersion") != API_VERSION:
        raise InvalidConfiguration(f"apiVersion: {document.get('apiVersion')!r} is not {API_VERSION}")
    kind = document.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise InvalidConfiguration(f"kind: {kind!r} is none of {', '.join(KINDS)}")
    return KINDS[kind]


def _title(document: Mapping[str, Any]) -> str:
    metadata = document.get("metadata")
    return f"{document.get('kind')} {metadata.get('name', '') if isinstance(metadata, Mapping) else ''}"


def contradictions(objects: Iterable[Object]) -> Iterator[tuple[Path, str]]:
    """What cannot be true of these objects together: pools that overlap. Of two, the later one is blamed."""
    pools = [(item.metadata.name, ip_network(cidr)) for item in objects if isinstance(item, IPPool)
             for cidr in item.spec.cidrs]  # fmt: skip
    for (one, first), (other, second) in combinations(pools, 2):
        if one != other and first.version == second.version and first.overlaps(second):
            yield ("IPPool", other), f"spec.cidrs: {second} overlaps {first} of IPPool {one}"
