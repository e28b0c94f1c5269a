"""Blocks of the cluster's pools on several nodes: whatever is killed, late, lost or away, no address is given twice."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from bgpcni import atomic
from bgpcni.cluster import blocks
from bgpcni.cluster import pools as module
from bgpcni.cluster.blocks import Net
from bgpcni.cluster.objects import BGPNode, IPBlock, IPPool, Object, parse
from bgpcni.cluster.objects import Path as ObjectPath
from bgpcni.cluster.picture import Pictures
from bgpcni.cluster.pools import Demand, Pools
from bgpcni.cluster.store import Conflict, Kept, Trouble
from bgpcni.config.agent import AgentConfig
from bgpcni.errors import CniError
from bgpcni.ipam import cluster as ipam
from bgpcni.ipam.cluster import ClusterLeases, leased
from bgpcni.ipam.contract import Wish
from bgpcni.testing.interleaving import Halt, Running
from bgpcni.testing.memory_store import MemoryStore, Table


def document(kind: str, name: str, **spec: Any) -> Object:
    return parse({"apiVersion": "bgpcni.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})


def pool(*cidrs: str, name: str = "a", **spec: Any) -> Object:
    return document("IPPool", name, cidrs=list(cidrs), **({"blockSize": {"ipv4": 28}} | spec))


class Killed(BaseException):
    """The process was killed at this point."""


class Fuse:
    """Kills at one of the points where something outside is changed, before or after it is; or has it fail there."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.loses = False

    def burn(self, failure: Exception) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.left = None
                if self.loses:
                    raise failure
                raise Killed


class Store:
    """The store of one node, which may be cut off."""

    def __init__(self, table: Table, fuse: Fuse) -> None:
        self._real, self._fuse, self.away = MemoryStore(table), fuse, False

    def _do(self, action: Callable[[], Any]) -> Any:
        if self.away:
            raise Trouble("nobody is there")
        self._fuse.burn(Trouble("the request was lost"))
        found = action()
        self._fuse.burn(Trouble("the answer was lost"))
        return found

    def create(self, item: Object) -> Any:
        return self._do(lambda: self._real.create(item))

    def swap(self, item: Object, version: str) -> Any:
        return self._do(lambda: self._real.swap(item, version))

    def delete(self, path: ObjectPath, version: str | None = None) -> None:
        self._do(lambda: self._real.delete(path, version))


class Member:
    """A member whose picture is as late as the test wants it."""

    def __init__(self, table: Table, name: str, epoch: str, fuse: Fuse) -> None:
        self.name, self.epoch, self._table = name, epoch, table
        self.store: Any = Store(table, fuse)
        self.pictures = Pictures()
        self.own_node: Any = None
        self.synced = False
        self._items: dict[ObjectPath, Kept] = {}
        self._at = 0

    @property
    def trouble(self) -> str:
        return "it is cut off" if self.store.away else ""

    def kept(self, path: ObjectPath) -> Kept | None:
        return self._items.get(path)

    def hear(self, count: int = 1 << 30) -> None:
        if self.store.away:
            return
        if not self.synced:
            count = 1 << 30
        for change in self._table.history[self._at : self._at + count]:
            if change.item is None:
                self._items.pop(change.path, None)
            else:
                self._items[change.path] = change.item
            self._at += 1
        self.synced = True
        self.pictures.put({path: kept.object for path, kept in self._items.items()})

    def register(self) -> None:
        """What a member does for its BGPNode: a new one, or a new epoch in the place of an earlier life's."""
        mine = BGPNode.model_validate({"metadata": {"name": self.name}, "spec": {"epoch": self.epoch}})
        kept = self._items.get(mine.path)
        try:
            if self.synced and not self.store.away and kept is None:
                self.store.create(mine)
            elif self.synced and kept is not None and kept.object != mine:
                self.store.swap(mine, kept.version)
        except (Conflict, Trouble):
            pass


class Ground:
    def __init__(self) -> None:
        self.covered: set[Net] = set()
        self.gone: list[Net] = []

    def cover(self, covered: Collection[Net]) -> None:
        self.covered = set(covered)

    def let_go(self, block: Net) -> None:
        self.gone.append(block)


