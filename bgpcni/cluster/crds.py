"""The CustomResourceDefinitions of our objects, made from their models: `python -m bgpcni.cluster.crds`. Pure.

An API server takes structural schemas only: no `$ref`, one type each, and of JSON Schema a part.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from bgpcni.cluster.objects import API_VERSION, KINDS, Object
from bgpcni.config.network import SHORT

Schema = dict[str, Any]
GROUP, _, VERSION = API_VERSION.partition("/")
_KEPT = (
    "type", "description", "enum", "format", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems",
    "maxItems", "minProperties", "maxProperties", "x-kubernetes-validations", "x-kubernetes-preserve-unknown-fields",
)  # fmt: skip


def definitions() -> list[Schema]:
    """One for each kind, in order of their names."""
    return [_definition(kind) for _, kind in sorted(KINDS.items())]


def _definition(kind: type[Object]) -> Schema:
    name = kind.__name__
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "categories": ["bgpcni"], "kind": name, "listKind": f"{name}List", "plural": kind.plural,
                "singular": name.lower(),
            },
            "scope": "Cluster",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [*_columns(kind)],
                    "schema": {"openAPIV3Schema": _schema(kind)},
                }
            ],
        },
    }  # fmt: skip


def _columns(kind: type[Object]) -> list[Schema]:
    found = [{"name": name, "type": "string", "jsonPath": path} for name, path in kind.columns.items()]
    return [*found, {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}]


def _schema(kind: type[Object]) -> Schema:
    whole = kind.model_json_schema(by_alias=True, mode="validation")
    spec = _structural(whole["properties"]["spec"], whole.get("$defs", {}))
    required = {"required": ["spec"]} if "spec" in whole.get("required", ()) else {}
    return {
        "type": "object",
        **({"description": _text(kind.__doc__)} if kind.__doc__ else {}),
        **required,
        "properties": {
            "spec": spec,
            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        },
    }


def _structural(schema: Schema, known: Mapping[str, Schema]) -> Schema:
    """The same as one structural schema. What is absent has no default: the agents know theirs."""
    if "$ref" in schema:
        schema = known[schema["$ref"].rpartition("/")[2]] | {
            key: value for key, value in schema.items() if key != "$ref"
        }
    choices = [item for item in schema.get("anyOf", ()) if item.get("type") != "null" and SHORT not in item]
    if len(choices) == 1:  # a value that may be absent
        return _structural(choices[0] | {key: value for key, value in schema.items() if key != "anyOf"}, known)
    found = {key: schema[key] for key in _KEPT if key in schema}
    if choices:
        found["anyOf"] = choices
    if "const" in schema:
        found["enum"] = [schema["const"]]
    if found.get("type") == "integer":
        found["format"] = "int64"
    if "description" in found:
        found["description"] = _text(found["description"])
    if isinstance(schema.get("additionalProperties"), dict):
        found["additionalProperties"] = _structural(schema["additionalProperties"], known)
    if "items" in schema:
        found["items"] = _structural(schema["items"], known)
    if "properties" in schema:
        found["properties"] = {key: _structural(value, known) for key, value in schema["properties"].items()}
        if schema.get("required"):
            found["required"] = sorted(schema["required"])
    return found


def _text(words: str | None) -> str:
    return " ".join((words or "").replace("`", "").split())


def text() -> str:
    """As YAML, which is what `deploy/kubernetes/crds` has."""
    import yaml

    head = "# Made from the models of bgpcni/cluster/objects.py by `python -m bgpcni.cluster.crds`.\n"
    return head + str(yaml.safe_dump_all(definitions(), sort_keys=False, width=140, allow_unicode=True))


if __name__ == "__main__":
    sys.stdout.write(text())
