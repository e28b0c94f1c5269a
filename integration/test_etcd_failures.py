"""What goes wrong with an etcd that nodes rely on is named in `status`, changes nothing, and is over by itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bgpcni.cluster.etcd import Etcd, _cut
from bgpcni.cluster.member import Member as ClusterMember
from bgpcni.cluster.objects import BGPPeer, Object
from bgpcni.config.agent import AgentConfig, EtcdTable
from bgpcni.testing.patience import until
from bgpcni.testing.store_suite import peer
from integration.etcd import Member, Tls, three
from integration.lab import Lab, Namespace
from integration.lab import until as lab_until
from integration.lab.inside import Inside


class Nodes:
    """Nodes without BGP in a namespace where etcd is; `agent` makes one, which follows and writes as an agent does."""

    def __init__(self, lab: Lab, namespace: Namespace, folder: Path) -> None:
        self.lab, self.namespace, self.folder = lab, namespace, folder
        self.inside = Inside(namespace)
        lab.callback(self.inside.close)

    def agent(self, *endpoints: str, **files: str) -> ClusterMember:
        table = EtcdTable(endpoints=endpoints, **files)
        cluster = {"store": "etcd", "node": "node-1", "etcd": table.model_dump()}
        config = AgentConfig.model_validate({"data_dir": str(self.folder), "cluster": cluster})
        assert config.cluster
        member = ClusterMember(config, config.cluster, Etcd(table), lambda version: None)
        self.lab.callback(member.stop)
        self.inside.call(member.start, lambda: 0)
        return member

    def call(self, what: Callable[[], Any]) -> Any:
        return self.inside.call(what)


@pytest.fixture
def nodes(lab: Lab, tmp_path: Path) -> Nodes:
    return Nodes(lab, lab.namespace("etcd"), tmp_path)


def amiss(member: ClusterMember) -> str:
    return member.looks["cluster-store"]()


def peers(member: ClusterMember) -> list[str]:
    return [item.metadata.name for item in member.pictures.last.of(BGPPeer)]


def write(member: Member, item: Object) -> None:
    """As soon as the members have elected a leader."""
    words = "put", f"/bgpcni/v1alpha1/{'/'.join(item.path)}", json.dumps(item.document())
    lab_until(lambda: member.ctl(*words), "an answer of etcd")


def test_certificates(lab: Lab, nodes: Nodes) -> None:
    """Both sides have certificates of one authority. A client without one is refused, one that has expired is named,
    and the next one, written over it, is used without a restart."""
    tls = Tls(lab.folder / "tls")
    etcd = Member(lab, nodes.namespace, tls=tls)
    etcd.start()
    for files in ({}, {"ca": str(tls.ca)}):
        with pytest.raises(Exception, match=r"etcd: https://127\.0\.0\.1:2379: TLS: "):
            nodes.call(Etcd(EtcdTable(endpoints=(etcd.endpoint,), **files)).list)
    cert, key = tls.issue("node", "node")
    agent = nodes.agent(etcd.endpoint, ca=str(tls.ca), cert=str(cert), key=str(key))
    until(lambda: agent.synced)
    write(etcd, peer("a"))
    until(lambda: peers(agent) == ["a"])
    assert amiss(agent) == ""
    tls.issue("node", "node", until=datetime.now(UTC) - timedelta(days=1))
    etcd.restart()
    until(lambda: "TLS: " in amiss(agent))
    assert peers(agent) == ["a"]
    tls.issue("node", "node")
    until(lambda: amiss(agent) == "")
    write(etcd, peer("b"))
    until(lambda: peers(agent) == ["a", "b"])


def test_three_members(lab: Lab, nodes: Nodes) -> None:
    """The member that is asked is killed: the next one is, and nothing is missed. A member that has lost the others is
    left. Without a majority the store is away; then it is followed again."""
    members = three(lab, nodes.namespace)
    agent = nodes.agent(*(member.endpoint for member in members))
    until(lambda: agent.synced)
    members[0].kill()
    write(members[1], peer("a"))
    until(lambda: peers(agent) == ["a"])
    members[0].start()
    store = agent.store
    assert isinstance(store, Etcd)
    asked = members[store._at]
    others = [member for member in members if member is not asked]
    for member in others:
        member.pause()
    until(lambda: amiss(agent))
    assert peers(agent) == ["a"]
    asked.kill()
    for member in others:
        member.resume()
    until(lambda: "true" in others[0].ctl("endpoint", "health", "--write-out=json"))
    write(others[0], peer("b"))
    until(lambda: peers(agent) == ["a", "b"] and not amiss(agent))


def test_a_database_that_is_full(lab: Lab, nodes: Nodes) -> None:
    """What is there is followed. What the node cannot write is named, and written once there is room again."""
    etcd = Member(lab, nodes.namespace, quota=1 << 20)
    etcd.start()
    write(etcd, peer("a"))
    filler = lab.folder / "filler"
    filler.write_text("x" * 600_000)
    for number in range(3):
        nodes.namespace.run("sh", "-c", f"etcdctl --endpoints {etcd.endpoint} put /x/{number} < {filler}", check=False)
    agent = nodes.agent(etcd.endpoint)
    until(lambda: "space exceeded" in amiss(agent) and peers(agent) == ["a"])
    etcd.ctl("del", "--prefix", "/x/")
    etcd.compact()
    etcd.ctl("defrag")
    etcd.ctl("alarm", "disarm")
    until(lambda: amiss(agent) == "")
    until(lambda: "node-1" in etcd.ctl("get", "--keys-only", "--prefix", "/bgpcni/v1alpha1/BGPNode/"))


def test_an_etcd_that_was_made_anew(lab: Lab, nodes: Nodes) -> None:
    """Its revisions begin again: what it says now is followed, and the node's own object is made again."""
    etcd = Member(lab, nodes.namespace)
    etcd.start()
    for name in "abcdefgh":
        write(etcd, peer(name))
    agent = nodes.agent(etcd.endpoint)
    until(lambda: len(peers(agent)) == 8)
    etcd.kill()
    shutil.rmtree(etcd.folder / "data")
    etcd.start()
    write(etcd, peer("new"))
    until(lambda: peers(agent) == ["new"] and not amiss(agent))
    until(lambda: "node-1" in etcd.ctl("get", "--keys-only", "--prefix", "/bgpcni/v1alpha1/BGPNode/"))


