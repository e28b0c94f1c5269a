"""`bgpcni apply`, `get`, `delete` and `nodes`: the cluster's objects, in the store that agent.toml names.

They run in the process of the command and ask no agent. Kubernetes has kubectl for the same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from bgpcni import extensions
from bgpcni.cluster.nodes import described
from bgpcni.cluster.objects import (
    BGPNode,
    IPBlock,
    IPPool,
    Object,
    contradictions,
    ends,
    kind_of,
    parse,
)
from bgpcni.cluster.objects import Path as ObjectPath
from bgpcni.cluster.peers import selects
from bgpcni.cluster.store import Conflict, Kept, Store, Trouble
from bgpcni.cluster.stores import open_store
from bgpcni.config.agent import load
from bgpcni.errors import CniError, InvalidConfiguration
from bgpcni.files import read_plain

Document = dict[str, Any]
Answer = tuple[Document, int]
_MOST = 16 << 20


class Wrong(Exception):
    """What the user gave is wrong, in as many lines as there are errors; nothing was written."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = list(lines)


def answered(config: Path, ask: Callable[[Store], Answer], *, writes: bool = True) -> Answer:
    """What `ask` answers with the store of agent.toml; an error is an answer too."""
    try:
        with _opened(config, writes) as store:
            return ask(store)
    except Wrong as error:
        return {"schema": 1, "error": str(error), "errors": error.lines}, 1
    except CniError as error:
        return {"schema": 1, "error": error.msg}, 1
    except (Trouble, Conflict) as error:
        return {"schema": 1, "error": str(error)}, 1


@contextmanager
def _opened(path: Path, writes: bool) -> Iterator[Store]:
    config = load(path)
    if config.cluster is None:
        raise InvalidConfiguration(f"{path}: cluster: missing, it says which store has the cluster's objects")
    if config.cluster.store == "kubernetes" and writes:
        raise InvalidConfiguration(f"{path}: cluster.store: with kubernetes use kubectl, which may change objects")
    extensions.cache_in(Path(config.run_dir))
    store = open_store(config.cluster)
    try:
        yield store
    finally:
        store.close()


# ---------------------------------------------------------------- apply


class Given(NamedTuple):
    """An object and the file that it was read from."""

    file: str
    object: Object

    def wrong(self, text: str) -> str:
        return f"{self.file}: {' '.join(self.object.path)}: {text}"


def read(files: Iterable[str]) -> list[Given]:
    """All objects of the files, `-` for stdin. Raises Wrong, with every error."""
    found: dict[ObjectPath, Given] = {}
    wrong: list[str] = []
    for file in files:
        try:
            documents = list(_documents(file))
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            wrong.append(f"{file}: line {line}: {error.problem}")
            continue
        except (OSError, ValueError, yaml.YAMLError) as error:
            wrong.append(f"{file}: {getattr(error, 'strerror', None) or ' '.join(str(error).split())}")
            continue
        if not documents:
            wrong.append(f"{file}: there is no object in it")
        for document in documents:
            try:
                given = Given(file, parse(document, file))
            except CniError as error:
                wrong.append(error.msg)
                continue
            earlier = found.setdefault(given.object.path, given)
            if given.object.made_by_nodes:
                wrong.append(given.wrong(f"kind: each {given.object.kind} is made by the node's agent, not applied"))
            elif earlier is not given:
                wrong.append(given.wrong(f"metadata.name: {earlier.file} has an object of that kind and name too"))
    if wrong:
        raise Wrong(wrong)
    return list(found.values())


def _documents(file: str) -> Iterator[Any]:
    """The documents of YAML, of which JSON is a part; empty ones are left out."""
    octets = sys.stdin.buffer.read(_MOST + 1) if file == "-" else read_plain(file, _MOST)
    if len(octets) > _MOST:
        raise ValueError(f"larger than {_MOST} octets")
    return (document for document in yaml.safe_load_all(octets.decode()) if document is not None)


def apply(store: Store, given: Sequence[Given], *, force: bool = False) -> Answer:
    """Write what differs, once all of it is known to be right. Raises Wrong, Trouble."""
    listing = store.list()
    present = {path: kept.object for path, kept in listing.items.items()}
    if wrong := list(_objections(present, given, force=force)):
        raise Wrong(wrong)
    done: list[Document] = []
    document: Document = {"schema": 1, "objects": done}
    for one in given:
        kind, name = one.object.path
        try:
            result = _put(store, one.object, listing.items.get(one.object.path), one.object.path in listing.broken)
        except (Trouble, Conflict) as error:
            return document | {"error": one.wrong(str(error)), "errors": [one.wrong(str(error))]}, 1
        done.append({"kind": kind, "name": name, "result": result})
    return document, 0


def _objections(present: Mapping[ObjectPath, Object], given: Sequence[Given], *, force: bool) -> Iterator[str]:
    new = {one.object.path: one for one in given}
    kept = [item for path, item in present.items() if path not in new]
    for path, text in contradictions([*kept, *(one.object for one in given)]):
        if path in new:  # what contradicts itself in the store already is not this call's doing
            yield new[path].wrong(text)
    if force:
        return
    for one in given:
        if isinstance(one.object, IPPool):
            for text in taken_away(one.object, present.values()):
                yield one.wrong(f"{text}; --force does it all the same")