class Site:
    """A node: its disk, and one life of its agent after the other."""

    def __init__(self, table: Table, name: str, folder: Path, clock: Callable[[], float]) -> None:
        self.table, self.name, self.folder, self._clock = table, name, folder, clock
        self.fuse = Fuse()
        self.epoch, self.lives = f"{name}-0", 0
        self.containers: dict[str, str] = {}
        """By container its address."""
        self.excused: set[str] = set()
        """Containers that somebody said are dead."""
        self.said_dead = self.dead = False
        self.begin()

    def begin(self) -> None:
        self.member = Member(self.table, self.name, self.epoch, self.fuse)
        bgp = {"asn": 64512, "router_id": "192.0.2.1", "local_address": "192.0.2.1", "hold_time": 3,
               "graceful_restart": 0}  # fmt: skip
        config = AgentConfig.model_validate({"data_dir": str(self.folder), "bgp": bgp})
        self.ground = Ground()
        self.pools = Pools(self.member, config, self.ground, leased, self._clock)
        self.leases = ClusterLeases(str(self.pools.leases), "n", dict, self.pools)

    def survives(self, action: Callable[[], object]) -> bool:
        """Do it; if it is killed there, begin the next life."""
        try:
            action()
        except Killed:
            self.begin()
            return False
        return True

    def look(self) -> bool:
        return self.survives(self.member.register) and self.survives(self.pools.look)

    def add(self, container: str, *asked: str, names: tuple[str, ...] = ("a",)) -> str:
        """The address, "" if there was none; then it is asked for."""
        try:
            (lease,) = self.leases.add((container, "eth0"), names, asked, Wish())
        except CniError:
            if not asked:
                pools, ticket = self.pools, self.pools._generation
                pools._demands = [Demand(names, 4, lambda: pools._generation != ticket)]
            return ""
        self.pools._demands = []
        self.containers[container] = lease.address
        return lease.address

    def wait_for(self, address: str) -> None:
        """What a call does that asks for an address."""
        pools, wanted = self.pools, ip_address(address)
        pools._demands = [Demand(("a",), 4, lambda: pools._mine(wanted) is not None, wanted)]

    def delete(self, container: str) -> None:
        self.leases.release(container, "eth0")
        del self.containers[container]

    def settled(self) -> None:
        """All is heard, and whatever has to wait has waited."""
        self.member.hear()
        self.look()

    def of_store(self) -> list[str]:
        return sorted(
            kept.object.spec.cidr for kept in self.table.items.values()
            if isinstance(kept.object, IPBlock) and kept.object.spec.node == self.name
        )  # fmt: skip


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Cluster:
    def __init__(self, folder: Path, *names: str) -> None:
        self.table, self.clock, self.folder = Table(), Clock(), folder
        self.admin = MemoryStore(self.table)
        self.sites = {name: self.site(name) for name in names}

    def site(self, name: str) -> Site:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return Site(self.table, name, folder, self.clock)

    def put(self, item: Object) -> None:
        kept = self.admin.get(item.path)
        if kept is None:
            self.admin.create(item)
        else:
            self.admin.swap(item, kept.version)

    def settle(self, rounds: int = 6, seconds: float = 12.0) -> None:
        for _ in range(rounds):
            self.clock.now += seconds
            for site in self.sites.values():
                site.settled()

    def burning(self, put: Callable[[Path, bytes, int], None]) -> Callable[[Path, bytes, int], None]:
        """A disk on which a node is killed, or which refuses."""

        def burn(path: Path, content: bytes, mode: int) -> None:
            site = next(site for site in self.sites.values() if path.is_relative_to(site.folder))
            site.fuse.burn(OSError(28, "No space left on device"))
            put(path, content, mode)
            site.fuse.burn(OSError(5, "Input/output error"))

        return burn

    def twice(self) -> dict[str, list[str]]:
        """Addresses that containers of two nodes have, without those that somebody said are dead."""
        found: dict[str, list[str]] = {}
        for site in self.sites.values():
            for container, address in site.containers.items():
                if container not in site.excused:
                    found.setdefault(address, []).append(container)
        return {address: owners for address, owners in found.items() if len(owners) > 1}


@pytest.fixture(autouse=True)
def _nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipam, "CLAIM_SECONDS", 0.0)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    made = Cluster(tmp_path, "one", "two")
    monkeypatch.setattr(atomic, "put", made.burning(atomic.put))
    made.put(pool("10.1.0.0/26"))
    made.settle(2)
    yield made
    assert made.twice() == {}


def added(site: Site, container: str, *asked: str) -> str:
    """An ADD that waits for a block."""
    for _ in range(4):
        if address := site.add(container, *asked):
            return address
        if asked:
            site.wait_for(asked[0])
        site.settled()
    return ""