def test_an_etcd_that_wants_a_user(lab: Lab, nodes: Nodes) -> None:
    """Authentication that is switched on behind our back is named, and what was known holds."""
    etcd = Member(lab, nodes.namespace)
    etcd.start()
    agent = nodes.agent(etcd.endpoint)
    write(etcd, peer("a"))
    until(lambda: peers(agent) == ["a"])
    etcd.ctl("user", "add", "root:secret")
    etcd.ctl("user", "grant-role", "root", "root")
    etcd.ctl("auth", "enable")
    store = agent.store
    assert isinstance(store, Etcd)
    for stream in list(store._streams):  # etcd lets a watch go on that began before
        _cut(stream)
    until(lambda: "user name is empty" in amiss(agent))
    assert peers(agent) == ["a"]
    nodes.namespace.run("etcdctl", "--endpoints", etcd.endpoint, "--user", "root:secret", "auth", "disable")
    write(etcd, peer("b"))
    until(lambda: peers(agent) == ["a", "b"] and not amiss(agent))


def test_an_idle_node_costs_little(lab: Lab, nodes: Nodes) -> None:
    """Nodes that live, and nothing else: what one of them is told, and says. (The figure is in the bench.)"""
    etcd = Member(lab, nodes.namespace)
    etcd.start()
    agent = nodes.agent(etcd.endpoint)
    until(lambda: "alive" in etcd.ctl("get", "--keys-only", "--prefix", "/bgpcni/v1alpha1/"))
    before = revision(etcd)
    agent._beat_due = 0.0
    store = agent.store
    nodes.call(lambda: store.beat("node-1"))
    assert "node-1" in nodes.call(store.heard)
    assert revision(etcd) == before


def revision(etcd: Member) -> int:
    (status,) = json.loads(etcd.ctl("endpoint", "status", "--write-out=json"))
    return int(status["Status"]["header"]["revision"])
