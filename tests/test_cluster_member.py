"""This node as a member: what it says of itself, what it follows, and what it keeps for a start without the store."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bgpcni.cluster import member as module
from bgpcni.cluster.member import FILE, Member
from bgpcni.cluster.objects import BGPNode, IPPool, Object, parse
from bgpcni.cluster.store import Conflict
from bgpcni.config.agent import AgentConfig
from bgpcni.testing.memory_store import MemoryStore, Table
from bgpcni.testing.patience import SECONDS, until


def document(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "bgpcni.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def peer(name: str, address: str) -> Object:
    return parse(document("BGPPeer", name, address=address))


class Place:
    """One data_dir, one store; each `member` is an agent's life."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.table = folder, Table()
        self.store = MemoryStore(self.table)
        self.gateway: str | None = None
        self._members: list[Member] = []

    def config(self, folder: Path | None = None, **labels: str) -> AgentConfig:
        cluster = {"store": "etcd", "node": "node-1", "labels": labels, "etcd": {"endpoints": ["http://127.0.0.1:1"]}}
        bgp = {"asn": 64512, "router_id": "192.0.2.1", "local_address": "192.0.2.1"}
        return AgentConfig.model_validate({"data_dir": str(folder or self.folder), "bgp": bgp, "cluster": cluster})

    def member(self, folder: Path | None = None) -> Member:
        """Not started."""
        config = self.config(folder)
        assert config.cluster
        made = Member(config, config.cluster, MemoryStore(self.table), lambda version: self.gateway)
        self._members.append(made)
        return made

    def start(self, folder: Path | None = None, sessions: Callable[[], int | None] = lambda: None) -> Member:
        made = self.member(folder)
        made.start(sessions)
        return made

    def addresses(self, member: Member) -> list[str]:
        return [wish.neighbor.address for wish in member.wishes(self.config()) if wish.neighbor]

    def node(self) -> BGPNode | None:
        kept = self.store.get(("BGPNode", "node-1"))
        assert kept is None or isinstance(kept.object, BGPNode)
        return kept.object if kept else None

    def close(self) -> None:
        for each in self._members:
            each.stop()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(module, "SECONDS", 0.02)
    monkeypatch.setattr("bgpcni.cluster.follower.PAUSE", 0.01)
    place = Place(tmp_path)
    yield place
    place.close()


def amiss(member: Member) -> dict[str, str]:
    return {code: words for code, look in member.looks.items() if (words := look())}


def test_a_node_says_what_it_is(place: Place) -> None:
    """Its object has name, address, ASN, router ID, labels, epoch and version; labels and sessions follow."""
    sessions = [2]
    member = place.start(sessions=lambda: sessions[0])
    until(lambda: place.node() is not None)
    first = place.node()
    assert first is not None
    assert first.spec.addresses == ("192.0.2.1",)
    assert (first.spec.asn, first.spec.router_id) == (64512, "192.0.2.1")
    assert first.spec.epoch
    assert first.spec.version
    assert (first.status or {})["sessions"] == 2
    member.wishes(place.config(rack="r9"))  # a reload that is refused in the end
    member.renew(place.config(rack="r1"))
    sessions[0] = 1
    until(lambda: (now := place.node()) and now.metadata.labels and (now.status or {})["sessions"] == 1)
    now = place.node()
    assert now is not None
    assert now.metadata.labels == {"rack": "r1"}
    assert (now.status or {})["since"] == (first.status or {})["since"]


def test_the_epoch_is_kept_and_the_store_is_not_written_without_need(place: Place) -> None:
    """A restart is the same node: nothing is written. A node without its data is another one."""
    member = place.start()
    until(lambda: place.node() is not None)
    before = place.node()
    member.stop()
    again = place.start()
    until(lambda: again._registered and again.pictures.last.find(BGPNode, "node-1"))  # it writes its file no more
    assert place.node() == before
    assert place.table.revision == 1
    again.stop()
    (place.folder / FILE).unlink()
    place.start()
    until(lambda: (now := place.node()) and before and now.spec.epoch != before.spec.epoch)


def test_what_was_true_is_there_without_the_store(place: Place) -> None:
    """A start without the store has the same neighbours, and says that the store is away; it is followed again."""
    place.store.create(peer("a", "198.51.100.1"))
    member = place.start()
    until(lambda: place.addresses(member) == ["198.51.100.1"] and (place.folder / FILE).exists())
    until(lambda: b"198.51.100.1" in (place.folder / FILE).read_bytes())
    place.table.leave()
    until(lambda: "cluster-store" in amiss(member))
    assert place.addresses(member) == ["198.51.100.1"]
    member.stop()
    again = place.start()
    assert place.addresses(again) == ["198.51.100.1"]
    until(lambda: "what it said last holds" in amiss(again).get("cluster-store", ""))
    place.table.away = False
    place.store.create(peer("b", "198.51.100.2"))
    until(lambda: place.addresses(again) == ["198.51.100.1", "198.51.100.2"])
    until(lambda: amiss(again) == {})


def test_a_compaction_behind_its_back_is_survived(place: Place) -> None:
    """What was deleted meanwhile is gone, what was made is there."""
    place.store.create(peer("a", "198.51.100.1"))
    member = place.start()
    until(lambda: place.addresses(member) == ["198.51.100.1"])
    with place.table.moved:
        place.table.change(("BGPPeer", "a"), None)
        place.table.change(("BGPPeer", "b"), peer("b", "198.51.100.2"))
        place.table.compacted = place.table.revision
        place.table.history.clear()
    until(lambda: place.addresses(member) == ["198.51.100.2"])


