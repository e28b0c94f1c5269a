"""Two threads that report what gobgpd's peers announce as events. They are started by the first `listen`.

One waits for the daemon to report a change. The other then reads the daemon's table, but spends at most a fifth of the
time on that.
"""

from __future__ import annotations

import logging
import threading
import time

from bgpcni.exporter import Event, Heard, NotThereYet
from bgpcni.model import Family
from bgpcni_gobgp import gobgp_pb2 as api
from bgpcni_gobgp.client import Client, Refused
from bgpcni_gobgp.learning import AdjRibIn, Session
from bgpcni_gobgp.paths import NUMBERS
from bgpcni_gobgp.sessions import is_up, peer_of, told_all

log = logging.getLogger(__name__)

LISTING = 30.0
"""The most seconds that the daemon may take to list its table."""
PAUSE, SHARE = 0.05, 4
"""The pause between two listings: so many seconds, or so many times what the last one took, if that is longer."""
SETTLED = 10.0
"""If a peer sends no End-of-RIB, we assume after so many seconds that it has sent all its routes."""
RETRY = 1.0


class TableReader:
    """Reads the routes of one daemon's peers. `asn`: our AS number, which internal peers have, too."""

    def __init__(self, name: str, maximum: int | None, asn: int | None) -> None:
        self._name = name
        self._asn = asn
        self._routes = AdjRibIn(maximum)
        self._change = threading.Condition()
        self._families: frozenset[Family] = frozenset()
        self._heard: Heard | None = None
        self._client: Client | None = None
        self._lost = self._is_stale = self._closed = self._started = False
        self._seen: dict[tuple[str, str], float] = {}

    # ---------------------------------------------------------------- from any thread

    def listen(self, families: frozenset[Family], heard: Heard) -> None:
        with self._change:
            self._families, self._heard, self._is_stale = families, heard, True
            if not (self._started or self._closed):
                self._started = True
                for name, run in (("received", self._run), ("changes", self._watch_changes)):
                    threading.Thread(target=run, name=f"{self._name}-{name}", daemon=True).start()
            self._change.notify_all()

    def connected(self, client: Client) -> None:
        """The daemon has become reachable, or one of its sessions has changed."""
        with self._change:
            self._client, self._is_stale = client, True
            self._change.notify_all()

    def lost(self) -> None:
        with self._change:
            self._client, self._lost = None, True
            self._change.notify_all()

    def close(self) -> None:
        with self._change:
            self._closed = True
            self._change.notify_all()

    def words(self, peer: str) -> str:
        return self._routes.words(peer)

    # ---------------------------------------------------------------- the threads

    def _watch_changes(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._closed or (self._client and self._families))
                client = self._client
                if self._closed:
                    return
            assert client is not None
            try:
                for _ in client.changes():
                    with self._change:
                        self._is_stale = True
                        self._change.notify_all()
            except (NotThereYet, Refused):
                pass  # the thread that watches the sessions reports it
            with self._change:
                self._change.wait_for(lambda: self._closed, RETRY)

    def _run(self) -> None:
        waiting = False
        while True:
            with self._change:
                ready = self._change.wait_for(
                    lambda: self._closed or self._lost or (self._is_stale and self._client), RETRY if waiting else None
                )
                if self._closed:
                    return
                client, families, heard = self._client, self._families, self._heard
                lost, self._lost = self._lost, False
                self._is_stale = False
            assert heard is not None
            if lost:
                heard(self._routes.lost())
            began = time.monotonic()
            if client is not None and (ready or waiting):
                try:
                    events, waiting = self._read(client, families)
                    if events:
                        heard(events)
                except (NotThereYet, Refused) as error:
                    about = {"exporter": self._name}
                    log.info("%s: cannot list the routes of its peers: %s", self._name, error, extra=about)
                    waiting = True
                except Exception:  # a bad answer must not end the thread
                    about = {"exporter": self._name}
                    log.exception("%s: cannot read the routes of its peers", self._name, extra=about)
                    waiting = True
            with self._change:
                self._change.wait_for(lambda: self._closed, max(PAUSE, SHARE * (time.monotonic() - began)))

    def _read(self, client: Client, families: frozenset[Family]) -> tuple[list[Event], bool]:
        """The new events, and whether the table must be read again even if the daemon reports no change."""
        deadline = time.monotonic() + LISTING
        sessions = {session[0]: session[1] for one in client.peers(deadline) if (session := self._session(one))}
        self._seen = {key: when for key, when in self._seen.items() if key[0] in sessions}
        paths = (path for family in sorted(families) for path in client.paths(NUMBERS[family], deadline))
        events = self._routes.compare(families, sessions, paths)
        return events, self._routes.waits(families, sessions)

    def _session(self, found: api.Peer) -> tuple[str, Session] | None:
        peer = peer_of(found)
        if not is_up(peer):
            return None
        families = frozenset(map(Family, peer.families))
        now = time.monotonic()
        settled = now - self._seen.setdefault((peer.address, peer.since), now) > SETTLED
        told = families if settled else told_all(found)
        return peer.address, Session(peer.since, peer.asn == self._asn, families, told)
