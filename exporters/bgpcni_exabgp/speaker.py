"""Runs ExaBGP for an agent elsewhere, such as in a pod of its own: `bgpcni speaker`.

The agent writes ExaBGP's configuration, connects to its relay, and has it reload or end. The speaker only starts ExaBGP
once there is a configuration, starts it again when it has ended, and ends it with itself. Then it kills it: peers with
graceful restart keep the routes until the next speaker's ExaBGP has announced them again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bgpcni.errors import IoFailure, TryAgain
from bgpcni.folders import open_folder
from bgpcni_exabgp.claim import Claim
from bgpcni_exabgp.process import Home, Running, back_off, home_name

LOOK = 0.2
"""Seconds between two looks at ExaBGP, its configuration and our lock."""
STEADY = 5.0
"""Seconds of life after which ExaBGP is started again at once."""
ORDER = 20.0
"""Seconds that ExaBGP has to end in order."""
log = logging.getLogger(__name__)


class Speaker:
    """`home`: the files of the ExaBGP to run."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._claim = Claim(home.speaker, python=sys.executable, ending="", count=0)
        self._stopping = False
        self._count = self._child = 0

    def stop(self) -> None:
        """Have `run` end. From a signal handler, or any thread."""
        self._stopping = True

    def run(self) -> None:
        """Run ExaBGP until `stop`. Raises TryAgain if another speaker runs here, OSError."""
        if not self._claim.take():
            raise TryAgain(f"another bgpcni speaker runs: {self._home.speaker} is locked")
        pauses = back_off()
        try:
            while not self._stopping:
                configured = self._home.configured()
                if not configured:
                    log.info("waiting for the agent to write %s", self._home.configuration)
                    self._until(lambda: bool(self._home.configured()))
                    continue
                began = time.monotonic()
                try:
                    self._live()
                except OSError as error:
                    log.warning("ExaBGP cannot be started: %s", error)
                if time.monotonic() - began > STEADY:
                    pauses = back_off()
                self._rest(time.monotonic() + next(pauses), configured)
        finally:
            self._claim.release()

    def _live(self) -> None:
        """One life of ExaBGP: start it, or adopt the one that an earlier speaker left, and wait until it ends."""
        running = self._home.adopt()
        if running is not None and running.by != "speaker":
            running.close()
            log.info("waiting for the ExaBGP that the agent started to end")
            self._until(lambda: self._home.claimed() is None)
            return
        if running is None:
            running = self._home.start("speaker")
            log.info("started ExaBGP, pid %d", running.identity.pid)
            self._count, self._child = self._count + 1, running.identity.pid
            self._claim.tell(count=self._count)
        try:
            self._watch(running)
        finally:
            running.close()

    def _watch(self, running: Running) -> None:
        self._until(self._home.dismissed, running.wait)
        if running.wait(0):
            ending = self._home.ending(running)
            log.warning("ExaBGP: %s", ending)
            self._claim.tell(ending=ending)
        elif self._stopping:
            running.end(time.monotonic(), keep_routes=True)
        else:
            log.info("%s is empty, so ExaBGP ends", self._home.configuration)
            running.end(time.monotonic() + ORDER)

    def _rest(self, until: float, configured: str) -> None:
        """Wait before the next start, but not longer than until there is another configuration."""
        self._until(lambda: time.monotonic() >= until or self._home.configured() != configured)

    def _until(self, true: Callable[[], bool], pause: Callable[[float], object] = time.sleep) -> None:
        """Wait for this, for `stop`, or for `pause` to return True; meanwhile look after our lock and our children."""
        while not (self._stopping or true() or pause(LOOK)):
            with contextlib.suppress(OSError):  # the folder may be gone, until the agent makes it again
                self._claim.keep()
            if os.getpid() == 1:
                _reap(self._child)


def _reap(own: int) -> None:
    """The first process of a pod inherits the orphans of the others, such as ExaBGP's relay. `own`: not that one."""
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and found.si_pid != own:
            os.waitpid(found.si_pid, os.WNOHANG)


def speak(run_dir: Path, name: str) -> None:
    """Run ExaBGP for the exporter of this name until SIGTERM or SIGINT. Raises CniError."""
    os.close(open_folder(run_dir))
    speaker = Speaker(Home(str(run_dir), home_name(name), None))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: speaker.stop())
    try:
        speaker.run()
    except OSError as error:
        raise IoFailure(f"{error.filename or run_dir}: {error.strerror}") from None
