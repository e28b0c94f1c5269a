"""What the threads of the exporter share, under one lock: who is connected, who has which route, what is in quarantine.

The lock is never held while something is written to ExaBGP or a callback of the agent is called.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from bgpcni.exporter import NotThereYet
from bgpcni_exabgp.advertised import Advertised
from bgpcni_exabgp.lines import Line
from bgpcni_exabgp.quarantine import Quarantine

if TYPE_CHECKING:
    from bgpcni_exabgp.dialect import Dialect


class Shared:
    """`dialect`: how to talk to the ExaBGP that is connected, None while there is none. All but `closing` is read and
    changed with `lock` held."""

    def __init__(self, advertised: Advertised) -> None:
        self.lock = threading.Condition()
        self.advertised = advertised
        self.quarantine = Quarantine(advertised)
        self.dialect: Dialect | None = None
        self.targets: frozenset[str] | None = None
        """The route targets that this node imports; None: not known yet."""
        self.telling = threading.Lock()
        """Held while peers are told of `targets`, so that the newest are told last. Taken before `lock`."""
        self.answers = 0
        """How often a connected ExaBGP has told its state."""
        self.trying = True
        """An attempt to connect is being made: worth waiting for."""
        self.closing = threading.Event()

    def connected(self, deadline: float) -> Dialect:
        """How to talk to ExaBGP, once it is connected. Raises NotThereYet at the deadline, or if there is no hope."""
        with self.lock:
            self.lock.wait_for(
                lambda: self.dialect is not None or self.closing.is_set() or not self.trying,
                max(0.0, deadline - time.monotonic()),
            )
            if self.dialect is None:
                raise NotThereYet(self.advertised.offline or "exabgp is not connected")
            return self.dialect

    def post(self, lines: Iterable[Line]) -> None:
        """Send lines to the ExaBGP that is connected. If there is none, nothing: each new connection begins anew."""
        dialect = self.dialect
        if dialect is not None:
            dialect.post(lines)

    def close(self) -> None:
        """Wake everybody who waits."""
        self.closing.set()
        with self.lock:
            self.lock.notify_all()
