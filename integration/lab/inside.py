"""A thread of this process inside a network namespace: for what is to be called there rather than executed."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from integration.lab.namespace import Namespace

CLONE_NEWNET = 0x40000000
Value = TypeVar("Value")
Arguments = ParamSpec("Arguments")


class Inside:
    """Calls run one after the other in the same thread; threads that they start are inside too."""

    def __init__(self, namespace: Namespace) -> None:
        self._pool = ThreadPoolExecutor(1, "inside", initializer=_enter, initargs=(namespace.path,))

    def call(self, what: Callable[Arguments, Value], /, *arguments: Arguments.args, **named: Arguments.kwargs) -> Value:
        return self._pool.submit(what, *arguments, **named).result()

    def close(self) -> None:
        """Let the thread end when its present call has. Idempotent."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _enter(path: Path) -> None:
    assert threading.current_thread() is not threading.main_thread()
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(descriptor, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(descriptor)
