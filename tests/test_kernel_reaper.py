"""Each caller's link is deleted, whatever happens to the others, and nobody waits longer than necessary."""

from __future__ import annotations

import errno
import itertools
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from queue import SimpleQueue

import pytest

from bgpcni.kernel import links, uapi
from bgpcni.kernel import reaper as module
from bgpcni.kernel.netlink import Message, NetlinkError, attribute, attributes, u32
from bgpcni.kernel.reaper import Reaper
from bgpcni.testing.patience import until

SECONDS = 60.0
NSID, INSIDE = 3, 2
"""A container's end has the index INSIDE, in the namespace whose nsid is NSID and the index of the host's end."""


class Kernel:
    """What the reaper asks of the kernel, and in the place of each of its sockets."""

    def __init__(self) -> None:
        self.aliases: dict[int, str] = {}
        self.groups: dict[int, int] = {}
        self.requests: list[list[int]] = []
        """The links of each deletion."""
        self.events: SimpleQueue[tuple[int | None, int] | Exception] = SimpleQueue()
        self.asked = threading.Semaphore(0)
        """Released each time the reaper asks for events: it is done with those before."""
        self.acknowledging = threading.Event()
        self.acknowledging.set()
        self.held: set[int] = set()
        """Links whose deletion is not acknowledged before `acknowledging`."""
        self.begun = threading.Semaphore(0)
        self.refusals: dict[int, BaseException] = {}
        self.group_refusal: BaseException | None = None
        self.opened = 0

    def add(self, *indexes: int) -> None:
        for index in indexes:
            self.aliases[index] = f"link {index}"

    def open(self) -> Kernel:
        self.opened += 1
        return self

    def close(self) -> None:
        pass

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def received(self, _: object) -> list[tuple[int | None, int, int]]:
        self.asked.release()
        event = self.events.get()
        if isinstance(event, Exception):
            raise event
        return [(event[0], uapi.RTM_DELLINK, event[1])]

    def told(self, *events: tuple[int | None, int]) -> None:
        """Tell of links that are gone, and return when the reaper has seen to it."""
        for event in events:
            assert self.asked.acquire(timeout=SECONDS)
            self.events.put(event)
        assert self.asked.acquire(timeout=SECONDS)
        self.asked.release()

    def run(self, *messages: Message) -> list[bytes]:
        answers = self.send(*messages)
        for answer in answers:
            if isinstance(answer, NetlinkError):
                raise answer
        return [answer for answer in answers if isinstance(answer, bytes)]

    def send(self, *messages: Message) -> list[bytes | NetlinkError]:
        return [self._answer(message) for message in messages]

    def send_all(self, messages: list[Message], portion: int) -> list[bytes | NetlinkError]:
        return self.send(*messages)

    def _answer(self, message: Message) -> bytes | NetlinkError:
        index = int(struct.unpack_from("=i", message.body, 4)[0])
        group = attributes(message.body, 16).get(uapi.IFLA_GROUP)
        if message.kind == uapi.RTM_DELLINK:
            return self._delete([index] if index else [i for i, g in self.groups.items() if g == u32(group or b"")])
        if index not in self.aliases:
            return NetlinkError(errno.ENODEV, "")
        if message.kind == uapi.RTM_GETLINK:
            return (
                links.header(index) + attribute(uapi.IFLA_IFALIAS, self.aliases[index])
                + attribute(uapi.IFLA_LINK, INSIDE) + attribute(uapi.IFLA_LINK_NETNSID, NSID + index)
            )  # fmt: skip
        assert group is not None
        self.groups[index] = u32(group)
        return b""

    def _delete(self, indexes: list[int]) -> bytes | NetlinkError:
        self.requests.append(indexes)
        self.begun.release()
        if self.held & set(indexes):
            assert self.acknowledging.wait(SECONDS)
        refusal = self.group_refusal if len(indexes) > 1 else self.refusals.get(indexes[0])
        if isinstance(refusal, NetlinkError):
            return refusal
        if refusal is not None:
            raise refusal
        for index in indexes:
            self.aliases.pop(index, None)
            self.groups.pop(index, None)
        return b""


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    kernel = Kernel()
    monkeypatch.setattr(module, "Netlink", kernel)
    monkeypatch.setattr(module, "open_events", lambda *kinds: kernel, raising=False)
    monkeypatch.setattr(module, "received", kernel.received, raising=False)
    yield kernel
    kernel.acknowledging.set()


