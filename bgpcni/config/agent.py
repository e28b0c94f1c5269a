"""agent.toml, the operator's configuration of this node, validated into one frozen model. Reads that file only.

Unknown keys are errors here, because the file has one owner.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from bgpcni import bgp, paths
from bgpcni.config.network import Communities, LinkName, Number32, Prefixes, Texts, describe
from bgpcni.config.pod_annotations import PREFIX
from bgpcni.errors import InvalidConfiguration
from bgpcni.files import read_plain
from bgpcni.model import TARGETED, Family

_FILE_MAX = 1 << 20


def _is_number(annotation: Any) -> bool:
    return annotation in (int, float) or any(_is_number(part) for part in get_args(annotation))


class Table(BaseModel):
    """Base class of our tables. They are frozen, and unknown keys are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, hide_input_in_errors=True, defer_build=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse a boolean: `asn = true` would be AS 1."""
        if isinstance(value, bool) and _is_number(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError("should be a number")
        return value


def _address(value: str) -> str:
    if "%" in value:  # a zone may have any character, and no speaker of ours accepts one
        raise ValueError(f"{value!r} has a zone")
    return str(ip_address(value))


def _router_id(value: str) -> str:
    parsed = ip_address(value)
    if parsed.version != 4 or int(parsed) == 0:
        raise ValueError(f"{value!r} is not a router ID: four octets, not 0.0.0.0")
    return str(parsed)


def _absolute(value: str) -> str:
    if not value.startswith("/") or "\0" in value or "\n" in value:
        raise ValueError(f"{value!r} is not an absolute path")
    return value


IpText = Annotated[str, AfterValidator(_address)]
PathText = Annotated[str, AfterValidator(_absolute)]
Asn = Annotated[int, Field(ge=1, le=4294967295)]
HoldTime = Annotated[int, Field(ge=3, le=65535)]


class ExportTable(Table):
    """`[bgp.neighbors.export]`: what a neighbour hears. Absent: everything of its families."""

    networks: Texts = ()
    only: Literal["hosts", "blocks"] | None = None
    communities: Communities = ()
    local_preference: Number32 | None = None
    med: Number32 | None = None
    prepend: Annotated[int, Field(ge=0, le=10)] = 0


class ImportTable(Table):
    """`[bgp.neighbors.import]`: what is taken from a neighbour. Absent: what the networks import."""

    prefixes: Prefixes = ()
    maximum_prefix: Annotated[int, Field(ge=1)] | None = None


class NeighborTable(Table):
    """`[[bgp.neighbors]]`. `hold_time` in seconds; absent: that of `[bgp]`. `exporter`: the speaker it belongs to.

    It is found by exactly one of `address`, `interface` (unnumbered: the router on that link) and `gateway` (the router
    of the default route). Without `asn` the router on an interface may have any AS. `port`: where the end that waits
    for the connection listens. `local_address`, `local_asn`: ours in this session. `multihop`: how many hops away the
    peer may be. `next_hop`, `next_hop6`: of the routes that it hears, where they are not those of `[bgp]`.
    """

    address: IpText | None = None
    gateway: bool = False
    interface: LinkName | None = None
    asn: Asn | None = None
    families: Annotated[tuple[Family, ...], Field(min_length=1)] = (Family.IPV4_UNICAST, Family.IPV6_UNICAST)
    password_file: PathText | None = None
    hold_time: HoldTime | None = None
    ttl_security: bool = False
    passive: bool = False
    exporter: str | None = None
    port: Annotated[int, Field(ge=1, le=65535)] = 179
    local_address: IpText | None = None
    local_asn: Asn | None = None
    multihop: Annotated[int, Field(ge=1, le=255)] | None = None
    next_hop: IpText | None = None
    next_hop6: IpText | None = None
    export: ExportTable = Field(default_factory=ExportTable.model_construct)
    import_: ImportTable = Field(default_factory=ImportTable.model_construct, alias="import")

    @model_validator(mode="after")
    def _consistent(self) -> NeighborTable:
        ways = [way for way in ("address", "interface", "gateway") if getattr(self, way)]
        if len(ways) != 1:
            said = " and ".join(ways) if ways else "none of them"
            raise ValueError(f"exactly one of address, interface, gateway must be given, and there is {said}")
        if self.asn is None and self.interface is None:
            raise ValueError("asn: missing")
        if self.ttl_security and self.multihop is not None:
            raise ValueError("ttl_security and multihop exclude each other")
        refuse_lone_rtc(self.families)
        for key in ("local_address", "multihop", "passive") if self.interface is not None else ():
            if getattr(self, key):
                raise ValueError(f"{key}: has no place beside interface, whose link says it")
        _refuse_versions(self)
        return self

    @property
    def place(self) -> str:
        """Where the other end is, in words."""
        return self.address or self.interface or "the default gateway"


def refuse_lone_rtc(families: Iterable[Family]) -> None:
    """Raise ValueError for `rtc` without a family to which route targets apply."""
    if Family.RTC in families and TARGETED.isdisjoint(families):
        raise ValueError(f"families: rtc needs one of {', '.join(sorted(TARGETED))} beside it")


def _identified(table: Any) -> Any:
    """`[bgp]` with a router ID, if its local_address can be one."""
    local = table.get("local_address") if isinstance(table, dict) else None
    return {"router_id": local} | table if isinstance(local, str) and ":" not in local else table


class BgpTable(Table):
    """`[bgp]`. Times are in seconds. `local_address`: the source address of the sessions, and the VTEP of EVPN.

    `paths`: how many equal learned routes to a prefix are used at once.

    If `router_id` is absent, it is `local_address`, if that is an IPv4 address. With store kubernetes both may be
    absent: the Node object says them.
    """

    asn: Asn | None
    router_id: Annotated[str, AfterValidator(_router_id)] | None
    local_address: IpText
    next_hop: IpText | None = None
    next_hop6: IpText | None = None
    hold_time: HoldTime = 90
    graceful_restart: Annotated[int, Field(ge=0, le=4095)] = 120
    long_lived_graceful_restart: Annotated[int, Field(ge=0, le=16777215)] = 0
    paths: Annotated[int, Field(ge=1, le=64)] = 16
    neighbors: tuple[NeighborTable, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _identified(cls, table: Any) -> Any:
        return _identified(table)

    @model_validator(mode="after")
    def _consistent(self) -> BgpTable:
        _refuse_versions(self)
        if self.long_lived_graceful_restart and not self.graceful_restart:
            raise ValueError("long_lived_graceful_restart: needs graceful_restart, which comes before it")
        seen: set[tuple[str, str | None]] = set()
        for neighbor in self.neighbors:
            if (neighbor.place, neighbor.exporter) in seen:
                raise ValueError(f"neighbors: {neighbor.place} is there twice")
            seen.add((neighbor.place, neighbor.exporter))
        return self


def _refuse_versions(table: NeighborTable | BgpTable) -> None:
    for name, version in (("next_hop", 4), ("next_hop6", 6)):
        value = getattr(table, name)
        if value and ip_address(value).version != version:
            raise ValueError(f"{name} {value} is not an IPv{version} address")


class ExporterTable(BaseModel):
    """`[exporters.NAME]`: `type` (default: NAME). All other keys are the configuration of that exporter."""

    model_config = ConfigDict(frozen=True, extra="allow", defer_build=True)
    type: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class NetworkTable(Table):
    """`[networks.NAME]`: what the operator decides for a network. It has priority over the CNI configuration."""

    exporters: tuple[str, ...] | None = None
    local_preference: Number32 | None = None
    med: Number32 | None = None


def _range(value: str) -> str:
    match = re.fullmatch(r"([0-9]{1,8})(?:-([0-9]{1,8}))?", value)
    if not match or int(match[2] or match[1]) < int(match[1]):
        raise ValueError(f"{value!r} is not a VNI or a range of VNIs such as 5000-5999")
    return value


def _community(pattern: str) -> str:
    """A pattern, or the number of a well-known name, since configurations have the number too."""
    return bgp.community(pattern) if pattern in bgp.WELL_KNOWN else pattern


class PolicyTable(Table):
    """`[policy]`: lists of what network configurations may ask for. An absent list allows anything.

    `annotations` is different: it lists the annotations of pods that we obey. If it is absent, we obey none.
    """

    import_rt: tuple[str, ...] | None = None
    export_rt: tuple[str, ...] | None = None
    vni: tuple[Annotated[str, AfterValidator(_range)], ...] | None = None
    bridges: tuple[str, ...] | None = None
    vrfs: tuple[str, ...] | None = None
    prefixes: Prefixes | None = None
    exporters: tuple[str, ...] | None = None
    rd: tuple[str, ...] | None = None
    communities: tuple[Annotated[str, AfterValidator(_community)], ...] | None = None
    mac: tuple[Annotated[str, AfterValidator(str.lower)], ...] | None = None
    data_dirs: tuple[str, ...] | None = None
    resolv_conf: tuple[str, ...] | None = None
    annotations: tuple[str, ...] | None = None
    anycast: Prefixes | None = None
    maximum_prefix: Annotated[int, Field(ge=1)] | None = None

    def obeys(self, annotation: str) -> bool:
        """Whether `[policy] annotations` has it (`export-rt`), with or without the prefix, or by a pattern."""
        names = (annotation, PREFIX + annotation)
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.annotations or () for name in names)

    def refuse_names(self, key: str, values: Iterable[str], allowed: tuple[str, ...] | None, place: str) -> None:
        """Raise error 7 for the first of `values` that no pattern of `[policy] key` matches."""
        if allowed is None:
            return
        for value in values:
            if not any(fnmatch.fnmatchcase(value, pattern) for pattern in allowed):
                raise InvalidConfiguration(f"{place}: {value} is not allowed by [policy] {key} of this node")

    def refuse_path(self, key: str, path: str, allowed: tuple[str, ...] | None, place: str) -> None:
        """Raise error 7 for a path that no pattern of `[policy] key` matches, `..` and `//` resolved first."""
        if allowed is None:
            return
        plain = "/" + os.path.normpath(path).lstrip("/") if path.startswith("/") else path
        if not plain.startswith("/") or not any(fnmatch.fnmatchcase(plain, pattern) for pattern in allowed):
            raise InvalidConfiguration(f"{place}: {path} is not allowed by [policy] {key} of this node")

    def refuse_vni(self, value: int | None, place: str = "bgp.vni") -> None:
        """Raise error 7 for a VNI outside every range of `[policy] vni`; None, no VNI, passes."""
        if value is None or self.vni is None:
            return
        for text in self.vni:
            low, _, high = text.partition("-")
            if int(low) <= value <= int(high or low):
                return
        raise InvalidConfiguration(f"{place}: {value} is not allowed by [policy] vni of this node")

    def refuse_addresses(self, addresses: Iterable[str]) -> None:
        """Raise error 7 for the first address (`10.1.2.3/24`, or without length) outside `[policy] prefixes`."""
        if self.prefixes is None:
            return
        allowed = [ip_network(prefix) for prefix in self.prefixes]
        for text in addresses:
            address = ip_address(text.partition("/")[0])
            if not any(address in network for network in allowed):
                raise InvalidConfiguration(f"ipam: {address} is not allowed by [policy] prefixes of this node")

    def refuse_shared(self, address: str, place: str) -> None:
        """Raise error 7 for a shared address outside `[policy] anycast`."""
        if self.anycast is not None and not any(ip_address(address) in ip_network(one) for one in self.anycast):
            raise InvalidConfiguration(f"{place}: {address} is not allowed by [policy] anycast of this node")

    def refuse_subnets(self, addresses: Iterable[str]) -> None:
        """As `refuse_addresses`, but the whole subnet of `10.1.2.3/24` must be allowed, because it gets routes, too."""
        if self.prefixes is None:
            return
        allowed = [ip_network(prefix) for prefix in self.prefixes]
        for text in addresses:
            wanted = ip_interface(text).network
            if not any(wanted.version == one.version and wanted.subnet_of(one) for one in allowed):  # type: ignore[arg-type]
                raise InvalidConfiguration(f"ipam: subnet {wanted} is not allowed by [policy] prefixes of this node")


def _node_name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", value):
        raise ValueError(f"{value!r} is no node's name: lower case letters, digits, '-' and '.'")
    return value


class KubernetesTable(Table):
    """`[cluster.kubernetes]`. `network`: the template of the network configuration that the agent puts into `conf_dir`;
    `unready_after`: seconds without any BGP session until the node says so, 0 for never."""

    kubeconfig: PathText | None = None
    network: PathText | None = None
    conf_dir: PathText = str(paths.CONF_DIR)
    unready_after: Annotated[float, Field(ge=0, le=86400)] = 0.0


def _endpoint(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
        raise ValueError(f"{value!r} is not an endpoint such as https://10.0.0.1:2379")
    return value


def _receiver(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"{value!r} is not the address of an OTLP receiver such as http://127.0.0.1:4318")
    if parts.path.rstrip("/").endswith("/v1/traces"):
        raise ValueError(f"{value!r}: leave out /v1/traces, it is appended")
    if "@" in parts.netloc:  # it would be in the log
        raise ValueError("put a password or token into $OTEL_EXPORTER_OTLP_HEADERS, not into the address")
    return value


def _key_prefix(value: str) -> str:
    if not re.fullmatch(r"(/[-A-Za-z0-9_.]+)+/?", value):
        raise ValueError(f"{value!r} is not a prefix of keys such as /bgpcni/v1alpha1")
    return value.rstrip("/")


class EtcdTable(Table):
    """`[cluster.etcd]`. The object KIND NAME has the key `prefix/KIND/NAME`; `cert` and `key` are the client's."""

    endpoints: Annotated[tuple[Annotated[str, AfterValidator(_endpoint)], ...], Field(min_length=1)]
    prefix: Annotated[str, AfterValidator(_key_prefix)] = "/bgpcni/v1alpha1"
    ca: PathText | None = None
    cert: PathText | None = None
    key: PathText | None = None

    @model_validator(mode="after")
    def _consistent(self) -> EtcdTable:
        if (self.cert is None) != (self.key is None):
            raise ValueError(f"{'cert' if self.cert is None else 'key'}: missing, cert and key go together")
        return self


