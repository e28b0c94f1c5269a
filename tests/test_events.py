"""The ring of events: numbers, bounds, readers that are slow, and what each event says."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from bgpcni.agent import journal
from bgpcni.errors import TryAgain
from bgpcni.events import _WORDS, READERS, Events, Kind, Turn
from bgpcni.model import Address, Announcement, Attachment, Endpoint, Pod, UnicastNlri
from bgpcni.testing.interleaving import Halt, Running
from bgpcni.testing.patience import SECONDS, until

POD = Pod(namespace="shop", name="web-0", uid="1-2")


def attachment(**more: object) -> Attachment:
    values: dict[str, object] = {
        "boot_id": "boot", "network": "net", "container_id": "c1", "ifname": "eth0", "netns": "/x",
        "addresses": (Address(address="10.1.2.3/24"), Address(address="2001:db8::3/64")), **more,
    }  # fmt: skip
    return Attachment.model_validate(values)


def route(prefix: str = "10.1.2.3/32", container: str = "c1") -> Announcement:
    address = prefix.partition("/")[0] + ("/64" if ":" in prefix else "/24")
    endpoint = Endpoint(container, "eth0", "02:00:00:00:00:01", address, None, "cni0", "veth1", 7)
    return Announcement(UnicastNlri.of(prefix), "net", "192.0.2.1", endpoint=endpoint)


def numbers(events: Events, after: int = 0) -> list[int]:
    return [event.number for event in events.after(after).events]


def test_a_reader_gets_each_event_once_in_order() -> None:
    events = Events()
    for _ in range(3):
        events.emit(Kind.RELOADED)
    first = events.after(0, limit=2)
    assert ([event.number for event in first.events], first.last, first.missed) == ([1, 2], 2, 0)
    assert numbers(events, first.last) == [3]
    assert events.after(3).events == ()


def test_a_slow_reader_is_told_what_it_missed() -> None:
    events = Events(kept=10)
    events.routes("exabgp", [Turn(Kind.ROUTE_ANNOUNCED, route())] * 10_000)
    batch = events.after(3)
    assert (batch.missed, batch.events[0].number, batch.last) == (9987, 9991, 10_000)
    assert events.missed == 0  # it did not wait
    assert (events.wait(3, 0.0).missed, events.missed) == (9987, 9987)
    assert events.counts[Kind.ROUTE_ANNOUNCED, "exabgp", ""] == 10_000


def test_a_number_that_was_never_given_is_the_newest() -> None:
    events = Events()
    events.emit(Kind.RELOADED)
    assert events.after(1 << 80) == ((), 1, 0)
    assert numbers(events, -5) == [1]


def test_in_a_call_without_an_agent_nothing_is_kept() -> None:
    events = Events(0)
    events.about(Kind.ATTACHMENT_UP, attachment(pod=POD))
    events.remember(attachment(pod=POD))
    assert (events.last, events.after(0), dict(events._pods)) == (0, ((), 0, 0), {})


def test_who_waits_is_woken_by_an_event_and_by_the_end() -> None:
    events = Events()
    for act, found in ((lambda: events.emit(Kind.RELOADED), 1), (events.close, 0)):
        reader = Running(lambda: events.wait(events.last, SECONDS).events)
        until(lambda: events._waiting == 1)
        act()
        assert len(reader.result()) == found
    assert events.closed


def test_an_event_between_the_look_and_the_wait_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader has looked, and found nothing; who emits must wait until it is asleep."""
    events = Events()
    halt = Halt(monkeypatch, events._change, "wait_for")
    reader = Running(lambda: events.wait(0, SECONDS))
    halt.reached()
    emitter = Running(lambda: events.emit(Kind.RELOADED))
    halt.go_on()
    emitter.result()
    assert reader.result().last == 1