def test_nonsense_in_the_store_takes_nothing_away(place: Place) -> None:
    """An object that nobody can read any more keeps what it said, over a restart too, and `status` names it."""
    place.store.create(peer("a", "198.51.100.1"))
    member = place.start()
    until(lambda: place.addresses(member) == ["198.51.100.1"])
    with place.table.moved:
        place.table.change(("BGPPeer", "a"), None, broken="BGPPeer a: spec.address: no address")
    until(lambda: "no address" in amiss(member).get("cluster-objects", ""))
    assert place.addresses(member) == ["198.51.100.1"]
    member.stop()
    again = place.start()
    until(lambda: "cluster-objects" in amiss(again))
    assert place.addresses(again) == ["198.51.100.1"]
    place.store.delete(("BGPPeer", "a"))
    until(lambda: place.addresses(again) == [])


def test_a_file_that_cannot_be_read_is_no_obstacle(place: Place) -> None:
    """The node starts, and learns all from the store."""
    (place.folder / FILE).write_text("{]")
    place.store.create(peer("a", "198.51.100.1"))
    member = place.start()
    until(lambda: place.addresses(member) == ["198.51.100.1"])


def test_two_agents_of_one_name_do_not_fight(place: Place, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The one that was there first says so, and writes no more."""
    first = place.start()
    until(lambda: first._registered)
    second = place.start(tmp_path_factory.mktemp("second"))
    until(lambda: second._registered)
    until(lambda: "another agent says that it is the node node-1" in amiss(first).get("cluster-node", ""))
    now = place.node()
    assert now is not None
    assert now.spec.epoch == second.epoch


def test_a_change_of_the_gateway_is_noticed(place: Place) -> None:
    """Without an event in the store; only where a peer is found by the gateway."""
    member = place.start()
    until(lambda: member._registered)
    place.store.create(parse(document("BGPPeer", "tor", gateway=True)))
    until(lambda: len(member.wishes(place.config())) == 1)
    assert place.addresses(member) == []
    before = member.generation
    place.gateway = "192.0.2.254"
    until(lambda: member.generation != before)
    assert place.addresses(member) == ["192.0.2.254"]


def test_sessions_of_other_nodes_change_nothing_here(place: Place) -> None:
    """What a node says of its sessions is written often, and must not make every other node compare its peers."""
    member = place.start()
    until(lambda: member._registered and place.node() is not None)
    other = document("BGPNode", "node-2")
    kept = place.store.create(parse(other))
    until(lambda: ("BGPNode", "node-2") in member._objects)
    until(lambda: member.generation == 2)  # its own object, then this one
    before = member.generation
    place.store.swap(parse(other | {"status": {"sessions": 3}}), kept.version)
    place.store.create(peer("a", "198.51.100.1"))
    until(lambda: place.addresses(member) == ["198.51.100.1"])
    until(lambda: member.generation != before)
    assert member.generation == before + 1


def test_a_lost_race_for_its_object_is_tried_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The follower hears of the other's change, and then it is compared anew."""
    raced = threading.Event()

    def create(self: MemoryStore, item: Any) -> Any:
        if not raced.is_set():
            raced.set()
            raise Conflict("it exists already")
        with self._reached() as table:
            return table.change(item.path, item)

    monkeypatch.setattr(MemoryStore, "create", create)
    member = place.start()
    until(lambda: member._registered)
    assert raced.is_set()
    assert place.node() is not None


def test_every_kind_is_in_the_picture_and_on_disk(place: Place) -> None:
    """Pools, blocks and policies too: whoever waits gets the next picture, and a start without the store has them."""
    place.store.create(parse(document("IPPool", "a", cidrs=["10.0.0.0/24"])))
    member = place.start()
    until(lambda: member.synced and place.node() is not None)
    until(lambda: member.pictures.last.find(BGPNode, "node-1") is not None)
    before = member.pictures.last
    assert [item.metadata.name for item in before.of(IPPool)] == ["a"]
    place.store.create(parse(document("RoutePolicy", "p", set={"med": 1})))
    after = member.pictures.wait(before)
    assert after.changed(before) == {("RoutePolicy", "p")}
    place.store.delete(("IPPool", "a"))
    gone = member.pictures.wait(after)
    assert (gone.find(IPPool, "a"), gone.changed(after)) == (None, {("IPPool", "a")})
    generation = member.generation
    place.table.leave()
    member.stop()
    again = place.member()
    assert again.pictures.last.objects == gone.objects
    assert not again.synced
    assert generation == member.generation


def test_what_the_store_has_not_is_gone_after_a_start(place: Place) -> None:
    """An object that was deleted while no agent ran is in no picture once the store has been read."""
    place.store.create(parse(document("IPPool", "a", cidrs=["10.0.0.0/24"])))
    member = place.start()
    until(lambda: member.pictures.last.find(IPPool, "a") is not None)
    member.stop()
    place.store.delete(("IPPool", "a"))
    again = place.start()
    assert again.pictures.last.find(IPPool, "a") is not None or again.synced
    until(lambda: again.pictures.last.find(IPPool, "a") is None)


def test_nobody_waits_for_a_picture_after_the_end(place: Place) -> None:
    """A thread that waits is told that the member has stopped."""
    member = place.start()
    until(lambda: place.node() is not None)
    done = threading.Event()

    def wait() -> None:
        while not member.pictures.closed:
            member.pictures.wait(member.pictures.last)
        done.set()

    threading.Thread(target=wait, daemon=True).start()
    member.stop()
    assert done.wait(SECONDS)
