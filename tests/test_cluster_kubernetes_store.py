"""Kubernetes as a store, against the double of its API: what every store promises, and what is its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from bgpcni.cluster import crds
from bgpcni.cluster.kubernetes_store import Kubernetes
from bgpcni.cluster.objects import parse
from bgpcni.cluster.store import Absent, Change, Conflict, Trouble
from bgpcni.config.agent import KubernetesTable
from bgpcni.testing.patience import until
from bgpcni.testing.store_suite import StorePlace, StoreSuite, Watching, peer
from integration.kubernetes.double import Double
from integration.kubernetes.failures import Failure

T = TypeVar("T")
DEFINITIONS = "apiextensions.k8s.io/v1/customresourcedefinitions"
PEERS = f"{crds.GROUP}/{crds.VERSION}/bgppeers"


class Place(StorePlace):
    def __init__(self, folder: Path) -> None:
        self.double = Double()
        self.double.start()
        self.table = KubernetesTable(kubeconfig=str(self.double.kubeconfig(folder / "kubeconfig")))
        self._stores: list[Kubernetes] = []

    def prepare(self) -> None:
        for definition in crds.definitions():
            self.double.create(DEFINITIONS, definition)

    def store(self) -> Kubernetes:
        self._stores.append(Kubernetes(self.table))
        return self._stores[-1]

    def call(self, what: Callable[[], T]) -> T:
        return what()

    def stop(self) -> None:
        self.double.do(lambda: setattr(self.double.line, "refused", True))
        self.double.cut()

    def start(self) -> None:
        self.double.do(lambda: setattr(self.double.line, "refused", False))

    def forget(self) -> None:
        machinery = self.double.machinery
        self.double.do(lambda: machinery.objects.forget(*machinery.kinds()))

    def close(self) -> None:
        for store in self._stores:
            store.close()
        self.double.stop()


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.close()


@pytest.fixture
def place(bare: Place) -> Place:
    bare.prepare()
    return bare


class TestKubernetes(StoreSuite):
    """What every store promises."""

    def write_nonsense(self, place: StorePlace, kind: str, name: str) -> None:
        assert isinstance(place, Place)
        assert kind == "BGPPeer"
        place.double.create(PEERS, document(name, passwordFile="not absolute", address="192.0.2.1"))


def document(name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "bgpcni.dev/v1alpha1", "kind": "BGPPeer", "metadata": {"name": name}, "spec": spec}


def test_a_change_whose_answer_was_lost_is_no_conflict(place: Place) -> None:
    """The same change again finds what it wanted: a client that retries must not take itself for another one."""
    store = place.store()
    first = store.create(peer("a"))
    assert store.create(peer("a")) == first
    second = store.swap(peer("a", asn=2), first.version)
    assert store.swap(peer("a", asn=2), first.version) == second
    with pytest.raises(Conflict):
        store.swap(peer("a", asn=3), first.version)


def test_status_and_labels_are_written_too(place: Place) -> None:
    """The status is a subresource, which whoever uses the store does not have to know."""
    store = place.store()
    metadata = {"name": "n", "labels": {"a": "b"}}
    item = parse(document("n", asn=64512) | {"kind": "BGPNode", "metadata": metadata, "status": {"sessions": 1}})
    made = store.create(item)
    assert made.object == item
    changed = item.model_copy(update={"status": {"sessions": 2}})
    assert store.swap(changed, made.version).object == changed
    kept = store.get(("BGPNode", "n"))
    assert kept is not None
    assert kept.object == changed


def test_what_others_wrote_into_the_metadata_stays(place: Place) -> None:
    """Finalizers, owners and annotations are not ours to remove; kubectl's own annotation is none of the object."""
    note = {"kubectl.kubernetes.io/last-applied-configuration": "{}"}
    metadata = {"name": "a", "finalizers": ["example.dev/wait"], "annotations": note}
    place.double.create(PEERS, document("a", address="192.0.2.1") | {"metadata": metadata})
    store = place.store()
    kept = store.get(("BGPPeer", "a"))
    assert kept is not None
    assert kept.object.metadata.annotations == {}
    store.swap(peer("a", asn=7), kept.version)
    found = place.double.get(PEERS, "a")
    assert found is not None
    assert found["metadata"]["finalizers"] == ["example.dev/wait"]
    assert found["metadata"]["annotations"] == note
    assert found["spec"]["asn"] == 7


def test_a_cluster_without_our_definitions_has_no_objects(bare: Place) -> None:
    """Nobody wants any there; as soon as they are installed it is a store like any other."""
    store = bare.store()
    for ask in (store.list, lambda: store.create(peer("a"))):
        with pytest.raises(Absent, match=r"is not installed: kubectl apply"):
            ask()
    bare.prepare()
    store.create(peer("a"))
    assert list(store.list().items) == [("BGPPeer", "a")]


@pytest.mark.parametrize(("code", "reason"), [(429, "TooManyRequests"), (500, "InternalError")])
def test_a_server_that_has_too_much_to_do_is_trouble(place: Place, code: int, reason: str) -> None:
    """In its own words, with the time that it asks for; the next request may work."""
    store = place.store()
    failure = Failure(code, reason, "please wait")
    place.double.do(lambda: place.double.api.faults.refusals.append(failure))
    with pytest.raises(Trouble, match="please wait"):
        store.list()
    assert store.list().items == {}


def test_a_watch_outlives_the_servers_end_of_it(place: Place) -> None:
    """A server ends each watch after some minutes: the next one goes on, and nobody who follows notices."""
    store = place.store()
    watching = Watching(place, store, store.list().revision)
    until(lambda: len(place.double.watching()) == 5)
    for number in range(3):
        store.create(peer(f"p{number}"))
        change = watching.next()
        assert isinstance(change, Change)
        assert change.path == ("BGPPeer", f"p{number}")
