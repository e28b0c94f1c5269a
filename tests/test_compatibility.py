"""What docs/reference/support.md promises about the version before this one, held against what that one wrote.

`tests/compatibility/VERSION` has the record of an attachment and the JSON Schemas of a release. After a release
`python -m tests.test_compatibility` adds those of the next one; what is there is never changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bgpcni import __version__
from bgpcni.attached import Kept
from bgpcni.cni.result import Route
from bgpcni.model import (
    Address,
    Anycast,
    Attachment,
    Attributes,
    Bgp,
    ExporterUse,
    Gateway,
    Health,
    IpamRecord,
    Pod,
    State,
)
from bgpcni.operator import schemas
from bgpcni.store import Store

FOLDER = Path(__file__).with_name("compatibility")
VERSIONS = sorted(path.name for path in FOLDER.iterdir())
FULL = Attachment(
    boot_id="0a1b", network="net", container_id="c1", ifname="eth0", netns="/run/netns/c1", cookie=7, nsid=3,
    cni_version="1.1.0", bridge="cni0", bridge_index=4, bridge_mac="02:00:00:00:00:04", vlan=5, vlan_filtering=True,
    gateway=Gateway(name="cni0.5", index=6, mac="02:00:00:00:00:06"), is_gateway=True, host_mac="02:00:00:00:00:07",
    host_veth="vethbgp1", host_index=7, peer_index=2, mac="02:00:00:00:00:08", mtu=1450,
    addresses=(Address(address="10.1.2.3/24", gateway="10.1.2.1", block="10.1.2.0/26"),),
    routes=(Route(dst="0.0.0.0/0", gw="10.1.2.1", mtu=1400, advmss=1360, priority=5, table=9, scope=0),),
    ip_masq="nftables", mac_spoof_check=True,
    ipam=IpamRecord(type="other", data_dir="/var/lib/other", stdin="{}", environment={"CNI_ARGS": "A=1"}),
    bgp=Bgp(
        family="evpn", advertise="subnet", vni=5001, rd="192.0.2.1:1", label=16, vrf="red", l3vni=4001, table=182001,
        import_prefixes=("10.0.0.0/8",), forwarder="agent", anycast=True, drain_seconds=1.5, import_rt=("64512:1",),
        export_rt=("64512:2",), communities=("64512:3", "64512:1:2"), local_preference=200, med=10,
    ),
    exporters=(ExporterUse(name="fabric", type="exabgp", config={"a": 1}),),
    asked=(ExporterUse(name="fabric", type="exabgp"),), mobility=2, pod=Pod(namespace="shop", name="web", uid="u"),
    labels={"tier": "web"}, namespace_labels={"team": "shop"}, own_export_rt=True,
    plain=Attributes(export_rt=("64512:2",)), common=Attributes(med=10), policies={"med": ("one", "two")},
    anycast=Anycast(addresses=("192.0.2.53",), health=Health(kind="tcp", port=53), passing=True),
    created="2026-01-31T12:00:00.000Z", since="2026-01-31T12:00:01.000Z",
)  # fmt: skip
"""An attachment in whose record no key has its default, except for `chained`."""


def test_the_record_of_these_tests_has_every_key() -> None:
    """Otherwise a key could lose its meaning, and no test here would notice."""
    same = {name for name, field in Attachment.model_fields.items() if getattr(FULL, name) == field.default}
    assert same <= {"schema_number", "chained"}, "give these keys of FULL a value that is not their default"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_record_of_the_version_before_is_read(version: str) -> None:
    """With all that it says: so an upgrade keeps every container, its addresses and its routes."""
    text = (FOLDER / version / "record.json").read_bytes()
    then, now = json.loads(text), json.loads(Attachment.of_disk(text).model_dump_json(by_alias=True))
    assert list(lost(then, now)) == []


def lost(then: Any, now: Any, path: str = "") -> Iterator[str]:
    """What `now` lacks of `then`, or has with another value."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key, value in then.items():
            yield from lost(value, now[key], f"{path}.{key}") if key in now else [f"{path}.{key}"]
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for at, (one, other) in enumerate(zip(then, now, strict=True)):
            yield from lost(one, other, f"{path}[{at}]")
    elif then != now:
        yield path


def with_new_keys(value: Any, *, free: bool = False) -> Any:
    """A record as the version after this one may write it: each object has a key more. `free`: keys are users' own."""
    if isinstance(value, list):
        return [with_new_keys(item) for item in value]
    if not isinstance(value, dict) or free:
        return value
    own = ("labels", "namespace_labels", "policies", "config", "environment")
    return {key: with_new_keys(item, free=key in own) for key, item in value.items()} | {"later": [1]}


def test_a_record_of_the_version_after_is_read(tmp_path: Path) -> None:
    """Without the keys that it has added, wherever they are: so one can go back, and every container stays."""
    store = Store(tmp_path / "data", tmp_path / "run")
    store.put(State.UP, FULL)
    (path,) = (tmp_path / "data").rglob("attachments/up/*.json")
    path.write_text(json.dumps(with_new_keys(json.loads(path.read_text()))))
    assert [(one.state, one.attachment, one.problem) for one in store.all()] == [(State.UP, FULL, "")]
    store.close()


