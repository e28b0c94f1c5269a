"""What the store counts in memory is what is on disk, whatever happened, and whoever changed it at the same time."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

from bgpcni.census import Census
from bgpcni.model import Address, Attachment, IpamRecord, State
from bgpcni.store import Store


def attachment(container: str, network: str = "net", **more: object) -> Attachment:
    values: dict[str, object] = {
        "boot_id": "boot", "network": network, "container_id": container, "ifname": "eth0", "netns": "/run/netns/x",
        "ipam": IpamRecord(type="host-local"),
        "addresses": (Address(address="10.1.2.3/24"), Address(address="2001:db8::3/64")), **more,
    }  # fmt: skip
    return Attachment.model_validate(values)


def on_disk(store: Store) -> set[tuple[str, State, str]]:
    return {(one.network, one.state, one.attachment.container_id if one.attachment else "") for one in store.all()}


def counted(census: Census) -> set[tuple[str, State, str]]:
    return {(one.network, one.state, one.key.container_id if one.key else "") for one in census.all().values()}


@pytest.mark.parametrize("seed", range(5))
def test_it_is_what_is_on_disk(tmp_path: Path, seed: int) -> None:
    """Four threads write, move and delete records; at the end memory and disk agree."""
    census = Census()
    store = Store(tmp_path / "data", tmp_path / "run", census)
    store.put(State.UP, attachment("before"))
    store.count()

    def work(number: int) -> None:
        choice = random.Random(seed * 10 + number)
        mine = [attachment(f"{number}-{each}", network=choice.choice(["a", "b"])) for each in range(5)]
        for _ in range(60):
            item = choice.choice(mine)
            with store.locked(item.key, 30):
                match choice.randrange(4):
                    case 0:
                        store.put(choice.choice(list(State)), item)
                    case 1:
                        store.move(item, choice.choice(list(State)))
                    case 2:
                        store.delete(item.key)
                    case _:
                        store.put(State.UP, item)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted(census) == on_disk(store)
    store.close()


def test_a_start_counts_what_is_there(tmp_path: Path) -> None:
    """Records of an earlier run, one that cannot be read among them; addresses that an IPAM gave, by family."""
    first = Store(tmp_path / "data", tmp_path / "run")
    first.put(State.UP, attachment("one"))
    first.put(State.LEAVING, attachment("two", ipam=None))
    first.put(State.UP, attachment("three", network="other"))
    (broken,) = (first.path / "attachments/up").glob("other@*")
    broken.write_text("{")
    first.close()
    census = Census()
    store = Store(tmp_path / "data", tmp_path / "run", census)
    assert census.all() == {}
    store.count()
    assert counted(census) == on_disk(store) == {
        ("net", State.UP, "one"), ("net", State.LEAVING, "two"), ("other", State.UP, ""),
    }  # fmt: skip
    leases = {one.key.container_id: one.leases for one in census.all().values() if one.key}
    assert leases == {"one": (1, 1), "two": (0, 0)}
    stored = next(one for one in store.all() if one.attachment is None)
    store.delete_unreadable(stored.network, stored.digest)
    assert counted(census) == on_disk(store)
    store.close()
