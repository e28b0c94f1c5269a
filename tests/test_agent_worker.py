"""What the agent does without a call: it finishes confirmed withdrawals and notices lost links, each independently."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from at_work import AtWork

from bgpcni import attached
from bgpcni.agent import worker as module
from bgpcni.config.agent import AgentConfig
from bgpcni.convergence import catalog
from bgpcni.convergence.ledger import Standing
from bgpcni.errors import IoFailure
from bgpcni.model import Attachment, AttachmentKey, Bgp, State
from bgpcni.node import interface, reconcile
from bgpcni.testing.memory import Memory
from bgpcni.testing.patience import SECONDS, until

NO_LINK = (1 << 31) - 7
"""An index that no link has."""


class Place(AtWork):
    """The one whose worker is watched."""

    def looked_at(self, *keys: AttachmentKey) -> None:
        """Nudge these, and wait until the worker has done all it can."""
        for key in keys:
            self.nudges.nudge(key)
        last = AttachmentKey("net", "last", "eth0")
        self.nudges.nudge(last)
        until(lambda: last not in self.nudges._due)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(catalog, "load", lambda kind: Memory)
    for name in ("BUSY_SECONDS", "FIRST_RETRY"):
        monkeypatch.setattr(module, name, 0.005)
    made = Place(tmp_path, AgentConfig(orphan_grace=0.01))
    with made:
        yield made


def test_a_broken_attachment_harms_no_other(
    place: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect of ours is logged, and the worker still handles the next attachment."""
    items = [place.attachment(container_id=name, exporters=()) for name in ("broken", "sound")]
    real = interface.remove

    def remove(netlink: Any, reaper: Any, attachment: Attachment) -> None:
        if attachment.container_id == "broken":
            raise RuntimeError("a defect")
        real(netlink, reaper, attachment)

    monkeypatch.setattr(interface, "remove", remove)
    with caplog.at_level(logging.ERROR):
        for item in items:
            place.store.put(State.LEAVING, item)
            place.nudges.nudge(item.key)
        until(lambda: place.store.find(items[1].key) is None)
    assert place.store.find(items[0].key) is not None
    assert "a defect" in caplog.text