@pytest.mark.parametrize("change", [{"schema": 2}, {"schema": 2, "later": 1}, {"ip_masq": "ebpf"}, {"vlan": "later"}])
def test_a_record_that_must_not_be_half_understood_is_refused(change: Mapping[str, object]) -> None:
    """One of another schema, or with a value that this version does not know."""
    with pytest.raises(ValidationError):
        Attachment.of_disk(json.dumps(json.loads(FULL.model_dump_json(by_alias=True)) | change).encode())


def test_what_attach_keeps_is_read_by_the_version_before() -> None:
    kept = Kept(network={"name": "net"}, container_id="c", ifname="eth0", pid=1, boot_id="b", cookie=2)
    document = json.loads(kept.model_dump_json(by_alias=True))
    assert Kept.of_disk(json.dumps(document | {"later": 1}).encode()) == kept
    with pytest.raises(ValidationError):
        Kept.of_disk(json.dumps(document | {"schema": 2}).encode())


@pytest.mark.parametrize("name", schemas.NAMES)
@pytest.mark.parametrize("version", VERSIONS)
def test_what_the_version_before_accepted_is_accepted(version: str, name: str) -> None:
    """No key of its JSON Schema is gone, has become required, or has lost a type, a value or a part of its range."""
    then = json.loads((FOLDER / version / f"{name}.json").read_text())
    assert list(narrowed(then, schemas.schema(name), then, schemas.schema(name), "")) == []


def narrowed(then: Any, now: Any, roots: Any, rootn: Any, path: str) -> Iterator[str]:
    """In what the schema `now` accepts less than `then`."""
    then, now = resolved(then, roots), resolved(now, rootn)
    if not now:
        return  # anything
    ways, present = alternatives(then), [resolved(way, rootn) for way in alternatives(now)]
    if len(ways) > 1 or len(present) > 1:
        for way in ways:
            tries = [list(narrowed(way, other, roots, rootn, path)) for other in present]
            if all(tries):
                yield from min(tries, key=len)
        return
    if "type" in now and then.get("type") != now["type"] and (then.get("type"), now["type"]) != ("integer", "number"):
        yield f"{path}: {then.get('type')} became {now['type']}"
        return
    if "enum" in now and not set(then.get("enum", [then.get("const")])) <= set(now["enum"]):
        yield f"{path}: values are gone"
    if "const" in now and then.get("const", (then.get("enum") or [None])[0]) != now["const"]:
        yield f"{path}: another constant"
    for bound, worse in (("minimum", lambda a, b: b > a), ("maximum", lambda a, b: b < a)):
        if bound in now and (bound not in then or worse(then[bound], now[bound])):
            yield f"{path}: {bound}"
    for key in set(now.get("required", ())) - set(then.get("required", ())):
        yield f"{path}.{key}: required"
    for key, value in then.get("properties", {}).items():
        if key in now.get("properties", {}):
            yield from narrowed(value, now["properties"][key], roots, rootn, f"{path}.{key}")
        elif now.get("additionalProperties") is False:
            yield f"{path}.{key}: gone"
    for inner in ("items", "additionalProperties"):
        if isinstance(then.get(inner), dict) and isinstance(now.get(inner), dict):
            yield from narrowed(then[inner], now[inner], roots, rootn, f"{path}[]")


def alternatives(schema: Mapping[str, Any]) -> list[Any]:
    return list(schema.get("anyOf") or schema.get("oneOf") or [schema])


def resolved(schema: Any, root: Any) -> Any:
    while isinstance(schema, dict) and "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rsplit("/", 1)[1]]
    return schema


@pytest.mark.parametrize(
    ("then", "now", "less"),
    [
        ({"type": "string"}, {"type": "integer"}, True),
        ({"type": "string"}, {"anyOf": [{"type": "integer"}, {"type": "string"}]}, False),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, {"type": "string"}, True),
        ({"type": "integer", "maximum": 9}, {"type": "integer", "maximum": 8}, True),
        ({"type": "integer", "maximum": 9}, {"type": "integer", "maximum": 10}, False),
        ({"type": "string", "enum": ["a", "b"]}, {"type": "string", "enum": ["a"]}, True),
        ({"type": "object"}, {"type": "object", "required": ["a"]}, True),
        (
            {"type": "object", "properties": {"a": {}}},
            {"type": "object", "properties": {}, "additionalProperties": False},
            True,
        ),
    ],
)
def test_a_schema_that_accepts_less_is_noticed(then: Any, now: Any, *, less: bool) -> None:
    """The comparison itself."""
    assert bool(list(narrowed(then, now, then, now, ""))) is less


def write() -> None:
    """The files of this version. Raises FileExistsError where they are there."""
    folder = FOLDER / __version__
    folder.mkdir()
    (folder / "record.json").write_text(FULL.model_dump_json(by_alias=True, indent=1) + "\n")
    for name in schemas.NAMES:
        (folder / f"{name}.json").write_text(schemas.text(name))


if __name__ == "__main__":
    write()