# ---------------------------------------------------------------- one after the other


def test_the_first_container_claims_a_block_and_the_next_ones_ask_nobody(cluster: Cluster) -> None:
    """One change of the store for thirteen addresses, and the next block comes before the first is full."""
    site = cluster.sites["one"]
    assert added(site, "c0")
    for n in range(1, 9):
        assert site.add(f"c{n}")
        site.look()
    assert (site.pools.requests, len(site.of_store())) == (1, 1)
    assert site.add("c9")
    site.look()
    assert (site.pools.requests, len(site.of_store())) == (2, 2)
    site.settled()
    for n in range(10, 16):
        assert site.add(f"c{n}")
    assert len({ip_network(f"{address}/28", strict=False) for address in site.containers.values()}) == 2


def test_a_node_whose_store_is_away_gives_what_its_block_has(cluster: Cluster) -> None:
    """Also after a restart, which has nothing but the disk. Then the error says so."""
    site = cluster.sites["one"]
    added(site, "c0")
    site.settled()
    pools = [kept.object for kept in cluster.table.items.values()]
    site.begin()
    site.member.store.away = True
    site.member.pictures.put({item.path: item for item in pools})  # the member's own file has them
    for n in range(1, 13):
        assert site.add(f"c{n}"), n
    site.look()
    assert not site.add("c13")
    site.look()
    (demand,) = site.pools._demands
    assert "the cluster's store is away: it is cut off" in demand.reason
    with pytest.raises(CniError, match="no IPv4 address is left in this node's blocks: the cluster's store is away"):
        site.pools.refuse_exhausted(("a",), "n")


def test_an_empty_pool_is_said_to_be_empty(cluster: Cluster) -> None:
    """Two nodes share the four blocks; the next ADD names the pool, and so does `status`."""
    one, two = cluster.sites.values()
    for site in (one, two):
        for n in range(26):
            assert added(site, f"{site.name}{n}")
    assert not added(one, "late")
    assert "no block of IPv4 is free in IPPool a" in one.pools._demands[0].reason
    one.pools._demands = []
    assert one.pools.looks["cluster-pools"]() == (
        "no block of IPv4 is free in IPPool a; this node has 0 addresses left"
    )
    two.delete("two0")
    cluster.settle(2)
    assert not added(one, "late")


def test_an_empty_block_goes_back_and_the_last_one_stays(cluster: Cluster) -> None:
    """The gateway's address goes from the bridge before another node can claim it."""
    site = cluster.sites["one"]
    for n in range(20):
        assert added(site, f"c{n}")
    before = site.of_store()
    for container in list(site.containers):
        site.delete(container)
    site.settled()
    assert site.of_store() == before  # not at once: containers come and go
    cluster.settle(3)
    assert len(site.of_store()) == 1
    (gone,) = {str(net) for net in ip_network("10.1.0.0/26").subnets(new_prefix=28)} & set(before) - set(
        site.of_store()
    )
    assert ip_network(gone) in site.ground.gone


def test_an_asked_for_address(cluster: Cluster) -> None:
    """From the node's own block; from a block that nobody has; never from another node's, which the error names."""
    one, two = cluster.sites.values()
    assert added(one, "c0", "10.1.0.20") == "10.1.0.20"
    assert one.of_store() == ["10.1.0.16/28"]
    two.settled()
    with pytest.raises(CniError, match=r"10\.1\.0\.21 is in block 10\.1\.0\.16/28 of node one") as caught:
        two.leases.add(("c1", "eth0"), ("a",), ("10.1.0.21",), Wish())
    assert caught.value.code == 11
    for address, words in (("10.1.0.17", "gateway or no host of 10.1.0.16/28"), ("10.9.0.1", "in no pool")):
        with pytest.raises(CniError, match=words) as caught:
            one.leases.add(("c1", "eth0"), ("a",), (address,), Wish())
        assert caught.value.code == 7
    with pytest.raises(CniError, match="c0 holds it"):
        one.leases.add(("c1", "eth0"), ("a",), ("10.1.0.20",), Wish())


