"""`bgpcni validate FILE…`: network configurations, agent.toml and the cluster's objects. It asks no agent.

What a file is follows from its content, not from its name. Every error of a file is reported, not the first only. If an
agent.toml is among the files, the networks are judged by its `[policy]`, too.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from bgpcni.cni.versions import SUPPORTED
from bgpcni.config import network
from bgpcni.config.agent import AgentConfig, BgpTable
from bgpcni.convergence import catalog
from bgpcni.errors import CniError
from bgpcni.files import read_plain
from bgpcni.ipam import config as ipam
from bgpcni.launcher.install import NAMES
from bgpcni.model import NodeFacts
from bgpcni.node import facts, plan
from bgpcni.node.request import Request, parse_request
from bgpcni.operator.libcni import Network

Document = dict[str, Any]
Kind = Literal["network", "agent", "objects", "unknown"]
_MOST = 16 << 20
_CALL = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c", "CNI_NETNS": "/n", "CNI_IFNAME": "eth0", "CNI_PATH": "/"}
_TOML = re.compile(r"^[ \t]*(\[{1,2}[^\[\]\n]+\]|[\w.\"'-]+[ \t]*=)", re.MULTILINE)
"""A line by which TOML is told from YAML."""
_PLACE = re.compile(r"((?:[A-Z]\w+ \S+: )?[\w.\-/\[\]\" ]+?): (.+)", re.DOTALL)
"""`key: text`; before the key of an object are its kind and name."""


class Wrong(NamedTuple):
    """One error. `key` is empty where it is about the file as a whole."""

    key: str
    text: str

    @classmethod
    def of(cls, message: str, prefix: str = "") -> Wrong:
        found = _PLACE.fullmatch(message)
        key, text = (found[1], found[2]) if found else ("", message)
        return cls(".".join(filter(None, (prefix, key))), text)


@dataclass(slots=True)
class Checked:
    """What was found of one file."""

    file: str
    kind: Kind = "unknown"
    names: list[str] = field(default_factory=list)
    errors: list[Wrong] = field(default_factory=list)
    warnings: list[Wrong] = field(default_factory=list)
    content: Any = None

    def document(self) -> Document:
        return {
            "file": self.file,
            "kind": self.kind,
            "names": self.names,
            "errors": [wrong._asdict() for wrong in self.errors],
            "warnings": [wrong._asdict() for wrong in self.warnings],
        }


def run(files: Sequence[str]) -> tuple[Document, int]:
    """All errors of all files; exit 1 if there is one."""
    checked = [_read(file) for file in files]
    for one in checked:
        if one.kind == "agent":
            _check_agent(one)
    agents = [AgentConfig.model_validate(one.content) for one in checked if one.kind == "agent" and not one.errors]
    for one in checked:
        if one.kind == "network":
            _check_network(one, agents[0] if agents else None)
    _check_objects([one for one in checked if one.kind == "objects"])
    wrong = any(one.errors for one in checked)
    return {"schema": 1, "valid": not wrong, "files": [one.document() for one in checked]}, int(wrong)


def text(document: Document) -> str:
    """`FILE: key: text` for each error and warning; what is valid, in short."""
    lines = []
    for one in document["files"]:
        for wrong, mark in (
            *((each, "") for each in one["errors"]),
            *((each, " (warning)") for each in one["warnings"]),
        ):
            lines.append(": ".join(filter(None, (one["file"], wrong["key"], wrong["text"]))) + mark)
        if not one["errors"]:
            what = {"agent": "agent.toml", "network": "network", "objects": "objects"}[one["kind"]]
            lines.append(f"{one['file']}: valid: {what} {', '.join(one['names'])}".rstrip())
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- what a file is


def _read(file: str) -> Checked:
    found = Checked(file)
    try:
        octets = read_plain(file, _MOST)
        content = octets.decode("utf-8-sig" if octets.startswith(b"\xef\xbb\xbf") else "utf-8")
    except OSError as error:
        found.errors.append(Wrong("", error.strerror or str(error)))
    except UnicodeDecodeError:
        found.errors.append(Wrong("", "not UTF-8"))
    else:
        _parse(found, content)
    return found


def _parse(found: Checked, content: str) -> None:
    if content.lstrip().startswith(("{", "[{")):
        _parse_json(found, content)
    elif _TOML.search(content) or (found.file.endswith(".toml") and not content.strip("\n\t ").startswith("{")):
        _parse_toml(found, content)
    elif not content.strip():
        found.errors.append(Wrong("", "there is nothing in it"))
    else:
        _parse_yaml(found, content)


def _parse_json(found: Checked, content: str) -> None:
    try:
        document = json.loads(content)
    except json.JSONDecodeError as error:
        found.errors.append(Wrong("", f"not JSON: {error.msg} (line {error.lineno} column {error.colno})"))
        return
    except (ValueError, RecursionError) as error:
        found.errors.append(Wrong("", f"not JSON: {error}"))
        return
    if isinstance(document, dict) and ("apiVersion" in document or "kind" in document):
        found.kind, found.content = "objects", [document]
    else:
        found.kind, found.content = "network", document


def _parse_toml(found: Checked, content: str) -> None:
    try:
        found.content = tomllib.loads(content)
        found.kind = "agent"
    except tomllib.TOMLDecodeError as error:
        found.errors.append(Wrong("", f"not TOML: {error}"))


def _parse_yaml(found: Checked, content: str) -> None:
    try:
        import yaml
    except ImportError:
        found.errors.append(Wrong("", "YAML cannot be read here: pip install 'bgpcni[etcd]'"))
        return
    try:
        documents = [document for document in yaml.safe_load_all(content) if document is not None]
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        found.errors.append(Wrong("", f"not YAML: {error.problem} (line {line})"))
        return
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        found.errors.append(Wrong("", f"not YAML: {' '.join(str(error).split())}"))
        return
    if not documents:
        found.errors.append(Wrong("", "there is nothing in it"))
    elif len(documents) == 1 and isinstance(documents[0], dict) and not documents[0].keys() & {"apiVersion", "kind"}:
        found.kind, found.content = "network", documents[0]
        found.warnings.append(Wrong("", "runtimes read JSON only, and this is YAML"))
    else:
        found.kind, found.content = "objects", documents


# ---------------------------------------------------------------- agent.toml


def _check_agent(found: Checked) -> None:
    try:
        config = AgentConfig.model_validate(found.content)
    except ValidationError as error:
        found.errors += [Wrong.of(each) for each in dict.fromkeys(network.findings(error, model=AgentConfig))]
        return
    found.errors += [Wrong.of(each) for each in dict.fromkeys(_agent_faults(config))]


def _agent_faults(config: AgentConfig) -> Iterator[str]:
    """What the agent would refuse at its start, beyond the schema."""
    for use in plan.configured(config):
        try:
            catalog.configure(use, f"exporters.{use.name}")
        except CniError as error:
            yield error.msg
    for check in (facts.refuse_passwords, facts.resolve):
        try:
            check(config)
        except CniError as error:
            yield error.msg


# ---------------------------------------------------------------- networks


def _check_network(found: Checked, agent: AgentConfig | None) -> None:
    document = found.content
    common = {"cniVersion": SUPPORTED[-1], "name": "n"}  # what is wrong with these is said once, for the whole file
    try:
        whole = Network.parse(document, "")
        common = {"cniVersion": whole.version, "name": whole.name}
        found.names.append(whole.name)
    except CniError as error:
        wrong = Wrong.of(error.msg.removeprefix(": "))
        found.errors.append(wrong if "CNI version" not in wrong.key else Wrong("cniVersion", error.msg[2:]))
    if not isinstance(document, dict):
        return
    listed = document.get("plugins")
    if listed is None:
        _check_plugin(found, document | common, "", agent)
    for at, plugin in enumerate(listed if isinstance(listed, list) else ()):
        if isinstance(plugin, dict):
            _check_plugin(found, plugin | common, f"plugins[{at}]", agent)


def _check_plugin(found: Checked, document: Mapping[str, Any], prefix: str, agent: AgentConfig | None) -> None:
    """One plugin's configuration, if it is ours. `prefix`: where it is in a list."""
    if document.get("type") in NAMES:
        messages = dict.fromkeys(_plugin_faults(document, agent, found, prefix))
        found.errors += [Wrong.of(message, prefix) for message in messages]


