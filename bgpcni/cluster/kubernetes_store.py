"""Objects in Kubernetes: custom resources, whose definitions `crds` makes from the same models.

Each kind is listed and watched by itself, and the revision of the whole names that of each. The status of an object is
a subresource, so that what changes object and status takes two requests.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from queue import Queue
from typing import Any

from bgpcni.cluster import store
from bgpcni.cluster.crds import GROUP, VERSION
from bgpcni.cluster.kubernetes import JSON_PATCH, Api, Resource, Selection, Trouble
from bgpcni.cluster.kubernetes import Object as Document
from bgpcni.cluster.objects import API_VERSION, KINDS, Object, Path, parse
from bgpcni.cluster.pause import Pause
from bgpcni.cluster.store import Absent, Change, Conflict, Kept, Listing, Progress, Store
from bgpcni.config.agent import KubernetesTable
from bgpcni.errors import InvalidConfiguration

RESOURCES = {name: Resource(GROUP, VERSION, kind.plural) for name, kind in KINDS.items()}
ABSENT_SECONDS = 10.0
_LEASE = "bgpcni-node-"
_OURS = {"app.kubernetes.io/part-of": "bgpcni", "bgpcni.dev/lease": "node"}
_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


class Kubernetes(Store):
    """One client of an API server. `api` may be used for its other objects too."""

    def __init__(self, config: KubernetesTable) -> None:
        self.api = Api(config.kubeconfig)
        self._leases = Resource("coordination.k8s.io", "v1", "leases", self.api.namespace)
        self._lock = threading.Lock()
        self._watches: set[_Watch] = set()
        self._closed = False

    # ---------------------------------------------------------------- the contract

    def list(self) -> Listing[Kept]:
        items: dict[Path, Kept] = {}
        broken: dict[Path, str] = {}
        revisions: dict[str, str] = {}
        for kind, resource in RESOURCES.items():
            try:
                listing = self.api.list(resource)
            except Trouble as trouble:
                raise _named(trouble, resource) from None
            revisions[kind] = listing.revision
            for (_, name), document in listing.items.items():
                try:
                    items[kind, name] = _kept(kind, document)
                except InvalidConfiguration as error:
                    broken[kind, name] = error.msg
        return Listing(_joined(revisions), items, broken)

    def get(self, path: Path) -> Kept | None:
        kind, name = path
        try:
            return _kept(kind, self.api.get(RESOURCES[kind], name))
        except Trouble as trouble:
            if trouble.code == 404 and trouble.reason == "NotFound":
                return None
            raise

    def create(self, item: Object) -> Kept:
        kind, _ = item.path
        document = item.document()
        document.pop("status", None)
        try:
            made = self.api.create(RESOURCES[kind], document)
        except Trouble as trouble:
            return self._found(trouble, item, "exists already")
        return self._with_status(item, made)

    def swap(self, item: Object, version: str) -> Kept:
        kind, name = item.path
        document = item.document()
        changes = {"labels": document["metadata"].get("labels", {})}
        if annotations := document["metadata"].get("annotations"):
            changes["annotations"] = annotations
        body = [
            {"op": "replace", "path": "/metadata/resourceVersion", "value": version},
            *({"op": "add", "path": f"/metadata/{key}", "value": value} for key, value in changes.items()),
            {"op": "add", "path": "/spec", "value": document.get("spec", {})},
        ]
        try:
            made = self.api.patch(RESOURCES[kind], name, body, JSON_PATCH)
        except Trouble as trouble:
            return self._found(trouble, item, "was changed meanwhile")
        return self._with_status(item, made)

    def delete(self, path: Path, version: str | None = None) -> None:
        kind, name = path
        try:
            self.api.delete(RESOURCES[kind], name, version)
        except Trouble as trouble:
            if trouble.code not in (404, 409):
                raise
            raise Conflict(f"{kind} {name} does not exist, or was changed meanwhile") from None

    def watch(self, revision: str) -> Iterator[Change[Kept] | Progress]:
        watch = _Watch(self.api, _parted(revision))
        with self._lock:
            if self._closed:
                raise Trouble("the client was closed")
            self._watches.add(watch)
        try:
            yield from watch.events()
        finally:
            with self._lock:
                self._watches.discard(watch)
            watch.close()

    def beat(self, node: str) -> None:
        """A Lease in the agent's namespace, as kubelet has one: nobody watches it."""
        spec = {"holderIdentity": node, "renewTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")}
        try:
            self.api.patch(self._leases, f"{_LEASE}{node}", {"spec": spec})
        except Trouble as trouble:
            if trouble.code != 404:
                raise
            metadata = {"name": f"{_LEASE}{node}", "labels": _OURS}
            kind = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
            self.api.create(self._leases, kind | {"metadata": metadata, "spec": spec})

    def heard(self) -> Mapping[str, datetime]:
        selector = ",".join(f"{key}={value}" for key, value in _OURS.items())
        specs = (item.get("spec", {}) for item in self.api.list(self._leases, labels=selector).items.values())
        return {
            spec["holderIdentity"]: datetime.fromisoformat(spec["renewTime"])
            for spec in specs
            if spec.get("holderIdentity") and spec.get("renewTime")
        }

    def close(self) -> None:
        with self._lock:
            self._closed = True
            watches = list(self._watches)
        for watch in watches:
            watch.close()
        self.api.close()

    # ---------------------------------------------------------------- changes

    def _with_status(self, item: Object, made: Document) -> Kept:
        kind, name = item.path
        if item.status is not None and item.status != made.get("status"):
            body = [
                {"op": "replace", "path": "/metadata/resourceVersion", "value": made["metadata"]["resourceVersion"]},
                {"op": "add", "path": "/status", "value": item.status},
            ]
            try:
                made = self.api.patch(RESOURCES[kind], name, body, JSON_PATCH, subresource="status")
            except Trouble as trouble:
                return self._found(trouble, item, "was changed meanwhile")
        return _kept(kind, made)

    def _found(self, trouble: Trouble, item: Object, conflict: str) -> Kept:
        """An earlier try of the same change, whose answer was lost, is no conflict: the store has what was wanted."""
        if trouble.code == 404 and trouble.reason != "NotFound":
            raise _named(trouble, RESOURCES[item.path[0]])
        if trouble.code not in (404, 409):
            raise trouble
        found = self.get(item.path)
        if found is None or found.object != item:
            raise Conflict(f"{' '.join(item.path)} {conflict}")
        return found


