"""Finds the routes over which a peer ends its session, among all that are suspected. Pure: no I/O, no clock.

All suspects are taken back; then group after group is announced again. One that the session survives is acquitted,
one over which it falls is halved, and a route over which it falls alone is convicted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from bgpcni.model import Announcement, Nlri


class Trial:
    """`testing` is announced just now; `number`: that of its last line. `quiet_since`: acknowledged, by monotonic()."""

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
        """Nobody wants it any more."""
        self._groups = deque(rest for group in self._groups if (rest := [n for n in group if n != nlri]))
        self.testing = [other for other in self.testing if other != nlri]

    def start(self) -> list[Announcement]:
        """The next group, to be announced; empty if there is none."""
        self.testing = self._groups.popleft() if self._groups else []
        self.quiet_since = None
        return [self.forms[nlri] for nlri in self.testing]

    def acquit(self) -> None:
        self.testing, self.quiet_since = [], None

    def fell(self) -> tuple[list[Nlri], Nlri | None]:
        """The session fell over what was tested: what to take back, and the culprit if there was only one suspect."""
        group, self.testing, self.quiet_since = self.testing, [], None
        if len(group) == 1:
            return group, group[0]
        self._groups.extendleft(reversed(_halves(group)))
        return group, None


def _halves(group: list[Nlri]) -> list[list[Nlri]]:
    middle = (len(group) + 1) // 2
    return [half for half in (group[:middle], group[middle:]) if half]