def deleted(reaper: Reaper, kernel: Kernel, index: int) -> Future[None]:
    """The deletion of a link, asked for by a thread of its own."""
    future: Future[None] = Future()

    def run() -> None:
        try:
            reaper.delete(kernel, index, f"link {index}")  # type: ignore[arg-type]
        except BaseException as error:  # noqa: BLE001 - it is the answer
            future.set_exception(error)
        else:
            future.set_result(None)

    threading.Thread(target=run, daemon=True).start()
    return future


def out(index: int) -> tuple[tuple[int | None, int], tuple[int | None, int]]:
    """Both ends of a link."""
    return (None, index), (NSID + index, INSIDE)


def piled_up(reaper: Reaper, kernel: Kernel, first: int, *others: int) -> tuple[Future[None], list[Future[None]]]:
    """The deletion of `first` has begun and is not acknowledged; the others wait for it, so they are one batch."""
    kernel.held.add(first)
    kernel.acknowledging.clear()
    leading = deleted(reaper, kernel, first)
    assert kernel.begun.acquire(timeout=SECONDS)
    following = []
    for count, index in enumerate(others, 1):
        following.append(deleted(reaper, kernel, index))
        until(lambda: len(reaper._waiting) >= count)  # noqa: B023
    return leading, following


def test_a_link_is_deleted_when_both_ends_are_out(kernel: Kernel) -> None:
    """Not when the first is, and long before the kernel acknowledges it."""
    kernel.add(7)
    reaper = Reaper()
    deletion, _ = piled_up(reaper, kernel, 7)
    kernel.told((None, 7), (NSID, INSIDE), (NSID + 7, 1))
    assert not deletion.done()
    kernel.told((NSID + 7, INSIDE))
    deletion.result(SECONDS)
    assert not kernel.acknowledging.is_set()


def test_the_next_deletion_waits_for_no_acknowledgement(kernel: Kernel) -> None:
    """Those before are still to be acknowledged, as many as there may be."""
    kernel.add(*range(1, 9))
    reaper = Reaper()
    for index in range(1, 9):
        deletion, _ = piled_up(reaper, kernel, index)
        kernel.told(*out(index))
        deletion.result(SECONDS)
    assert kernel.requests == [[index] for index in range(1, 9)]


