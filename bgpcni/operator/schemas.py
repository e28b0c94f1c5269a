"""JSON Schemas of what an operator writes, for editors: agent.toml, networks, the objects of a cluster. Pure.

They are made from the models, so they accept what the models accept; what follows from several keys together is only
said by `bgpcni validate`.
"""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

from pydantic.json_schema import models_json_schema

from bgpcni.cluster.objects import KINDS
from bgpcni.config.agent import AgentConfig
from bgpcni.config.network import NetworkConfig
from bgpcni.launcher.install import NAMES as NAMES_OF_PLUGIN

Schema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"
NAMES = ("agent", "network", "objects")
_PLAIN = "x-kubernetes-preserve-unknown-fields"
"""An API server is told by this that more keys may come; here they are labels."""


def schema(name: str) -> Schema:
    """The schema of `agent`, `network` or `objects`."""
    made = {"agent": _agent, "network": _network, "objects": _objects}[name]()
    title = {"agent": "agent.toml of bgpcni", "network": "A network of bgpcni", "objects": "Objects of bgpcni"}[name]
    return {"$schema": DIALECT} | made | {"title": title}


def text(name: str) -> str:
    return json.dumps(schema(name), indent=1) + "\n"


def _agent() -> Schema:
    return dict(_without_null(AgentConfig.model_json_schema(by_alias=True)))


def _without_null(value: Any) -> Any:
    """TOML has no null. Where nothing else is left to choose, an error names the key and not the choice."""
    if isinstance(value, list):
        return [_without_null(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {key: _without_null(item) for key, item in value.items() if (key, item) != ("default", None)}
    if ways := [way for way in kept.get("anyOf", ()) if way != {"type": "null"}]:
        del kept["anyOf"]
        kept = {**ways[0], **kept} if len(ways) == 1 else {**kept, "anyOf": ways}
    return kept


def _network() -> Schema:
    """A configuration, or a list of plugins in which ours are checked. An editor's own key `$schema` is no error."""
    single = NetworkConfig.model_json_schema(by_alias=True)
    definitions = single.pop("$defs")
    plugin = deepcopy(single)
    del plugin["required"]
    ours = {
        "if": {"properties": {"type": {"enum": list(NAMES_OF_PLUGIN)}}, "required": ["type"]},
        "then": {"$ref": "#/$defs/Plugin"},
    }
    several = {
        "type": "object",
        "properties": {
            "cniVersion": {"type": "string"},
            "name": {"type": "string"},
            "plugins": {"type": "array", "minItems": 1, "items": ours},
        },
        "required": ["name", "plugins"],
    }
    return {"$defs": definitions | {"Plugin": plugin}, "if": {"required": ["plugins"]}, "then": several, "else": single}


def _objects() -> Schema:
    references, whole = models_json_schema([(kind, "validation") for kind in KINDS.values()], by_alias=True)
    for definition in whole["$defs"].values():
        if definition.pop(_PLAIN, False):
            definition["additionalProperties"] = {"type": "string"}
    for name in KINDS:
        whole["$defs"][name]["required"] += ["apiVersion", "kind"]
    return {"$defs": whole["$defs"], "oneOf": list(references.values())}
