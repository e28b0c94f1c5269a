"""What a node is busy with while something is changed on it: CNI calls at a steady rate, pods one after the other, and
packets from FRR's side. Each of them says afterwards what went wrong, which may be nothing."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from bgpcni.testing.patience import SCALE, SECONDS
from integration.lab import Frr, until
from integration.runtimes.cri import Cri, CriError
from integration.runtimes.machine import BIN, Machine

TRY_AGAIN = 11
PAUSE = 0.1
"""Seconds before a call that was to be tried again is."""
Value = TypeVar("Value")


class Failed(Exception):
    """A call of the plugin that failed."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Load:
    """ADD and DEL through the plugin's executable, 20 calls a second, and pods as fast as the runtime starts them.

    As kubelet does, what fails is done again, until it works; what never does is in `lost`. `errors` counts the
    failures by their CNI code, None for a pod's. `calls` and `pods` are those that succeeded.
    """

    WORKERS, INTERVAL = 10, 0.5
    """So many begin a call so often, in seconds, and each waits for the end of its own alone."""

    def __init__(self, machine: Machine, cri: Cri, network: Mapping[str, Any]) -> None:
        self._machine, self._cri, self._network = machine, cri, json.dumps(network)
        self._stop = threading.Event()
        self._counting = threading.Lock()
        work = [self._run_pods, *(partial(self._call, number) for number in range(self.WORKERS))]
        self._threads = [threading.Thread(target=self._kept, args=(one,)) for one in work]
        self.errors: Counter[int | None] = Counter()
        self.lost: list[str] = []
        self.calls = self.pods = 0
        self.longest = 0.0
        """Seconds from the first try to the success of what took longest."""

    def __str__(self) -> str:
        tried = ", ".join(f"{count} of code {code}" for code, count in self.errors.items())
        return f"{self.calls} calls, {self.pods} pods, the longest {self.longest:.1f} s; tried again: {tried or 'none'}"

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Lets everything end that was begun."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def more(self, calls: int = 40) -> None:
        """Wait until so many more calls have succeeded, and one more pod has run."""
        wanted, pods = self.calls + calls, self.pods + 1
        until(lambda: self.lost or (self.calls >= wanted and self.pods >= pods), "calls that succeed")

    def _kept(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - whatever it is, the test has to hear of it
            self.lost.append(repr(error))

    def _call(self, worker: int) -> None:
        name, due = f"load-{worker}", time.monotonic() + self.INTERVAL * worker / self.WORKERS
        self._machine.run("ip", "netns", "add", name)
        while not self._stop.is_set():
            for command in ("ADD", "DEL"):
                self._stop.wait(max(0.0, due - time.monotonic()))
                due = max(due + self.INTERVAL, time.monotonic())
                self._again(partial(self._succeed, command, name))
                with self._counting:
                    self.calls += 1

    def _succeed(self, command: str, name: str) -> None:
        environment = {
            "CNI_COMMAND": command, "CNI_CONTAINERID": name, "CNI_NETNS": f"/run/netns/{name}", "CNI_IFNAME": "eth0",
            "CNI_PATH": str(BIN), "PATH": "/usr/sbin:/usr/bin",
        }  # fmt: skip
        done = self._machine.run(BIN / "bgpcni", stdin=self._network, env=environment, check=False)
        if done.returncode:
            answer = json.loads(done.stdout)
            raise Failed(answer["code"], f"{command} {name}: {answer['msg']}")

    def _run_pods(self) -> None:
        while not self._stop.is_set():
            pod = self._again(partial(self._cri.try_pod, f"load-{self.pods}"))
            self._again(partial(self._cri.stop, pod))
            self._again(partial(self._cri.remove, pod))
            self.pods += 1

    def _again(self, work: Callable[[], Value]) -> Value:
        """`work`, until it does not fail. Raises what it raised last, if it goes on failing, or need not be tried."""
        began = time.monotonic()
        while True:
            try:
                done = work()
            except (Failed, CriError) as error:
                code = error.code if isinstance(error, Failed) else None
                with self._counting:
                    self.errors[code] += 1
                if code not in (TRY_AGAIN, None) or time.monotonic() > began + 60 * SCALE:
                    raise
                time.sleep(PAUSE)
            else:
                self.longest = max(self.longest, time.monotonic() - began)
                return done


@contextmanager
def pinged(frr: Frr, address: str, folder: Path) -> Iterator[list[int]]:
    """A hundred packets a second from FRR's side; at the end the list has the numbers of those that were lost."""
    log = folder / f"ping-{address.replace(':', '.')}.log"
    process = frr.namespace.popen("ping", "-n", "-i", "0.01", address, log=log)
    until(lambda: len(_answered(log)) > 1, f"answers of {address}")
    lost: list[int] = []
    try:
        yield lost
        number = max(_answered(log))
        until(lambda: max(_answered(log)) > number + 10, f"answers of {address}")
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(SECONDS)
    answered = _answered(log)
    # the last few may have been on their way when it ended
    lost += sorted(set(range(min(answered), max(answered))) - answered)


def _answered(log: Path) -> set[int]:
    return {int(number) for number in re.findall(r"icmp_seq=(\d+) ttl", log.read_text())}
