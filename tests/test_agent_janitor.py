"""What happens without a call: confirmed withdrawals are completed, lost links noticed, one job harms no other."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from memory_exporter import FACTS, Memory
from waiting import SECONDS, until

from bgpcni.agent import janitor as module
from bgpcni.agent.janitor import Janitor
from bgpcni.config.agent import AgentConfig
from bgpcni.convergence import catalog
from bgpcni.convergence.convergence import Convergence
from bgpcni.errors import IoFailure
from bgpcni.model import Address, Attachment, AttachmentKey, ExporterUse, State
from bgpcni.node.node import Node
from bgpcni.store import Store

NO_LINK = (1 << 31) - 7
"""An index that no link has."""


class Place:
    """A node on folders of its own, its janitor running, its exporter in memory."""

    def __init__(self, tmp_path: Path) -> None:
        self.store = Store(tmp_path / "data", tmp_path / "run")
        self.convergence = Convergence(FACTS, resident=True, finished=lambda key: self.janitor.finished(key))
        self.node = Node(self.store, AgentConfig(orphan_grace=0.01), FACTS, self.convergence)
        self.janitor = Janitor(self.node)
        self.thread = threading.Thread(target=self.janitor.run)

    def attachment(self, **more: object) -> Attachment:
        values = {
            "boot_id": self.node.boot_id, "network": "net", "container_id": "c1", "ifname": "eth0", "netns": "/x",
            "chained": True, "addresses": (Address(address="10.1.2.3/24"),),
            "exporters": (ExporterUse(name="memory", type="memory"),), **more,
        }  # fmt: skip
        return Attachment.model_validate(values)

    @property
    def exporter(self) -> Memory:
        found = self.convergence.announcers()["memory"]._exporter
        assert isinstance(found, Memory)
        return found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(catalog, "load", lambda kind: Memory)
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.005)
    place = Place(tmp_path)
    place.convergence.start()
    place.thread.start()
    yield place
    place.janitor.stop()
    place.thread.join(SECONDS)
    place.convergence.stop()
    place.store.close()


def test_jobs_run_in_order_and_one_that_fails_stops_none(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """One broken attachment never blocks the rest."""
    done: list[str] = []
    last = threading.Event()

    def broken() -> None:
        raise RuntimeError("broken")

    with caplog.at_level(logging.ERROR):
        place.janitor.later(0.02, last.set)
        place.janitor.later(0, broken)
        place.janitor.later(0, lambda: done.append("one"))
        place.janitor.later(0, lambda: done.append("two"))
        assert last.wait(SECONDS)
    assert done == ["one", "two"]
    assert "a job of the janitor failed" in caplog.text


def test_a_confirmed_withdrawal_gives_the_record_back(place: Place) -> None:
    """The session that was down when DEL came is back: nobody has to ask."""
    item = place.attachment()
    place.store.put(State.UP, item)
    place.convergence.want(item)
    until(lambda: len(place.exporter.table) == 1)
    place.exporter.established = False
    place.store.move(item, State.LEAVING)
    place.convergence.leave(item)
    until(lambda: not place.exporter.table)
    assert place.store.find(item.key) is not None
    place.exporter.established = True
    place.exporter.wake.progress()
    until(lambda: place.store.find(item.key) is None)


def test_a_confirmation_waits_for_the_call_that_holds_the_attachment(place: Place) -> None:
    item = place.attachment(exporters=())
    place.store.put(State.LEAVING, item)
    with place.store.locked(item.key, 0):
        place.janitor.finished(item.key)
        ran = threading.Event()
        place.janitor.later(0, ran.set)
        assert ran.wait(SECONDS)
        assert place.store.find(item.key) is not None
    until(lambda: place.store.find(item.key) is None)


def test_an_attachment_that_was_added_again_is_let_be(place: Place) -> None:
    """A confirmation that comes late says nothing about the new one."""
    item = place.attachment(exporters=())
    place.store.put(State.UP, item)
    place.janitor.finished(item.key)
    ran = threading.Event()
    place.janitor.later(0, ran.set)
    assert ran.wait(SECONDS)
    assert place.store.find(item.key) is not None


@pytest.mark.parametrize("error", [IoFailure("disk"), OSError(1, "netlink")])
def test_what_cannot_be_finished_now_is_tried_again(
    place: Place, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """A full disk, a kernel that refuses: the address is not lost for good."""
    item = place.attachment(exporters=())
    place.store.put(State.LEAVING, item)
    finish, failures = place.node.finish, [error, error]

    def flaky(attachment: Attachment) -> None:
        if failures:
            raise failures.pop()
        finish(attachment)

    monkeypatch.setattr(place.node, "finish", flaky)
    place.janitor.finished(item.key)
    until(lambda: place.store.find(item.key) is None)
    assert failures == []


def test_a_link_that_goes_without_a_del_takes_the_route_at_once_and_the_record_after_the_grace(place: Place) -> None:
    """containerd 1.7, `docker rm`: the route goes with the link, address and record after the grace."""
    item = place.attachment(host_veth="vethgone", host_index=NO_LINK)
    place.store.put(State.UP, item)
    place.convergence.want(item)
    place.node.remember(item)
    until(lambda: len(place.exporter.table) == 1)
    place.janitor.link_gone(NO_LINK - 1)  # somebody else's
    place.janitor.link_gone(NO_LINK)
    until(lambda: not place.exporter.table)
    until(lambda: place.store.find(item.key) is None)


def test_a_namespace_that_goes_without_a_del_takes_the_routes_of_those_without_a_link_here(place: Place) -> None:
    """macvlan, host-device: the same, for all interfaces of that container."""
    items = [place.attachment(ifname=name, nsid=NO_LINK, peer_index=2, mac="") for name in ("net1", "net2")]
    for item in items:
        place.store.put(State.UP, item)
        place.convergence.want(item)
        place.node.remember(item)
    place.janitor.namespace_changed(NO_LINK - 1)  # somebody else's
    place.janitor.namespace_changed(NO_LINK)
    until(lambda: not any(place.store.find(item.key) for item in items))
    until(lambda: not place.exporter.table)
    assert not place.node.namespaces


def test_lost_events_are_made_up_for(place: Place) -> None:
    """The kernel dropped messages: everything is compared."""
    gone = place.attachment(host_veth="vethgone", host_index=NO_LINK)
    here = place.attachment(container_id="c2", host_veth="lo", host_index=1)
    for item in (gone, here):
        place.store.put(State.UP, item)
    place.janitor.look_at_all()
    until(lambda: place.store.find(gone.key) is None)
    assert place.store.find(here.key) is not None


def test_what_the_disk_does_not_let_go_is_finished_when_it_can(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """DEL on a read-only disk: the record still says that it is up, but its link is gone."""
    item = place.attachment(host_veth="vethgone", host_index=NO_LINK, chained=False)
    place.store.put(State.UP, item)
    place.convergence.want(item)
    until(lambda: len(place.exporter.table) == 1)
    place.node.postponed = place.janitor.postponed
    drop, refusals, warnings = place.store.drop, [IoFailure("read-only")] * 3, []

    def refuse(key: AttachmentKey) -> None:
        if refusals:
            raise refusals.pop()
        drop(key)

    with monkeypatch.context() as patched:
        patched.setattr(place.store, "move", lambda *_: False)
        patched.setattr(place.store, "drop", refuse)
        assert not place.node.dismantle(item, time.monotonic() + SECONDS, warnings)
        assert ["read-only" in warning for warning in warnings] == [True]
        assert not place.exporter.table
        until(lambda: place.store.find(item.key) is None)
    assert refusals == []


def test_an_orphan_is_not_released_before_its_time(place: Place) -> None:
    """Its withdrawal is confirmed at once; its record waits for a DEL."""
    place.node.agent = AgentConfig(orphan_grace=3600)
    item = place.attachment(host_veth="vethgone", host_index=NO_LINK)
    place.store.put(State.UP, item)
    place.convergence.want(item)
    place.node.remember(item)
    finished, tell = [], place.janitor.finished

    def confirmed(key: AttachmentKey) -> None:
        tell(key)
        finished.append(key)

    place.janitor.finished = confirmed  # type: ignore[method-assign]
    place.janitor.link_gone(NO_LINK)
    until(lambda: item.key in finished)
    ran = threading.Event()
    place.janitor.later(0, ran.set)
    assert ran.wait(SECONDS)
    assert place.store.find(item.key) is not None


def test_behind_another_plugin_a_del_that_leaves_no_trace_is_an_error(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link is not ours to remove, and the record says that it is up: nobody could tell later that DEL came."""
    item = place.attachment(host_veth="lo", host_index=1, exporters=())
    place.store.put(State.UP, item)
    monkeypatch.setattr(place.store, "move", lambda *_: False)

    def refuse(key: AttachmentKey) -> None:
        raise IoFailure("read-only")

    monkeypatch.setattr(place.store, "drop", refuse)
    with pytest.raises(IoFailure, match="read-only"):
        place.node.dismantle(item, time.monotonic())
