"""What ExaBGP tells: noted in what the threads share, passed on to who listens and to the agent.

Everything here is called by the one thread that reads from ExaBGP.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from bgpcni.exporter import Wake, counted
from bgpcni.model import NodeFacts
from bgpcni_exabgp import lines, protocol
from bgpcni_exabgp.advertised import Session
from bgpcni_exabgp.dialect import Dialect, EngineDialect, StockDialect
from bgpcni_exabgp.lines import FAMILIES, Line
from bgpcni_exabgp.notification import explain
from bgpcni_exabgp.received import Terms
from bgpcni_exabgp.receiver import Receiver
from bgpcni_exabgp.shared import Shared

STATES = {
    "IDLE": "Idle",
    "ACTIVE": "Active",
    "CONNECT": "Connect",
    "OPENSENT": "OpenSent",
    "OPENCONFIRM": "OpenConfirm",
}
"""A session's states by ExaBGP's names for them; Established is told by an event of its own."""


class Events:
    """`configured`: the neighbours are those of agent.toml, and others that ExaBGP has do not count."""

    def __init__(self, node: NodeFacts, shared: Shared, receiver: Receiver, wake: Wake, configured: bool) -> None:
        self._node = node
        self._shared = shared
        self._advertised = shared.advertised
        self._receiver = receiver
        self._wake = wake
        self._configured = configured
        self._negotiated: dict[str, tuple[str, ...]] = {}  # families by neighbour, before its session comes up
        self._met = False

    def connected(self, dialect: Dialect, hello: protocol.Hello, state: protocol.EngineState | None) -> None:
        """ExaBGP is connected. `state`: our engine's, None from a stock ExaBGP."""
        with self._shared.lock:
            now = time.monotonic()
            self._advertised.confirmed = dialect.confirmed
            if state is None:
                for address in hello.down:
                    self._advertised.meet(address, 0, frozenset(), self._node.hold_time, now)
                for address, names in hello.up.items():
                    self._stock_up(address, names, 0)
            else:
                dialect.link.number = state.seq
                for found in state.neighbors:
                    self._adopt(found, now)
            self._advertised.connected()
            self._shared.quarantine.connected(dialect.link.number)
            self._shared.dialect = dialect
            self._shared.lock.notify_all()
        dialect.tell_targets()  # first, since peers with RFC 4684 wait for that
        self._wake.speaker(True)
        if state is not None:
            self._receiver.connected({n.peer: self._terms(n) for n in state.neighbors if n.up}, state.listening)
        if self._shared.closing.is_set():
            return
        if self._met:
            self._wake.empty()
        else:  # no verb came this far yet, so every route will be announced, and pruned, in any case
            self._wake.progress()
        self._met = True

    def lost(self, reason: str) -> None:
        """The connection ended, or could not be made."""
        with self._shared.lock:
            self._shared.dialect, self._shared.trying = None, False
            self._advertised.disconnected(reason, time.monotonic(), time.time())
            self._shared.quarantine.lost()
            self._shared.lock.notify_all()
        if not self._shared.closing.is_set():
            self._wake.speaker(False, reason.removeprefix("exabgp is not running: "))
            self._receiver.lost()
            self._wake.sessions()

    def hear(self, dialect: Dialect, event: protocol.Event) -> None:
        """One event of the ExaBGP that is connected."""
        match event:
            case protocol.UpdateReceived(peer=peer, octets=octets):
                self._receiver.update(peer, octets)
            case protocol.ToldAll(peer=peer, family=family):
                if family in FAMILIES:
                    self._receiver.told(peer, FAMILIES[family])
            case protocol.Negotiated(peer=peer, families=families):
                self._negotiated[peer] = families
            case protocol.Sent() | protocol.Acked() | protocol.EndOfRibSent() | protocol.EndOfRibAcked():
                if self._note(dialect, event):
                    self._wake.progress()
            case protocol.Up() | protocol.SessionChanged() | protocol.Unreached():
                if self._note(dialect, event):
                    if isinstance(event, protocol.Up):
                        self._receiver.up(event.peer, self._terms(event))
                    elif isinstance(event, protocol.SessionChanged) and not event.up:
                        self._receiver.down(event.peer, explain(event.reason).notified)
                    self._wake.sessions()
            case protocol.OtherAs() | protocol.FsmChanged():
                self._note(dialect, event)
            case protocol.EngineState(neighbors=neighbors):
                self._counted(neighbors)

    def _counted(self, neighbors: Iterable[protocol.NeighborState]) -> None:
        """Somebody has asked for the counts of messages. The rest of the state was told by events of its own."""
        with self._shared.lock:
            for found in neighbors:
                session = self._advertised.sessions.get(found.peer)
                if session is not None and found.sent_messages:
                    session.messages = counted(found.sent_messages, found.received_messages)
            self._shared.answers += 1
            self._shared.lock.notify_all()

    def tried(self) -> None:
        """Routes in quarantine were announced again, or are free."""
        self._wake.sessions()

    def _note(self, dialect: Dialect, event: protocol.SessionEvent) -> bool:
        """Note an event of a session, and send what is due after it; False if we have no such neighbour."""
        with self._shared.lock:
            session = self._advertised.sessions.get(event.peer)
            if session is None and isinstance(dialect, StockDialect) and isinstance(event, protocol.SessionChanged):
                hold_time = self._node.hold_time
                session = self._advertised.meet(event.peer, event.asn, frozenset(), hold_time, time.monotonic())
            if session is None:
                return False
            due = self._change(dialect, session, event)
            self._shared.lock.notify_all()
        dialect.post(due)
        if isinstance(event, protocol.SessionChanged) and due:
            with self._shared.lock:
                self._shared.quarantine.withdrawn(event.peer, dialect.link.number)
        return True

    def _change(self, dialect: Dialect, session: Session, event: protocol.SessionEvent) -> list[Line]:
        """Returns the lines that are due now."""
        match event:
            case protocol.Sent(seq=number):
                self._advertised.sent(session, number, time.time())
            case protocol.Acked(seq=number):
                session.acked = number
            case protocol.EndOfRibSent(family=name):
                session.eor.add(FAMILIES[name])
            case protocol.EndOfRibAcked(family=name):
                session.ended.add(FAMILIES[name])
            case protocol.Unreached(reason=reason):
                session.unreached = f"cannot connect: {reason}"
            case protocol.OtherAs(asn=asn):
                session.told_as = asn
            case protocol.FsmChanged(state=state):
                if not session.up and state in STATES:
                    session.turn(STATES[state], time.time())
            case protocol.Up():
                self._advertised.up(session, lines.families(event.families), event.seq, time.time())
                session.long_lived, session.asn = lines.families(event.long_lived), event.asn
                return dialect.owed()
            case protocol.SessionChanged(up=True):
                if isinstance(dialect, StockDialect):
                    self._stock_up(event.peer, self._negotiated.get(event.peer, ()), dialect.link.number)
                    return dialect.owed()
            case protocol.SessionChanged():
                return self._down(dialect, session, event.reason)
        return []

    def _stock_up(self, address: str, names: tuple[str, ...], number: int) -> None:
        """A session of a stock ExaBGP, in which everything up to `number` is."""
        families = lines.families(names)
        session = self._advertised.meet(address, 0, families, self._node.hold_time, time.monotonic())
        self._advertised.up(session, families, -1, time.time())
        self._advertised.sent(session, number)

    def _down(self, dialect: Dialect, session: Session, reason: str) -> list[Line]:
        was_up = session.up
        fall = explain(reason, session.neighbor.own_asn(self._node.asn), session.neighbor.asn, session.told_as)
        # that the connection ended says nothing new right after a NOTIFICATION
        words = fall.words if was_up or fall.notified or not session.last_error else ""
        self._advertised.down(session, words, time.monotonic(), dialect.link.number, time.time())
        if not (was_up and fall.our_update and isinstance(dialect, EngineDialect)):
            return []
        blamed = self._shared.quarantine.blame(session, fall.words, dialect.link.number, time.monotonic())
        return list(lines.withdraw(blamed))

    def _adopt(self, found: protocol.NeighborState, now: float) -> None:
        """What our engine knows of a neighbour."""
        if not self._configured:
            self._advertised.meet(found.peer, found.asn, lines.families(found.configured), found.hold, now)
        session = self._advertised.sessions.get(found.peer)
        if session is None:
            return
        if not found.up:  # one that ExaBGP calls established is so once it tells `Up`
            state = "OpenConfirm" if found.state == "ESTABLISHED" else STATES.get(found.state, "Idle")
            session.turn(state, found.since or time.time())
            session.unreached = f"cannot connect: {found.unreached}" if found.unreached else ""
            return
        self._advertised.up(session, lines.families(found.families), found.started, found.since)
        session.long_lived, session.asn = lines.families(found.long_lived), found.asn
        self._advertised.sent(session, found.sent)
        session.acked = found.acked
        session.eor = set(lines.families(found.eor))
        session.ended = set(lines.families(found.ended))

    def _terms(self, found: protocol.Up | protocol.NeighborState) -> Terms:
        """What a session negotiated."""
        with self._shared.lock:
            session = self._advertised.sessions.get(found.peer)
        return Terms(
            internal=session is not None and session.internal(self._node.asn),
            families=lines.families(found.families),
            asn4=found.asn4,
            graceful=lines.families(found.graceful),
            refresh=found.refresh,
            long_lived=tuple(
                (FAMILIES[name], seconds)
                for name, seconds in found.long_lived.items()
                if name in FAMILIES and self._node.long_lived_graceful_restart
            ),
        )
