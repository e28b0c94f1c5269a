"""What the agent keeps of the records in memory is what is on disk, whoever changed it, and a command reads no file for
each of them."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bgpcni.commands import answers
from bgpcni.config.agent import AgentConfig
from bgpcni.convergence import catalog
from bgpcni.convergence.convergence import Convergence
from bgpcni.kernel import inotify
from bgpcni.known import Known
from bgpcni.model import Address, Attachment, ExporterUse, Pod, Shared, State
from bgpcni.node.node import Node
from bgpcni.node.reachability import Reachability
from bgpcni.nudges import Nudges
from bgpcni.store import Store, Stored
from bgpcni.testing.memory import FACTS, Memory


def attachment(number: int = 1, **more: object) -> Attachment:
    values: dict[str, object] = {
        "boot_id": "boot", "network": f"net{number % 3}", "container_id": f"container-{number}", "ifname": "eth0",
        "netns": "/run/netns/x", "chained": True, "pod": Pod(namespace="default", name=f"pod-{number}"),
        "addresses": (Address(address=f"10.1.{number // 250}.{number % 250 + 1}/32"),),
        "exporters": (ExporterUse(name="memory", type="memory"),), **more,
    }  # fmt: skip
    return Attachment.model_validate(values)


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "data", tmp_path / "run")
    store.remember()
    yield store
    store.close()


@pytest.fixture
def others(agents: Store) -> Iterator[Store]:
    """The same records, opened by a call without an agent, which reads the files each time."""
    store = Store(agents.path, agents.run_path)
    yield store
    store.close()


def file_of(store: Store, state: State, item: Attachment) -> Path:
    return store.path / "attachments" / state / f"{item.network}@{item.key.digest}.json"


@pytest.mark.parametrize("seed", range(12))
def test_it_agrees_with_the_files_after_any_changes(agents: Store, others: Store, seed: int) -> None:
    """In whatever order records are put, moved, deleted and broken, by the agent or by another process."""
    chance = random.Random(seed)
    agents.recycle()
    if chance.random() < 0.5:
        list(agents.all())
    for _ in range(60):
        store = chance.choice((agents, others))
        item = attachment(
            chance.randrange(8), since=chance.choice(("", "2026-01-01T00:00:00Z")), mtu=chance.randrange(9000)
        )
        state = chance.choice(list(State))
        match chance.randrange(7):
            case 0 | 1:
                store.put(state, item)
            case 2:
                store.move(item, state)
            case 3:
                store.delete(item.key)
            case 4:
                file_of(agents, State.UP, item).write_text(chance.choice(("{", "")))
            case 5:
                store.sweep()
            case 6:
                store.put(state, item.model_copy(update={"netns": "/" + "x" * 5000}))
        if chance.random() < 0.3:
            agents.listen()
        if chance.random() < 0.5:
            assert list(agents.all()) == list(others.all())
            assert set(agents.names()) <= set(others.names())  # an ADD that begins has a name and nothing else
    assert list(agents.all()) == list(others.all())


def _write_and_remove(data: Path, run: Path) -> None:
    store = Store(data, run)
    store.put(State.UP, attachment(2))
    store.delete(attachment(1).key)
    store.close()


def test_another_process_is_seen_at_once(agents: Store) -> None:
    agents.put(State.UP, attachment(1))
    assert [stored.network for stored in agents.all()] == ["net1"]
    process = multiprocessing.get_context("spawn").Process(
        target=_write_and_remove, args=(agents.path, agents.run_path)
    )
    process.start()
    process.join()
    assert process.exitcode == 0
    assert [(stored.state, stored.attachment) for stored in agents.all()] == [(State.UP, attachment(2))]


def test_only_what_was_changed_is_read_again(agents: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look costs what was changed since the last one, not the number of records."""
    for number in range(200):
        agents.put(State.UP, attachment(number))
    assert len(list(agents.all())) == 200
    read: list[str] = []
    monkeypatch.setattr(Store, "_data", _noting(Store._data, read))
    assert len(list(agents.all())) == 200
    assert read == []
    agents.put(State.UP, attachment(7, mtu=1400))
    agents.move(attachment(8), State.LEAVING)
    agents.delete(attachment(9).key)
    found = {stored.digest: stored for stored in agents.all()}
    assert len(found) == 199
    assert set(read) <= {file_of(agents, State.UP, attachment(number)).name for number in (7, 8, 9)}
    assert found[attachment(8).key.digest].state is State.LEAVING


