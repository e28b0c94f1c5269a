"""The network configuration, which a runtime sends on stdin, validated into one frozen model. Pure.

Keys match without regard to case, as in the JSON of the reference library. Unknown keys are accepted, as section 1 of
the CNI specification asks; one that looks like a misspelling of ours is reported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import CoreSchema

from bgpcni import bgp
from bgpcni.cni.environment import link_name_fault
from bgpcni.config.anycast import Addresses, HealthSection
from bgpcni.config.lists import texts
from bgpcni.errors import DecodingFailure, InvalidConfiguration

NAME_MOST = 180
NEAR = 0.8
"""How similar, by difflib's ratio, an unknown key must be to one of ours to be taken for a misspelling."""
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


@dataclass(frozen=True, eq=False)
class Also:
    """What the JSON Schema of a value has to accept besides its type, because a validator turns that into it."""

    schema: dict[str, Any]

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        bounds = {"ge": "minimum", "le": "maximum"}  # which pydantic leaves as they are behind a validator
        made = {bounds.get(key, key): value for key, value in handler(core).items()}
        return {"anyOf": [made, self.schema | {SHORT: True}]}


SHORT = "x-short"
"""Marks in a JSON Schema what is only another way to write a value."""
_TEXT = Also({"type": "string"})
_DIGITS = Also({"type": "string", "pattern": "^[0-9]{1,9}$"})
_PAIR = {"type": "object", "properties": {"key": {"type": "string"}, "value": {"type": "string"}}, "required": ["key"]}


def _each(check: Callable[[str], str]) -> Callable[[tuple[str, ...]], tuple[str, ...]]:
    def run(values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(check(value) for value in values))

    return run


def _number(value: Any) -> Any:
    """Digits in a string are a number too, because the article has `"mtu": "1500"`. `true` is no number."""
    if isinstance(value, bool):
        raise ValueError("should be a number")
    return int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value.strip()) else value


def _labels(value: Any) -> Any:
    """The CNI conventions have a list of `{"key": …, "value": …}`; an object is clearer, and means the same."""
    if not isinstance(value, list | tuple):
        return value
    for at, item in enumerate(value):
        if not isinstance(item, dict) or not isinstance(item.get("key"), str):
            raise ValueError(f"[{at}] should be an object with key and value")
    return {item["key"]: item.get("value", "") for item in value}


def _mtu(value: int) -> int:
    """0 means the kernel's default. IPv4 needs an MTU of at least 68 (RFC 791)."""
    if 0 < value < 68:
        raise ValueError(f"{value} is below 68")
    return value


def _link(value: str) -> str:
    if reason := link_name_fault(value):
        raise ValueError(f"{value!r} is not an interface name: {reason}")
    return value


def _distinguisher(value: str) -> str:
    return value if value == "auto" else bgp.route_distinguisher(value)


def mac_address(value: str) -> str:
    """The MAC address in canonical form: lower case, with colons. Raises ValueError."""
    text = value.lower().replace("-", ":")
    if not _MAC.fullmatch(text):
        raise ValueError(f"{value!r} is not a MAC address")
    if text == "00:00:00:00:00:00":
        raise ValueError(f"{value!r} is no MAC address of an interface")
    if int(text[:2], 16) & 1:
        raise ValueError(f"{value!r} is a multicast MAC address")
    return text


def _prefix(value: str) -> str:
    if "%" in value:  # a zone may have any character, and a peer cannot use it
        raise ValueError(f"{value!r} has a zone")
    return str(ip_network(value))


RouteTargets = Annotated[tuple[str, ...], BeforeValidator(texts), AfterValidator(_each(bgp.route_target)), _TEXT]
Communities = Annotated[tuple[str, ...], BeforeValidator(texts), AfterValidator(_each(bgp.community)), _TEXT]
Prefixes = Annotated[tuple[str, ...], BeforeValidator(texts), AfterValidator(_each(_prefix)), _TEXT]
Texts = Annotated[tuple[str, ...], BeforeValidator(texts), _TEXT]
LinkName = Annotated[str, AfterValidator(_link)]
Mac = Annotated[str, AfterValidator(mac_address)]
Vlan = Annotated[int, BeforeValidator(_number), Field(ge=1, le=4094), _DIGITS]
Number32 = Annotated[int, BeforeValidator(_number), Field(ge=0, le=4294967295), _DIGITS]


