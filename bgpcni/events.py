"""What happens on this node, as operators see it: attachments, routes, sessions. The newest few thousand are kept.

Whoever notices something emits it here, and needs not know who reads. To emit costs microseconds, waits for nobody and
never fails. A reader asks for what came after the last event that it has read. What it was too slow for is counted.
`Events` is made first and given to everything that emits.
"""

from __future__ import annotations

import os
import threading
from collections import Counter, deque
from collections.abc import Iterable
from enum import StrEnum
from itertools import islice
from typing import Any, NamedTuple

from bgpcni import clock
from bgpcni.errors import TryAgain
from bgpcni.model import Announcement, Attachment, AttachmentKey

KEPT = 8192
READERS = 12
"""How many outside the agent may wait for events at once: each holds one of the threads that answer commands."""


class Kind(StrEnum):
    """What happened. The values are those of `kind` in JSON."""

    AGENT_STARTED = "agent-started"
    ATTACHMENT_UP = "attachment-up"
    ATTACHMENT_GONE = "attachment-gone"
    ATTACHMENT_RELEASED = "attachment-released"
    ORPHAN = "orphan"
    ADD_FAILED = "add-failed"
    CONFLICT = "conflict"
    SERVICE_UP = "service-up"
    SERVICE_DOWN = "service-down"
    ROUTE_ANNOUNCED = "route-announced"
    ROUTE_REFUSED = "route-refused"
    ROUTE_WITHDRAWN = "route-withdrawn"
    SESSION_UP = "session-up"
    SESSION_DOWN = "session-down"
    SPEAKER_STARTED = "speaker-started"
    SPEAKER_ENDED = "speaker-ended"
    EXPORTER_LATE = "exporter-late"
    EXPORTER_OK = "exporter-ok"
    STORE_AWAY = "store-away"
    STORE_BACK = "store-back"
    PROBLEM = "problem"
    MENDED = "mended"
    MAINTENANCE_ON = "maintenance-on"
    MAINTENANCE_OFF = "maintenance-off"
    RELOADED = "reloaded"
    RELOAD_REFUSED = "reload-refused"


WARNINGS = frozenset(
    [
        Kind.ORPHAN, Kind.ADD_FAILED, Kind.CONFLICT, Kind.SERVICE_DOWN, Kind.ROUTE_REFUSED, Kind.SESSION_DOWN,
        Kind.SPEAKER_ENDED, Kind.EXPORTER_LATE, Kind.STORE_AWAY, Kind.PROBLEM, Kind.RELOAD_REFUSED,
    ]
)  # fmt: skip
"""What an operator may have to do something about."""

_WORDS = {
    Kind.AGENT_STARTED: "the agent {detail} has started",
    Kind.ATTACHMENT_UP: "{title} is up with {detail}",
    Kind.ATTACHMENT_GONE: "{title} is gone",
    Kind.ATTACHMENT_RELEASED: "{title} has ended: {detail}",
    Kind.ORPHAN: "{title}: its link is gone without a DEL; its addresses will be released in {detail}",
    Kind.ADD_FAILED: "ADD of {title} failed: {detail}",
    Kind.CONFLICT: "{title}: {detail}",
    Kind.SERVICE_UP: "{title} announces {detail}",
    Kind.SERVICE_DOWN: "{title} withdraws {detail}",
    Kind.ROUTE_ANNOUNCED: "{route} is announced by {exporter}",
    Kind.ROUTE_REFUSED: "{route} is refused by {exporter}: {detail}",
    Kind.ROUTE_WITHDRAWN: "{route} is withdrawn by {exporter}",
    Kind.SESSION_UP: "the session of {exporter} with {peer} is up",
    Kind.SESSION_DOWN: "the session of {exporter} with {peer} is down: {detail}",
    Kind.SPEAKER_STARTED: "the speaker of {exporter} is running",
    Kind.SPEAKER_ENDED: "the speaker of {exporter} is not running: {detail}",
    Kind.EXPORTER_LATE: "exporter {exporter} is late: {detail}",
    Kind.EXPORTER_OK: "exporter {exporter} is ok",
    Kind.STORE_AWAY: "the cluster's store is away: {detail}",
    Kind.STORE_BACK: "the cluster's store is back after: {detail}",
    Kind.PROBLEM: "{detail}",
    Kind.MENDED: "mended: {detail}",
    Kind.MAINTENANCE_ON: "this node is in maintenance, asked for by {detail}: peers are to prefer other paths",
    Kind.MAINTENANCE_OFF: "this node is in service again",
    Kind.RELOADED: "agent.toml was read again and is in force",
    Kind.RELOAD_REFUSED: "agent.toml was read again and refused, nothing has changed: {detail}",
}