def test_when_every_thread_waits_for_an_acknowledgement_the_next_one_waits_too(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the first of them only."""
    monkeypatch.setattr(module, "_THREADS", 2)
    kernel.add(1, 2, 3, 4)
    reaper = Reaper()
    for index in (1, 2):
        deletion, _ = piled_up(reaper, kernel, index)
        kernel.told(*out(index))
        deletion.result(SECONDS)
    late = [deleted(reaper, kernel, index) for index in (3, 4)]
    until(lambda: len(reaper._waiting) == 2)
    kernel.acknowledging.set()
    for deletion in late:
        deletion.result(SECONDS)
    assert sorted(map(sorted, kernel.requests)) == [[1], [2], [3, 4]]
    assert kernel.opened <= 2


def test_without_events_the_acknowledgement_is_the_answer(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel has none to give, or dropped them."""

    def refuse(*kinds: int) -> None:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(module, "open_events", refuse)
    kernel.add(7)
    deleted(Reaper(), kernel, 7).result(SECONDS)
    assert kernel.aliases == {}


def test_a_listener_that_fails_is_replaced(kernel: Kernel) -> None:
    """What it did not hear is acknowledged; the next deletion has a new one."""
    kernel.add(1, 2)
    reaper = Reaper()
    deletion, _ = piled_up(reaper, kernel, 1)
    kernel.asked.acquire(timeout=SECONDS)
    kernel.events.put(RuntimeError("broken"))
    until(lambda: not reaper._listening)
    assert not deletion.done()
    kernel.acknowledging.set()
    deletion.result(SECONDS)
    deletion, _ = piled_up(reaper, kernel, 2)
    kernel.told(*out(2))
    deletion.result(SECONDS)


@pytest.mark.parametrize("error", [ValueError("x"), MemoryError(), SystemExit(1), OSError(errno.ENOBUFS, "no buffer")])
def test_no_error_stops_the_deletions_to_come(kernel: Kernel, error: BaseException) -> None:
    """The one it happened to is told, those that wait and those that come are served."""
    kernel.add(1, 2, 3)
    kernel.refusals[1] = error
    reaper = Reaper()
    first, (second,) = piled_up(reaper, kernel, 1, 2)
    kernel.acknowledging.set()
    assert isinstance(first.exception(SECONDS), OSError)
    second.result(SECONDS)
    deleted(reaper, kernel, 3).result(SECONDS)
    assert kernel.aliases == {1: "link 1"}


@pytest.mark.parametrize("error", [ValueError("x"), NetlinkError(errno.EPERM, "")])
def test_each_of_a_batch_is_told_the_truth_about_its_own_link(kernel: Kernel, error: BaseException) -> None:
    """One is gone already, one is a stranger's by now, one cannot be deleted, two go; together the kernel refuses."""
    kernel.add(1, 2, 3, 4, 5, 6)
    kernel.group_refusal = NetlinkError(errno.EOPNOTSUPP, "")
    kernel.refusals[4] = error
    reaper = Reaper()
    first, mates = piled_up(reaper, kernel, 1, 4, 2, 3, 5, 6)
    del kernel.aliases[2]
    kernel.aliases[3] = "a stranger's"
    kernel.acknowledging.set()
    first.result(SECONDS)
    refused, *gone = mates
    for deletion in gone:
        deletion.result(SECONDS)
    told = refused.exception(SECONDS)
    assert isinstance(told, OSError)
    assert str(error) in str(told)
    assert kernel.aliases == {3: "a stranger's", 4: "link 4"}


def test_an_error_that_leaves_it_open_is_no_success(kernel: Kernel) -> None:
    """If it is not known what happened to a batch, no caller is told that its link is gone."""
    kernel.add(1, 2, 3)
    kernel.group_refusal = ValueError("x")
    first, mates = piled_up(Reaper(), kernel, 1, 2, 3)
    kernel.acknowledging.set()
    first.result(SECONDS)
    assert all(isinstance(mate.exception(SECONDS), OSError) for mate in mates)


def test_nobody_works_for_those_who_come_later(kernel: Kernel) -> None:
    """Deletions that keep coming do not keep the first one from its answer."""
    kernel.add(*range(1, 6))
    kernel.held = {1, 2, 3, 4, 5}
    reaper = Reaper()
    first, _ = piled_up(reaper, kernel, 1, *range(2, 6))
    kernel.told(*out(1))
    first.result(SECONDS)
    assert kernel.begun.acquire(timeout=SECONDS)  # the rest has begun, and is not acknowledged either
    assert kernel.requests[1:] == [[2, 3, 4, 5]]


def test_a_process_without_threads_says_so(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """And does it when it has one again."""
    kernel.add(1)
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("reaper"):
            raise RuntimeError("can't start new thread")
        start(thread)

    reaper = Reaper()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(OSError, match="new thread"):
            reaper.delete(kernel, 1, "link 1")  # type: ignore[arg-type]
    reaper.delete(kernel, 1, "link 1")  # type: ignore[arg-type]
    assert kernel.aliases == {}


def test_many_at_once_all_go(kernel: Kernel) -> None:
    """More deletions than a batch holds are all done, in any order."""
    indexes = range(1, 501)
    kernel.add(*indexes)
    reaper = Reaper()
    for deletion in [deleted(reaper, kernel, index) for index in indexes]:
        deletion.result(SECONDS)
    assert kernel.aliases == {}
    assert sorted(itertools.chain(*kernel.requests)) == list(indexes)
    assert reaper._expected == {}
