"""Keeps ExaBGP running and the exporter connected to it: start or adopt, connect, reload, and again when it ends.

One thread does this, and reads what ExaBGP tells. An ExaBGP that the user runs is only connected to. While a
`bgpcni speaker` runs, it starts ExaBGP in our place, and we write its configuration.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

from bgpcni.exporter import NotThereYet, Process
from bgpcni.model import NodeFacts
from bgpcni_exabgp import lines, protocol
from bgpcni_exabgp.configure import configure, read_passwords
from bgpcni_exabgp.dialect import Dialect, EngineDialect, StockDialect
from bgpcni_exabgp.events import Events
from bgpcni_exabgp.homes import Homes
from bgpcni_exabgp.link import Link
from bgpcni_exabgp.process import Apart, Home, Running, back_off
from bgpcni_exabgp.protocol import Answer, Configured, EngineState, Event, FsmChanged, Hello, Sent
from bgpcni_exabgp.shared import Shared

ANSWER = 20.0
"""Seconds that ExaBGP may take to start, or to answer."""
CLEAR = 3.0
"""Seconds that a neighbour which was taken out of agent.toml has to get the withdrawals, before its session ends."""
TRY = 0.25
"""Seconds between two looks at the trials of routes in quarantine."""
HAND_OVER = 5.0
"""Seconds between two looks whether a `bgpcni speaker` has come, which is to run ExaBGP from then on, and at what an
exporter that is no more has left."""
GRACE = 30.0
"""Seconds at least for which a `bgpcni speaker` that ended is waited for."""
LOOK = 0.05
"""Seconds between two looks at what a `bgpcni speaker` does."""
STEADY = 5.0
"""Seconds of life after which the next start comes at once again."""


class Supervisor:
    """`place`: the homes that an ExaBGP of ours can have, or the path of the relay that the user's own runs."""

    def __init__(self, name: str, node: NodeFacts, place: Homes | str, shared: Shared, events: Events) -> None:
        self._node = node
        self._place = place
        self._shared = shared
        self._events = events
        self._link: Link | None = None  # from its first octet on
        self._running: Running | None = None
        self._starts = 0
        self._thread = threading.Thread(target=self._run, name=f"exporter-{name}", daemon=True)

    def begin(self) -> None:
        """Start the thread, if it was not started yet. From any thread."""
        with self._shared.lock:
            if self._thread.ident is None and not self._shared.closing.is_set():
                self._thread.start()

    def close(self) -> None:
        """End the thread. ExaBGP goes on."""
        self._stop()
        if isinstance(self._place, Homes):
            self._place.leave()

    def _stop(self) -> None:
        self._shared.close()
        with self._shared.lock:
            link = self._link
        if link is not None:
            link.close()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(ANSWER)

    def end(self, deadline: float) -> None:
        """End the thread, and the ExaBGP that is ours. A `bgpcni speaker` goes on, and waits for a configuration."""
        with self._shared.lock:
            running = self._running.again() if self._running is not None else None
        self._stop()
        if isinstance(self._place, Homes):
            self._place.take().dismiss(max(deadline, time.monotonic() + 1.0), running)
            self._place.leave()

    def process(self) -> Process | None:
        """ExaBGP's process, if it is ours. From any thread."""
        if not isinstance(self._place, Homes):
            return None
        with self._shared.lock:
            return Process(self._running.visible_pid if self._running is not None else 0, self._starts)

    def kill(self, deadline: float) -> bool:
        """End the ExaBGP that is ours without a word to its peers; another one starts at once. False: none runs."""
        with self._shared.lock:
            running = self._running.again() if self._running is not None else None
        if running is None:
            return False
        running.end(deadline, keep_routes=True)
        running.close()
        return True

    def dead(self) -> bool:
        """Whether no ExaBGP of ours runs. That of the user is taken for alive."""
        return isinstance(self._place, Homes) and self._place.home.claimed() is None

    # --- the thread

    def _run(self) -> None:
        """One life of ExaBGP, or of the connection to it, after the other."""
        pauses = back_off()
        next(pauses)
        while not self._shared.closing.is_set():
            if (home := self._place.take() if isinstance(self._place, Homes) else None) is not None:
                self._await_speaker(home)
            born = time.monotonic()
            with self._shared.lock:
                self._shared.trying = True
            try:
                if home is None:
                    reason = self._serve(Link.open(str(self._place)), None)
                elif not self._node.neighbors:
                    self._end_unneeded(home)
                    return
                else:
                    reason = self._live(home)
            except (OSError, ValueError, NotThereYet) as error:
                reason = str(error) or repr(error)
            with self._shared.lock:
                self._link = None
            self._events.lost(f"exabgp is not running: {reason}")
            if time.monotonic() - born > STEADY:
                pauses = back_off()
            self._shared.closing.wait(next(pauses))

    def _end_unneeded(self, home: Home) -> None:
        """No neighbour is configured any more: the ExaBGP of an earlier configuration ends."""
        running = home.adopt()
        if running is not None:
            with contextlib.suppress(OSError, ValueError):  # it ends all the same
                link = self._open(home, running)
                try:
                    if isinstance(link.next(ANSWER), Hello) and (state := _ask_state(link)) is not None:
                        _clear(link, state, [neighbor.peer for neighbor in state.neighbors if neighbor.up])
                finally:
                    link.release()
            running.close()
        home.dismiss(time.monotonic() + ANSWER)

    def _await_speaker(self, home: Home) -> None:
        """A `bgpcni speaker` that ended may come back, with an ExaBGP that gets our routes before peers drop them."""
        deadline = time.monotonic() + max(GRACE, self._node.graceful_restart)
        while not self._shared.closing.is_set() and home.speaker.exists():
            if home.apart() is not None or home.claimed() is not None:
                return
            if time.monotonic() > deadline:
                with contextlib.suppress(FileNotFoundError):
                    home.speaker.unlink()
            with self._shared.lock:
                self._shared.trying = False
                self._shared.advertised.offline = "exabgp is not running: bgpcni speaker ended, and is waited for"
                self._shared.lock.notify_all()
            self._shared.closing.wait(LOOK)

    def _live(self, home: Home) -> str:
        """One life of our own: start or adopt it, connect, read until the connection ends; why it did."""
        apart = home.apart()
        command = home.relay_command(apart.python) if apart is not None else home.relay_command()
        text = configure(self._node, command, read_passwords(self._node.neighbors))
        running = home.adopt()
        if running is not None:
            foreign = apart is not None and running.by != "speaker"
            # a stock one does not tell which configuration it has
            if foreign or (home.plain() and home.configured() != text):
                running.end(time.monotonic() + ANSWER, keep_routes=foreign)
                running.close()
                running = None
        digest = home.write_configuration(text)
        if running is None:
            running = home.start() if apart is None else self._started_by_speaker(home, apart)
        with self._shared.lock:
            self._running = running
            self._starts += 1
        try:
            reason = self._serve(self._open(home, running), Ours(home, running, digest))
            if not self._shared.closing.is_set() and running.wait(1.0):
                reason = home.ending(running)
            return reason
        finally:
            with self._shared.lock:
                self._running = None
            running.close()

    def _started_by_speaker(self, home: Home, before: Apart) -> Running:
        """The ExaBGP that `bgpcni speaker` starts on the configuration that is in place now. Raises OSError."""
        deadline = time.monotonic() + ANSWER
        while not self._shared.closing.wait(LOOK):
            if (running := home.adopt()) is not None:
                return running
            if (now := home.apart()) is None:
                raise OSError("bgpcni speaker ended")
            if now.count > before.count and now.ending:
                raise OSError(now.ending)
            if time.monotonic() > deadline:
                raise OSError("bgpcni speaker does not start it")
        raise OSError("closing")

    def _open(self, home: Home, running: Running) -> Link:
        """Connect to the relay that ExaBGP starts. Raises OSError."""
        deadline = time.monotonic() + ANSWER
        while True:
            try:
                return Link.open(str(home.socket))
            except OSError as error:
                if running.wait(0.01):
                    raise OSError(home.ending(running)) from None
                if self._shared.closing.is_set():
                    raise OSError("closing") from None
                if time.monotonic() > deadline:
                    running.end(time.monotonic() + 2)
                    raise OSError(f"its relay does not listen: {error}") from None

    def _serve(self, link: Link, ours: Ours | None) -> str:
        """Get to know the ExaBGP that is connected, and read what it tells until the connection ends; why it did."""
        try:
            with self._shared.lock:
                self._link = link
            if self._shared.closing.is_set():
                return "closing"
            hello = link.next(ANSWER)
            if not isinstance(hello, Hello):
                return "what answers is not its relay"
            state, complaint = _ask_state(link), ""
            if ours is not None:
                if state is None:
                    complaint = ours.home.plain()
                if not complaint and (state is None or state.protocol not in protocol.ACCEPTED):
                    return _refused(ours, state)
                if state is not None and state.digest != ours.digest:
                    state = self._reload(link, ours, state)
            asn = self._node.asn or 0
            dialect: Dialect
            if state is None:
                dialect = StockDialect(link, self._shared, asn, ours is not None, complaint)
            else:
                dialect = EngineDialect(link, self._shared, asn, state, self._own_address())
            self._events.connected(dialect, hello, state)
            return self._listen(dialect, ours)
        finally:
            link.release()

    def _own_address(self) -> str:
        """An address that is this node's, for what leads nowhere."""
        node = self._node
        return node.local_address or node.next_hop or node.next_hop6 or node.router_id or "0.0.0.0"

    def _listen(self, dialect: Dialect, ours: Ours | None) -> str:
        """Read what ExaBGP tells until the connection ends; why it did."""
        looked = time.monotonic()
        while not self._shared.closing.is_set():
            if isinstance(self._place, Homes) and ours is not None and time.monotonic() - looked > HAND_OVER:
                looked = time.monotonic()
                self._place.sweep()
                if self._place.better() or (ours.running.by != "speaker" and ours.home.apart() is not None):
                    return "bgpcni speaker runs it from now on"
            trials = bool(self._shared.quarantine.trials)
            try:
                event = dialect.link.next(TRY if trials else min(ANSWER, HAND_OVER))
            except TimeoutError:
                if dialect.link.owed() > ANSWER:
                    if ours is not None:
                        ours.running.end(time.monotonic() + 1.0)
                    return "it did not answer, and was ended"
            else:
                if event is None:
                    return "its relay closed the connection"
                self._events.hear(dialect, event)
                if isinstance(event, FsmChanged) and ours is not None:
                    ours.home.trim_log()  # a neighbour that is away fills it
            if isinstance(dialect, EngineDialect) and dialect.try_suspects():
                self._events.tried()
        return "closing"

    def _reload(self, link: Link, ours: Ours, state: EngineState) -> EngineState:
        """Have ExaBGP read its new configuration; only the sessions that it changes are touched. Raises OSError."""
        with self._shared.lock:
            stay = set(self._shared.advertised.sessions)
        _clear(
            link, state, [neighbor.peer for neighbor in state.neighbors if neighbor.up and neighbor.peer not in stay]
        )
        ours.running.signal(signal.SIGUSR1, link)
        while not isinstance(done := _next(link), Configured):
            pass
        fresh = _ask_state(link)
        if fresh is None or done.error or fresh.digest != ours.digest:
            ours.running.end(time.monotonic() + ANSWER)
            raise OSError(f"it did not take its new configuration: {done.error}")
        return fresh