class Event(NamedTuple):
    """One event. What it is not about is empty. `detail`: the reason, or what else there is to say.

    `address`: the first address of an attachment, or that of a route.
    """

    number: int
    time: str
    kind: Kind
    network: str = ""
    container_id: str = ""
    ifname: str = ""
    address: str = ""
    pod: str = ""
    pod_uid: str = ""
    exporter: str = ""
    peer: str = ""
    nlri: str = ""
    detail: str = ""

    @property
    def title(self) -> str:
        """The attachment's name in a sentence."""
        named = "/".join(word or "?" for word in (self.network, self.container_id, self.ifname))
        return f"{named} (pod {self.pod})" if self.pod else named

    @property
    def text(self) -> str:
        """The event in one sentence."""
        owner = self.title if self.container_id else f"network {self.network}"
        words = {"title": self.title, "route": f"{self.nlri} of {owner}", "exporter": self.exporter, "peer": self.peer}
        return _WORDS[self.kind].format(**words, detail=self.detail or "no reason given")

    @property
    def warns(self) -> bool:
        return self.kind in WARNINGS

    @property
    def fields(self) -> dict[str, str]:
        """What it is about, as fields of a line in a log."""
        named = {
            "kind": self.kind.value, "network": self.network, "container": self.container_id, "ifname": self.ifname,
            "address": self.address, "pod": self.pod, "exporter": self.exporter, "peer": self.peer, "nlri": self.nlri,
        }  # fmt: skip
        return {name: value for name, value in named.items() if value}

    @property
    def document(self) -> dict[str, Any]:
        """As JSON shows it."""
        namespace, _, name = self.pod.partition("/")
        return {
            "schema": 1,
            "number": self.number,
            "time": self.time,
            "kind": self.kind.value,
            "level": "warning" if self.warns else "info",
            "text": self.text,
            "network": self.network or None,
            "containerID": self.container_id or None,
            "ifname": self.ifname or None,
            "address": self.address or None,
            "exporter": self.exporter or None,
            "peer": self.peer or None,
            "nlri": self.nlri or None,
            "detail": self.detail or None,
        } | ({"pod": {"namespace": namespace, "name": name, "uid": self.pod_uid}} if self.pod else {})


class Turn(NamedTuple):
    """A route got somewhere: one of the kinds ROUTE_…, and why."""

    kind: Kind
    route: Announcement
    reason: str = ""


class Batch(NamedTuple):
    """What a reader gets. `last`: the number to ask with next. `missed`: how many came and went before it asked."""

    events: tuple[Event, ...]
    last: int
    missed: int


