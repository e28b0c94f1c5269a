"""The agent's signals, as a stream that the main thread reads.

A handler of Python's runs in the main thread alone, and a wait for a lock there is not interrupted when the kernel
gave the signal to another thread: the agent would not end before the next one. The octets of `set_wakeup_fd`
arrive whichever thread it was. (Blocking the signals and waiting with sigwait would do, but children inherit it.)
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator


class Signals:
    """Iterate over it to wait for signals. Make it in the main thread, before other threads are started."""

    def __init__(self, *numbers: int) -> None:
        self._numbers = frozenset(numbers)
        self._read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, lambda *_: None)  # the octet in the pipe is enough

    def __iter__(self) -> Iterator[int]:
        while True:
            select.select([self._read], [], [])
            yield from (number for number in os.read(self._read, 64) if number in self._numbers)
