"""An exporter that owns its speaker is called otherwise: it is the same one, and its records follow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bgpcni.model import Attachment, ExporterUse, NodeFacts, State
from bgpcni.node import renames
from bgpcni.store import Store

OLD, NEW = ExporterUse(name="exabgp", type="exabgp"), ExporterUse(name="fabric", type="exabgp")
KERNEL = ExporterUse(name="kernel", type="kernel")
NODE = NodeFacts(run_dir="/run", data_dir="/data", local_address="192.0.2.1")
SECONDS = 60.0


def test_the_same_speaker_under_another_name_is_the_same_exporter() -> None:
    assert renames.renamed([OLD, KERNEL], [NEW, KERNEL], NODE) == (NEW, KERNEL)


def test_the_same_sessions_are_the_same_speaker() -> None:
    """A second speaker is added, and the first gets a name and its address: its sessions go on."""
    first = ExporterUse(name="a", type="exabgp", config={"local_address": "192.0.2.1"})
    second = ExporterUse(name="b", type="exabgp", config={"local_address": "192.0.2.2"})
    assert renames.renamed([OLD], [first, second], NODE) == (first,)


def test_a_default_that_is_spelled_out_is_the_same_configuration() -> None:
    spelled = ExporterUse(name="table", type="kernel", config={"table": 100})
    assert renames.renamed([KERNEL], [spelled], NODE) == (spelled,)


@pytest.mark.parametrize(
    "configured",
    [
        [OLD, NEW],  # both are there, which is refused elsewhere
        [ExporterUse(name="fabric", type="exabgp", config={"socket": "/s"})],  # another speaker
        [ExporterUse(name="fabric", type="kernel")],
        [NEW, ExporterUse(name="second", type="exabgp")],  # which of them?
        [ExporterUse(name="fabric", type="none-such")],
        [],
    ],
    ids=["both", "elsewhere", "type", "two", "broken", "none"],
)
def test_what_is_not_certainly_the_same_stays_what_it_is(configured: list[ExporterUse]) -> None:
    """Then it is a hand-over, or refused, as ever."""
    assert renames.renamed([OLD], configured, NODE) == (OLD,)


def test_one_name_for_two_is_there_once() -> None:
    """A record that names both, since an earlier hand-over between them was cut short. Of two that have sessions the
    one that is not configured any more is handed over."""
    spelled = ExporterUse(name="table", type="kernel", config={"table": 100})
    assert renames.renamed([KERNEL, spelled], [spelled], NODE) == (spelled,)
    assert renames.renamed([OLD, NEW], [NEW], NODE) == (OLD, NEW)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "data", tmp_path / "run")
    yield made
    made.close()


def test_records_follow_in_whatever_state_they_are(store: Store) -> None:
    """Also those that wait for a withdrawal: the speaker that owes it is called otherwise. And back again."""
    for state in State:
        item = Attachment(
            boot_id="b", network="net", container_id=state.value, ifname="e", netns="/x", exporters=(OLD,)
        )
        store.put(state, item)
    assert renames.concerned(store, [NEW], NODE)
    for name in (NEW, OLD):
        renames.follow(store, [name], NODE, SECONDS)
        assert not renames.concerned(store, [name], NODE)
        found = {stored.state: stored.attachment.exporters for stored in store.all() if stored.attachment}
        assert found == dict.fromkeys(State, (name,))