class Events:
    """The events of one run of the agent. Safe for threads. With `kept` 0 nobody reads: a call without an agent."""

    def __init__(self, kept: int = KEPT) -> None:
        self.run = os.urandom(8).hex()
        """A number of an event means something only within the same run."""
        self.counts: Counter[tuple[Kind, str, str]] = Counter()
        """How many there were of each kind, exporter and peer."""
        self.missed = 0
        """How many events those who wait for them were too slow for, all of them together."""
        self._kept: deque[Event] = deque(maxlen=kept)
        self._change = threading.Condition()
        self._last = 0
        self._waiting = self._readers = 0
        self._closed = False
        self._pods: dict[AttachmentKey, tuple[str, str]] = {}

    # ---------------------------------------------------------------- emitting

    def emit(self, kind: Kind, **fields: str) -> None:
        """`fields`: those of Event."""
        self._put([(kind, fields)])

    def about(self, kind: Kind, attachment: Attachment, detail: str = "") -> None:
        """Something happened to an attachment."""
        addresses = [item.address.partition("/")[0] for item in attachment.addresses]
        if kind is Kind.ATTACHMENT_UP:
            detail = detail or ", ".join(addresses) or "no address"
        self._put([(kind, {**_named(attachment), "address": next(iter(addresses), ""), "detail": detail})])

    def routes(self, exporter: str, turns: Iterable[Turn]) -> None:
        """Routes got somewhere at one exporter."""
        self._put([(turn.kind, self._about_route(exporter, turn)) for turn in turns])

    def _about_route(self, exporter: str, turn: Turn) -> dict[str, str]:
        route, endpoint = turn.route, turn.route.endpoint
        fields = {"network": route.network, "exporter": exporter, "nlri": str(route.nlri), "detail": turn.reason}
        if endpoint is None:
            return fields
        key = AttachmentKey(route.network, endpoint.container_id, endpoint.ifname)
        pod, uid = self._pods.get(key, ("", ""))
        address = endpoint.address or route.nlri.prefix or ""
        return fields | {
            "container_id": endpoint.container_id, "ifname": endpoint.ifname, "pod": pod, "pod_uid": uid,
            "address": address.partition("/")[0],
        }  # fmt: skip

    def remember(self, attachment: Attachment) -> None:
        """Events about its routes will name its pod."""
        if attachment.pod is not None and self._kept.maxlen:
            self._pods[attachment.key] = str(attachment.pod), attachment.pod.uid

    def forget(self, key: AttachmentKey) -> None:
        self._pods.pop(key, None)

    def _put(self, found: list[tuple[Kind, dict[str, str]]]) -> None:
        if not found or not self._kept.maxlen:
            return
        now = clock.now()
        with self._change:
            for kind, fields in found:
                self._last += 1
                self._kept.append(Event(self._last, now, kind, **fields))
                self.counts[kind, fields.get("exporter", ""), fields.get("peer", "")] += 1
            if self._waiting:
                self._change.notify_all()

    # ---------------------------------------------------------------- reading

    @property
    def last(self) -> int:
        """The number of the newest event; 0 before the first."""
        return self._last

    def after(self, number: int, limit: int = KEPT) -> Batch:
        """The oldest `limit` of those that came after the event of this number."""
        with self._change:
            return self._after(number, limit)

    def wait(self, number: int, seconds: float, limit: int = KEPT) -> Batch:
        """The same; if there are none, wait for one, or until the time is over."""
        with self._change:
            self._waiting += 1
            try:
                self._change.wait_for(lambda: self._closed or self._last > number, seconds)
            finally:
                self._waiting -= 1
            batch = self._after(number, limit)
            self.missed += batch.missed
            return batch

    def read(self, number: int, seconds: float, limit: int = KEPT) -> Batch:
        """`wait` for somebody outside the agent. Raises TryAgain if too many do so."""
        with self._change:
            if self._readers >= READERS:
                raise TryAgain(f"{READERS} readers wait for events already")
            self._readers += 1
        try:
            return self.wait(number, seconds, limit)
        finally:
            with self._change:
                self._readers -= 1

    def _after(self, number: int, limit: int) -> Batch:
        number = min(max(number, 0), self._last)
        oldest = self._kept[0].number if self._kept else self._last + 1
        start = max(number, oldest - 1)
        found = tuple(islice(self._kept, start - oldest + 1, start - oldest + 1 + limit))
        return Batch(found, found[-1].number if found else start, start - number)

    def close(self) -> None:
        """Nobody waits any more."""
        with self._change:
            self._closed = True
            self._change.notify_all()

    @property
    def closed(self) -> bool:
        return self._closed


def _named(attachment: Attachment) -> dict[str, str]:
    pod = {"pod": str(attachment.pod), "pod_uid": attachment.pod.uid} if attachment.pod else {}
    return {"network": attachment.network, "container_id": attachment.container_id, "ifname": attachment.ifname, **pod}
