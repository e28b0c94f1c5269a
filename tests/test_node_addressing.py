"""Addresses that are held until the peers have acknowledged a withdrawal: who waits for them, and for how long."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from bgpcni.ipam import kinds
from bgpcni.ipam.contract import Given, PoolExhausted, Terms, Wish
from bgpcni.ipam.leases import Entry, Holder, Owner
from bgpcni.model import Address, Attachment, Bgp, IpamRecord, State
from bgpcni.node import addressing as module
from bgpcni.node.addressing import Addressing
from bgpcni.node.request import Request, parse_request
from bgpcni.store import Store
from bgpcni.testing.interleaving import Halt, Running
from bgpcni.testing.patience import SECONDS


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "data", tmp_path / "run")
    yield store
    store.close()


def request(tmp_path: Path, container: str, ipam: dict[str, Any] | None = None) -> Request:
    """An ADD on a network with one address, or with another IPAM."""
    variables = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": container, "CNI_NETNS": "/x", "CNI_IFNAME": "eth0",
                 "CNI_PATH": "/o"}  # fmt: skip
    body = {
        "cniVersion": "1.0.0", "name": "net", "type": "bgpcni", "bgp": {"family": "evpn", "vni": 5001},
        "ipam": ipam or {"type": "host-local", "dataDir": str(tmp_path / "leases"), "ranges": [
            [{"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.10", "rangeEnd": "10.1.2.10"}]]},
    }  # fmt: skip
    return parse_request(variables, json.dumps(body).encode())


def leaving(tmp_path: Path, store: Store, family: str) -> Attachment:
    """A container that is gone, its address held."""
    item = Attachment.model_validate({
        "boot_id": "b", "network": "net", "container_id": "old", "ifname": "eth0", "netns": "/x",
        "bgp": Bgp.model_validate({"family": family}), "addresses": (Address(address="10.1.2.10/24"),),
        "ipam": IpamRecord(type="host-local", data_dir=str(tmp_path / "leases")),
    })  # fmt: skip
    store.put(State.LEAVING, item)
    return item


def test_an_evpn_add_waits_for_the_acknowledgement_of_the_last_address(tmp_path: Path, store: Store) -> None:
    """DEL has answered, the peers' TCP is about to acknowledge: an ADD on a full pool does not fail over that."""
    node = Addressing(store, resident=True)
    old = request(tmp_path, "old")
    node.allocate(old)
    item = leaving(tmp_path, store, "evpn")
    waits, new = threading.Event(), request(tmp_path, "new")
    real = node._comes_free

    def comes_free(folder: str, released: int, deadline: float) -> bool:
        waits.set()
        return real(folder, released, deadline + SECONDS)

    node._comes_free = comes_free  # type: ignore[method-assign]
    given: list[str] = []
    thread = threading.Thread(target=lambda: given.append(node.allocate(new).addresses[0].address))
    thread.start()
    assert waits.wait(SECONDS)
    node.release(item)
    store.delete(item.key)
    thread.join(SECONDS)
    assert given == ["10.1.2.10/24"]


@pytest.mark.parametrize("resident", [True, False])
def test_what_stays_held_is_not_waited_for_long(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, resident: bool
) -> None:
    """A session is down: the pool is exhausted, and says so. Without an agent nobody would release it meanwhile."""
    monkeypatch.setattr(module, "HELD_SECONDS", 0.01)
    node = Addressing(store, resident=resident)
    old, new = request(tmp_path, "old"), request(tmp_path, "new")
    node.allocate(old)
    leaving(tmp_path, store, "evpn")
    with pytest.raises(PoolExhausted):
        node.allocate(new)


def test_a_unicast_address_that_is_held_is_had_at_once(tmp_path: Path, store: Store) -> None:
    """The same NLRI with the same next hop: nothing has to be withdrawn before."""
    node = Addressing(store, resident=True)
    old, new = request(tmp_path, "old"), request(tmp_path, "new")
    node.allocate(old)
    leaving(tmp_path, store, "unicast")
    assert node.allocate(new).addresses[0].address == "10.1.2.10/24"


def test_what_is_released_before_it_is_waited_for_is_had(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool was full, and the address is released in the moment before the ADD begins to wait."""
    node = Addressing(store, resident=True)
    node.allocate(request(tmp_path, "old"))
    item = leaving(tmp_path, store, "evpn")
    halt = Halt(monkeypatch, node, "_comes_free")
    new = Running(lambda: node.allocate(request(tmp_path, "new")))
    halt.reached()
    node.release(item)
    halt.go_on()
    assert [item.address for item in new.result().addresses] == ["10.1.2.10/24"]


def test_what_was_taken_goes_back_to_who_waits_for_its_withdrawal(tmp_path: Path, store: Store) -> None:
    """An ADD took the address of one that is leaving, and failed: that one holds it again until it is confirmed."""
    node = Addressing(store, resident=True)
    node.allocate(request(tmp_path, "old"))
    item = leaving(tmp_path, store, "unicast")
    taker = item.model_copy(update={"container_id": "new"})
    node.allocate(request(tmp_path, "new"))
    assert not node.still_leased(item)
    node.release(taker)
    assert node.still_leased(item)
    node.release(item)
    assert not node.still_leased(item)


class Ticket:
    """An IPAM of another kind: it has one address, and nobody on this node sees who holds it."""

    leases = None
    calls: ClassVar[list[str]] = []

    def __init__(self, terms: Terms) -> None:
        self._type = terms.type

    def record(self) -> IpamRecord:
        return IpamRecord(type=self._type)

    def example(self) -> tuple[Address, ...]:
        return (Address(address="10.9.0.1/24"),)

    def add(self, owner: Holder, wish: Wish) -> Given:
        self.calls.append(f"add {owner[0]}")
        return Given(self.example())

    def check(self, owner: Holder, addresses: Sequence[str]) -> None:
        self.calls.append(f"check {owner[0]} {addresses[0]}")

    def release(
        self, owner: Holder, addresses: Sequence[str] | None, spared: Callable[[str, Entry], bool] | None = None
    ) -> None:
        self.calls.append(f"release {owner[0]}")

    def gc(self, valid: Collection[Holder], stay: Collection[Owner]) -> None:
        self.calls.append("gc")

    def status(self) -> None:
        self.calls.append("status")


def test_an_ipam_of_another_kind_is_a_module_and_a_line(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ADD, CHECK, DEL, GC and STATUS go to it as to any other; nothing else has to know it."""
    monkeypatch.setattr(kinds, "BUILT_IN", {**kinds.BUILT_IN, "ticket": Ticket})
    monkeypatch.setattr(Ticket, "calls", [])
    node = Addressing(store, resident=True)
    call = request(tmp_path, "c1", {"type": "ticket"})
    kept = node.plan(call)
    given = node.allocate(call)
    item = Attachment(
        boot_id="b", network="net", container_id="c1", ifname="eth0", netns="/x", addresses=given.addresses, ipam=kept
    )
    node.status(call)
    node.check(call, item)
    node.collect(call, set())
    node.release(item)
    warnings: list[str] = []
    node.release_unrecorded(call, node.leases_of(call, warnings), warnings)
    assert node.examples(call) == given.addresses
    assert (node.still_leased(item), node.unlisted(call, set()), warnings) == (None, {}, [])
    assert Ticket.calls == ["add c1", "status", "check c1 10.9.0.1/24", "gc", "release c1", "release c1"]
