"""A changed configuration while containers run: a waiting hand-over delays nothing else, `status` says what it waits
for, and it ends when all is confirmed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from at_work import AtWork

from bgpcni import clock
from bgpcni.agent import worker
from bgpcni.commands import answers
from bgpcni.config.agent import AgentConfig, ExporterTable, NetworkTable
from bgpcni.convergence import catalog
from bgpcni.convergence.announcer import Announcer
from bgpcni.convergence.ledger import Standing
from bgpcni.errors import CheckFailed, InvalidConfiguration, TryAgain
from bgpcni.exporter import NotThereYet
from bgpcni.model import Address, Attachment, ExporterUse, State
from bgpcni.node import check, interface, next_step, reconcile, reload
from bgpcni.testing.memory import FACTS, Memory
from bgpcni.testing.patience import SECONDS, until

VERBS = ("announce", "withdraw", "prune")


def config(*exporters: str, **networks: list[str]) -> AgentConfig:
    """The agent's default exporters, and those of its networks."""
    names = {*exporters, *(name for found in networks.values() for name in found)}
    return AgentConfig(
        default_exporters=exporters,
        exporters={name: ExporterTable(type="memory") for name in names},
        networks={name: NetworkTable(exporters=tuple(found)) for name, found in networks.items()},
    )


