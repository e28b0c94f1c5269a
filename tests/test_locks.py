"""Locks between processes and threads: one writer on a node, one call for an attachment."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bgpcni import locks
from bgpcni.locks import Busy, WriterLocks, acquire, discard
from bgpcni.testing.patience import SECONDS


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def in_child(action: Callable[[], object]) -> str:
    """Run `action` in a process of its own: "ok" or the name of what it raised."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        answer = "ok"
        try:
            action()
        except BaseException as error:  # noqa: BLE001 - this child must not go on with the tests
            answer = type(error).__name__
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return answer


def test_an_exclusive_lock_is_one_processs(folder: int) -> None:
    """Another process is refused while it is held, and served after."""
    fd = acquire("x.lock", folder)
    assert in_child(lambda: acquire("x.lock", folder)) == "Busy"
    assert in_child(lambda: acquire("x.lock", folder, shared=True)) == "Busy"
    os.close(fd)
    assert in_child(lambda: acquire("x.lock", folder)) == "ok"


def test_a_dead_process_holds_nothing(folder: int) -> None:
    """A killed call leaves no lock behind."""
    assert in_child(lambda: acquire("x.lock", folder)) == "ok"
    os.close(acquire("x.lock", folder))


def test_shared_locks_share(folder: int) -> None:
    """Any number of calls without an agent."""
    fds = [acquire("x.lock", folder, shared=True) for _ in range(3)]
    assert in_child(lambda: acquire("x.lock", folder, shared=True)) == "ok"
    with pytest.raises(Busy):
        acquire("x.lock", folder)
    for fd in fds:
        os.close(fd)
    os.close(acquire("x.lock", folder))


def test_threads_exclude_each_other(folder: int) -> None:
    """Each lock is an open file of its own: the agent's threads are as good as processes."""
    inside, most, guard = [0], [0], threading.Lock()

    def work() -> None:
        for _ in range(20):
            fd = acquire("x.lock", folder, seconds=SECONDS)
            with guard:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            with guard:
                inside[0] -= 1
            discard("x.lock", folder, fd)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert most == [1]


@pytest.mark.parametrize("seconds", [30.0, None])
def test_a_wait_ends_when_the_lock_is_free(folder: int, seconds: float | None) -> None:
    """Bounded and unbounded waits alike."""
    fd = acquire("x.lock", folder)
    got: list[int] = []
    thread = threading.Thread(target=lambda: got.append(acquire("x.lock", folder, seconds=seconds)))
    thread.start()
    os.close(fd)
    thread.join(SECONDS)
    os.close(got[0])


def test_who_waited_for_an_unlinked_file_gets_the_one_that_is_there(folder: int, tmp_path: Path) -> None:
    """Locks of attachments go with their file: two waiters never hold two different files of one name."""
    first = acquire("x.lock", folder)
    got: list[int] = []
    thread = threading.Thread(target=lambda: got.append(acquire("x.lock", folder, seconds=SECONDS)))
    thread.start()
    discard("x.lock", folder, first)
    thread.join(SECONDS)
    assert os.fstat(got[0]).st_ino == (tmp_path / "x.lock").stat().st_ino
    with pytest.raises(Busy):
        acquire("x.lock", folder)
    os.close(got[0])