class ClusterTable(Table):
    """`[cluster]`. `node` absent: $NODE_NAME or the host's name. `labels`: with etcd; Kubernetes nodes have theirs."""

    store: Literal["etcd", "kubernetes"]
    node: Annotated[str, AfterValidator(_node_name)] | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    etcd: EtcdTable | None = None
    kubernetes: KubernetesTable = Field(default_factory=KubernetesTable.model_construct)

    @model_validator(mode="after")
    def _complete(self) -> ClusterTable:
        if self.store == "etcd" and self.etcd is None:
            raise ValueError("etcd: missing, store etcd needs [cluster.etcd] with endpoints")
        if self.store == "kubernetes" and self.labels:
            raise ValueError("labels: with store kubernetes the labels are those of the Node")
        return self


class TracingTable(Table):
    """`[tracing]`: where spans go, by OTLP over HTTP. Absent values are those of the OTEL_* variables.

    `ratio`: the share of calls that are traced, from 0 to 1.
    """

    endpoint: Annotated[str, AfterValidator(_receiver)] | None = None
    ratio: Annotated[float, Field(ge=0, le=1)] | None = None


class AgentConfig(Table):
    """The whole file. `orphan_grace`: seconds."""

    run_dir: PathText = str(paths.RUN_DIR)
    data_dir: PathText = str(paths.DATA_DIR)
    default_exporters: tuple[str, ...] = ("exabgp",)
    orphan_grace: Annotated[float, Field(ge=0, le=86400)] = 60.0
    bgp: BgpTable | None = None
    exporters: dict[str, ExporterTable] = Field(default_factory=dict)
    networks: dict[str, NetworkTable] = Field(default_factory=dict)
    policy: PolicyTable = Field(default_factory=PolicyTable.model_construct)
    cluster: ClusterTable | None = None
    tracing: TracingTable | None = None

    @model_validator(mode="before")
    @classmethod
    def _whom_the_node_object_names(cls, document: Any) -> Any:
        """With store kubernetes, ASN and router ID may be left to the Node object."""
        bgp, cluster = (document.get(name) for name in ("bgp", "cluster")) if isinstance(document, dict) else (0, 0)
        if isinstance(bgp, dict) and isinstance(cluster, dict) and cluster.get("store") == "kubernetes":
            return document | {"bgp": {"asn": None, "router_id": None} | _identified(bgp)}
        return document


def load(path: Path) -> AgentConfig:
    """Read and validate agent.toml. Raises InvalidConfiguration naming file, place and what is wrong there.

    If nodes share one file, `$NODE_IP` gives each node its own `bgp.local_address`: a pod gets it from `status.hostIP`.
    """
    import tomllib  # a call without an agent reads no agent.toml

    try:
        document = tomllib.loads(read_plain(path, _FILE_MAX).decode())
    except FileNotFoundError:
        sample = paths.SAMPLES / "agent.toml"
        raise InvalidConfiguration(
            f"{path}: there is no such file; copy the sample {sample} there and describe this node in [bgp]"
        ) from None
    except OSError as error:
        raise InvalidConfiguration(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidConfiguration(f"{path}: {error}") from None
    here = os.environ.get("NODE_IP")
    if here and isinstance(document.get("bgp"), dict):
        document["bgp"].setdefault("local_address", here)
    try:
        return AgentConfig.model_validate(document)
    except ValidationError as error:
        raise InvalidConfiguration(f"{path}: {describe(error, model=AgentConfig)}") from None