@dataclass(frozen=True, slots=True)
class Ours:
    """The ExaBGP that the agent runs. `digest`: of the configuration that it should have."""

    home: Home
    running: Running
    digest: str


def _refused(ours: Ours, state: EngineState | None) -> str:
    """An engine whose protocol we do not speak is ended, if we may start another one; what is told of it."""
    if ours.running.by == "speaker" and state is not None:
        theirs = f"bgpcni speaker has version {state.protocol} of the protocol, this agent {protocol.PROTOCOL}"
        return f"{theirs}: they must not be more than one apart"
    ours.running.end(time.monotonic() + ANSWER)
    return "it was of another version"


def _ask_state(link: Link) -> EngineState | None:
    """Our engine's state; None from a stock ExaBGP, which does not know the question. Raises OSError."""
    link.post(lines.ask_state())
    found: EngineState | None = None
    while not isinstance(event := _next(link), Answer):
        if isinstance(event, EngineState):
            found = event
    return found if event.done else None


def _next(link: Link) -> Event:
    event = link.next(ANSWER)
    if event is None:
        raise OSError("its relay closed the connection")
    return event


def _clear(link: Link, state: EngineState, peers: Iterable[str]) -> None:
    """Withdraw everything from these peers, whose sessions are about to end: graceful restart would keep the routes."""
    link.number = state.seq
    late: dict[str, int] = {}
    for peer in peers:
        for line in lines.clear(peer):
            link.post(line)
        late[peer] = link.number
    deadline = time.monotonic() + CLEAR
    with contextlib.suppress(TimeoutError):
        while late and (event := link.next(deadline - time.monotonic())) is not None:
            if isinstance(event, Sent) and event.peer in late and event.seq >= late[event.peer]:
                del late[event.peer]
