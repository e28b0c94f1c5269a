"""Which sessions of an exporter came and went, judged by what it says of its peers from time to time. Pure.

A session that went and came back between two looks is seen by the time since when it is Established.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from bgpcni.events import Kind
from bgpcni.exporter import Peer

UP = "Established"
UNSEEN = "it came back at once"
JITTER = 2.0
"""Seconds by which two answers may differ in when a session came up, and mean the same session."""


class Change(NamedTuple):
    """A session with `peer` came up or went down."""

    kind: Kind
    peer: str
    reason: str = ""


class Sessions:
    """The sessions of one exporter. `born`: a session that was up before is no news."""

    def __init__(self, born: str) -> None:
        self._born = born
        self._up: dict[str, str] = {}
        """Since when each session that was up at the last look is."""

    def compare(self, peers: Iterable[Peer]) -> list[Change]:
        """What has changed since the last call."""
        changes: list[Change] = []
        before, self._up = self._up, {}
        for peer in peers:
            since = before.pop(peer.address, None)
            if peer.state == UP:
                self._up[peer.address] = peer.since
                again = since is not None and _is_later(peer.since, since)
                if again:
                    changes.append(Change(Kind.SESSION_DOWN, peer.address, peer.last_error or UNSEEN))
                if again or (since is None and peer.since > self._born):
                    changes.append(Change(Kind.SESSION_UP, peer.address))
            elif since is not None:
                reason = peer.last_error or f"it is {peer.state}"
                changes.append(Change(Kind.SESSION_DOWN, peer.address, reason))
        return changes + [Change(Kind.SESSION_DOWN, address, "it is not configured any more") for address in before]


def _is_later(one: str, other: str) -> bool:
    try:
        return (datetime.fromisoformat(one) - datetime.fromisoformat(other)).total_seconds() > JITTER
    except (TypeError, ValueError):
        return False