def _noting(data: Callable[[Store, State, str], bytes], read: list[str]) -> Callable[[Store, State, str], bytes]:
    def noted(store: Store, state: State, name: str) -> bytes:
        read.append(name)
        return data(store, state, name)

    return noted


def test_no_command_reads_a_file_for_each_record(agents: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "load", lambda kind: Memory)
    monkeypatch.setattr(Reachability, "of", lambda self, attachment: [])
    convergence = Convergence(FACTS, Nudges())
    node = Node(agents, AgentConfig(default_exporters=("memory",)), FACTS, convergence, Nudges())
    for number in range(100):
        agents.put(State.UP, attachment(number, boot_id=node.boot_id))
    list(agents.all())
    read: list[str] = []
    monkeypatch.setattr(Store, "_data", _noting(Store._data, read))
    answers.status(node)
    assert len(answers.routes(node)[0]["routes"]) == 100
    assert len(answers.attachments(node)[0]["attachments"]) == 100
    assert answers.attachments(node, search="pod-77", limit=5)[0]["total"] == 1
    assert [found["containerID"] for found in answers.explain(node, "default/pod-7")[0]["attachments"]] == [
        "container-7"
    ]
    assert len(answers.networks(node)[0]["networks"]) == 3
    answers.unreachable(node)
    assert read == []


def test_a_queue_that_overflowed_makes_it_look_at_all_files() -> None:
    files = {"a": 1, "b": 2}

    class Queue:
        lost = False

        def changed(self) -> set[str] | None:
            return None if self.lost else set()

        def close(self) -> None:
            pass

    queue = Queue()
    known = Known(queue, lambda: list(files), files.get, lambda item: item[0])
    assert known.all() == files
    files |= {"c": 3, "a": 5}
    del files["b"]
    assert known.all() == {"a": 1, "b": 2}, "nobody said that they were changed"
    queue.lost = True
    known.listen()
    queue.lost = False
    assert known.all() == {"a": 5, "c": 3}


@contextmanager
def open_folder(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def test_what_the_kernel_forgets_is_told(tmp_path: Path) -> None:
    """The folder is removed: whatever was in it may have been changed."""
    folder = tmp_path / "folder"
    folder.mkdir()
    with open_folder(folder) as descriptor:
        watch = inotify.Watch([descriptor])
        (folder / "x").write_text("1")
        assert watch.changed() == {"x"}
        assert watch.changed() == set()
        (folder / "x").rename(folder / "y")
        assert watch.changed() == {"x", "y"}
        (folder / "y").unlink()
        folder.rmdir()
    assert watch.changed() is None
    watch.close()


def test_without_inotify_the_files_are_read_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(folders: object) -> inotify.Watch:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(inotify, "Watch", refused)
    store = Store(tmp_path / "data", tmp_path / "run")
    store.remember()
    assert "because it cannot watch them: Too many open files" in caplog.text
    store.put(State.UP, attachment())
    assert list(store.all()) == [Stored(State.UP, "net1", attachment().key.digest, attachment())]
    assert store.listen() == ""
    store.close()


def test_records_share_what_is_equal_and_stay_as_they_are() -> None:
    shared = Shared()
    first, second = attachment(1), attachment(1)
    text = first.model_dump_json(by_alias=True)
    for item in (first, second):
        item.share(shared)
    assert first.bgp is second.bgp
    assert first.exporters is second.exporters
    assert first.model_dump_json(by_alias=True) == text
    assert first == attachment(1)
    changed = first.model_copy(update={"mtu": 1400})
    assert (changed.mtu, first.mtu, first) == (1400, None, second)
