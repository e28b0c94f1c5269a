"""The records: written completely or not at all, found again after a kill at any point, and never blocking anything."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bgpcni import locks, numbers
from bgpcni import store as module
from bgpcni.errors import IoFailure, TryAgain
from bgpcni.model import Address, Attachment, AttachmentKey, State
from bgpcni.store import Store
from bgpcni.testing.interleaving import Calls, Halt, Running
from bgpcni.testing.patience import SECONDS


def attachment(container: str = "c1", network: str = "net", **more: object) -> Attachment:
    values: dict[str, object] = {
        "boot_id": "boot",
        "network": network,
        "container_id": container,
        "ifname": "eth0",
        "netns": "/run/netns/x",
        **more,
    }
    return Attachment.model_validate(values)


WITH = attachment(addresses=(Address(address="10.1.2.3/24", gateway="10.1.2.1"),))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "data", tmp_path / "run")
    yield store
    store.close()


def found(store: Store) -> list[tuple[State, Attachment | None]]:
    return [(stored.state, stored.attachment) for stored in store.all()]


def path_of(store: Store, state: State, item: Attachment = WITH) -> Path:
    return store.path / "attachments" / state / f"{item.network}@{item.key.digest}.json"


def test_what_is_put_is_found(store: Store) -> None:
    """A record is one file, readable by its owner only, whose folder is the attachment's state."""
    assert store.find(WITH.key) is None
    store.put(State.ADDING, WITH)
    assert path_of(store, State.ADDING).stat().st_mode & 0o777 == 0o600
    stored = store.find(WITH.key)
    assert stored is not None
    assert (stored.state, stored.attachment, stored.network) == (State.ADDING, WITH, "net")
    store.put(State.UP, WITH)
    assert found(store) == [(State.UP, WITH)]
    assert not path_of(store, State.ADDING).exists()


def test_a_record_moves_and_goes(store: Store) -> None:
    """DEL: leaving, then gone; both again are success."""
    store.put(State.UP, WITH)
    assert store.move(WITH, State.LEAVING)
    assert store.move(WITH, State.LEAVING)
    assert found(store) == [(State.LEAVING, WITH)]
    store.delete(WITH.key)
    store.delete(WITH.key)
    assert found(store) == []
    assert store.move(WITH, State.LEAVING)


def test_the_folders_are_the_owners_alone(store: Store) -> None:
    """0700: what is in there decides what root does."""
    for folder in (store.path, store.run_path, *(store.path / "attachments" / state for state in State)):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_networks_with_unusual_names_are_kept_apart(store: Store) -> None:
    """Names are what the specification allows; a container ID may be as long as it likes."""
    items = [attachment("c" * 500, name) for name in ("a", "a.b", "A", "a_b-c", "x" * 180)]
    for item in items:
        store.put(State.UP, item)
    assert sorted(stored.network for stored in store.all()) == sorted(item.network for item in items)
    assert all(store.find(item.key).attachment == item for item in items)  # type: ignore[union-attr]


def test_attachments_of_one_container_are_kept_apart(store: Store) -> None:
    """Multus: two interfaces, two networks, one container."""
    one, two = attachment(ifname="eth0"), attachment(ifname="net1")
    store.put(State.UP, one)
    store.put(State.UP, two)
    store.delete(one.key)
    assert found(store) == [(State.UP, two)]


@pytest.mark.parametrize(
    ("states", "winner"),
    [
        ((State.ADDING, State.UP), State.UP),
        ((State.UP, State.LEAVING), State.UP),
        ((State.ADDING, State.LEAVING), State.LEAVING),
        ((State.ADDING, State.UP, State.LEAVING), State.UP),
    ],
)
def test_two_states_of_one_record_count_once(store: Store, states: tuple[State, ...], winner: State) -> None:
    """A kill between writing the new state and removing the old one: the later state is the one that counts."""
    for state in states:
        store.put(State.UP, WITH.model_copy(update={"netns": f"/{state}"}))
        os.rename(path_of(store, State.UP), store.path / state)
    for state in states:
        os.rename(store.path / state, path_of(store, state))
    ((state, item),) = found(store)
    assert item is not None
    assert (state, item.netns) == (winner, f"/{winner}")
    stored = store.find(WITH.key)
    assert stored is not None
    assert (stored.state, stored.attachment) == (state, item)
    store.sweep()
    assert [each for each in State if path_of(store, each).exists()] == [winner]
    assert store.move(WITH, State.LEAVING)
    ((state, item),) = found(store)
    assert item is not None
    assert (state, item.netns) == (State.LEAVING, f"/{winner}")  # no address of it is forgotten
    store.delete(WITH.key)
    assert found(store) == []