def test_networks_of_one_pool_share_no_block(cluster: Cluster) -> None:
    """They may be on different bridges, and a block is one bridge's subnet. An empty block is anybody's, once its
    gateway's address is gone from the first bridge."""
    one = cluster.sites["one"]
    mine = added(one, "c0")
    leases, one.leases = one.leases, ClusterLeases(str(one.pools.leases), "other", dict, one.pools)
    its = added(one, "d0")
    assert ip_network(f"{mine}/28", strict=False) != ip_network(f"{its}/28", strict=False)
    with pytest.raises(CniError, match="which network n uses on this node"):
        one.leases.add(("d1", "eth0"), ("a",), (str(ip_address(mine) + 1),), Wish())
    one.begin()
    one.leases = ClusterLeases(str(one.pools.leases), "other", dict, one.pools)
    cluster.settle(2)
    assert ip_network(f"{added(one, 'd1')}/28", strict=False) == ip_network(f"{its}/28", strict=False)
    leases.release("c0", "eth0")
    one.pools.taken.discard(mine)
    del one.containers["c0"]
    cluster.settle(3)
    block = ip_network(f"{mine}/28", strict=False)
    assert block in one.ground.gone
    for n in range(2, 20):
        assert added(one, f"d{n}")
    assert block in {ip_network(f"{address}/28", strict=False) for address in one.containers.values()}


def test_a_static_address_moves_with_its_container(cluster: Cluster) -> None:
    """It is one node's at a time: the other gets it once the first one's container is gone."""
    cluster.put(pool("10.1.0.0/26", static=["10.1.0.48-10.1.0.63"]))
    cluster.settle(1)
    one, two = cluster.sites.values()
    assert added(one, "c0", "10.1.0.50") == "10.1.0.50"
    assert one.of_store() == ["10.1.0.50/32"]
    assert not added(two, "c1", "10.1.0.50")
    with pytest.raises(CniError, match=r"10\.1\.0\.50 is claimed by node one"):
        two.leases.add(("c1", "eth0"), ("a",), ("10.1.0.50",), Wish())
    one.delete("c0")
    cluster.settle(2, 2.0)
    assert one.of_store() == []
    assert added(two, "c1", "10.1.0.50") == "10.1.0.50"
    for n in range(60):
        added(two, f"d{n}")
    assert not {f"10.1.0.{n}" for n in range(48, 64)} & {a for c, a in two.containers.items() if c != "c1"}


def test_a_dead_nodes_block_is_free_when_no_router_can_lead_there(cluster: Cluster) -> None:
    """Its object is deleted: a tombstone at once, and the block 33 seconds (3 + 0 + 30) later. A node that has begun
    meanwhile counts from when it saw the tombstone."""
    one, two = cluster.sites.values()
    assert added(one, "c0")
    one.dead, one.containers = True, {}
    del cluster.sites["one"]
    cluster.admin.delete(("BGPNode", "one"))
    cluster.settle(1, 0.0)
    cluster.settle(1, 2.5)
    (claim,) = [kept.object for kept in cluster.table.items.values() if isinstance(kept.object, IPBlock)]
    assert claim.spec.tombstone
    cluster.settle(1, 0.0)
    cluster.settle(1, 32.0)
    assert len(one.of_store()) == 1
    two.begin()
    cluster.settle(1, 2.0)
    cluster.settle(1, 30.0)
    assert len(one.of_store()) == 1
    cluster.settle(1, 6.0)
    assert one.of_store() == []


@pytest.mark.parametrize(("restart", "seconds"), [({}, 123), ({"long_lived_graceful_restart": 3600}, 3723)])
def test_a_dead_nodes_routes_may_live_on_for_both_restart_times(
    cluster: Cluster, restart: dict[str, int], seconds: int
) -> None:
    """Hold time 3, graceful restart 90 and 30 seconds more; routes that peers keep as a last resort live for longer."""
    bgp = {"asn": 64512, "router_id": "192.0.2.1", "local_address": "192.0.2.1", "hold_time": 3, "graceful_restart": 90}
    pools = cluster.sites["one"].pools
    pools.renew(AgentConfig.model_validate({"bgp": bgp | restart}))
    assert pools.mourning() == seconds


def test_a_node_whose_object_was_deleted_takes_its_blocks_again(cluster: Cluster) -> None:
    """It lives: it makes its object again, and whoever has set a tombstone finds another version."""
    one = cluster.sites["one"]
    address = added(one, "c0")
    cluster.admin.delete(("BGPNode", "one"))
    cluster.sites["two"].settled()
    cluster.settle(1, 2.5)
    cluster.settle(8, 30.0)
    (claim,) = [kept.object for kept in cluster.table.items.values() if isinstance(kept.object, IPBlock)]
    assert (claim.spec.node, claim.spec.tombstone) == ("one", False)
    assert not one.pools.conflict(address)
    assert one.add("c1")