def test_the_name_of_a_dead_container_is_taken_down(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name that `bgpcni attach` made is removed as soon as the link is gone."""
    told = threading.Event()
    asked: list[tuple[Path, ...]] = []

    def take_down(folders: Iterable[Path], key: AttachmentKey) -> None:
        asked.append(tuple(folders))
        told.set()

    monkeypatch.setattr(attached, "take_down_name", take_down)
    place.node.agent = AgentConfig(orphan_grace=3600)
    dead = place.attachment(chained=False, host_index=NO_LINK, host_veth="veth0")
    place.store.put(State.UP, dead)
    place.nudges.nudge(dead.key)
    assert told.wait(SECONDS)
    assert place.store.path / "attached" in asked[0]


def test_a_confirmed_withdrawal_gives_the_record_back(place: Place) -> None:
    """When the session that was down at the DEL is back, the address is released without any call."""
    item = place.attachment()
    place.store.put(State.UP, item)
    place.convergence.want(item)
    until(lambda: len(place.exporter().table) == 1)
    place.exporter().established = False
    place.store.move(item, State.LEAVING)
    place.convergence.leave(item)
    until(lambda: not place.exporter().table)
    assert place.store.find(item.key) is not None
    place.exporter().established = True
    place.exporter().wake.progress()
    until(lambda: place.store.find(item.key) is None)


def test_a_nudge_waits_for_the_call_that_holds_the_attachment(place: Place) -> None:
    item = place.attachment(exporters=())
    place.store.put(State.LEAVING, item)
    with place.store.locked(item.key, 0):
        place.looked_at(item.key)
        assert place.store.find(item.key) is not None
    until(lambda: place.store.find(item.key) is None)


def test_an_attachment_that_was_added_again_stays(place: Place) -> None:
    """A late confirmation for an earlier attachment does not affect the present one."""
    item = place.attachment(exporters=(), host_veth="lo", host_index=1)
    place.store.put(State.UP, item)
    place.looked_at(item.key)
    assert place.store.find(item.key) is not None


@pytest.mark.parametrize("error", [IoFailure("disk"), OSError(1, "netlink")])
def test_what_cannot_be_finished_now_is_tried_again(
    place: Place, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """After an error (a full disk, a kernel that refuses) the release is retried, so no address is lost."""
    item = place.attachment(exporters=())
    place.store.put(State.LEAVING, item)
    release, failures = place.node.addressing.release, [error, error]

    def flaky(attachment: Attachment) -> None:
        if failures:
            raise failures.pop()
        release(attachment)

    monkeypatch.setattr(place.node.addressing, "release", flaky)
    place.nudges.nudge(item.key)
    until(lambda: place.store.find(item.key) is None)
    assert failures == []


def test_a_link_that_goes_without_a_del_takes_the_route_at_once_and_the_record_after_the_grace(place: Place) -> None:
    """containerd 1.7, `docker rm`: the route goes with the link, address and record after the grace."""
    item = place.attachment(host_veth="vethgone", host_index=NO_LINK)
    place.store.put(State.UP, item)
    place.convergence.want(item)
    place.node.remember(item)
    until(lambda: len(place.exporter().table) == 1)
    place.worker.link_gone(NO_LINK - 1)  # somebody else's
    place.worker.link_gone(NO_LINK)
    until(lambda: not place.exporter().table)
    until(lambda: place.store.find(item.key) is None)


def test_a_namespace_that_goes_without_a_del_takes_the_routes_of_those_without_a_link_here(place: Place) -> None:
    """macvlan, host-device: the same, for all interfaces of that container."""
    items = [place.attachment(ifname=name, nsid=NO_LINK, peer_index=2, mac="") for name in ("net1", "net2")]
    for item in items:
        place.store.put(State.UP, item)
        place.convergence.want(item)
        place.node.remember(item)
    place.worker.namespace_changed(NO_LINK - 1)  # somebody else's
    place.worker.namespace_changed(NO_LINK)
    until(lambda: not any(place.store.find(item.key) for item in items))
    until(lambda: not place.exporter().table)
    assert not place.node.namespaces


def test_lost_events_are_made_up_for(place: Place) -> None:
    """The kernel dropped messages: everything is compared."""
    gone = place.attachment(host_veth="vethgone", host_index=NO_LINK)
    here = place.attachment(container_id="c2", host_veth="lo", host_index=1)
    for item in (gone, here):
        place.store.put(State.UP, item)
    place.worker.look_at_all()
    until(lambda: place.store.find(gone.key) is None)
    assert place.store.find(here.key) is not None


def refusing(place: Place, monkeypatch: pytest.MonkeyPatch, times: int) -> list[IoFailure]:
    """Makes the disk read-only for `times` attempts to delete a record. Returns the refusals that are left."""
    drop, refusals = place.store.delete, [IoFailure("read-only")] * times

    def refuse(key: AttachmentKey) -> None:
        if refusals:
            raise refusals.pop()
        drop(key)

    monkeypatch.setattr(place.store, "move", lambda *_: False)
    monkeypatch.setattr(place.store, "delete", refuse)
    return refusals


def test_what_the_disk_does_not_let_go_is_finished_when_it_can(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """DEL on a read-only disk: the record still says that it is up, but its link is gone."""
    item = place.attachment(host_veth="vethgone", host_index=NO_LINK, chained=False)
    place.store.put(State.UP, item)
    place.convergence.want(item)
    until(lambda: len(place.exporter().table) == 1)
    refusals, warnings = refusing(place, monkeypatch, 3), list[str]()
    with place.store.locked(item.key, SECONDS):
        assert not reconcile.end(place.node, item, warnings=warnings).released
    assert ["read-only" in warning for warning in warnings] == [True]
    assert not place.exporter().table
    until(lambda: place.store.find(item.key) is None)
    assert refusals == []


def test_an_orphan_is_not_released_before_its_time(place: Place) -> None:
    """The withdrawal of an orphan is confirmed at once, but its record is kept for a DEL until the grace is over."""
    place.node.agent = AgentConfig(orphan_grace=3600)
    item = place.attachment(host_veth="vethgone", host_index=NO_LINK)
    place.store.put(State.UP, item)
    place.convergence.want(item)
    place.node.remember(item)
    place.worker.link_gone(NO_LINK)
    until(lambda: place.convergence.standing(item, item.exporters[0]) is Standing.GONE)
    place.looked_at(item.key)
    assert place.store.find(item.key) is not None


def test_behind_another_plugin_a_del_that_leaves_no_trace_is_an_error(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind another plugin DEL fails if the record cannot be moved: without it nobody could know later that a DEL
    came."""
    item = place.attachment(host_veth="lo", host_index=1, exporters=())
    place.store.put(State.UP, item)
    refusing(place, monkeypatch, 1000)
    with place.store.locked(item.key, SECONDS), pytest.raises(IoFailure, match="read-only"):
        reconcile.end(place.node, item)


def test_the_worker_lingers_for_no_link_that_is_gone(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand records wait for a peer, the agent starts again: what others need of the worker comes at once."""
    naps = list[float]()
    monkeypatch.setattr(reconcile.time, "sleep", naps.append)
    bgp = Bgp(drain_seconds=3600)
    gone = place.attachment(chained=False, host_veth="vethgone", host_index=NO_LINK, bgp=bgp)
    here = place.attachment(container_id="c2", host_veth="lo", host_index=1, bgp=bgp)
    for item in (gone, here):
        place.store.put(State.LEAVING, item)
        place.nudges.nudge(item.key)
    until(lambda: place.store.find(here.key) is None and place.store.find(gone.key) is None)
    assert naps == [3600]


def test_the_name_of_a_dead_container_is_taken_down_also_without_a_grace(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Event()
    monkeypatch.setattr(attached, "take_down_name", lambda folders, key: asked.set())
    place.node.agent = AgentConfig(orphan_grace=0)
    dead = place.attachment(host_index=NO_LINK, host_veth="veth0", exporters=())
    place.store.put(State.UP, dead)
    place.nudges.nudge(dead.key)
    assert asked.wait(SECONDS)


def test_nothing_is_remembered_of_an_attachment_that_made_trouble_and_went_by_a_call(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = place.attachment(exporters=())
    place.store.put(State.LEAVING, item)
    release, failing = place.node.addressing.release, threading.Event()

    def refuse(attachment: Attachment) -> None:
        failing.set()
        raise IoFailure("disk")

    monkeypatch.setattr(place.node.addressing, "release", refuse)
    monkeypatch.setattr(module, "FIRST_RETRY", 3600)
    place.looked_at(item.key)
    assert failing.wait(SECONDS)
    monkeypatch.setattr(place.node.addressing, "release", release)
    with place.store.locked(item.key, SECONDS):
        assert reconcile.end(place.node, item).released
    assert item.key not in place.node.seen
    assert not place.nudges._due


def test_nothing_is_remembered_of_an_attachment_that_a_call_has(place: Place) -> None:
    """A nudge that comes while a call ends it is forgotten with it."""
    item = place.attachment(exporters=())
    place.store.put(State.LEAVING, item)
    with place.store.locked(item.key, SECONDS):
        assert reconcile.end(place.node, item).released
        place.worker.look_at(item.key)
        place.nudges.settled(item.key)
    assert place.node.seen == {}