def test_a_file_that_was_replaced_under_the_lock_is_locked_anew(folder: int, tmp_path: Path) -> None:
    """The identity is compared after locking."""
    stale = os.open(tmp_path / "x.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(stale, fcntl.LOCK_EX)
    os.unlink(tmp_path / "x.lock")
    fd = acquire("x.lock", folder)
    assert os.fstat(fd).st_ino == (tmp_path / "x.lock").stat().st_ino
    os.close(fd)
    os.close(stale)


def test_locks_are_not_inherited(folder: int) -> None:
    """ExaBGP outlives the agent: it must not keep the agent's lock."""
    fd = acquire("x.lock", folder)
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_a_link_is_not_followed(folder: int, tmp_path: Path) -> None:
    """A symbolic link is refused, even if it leads into the same folder."""
    (tmp_path / "x.lock").symlink_to(tmp_path / "y")
    with pytest.raises(OSError, match="symbolic links"):
        acquire("x.lock", folder)
    assert not (tmp_path / "y").exists()


def starting(folder: int) -> tuple[WriterLocks, threading.Thread, threading.Event]:
    """An agent that is about to have its locks, in a thread of its own; the event: it has them."""
    agent, started = WriterLocks(folder), threading.Event()

    def start() -> None:
        agent.as_agent()
        started.set()

    thread = threading.Thread(target=start)
    thread.start()
    return agent, thread, started


def test_one_agent(folder: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second agent is refused, and so is every call."""
    monkeypatch.setattr(locks, "PROBE_SECONDS", 0.0)
    agent = WriterLocks(folder)
    agent.as_agent()
    assert in_child(WriterLocks(folder).as_agent) == "Busy"
    assert in_child(WriterLocks(folder).as_call) == "Busy"
    agent.release()
    assert in_child(WriterLocks(folder).as_agent) == "ok"


def test_calls_without_an_agent_work_side_by_side(folder: int) -> None:
    """An agent that starts waits for running calls, and no further call begins."""
    call = WriterLocks(folder)
    call.as_call()
    assert in_child(WriterLocks(folder).as_call) == "ok"
    agent, thread, started = starting(folder)
    end = time.monotonic() + SECONDS
    while in_child(WriterLocks(folder).as_call) == "ok":  # until the agent has its first lock
        assert time.monotonic() < end
    assert not started.is_set()
    call.release()
    thread.join(SECONDS)
    assert started.is_set()
    assert in_child(WriterLocks(folder).as_call) == "Busy"
    agent.release()


def test_a_call_that_looks_for_an_agent_is_not_in_the_way_of_one(folder: int) -> None:
    """It holds the agent's lock for an instant: the agent that starts just then waits for that."""
    probe = acquire("agent.lock", folder, shared=True)
    agent, thread, started = starting(folder)
    os.close(probe)
    thread.join(SECONDS)
    assert started.is_set()
    agent.release()


def test_a_refused_call_leaves_the_agents_lock_alone(folder: int) -> None:
    """A call that is refused has closed its lock on `agent.lock`."""
    writer = acquire("writer.lock", folder)
    call = WriterLocks(folder)
    with pytest.raises(Busy):
        call.as_call()
    os.close(writer)
    agent = WriterLocks(folder)
    agent.as_agent()
    agent.release()
    assert os.path.exists(f"/proc/self/fd/{folder}")


@pytest.fixture
def data(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "data").mkdir()
    fd = os.open(tmp_path / "data", os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def test_one_agent_though_run_dir_was_wiped(folder: int, data: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock in data_dir keeps another agent and every call off, and the agent locks again what was removed."""
    monkeypatch.setattr(locks, "PROBE_SECONDS", 0.0)
    agent = WriterLocks(folder, data)
    agent.as_agent()
    assert agent.renew() == []
    for name in ("agent.lock", "writer.lock"):
        os.unlink(name, dir_fd=folder)
    assert in_child(WriterLocks(folder, data).as_agent) == "Busy"
    assert in_child(WriterLocks(folder, data).as_call) == "Busy"
    assert agent.renew() == ["agent.lock", "writer.lock"]
    assert in_child(WriterLocks(folder).as_agent) == "Busy"
    assert in_child(lambda: acquire("writer.lock", folder, shared=True)) == "Busy"
    agent.release()
    assert in_child(WriterLocks(folder, data).as_agent) == "ok"


def test_one_folder_may_be_both(folder: int) -> None:
    """An agent whose run_dir is its data_dir is not in its own way."""
    both = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=folder)
    agent = WriterLocks(folder, both)
    agent.as_agent()
    assert agent.renew() == []
    agent.release()
    os.close(both)


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EDQUOT])
def test_a_data_dir_that_takes_no_file_stops_nobody(
    folder: int, data: int, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Before its lock was ever made run_dir's decides alone; the agent makes it as soon as it can."""
    stock, full = os.open, True

    def refusing(name: str, flags: int, *rest: int, dir_fd: int | None = None) -> int:
        if dir_fd == data and full and flags & os.O_CREAT:
            raise OSError(number, os.strerror(number))
        return stock(name, flags, *rest, dir_fd=dir_fd)

    monkeypatch.setattr(locks.os, "open", refusing)
    call = WriterLocks(folder, data)
    call.as_call()
    call.release()
    agent = WriterLocks(folder, data)
    agent.as_agent()
    assert agent.renew() == []
    full = False
    agent.renew()
    full = True
    other = WriterLocks(folder, data)
    with pytest.raises(Busy):  # what is there is locked, though it cannot be written
        acquire("agent.lock", data)
    with pytest.raises(Busy):
        other.as_call()
    agent.release()
