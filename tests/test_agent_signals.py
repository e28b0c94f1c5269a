"""The agent's signals, whichever thread the kernel gives them to."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from bgpcni.testing.patience import SECONDS

PROGRAM = """
import os, signal, sys, threading
from bgpcni.agent.signals import Signals

number, elsewhere = int(sys.argv[1]), sys.argv[2] == "another thread"
signals = Signals(signal.SIGTERM, signal.SIGHUP)

def send():
    target = threading.get_ident() if elsewhere else threading.main_thread().ident
    signal.pthread_kill(target, number)
    threading.Event().wait()

threading.Thread(target=send, daemon=True).start()
print(next(iter(signals)), flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("thread", ["the main thread", "another thread"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_heard(number: int, thread: str) -> None:
    """SIGTERM and SIGHUP reach the main thread at once, also when another thread was the one interrupted."""
    argv = [sys.executable, "-c", PROGRAM, str(int(number)), thread]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=SECONDS, check=True)
    assert int(done.stdout) == number