def test_a_node_that_was_away_too_long_reports_what_is_anothers(cluster: Cluster) -> None:
    """Behind a partition its object is deleted, its block freed and claimed. When it is back, it says which of its
    containers have another's addresses, gives none of them, and takes the block again once that is free."""
    one, two = cluster.sites.values()
    address = added(one, "c0")
    one.settled()
    one.member.store.away, one.excused = True, {"c0"}
    cluster.admin.delete(("BGPNode", "one"))
    cluster.settle(6, 30.0)
    assert one.of_store() == []
    assert added(two, "d0", address) == address
    assert one.pools.conflict(address) == ""
    one.member.store.away = False
    cluster.settle(2)
    (block,) = two.of_store()
    assert one.pools.conflict(address) == f"{block} is not this node's any more: {block} is claimed by node two"
    assert f"1 of its addresses are still used here and are not announced: {address}" in one.pools.lost()
    one.begin()
    assert one.pools.conflict(address)  # known without the store
    fresh = added(one, "c1")
    assert fresh
    assert ip_network(f"{fresh}/28", strict=False) != ip_network(block)
    two.delete("d0")
    added(two, "d1")
    cluster.settle(4)
    two.delete("d1")
    one.delete("c0")
    cluster.settle(4)
    assert one.pools.lost() == ""
    one.excused.clear()


def test_a_pool_that_shrinks_takes_nothing_from_who_runs(cluster: Cluster) -> None:
    """Nothing new is given from a block that the pool has no more, and it goes back with its last container."""
    one = cluster.sites["one"]
    address = added(one, "c0", "10.1.0.20")
    cluster.put(pool("10.1.0.32/27"))
    cluster.settle(3)
    assert one.of_store() == ["10.1.0.16/28"]
    assert not one.pools.conflict(address)
    for n in range(26):
        assert added(one, f"d{n}").rpartition(".")[2] > "32"
    one.delete("c0")
    cluster.settle(3)
    assert "10.1.0.16/28" not in one.of_store()


def test_a_pool_that_is_deleted_keeps_its_containers(cluster: Cluster) -> None:
    """An ADD is refused with the place in the configuration."""
    one = cluster.sites["one"]
    added(one, "c0")
    cluster.admin.delete(("IPPool", "a"))
    cluster.settle(3)
    assert len(one.of_store()) == 1
    with pytest.raises(CniError, match=r"ipam.pools\[0\]: there is no IPPool a in the cluster") as caught:
        one.leases.add(("c1", "eth0"), ("a",), (), Wish())
    assert caught.value.code == 7


def test_a_pool_of_another_node_is_refused(cluster: Cluster) -> None:
    cluster.put(pool("10.1.0.0/26", nodeSelector={"rack": "r1"}))
    cluster.settle(1)
    one = cluster.sites["one"]
    with pytest.raises(CniError, match=r"ipam.pools\[0\]: IPPool a does not select this node"):
        one.leases.add(("c0", "eth0"), ("a",), (), Wish())
    with pytest.raises(CniError, match="no IPPool of the cluster selects this node"):
        one.leases.add(("c0", "eth0"), None, (), Wish())


def test_a_kubernetes_node_without_pools_has_its_pod_cidrs(cluster: Cluster) -> None:
    """They are nobody else's, so nothing is claimed; a start without the API server knows them from the disk."""
    one = cluster.sites["one"]
    one.member.own_node = own = SimpleNamespace(object=None)

    def add(container: str, *asked: str) -> list[str]:
        return [lease.address for lease in one.leases.add((container, "eth0"), None, asked, Wish())]

    with pytest.raises(CniError, match="the Node one has not been read yet") as caught:
        add("c0")
    assert caught.value.code == 11
    own.object = {"spec": {"podCIDRs": ["10.244.1.0/29", "2001:db8:1::/125"]}}
    assert add("c0") == ["10.244.1.2", "2001:db8:1::2"]
    assert add("c1", "10.244.1.6") == ["10.244.1.6", "2001:db8:1::3"]
    for address in ("10.244.1.1", "10.244.2.2"):
        with pytest.raises(CniError, match="is for no container of this Node") as caught:
            add("c2", address)
        assert caught.value.code == 7
    one.settled()
    one.begin()
    one.member.own_node = SimpleNamespace(object=None)
    for n in range(2, 5):
        assert add(f"c{n}")
    with pytest.raises(CniError, match=r"no address is free in this Node's podCIDRs: 10\.244\.1\.0/29") as caught:
        add("c5")
    assert caught.value.code == 11
    with pytest.raises(CniError, match="no address is free"):
        one.pools.refuse_exhausted(None, "n")
    assert one.of_store() == []
    assert list(one.pools.contradictions()) == []


