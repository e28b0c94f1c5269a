"""Finds the routes over which a peer ends its session, and keeps them from ExaBGP. Pure: no I/O, no clock of its own.

ExaBGP sends a route that the peer cannot bear again with each new session, and the session would never last. So after
the second such end everything announced just before the first one is suspect and is withdrawn. Then the suspects are
announced again, group after group. A group that the session survives is free; one over which it ends is halved; a
route over which it ends alone is refused for a while.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from bgpcni.model import Announcement, Nlri
from bgpcni_exabgp.advertised import Advertised, Session

SUSPECT = 0.5
"""Seconds: what was announced so shortly before a session ended may be the reason."""
REPEATED = 60.0
"""Seconds: two such ends are a loop if they are no further apart."""
CONDEMNED = 600.0
"""Seconds for which a culprit is refused."""
PROBATION = 1.0
"""Seconds that a session has to survive a group of suspects."""


class Trial:
    """The suspects of one peer. `words`: why its session ended. `testing`: the group that is announced just now.
    `number`: of the last line that announced or withdrew a group. `quiet_since`: when the peer acknowledged it."""

    def __init__(self, peer: str, words: str, suspects: Mapping[Nlri, Announcement]) -> None:
        self.peer, self.words = peer, words
        self.forms = dict(suspects)
        self.testing: list[Nlri] = []
        self.number = -1
        self.quiet_since: float | None = None
        self._groups: deque[list[Nlri]] = deque(_halves(list(suspects)))

    @property
    def done(self) -> bool:
        return not self.testing and not self._groups

    def waiting(self) -> set[Nlri]:
        """Suspects that must not be announced now."""
        return {nlri for group in self._groups for nlri in group}

    def forget(self, nlri: Nlri) -> None:
        """Nobody wants this route any more."""
        self._groups = deque(rest for group in self._groups if (rest := [n for n in group if n != nlri]))
        self.testing = [other for other in self.testing if other != nlri]

    def start(self) -> list[Announcement]:
        """The next group, to be announced; empty if there is none."""
        self.testing = self._groups.popleft() if self._groups else []
        self.quiet_since = None
        return [self.forms[nlri] for nlri in self.testing]

    def acquit(self) -> None:
        self.testing, self.quiet_since = [], None

    def ended(self) -> tuple[list[Nlri], Nlri | None]:
        """The session ended over the group: what to withdraw, and the culprit if the group was one route."""
        group, self.testing, self.quiet_since = self.testing, [], None
        if len(group) == 1:
            return group, group[0]
        self._groups.extendleft(reversed(_halves(group)))
        return group, None


class Quarantine:
    """All trials, and the culprits. `advertised` is told what is held back or refused. `now`: time.monotonic() seconds.

    Not thread-safe: the caller holds a lock.
    """

    def __init__(self, advertised: Advertised) -> None:
        self._advertised = advertised
        self._batches: deque[tuple[float, int, Sequence[Announcement]]] = deque(maxlen=64)  # when, last number, routes
        self._base = 0
        self._ends: dict[str, tuple[float, set[Nlri]]] = {}  # by peer: when its session ended, and the suspects
        self._condemned: dict[Nlri, float] = {}  # refused until
        self.trials: dict[str, Trial] = {}
        """By peer."""

    def connected(self, number: int) -> None:
        """A new ExaBGP, or a new connection to it; `number`: of its newest line."""
        self._batches.clear()
        self._base = number

    def lost(self) -> None:
        self.trials.clear()

    def announced(self, routes: Sequence[Announcement], number: int, now: float) -> None:
        """These routes were announced; `number`: of their last line."""
        self._batches.append((now, number, routes))

    def allowed(self, routes: Iterable[Announcement], now: float) -> list[Announcement]:
        """Those of the routes that may be announced now."""
        routes = list(routes)
        self._condemned = {nlri: until for nlri, until in self._condemned.items() if now < until}
        banned = set(self._condemned)
        for trial in self.trials.values():
            waiting = trial.waiting()
            trial.forms.update({route.nlri: route for route in routes if route.nlri in trial.forms})
            banned |= waiting
        return [route for route in routes if route.nlri not in banned]

    def forget(self, nlris: Iterable[Nlri]) -> None:
        """Nobody wants these routes any more."""
        for nlri in nlris:
            for trial in self.trials.values():
                trial.forget(nlri)

    def blame(self, session: Session, words: str, newest: int, now: float) -> list[Nlri]:
        """A peer ended its session over an UPDATE of ours: the routes to withdraw. `newest`: the last line's number."""
        address = session.neighbor.address
        if (trial := self.trials.get(address)) is not None:
            group, culprit = trial.ended()
            self._hold(group, trial)
            if culprit is not None:
                self._condemn(culprit, address, words, now)
            return group
        when, suspects = self._ends.get(address, (-REPEATED, set()))
        if now - when > REPEATED:
            old = [number for at, number, _ in self._batches if now - at >= SUSPECT]
            self._ends[address] = (now, set(self._advertised.between(max(old, default=self._base), newest, address)))
            return []
        del self._ends[address]
        forms = {route.nlri: route for _, _, batch in self._batches for route in batch if route.nlri in suspects}
        if len(suspects) == 1 or not forms:
            for nlri in suspects:
                self._condemn(nlri, address, words, now)
        else:
            trial = self.trials[address] = Trial(address, words, forms)
            self._hold(forms, trial)
        return list(suspects)

    def due(self, now: float) -> list[tuple[Trial, list[Announcement]]]:
        """Trials that go on, each with the group to announce next, which is empty where no suspect is left."""
        found = []
        for address, trial in self.trials.items():
            session = self._advertised.sessions.get(address)
            if session is None or not session.up:
                trial.quiet_since = None
                continue
            # a session that began before a group was withdrawn may end over that group yet
            if trial.testing or session.started < trial.number:
                if session.acked < trial.number:
                    continue
                if trial.quiet_since is None:
                    trial.quiet_since = now
                if now - trial.quiet_since < PROBATION:
                    continue
                trial.acquit()
            found.append((trial, trial.start()))
        return found

    def withdrawn(self, peer: str, number: int) -> None:
        """The routes of the last `blame` were withdrawn. `number`: of their last line."""
        if (trial := self.trials.get(peer)) is not None:
            trial.number = number

    def started(self, trial: Trial, number: int) -> None:
        """The group was announced, or there was none. `number`: of its last line."""
        trial.number = number
        if trial.done and self.trials.get(trial.peer) is trial:
            del self.trials[trial.peer]

    def _hold(self, nlris: Iterable[Nlri], trial: Trial) -> None:
        words = f"held back: {trial.peer} ended the session over one of {len(trial.forms)} routes: {trial.words}"
        for nlri in nlris:
            self._advertised.hold(nlri, words)

    def _condemn(self, nlri: Nlri, address: str, words: str, now: float) -> None:
        self._condemned[nlri] = now + CONDEMNED
        self._advertised.refuse(nlri, f"withdrawn, because {address} ended the session over it: {words}")


def _halves(group: list[Nlri]) -> list[list[Nlri]]:
    middle = (len(group) + 1) // 2
    return [half for half in (group[:middle], group[middle:]) if half]