class Section(BaseModel):
    """One object of the configuration."""

    model_config = ConfigDict(
        frozen=True, extra="allow", populate_by_name=True, hide_input_in_errors=True, defer_build=True
    )


class BgpSection(Section):
    """`bgp`: what is announced, and how long ADD waits for it. Times are in seconds.

    `vrf`: the VRF in which the bridge is. `l3vni`: that VRF's own VNI (type 5 routes of EVPN, RFC 9136).
    """

    family: Literal["unicast", "vpn", "evpn"] | None = None
    advertise: Literal["host", "subnet"] = "host"
    import_: Prefixes = Field(default=(), alias="import")
    vni: Annotated[int, BeforeValidator(_number), AfterValidator(bgp.vni), _DIGITS] | None = None
    vrf: LinkName | None = None
    l3vni: Annotated[int, BeforeValidator(_number), AfterValidator(bgp.vni), _DIGITS] | None = None
    rd: Annotated[str, AfterValidator(_distinguisher)] = "auto"
    communities: Communities = ()
    local_preference: Number32 | None = Field(default=None, alias="localPreference")
    med: Number32 | None = None
    wait: Literal["none", "sent", "acked"] = "none"
    wait_seconds: Annotated[float, BeforeValidator(_number), _DIGITS] = Field(
        default=2.0, ge=0.1, le=30, alias="waitSeconds"
    )
    drain_seconds: Annotated[float, BeforeValidator(_number), _DIGITS] = Field(
        default=0.0, ge=0, le=10, alias="drainSeconds"
    )


class RuntimeSection(Section):
    """`runtimeConfig`: what the runtime sets for the capabilities that the configuration declares (CNI conventions)."""

    mac: Mac | None = None
    ips: tuple[str, ...] = ()
    ip_ranges: Any = Field(default=None, alias="ipRanges")
    dns: dict[str, Any] | None = None
    annotations: dict[str, str] | None = Field(default=None, alias="io.kubernetes.cri.pod-annotations")


class DnsSection(Section):
    """`dns`: what is to be in the resolv.conf of the container."""

    nameservers: Texts = ()
    domain: str | None = None
    search: Texts = ()
    options: Texts = ()


class CniArgs(Section):
    """`args.cni`: what one attachment asks for (CNI conventions), such as its own route targets."""

    import_rt: RouteTargets | None = Field(default=None, alias="importRT")
    export_rt: RouteTargets | None = Field(default=None, alias="exportRT")
    ips: tuple[str, ...] = ()
    mac: Mac | None = None
    labels: Annotated[dict[str, str], BeforeValidator(_labels), Also({"type": "array", "items": _PAIR})] = Field(
        default_factory=dict
    )
    anycast: Annotated[Addresses, _TEXT] = ()
    health: HealthSection | None = None


class ArgsSection(Section):
    cni: CniArgs = CniArgs()


class ExporterSection(Section):
    """One entry of `exporters`: a name, or an object with a `type` that its exporter's model validates."""

    type: str
    name: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class TrunkSection(Section):
    """One entry of `vlanTrunk`: a VLAN, a range of them, or both."""

    id: Vlan | None = None
    min_id: Vlan | None = Field(default=None, alias="minID")
    max_id: Vlan | None = Field(default=None, alias="maxID")

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if (self.min_id is None) != (self.max_id is None):
            raise ValueError(
                f"minID and maxID must be given together: {'minID' if self.min_id is None else 'maxID'} is missing"
            )
        if self.min_id is not None and self.max_id is not None and self.min_id > self.max_id:
            raise ValueError(f"minID {self.min_id} is over maxID {self.max_id}")
        return self

    @property
    def vlans(self) -> frozenset[int]:
        span = range(self.min_id, self.max_id + 1) if self.min_id and self.max_id else ()
        return frozenset((*span, *([self.id] if self.id else ())))