def test_blocks_announced_as_a_whole_have_blackholes(cluster: Cluster) -> None:
    """As long as the node has them."""
    cluster.put(pool("10.1.0.0/26", advertise="block"))
    cluster.settle(1)
    one = cluster.sites["one"]
    added(one, "c0", "10.1.0.20")
    one.settled()
    assert one.ground.covered == {ip_network("10.1.0.16/28")}
    one.begin()
    one.pools.look()
    assert one.ground.covered == {ip_network("10.1.0.16/28")}


def test_a_block_is_used_only_if_the_disk_has_it(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk: the claim stays the node's, nothing is given from it, and `status` says why."""
    one = cluster.sites["one"]

    def full(path: Path, content: bytes, mode: int) -> None:
        raise OSError(28, "No space left on device")

    real = atomic.put
    monkeypatch.setattr(atomic, "put", full)
    assert not added(one, "c0")
    assert "No space left on device" in one.pools.looks["cluster-pools"]()
    monkeypatch.setattr(atomic, "put", real)
    assert added(one, "c0")
    assert one.pools.looks["cluster-pools"]() == ""
    assert len(one.of_store()) == 1


def test_claims_of_different_sizes_never_overlap(cluster: Cluster) -> None:
    """A pool is made anew with another block size while a node has not heard of it: one of the two gives way."""
    one, two = cluster.sites.values()
    cluster.admin.delete(("IPPool", "a"))
    cluster.put(pool("10.1.0.0/27", blockSize={"ipv4": 27}))
    two.settled()
    one.add("c0")
    two.add("d0")
    two.look()
    one.look()  # it claims a /28 of what the other one has claimed as a /27
    cluster.settle(3)
    nets = [ip_network(cidr) for site in (one, two) for cidr in site.of_store()]
    assert sum(a.overlaps(b) for a in nets for b in nets) == len(nets)  # type: ignore[arg-type]


# ---------------------------------------------------------------- races and kills


def two_blocks(site: Site) -> str:
    """Two blocks of which one is empty; the other one's."""
    for n in range(20):
        assert added(site, f"c{n}")
    for container in list(site.containers)[13:]:
        site.delete(container)
    site.delete("c0")
    site.settled()
    assert len(site.of_store()) == 2
    return next(iter(site.containers.values()))


def test_an_address_that_is_taken_while_its_block_is_given_back_is_let_go(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ADD saw the block before it was shut: it takes no address of it, and leaves no lease."""
    site = cluster.sites["one"]
    two_blocks(site)
    for container in list(site.containers):
        site.delete(container)
    site.settled()
    cluster.clock.now += 12.0
    offers, _ = site.pools.offers(4, ("a",), "n")
    monkeypatch.setattr(site.pools, "offers", lambda version, names, network: (offers, 0))
    halt = Halt(monkeypatch, site.ground, "let_go")
    keeper = Running(site.pools.look)
    halt.reached()
    (shut,) = site.pools._shut
    taken = site.add("late")
    assert ip_network(f"{taken}/28", strict=False) != shut
    assert site.pools.taken.count(shut) == 0
    halt.go_on()
    keeper.result()
    assert ip_network(f"{taken}/28", strict=False) in site.pools._blocks


def test_a_block_is_not_given_back_while_an_address_of_it_is_taken(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ADD has its lease and has not yet looked whether the block is still open."""
    site = cluster.sites["one"]
    added(site, "c0")
    site.delete("c0")
    site.settled()
    cluster.clock.now += 12.0
    halt = Halt(monkeypatch, site.pools, "keep")
    adding = Running(lambda: site.add("c1"))
    halt.reached()
    cluster.put(pool("10.9.0.0/26"))  # so that even the last block goes back, if it is empty
    site.settled()
    cluster.clock.now += 12.0
    site.look()
    assert len(site.of_store()) == 1
    halt.go_on()
    assert adding.result()


@pytest.mark.parametrize("left", range(4))
def test_a_kill_between_claim_and_disk_leaves_the_block_the_nodes(cluster: Cluster, left: int) -> None:
    """Whether the claim reached the store, or the disk, or both: the next life has the block, once."""
    site = cluster.sites["one"]
    site.add("c0")
    site.fuse.left = left
    for _ in range(3):
        site.settled()
    assert site.fuse.left is None
    assert added(site, "c0")
    cluster.settle(2)
    assert len(site.of_store()) == 1
    assert list(site.pools.contradictions()) == []


@pytest.mark.parametrize("left", range(6))
def test_a_kill_while_a_block_is_given_back_leaves_it_one_nodes(cluster: Cluster, left: int) -> None:
    """Whoever starts from the disk alone gives nothing that another node could have claimed."""
    one, two = cluster.sites.values()
    two_blocks(one)
    for container in list(one.containers):
        one.delete(container)
    one.settled()
    cluster.clock.now += 12.0
    one.fuse.left = left
    one.look()
    one.member.hear()
    one.look()
    one.fuse.left = None
    one.begin()
    one.member.store.away = True
    one.member.pictures.put({item.path: item for kept in cluster.table.items.values() for item in (kept.object,)})
    for n in range(60):
        added(two, f"d{n}")
        one.add(f"e{n}")
    assert cluster.twice() == {}


def test_what_contradicts_itself_is_named(cluster: Cluster) -> None:
    """A lease in no block, a claim without a pool, a claim of a node that is not there."""
    one = cluster.sites["one"]
    address = added(one, "c0")
    assert list(one.pools.contradictions()) == []
    one.pools.taken.add("10.9.9.9")
    cluster.admin.create(blocks.claim(ip_network("10.7.0.0/26"), "b", "three", "x"))
    cluster.sites["one"].member.hear()
    one.pools._understand(one.member.pictures.last)
    assert list(one.pools.contradictions()) == [
        "block 10.7.0.0/26 of node three: there is no IPPool b",
        "block 10.7.0.0/26: of node three, which is not in the cluster",
        "10.9.9.9: leased here, and in no block of this node",
    ]
    block = str(ip_network(f"{address}/28", strict=False))
    assert one.pools.view() == [
        {"block": block, "pool": "a", "node": "one", "dead": False, "ours": True, "used": 1, "size": 13},
        {"block": "10.7.0.0/26", "pool": "b", "node": "three", "dead": True, "ours": False, "used": None, "size": None},
    ]  # fmt: skip


# ---------------------------------------------------------------- anything, in any order

NAMES = st.sampled_from(["one", "two", "three"])
POOLS = [
    pool("10.1.0.0/27", blockSize={"ipv4": 29}),
    pool("10.1.0.0/27", "10.2.0.0/28", blockSize={"ipv4": 29}),
    pool("10.1.0.0/27", blockSize={"ipv4": 29}, static=["10.1.0.3-10.1.0.12"]),
    pool("10.1.0.0/27", blockSize={"ipv4": 28}),
]


class Machine(RuleBasedStateMachine):
    """Three nodes and a store."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="bgpcni-pools-"))
        self.cluster = Cluster(self.folder, "one", "two", "three")
        self.cluster.put(POOLS[0])
        self.cluster.settle(2)
        self.numbers = iter(range(1 << 20))
        self._put, atomic.put = atomic.put, self.cluster.burning(atomic.put)

    def teardown(self) -> None:
        try:
            self._agree()
        finally:
            atomic.put = self._put
            shutil.rmtree(self.folder, ignore_errors=True)

    def _agree(self) -> None:
        """After all that, everything is heard by everybody: blocks, disks and leases agree."""
        for site in self.cluster.sites.values():
            site.fuse.left, site.member.store.away, site.pools._demands = None, False, []
            if site.dead:
                self._rise(site)
        self.cluster.settle(12, 20.0)
        claims = [kept.object for kept in self.cluster.table.items.values() if isinstance(kept.object, IPBlock)]
        nets = [ip_network(item.spec.cidr) for item in claims]
        assert sum(a.overlaps(b) for a in nets for b in nets) == len(nets)
        for site in self.cluster.sites.values():
            held = {str(net): block for net, block in site.pools._blocks.items()}
            assert {cidr for cidr, block in held.items() if not block.lost} == set(site.of_store())
            for container, address in site.containers.items():
                assert any(site.pools.taken.count(net) and address in map(str, net) for net in site.pools._blocks)
                assert container in site.excused or not site.pools.conflict(address)
        assert self.cluster.twice() == {}

    @invariant()
    def no_address_is_given_twice(self) -> None:
        assert self.cluster.twice() == {}

    @rule(name=NAMES)
    def add(self, name: str) -> None:
        site = self.cluster.sites[name]
        if not site.dead:
            container = f"{name}{next(self.numbers)}"
            if site.add(container) and site.said_dead:
                site.excused.add(container)

    @rule(name=NAMES, last=st.integers(2, 30))
    def ask_for(self, name: str, last: int) -> None:
        site = self.cluster.sites[name]
        if not site.dead:
            container, address = f"{name}{next(self.numbers)}", f"10.1.0.{last}"
            if not site.add(container, address):
                site.wait_for(address)
            elif site.said_dead:
                site.excused.add(container)

    @rule(name=NAMES, which=st.integers(0, 40))
    def delete(self, name: str, which: int) -> None:
        site = self.cluster.sites[name]
        if site.containers:
            site.delete(sorted(site.containers)[which % len(site.containers)])

    @rule(name=NAMES)
    def look(self, name: str) -> None:
        site = self.cluster.sites[name]
        if not site.dead:
            site.look()

    @rule(name=NAMES, count=st.integers(1, 4))
    def hear(self, name: str, count: int) -> None:
        self.cluster.sites[name].member.hear(count)

    @rule(name=NAMES)
    def hear_all_and_look(self, name: str) -> None:
        site = self.cluster.sites[name]
        if not site.dead:
            site.member.hear()
            site.look()
            site.member.hear()
            if site.look() and not site.member.store.away:
                site.said_dead = False

    @rule(name=NAMES)
    def fill(self, name: str) -> None:
        """As many containers as there is room for."""
        site = self.cluster.sites[name]
        for _ in range(0 if site.dead else 12):
            self.add(name)
            site.member.hear()
            site.look()

    @rule(silent=NAMES, rounds=st.integers(1, 8), full=st.booleans())
    def all_but_one(self, silent: str, rounds: int, full: bool) -> None:
        """Time passes, and one node hears of nothing and does nothing meanwhile; the others may need all they get."""
        others = sorted(self.cluster.sites.keys() - {silent})
        for _ in range(rounds):
            self.cluster.clock.now += 15.0
            for name in others:
                self.hear_all_and_look(name)
        for name in others if full else ():
            self.fill(name)

    @rule(seconds=st.sampled_from([0.5, 2.5, 11.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.cluster.clock.now += seconds

    @rule(name=NAMES, left=st.integers(0, 5), loses=st.booleans())
    def light(self, name: str, left: int, loses: bool) -> None:
        """Kill it at one of its next points, or lose an answer of the store."""
        fuse = self.cluster.sites[name].fuse
        fuse.left, fuse.loses = left, loses

    @rule(name=NAMES)
    def restart(self, name: str) -> None:
        self.cluster.sites[name].begin()

    @rule(name=NAMES)
    def cut_off(self, name: str) -> None:
        store = self.cluster.sites[name].member.store
        store.away = not store.away

    @rule(name=NAMES)
    def say_dead(self, name: str) -> None:
        """Somebody deletes the node's object. If it lives, its containers are not in the claim any more."""
        site = self.cluster.sites[name]
        if ("BGPNode", name) in self.cluster.table.items:
            self.cluster.admin.delete(("BGPNode", name))
            site.said_dead = True
            site.excused |= site.containers.keys()

    @rule(name=NAMES, wiped=st.booleans())
    def die(self, name: str, wiped: bool) -> None:
        """A machine loses its power, and perhaps its disk; its containers are gone."""
        site = self.cluster.sites[name]
        site.dead, site.containers = True, {}
        if wiped:
            shutil.rmtree(site.folder)
            site.folder.mkdir()
            site.lives += 1
            site.epoch = f"{name}-{site.lives}"

    @precondition(lambda self: any(site.dead for site in self.cluster.sites.values()))
    @rule(name=NAMES)
    def rise(self, name: str) -> None:
        site = self.cluster.sites[name]
        if site.dead:
            self._rise(site)

    def _rise(self, site: Site) -> None:
        shutil.rmtree(site.folder / "ipam" / "leases", ignore_errors=True)  # leases of an earlier boot
        site.dead = False
        site.begin()

    @rule(item=st.sampled_from(POOLS))
    def change_the_pool(self, item: IPPool) -> None:
        self.cluster.put(item)


def test_no_address_is_ever_given_twice() -> None:
    """Kills at every point, lost answers, partitions, late pictures, dead nodes, lost disks, pools that change."""
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Machine,
        settings=settings(
            max_examples=40, stateful_step_count=30, deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )  # fmt: skip


assert module.IDLE_SECONDS < 12
