"""A hook of mkdocs: the pages that are made from the code, and the documents that stand beside the code.

What a model or a docstring says is not written a second time: reference pages are generated while the site is built.
Links between documents are those of the repository, so that they work in both places.
"""

from __future__ import annotations

import ast
import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from bgpcni import errors
from bgpcni.cluster.objects import KINDS
from bgpcni.config.agent import AgentConfig
from bgpcni.operator import schemas

ROOT = Path(__file__).parents[1]
BESIDE = {
    "ARCHITECTURE.md": "explanation/architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "explanation/contributing.md",
    "conf/README.md": "reference/network.md",
    "deploy/README.md": "how-to/kubernetes.md",
    "integration/README.md": "explanation/laboratory.md",
}
"""Documents of the repository that are pages of the site, and where."""

EXAMPLES = """## Examples

Each names the place and the reason:

```text
bgp.vni: 16777216 is over 16777215
importRT: '70000:70000' is not a route target: number 70000 is over 65535
exporters: 'exabpg' is not installed; installed: bagpipe, exabgp, frr, gobgp, kernel
exporters: exabgp needs the agent: start bgpcni agent
mtu: 9000 is over the 1500 of bridge cni0
the node cannot reach 10.1.2.3: no route
bgpcni: warning: brige: unknown key; did you mean 'bridge'?
```
"""

_LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s]+)(?=\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and the files that pages link to."""
    linked: set[str] = set()
    for source, page in BESIDE.items():
        files.append(File.generated(config, page, content=_moved((ROOT / source).read_text(), source, page, linked)))
    for file in list(files):
        if file.src_uri.endswith(".md") and file.generated_by is None:
            _moved(file.content_string, f"docs/{file.src_uri}", file.src_uri, linked)
    for page, text in _generated().items():
        files.append(File.generated(config, page, content=text))
    for path in sorted(linked):
        files.append(File.generated(config, f"files/{path}.txt", content=(ROOT / path).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Have a page of docs/ link to the site's copy of what it links to in the repository."""
    source = page.file.src_uri
    return markdown if page.file.generated_by else _moved(markdown, f"docs/{source}", source, set())


def _moved(text: str, source: str, page: str, linked: set[str]) -> str:
    """The text of the document `source`, with its links as they have to be in `page`; notes files for `linked`."""

    def link(found: re.Match[str]) -> str:
        path, sharp, anchor = found[1].partition("#")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        place = ROOT / target
        if place.is_dir():
            target = f"{target}/README.md" if (place / "README.md").exists() else target
        if target in BESIDE:
            there = BESIDE[target]
        elif target.startswith("docs/"):
            there = target.removeprefix("docs/")
        elif (ROOT / target).is_file():
            linked.add(target)
            there = f"files/{target}.txt"
        else:
            return found[0]  # mkdocs refuses it, if it leads nowhere
        return posixpath.relpath(there, posixpath.dirname(page) or ".") + sharp + anchor

    return _LINK.sub(link, text)


# ---------------------------------------------------------------- generated pages


def _generated() -> dict[str, str]:
    return {
        "reference/agent.md": _agent(),
        "reference/objects.md": _objects(),
        "reference/errors.md": _errors(),
        "reference/exporter-contract.md": _contract(
            "The contract of an exporter", "bgpcni/exporter.py", "../writing-an-exporter.md", "How to write one"
        ),
        "reference/store-contract.md": _contract(
            "The contract of a store", "bgpcni/cluster/store.py", "../cluster.md", "What the cluster's store is for"
        ),
    } | {f"schemas/{name}.json": schemas.text(name) for name in schemas.NAMES}


def _agent() -> str:
    sample = (ROOT / "conf/agent.toml").read_text()
    tables = "\n".join(_tables(AgentConfig.model_json_schema(by_alias=True), "agent.toml"))
    return (
        "# agent.toml\n\nThe configuration of a node: `/etc/bgpcni/agent.toml`. Unknown keys are errors. "
        "After a change run `bgpcni reload`: a file with an error is rejected, and the one before stays in force.\n\n"
        "[Editors complete it](../how-to/editors.md) from its [JSON Schema](../schemas/agent.json).\n\n"
        f"## Types and ranges\n\n{tables}\n\n## What each key means\n\n```toml\n{sample}```\n"
    )


def _objects() -> str:
    parts = [
        "# Objects of the cluster\n\nThey configure many nodes at once: see "
        "[One document for all nodes](../cluster.md). [Editors complete them](../how-to/editors.md) from their "
        "[JSON Schema](../schemas/objects.json).\n"
    ]
    for name, kind in KINDS.items():
        parts += [f"## {name}\n", "\n".join(_tables(kind.model_json_schema(by_alias=True), name, 3)), ""]
    return "\n".join(parts)


def _errors() -> str:
    rows = [
        f"| {kind.code} | {' '.join((kind.__doc__ or '').split())} |"
        for kind in sorted(_subclasses(errors.CniError), key=lambda kind: (kind.code, kind.__name__))
        if kind not in (errors.Delegated,)
    ]
    return "\n".join([
        "# Errors and their codes\n\nThe plugin answers a runtime with an error of the CNI specification: "
        "a code, and a message that says what was wrong and where. Codes below 100 are those of the specification.\n",
        "| code | when |\n| --- | --- |",
        *rows,
        "\n" + EXAMPLES,
        "\nAn IPAM plugin that we execute answers with codes of its own; they are passed on as they are.\n",
    ])  # fmt: skip


def _subclasses(kind: type[errors.CniError]) -> Iterator[type[errors.CniError]]:
    for each in kind.__subclasses__():
        yield each
        yield from _subclasses(each)


def _tables(schema: dict[str, Any], title: str, level: int = 3) -> Iterator[str]:
    """A table of each part of a schema, the whole first."""
    parts = {title: schema} | schema.get("$defs", {})
    plain = {name: part for name, part in parts.items() if not part.get("properties")}
    for name, part in parts.items():
        if name in plain:
            continue
        about = " ".join(str(part.get("description", "")).split())
        yield f"{'#' * level} {name}\n\n{about}\n\n| key | type | default |\n| --- | --- | --- |"
        for key, value in part["properties"].items():
            default = "" if "default" not in value or value["default"] is None else f"`{json.dumps(value['default'])}`"
            if key in part.get("required", ()):
                default = "required"
            yield f"| `{key}` | {_type(value, plain)} | {default} |"
        yield ""


def _type(value: dict[str, Any], plain: dict[str, Any]) -> str:
    """A type and its range in words. `plain`: the parts of the schema that have no table of their own."""
    if "$ref" in value:
        name = value["$ref"].rsplit("/", 1)[1]
        return _type(plain[name], plain) if name in plain else f"[{name}](#{name.lower()})"
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return ", ".join(f"`{each}`" for each in value["enum"])
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(_type(each, plain) for each in value["anyOf"] if each.get("type") != "null"))
    kind = value.get("type", "any")
    if kind == "array":
        return f"list of {_type(value['items'], plain)}" if "items" in value else "list"
    if kind == "object":
        inner = value.get("additionalProperties")
        return f"table of {_type(inner, plain)}" if isinstance(inner, dict) else "table"
    low, high = value.get("minimum"), value.get("maximum")
    reach = (
        f", {low if low is not None else ''} to {high if high is not None else ''}" if low is not None or high else ""
    )
    return {"integer": "number", "boolean": "`true` or `false`", "number": "number"}.get(kind, kind) + reach


def _contract(title: str, path: str, more: str, words: str) -> str:
    """Classes, methods and docstrings of a module."""
    module = ast.parse((ROOT / path).read_text())
    lines = [f"# {title}\n", f"From `{path}`. [{words}]({more}).\n", ast.get_docstring(module) or "", ""]
    for node in module.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            lines += [f"## `{node.name}`\n", ast.get_docstring(node) or "", ""]
            for each in node.body:
                if isinstance(each, ast.FunctionDef) and not each.name.startswith("_"):
                    lines += [
                        f"### `{each.name}`\n",
                        f"```python\n{_signature(each)}\n```\n",
                        ast.get_docstring(each) or "",
                        "",
                    ]
    return "\n".join(lines)


def _signature(function: ast.FunctionDef) -> str:
    returns = f" -> {ast.unparse(function.returns)}" if function.returns else ""
    return f"def {function.name}({ast.unparse(function.args)}){returns}"