def _exporter(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


def _exporters(value: Any) -> Any:
    return texts(value) if isinstance(value, str) else value


class NetworkConfig(Section):
    """The configuration of one call: the keys of the CNI specification (section 1) and ours."""

    cni_version: str = Field(default="0.1.0", alias="cniVersion")
    name: str
    type: str = "bgpcni"
    bridge: LinkName = "cni0"
    is_gateway: bool = Field(default=False, alias="isGateway")
    is_default_gateway: bool = Field(default=False, alias="isDefaultGateway")
    force_address: bool = Field(default=False, alias="forceAddress")
    ip_masq: bool = Field(default=False, alias="ipMasq")
    ip_masq_backend: Literal["nftables", "iptables"] | None = Field(default=None, alias="ipMasqBackend")
    mtu: Annotated[int, BeforeValidator(_number), Field(ge=0, le=65535), AfterValidator(_mtu), _DIGITS] = 0
    hairpin_mode: bool = Field(default=False, alias="hairpinMode")
    promisc_mode: bool = Field(default=False, alias="promiscMode")
    port_isolation: bool = Field(default=False, alias="portIsolation")
    macspoofchk: bool = False
    enabledad: bool = False
    vlan: Annotated[int, BeforeValidator(_number), Field(ge=0, le=4094), _DIGITS] = 0
    vlan_trunk: tuple[TrunkSection, ...] | None = Field(default=None, alias="vlanTrunk")
    preserve_default_vlan: bool = Field(default=False, alias="preserveDefaultVlan")
    disable_container_interface: bool = Field(default=False, alias="disableContainerInterface")
    mac: Mac | None = None
    import_rt: RouteTargets = Field(default=(), alias="importRT")
    export_rt: RouteTargets = Field(default=(), alias="exportRT")
    exporters: (
        Annotated[
            tuple[Annotated[ExporterSection, BeforeValidator(_exporter), _TEXT], ...],
            BeforeValidator(_exporters),
            _TEXT,
        ]
        | None
    ) = None
    bgp: BgpSection = BgpSection()
    ipam: dict[str, Any] | None = None
    dns: DnsSection | None = None
    runtime: RuntimeSection = Field(default=RuntimeSection(), alias="runtimeConfig")
    args: ArgsSection = ArgsSection()
    prev_result: Any = Field(default=None, alias="prevResult")
    valid_attachments: Any = Field(default=None, alias="cni.dev/valid-attachments")

    @property
    def ipam_type(self) -> str:
        """The IPAM plugin's name; "" for layer 2 only."""
        value = next((self.ipam[key] for key in self.ipam if key.lower() == "type"), "") if self.ipam else ""
        return value if isinstance(value, str) else ""


_FOREIGN = frozenset(
    ["capabilities", "cni.dev/attachments", "disablecheck", "disablegc", "loadonlyinlinedplugins", "cniversions"]
)
"""Keys of the runtime or of the list; they are no misspellings of our keys."""


def parse(document: Mapping[str, Any], *, escaped: bool = True) -> tuple[NetworkConfig, tuple[str, ...]]:
    """Validate a document from `decode`: returns the configuration and warnings. Raises InvalidConfiguration (7).

    `escaped`: the text has escapes, which may be halves of surrogate pairs.
    """
    if escaped and (place := _halved(document)):
        raise InvalidConfiguration(f"{place}: half of a surrogate pair")
    warnings: list[str] = []
    folded = _fold(document, NetworkConfig, "", warnings)
    try:
        config = NetworkConfig.model_validate(folded)
    except ValidationError as error:
        raise InvalidConfiguration(describe(error)) from None
    if config.ipam is not None:
        _look_at_ipam(config.ipam, warnings)
    if not is_name(config.name):
        form = f"letters, digits, '_', '.', '-', {NAME_MOST} at most"
        raise InvalidConfiguration(f"name: {config.name!r} is not a network name: {form}")
    return config, tuple(warnings)


def faults(document: Mapping[str, Any]) -> Iterator[str]:
    """Every error of a document for which `parse` raises one: `bgp.vni: 16777216 is over 16777215`."""
    try:
        NetworkConfig.model_validate(_fold(document, NetworkConfig, "", []))
    except ValidationError as error:
        yield from dict.fromkeys(findings(error))
    else:
        try:
            parse(document)
        except InvalidConfiguration as wrong:
            yield wrong.msg


def _look_at_ipam(ipam: Mapping[str, Any], warnings: list[str]) -> None:
    """Check that `type` is a name; for what is built in, also note the keys that look misspelt."""
    kind = next((value for key, value in ipam.items() if key.lower() == "type"), None)
    if kind is not None and not isinstance(kind, str):
        raise InvalidConfiguration("ipam.type: should be a string")
    if kind == "bgpcni-ipam":
        _look_at_keys(ipam, _CLUSTER, "ipam.", warnings)
    if kind != "host-local":
        return
    _look_at_keys(ipam, (*_HOST_LOCAL, *_RANGE), "ipam.", warnings)
    for at, ranges in enumerate(_list_of(ipam, "ranges")):
        for number, item in enumerate(ranges if isinstance(ranges, list) else ()):
            if isinstance(item, dict):
                _look_at_keys(item, _RANGE, f"ipam.ranges[{at}][{number}].", warnings)


def _list_of(section: Mapping[str, Any], name: str) -> list[Any]:
    found = next((value for key, value in section.items() if key.lower() == name), None)
    return found if isinstance(found, list) else []


def _look_at_keys(section: Iterable[str], known: Iterable[str], place: str, warnings: list[str]) -> None:
    """Warn of keys that look like a misspelling of a known one."""
    spelling = {name.lower(): name for name in known}
    for key in section:
        if key.lower() not in spelling and key.lower() not in _FOREIGN and (near := nearest(key.lower(), spelling)):
            warnings.append(f"{place}{ascii(key)[1:-1]}: unknown key; did you mean {spelling[near]!r}?")


def nearest(word: str, known: Iterable[str]) -> str:
    """The one of `known` that was probably meant by `word`, "" if none comes near."""
    import difflib  # needed only where something is misspelt

    return next(iter(difflib.get_close_matches(word, known, 1, NEAR)), "")


_CLUSTER = ("type", "pools", "routes", "resolvConf")
_HOST_LOCAL = ("type", "ranges", "routes", "dataDir", "resolvConf")
_RANGE = ("subnet", "rangeStart", "rangeEnd", "gateway")


def is_name(text: str) -> bool:
    """Whether the name is allowed by the specification and short enough to be part of a file's name."""
    return bool(_NAME.fullmatch(text)) and len(text) <= NAME_MOST


def decode(stdin: bytes) -> dict[str, Any]:
    """Decode one JSON object. Raises DecodingFailure (6), which says what is wrong and where."""
    try:
        document = json.loads(stdin)
    except UnicodeDecodeError:
        raise DecodingFailure("the network configuration is not UTF-8") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise DecodingFailure(f"the network configuration is not JSON: {error.msg} ({where})") from None
    except (RecursionError, ValueError) as error:
        raise DecodingFailure(f"the network configuration is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise DecodingFailure("the network configuration is not a JSON object")
    return document


def _halved(document: Mapping[str, Any]) -> str:
    """The place of a string that cannot be written as UTF-8 again; "" if there is none."""
    rest: list[tuple[str, Any]] = [("", document)]
    while rest:
        place, value = rest.pop()
        if isinstance(value, str) and any("\ud800" <= char <= "\udfff" for char in value):
            return ascii(place)[1:-1] or "the network configuration"
        if isinstance(value, dict):
            rest += [(f"{place}.{key}" if place else key, part) for key, item in value.items() for part in (key, item)]
        elif isinstance(value, list):
            rest += [(f"{place}[{at}]", item) for at, item in enumerate(value)]
    return ""


_WORDS = {
    "missing": "missing",
    "extra_forbidden": "unknown key",
    "model_type": "should be an object",
    "model_attributes_type": "should be an object",
    "dict_type": "should be an object",
    "tuple_type": "should be a list",
    "list_type": "should be a list",
    "string_type": "should be a string",
    "string_unicode": "half of a surrogate pair",
    "bool_type": "should be true or false",
    "bool_parsing": "should be true or false",
    "int_type": "should be a number",
    "int_parsing": "should be a number",
    "int_parsing_size": "is too large a number",
    "int_from_float": "should be a whole number",
    "float_type": "should be a number",
    "float_parsing": "should be a number",
    "json_invalid": "is not JSON",
    "greater_than_equal": "{input} is below {ge}",
    "less_than_equal": "{input} is over {le}",
    "too_short": "has {actual_length} entries, but needs at least {min_length}",
    "too_long": "has {actual_length} entries, but may have {max_length} at most",
}
"""How we word the errors of pydantic, by their type. The braces are filled with the value and what pydantic gives."""


def describe(error: ValidationError, prefix: str = "", model: type[BaseModel] | None = None) -> str:
    """The errors of pydantic in one line: `bgp.vni: 16777216 is over 16777215; mtu: …`.

    With the `model` that refused an unknown key, the key that was probably meant is named too.
    """
    return "; ".join(dict.fromkeys(findings(error, prefix, model)))


def findings(error: ValidationError, prefix: str = "", model: type[BaseModel] | None = None) -> Iterator[str]:
    """The errors of pydantic one by one, as in `describe`."""
    for finding in error.errors(include_url=False):
        place = prefix
        for part in finding["loc"]:
            if isinstance(part, int):
                place += f"[{part}]"
            elif not re.fullmatch(r"(function|tuple|constrained|literal|nullable|ExporterSection).*", part):
                place += f".{part}" if place else part
        kind, context = finding["type"], finding.get("ctx", {})
        text = finding["msg"].removeprefix("Value error, ").removeprefix("Input ")
        if kind in _WORDS:
            text = _WORDS[kind].format_map({**context, "input": finding["input"]})
        if kind == "extra_forbidden" and model is not None:
            text += _meant(model, finding["loc"])
        yield f"{place}: {text}" if place else text


def _meant(model: type[BaseModel], place: Sequence[int | str]) -> str:
    """`; did you mean 'asn'?` for the unknown key at the end of `place`; "" if no key is similar."""
    *path, key = place
    for part in path:
        field = next((f for name, f in model.model_fields.items() if part in (name, f.alias)), None)
        if field is None:
            continue  # an index of a list, or a name in a table of tables: the model stays the same
        found = _model_in(field.annotation)
        if found is None:
            return ""
        model = found
    names = {(field.alias or name).lower(): field.alias or name for name, field in model.model_fields.items()}
    near = nearest(str(key).lower(), names)
    return f"; did you mean {names[near]!r}?" if near else ""


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)


def _fold(document: Mapping[str, Any], model: type[BaseModel], place: str, warnings: list[str]) -> dict[str, Any]:
    """Spell the keys as `model` does, in nested sections too, and note the keys that look misspelt."""
    names = {(field.alias or name): field for name, field in model.model_fields.items()}
    spelling = {name.lower(): name for name in names}
    folded: dict[str, Any] = {}
    _look_at_keys(document, names, place, warnings)
    for key, value in document.items():
        name = spelling.get(key.lower())
        if name is None:
            folded[key] = value
            continue
        section = _SECTIONS.get((model, name))
        if section and isinstance(value, dict):
            value = _fold(value, section, f"{place}{name}.", warnings)
        elif section and isinstance(value, list):
            value = [
                _fold(item, section, f"{place}{name}[{at}].", warnings) if isinstance(item, dict) else item
                for at, item in enumerate(value)
            ]
        if value is None and names[name].default is not None:
            continue  # Go reads null as if the key were not given
        folded[name] = value
    return folded


_SECTIONS: dict[tuple[type[BaseModel], str], type[BaseModel]] = {
    (NetworkConfig, "bgp"): BgpSection,
    (NetworkConfig, "runtimeConfig"): RuntimeSection,
    (NetworkConfig, "args"): ArgsSection,
    (ArgsSection, "cni"): CniArgs,
    (CniArgs, "health"): HealthSection,
    (NetworkConfig, "dns"): DnsSection,
    (NetworkConfig, "vlanTrunk"): TrunkSection,
}