class Place(AtWork):
    """The one that is reloaded, and whose speakers come and go."""

    def up(self, container: str = "c1", network: str = "net", exporter: str = "old", number: int = 3) -> Attachment:
        item = self.attachment(
            network=network, container_id=container, addresses=(Address(address=f"10.1.2.{number}/24"),),
            exporters=(ExporterUse(name=exporter, type="memory"),),
        )  # fmt: skip
        self.store.put(State.UP, item)
        self.convergence.want(item)
        return item

    def reload(self, config: AgentConfig) -> None:
        reload.refuse(self.node, config, FACTS)
        self.node.agent = config
        for key in reconcile.concerned(self.node):
            self.nudges.nudge(key)
        self.worker.retire_soon()

    def away(self, name: str) -> Memory:
        """Its speaker cannot be reached until `back`, and is given nothing."""

        def verb(*arguments: object) -> NoReturn:
            raise NotThereYet("the speaker is away", untouched=True)

        found = self.exporter(name)
        for each in VERBS:
            setattr(found, each, verb)
        return found

    def back(self, name: str) -> None:
        for each in VERBS:
            delattr(self.exporter(name), each)
        self.convergence.retry()

    def named(self, item: Attachment) -> list[str]:
        """The exporters that the record names."""
        stored = self.store.find(item.key)
        assert stored is not None
        assert stored.attachment is not None
        return [use.name for use in stored.attachment.exporters]

    def waits(self) -> list[str]:
        """What `bgpcni status` says of hand-overs."""
        document, _ = answers.status(self.node)
        return [problem["text"] for problem in document["problems"] if problem["code"] == "handing-over"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(catalog, "load", lambda kind: Memory)
    for name in ("FIRST_LOOK", "LONGEST_LOOK", "PAUSE_SECONDS"):
        monkeypatch.setattr(next_step, name, 0.005)
    monkeypatch.setattr(worker, "REST_SECONDS", 0.005)
    monkeypatch.setattr(next_step, "VAIN_SECONDS", 0.05)
    made = Place(tmp_path, config("old"))
    with made:
        yield made


def test_an_exporter_that_does_not_come_is_waited_for_aloud(place: Place) -> None:
    """The old one goes on, `status` says why and for how many; what another network does is done meanwhile."""
    items = [place.up(f"c{n}", number=n) for n in (3, 4)]
    other = place.up("c5", "other", number=5)
    place.away("new")
    place.reload(config("old", net=["new"], other=["old", "third"]))
    until(lambda: place.named(other) == ["old", "third"])
    until(lambda: place.named(items[1]) == ["old", "new"])
    reason = "new has not announced it: the speaker is away; old still announces it"
    said = f"2 attachments are handed over by a reload: {reason}"
    until(lambda: place.waits() == [said])
    assert len(place.exporter("old").table) == 3
    place.back("new")
    until(lambda: place.named(items[0]) == place.named(items[1]) == ["new"])
    assert place.waits() == []
    assert (len(place.exporter("old").table), len(place.exporter("new").table)) == (1, 2)


def test_an_exporter_that_nobody_needs_is_let_go_of_while_others_wait(place: Place) -> None:
    """A hand-over that waits keeps no other exporter at work."""
    waiting, swift = place.up(), place.up("c2", "other", "gone", 4)
    place.away("new")
    gone = place.exporter("gone")
    place.reload(config("old", net=["new"], other=["old"]))
    until(lambda: place.named(swift) == ["old"])
    until(lambda: gone.drained)
    assert set(place.convergence.announcers()) == {"old", "new"}
    assert place.named(waiting) == ["old", "new"]


def test_a_reload_that_takes_it_back(place: Place) -> None:
    """The new one never came up: it was told nothing, so there is nothing to wait for, and no route was touched."""
    item, old = place.up(), place.exporter("old")
    until(lambda: old.table)
    new = place.away("new")
    place.reload(config("new"))
    until(lambda: place.named(item) == ["old", "new"])
    told = len(old.seen)
    place.reload(config("old"))
    until(lambda: place.named(item) == ["old"])
    until(lambda: set(place.convergence.announcers()) == {"old"})
    assert place.waits() == []
    assert len(old.seen) == told
    assert not any(verb == "withdraw" for verb, _ in new.seen)


def test_back_again_while_the_old_one_withdraws(place: Place) -> None:
    """What was told to withdraw announces again; nothing is lost, and each withdraws once at most."""
    item, old = place.up(), place.exporter("old")
    until(lambda: old.table)
    place.reload(config("old", net=["new"]))
    until(lambda: place.exporter("new").table)
    old.established = False
    until(lambda: not old.table)
    place.reload(config("old"))
    until(lambda: old.table)
    old.established = True
    place.convergence.retry()
    until(lambda: place.named(item) == ["old"])
    assert not place.exporter("new").table
    assert [verb for verb, _ in old.seen].count("withdraw") == 1


def test_what_a_removed_exporter_owes_counts_as_confirmed(place: Place) -> None:
    """Rule 2: DEL while it is away holds the address; a reload without it gives it back. One that stays still owes."""
    item, kept = place.up(), place.up("c2", "other", "stays", 4)
    for one in (item, kept):
        until(lambda one=one: place.exporter(one.exporters[0].name).table)  # type: ignore[misc]
        place.away(one.exporters[0].name)
        place.store.move(one, State.LEAVING)
        place.convergence.leave(one)
    until(lambda: place.convergence.announcers()["old"].state().state == "late")
    place.reload(config("stays"))
    until(lambda: place.store.find(item.key) is None)
    until(lambda: set(place.convergence.announcers()) == {"stays"})
    assert place.convergence.is_leaving(kept, kept.exporters[0])
    assert place.store.find(kept.key) is not None


def test_a_removed_exporter_that_is_away_is_let_go_of(place: Place) -> None:
    """A container that runs: the record names it no more."""
    item = place.up()
    until(lambda: place.exporter("old").table)
    place.away("old")
    place.reload(config("new"))
    until(lambda: place.named(item) == ["new"])
    until(lambda: set(place.convergence.announcers()) == {"new"})


def test_one_that_was_added_by_the_configuration_of_before(place: Place) -> None:
    """An ADD that a reload overtook is handed over as those before it."""
    place.reload(config("new"))
    until(lambda: set(place.convergence.announcers()) <= {"new"})
    item = place.up()
    place.nudges.nudge(item.key)
    until(lambda: place.named(item) == ["new"])


def test_check_passes_while_the_old_one_has_withdrawn(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the confirmed withdrawal and the record that says so CHECK asks only those that should announce."""
    item = place.up()
    put, said = place.store.put, []

    def asked_first(state: State, attachment: Attachment) -> None:
        if [use.name for use in attachment.exporters] == ["new"]:
            stored = place.store.find(item.key)
            assert stored is not None
            assert stored.attachment is not None
            said.append([use.name for use in stored.attachment.exporters])
            try:
                check.refuse_unannounced(place.node, stored.attachment)
            except CheckFailed as error:
                said.append(error.msg)
        put(state, attachment)

    monkeypatch.setattr(place.store, "put", asked_first)
    place.reload(config("new"))
    until(lambda: place.named(item) == ["new"])
    assert said == [["old", "new"]]


def test_a_container_that_is_gone_is_not_announced_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its link went without a DEL: a new exporter is not told of it."""
    item = place.up()
    monkeypatch.setattr(interface, "vanished", lambda netlink, attachment: True)
    place.convergence.leave(item)
    until(lambda: not place.exporter("old").table)
    place.reload(config("old", "new"))
    place.nudges.nudge(item.key)
    until(lambda: item.key not in place.nudges._due or place.nudges._due[item.key] > clock.monotonic() + 1)
    assert place.named(item) == ["old"]
    assert not place.exporter("new").table


def test_an_exporter_that_the_new_facts_rule_out(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What announces now and could not then: refused, in words, also where the exporters stay the same."""
    place.up()
    monkeypatch.setattr(Memory, "check", classmethod(lambda cls, config, node: "no [bgp]" if node.asn == 9 else None))
    facts = FACTS.__class__(run_dir="/nowhere", data_dir="/nowhere", asn=9)
    with pytest.raises(InvalidConfiguration, match=r"exporters: old: no \[bgp\].* net/c1/eth0"):
        reload.refuse(place.node, config("old"), facts)
    reload.refuse(place.node, config(), facts)


def test_what_a_container_had_before_is_withdrawn_also_through_an_exporter_that_it_has_no_more(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DEL while `old` is away, another configuration, ADD again: the record names `old` until it has withdrawn."""
    monkeypatch.setattr(next_step, "VAIN_SECONDS", 3600)
    monkeypatch.setattr(interface, "reach", lambda netlink, attachment: None)
    before = place.up()
    old = place.exporter("old")
    until(lambda: len(old.table) == 1)
    place.away("old")
    with place.store.locked(before.key, SECONDS):
        assert not reconcile.end(place.node, before).released
    place.reload(config("new"))
    again = before.model_copy(update={"exporters": (ExporterUse(name="new", type="memory"),), "created": "later"})
    with place.store.locked(before.key, SECONDS):
        held = reconcile.clear_the_way(place.node, before.key)
        reconcile.begin(place.node, again, held)
        place.node.announce(again, held)
    place.convergence.wake()
    assert place.named(again) == ["new", "old"]
    place.back("old")
    until(lambda: place.named(again) == ["new"])
    assert not old.table
    assert len(place.exporter("new").table) == 1


def test_exporters_are_let_go_of_that_nobody_needs_since_it_was_last_looked(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hand-over can end while the exporters of an earlier one are still being closed."""
    begun, go_on, retired = threading.Event(), threading.Event(), list[str]()
    real = place.convergence.retire

    def retire(*questions: Callable[[], Collection[ExporterUse]]) -> list[str]:
        found = real(*questions)
        retired.extend(found)
        if not begun.is_set():
            begun.set()
            assert go_on.wait(SECONDS)
        return found

    monkeypatch.setattr(place.convergence, "retire", retire)
    place.worker.retire_soon()
    assert begun.wait(SECONDS)
    place.exporter("unneeded")
    place.worker.retire_soon()
    go_on.set()
    until(lambda: "unneeded" in retired)


def test_an_add_that_a_drain_overtakes_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its record came after the drain had read all: nobody would withdraw it."""
    monkeypatch.setattr(interface, "reach", lambda netlink, attachment: None)
    item = place.up().model_copy(update={"container_id": "c2"})
    reconcile.begin(place.node, item, None)
    place.node.drained = True
    with pytest.raises(TryAgain, match="drained"):
        place.node.announce(item)
    assert place.convergence.standing(item, item.exporters[0]) is Standing.UNKNOWN


def test_an_exporter_that_is_back_when_it_is_let_go_of_withdraws(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was removed and away for so long that nobody waits for it any more: its routes go all the same."""
    place.up()
    old = place.exporter("old")
    until(lambda: old.table)
    place.away("old")
    retry = Announcer.retry

    def back(self: Announcer) -> None:
        for verb in VERBS:
            vars(self._exporter).pop(verb, None)
        retry(self)

    monkeypatch.setattr(Announcer, "retry", back)
    place.reload(config("new"))
    until(lambda: "old" not in place.convergence.announcers())
    until(lambda: not old.table)