def _plugin_faults(
    document: Mapping[str, Any], agent: AgentConfig | None, found: Checked, prefix: str
) -> Iterator[str]:
    broken = list(network.faults(document))
    yield from broken
    section = document.get("ipam")
    if isinstance(section, dict) and section.get("type") == "host-local":
        yield from ipam.faults(document)
    if broken:
        return
    found.warnings += [Wrong.of(each, prefix) for each in network.parse(document)[1]]
    try:
        _refuse(parse_request(_CALL, json.dumps(document).encode()), agent or AgentConfig())
    except CniError as error:
        yield error.msg


def _refuse(request: Request, agent: AgentConfig) -> None:
    """Raises the error that an ADD would get, as far as the files alone say."""
    here = agent.bgp or BgpTable(asn=64512, router_id="192.0.2.1", local_address="192.0.2.1")
    node = NodeFacts(run_dir=agent.run_dir, data_dir=agent.data_dir, has_bgp=True, asn=here.asn or 64512,
                     router_id=here.router_id, local_address=here.local_address)  # fmt: skip
    plan.refuse_unsupported(request.settings)
    agent.policy.refuse_names("bridges", [request.settings.bridge], agent.policy.bridges, "bridge")
    routing = plan.routing(request, agent, node, 1, resident=True)
    plan.refuse_vlan_with(request.settings, routing.bgp, routing.exporters)
    for use in routing.exporters:
        catalog.configure(use, f"exporters.{use.name}")


# ---------------------------------------------------------------- the cluster's objects


def _check_objects(files: Iterable[Checked]) -> None:
    """Each object, and what contradicts another one of these files."""
    files = list(files)
    if not files:
        return
    from bgpcni.cluster import objects

    valid: dict[tuple[str, str], Checked] = {}
    for found in files:
        for document in found.content:
            wrong = list(objects.faults(document))
            found.errors += [Wrong.of(each) for each in wrong]
            if wrong:
                continue
            item = objects.parse(document)
            found.names.append(" ".join(item.path))
            if item.path in valid:
                other = valid[item.path].file
                found.errors.append(Wrong(f"{' '.join(item.path)}: metadata.name", f"{other} has one of that name too"))
            valid.setdefault(item.path, found)
    parsed = [objects.parse(each) for found in files for each in found.content if not list(objects.faults(each))]
    for path, message in objects.contradictions(parsed):
        key, _, rest = message.partition(": ")
        valid[path].errors.append(Wrong(f"{' '.join(path)}: {key}", rest))


def expanded(files: Iterable[Path]) -> list[str]:
    """The files, of a folder those that runtimes or we would read."""
    found: list[str] = []
    for path in files:
        if path.is_dir():
            names = (".conf", ".conflist", ".json", ".toml", ".yaml", ".yml")
            found += [str(inner) for inner in sorted(path.iterdir()) if inner.name.endswith(names)]
        else:
            found.append(str(path))
    return found
