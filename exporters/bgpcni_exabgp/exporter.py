"""The exporter: drives ExaBGP, ours or the user's own, towards the routes that are wanted.

One thread of its own keeps ExaBGP running and reads what it says; the verbs, called from another, write lines.
What each neighbour got is in the `Ledger`; this module holds its lock, and never while it writes.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, field_validator, model_validator

from bgpcni.exporter import Exporter, Heard, NotThereYet, Outcome, Peer, Reach, Wake
from bgpcni.model import Announcement, Family, Nlri, NodeFacts
from bgpcni.wire.encode import Kind
from bgpcni.wire.values import Unencodable
from bgpcni_exabgp import lines
from bgpcni_exabgp.configure import configure, read_passwords
from bgpcni_exabgp.hearing import Hearing
from bgpcni_exabgp.ledger import NAMES, NEVER, STATES, Ledger, Session, explain
from bgpcni_exabgp.lines import Line
from bgpcni_exabgp.link import Link
from bgpcni_exabgp.process import Home, Running, back_off, installed
from bgpcni_exabgp.received import AdjRibIn, Terms
from bgpcni_exabgp.trial import Trial

ANSWER = 20.0
"""Seconds that ExaBGP may take to start, or to answer when it has just been connected to."""
CLEAR = 3.0
"""Seconds for a neighbour that was taken out of agent.toml to get the withdrawals, before its session ends."""
TRY, PROBATION = 0.25, 1.0
"""Seconds between looks at a trial, and for which a session has to survive a group of suspects."""
SUSPECT, REPEATED, CONDEMNED = 0.5, 60.0, 600.0
"""Seconds: what was sent so shortly before a session fell with an UPDATE error may be why; two such falls are a
loop if no further apart; and for so long the suspects are refused."""
STOCK = frozenset(Family) - {Family.L2VPN_EVPN}
"""What a stock ExaBGP's text commands announce."""
STEADY = 5.0
"""Seconds of life after which ExaBGP's next start is a first one again."""


