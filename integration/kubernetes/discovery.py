"""What clients ask to learn which kinds there are: discovery, old and aggregated, and OpenAPI v3. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from itertools import groupby
from typing import Any

from integration.kubernetes.kinds import Kind, Object

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
VERSION = {
    "major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36", "minCompatibilityMajor": "1",
    "minCompatibilityMinor": "35", "gitVersion": "v1.36.2-double", "gitCommit": "", "gitTreeState": "clean",
    "buildDate": "2026-01-01T00:00:00Z", "goVersion": "", "compiler": "", "platform": "linux/amd64",
}  # fmt: skip
_FIELD_VALIDATION = {
    "name": "fieldValidation", "in": "query", "uniqueItems": True, "schema": {"type": "string", "uniqueItems": True},
}  # fmt: skip
_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_METADATA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"}, "namespace": {"type": "string"}, "labels": _TEXTS, "annotations": _TEXTS,
        "finalizers": {"type": "array", "items": {"type": "string"}, "x-kubernetes-patch-strategy": "merge"},
    },
}  # fmt: skip
_STATUS_VERBS = ["get", "patch", "update"]


def _by_version(kinds: Iterable[Kind]) -> list[tuple[tuple[str, str], list[Kind]]]:
    ordered = sorted(kinds, key=lambda kind: (kind.group, kind.version))
    return [(key, list(of)) for key, of in groupby(ordered, key=lambda kind: (kind.group, kind.version))]


def api_versions(address: str) -> Object:
    where = [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": where}


def groups(kinds: Iterable[Kind]) -> Object:
    listed = []
    for (group, version), _ in _by_version(kind for kind in kinds if kind.group):
        entry = {"groupVersion": f"{group}/{version}", "version": version}
        listed.append({"name": group, "versions": [entry], "preferredVersion": entry})
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}


def resources(kinds: Iterable[Kind], group_version: str) -> Object | None:
    """The resources of one version of one group; None where there is no such."""
    listed: list[Object] = []
    for kind in kinds:
        if kind.group_version != group_version:
            continue
        entry = {
            "name": kind.plural, "singularName": kind.one, "namespaced": kind.namespaced, "kind": kind.name,
            "verbs": list(kind.verbs), "shortNames": list(kind.short), "categories": list(kind.categories),
            "storageVersionHash": hashlib.sha256(kind.qualified.encode()).hexdigest()[:11] + "=",
        }  # fmt: skip
        listed.append({name: value for name, value in entry.items() if value or name == "namespaced"})
        if kind.status:
            listed.append({"name": f"{kind.plural}/status", "singularName": "", "namespaced": kind.namespaced,
                           "kind": kind.name, "verbs": _STATUS_VERBS})  # fmt: skip
        if kind.name == "Pod":
            listed.append({"name": "pods/eviction", "singularName": "", "namespaced": True, "group": "policy",
                           "version": "v1", "kind": "Eviction", "verbs": ["create"]})  # fmt: skip
    if not listed:
        return None
    of_core = {} if "/" not in group_version else {"apiVersion": "v1"}
    return {"kind": "APIResourceList", **of_core, "groupVersion": group_version, "resources": listed}


def aggregated(kinds: Iterable[Kind], *, core: bool) -> Object:
    items = []
    for (group, version), of in _by_version(kind for kind in kinds if bool(kind.group) is not core):
        listed = []
        for kind in of:
            answer = {"group": kind.group, "version": kind.version if kind.group else "", "kind": kind.name}
            entry: Object = {
                "resource": kind.plural, "responseKind": answer,
                "scope": "Namespaced" if kind.namespaced else "Cluster", "singularResource": kind.one,
                "verbs": list(kind.verbs), "shortNames": list(kind.short), "categories": list(kind.categories),
            }  # fmt: skip
            if kind.status:
                entry["subresources"] = [{"subresource": "status", "responseKind": answer, "verbs": _STATUS_VERBS}]
            if kind.name == "Pod":
                eviction = {"group": "policy", "version": "v1", "kind": "Eviction"}
                entry["subresources"].append({"subresource": "eviction", "responseKind": eviction, "verbs": ["create"]})
            listed.append({name: value for name, value in entry.items() if value})
        metadata = {"name": group} if group else {}
        versions = [{"version": version, "resources": listed, "freshness": "Current"}]
        items.append({"metadata": metadata, "versions": versions})
    return {"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items}


def etag(document: Any) -> str:
    return f'"{hashlib.sha512(json.dumps(document, sort_keys=True).encode()).hexdigest().upper()}"'


def openapi_paths(kinds: Iterable[Kind]) -> Object:
    paths = {}
    grouped = [
        (f"apis/{group}/{version}" if group else f"api/{version}", of) for (group, version), of in _by_version(kinds)
    ]
    for path, of in [*grouped, ("version", list[Kind]())]:
        mark = etag(openapi(of, path)).strip('"')
        paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={mark}"}
    return {"paths": paths}


def _patches(kind: Kind) -> Object:
    """The patches that it takes: kubectl reads from this how to patch."""
    media = ["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"]
    media += [] if kind.custom else ["application/strategic-merge-patch+json"]
    return {one: {"schema": {"type": "object"}} for one in media}


def openapi(kinds: Iterable[Kind], path: str) -> Object | None:
    """OpenAPI v3 of one version of one group (`api/v1`, `apis/GROUP/VERSION`); None where there is no such."""
    schemas: Object = {}
    paths: Object = {}
    for kind in kinds:
        if path != (f"apis/{kind.group_version}" if kind.group else f"api/{kind.version}"):
            continue
        name = f"{'.'.join(reversed(kind.group.split('.'))) or 'io.k8s.api.core'}.{kind.version}.{kind.name}"
        known = {"group": kind.group, "version": kind.version, "kind": kind.name}
        schema = dict(kind.schema or {"type": "object"})
        schema["properties"] = {
            "apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": _METADATA,
            **schema.get("properties", {}),
        }  # fmt: skip
        if kind.schema is None:
            for inner in kind.fields or ("spec", "status"):
                schema["properties"][inner] = {"type": "object"}
        schema["x-kubernetes-group-version-kind"] = [known]
        schemas[name] = schema
        where = f"/{path}/namespaces/{{namespace}}/{kind.plural}" if kind.namespaced else f"/{path}/{kind.plural}"
        write = {"parameters": [_FIELD_VALIDATION], "x-kubernetes-group-version-kind": known, "responses": {}}
        paths[where] = {"post": {**write, "x-kubernetes-action": "post"}}
        paths[f"{where}/{{name}}"] = {
            "put": {**write, "x-kubernetes-action": "put"},
            "patch": {**write, "x-kubernetes-action": "patch", "requestBody": {"content": _patches(kind)}},
        }
    if not schemas and path != "version":
        return None
    info = {"title": "Kubernetes", "version": "v1.36.2-double"}
    return {"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": schemas}}