def taken_away(pool: IPPool, present: Iterable[Object]) -> Iterator[str]:
    """Which blocks of nodes this pool would not have any more, as it is now."""
    present = list(present)
    labels = {item.metadata.name: item.metadata.labels for item in present if isinstance(item, BGPNode)}
    cidrs = [ip_network(cidr) for cidr in pool.spec.cidrs]
    for item in present:
        if not isinstance(item, IPBlock) or item.spec.pool != pool.metadata.name:
            continue
        block, node = ip_network(item.spec.cidr), item.spec.node
        if not any(block.version == cidr.version and block.subnet_of(cidr) for cidr in cidrs):  # type: ignore[arg-type]
            yield f"spec.cidrs: would take the block {block} away from {node}"
        elif node in labels and not selects(pool.spec.node_selector, labels[node]):
            yield f"spec.nodeSelector: would take the block {block} away from {node}"
        elif block.num_addresses > 1 and any(_overlap(block, text) for text in pool.spec.static):
            yield f"spec.static: would take addresses of the block {block} away from {node}"


def _overlap(block: Any, text: str) -> bool:
    first, last = ends(text)
    return bool(first.version == block.version and first <= block[-1] and last >= block[0])


def _put(store: Store, item: Object, kept: Kept | None, broken: bool) -> str:
    if kept is None:
        if broken:  # there is no version of it that could be compared
            store.delete(item.path)
        store.create(item.model_copy(update={"status": None}))
        return "configured" if broken else "created"
    wanted = item.model_copy(update={"status": kept.object.status})
    if wanted.document() == kept.object.document():
        return "unchanged"
    store.swap(wanted, kept.version)
    return "configured"


def applied_text(document: Document) -> str:
    return "".join(f"{item['kind']} {item['name']} {item['result']}\n" for item in document["objects"])


# ---------------------------------------------------------------- get, delete, nodes


def get(store: Store, word: str, name: str | None) -> Answer:
    """Objects of a kind, and those that nobody can read; exit 1 where there is one of these, or none of that name."""
    kind = kind_of(word).__name__
    listing = store.list()
    wanted = [path for path in sorted({*listing.items, *listing.broken}) if path[0] == kind and name in (None, path[1])]
    objects = [listing.items[path].object.document() for path in wanted if path in listing.items]
    broken = [listing.broken[path] for path in wanted if path in listing.broken]
    if name is not None and not objects and not broken:
        raise InvalidConfiguration(f"{kind} {name}: there is no such object")
    document: Document = {"schema": 1, "objects": objects}
    if broken:
        return document | {"error": "\n".join(broken), "errors": broken}, 1
    return document, 0


def objects_text(document: Document) -> str:
    """As YAML, which `apply` takes."""
    return str(yaml.safe_dump_all(document["objects"], sort_keys=False)) if document["objects"] else ""


def delete(store: Store, word: str, name: str, *, force: bool = False) -> Answer:
    """Raises InvalidConfiguration where there is none, or where it would take blocks away."""
    path = kind_of(word).__name__, name
    listing = store.list()
    kept = listing.items.get(path)
    if kept is None and path not in listing.broken:
        raise InvalidConfiguration(f"{' '.join(path)}: there is no such object")
    blocks = [
        item.object for item in listing.items.values()
        if isinstance(item.object, IPBlock) and item.object.spec.pool == name
    ]  # fmt: skip
    if path[0] == "IPPool" and blocks and not force:
        said = ", ".join(f"{block.spec.cidr} of {block.spec.node}" for block in blocks[:5])
        more = f" and {len(blocks) - 5} more" if len(blocks) > 5 else ""
        raise InvalidConfiguration(f"IPPool {name}: nodes have blocks of it: {said}{more}; --force deletes it")
    store.delete(path, kept.version if kept else None)
    return {"schema": 1, "deleted": {"kind": path[0], "name": name}}, 0


def deleted_text(document: Document) -> str:
    return f"{document['deleted']['kind']} {document['deleted']['name']} deleted\n"


def nodes(store: Store) -> Answer:
    """Every node: since when it is in the cluster, when its agent was heard last, its labels and blocks, and how many
    sessions it said were up."""
    found = described((kept.object for kept in store.list().items.values()), store.heard())
    return {"schema": 1, "nodes": found}, 0


def nodes_text(document: Document) -> str:
    from bgpcni.commands.render.tables import ago, table

    return table(
        ("NODE", "SINCE", "LAST SEEN", "LABELS", "BLOCKS", "SESSIONS"),
        [
            (
                n["name"],
                ago(n["since"] or ""),
                ago(n["lastSeen"] or ""),
                ",".join(f"{k}={v}" for k, v in n["labels"].items()),
                ",".join(n["blocks"]),
                n["sessions"],
            )
            for n in document["nodes"]
        ],
    )