class ExaBGP(Exporter):
    """Routes to ExaBGP. All five families; unicast and L3VPN where `socket` leads to a stock ExaBGP."""

    class Config(Exporter.Config):
        """`socket`: that of the relay which the user's own ExaBGP runs; absent: the agent runs ExaBGP. Its sessions
        come from `local_address`, else from that of `[bgp]`.
        """

        socket: str | None = None
        local_address: str | None = None

        @field_validator("local_address")
        @classmethod
        def _is_address(cls, value: str | None) -> str | None:
            if value is not None and "%" in value:
                raise ValueError(f"{value!r} has a zone")
            return value and str(ip_address(value))

        @model_validator(mode="after")
        def _is_for_ours(self) -> Self:
            if self.socket is not None and self.local_address is not None:
                raise ValueError("local_address is for the ExaBGP that the agent runs, and socket is that of your own")
            return self

    contract: ClassVar[int] = 1
    families: ClassVar[frozenset[Family]] = frozenset(Family)
    acks: Literal["accepted", "sent", "acked"] = "acked"
    imports: ClassVar[Literal["none", "routes", "datapath"]] = "routes"
    needs_agent: ClassVar[bool] = True
    takes_neighbors: ClassVar[bool] = True

    def __init__(self, name: str, config: BaseModel, node: NodeFacts, wake: Wake) -> None:
        super().__init__(name, config, node, wake)
        assert isinstance(config, ExaBGP.Config)
        self._path = config.socket
        self._home = Home.of(name, node)
        self._taken: Home | None = None
        self._lock = threading.Condition()
        if self._path is None:
            self._ledger = Ledger(node.neighbors, node.graceful_restart, time.monotonic())
        else:  # its neighbours are known once it is connected to; a stock one does not tell what it sent
            self.acks = "accepted"  # a stock ExaBGP tells no more
            none = f"no session: the ExaBGP behind {self._path} has none"
            self._ledger = Ledger((), node.graceful_restart, time.monotonic(), none)
        self._link: Link | None = None  # for the verbs
        self._wire: Link | None = None  # from its first octet on
        self._running: Running | None = None
        self._stock = False
        self._plain = ""  # why the ExaBGP that we started is used as a stock one
        self._negotiated: dict[str, list[str]] = {}  # by neighbour of a stock ExaBGP
        self._whole = False  # pruned since connected: End-of-RIB may be sent
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._batches: deque[tuple[float, int]] = deque(maxlen=64)  # (when, the newest number)
        self._falls: dict[str, tuple[float, set[Nlri]]] = {}  # by neighbour: over an UPDATE, when, and the suspects
        self._forms: deque[list[Announcement]] = deque(maxlen=64)  # of the same batches
        self._condemned: dict[Nlri, float] = {}  # refused until
        self._trials: dict[str, Trial] = {}  # by neighbour; changed under the lock alone
        self._met = False
        self._ended_told = True  # the engine tells when End-of-RIB is acknowledged
        self._base = 0  # the newest number when connected
        self._trying = True
        self._hearing = Hearing(f"exporter-{name}", node.maximum_prefix, self._post_now)

    @classmethod
    def check(cls, config: BaseModel, node: NodeFacts) -> str | None:
        if not node.has_bgp:
            return "no [bgp] in agent.toml"
        if node.asn is None:
            return "no asn in [bgp] of agent.toml"
        assert isinstance(config, ExaBGP.Config)
        if config.socket is None and not installed():
            return "ExaBGP is not installed here: pip install exabgp"
        return None

    @classmethod
    def source(cls, config: BaseModel, local_address: str) -> str | None:
        assert isinstance(config, ExaBGP.Config)
        return None if config.socket is not None else config.local_address or local_address

    @classmethod
    def owns(cls, config: BaseModel) -> str:
        assert isinstance(config, ExaBGP.Config)
        return "" if config.socket is None else f"the ExaBGP behind {config.socket}"

    # --- verbs

    def announce(self, routes: Sequence[Announcement], deadline: float) -> list[Outcome]:
        if self._path is None and not self.node.neighbors:
            self._begin()
            return [Outcome(Reach.WANTED, "no neighbour is configured")] * len(routes)
        link = self._connected(deadline)
        if self._stock:
            return self._stock_announce(link, routes, deadline)
        now = time.monotonic()
        with self._lock:
            kinds = self._kinds()
            carried = self._ledger.carried()
            condemned = {nlri for nlri, until in self._condemned.items() if now < until}
            for trial in self._trials.values():
                waiting = trial.waiting()
                trial.forms.update({route.nlri: route for route in routes if route.nlri in trial.forms})
                condemned |= waiting
        wanted = [r for r in routes if r.nlri.family in carried and r.nlri not in condemned]
        refused: dict[Nlri, str] = {}
        batch = list(lines.announce(wanted, self.node.asn or 0, kinds, refused.__setitem__))
        with self._lock:
            replaced = [nlri for nlri in refused if not self._ledger.is_refused(nlri)]
        # what ExaBGP holds of a route that is refused now is no longer what anybody wants
        link.submit(lines.withdraw(replaced), self._note_withdrawn, deadline)
        with self._lock:
            for nlri, reason in refused.items():
                self._ledger.refuse(nlri, reason)
        failed = link.submit(batch, self._note_announced, deadline)
        with self._lock:
            self._batches.append((time.monotonic(), link.number))
            self._forms.append(wanted)
            for line in failed:
                for nlri in line.routes:
                    self._ledger.refuse(nlri, "exabgp refused it; see its log")
        return self.progress(routes)

    def withdraw(self, routes: Sequence[Announcement], deadline: float) -> list[Outcome]:
        if self._path is None and not self.node.neighbors:
            self._begin()
            return [Outcome(Reach.ACKED)] * len(routes)
        nlris = [route.nlri for route in routes]
        try:
            link = self._connected(deadline)
        except NotThereYet:
            if (silent := self._silent(nlris)) is not None:
                return silent
            raise
        if self._stock:
            return self._stock_withdraw(link, nlris, deadline)
        with self._lock:
            carried = self._ledger.carried()
            for trial in self._trials.values():
                for nlri in nlris:
                    trial.forget(nlri)
        batch = list(lines.withdraw(nlri for nlri in nlris if nlri.family in carried))
        sent = {nlri for line in batch for nlri in line.routes}
        failed = link.submit(batch, self._note_withdrawn, deadline)
        if failed:
            raise NotThereYet("exabgp refused a withdrawal; see its log")
        with self._lock:
            self._ledger.tidy()
            now = time.monotonic()
            return [self._ledger.outcome(n, now) if n in sent else Outcome(Reach.ACKED) for n in nlris]

    def _silent(self, nlris: Sequence[Nlri]) -> list[Outcome] | None:
        """Outcomes of withdrawals while no ExaBGP lives, if it is dead for so long that no peer has the routes."""
        if self._path is not None:
            return None
        running = self._home.adopt()
        if running is not None:
            running.close()
            return None
        with self._lock:
            now = time.monotonic()
            for nlri in nlris:
                self._ledger.withdrawn(nlri, NEVER)
            outcomes = [self._ledger.outcome(nlri, now) for nlri in nlris]
        return outcomes if all(outcome.reach > Reach.WANTED for outcome in outcomes) else None

    def prune(self, keep: Collection[Announcement], spare: Collection[str], deadline: float) -> None:
        if self._path is None and not self.node.neighbors:
            self._begin()
            return
        link = self._connected(deadline)
        kept = {route.nlri for route in keep}
        if self._stock:
            with self._lock:
                gone = [n for n, e in self._ledger.routes.items() if n not in kept and not e.withdrawn]
            self._stock_withdraw(link, gone, deadline)
        else:
            with self._lock:
                carried = self._ledger.carried()
            batch = lines.prune((nlri for nlri in kept if nlri.family in carried), sorted(spare))
            if link.submit(batch, lambda line, number: None, deadline):
                raise NotThereYet("exabgp refused to prune; see its log")
        with self._lock:
            self._ledger.retain(kept)
            self._ledger.primed = True
            first, self._whole = not self._whole, True
            owed = self._end_of_rib() if first else []
        self._post(link, owed)

    def progress(self, routes: Sequence[Announcement]) -> list[Outcome]:
        with self._lock:
            now = time.monotonic()
            outcomes = [self._ledger.outcome(route.nlri, now) for route in routes]
        return list(map(_as_stock, outcomes)) if self._stock else outcomes

    def listen(self, families: frozenset[Family], heard: Heard) -> None:
        """As the contract says; a stock ExaBGP of the user's passes nothing on."""
        self._hearing.listen(families, heard)
        self._begin()

    def peers(self) -> list[Peer]:
        with self._lock:
            counts = dict.fromkeys(self._ledger.sessions, 0)
            for nlri, entry in self._ledger.routes.items():
                if entry.withdrawn or entry.refused is not None or entry.held:
                    continue
                for address, session in self._ledger.sessions.items():
                    counts[address] += nlri.family in session.families and session.sent >= entry.number
            offline = self._ledger.offline or self._plain or None
            return [_peer(s, counts[a], offline, self._hearing.routes) for a, s in self._ledger.sessions.items()]

    def drain(self, deadline: float) -> None:
        link = self._link
        if link is not None and not self._stock and self._path is None:
            try:
                batch = lines.prune([], [])
                link.submit(batch, lambda line, number: None, deadline)
                with self._lock:
                    last = link.number
                    up = [s for s in self._ledger.sessions.values() if s.up]
                    self._lock.wait_for(
                        lambda: all(s.sent >= last or not s.up for s in up), max(0.0, deadline - time.monotonic() - 2)
                    )
            except NotThereYet:
                pass  # it is ended all the same; peers drop what they keep after the restart time
        with self._lock:
            running = self._running.again() if self._running is not None else None
        self.close()
        if self._path is None:
            running = running or self._home.adopt()
            if running is not None:
                running.end(max(deadline, time.monotonic() + 1.0))
                running.close()
            self._home.forget()

    def close(self) -> None:
        self._closing.set()
        with self._lock:
            link, thread = self._wire, self._thread
            self._lock.notify_all()
        if link is not None:
            link.close()
        if thread is not None and thread is not threading.current_thread():
            thread.join(ANSWER)
        if self._taken is not None:
            self._taken.leave()
        self._hearing.close()

    # --- a stock ExaBGP

    def _stock_announce(self, link: Link, routes: Sequence[Announcement], deadline: float) -> list[Outcome]:
        batch: list[Line] = []
        refused: dict[Nlri, str] = {}
        for route in routes:
            try:
                batch.append(lines.stock_announce(route, self.node.asn or 0))
            except Unencodable as error:
                refused[route.nlri] = str(error)
        with self._lock:
            replaced = [nlri for nlri in refused if not self._ledger.is_refused(nlri) and nlri.family in STOCK]
        link.submit(map(lines.stock_withdraw, replaced), self._note_withdrawn, deadline)
        with self._lock:
            for nlri, reason in refused.items():
                self._ledger.refuse(nlri, reason)
        failed = link.submit(batch, self._note_announced, deadline)
        with self._lock:
            for line in failed:
                self._ledger.refuse(line.routes[0], "exabgp refused it; see its log")
            self._stock_sent(link)
        return self.progress(routes)

    def _stock_withdraw(self, link: Link, nlris: Iterable[Nlri], deadline: float) -> list[Outcome]:
        nlris = list(nlris)
        able = [n for n in nlris if n.family in STOCK]
        link.submit(map(lines.stock_withdraw, able), self._note_withdrawn, deadline)
        with self._lock:
            self._stock_sent(link)
            now = time.monotonic()
            outcomes = [self._ledger.outcome(n, now) if n.family in STOCK else Outcome(Reach.ACKED) for n in nlris]
        return list(map(_as_stock, outcomes))

    def _stock_sent(self, link: Link) -> None:
        """All is answered, so it is in the Adj-RIB-Out of every neighbour; a stock ExaBGP tells no more."""
        for session in self._ledger.sessions.values():
            if session.up:
                self._ledger.sent(session, link.number)

    # --- bookkeeping, called back by the link just before a line goes

    def _note_announced(self, line: Line, number: int) -> None:
        with self._lock:
            for nlri in line.routes:
                self._ledger.announced(nlri, number)

    def _note_withdrawn(self, line: Line, number: int) -> None:
        with self._lock:
            for nlri in line.routes:
                self._ledger.withdrawn(nlri, number)

    # --- ExaBGP's life

    def _begin(self) -> None:
        with self._lock:
            if self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(target=self._run, name=f"exporter-{self.name}", daemon=True)
                self._thread.start()

    def _connected(self, deadline: float) -> Link:
        """The link, waiting for it until the deadline. Raises NotThereYet."""
        self._begin()
        with self._lock:
            self._lock.wait_for(
                lambda: self._link is not None or self._closing.is_set() or not self._trying,
                max(0.0, deadline - time.monotonic()),
            )
            if self._link is None:
                raise NotThereYet(self._ledger.offline or "exabgp is not connected")
            return self._link

    def _run(self) -> None:
        """The thread: one life of ExaBGP, or of the connection to it, after the other."""
        pauses = back_off()
        next(pauses)
        if self._path is None:
            self._home = self._taken = self._home.take()
        while not self._closing.is_set():
            born = time.monotonic()
            with self._lock:
                self._trying = True
            try:
                if self._path is None and not self.node.neighbors:
                    self._end_unneeded()
                    return
                reason = self._live()
            except (OSError, ValueError, KeyError, TypeError, NotThereYet) as error:
                reason = str(error) or repr(error)
            self._lost(f"exabgp is not running: {reason}")
            if time.monotonic() - born > STEADY:
                pauses = back_off()
            self._closing.wait(next(pauses))

    def _end_unneeded(self) -> None:
        """No neighbour is configured any more: the ExaBGP of an earlier configuration ends."""
        running = self._home.adopt()
        if running is not None:
            try:
                link = self._open(running)
                try:
                    hello = link.next(ANSWER)
                    state = self._ask_state(link) if isinstance(hello, dict) else None
                    if state is not None:
                        self._clear(link, state, _established(state))
                finally:
                    link.release()
            except (OSError, KeyError):
                pass  # it ends all the same
            running.end(time.monotonic() + ANSWER)
            running.close()
        self._home.forget()

    def _live(self) -> str:
        """One life: start or adopt, connect, and read until the connection ends; why it did."""
        if self._path is not None:
            link = Link.open(self._path)
            try:
                return self._serve(link, None, "")
            finally:
                link.release()
        text = configure(self.node, self._home.relay_command(), read_passwords(self.node.neighbors))
        running = self._home.adopt()
        if running is not None and self._home.plain() and self._home.configured() != text:
            running.end(time.monotonic() + ANSWER)  # a stock one does not tell what it read
            running.close()
            running = None
        digest = self._home.write_configuration(text)
        if running is None:
            running = self._home.start()
        with self._lock:
            self._running = running
        try:
            link = self._open(running)
            try:
                reason = self._serve(link, running, digest)
            finally:
                link.release()
            if not self._closing.is_set() and running.wait(1.0):
                reason = self._home.ending(running)
            return reason
        finally:
            with self._lock:
                self._running = None
            running.close()

    def _open(self, running: Running) -> Link:
        """Connect to the relay that ExaBGP starts. Raises OSError."""
        deadline = time.monotonic() + ANSWER
        while True:
            try:
                return Link.open(str(self._home.socket))
            except OSError as error:
                if running.wait(0.01):
                    raise OSError(self._home.ending(running)) from None
                if self._closing.is_set():
                    raise OSError("closing") from None
                if time.monotonic() > deadline:
                    running.end(time.monotonic() + 2)
                    raise OSError(f"its relay does not listen: {error}") from None

    def _serve(self, link: Link, running: Running | None, digest: str) -> str:
        """Say hello, then read events until the link ends."""
        with self._lock:
            self._wire = link
        if self._closing.is_set():
            return "closing"
        hello = link.next(ANSWER)
        if not isinstance(hello, dict) or "relay" not in hello:
            return "what answers is not its relay"
        state = self._ask_state(link)
        self._plain = self._home.plain() if running is not None and state is None else ""
        if running is not None and not self._plain and (state is None or state["protocol"] not in lines.PROTOCOLS):
            running.end(time.monotonic() + ANSWER)
            return "it was of another version"
        if running is not None and state is not None and state["digest"] != digest:
            state = self._reload(link, running, digest, state)
        with self._lock:
            now = time.monotonic()
            self._stock = state is None
            self._ledger.confirmed = Reach.SENT if self._stock else Reach.ACKED
            if self._path is None:
                self.acks = "accepted" if self._stock else "acked"
            if state is None:
                for address in hello["relay"]["down"]:
                    self._ledger.meet(address, 0, (), self.node.hold_time, now)
                for address, families in hello["relay"]["up"].items():
                    session = self._ledger.meet(address, 0, families, self.node.hold_time, now)
                    self._ledger.up(session, families, -1, time.time())
                    self._ledger.sent(session, 0)
            else:
                link.number = state["seq"]
                self._adopt_state(state, now)
            self._whole = False
            self._ledger.connected()
            self._batches.clear()
            self._forms.clear()
            self._base = link.number
            self._link = link
            first, self._met = not self._met, True
            self._lock.notify_all()
        if state is not None:
            told = {n["peer"]: self._terms(n) for n in state["neighbors"] if n["started"] >= 0}
            self._hearing.connected(told, state["listening"])
        if self._closing.is_set():
            return "closing"
        if first:  # no verb got through before: everything is to be told, and pruned, as it is
            self.wake.progress()
        else:
            self.wake.empty()
        while True:
            try:
                event = link.next(TRY if self._trials else ANSWER)
            except TimeoutError:
                self._try_next(link)
                if link.owed() < ANSWER:
                    continue
                if running is not None:
                    running.end(time.monotonic() + 1.0)
                return "it did not answer, and was ended"
            if event is None:
                return "its relay closed the connection"
            if isinstance(event, dict):
                self._hear(link, event)
                self._try_next(link)

    def _ask_state(self, link: Link) -> dict[str, Any] | None:
        """The engine's state; None from a stock ExaBGP, which does not know the question."""
        link.post(lines.STATE)
        return self._await(link, "state")

    def _await(self, link: Link, kind: str) -> dict[str, Any] | None:
        deadline = time.monotonic() + ANSWER
        found: dict[str, Any] | None = None
        while (event := link.next(deadline - time.monotonic())) is not None:
            if isinstance(event, dict):
                if event.get("bgpcni") == kind:
                    found = event
                    if kind != "state":
                        return found
            elif kind == "state":
                return found if event else None
        raise OSError("its relay closed the connection")

    def _clear(self, link: Link, state: dict[str, Any], peers: Collection[str]) -> None:
        """Withdraw everything from these peers, whose sessions are to end: with graceful restart they would keep it."""
        link.number = state["seq"]
        late: dict[str, int] = {}
        for peer in peers:
            for line in lines.clear(peer):
                link.post(line)
            late[peer] = link.number
        deadline = time.monotonic() + CLEAR
        while late:
            try:
                event = link.next(deadline - time.monotonic())
            except TimeoutError:
                return
            if event is None:
                return
            if isinstance(event, dict) and event.get("bgpcni") == "sent":
                late = {peer: number for peer, number in late.items() if peer != event["peer"] or number > event["seq"]}

    def _reload(self, link: Link, running: Running, digest: str, state: dict[str, Any]) -> dict[str, Any]:
        """The configuration changed: only the sessions that it changes are touched. Raises OSError."""
        self._clear(link, state, [p for p in _established(state) if p not in self._ledger.sessions])
        running.signal(signal.SIGUSR1)
        done = self._await(link, "configured")
        fresh = self._ask_state(link)
        if done is None or fresh is None or done["error"] or fresh["digest"] != digest:
            running.end(time.monotonic() + ANSWER)
            raise OSError(f"it did not take its new configuration: {done and done['error']}")
        return fresh

    def _lost(self, reason: str) -> None:
        with self._lock:
            self._link, self._wire, self._trying = None, None, False
            self._ledger.disconnected(reason, time.monotonic(), time.time())
            self._trials.clear()
            self._lock.notify_all()
        if not self._closing.is_set():
            self._hearing.lost()
            self.wake.sessions()

    # --- events

    def _terms(self, found: dict[str, Any]) -> Terms:
        """What a session negotiated, from the engine's `up` or its state."""
        with self._lock:
            session = self._ledger.sessions.get(found["peer"])
        return Terms(
            internal=session is not None and session.neighbor.asn == self.node.asn,
            families=frozenset(NAMES[name] for name in found["families"] if name in NAMES),
            asn4=found["asn4"],
            graceful=frozenset(NAMES[name] for name in found["graceful"] if name in NAMES),
            refresh=found["refresh"],
        )

    def _adopt_state(self, state: dict[str, Any], now: float) -> None:
        self._ended_told = state["protocol"] >= lines.ENDED_SINCE
        for found in state["neighbors"]:
            if self._path is not None:
                self._ledger.meet(found["peer"], found["asn"], found["configured"], found["hold"], now)
            session = self._ledger.sessions.get(found["peer"])
            if session is None:
                continue
            if found["started"] < 0:
                state_now = STATES.get(found["state"], "Idle") if found["state"] != "ESTABLISHED" else "OpenConfirm"
                session.turn(state_now, found["since"] or time.time())
                session.unreached = f"cannot connect: {found['unreached']}" if found["unreached"] else ""
                continue
            self._ledger.up(session, found["families"], found["started"], found["since"])
            self._ledger.sent(session, found["sent"])
            session.acked = found["acked"]
            session.eor = {NAMES[name] for name in found["eor"] if name in NAMES}
            session.ended = {NAMES[name] for name in found["ended" if self._ended_told else "eor"] if name in NAMES}

    def _hear(self, link: Link, event: dict[str, Any]) -> None:
        if "relay" in event:
            self._negotiated[event["relay"]["peer"]] = event["relay"]["families"]
            return
        kind = event.get("bgpcni") or event.get("type")
        if kind == "update":
            self._hearing.update(event["peer"], event["octets"])
            return
        if kind == "told":
            if event["family"] in NAMES:
                self._hearing.told(event["peer"], NAMES[event["family"]])
            return
        owed: list[Line] = []
        with self._lock:
            address = event.get("peer") or event.get("neighbor", {}).get("address", {}).get("peer")
            session = self._ledger.sessions.get(address) if address else None
            if session is None and self._stock and kind == "state":
                asn = event["neighbor"].get("asn", {}).get("peer", 0)
                session = self._ledger.meet(str(address), asn, (), self.node.hold_time, time.monotonic())
            if session is None:
                return
            if kind == "sent":
                self._ledger.sent(session, event["seq"])
            elif kind == "unreached":
                session.unreached = f"cannot connect: {event['reason']}"
            elif kind == "as":
                session.told_as = event["asn"]
            elif kind == "acked":
                session.acked = event["seq"]
            elif kind == "eor":
                session.eor.add(NAMES[event["family"]])
                if not self._ended_told:
                    session.ended.add(NAMES[event["family"]])
            elif kind == "ended":
                session.ended.add(NAMES[event["family"]])
            elif kind == "up":
                self._ledger.up(session, event["families"], event["seq"], time.time())
                owed = self._end_of_rib()
            elif kind == "fsm" and not session.up:
                state = event["neighbor"]["state"]
                session.turn(STATES.get(state, "Idle") if state != "ESTABLISHED" else session.state, time.time())
            elif kind == "state":
                owed = self._state(link, session, event["neighbor"])
            self._lock.notify_all()
        if owed:
            self._post(link, owed)
        if kind == "up":
            self._hearing.up(event["peer"], self._terms(event))
        elif kind == "state" and event["neighbor"]["state"] == "down":
            words = explain(str(event["neighbor"].get("reason", ""))).words
            self._hearing.down(str(address), "NOTIFICATION" in words)
        if kind == "fsm" and self._path is None:
            self._home.trim_log()  # a neighbour that is away fills it
        if kind in ("up", "state", "unreached"):
            self.wake.sessions()
        elif kind in ("sent", "acked", "eor", "ended"):
            self.wake.progress()

    def _state(self, link: Link, session: Session, found: dict[str, Any]) -> list[Line]:
        """ExaBGP's own event of a session: it fell, or a stock one came up."""
        if found["state"] == "up" and self._stock:
            address = session.neighbor.address
            families = self._negotiated.get(address, [])
            self._ledger.meet(address, 0, families, self.node.hold_time, time.monotonic())
            self._ledger.up(session, families, -1, time.time())
            self._ledger.sent(session, link.number)
            return self._end_of_rib()
        elif found["state"] == "down":
            was_up = session.up
            fall = explain(str(found.get("reason", "")), self.node.asn, session.neighbor.asn, session.told_as)
            # losing the connection right after a NOTIFICATION says nothing new
            words = fall.words if was_up or "NOTIFICATION" in fall.words or not session.last_error else ""
            self._ledger.down(session, words, time.monotonic(), link.number, time.time())
            if was_up and fall.update_error and not self._stock:
                return self._blame(link, session, fall.words)
        return []

    def _blame(self, link: Link, session: Session, words: str) -> list[Line]:
        """A peer ended the session over an UPDATE of ours: the second time in a row, the suspects are withdrawn.

        Suspect is what was announced in the seconds before the first fall: ExaBGP sends it again with each new
        session, and the session would never last.
        """
        address, now = session.neighbor.address, time.monotonic()
        if (trial := self._trials.get(address)) is not None:
            group, culprit = trial.fell()
            for nlri in group:
                self._hold(nlri, trial)
            if culprit is not None:
                self._condemn(culprit, address, words)
            return list(lines.withdraw(group))
        when, suspects = self._falls.get(address, (-REPEATED, set()))
        if now - when > REPEATED:
            old = [number for at, number in self._batches if now - at >= SUSPECT]
            self._falls[address] = (now, set(self._ledger.between(max(old, default=self._base), link.number)))
            return []
        del self._falls[address]
        forms = {route.nlri: route for batch in self._forms for route in batch if route.nlri in suspects}
        if len(suspects) == 1 or not forms:
            for nlri in suspects:
                self._condemn(nlri, address, words)
        else:
            trial = self._trials[address] = Trial(address, words, forms)
            for nlri in forms:
                self._hold(nlri, trial)
        return list(lines.withdraw(suspects))

    def _hold(self, nlri: Nlri, trial: Trial) -> None:
        words = f"held back: {trial.peer} ended the session over one of {len(trial.forms)} routes: {trial.words}"
        self._ledger.hold(nlri, words)

    def _condemn(self, nlri: Nlri, address: str, words: str) -> None:
        self._condemned[nlri] = time.monotonic() + CONDEMNED
        self._ledger.refuse(nlri, f"withdrawn, because {address} ended the session over it: {words}")

    def _try_next(self, link: Link) -> None:
        """Trials go on: a group that its session survived is acquitted, and the next one is announced."""
        with self._lock:
            trials = list(self._trials.items())
        for address, trial in trials:
            with self._lock:
                session, now = self._ledger.sessions.get(address), time.monotonic()
                if session is None or not session.up:
                    trial.quiet_since = None
                    continue
                if trial.testing:
                    if session.acked < trial.number:
                        continue
                    if trial.quiet_since is None:
                        trial.quiet_since = now
                    if now - trial.quiet_since < PROBATION:
                        continue
                    trial.acquit()
                batch = list(lines.announce(trial.start(), self.node.asn or 0, self._kinds(), self._ledger.refuse))
            try:
                for line in batch:
                    link.post(line, self._note_announced)
            except OSError:
                link.close()
            number = link.number
            with self._lock:
                trial.number = number
                if trial.done:
                    self._trials.pop(address, None)
            self.wake.sessions()

    def _kinds(self) -> frozenset[Kind]:
        neighbors = [session.neighbor for session in self._ledger.sessions.values()]
        return frozenset("ibgp" if n.asn == self.node.asn else "ebgp" for n in neighbors)

    def _end_of_rib(self) -> list[Line]:
        """End-of-RIB for each family that an established session has not had it of, once the table is whole."""
        if not self._whole or (self._stock and self._path is not None):
            return []
        if self._stock:
            owed = [(s, f) for s in self._ledger.sessions.values() for f in sorted(s.families - s.eor)]
            for session, family in owed:
                session.eor.add(family)
            return [lines.stock_end_of_rib(session.neighbor.address, family) for session, family in owed]
        return [
            lines.end_of_rib(session.neighbor.address, family)
            for session in self._ledger.sessions.values()
            for family in sorted(session.families - session.eor)
        ]

    def _post_now(self, batch: Iterable[Line]) -> None:
        """To whatever ExaBGP there is; none: a new connection begins anew."""
        link = self._link
        if link is not None:
            self._post(link, batch)

    def _post(self, link: Link, batch: Iterable[Line]) -> None:
        try:
            for line in batch:
                link.post(line)
        except OSError:
            link.close()  # the reading end sees it, and starts over


def _as_stock(outcome: Outcome) -> Outcome:
    """What it is worth where a stock ExaBGP runs: `accepted` is the furthest, and then no peer may be missing."""
    if outcome.reach > Reach.WANTED:
        return Outcome(Reach.WANTED, outcome.reason) if outcome.reason else Outcome(Reach.ACCEPTED)
    return outcome


def _established(state: dict[str, Any]) -> list[str]:
    return [found["peer"] for found in state["neighbors"] if found["started"] >= 0]


def _peer(session: Session, sent: int, offline: str | None, routes: AdjRibIn) -> Peer:
    since = datetime.fromtimestamp(session.since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if session.since else ""
    address = session.neighbor.address
    return Peer(
        address=address,
        asn=session.neighbor.asn,
        state=session.state,
        since=since,
        families=tuple(sorted(session.families)),
        sent=sent,
        received=routes.received(address),
        last_error=offline or "; ".join(filter(None, (routes.words(address), session.last_error, session.unreached))),
    )