def test_only_so_many_readers_wait_and_the_agent_s_own_are_none_of_them() -> None:
    """Each reader holds a thread that answers commands; the journal must go on whoever else reads."""
    events = Events()
    readers = [Running(lambda: events.read(0, SECONDS)) for _ in range(READERS)]
    until(lambda: events._waiting == READERS)
    with pytest.raises(TryAgain, match="wait for events already"):
        events.read(0, SECONDS)
    own = Running(lambda: events.wait(0, SECONDS))
    until(lambda: events._waiting == READERS + 1)
    events.close()
    assert {reader.result().last for reader in (*readers, own)} == {0}
    assert events.read(0, 0).last == 0


def test_every_kind_has_words_and_a_row_in_the_documentation() -> None:
    text = (Path(__file__).parents[1] / "docs" / "events.md").read_text()
    for kind in Kind:
        assert _WORDS[kind]
        assert any(f"`{kind}`" in line.split("|")[1] for line in text.splitlines() if line.startswith("| `")), kind


def test_an_attachment_is_named_with_its_pod_and_its_first_address() -> None:
    events = Events()
    events.about(Kind.ATTACHMENT_UP, attachment(pod=POD))
    document = events.after(0).events[0].document
    assert document["text"] == "net/c1/eth0 (pod shop/web-0) is up with 10.1.2.3, 2001:db8::3"
    assert (document["containerID"], document["address"]) == ("c1", "10.1.2.3")
    assert document["pod"] == {"namespace": "shop", "name": "web-0", "uid": "1-2"}
    assert json.loads(json.dumps(document)) == document


@pytest.mark.parametrize(("prefix", "address"), [("10.1.2.3/32", "10.1.2.3"), ("2001:db8::3/128", "2001:db8::3")])
def test_a_route_has_the_address_and_the_pod_of_its_container(prefix: str, address: str) -> None:
    events = Events()
    events.remember(attachment(pod=POD))
    events.routes("exabgp", [Turn(Kind.ROUTE_REFUSED, route(prefix), "no such family")])
    events.forget(attachment().key)
    events.routes("exabgp", [Turn(Kind.ROUTE_WITHDRAWN, route(prefix))])
    refused, withdrawn = (event.document for event in events.after(0).events)
    assert (refused["containerID"], refused["address"], refused["nlri"]) == ("c1", address, prefix)
    assert refused["text"] == f"{prefix} of net/c1/eth0 (pod shop/web-0) is refused by exabgp: no such family"
    assert (refused["level"], withdrawn["level"], "pod" in withdrawn) == ("warning", "info", False)


def test_a_route_of_no_single_container_is_its_network_s() -> None:
    events = Events()
    subnet = Announcement(UnicastNlri.of("10.1.2.0/24"), "net", "192.0.2.1")
    events.routes("exabgp", [Turn(Kind.ROUTE_ANNOUNCED, subnet)])
    assert events.after(0).events[0].text == "10.1.2.0/24 of network net is announced by exabgp"


def test_the_journal_has_a_line_for_each_with_its_fields(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    events = Events()
    events.about(Kind.ATTACHMENT_UP, attachment())
    events.emit(Kind.SESSION_DOWN, exporter="exabgp", peer="10.0.0.254", detail="hold timer expired")
    events.close()
    journal.Journal(events).run()
    up, down = caplog.records
    assert (up.levelno, vars(up)["container"], vars(up)["address"]) == (logging.INFO, "c1", "10.1.2.3")
    assert (down.levelno, vars(down)["peer"], vars(down)["kind"]) == (logging.WARNING, "10.0.0.254", "session-down")
    assert down.getMessage() == "the session of exabgp with 10.0.0.254 is down: hold timer expired"


def test_the_journal_counts_what_a_burst_has_too_much(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    events = Events(kept=5000)
    events.routes("exabgp", [Turn(Kind.ROUTE_ANNOUNCED, route())] * 10_000)
    journal.write(events.after(0))
    assert len(caplog.records) == journal.MOST + 2
    assert caplog.messages[0] == "5000 events came too fast to be logged"
    assert caplog.messages[-1] == f"{5000 - journal.MOST} more events route-announced of exabgp"