class _Watch:
    """The watches of all kinds as one: a thread for each, whose events come by one queue."""

    def __init__(self, api: Api, revisions: dict[str, str]) -> None:
        self._revisions = revisions
        self._selections = {kind: Selection(api, resource) for kind, resource in RESOURCES.items()}
        self._found: Queue[tuple[str, Change[Document] | Progress | Exception]] = Queue()
        self._over = threading.Event()

    def events(self) -> Iterator[Change[Kept] | Progress]:
        for kind in RESOURCES:
            threading.Thread(target=self._read, args=(kind,), name=f"watch-{kind}", daemon=True).start()
        accepted: set[str] = set()
        while not self._over.is_set():
            kind, event = self._found.get()
            if isinstance(event, Exception):
                raise event
            if event.revision:
                self._revisions[kind] = event.revision
            if isinstance(event, Change):
                yield self._change(kind, event)
            elif event.revision:
                yield Progress(_joined(self._revisions))
            elif accepted != RESOURCES.keys():
                accepted.add(kind)
                if accepted == RESOURCES.keys():
                    yield Progress()

    def _change(self, kind: str, event: Change[Document]) -> Change[Kept]:
        path, revision = (kind, event.path[1]), _joined(self._revisions)
        if event.item is None:
            return Change(path, None, revision)
        try:
            return Change(path, _kept(kind, event.item), revision)
        except InvalidConfiguration as error:
            return Change(path, None, revision, error.msg)

    def _read(self, kind: str) -> None:
        """In the thread of one kind: one watch after the other, since a server ends each after some minutes."""
        revision, pause = self._revisions[kind], Pause()
        while not self._over.is_set():
            started, told = time.monotonic(), False
            try:
                for event in self._selections[kind].watch(revision):
                    told = told or bool(event.revision)
                    revision = event.revision or revision
                    self._found.put((kind, event))
            except Exception as error:  # noqa: BLE001 - it is raised where the events are read
                named = isinstance(error, Trouble) and error.code == 404
                self._found.put((kind, _named(error, RESOURCES[kind]) if named else error))  # type: ignore[arg-type]
                return
            if not told and time.monotonic() - started < 1.0:
                self._over.wait(pause.seconds())
            else:
                pause.over()

    def close(self) -> None:
        self._over.set()
        for selection in self._selections.values():
            selection.close()
        self._found.put(("", Trouble("the watch was closed")))


def _named(trouble: Trouble, resource: Resource) -> store.Trouble:
    """404 for a kind, not for an object: its definition is not installed."""
    if trouble.code != 404:
        return trouble
    text = f"{resource.plural}.{resource.group} is not installed: kubectl apply -k deploy/kubernetes/crds"
    return Absent(text, after=ABSENT_SECONDS)


def _kept(kind: str, document: Document) -> Kept:
    """Raises InvalidConfiguration. What the server adds to the metadata is left out."""
    metadata: Mapping[str, Any] = document["metadata"]
    annotations = {key: value for key, value in (metadata.get("annotations") or {}).items() if key != _APPLIED}
    plain = {"name": metadata["name"], "labels": metadata.get("labels") or {}, "annotations": annotations}
    given: Document = {"apiVersion": API_VERSION, "kind": kind, "metadata": plain}
    given |= {key: document[key] for key in ("spec", "status") if document.get(key)}
    return Kept(parse(given, f"{kind} {metadata['name']}"), str(metadata["resourceVersion"]))


def _joined(revisions: Mapping[str, str]) -> str:
    return ",".join(f"{kind}={revision}" for kind, revision in sorted(revisions.items()))


def _parted(revision: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in revision.split(","))
