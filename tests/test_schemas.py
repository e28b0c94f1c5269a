"""The JSON Schemas that `bgpcni schema` prints: they accept each sample and example of ours, and no mistake."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from bgpcni.operator import schemas
from bgpcni.operator.cli import main
from bgpcni.operator.validate import run

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^( *)```(toml|json|yaml)[^\n]*\n(.*?)^ *```", re.M | re.S)
JUDGE = """
import json, sys, jsonschema
cases = json.load(sys.stdin)
kinds = {name: jsonschema.Draft202012Validator(schema) for name, schema in cases["schemas"].items()}
for validator in kinds.values():
    validator.check_schema(validator.schema)
print(json.dumps([[f"{error.json_path}: {error.message}" for error in kinds[kind].iter_errors(document)]
                  for kind, document in cases["documents"]]))
"""


def judged(*cases: tuple[str, Any]) -> list[list[str]]:
    """The errors of each document, by its kind, as python-jsonschema finds them. It is Debian's, not of `.venv`."""
    python = shutil.which("python3", path="/usr/bin")
    if (
        python is None
        or subprocess.run([python, "-c", "import jsonschema"], capture_output=True, check=False).returncode
    ):
        pytest.skip("needs jsonschema (Debian: python3-jsonschema)")
    asked = {"schemas": {name: schemas.schema(name) for name in schemas.NAMES}, "documents": cases}
    done = subprocess.run(
        [python, "-W", "ignore", "-c", JUDGE], input=json.dumps(asked, default=str), capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def examples(folder: Path) -> Iterator[tuple[str, str, Any]]:
    """Where it is, kind and content of each example of the documentation and each sample that is valid by itself."""
    texts = [(f"{path.relative_to(ROOT)}", path.suffix[1:], path.read_text()) for path in (ROOT / "conf").iterdir()
             if path.suffix in (".conf", ".conflist", ".toml") and "gobgp" not in path.name]  # fmt: skip
    pages = [*ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")]
    for page in pages:
        for block in BLOCK.finditer(page.read_text()):
            texts.append((str(page.relative_to(ROOT)), block[2], textwrap.dedent(block[3])))
    for where, suffix, text in texts:
        if suffix in ("conf", "conflist") and not text.startswith("{"):
            continue  # another program's
        file = folder / f"example.{suffix}"
        file.write_text(text)
        (found,) = run([str(file)])[0]["files"]
        if found["kind"] == "unknown" or found["errors"]:
            continue  # a part of a file, or another program's
        if suffix == "toml":
            yield where, found["kind"], tomllib.loads(text)
        elif found["kind"] == "objects":
            yield from ((where, "objects", each) for each in yaml.safe_load_all(text))
        else:
            yield where, found["kind"], json.loads(text)


def test_no_sample_and_no_example_is_marked(tmp_path: Path) -> None:
    found = list(examples(tmp_path))
    assert {kind for _, kind, _ in found} == set(schemas.NAMES)
    assert len(found) > 15
    errors = judged(*((kind, document) for _, kind, document in found))
    assert [(where, each) for (where, _, _), each in zip(found, errors, strict=True) if each] == []


@pytest.mark.parametrize("spelling", [5, "5"])
def test_what_may_be_written_in_two_ways_is_marked_in_neither(spelling: object) -> None:
    """As the article has it, and with an editor's own key."""
    network = {
        "$schema": "network.schema.json", "name": "a", "type": "bgpcni", "mtu": 1450 if spelling == 5 else "1450",
        "vlan": spelling, "importRT": "64512:1,64512:2" if spelling == "5" else ["64512:1"],
        "exporters": "exabgp" if spelling == "5" else ["exabgp", {"type": "kernel", "table": 100}],
        "args": {"cni": {"labels": {"a": "b"} if spelling == 5 else [{"key": "a", "value": "b"}]}},
    }  # fmt: skip
    assert judged(("network", network)) == [[]]


WRONG = [
    ("agent", {"bgp": {"asn": 0, "router_id": "192.0.2.1"}}, "asn"),
    ("agent", {"bpg": {}}, "bpg"),
    ("network", {"name": "a", "bgp": {"family": "evpm"}}, "family"),
    ("network", {"name": "a", "vlan": 4095}, "vlan"),
    ("network", {"name": "a", "plugins": [{"type": "bgpcni", "isGateway": "yes"}]}, "isGateway"),
    ("network", {"type": "bgpcni"}, "name"),
    ("objects", {"apiVersion": "bgpcni.dev/v1alpha1", "kind": "BGPPeer", "metadata": {"name": "a"}}, ""),
    ("objects", {"kind": "BGPPeers", "metadata": {"name": "a"}, "spec": {}}, ""),
]


def test_mistakes_are_marked() -> None:
    for (kind, document, place), errors in zip(WRONG, judged(*((one, two) for one, two, _ in WRONG)), strict=True):
        assert any(place in error for error in errors), (kind, document, errors)


def test_the_command_prints_them() -> None:
    done = CliRunner().invoke(main, ["schema", "network"])
    assert (done.exit_code, json.loads(done.output)) == (0, schemas.schema("network"))
    assert CliRunner().invoke(main, ["schema", "route"]).exit_code == 2
