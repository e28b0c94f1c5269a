"""Addresses that are held until the peers have acknowledged a withdrawal: who waits for them, and for how long."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bgpcni.ipam.host_local import PoolExhausted
from bgpcni.model import Address, Attachment, Bgp, Ipam, State
from bgpcni.node import addressing as module
from bgpcni.node.addressing import Addressing
from bgpcni.node.request import Request, parse_request
from bgpcni.store import Store
from bgpcni.testing.patience import SECONDS


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "data", tmp_path / "run")
    yield store
    store.close()


def request(tmp_path: Path, container: str) -> Request:
    """An ADD on a network with one address."""
    variables = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": container, "CNI_NETNS": "/x", "CNI_IFNAME": "eth0",
                 "CNI_PATH": "/o"}  # fmt: skip
    body = {
        "cniVersion": "1.0.0", "name": "net", "type": "bgpcni", "bgp": {"family": "evpn", "vni": 5001},
        "ipam": {"type": "host-local", "dataDir": str(tmp_path / "leases"), "ranges": [
            [{"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.10", "rangeEnd": "10.1.2.10"}]]},
    }  # fmt: skip
    return parse_request(variables, json.dumps(body).encode())


def leaving(tmp_path: Path, store: Store, family: str) -> Attachment:
    """A container that is gone, its address held."""
    item = Attachment.model_validate({
        "boot_id": "b", "network": "net", "container_id": "old", "ifname": "eth0", "netns": "/x",
        "bgp": Bgp.model_validate({"family": family}), "addresses": (Address(address="10.1.2.10/24"),),
        "ipam": Ipam(type="host-local", data_dir=str(tmp_path / "leases")),
    })  # fmt: skip
    store.put(State.LEAVING, item)
    return item


def test_an_evpn_add_waits_for_the_acknowledgement_of_the_last_address(tmp_path: Path, store: Store) -> None:
    """DEL has answered, the peers' TCP is about to acknowledge: an ADD on a full pool does not fail over that."""
    node = Addressing(store, resident=True)
    old = request(tmp_path, "old")
    node.allocate(old, node.plan(old))
    item = leaving(tmp_path, store, "evpn")
    waits, new = threading.Event(), request(tmp_path, "new")
    real = node._comes_free

    def comes_free(network: str, data_dir: str, released: int, deadline: float) -> bool:
        waits.set()
        return real(network, data_dir, released, deadline + SECONDS)

    node._comes_free = comes_free  # type: ignore[method-assign]
    given: list[str] = []
    thread = threading.Thread(target=lambda: given.append(node.allocate(new, node.plan(new)).addresses[0].address))
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
    node.allocate(old, node.plan(old))
    leaving(tmp_path, store, "evpn")
    with pytest.raises(PoolExhausted):
        node.allocate(new, node.plan(new))


def test_a_unicast_address_that_is_held_is_had_at_once(tmp_path: Path, store: Store) -> None:
    """The same NLRI with the same next hop: nothing has to be withdrawn before."""
    node = Addressing(store, resident=True)
    old, new = request(tmp_path, "old"), request(tmp_path, "new")
    node.allocate(old, node.plan(old))
    leaving(tmp_path, store, "unicast")
    assert node.allocate(new, node.plan(new)).addresses[0].address == "10.1.2.10/24"