BROKEN = {
    "empty": b"",
    "half": b'{"schema": 1, "boot_id": "x"',
    "not UTF-8": b"\xff\xfe",
    "a later schema": json.dumps({**WITH.model_dump(mode="json", by_alias=True), "schema": 9}).encode(),
    "another attachment's": attachment("other").model_dump_json(by_alias=True).encode(),
    "a list": b"[]",
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_a_record_that_cannot_be_read_is_one_problem_and_no_more(store: Store, content: bytes) -> None:
    """It is reported with its file and network, its DEL removes it, and the others are served."""
    good = attachment("good")
    store.put(State.UP, good)
    path_of(store, State.UP).write_bytes(content)
    stored = store.find(WITH.key)
    assert stored is not None
    assert stored.attachment is None
    assert stored.network == "net"
    assert stored.problem.startswith(str(path_of(store, State.UP)) + ": ")
    assert "\n" not in stored.problem
    assert "validation error" not in stored.problem
    items = [item for _, item in found(store)]
    assert len(items) == 2
    assert None in items
    assert good in items
    store.delete_unreadable(stored.network, stored.digest)
    assert found(store) == [(State.UP, good)]


def test_a_link_in_place_of_a_record_is_not_followed(store: Store, tmp_path: Path) -> None:
    """A link in place of a record counts as an unreadable record; what it points to is not touched."""
    (tmp_path / "elsewhere").write_text(WITH.model_dump_json(by_alias=True))
    path_of(store, State.UP).symlink_to(tmp_path / "elsewhere")
    ((_, item),) = found(store)
    assert item is None
    store.delete(WITH.key)
    assert found(store) == []
    assert (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("start", list(State))
def test_a_record_on_its_way_is_listed(store: Store, monkeypatch: pytest.MonkeyPatch, start: State) -> None:
    """Each time a folder was listed it goes on to the next state."""
    store.put(start, WITH)
    course = [State.ADDING, State.UP, State.LEAVING]
    listed = module.folders.listed

    def in_between(folder: int) -> list[str]:
        names = listed(folder)
        for state in course:
            if path_of(store, state).exists():
                store.move(WITH, course[min(course.index(state) + 1, 2)])
                break
        return names

    monkeypatch.setattr(module.folders, "listed", in_between)
    assert [item for _, item in found(store)] == [WITH]


def test_files_that_are_no_records_are_let_be(store: Store) -> None:
    """An editor's copy, a half-written file, a note."""
    folder = store.path / "attachments" / "up"
    (folder / f".{WITH.key.digest}.123").write_bytes(b"{")
    (folder / "README").write_text("hello")
    assert found(store) == []
    store.sweep()
    assert [path.name for path in folder.iterdir()] == ["README"]


# ---------------------------------------------------------------- kills


CALLS = ("fstat", "open", "write", "pread", "pwrite", "close", "rename", "unlink", "stat")


def die_at(number: int, action: Callable[[], object]) -> bool:
    """Run `action` in a forked child that is killed right before its `number`th system call; True: it was."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            return True
        assert os.WEXITSTATUS(status) == 0
        return False
    left = number

    def counted(call: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*args: object, **kwargs: object) -> object:
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return call(*args, **kwargs)

        return wrapped

    try:
        for name in CALLS:
            setattr(os, name, counted(getattr(os, name)))
        action()
        os._exit(0)
    except BaseException:  # noqa: BLE001 - whatever it is, this child must not go on with the tests
        os._exit(1)


BEFORE = WITH.model_copy(update={"netns": "/before"})
AFTER = WITH.model_copy(update={"netns": "/after"})


LARGE = AFTER.model_copy(update={"cni_version": "x" * 10_000})


@pytest.mark.parametrize(
    ("action", "allowed"),
    [
        (
            lambda store: store.put(State.UP, AFTER),
            [(State.ADDING, BEFORE), (State.ADDING, AFTER), (State.UP, AFTER)],
        ),
        (lambda store: store.put(State.ADDING, AFTER), [(State.ADDING, BEFORE), (State.ADDING, AFTER)]),
        (
            lambda store: store.put(State.UP, LARGE),
            [(State.ADDING, BEFORE), (State.ADDING, LARGE), (State.UP, LARGE)],
        ),
        (lambda store: store.move(BEFORE, State.LEAVING), [(State.ADDING, BEFORE), (State.LEAVING, BEFORE)]),
        (lambda store: store.delete(BEFORE.key), [(State.ADDING, BEFORE)]),
    ],
    ids=["up", "again", "large", "leaving", "dropped"],
)
def test_a_kill_between_any_two_system_calls_leaves_one_whole_record(
    tmp_path: Path, action: Callable[[Store], object], allowed: list[tuple[State, Attachment]]
) -> None:
    """The state before or the state after; and the next life can go on from it."""
    for number in range(50):
        store = Store(tmp_path / "data", tmp_path / "run")
        store.put(State.ADDING, BEFORE)
        killed = die_at(number, lambda store=store: action(store))  # type: ignore[misc]
        records = found(store)
        assert records in [[record] for record in allowed] or (allowed[-1:] == allowed and records == [])
        store.sweep()
        assert found(store) == records
        assert store.move(BEFORE, State.LEAVING)
        store.delete(BEFORE.key)
        assert found(store) == []
        leftover = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
        assert leftover == []
        store.close()
        if not killed:
            return
    pytest.fail("the action never came to its end")


@pytest.mark.parametrize("spare", [False, True], ids=["new", "spare"])
@pytest.mark.parametrize("record", [AFTER, LARGE], ids=["small", "large"])
def test_a_kill_while_the_first_record_is_written_leaves_it_whole_or_none(
    tmp_path: Path, record: Attachment, spare: bool
) -> None:
    """Nothing was touched yet: the next ADD of the same container finds its way free."""
    for number in range(50):
        store = Store(tmp_path / "data", tmp_path / "run")
        if spare:
            store.recycle()
            store.put(State.UP, BEFORE)
            store.delete(BEFORE.key)
        killed = die_at(number, lambda store=store: store.put(State.ADDING, record))  # type: ignore[misc]
        assert found(store) in ([], [(State.ADDING, record)])
        assert (store.find(record.key) is None) == (found(store) == [])
        store.put(State.ADDING, record)
        assert found(store) == [(State.ADDING, record)]
        store.put(State.UP, BEFORE)
        assert found(store) == [(State.UP, BEFORE)]
        store.delete(record.key)
        store.close()
        if not killed:
            return
    pytest.fail("the action never came to its end")


def test_what_kills_left_is_swept(store: Store) -> None:
    """Half-written and empty files, locks of attachments that are gone; locks of those that are there stay."""
    with store.locked(WITH.key, 0):
        store.put(State.UP, WITH)
    other = attachment("gone")
    path_of(store, State.ADDING, other).touch()
    (store.run_path / "locks" / other.key.digest).touch()
    store.sweep()
    assert not path_of(store, State.ADDING, other).exists()
    assert [path.name for path in (store.run_path / "locks").iterdir()] == [WITH.key.digest]


def test_the_file_of_a_record_that_goes_is_the_next_ones(store: Store) -> None:
    """In the agent, and in its next life; a text that is shorter than the last leaves nothing of that."""
    store.recycle()
    store.put(State.ADDING, WITH)
    first = path_of(store, State.ADDING).stat().st_ino
    store.delete(WITH.key)
    assert found(store) == []
    again = Store(store.path, store.run_path)
    again.sweep()
    again.recycle()
    other = attachment("other")
    again.put(State.ADDING, other)
    again.put(State.UP, other)
    assert path_of(again, State.UP, other).stat().st_ino == first
    assert found(again) == [(State.UP, other)]
    again.close()


def test_a_file_of_a_record_that_went_is_given_to_one_other_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One container came and went twice, the second time in another's file; then two come in the same moment."""
    store.recycle()
    one, two, first, second = (attachment(name) for name in ("one", "two", "first", "second"))
    store.put(State.ADDING, one)
    store.put(State.ADDING, two)
    store.delete(one.key)
    store.delete(two.key)
    store.put(State.ADDING, two)
    store.delete(two.key)

    write, begun = os.pwrite, []

    def in_between(fd: int, data: bytes, offset: int) -> int:
        if not begun:  # the first has opened its file: the second begins and is done before it goes on
            begun.append(fd)
            store.put(State.ADDING, second)
        return write(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", in_between)
    store.put(State.ADDING, first)
    assert sorted(found(store), key=str) == sorted([(State.ADDING, first), (State.ADDING, second)], key=str)
    inodes = {path_of(store, State.ADDING, item).stat().st_ino for item in (first, second)}
    assert len(inodes) == 2
    store.delete(first.key)
    store.delete(second.key)
    names = os.listdir(store.path / "spare")
    assert len(names) == len(set(store._spares or ())) == 2


def test_many_records_come_and_go_at_once(store: Store) -> None:
    """Whichever thread takes which file, each record is whole."""
    store.recycle()
    wrong: list[object] = []

    def live(number: int) -> None:
        item = attachment(f"c{number}")
        try:
            for _ in range(50):
                store.put(State.ADDING, item)
                store.put(State.UP, item)
                stored = store.find(item.key)
                if stored is None or stored.attachment != item:
                    wrong.append(stored)
                store.delete(item.key)
        except BaseException as error:  # noqa: BLE001 - the test is to fail by it
            wrong.append(error)

    threads = [threading.Thread(target=live, args=[number]) for number in range(16)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []
    assert found(store) == []
    assert sorted(os.listdir(store.path / "spare")) == sorted(store._spares or ())


def test_a_record_in_two_states_leaves_two_files(store: Store) -> None:
    """A kill left both; each file has a name of its own among the spare ones."""
    store.recycle()
    store.put(State.UP, WITH)
    shutil.copy(path_of(store, State.UP), path_of(store, State.LEAVING))
    store.delete(WITH.key)
    assert found(store) == []
    assert sorted(os.listdir(store.path / "spare")) == sorted(store._spares or ())
    assert len(set(store._spares or ())) == 2


def test_a_file_that_has_another_name_elsewhere_is_not_used_again(store: Store, tmp_path: Path) -> None:
    """A copy of the folder that was made by links keeps its content."""
    store.recycle()
    store.put(State.UP, WITH)
    os.link(path_of(store, State.UP), tmp_path / "copy")
    before = (tmp_path / "copy").read_bytes()
    store.delete(WITH.key)
    other = attachment("other")
    store.put(State.ADDING, other)
    assert (tmp_path / "copy").read_bytes() == before
    assert found(store) == [(State.ADDING, other)]
    assert os.listdir(store.path / "spare") == []


@pytest.mark.parametrize("state", [State.UP, State.LEAVING])
def test_a_record_that_goes_while_it_is_read_is_no_broken_one(
    store: Store, monkeypatch: pytest.MonkeyPatch, state: State
) -> None:
    """The file was opened, then it went and became another's."""
    store.recycle()
    store.put(state, WITH)
    other = attachment("other")
    read, gone = os.read, []

    def in_between(fd: int, octets: int) -> bytes:
        if not gone:
            gone.append(fd)
            store.delete(WITH.key)
            store.put(State.ADDING, other)
        return read(fd, octets)

    monkeypatch.setattr(os, "read", in_between)
    assert store.find(WITH.key) is None
    gone.clear()
    store.delete(other.key)
    store.put(state, WITH)
    assert found(store) == []
    assert found(store) == [(State.ADDING, other)]


def test_large_files_and_more_than_enough_are_not_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do they come back: a record that is larger than a page gets a file of its own."""
    monkeypatch.setattr(module, "_SPARES", 2)
    store.recycle()
    large = [LARGE.model_copy(update={"container_id": f"c{n}"}) for n in range(3)]
    for item in large:
        store.put(State.UP, item)
    for item in large:
        store.delete(item.key)
    assert len(os.listdir(store.path / "spare")) == 2
    store.put(State.ADDING, WITH)
    assert os.listdir(store.path / "spare") == []
    store.put(State.ADDING, large[0])
    assert sorted(found(store), key=str) == sorted([(State.ADDING, WITH), (State.ADDING, large[0])], key=str)


def test_records_come_and_go_without_the_folder_of_spare_files(store: Store) -> None:
    """Somebody cleaned up."""
    store.recycle()
    store.put(State.UP, WITH)
    store.delete(WITH.key)
    shutil.rmtree(store.path / "spare")
    store.put(State.ADDING, WITH)
    store.put(State.UP, WITH)
    assert found(store) == [(State.UP, WITH)]
    store.delete(WITH.key)
    assert found(store) == []


def test_the_lock_goes_with_the_record(store: Store) -> None:
    """As many files as attachments, no more."""
    with store.locked(WITH.key, 0):
        store.put(State.UP, WITH)
    assert os.listdir(store.run_path / "locks") == [WITH.key.digest]
    with store.locked(WITH.key, 0):
        store.delete(WITH.key)
    assert os.listdir(store.run_path / "locks") == []


def test_a_killed_first_use_does_not_stop_the_next(tmp_path: Path) -> None:
    """The folders are half made."""
    for number in range(60):
        if not die_at(number, lambda: Store(tmp_path / str(number) / "data", tmp_path / "run")):  # noqa: B023
            return
        Store(tmp_path / str(number) / "data", tmp_path / "run").close()
    pytest.fail("the store never came to be")


def test_the_number_of_a_network_survives_a_kill(tmp_path: Path) -> None:
    """An RD is never given twice, and never changes."""
    store = Store(tmp_path / "data", tmp_path / "run")
    assert store.number_of("a") == 1
    for number in range(60):
        killed = die_at(number, lambda: store.number_of(f"net{number}"))  # noqa: B023
        assert store.number_of("a") == 1
        if not killed:
            break
    kept = json.loads((tmp_path / "data" / "numbers.json").read_text())
    assert len(set(kept.values())) == len(kept)
    store.close()


# ---------------------------------------------------------------- disks


def limited(octets: int, action: Callable[[], object]) -> int:
    """Run `action` in a forked child that may not write a file of more than `octets`; its exit code."""
    child = os.fork()
    if child:
        return os.WEXITSTATUS(os.waitpid(child, 0)[1])
    try:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (octets, octets))
        action()
        os._exit(0)
    except IoFailure:
        os._exit(5)
    except BaseException:  # noqa: BLE001 - this child must not go on with the tests
        os._exit(1)


@pytest.mark.parametrize("octets", [0, 1, 100])
def test_a_full_disk_is_error_5_and_leaves_the_record_as_it_was(store: Store, octets: int) -> None:
    """No half record: a write that stops short is an error as well."""
    assert limited(octets, lambda: store.put(State.ADDING, AFTER)) == 5
    assert found(store) == []
    store.put(State.ADDING, BEFORE)
    assert limited(octets, lambda: store.put(State.UP, AFTER)) == 5
    assert limited(octets, lambda: store.put(State.ADDING, AFTER)) == 5
    assert limited(octets, lambda: store.put(State.ADDING, LARGE)) == 5
    assert found(store) == [(State.ADDING, BEFORE)]
    assert [p.name for p in (store.path / "attachments").rglob("*.*")] == [path_of(store, State.ADDING).name]


def test_a_full_disk_gives_no_network_number(store: Store) -> None:
    """If the numbers cannot be written, ADD fails: two networks must not get the same RD."""
    assert store.number_of("a") == 1
    assert limited(4, lambda: store.number_of("b")) == 5
    assert (store.number_of("a"), store.number_of("b")) == (1, 2)


def test_a_move_that_the_disk_refuses_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """DEL goes on from the record where it is."""
    store.put(State.UP, WITH)

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", refuse)
    assert not store.move(WITH, State.LEAVING)
    assert found(store) == [(State.UP, WITH)]


def test_a_folder_that_cannot_be_made_is_error_5(tmp_path: Path) -> None:
    """In words, with the path."""
    (tmp_path / "file").write_text("")
    with pytest.raises(IoFailure, match="file"):
        Store(tmp_path / "file" / "data", tmp_path / "run")


# ---------------------------------------------------------------- numbers


def test_networks_are_numbered_from_one_for_good(store: Store, tmp_path: Path) -> None:
    """The `n` of the RD `router_id:n`."""
    assert [store.number_of(name) for name in ("a", "b", "a", "c")] == [1, 2, 1, 3]
    again = Store(tmp_path / "data", tmp_path / "run")
    assert again.number_of("c") == 3
    again.close()


def test_two_networks_that_come_at_once_get_two_numbers(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """One has chosen its number, and the file does not say so yet: the other waits for it."""
    halt, waits = Halt(monkeypatch, numbers.Numbers, "_write"), Calls(monkeypatch, locks, "acquire")
    first = Running(lambda: store.number_of("a"))
    halt.reached()
    second = Running(lambda: store.number_of("b"))
    waits.wait(2)
    halt.go_on()
    assert (first.result(), second.result()) == (1, 2)


def vpn(network: str, rd: str, label: int | None = None, **more: object) -> Attachment:
    family = "evpn" if label is None else "vpn"
    return attachment(network, network, bgp={"family": family, "rd": rd, "label": label, **more})


BROKEN_NUMBERS = [b"", bytes(64), b'{"a": 1, "b', b"[]", b'{"a": "x"}', b'{"a": 0}', b"\xff", b'{"a": 70000}', None]


@pytest.mark.parametrize("content", BROKEN_NUMBERS)
def test_numbers_that_are_lost_are_read_from_the_records(store: Store, content: bytes | None) -> None:
    """Power failed: who is attached keeps the number, nobody else gets it; what the file was is kept."""
    records = [
        vpn("routed", "10.0.0.1:3"),
        vpn("own-rd", "64512:77"),
        vpn("labelled", "64512:78", 15 + 4),
        vpn("no-router-id", "0:5"),
        vpn("in-vrf", "10.0.0.1:6", 182007, vrf="blue"),
        vpn("in-evpn-vrf", "10.0.0.1:8", vrf="green", table=182009),
        vpn("announced-only", "10.0.0.1:10", vrf="red"),
        attachment("plain", "plain"),
    ]
    for record in records:
        store.put(State.UP, record)
    store.move(records[0], State.LEAVING)
    if content is not None:
        (store.path / "numbers.json").write_bytes(content)
    store.check_numbers()
    assert [store.number_of(name) for name in ("new", "own-rd", "newer")] == [1, 2, 11]
    assert [store.number_of(name) for name in ("routed", "labelled", "no-router-id")] == [3, 4, 5]
    assert [store.number_of(name) for name in ("in-vrf", "vrf blue", "in-evpn-vrf", "vrf green")] == [6, 7, 8, 9]
    assert store.number_of("announced-only") == 10
    broken = store.path / "numbers.json.broken"
    assert (broken.read_bytes() if broken.exists() else None) == content


def test_two_networks_never_get_one_number_from_the_records(store: Store) -> None:
    """RDs of the user's own are alike; only one can be a number of ours."""
    for name in ("a", "b"):
        store.put(State.UP, vpn(name, "10.0.0.1:1"))
    assert sorted(store.number_of(name) for name in ("a", "b")) == [1, 2]


@pytest.mark.parametrize("content", BROKEN_NUMBERS[:-1])
def test_numbers_are_not_guessed_where_a_record_cannot_be_read(store: Store, content: bytes) -> None:
    """It may have any of them: error 5 names both files, until a DEL or GC removes that record."""
    broken = vpn("a", "10.0.0.1:1")
    store.put(State.UP, broken)
    path_of(store, State.UP, broken).write_bytes(b"")
    (store.path / "numbers.json").write_bytes(content)
    for ask in (store.check_numbers, lambda: store.number_of("b")):
        with pytest.raises(IoFailure, match=rf"numbers\.json: .*{broken.key.digest}"):
            ask()
    store.delete_unreadable("a", broken.key.digest)
    store.check_numbers()
    assert store.number_of("b") == 1


def test_the_first_number_needs_no_record(store: Store) -> None:
    """If there is no file of numbers yet, a record that cannot be read does not prevent giving out numbers."""
    store.put(State.UP, WITH)
    path_of(store, State.UP).write_bytes(b"")
    store.check_numbers()
    assert store.number_of("b") == 1


def test_a_number_is_on_the_disk_before_it_is_used(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Power may fail at any time: first the content, then the name, then the folder that has the name."""
    done: list[str] = []
    rename, fsync = os.rename, os.fsync

    def renamed(*args: object, **kwargs: object) -> None:
        done.append("rename")
        rename(*args, **kwargs)  # type: ignore[arg-type]

    def synced(fd: int) -> None:
        done.append(os.readlink(f"/proc/self/fd/{fd}") + (f" {size}" if (size := os.fstat(fd).st_size) < 4000 else ""))
        fsync(fd)

    monkeypatch.setattr(os, "rename", renamed)
    monkeypatch.setattr(os, "fsync", synced)
    store.number_of("a")
    size = (store.path / "numbers.json").stat().st_size
    content, name, folder = done
    assert content == f"{store.path / '.numbers.json'} {size}"
    assert (name, folder.partition(" ")[0]) == ("rename", str(store.path))
    done.clear()
    assert store.number_of("a") == 1
    assert done == []


def test_when_all_numbers_are_taken_it_says_so(store: Store) -> None:
    """Not a crash."""
    (store.path / "numbers.json").write_text(json.dumps({f"n{n}": n for n in range(1, 65536)}))
    with pytest.raises(IoFailure, match="numbers are taken"):
        store.number_of("one more")


def test_a_held_number_lock_is_try_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that hangs with the lock is a passing condition."""
    monkeypatch.setattr(numbers, "SECONDS", 0.0)
    fd = locks.acquire("numbers.lock", store.data_fd)
    with pytest.raises(TryAgain):
        store.number_of("a")
    os.close(fd)
    assert store.number_of("a") == 1


# ---------------------------------------------------------------- the lock of an attachment


def test_a_second_call_for_an_attachment_waits_or_is_told_to_try_again(store: Store) -> None:
    """Error 11 names the attachment; another attachment is not in its way."""
    with store.locked(WITH.key, 0):
        with pytest.raises(TryAgain, match="net/c1/eth0"), store.locked(WITH.key, 0):
            pass
        with store.locked(AttachmentKey("net", "c2", "eth0"), 0):
            pass
        entered = threading.Event()

        def wait() -> None:
            with store.locked(WITH.key, 30):
                entered.set()

        thread = threading.Thread(target=wait)
        thread.start()
    thread.join(SECONDS)
    assert entered.is_set()
    assert os.listdir(store.run_path / "locks") == []


def test_an_error_of_the_call_is_not_taken_for_the_locks(store: Store) -> None:
    """What the kernel refused while the lock was held is reported as it is."""
    with pytest.raises(PermissionError, match="netlink"), store.locked(WITH.key, 0):
        raise PermissionError(1, "netlink said no")
    with pytest.raises(locks.Busy), store.locked(WITH.key, 0):
        raise locks.Busy


@pytest.mark.parametrize("which", ["run", "data"])
def test_a_folder_that_was_removed_is_said(store: Store, tmp_path: Path, which: str) -> None:
    """Every call fails then; what is open would go on looking well."""
    assert store.unwritable() == ""
    shutil.rmtree(tmp_path / which)
    assert str(tmp_path / which) in store.unwritable()
    assert "restart the agent" in store.unwritable()


@pytest.mark.parametrize("gone", ["run", "run/locks"])
def test_run_dir_is_made_again(store: Store, tmp_path: Path, gone: str) -> None:
    """With the same numbers of descriptors, so that whoever has one goes on; a lock is to be had at once."""
    assert not store.renew()
    shutil.rmtree(tmp_path / gone)
    with store.locked(WITH.key, 0):
        assert (tmp_path / "run" / "locks" / WITH.key.digest).exists()
    assert not store.renew()
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700
    assert os.path.samestat(os.fstat(store.run_fd), (tmp_path / "run").stat())
    shutil.rmtree(tmp_path / gone)
    assert store.renew()
    with store.sharing(0):
        pass


def test_a_lock_whose_file_was_removed_still_keeps_others_off(store: Store, tmp_path: Path) -> None:
    """The ADD that was at work when run_dir was wiped is not joined by the DEL that comes after."""
    with store.locked(WITH.key, 0):
        shutil.rmtree(tmp_path / "run")
        store.renew()
        with pytest.raises(TryAgain, match="another call"), store.locked(WITH.key, 0):
            pass
        with store.locked(attachment("c2").key, 0):
            pass
    with store.locked(WITH.key, 0):
        pass
