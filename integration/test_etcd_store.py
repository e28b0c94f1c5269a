"""The etcd store against a real etcd: what every store promises, and what is etcd's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest

from bgpcni.cluster.etcd import Etcd
from bgpcni.cluster.store import Store
from bgpcni.config.agent import EtcdTable
from bgpcni.testing.store_suite import StorePlace, StoreSuite, peer
from integration.etcd import Member
from integration.lab import Lab
from integration.lab.inside import Inside

T = TypeVar("T")


class Place(StorePlace):
    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.namespace = lab.namespace("etcd")
        self.member = Member(lab, self.namespace)
        self.member.start()

    def store(self, *endpoints: str) -> Etcd:
        store = Etcd(EtcdTable(endpoints=(*endpoints, self.member.endpoint)))
        self.lab.callback(store.close)
        return store

    def call(self, what: Callable[[], T]) -> T:
        inside = Inside(self.namespace)
        try:
            return inside.call(what)
        finally:
            inside.close()

    def stop(self) -> None:
        self.member.kill()

    def start(self) -> None:
        self.member.start()

    def forget(self) -> None:
        self.member.compact()


@pytest.fixture
def place(lab: Lab) -> Place:
    return Place(lab)


class TestEtcd(StoreSuite):
    """What every store promises."""

    def write_nonsense(self, place: StorePlace, kind: str, name: str) -> None:
        assert isinstance(place, Place)
        place.member.ctl("put", f"/bgpcni/v1alpha1/{kind}/{name}", "{]")


def test_the_next_endpoint_is_asked_when_one_is_away(place: Place) -> None:
    store: Store = place.store("http://127.0.0.1:1")
    place.call(lambda: store.create(peer("a")))
    assert place.member.ctl("get", "--keys-only", "--prefix", "/").split() == ["/bgpcni/v1alpha1/BGPPeer/a"]
    assert list(place.call(store.list).items) == [("BGPPeer", "a")]


def test_a_change_whose_answer_was_lost_is_no_conflict(place: Place) -> None:
    """The same change again finds what it wanted: a client that retries must not take itself for another one."""
    store = place.store()
    first = place.call(lambda: store.create(peer("a")))
    assert place.call(lambda: store.create(peer("a"))) == first
    second = place.call(lambda: store.swap(peer("a", asn=2), first.version))
    assert place.call(lambda: store.swap(peer("a", asn=2), first.version)) == second
