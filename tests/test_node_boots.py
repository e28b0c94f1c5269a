"""Which boot a record is of: what can be seen of its attachment says more than its boot ID."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from bgpcni.config.agent import AgentConfig
from bgpcni.convergence.convergence import Convergence
from bgpcni.ipam.boot import boot_time_ns
from bgpcni.kernel import links
from bgpcni.model import Attachment, State
from bgpcni.node import boots, reconcile
from bgpcni.node.next_step import Done
from bgpcni.node.node import Node
from bgpcni.nudges import Nudges
from bgpcni.store import Store
from bgpcni.testing.memory import FACTS

NO_LINK = (1 << 31) - 7


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    store = Store(tmp_path / "data", tmp_path / "run")
    nudges = Nudges()
    yield Node(store, AgentConfig(default_exporters=()), FACTS, Convergence(FACTS, nudges), nudges)
    store.close()


class Found(NamedTuple):
    """Every record as it is taken: of what is up on this boot, of what goes, and how many cannot be read."""

    up: list[Attachment]
    leaving: list[Attachment]
    unreadable: int


def look(node: Node) -> Found:
    stored = [one for each in node.store.all() if (one := boots.settled(node, each)) is not None]
    known = [(one.state, one.attachment) for one in stored if one.attachment is not None]
    up = [item for state, item in known if state is State.UP and boots.is_of_this_boot(node, item)]
    return Found(up, [item for _, item in known if item not in up], sum(one.attachment is None for one in stored))


def put(node: Node, container_id: str, state: State = State.UP, **more: object) -> Attachment:
    """A record of another boot; its link is the loopback device unless told otherwise, behind another plugin."""
    loopback = links.find(node.netlink, index=1)
    assert loopback is not None
    values = {
        "boot_id": "another", "network": "net", "container_id": container_id, "ifname": "eth0", "netns": "/x",
        "chained": True, "host_veth": "lo", "host_index": 1, "host_mac": loopback.mac, **more,
    }  # fmt: skip
    item = Attachment.model_validate(values)
    node.store.put(state, item)
    return item


def test_what_can_be_seen_is_of_this_boot(node: Node) -> None:
    """From then on its record says so, too, for whoever reads it."""
    item = put(node, "c1")
    found = look(node)
    of_now = item.model_copy(update={"boot_id": node.boot_id})
    assert (found.up, found.leaving) == ([of_now], [])
    stored = node.store.find(item.key)
    assert stored is not None
    assert (stored.state, stored.attachment) == (State.UP, of_now)


def test_a_withdrawal_under_way_stays_one(node: Node) -> None:
    """Its link will be removed, as one of this boot."""
    item = put(node, "c1", State.LEAVING)
    assert look(node).leaving == [item.model_copy(update={"boot_id": node.boot_id})]


@pytest.mark.parametrize(
    "more", [{"host_index": NO_LINK}, {"host_veth": "veth1"}, {"host_mac": "02:00:00:00:00:01"}, {"chained": False}]
)
def test_what_cannot_be_seen_went_with_its_boot(node: Node, more: dict[str, object]) -> None:
    """No link of that index, name and MAC, or none with our mark."""
    item = put(node, "c1", **more)
    assert look(node).leaving == [item]
    assert not boots.lives(node, item)


def test_without_a_link_to_see_it_by_an_attachment_went_with_its_boot(node: Node) -> None:
    """macvlan and the like, whose container has no number here."""
    item = put(node, "c1", host_index=None, host_veth=None, host_mac=None)
    assert look(node).leaving == [item]


def test_a_record_that_a_call_is_at_work_on_is_left_to_it(node: Node) -> None:
    """It is neither released nor written again."""
    item = put(node, "c1")
    with node.store.locked(item.key, 0):
        found = look(node)
    assert (found.up, found.leaving) == ([], [])
    assert isinstance(reconcile.settle(node, item.key), Done)
    stored = node.store.find(item.key)
    assert stored is not None
    assert (stored.state, stored.attachment) == (State.UP, item)


def test_a_disk_that_refuses_changes_nothing_about_it(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is taken for one of this boot all the same."""
    item = put(node, "c1")
    monkeypatch.setattr(os, "pwrite", lambda *_: 0)
    assert look(node).up == [item.model_copy(update={"boot_id": node.boot_id})]


@pytest.mark.parametrize(("seconds", "kept"), [(-3600, False), (3600, True)])
def test_a_record_that_cannot_be_read_goes_if_it_is_older_than_the_boot(node: Node, seconds: int, kept: bool) -> None:
    """One that is not may be a living container's."""
    item = put(node, "c1")
    path = node.store.path / "attachments" / State.UP / f"net@{item.key.digest}.json"
    path.write_bytes(b"")
    os.utime(path, ns=(0, boot_time_ns() + seconds * 1_000_000_000))
    assert bool(look(node).unreadable) is kept
    assert path.exists() is kept
    assert node.store.unreadable() == ({"net"} if kept else set())
