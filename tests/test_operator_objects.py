"""`bgpcni apply`, `get`, `delete`, `nodes`: everything is checked before anything is written, and errors say where."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bgpcni.cluster.objects import parse
from bgpcni.cluster.store import Conflict
from bgpcni.operator import objects
from bgpcni.operator.cli import main
from bgpcni.testing.memory_store import MemoryStore, Table

PEER = """
apiVersion: bgpcni.dev/v1alpha1
kind: BGPPeer
metadata: {name: %s}
spec: {address: %s, asn: 64512}
"""
POOL = """
apiVersion: bgpcni.dev/v1alpha1
kind: IPPool
metadata: {name: %s}
spec: {cidrs: [%s]}
"""


def document(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "bgpcni.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


class Place:
    """A store, and an agent.toml that names it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.table = folder, Table()
        self.store = MemoryStore(self.table)
        self.config = folder / "agent.toml"
        self.config.write_text(
            f'run_dir = "{folder}/run"\n[cluster]\nstore = "etcd"\n[cluster.etcd]\nendpoints = ["http://127.0.0.1:1"]\n'
        )

    def file(self, text: str, name: str = "rack.yaml") -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)

    def run(self, *words: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(main, [*words, "--config", str(self.config)], input=stdin)

    def make(self, *documents: dict[str, Any]) -> None:
        for each in documents:
            self.store.create(parse(each))

    def names(self) -> list[str]:
        return [" ".join(path) for path in sorted(self.table.items)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    place = Place(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "/nowhere")
    monkeypatch.setattr(objects, "open_store", lambda table: MemoryStore(place.table))
    return place


def test_apply_says_what_became_of_each_object(place: Place) -> None:
    """Several documents in a file, several files, stdin, JSON; created, configured or unchanged, in text and JSON."""
    file = place.file("---".join([PEER % ("a", "192.0.2.1"), PEER % ("b", "192.0.2.2"), "\n"]))
    more = place.file(json.dumps(document("BGPPeer", "c", address="192.0.2.3")), "c.json")
    result = place.run("apply", "-f", file, "-f", more)
    assert (result.exit_code, result.stdout) == (0, "BGPPeer a created\nBGPPeer b created\nBGPPeer c created\n")
    result = place.run(
        "apply", "-f", "-", "--json", stdin=PEER % ("a", "192.0.2.1") + "---" + PEER % ("b", "192.0.2.9")
    )
    assert json.loads(result.stdout) == {
        "schema": 1,
        "objects": [
            {"kind": "BGPPeer", "name": "a", "result": "unchanged"},
            {"kind": "BGPPeer", "name": "b", "result": "configured"},
        ],
    }
    assert place.table.revision == 4


def test_one_error_and_nothing_is_written(place: Place) -> None:
    """Every error of every file at once, as `FILE: KIND NAME: key: text`."""
    good = PEER % ("good", "192.0.2.1")
    file = place.file("---".join([good, PEER % ("a", "192.0.2.300"), POOL % ("p", "10.0.0.0/33")]))
    other = place.file(good + "---\n" + json.dumps(document("BGPNode", "node-1")), "other.yaml")
    broken, missing = place.file("a: [", "broken.yaml"), str(place.folder / "missing.yaml")
    empty = place.file("---\n", "empty.yaml")
    result = place.run("apply", *(word for name in (file, other, broken, missing, empty) for word in ("-f", name)))
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert [line.rpartition(".yaml: ")[2].partition(": ")[0] for line in lines[:4]] == [
        "BGPPeer a", "IPPool p", "BGPPeer good", "BGPNode node-1",
    ]  # fmt: skip
    assert lines[0].startswith(f"{file}: BGPPeer a: spec.address: ")
    assert "is made by the node's agent" in lines[3]
    assert lines[4].startswith(f"{broken}: line 1: ")
    assert lines[5:] == [f"{missing}: No such file or directory", f"{empty}: there is no object in it"]
    assert place.names() == []


def test_contradictions_are_found_before_anything_is_written(place: Place) -> None:
    """Among the documents, and with what the store has; what contradicts itself there already blocks nobody."""
    place.make(document("IPPool", "old", cidrs=["10.0.0.0/16"]), document("IPPool", "older", cidrs=["10.0.0.0/20"]))
    file = place.file(PEER % ("a", "192.0.2.1") + "---" + POOL % ("new", "10.0.128.0/17"))
    result = place.run("apply", "-f", file)
    assert result.exit_code == 1
    assert result.stderr == f"{file}: IPPool new: spec.cidrs: 10.0.128.0/17 overlaps 10.0.0.0/16 of IPPool old\n"
    assert place.names() == ["IPPool old", "IPPool older"]
    assert place.run("apply", "-f", place.file(POOL % ("new", "10.9.0.0/16"))).exit_code == 0
    moved = place.file(POOL % ("old", "10.8.0.0/16") + "---" + POOL % ("x", "10.0.32.0/20"))
    assert place.run("apply", "-f", moved).exit_code == 0


@pytest.mark.parametrize(
    ("spec", "key"),
    [
        ({"cidrs": ["10.2.0.0/16"]}, "cidrs"),
        ({"cidrs": ["10.1.0.0/16"], "nodeSelector": {"rack": "r2"}}, "nodeSelector"),
        ({"cidrs": ["10.1.0.0/16"], "static": ["10.1.0.60-10.1.0.70"]}, "static"),
    ],
)
def test_a_pool_that_would_take_a_block_away_is_refused(place: Place, spec: dict[str, Any], key: str) -> None:
    """Running containers have addresses of it. `--force` does it all the same; a pool that keeps the blocks may change;
    a single address of `static` is no block."""
    place.make(
        document("IPPool", "p", cidrs=["10.1.0.0/16"], static=["10.1.9.0/24"]),
        document("IPBlock", "b", cidr="10.1.0.0/26", pool="p", node="node-1"),
        document("IPBlock", "c", cidr="10.1.9.7/32", pool="p", node="node-2"),
        document("BGPNode", "node-1") | {"metadata": {"name": "node-1", "labels": {"rack": "r1"}}},
    )
    file = place.file(json.dumps(document("IPPool", "p", **spec)))
    before = place.table.revision
    result = place.run("apply", "-f", file)
    assert result.exit_code == 1
    first = result.stderr.splitlines()[0]
    assert first.startswith(f"{file}: IPPool p: spec.{key}: would take ")
    assert "10.1.0.0/26" in first
    assert "node-1; --force does it" in first
    assert place.table.revision == before
    wider = document("IPPool", "p", cidrs=["10.0.0.0/8"], static=["10.1.9.0/24"], nodeSelector={"rack": "r1"})
    assert place.run("apply", "-f", place.file(json.dumps(wider), "wider.yaml")).stdout == "IPPool p configured\n"
    assert place.run("apply", "--force", "-f", file).stdout == "IPPool p configured\n"


def test_delete_of_a_pool_with_blocks_needs_force(place: Place) -> None:
    """As apply; whatever else is deleted at once, and what is not there is an error."""
    place.make(
        document("IPPool", "p", cidrs=["10.1.0.0/16"]),
        document("IPBlock", "b", cidr="10.1.0.0/26", pool="p", node="node-1"),
        document("BGPPeer", "a", address="192.0.2.1"),
    )
    result = place.run("delete", "ippool", "p")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "10.1.0.0/26 of node-1" in result.stderr
    assert place.run("delete", "ippool", "p", "--force").stdout == "IPPool p deleted\n"
    result = place.run("delete", "bgppeers", "a", "--json")
    assert json.loads(result.stdout) == {"schema": 1, "deleted": {"kind": "BGPPeer", "name": "a"}}
    result = place.run("delete", "BGPPeer", "a", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"schema": 1, "error": "BGPPeer a: there is no such object"}


def test_what_get_shows_can_be_applied(place: Place) -> None:
    """One object or all of a kind; what nobody can read is told, and `apply` and `delete` mend it."""
    place.make(document("BGPPeer", "a", address="192.0.2.1"), document("BGPPeer", "b", address="192.0.2.2"))
    text = place.run("get", "bgppeers").stdout
    assert place.run("apply", "-f", "-", stdin=text).stdout == "BGPPeer a unchanged\nBGPPeer b unchanged\n"
    (only,) = json.loads(place.run("get", "BGPPeer", "b", "--json").stdout)["objects"]
    assert only["spec"]["address"] == "192.0.2.2"
    result = place.run("get", "BGPPeer", "c")
    assert (result.exit_code, result.stderr) == (1, "bgpcni: BGPPeer c: there is no such object\n")
    with place.table.moved:
        place.table.change(("BGPPeer", "b"), None, broken="BGPPeer b: spec.asn: missing")
    result = place.run("get", "BGPPeer")
    assert result.exit_code == 1
    assert "name: a" in result.stdout
    assert result.stderr == "BGPPeer b: spec.asn: missing\n"
    assert place.run("apply", "-f", "-", stdin=PEER % ("b", "192.0.2.2")).stdout == "BGPPeer b configured\n"


def test_nodes_lists_every_node(place: Place) -> None:
    """Since when, labels, blocks, sessions; a node that has said nothing yet is there too."""
    status = {"since": "2026-01-31T12:00:00.000Z", "sessions": 2}
    node = document("BGPNode", "node-1") | {"metadata": {"name": "node-1", "labels": {"rack": "r1"}}, "status": status}
    place.make(node, document("BGPNode", "node-2"),
               document("IPBlock", "b", cidr="10.1.0.0/26", pool="p", node="node-1"))  # fmt: skip
    seen = {"lastSeen": "2026-01-31T12:34:56.000Z"}
    place.table.heard["node-1"] = datetime.fromisoformat(seen["lastSeen"])
    assert json.loads(place.run("nodes", "--json").stdout) == {
        "schema": 1,
        "nodes": [
            {"name": "node-1", **status, **seen, "labels": {"rack": "r1"}, "blocks": ["10.1.0.0/26"]},
            {"name": "node-2", "since": None, "lastSeen": None, "labels": {}, "blocks": [], "sessions": None},
        ],
    }
    _, first, _ = place.run("nodes", "--wide").stdout.splitlines()
    assert first.startswith("node-1 ")
    assert first.split()[-3:] == ["rack=r1", "10.1.0.0/26", "2"]
    assert first.count(" ago") == 2


def test_the_status_of_an_object_is_not_applied(place: Place) -> None:
    """It belongs to who made it: what is there stays, what is given counts for nothing."""
    place.make(document("BGPPeer", "a", address="192.0.2.1") | {"status": {"seen": 1}})
    given = document("BGPPeer", "a", address="192.0.2.9") | {"status": {"seen": 2}}
    assert place.run("apply", "-f", place.file(json.dumps(given))).exit_code == 0
    kept = place.store.get(("BGPPeer", "a"))
    assert kept is not None
    assert (kept.object.status, kept.object.document()["spec"]["address"]) == ({"seen": 1}, "192.0.2.9")


def test_what_was_written_before_an_error_is_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else changed an object between the checks and the writing."""
    place.make(document("BGPPeer", "b", address="192.0.2.2"))

    def swap(self: MemoryStore, item: Any, version: str) -> Any:
        raise Conflict("BGPPeer b was changed meanwhile")

    monkeypatch.setattr(MemoryStore, "swap", swap)
    file = place.file(PEER % ("a", "192.0.2.1") + "---" + PEER % ("b", "192.0.2.9"))
    result = place.run("apply", "-f", file)
    assert result.exit_code == 1
    assert result.stdout == "BGPPeer a created\n"
    assert result.stderr == f"{file}: BGPPeer b: BGPPeer b was changed meanwhile\n"


@pytest.mark.parametrize("words", [("apply",), ("get", "peer"), ("get",), ("delete", "BGPPeer"), ("nodes", "x")])
def test_a_wrong_usage_is_exit_2(place: Place, words: tuple[str, ...]) -> None:
    """Nothing is asked of the store."""
    place.table.leave()
    assert place.run(*words).exit_code == 2


@pytest.mark.parametrize("words", [("get", "BGPPeer"), ("delete", "BGPPeer", "a"), ("nodes",), ("apply", "-f", "-")])
def test_a_store_that_is_away_is_an_error_as_text_and_as_json(place: Place, words: tuple[str, ...]) -> None:
    """Exit 1 with one sentence."""
    place.table.leave()
    assert place.run(*words, stdin=PEER % ("a", "192.0.2.1")).stderr == "bgpcni: memory: nobody is there\n"
    result = place.run(*words, "--json", stdin=PEER % ("a", "192.0.2.1"))
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"schema": 1, "error": "memory: nobody is there"}


@pytest.mark.parametrize(
    ("toml", "said"),
    [("", "cluster: missing"), ('[cluster]\nstore = "kubernetes"\n', "with kubernetes use kubectl")],
    ids=["none", "kubernetes"],
)
def test_an_agent_toml_without_such_a_store_says_so(place: Place, toml: str, said: str) -> None:
    """And the file is named."""
    place.config.write_text(toml)
    result = place.run("delete", "BGPPeer", "a")
    assert result.exit_code == 1
    assert f"{place.config}: cluster" in result.stderr
    assert said in result.stderr
