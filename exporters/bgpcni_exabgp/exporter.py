"""The exporter: drives ExaBGP, ours or the user's own, towards the routes that are wanted.

It only puts the parts together, and answers the verbs of the contract with them.
"""

from __future__ import annotations

import contextlib
import time
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, field_validator, model_validator

from bgpcni.errors import InvalidConfiguration
from bgpcni.exporter import ATTRIBUTES, Exporter, Heard, NotThereYet, Outcome, Peer, Process, Reach, Wake
from bgpcni.model import ROUTES, Announcement, Family, Nlri, NodeFacts
from bgpcni_exabgp import lines
from bgpcni_exabgp.advertised import NEVER, Advertised, Session
from bgpcni_exabgp.dialect import Dialect, EngineDialect
from bgpcni_exabgp.events import Events
from bgpcni_exabgp.homes import Homes
from bgpcni_exabgp.process import installed
from bgpcni_exabgp.received import AdjRibIn
from bgpcni_exabgp.receiver import Receiver
from bgpcni_exabgp.shared import Shared
from bgpcni_exabgp.supervisor import Supervisor

ASKING = 2.0
"""How many seconds an operator's command waits for ExaBGP to tell what it has counted."""


class ExaBGP(Exporter):
    """Routes to ExaBGP: all five families, or unicast and L3VPN where `socket` leads to a stock ExaBGP."""

    class Config(Exporter.Config):
        """`socket`: of the relay that the user's own ExaBGP runs. Absent: the agent runs ExaBGP. Its sessions come from
        `local_address`, or from that of `[bgp]` if it is absent.
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
    families: ClassVar[frozenset[Family]] = ROUTES
    acks: Literal["accepted", "sent", "acked"] = "acked"
    imports: ClassVar[Literal["none", "routes", "datapath"]] = "routes"
    needs_agent: ClassVar[bool] = True
    carries: ClassVar[frozenset[str]] = ATTRIBUTES
    takes_neighbors: ClassVar[bool] = True

    def __init__(self, name: str, config: BaseModel, node: NodeFacts, wake: Wake) -> None:
        super().__init__(name, config, node, wake)
        assert isinstance(config, ExaBGP.Config)
        now, path = time.monotonic(), config.socket
        self._ours = path is None
        if self._ours:
            advertised = Advertised(
                node.neighbors, node.graceful_restart, now, long_lived=node.long_lived_graceful_restart
            )
        else:  # its neighbours are known once it is connected
            self.acks = "accepted"
            none = f"no session: the ExaBGP behind {path} has none"
            advertised = Advertised((), node.graceful_restart, now, none)
        self._shared = Shared(advertised)
        received = AdjRibIn(node.maximum_prefix, {n.address: n for n in node.neighbors})
        self._receiver = Receiver(f"exporter-{name}", received, self._shared.post)
        events = Events(node, self._shared, self._receiver, wake, configured=self._ours)
        self._supervisor = Supervisor(name, node, path or Homes(name, node), self._shared, events)

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

    @classmethod
    def speak(cls, run_dir: Path, name: str) -> None:
        from bgpcni_exabgp.speaker import speak

        if not installed():
            raise InvalidConfiguration("ExaBGP is not installed here: pip install exabgp")
        speak(run_dir, name)

    def announce(self, routes: Sequence[Announcement], deadline: float) -> list[Outcome]:
        if self._alone():
            return [Outcome(Reach.WANTED, "no neighbour is configured")] * len(routes)
        return self._dialect(deadline).announce(routes, deadline)

    def withdraw(self, routes: Sequence[Announcement], deadline: float) -> list[Outcome]:
        if self._alone():
            return [Outcome(Reach.ACKED)] * len(routes)
        nlris = [route.nlri for route in routes]
        try:
            dialect = self._dialect(deadline)
        except NotThereYet:
            if (silent := self._silent(nlris)) is not None:
                return silent
            raise
        return dialect.withdraw(nlris, deadline)

    def prune(self, keep: Collection[Announcement], spare: Collection[str], deadline: float) -> None:
        if not self._alone():
            self._dialect(deadline).prune({route.nlri for route in keep}, sorted(spare), deadline)

    def progress(self, routes: Sequence[Announcement]) -> list[Outcome]:
        nlris = [route.nlri for route in routes]
        with self._shared.lock:
            dialect = self._shared.dialect
            if dialect is not None:
                return dialect.outcomes(nlris)
            now = time.monotonic()
            return [self._shared.advertised.outcome(nlri, now) for nlri in nlris]

    def listen(self, families: frozenset[Family], heard: Heard) -> None:
        """As the contract says. A stock ExaBGP passes nothing on."""
        self._receiver.listen(families, heard)
        self._supervisor.begin()

    def want_targets(self, targets: frozenset[str]) -> None:
        """As the contract says, to the neighbours whose `families` have `rtc`."""
        with self._shared.lock:
            before, self._shared.targets = self._shared.targets, targets
            dialect = self._shared.dialect
        if dialect is not None and before != targets:
            dialect.tell_targets(before)

    def peers(self) -> list[Peer]:
        with self._shared.lock:
            advertised, dialect = self._shared.advertised, self._shared.dialect
            offline = advertised.offline or (dialect.complaint if dialect is not None else "")
            sessions = [_peer(s, offline, self._receiver.routes) for s in advertised.sessions.values()]
            sent = {address: session.sent for address, session in advertised.sessions.items()}
            routes = list(advertised.routes.items())
        # the routes are counted without the lock: there may be many
        numbers: dict[tuple[Family, frozenset[str]], list[int]] = {}
        for nlri, route in routes:
            if not (route.withdrawn or route.refused is not None or route.held):
                numbers.setdefault((nlri.family, route.withheld), []).append(route.number)
        for alike in numbers.values():
            alike.sort()

        def count(peer: Peer) -> int:
            return sum(
                bisect_right(alike, sent[peer.address])
                for (family, withheld), alike in numbers.items()
                if family in peer.families and peer.address not in withheld
            )

        return [peer._replace(sent=count(peer)) for peer in sessions]

    def advertised(self, peer: str) -> Collection[Nlri]:
        with self._shared.lock:
            return self._shared.advertised.heard_by(peer)

    def session(self, peer: str) -> Mapping[str, object]:
        messages = self._messages(peer)
        with self._shared.lock:
            found = self._shared.advertised.sessions.get(peer)
            told_as = found.told_as if found is not None else 0
        if found is None:
            return {}
        neighbor, source = found.neighbor, self._receiver.routes.sources.get(peer)
        more: dict[str, object] = {
            "localAddress": neighbor.local_address or self.node.local_address,
            "localASN": neighbor.own_asn(self.node.asn),
            "port": neighbor.port,
            "passive": neighbor.passive,
            "holdTime": neighbor.hold_time,
            "gracefulRestart": self.node.graceful_restart,
            "ttlSecurity": neighbor.ttl_security,
            "multihop": neighbor.multihop,
            "authenticated": bool(neighbor.password_file),
            "configuredFamilies": [family.value for family in sorted(neighbor.families)],
            "maximumPrefix": source.maximum if source is not None else self.node.maximum_prefix,
        }
        if told_as:
            more["toldASN"] = told_as
        if found.up and source is not None:
            more["capabilities"] = {
                "fourOctetASN": source.terms.asn4,
                "routeRefresh": source.terms.refresh,
                "gracefulRestart": [family.value for family in sorted(source.terms.graceful)],
            }
        if messages:
            more["messages"] = messages
        return more

    def _messages(self, peer: str) -> Mapping[str, Mapping[str, int]]:
        """How many messages went both ways. ExaBGP is asked; if it does not answer, or cannot tell, nothing."""
        shared = self._shared
        with shared.lock:
            dialect, before = shared.dialect, shared.answers
        if not isinstance(dialect, EngineDialect):
            return {}
        dialect.post([lines.ask_state()])
        with shared.lock:
            shared.lock.wait_for(lambda: shared.answers > before or shared.dialect is not dialect, ASKING)
            session = shared.advertised.sessions.get(peer)
            return session.messages if session is not None and shared.answers > before else {}

    def reset(self, peer: str, *, soft: bool) -> None:
        with self._shared.lock:
            session, dialect = self._shared.advertised.sessions.get(peer), self._shared.dialect
        if session is None or not session.up:
            raise InvalidConfiguration(f"the session with {peer} is not Established")
        if not isinstance(dialect, EngineDialect):
            raise InvalidConfiguration("a stock ExaBGP cannot reset sessions")
        if not soft:
            dialect.post([lines.end(peer)])
            return
        dialect.resend(peer, session.families)
        if not self._receiver.ask_again(peer):
            dialect.post([lines.refresh(session.families, peer)])

    def reached(self, route: Announcement) -> Mapping[str, float]:
        with self._shared.lock:
            return self._shared.advertised.reached(route.nlri)

    def process(self) -> Process | None:
        return self._supervisor.process()

    def lacking(self) -> str:
        with self._shared.lock:
            up = [address for address, session in self._shared.advertised.sessions.items() if session.up]
            return self._lacking(up) if up or self._alone() else "no session is up"

    def restart(self, deadline: float) -> str:
        if not self._ours:
            raise InvalidConfiguration(f"exporters: {self.name} has the ExaBGP behind its socket, which is not ours")
        with self._shared.lock:
            before = self._shared.dialect
            up = [address for address, session in self._shared.advertised.sessions.items() if session.up]
        if self._alone():
            return ""
        if not self._supervisor.kill(deadline):
            return "exabgp is not running"

        def reason() -> str:
            return "it has not come back" if self._shared.dialect in (None, before) else self._lacking(up)

        with self._shared.lock:
            self._shared.lock.wait_for(lambda: not reason(), max(0.0, deadline - time.monotonic()))
            return reason()

    def _lacking(self, peers: Collection[str]) -> str:
        """Why not each of these peers has everything, its End-of-RIB included; "" if all have. With the lock held."""
        dialect, advertised = self._shared.dialect, self._shared.advertised
        if dialect is None:
            return advertised.offline or "exabgp is not connected"
        if not dialect.whole:
            return "not every route is announced yet"
        return next(filter(None, (advertised.lacking(peer, dialect.link.number) for peer in peers)), "")

    def drain(self, deadline: float) -> None:
        with self._shared.lock:
            dialect = self._shared.dialect
        if isinstance(dialect, EngineDialect) and self._ours:
            with contextlib.suppress(NotThereYet):  # it is ended all the same; peers drop routes after the restart time
                dialect.drain(deadline - 2)
        self._supervisor.end(deadline)
        self._receiver.close()

    def close(self) -> None:
        self._supervisor.close()
        self._receiver.close()

    def _alone(self) -> bool:
        """No neighbour is configured: there is nothing to be told, and no ExaBGP to run."""
        if not self._ours or self.node.neighbors:
            return False
        self._supervisor.begin()  # it ends the ExaBGP of an earlier configuration
        return True

    def _dialect(self, deadline: float) -> Dialect:
        """How to talk to ExaBGP, once it is connected. Raises NotThereYet."""
        self._supervisor.begin()
        dialect = self._shared.connected(deadline)
        self.acks = dialect.acks
        return dialect

    def _silent(self, nlris: Sequence[Nlri]) -> list[Outcome] | None:
        """Outcomes of withdrawals if ExaBGP has been dead for so long that no peer has the routes any more."""
        if not self._supervisor.dead():
            return None
        with self._shared.lock:
            now = time.monotonic()
            for nlri in nlris:
                self._shared.advertised.withdrawn(nlri, NEVER)
            outcomes = [self._shared.advertised.outcome(nlri, now) for nlri in nlris]
        return outcomes if all(outcome.reach > Reach.WANTED for outcome in outcomes) else None


def _peer(session: Session, offline: str, routes: AdjRibIn) -> Peer:
    """Without the number of routes sent."""
    since = datetime.fromtimestamp(session.since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if session.since else ""
    address = session.neighbor.address
    return Peer(
        address=address,
        asn=session.neighbor.asn or session.asn,
        interface=session.neighbor.interface or "",
        state=session.state,
        since=since,
        families=tuple(sorted(session.families)),
        received=routes.received(address),
        last_error=offline or "; ".join(filter(None, (routes.words(address), session.last_error, session.unreached))),
    )
